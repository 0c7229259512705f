//! What did one stream live through? Numbered datagrams and one long TCP connection, so that a
//! test can say how much was lost and how long it stood still.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::socket::{setsockopt, sockopt};

use super::Netns;

/// How often a thread looks whether it should end.
const TICK: Duration = Duration::from_millis(50);
/// Time the last answers may take after a stream's end.
const LINGER: Duration = Duration::from_millis(500);
/// Of datagram sockets, bytes.
const RECEIVE_BUFFER: usize = 16 << 20;
/// One message of a [`TcpStreamer`], bytes.
const MESSAGE: usize = 64;

/// A thread that ends when its handle is dropped.
#[derive(Debug)]
struct Worker<T> {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<T>>,
}

impl<T: Send + 'static> Worker<T> {
    fn start(work: impl FnOnce(&AtomicBool) -> T + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        Self { stop, thread: Some(thread::spawn(move || work(&seen))) }
    }

    fn finish(mut self) -> anyhow::Result<T> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("finished twice")?;
        thread.join().map_err(|_| anyhow::anyhow!("a traffic thread panicked"))
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}

/// What waited for a restart comes in one burst: it must not be lost in a socket's own buffer.
fn prepare(socket: &UdpSocket) -> anyhow::Result<()> {
    setsockopt(socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
    Ok(socket.set_read_timeout(Some(TICK))?)
}

/// Binds, though a socket of a moment ago may still have the address: closed here, it lives on in
/// a program that another thread is just starting, until that begins.
fn bind<T>(attempt: impl Fn() -> std::io::Result<T>) -> std::io::Result<T> {
    let start = Instant::now();
    loop {
        match attempt() {
            Err(error) if error.kind() == ErrorKind::AddrInUse && start.elapsed() < LINGER => {
                thread::sleep(Duration::from_millis(5));
            }
            outcome => return outcome,
        }
    }
}

fn timed_out(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// Answers every datagram with itself.
#[derive(Debug)]
pub struct UdpEcho {
    _worker: Worker<()>,
}

impl UdpEcho {
    /// Listens in `netns` on `address` (unspecified: on all).
    pub fn start(netns: &Netns, address: SocketAddr) -> anyhow::Result<Self> {
        let socket = netns.enter(|| bind(|| UdpSocket::bind(address)))??;
        prepare(&socket)?;
        let worker = Worker::start(move |stop| {
            let mut buffer = vec![0; 65536];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    _ = socket.send_to(&buffer[..length], from);
                }
            }
        });
        Ok(Self { _worker: worker })
    }
}

/// What a stream lived through.
#[derive(Clone, Copy, Debug, Default)]
pub struct StreamReport {
    /// Messages sent.
    pub sent: u64,
    /// Messages whose echo came back.
    pub received: u64,
    /// Longest time between two echoes.
    pub longest_gap: Duration,
}

impl StreamReport {
    /// Messages without an echo.
    pub fn lost(&self) -> u64 {
        self.sent - self.received
    }
}

/// Sends numbered datagrams to a [`UdpEcho`] at a steady pace and notes which came back, and when.
#[derive(Debug)]
pub struct UdpStreamer {
    sender: Worker<u64>,
    receiver: Worker<(u64, Duration)>,
}

impl UdpStreamer {
    /// Starts sending from `netns` to `target`, `per_second` datagrams a second.
    pub fn start(netns: &Netns, target: SocketAddr, per_second: u32) -> anyhow::Result<Self> {
        let socket = netns.enter(|| UdpSocket::bind(any(target)))??;
        socket.connect(target)?;
        prepare(&socket)?;
        let pace = Duration::from_secs(1) / per_second.max(1);
        let sending = socket.try_clone()?;
        Ok(Self {
            sender: Worker::start(move |stop| send_numbered(&sending, pace, stop)),
            receiver: Worker::start(move |stop| receive_numbered(&socket, stop)),
        })
    }

    /// Ends the stream, waits for the last echoes, and reports.
    pub fn stop(self) -> anyhow::Result<StreamReport> {
        let sent = self.sender.finish()?;
        thread::sleep(LINGER);
        let (received, longest_gap) = self.receiver.finish()?;
        Ok(StreamReport { sent, received, longest_gap })
    }
}

fn any(target: SocketAddr) -> SocketAddr {
    match target.ip() {
        IpAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
        IpAddr::V6(_) => SocketAddr::from(([0_u16; 8], 0)),
    }
}

fn send_numbered(socket: &UdpSocket, pace: Duration, stop: &AtomicBool) -> u64 {
    let start = Instant::now();
    let mut number = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        // A refused or unroutable datagram is one sent and lost.
        _ = socket.send(&number.to_be_bytes());
        number += 1;
        let due = pace.saturating_mul(u32::try_from(number).unwrap_or(u32::MAX));
        thread::sleep(due.saturating_sub(start.elapsed()));
    }
    number
}

fn receive_numbered(socket: &UdpSocket, stop: &AtomicBool) -> (u64, Duration) {
    let mut buffer = [0; 64];
    let mut seen = Vec::new();
    let mut last: Option<Instant> = None;
    let mut longest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let Ok(length) = socket.recv(&mut buffer) else { continue };
        let Some(number) = buffer[..length].first_chunk().map(|b| u64::from_be_bytes(*b)) else {
            continue;
        };
        seen.push(number);
        if let Some(last) = last.replace(Instant::now()) {
            longest = longest.max(last.elapsed());
        }
    }
    // An echo that came twice is one that came.
    seen.sort_unstable();
    seen.dedup();
    (seen.len() as u64, longest)
}

/// Accepts TCP connections and sends back what it reads, until the other side closes.
#[derive(Debug)]
pub struct TcpEcho {
    _worker: Worker<()>,
}

impl TcpEcho {
    /// Listens in `netns` on `address` (unspecified: on all).
    pub fn start(netns: &Netns, address: SocketAddr) -> anyhow::Result<Self> {
        let listener = netns.enter(|| bind(|| TcpListener::bind(address)))??;
        listener.set_nonblocking(true)?;
        let worker = Worker::start(move |stop| {
            let mut connections: Vec<Worker<()>> = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        connections.push(Worker::start(move |stop| echo(stream, stop)));
                    }
                    Err(_) => thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        Ok(Self { _worker: worker })
    }
}

fn echo(mut stream: TcpStream, stop: &AtomicBool) {
    _ = stream.set_nonblocking(false);
    _ = stream.set_nodelay(true);
    _ = stream.set_read_timeout(Some(TICK));
    let mut buffer = vec![0; 65536];
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => {
                if stream.write_all(&buffer[..length]).is_err() {
                    return;
                }
            }
            Err(error) if timed_out(&error) => {}
            Err(_) => return,
        }
    }
}

/// Opens a TCP connection from `netns`.
pub fn connect(
    netns: &Netns,
    target: SocketAddr,
    timeout: Duration,
) -> anyhow::Result<TcpConnection> {
    let stream = netns
        .enter(|| TcpStream::connect_timeout(&target, timeout))?
        .with_context(|| format!("{}: connecting to {target}", netns.short()))?;
    stream.set_nodelay(true)?;
    Ok(TcpConnection { stream, number: 0 })
}

/// One open TCP connection to a [`TcpEcho`].
#[derive(Debug)]
pub struct TcpConnection {
    stream: TcpStream,
    number: u64,
}

impl TcpConnection {
    /// Sends one message and waits for its echo. Returns the time that took.
    pub fn exchange(&mut self, timeout: Duration) -> anyhow::Result<Duration> {
        let start = Instant::now();
        self.number += 1;
        let mut message = [0; MESSAGE];
        message[..8].copy_from_slice(&self.number.to_be_bytes());
        self.stream.write_all(&message)?;
        self.stream.set_read_timeout(Some(timeout))?;
        let mut answer = [0; MESSAGE];
        self.stream.read_exact(&mut answer).context("no echo")?;
        anyhow::ensure!(answer == message, "the echo is not what was sent");
        Ok(start.elapsed())
    }

    /// Its own address and port.
    pub fn local_addr(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.stream.local_addr()?)
    }
}

/// Exchanges messages over one connection in the background and notes the longest wait.
#[derive(Debug)]
pub struct TcpStreamer {
    worker: Worker<anyhow::Result<StreamReport>>,
}

impl TcpStreamer {
    /// Takes `connection` over. `patience`: after so long without an echo the connection is lost.
    pub fn start(mut connection: TcpConnection, pace: Duration, patience: Duration) -> Self {
        Self {
            worker: Worker::start(move |stop| {
                let mut report = StreamReport::default();
                while !stop.load(Ordering::Relaxed) {
                    let took = connection.exchange(patience)?;
                    report.sent += 1;
                    report.received += 1;
                    report.longest_gap = report.longest_gap.max(took);
                    thread::sleep(pace);
                }
                Ok(report)
            }),
        }
    }

    /// Ends it. An error: the connection broke, or an echo took longer than the patience.
    pub fn stop(self) -> anyhow::Result<StreamReport> {
        self.worker.finish()?
    }
}
