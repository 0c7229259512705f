//! How does a forwarded packet change? TTL, addresses and ports, each with the checksums it touches.
//!
//! Checksums change incrementally (RFC 1624). Where `partial` is said, the transport field holds
//! the pseudo-header sum only: addresses change it, ports don't.

use super::checksum::{self, change_sum, update16};
use super::headers::{self, Family, Headers};
use super::{be16, protocol, put16};
use crate::outcome::DropReason;
use std::net::IpAddr;

/// Which end of a flow is rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Source address and port.
    Source,
    /// Destination address and port.
    Destination,
}

/// Takes one off TTL or hop limit; [`DropReason::TtlExpired`] (and no change) where nothing would
/// be left (RFC 1812 §5.3.1). `ip` starts with a parsed IP header.
#[inline]
pub fn decrement_ttl(ip: &mut [u8]) -> Result<(), DropReason> {
    match ip.first().map(|first| first >> 4) {
        Some(4) => {
            let header = ip.first_chunk_mut::<20>().ok_or(DropReason::Ipv4Truncated)?;
            if header[8] <= 1 {
                return Err(DropReason::TtlExpired);
            }
            let old = be16(header, 8);
            header[8] -= 1;
            let checksum = update16(be16(header, 10), old, old - 0x0100);
            put16(header, 10, checksum);
        }
        Some(6) => {
            let header = ip.first_chunk_mut::<40>().ok_or(DropReason::Ipv6Truncated)?;
            if header[7] <= 1 {
                return Err(DropReason::TtlExpired);
            }
            header[7] -= 1;
        }
        _ => return Err(DropReason::Ipv4Version),
    }
    Ok(())
}

/// Puts another `ToS` byte into an IPv4 header.
#[inline]
pub fn set_tos(ip: &mut [u8], tos: u8) {
    if let Some(header) = ip.first_chunk_mut::<20>() {
        let old = be16(header, 0);
        header[1] = tos;
        let checksum = update16(be16(header, 10), old, old & 0xff00 | u16::from(tos));
        put16(header, 10, checksum);
    }
}

/// Replaces an address (of the packet's own family) in the IP header, its checksum, and the
/// transport checksum where that covers addresses; `headers` follows.
pub fn set_address(ip: &mut [u8], headers: &mut Headers, side: Side, new: IpAddr, partial: bool) {
    let Some((old_sum, new_sum)) = store_address(ip, headers.family, side, new) else { return };
    match side {
        Side::Source => headers.source = new,
        Side::Destination => headers.destination = new,
    }
    let covered = !(headers.family == Family::V4 && headers.protocol == protocol::ICMP);
    if covered && let Some(at) = checksum::field(headers, ip) {
        change_field(ip, at, headers.protocol, partial, old_sum, new_sum);
    }
}

/// Replaces a port of TCP, UDP, UDP-Lite, SCTP or DCCP; `headers` follows. Later fragments and
/// other protocols have none: no change. SCTP's CRC covers its ports: the caller must not ask.
pub fn set_port(ip: &mut [u8], headers: &mut Headers, side: Side, new: u16, partial: bool) {
    if headers.l4_len == 0 || !has_ports(headers.protocol) {
        return;
    }
    let at = usize::from(headers.l3_len) + port_offset(side);
    let old = be16(ip, at);
    put16(ip, at, new);
    match side {
        Side::Source => headers.source_port = new,
        Side::Destination => headers.destination_port = new,
    }
    if !partial && let Some(field) = checksum::field(headers, ip) {
        change_field(ip, field, headers.protocol, false, old, new);
    }
}

/// Replaces the identifier of an ICMP query or reply; `headers` follows.
pub fn set_icmp_id(ip: &mut [u8], headers: &mut Headers, new: u16) {
    if !matches!(headers.protocol, protocol::ICMP | protocol::ICMPV6) || headers.l4_len < 8 {
        return;
    }
    let l4 = usize::from(headers.l3_len);
    let old = be16(ip, l4 + 4);
    put16(ip, l4 + 4, new);
    headers.icmp_id = new;
    change_field(ip, l4 + 2, headers.protocol, false, old, new);
}

/// Rewrites one end of the packet that an ICMP error quotes: address, and port (or ICMP query
/// identifier, which stands on both sides), with the quoted checksums and the error's own. The
/// quoted packet ran the other way, so `side` is the opposite of what the error itself gets.
/// Returns false (and changes nothing) if the message quotes too little.
pub fn set_quoted(
    ip: &mut [u8],
    headers: &Headers,
    side: Side,
    address: IpAddr,
    port: Option<u16>,
) -> bool {
    let Some(mut inner) = headers::quoted(ip, headers) else { return false };
    let own_field = usize::from(headers.l3_len) + 2;
    let quote = &mut ip[headers::quote_offset(headers)..headers.total_len as usize];
    // Errors are rare and quotes short: two sums over the quote are simpler than following each
    // change of it into the error's checksum.
    let before = checksum::sum(quote);
    set_address(quote, &mut inner, side, address, false);
    if let Some(port) = port {
        if matches!(inner.protocol, protocol::ICMP | protocol::ICMPV6) {
            set_icmp_id(quote, &mut inner, port);
        } else {
            set_port(quote, &mut inner, side, port, false);
        }
    }
    let after = checksum::sum(quote);
    let own = update16(be16(ip, own_field), before, after);
    put16(ip, own_field, own);
    true
}

#[inline]
fn has_ports(protocol: u8) -> bool {
    matches!(protocol, protocol::TCP | protocol::UDP | protocol::UDP_LITE | protocol::SCTP)
}

#[inline]
fn port_offset(side: Side) -> usize {
    match side {
        Side::Source => 0,
        Side::Destination => 2,
    }
}

/// Writes the address and the IP header's checksum; gives the folded sums of the old and the new.
#[inline]
fn store_address(ip: &mut [u8], family: Family, side: Side, new: IpAddr) -> Option<(u16, u16)> {
    let at = match (family, side) {
        (Family::V4, Side::Source) => 12,
        (Family::V4, Side::Destination) => 16,
        (Family::V6, Side::Source) => 8,
        (Family::V6, Side::Destination) => 24,
    };
    match (family, new) {
        (Family::V4, IpAddr::V4(new)) => {
            let field = ip.get_mut(at..)?.first_chunk_mut::<4>()?;
            let (old_sum, new_sum) = (checksum::sum(field), checksum::sum(&new.octets()));
            *field = new.octets();
            let checksum = update16(be16(ip, 10), old_sum, new_sum);
            put16(ip, 10, checksum);
            Some((old_sum, new_sum))
        }
        (Family::V6, IpAddr::V6(new)) => {
            let field = ip.get_mut(at..)?.first_chunk_mut::<16>()?;
            let (old_sum, new_sum) = (checksum::sum(field), checksum::sum(&new.octets()));
            *field = new.octets();
            Some((old_sum, new_sum))
        }
        _ => {
            debug_assert!(false, "an address of the other family");
            None
        }
    }
}

/// Follows a change into a transport checksum field. A UDP field of zero says "no checksum" and
/// stays so; a result of zero is written as its twin (RFC 768).
#[inline]
fn change_field(ip: &mut [u8], at: usize, protocol: u8, partial: bool, old: u16, new: u16) {
    let value = be16(ip, at);
    let value = if partial {
        change_sum(value, old, new)
    } else if protocol == protocol::UDP {
        if value == 0 {
            return;
        }
        checksum::never_zero(update16(value, old, new))
    } else {
        update16(value, old, new)
    };
    put16(ip, at, value);
}

#[cfg(test)]
#[path = "rewrite_tests.rs"]
mod tests;
