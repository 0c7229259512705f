//! Which packets on the wire is a super-packet? Segmentation, as a device would do it.
//!
//! A packet here starts with its IP header, with the outer header of a tunnel, or with an Ethernet
//! header in front of either; what stands in front of the IP header that [`Headers`] describe
//! follows from where the offload says the transport header is.

use super::headers::{Family, Fragment, Headers};
use super::{be16, be32, checksum, ether, ipip, protocol, put16};
use crate::limits::PACKET_MAX;
use crate::outcome::DropReason;
use crate::packet::{Gso, Offload, Packet, Pool};

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// What to do with the segments' transport checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksums {
    /// Each segment's is complete.
    Finish,
    /// Each segment's is left to the device, its [`Offload`] says so.
    LeavePartial,
}

/// Bytes of the largest IP packet (outer header included, Ethernet not) that this one will be on
/// the wire: what an MTU is held against. A packet that is no super-packet must start with an IP
/// header (its own or a tunnel's).
#[inline]
pub fn max_segment_len(packet: &Packet, headers: &Headers) -> usize {
    let offload = packet.offload();
    if offload.gso == Gso::None {
        return packet.len();
    }
    let front = usize::from(offload.csum_start).saturating_sub(usize::from(headers.l3_len));
    let ip_start = link_len(front);
    let segment = front + headers.payload_offset() + usize::from(offload.gso_size);
    segment.min(packet.len()).saturating_sub(ip_start)
}

/// Cuts a super-packet into packets of at most `mtu` bytes with finished checksums; see
/// [`segment_with`].
#[inline]
pub fn segment(
    packet: &Packet,
    headers: &Headers,
    mtu: usize,
    pool: &mut Pool,
    out: &mut impl FnMut(Packet),
) -> Result<usize, DropReason> {
    segment_with(packet, headers, mtu, Checksums::Finish, pool, out)
}

/// Cuts a super-packet into packets of at most `mtu` bytes (counted from the outermost IP header)
/// and hands them to `out` in order; returns how many. On an error none was handed out.
///
/// `headers` are those of the packet's own IP header, parsed before a tunnel's was put in front.
/// TCP whose packets may be fragmented is cut smaller than its segment size asks where the MTU
/// demands it; all else that would not fit is [`DropReason::MtuExceeded`], as its sender has to be
/// told. [`DropReason::PoolEmpty`] if there are not slots enough for all segments.
pub fn segment_with(
    packet: &Packet,
    headers: &Headers,
    mtu: usize,
    checksums: Checksums,
    pool: &mut Pool,
    out: &mut impl FnMut(Packet),
) -> Result<usize, DropReason> {
    let template = Template::new(packet, headers, mtu)?;
    let count = template.payload.len().div_ceil(template.segment_size).max(1);
    if pool.available() < count {
        return Err(DropReason::PoolEmpty);
    }
    for index in 0..count {
        let start = index * template.segment_size;
        let end = (start + template.segment_size).min(template.payload.len());
        let mut segment = pool.take().ok_or(DropReason::PoolEmpty)?;
        segment.set_in_port(packet.in_port());
        segment.fill(template.head);
        if !segment.extend(&template.payload[start..end]) {
            pool.give(segment);
            return Err(DropReason::MtuExceeded);
        }
        template.finish(&mut segment, index, start, count, checksums);
        out(segment);
    }
    Ok(count)
}

/// Bytes of an Ethernet header within `front` bytes before an IP header.
#[inline]
fn link_len(front: usize) -> usize {
    if front == ether::LEN || front == ether::LEN + ipip::OVERHEAD { ether::LEN } else { 0 }
}

/// A super-packet taken apart.
struct Template<'a> {
    head: &'a [u8],
    payload: &'a [u8],
    segment_size: usize,
    /// Where the outer IPv4 header begins, if there is one.
    outer: Option<usize>,
    /// Where the packet's own IP header begins.
    ip: usize,
    /// Where the transport header begins.
    l4: usize,
    v4: bool,
    tcp: bool,
    checksum_offset: u16,
    /// The pseudo-header sum for a length of zero.
    pseudo: u16,
}

impl<'a> Template<'a> {
    fn new(packet: &'a Packet, headers: &Headers, mtu: usize) -> Result<Self, DropReason> {
        let (bytes, offload) = (packet.bytes(), packet.offload());
        let l4 = usize::from(offload.csum_start);
        let tcp = match (offload.gso, headers.family, headers.protocol) {
            (Gso::Tcp4, Family::V4, protocol::TCP) | (Gso::Tcp6, Family::V6, protocol::TCP) => true,
            (Gso::Udp, _, protocol::UDP) => false,
            _ => return Err(DropReason::OffloadKind),
        };
        let ip = l4.checked_sub(usize::from(headers.l3_len)).ok_or(DropReason::OffloadBounds)?;
        let outer = match ip - link_len(ip) {
            0 => None,
            ipip::OVERHEAD => Some(link_len(ip)),
            _ => return Err(DropReason::OffloadBounds),
        };
        let head_len = l4 + usize::from(headers.l4_len);
        if headers.l4_len < if tcp { 20 } else { 8 } || head_len > bytes.len() {
            return Err(DropReason::OffloadBounds);
        }
        if offload.gso_size == 0 {
            return Err(DropReason::OffloadSegmentSize);
        }
        let (head, payload) = bytes.split_at(head_len);
        let v4 = headers.family == Family::V4;
        // From the bytes, not the parsed headers: an address may have been translated since.
        let addresses = if v4 { &head[ip + 12..ip + 20] } else { &head[ip + 8..ip + 40] };
        let room = mtu.min(PACKET_MAX).saturating_sub(head_len - link_len(ip));
        let mut segment_size = usize::from(offload.gso_size);
        if room < segment_size.min(payload.len()) {
            if !tcp || headers.dont_fragment || room == 0 {
                return Err(DropReason::MtuExceeded);
            }
            segment_size = room;
        }
        Ok(Self {
            head,
            payload,
            segment_size,
            outer,
            ip,
            l4,
            v4,
            tcp,
            checksum_offset: if tcp { 16 } else { 6 },
            pseudo: checksum::add(checksum::sum(addresses), u16::from(headers.protocol)),
        })
    }

    /// Makes the copied headers those of segment `index`, whose payload begins at `start`.
    fn finish(
        &self,
        segment: &mut Packet,
        index: usize,
        start: usize,
        count: usize,
        checksums: Checksums,
    ) {
        let bytes = segment.bytes_mut();
        if let Some(outer) = self.outer {
            let len = bytes.len() - outer;
            number_v4(&mut bytes[outer..], len, index);
        }
        let len = bytes.len() - self.ip;
        if self.v4 {
            number_v4(&mut bytes[self.ip..], len, index);
        } else {
            put16(bytes, self.ip + 4, (len - 40) as u16);
        }
        let l4 = &mut bytes[self.l4..];
        let len = l4.len();
        if self.tcp {
            let seq = be32(l4, 4).wrapping_add(start as u32);
            l4[4..8].copy_from_slice(&seq.to_be_bytes());
            // The end of the data is said once, at the end; the answer to a congestion mark once,
            // at the beginning (RFC 3168 §6.1.2).
            if index + 1 < count {
                l4[13] &= !(FIN | PSH);
            }
            if index > 0 {
                l4[13] &= !CWR;
            }
        } else {
            put16(l4, 4, len as u16);
        }
        let at = usize::from(self.checksum_offset);
        put16(l4, at, checksum::add(self.pseudo, len as u16));
        match checksums {
            Checksums::Finish => {
                let sum = checksum::full(l4);
                put16(l4, at, if self.tcp { sum } else { checksum::never_zero(sum) });
            }
            Checksums::LeavePartial => {
                *segment.offload_mut() = Offload {
                    needs_checksum: true,
                    csum_start: self.l4 as u16,
                    csum_offset: self.checksum_offset,
                    ..Offload::default()
                };
            }
        }
    }
}

/// Gives an IPv4 header the length and, counted on from the first's, the identification of a
/// segment (RFC 6864 asks for different ones where packets may be fragmented).
#[inline]
fn number_v4(ip: &mut [u8], len: usize, index: usize) {
    let old = checksum::fold(u32::from(be16(ip, 2)) + u32::from(be16(ip, 4)));
    let ident = be16(ip, 4).wrapping_add(index as u16);
    put16(ip, 2, len as u16);
    put16(ip, 4, ident);
    let new = checksum::fold(u32::from(len as u16) + u32::from(ident));
    let checksum = checksum::update16(be16(ip, 10), old, new);
    put16(ip, 10, checksum);
}

/// Finishes what a packet's offload header leaves open, for a device that can't: the transport
/// checksum (a super-packet must be cut instead).
#[inline]
pub fn finish_checksum(packet: &mut Packet) -> Result<(), DropReason> {
    let Offload { needs_checksum, csum_start, csum_offset, .. } = *packet.offload();
    if needs_checksum {
        checksum::finish_partial(packet.bytes_mut(), csum_start, csum_offset)?;
        *packet.offload_mut() = Offload::default();
    }
    Ok(())
}

/// Turns a packet whose transport checksum is known to be right into one whose checksum is left
/// to the receiver, who then need not verify it (a TUN device takes a partial checksum as good).
/// `packet` starts with the IP header that `headers` describe; anything but whole TCP and UDP
/// packets stays as it is.
#[inline]
pub fn make_partial(packet: &mut Packet, headers: &Headers) {
    if !matches!(headers.protocol, protocol::TCP | protocol::UDP)
        || packet.offload().needs_checksum
        || headers.fragment != Fragment::None
    {
        return;
    }
    let Some(at) = checksum::field(headers, packet.bytes()) else { return };
    if headers.protocol == protocol::UDP && be16(packet.bytes(), at) == 0 {
        return;
    }
    let sum = checksum::pseudo(headers, checksum::l4_total(headers));
    put16(packet.bytes_mut(), at, sum);
    *packet.offload_mut() = Offload {
        needs_checksum: true,
        csum_start: headers.l3_len,
        csum_offset: at as u16 - headers.l3_len,
        ..Offload::default()
    };
}

#[cfg(test)]
#[path = "gso_tests.rs"]
mod tests;
