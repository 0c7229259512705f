//! How do packets pass a packet socket (`AF_PACKET`)? In batches, with a virtio header each, so
//! that super-packets and unfinished checksums pass both ways.
#![expect(unsafe_code, reason = "batches of messages and packet socket options have no safe form")]

use super::vnet;
use super::{Abilities, Framing, Queue, QueueError, Sent};
use crate::batch::Batch;
use crate::limits::BATCH;
use crate::packet::{Packet, Pool, PortId};
use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType};
use sender::PacketSender;
use std::ffi::{c_int, c_uint};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::{io, mem, ptr};

pub(super) mod sender;

/// Bytes the kernel may keep for us in each direction: some hundred super-packets.
const BUFFER: c_int = 8 << 20;
/// Not named by every version of the C library: our own packets do not come back.
const PACKET_IGNORE_OUTGOING: c_int = 23;
const PACKET_VNET_HDR: c_int = 15;
const SO_ATTACH_BPF: c_int = 50;

/// A packet socket bound to one interface.
#[derive(Debug)]
pub struct PacketQueue {
    port: PortId,
    rx: OwnedFd,
    sender: PacketSender,
    down: bool,
}

impl PacketQueue {
    /// Opens a socket on the interface with this index, in the calling thread's network
    /// namespace. `filter` is a loaded socket filter program ([`super::steer::Steer::filter_fd`])
    /// that chooses what comes; without it everything does.
    ///
    /// # Errors
    /// What the kernel said: `EPERM` without `CAP_NET_RAW`, `ENODEV` without such an interface.
    pub fn open(port: PortId, index: u32, filter: Option<BorrowedFd<'_>>) -> io::Result<Self> {
        Self::with_sender(port, index, filter, PacketSender::open(index, None)?)
    }

    pub(super) fn with_sender(
        port: PortId,
        index: u32,
        filter: Option<BorrowedFd<'_>>,
        sender: PacketSender,
    ) -> io::Result<Self> {
        let rx = raw_socket()?;
        set(&rx, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
        if let Some(filter) = filter {
            set(&rx, libc::SOL_SOCKET, SO_ATTACH_BPF, filter.as_raw_fd())?;
        }
        set(&rx, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER)?;
        // Bound last, so that nothing comes that the filter has not seen.
        bind(&rx, index, (libc::ETH_P_ALL as u16).to_be())?;
        Ok(Self { port, rx, sender, down: false })
    }

    /// Is the interface deleted? The kernel unbinds the socket then (index -1).
    fn is_gone(&self) -> bool {
        let mut address = no_address();
        let mut len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `len` bytes of an address of this family.
        let code = unsafe {
            libc::getsockname(self.rx.as_raw_fd(), (&raw mut address).cast(), &raw mut len)
        };
        code == 0 && address.sll_ifindex < 0
    }

    /// Takes one system call's worth of packets; how many messages that were.
    fn receive_some(
        &self,
        pool: &mut Pool,
        batch: &mut Batch,
        budget: usize,
    ) -> Result<usize, Errno> {
        let mut slots: Batch = (0..budget).map_while(|_| pool.take()).collect();
        let mut lengths = [0; BATCH];
        let received = receive_batch(self.rx.as_fd(), &mut slots, &mut lengths);
        let filled = *received.as_ref().unwrap_or(&0);
        for (at, mut packet) in slots.into_iter().enumerate() {
            if at >= filled || lengths[at] < vnet::LEN {
                pool.give(packet);
                continue;
            }
            let mut header = [0; vnet::LEN];
            header.copy_from_slice(&packet.space(vnet::LEN)[..vnet::LEN]);
            packet.set_filled(lengths[at] - vnet::LEN);
            let offload = vnet::decode(header, packet.bytes());
            *packet.offload_mut() = offload;
            packet.set_in_port(self.port);
            batch.push(packet);
        }
        received
    }
}

impl AsFd for PacketQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.rx.as_fd()
    }
}

impl Queue for PacketQueue {
    fn port(&self) -> PortId {
        self.port
    }

    fn framing(&self) -> Framing {
        Framing::Ethernet
    }

    fn abilities(&self) -> Abilities {
        self.sender.abilities()
    }

    fn readable_fd(&self) -> Option<RawFd> {
        Some(self.rx.as_raw_fd())
    }

    fn receive(
        &mut self,
        pool: &mut Pool,
        batch: &mut Batch,
        budget: usize,
    ) -> Result<usize, QueueError> {
        let before = batch.len();
        let end = batch.capacity().min(before + budget);
        // Fewer than asked for has to mean that none waits, so what is no packet is made up for.
        for _ in 0..BATCH {
            let asked = (end - batch.len()).min(pool.available());
            if asked == 0 {
                break;
            }
            match self.receive_some(pool, batch, asked) {
                Ok(messages) => {
                    self.down = false;
                    if messages < asked {
                        break;
                    }
                }
                // EINVAL: a kind of super-packet that the header can't describe (it is dropped).
                Err(Errno::EINTR | Errno::EINVAL) => {}
                Err(Errno::EAGAIN) => break,
                Err(Errno::ENETDOWN) => {
                    self.down = true;
                    break;
                }
                Err(errno) => return Err(QueueError::Failed(errno as i32)),
            }
        }
        if self.down && self.is_gone() {
            return Err(QueueError::Gone);
        }
        Ok(batch.len() - before)
    }

    fn transmit(&mut self, pool: &mut Pool, batch: &mut Batch) -> Sent {
        self.sender.transmit(pool, batch)
    }
}

/// Receives into the space in front of and behind each slot's headroom edge; how many came, and
/// their lengths with header (0: it did not fit).
fn receive_batch(
    fd: BorrowedFd<'_>,
    slots: &mut [Packet],
    lengths: &mut [usize; BATCH],
) -> Result<usize, Errno> {
    let mut parts = [NO_PART; BATCH];
    let mut messages = no_messages();
    for ((slot, part), message) in slots.iter_mut().zip(&mut parts).zip(&mut messages) {
        let space = slot.space(vnet::LEN);
        *part = libc::iovec { iov_base: space.as_mut_ptr().cast(), iov_len: space.len() };
        message.msg_hdr.msg_iov = part;
        message.msg_hdr.msg_iovlen = 1;
    }
    let count = slots.len().min(BATCH) as c_uint;
    // SAFETY: the first `count` messages point to one part each, the parts to the slots' memory,
    // and all of them live during the call.
    let received = Errno::result(unsafe {
        libc::recvmmsg(
            fd.as_raw_fd(),
            messages.as_mut_ptr(),
            count,
            libc::MSG_DONTWAIT,
            ptr::null_mut(),
        )
    })?;
    for (length, message) in lengths.iter_mut().zip(&messages) {
        let cut = message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
        *length = if cut { 0 } else { message.msg_len as usize };
    }
    Ok(received.unsigned_abs() as usize)
}

const NO_PART: libc::iovec = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };

fn no_messages() -> [libc::mmsghdr; BATCH] {
    // SAFETY: a message header is plain data, all zeroes is one without buffers.
    unsafe { mem::zeroed() }
}

fn no_address() -> libc::sockaddr_ll {
    // SAFETY: an address is plain data, all zeroes is a valid value.
    unsafe { mem::zeroed() }
}

fn raw_socket() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket::socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
    set(&fd, libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
    Ok(fd)
}

fn set(fd: &OwnedFd, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    let len = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: the value is an int that lives during the call.
    let code =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const value).cast(), len) };
    Errno::result(code)?;
    Ok(())
}

fn bind(fd: &OwnedFd, index: u32, protocol: u16) -> io::Result<()> {
    let mut address = no_address();
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol;
    address.sll_ifindex = i32::try_from(index).map_err(|_| Errno::ENODEV)?;
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the address lives during the call.
    let code = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) };
    Errno::result(code)?;
    Ok(())
}
