//! What is a packet here? One slot of memory with headroom, the bytes in it, and their metadata.

use crate::limits::{HEADROOM, SLOT};
use bytemuck::Zeroable;
use std::fmt;

/// A port: one device's queues. Dense, small, reused after a port is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Zeroable)]
#[repr(transparent)]
pub struct PortId(pub u16);

/// The kind of super-packet an [`Offload`] describes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Zeroable)]
#[repr(u8)]
pub enum Gso {
    /// One packet as it will be on the wire.
    #[default]
    None = 0,
    /// TCP over IPv4, cut at `gso_size`.
    Tcp4 = 1,
    /// TCP over IPv6, cut at `gso_size`.
    Tcp6 = 2,
    /// UDP, cut into datagrams of `gso_size` (USO).
    Udp = 3,
}

/// What an offload header (virtio network header) says of a packet. Offsets count from the
/// first byte of [`Packet::bytes`]. The default is an ordinary packet with finished checksums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Zeroable)]
#[repr(C)]
pub struct Offload {
    /// The transport checksum field holds the pseudo-header sum only; `csum_start` and
    /// `csum_offset` say what the rest covers and where it is stored.
    pub needs_checksum: bool,
    /// The kind of super-packet.
    pub gso: Gso,
    /// Payload bytes of each segment (0 for [`Gso::None`]).
    pub gso_size: u16,
    /// Bytes of the headers every segment repeats (0: not given).
    pub header_len: u16,
    /// First byte that the transport checksum covers.
    pub csum_start: u16,
    /// Where the checksum stands, counted from `csum_start`.
    pub csum_offset: u16,
}

/// One slot: metadata in its own cache line, then headroom and bytes.
#[derive(Zeroable)]
#[repr(C, align(64))]
struct Slot {
    start: u32,
    len: u32,
    in_port: PortId,
    mark: u16,
    offload: Offload,
    data: [u8; SLOT],
}

/// One packet: an owned slot. Moving it moves a pointer; slots come from a [`Pool`] and go back
/// to it, so that nothing is allocated while packets flow.
pub struct Packet(Box<Slot>);

impl Packet {
    /// A slot of zeroed memory outside any pool (tests, start-up, the control plane).
    pub fn new() -> Self {
        let mut slot: Box<Slot> = bytemuck::zeroed_box();
        slot.start = HEADROOM as u32;
        Self(slot)
    }

    /// A packet of the given bytes (cut at what a slot holds).
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut packet = Self::new();
        packet.fill(bytes);
        packet
    }

    /// Empties the slot: full headroom, no bytes, no metadata.
    pub fn reset(&mut self) {
        self.0.start = HEADROOM as u32;
        self.0.len = 0;
        self.0.offload = Offload::default();
        self.0.in_port = PortId::default();
        self.0.mark = 0;
    }

    /// Replaces the bytes, behind full headroom; returns how many fitted.
    pub fn fill(&mut self, bytes: &[u8]) -> usize {
        let len = bytes.len().min(SLOT - HEADROOM);
        self.0.start = HEADROOM as u32;
        self.0.len = len as u32;
        self.0.data[HEADROOM..HEADROOM + len].copy_from_slice(&bytes[..len]);
        len
    }

    /// Bytes of the packet.
    pub fn len(&self) -> usize {
        self.0.len as usize
    }

    /// No bytes at all.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// The packet's bytes.
    pub fn bytes(&self) -> &[u8] {
        let start = self.0.start as usize;
        &self.0.data[start..start + self.0.len as usize]
    }

    /// The packet's bytes, to be changed in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let start = self.0.start as usize;
        let len = self.0.len as usize;
        &mut self.0.data[start..start + len]
    }

    /// Where a device may write `PACKET_MAX` bytes and more, the first `front` of them (a device's
    /// own header) in the headroom; [`Packet::set_filled`] says afterwards how much came.
    pub fn space(&mut self, front: usize) -> &mut [u8] {
        assert!(front <= HEADROOM, "a device header larger than the headroom");
        &mut self.0.data[HEADROOM - front..]
    }

    /// `len` bytes stand behind the headroom now (see [`Packet::space`]).
    pub fn set_filled(&mut self, len: usize) {
        assert!(len <= SLOT - HEADROOM, "more bytes than the slot holds");
        self.0.start = HEADROOM as u32;
        self.0.len = len as u32;
    }

    /// Bytes free in front.
    pub fn headroom(&self) -> usize {
        self.0.start as usize
    }

    /// Grows the packet by `n` bytes at the front and returns them; `None` without headroom.
    /// Offload offsets move along.
    pub fn push_front(&mut self, n: usize) -> Option<&mut [u8]> {
        let start = (self.0.start as usize).checked_sub(n)?;
        self.0.start = start as u32;
        self.0.len += n as u32;
        let offload = &mut self.0.offload;
        if offload.needs_checksum {
            offload.csum_start = offload.csum_start.saturating_add(n as u16);
        }
        if offload.header_len != 0 {
            offload.header_len = offload.header_len.saturating_add(n as u16);
        }
        Some(&mut self.0.data[start..start + n])
    }

    /// Cuts `n` bytes off the front; false (and no change) if there are fewer. Offload offsets
    /// move along.
    pub fn pull_front(&mut self, n: usize) -> bool {
        if n > self.len() {
            return false;
        }
        self.0.start += n as u32;
        self.0.len -= n as u32;
        let offload = &mut self.0.offload;
        if offload.needs_checksum {
            offload.csum_start = offload.csum_start.saturating_sub(n as u16);
        }
        offload.header_len = offload.header_len.saturating_sub(n as u16);
        true
    }

    /// Shortens the packet to `len` bytes (link padding behind the IP packet).
    pub fn truncate(&mut self, len: usize) {
        self.0.len = self.0.len.min(len as u32);
    }

    /// Appends bytes; false (and no change) if they do not fit.
    pub fn extend(&mut self, bytes: &[u8]) -> bool {
        let end = self.0.start as usize + self.0.len as usize;
        let Some(room) = self.0.data.get_mut(end..end + bytes.len()) else { return false };
        room.copy_from_slice(bytes);
        self.0.len += bytes.len() as u32;
        true
    }

    /// The port it came in by.
    pub fn in_port(&self) -> PortId {
        self.0.in_port
    }

    /// Says by which port it came in.
    pub fn set_in_port(&mut self, port: PortId) {
        self.0.in_port = port;
    }

    /// Bits that the stages keep with it; 0 in a fresh slot.
    pub fn mark(&self) -> u16 {
        self.0.mark
    }

    /// Sets those bits.
    pub fn set_mark(&mut self, mark: u16) {
        self.0.mark = mark;
    }

    /// What its offload header says.
    pub fn offload(&self) -> &Offload {
        &self.0.offload
    }

    /// What its offload header says, to be changed.
    pub fn offload_mut(&mut self) -> &mut Offload {
        &mut self.0.offload
    }

    /// Makes this packet a copy of another.
    pub fn copy_from(&mut self, other: &Self) {
        self.0.start = other.0.start;
        self.0.len = other.0.len;
        self.0.in_port = other.0.in_port;
        self.0.mark = other.0.mark;
        self.0.offload = other.0.offload;
        self.bytes_mut().copy_from_slice(other.bytes());
    }
}

impl Default for Packet {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packet")
            .field("in_port", &self.0.in_port)
            .field("len", &self.0.len)
            .field("offload", &self.0.offload)
            .finish_non_exhaustive()
    }
}

/// A worker's free slots. Taken at start; a packet that leaves gives its slot back.
pub struct Pool {
    free: Vec<Packet>,
}

impl Pool {
    /// A pool of `slots` free slots. Their memory is the system's until a packet first touches it;
    /// last in is first out, so a quiet node keeps touching the same few.
    pub fn new(slots: usize) -> Self {
        let mut free = Vec::with_capacity(slots);
        free.resize_with(slots, Packet::new);
        Self { free }
    }

    /// A pool of `slots` free slots with room for `spare` more that come from elsewhere.
    pub fn with_spare(slots: usize, spare: usize) -> Self {
        let mut pool = Self::new(slots);
        pool.free.reserve_exact(spare);
        pool
    }

    /// A free slot, emptied; `None` when all are under way.
    pub fn take(&mut self) -> Option<Packet> {
        let mut packet = self.free.pop()?;
        packet.reset();
        Some(packet)
    }

    /// Gives a slot back. One that came from elsewhere and does not fit is freed.
    pub fn give(&mut self, packet: Packet) {
        if self.free.len() < self.free.capacity() {
            self.free.push(packet);
        }
    }

    /// Free slots.
    pub fn available(&self) -> usize {
        self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_and_go_with_their_offsets() {
        let mut p = Packet::from_bytes(&[1, 2, 3, 4]);
        p.offload_mut().needs_checksum = true;
        p.offload_mut().csum_start = 2;
        p.push_front(20).expect("headroom").fill(9);
        assert_eq!((p.len(), p.offload().csum_start), (24, 22));
        assert!(p.pull_front(20));
        assert_eq!((p.bytes(), p.offload().csum_start), (&[1, 2, 3, 4][..], 2));
        assert!(!p.pull_front(5));
        assert!(p.push_front(HEADROOM + 1).is_none());
        assert!(p.extend(&[5]) && p.bytes() == [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_pool_gives_out_what_it_has_and_no_more() {
        let mut pool = Pool::new(2);
        let (a, b) = (pool.take().expect("one"), pool.take().expect("two"));
        assert!(pool.take().is_none());
        pool.give(a);
        pool.give(b);
        pool.give(Packet::new());
        assert_eq!(pool.available(), 2);
    }
}
