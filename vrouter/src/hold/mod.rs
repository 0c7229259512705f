//! What keeps the devices' descriptors alive while no forwarder runs?
//!
//! A tiny process of its own, the *holder* (`vrouter hold --socket PATH`), that outlives forwarders
//! and is not upgraded with them. It knows nothing about what it keeps: a name, a descriptor, and a
//! few bytes of the forwarder's own notes.
//!
//! ```text
//! forwarder ── put NAME (descriptor, metadata) ──► holder      over a SOCK_SEQPACKET socket,
//!     ✝ killed, upgraded                             │         descriptors by SCM_RIGHTS
//! next forwarder ◄── list, get NAME ─────────────────┘
//! ```

mod protocol;
mod server;
#[cfg(test)]
mod tests;
mod wire;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

pub use protocol::{MAX_METADATA, MAX_NAME, PROTOCOL_VERSION};
pub use server::{MAX_HELD, run};

use protocol::{Operation, Reply, Request, Status};

/// How long a holder may take to answer: it does nothing but answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a just started holder is tried, and how long apart.
const START_ATTEMPTS: u32 = 500;
const START_PAUSE: Duration = Duration::from_millis(10);

/// Why the holder could not do it.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// Its socket cannot be reached.
    #[error("holder socket {}: {source}", path.display())]
    Connect {
        /// The socket's path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It could not be started.
    #[error("cannot start a holder by '{} hold --socket {}': {source}", exe.display(), path.display())]
    Start {
        /// The program.
        exe: PathBuf,
        /// The socket's path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another holder has this socket.
    #[error("another holder runs on {}", path.display())]
    Running {
        /// The socket's path.
        path: PathBuf,
    },
    /// The connection broke.
    #[error("holder: {operation}: {source}")]
    Talk {
        /// What was asked for.
        operation: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The holder refused.
    #[error("holder: {operation}: {reason}")]
    Refused {
        /// What was asked for.
        operation: String,
        /// The holder's sentence.
        reason: String,
    },
    /// A name or metadata of a size that cannot be kept.
    #[error("holder: '{name}': {reason}")]
    Invalid {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// A connection to the holder. Only processes of the holder's own user are served.
#[derive(Debug)]
pub struct Holder {
    socket: Socket,
}

/// Something kept, without its descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The name it was put under.
    pub name: String,
    /// The forwarder's own notes on it.
    pub metadata: Vec<u8>,
}

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HolderVersion {
    /// The protocol it speaks: [`PROTOCOL_VERSION`].
    pub protocol: u32,
    /// Its process id.
    pub process: u32,
}

impl Holder {
    /// Connects to a running holder.
    pub fn connect(path: &Path) -> Result<Self, HoldError> {
        let connect = || -> io::Result<Socket> {
            let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
            socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
            socket.set_write_timeout(Some(ANSWER_TIMEOUT))?;
            socket.connect(&SockAddr::unix(path)?)?;
            Ok(socket)
        };
        connect()
            .map(|socket| Self { socket })
            .map_err(|source| HoldError::Connect { path: path.into(), source })
    }

    /// Connects, and starts a holder first if none runs.
    pub fn connect_or_spawn(path: &Path, exe: &Path) -> Result<Self, HoldError> {
        match Self::connect(path) {
            Err(error) if error.is_absence() => {}
            other => return other,
        }
        spawn_detached(path, exe)?;
        let mut result = Self::connect(path);
        for _ in 0..START_ATTEMPTS {
            match result {
                Err(error) if error.is_absence() => {}
                other => return other,
            }
            thread::sleep(START_PAUSE);
            result = Self::connect(path);
        }
        result
    }

    /// Gives the holder a copy of a descriptor, in place of one of that name.
    pub fn put(&mut self, name: &str, fd: impl AsFd, metadata: &[u8]) -> Result<(), HoldError> {
        let request = Request { operation: Operation::Put, name, metadata };
        self.ask(&request, Some(&fd)).map(drop)
    }

    /// A copy of the descriptor kept under `name`, with its metadata.
    pub fn get(&mut self, name: &str) -> Result<Option<(OwnedFd, Vec<u8>)>, HoldError> {
        let request = Request { operation: Operation::Get, name, metadata: &[] };
        let reply = self.ask(&request, None)?;
        match (reply.status, reply.fd) {
            (Status::Missing, _) => Ok(None),
            (_, Some(fd)) => Ok(Some((fd, reply.payload))),
            (_, None) => Err(HoldError::Refused {
                operation: request.describe(),
                reason: "the answer carries no descriptor".into(),
            }),
        }
    }

    /// Everything that is kept, by name.
    pub fn list(&mut self) -> Result<Vec<Held>, HoldError> {
        let mut all: Vec<Held> = Vec::new();
        loop {
            let after = all.last().map_or(String::new(), |held| held.name.clone());
            let request = Request { operation: Operation::List, name: &after, metadata: &[] };
            let reply = self.ask(&request, None)?;
            let page = protocol::read_page(&reply.payload).ok_or_else(|| HoldError::Refused {
                operation: request.describe(),
                reason: "the answer cannot be read".into(),
            })?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
        }
    }

    /// Lets the holder forget a descriptor and close its copy; `Ok(false)` if it has none.
    pub fn release(&mut self, name: &str) -> Result<bool, HoldError> {
        let request = Request { operation: Operation::Drop, name, metadata: &[] };
        Ok(self.ask(&request, None)?.status == Status::Done)
    }

    /// Who answers.
    pub fn version(&mut self) -> Result<HolderVersion, HoldError> {
        let request = Request { operation: Operation::Version, name: "", metadata: &[] };
        let reply = self.ask(&request, None)?;
        let number = |at: usize| {
            let bytes = reply.payload.get(at..at + 4)?;
            bytes.try_into().ok().map(u32::from_le_bytes)
        };
        match (number(0), number(4)) {
            (Some(protocol), Some(process)) => Ok(HolderVersion { protocol, process }),
            _ => Err(HoldError::Refused {
                operation: request.describe(),
                reason: "the answer cannot be read".into(),
            }),
        }
    }

    fn ask(&mut self, request: &Request<'_>, fd: Option<&dyn AsFd>) -> Result<Reply, HoldError> {
        let bytes = request.encode()?;
        let talk = |source| HoldError::Talk { operation: request.describe(), source };
        wire::send(&self.socket, &bytes, fd.map(AsFd::as_fd)).map_err(talk)?;
        let message = wire::receive(&self.socket).map_err(talk)?;
        let reply = Reply::decode(message).ok_or_else(|| HoldError::Refused {
            operation: request.describe(),
            reason: "the answer cannot be read".into(),
        })?;
        if reply.status == Status::Refused {
            let reason = String::from_utf8_lossy(&reply.payload).into_owned();
            return Err(HoldError::Refused { operation: request.describe(), reason });
        }
        Ok(reply)
    }
}

impl HoldError {
    /// Whether simply nobody is there.
    fn is_absence(&self) -> bool {
        matches!(self, Self::Connect { source, .. }
            if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused))
    }
}

/// Starts a holder that has nothing in common with this process any more: [`run`] makes its own
/// session and closes what it inherited. If another one is faster the new one just ends.
pub fn spawn_detached(path: &Path, exe: &Path) -> Result<(), HoldError> {
    let mut child = Command::new(exe)
        .args(["hold", "--socket"])
        .arg(path)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|source| HoldError::Start { exe: exe.into(), path: path.into(), source })?;
    // Only so that no zombie stays if it ends before us.
    let _ = thread::Builder::new().name("holder".into()).spawn(move || child.wait());
    Ok(())
}
