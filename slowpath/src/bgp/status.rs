//! What does a speaker tell about itself: peers, routes, changes?

use super::config::PeerKind;
use super::fsm::State;
use crate::rib::best_path::Step;
use crate::rib::route::{PathAttributes, SourceKind};
use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// What the speaker reports; called on its own thread, so the receiver must be quick and must not
/// ask the speaker's handle anything.
#[derive(Debug, Clone)]
pub enum SpeakerEvent {
    /// Prefixes whose learned paths in use have changed, each with all of them. A prefix may be
    /// reported again unchanged.
    Routes(Vec<RouteChange>),
    /// A peer came up, went down, or failed for a new reason.
    Peer(PeerStatus),
    /// The first table is complete: every configured peer sent its end-of-RIB marker, or took too
    /// long. Reported once.
    Converged,
}

/// The learned paths now in use for a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteChange {
    /// The prefix.
    pub prefix: IpNet,
    /// Empty = gone (or originated here); more than one = equal paths, the best one first.
    pub paths: Vec<BestPath>,
}

/// One path in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BestPath {
    /// Where packets go.
    pub next_hop: IpAddr,
    /// The peer that announced it.
    pub peer: IpAddr,
    /// The peer is of our own AS.
    pub ibgp: bool,
    /// All attributes, after the import filter.
    pub attributes: Arc<PathAttributes>,
}

/// One peer, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// The configured name.
    pub name: String,
    /// The peer's address.
    pub address: IpAddr,
    /// The AS it must be of.
    pub remote_as: u32,
    /// Our AS towards it.
    pub local_as: u32,
    /// Why it is there.
    pub kind: PeerKind,
    /// The session's state.
    pub state: State,
    /// When it went idle, began to come up, or was established.
    pub since: SystemTime,
    /// How long the session has been established.
    pub uptime: Option<Duration>,
    /// Why the last session or attempt ended.
    pub last_error: Option<String>,
    /// Prefixes received.
    pub received: usize,
    /// Of these, those the import filter passed.
    pub accepted: usize,
    /// Prefixes told to the peer.
    pub advertised: usize,
    /// Messages received, over all sessions.
    pub messages_in: u64,
    /// Messages sent, over all sessions.
    pub messages_out: u64,
    /// Sessions that were established and ended.
    pub flaps: u64,
    /// Attributes discarded and routes treated as withdrawn for errors (RFC 7606).
    pub update_errors: u64,
    /// The hold time in force.
    pub hold_time: Option<Duration>,
    /// What was agreed on, in words.
    pub capabilities: Vec<String>,
    /// Its routes are kept from an earlier session (RFC 4724).
    pub stale: bool,
}

/// Which routes to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteQuery {
    /// The paths in use.
    LocRib,
    /// What a peer announced, before the import filter.
    Received(IpAddr),
    /// What a peer was told.
    Advertised(IpAddr),
    /// Every path of one prefix, and why it won or lost.
    Why(IpNet),
}

/// One route of an answer to [`RouteQuery`]; answers are ordered by prefix, best path first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteEntry {
    /// The prefix.
    pub prefix: IpNet,
    /// The peer it came from; `None` = originated here.
    pub peer: Option<IpAddr>,
    /// External, internal or local.
    pub source: SourceKind,
    /// The attributes, next hop included.
    pub attributes: Arc<PathAttributes>,
    /// It is the best path.
    pub best: bool,
    /// It is in use, as the best path or beside it.
    pub in_use: bool,
    /// It passed the import filter.
    pub accepted: bool,
    /// For the best path the step that decided, for others the step they lost at.
    pub step: Option<Step>,
}

impl RouteEntry {
    /// The step in words: "highest local preference", or "lost on: …".
    pub fn reason(&self) -> String {
        match self.step {
            None if !self.accepted => "rejected by the import filter or a loop check".to_owned(),
            None => String::new(),
            Some(step) if self.best => step.to_string(),
            Some(step) if self.in_use => format!("equal path, ranked by: {step}"),
            Some(step) => format!("lost on: {step}"),
        }
    }
}
