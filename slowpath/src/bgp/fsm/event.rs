//! What can happen to a session, and what can it ask for?

use crate::bgp::capability::Open;
use crate::bgp::notification::Notification;
use std::fmt;
use std::time::Duration;

/// A peer's state: that of its further connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Not wanted, or held down after an error.
    Idle,
    /// A TCP connection is being opened.
    Connect,
    /// Waiting for the peer, or for the next attempt.
    Active,
    /// OPEN sent, the peer's awaited.
    OpenSent,
    /// OPENs exchanged, KEEPALIVE awaited.
    OpenConfirm,
    /// Routes are exchanged.
    Established,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Idle => "Idle",
            Self::Connect => "Connect",
            Self::Active => "Active",
            Self::OpenSent => "OpenSent",
            Self::OpenConfirm => "OpenConfirm",
            Self::Established => "Established",
        })
    }
}

/// Which of a peer's two possible connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Slot {
    /// The one we opened.
    Out,
    /// The one the peer opened.
    In,
}

impl Slot {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Out, Self::In];

    /// Position in per-slot arrays.
    pub fn index(self) -> usize {
        match self {
            Self::Out => 0,
            Self::In => 1,
        }
    }

    pub(super) fn other(self) -> Self {
        match self {
            Self::Out => Self::In,
            Self::In => Self::Out,
        }
    }
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// The peer is wanted.
    Start,
    /// The peer is not wanted; tell it so.
    Stop(Notification),
    /// The session must go, but may come back after the usual pause (or `hold_down`, if given).
    Reset(Notification, Option<Duration>),
    /// Our connection attempt succeeded.
    Connected,
    /// Our connection attempt failed.
    ConnectFailed,
    /// The peer connected to us.
    Accepted,
    /// A connection was closed or broke.
    Closed(Slot),
    /// The peer sent something that must be answered with this.
    Bad(Slot, Notification),
    /// OPEN received.
    Open(Slot, Open),
    /// KEEPALIVE received.
    Keepalive(Slot),
    /// UPDATE received.
    Update(Slot),
    /// ROUTE-REFRESH received.
    Refresh(Slot),
    /// NOTIFICATION received.
    Notification(Slot, Notification),
    /// Time has passed: look at the timers.
    Timer,
}

/// What to do, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Open a connection (slot [`Slot::Out`]).
    Connect,
    /// Take the connection just accepted into slot [`Slot::In`].
    Adopt,
    /// Answer the connection just accepted with this and close it.
    Refuse(Notification),
    /// Send our OPEN.
    SendOpen(Slot),
    /// Send a KEEPALIVE.
    SendKeepalive(Slot),
    /// Send a NOTIFICATION; a [`Action::Close`] follows.
    SendNotification(Slot, Notification),
    /// Close the connection, after what was sent.
    Close(Slot),
    /// The session is established; [`Fsm::negotiated`](super::Fsm::negotiated) tells on which terms.
    Up(Slot),
    /// The session has ended.
    Down(Down),
    /// An attempt failed before a session was established.
    Failed(Cause),
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Down {
    /// Why.
    pub cause: Cause,
    /// Without a NOTIFICATION: the peer may be restarting gracefully (RFC 4724 §4.2).
    pub graceful: bool,
}

/// Why a session or an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// We sent this.
    Sent(Notification),
    /// The peer sent this.
    Received(Notification),
    /// TCP connection closed or broken.
    Closed,
    /// The peer opened a new connection in place of the old one.
    Replaced,
    /// The TCP connection could not be opened.
    ConnectFailed,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sent(notification) => write!(f, "sent {notification}"),
            Self::Received(notification) => write!(f, "received {notification}"),
            Self::Closed => f.write_str("connection closed by the peer"),
            Self::Replaced => f.write_str("the peer opened a new connection"),
            Self::ConnectFailed => f.write_str("connection attempt failed"),
        }
    }
}
