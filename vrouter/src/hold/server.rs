//! What does the holder do all day?

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{geteuid, setsid};
use socket2::{Domain, SockAddr, Socket, Type};

use super::protocol::{Operation, PROTOCOL_VERSION, Reply, Request, write_page};
use super::wire::{self, Message};
use super::{HoldError, Holder};

/// Most descriptors kept.
pub const MAX_HELD: usize = 4096;
/// Most connections at a time: one forwarder, its successor, an operator.
const MAX_CLIENTS: usize = 16;
/// Never the first to be killed when memory runs out.
const OOM_SCORE: &str = "-999";

/// Runs the holder on a socket path; ends by SIGTERM or SIGKILL only. It leaves the session it was
/// started in and closes every descriptor above the standard ones, so call it in a process of its
/// own, first thing.
pub fn run(path: &Path) -> Result<(), HoldError> {
    detach();
    let failed = |source| HoldError::Connect { path: path.into(), source };
    let _lock = lock(path)?;
    let listener = listen(path).map_err(failed)?;
    // Best effort: what it needs at least is checked when it is needed.
    let _ = wire::raise_descriptor_limit();
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    Server { listener, clients: Vec::new(), held: BTreeMap::new() }.serve().map_err(failed)
}

/// Leaves the starter's session, directory, terminal signals and descriptors.
fn detach() {
    // Fails if it is a group's leader already, which is as good.
    let _ = setsid();
    let _ = std::env::set_current_dir("/");
    for signal in [signal_hook::consts::SIGHUP, signal_hook::consts::SIGINT] {
        let _ = signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)));
    }
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    let open: Vec<i32> =
        entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    for fd in open.into_iter().filter(|fd| *fd > 2) {
        let _ = nix::unistd::close(fd);
    }
}

/// One holder per socket: the lock ends with the process, so what it guards is never stale.
fn lock(path: &Path) -> Result<Flock<File>, HoldError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&name)
        .map_err(|source| HoldError::Connect { path: name.clone(), source })?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => HoldError::Running { path: path.into() },
        errno => HoldError::Connect { path: name, source: errno.into() },
    })
}

fn listen(path: &Path) -> io::Result<Socket> {
    if Holder::connect(path).is_ok() {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    socket.listen(i32::try_from(MAX_CLIENTS).unwrap_or(i32::MAX))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

struct Server {
    listener: Socket,
    clients: Vec<Socket>,
    held: BTreeMap<String, (OwnedFd, Vec<u8>)>,
}

impl Server {
    fn serve(&mut self) -> io::Result<()> {
        loop {
            let (listener, clients) = self.wait()?;
            let mut position = 0;
            for ready in clients {
                if ready && self.answer(position).is_err() {
                    self.clients.remove(position);
                } else {
                    position += 1;
                }
            }
            if listener {
                self.accept();
            }
        }
    }

    /// Which sockets have something for us.
    fn wait(&self) -> io::Result<(bool, Vec<bool>)> {
        let mut fds: Vec<_> = std::iter::once(&self.listener)
            .chain(&self.clients)
            .map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN))
            .collect();
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut ready = fds.iter().map(|fd| fd.any().unwrap_or(false));
        Ok((ready.next().unwrap_or(false), ready.collect()))
    }

    fn accept(&mut self) {
        let Ok((client, _)) = self.listener.accept() else { return };
        let ours =
            getsockopt(&client, PeerCredentials).is_ok_and(|peer| peer.uid() == geteuid().as_raw());
        // One more than there is room for is closed: it sees the end of its connection.
        if ours && self.clients.len() < MAX_CLIENTS && client.set_nonblocking(true).is_ok() {
            self.clients.push(client);
        }
    }

    /// Answers one request; an error ends the connection.
    fn answer(&mut self, position: usize) -> io::Result<()> {
        let message = match wire::receive(&self.clients[position]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            other => other?,
        };
        let reply = self.handle(message);
        let fd = reply.fd.as_ref().map(AsFd::as_fd);
        wire::send(&self.clients[position], &reply.encode(), fd)
    }

    fn handle(&mut self, message: Message) -> Reply {
        let request = match Request::decode(&message.bytes) {
            Ok(request) => request,
            Err(reason) => return Reply::refused(reason),
        };
        match request.operation {
            Operation::Put => self.put(&request, message.fds),
            Operation::Get => match self.held.get(request.name) {
                None => Reply::missing(),
                Some((fd, metadata)) => match fd.try_clone() {
                    Ok(fd) => Reply { fd: Some(fd), ..Reply::done(metadata.clone()) },
                    Err(error) => Reply::refused(error),
                },
            },
            Operation::List => {
                let after = (Bound::Excluded(request.name), Bound::Unbounded);
                let rest = self.held.range::<str, _>(after);
                Reply::done(write_page(rest.map(|(name, (_, m))| (name.as_str(), m.as_slice()))))
            }
            Operation::Drop => {
                let found = self.held.remove(request.name);
                found.map_or_else(Reply::missing, |_| Reply::done(Vec::new()))
            }
            Operation::Version => {
                let numbers = [PROTOCOL_VERSION, std::process::id()];
                Reply::done(numbers.iter().flat_map(|n| n.to_le_bytes()).collect())
            }
        }
    }

    fn put(&mut self, request: &Request<'_>, fds: Vec<OwnedFd>) -> Reply {
        if request.name.is_empty() {
            return Reply::refused("the name is empty");
        }
        if self.held.len() >= MAX_HELD && !self.held.contains_key(request.name) {
            return Reply::refused("4096 descriptors are kept already");
        }
        let mut fds = fds.into_iter();
        let (Some(fd), None) = (fds.next(), fds.next()) else {
            return Reply::refused("exactly one descriptor must come along");
        };
        self.held.insert(request.name.into(), (fd, request.metadata.to_vec()));
        Reply::done(Vec::new())
    }
}
