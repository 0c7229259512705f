//! Into which fragments is an IPv4 packet cut that its next link does not take whole?

use super::headers::v4_header;
use super::{be16, checksum, put16};
use crate::outcome::DropReason;
use crate::packet::{Gso, Packet, Pool};
use arrayvec::ArrayVec;

/// Longest IPv4 header.
const HEADER_MAX: usize = 60;
const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;

/// Cuts an IPv4 packet (starting with its header, a tunnel's counts) into fragments of at most
/// `mtu` bytes and hands them to `out` in order; returns how many. On an error none was handed out.
///
/// What fits stays one; a fragment is cut further as well. A transport checksum left to the device is finished, as no
/// device could. [`DropReason::MtuExceeded`]: "don't fragment" is set, or the link takes not even
/// eight bytes behind the header; [`DropReason::OffloadKind`]: a super-packet, to be cut before.
pub fn fragment(
    packet: &Packet,
    mtu: usize,
    pool: &mut Pool,
    out: &mut impl FnMut(Packet),
) -> Result<usize, DropReason> {
    let bytes = packet.bytes();
    let fixed = v4_header(bytes).ok_or(DropReason::Ipv4Version)?;
    let place = be16(fixed, 6);
    if place & DONT_FRAGMENT != 0 {
        return Err(DropReason::MtuExceeded);
    }
    if packet.offload().gso != Gso::None {
        return Err(DropReason::OffloadKind);
    }
    let (header, payload) = bytes.split_at(usize::from(fixed[0] & 15) * 4);
    let patch = finished_checksum(packet)?;
    let step = if bytes.len() <= mtu {
        payload.len().max(1)
    } else {
        mtu.saturating_sub(header.len()) & !7
    };
    if step == 0 {
        return Err(DropReason::MtuExceeded);
    }
    let count = payload.len().div_ceil(step).max(1);
    if pool.available() < count {
        return Err(DropReason::PoolEmpty);
    }
    let later_header = copied_options(header);
    for index in 0..count {
        let start = index * step;
        let end = (start + step).min(payload.len());
        let mut piece = pool.take().ok_or(DropReason::PoolEmpty)?;
        piece.set_in_port(packet.in_port());
        let head = if index == 0 { header } else { &later_header };
        piece.fill(head);
        if !piece.extend(&payload[start..end]) {
            pool.give(piece);
            return Err(DropReason::MtuExceeded);
        }
        if let Some((at, value)) = patch {
            // The field stands in the original packet; its two bytes may part.
            for (at, byte) in (at..).zip(value.to_be_bytes()) {
                let place = at.checked_sub(header.len() + start);
                let place = place.filter(|place| *place < end - start);
                if let Some(place) = place {
                    piece.bytes_mut()[head.len() + place] = byte;
                }
            }
        }
        let offset = (place & OFFSET) + (start / 8) as u16;
        let more = index + 1 < count || place & MORE_FRAGMENTS != 0;
        let flags = place & 0x8000 | if more { MORE_FRAGMENTS } else { 0 };
        number(piece.bytes_mut(), head.len(), flags | offset);
        out(piece);
    }
    Ok(count)
}

/// Writes length, place and checksum of a fragment's header.
fn number(ip: &mut [u8], header_len: usize, place: u16) {
    let len = ip.len() as u16;
    put16(ip, 2, len);
    put16(ip, 6, place);
    put16(ip, 10, 0);
    let sum = checksum::full(&ip[..header_len]);
    put16(ip, 10, sum);
}

/// Where a checksum left to the device belongs, and what it is.
fn finished_checksum(packet: &Packet) -> Result<Option<(usize, u16)>, DropReason> {
    let offload = packet.offload();
    if !offload.needs_checksum {
        return Ok(None);
    }
    let start = usize::from(offload.csum_start);
    let at = start + usize::from(offload.csum_offset);
    if at + 2 > packet.len() {
        return Err(DropReason::OffloadBounds);
    }
    let sum = checksum::full(&packet.bytes()[start..]);
    Ok(Some((at, checksum::never_zero(sum))))
}

/// The header of all fragments but the first: only options with the copy bit (RFC 791 §3.1).
fn copied_options(header: &[u8]) -> ArrayVec<u8, HEADER_MAX> {
    const COPY: u8 = 0x80;
    let (fixed, mut rest) = header.split_at(20);
    let mut copy: ArrayVec<u8, HEADER_MAX> = fixed.iter().copied().collect();
    while let Some(&kind) = rest.first() {
        let len = match kind {
            0 => break,
            1 => 1,
            _ => rest.get(1).map_or(1, |len| usize::from(*len).max(2)).min(rest.len()),
        };
        if kind & COPY != 0 {
            copy.extend(rest[..len].iter().copied());
        }
        rest = &rest[len..];
    }
    while !copy.len().is_multiple_of(4) {
        copy.push(0);
    }
    copy[0] = 0x40 | (copy.len() / 4) as u8;
    copy
}

#[cfg(test)]
#[path = "fragment_tests.rs"]
mod tests;
