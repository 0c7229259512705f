//! What does a stage work on? [`Item`]s of one batch, the [`View`] all of them share, and the
//! worker's own [`State`].
//!
//! Every stage is a function over the batch. It skips items whose fate is sealed; egress ends all.

pub mod acl;
pub mod egress;
pub mod fragment;
pub mod ingress;
pub mod lookup;
pub mod remember;
pub mod rewrite;
pub mod route;

use crate::acl::RuleId;
use crate::capture::Captures;
use crate::counters::WorkerCounters;
use crate::flow::conn::{Conn, ConnTable, Judgement};
use crate::flow::fragment::Fragments;
use crate::flow::key::{FlowKey, Side};
use crate::flow::wheel::Wheel;
use crate::flow::{FlowCache, Tick};
use crate::io::{Abilities, Framing};
use crate::limits::BATCH;
use crate::outcome::{DropReason, Outcome, PuntReason};
use crate::packet::{Packet, Pool, PortId};
use crate::punt::{PuntFacts, PuntSender};
use crate::tables::Tables;
use crate::tables::endpoint::EndpointId;
use crate::tables::nexthop::NextHop;
use crate::tables::port::PortRole;
use crate::trace::{LocalTaps, Step, Trace};
use crate::wire::headers::{Fragment, Headers};
use arrayvec::ArrayVec;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

/// Bit of a packet's mark: it came out of a tunnel.
pub const MARK_DECAPSULATED: u16 = 0x8000;

/// What a batch sees: one generation of the tables, one moment.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The tables.
    pub tables: &'a Tables,
    /// Their generation.
    pub generation: u64,
    /// Now, as connections count time.
    pub now: Tick,
    /// Now.
    pub moment: Instant,
    /// The ports of the node's kernel.
    pub hosts: Hosts,
}

/// The ports of the node's kernel in one generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    /// What the node itself sends and receives.
    pub local: Option<PortId>,
    /// What the node's kernel forwards.
    pub forward: Option<PortId>,
}

impl Hosts {
    /// Looks them up.
    pub fn of(tables: &Tables) -> Self {
        let with = |role| {
            let found = tables.ports.iter().position(|port| port.role == role);
            found.map(|index| PortId(index as u16))
        };
        Self { local: with(PortRole::HostLocal), forward: with(PortRole::HostForward) }
    }
}

impl View<'_> {
    /// What hangs on a port.
    pub fn role(&self, port: PortId) -> PortRole {
        self.tables.port(port).map_or(PortRole::Unused, |port| port.role)
    }
}

/// How a packet comes into the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// From a device, with its framing.
    Device,
    /// Once more, from its IP header on: it was held.
    Held,
    /// From the router itself, from its IP header on: no policy stands before it.
    Own,
}

/// What is to become of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The next stage.
    Onward,
    /// Up to the control plane.
    Punt(PuntReason),
    /// Away.
    Drop(DropReason),
}

impl From<DropReason> for Fate {
    fn from(reason: DropReason) -> Self {
        Self::Drop(reason)
    }
}

/// The way out of the router.
#[derive(Clone, Copy, Debug)]
pub struct Exit {
    /// By this port.
    pub port: PortId,
    /// What its packets start with.
    pub framing: Framing,
    /// What its device does itself.
    pub abilities: Abilities,
    /// Largest IP packet that fits, in bytes, before a tunnel's header.
    pub mtu: u16,
    /// Destination and source MAC address, with Ethernet framing.
    pub macs: [[u8; 6]; 2],
    /// Outer source and destination.
    pub tunnel: Option<[Ipv4Addr; 2]>,
}

/// One packet on its way through the stages; its bytes start with the IP header.
pub struct Item {
    /// The packet.
    pub packet: Packet,
    /// What its headers say (a later fragment: with its first's ports).
    pub headers: Headers,
    /// How it came in.
    pub entry: Entry,
    /// What hangs on the port it came in by.
    pub role: PortRole,
    /// Its connection's key. For an ICMP error about a connection that is the connection's.
    pub key: FlowKey,
    /// The key's hash.
    pub hash: u64,
    /// Which side it comes from.
    pub sender: Side,
    /// It is an ICMP error about the connection, none of it.
    pub related: bool,
    /// Its connection was known in this generation.
    pub hit: bool,
    /// Where it goes.
    pub next_hop: NextHop,
    /// The rules behind its connection: the originator's egress, the responder's ingress.
    pub rules: [RuleId; 2],
    /// The largest packet the way takes, in bytes; 0 until rewrite knows.
    pub mtu: u16,
    /// The way out, once rewrite knows.
    pub exit: Option<Exit>,
    /// What is to become of it.
    pub fate: Fate,
}

impl Item {
    /// The workload that sent it.
    pub fn source_endpoint(&self) -> Option<EndpointId> {
        match self.role {
            PortRole::Pod(endpoint) => Some(endpoint),
            _ => None,
        }
    }

    /// May an ICMP error answer it? Not another error, nor a later fragment (RFC 1122 §3.2.2,
    /// RFC 4443 §2.4 (e)), nor what the router itself sent.
    pub fn may_be_answered(&self) -> bool {
        self.entry != Entry::Own
            && !self.headers.is_icmp_error()
            && !matches!(self.headers.fragment, Fragment::Later { .. })
    }

    /// Up for an ICMP error if one may answer, else away.
    pub fn answer(&self, punt: PuntReason, drop: DropReason) -> Fate {
        if self.may_be_answered() { Fate::Punt(punt) } else { Fate::Drop(drop) }
    }
}

/// The packets of one batch.
pub type Items = ArrayVec<Item, BATCH>;

/// An item whose connection was not known in this generation.
pub struct Miss {
    /// Which item.
    pub item: usize,
    /// Its connection, if there is one.
    pub conn: Option<Conn>,
    /// The packet begins the connection anew.
    pub reopens: bool,
    /// Where what goes to the item's sender goes.
    pub back: NextHop,
    /// The connection's originator.
    pub origin: Side,
    /// The port by which the originator's packets come in.
    pub origin_port: PortId,
    /// What was decided.
    pub judgement: Judgement,
    /// What rules see as destination port of ICMP.
    pub icmp: u16,
}

/// The misses of one batch.
pub type Misses = ArrayVec<Miss, BATCH>;

/// What belongs to one worker.
pub struct State {
    /// Decided flows.
    pub cache: FlowCache,
    /// Fragmented datagrams.
    pub fragments: Fragments,
    /// When to look whether connections are idle.
    pub wheel: Wheel,
    /// All connections.
    pub conns: Arc<ConnTable>,
    /// Free slots.
    pub pool: Pool,
    /// What was counted.
    pub counters: Arc<WorkerCounters>,
    /// The door up.
    pub punts: PuntSender,
    /// Identification of the next outer header.
    pub ident: u16,
    /// Pieces of a packet under way.
    pub pieces: Vec<Packet>,
    /// Fragments of a piece under way.
    pub fragments_out: Vec<Packet>,
    /// Open traces.
    pub traces: LocalTaps<Trace>,
    /// Open captures.
    pub captures: Captures,
}

impl State {
    /// Ends a packet's stay before it became an item.
    pub fn end_unparsed(&mut self, view: &View<'_>, packet: Packet, fate: Fate) {
        let (port, mark) = (packet.in_port(), packet.mark());
        let offload = *packet.offload();
        let facts = PuntFacts {
            reason: PuntReason::ArpOrNd,
            in_port: port,
            mtu: 0,
            next_hop: NextHop::NoRoute,
            source_endpoint: match view.role(port) {
                PortRole::Pod(endpoint) => Some(endpoint),
                _ => None,
            },
        };
        let outcome = self.dispose(packet, fate, facts);
        self.ended(port, mark, outcome);
        for tap in self.traces.matching(port, None) {
            let role = view.role(port);
            let decapsulated = mark & MARK_DECAPSULATED != 0;
            let entered = Step::Entered { port, role, decapsulated, offload };
            tap.offer(Trace { time: view.moment, steps: vec![entered, Step::Ended(outcome)] });
        }
    }

    /// Punts or drops a packet, as its fate says.
    pub fn dispose(&mut self, packet: Packet, fate: Fate, facts: PuntFacts) -> Outcome {
        let (packet, outcome) = match fate {
            Fate::Onward => (packet, Outcome::Dropped(DropReason::NoRoute)),
            Fate::Drop(reason) => (packet, Outcome::Dropped(reason)),
            Fate::Punt(reason) => match self.punts.send(PuntFacts { reason, ..facts }, packet) {
                Ok(()) => return Outcome::Punted(reason),
                Err(packet) => (packet, Outcome::Dropped(DropReason::PuntRing)),
            },
        };
        self.pool.give(packet);
        outcome
    }

    /// Counts the end of a packet's stay.
    pub fn ended(&mut self, port: PortId, mark: u16, outcome: Outcome) {
        self.counters.ended(port, outcome);
        if !self.captures.is_empty() {
            self.captures.ended(mark, outcome);
        }
    }
}
