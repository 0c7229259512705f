//! Who may come in, and how are those who may not sent away? Listeners, accepted and lingering connections.

use super::fsm::{Action, Event, Slot};
use super::message;
use super::notification::{Notification, code};
use super::peer::Peer;
use super::session::{self, Connection, Fill};
use super::sockopt;
use super::speaker::{Owner, Speaker};
use mio::Interest;
use mio::net::TcpStream;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Connections accepted per turn.
const ACCEPT_SLICE: usize = 64;
/// Connections that only wait for their NOTIFICATION to arrive; the oldest goes when there are more.
const MAX_LINGERING: usize = 128;
/// Bytes thrown away per turn of a connection that lingers.
const DISCARD_SLICE: usize = 16 * 1024;
const LINGER_TIME: Duration = Duration::from_secs(2);

impl Speaker {
    /// Opens the listening sockets that the configuration asks for.
    pub(super) fn listen(&mut self) -> io::Result<()> {
        for (mut listener, token) in std::mem::take(&mut self.listeners) {
            self.owners.remove(&token);
            self.poll.registry().deregister(&mut listener)?;
        }
        let addresses = self.config.listen_addresses.clone();
        for mut listener in session::listen(&addresses, self.config.listen_port)? {
            let token = self.token(Owner::Listener(self.listeners.len()));
            self.poll.registry().register(&mut listener, token, Interest::READABLE)?;
            self.listeners.push((listener, token));
        }
        let keys: Vec<(IpAddr, String)> = self
            .peers
            .values()
            .filter(|peer| !peer.departed)
            .filter_map(|peer| Some((peer.config.address, peer.config.password.clone()?)))
            .collect();
        for (address, password) in keys {
            if let Err(error) = self.set_listener_key(address, Some(&password)) {
                tracing::error!(%address, %error, "cannot set the TCP-MD5 password on the listener");
            }
        }
        Ok(())
    }

    /// The listener must know a peer's key before its SYN arrives.
    pub(super) fn set_listener_key(
        &self,
        address: IpAddr,
        password: Option<&str>,
    ) -> io::Result<()> {
        for (listener, _) in &self.listeners {
            if listener.local_addr()?.is_ipv4() != address.is_ipv4() {
                continue;
            }
            let key = password.unwrap_or_default();
            match sockopt::set_md5_key(listener.as_fd(), address, key.as_bytes()) {
                // There was none to remove.
                Err(error) if key.is_empty() && error.kind() == io::ErrorKind::NotFound => {}
                result => result?,
            }
        }
        Ok(())
    }

    pub(super) fn accept(&mut self, index: usize, now: Instant) {
        for _ in 0..ACCEPT_SLICE {
            let Some((listener, _)) = self.listeners.get(index) else { return };
            match listener.accept() {
                Ok((stream, remote)) => self.accepted(stream, remote, now),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    // A connection that died in the queue, or no descriptor left.
                    tracing::warn!(%error, "cannot accept a BGP connection");
                    return;
                }
            }
        }
        // More may be waiting: ask for a new event.
        if let Some((listener, token)) = self.listeners.get_mut(index)
            && let Err(error) =
                self.poll.registry().reregister(listener, *token, Interest::READABLE)
        {
            tracing::error!(%error, "cannot watch the BGP listener");
        }
    }

    pub(super) fn accepted(&mut self, stream: TcpStream, remote: SocketAddr, now: Instant) {
        let known = |peer: &&Peer| !peer.departed && peer.config.address == remote.ip();
        let peer = self.peers.values().find(known).map(|peer| (peer.id, peer.config.clone()));
        let owner = peer.as_ref().map_or(Owner::Lingering, |(id, _)| Owner::Peer(*id, Slot::In));
        let token = self.token(owner);
        let config = peer.as_ref().map(|(_, config)| config);
        let accepted = Connection::accepted(stream, config, self.poll.registry(), token, now);
        let connection = match accepted {
            Ok(connection) => connection,
            Err(error) => {
                tracing::warn!(%remote, %error, "cannot set up an accepted BGP connection");
                self.owners.remove(&token);
                return;
            }
        };
        let Some((id, _)) = peer else {
            self.refused += 1;
            // The first ones and then ever fewer: strangers must not fill the log.
            if self.refused.is_power_of_two() {
                tracing::warn!(%remote, so_far = self.refused,
                    "BGP connection from an address that is no peer, refused");
            }
            self.refuse(connection, &Notification::of(code::REJECTED), now);
            return;
        };
        self.feed_accepted(id, connection, now);
    }

    pub(super) fn feed_accepted(&mut self, id: u32, connection: Connection, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let mut offered = Some(connection);
        for action in peer.fsm.handle(Event::Accepted, now) {
            match action {
                Action::Adopt => {
                    if let Some(peer) = self.peers.get_mut(&id) {
                        peer.connections[Slot::In.index()] = offered.take();
                    }
                }
                Action::Refuse(notification) => {
                    if let Some(connection) = offered.take() {
                        self.refuse(connection, &notification, now);
                    }
                }
                action => self.act(id, action, now),
            }
        }
    }

    pub(super) fn refuse(
        &mut self,
        mut connection: Connection,
        notification: &Notification,
        now: Instant,
    ) {
        message::encode_notification(notification, connection.output());
        self.retire(connection, now);
    }

    /// Lets a connection deliver what was written to it, then closes it.
    pub(super) fn retire(&mut self, mut connection: Connection, now: Instant) {
        if connection.connecting || connection.flush(now).is_err() {
            self.owners.remove(&connection.token);
            return;
        }
        if self.lingering.len() >= MAX_LINGERING {
            let (oldest, _) = self.lingering.remove(0);
            self.owners.remove(&oldest.token);
        }
        if connection.is_flushed() {
            connection.shut_down_writing();
        }
        self.owners.insert(connection.token, Owner::Lingering);
        self.lingering.push((connection, now + LINGER_TIME));
    }

    pub(super) fn linger(&mut self, now: Instant) {
        let owners = &mut self.owners;
        self.lingering.retain_mut(|(connection, until)| {
            let flushed = connection.is_flushed();
            let broken = connection.flush(now).is_err();
            if !flushed && connection.is_flushed() {
                connection.shut_down_writing();
            }
            let closed = connection.fill(DISCARD_SLICE) == Fill::Closed;
            connection.discard_input();
            let keep = !broken && !closed && *until > now;
            if !keep {
                owners.remove(&connection.token);
            }
            keep
        });
    }
}
