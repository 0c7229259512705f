//! Who turns sockets, timers and commands into sessions and routes? The speaker's one thread.
//!
//! ```text
//!  SpeakerHandle ──commands──►┐                       ┌──► SpeakerEvent
//!  listeners ──accepted──────►│  Speaker::turn        │
//!  connections ──bytes───────►│  read · timers ·      ├──► connections (buffers with a bound)
//!  clock ────────────────────►┘  sweep · advertise    │
//! ```
//! Every turn does a bounded slice of work per peer and then looks at everything else again.

use super::config::{PeerConfig, SpeakerConfig};
use super::converge::CONVERGENCE_TICK;
use super::encode;
use super::fsm::{Action, Cause, Event, Slot, State};
use super::handle::Command;
use super::message::{self, Message};
use super::notification::{Notification, code};
use super::peer::{Peer, Session};
use super::routing::{self, Tables};
use super::session::{Connection, Fill};
use super::status::SpeakerEvent;
use ahash::AHashMap;
use crossbeam::channel::{Receiver, TryRecvError};
use mio::net::TcpListener;
use mio::{Events, Poll, Token, Waker};
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

const WAKE: Token = Token(0);
/// Messages handled of one peer per turn.
const MESSAGE_SLICE: usize = 256;
/// Bytes read from all peers together per turn, and the bounds of one peer's share.
const READ_TURN: usize = 1024 * 1024;
const READ_LEAST: usize = 8 * 1024;
const READ_MOST: usize = 64 * 1024;
/// How long a shutdown waits for the peers to have read why.
const GOODBYE_TIME: Duration = Duration::from_millis(500);
/// RFC 9687: the least time a peer may refuse to read before the session is given up.
const SEND_HOLD: Duration = Duration::from_mins(8);
/// How long a peer that sent too many prefixes is kept out.
const HOLD_DOWN: Duration = Duration::from_mins(1);

/// Who a token belongs to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Owner {
    Listener(usize),
    Peer(u32, Slot),
    Lingering,
}

/// The state of the thread.
pub(crate) struct Speaker {
    pub(super) poll: Poll,
    commands: Receiver<Command>,
    on_event: Box<dyn Fn(SpeakerEvent) + Send>,
    pub(super) config: SpeakerConfig,
    pub(super) listeners: Vec<(TcpListener, Token)>,
    pub(super) owners: AHashMap<Token, Owner>,
    next_token: usize,
    pub(super) peers: BTreeMap<u32, Peer>,
    next_peer: u32,
    pub(super) tables: Tables,
    pub(super) lingering: Vec<(Connection, Instant)>,
    /// Connections refused because they came from no peer.
    pub(super) refused: u64,
    /// When the peers were first given, until all have converged.
    pub(super) converging_since: Option<Instant>,
    pub(super) converged: bool,
    /// Our own restart goes on: OPENs carry the R bit, end-of-RIB is held back.
    pub(super) restarting: bool,
    pub(super) originated_given: bool,
    seed: u64,
}

impl Speaker {
    pub(crate) fn new(
        config: SpeakerConfig,
        commands: Receiver<Command>,
        on_event: Box<dyn Fn(SpeakerEvent) + Send>,
    ) -> io::Result<(Self, Arc<Waker>)> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let clock = since_epoch.map_or(1, |time| u64::from(time.subsec_nanos()) + time.as_secs());
        let mut speaker = Self {
            poll,
            commands,
            on_event,
            tables: Tables::new(config.multipath),
            restarting: config.restarting,
            seed: clock ^ (u64::from(u32::from(config.router_id)) << 32),
            config,
            listeners: Vec::new(),
            owners: AHashMap::new(),
            next_token: 1,
            peers: BTreeMap::new(),
            next_peer: 0,
            lingering: Vec::new(),
            refused: 0,
            converging_since: None,
            converged: false,
            originated_given: false,
        };
        speaker.listen()?;
        Ok((speaker, waker))
    }

    /// Runs until shut down or until the handle is dropped.
    pub(crate) fn run(mut self) {
        let mut events = Events::with_capacity(1024);
        loop {
            let timeout = self.timeout(Instant::now());
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::error!(%error, "BGP speaker cannot wait for events, ends");
                    return;
                }
            }
            let now = Instant::now();
            for event in &events {
                self.ready(event, now);
            }
            if !self.take_commands(now) {
                return;
            }
            self.turn(now);
        }
    }

    /// One bounded slice of everything.
    fn turn(&mut self, now: Instant) {
        let ids: Vec<u32> = self.peers.keys().copied().collect();
        let connections = self.peers.values().flat_map(|peer| peer.connections.iter().flatten());
        let busy = connections.filter(|connection| connection.has_work()).count();
        // The more peers talk at once, the less each is listened to before the next.
        let slice = (READ_TURN / busy.max(1)).clamp(READ_LEAST, READ_MOST);
        for &id in &ids {
            for slot in Slot::ALL {
                self.read(id, slot, slice, now);
            }
        }
        // After reading: what was waiting in a socket is not silence.
        for &id in &ids {
            self.timers(id, now);
        }
        for &id in &ids {
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            let more = routing::sweep(peer, &mut self.tables);
            if peer.departed && !more {
                self.peers.remove(&id);
            }
        }
        self.tell_changes();
        let hold_end = self.restarting && !(self.converged && self.originated_given);
        for &id in &ids {
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            routing::advertise(peer, &mut self.tables, hold_end);
            for slot in Slot::ALL {
                self.flush(id, slot, now);
            }
            self.report(id, now);
        }
        self.linger(now);
        self.check_convergence(now);
    }

    fn timeout(&self, now: Instant) -> Option<Duration> {
        if self.has_work() {
            return Some(Duration::ZERO);
        }
        let peers = self.peers.values();
        let timers = peers.flat_map(|peer| [peer.fsm.deadline(), peer.stale_until]).flatten();
        let lingering = self.lingering.iter().map(|(_, until)| *until);
        let converging = self.converging_since.map(|_| now + CONVERGENCE_TICK);
        let next = timers.chain(lingering).chain(converging).min();
        // Rounded up, else the last fraction of a millisecond is spent spinning.
        next.map(|at| at.saturating_duration_since(now) + Duration::from_millis(1))
    }

    fn has_work(&self) -> bool {
        let hold_end = self.restarting && !(self.converged && self.originated_given);
        self.tables.has_changes()
            || self.peers.values().any(|peer| {
                let connections = peer.connections.iter().flatten();
                let mut connections = connections.clone();
                let writes = peer.session.as_ref().is_some_and(|session| {
                    let connection = peer.connections[session.slot.index()].as_ref();
                    let ends = !hold_end && session.told_all != session.negotiated.families;
                    (peer.rib_out.pending() || ends) && connection.is_some_and(Connection::has_room)
                });
                writes || peer.rib_in.sweeping() || connections.any(Connection::has_work)
            })
    }

    pub(super) fn emit(&self, event: SpeakerEvent) {
        (self.on_event)(event);
    }

    pub(super) fn token(&mut self, owner: Owner) -> Token {
        let token = Token(self.next_token);
        self.next_token += 1;
        self.owners.insert(token, owner);
        token
    }

    fn take_commands(&mut self, now: Instant) -> bool {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Shutdown(message)) => {
                    self.say_goodbye(&message, now);
                    return false;
                }
                Ok(command) => self.command(command, now),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn command(&mut self, command: Command, now: Instant) {
        match command {
            Command::Global(config) => self.set_global(config, now),
            Command::Peers(peers) => {
                self.set_peers(peers, now);
                if !self.converged {
                    self.converging_since.get_or_insert(now);
                }
            }
            Command::Originated(routes) => {
                self.originated_given = true;
                self.tables.set_originated(routes, self.config.router_id);
                if self.converged {
                    self.restarting = false;
                }
            }
            Command::NextHops(costs) => {
                let changed = self.tables.loc_rib.set_costs(costs.into_iter().collect());
                self.tables.mark(changed);
            }
            // The one who asked may have gone: nothing to do then.
            Command::ShowPeers(answer) => drop(answer.try_send(self.show_peers(now))),
            Command::ShowRoutes(query, answer) => drop(answer.try_send(self.show_routes(query))),
            Command::Clear { peer, soft } => self.clear(peer, soft, now),
            Command::Restarted => {
                self.originated_given = true;
                self.finish_convergence();
            }
            Command::Shutdown(_) => {}
        }
    }

    pub(super) fn add_peer(&mut self, config: PeerConfig, now: Instant) {
        let id = self.next_peer;
        self.next_peer += 1;
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let mut peer = Peer::new(id, config, &self.config, self.seed);
        if let Some(password) = &peer.config.password
            && let Err(error) = self.set_listener_key(peer.config.address, Some(password))
        {
            tracing::error!(peer = %peer.config.name, %error, "cannot set the TCP-MD5 password");
            peer.last_error = Some(format!("TCP-MD5 password: {error}"));
        }
        self.peers.insert(id, peer);
        self.feed(id, Event::Start, now);
    }

    fn ready(&mut self, event: &mio::event::Event, now: Instant) {
        match self.owners.get(&event.token()) {
            Some(&Owner::Listener(index)) => self.accept(index, now),
            Some(&Owner::Peer(id, slot)) => {
                let Some(peer) = self.peers.get_mut(&id) else { return };
                let Some(connection) = &mut peer.connections[slot.index()] else { return };
                if connection.token != event.token() {
                    return;
                }
                if connection.connecting {
                    match connection.finish_connect() {
                        Ok(true) => self.feed(id, Event::Connected, now),
                        Ok(false) => {}
                        Err(error) => self.connect_failed(id, &error, now),
                    }
                    return;
                }
                connection.readable |= event.is_readable() || event.is_error();
                connection.writable |= event.is_writable() || event.is_error();
            }
            Some(Owner::Lingering) => {
                let found = self.lingering.iter_mut().find(|(c, _)| c.token == event.token());
                if let Some((connection, _)) = found {
                    connection.readable = true;
                    connection.writable = true;
                }
            }
            None => {}
        }
    }

    fn connect_failed(&mut self, id: u32, error: &io::Error, now: Instant) {
        if let Some(peer) = self.peers.get_mut(&id) {
            drop(peer.connections[Slot::Out.index()].take());
            tracing::debug!(peer = %peer.config.name, %error, "BGP connection attempt failed");
        }
        self.feed(id, Event::ConnectFailed, now);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.last_error = Some(format!("connection attempt failed: {error}"));
        }
    }

    /// Reads and handles what one connection has, up to a slice.
    fn read(&mut self, id: u32, slot: Slot, slice: usize, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(connection) = &mut peer.connections[slot.index()] else { return };
        if connection.connecting {
            return;
        }
        let fill = connection.fill(slice);
        let token = connection.token;
        for _ in 0..MESSAGE_SLICE {
            let Some(peer) = self.peers.get_mut(&id) else { return };
            let context = peer.context(slot, &self.config);
            let Some(connection) = &mut peer.connections[slot.index()] else { return };
            if connection.token != token {
                return;
            }
            let Some(message) = connection.next_message(context) else {
                if fill == Fill::Closed {
                    self.close(id, slot, now);
                    self.feed(id, Event::Closed(slot), now);
                }
                return;
            };
            peer.messages_in += 1;
            self.received(id, slot, message, now);
        }
    }

    fn received(
        &mut self,
        id: u32,
        slot: Slot,
        message: Result<Message, Notification>,
        now: Instant,
    ) {
        let event = match message {
            Err(notification) => Event::Bad(slot, notification),
            Ok(Message::Open(open)) => Event::Open(slot, open),
            Ok(Message::Keepalive) => Event::Keepalive(slot),
            Ok(Message::Notification(notification)) => Event::Notification(slot, notification),
            Ok(Message::RouteRefresh(family)) => {
                self.feed(id, Event::Refresh(slot), now);
                if let Some(family) = family {
                    self.resend(id, family);
                }
                return;
            }
            Ok(Message::Update(update)) => {
                self.feed(id, Event::Update(slot), now);
                let Some(peer) = self.peers.get_mut(&id) else { return };
                if peer.session.as_ref().is_none_or(|session| session.slot != slot) {
                    return;
                }
                match routing::receive(peer, update, &mut self.tables, &self.config) {
                    Ok(()) => return,
                    Err(notification) => {
                        // Only the prefix limit fails here; at once it would only fail again.
                        Event::Reset(notification, Some(HOLD_DOWN))
                    }
                }
            }
        };
        self.feed(id, event, now);
    }

    fn timers(&mut self, id: u32, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        routing::stale_timer(peer, now);
        let stuck = Slot::ALL.into_iter().find(|slot| {
            let since = peer.connections[slot.index()].as_ref().and_then(Connection::stuck_since);
            let hold = peer.fsm.negotiated(*slot).map_or(Duration::ZERO, |terms| terms.hold_time);
            since.is_some_and(|since| now >= since + SEND_HOLD.max(hold * 2))
        });
        let due = peer.fsm.deadline().is_some_and(|at| at <= now);
        if let Some(slot) = stuck {
            self.close(id, slot, now);
            self.feed(id, Event::Closed(slot), now);
        }
        if due {
            self.feed(id, Event::Timer, now);
        }
    }

    /// Gives an event to a peer's machine and does what it asks.
    pub(super) fn feed(&mut self, id: u32, event: Event, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        for action in peer.fsm.handle(event, now) {
            self.act(id, action, now);
        }
    }

    pub(super) fn act(&mut self, id: u32, action: Action, now: Instant) {
        match action {
            Action::Connect => self.connect(id, now),
            Action::SendOpen(slot) => {
                let restarting = self.restarting;
                let Some(peer) = self.peers.get_mut(&id) else { return };
                peer.refresh_settings(&self.config, restarting);
                let open = peer.fsm.settings().local.clone();
                self.write(id, slot, |out| message::encode_open(&open, out));
            }
            Action::SendKeepalive(slot) => self.write(id, slot, message::encode_keepalive),
            Action::SendNotification(slot, notification) => {
                self.write(id, slot, |out| message::encode_notification(&notification, out));
            }
            Action::Close(slot) => self.close(id, slot, now),
            Action::Up(slot) => self.up(id, slot, now),
            Action::Down(down) => {
                let Some(peer) = self.peers.get_mut(&id) else { return };
                tracing::warn!(peer = %peer.config.name, address = %peer.config.address,
                    cause = %down.cause, "BGP session ended");
                peer.last_error = Some(down.cause.to_string());
                routing::session_down(peer, down.graceful, now);
            }
            Action::Failed(cause) => {
                let Some(peer) = self.peers.get_mut(&id) else { return };
                if cause != Cause::ConnectFailed {
                    tracing::warn!(peer = %peer.config.name, address = %peer.config.address,
                        %cause, "BGP session not established");
                }
                peer.last_error = Some(cause.to_string());
            }
            // Both concern an accepted connection, see `feed_accepted`.
            Action::Adopt | Action::Refuse(_) => {}
        }
    }

    fn connect(&mut self, id: u32, now: Instant) {
        let token = self.token(Owner::Peer(id, Slot::Out));
        let Some(peer) = self.peers.get_mut(&id) else { return };
        match Connection::connect(&peer.config, self.poll.registry(), token, now) {
            Ok(connection) => peer.connections[Slot::Out.index()] = Some(connection),
            Err(error) => {
                self.owners.remove(&token);
                self.connect_failed(id, &error, now);
            }
        }
    }

    /// Appends one message to a connection's output.
    pub(super) fn write(&mut self, id: u32, slot: Slot, encode: impl FnOnce(&mut Vec<u8>)) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if let Some(connection) = &mut peer.connections[slot.index()] {
            encode(connection.output());
            peer.messages_out += 1;
        }
    }

    fn close(&mut self, id: u32, slot: Slot, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if let Some(connection) = peer.connections[slot.index()].take() {
            self.retire(connection, now);
        }
    }

    fn flush(&mut self, id: u32, slot: Slot, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(connection) = &mut peer.connections[slot.index()] else { return };
        if connection.flush(now).is_err() {
            // What the peer sent before it broke off may say why.
            connection.readable = true;
            self.read(id, slot, READ_MOST, now);
            if let Some(peer) = self.peers.get_mut(&id)
                && let Some(broken) = peer.connections[slot.index()].take()
            {
                self.owners.remove(&broken.token);
                self.feed(id, Event::Closed(slot), now);
            }
        }
    }

    fn up(&mut self, id: u32, slot: Slot, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(negotiated) = peer.fsm.negotiated(slot).cloned() else { return };
        let local = peer.connections[slot.index()].as_ref().and_then(Connection::local_address);
        tracing::info!(peer = %peer.config.name, address = %peer.config.address,
            remote_as = negotiated.remote_as, "BGP session established");
        peer.session = Some(Session {
            slot,
            encode: encode::EncodeContext {
                four_byte_as: negotiated.four_byte_as,
                add_path: false,
            },
            source: peer.source(&negotiated, &self.config),
            target: peer.target(&negotiated, local, &self.config),
            established: now,
            told_all: [false; 2],
            heard_all: [false; 2],
            negotiated,
        });
        routing::session_up(peer, &self.tables, now);
    }

    fn tell_changes(&mut self) {
        if !self.tables.has_changes() {
            return;
        }
        let changes = self.tables.take_changes();
        for peer in self.peers.values_mut().filter(|peer| peer.session.is_some()) {
            for change in &changes {
                peer.rib_out.touch(change.prefix);
            }
        }
        self.emit(SpeakerEvent::Routes(changes));
    }

    /// Reports a peer that came up, went down, or failed for a new reason. The steps of a session
    /// that is still coming up are no news: a dead peer takes them every few seconds.
    pub(super) fn report(&mut self, id: u32, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let stage = match peer.fsm.state() {
            state @ (State::Idle | State::Established) => state,
            State::Connect | State::Active | State::OpenSent | State::OpenConfirm => State::Active,
        };
        let moved = stage != peer.reported;
        if moved {
            peer.reported = stage;
            peer.since = SystemTime::now();
        }
        if moved || peer.last_error != peer.reported_error {
            peer.reported_error.clone_from(&peer.last_error);
            let status = peer.status(&self.config, now);
            self.emit(SpeakerEvent::Peer(status));
        }
    }

    fn say_goodbye(&mut self, message: &str, now: Instant) {
        let ids: Vec<u32> = self.peers.keys().copied().collect();
        for id in ids {
            let farewell = Notification::with_text(code::SHUTDOWN, message);
            self.feed(id, Event::Stop(farewell), now);
            self.report(id, now);
        }
        // A process that ends at once may reset connections before their farewell was read.
        let mut events = Events::with_capacity(64);
        while !self.lingering.is_empty() && now.elapsed() < GOODBYE_TIME {
            if self.poll.poll(&mut events, Some(GOODBYE_TIME / 10)).is_err() {
                return;
            }
            let now = Instant::now();
            for event in &events {
                self.ready(event, now);
            }
            self.linger(now);
        }
    }

    /// The established peers among those `address` names (`None` = all).
    pub(super) fn peers_at(&self, address: Option<IpAddr>) -> Vec<u32> {
        let named = |peer: &&Peer| {
            !peer.departed && address.is_none_or(|address| peer.config.address == address)
        };
        self.peers.values().filter(named).map(|peer| peer.id).collect()
    }

    /// Whether a peer's session is established.
    pub(super) fn established(&self, id: u32) -> bool {
        self.peers.get(&id).is_some_and(|peer| peer.fsm.state() == State::Established)
    }
}
