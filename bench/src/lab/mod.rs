//! The laboratory: how does a test get namespaces, and who takes them away again?
//!
//! A [`Lab`] owns every namespace it made. It removes them, with all that runs inside, when it is
//! dropped: on success, on a panic, and on SIGINT or SIGTERM. What a killed process could not
//! remove, the next one sweeps. Names carry the owner's process id, so labs run side by side.
//!
//! ```text
//! Lab ── netns(name) ─► Netns ── exec · spawn · enter · ip helpers
//!                        ├─ link::veth, link::bridge     wires between namespaces
//!                        ├─ Capture, ping, iperf3        what passes, how fast
//!                        ├─ traffic::{UdpEcho, …}        numbered streams that survive a restart
//!                        ├─ Bird                         a real BGP peer
//!                        └─ VrouterNode ─► Pod           the router, and pods attached through CNI
//! ```

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::{fs, io, process, thread};

use anyhow::Context as _;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub mod bird;
pub mod capture;
pub mod link;
pub mod netns;
pub mod node;
pub mod pod;
pub mod process_in;
pub mod raw;
pub mod tools;
pub mod traffic;
pub mod wait;

pub use bird::Bird;
pub use capture::Capture;
pub use netns::Netns;
pub use node::VrouterNode;
pub use pod::Pod;
pub use process_in::Process;
pub use wait::wait_until;

/// Where `ip netns` keeps the names.
pub const NETNS_DIR: &str = "/run/netns";
/// One folder per lab: logs, sockets, captures, datastores. In a tmpfs, with short names: UNIX
/// socket paths end at 107 bytes.
const STATE_DIR: &str = "/run/vrouter-lab";
/// Present in a lab's folder: it outlives its process until `remove_kept`.
const KEPT: &str = "kept";

static LIVE: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
static NEXT: AtomicU32 = AtomicU32::new(0);
static START: Once = Once::new();

/// A set of namespaces that live and end together.
#[derive(Debug)]
pub struct Lab {
    id: String,
    dir: PathBuf,
    kept: AtomicBool,
}

impl Lab {
    /// A new, empty lab. `prefix`: lower-case letters, to tell kinds of labs apart.
    ///
    /// The first one in a process removes what dead processes left, and from then on SIGINT and
    /// SIGTERM remove this process's labs before they end it.
    pub fn new(prefix: &str) -> anyhow::Result<Self> {
        anyhow::ensure!(
            !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_lowercase()),
            "a lab's prefix is lower-case letters, not {prefix:?}"
        );
        START.call_once(|| {
            sweep();
            clean_up_on_signals();
        });
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("{prefix}{}.{number}", process::id());
        let dir = Path::new(STATE_DIR).join(&id);
        fs::create_dir_all(dir.join("log"))
            .with_context(|| format!("making {} (the lab needs root)", dir.display()))?;
        live().insert(id.clone());
        Ok(Self { id, dir, kept: AtomicBool::new(false) })
    }

    /// What every namespace name of this lab begins with, before a `-`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The lab's own folder, removed with it.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Adds a namespace called `<id>-<name>`, with its loopback up.
    pub fn netns(&self, name: &str) -> anyhow::Result<Netns> {
        Netns::create(&format!("{}-{name}", self.id), name, &self.dir)
    }

    /// Leaves everything in place when this value goes; [`remove_kept`] takes it away.
    pub fn keep(&self) -> anyhow::Result<()> {
        fs::write(self.dir.join(KEPT), "")?;
        self.kept.store(true, Ordering::Relaxed);
        live().remove(&self.id);
        Ok(())
    }

    /// Whether [`Lab::keep`] was called.
    pub fn is_kept(&self) -> bool {
        self.kept.load(Ordering::Relaxed)
    }

    /// The last `lines` of every log of this lab's processes, for a failure's report.
    pub fn logs(&self, lines: usize) -> String {
        let mut report = String::new();
        let Ok(entries) = fs::read_dir(self.dir.join("log")) else { return report };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            let Ok(bytes) = fs::read(&path) else { continue };
            let text = String::from_utf8_lossy(&bytes);
            let tail: Vec<&str> = text.lines().rev().take(lines).collect();
            if !tail.is_empty() {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                _ = writeln!(report, "──── {name}");
                for line in tail.iter().rev() {
                    _ = writeln!(report, "  {line}");
                }
            }
        }
        report
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let logs = if thread::panicking() { self.logs(60) } else { String::new() };
        if !logs.is_empty() {
            _ = writeln!(io::stderr(), "the lab {} saw:\n{logs}", self.id);
        }
        if !self.is_kept() {
            destroy(&self.id);
            live().remove(&self.id);
        }
    }
}

fn live() -> std::sync::MutexGuard<'static, BTreeSet<String>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes labs that were kept, and what dead processes left. Returns their ids.
pub fn remove_kept() -> Vec<String> {
    let mut removed = sweep();
    for id in ids_on_disk() {
        if Path::new(STATE_DIR).join(&id).join(KEPT).exists() {
            destroy(&id);
            removed.push(id);
        }
    }
    removed
}

/// Removes the labs of processes that are gone, except kept ones. Returns their ids.
pub fn sweep() -> Vec<String> {
    let stale = |id: &String| {
        let kept = Path::new(STATE_DIR).join(id).join(KEPT).exists();
        !kept && owner(id).is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
    };
    let ids: Vec<String> = ids_on_disk().into_iter().filter(stale).collect();
    for id in &ids {
        destroy(id);
    }
    ids
}

/// Labs that have a folder. A lab makes its folder before its first namespace.
fn ids_on_disk() -> Vec<String> {
    let Ok(entries) = fs::read_dir(STATE_DIR) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// The process id in a lab's id: `vr1234.0` → 1234.
fn owner(id: &str) -> Option<i32> {
    let (head, _) = id.split_once('.')?;
    head.trim_start_matches(|c: char| c.is_ascii_lowercase()).parse().ok()
}

/// Ends what runs in the namespaces of the lab `id`, removes them and its folder. Needs no memory
/// of how they came to be, so that it serves drop, signals and sweeping alike.
fn destroy(id: &str) {
    let names = namespaces_of(id);
    // Twice: a process may have been starting another when the first round looked.
    for _ in 0..2 {
        for pid in processes_in(&names) {
            _ = kill(pid, Signal::SIGKILL);
        }
    }
    for path in &names {
        _ = umount2(path, MntFlags::MNT_DETACH);
        _ = fs::remove_file(path);
    }
    _ = fs::remove_dir_all(Path::new(STATE_DIR).join(id));
}

fn namespaces_of(id: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(NETNS_DIR) else { return Vec::new() };
    let prefix = format!("{id}-");
    let ours = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|n| n.starts_with(&prefix))
    };
    entries.flatten().map(|entry| entry.path()).filter(ours).collect()
}

/// Every process but this one whose network namespace is one of `namespaces`.
fn processes_in(namespaces: &[PathBuf]) -> Vec<Pid> {
    let identity = |path: &Path| fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
    let wanted: BTreeSet<(u64, u64)> = namespaces.iter().filter_map(|p| identity(p)).collect();
    if wanted.is_empty() {
        return Vec::new();
    }
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| u32::try_from(*pid) != Ok(process::id()))
        .filter(|pid| {
            identity(Path::new(&format!("/proc/{pid}/ns/net"))).is_some_and(|i| wanted.contains(&i))
        })
        .map(Pid::from_raw)
        .collect()
}

fn clean_up_on_signals() {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let Ok(mut signals) = signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGTERM]) else {
        return;
    };
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            _ = writeln!(io::stderr(), "\ninterrupted: removing the lab");
            for id in live().iter() {
                destroy(id);
            }
            process::exit(128 + signal);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::owner;

    #[test]
    fn an_id_names_its_owner() {
        assert_eq!(owner("vr1234.0"), Some(1234));
        assert_eq!(owner("demo7.12"), Some(7));
        assert_eq!(owner("something-else"), None);
        assert_eq!(owner("vr.1"), None);
    }
}
