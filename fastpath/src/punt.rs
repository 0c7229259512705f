//! How does a packet reach the control plane, and come back? The door up: one bounded ring; slots
//! go back to the workers when the control side lets go of them.

use crate::outcome::PuntReason;
use crate::packet::{Packet, PortId};
use crate::tables::endpoint::EndpointId;
use crate::tables::nexthop::NextHop;
use crossbeam::queue::ArrayQueue;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Called when the control side, which had found the ring empty, should look again.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// Slots that are no worker's at the moment: workers give what they have too many of, and take
/// from here when they run short.
pub struct Commons(ArrayQueue<Packet>);

impl Commons {
    /// Room for `slots` slots.
    pub fn new(slots: usize) -> Self {
        Self(ArrayQueue::new(slots.max(1)))
    }

    /// Leaves a slot here; one that does not fit is freed.
    pub fn leave(&self, packet: Packet) {
        drop(self.0.push(packet));
    }

    /// Takes a slot.
    pub fn take(&self) -> Option<Packet> {
        self.0.pop()
    }
}

/// A punted packet's slot: goes back to the workers when dropped.
pub struct Held {
    packet: Option<Packet>,
    commons: Arc<Commons>,
    outstanding: Arc<AtomicUsize>,
}

impl Held {
    /// A copy that outlives the slot (the slot goes back at once).
    pub fn detach(self) -> Packet {
        let mut copy = Packet::new();
        copy.copy_from(&self);
        copy
    }
}

impl Deref for Held {
    type Target = Packet;
    fn deref(&self) -> &Packet {
        self.packet.as_ref().expect("only dropping takes the packet out")
    }
}

impl DerefMut for Held {
    fn deref_mut(&mut self) -> &mut Packet {
        self.packet.as_mut().expect("only dropping takes the packet out")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.outstanding.fetch_sub(1, Ordering::Relaxed);
        if let Some(packet) = self.packet.take() {
            self.commons.leave(packet);
        }
    }
}

/// What a worker says of a packet it hands up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PuntFacts {
    /// Why.
    pub reason: PuntReason,
    /// The port it came in by.
    pub in_port: PortId,
    /// For [`PuntReason::FragmentationNeeded`]: the largest IP packet, in bytes, the path takes.
    pub mtu: u16,
    /// Where it was to go.
    pub next_hop: NextHop,
    /// The local workload that sent it, if one did.
    pub source_endpoint: Option<EndpointId>,
}

/// One packet for the control plane.
pub struct Punt {
    /// Why.
    pub reason: PuntReason,
    /// The port it came in by.
    pub in_port: PortId,
    /// For [`PuntReason::FragmentationNeeded`]: the largest IP packet, in bytes, the path takes.
    pub mtu: u16,
    /// Where it was to go.
    pub next_hop: NextHop,
    /// The local workload that sent it, if one did.
    pub source_endpoint: Option<EndpointId>,
    /// The packet as received, from its IP header on (decapsulated); for
    /// [`PuntReason::ArpOrNd`] from its Ethernet header on.
    pub packet: Held,
}

/// What the control plane sends.
pub enum Inject {
    /// Out of a port as it is, framed for it.
    ToPort {
        /// The port.
        port: PortId,
        /// What its device takes.
        packet: Packet,
    },
    /// An IP packet of the router itself: routed and sent; no policy stands before it.
    Route {
        /// From the IP header on.
        packet: Packet,
    },
    /// A packet that was held, once more through the whole pipeline.
    Resume {
        /// From the IP header on, as it was punted.
        packet: Packet,
        /// The port it came in by.
        in_port: PortId,
    },
}

struct Ring {
    queue: ArrayQueue<Punt>,
    /// The control side found the ring empty and waits to be woken.
    armed: AtomicBool,
    wake: Wake,
}

/// A worker's end of the ring.
pub struct PuntSender {
    ring: Arc<Ring>,
    commons: Arc<Commons>,
    outstanding: Arc<AtomicUsize>,
    limit: usize,
}

/// The control plane's end of the ring.
pub struct PuntReceiver {
    ring: Arc<Ring>,
}

/// A ring of `capacity` packets. `wake` is called when the receiver, which had found it empty,
/// has something to take.
pub fn ring(capacity: usize, wake: Wake) -> PuntReceiver {
    let queue = ArrayQueue::new(capacity.max(1));
    PuntReceiver { ring: Arc::new(Ring { queue, armed: AtomicBool::new(true), wake }) }
}

impl PuntReceiver {
    /// The next packet. After `None`, `wake` is called for the next one that comes.
    pub fn try_recv(&self) -> Option<Punt> {
        if let Some(punt) = self.ring.queue.pop() {
            return Some(punt);
        }
        self.ring.armed.store(true, Ordering::SeqCst);
        // A packet may have come between the look and the flag: nobody would wake us for it.
        self.ring.queue.pop()
    }

    /// A worker's end, which lets at most `limit` of the worker's slots be away at once.
    pub fn sender(&self, commons: Arc<Commons>, limit: usize) -> PuntSender {
        let outstanding = Arc::new(AtomicUsize::new(0));
        PuntSender { ring: Arc::clone(&self.ring), commons, outstanding, limit }
    }
}

impl PuntSender {
    /// Hands a packet up; gives it back if there is no room.
    ///
    /// # Errors
    /// The ring is full, or too many of this worker's slots are away.
    pub fn send(&self, facts: PuntFacts, packet: Packet) -> Result<(), Packet> {
        if self.outstanding.load(Ordering::Relaxed) >= self.limit || self.ring.queue.is_full() {
            return Err(packet);
        }
        self.outstanding.fetch_add(1, Ordering::Relaxed);
        let outstanding = Arc::clone(&self.outstanding);
        let commons = Arc::clone(&self.commons);
        let packet = Held { packet: Some(packet), commons, outstanding };
        let PuntFacts { reason, in_port, mtu, next_hop, source_endpoint } = facts;
        let punt = Punt { reason, in_port, mtu, next_hop, source_endpoint, packet };
        if let Err(mut refused) = self.ring.queue.push(punt) {
            return Err(refused.packet.packet.take().expect("just put in"));
        }
        if self.ring.armed.swap(false, Ordering::SeqCst) {
            (self.ring.wake)();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: PuntFacts = PuntFacts {
        reason: PuntReason::LocalIcmp,
        in_port: PortId(1),
        mtu: 0,
        next_hop: NextHop::Router,
        source_endpoint: None,
    };

    fn counting() -> (Arc<AtomicUsize>, Wake) {
        let calls = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&calls);
        (
            calls,
            Arc::new(move || {
                seen.fetch_add(1, Ordering::SeqCst);
            }),
        )
    }

    #[test]
    fn a_receiver_that_found_nothing_is_woken_once() {
        let (calls, wake) = counting();
        let receiver = ring(8, wake);
        let sender = receiver.sender(Arc::new(Commons::new(8)), 8);
        for n in 0..3 {
            sender.send(FACTS, Packet::from_bytes(&[n])).expect("room");
        }
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        let bytes: Vec<u8> =
            std::iter::from_fn(|| receiver.try_recv()).map(|p| p.packet.bytes()[0]).collect();
        assert_eq!(bytes, [0, 1, 2]);
        sender.send(FACTS, Packet::from_bytes(&[3])).expect("room");
        assert_eq!(calls.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn slots_come_back_and_only_so_many_are_away() {
        let commons = Arc::new(Commons::new(8));
        let receiver = ring(8, counting().1);
        let sender = receiver.sender(Arc::clone(&commons), 2);
        for _ in 0..2 {
            sender.send(FACTS, Packet::new()).expect("room");
        }
        let held = receiver.try_recv().expect("one");
        assert!(sender.send(FACTS, Packet::new()).is_err(), "one waits, one is held");
        let copy = held.packet.detach();
        assert!(commons.take().is_some() && copy.is_empty());
        assert!(sender.send(FACTS, Packet::new()).is_ok());
    }
}
