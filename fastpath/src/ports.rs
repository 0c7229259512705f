//! Which queues does a worker send by? Its own, and rings to the workers that own the others.

use crate::batch::Batch;
use crate::counters::WorkerCounters;
use crate::io::{Abilities, Framing, Queue, QueueError};
use crate::limits::{BATCH, LANE_RING, PORTS};
use crate::outcome::DropReason;
use crate::packet::{Packet, Pool, PortId};
use crossbeam::queue::ArrayQueue;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// Wakes a sleeping worker; costs one load when it is awake.
pub struct Doorbell {
    sleeping: AtomicBool,
    waker: mio::Waker,
}

impl Doorbell {
    /// A bell on a worker's poll.
    pub fn new(waker: mio::Waker) -> Self {
        Self { sleeping: AtomicBool::new(false), waker }
    }

    /// There is work. Call it after the work was put in place.
    pub fn ring(&self) {
        // The work must be seen by a worker whose flag is not seen here yet.
        fence(Ordering::SeqCst);
        if self.sleeping.swap(false, Ordering::SeqCst) {
            // A poll that can't be woken still ends at its time-out.
            drop(self.waker.wake());
        }
    }

    /// The worker is about to sleep: it looks for work once more after this.
    pub fn lie_down(&self) {
        self.sleeping.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// The worker is awake.
    pub fn get_up(&self) {
        self.sleeping.store(false, Ordering::SeqCst);
    }
}

/// Packets that other workers send through a worker's queues.
pub struct Lane {
    ring: ArrayQueue<(PortId, Packet)>,
    bell: Arc<Doorbell>,
}

impl Lane {
    /// A lane to the worker with this bell.
    pub fn new(bell: Arc<Doorbell>) -> Self {
        Self { ring: ArrayQueue::new(LANE_RING), bell }
    }

    /// The next packet to be sent.
    pub fn take(&self) -> Option<(PortId, Packet)> {
        self.ring.pop()
    }

    /// Does any wait?
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }
}

enum Way {
    /// At least one; packets leave by the first.
    Own(Vec<Box<dyn Queue>>),
    Through(Arc<Lane>),
}

struct Port {
    way: Way,
    framing: Framing,
    abilities: Abilities,
    pending: Batch,
}

/// One worker's ways out, and its own queues' way in.
#[derive(Default)]
pub struct Ports {
    slots: Vec<Option<Box<Port>>>,
    /// Ports with pending packets.
    dirty: Vec<PortId>,
}

impl Ports {
    /// No port yet.
    pub fn new() -> Self {
        Self { slots: Vec::new(), dirty: Vec::with_capacity(PORTS) }
    }

    /// From now on this worker owns a queue of the port (perhaps one more); returns its number.
    pub fn attach(&mut self, queue: Box<dyn Queue>) -> usize {
        let (id, framing, abilities) = (queue.port(), queue.framing(), queue.abilities());
        if let Some(Port { way: Way::Own(queues), .. }) = self.port(id) {
            queues.push(queue);
            return queues.len() - 1;
        }
        let way = Way::Own(vec![queue]);
        self.put(id, Port { way, framing, abilities, pending: Batch::new() });
        0
    }

    /// From now on what this worker sends by the port goes through the worker that owns it.
    pub fn attach_through(
        &mut self,
        port: PortId,
        framing: Framing,
        abilities: Abilities,
        lane: Arc<Lane>,
    ) {
        let pending = Batch::new();
        self.put(port, Port { way: Way::Through(lane), framing, abilities, pending });
    }

    fn put(&mut self, id: PortId, port: Port) {
        let index = usize::from(id.0);
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || None);
        }
        self.slots[index] = Some(Box::new(port));
    }

    /// Gives a port up; its queues are closed when the answer is dropped.
    pub fn detach(
        &mut self,
        id: PortId,
        pool: &mut Pool,
        counters: &WorkerCounters,
    ) -> Vec<Box<dyn Queue>> {
        self.flush_port(id, pool, counters);
        let port = self.slots.get_mut(usize::from(id.0)).and_then(Option::take);
        match port.map(|port| port.way) {
            Some(Way::Own(queues)) => queues,
            Some(Way::Through(_)) | None => Vec::new(),
        }
    }

    fn port(&mut self, id: PortId) -> Option<&mut Port> {
        self.slots.get_mut(usize::from(id.0))?.as_deref_mut()
    }

    /// What a port takes; `None` for one that does not exist.
    pub fn facts(&self, id: PortId) -> Option<(Framing, Abilities)> {
        let port = self.slots.get(usize::from(id.0))?.as_deref()?;
        Some((port.framing, port.abilities))
    }

    /// One of this worker's queues of a port.
    fn queue(&mut self, id: PortId, number: usize) -> Option<&mut dyn Queue> {
        match &mut self.port(id)?.way {
            Way::Own(queues) => queues.get_mut(number).map(|queue| &mut **queue as &mut dyn Queue),
            Way::Through(_) => None,
        }
    }

    /// Takes waiting packets from one of this worker's queues of a port, as many as the batch has
    /// room for; the port's counters say how many. Fewer than there was room for means that none
    /// waits now.
    ///
    /// # Errors
    /// The device is gone or broken; so is a queue that is not here.
    pub fn receive(
        &mut self,
        id: PortId,
        number: usize,
        pool: &mut Pool,
        batch: &mut Batch,
        counters: &WorkerCounters,
    ) -> Result<usize, QueueError> {
        let queue = self.queue(id, number).ok_or(QueueError::Gone)?;
        let before = batch.len();
        let result = queue.receive(pool, batch, BATCH - before);
        let came = &batch[before..];
        if !came.is_empty() {
            counters.received.add(came.len() as u64);
            let cells = counters.port(id);
            cells.received[0].add(came.len() as u64);
            cells.received[1].add(came.iter().map(|p| p.len() as u64).sum());
        }
        queue.housekeep(pool);
        result
    }

    /// Queues a packet, framed for the port; a full batch is sent at once.
    ///
    /// # Errors
    /// There is no such port: gives the packet back.
    pub fn push(
        &mut self,
        id: PortId,
        packet: Packet,
        pool: &mut Pool,
        counters: &WorkerCounters,
    ) -> Result<(), Packet> {
        let Some(port) = self.port(id) else { return Err(packet) };
        let was_empty = port.pending.is_empty();
        port.pending.push(packet);
        if port.pending.is_full() {
            port.send(id, pool, counters);
        } else if was_empty {
            self.dirty.push(id);
        }
        Ok(())
    }

    /// Sends everything that is queued.
    pub fn flush(&mut self, pool: &mut Pool, counters: &WorkerCounters) {
        while let Some(id) = self.dirty.pop() {
            self.flush_port(id, pool, counters);
        }
    }

    fn flush_port(&mut self, id: PortId, pool: &mut Pool, counters: &WorkerCounters) {
        if let Some(port) = self.port(id)
            && !port.pending.is_empty()
        {
            port.send(id, pool, counters);
        }
    }

    /// Lets every queue of this worker do its housekeeping; true if one has to be asked again soon,
    /// as its device did not take all yet.
    pub fn housekeep(&mut self, pool: &mut Pool) -> bool {
        let mut unsent = false;
        for port in self.slots.iter_mut().flatten() {
            if let Way::Own(queues) = &mut port.way {
                for queue in queues {
                    queue.housekeep(pool);
                    unsent |= queue.has_unsent();
                }
            }
        }
        unsent
    }
}

impl Port {
    fn send(&mut self, id: PortId, pool: &mut Pool, counters: &WorkerCounters) {
        match &mut self.way {
            Way::Own(queues) => {
                let offered = self.pending.len();
                let queue = &mut queues[0];
                let sent = queue.transmit(pool, &mut self.pending);
                queue.housekeep(pool);
                self.pending.drain(..).for_each(|packet| pool.give(packet));
                let refused = offered.saturating_sub(sent.packets) as u64;
                let cells = counters.port(id);
                counters.forwarded.add(sent.packets as u64);
                cells.sent[0].add(sent.packets as u64);
                cells.sent[1].add(sent.bytes as u64);
                if refused != 0 {
                    cells.refused.add(refused);
                    counters.dropped(sent.reason.unwrap_or(DropReason::QueueFull), refused);
                }
            }
            Way::Through(lane) => {
                for packet in self.pending.drain(..) {
                    if let Err((_, packet)) = lane.ring.push((id, packet)) {
                        counters.dropped(DropReason::QueueFull, 1);
                        pool.give(packet);
                    }
                }
                lane.bell.ring();
            }
        }
    }
}
