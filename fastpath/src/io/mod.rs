//! How do packets enter and leave? Through a [`Queue`]: one dynamic call per batch.

pub mod fault;
pub mod memory;
pub mod netdev;
pub mod packet_socket;
pub mod pcap;
pub mod steer;
pub mod tun;
pub mod uplink;
mod vnet;
pub mod xdp;

use crate::batch::Batch;
use crate::outcome::DropReason;
use crate::packet::{Pool, PortId};
use std::os::fd::RawFd;

/// What the bytes of a port's packets start with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Framing {
    /// The IP header (TUN).
    Ip,
    /// An Ethernet header (uplinks, veth pod ports).
    Ethernet,
}

/// What a device can be asked to do on transmission; what it can't, egress does beforehand.
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that a device does or not")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// Finishes partial checksums ([`crate::packet::Offload::needs_checksum`]).
    pub checksum: bool,
    /// Takes TCP super-packets.
    pub tcp_segmentation: bool,
    /// Takes UDP super-packets.
    pub udp_segmentation: bool,
    /// Takes TCP super-packets behind a tunnel's outer IPv4 header.
    pub tunnel_segmentation: bool,
}

/// What became of a transmitted batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Packets the device took.
    pub packets: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Packets it did not take (dropped).
    pub refused: usize,
    /// Why the last of them was refused.
    pub reason: Option<DropReason>,
}

/// A device that is gone or broken; the port is reported to the control plane and closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// The device or its network namespace was deleted.
    #[error("the device is gone")]
    Gone,
    /// Another failure, with the system's error number.
    #[error("the device failed with system error {0}")]
    Failed(i32),
}

/// One receive and transmit queue of a port. Owned by one worker at a time.
pub trait Queue: Send {
    /// The port it belongs to.
    fn port(&self) -> PortId;

    /// What its packets start with.
    fn framing(&self) -> Framing;

    /// What it can do on transmission.
    fn abilities(&self) -> Abilities;

    /// The descriptor that becomes readable when packets wait; `None` for in-process queues,
    /// which are asked every round.
    fn readable_fd(&self) -> Option<RawFd>;

    /// Does it receive at all? One that only sends (a further writer of a device) is never asked.
    fn receives(&self) -> bool {
        true
    }

    /// Takes up to `budget` waiting packets into `batch` (slots from `pool`; `in_port` and offload
    /// set); fewer than `budget` means that none waits now. Never blocks.
    ///
    /// # Errors
    /// The device is gone or broken.
    fn receive(
        &mut self,
        pool: &mut Pool,
        batch: &mut Batch,
        budget: usize,
    ) -> Result<usize, QueueError>;

    /// Sends all of `batch` (slots go back to `pool`), whole super-packets only as far as
    /// [`Queue::abilities`] says. Never blocks; what does not fit is refused and counted.
    fn transmit(&mut self, pool: &mut Pool, batch: &mut Batch) -> Sent;

    /// Housekeeping between rounds (completion rings, wake-up flags); most need none.
    fn housekeep(&mut self, pool: &mut Pool) {
        let _ = pool;
    }

    /// Packets that count as sent still wait for the device to take them, and nothing but
    /// [`Queue::housekeep`] moves them.
    fn has_unsent(&mut self) -> bool {
        false
    }
}
