//! How does a packet leave? The way out, whether it fits, and what forwarding changes in it.
//!
//! Everything that may send a packet up instead is settled before its first byte changes: the
//! control plane sees it as it was received.

use super::{Entry, Exit, Fate, Item, Items, View, lookup, route};
use crate::io::Framing;
use crate::outcome::{DropReason, PuntReason};
use crate::packet::PortId;
use crate::ports::Ports;
use crate::tables::endpoint::EndpointId;
use crate::tables::nexthop::{AdjacencyId, NextHop};
use crate::tables::port::PortRole;
use crate::wire::headers::Family;
use crate::wire::{gso, ipip, protocol, rewrite};
use std::net::Ipv4Addr;

/// Settles the way out of every item and takes its TTL down.
pub fn run(view: &View<'_>, ports: &Ports, items: &mut Items) {
    for item in items.iter_mut().filter(|item| lookup::onward(item)) {
        if let Err(fate) = leave(view, ports, item) {
            item.fate = fate;
        }
    }
}

fn leave(view: &View<'_>, ports: &Ports, item: &mut Item) -> Result<(), Fate> {
    if let Some((punt, drop)) = route::dead_end(item.next_hop) {
        return Err(punt.map_or(Fate::Drop(drop), |punt| item.answer(punt, drop)));
    }
    let exit = way_out(view, ports, item)?;
    let own_port = matches!(item.role, PortRole::Pod(_) | PortRole::HostLocal)
        || item.role == PortRole::HostForward;
    if own_port && exit.port == item.packet.in_port() {
        return Err(DropReason::Hairpin.into());
    }
    item.mtu = exit.mtu;
    let forwarded = is_forwarded(item);
    if forwarded && item.headers.ttl <= 1 {
        return Err(item.answer(PuntReason::TtlExpired, DropReason::TtlExpired));
    }
    let too_large = gso::max_segment_len(&item.packet, &item.headers) > usize::from(exit.mtu);
    if too_large && item.headers.dont_fragment {
        return Err(item.answer(PuntReason::FragmentationNeeded, DropReason::MtuExceeded));
    }
    if forwarded {
        rewrite::decrement_ttl(item.packet.bytes_mut())?;
        item.headers.ttl -= 1;
    }
    item.exit = Some(exit);
    Ok(())
}

/// Is this a hop on the packet's way? What the node itself sends and receives is not forwarded,
/// and what its kernel forwards has had, or will have, its TTL taken down there.
fn is_forwarded(item: &Item) -> bool {
    let host_in = matches!(item.role, PortRole::HostLocal | PortRole::HostForward);
    let host_out = matches!(item.next_hop, NextHop::HostLocal | NextHop::HostForward);
    item.entry != Entry::Own && !host_in && !host_out
}

fn way_out(view: &View<'_>, ports: &Ports, item: &Item) -> Result<Exit, Fate> {
    match item.next_hop {
        NextHop::Endpoint(id) => to_endpoint(view, ports, id),
        NextHop::HostLocal => to_host(view, ports, view.hosts.local),
        NextHop::HostForward => to_host(view, ports, view.hosts.forward),
        NextHop::Router => Err(match item.headers.protocol {
            protocol::ICMP | protocol::ICMPV6 => Fate::Punt(PuntReason::LocalIcmp),
            _ => item.answer(PuntReason::Unreachable, DropReason::Unreachable),
        }),
        NextHop::Adjacency(id) => to_neighbour(view, ports, id),
        NextHop::Tunnel { remote, adjacency } => {
            let exit = to_neighbour(view, ports, adjacency)?;
            enter_tunnel(view, item, exit, remote)
        }
        NextHop::Glean(_) => Err(Fate::Punt(PuntReason::UnresolvedNeighbour)),
        NextHop::NoRoute
        | NextHop::Group(_)
        | NextHop::Blackhole
        | NextHop::Unreachable
        | NextHop::Prohibit => Err(DropReason::NoRoute.into()),
    }
}

fn exit(view: &View<'_>, ports: &Ports, port: PortId) -> Result<Exit, Fate> {
    let entry = view.tables.port(port).filter(|entry| entry.role != PortRole::Unused);
    let entry = entry.ok_or(DropReason::PortGone)?;
    let (framing, abilities) = ports.facts(port).ok_or(DropReason::PortGone)?;
    let macs = [[0; 6], entry.mac];
    Ok(Exit { port, framing, abilities, mtu: entry.mtu, macs, tunnel: None })
}

fn to_endpoint(view: &View<'_>, ports: &Ports, id: EndpointId) -> Result<Exit, Fate> {
    let endpoint = view.tables.endpoint(id).ok_or(DropReason::PortGone)?;
    let mut exit = exit(view, ports, endpoint.port)?;
    exit.macs[0] = endpoint.mac;
    Ok(exit)
}

fn to_host(view: &View<'_>, ports: &Ports, port: Option<PortId>) -> Result<Exit, Fate> {
    exit(view, ports, port.ok_or(DropReason::PortGone)?)
}

fn to_neighbour(view: &View<'_>, ports: &Ports, id: AdjacencyId) -> Result<Exit, Fate> {
    let adjacency = view.tables.adjacencies.get(id.0 as usize);
    let adjacency = adjacency.ok_or(DropReason::NeighbourUnresolved)?;
    let mut exit = exit(view, ports, adjacency.port)?;
    exit.mtu = adjacency.mtu;
    match (exit.framing, adjacency.destination_mac) {
        (Framing::Ip, _) => {}
        (Framing::Ethernet, Some(mac)) => exit.macs = [mac, adjacency.source_mac],
        (Framing::Ethernet, None) => return Err(Fate::Punt(PuntReason::UnresolvedNeighbour)),
    }
    Ok(exit)
}

fn enter_tunnel(
    view: &View<'_>,
    item: &Item,
    mut exit: Exit,
    remote: Ipv4Addr,
) -> Result<Exit, Fate> {
    // The tunnel takes IPv4, and only between nodes that have an address.
    let local = view.tables.tunnels.local.filter(|_| item.headers.family == Family::V4);
    let Some(local) = local else {
        return Err(item.answer(PuntReason::Unreachable, DropReason::Unreachable));
    };
    exit.tunnel = Some([local, remote]);
    exit.mtu = exit.mtu.saturating_sub(ipip::OVERHEAD as u16);
    Ok(exit)
}
