//! What is kept of a decision? The connection, before its first packet leaves, and this worker's
//! cache of it.

use super::{Entry, Fate, Item, Items, Miss, Misses, State, View, acl, lookup, route};
use crate::flow::FlowEntry;
use crate::flow::conn::Conn;
use crate::flow::tcp::Phase;
use crate::flow::wheel::Timer;
use crate::flow::{Traffic, key::Side};
use crate::outcome::DropReason;

/// Keeps what was decided about each miss.
pub fn run(view: &View<'_>, state: &mut State, items: &mut Items, misses: &mut Misses) {
    for mut miss in misses.drain(..) {
        let item = &mut items[miss.item];
        let denied = miss.judgement.denied.is_some();
        if item.entry == Entry::Own || !(lookup::onward(item) || denied) {
            continue;
        }
        if miss.conn.is_some() {
            renew(view, state, item, &miss);
        } else if !denied {
            open(view, state, item, &mut miss);
        }
    }
}

/// The connection goes on: what decided it now, and how far it is. A denied one is kept as well,
/// so that its later packets are not mistaken for the middle of another.
fn renew(view: &View<'_>, state: &mut State, item: &mut Item, miss: &Miss) {
    let conn = state.conns.update(&item.key, view.now, |conn| {
        if conn.generation < view.generation {
            conn.generation = view.generation;
            conn.judgement = miss.judgement;
        }
        if !item.related {
            conn.phase = conn.phase.step(item.sender == conn.origin, item.headers.tcp_flags);
        }
        conn.traffic[item.sender.index()].add(1, item.packet.len() as u64);
    });
    match conn {
        Some(conn) if lookup::onward(item) => cache(view, state, item, miss, &conn),
        _ => state.cache.forget(&item.key, item.hash),
    }
}

/// A connection begins.
fn open(view: &View<'_>, state: &mut State, item: &mut Item, miss: &mut Miss) {
    if !state.wheel.has_room() {
        item.fate = Fate::Drop(DropReason::ConnectionTable);
        return;
    }
    let mut traffic = [Traffic::default(); 2];
    traffic[item.sender.index()].add(1, item.packet.len() as u64);
    let conn = Conn {
        origin: miss.origin,
        origin_port: miss.origin_port,
        phase: Phase::first(item.key.protocol(), item.headers.tcp_flags),
        generation: view.generation,
        judgement: miss.judgement,
        icmp: miss.icmp,
        born: view.now,
        seen: view.now,
        traffic,
        timer: 0,
    };
    match state.conns.open(item.key, conn, miss.reopens) {
        Err(_) => item.fate = Fate::Drop(DropReason::ConnectionTable),
        Ok((conn, true)) => {
            let timer = Timer { key: item.key, timer: conn.timer };
            state.wheel.add(timer, view.now, conn.deadline(&item.key));
            state.counters.opened.add(1);
            for rule in item.rules {
                state.counters.opened_by(rule);
            }
            cache(view, state, item, miss, &conn);
        }
        // Another packet of this batch, or another worker, has just opened it.
        Ok((conn, false)) => join(view, state, item, miss, conn),
    }
}

/// Decides a packet once more, now that its connection is known.
fn join(view: &View<'_>, state: &mut State, item: &mut Item, miss: &mut Miss, conn: Conn) {
    (miss.origin, miss.origin_port, miss.icmp) = (conn.origin, conn.origin_port, conn.icmp);
    miss.conn = Some(conn);
    item.next_hop = route::both(view, &item.key, item.sender, miss);
    acl::decide(view, item, miss);
    item.rules = [miss.judgement.egress_rule, miss.judgement.ingress_rule];
    if let Some(reason) = miss.judgement.denied {
        item.fate = Fate::Drop(reason);
    }
    renew(view, state, item, miss);
}

fn cache(view: &View<'_>, state: &mut State, item: &Item, miss: &Miss, conn: &Conn) {
    let mut next_hop = [item.next_hop, miss.back];
    if item.sender == Side::High {
        next_hop.swap(0, 1);
    }
    let entry = FlowEntry {
        key: item.key,
        generation: view.generation,
        next_hop,
        rules: item.rules,
        unreported: [Traffic::default(); 2],
        reported: view.now,
        origin: conn.origin,
        phase: conn.phase,
    };
    // What an older generation's entry had not reported yet is reported with it.
    if let Some(place) = state.cache.find(&item.key, item.hash) {
        let old = *state.cache.entry(place);
        lookup::report_evicted(state, &old);
    }
    if let Some(evicted) = state.cache.remember(entry, item.hash) {
        lookup::report_evicted(state, &evicted);
    }
}
