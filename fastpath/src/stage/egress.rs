//! How does a packet's stay end? Cut to size, tunnelled, framed and queued; or punted; or dropped.
//! Every item gets exactly one outcome here.

use super::{Exit, Fate, Item, Items, MARK_DECAPSULATED, State, View};
use crate::io::Framing;
use crate::outcome::{DropReason, Outcome, PuntReason};
use crate::packet::{Gso, Packet};
use crate::ports::Ports;
use crate::punt::PuntFacts;
use crate::trace::{Step, Trace};
use crate::wire::{ether, fragment, gso, ipip};

/// Ends every item.
pub fn run(view: &View<'_>, state: &mut State, ports: &mut Ports, items: &mut Items) {
    for item in items.drain(..) {
        end(view, state, ports, item);
    }
}

fn end(view: &View<'_>, state: &mut State, ports: &mut Ports, item: Item) {
    let (in_port, mark) = (item.packet.in_port(), item.packet.mark());
    let trace = (!state.traces.is_empty()).then(|| steps(&item));
    let headers = item.headers;
    let outcome = match (item.fate, item.exit) {
        (Fate::Onward, Some(exit)) => {
            for rule in item.rules {
                state.counters.hit(rule, item.packet.len() as u64);
            }
            send(view, state, ports, item, &exit)
        }
        (fate, _) => {
            let facts = PuntFacts {
                reason: PuntReason::Unreachable,
                in_port,
                mtu: item.mtu,
                next_hop: item.next_hop,
                source_endpoint: item.source_endpoint(),
            };
            state.dispose(item.packet, fate, facts)
        }
    };
    state.ended(in_port, mark, outcome);
    if let Some(mut steps) = trace {
        steps.push(Step::Ended(outcome));
        for tap in state.traces.matching(in_port, Some(&headers)) {
            tap.offer(Trace { time: view.moment, steps: steps.clone() });
        }
    }
}

/// Sends a packet whole, or in pieces where its port takes no more.
fn send(view: &View<'_>, state: &mut State, ports: &mut Ports, item: Item, exit: &Exit) -> Outcome {
    let able = match item.packet.offload().gso {
        Gso::None => true,
        Gso::Tcp4 | Gso::Tcp6 if exit.tunnel.is_some() => exit.abilities.tunnel_segmentation,
        Gso::Tcp4 | Gso::Tcp6 => exit.abilities.tcp_segmentation,
        Gso::Udp => exit.abilities.udp_segmentation && exit.tunnel.is_none(),
    };
    let mtu = usize::from(exit.mtu);
    if able && gso::max_segment_len(&item.packet, &item.headers) <= mtu {
        return match emit(view, state, ports, item.packet, exit) {
            Ok(()) => Outcome::Forwarded,
            Err((packet, reason)) => {
                state.pool.give(packet);
                Outcome::Dropped(reason)
            }
        };
    }
    let cut = cut(state, &item, mtu);
    state.pool.give(item.packet);
    if let Err(reason) = cut {
        let State { pieces, pool, .. } = state;
        pieces.drain(..).for_each(|piece| pool.give(piece));
        return Outcome::Dropped(reason);
    }
    emit_pieces(view, state, ports, exit);
    Outcome::Forwarded
}

/// Cuts a packet into pieces of at most `mtu` bytes: into segments, then, where datagrams are
/// still too large and may be, into fragments.
fn cut(state: &mut State, item: &Item, mtu: usize) -> Result<(), DropReason> {
    let State { pool, pieces, .. } = state;
    let packet = &item.packet;
    match packet.offload().gso {
        Gso::None => {
            fragment::fragment(packet, mtu, pool, &mut |piece| pieces.push(piece))?;
            return Ok(());
        }
        Gso::Udp if !item.headers.dont_fragment => {
            let any = usize::MAX;
            gso::segment(packet, &item.headers, any, pool, &mut |piece| pieces.push(piece))?;
        }
        _ => {
            gso::segment(packet, &item.headers, mtu, pool, &mut |piece| pieces.push(piece))?;
            return Ok(());
        }
    }
    fragment_pieces(state, mtu)
}

fn fragment_pieces(state: &mut State, mtu: usize) -> Result<(), DropReason> {
    let State { pool, pieces, fragments_out: out, .. } = state;
    if pieces.iter().all(|piece| piece.len() <= mtu) {
        return Ok(());
    }
    let mut result = Ok(());
    for piece in pieces.drain(..) {
        if result.is_err() || piece.len() <= mtu {
            out.push(piece);
            continue;
        }
        if let Err(reason) = fragment::fragment(&piece, mtu, pool, &mut |one| out.push(one)) {
            result = Err(reason);
        }
        pool.give(piece);
    }
    std::mem::swap(pieces, out);
    result
}

fn emit_pieces(view: &View<'_>, state: &mut State, ports: &mut Ports, exit: &Exit) {
    let mut pieces = std::mem::take(&mut state.pieces);
    state.counters.split.add((pieces.len() as u64).saturating_sub(1));
    for piece in pieces.drain(..) {
        if let Err((piece, reason)) = emit(view, state, ports, piece, exit) {
            state.counters.dropped(reason, 1);
            state.pool.give(piece);
        }
    }
    state.pieces = pieces;
}

/// Puts the last headers in front of a packet and queues it.
fn emit(
    view: &View<'_>,
    state: &mut State,
    ports: &mut Ports,
    mut packet: Packet,
    exit: &Exit,
) -> Result<(), (Packet, DropReason)> {
    if let Err(reason) = finish(state, &mut packet, exit) {
        return Err((packet, reason));
    }
    if !state.captures.is_empty() {
        state.captures.sent(&packet, exit.port, exit.framing, view.moment);
    }
    let State { pool, counters, .. } = state;
    ports.push(exit.port, packet, pool, counters).map_err(|packet| (packet, DropReason::PortGone))
}

fn finish(state: &mut State, packet: &mut Packet, exit: &Exit) -> Result<(), DropReason> {
    // Who cuts a super-packet finishes its checksums as well.
    if !exit.abilities.checksum && packet.offload().gso == Gso::None {
        gso::finish_checksum(packet)?;
    }
    let ethertype = if packet.bytes().first().is_some_and(|first| first >> 4 == 6) {
        ether::IPV6
    } else {
        ether::IPV4
    };
    if let Some([local, remote]) = exit.tunnel {
        state.ident = state.ident.wrapping_add(1);
        ipip::encapsulate(packet, local, remote, state.ident)?;
    }
    if exit.framing == Framing::Ethernet {
        ether::push(packet, exit.macs[0], exit.macs[1], ethertype)?;
    }
    Ok(())
}

fn steps(item: &Item) -> Vec<Step> {
    let port = item.packet.in_port();
    let decapsulated = item.packet.mark() & MARK_DECAPSULATED != 0;
    let offload = *item.packet.offload();
    let mut steps = vec![
        Step::Entered { port, role: item.role, decapsulated, offload },
        Step::Parsed(item.headers),
        Step::LookedUp { hit: item.hit, related: item.related },
        Step::Routed(item.next_hop),
    ];
    let denied = match item.fate {
        Fate::Drop(
            reason @ (DropReason::PolicyEgress
            | DropReason::PolicyIngress
            | DropReason::NoPolicyYet),
        ) => Some(reason),
        _ => None,
    };
    let [egress_rule, ingress_rule] = item.rules;
    steps.push(Step::Judged { egress_rule, ingress_rule, denied });
    if let Some(exit) = &item.exit {
        let encapsulated = exit.tunnel.is_some();
        steps.push(Step::Left { port: exit.port, mtu: exit.mtu, encapsulated });
    }
    steps
}
