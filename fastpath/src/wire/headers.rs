//! What does an IP packet say of itself? The one parse; every way to be wrong has its own reason.

#![expect(
    clippy::inline_always,
    reason = "left to itself, the compiler hands each part's result through memory: a third slower"
)]

use super::checksum;
use super::{be16, be32, protocol};
use crate::limits::EXTENSION_HEADERS;
use crate::outcome::DropReason;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Whether a packet is a piece of a larger one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fragment {
    /// It is whole (an IPv6 "atomic fragment" is, RFC 6946).
    None,
    /// The piece with the transport header; more follow.
    First {
        /// The datagram's identification.
        id: u32,
    },
    /// A piece without transport header.
    Later {
        /// The datagram's identification.
        id: u32,
        /// Where it begins in the datagram's payload, in bytes.
        offset: u16,
        /// More pieces follow.
        more: bool,
    },
}

/// What one parse finds. Lengths are in bytes, all within the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// IPv4 or IPv6.
    pub family: Family,
    /// IP header with options, or IPv6 header with extension headers.
    pub l3_len: u16,
    /// The transport protocol behind all extension headers. Of an IPv6 [`Fragment::Later`], what
    /// its fragment header names (perhaps one more extension header, which only the first has).
    pub protocol: u8,
    /// The whole IP packet; what the buffer holds behind it is link padding.
    pub total_len: u32,
    /// TTL or hop limit.
    pub ttl: u8,
    /// `ToS` byte or traffic class.
    pub tos: u8,
    /// No router may fragment it (always so for IPv6).
    pub dont_fragment: bool,
    /// Whole, or which piece.
    pub fragment: Fragment,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Source port; 0 for protocols without ports.
    pub source_port: u16,
    /// Destination port; type * 256 + code for ICMP; 0 for protocols without ports.
    pub destination_port: u16,
    /// Identifier of an ICMP query or its reply, else 0.
    pub icmp_id: u16,
    /// TCP flags from CWR to FIN, else 0.
    pub tcp_flags: u8,
    /// Transport header (0 for protocols not known here and for later fragments).
    pub l4_len: u16,
}

impl Headers {
    /// Bytes in front of the transport payload.
    #[inline]
    pub fn payload_offset(&self) -> usize {
        usize::from(self.l3_len) + usize::from(self.l4_len)
    }

    /// To 224.0.0.0/24 or `ff01::/16`, `ff02::/16`: never forwarded, but what hosts use to find each
    /// other on a link. The only multicast that [`parse`] lets through, so that its caller names it.
    #[inline]
    pub fn is_link_local_multicast(&self) -> bool {
        match self.destination {
            IpAddr::V4(d) => d.to_bits() >> 8 == 0x00e0_0000,
            IpAddr::V6(d) => is_link_local_multicast_v6(d),
        }
    }

    /// An ICMP error, which quotes the packet it is about (RFC 792, RFC 4443 §2.1).
    #[inline]
    pub fn is_icmp_error(&self) -> bool {
        let kind = self.destination_port >> 8;
        match (self.family, self.protocol) {
            (Family::V4, protocol::ICMP) => matches!(kind, 3 | 4 | 5 | 11 | 12),
            (Family::V6, protocol::ICMPV6) => kind < 128,
            _ => false,
        }
    }
}

/// What the transport header says.
#[derive(Clone, Copy, Default)]
struct Transport {
    source_port: u16,
    destination_port: u16,
    icmp_id: u16,
    tcp_flags: u8,
    len: u16,
}

/// Parses a packet from its IP header on. Bytes behind its total length are link padding and
/// stay the caller's to cut off.
#[inline]
pub fn parse(ip: &[u8]) -> Result<Headers, DropReason> {
    walk::<false>(ip)
}

/// Parses the packet that an ICMP error quotes; `None` if the message is no error or quotes too
/// little to name the flow (RFC 792 promises the header and 8 bytes; the rest may be cut off).
pub fn quoted(ip: &[u8], headers: &Headers) -> Option<Headers> {
    if !headers.is_icmp_error() || matches!(headers.fragment, Fragment::Later { .. }) {
        return None;
    }
    let inner = walk::<true>(ip.get(quote_offset(headers)..headers.total_len as usize)?).ok()?;
    (inner.family == headers.family).then_some(inner)
}

/// Where the quoted packet of an ICMP error begins.
#[inline]
pub fn quote_offset(headers: &Headers) -> usize {
    usize::from(headers.l3_len) + 8
}

/// The fixed part of the IPv4 header that `ip` starts with, of which nothing else is checked but
/// that its version is 4 and its own length fits.
#[inline]
pub(crate) fn v4_header(ip: &[u8]) -> Option<&[u8; 20]> {
    let header = ip.first_chunk::<20>()?;
    let len = usize::from(header[0] & 15) * 4;
    (header[0] >> 4 == 4 && (20..=ip.len()).contains(&len)).then_some(header)
}

#[inline(always)]
fn walk<const QUOTED: bool>(ip: &[u8]) -> Result<Headers, DropReason> {
    match ip.first().map(|first| first >> 4) {
        Some(4) => v4::<QUOTED>(ip),
        Some(6) => v6::<QUOTED>(ip),
        Some(_) => Err(DropReason::Ipv4Version),
        None => Err(DropReason::Ipv4Truncated),
    }
}

#[inline(always)]
fn v4<const QUOTED: bool>(ip: &[u8]) -> Result<Headers, DropReason> {
    let fixed = ip.first_chunk::<20>().ok_or(DropReason::Ipv4Truncated)?;
    let l3_len = usize::from(fixed[0] & 15) * 4;
    if l3_len < 20 {
        return Err(DropReason::Ipv4HeaderLength);
    }
    let header = ip.get(..l3_len).ok_or(DropReason::Ipv4Truncated)?;
    let total_len = usize::from(be16(fixed, 2));
    if total_len < l3_len || (!QUOTED && total_len > ip.len()) {
        return Err(DropReason::Ipv4TotalLength);
    }
    // RFC 1812 §5.2.2: a router verifies the checksum. A quoted header may be changed on its way.
    if !QUOTED && checksum::header_sum(header) != 0xffff {
        return Err(DropReason::Ipv4Checksum);
    }
    if l3_len > 20 {
        options(&header[20..])?;
    }
    let (source, destination) = (be32(fixed, 12), be32(fixed, 16));
    addresses_v4(source, destination)?;
    let place = be16(fixed, 6);
    let payload = &ip[l3_len..total_len.min(ip.len())];
    let (offset, more) = ((place & 0x1fff) << 3, place & 0x2000 != 0);
    let id = u32::from(be16(fixed, 4));
    let fragment = fragment(id, offset, more, total_len - l3_len, fixed[9])?;
    let transport = transport::<QUOTED>(payload, fixed[9], Family::V4, fragment)?;
    Ok(Headers {
        family: Family::V4,
        l3_len: l3_len as u16,
        protocol: fixed[9],
        total_len: total_len as u32,
        ttl: fixed[8],
        tos: fixed[1],
        dont_fragment: place & 0x4000 != 0,
        fragment,
        source: IpAddr::V4(Ipv4Addr::from_bits(source)),
        destination: IpAddr::V4(Ipv4Addr::from_bits(destination)),
        source_port: transport.source_port,
        destination_port: transport.destination_port,
        icmp_id: transport.icmp_id,
        tcp_flags: transport.tcp_flags,
        l4_len: transport.len,
    })
}

#[inline(always)]
fn v6<const QUOTED: bool>(ip: &[u8]) -> Result<Headers, DropReason> {
    let fixed = ip.first_chunk::<40>().ok_or(DropReason::Ipv6Truncated)?;
    let total_len = 40 + usize::from(be16(fixed, 4));
    if !QUOTED && total_len > ip.len() {
        return Err(DropReason::Ipv6PayloadLength);
    }
    let source = v6_address(fixed, 8);
    let destination = v6_address(fixed, 24);
    addresses_v6(source, destination)?;
    let chain = extensions(&ip[..total_len.min(ip.len())], fixed[6], total_len)?;
    let transport = transport::<QUOTED>(
        &ip[chain.l3_len..total_len.min(ip.len())],
        chain.protocol,
        Family::V6,
        chain.fragment,
    )?;
    Ok(Headers {
        family: Family::V6,
        l3_len: chain.l3_len as u16,
        protocol: chain.protocol,
        total_len: total_len as u32,
        ttl: fixed[7],
        tos: (be16(fixed, 0) >> 4) as u8,
        dont_fragment: true,
        fragment: chain.fragment,
        source: IpAddr::V6(source),
        destination: IpAddr::V6(destination),
        source_port: transport.source_port,
        destination_port: transport.destination_port,
        icmp_id: transport.icmp_id,
        tcp_flags: transport.tcp_flags,
        l4_len: transport.len,
    })
}

#[inline(always)]
fn v6_address(header: &[u8; 40], at: usize) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&header[at..at + 16]);
    Ipv6Addr::from(octets)
}

/// The options' lengths fit, and none routes the packet by its sender's wish (RFC 7126 §4.3, §4.4):
/// the destination that policy judges must be the one it goes to.
#[cold]
fn options(mut rest: &[u8]) -> Result<(), DropReason> {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const LOOSE_SOURCE_ROUTE: u8 = 131;
    const STRICT_SOURCE_ROUTE: u8 = 137;
    while let Some(&kind) = rest.first() {
        let len = match kind {
            END => break,
            NO_OPERATION => 1,
            LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE => return Err(DropReason::Ipv4Options),
            _ => usize::from(*rest.get(1).ok_or(DropReason::Ipv4Options)?).max(1),
        };
        if kind != NO_OPERATION && len < 2 {
            return Err(DropReason::Ipv4Options);
        }
        rest = rest.get(len..).ok_or(DropReason::Ipv4Options)?;
    }
    Ok(())
}

/// What no router forwards from or to (RFC 1122 §3.2.1.3, RFC 6890). An unspecified source is let
/// through to link-local multicast only: a host that has no address yet asks for one's owner so.
#[inline(always)]
fn addresses_v4(source: u32, destination: u32) -> Result<(), DropReason> {
    let special = |a: u32| matches!(a >> 24, 0 | 127) || a == u32::MAX;
    let multicast = |a: u32| a >> 28 == 0xe;
    let on_link = destination >> 8 == 0x00e0_0000;
    if (special(source) && !(source == 0 && on_link)) || multicast(source) {
        return Err(DropReason::SourceInvalid);
    }
    if special(destination) || (multicast(destination) && !on_link) {
        return Err(DropReason::DestinationInvalid);
    }
    Ok(())
}

#[inline]
fn is_link_local_multicast_v6(address: Ipv6Addr) -> bool {
    matches!(address.segments()[0] & 0xff0f, 0xff01 | 0xff02)
}

/// The same for IPv6 (RFC 4291 §2.5, RFC 6890); IPv4-mapped addresses have no place on a wire.
#[inline(always)]
fn addresses_v6(source: Ipv6Addr, destination: Ipv6Addr) -> Result<(), DropReason> {
    // ::, ::1 and ::ffff:0:0/96 all begin with 80 zero bits; hardly anything else does.
    let special = |a: Ipv6Addr| {
        a.to_bits() >> 48 == 0
            && (a.is_unspecified() || a.is_loopback() || a.to_ipv4_mapped().is_some())
    };
    let on_link = is_link_local_multicast_v6(destination);
    if source.is_multicast() || (special(source) && !(source.is_unspecified() && on_link)) {
        return Err(DropReason::SourceInvalid);
    }
    if special(destination) || (destination.is_multicast() && !on_link) {
        return Err(DropReason::DestinationInvalid);
    }
    Ok(())
}

/// Where the chain of extension headers ends.
struct Chain {
    l3_len: usize,
    protocol: u8,
    fragment: Fragment,
}

/// Walks the extension headers, at most [`EXTENSION_HEADERS`] (RFC 8200 §4). `total_len` is what
/// the IPv6 header claims; `ip` may hold less of a quoted packet.
#[inline(always)]
fn extensions(ip: &[u8], first: u8, total_len: usize) -> Result<Chain, DropReason> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;
    let mut chain = Chain { l3_len: 40, protocol: first, fragment: Fragment::None };
    for _ in 0..=EXTENSION_HEADERS {
        let kind = chain.protocol;
        if !matches!(kind, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION) {
            return Ok(chain);
        }
        // RFC 7112 §5: the first fragment holds the whole chain.
        let cut = match chain.fragment {
            Fragment::None => DropReason::Ipv6Extensions,
            _ => DropReason::FragmentTiny,
        };
        let at = chain.l3_len;
        let header = ip.get(at..at + 8).ok_or(cut)?;
        let len = match kind {
            FRAGMENT => 8,
            AUTHENTICATION => (usize::from(header[1]) + 2) * 4,
            _ => (usize::from(header[1]) + 1) * 8,
        };
        match kind {
            // RFC 8200 §4.1: only directly behind the IPv6 header.
            HOP_BY_HOP if at != 40 => return Err(DropReason::Ipv6Extensions),
            // As with IPv4's source routes: the destination judged must be the last one.
            ROUTING if header[3] != 0 => return Err(DropReason::Ipv6Extensions),
            FRAGMENT => {
                if chain.fragment != Fragment::None {
                    return Err(DropReason::Ipv6Extensions);
                }
                let (place, id) = (be16(header, 2), be32(header, 4));
                let rest = total_len.saturating_sub(at + 8);
                chain.fragment = fragment(id, place & !7, place & 1 != 0, rest, header[0])?;
            }
            _ => {}
        }
        if at + len > ip.len() {
            return Err(cut);
        }
        chain.l3_len += len;
        chain.protocol = header[0];
        if matches!(chain.fragment, Fragment::Later { .. }) {
            return Ok(chain);
        }
    }
    Err(DropReason::Ipv6Extensions)
}

/// Which piece of a datagram this is; `len` bytes of the datagram's payload are in it.
#[inline(always)]
fn fragment(
    id: u32,
    offset: u16,
    more: bool,
    len: usize,
    protocol: u8,
) -> Result<Fragment, DropReason> {
    if offset == 0 && !more {
        return Ok(Fragment::None);
    }
    // Pieces join at multiples of 8 bytes and end where a length field can still say so
    // (RFC 791 §3.2, RFC 8200 §4.5).
    if (more && !len.is_multiple_of(8)) || usize::from(offset) + len > 65_535 {
        return Err(DropReason::FragmentRange);
    }
    if len == 0 {
        return Err(DropReason::FragmentTiny);
    }
    if offset == 0 {
        return Ok(Fragment::First { id });
    }
    // RFC 3128: a later piece must not reach into the TCP header that the first was judged by.
    if protocol == protocol::TCP && offset < 20 {
        return Err(DropReason::FragmentTiny);
    }
    Ok(Fragment::Later { id, offset, more })
}

/// Reads the transport header. A first fragment must hold all of it (RFC 1858, RFC 7112).
#[inline(always)]
fn transport<const QUOTED: bool>(
    l4: &[u8],
    protocol: u8,
    family: Family,
    fragment: Fragment,
) -> Result<Transport, DropReason> {
    let cut = match fragment {
        Fragment::None => DropReason::L4Truncated,
        Fragment::First { .. } => DropReason::FragmentTiny,
        Fragment::Later { .. } => return Ok(Transport::default()),
    };
    match (protocol, family) {
        (protocol::TCP, _) if !QUOTED => tcp(l4, cut),
        (protocol::UDP, _) if !QUOTED => {
            let header = l4.first_chunk::<8>().ok_or(cut)?;
            // RFC 768: at least the header; more than the packet holds only in a first fragment.
            let length = usize::from(be16(header, 4));
            if length < 8 || (length > l4.len() && fragment == Fragment::None) {
                return Err(DropReason::L4Length);
            }
            Ok(ports(header, 8))
        }
        (protocol::ICMP, Family::V4) | (protocol::ICMPV6, Family::V6) => {
            Ok(icmp(l4.get(..8).ok_or(cut)?, family))
        }
        (protocol::SCTP, _) if !QUOTED => {
            let header = l4.first_chunk::<12>().ok_or(cut)?;
            Ok(ports(header, 12))
        }
        (protocol::TCP | protocol::UDP | protocol::UDP_LITE | protocol::SCTP, _) => {
            let header = l4.first_chunk::<8>().ok_or(cut)?;
            Ok(ports(header, 8))
        }
        _ => Ok(Transport::default()),
    }
}

#[inline(always)]
fn ports(header: &[u8], len: u16) -> Transport {
    Transport {
        source_port: be16(header, 0),
        destination_port: be16(header, 2),
        len,
        ..Transport::default()
    }
}

#[inline(always)]
fn tcp(l4: &[u8], cut: DropReason) -> Result<Transport, DropReason> {
    let header = l4.first_chunk::<20>().ok_or(cut)?;
    let len = usize::from(header[12] >> 4) * 4;
    if len < 20 {
        return Err(DropReason::L4Length);
    }
    if len > l4.len() {
        return Err(cut);
    }
    Ok(Transport { tcp_flags: header[13], ..ports(header, len as u16) })
}

#[inline]
fn icmp(header: &[u8], family: Family) -> Transport {
    let query = match family {
        Family::V4 => matches!(header[0], 0 | 8 | 13 | 14),
        Family::V6 => matches!(header[0], 128 | 129),
    };
    Transport {
        destination_port: be16(header, 0),
        icmp_id: if query { be16(header, 4) } else { 0 },
        len: 8,
        ..Transport::default()
    }
}

#[cfg(test)]
#[path = "headers_tests.rs"]
mod tests;
