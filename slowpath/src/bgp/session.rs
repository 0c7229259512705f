//! How do bytes get to and from a peer: one TCP connection with its buffers and socket options.

use super::config::{DEFAULT_TTL, PeerConfig};
use super::message::{self, Context, Message};
use super::notification::Notification;
use super::sockopt;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};
use std::os::fd::AsFd;
use std::time::Instant;

/// DSCP CS6 as the octet of the IP header.
const CLASS_SELECTOR_6: u32 = 0xC0;
/// No more routes are queued for a peer while this much waits to be sent.
const HIGH_WATER: usize = 256 * 1024;

/// One connection to a peer.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    pub(crate) token: Token,
    input: Vec<u8>,
    consumed: usize,
    output: Vec<u8>,
    sent: usize,
    /// The socket may have bytes for us (events are edge-triggered: valid until it would block).
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// Our connection attempt has not finished.
    pub(crate) connecting: bool,
    /// When the last byte went out, or the output was empty.
    progress: Instant,
}

/// What [`Connection::fill`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fill {
    /// The connection is alive.
    Open,
    /// The peer closed it, or it broke.
    Closed,
}

impl Connection {
    /// Starts to connect to a peer.
    pub(crate) fn connect(
        peer: &PeerConfig,
        registry: &Registry,
        token: Token,
        now: Instant,
    ) -> io::Result<Self> {
        let remote = SocketAddr::new(peer.address, peer.port);
        let socket = Socket::new(Domain::for_address(remote), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        set_ip_options(&socket, peer)?;
        if let Some(password) = &peer.password {
            sockopt::set_md5_key(socket.as_fd(), peer.address, password.as_bytes())?;
        }
        if let Some(local) = peer.local_address {
            // The route to the peer decides otherwise, and the peer knows us by one address only.
            socket.bind(&SocketAddr::new(local, 0).into())?;
        }
        match socket.connect(&remote.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        Self::register(TcpStream::from_std(socket.into()), registry, token, true, now)
    }

    /// Takes over an accepted connection.
    pub(crate) fn accepted(
        stream: TcpStream,
        peer: Option<&PeerConfig>,
        registry: &Registry,
        token: Token,
        now: Instant,
    ) -> io::Result<Self> {
        if let Some(peer) = peer {
            set_ip_options(&SockRef::from(&stream), peer)?;
        }
        Self::register(stream, registry, token, false, now)
    }

    fn register(
        mut stream: TcpStream,
        registry: &Registry,
        token: Token,
        connecting: bool,
        now: Instant,
    ) -> io::Result<Self> {
        // Messages are written whole and at once; waiting for more only delays withdrawals.
        SockRef::from(&stream).set_tcp_nodelay(true)?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self {
            stream,
            token,
            input: Vec::new(),
            consumed: 0,
            output: Vec::new(),
            sent: 0,
            readable: !connecting,
            writable: !connecting,
            connecting,
            progress: now,
        })
    }

    /// Whether the attempt has succeeded; an error if it has failed, `false` if it goes on.
    pub(crate) fn finish_connect(&mut self) -> io::Result<bool> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error);
        }
        match self.stream.peer_addr() {
            Ok(_) => {
                self.connecting = false;
                self.readable = true;
                self.writable = true;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Our address of the connection.
    pub(crate) fn local_address(&self) -> Option<IpAddr> {
        self.stream.local_addr().ok().map(|address| address.ip())
    }

    /// Reads what is there until `slice` bytes wait in the buffer: bounded, so that no peer starves
    /// another. A slice must hold the longest message.
    pub(crate) fn fill(&mut self, slice: usize) -> Fill {
        self.input.drain(..self.consumed);
        self.consumed = 0;
        let held = self.input.len();
        if !self.readable || held >= slice {
            return Fill::Open;
        }
        self.input.resize(slice, 0);
        let mut filled = held;
        let state = loop {
            if filled == slice {
                break Fill::Open;
            }
            match self.stream.read(&mut self.input[filled..]) {
                Ok(0) => break Fill::Closed,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    break Fill::Open;
                }
                Err(_) => break Fill::Closed,
            }
        };
        self.input.truncate(filled);
        if filled == 0 {
            // An idle peer holds no buffer.
            self.input = Vec::new();
        }
        state
    }

    /// The next whole message in the buffer.
    pub(crate) fn next_message(
        &mut self,
        context: Context,
    ) -> Option<Result<Message, Notification>> {
        let waiting = &self.input[self.consumed..];
        if waiting.is_empty() {
            return None;
        }
        match message::frame(waiting) {
            Err(notification) => Some(Err(notification)),
            Ok(Some(length)) if length <= waiting.len() => {
                let message = message::decode(&waiting[..length], &context);
                self.consumed += length;
                Some(message)
            }
            Ok(_) => None,
        }
    }

    /// Forgets what was received (the connection only waits for its end).
    pub(crate) fn discard_input(&mut self) {
        self.consumed = self.input.len();
    }

    /// Whether a turn has something to do here without waiting for the socket.
    pub(crate) fn has_work(&self) -> bool {
        let waiting = &self.input[self.consumed..];
        let whole = match message::frame(waiting) {
            Ok(Some(length)) => length <= waiting.len(),
            Ok(None) => false,
            Err(_) => true,
        };
        whole || (self.readable && !self.connecting)
    }

    /// Where to append what is to be sent.
    pub(crate) fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Whether more routes may be appended.
    pub(crate) fn has_room(&self) -> bool {
        self.output.len() - self.sent < HIGH_WATER
    }

    /// Whether everything was sent.
    pub(crate) fn is_flushed(&self) -> bool {
        self.output.len() == self.sent
    }

    /// Since when nothing could be sent although something waits.
    pub(crate) fn stuck_since(&self) -> Option<Instant> {
        (!self.is_flushed()).then_some(self.progress)
    }

    /// Sends what the socket takes; an error means that the connection is broken.
    pub(crate) fn flush(&mut self, now: Instant) -> io::Result<()> {
        while self.writable && !self.connecting && self.sent < self.output.len() {
            match self.stream.write(&self.output[self.sent..]) {
                Ok(count) => {
                    self.sent += count;
                    self.progress = now;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(error) => return Err(error),
            }
        }
        if self.is_flushed() {
            self.progress = now;
            self.sent = 0;
            self.output.clear();
            self.output.shrink_to(HIGH_WATER);
        } else if self.sent >= HIGH_WATER {
            self.output.drain(..self.sent);
            self.sent = 0;
        }
        Ok(())
    }

    /// Says that nothing more will come. Closing outright with unread input would reset the
    /// connection, and the peer could lose our NOTIFICATION.
    pub(crate) fn shut_down_writing(&self) {
        // A connection that is gone already needs no farewell.
        let _gone = self.stream.shutdown(Shutdown::Write);
    }
}

fn set_ip_options(socket: &Socket, peer: &PeerConfig) -> io::Result<()> {
    let ipv6 = peer.address.is_ipv6();
    let ttl = match peer.ttl_security {
        Some(hops) => {
            // RFC 5082 §3: sent with 255, each hop takes one.
            sockopt::set_min_ttl(socket.as_fd(), ipv6, 255 - hops.saturating_sub(1))?;
            255
        }
        None => peer.ttl.unwrap_or(DEFAULT_TTL),
    };
    // Routing must get through where ordinary traffic queues up (RFC 4594 §3.2).
    if ipv6 {
        socket.set_tclass_v6(CLASS_SELECTOR_6)?;
    } else {
        socket.set_tos_v4(CLASS_SELECTOR_6)?;
    }
    set_hop_limit(socket, ipv6, ttl)
}

fn set_hop_limit(socket: &Socket, ipv6: bool, ttl: u8) -> io::Result<()> {
    if ipv6 { socket.set_unicast_hops_v6(ttl.into()) } else { socket.set_ttl_v4(ttl.into()) }
}

/// Listening sockets for `addresses` (empty = all of both families).
pub(crate) fn listen(addresses: &[IpAddr], port: u16) -> io::Result<Vec<mio::net::TcpListener>> {
    if !addresses.is_empty() {
        return addresses.iter().map(|&address| listen_on(address, port)).collect();
    }
    let mut listeners = vec![listen_on(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)?];
    match listen_on(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port) {
        Ok(listener) => listeners.push(listener),
        Err(error) => tracing::info!(%error, "BGP does not listen on IPv6"),
    }
    Ok(listeners)
}

fn listen_on(address: IpAddr, port: u16) -> io::Result<mio::net::TcpListener> {
    let address = SockAddr::from(SocketAddr::new(address, port));
    let socket = Socket::new(address.domain(), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    let ipv6 = address.is_ipv6();
    if ipv6 {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    } else {
        // The node's address may come later than we do.
        socket.set_freebind_v4(true)?;
    }
    // A peer that guards its TTL (RFC 5082) would not see our SYN-ACK otherwise.
    set_hop_limit(&socket, ipv6, 255)?;
    socket.bind(&address)?;
    socket.listen(1024)?;
    Ok(mio::net::TcpListener::from_std(socket.into()))
}
