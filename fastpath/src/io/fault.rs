//! What does the router do when its links misbehave? A [`Queue`] around any other that loses,
//! damages, cuts, doubles and reorders packets, the same ones for the same seed.

use super::{Abilities, Framing, Queue, QueueError, Sent};
use crate::batch::Batch;
use crate::outcome::DropReason;
use crate::packet::{Packet, Pool, PortId};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How often what happens, in packets of a million.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultRates {
    /// Packets that vanish.
    pub loss: u32,
    /// Packets one bit of which flips.
    pub corruption: u32,
    /// Packets whose end is cut off, anywhere.
    pub truncation: u32,
    /// Packets that come twice (as far as there is room).
    pub duplication: u32,
    /// Packets that their successor overtakes (if it comes before the queue runs empty).
    pub reordering: u32,
}

/// What happened so far; shared, so that it can be read while a worker owns the queue.
#[derive(Debug, Default)]
pub struct FaultCounts {
    /// Packets that vanished.
    pub lost: AtomicU64,
    /// Packets damaged.
    pub corrupted: AtomicU64,
    /// Packets cut.
    pub truncated: AtomicU64,
    /// Packets doubled.
    pub duplicated: AtomicU64,
    /// Packets overtaken.
    pub reordered: AtomicU64,
}

/// A queue with faults in each direction.
pub struct FaultQueue<Q> {
    inner: Q,
    receive: FaultRates,
    transmit: FaultRates,
    random: Random,
    counts: Arc<FaultCounts>,
    /// Packets between the two queues; empty between calls.
    passing: Batch,
    /// A received packet that its successor is to overtake.
    held: Option<Packet>,
}

impl<Q: Queue> FaultQueue<Q> {
    /// Wraps a queue.
    pub fn new(inner: Q, seed: u64, receive: FaultRates, transmit: FaultRates) -> Self {
        Self {
            inner,
            receive,
            transmit,
            random: Random(seed),
            counts: Arc::default(),
            passing: Batch::new(),
            held: None,
        }
    }

    /// What happened so far.
    pub fn counts(&self) -> Arc<FaultCounts> {
        Arc::clone(&self.counts)
    }
}

/// `SplitMix64`: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// True for `rate` of a million. Draws a number whatever the rate is.
    fn chance(&mut self, rate: u32) -> bool {
        self.next() % 1_000_000 < u64::from(rate)
    }

    /// The same, counted.
    fn happens(&mut self, rate: u32, counter: &AtomicU64) -> bool {
        let happens = self.chance(rate);
        if happens {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        happens
    }
}

/// Moves `from` into `to` (up to `room` packets more), with faults. Returns how many were lost and
/// how many are in addition.
fn pass(
    from: &mut Batch,
    to: &mut Batch,
    room: usize,
    (rates, random, counts): (&FaultRates, &mut Random, &FaultCounts),
    held: &mut Option<Packet>,
    pool: &mut Pool,
) -> (usize, usize) {
    let (mut lost, mut added) = (0, 0);
    let mut room = room.saturating_sub(from.len() + usize::from(held.is_some()));
    for mut packet in from.drain(..) {
        if random.happens(rates.loss, &counts.lost) {
            pool.give(packet);
            lost += 1;
            continue;
        }
        if random.happens(rates.corruption, &counts.corrupted) {
            let at = random.below(packet.len());
            let bit = 1 << random.below(8);
            if let Some(byte) = packet.bytes_mut().get_mut(at) {
                *byte ^= bit;
            }
        }
        if random.happens(rates.truncation, &counts.truncated) {
            packet.truncate(random.below(packet.len()));
        }
        let doubled = random.chance(rates.duplication) && room > 0;
        if doubled && let Some(mut twin) = pool.take() {
            twin.copy_from(&packet);
            to.push(twin);
            room -= 1;
            added += 1;
            counts.duplicated.fetch_add(1, Ordering::Relaxed);
        }
        if held.is_none() && random.happens(rates.reordering, &counts.reordered) {
            *held = Some(packet);
            continue;
        }
        to.push(packet);
        to.extend(held.take());
    }
    (lost, added)
}

impl<Q: Queue> Queue for FaultQueue<Q> {
    fn port(&self) -> PortId {
        self.inner.port()
    }

    fn framing(&self) -> Framing {
        self.inner.framing()
    }

    fn abilities(&self) -> Abilities {
        self.inner.abilities()
    }

    fn receives(&self) -> bool {
        self.inner.receives()
    }

    fn readable_fd(&self) -> Option<RawFd> {
        self.inner.readable_fd()
    }

    fn receive(
        &mut self,
        pool: &mut Pool,
        batch: &mut Batch,
        budget: usize,
    ) -> Result<usize, QueueError> {
        let before = batch.len();
        let end = batch.capacity().min(before + budget);
        // Lost packets don't count: only a queue that has none left may give fewer than asked for.
        loop {
            let room = end - batch.len();
            let want = room.saturating_sub(usize::from(self.held.is_some()));
            if want == 0 {
                break;
            }
            let got = self.inner.receive(pool, &mut self.passing, want)?;
            let faults = (&self.receive, &mut self.random, &*self.counts);
            pass(&mut self.passing, batch, room, faults, &mut self.held, pool);
            if got < want {
                break;
            }
        }
        if batch.len() < end {
            batch.extend(self.held.take());
        }
        Ok(batch.len() - before)
    }

    fn transmit(&mut self, pool: &mut Pool, batch: &mut Batch) -> Sent {
        let asked = batch.len();
        let bytes: usize = batch.iter().map(Packet::len).sum();
        let mut held = None;
        let faults = (&self.transmit, &mut self.random, &*self.counts);
        let room = self.passing.capacity();
        let (lost, added) = pass(batch, &mut self.passing, room, faults, &mut held, pool);
        self.passing.extend(held);
        let sent = self.inner.transmit(pool, &mut self.passing);
        if lost == 0 && added == 0 {
            return sent;
        }
        // A packet sent twice was still one to send.
        let refused = lost + sent.refused.min(asked - lost);
        let reason = if lost > 0 { Some(DropReason::FaultInjected) } else { sent.reason };
        Sent { packets: asked - refused, bytes: sent.bytes.min(bytes), refused, reason }
    }

    fn housekeep(&mut self, pool: &mut Pool) {
        self.inner.housekeep(pool);
    }

    fn has_unsent(&mut self) -> bool {
        self.inner.has_unsent()
    }
}

#[cfg(test)]
#[path = "fault_tests.rs"]
mod tests;
