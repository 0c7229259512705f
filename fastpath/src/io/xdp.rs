//! How do packets pass an `AF_XDP` socket? Copied between its frames and our slots, so that a
//! slow worker never holds the driver's buffers.
#![expect(
    unsafe_code,
    reason = "frames are shared with the kernel: who owns which is ours to keep"
)]

use super::packet_socket::sender::PacketSender;
use super::{Abilities, Framing, Queue, QueueError, Sent};
use crate::batch::Batch;
use crate::limits::BATCH;
use crate::outcome::DropReason;
use crate::packet::{Gso, Packet, Pool, PortId};
use arrayvec::ArrayVec;
use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt::SocketError};
use std::ffi::CString;
use std::io::{self, Write};
use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::thread;
use std::time::Duration;
use xsk_rs::config::{
    BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig,
};
use xsk_rs::umem::frame::FrameDesc;
use xsk_rs::{CompQueue, FillQueue, RxQueue, Socket, TxQueue, Umem};

/// Frames for receiving, and entries of their rings: what comes within 10 ms at 5 Gbit/s, for a
/// worker that does not run meanwhile. The kernel drops what finds none.
const RX_FRAMES: u32 = 4_096;
/// Frames for sending, and entries of their rings.
const TX_FRAMES: u32 = 2_048;
/// The kernel sends at most this many packets per wake-up.
const SENT_PER_WAKEUP: usize = 32;
/// A queue whose last owner has just gone is busy for a moment: the kernel lets go of it when no
/// link of any namespace is being changed.
const BUSY_TRIES: u32 = 100;
const BUSY_PAUSE: Duration = Duration::from_millis(20);
/// Ethernet header and one VLAN tag.
const LINK_HEADER: u32 = 18;

/// The largest interface MTU whose frames fit one buffer.
pub const MTU_MAX: u32 = 4_096 - 256 - LINK_HEADER;

/// Why there is no `AF_XDP` socket.
#[derive(Debug, thiserror::Error)]
pub enum XdpError {
    /// Frames would not fit one buffer.
    #[error("interface {interface}: MTU {mtu} is above {MTU_MAX}, the most one AF_XDP frame takes")]
    Mtu {
        /// The interface.
        interface: String,
        /// Its MTU.
        mtu: u32,
    },
    /// The kernel refused memory or socket.
    #[error("interface {interface}, queue {queue}: {step}: {error}")]
    Socket {
        /// The interface.
        interface: String,
        /// Its receive queue.
        queue: u32,
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
}

/// One receive queue of an interface, and a way to send by it.
pub struct XdpQueue {
    port: PortId,
    umem: Umem,
    rx: RxQueue,
    tx: TxQueue,
    fill: FillQueue,
    completed: CompQueue,
    free: Vec<FrameDesc>,
    /// Bytes one frame takes.
    room: usize,
    /// The way of batches with super-packets: a frame of this socket costs the kernel as much as
    /// a super-packet there.
    whole: Option<PacketSender>,
}

impl XdpQueue {
    /// Binds receive queue `queue` of `interface` (in the calling thread's network namespace) in
    /// copy mode. No program is loaded; [`super::steer::Steer::set_socket`] brings the packets.
    /// A queue that is still busy with its last owner is tried again for two seconds.
    pub fn open(port: PortId, interface: &str, queue: u32, mtu: u32) -> Result<Self, XdpError> {
        let frame_size = match mtu + LINK_HEADER {
            0..=1_792 => 2_048,
            1_793..=3_840 => 4_096,
            _ => return Err(XdpError::Mtu { interface: interface.to_owned(), mtu }),
        };
        let failed =
            |step, error| XdpError::Socket { interface: interface.to_owned(), queue, step, error };
        let mut tries = 0;
        loop {
            match Self::bind(port, interface, queue, frame_size) {
                Ok(opened) => return Ok(opened),
                Err((_, error))
                    if error.raw_os_error() == Some(libc::EBUSY) && tries < BUSY_TRIES =>
                {
                    tries += 1;
                    thread::sleep(BUSY_PAUSE);
                }
                Err((step, error)) => return Err(failed(step, error)),
            }
        }
    }

    fn bind(
        port: PortId,
        interface: &str,
        queue: u32,
        frame_size: u32,
    ) -> Result<Self, (&'static str, io::Error)> {
        let invalid = |step| (step, io::Error::from(Errno::EINVAL));
        let size = |frames| QueueSize::new(frames).map_err(|_| invalid("ring size"));
        let (rx_size, tx_size) = (size(RX_FRAMES)?, size(TX_FRAMES)?);
        let frame_size = FrameSize::new(frame_size).map_err(|_| invalid("frame size"))?;
        let umem_config = UmemConfig::builder()
            .frame_size(frame_size)
            .fill_queue_size(rx_size)
            .comp_queue_size(tx_size)
            .build()
            .map_err(|_| invalid("frame layout"))?;
        let config = SocketConfig::builder()
            .rx_queue_size(rx_size)
            .tx_queue_size(tx_size)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(BindFlags::XDP_COPY | BindFlags::XDP_USE_NEED_WAKEUP)
            .build();
        let name = CString::new(interface).map_err(|e| ("name", io::Error::other(e)))?;
        let frames = NonZeroU32::MIN.saturating_add(RX_FRAMES + TX_FRAMES - 1);
        let (umem, mut free) =
            Umem::new(umem_config, frames, false).map_err(|e| ("frame memory", source(&e)))?;
        // SAFETY: the memory is new, so no other socket uses its frames.
        let (tx, rx, rings) = unsafe { Socket::new(config, &umem, &Interface::new(name), queue) }
            .map_err(|e| ("AF_XDP socket", source(&e)))?;
        let Some((mut fill, completed)) = rings else {
            return Err(("AF_XDP rings", Errno::EINVAL.into()));
        };
        let receiving = free.split_off(TX_FRAMES as usize);
        // SAFETY: these frames are the kernel's from here on and not in `free`.
        let given = unsafe { fill.produce(&receiving) };
        debug_assert_eq!(given, receiving.len(), "the ring has an entry for every frame");
        let room = umem_config.mtu() as usize;
        Ok(Self { port, umem, rx, tx, fill, completed, free, room, whole: None })
    }

    /// Sends super-packets by `sender`.
    pub(super) fn with_sender(self, sender: PacketSender) -> Self {
        Self { whole: Some(sender), ..self }
    }

    /// Takes back the frames that were sent.
    fn recycle(&mut self) {
        let mut done = [FrameDesc::default(); BATCH];
        loop {
            // SAFETY: every frame in this ring was handed to the kernel by `transmit`.
            let n = unsafe { self.completed.consume(&mut done) };
            self.free.extend_from_slice(&done[..n]);
            if n < done.len() {
                return;
            }
        }
    }

    /// Copies a packet into a free frame.
    fn stage(&mut self, packet: &Packet) -> Result<FrameDesc, DropReason> {
        if packet.offload().needs_checksum || packet.offload().gso != Gso::None {
            return Err(DropReason::DeviceError);
        }
        if packet.len() > self.room {
            return Err(DropReason::MtuExceeded);
        }
        let mut frame = self.free.pop().ok_or(DropReason::QueueFull)?;
        // SAFETY: frames in `free` belong to this memory and to nobody else.
        let mut data = unsafe { self.umem.data_mut(&mut frame) };
        let copied = data.cursor().write_all(packet.bytes());
        debug_assert!(copied.is_ok(), "the room was checked");
        Ok(frame)
    }

    /// Asks the kernel to send what is in the ring: each call sends a bounded number.
    fn kick(&mut self) {
        for _ in 0..=BATCH.div_ceil(SENT_PER_WAKEUP) {
            if self.tx.nb_free_exact() == TX_FRAMES || !self.tx.needs_wakeup() {
                return;
            }
            if self.tx.wakeup().is_err() {
                // Down or gone; the frames wait in the ring, receive finds out which.
                return;
            }
        }
    }
}

impl AsFd for XdpQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the socket lives as long as its receive queue.
        unsafe { BorrowedFd::borrow_raw(self.rx.fd().as_raw_fd()) }
    }
}

impl Queue for XdpQueue {
    fn port(&self) -> PortId {
        self.port
    }

    fn framing(&self) -> Framing {
        Framing::Ethernet
    }

    fn abilities(&self) -> Abilities {
        // A checksum is left open only where nothing is left to the packet's own frame.
        let whole = self.whole.as_ref().map(PacketSender::abilities).unwrap_or_default();
        Abilities { checksum: false, ..whole }
    }

    fn readable_fd(&self) -> Option<RawFd> {
        Some(self.rx.fd().as_raw_fd())
    }

    fn receive(
        &mut self,
        pool: &mut Pool,
        batch: &mut Batch,
        budget: usize,
    ) -> Result<usize, QueueError> {
        let budget = budget.min(batch.remaining_capacity());
        let mut frames = [FrameDesc::default(); BATCH];
        let mut taken = 0;
        // The ring answers from what it saw last and looks again only when that is used up.
        loop {
            let room = (budget - taken).min(pool.available());
            // SAFETY: every frame in this ring was handed to the kernel for receiving.
            let n = unsafe { self.rx.consume(&mut frames[..room]) };
            if n == 0 {
                break;
            }
            for frame in &frames[..n] {
                let Some(mut packet) = pool.take() else { break };
                // SAFETY: the kernel gave the frame back; it is ours until the fill ring has it.
                packet.fill(unsafe { self.umem.data(frame) }.contents());
                packet.set_in_port(self.port);
                batch.push(packet);
            }
            // SAFETY: the frames were copied; no reference to them is left.
            unsafe { self.fill.produce(&frames[..n]) };
            taken += n;
        }
        if taken == 0 {
            // Only a device that went away puts an error on the socket.
            return match getsockopt(&self.as_fd(), SocketError) {
                Ok(0) => Ok(0),
                Ok(libc::ENETDOWN | libc::ENODEV | libc::ENXIO) => Err(QueueError::Gone),
                Ok(errno) => Err(QueueError::Failed(errno)),
                Err(errno) => Err(QueueError::Failed(errno as i32)),
            };
        }
        if self.fill.needs_wakeup() {
            // A failed wake-up is repeated with the next batch.
            let _ = self.fill.wakeup(self.rx.fd_mut(), 0);
        }
        Ok(taken)
    }

    fn transmit(&mut self, pool: &mut Pool, batch: &mut Batch) -> Sent {
        self.recycle();
        if let Some(sender) = &self.whole
            && batch.iter().any(|packet| packet.offload().gso != Gso::None)
        {
            // The whole batch, so that nothing overtakes.
            return sender.transmit(pool, batch);
        }
        let mut sent = Sent::default();
        let mut frames: ArrayVec<FrameDesc, BATCH> = ArrayVec::new();
        for packet in batch.drain(..) {
            match self.stage(&packet) {
                Ok(frame) => {
                    frames.push(frame);
                    sent.packets += 1;
                    sent.bytes += packet.len();
                }
                Err(reason) => {
                    sent.refused += 1;
                    sent.reason = Some(reason);
                }
            }
            pool.give(packet);
        }
        // SAFETY: the frames were taken out of `free`; the kernel gives them back when sent.
        let queued = unsafe { self.tx.produce(&frames) };
        debug_assert_eq!(queued, frames.len(), "the ring has an entry for every frame");
        self.kick();
        sent
    }

    fn housekeep(&mut self, _pool: &mut Pool) {
        self.recycle();
        self.kick();
    }

    fn has_unsent(&mut self) -> bool {
        self.tx.nb_free_exact() != TX_FRAMES
    }
}

/// The system's error behind one of the crate's, so that its number can be read.
fn source(error: &dyn std::error::Error) -> io::Error {
    let inner = error.source().and_then(|e| e.downcast_ref::<io::Error>());
    match inner.and_then(io::Error::raw_os_error) {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::other(error.to_string()),
    }
}
