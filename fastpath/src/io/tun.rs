//! How do packets pass a TUN device? One system call each, the virtio header in the headroom.

use super::vnet;
use super::{Abilities, Framing, Queue, QueueError, Sent};
use crate::batch::Batch;
use crate::outcome::DropReason;
use crate::packet::{Packet, Pool, PortId};
use nix::errno::Errno;
use nix::unistd;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

mod device;

pub use device::{
    TunError, TunOptions, UNUSED_OWNER, VNET_HEADER, current_name, current_netns, open, prepare,
    set_carrier,
};

/// One queue of a TUN device. Plain `read` and `write` beat every other way in and out of TUN
/// (`readv`, `io_uring`), and several queues may write to one descriptor (see
/// [`TunQueue::writer`]).
#[derive(Debug)]
pub struct TunQueue {
    port: PortId,
    fd: OwnedFd,
    reads: bool,
}

impl TunQueue {
    /// A queue of `port` over a descriptor that [`open`] made or [`prepare`] made ready.
    pub fn new(port: PortId, fd: OwnedFd) -> Self {
        Self { port, fd, reads: true }
    }

    /// A queue that only sends, over a copy of a single-queue device's descriptor: a further
    /// worker writes through it without a hand-over.
    pub fn writer(port: PortId, fd: OwnedFd) -> Self {
        Self { port, fd, reads: false }
    }

    fn read_one(&self, packet: &mut Packet) -> Result<(), Errno> {
        let space = packet.space(VNET_HEADER);
        let filled = unistd::read(self.fd.as_fd(), space)?;
        let mut header = [0; VNET_HEADER];
        header.copy_from_slice(&space[..VNET_HEADER]);
        packet.set_filled(filled.saturating_sub(VNET_HEADER));
        let offload = vnet::decode(header, packet.bytes());
        *packet.offload_mut() = offload;
        packet.set_in_port(self.port);
        Ok(())
    }

    fn write_one(&self, packet: &mut Packet) -> Result<usize, DropReason> {
        let len = packet.len();
        let header = vnet::encode(packet.offload());
        let room = packet.push_front(VNET_HEADER).ok_or(DropReason::NoHeadroom)?;
        room.copy_from_slice(&header);
        loop {
            return match unistd::write(self.fd.as_fd(), packet.bytes()) {
                Ok(_) => Ok(len),
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN | Errno::ENOBUFS) => Err(DropReason::QueueFull),
                // Reported as gone when it is next read.
                Err(Errno::EBADFD | Errno::ENODEV) => Err(DropReason::PortGone),
                // EIO: the link is down. EINVAL: offload offsets outside the packet.
                Err(_) => Err(DropReason::DeviceError),
            };
        }
    }
}

impl AsFd for TunQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Queue for TunQueue {
    fn port(&self) -> PortId {
        self.port
    }

    fn framing(&self) -> Framing {
        Framing::Ip
    }

    fn abilities(&self) -> Abilities {
        Abilities {
            checksum: true,
            tcp_segmentation: true,
            udp_segmentation: true,
            tunnel_segmentation: false,
        }
    }

    fn receives(&self) -> bool {
        self.reads
    }

    fn readable_fd(&self) -> Option<RawFd> {
        self.reads.then(|| self.fd.as_raw_fd())
    }

    fn receive(
        &mut self,
        pool: &mut Pool,
        batch: &mut Batch,
        budget: usize,
    ) -> Result<usize, QueueError> {
        let budget = if self.reads { budget.min(batch.remaining_capacity()) } else { 0 };
        let mut taken = 0;
        while taken < budget {
            let Some(mut packet) = pool.take() else { break };
            match self.read_one(&mut packet) {
                Ok(()) => {
                    batch.push(packet);
                    taken += 1;
                }
                Err(errno) => {
                    pool.give(packet);
                    match errno {
                        Errno::EINTR => {}
                        Errno::EAGAIN => break,
                        Errno::EBADFD | Errno::ENODEV => return Err(QueueError::Gone),
                        other => return Err(QueueError::Failed(other as i32)),
                    }
                }
            }
        }
        Ok(taken)
    }

    fn transmit(&mut self, pool: &mut Pool, batch: &mut Batch) -> Sent {
        let mut sent = Sent::default();
        for mut packet in batch.drain(..) {
            match self.write_one(&mut packet) {
                Ok(len) => {
                    sent.packets += 1;
                    sent.bytes += len;
                }
                Err(reason) => {
                    sent.refused += 1;
                    sent.reason = Some(reason);
                }
            }
            pool.give(packet);
        }
        sent
    }
}
