//! How does a packet get into an IPIP tunnel and out again?
//!
//! RFC 2003, with the ECN rules of RFC 6040 in normal mode and the pipe model of RFC 2983 for the
//! DSCP on the way out. The inner TTL is taken down by forwarding, not by the tunnel.

use super::headers::v4_header;
use super::rewrite::set_tos;
use super::{be16, checksum, protocol, put16};
use crate::limits::PACKET_MAX;
use crate::outcome::DropReason;
use crate::packet::{Gso, Packet};
use std::net::Ipv4Addr;

/// Bytes of the outer header.
pub const OVERHEAD: usize = 20;
/// TTL of the outer header: enough for any path between nodes.
pub const OUTER_TTL: u8 = 64;

/// The congestion bits of a `ToS` byte (RFC 3168).
const ECN: u8 = 0b11;
const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
const ECT_0: u8 = 0b10;
const CE: u8 = 0b11;

/// Puts an outer IPv4 header in front of an IPv4 packet (`packet` starts with its IP header).
///
/// The outer total length of a super-packet, which segmentation writes anew for each segment,
/// stops at 65,535; any other packet must fit.
#[inline]
pub fn encapsulate(
    packet: &mut Packet,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    ident: u16,
) -> Result<(), DropReason> {
    let inner = v4_header(packet.bytes()).ok_or(DropReason::TunnelInner)?;
    let (tos, place) = (inner[1], be16(inner, 6));
    let total = packet.len() + OVERHEAD;
    if total > PACKET_MAX && packet.offload().gso == Gso::None {
        return Err(DropReason::MtuExceeded);
    }
    let outer = packet.push_front(OVERHEAD).ok_or(DropReason::NoHeadroom)?;
    outer[0] = 0x45;
    // DSCP as inside; ECN as inside too, which is RFC 6040 §4.1 in normal mode.
    outer[1] = tos;
    put16(outer, 2, total.min(PACKET_MAX) as u16);
    put16(outer, 4, ident);
    // RFC 2003 §3.1: "don't fragment" inside must be so outside.
    put16(outer, 6, place & 0x4000);
    outer[8] = OUTER_TTL;
    outer[9] = protocol::IPIP;
    put16(outer, 10, 0);
    outer[12..16].copy_from_slice(&source.octets());
    outer[16..20].copy_from_slice(&destination.octets());
    let sum = !checksum::header_sum(outer);
    put16(outer, 10, sum);
    Ok(())
}

/// Takes the outer header off again; the packet then starts with the inner IP header (not parsed
/// yet). `packet` starts with a parsed outer header of protocol 4. On an error it is unchanged.
#[inline]
pub fn decapsulate(packet: &mut Packet) -> Result<(), DropReason> {
    let bytes = packet.bytes();
    let outer = v4_header(bytes).ok_or(DropReason::Ipv4Truncated)?;
    let (outer_len, outer_tos) = (usize::from(outer[0] & 15) * 4, outer[1]);
    // More fragments, or an offset: a piece of a tunnelled packet.
    if be16(outer, 6) & 0x3fff != 0 {
        return Err(DropReason::TunnelFragment);
    }
    let inner = bytes.get(outer_len..).and_then(v4_header).ok_or(DropReason::TunnelInner)?;
    let inner_tos = inner[1];
    let ecn = decapsulated_ecn(inner_tos & ECN, outer_tos & ECN).ok_or(DropReason::TunnelEcn)?;
    let offload = packet.offload();
    if offload.needs_checksum && usize::from(offload.csum_start) < outer_len {
        return Err(DropReason::OffloadBounds);
    }
    let tos = inner_tos & !ECN | ecn;
    packet.pull_front(outer_len);
    if tos != inner_tos {
        set_tos(packet.bytes_mut(), tos);
    }
    Ok(())
}

/// The ECN bits of a packet that leaves a tunnel (RFC 6040 §4.2, figure 4); `None`: dropped, as
/// congestion was marked on a packet whose ends would not understand it.
#[inline]
pub fn decapsulated_ecn(inner: u8, outer: u8) -> Option<u8> {
    match (inner, outer) {
        (NOT_ECT, CE) => None,
        (NOT_ECT, _) => Some(NOT_ECT),
        (CE, _) | (_, CE) => Some(CE),
        (ECT_0, ECT_1) => Some(ECT_1),
        (inner, _) => Some(inner),
    }
}

#[cfg(test)]
#[path = "ipip_tests.rs"]
mod tests;
