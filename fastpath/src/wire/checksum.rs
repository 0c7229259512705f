//! Which checksum belongs to these bytes, and how does it change when they do?
//!
//! Sums are ones' complement sums of big-endian 16-bit words, folded to 16 bits (RFC 1071). A
//! *checksum* is the complement of such a sum. A *partial* checksum field holds the uncomplemented
//! sum of the pseudo-header alone; who finishes it adds everything from the transport header on.
//!
//! The fold of a sum that is not zero is never zero, so both ways to a checksum, in full and by
//! change (RFC 1624 equation 3), end at the same one of the two zeroes of ones' complement.

use super::headers::{Family, Fragment, Headers};
use super::{be16, protocol, put16};
use crate::outcome::DropReason;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The folded sum of `bytes`; an odd last byte counts as followed by a zero.
///
/// Adds native 32-bit words into eight 64-bit lanes: the sum does not depend on byte order up to
/// one swap at the end (RFC 1071 §2 (B)), and lanes without carries between them vectorise.
#[inline]
pub fn sum(bytes: &[u8]) -> u16 {
    let mut lanes = [0u64; 8];
    let (blocks, rest) = bytes.as_chunks::<64>();
    for block in blocks {
        let (words, _) = block.as_chunks::<4>();
        for (i, lane) in lanes.iter_mut().enumerate() {
            *lane += word32(words[i]) + word32(words[i + 8]);
        }
    }
    // A slot has a thousand such blocks: no lane comes near overflowing.
    let mut total: u64 = lanes.iter().sum();
    let (words, rest) = rest.as_chunks::<8>();
    for word in words {
        let word = u64::from_ne_bytes(*word);
        total += (word & 0xffff_ffff) + (word >> 32);
    }
    let (words, rest) = rest.as_chunks::<4>();
    if let [word] = words {
        total += word32(*word);
    }
    total += match *rest {
        [a] => word32([a, 0, 0, 0]),
        [a, b] => word32([a, b, 0, 0]),
        [a, b, c] => word32([a, b, c, 0]),
        _ => 0,
    };
    u16::from_be(fold64(total))
}

/// The folded sum of an IPv4 header; one without options, nearly every one, is summed unrolled.
#[inline]
pub fn header_sum(header: &[u8]) -> u16 {
    match header.first_chunk::<20>() {
        Some(plain) if header.len() == 20 => sum(plain),
        _ => sum(header),
    }
}

#[inline]
fn word32(bytes: [u8; 4]) -> u64 {
    u64::from(u32::from_ne_bytes(bytes))
}

/// Folds a 64-bit sum with end-around carries.
#[inline]
fn fold64(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    fold(sum as u32)
}

/// Folds a 32-bit sum with end-around carries.
#[inline]
pub fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The ones' complement sum of two folded sums.
#[inline]
pub fn add(a: u16, b: u16) -> u16 {
    fold(u32::from(a) + u32::from(b))
}

/// The checksum of `bytes` (their checksum field being zero).
#[inline]
pub fn full(bytes: &[u8]) -> u16 {
    !sum(bytes)
}

/// The checksum after one 16-bit word that it covers changed (RFC 1624 equation 3). Takes folded
/// sums of longer fields as well.
#[inline]
pub fn update16(checksum: u16, old: u16, new: u16) -> u16 {
    !change_sum(!checksum, old, new)
}

/// The checksum after one 32-bit field that it covers changed.
#[inline]
pub fn update32(checksum: u16, old: u32, new: u32) -> u16 {
    update16(checksum, fold(old), fold(new))
}

/// The uncomplemented sum after one 16-bit word that it covers changed: what a partial checksum
/// field needs.
#[inline]
pub fn change_sum(sum: u16, old: u16, new: u16) -> u16 {
    fold(u32::from(sum) + u32::from(!old) + u32::from(new))
}

/// The folded sum of an IPv4 pseudo-header; `len` is that of transport header and payload.
#[inline]
pub fn pseudo_v4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, len: u32) -> u16 {
    let (source, destination) = (u64::from(source.to_bits()), u64::from(destination.to_bits()));
    fold64(source + destination + u64::from(protocol) + u64::from(len))
}

/// The folded sum of an IPv6 pseudo-header; `len` is that of transport header and payload.
#[inline]
pub fn pseudo_v6(source: &Ipv6Addr, destination: &Ipv6Addr, protocol: u8, len: u32) -> u16 {
    let addresses = u32::from(sum(&source.octets())) + u32::from(sum(&destination.octets()));
    fold64(u64::from(addresses) + u64::from(protocol) + u64::from(len))
}

/// The folded sum of the pseudo-header of a packet whose transport part is `len` bytes long.
/// `ICMP` for IPv4 has none: 0.
#[inline]
pub fn pseudo(headers: &Headers, len: u32) -> u16 {
    match (headers.source, headers.destination) {
        _ if headers.family == Family::V4 && headers.protocol == protocol::ICMP => 0,
        (IpAddr::V4(s), IpAddr::V4(d)) => pseudo_v4(s, d, headers.protocol, len),
        (IpAddr::V6(s), IpAddr::V6(d)) => pseudo_v6(&s, &d, headers.protocol, len),
        _ => 0,
    }
}

/// Where the transport checksum stands, counted from the transport header; `None` for protocols
/// without an Internet checksum there (SCTP has a CRC).
#[inline]
pub fn field_offset(family: Family, protocol: u8) -> Option<usize> {
    match (protocol, family) {
        (protocol::TCP, _) => Some(16),
        (protocol::UDP | protocol::UDP_LITE | protocol::DCCP, _) => Some(6),
        (protocol::ICMP, Family::V4) | (protocol::ICMPV6, Family::V6) => Some(2),
        _ => None,
    }
}

/// Where the transport checksum stands, counted from the IP header, if this packet has one there.
#[inline]
pub fn field(headers: &Headers, ip: &[u8]) -> Option<usize> {
    if matches!(headers.fragment, Fragment::Later { .. }) {
        return None;
    }
    let at = usize::from(headers.l3_len) + field_offset(headers.family, headers.protocol)?;
    (at + 2 <= ip.len()).then_some(at)
}

/// A TCP or UDP checksum field that equals the folded pseudo-header sum: on a veth, where nothing
/// announces it, a checksum that its sender left to the device.
#[inline]
pub fn is_partial(headers: &Headers, ip: &[u8]) -> bool {
    matches!(headers.protocol, protocol::TCP | protocol::UDP)
        && headers.fragment == Fragment::None
        && field(headers, ip).is_some_and(|at| be16(ip, at) == pseudo(headers, l4_total(headers)))
}

/// The transport checksum of a whole packet is right (a UDP packet over IPv4 without one counts
/// as right, RFC 768). Protocols whose checksum is not known here are not judged: true.
#[inline]
pub fn verify(headers: &Headers, ip: &[u8]) -> bool {
    let Some(at) = field(headers, ip) else { return true };
    if headers.fragment != Fragment::None || headers.protocol == protocol::UDP_LITE {
        return true;
    }
    if headers.protocol == protocol::UDP && be16(ip, at) == 0 {
        return headers.family == Family::V4;
    }
    let l4 = &ip[usize::from(headers.l3_len)..headers.total_len as usize];
    add(sum(l4), pseudo(headers, l4.len() as u32)) == 0xffff
}

/// Finishes a partial checksum: adds everything from `start` to the end of `bytes` and stores the
/// complement `offset` bytes behind `start`. A result of zero is stored as its twin 0xffff, which
/// means the same everywhere and, for UDP, not "none" (RFC 768).
#[inline]
pub fn finish_partial(bytes: &mut [u8], start: u16, offset: u16) -> Result<(), DropReason> {
    let at = usize::from(start) + usize::from(offset);
    if at + 2 > bytes.len() {
        return Err(DropReason::OffloadBounds);
    }
    let checksum = full(&bytes[usize::from(start)..]);
    put16(bytes, at, never_zero(checksum));
    Ok(())
}

/// 0xffff for 0, its twin in ones' complement arithmetic.
#[inline]
pub fn never_zero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// Bytes of transport header and payload.
#[inline]
pub fn l4_total(headers: &Headers) -> u32 {
    headers.total_len.saturating_sub(u32::from(headers.l3_len))
}

#[cfg(test)]
#[path = "checksum_tests.rs"]
mod tests;
