//! Is this packet's connection decided already, in this generation? A hit takes no lock, but for
//! one report to the connection table now and then.

use super::{Entry, Fate, Item, Items, Miss, Misses, State, View, ingress};
use crate::flow::conn::{Conn, ConnTable, Judgement};
use crate::flow::key::{FlowKey, Side};
use crate::flow::tcp::{self, Phase};
use crate::flow::{FlowEntry, Traffic};
use crate::tables::nexthop::NextHop;
use crate::tables::port::PortRole;
use crate::wire::headers;

/// Decides what it can from the cache; the rest become misses.
pub fn run(view: &View<'_>, state: &mut State, items: &mut Items, misses: &mut Misses) {
    for item in items.iter_mut() {
        if item.headers.is_icmp_error() {
            relate(item);
        }
        item.hash = item.key.hash64();
    }
    for (index, item) in items.iter_mut().enumerate() {
        if item.entry != Entry::Own && hit(view, state, item) {
            item.hit = true;
            state.counters.hits.add(1);
        } else {
            misses.push(miss(view, state, item, index));
            state.counters.misses.add(u64::from(item.entry != Entry::Own));
        }
    }
}

/// An ICMP error goes with the connection that it quotes, towards the quoted packet's sender.
fn relate(item: &mut Item) {
    if let Some(quoted) = headers::quoted(item.packet.bytes(), &item.headers)
        && quoted.source == item.headers.destination
    {
        let (key, sender) = ingress::key_of(&quoted);
        item.key = key;
        item.sender = sender.other();
        item.related = true;
    }
}

fn hit(view: &View<'_>, state: &mut State, item: &mut Item) -> bool {
    let Some(place) = state.cache.find(&item.key, item.hash) else { return false };
    let entry = state.cache.entry(place);
    if entry.generation != view.generation {
        return false;
    }
    // Asked again as a miss, which says why.
    if is_from_elsewhere(item, entry.next_hop[item.sender.other().index()]) {
        return false;
    }
    let flags = item.headers.tcp_flags;
    let phase = if item.related {
        entry.phase
    } else if reopens(item, entry.phase, entry.origin) {
        return false;
    } else {
        entry.phase.step(item.sender == entry.origin, flags)
    };
    entry.unreported[item.sender.index()].add(1, item.packet.len() as u64);
    item.next_hop = entry.next_hop[item.sender.index()];
    item.rules = entry.rules;
    if phase == entry.phase && !entry.report_due(view.now) {
        return true;
    }
    if report(view, &state.conns, entry, item) {
        return true;
    }
    state.cache.forget(&item.key, item.hash);
    false
}

/// Came it from the network, although what leads to its sender never leaves this node? `back` is
/// the next hop towards the sender.
pub fn is_from_elsewhere(item: &Item, back: NextHop) -> bool {
    let at_home = matches!(back, NextHop::Endpoint(_) | NextHop::HostLocal | NextHop::Router);
    // An ICMP error may come from any router on the way.
    at_home && item.role == PortRole::Uplink && item.entry == Entry::Device && !item.related
}

/// A SYN that begins the connection of these addresses anew: after its end, or from the side that
/// has only answered so far.
fn reopens(item: &Item, phase: Phase, origin: Side) -> bool {
    tcp::opens(item.key.protocol(), item.headers.tcp_flags)
        && (phase == Phase::Closing || (item.sender != origin && phase != Phase::Opening))
}

/// Tells the connection table what was seen, and learns how far the connection is by now. False
/// if the connection is not what it was.
fn report(view: &View<'_>, conns: &ConnTable, entry: &mut FlowEntry, item: &Item) -> bool {
    let unreported = std::mem::take(&mut entry.unreported);
    let (from_originator, flags) = (item.sender == entry.origin, item.headers.tcp_flags);
    let conn = conns.update(&item.key, view.now, |conn| {
        for (sum, more) in conn.traffic.iter_mut().zip(&unreported) {
            sum.add(more.packets, more.bytes);
        }
        if !item.related {
            conn.phase = conn.phase.step(from_originator, flags);
        }
    });
    match conn {
        Some(conn) if conn.origin == entry.origin && conn.judgement.denied.is_none() => {
            entry.phase = conn.phase;
            entry.reported = view.now;
            true
        }
        _ => false,
    }
}

fn miss(view: &View<'_>, state: &mut State, item: &mut Item, index: usize) -> Miss {
    let mut conn = state.conns.get(&item.key, view.now);
    if item.related && conn.is_none() {
        // It quotes no connection: a message like any other.
        (item.key, item.sender) = ingress::key_of(&item.headers);
        item.hash = item.key.hash64();
        item.related = false;
        conn = state.conns.get(&item.key, view.now);
    }
    let reopens = |conn: &Conn| {
        let denied = conn.judgement.denied.is_some()
            && tcp::opens(item.key.protocol(), item.headers.tcp_flags);
        !item.related && (denied || reopens(item, conn.phase, conn.origin))
    };
    let reopens = conn.as_ref().is_some_and(reopens);
    let known = conn.filter(|_| !reopens);
    Miss {
        item: index,
        reopens,
        back: NextHop::NoRoute,
        origin: known.map_or(item.sender, |conn| conn.origin),
        origin_port: known.map_or(item.packet.in_port(), |conn| conn.origin_port),
        icmp: known.map_or(item.headers.destination_port, |conn| conn.icmp),
        conn: known,
        judgement: Judgement::default(),
    }
}

/// Reports what a flow that fell out of the cache had not reported yet.
pub fn report_evicted(state: &State, evicted: &FlowEntry) {
    if evicted.unreported != [Traffic::default(); 2] {
        state.conns.update(&evicted.key, evicted.reported, |conn| {
            for (sum, more) in conn.traffic.iter_mut().zip(&evicted.unreported) {
                sum.add(more.packets, more.bytes);
            }
        });
    }
}

/// Reports what a flow of this worker has not reported yet, without saying that it lives.
pub fn report_idle(state: &mut State, key: &FlowKey, hash: u64) {
    if let Some(place) = state.cache.find(key, hash) {
        let entry = state.cache.entry(place);
        let last = *entry;
        entry.unreported = [Traffic::default(); 2];
        report_evicted(state, &last);
    }
}

/// Is this item still on its way?
pub fn onward(item: &Item) -> bool {
    item.fate == Fate::Onward
}
