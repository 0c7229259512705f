//! How does a program run beside a test? In a namespace, with its output in a file, and never longer
//! than the value that stands for it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::wait::wait_until;

/// A running program. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    label: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with standard output and error in `log` (appended to, so that a restart
    /// keeps the first run's words).
    pub fn start(mut command: Command, label: &str, log: &Path) -> anyhow::Result<Self> {
        let out = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let child = command.spawn().with_context(|| format!("starting {command:?}"))?;
        Ok(Self { child, label: label.to_owned(), log: log.to_path_buf() })
    }

    /// As [`Process::start`], with standard output in a file of its own (`out`).
    pub fn start_into(
        mut command: Command,
        label: &str,
        log: &Path,
        out: &Path,
    ) -> anyhow::Result<Self> {
        let error = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(File::create(out)?).stderr(error);
        let child = command.spawn().with_context(|| format!("starting {command:?}"))?;
        Ok(Self { child, label: label.to_owned(), log: log.to_path_buf() })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        fs::read(&self.log).map_or_else(|_| String::new(), |b| String::from_utf8_lossy(&b).into())
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends it `signal`.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        kill(pid, signal).with_context(|| format!("sending {signal} to {}", self.label))
    }

    /// Waits until it has written `text`; fails at once if it ends before.
    pub fn wait_for_log(&mut self, text: &str, timeout: Duration) -> anyhow::Result<()> {
        let mut ended = false;
        let found = wait_until(timeout, format!("{} to say {text:?}", self.label), || {
            ended = !self.is_running();
            self.log().contains(text) || ended
        });
        if self.log().contains(text) {
            return Ok(());
        }
        anyhow::ensure!(!ended, "{} ended before it said {text:?}:\n{}", self.label, self.log());
        found.map(|_| ()).with_context(|| self.log())
    }

    /// Waits for its end.
    pub fn wait(&mut self, timeout: Duration) -> anyhow::Result<ExitStatus> {
        wait_until(timeout, format!("{} to end", self.label), || !self.is_running())?;
        Ok(self.child.wait()?)
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        _ = self.child.kill();
        self.child.wait().map(|_| ()).with_context(|| format!("waiting for {}", self.label))
    }

    /// Asks it to end with `signal`, and kills it when it has not after `timeout`.
    pub fn stop(&mut self, signal: Signal, timeout: Duration) -> anyhow::Result<()> {
        self.signal(signal)?;
        match self.wait(timeout) {
            Ok(_) => Ok(()),
            Err(error) => {
                self.kill()?;
                Err(error)
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        _ = self.kill();
    }
}
