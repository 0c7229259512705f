//! How do packets enter and leave without a device? Through a pair: what one end pushes, the
//! other's [`Queue`] receives, and the other way round.
//!
//! For tests, benches and replay. After warm-up neither direction allocates: buffers go round.

use super::{Abilities, Framing, Queue, QueueError, Sent};
use crate::batch::Batch;
use crate::outcome::DropReason;
use crate::packet::{Offload, Packet, Pool, PortId};
use crossbeam::queue::ArrayQueue;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What the port behind a pair is like.
#[derive(Clone, Copy, Debug)]
pub struct MemoryConfig {
    /// The port.
    pub port: PortId,
    /// What its packets start with.
    pub framing: Framing,
    /// What the "device" says it can do.
    pub abilities: Abilities,
    /// Packets that may wait in each direction.
    pub capacity: usize,
    /// Transmitted packets are counted and forgotten (benches); [`MemoryDevice::take`] gives none.
    pub discard: bool,
    /// Pushed packets are received again and again, in order (benches).
    pub replay: bool,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            port: PortId::default(),
            framing: Framing::Ip,
            abilities: Abilities {
                checksum: true,
                tcp_segmentation: true,
                udp_segmentation: true,
                tunnel_segmentation: false,
            },
            capacity: 1_024,
            discard: false,
            replay: false,
        }
    }
}

/// The device's end: pushes what the router receives and takes what it sent.
#[derive(Clone)]
pub struct MemoryDevice {
    shared: Arc<Shared>,
}

/// The router's end.
pub struct MemoryQueue {
    shared: Arc<Shared>,
}

struct Shared {
    config: MemoryConfig,
    inbound: ArrayQueue<Frame>,
    outbound: ArrayQueue<Frame>,
    /// Emptied buffers, to be filled again.
    spare: ArrayQueue<Vec<u8>>,
    sent_packets: AtomicU64,
    sent_bytes: AtomicU64,
    gone: AtomicBool,
}

struct Frame {
    bytes: Vec<u8>,
    offload: Offload,
}

/// Makes a pair.
pub fn pair(config: MemoryConfig) -> (MemoryDevice, MemoryQueue) {
    let capacity = config.capacity.max(1);
    let shared = Arc::new(Shared {
        config,
        inbound: ArrayQueue::new(capacity),
        outbound: ArrayQueue::new(capacity),
        spare: ArrayQueue::new(2 * capacity),
        sent_packets: AtomicU64::new(0),
        sent_bytes: AtomicU64::new(0),
        gone: AtomicBool::new(false),
    });
    (MemoryDevice { shared: Arc::clone(&shared) }, MemoryQueue { shared })
}

impl Shared {
    /// A frame of these bytes, in a buffer that was used before if there is one.
    fn frame(&self, bytes: &[u8], offload: Offload) -> Frame {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(bytes);
        Frame { bytes: buffer, offload }
    }
}

impl MemoryDevice {
    /// Gives the router a packet to receive (framed as the port's packets are); false if too many
    /// wait already.
    pub fn push(&self, bytes: &[u8], offload: Offload) -> bool {
        self.shared.inbound.push(self.shared.frame(bytes, offload)).is_ok()
    }

    /// Everything the router sent since last asked, in order.
    pub fn take(&self) -> Vec<(Vec<u8>, Offload)> {
        std::iter::from_fn(|| self.shared.outbound.pop())
            .map(|frame| (frame.bytes, frame.offload))
            .collect()
    }

    /// Packets the router has yet to receive.
    pub fn waiting(&self) -> usize {
        self.shared.inbound.len()
    }

    /// Packets and bytes sent since the start, taken or not.
    pub fn sent(&self) -> (u64, u64) {
        let shared = &self.shared;
        (shared.sent_packets.load(Ordering::Relaxed), shared.sent_bytes.load(Ordering::Relaxed))
    }

    /// The device goes away: from now on its queue reports [`QueueError::Gone`].
    pub fn remove(&self) {
        self.shared.gone.store(true, Ordering::Release);
    }
}

impl MemoryQueue {
    fn send(&self, packet: &Packet) -> bool {
        let shared = &self.shared;
        if shared.gone.load(Ordering::Acquire) {
            return false;
        }
        let fits = shared.config.discard
            || shared.outbound.push(shared.frame(packet.bytes(), *packet.offload())).is_ok();
        if fits {
            shared.sent_packets.fetch_add(1, Ordering::Relaxed);
            shared.sent_bytes.fetch_add(packet.len() as u64, Ordering::Relaxed);
        }
        fits
    }
}

impl Queue for MemoryQueue {
    fn port(&self) -> PortId {
        self.shared.config.port
    }

    fn framing(&self) -> Framing {
        self.shared.config.framing
    }

    fn abilities(&self) -> Abilities {
        self.shared.config.abilities
    }

    fn readable_fd(&self) -> Option<RawFd> {
        None
    }

    fn receive(
        &mut self,
        pool: &mut Pool,
        batch: &mut Batch,
        budget: usize,
    ) -> Result<usize, QueueError> {
        let shared = &*self.shared;
        if shared.gone.load(Ordering::Acquire) {
            return Err(QueueError::Gone);
        }
        let mut received = 0;
        while received < budget && !batch.is_full() {
            let Some(mut packet) = pool.take() else { break };
            let Some(frame) = shared.inbound.pop() else {
                pool.give(packet);
                break;
            };
            packet.fill(&frame.bytes);
            packet.set_in_port(shared.config.port);
            *packet.offload_mut() = frame.offload;
            batch.push(packet);
            received += 1;
            // Either ring may have been filled meanwhile: then the buffer is freed.
            if shared.config.replay {
                let _ = shared.inbound.push(frame);
            } else {
                let _ = shared.spare.push(frame.bytes);
            }
        }
        Ok(received)
    }

    fn transmit(&mut self, pool: &mut Pool, batch: &mut Batch) -> Sent {
        let mut sent = Sent::default();
        for packet in batch.drain(..) {
            if self.send(&packet) {
                sent.packets += 1;
                sent.bytes += packet.len();
            } else {
                sent.refused += 1;
                sent.reason = Some(if self.shared.gone.load(Ordering::Acquire) {
                    DropReason::PortGone
                } else {
                    DropReason::QueueFull
                });
            }
            pool.give(packet);
        }
        sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::BATCH;

    fn offload() -> Offload {
        Offload { needs_checksum: true, csum_start: 20, csum_offset: 6, ..Offload::default() }
    }

    #[test]
    fn what_one_end_gives_the_other_gets_in_order_and_unchanged() {
        let config = MemoryConfig { port: PortId(3), ..MemoryConfig::default() };
        let (device, mut queue) = pair(config);
        let mut pool = Pool::new(8);
        let mut batch = Batch::new();
        assert!(device.push(&[1], offload()) && device.push(&[2, 2], Offload::default()));
        assert_eq!(queue.receive(&mut pool, &mut batch, 1), Ok(1));
        assert_eq!((device.waiting(), pool.available()), (1, 7));
        assert_eq!(queue.receive(&mut pool, &mut batch, 5), Ok(1));
        assert_eq!(batch[0].bytes(), [1]);
        assert_eq!((batch[0].in_port(), *batch[0].offload()), (PortId(3), offload()));
        let sent = queue.transmit(&mut pool, &mut batch);
        assert_eq!((sent.packets, sent.bytes, sent.refused), (2, 3, 0));
        assert_eq!((pool.available(), device.sent()), (8, (2, 3)));
        assert_eq!(device.take(), [(vec![1], offload()), (vec![2, 2], Offload::default())]);
        assert!(device.take().is_empty());
    }

    #[test]
    fn full_rings_and_empty_pools_lose_nothing_in_silence() {
        let config = MemoryConfig { capacity: 1, ..MemoryConfig::default() };
        let (device, mut queue) = pair(config);
        assert!(device.push(&[1], Offload::default()) && !device.push(&[2], Offload::default()));
        let mut batch = Batch::new();
        assert_eq!(queue.receive(&mut Pool::new(0), &mut batch, 4), Ok(0));
        assert_eq!(device.waiting(), 1, "it waits for a slot");
        batch.push(Packet::from_bytes(&[1]));
        batch.push(Packet::from_bytes(&[2]));
        let sent = queue.transmit(&mut Pool::new(0), &mut batch);
        assert_eq!((sent.packets, sent.refused, sent.reason), (1, 1, Some(DropReason::QueueFull)));
    }

    #[test]
    fn a_removed_device_is_reported() {
        let (device, mut queue) = pair(MemoryConfig::default());
        device.remove();
        let (mut pool, mut batch) = (Pool::new(1), Batch::new());
        assert_eq!(queue.receive(&mut pool, &mut batch, 1), Err(QueueError::Gone));
        batch.push(Packet::from_bytes(&[1]));
        assert_eq!(queue.transmit(&mut pool, &mut batch).reason, Some(DropReason::PortGone));
    }

    #[test]
    fn replayed_packets_come_round_and_discarded_ones_are_counted() {
        let config = MemoryConfig { replay: true, discard: true, ..MemoryConfig::default() };
        let (device, mut queue) = pair(config);
        assert!(device.push(&[1], Offload::default()) && device.push(&[2], Offload::default()));
        let (mut pool, mut batch) = (Pool::new(BATCH), Batch::new());
        assert_eq!(queue.receive(&mut pool, &mut batch, 5), Ok(5));
        let seen: Vec<u8> = batch.iter().map(|p| p.bytes()[0]).collect();
        assert_eq!(seen, [1, 2, 1, 2, 1]);
        assert_eq!(queue.transmit(&mut pool, &mut batch).packets, 5);
        assert_eq!((device.sent(), device.take().len()), ((5, 5), 0));
    }
}
