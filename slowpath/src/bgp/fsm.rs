//! What does a peer's session do next? The state machine of RFC 4271 §8 as a pure value.
//!
//! It owns no socket and no clock: an event and the time go in, actions come out. One machine
//! serves one *peer* and knows both connections a collision can create: the one we opened and the
//! one the peer opened (RFC 4271 §6.8). Any event in any state is answered; nothing here fails.

pub use event::{Action, Cause, Down, Event, Slot, State};

use super::capability::{self, Negotiated, Open};
use super::notification::{Notification, code};
use std::time::{Duration, Instant};

/// What does not change while a peer's configuration stays the same.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The OPEN we send.
    pub local: Open,
    /// The AS the peer must have.
    pub remote_as: u32,
    /// Never open a connection, only accept.
    pub passive: bool,
    /// KEEPALIVE interval, instead of a third of the hold time.
    pub keepalive: Option<Duration>,
}

/// The first pause after a session ended or an attempt failed.
pub const FIRST_RETRY: Duration = Duration::from_secs(2);
/// The longest pause after protocol errors.
pub const MAX_RETRY: Duration = Duration::from_secs(30);
/// The longest pause after attempts nobody answered: a peer that comes up is found soon.
pub const MAX_CONNECT_RETRY: Duration = Duration::from_secs(5);
/// A session that lived this long was a good one: the next pause is the first again.
const GOOD_SESSION: Duration = Duration::from_secs(30);
/// How long a connection attempt may take.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// The "large value" of the hold timer before the OPENs have met (RFC 4271 §8.2.2).
const OPEN_HOLD: Duration = Duration::from_mins(4);

#[derive(Debug, Clone, Default)]
enum Connection {
    #[default]
    None,
    Connecting {
        deadline: Instant,
    },
    OpenSent {
        hold: Instant,
    },
    OpenConfirm(Timers),
    Established {
        timers: Timers,
        since: Instant,
    },
}

#[derive(Debug, Clone)]
struct Timers {
    negotiated: Box<Negotiated>,
    /// `None` with a hold time of zero.
    hold: Option<Instant>,
    keepalive: Option<Instant>,
}

/// The machine of one peer.
#[derive(Debug, Clone)]
pub struct Fsm {
    settings: Settings,
    started: bool,
    connections: [Connection; 2],
    retry: Option<Instant>,
    /// No connection at all, not even an accepted one, before this time.
    hold_down: Option<Instant>,
    backoff: Duration,
    random: u64,
}

impl Fsm {
    /// A stopped machine. `seed` feeds the jitter.
    pub fn new(settings: Settings, seed: u64) -> Self {
        Self {
            settings,
            started: false,
            connections: [Connection::None, Connection::None],
            retry: None,
            hold_down: None,
            backoff: FIRST_RETRY,
            random: seed | 1,
        }
    }

    /// The peer's state, as an operator sees it.
    pub fn state(&self) -> State {
        let further = Slot::ALL.into_iter().map(|slot| self.slot_state(slot)).max();
        match further {
            Some(State::Idle) | None if self.started && self.hold_down.is_none() => State::Active,
            Some(state) => state,
            None => State::Idle,
        }
    }

    /// The state of one connection; `Idle` where there is none.
    pub fn slot_state(&self, slot: Slot) -> State {
        match &self.connections[slot.index()] {
            Connection::None => State::Idle,
            Connection::Connecting { .. } => State::Connect,
            Connection::OpenSent { .. } => State::OpenSent,
            Connection::OpenConfirm(_) => State::OpenConfirm,
            Connection::Established { .. } => State::Established,
        }
    }

    /// What was agreed on, once the OPENs have met on this connection.
    pub fn negotiated(&self, slot: Slot) -> Option<&Negotiated> {
        self.timers(slot).map(|timers| &*timers.negotiated)
    }

    /// The settings in force.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Replaces the settings; they count from the next OPEN on.
    pub fn set_settings(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// When [`Event::Timer`] is due next.
    pub fn deadline(&self) -> Option<Instant> {
        let slots = self.connections.iter().flat_map(|connection| match connection {
            Connection::None => [None, None],
            Connection::Connecting { deadline } => [Some(*deadline), None],
            Connection::OpenSent { hold } => [Some(*hold), None],
            Connection::OpenConfirm(timers) | Connection::Established { timers, .. } => {
                [timers.hold, timers.keepalive]
            }
        });
        slots.flatten().chain(self.retry).chain(self.hold_down).min()
    }

    /// Handles one event at time `now`.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        let out = &mut actions;
        match event {
            Event::Start => self.start(now, out),
            Event::Stop(notification) => {
                self.close_all(&notification, now, out);
                self.started = false;
                self.retry = None;
                self.hold_down = None;
            }
            Event::Reset(notification, hold_down) => {
                self.close_all(&notification, now, out);
                if let Some(time) = hold_down {
                    self.hold_down = Some(now + time);
                    self.retry = None;
                }
            }
            Event::Connected => {
                if matches!(self.connections[Slot::Out.index()], Connection::Connecting { .. }) {
                    self.open(Slot::Out, now, out);
                }
            }
            Event::ConnectFailed => {
                if matches!(self.connections[Slot::Out.index()], Connection::Connecting { .. }) {
                    self.connect_failed(now, out);
                }
            }
            Event::Accepted => self.accepted(now, out),
            Event::Closed(slot) => self.ended(slot, Cause::Closed, now, out),
            Event::Bad(slot, notification) => self.fail(slot, notification, now, out),
            Event::Open(slot, open) => self.received_open(slot, &open, now, out),
            Event::Keepalive(slot) => self.received_keepalive(slot, now, out),
            Event::Update(slot) | Event::Refresh(slot) => match self.slot_state(slot) {
                State::Established => self.restart_hold(slot, now),
                state => self.unexpected(slot, state, now, out),
            },
            Event::Notification(slot, notification) => {
                self.ended(slot, Cause::Received(notification), now, out);
            }
            Event::Timer => self.timers_due(now, out),
        }
        actions
    }

    fn start(&mut self, now: Instant, out: &mut Vec<Action>) {
        if !self.started {
            self.started = true;
            self.backoff = FIRST_RETRY;
            self.connect(now, out);
        }
    }

    fn connect(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.retry = None;
        let busy = Slot::ALL.iter().any(|slot| self.slot_state(*slot) != State::Idle);
        if self.started && !self.settings.passive && !busy && self.hold_down.is_none() {
            self.connections[Slot::Out.index()] =
                Connection::Connecting { deadline: now + CONNECT_TIME };
            out.push(Action::Connect);
        }
    }

    fn connect_failed(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.connections[Slot::Out.index()] = Connection::None;
        out.push(Action::Failed(Cause::ConnectFailed));
        self.schedule_retry(MAX_CONNECT_RETRY, now);
    }

    fn accepted(&mut self, now: Instant, out: &mut Vec<Action>) {
        if !self.started || self.hold_down.is_some() {
            out.push(Action::Refuse(Notification::of(code::REJECTED)));
            return;
        }
        for slot in Slot::ALL {
            if self.slot_state(slot) != State::Established {
                continue;
            }
            let restartable =
                self.negotiated(slot).is_some_and(|terms| terms.graceful_restart.is_some());
            if restartable {
                // RFC 4724 §4.2: the peer has restarted; the old connection is dead, say nothing.
                out.push(Action::Close(slot));
                self.ended(slot, Cause::Replaced, now, out);
            } else {
                // If the old connection is dead, this provokes the reset that tells so.
                out.push(Action::SendKeepalive(slot));
                if slot == Slot::In {
                    out.push(Action::Refuse(Notification::of(code::REJECTED)));
                    return;
                }
            }
        }
        if self.slot_state(Slot::In) != State::Idle {
            // Nobody opens a second connection who still believes in the first.
            self.connections[Slot::In.index()] = Connection::None;
            out.push(Action::Close(Slot::In));
        }
        out.push(Action::Adopt);
        self.open(Slot::In, now, out);
    }

    fn open(&mut self, slot: Slot, now: Instant, out: &mut Vec<Action>) {
        self.connections[slot.index()] = Connection::OpenSent { hold: now + OPEN_HOLD };
        out.push(Action::SendOpen(slot));
    }

    fn received_open(&mut self, slot: Slot, open: &Open, now: Instant, out: &mut Vec<Action>) {
        match self.slot_state(slot) {
            State::OpenSent => {}
            State::Idle | State::Connect | State::Active => return,
            state => return self.unexpected(slot, state, now, out),
        }
        let local = &self.settings.local;
        if open.asn != self.settings.remote_as {
            return self.fail(slot, Notification::of(code::BAD_PEER_AS), now, out);
        }
        // RFC 6286 §2.2: within an AS the identifier must differ from ours.
        if open.asn == local.asn && open.router_id == local.router_id {
            return self.fail(slot, Notification::of(code::BAD_IDENTIFIER), now, out);
        }
        if !self.wins_collision(slot, open, now, out) {
            return self.fail(slot, Notification::of(code::COLLISION), now, out);
        }
        let negotiated = capability::negotiate(&self.settings.local, open);
        let mut timers = Timers { negotiated: Box::new(negotiated), hold: None, keepalive: None };
        self.arm(&mut timers, now);
        self.connections[slot.index()] = Connection::OpenConfirm(timers);
        out.push(Action::SendKeepalive(slot));
    }

    /// RFC 4271 §6.8 and RFC 6286 §2.3; closes the other connection if that one loses.
    fn wins_collision(
        &mut self,
        slot: Slot,
        open: &Open,
        now: Instant,
        out: &mut Vec<Action>,
    ) -> bool {
        let other = slot.other();
        match self.slot_state(other) {
            State::Established => false,
            State::OpenConfirm => {
                let local = &self.settings.local;
                let ours = (u32::from(local.router_id), local.asn);
                let theirs = (u32::from(open.router_id), open.asn);
                // The connection opened by the higher side stays.
                let winner = if ours < theirs { Slot::In } else { Slot::Out };
                if winner == slot {
                    self.fail(other, Notification::of(code::COLLISION), now, out);
                }
                winner == slot
            }
            _ => true,
        }
    }

    fn received_keepalive(&mut self, slot: Slot, now: Instant, out: &mut Vec<Action>) {
        match std::mem::take(&mut self.connections[slot.index()]) {
            Connection::OpenConfirm(timers) => {
                self.connections[slot.index()] = Connection::Established { timers, since: now };
                self.retry = None;
                self.restart_hold(slot, now);
                let other = slot.other();
                match self.slot_state(other) {
                    State::Idle => {}
                    State::Connect => {
                        self.connections[other.index()] = Connection::None;
                        out.push(Action::Close(other));
                    }
                    _ => self.fail(other, Notification::of(code::COLLISION), now, out),
                }
                out.push(Action::Up(slot));
            }
            connection => {
                self.connections[slot.index()] = connection;
                match self.slot_state(slot) {
                    State::Established => self.restart_hold(slot, now),
                    state => self.unexpected(slot, state, now, out),
                }
            }
        }
    }

    /// RFC 6608: each state has its own subcode.
    fn unexpected(&mut self, slot: Slot, state: State, now: Instant, out: &mut Vec<Action>) {
        let code = match state {
            State::OpenSent => code::UNEXPECTED_OPEN_SENT,
            State::OpenConfirm => code::UNEXPECTED_OPEN_CONFIRM,
            State::Established => code::UNEXPECTED_ESTABLISHED,
            State::Idle | State::Connect | State::Active => return,
        };
        self.fail(slot, Notification::of(code), now, out);
    }

    /// Ends a connection with a NOTIFICATION.
    fn fail(
        &mut self,
        slot: Slot,
        notification: Notification,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        match self.slot_state(slot) {
            State::Idle => return,
            State::Connect | State::Active => {
                // There is nobody yet to tell.
                self.connections[slot.index()] = Connection::None;
                out.push(Action::Close(slot));
                return self.schedule_retry(MAX_CONNECT_RETRY, now);
            }
            _ => out.push(Action::SendNotification(slot, notification.clone())),
        }
        out.push(Action::Close(slot));
        self.ended(slot, Cause::Sent(notification), now, out);
    }

    /// A connection is gone, or as good as gone.
    fn ended(&mut self, slot: Slot, cause: Cause, now: Instant, out: &mut Vec<Action>) {
        let collision = Notification::of(code::COLLISION);
        let lost_collision = matches!(&cause, Cause::Sent(n) | Cause::Received(n) if (n.code, n.subcode) == (collision.code, collision.subcode));
        match std::mem::take(&mut self.connections[slot.index()]) {
            Connection::None => return,
            Connection::Established { since, .. } => {
                if now.saturating_duration_since(since) >= GOOD_SESSION {
                    self.backoff = FIRST_RETRY;
                }
                let graceful = matches!(cause, Cause::Closed | Cause::Replaced);
                out.push(Action::Down(Down { cause, graceful }));
            }
            Connection::Connecting { .. } => out.push(Action::Failed(cause)),
            Connection::OpenSent { .. } | Connection::OpenConfirm(_) => {
                if !lost_collision {
                    out.push(Action::Failed(cause));
                }
            }
        }
        if !self.connections.iter().any(|other| !matches!(other, Connection::None)) {
            self.schedule_retry(MAX_RETRY, now);
        }
    }

    fn close_all(&mut self, notification: &Notification, now: Instant, out: &mut Vec<Action>) {
        for slot in Slot::ALL {
            self.fail(slot, notification.clone(), now, out);
        }
    }

    fn schedule_retry(&mut self, longest: Duration, now: Instant) {
        if self.started && !self.settings.passive && self.hold_down.is_none() {
            let pause = self.jitter(self.backoff.min(longest));
            self.retry = Some(now + pause);
            self.backoff = (self.backoff * 2).min(MAX_RETRY);
        }
    }

    fn timers_due(&mut self, now: Instant, out: &mut Vec<Action>) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.hold_down) {
            self.hold_down = None;
            self.connect(now, out);
        }
        for slot in Slot::ALL {
            let (hold, keepalive) = match &self.connections[slot.index()] {
                Connection::None => continue,
                Connection::Connecting { deadline } => {
                    if due(Some(*deadline)) {
                        out.push(Action::Close(slot));
                        self.connect_failed(now, out);
                    }
                    continue;
                }
                Connection::OpenSent { hold } => (Some(*hold), None),
                Connection::OpenConfirm(timers) | Connection::Established { timers, .. } => {
                    (timers.hold, timers.keepalive)
                }
            };
            if due(hold) {
                self.fail(slot, Notification::of(code::HOLD_TIMER), now, out);
            } else if due(keepalive) {
                out.push(Action::SendKeepalive(slot));
                self.restart_keepalive(slot, now);
            }
        }
        if due(self.retry) {
            self.connect(now, out);
        }
    }

    fn timers(&self, slot: Slot) -> Option<&Timers> {
        match &self.connections[slot.index()] {
            Connection::OpenConfirm(timers) | Connection::Established { timers, .. } => {
                Some(timers)
            }
            _ => None,
        }
    }

    fn arm(&mut self, timers: &mut Timers, now: Instant) {
        let hold = timers.negotiated.hold_time;
        if !hold.is_zero() {
            timers.hold = Some(now + hold);
            timers.keepalive = Some(now + self.keepalive_interval(hold));
        }
    }

    /// A third of the hold time or what is configured, whichever is sooner, with jitter
    /// (RFC 4271 §10).
    fn keepalive_interval(&mut self, hold: Duration) -> Duration {
        let third = hold / 3;
        let interval = self.settings.keepalive.map_or(third, |keepalive| keepalive.min(third));
        self.jitter(interval)
    }

    fn restart_hold(&mut self, slot: Slot, now: Instant) {
        if let Connection::OpenConfirm(timers) | Connection::Established { timers, .. } =
            &mut self.connections[slot.index()]
            && timers.hold.is_some()
        {
            timers.hold = Some(now + timers.negotiated.hold_time);
        }
    }

    fn restart_keepalive(&mut self, slot: Slot, now: Instant) {
        let Some(hold) = self.timers(slot).map(|timers| timers.negotiated.hold_time) else {
            return;
        };
        let next = now + self.keepalive_interval(hold);
        if let Connection::OpenConfirm(timers) | Connection::Established { timers, .. } =
            &mut self.connections[slot.index()]
        {
            timers.keepalive = Some(next);
        }
    }

    /// Between 75 % and 100 % of `time` (RFC 4271 §10).
    fn jitter(&mut self, time: Duration) -> Duration {
        // Xorshift: jitter needs spread, not secrecy.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let share = u32::try_from(self.random % 256).unwrap_or(0);
        time * 3 / 4 + time * share / 1024
    }
}

mod event;
#[cfg(test)]
mod tests;
