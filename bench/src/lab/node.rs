//! A node of the cluster: how does a test start the real `vrouter`, talk to it, kill it, start it again?

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;
use std::{env, fs};

use anyhow::Context as _;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;

use super::wait::retry;
use super::{Netns, Process};

const START_LIMIT: Duration = Duration::from_secs(15);
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// What a node is told at its start.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// NODENAME.
    pub name: String,
    /// IP: the node's address with its subnet's length (`10.1.5.11/24`), or `autodetect`.
    pub address: String,
    /// The datastore's folder; nodes of one cluster share it.
    pub datastore: PathBuf,
    /// Further environment variables.
    pub environment: Vec<(String, String)>,
}

/// A `vrouter run` in a namespace. Killed when dropped.
#[derive(Debug)]
pub struct VrouterNode {
    netns: Netns,
    settings: NodeSettings,
    binary: PathBuf,
    home: PathBuf,
    process: Option<Process>,
}

impl VrouterNode {
    /// Starts a node in `netns` and waits until it answers its operator.
    pub fn start(netns: &Netns, settings: NodeSettings) -> anyhow::Result<Self> {
        let mut node = Self::prepare(netns, settings)?;
        node.restart()?;
        Ok(node)
    }

    /// A node that does not run yet: its folders exist, operator commands on the datastore work.
    pub fn prepare(netns: &Netns, settings: NodeSettings) -> anyhow::Result<Self> {
        let home = netns.lab_dir().join(netns.short());
        for folder in ["run", "lib"] {
            fs::create_dir_all(home.join(folder))?;
        }
        fs::create_dir_all(&settings.datastore)?;
        let binary = vrouter_binary()?;
        Ok(Self { netns: netns.clone(), settings, binary, home, process: None })
    }

    /// Starts it (again) and waits until it answers.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.restart_without_waiting()?;
        self.wait_ready()
    }

    /// Starts it (again).
    pub fn restart_without_waiting(&mut self) -> anyhow::Result<()> {
        drop(self.process.take());
        let mut command = self.netns.command(&self.binary);
        command.arg("run");
        self.set_environment(&mut command);
        self.process = Some(self.netns.start(command, "vrouter")?);
        Ok(())
    }

    /// Waits until it answers its operator.
    pub fn wait_ready(&mut self) -> anyhow::Result<()> {
        let name = self.settings.name.clone();
        retry(START_LIMIT, format!("{name} to answer"), || {
            if let Some(process) = self.process.as_mut()
                && !process.is_running()
            {
                // Not worth waiting for: the caller reads why in the log.
                return Ok(false);
            }
            self.ctl(&["node", "status"]).map(|_| true)
        })
        .and_then(|running| {
            anyhow::ensure!(running, "{name} ended:\n{}", self.log());
            Ok(())
        })
    }

    fn set_environment(&self, command: &mut Command) {
        let settings = &self.settings;
        command
            .env("NODENAME", &settings.name)
            .env("IP", &settings.address)
            .env("DATASTORE_TYPE", "file")
            // Several nodes share this machine: pinned, they would all share one core.
            .env("VROUTER_CORES", "none")
            .env("VROUTER_DATASTORE_DIR", &settings.datastore)
            .env("VROUTER_RUN_DIR", self.run_dir())
            .env("VROUTER_LIB_DIR", self.home.join("lib"))
            .envs(settings.environment.iter().map(|(key, value)| (key, value)));
    }

    /// Runs an operator command against this node: `ctl(&["node", "status"])`.
    pub fn ctl<S: AsRef<OsStr>>(&self, words: &[S]) -> anyhow::Result<String> {
        let mut line: Vec<&OsStr> = vec![self.binary.as_os_str()];
        line.extend(words.iter().map(AsRef::as_ref));
        let run_dir = self.run_dir();
        let environment = [
            ("NODENAME", self.settings.name.as_str()),
            ("DATASTORE_TYPE", "file"),
            ("VROUTER_RUN_DIR", path_text(&run_dir)?),
            ("VROUTER_DATASTORE_DIR", path_text(&self.settings.datastore)?),
        ];
        let output = self.netns.try_exec_with_input(&line, &environment, "")?;
        anyhow::ensure!(
            output.status.success(),
            "{}: vrouter {:?} ended with {}:\n{}{}",
            self.settings.name,
            &line[1..],
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// As [`VrouterNode::ctl`] with `-o json`, read.
    pub fn ctl_json(&self, words: &[&str]) -> anyhow::Result<Value> {
        let mut line = words.to_vec();
        line.extend(["-o", "json"]);
        let text = self.ctl(&line)?;
        serde_json::from_str(&text).with_context(|| format!("{words:?} said: {text}"))
    }

    /// Applies a manifest file.
    pub fn apply(&self, file: &Path) -> anyhow::Result<String> {
        self.ctl(&[OsStr::new("apply"), OsStr::new("-f"), file.as_os_str()])
    }

    /// SIGKILL to the forwarder; its holder lives on.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process.take().map_or(Ok(()), |mut process| process.kill())
    }

    /// SIGTERM, as an orchestrator stops it.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        process.stop(Signal::SIGTERM, STOP_LIMIT)
    }

    /// The process that holds the node's descriptors (`vrouter hold`), if one lives.
    pub fn holder(&self) -> Option<Pid> {
        let ours = super::processes_in(&[self.netns.path()]);
        ours.into_iter().find(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| word == b"hold")
        })
    }

    /// Where it runs.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Its NODENAME.
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// Its sockets' folder.
    pub fn run_dir(&self) -> PathBuf {
        self.home.join("run")
    }

    /// The binary it runs.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// The forwarder's process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// What it wrote, all its lives together.
    pub fn log(&self) -> String {
        fs::read(self.netns.log_path("vrouter"))
            .map_or_else(|_| String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn path_text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

/// The `vrouter` binary of this build: `VROUTER_BIN`, else the one beside this program. From a test,
/// which cargo may run without having built another crate's binary, it is built first.
pub fn vrouter_binary() -> anyhow::Result<PathBuf> {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return Ok(found.clone());
    }
    // Two tests at once may both look: cargo lets one build, and the answer is the same.
    let found = find_binary()?;
    Ok(FOUND.get_or_init(|| found).clone())
}

fn find_binary() -> anyhow::Result<PathBuf> {
    if let Some(path) = env::var_os("VROUTER_BIN") {
        return Ok(PathBuf::from(path));
    }
    let program = env::current_exe()?;
    let mut folder = program.parent().context("a program lies in a folder")?;
    if folder.ends_with("deps") {
        folder = folder.parent().context("deps lies in a profile's folder")?;
        build(folder.ends_with("release"))?;
    }
    let binary = folder.join("vrouter");
    anyhow::ensure!(
        binary.is_file(),
        "{} does not exist: build it (cargo build -p vrouter), or set VROUTER_BIN",
        binary.display()
    );
    Ok(binary)
}

fn build(release: bool) -> anyhow::Result<()> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command.args(["build", "--quiet", "--workspace", "--bins"]);
    if release {
        command.arg("--release");
    }
    super::netns::run(&mut command).map(|_| ())
}
