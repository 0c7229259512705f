//! Is this packet what it must be at this port, and whose is it? Framing, tunnel, headers, offload
//! header, source.

use super::{Entry, Fate, Item, Items, MARK_DECAPSULATED, State, View, fragment};
use crate::acl::RuleId;
use crate::batch::Batch;
use crate::flow::key::{End, FlowKey, Side};
use crate::io::Framing;
use crate::outcome::{DropReason, PuntReason};
use crate::packet::{Gso, Packet};
use crate::tables::endpoint::EndpointId;
use crate::tables::nexthop::NextHop;
use crate::tables::port::{PortEntry, PortRole};
use crate::wire::headers::{self, Headers};
use crate::wire::{checksum, ether, gro, ipip, offload, protocol};
use std::net::IpAddr;

/// Makes items of a batch's packets; ends the stay of those that are none.
pub fn run(view: &View<'_>, state: &mut State, batch: &mut Batch, items: &mut Items, entry: Entry) {
    if entry == Entry::Device {
        unframe_all(view, state, batch);
    }
    for mut packet in batch.drain(..) {
        match examine(view, state, &mut packet, entry) {
            Ok((headers, role)) => items.push(item(packet, headers, role, entry)),
            Err(fate) => state.end_unparsed(view, packet, fate),
        }
    }
}

/// Takes framing and tunnel off; what came from an uplink is put together to super-packets.
fn unframe_all(view: &View<'_>, state: &mut State, batch: &mut Batch) {
    let mut kept = Batch::new();
    let (mut uplinks, mut unannounced) = (0, true);
    for mut packet in batch.drain(..) {
        match unframe(view, &mut packet) {
            Ok(port) => {
                uplinks += usize::from(port.role == PortRole::Uplink);
                unannounced &= port.partial_checksums;
                kept.push(packet);
            }
            Err(fate) => state.end_unparsed(view, packet, fate),
        }
    }
    if uplinks > 1 && uplinks == kept.len() {
        let merged = gro::coalesce(&mut kept, &mut state.pool, unannounced);
        state.counters.merged.add(merged as u64);
    }
    *batch = kept;
}

fn unframe<'a>(view: &View<'a>, packet: &mut Packet) -> Result<&'a PortEntry, Fate> {
    let port = view.tables.port(packet.in_port()).ok_or(DropReason::PortGone)?;
    if port.role == PortRole::Unused {
        return Err(DropReason::PortGone.into());
    }
    // Looked at before packets are put together here, which makes small segments by right.
    let offload = packet.offload();
    if offload.gso != Gso::None && offload.gso_size <= 1 {
        return Err(DropReason::OffloadSegmentSize.into());
    }
    if port.framing == Framing::Ethernet {
        strip_ethernet(port, packet)?;
    }
    if port.role == PortRole::Uplink && is_ipip(packet.bytes()) {
        leave_tunnel(view, packet)?;
    }
    Ok(port)
}

fn strip_ethernet(port: &PortEntry, packet: &mut Packet) -> Result<(), Fate> {
    let header = ether::parse(packet.bytes())?;
    let pod = matches!(port.role, PortRole::Pod(_));
    if header.destination != port.mac && !(pod && header.is_multicast()) {
        return Err(DropReason::NotForUs.into());
    }
    match header.ethertype {
        // On uplinks the kernel resolves neighbours; the router answers its pods itself.
        ether::ARP if pod => return Err(Fate::Punt(PuntReason::ArpOrNd)),
        ether::IPV6 if pod && is_neighbour_discovery(packet.bytes()) => {
            return Err(Fate::Punt(PuntReason::ArpOrNd));
        }
        ether::IPV4 | ether::IPV6 => {}
        _ => return Err(DropReason::NotIp.into()),
    }
    packet.pull_front(ether::LEN);
    Ok(())
}

/// Neighbour solicitation or advertisement (RFC 4861 §4.3, §4.4: hop limit 255, no extension
/// headers in between).
fn is_neighbour_discovery(frame: &[u8]) -> bool {
    let Some(ip) = frame.get(ether::LEN..).filter(|ip| ip.len() > 40) else { return false };
    ip[6] == protocol::ICMPV6 && ip[7] == 255 && matches!(ip[40], 135 | 136)
}

fn is_ipip(ip: &[u8]) -> bool {
    ip.len() >= 20 && ip[0] >> 4 == 4 && ip[9] == protocol::IPIP
}

/// Takes a tunnelled packet out of its tunnel: only from a node, only to this one, only one deep,
/// and never with a source that is at home here.
fn leave_tunnel(view: &View<'_>, packet: &mut Packet) -> Result<(), Fate> {
    let outer = headers::parse(packet.bytes())?;
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (outer.source, outer.destination) else {
        return Err(DropReason::Ipv4Version.into());
    };
    let tunnels = &view.tables.tunnels;
    if tunnels.local != Some(destination) {
        return Err(DropReason::TunnelNotLocal.into());
    }
    if !tunnels.is_peer(source) {
        return Err(DropReason::TunnelPeer.into());
    }
    packet.truncate(outer.total_len as usize);
    ipip::decapsulate(packet)?;
    let inner = packet.bytes();
    if is_ipip(inner) {
        return Err(DropReason::TunnelNested.into());
    }
    let inner_source = inner.get(12..16).ok_or(DropReason::TunnelInner)?;
    let inner_source = [inner_source[0], inner_source[1], inner_source[2], inner_source[3]];
    let id = view.tables.fib.lookup(IpAddr::from(inner_source));
    if let NextHop::Endpoint(_) | NextHop::HostLocal | NextHop::Router = view.tables.next_hop(id) {
        return Err(DropReason::TunnelInnerLocal.into());
    }
    packet.set_mark(packet.mark() | MARK_DECAPSULATED);
    Ok(())
}

fn examine(
    view: &View<'_>,
    state: &mut State,
    packet: &mut Packet,
    entry: Entry,
) -> Result<(Headers, PortRole), Fate> {
    let mut headers = headers::parse(packet.bytes())?;
    packet.truncate(headers.total_len as usize);
    if headers.is_link_local_multicast() {
        return Err(DropReason::LinkLocalMulticast.into());
    }
    if entry == Entry::Own {
        return Ok((headers, PortRole::Unused));
    }
    let port = view.tables.port(packet.in_port()).ok_or(DropReason::PortGone)?;
    if port.role == PortRole::Unused {
        return Err(DropReason::PortGone.into());
    }
    if let PortRole::Pod(endpoint) = port.role {
        check_pod(view, packet, &headers, endpoint)?;
    } else {
        match offload::validate(packet.offload(), &headers, packet.bytes()) {
            // Small segments are a pod's way to make work; elsewhere they are what came.
            Ok(()) | Err(DropReason::OffloadSegmentSize) => {}
            Err(reason) => return Err(reason.into()),
        }
    }
    if port.partial_checksums
        && !packet.offload().needs_checksum
        && checksum::is_partial(&headers, packet.bytes())
        && let Some(offset) = checksum::field_offset(headers.family, headers.protocol)
    {
        let offload = packet.offload_mut();
        offload.needs_checksum = true;
        offload.csum_start = headers.l3_len;
        offload.csum_offset = offset as u16;
    }
    fragment::settle(view, state, &mut headers, entry)?;
    Ok((headers, port.role))
}

/// Nothing that a pod says of itself is believed.
fn check_pod(
    view: &View<'_>,
    packet: &Packet,
    headers: &Headers,
    endpoint: EndpointId,
) -> Result<(), DropReason> {
    let endpoint = view.tables.endpoint(endpoint).ok_or(DropReason::NoPolicyYet)?;
    if !endpoint.sources.iter().any(|net| net.contains(&headers.source)) {
        return Err(DropReason::SourceSpoofed);
    }
    if headers.protocol == protocol::IPIP {
        return Err(DropReason::TunnelFromPod);
    }
    offload::validate(packet.offload(), headers, packet.bytes())
}

fn item(packet: Packet, headers: Headers, role: PortRole, entry: Entry) -> Item {
    let (key, sender) = key_of(&headers);
    Item {
        packet,
        headers,
        entry,
        role,
        key,
        hash: 0,
        sender,
        related: false,
        hit: false,
        next_hop: NextHop::NoRoute,
        rules: [RuleId(0); 2],
        mtu: 0,
        exit: None,
        fate: Fate::Onward,
    }
}

/// The key of a packet's connection, and the side that sent it.
pub fn key_of(headers: &Headers) -> (FlowKey, Side) {
    let (source, destination) = (headers.source, headers.destination);
    if matches!(headers.protocol, protocol::ICMP | protocol::ICMPV6) {
        if is_query(headers) {
            return FlowKey::icmp_query(headers.protocol, source, destination, headers.icmp_id);
        }
        let l4_port = headers.destination_port;
        let (source, destination) =
            (End { address: source, l4_port }, End { address: destination, l4_port });
        return FlowKey::new(headers.protocol, source, destination);
    }
    let source = End { address: source, l4_port: headers.source_port };
    let destination = End { address: destination, l4_port: headers.destination_port };
    FlowKey::new(headers.protocol, source, destination)
}

/// An ICMP query or its reply, which an identifier ties together.
fn is_query(headers: &Headers) -> bool {
    let kind = headers.destination_port >> 8;
    match headers.protocol {
        protocol::ICMP => matches!(kind, 0 | 8 | 13 | 14),
        _ => matches!(kind, 128 | 129),
    }
}
