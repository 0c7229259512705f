//! How do super-packets leave by a device that takes them whole? By a packet socket, with a virtio
//! header each; the kernel or the device cuts them, which costs a fraction of sending the pieces.
#![expect(unsafe_code, reason = "batches of messages have no safe form")]

use super::{BUFFER, NO_PART, bind, no_messages, raw_socket, set};
use crate::batch::Batch;
use crate::io::{Abilities, Sent, vnet};
use crate::limits::BATCH;
use crate::outcome::DropReason;
use crate::packet::{Packet, Pool};
use arrayvec::ArrayVec;
use nix::errno::Errno;
use std::ffi::{c_int, c_uint};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// What tells the program at egress which packets are ours: mark and priority together, as
/// `steer.bpf.c` knows them. Setting either takes `CAP_NET_ADMIN`.
const MARK: c_int = 0x7652_6f75;
const PRIORITY: c_int = 0x7465_7200;

/// The sending half of a packet socket, bound to one interface.
#[derive(Debug)]
pub(in crate::io) struct PacketSender {
    socket: OwnedFd,
    /// Keeps the program attached that makes tunnelled super-packets known as such.
    tunnels: Option<Arc<OwnedFd>>,
}

impl PacketSender {
    /// Opens it in the calling thread's network namespace. `tunnels` is the link of the program at
    /// this interface's egress, without which TCP in a tunnel must be cut beforehand.
    pub(in crate::io) fn open(index: u32, tunnels: Option<Arc<OwnedFd>>) -> io::Result<Self> {
        let socket = raw_socket()?;
        set(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, BUFFER)?;
        if tunnels.is_some() {
            set(&socket, libc::SOL_SOCKET, libc::SO_MARK, MARK)?;
            set(&socket, libc::SOL_SOCKET, libc::SO_PRIORITY, PRIORITY)?;
        }
        bind(&socket, index, 0)?;
        Ok(Self { socket, tunnels })
    }

    pub(in crate::io) fn abilities(&self) -> Abilities {
        Abilities {
            checksum: true,
            tcp_segmentation: true,
            udp_segmentation: true,
            tunnel_segmentation: self.tunnels.is_some(),
        }
    }

    /// As [`crate::io::Queue::transmit`].
    pub(in crate::io) fn transmit(&self, pool: &mut Pool, batch: &mut Batch) -> Sent {
        let mut sent = Sent::default();
        let mut ready: Batch = ArrayVec::new();
        for mut packet in batch.drain(..) {
            let header = vnet::encode(packet.offload());
            if let Some(room) = packet.push_front(vnet::LEN) {
                room.copy_from_slice(&header);
                ready.push(packet);
            } else {
                (sent.refused, sent.reason) = (sent.refused + 1, Some(DropReason::NoHeadroom));
                pool.give(packet);
            }
        }
        let mut at = 0;
        while at < ready.len() {
            match send_batch(self.socket.as_fd(), &mut ready[at..]) {
                Ok(n) => {
                    sent.packets += n;
                    sent.bytes +=
                        ready[at..at + n].iter().map(|p| p.len() - vnet::LEN).sum::<usize>();
                    at += n;
                }
                Err(Errno::EINTR) => {}
                Err(errno) => {
                    // The error belongs to the first of them; the rest gets its own try.
                    (sent.refused, sent.reason) = (sent.refused + 1, Some(refusal(errno)));
                    at += 1;
                }
            }
        }
        for packet in ready {
            pool.give(packet);
        }
        sent
    }
}

fn refusal(errno: Errno) -> DropReason {
    match errno {
        Errno::EAGAIN | Errno::ENOBUFS => DropReason::QueueFull,
        Errno::EMSGSIZE => DropReason::MtuExceeded,
        Errno::ENXIO | Errno::ENODEV => DropReason::PortGone,
        _ => DropReason::DeviceError,
    }
}

/// Sends packets that begin with their header; how many were taken.
fn send_batch(fd: BorrowedFd<'_>, packets: &mut [Packet]) -> Result<usize, Errno> {
    let mut parts = [NO_PART; BATCH];
    let mut messages = no_messages();
    for ((packet, part), message) in packets.iter_mut().zip(&mut parts).zip(&mut messages) {
        let bytes = packet.bytes_mut();
        *part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        message.msg_hdr.msg_iov = part;
        message.msg_hdr.msg_iovlen = 1;
    }
    let count = packets.len().min(BATCH) as c_uint;
    // SAFETY: the first `count` messages point to one part each, the parts to the packets' bytes,
    // and all of them live during the call.
    let sent = Errno::result(unsafe {
        libc::sendmmsg(fd.as_raw_fd(), messages.as_mut_ptr(), count, libc::MSG_DONTWAIT)
    })?;
    Ok(sent.unsigned_abs() as usize)
}
