//! How does one act inside another network namespace without moving the caller's thread there?

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

/// Where `ip netns` and container runtimes keep named namespaces.
pub const NAMED_DIRECTORY: &str = "/run/netns";

/// An open network namespace: it lives at least as long as this value.
#[derive(Debug)]
pub struct NetNs {
    file: File,
    path: PathBuf,
    id: NetNsId,
}

/// Which namespace it is, whatever path leads to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetNsId {
    /// Device of the namespace file system.
    pub device: u64,
    /// Inode: unique among the namespaces that live at the same time.
    pub inode: u64,
}

impl fmt::Display for NetNsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "net:[{}]", self.inode)
    }
}

/// Why a namespace could not be used.
#[derive(Debug, thiserror::Error)]
pub enum NetNsError {
    /// The path does not lead to anything that can be opened.
    #[error("network namespace {}: {source}", path.display())]
    Open {
        /// The path asked for.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The path leads to something else, for example the empty file an unmounted namespace leaves.
    #[error("{} is not a network namespace (an unmounted one leaves an empty file behind)", path.display())]
    NotANamespace {
        /// The path asked for.
        path: PathBuf,
    },
    /// The thread could not enter it.
    #[error("cannot enter network namespace {}: {errno}", path.display())]
    Enter {
        /// The namespace's path.
        path: PathBuf,
        /// What the kernel said: `EPERM` without `CAP_SYS_ADMIN`.
        errno: Errno,
    },
    /// No thread or no new namespace could be made.
    #[error("cannot make {what}: {source}")]
    Make {
        /// What was to be made.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl NetNsError {
    /// Whether the namespace no longer exists (for a detach that is no error).
    pub fn is_gone(&self) -> bool {
        match self {
            Self::Open { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::NotANamespace { .. } => true,
            Self::Enter { .. } | Self::Make { .. } => false,
        }
    }
}

impl NetNs {
    /// Opens the namespace a path leads to: `/run/netns/x`, `/proc/PID/ns/net`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, NetNsError> {
        let path = path.as_ref();
        let file = File::open(path)
            .map_err(|source| NetNsError::Open { path: path.to_path_buf(), source })?;
        Self::from_file(file, path)
    }

    /// Opens a namespace by the name `ip netns` knows it under.
    pub fn named(name: &str) -> Result<Self, NetNsError> {
        Self::open(Path::new(NAMED_DIRECTORY).join(name))
    }

    /// The calling thread's namespace.
    pub fn current() -> Result<Self, NetNsError> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// Makes a namespace without a name; it ends with the last descriptor, process or device in it.
    pub fn new_anonymous() -> Result<Self, NetNsError> {
        in_fresh_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| NetNsError::Make {
                what: "a network namespace",
                source: errno.into(),
            })?;
            Self::current()
        })?
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which namespace it is.
    pub fn id(&self) -> NetNsId {
        self.id
    }

    /// Whether the path still leads to this very namespace. An open queue keeps a namespace alive
    /// without any error, so a pod that went away shows only here.
    pub fn still_at_path(&self) -> bool {
        Self::open(&self.path).is_ok_and(|found| found.id == self.id)
    }

    fn from_file(file: File, path: &Path) -> Result<Self, NetNsError> {
        let open_error = |source: io::Error| NetNsError::Open { path: path.to_path_buf(), source };
        let kind = fstatfs(&file).map_err(|errno| open_error(errno.into()))?;
        if kind.filesystem_type() != NSFS_MAGIC {
            return Err(NetNsError::NotANamespace { path: path.to_path_buf() });
        }
        let metadata = file.metadata().map_err(open_error)?;
        let id = NetNsId { device: metadata.dev(), inode: metadata.ino() };
        Ok(Self { file, path: path.to_path_buf(), id })
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Runs `work` inside `namespace` on a fresh thread that ends with it: the caller's thread never
/// changes namespace, so no error path can leave it in the wrong one.
///
/// A panic of `work` is carried over to the caller.
pub fn run_in<T: Send>(
    namespace: &NetNs,
    work: impl FnOnce() -> T + Send,
) -> Result<T, NetNsError> {
    in_fresh_thread(|| {
        setns(namespace, CloneFlags::CLONE_NEWNET)
            .map_err(|errno| NetNsError::Enter { path: namespace.path.clone(), errno })?;
        Ok(work())
    })?
}

fn in_fresh_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, NetNsError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, work)
            .map_err(|source| NetNsError::Make { what: "a thread", source })?;
        thread.join().map_or_else(|panic| std::panic::resume_unwind(panic), Ok)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn work_runs_inside_and_the_caller_stays_outside() {
        let outside = NetNs::current().unwrap();
        let inside = NetNs::new_anonymous().unwrap();
        assert_ne!(outside.id(), inside.id());
        let seen = run_in(&inside, || NetNs::current().unwrap().id()).unwrap();
        assert_eq!(seen, inside.id());
        assert_eq!(NetNs::current().unwrap().id(), outside.id());
    }

    #[test]
    fn a_path_that_leads_elsewhere_is_noticed() {
        let namespace = NetNs::new_anonymous().unwrap();
        let by_path =
            NetNs::open(format!("/proc/self/fd/{}", namespace.as_fd().as_raw_fd())).unwrap();
        assert_eq!(by_path.id(), namespace.id());
        assert!(by_path.still_at_path());
        drop(namespace);
        assert!(!by_path.still_at_path());
    }

    #[test]
    fn what_is_no_namespace_is_refused_by_path() {
        let missing = NetNs::named("vrouter-no-such-namespace").unwrap_err();
        assert!(missing.is_gone(), "{missing}");
        assert!(missing.to_string().contains("/run/netns/vrouter-no-such-namespace"));
        let file = tempfile::NamedTempFile::new().unwrap();
        let stale = NetNs::open(file.path()).unwrap_err();
        assert!(matches!(stale, NetNsError::NotANamespace { .. }), "{stale}");
        assert!(stale.is_gone());
    }
}
