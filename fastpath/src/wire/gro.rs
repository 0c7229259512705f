//! Which packets of a batch are one super-packet? Coalescing, the inverse of segmentation.
//!
//! Only what segmentation would restore is merged: TCP data in sequence, and UDP datagrams of one
//! size, with headers that agree in everything else, no IP options, and transport checksums that
//! are right. Packets of a flow never overtake each other; other flows' packets in between do no
//! harm. A merged packet leaves its checksum to whoever takes or cuts it.

use super::headers::{Family, Headers, parse};
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

/// What a glance at a packet without IP options and extension headers says.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Shape {
    v4: bool,
    tcp: bool,
}

/// The latest packet of a flow, that others may be appended to.
struct Head {
    /// Its place in the batch.
    at: usize,
    shape: Shape,
    /// What is known of it since a second packet of its flow came.
    run: Option<Run>,
}

/// A packet that others are appended to.
struct Run {
    headers: Headers,
    /// Payload bytes of every segment but the last.
    size: usize,
    segments: u16,
    /// Its checksum was found right (looked at when all else fits).
    verified: bool,
    /// Nothing may follow any more (a shorter segment, PSH, FIN).
    closed: bool,
}

/// Merges what belongs together. Packets start with their IP header; what a device padded merged
/// ones with is cut off. Slots of packets merged into others go back to `pool`. Returns how many
/// did: the batch is that much shorter.
///
/// A packet is parsed only when one before it is of the same flow: traffic that can't be merged
/// costs a glance. `unannounced`: a checksum may be partial although nothing says so (veth).
pub fn coalesce(batch: &mut Batch, pool: &mut Pool, unannounced: bool) -> usize {
    let mut heads: ArrayVec<Head, FLOWS> = ArrayVec::new();
    let mut absorbed: ArrayVec<usize, BATCH> = ArrayVec::new();
    for at in 0..batch.len() {
        let (front, rest) = batch.split_at_mut(at);
        let packet = &mut rest[0];
        let Some(shape) = shape(packet) else {
            // It may be of any flow (a fragment, a super-packet): nothing overtakes it.
            heads.clear();
            continue;
        };
        let found = heads.iter().position(|head| {
            head.shape == shape && same_ends(front[head.at].bytes(), packet.bytes(), shape)
        });
        if let Some(found) = found {
            let head = &mut heads[found];
            if head.take(&mut front[head.at], packet, unannounced) {
                absorbed.push(at);
                continue;
            }
            // In order: what could not be appended ends what came before it.
            heads.remove(found);
        }
        if may_be_followed(packet.bytes(), shape) {
            if heads.is_full() {
                heads.remove(0);
            }
            heads.push(Head { at, shape, run: None });
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

/// The shape of a packet that may be part of a flow to be merged: TCP or UDP right behind a plain
/// IP header, no fragment, no super-packet, long enough for its ports and flags.
#[inline]
fn shape(packet: &Packet) -> Option<Shape> {
    let bytes = packet.bytes();
    if packet.offload().gso != Gso::None {
        return None;
    }
    let (v4, protocol) = match *bytes.first()? {
        0x45 if bytes.len() >= 28 && be16(bytes, 6) << 2 == 0 => (true, bytes[9]),
        first if first >> 4 == 6 && bytes.len() >= 48 => (false, bytes[6]),
        _ => return None,
    };
    let tcp = protocol == protocol::TCP;
    (tcp || protocol == protocol::UDP).then_some(Shape { v4, tcp })
}

/// Addresses and ports, which stand side by side, are the same.
#[inline]
fn same_ends(a: &[u8], b: &[u8], shape: Shape) -> bool {
    if shape.v4 { a[12..24] == b[12..24] } else { a[8..44] == b[8..44] }
}

/// UDP always may; TCP if it is data and its sender did not ask for it to be handed on at once.
#[inline]
fn may_be_followed(bytes: &[u8], shape: Shape) -> bool {
    let l4 = if shape.v4 { 20 } else { 40 };
    if !shape.tcp {
        return true;
    }
    let Some(header) = bytes.get(l4..l4 + 20) else { return false };
    let data = bytes.len() - l4 > usize::from(header[12] >> 4) * 4;
    data && header[13] & !(ECE | CWR) == ACK
}

/// The headers of a packet that is right up to its transport header; its padding is cut off.
fn parsed(packet: &mut Packet) -> Option<Headers> {
    let headers = parse(packet.bytes()).ok()?;
    packet.truncate(headers.total_len as usize);
    Some(headers)
}

impl Head {
    /// Appends the next packet of the flow to the one at `self.at`, if it is the next segment.
    fn take(&mut self, target: &mut Packet, packet: &mut Packet, unannounced: bool) -> bool {
        if self.run.is_none() {
            self.run = Run::new(target);
        }
        let Some(run) = self.run.as_mut().filter(|run| !run.closed) else { return false };
        parsed(packet).is_some_and(|headers| append(target, run, packet, &headers, unannounced))
    }
}

impl Run {
    /// `None` if nothing may follow.
    fn new(packet: &mut Packet) -> Option<Self> {
        let headers = parsed(packet)?;
        let size = packet.len() - headers.payload_offset();
        let open =
            size > 0 && is_data(packet.bytes(), &headers) && headers.tcp_flags & (FIN | PSH) == 0;
        open.then_some(Self { headers, size, segments: 1, verified: false, closed: false })
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

/// Appends a packet's payload to the run's, if it is the next segment.
fn append(
    target: &mut Packet,
    run: &mut Run,
    packet: &Packet,
    headers: &Headers,
    unannounced: bool,
) -> bool {
    let start = headers.payload_offset();
    let size = packet.len() - start;
    if size == 0
        || size > run.size
        || target.len() + size > PACKET_MAX
        || !is_data(packet.bytes(), headers)
        || !headers_agree(target.bytes(), run, packet.bytes(), headers)
        || !is_right(packet, headers, unannounced)
    {
        return false;
    }
    if !run.verified {
        if !is_right(target, &run.headers, unannounced) {
            // It stays what it is: for its receiver to refuse.
            run.closed = true;
            return false;
        }
        run.verified = true;
    }
    if !target.extend(&packet.bytes()[start..]) {
        return false;
    }
    run.segments += 1;
    let tcp = headers.protocol == protocol::TCP;
    let last = headers.tcp_flags & (FIN | PSH);
    if tcp {
        let flags = usize::from(run.headers.l3_len) + 13;
        target.bytes_mut()[flags] |= last;
    }
    run.closed = size < run.size || last != 0;
    describe(target, run, tcp);
    true
}

/// The next segment's headers say what segmentation of the whole would make them say.
#[inline]
fn headers_agree(target: &[u8], run: &Run, bytes: &[u8], headers: &Headers) -> bool {
    let first = &run.headers;
    if (first.ttl, first.tos, first.dont_fragment, first.l4_len)
        != (headers.ttl, headers.tos, headers.dont_fragment, headers.l4_len)
    {
        return false;
    }
    let l4 = usize::from(headers.l3_len);
    match headers.family {
        // The identification counts on, unless no one needs it (RFC 6864 §4.1).
        Family::V4 => {
            let next = be16(target, 4).wrapping_add(run.segments);
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
fn is_right(packet: &Packet, headers: &Headers, unannounced: bool) -> bool {
    if packet.offload().needs_checksum {
        return offload::is_partial(packet.offload(), headers);
    }
    unannounced && checksum::is_partial(headers, packet.bytes())
        || checksum::verify(headers, packet.bytes())
}

/// Makes the first's headers and offload those of the whole.
fn describe(target: &mut Packet, run: &Run, tcp: bool) {
    let total = target.len();
    let first = &run.headers;
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
        gso_size: run.size as u16,
        header_len: first.payload_offset() as u16,
        csum_start: first.l3_len,
        csum_offset,
    };
}

#[cfg(test)]
#[path = "gro_tests.rs"]
mod tests;
