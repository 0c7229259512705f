//! Which packets of a batch are one super-packet? Coalescing, the inverse of segmentation.
//!
//! Only what segmentation would restore is merged: TCP data in sequence, and UDP datagrams of one
//! size, with headers that agree in everything else, no IP options, and transport checksums that
//! are right. Packets of a flow never overtake each other; other flows' packets in between do no
//! harm. A merged packet leaves its checksum to whoever takes or cuts it.

use super::headers::{Family, Fragment, Headers, parse};
use super::{be16, be32, checksum, offload, protocol, put16};
use crate::batch::Batch;
use crate::limits::{BATCH, PACKET_MAX};
use crate::packet::{Gso, Offload, Packet, Pool};
use arrayvec::ArrayVec;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const ECE: u8 = 0x40;
const CWR: u8 = 0x80;

/// Flows under way at once; more interleaved ones than this are not merged.
const FLOWS: usize = 8;

/// A packet that others may be appended to.
struct Head {
    /// Its place in the batch.
    at: usize,
    headers: Headers,
    /// Payload bytes of every segment but the last.
    size: usize,
    segments: u16,
    /// Its checksum was found right (looked at when the first other comes).
    verified: bool,
    /// Nothing may follow any more (a shorter segment, PSH, FIN, a full packet).
    closed: bool,
}

/// Merges what belongs together. Packets start with their IP header; what a device padded them
/// with is cut off. Slots of packets merged into others go back to `pool`. Returns how many did:
/// the batch is that much shorter.
pub fn coalesce(batch: &mut Batch, pool: &mut Pool) -> usize {
    let mut heads: ArrayVec<Head, FLOWS> = ArrayVec::new();
    let mut absorbed: ArrayVec<usize, BATCH> = ArrayVec::new();
    for at in 0..batch.len() {
        let Some(headers) = candidate(&mut batch[at]) else {
            // It may be of any flow (a fragment, a super-packet): nothing overtakes it.
            heads.clear();
            continue;
        };
        let (front, rest) = batch.split_at_mut(at);
        let packet = &rest[0];
        let found = heads.iter().position(|head| same_flow(&head.headers, &headers));
        if let Some(found) = found {
            let head = &mut heads[found];
            if !head.closed && append(&mut front[head.at], head, packet, &headers) {
                absorbed.push(at);
                continue;
            }
            // In order: what could not be appended ends what came before it.
            heads.remove(found);
        }
        if let Some(head) = Head::new(at, packet, headers) {
            if heads.is_full() {
                heads.remove(0);
            }
            heads.push(head);
        }
    }
    if absorbed.is_empty() {
        return 0;
    }
    compact(batch, &absorbed, pool);
    absorbed.len()
}

/// Gives the absorbed packets' slots back and closes their gaps, in order.
fn compact(batch: &mut Batch, absorbed: &[usize], pool: &mut Pool) {
    let mut gone = absorbed.iter().copied().peekable();
    let mut kept = 0;
    for at in 0..batch.len() {
        if gone.next_if_eq(&at).is_none() {
            batch.swap(kept, at);
            kept += 1;
        }
    }
    for packet in batch.drain(kept..) {
        pool.give(packet);
    }
}

/// The headers of a packet whose flow is watched: whole TCP or UDP without IP options.
#[inline]
fn candidate(packet: &mut Packet) -> Option<Headers> {
    if packet.offload().gso != Gso::None {
        return None;
    }
    let headers = parse(packet.bytes()).ok()?;
    let plain = match headers.family {
        Family::V4 => 20,
        Family::V6 => 40,
    };
    if !matches!(headers.protocol, protocol::TCP | protocol::UDP)
        || headers.l3_len != plain
        || headers.fragment != Fragment::None
    {
        return None;
    }
    packet.truncate(headers.total_len as usize);
    Some(headers)
}

#[inline]
fn same_flow(a: &Headers, b: &Headers) -> bool {
    (a.source_port, a.destination_port) == (b.source_port, b.destination_port)
        && a.protocol == b.protocol
        && a.source == b.source
        && a.destination == b.destination
}

impl Head {
    /// A packet that others may follow; `None` if none may.
    fn new(at: usize, packet: &Packet, headers: Headers) -> Option<Self> {
        let size = packet.len() - headers.payload_offset();
        if size == 0 || !is_data(packet.bytes(), &headers) {
            return None;
        }
        let closed = headers.tcp_flags & (FIN | PSH) != 0;
        (!closed).then_some(Self { at, headers, size, segments: 1, verified: false, closed })
    }
}

/// TCP: an ordinary data segment. UDP: a datagram whose length fills its packet and that has a
/// checksum.
#[inline]
fn is_data(ip: &[u8], headers: &Headers) -> bool {
    if headers.protocol == protocol::TCP {
        return headers.tcp_flags & !(FIN | PSH | ECE | CWR) == ACK;
    }
    let l4 = usize::from(headers.l3_len);
    usize::from(be16(ip, l4 + 4)) == ip.len() - l4 && be16(ip, l4 + 6) != 0
}

/// Appends a packet's payload to the head's, if it is the next segment.
fn append(target: &mut Packet, head: &mut Head, packet: &Packet, headers: &Headers) -> bool {
    let start = headers.payload_offset();
    let size = packet.len() - start;
    if size == 0
        || size > head.size
        || target.len() + size > PACKET_MAX
        || !is_data(packet.bytes(), headers)
        || !headers_agree(target.bytes(), head, packet.bytes(), headers)
        || !is_right(packet, headers)
    {
        return false;
    }
    if !head.verified {
        if !is_right(target, &head.headers) {
            // It stays what it is: for its receiver to refuse.
            head.closed = true;
            return false;
        }
        head.verified = true;
    }
    if !target.extend(&packet.bytes()[start..]) {
        return false;
    }
    head.segments += 1;
    let tcp = headers.protocol == protocol::TCP;
    let last = headers.tcp_flags & (FIN | PSH);
    if tcp {
        let flags = usize::from(head.headers.l3_len) + 13;
        target.bytes_mut()[flags] |= last;
    }
    head.closed = size < head.size || last != 0;
    describe(target, head, tcp);
    true
}

/// The next segment's headers say what segmentation of the whole would make them say.
#[inline]
fn headers_agree(target: &[u8], head: &Head, bytes: &[u8], headers: &Headers) -> bool {
    let first = &head.headers;
    if (first.ttl, first.tos, first.dont_fragment, first.l4_len)
        != (headers.ttl, headers.tos, headers.dont_fragment, headers.l4_len)
    {
        return false;
    }
    let l4 = usize::from(headers.l3_len);
    match headers.family {
        // The identification counts on, unless no one needs it (RFC 6864 §4.1).
        Family::V4 => {
            let next = be16(target, 4).wrapping_add(head.segments);
            if !headers.dont_fragment && be16(bytes, 4) != next {
                return false;
            }
            // The reserved flag.
            if bytes[6] & 0x80 != target[6] & 0x80 {
                return false;
            }
        }
        // The flow label; the class was compared above.
        Family::V6 => {
            if bytes[..4] != target[..4] {
                return false;
            }
        }
    }
    if headers.protocol != protocol::TCP {
        return true;
    }
    let (end, tcp, new) = (headers.payload_offset(), &target[l4..], &bytes[l4..]);
    let sent = (target.len() - end) as u32;
    // Sequence follows; acknowledgement, offset, window, urgent pointer and options are the same;
    // ECE is on all or none, CWR only on the first.
    be32(new, 4) == be32(tcp, 4).wrapping_add(sent)
        && new[8..13] == tcp[8..13]
        && new[13] & !(FIN | PSH) == tcp[13] & !(FIN | PSH | CWR)
        && new[14..16] == tcp[14..16]
        && new[18..end - l4] == tcp[18..end - l4]
}

/// The transport checksum is right, or a local sender's that nobody could have damaged.
#[inline]
fn is_right(packet: &Packet, headers: &Headers) -> bool {
    if packet.offload().needs_checksum {
        return offload::is_partial(packet.offload(), headers);
    }
    checksum::verify(headers, packet.bytes())
}

/// Makes the head's headers and offload those of the whole.
fn describe(target: &mut Packet, head: &Head, tcp: bool) {
    let total = target.len();
    let first = &head.headers;
    let (l3, v4) = (usize::from(first.l3_len), first.family == Family::V4);
    let csum_offset: u16 = if tcp { 16 } else { 6 };
    let sum = checksum::pseudo(first, (total - l3) as u32);
    let bytes = target.bytes_mut();
    if v4 {
        let old = be16(bytes, 2);
        put16(bytes, 2, total as u16);
        let header = checksum::update16(be16(bytes, 10), old, total as u16);
        put16(bytes, 10, header);
    } else {
        put16(bytes, 4, (total - 40) as u16);
    }
    if !tcp {
        put16(bytes, l3 + 4, (total - l3) as u16);
    }
    put16(bytes, l3 + usize::from(csum_offset), sum);
    *target.offload_mut() = Offload {
        needs_checksum: true,
        gso: match (tcp, v4) {
            (true, true) => Gso::Tcp4,
            (true, false) => Gso::Tcp6,
            (false, _) => Gso::Udp,
        },
        gso_size: head.size as u16,
        header_len: first.payload_offset() as u16,
        csum_start: first.l3_len,
        csum_offset,
    };
}

#[cfg(test)]
#[path = "gro_tests.rs"]
mod tests;
