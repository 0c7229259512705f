//! How do operators reach a running node? A UNIX socket, one request per connection.

use super::request::{Answer, Reply, Request};
use crossbeam::channel::{Sender, bounded};
use serde_json::Value;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// Connections served at once.
const CONNECTIONS: usize = 32;
/// Longest request.
const REQUEST_MAX: u64 = 64 * 1024;
/// How long a client may take to ask, and to take a line of the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a question to a node failed.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens.
    #[error("no node answers at {path}: is `vrouter run` running with this run directory?")]
    Unreachable {
        /// The socket.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the node stopped answering: {0}")]
    Broken(#[from] io::Error),
    /// The answer makes no sense: other versions of client and node.
    #[error("the node's answer can't be read ({0}): is it another version?")]
    Garbled(#[from] serde_json::Error),
    /// The node says no.
    #[error("{0}")]
    Refused(String),
}

/// Serves the socket from threads of its own; each request goes to `ask`, which hands it to the
/// control loop.
///
/// # Errors
/// The socket can't be bound.
pub fn serve(
    path: &Path,
    ask: impl Fn(Request, Sender<Reply>) -> bool + Send + Sync + 'static,
) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    let ask = Arc::new(ask);
    let busy = Arc::new(AtomicUsize::new(0));
    thread::Builder::new().name("operator".into()).spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            if busy.fetch_add(1, Ordering::AcqRel) >= CONNECTIONS {
                busy.fetch_sub(1, Ordering::AcqRel);
                let _ = write_line(&mut stream, &Answer::Error("too many operators".into()));
                continue;
            }
            let (ask, seat) = (Arc::clone(&ask), Seat(Arc::clone(&busy)));
            let served = thread::Builder::new().name("operator".into()).spawn(move || {
                let _seat = seat;
                if let Err(error) = answer(&mut stream, &*ask) {
                    tracing::debug!(%error, "an operator's connection ended");
                }
            });
            if let Err(error) = served {
                tracing::warn!(%error, "no thread for an operator's connection");
            }
        }
    })?;
    Ok(())
}

/// One connection's place among [`CONNECTIONS`].
struct Seat(Arc<AtomicUsize>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn answer(stream: &mut UnixStream, ask: &dyn Fn(Request, Sender<Reply>) -> bool) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(stream.try_clone()?.take(REQUEST_MAX)).read_line(&mut line)?;
    let request = match serde_json::from_str(&line) {
        Ok(request) => request,
        Err(e) => return write_line(stream, &Answer::Error(format!("not a request: {e}"))),
    };
    let (sender, receiver) = bounded(1);
    if !ask(request, sender) {
        return write_line(stream, &Answer::Error("the node is stopping".into()));
    }
    match receiver.recv_timeout(PATIENCE) {
        Ok(Reply::Value(value)) => write_line(stream, &Answer::Ok(value)),
        Ok(Reply::Error(error)) => write_line(stream, &Answer::Error(error)),
        Ok(Reply::Stream(mut next)) => {
            // The client's end of the connection is how it says "enough".
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(Duration::from_millis(1)))?;
            while let Some(item) = next() {
                match item {
                    Some(value) => write_line(stream, &Answer::Ok(value))?,
                    None => {
                        if stream.read(&mut [0; 16]).is_ok_and(|n| n == 0) {
                            break;
                        }
                    }
                }
            }
            Ok(())
        }
        Err(_) => write_line(stream, &Answer::Error("the node is too busy to answer".into())),
    }
}

fn write_line(stream: &mut UnixStream, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Asks a node and hands each line of its answer to `each`, until that says false.
pub fn ask(
    path: &Path,
    request: &Request,
    mut each: impl FnMut(Value) -> bool,
) -> Result<(), AskError> {
    let unreachable = |source| AskError::Unreachable { path: path.display().to_string(), source };
    let mut stream = UnixStream::connect(path).map_err(unreachable)?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    for line in BufReader::new(stream).lines() {
        match serde_json::from_str(&line?)? {
            Answer::Ok(value) => {
                if !each(value) {
                    break;
                }
            }
            Answer::Error(error) => return Err(AskError::Refused(error)),
        }
    }
    Ok(())
}

/// Asks a node a question that has one answer.
pub fn ask_once(path: &Path, request: &Request) -> Result<Value, AskError> {
    let mut answer = None;
    ask(path, request, |value| {
        answer = Some(value);
        false
    })?;
    answer.ok_or_else(|| AskError::Refused("the node gave no answer".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_errors_and_streams_arrive() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("s");
        serve(&path, |request, reply| {
            let answer = match request {
                Request::Status => Reply::Value(json!({"alive": true})),
                Request::Trace { count, .. } => {
                    let mut left = count;
                    Reply::Stream(Box::new(move || {
                        left = left.checked_sub(1)?;
                        Some(Some(json!(left)))
                    }))
                }
                _ => Reply::Error("no such thing".into()),
            };
            reply.send(answer).is_ok()
        })
        .expect("bound");
        let status = ask_once(&path, &Request::Status).expect("an answer");
        assert_eq!(status, json!({"alive": true}));
        assert!(matches!(ask_once(&path, &Request::Drops), Err(AskError::Refused(_))));
        let mut seen = Vec::new();
        let filter = super::super::request::PacketFilter::default();
        ask(&path, &Request::Trace { filter, count: 3 }, |v| {
            seen.push(v);
            true
        })
        .expect("a stream");
        assert_eq!(seen, [json!(2), json!(1), json!(0)]);
        let mut raw = UnixStream::connect(&path).expect("connected");
        raw.write_all(b"garbage\n").expect("written");
        let mut text = String::new();
        raw.read_to_string(&mut text).expect("an answer");
        assert!(text.contains("not a request"), "{text}");
        assert!(matches!(
            ask_once(&directory.path().join("none"), &Request::Status),
            Err(AskError::Unreachable { .. })
        ));
    }
}
