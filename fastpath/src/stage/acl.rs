//! May this connection be? Egress rules of the originator, ingress rules of the responder, each if
//! local; always judged in the connection's original direction.

use super::{Entry, Fate, Item, Items, Miss, Misses, State, View, lookup, route};
use crate::acl::{Query, Verdict};
use crate::flow::conn::{Judgement, Stamp};
use crate::flow::key::Side;
use crate::flow::tcp;
use crate::outcome::DropReason;
use crate::packet::PortId;
use crate::tables::endpoint::{EndpointEntry, EndpointId, Guard};
use crate::tables::nexthop::NextHop;
use crate::tables::port::PortRole;
use crate::wire::protocol;

/// Judges each miss; seals the fate of what is denied.
pub fn run(view: &View<'_>, state: &mut State, items: &mut Items, misses: &mut Misses) {
    for miss in misses.iter_mut() {
        let item = &mut items[miss.item];
        if item.entry == Entry::Own || !lookup::onward(item) {
            continue;
        }
        if lookup::is_from_elsewhere(item, miss.back) {
            item.fate = Fate::Drop(DropReason::SourceLocal);
            continue;
        }
        // What leads nowhere is not remembered, so it must not be judged either.
        if let Some((punt, drop)) = route::dead_end(item.next_hop) {
            item.fate = punt.map_or(Fate::Drop(drop), |punt| item.answer(punt, drop));
            continue;
        }
        decide(view, item, miss);
        item.rules = [miss.judgement.egress_rule, miss.judgement.ingress_rule];
        if let Some(reason) = miss.judgement.denied {
            item.fate = Fate::Drop(reason);
            let rule = match reason {
                DropReason::PolicyIngress => miss.judgement.ingress_rule,
                _ => miss.judgement.egress_rule,
            };
            state.counters.hit(rule, item.packet.len() as u64);
        }
    }
}

/// Judges one miss, unless what decided its connection is what would decide it now.
pub fn decide(view: &View<'_>, item: &mut Item, miss: &mut Miss) {
    if let Some(conn) = &miss.conn {
        // Another worker may be ahead of this one: what it decided is newer.
        if conn.generation >= view.generation {
            miss.judgement = conn.judgement;
            return;
        }
        let ends = Ends::find(view, item, miss);
        let (egress, ingress) = ends.stamps(view);
        let same = conn.judgement.egress == egress && conn.judgement.ingress == ingress;
        miss.judgement = if same { conn.judgement } else { ends.judge(view, item, miss) };
        return;
    }
    miss.judgement = Ends::find(view, item, miss).judge(view, item, miss);
    let refused_by_rule =
        matches!(miss.judgement.denied, Some(DropReason::PolicyEgress | DropReason::PolicyIngress));
    if refused_by_rule && tcp::mid_stream(item.key.protocol(), item.headers.tcp_flags) {
        take_up(view, item, miss);
    }
}

/// A TCP connection met in mid-stream: perhaps the other side began it, and may.
fn take_up(view: &View<'_>, item: &mut Item, miss: &mut Miss) {
    let Some(origin_port) = port_behind(view, item.next_hop) else { return };
    let refused = (miss.origin, miss.origin_port, miss.judgement);
    miss.origin = item.sender.other();
    miss.origin_port = origin_port;
    miss.judgement = Ends::find(view, item, miss).judge(view, item, miss);
    if miss.judgement.denied.is_some() {
        (miss.origin, miss.origin_port, miss.judgement) = refused;
    }
}

/// The port by which what lives behind a next hop would come in.
fn port_behind(view: &View<'_>, next_hop: NextHop) -> Option<PortId> {
    match next_hop {
        NextHop::Endpoint(id) => view.tables.endpoint(id).map(|endpoint| endpoint.port),
        NextHop::HostLocal => view.hosts.local,
        NextHop::HostForward => view.hosts.forward,
        NextHop::Adjacency(id) | NextHop::Tunnel { adjacency: id, .. } => {
            view.tables.adjacencies.get(id.0 as usize).map(|adjacency| adjacency.port)
        }
        NextHop::Glean(port) => Some(port),
        _ => None,
    }
}

/// The ends of a connection in its original direction, where they are local workloads.
struct Ends<'a> {
    originator: Option<&'a EndpointEntry>,
    responder: Option<&'a EndpointEntry>,
    /// The node itself began it: always allowed to its own pods.
    from_node: bool,
}

impl<'a> Ends<'a> {
    fn find(view: &View<'a>, item: &Item, miss: &Miss) -> Self {
        let forward = miss.origin == item.sender;
        let (to_originator, to_responder) =
            if forward { (miss.back, item.next_hop) } else { (item.next_hop, miss.back) };
        let endpoint_of = |next_hop| match next_hop {
            NextHop::Endpoint(id) => Some(id),
            _ => None,
        };
        let role = view.role(miss.origin_port);
        let address = item.key.end(miss.origin).address;
        let originator = match role {
            PortRole::Pod(id) if has_source(view, id, address) => Some(id),
            PortRole::HostLocal | PortRole::HostForward | PortRole::Uplink => None,
            PortRole::Pod(_) | PortRole::Unused => endpoint_of(to_originator),
        };
        let responder = endpoint_of(to_responder);
        // A workload that talks to itself is not judged.
        let itself = originator.is_some() && originator == responder;
        let entry =
            |id: Option<EndpointId>| id.filter(|_| !itself).and_then(|id| view.tables.endpoint(id));
        Self {
            originator: entry(originator),
            responder: entry(responder),
            from_node: role == PortRole::HostLocal,
        }
    }

    fn guards(&self) -> (Option<Guard>, Option<Guard>) {
        let ingress = self.responder.filter(|_| !self.from_node).map(|e| e.ingress);
        (self.originator.map(|e| e.egress), ingress)
    }

    fn stamps(&self, view: &View<'_>) -> (Stamp, Stamp) {
        let (egress, ingress) = self.guards();
        (stamp(view, egress), stamp(view, ingress))
    }

    fn judge(&self, view: &View<'_>, item: &Item, miss: &Miss) -> Judgement {
        let (egress, ingress) = self.guards();
        let mut judgement = Judgement {
            egress: stamp(view, egress),
            ingress: stamp(view, ingress),
            ..Judgement::default()
        };
        if judgement.egress == Stamp::Closed || judgement.ingress == Stamp::Closed {
            judgement.denied = Some(DropReason::NoPolicyYet);
            return judgement;
        }
        let query = query(item, miss.origin, miss.icmp);
        let (rule, allowed) = ask(view, egress, &query);
        judgement.egress_rule = rule;
        if !allowed {
            judgement.denied = Some(DropReason::PolicyEgress);
            return judgement;
        }
        let (rule, allowed) = ask(view, ingress, &query);
        judgement.ingress_rule = rule;
        if !allowed {
            judgement.denied = Some(DropReason::PolicyIngress);
        }
        judgement
    }
}

fn has_source(view: &View<'_>, id: EndpointId, address: std::net::IpAddr) -> bool {
    let endpoint = view.tables.endpoint(id);
    endpoint.is_some_and(|endpoint| endpoint.sources.iter().any(|net| net.contains(&address)))
}

fn stamp(view: &View<'_>, guard: Option<Guard>) -> Stamp {
    match guard {
        None => Stamp::Exempt,
        Some(Guard::Closed) => Stamp::Closed,
        Some(Guard::Open) => Stamp::Open,
        // A program that this generation lacks lets nothing pass.
        Some(Guard::Program(id)) => {
            view.tables.program(id).map_or(Stamp::Closed, |p| Stamp::Program(p.stamp()))
        }
    }
}

fn ask(view: &View<'_>, guard: Option<Guard>, query: &Query) -> (crate::acl::RuleId, bool) {
    let Some(Guard::Program(id)) = guard else { return (crate::acl::RuleId(0), true) };
    let Some(program) = view.tables.program(id) else { return (crate::acl::RuleId(0), false) };
    let classes = &view.tables.classes;
    let (source, destination) =
        (classes.class_of(query.source), classes.class_of(query.destination));
    let decision = program.decide(query, source, destination, classes);
    (decision.rule, decision.verdict == Verdict::Allow)
}

/// What rules are asked: the connection's first packet, whichever packet this is.
fn query(item: &Item, origin: Side, icmp: u16) -> Query {
    let (source, destination) = (item.key.end(origin), item.key.end(origin.other()));
    let is_icmp = matches!(item.key.protocol(), protocol::ICMP | protocol::ICMPV6);
    Query {
        source: source.address,
        destination: destination.address,
        protocol: item.key.protocol(),
        source_port: if is_icmp { 0 } else { source.l4_port },
        destination_port: if is_icmp { icmp } else { destination.l4_port },
    }
}
