//! How do the plugin's requests reach the node?
//!
//! One thread per connection, since a request waits until its pod's tables are live; their number
//! is bounded.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::request::{
    AddRequest, CheckRequest, CniReply, CniRequest, DelRequest, GcRequest, receive, send,
};
use super::result::{AddResult, CniError, ErrorCode};

/// What the node does for the runtime. Every call may come again: ADD for an attached pod replaces,
/// DEL for an unknown one succeeds. Calls come from several threads at once.
pub trait CniHandler: Send + Sync {
    /// Attaches a pod; returns when its traffic passes under its policies.
    fn add(&self, request: &AddRequest) -> Result<AddResult, CniError>;
    /// Detaches a pod, as far as anything of it is left.
    fn del(&self, request: &DelRequest) -> Result<(), CniError>;
    /// Succeeds if the pod is attached as it was.
    fn check(&self, request: &CheckRequest) -> Result<(), CniError>;
    /// Detaches every pod of this network that is not in the list.
    fn gc(&self, request: &GcRequest) -> Result<(), CniError>;
    /// Succeeds if a pod could be attached now; fails with
    /// [`NotAvailable`](ErrorCode::NotAvailable) or
    /// [`LimitedConnectivity`](ErrorCode::LimitedConnectivity).
    fn status(&self) -> Result<(), CniError>;
}

/// Requests worked on at a time; more are told to try again.
pub const MAX_REQUESTS: usize = 64;
/// How long a plugin may take to say what it wants and to hear the answer.
const TALK_TIMEOUT: Duration = Duration::from_secs(10);

/// A listening socket; dropping it ends it. Requests under way are finished.
#[derive(Debug)]
pub struct CniServer {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl CniServer {
    /// Listens on `path` (mode 0600: the runtime runs as root), in place of a dead node's socket.
    /// Fails with `AddrInUse` while another node listens there.
    pub fn start(path: &Path, handler: Arc<dyn CniHandler>) -> io::Result<Self> {
        let listener = listen(path)?;
        let stop = Arc::new(AtomicBool::new(false));
        let acceptor = Acceptor { handler, active: Arc::new(AtomicUsize::new(0)) };
        let thread = thread::Builder::new().name("cni".into()).spawn({
            let stop = Arc::clone(&stop);
            move || {
                for stream in listener.incoming() {
                    if stop.load(Ordering::Acquire) {
                        return;
                    }
                    match stream {
                        Ok(stream) => acceptor.accept(stream),
                        Err(error) => {
                            tracing::warn!(%error, "cannot accept a CNI connection");
                            thread::sleep(Duration::from_millis(100));
                        }
                    }
                }
            }
        })?;
        Ok(Self { path: path.into(), stop, thread: Some(thread) })
    }
}

impl Drop for CniServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the thread, which then sees the flag.
        let woken = UnixStream::connect(&self.path).is_ok();
        let _ = fs::remove_file(&self.path);
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            let _ = thread.join();
        }
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    if UnixStream::connect(path).is_ok() {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

struct Acceptor {
    handler: Arc<dyn CniHandler>,
    active: Arc<AtomicUsize>,
}

/// Counts a request as long as it lives, also if its handler panics.
struct Active(Arc<AtomicUsize>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Acceptor {
    fn accept(&self, stream: UnixStream) {
        let before = self.active.fetch_add(1, Ordering::AcqRel);
        let active = Active(Arc::clone(&self.active));
        let handler = Arc::clone(&self.handler);
        let busy = before >= MAX_REQUESTS;
        let work = move || {
            let _active = active;
            if let Err(error) = serve(&stream, &*handler, busy) {
                tracing::warn!(%error, "a CNI connection broke");
            }
        };
        // Busy ones get a thread as well, but only for their refusal: at most as many again.
        if before >= 2 * MAX_REQUESTS {
            return;
        }
        if let Err(error) = thread::Builder::new().name("cni-request".into()).spawn(work) {
            tracing::warn!(%error, "cannot start a thread for a CNI request");
        }
    }
}

fn serve(stream: &UnixStream, handler: &dyn CniHandler, busy: bool) -> io::Result<()> {
    stream.set_read_timeout(Some(TALK_TIMEOUT))?;
    stream.set_write_timeout(Some(TALK_TIMEOUT))?;
    let reply = match receive(stream) {
        Ok(_) if busy => CniReply::Error(CniError::new(
            ErrorCode::TryAgain,
            format!("the node works on {MAX_REQUESTS} requests already"),
        )),
        Ok(request) => handle(handler, &request),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => CniReply::Error(
            CniError::new(ErrorCode::Decode, "the request cannot be read").with_details(error),
        ),
        // A plugin that was killed, or somebody who asks whether anybody listens.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
        Err(error) => return Err(error),
    };
    send(stream, &reply)
}

fn handle(handler: &dyn CniHandler, request: &CniRequest) -> CniReply {
    let done = |result: Result<(), CniError>| result.map(|()| CniReply::Done);
    let result = match request {
        CniRequest::Add(request) => handler.add(request).map(CniReply::Added),
        CniRequest::Del(request) => done(handler.del(request)),
        CniRequest::Check(request) => done(handler.check(request)),
        CniRequest::Gc(request) => done(handler.gc(request)),
        CniRequest::Status => done(handler.status()),
    };
    result.unwrap_or_else(CniReply::Error)
}
