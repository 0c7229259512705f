//! One network namespace: how does a test act inside it?

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::{panic, thread};

use anyhow::Context as _;
use nix::sched::{CloneFlags, setns};

use super::{NETNS_DIR, Process};

/// Longest time a command run to its end may take, seconds.
const COMMAND_LIMIT: &str = "60";

/// A namespace of a lab. Cheap to clone; removed with its [`Lab`](super::Lab).
#[derive(Clone, Debug)]
pub struct Netns {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    short: String,
    dir: PathBuf,
}

impl Netns {
    pub(super) fn create(name: &str, short: &str, dir: &Path) -> anyhow::Result<Self> {
        run(Command::new("ip").args(["netns", "add", name]))?;
        let inner = Inner { name: name.to_owned(), short: short.to_owned(), dir: dir.to_owned() };
        let netns = Self { inner: Arc::new(inner) };
        netns.ip("link set lo up")?;
        // A lab's addresses are unique by construction: no waiting for duplicate detection.
        netns.sysctl("net.ipv6.conf.default.accept_dad", "0")?;
        netns.sysctl("net.ipv6.conf.all.accept_dad", "0")?;
        Ok(netns)
    }

    /// Its full name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Its name within the lab.
    pub fn short(&self) -> &str {
        &self.inner.short
    }

    /// Its path, as CNI wants it.
    pub fn path(&self) -> PathBuf {
        Path::new(NETNS_DIR).join(&self.inner.name)
    }

    /// The lab's folder.
    pub fn lab_dir(&self) -> &Path {
        &self.inner.dir
    }

    /// A command that will run inside (also with the namespace's own `/sys`).
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.inner.name]).arg(program);
        command
    }

    /// Runs `words` to their end. Fails, with what they wrote, when they do.
    pub fn exec<S: AsRef<OsStr>>(&self, words: &[S]) -> anyhow::Result<Output> {
        let output = self.try_exec(words)?;
        check(output, || format!("{}: {}", self.short(), spell(words)))
    }

    /// Runs `words` to their end; their failure is part of the answer.
    pub fn try_exec<S: AsRef<OsStr>>(&self, words: &[S]) -> anyhow::Result<Output> {
        self.try_exec_with_input(words, &[], "")
    }

    /// As [`Netns::try_exec`], with environment variables and standard input.
    pub fn try_exec_with_input<S: AsRef<OsStr>>(
        &self,
        words: &[S],
        environment: &[(&str, &str)],
        input: &str,
    ) -> anyhow::Result<Output> {
        let mut command = self.command("timeout");
        command.arg(COMMAND_LIMIT).args(words).envs(environment.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| spell(words))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that does not read its input closes it: not an error of ours.
            _ = stdin.write_all(input.as_bytes());
        }
        child.wait_with_output().with_context(|| spell(words))
    }

    /// Runs a line, split at white space, and returns its standard output.
    pub fn sh(&self, line: &str) -> anyhow::Result<String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        Ok(String::from_utf8_lossy(&self.exec(&words)?.stdout).into_owned())
    }

    /// `ip <line>` inside, without the cost of entering.
    pub fn ip(&self, line: &str) -> anyhow::Result<String> {
        let mut command = Command::new("ip");
        command.args(["-n", &self.inner.name]).args(line.split_whitespace());
        Ok(String::from_utf8_lossy(&run(&mut command)?.stdout).into_owned())
    }

    /// Starts `words`; their output goes to the lab's log `<namespace>.<label>`.
    pub fn spawn<S: AsRef<OsStr>>(&self, label: &str, words: &[S]) -> anyhow::Result<Process> {
        let (program, arguments) = words.split_first().context("nothing to start")?;
        let mut command = self.command(program);
        command.args(arguments);
        self.start(command, label)
    }

    /// Starts a command made by [`Netns::command`].
    pub fn start(&self, command: Command, label: &str) -> anyhow::Result<Process> {
        Process::start(command, label, &self.log_path(label))
    }

    pub(super) fn log_path(&self, label: &str) -> PathBuf {
        self.inner.dir.join("log").join(format!("{}.{label}", self.inner.short))
    }

    /// Runs `work` in a thread that lives in this namespace: sockets it opens stay here.
    pub fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> anyhow::Result<R> {
        let path = self.path();
        let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        thread::scope(|scope| {
            let entered = scope.spawn(|| {
                setns(&file, CloneFlags::CLONE_NEWNET)?;
                Ok(work())
            });
            entered.join().unwrap_or_else(|payload| panic::resume_unwind(payload))
        })
    }

    /// Sets `net.…` inside; dots separate, as `sysctl` spells it, so `key` is not for interface
    /// names that contain one.
    pub fn sysctl(&self, key: &str, value: &str) -> anyhow::Result<()> {
        let path = Path::new("/proc/sys").join(key.replace('.', "/"));
        self.enter(|| fs::write(&path, value))?
            .with_context(|| format!("{}: setting {key} = {value}", self.short()))
    }

    /// Removes it now (a pod whose namespace vanishes); processes inside keep it alive for
    /// themselves, as everywhere.
    pub fn delete(&self) -> anyhow::Result<()> {
        run(Command::new("ip").args(["netns", "del", &self.inner.name])).map(|_| ())
    }
}

/// Runs `command` in the present namespace; fails, with what it wrote, when it does.
pub(super) fn run(command: &mut Command) -> anyhow::Result<Output> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("running {command:?}"))?;
    check(output, || format!("{command:?}"))
}

fn check(output: Output, what: impl Fn() -> String) -> anyhow::Result<Output> {
    anyhow::ensure!(
        output.status.success(),
        "{} ended with {}:\n{}{}",
        what(),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output)
}

fn spell<S: AsRef<OsStr>>(words: &[S]) -> String {
    let words: Vec<_> = words.iter().map(|word| word.as_ref().to_string_lossy()).collect();
    words.join(" ")
}
