//! What does one core do all day? Receive, take the tables, run the stages, transmit, keep house,
//! and sleep when there is nothing to do.

use crate::batch::Batch;
use crate::io::Abilities;
use crate::io::{Framing, Queue, QueueError};
use crate::limits::BATCH;
use crate::packet::PortId;
use crate::pipeline::Pipeline;
use crate::ports::{Doorbell, Lane, Ports};
use crate::publish::Reader;
use crate::punt::{Inject, Wake};
use crate::stage::Entry;
use crate::tables::Tables;
use crossbeam::channel::{Receiver, Sender};
use crossbeam::queue::ArrayQueue;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The token of the doorbell; queues have `port * 256 + number`.
pub(crate) const BELL: Token = Token(usize::MAX);
/// Longest sleep: connections expire meanwhile.
const SLEEP: Duration = Duration::from_secs(1);
/// Longest sleep while queues without a descriptor must be asked, or slots waited for.
const SLEEP_ASKING: Duration = Duration::from_millis(1);
/// How long a queue is asked whose descriptor told of an error while the queue did not.
const SUSPICION: Duration = Duration::from_secs(1);

/// What the control side tells a worker.
pub(crate) enum Command {
    /// A queue is yours.
    Attach(Box<dyn Queue>),
    /// Another worker owns the port: send through it.
    AttachThrough { port: PortId, framing: Framing, abilities: Abilities, lane: Arc<Lane> },
    /// The port is gone; answer when its queues are closed.
    Detach { port: PortId, done: Sender<()> },
    /// Finish.
    Stop,
}

/// A port that failed, and how.
pub(crate) type Closed = (PortId, QueueError);

/// What a worker shares with the control side.
pub(crate) struct Links {
    pub(crate) commands: Receiver<Command>,
    pub(crate) inject: Arc<ArrayQueue<Inject>>,
    pub(crate) lane: Arc<Lane>,
    pub(crate) bell: Arc<Doorbell>,
    pub(crate) closed: Sender<Closed>,
    pub(crate) wake: Wake,
}

/// One of this worker's queues.
type QueueId = (PortId, u8);

/// One core's loop.
pub(crate) struct Worker {
    pipeline: Pipeline,
    ports: Ports,
    reader: Reader<Tables>,
    links: Links,
    poll: Poll,
    events: Events,
    /// Queues with packets waiting, as far as is known.
    ready: Vec<QueueId>,
    /// Queues without a descriptor: asked every round.
    asked: Vec<QueueId>,
    /// Queues whose descriptors told of an error, asked until then: a device on its way out tells
    /// once, and perhaps a moment before its reads say so.
    suspects: Vec<(QueueId, Instant)>,
    batch: Box<Batch>,
    spin: Duration,
}

impl Worker {
    /// A worker that waits on `poll`.
    pub(crate) fn new(
        pipeline: Pipeline,
        reader: Reader<Tables>,
        links: Links,
        poll: Poll,
        spin: Duration,
    ) -> Self {
        Self {
            pipeline,
            ports: Ports::new(),
            reader,
            links,
            poll,
            events: Events::with_capacity(256),
            ready: Vec::with_capacity(256),
            asked: Vec::with_capacity(16),
            suspects: Vec::with_capacity(16),
            batch: Box::default(),
            spin,
        }
    }

    /// Works until told to stop.
    pub(crate) fn run(mut self) {
        let mut round_began = Instant::now();
        let mut last_work = round_began;
        while self.obey() {
            self.look(Some(Duration::ZERO));
            let (worked, more) = self.round(round_began);
            let now = Instant::now();
            let nanos = (now - round_began).as_nanos() as u64;
            let counters = self.pipeline.counters();
            if worked { &counters.busy } else { &counters.idle }.add(nanos);
            round_began = now;
            if worked {
                last_work = now;
            } else if !more && now - last_work >= self.spin {
                self.sleep();
                round_began = Instant::now();
                self.pipeline.counters().idle.add((round_began - now).as_nanos() as u64);
            } else {
                std::hint::spin_loop();
            }
        }
    }

    /// One round over everything that waits. Did anything, and is there housekeeping left to do?
    fn round(&mut self, now: Instant) -> (bool, bool) {
        self.reader.refresh();
        let mut worked = false;
        for index in 0..self.asked.len() {
            // A queue that failed has left the list meanwhile.
            let Some(&queue) = self.asked.get(index) else { break };
            worked |= self.serve(queue, now).0;
        }
        self.suspects.retain(|(_, until)| now < *until);
        for index in 0..self.suspects.len() {
            let Some(&(queue, _)) = self.suspects.get(index) else { break };
            worked |= self.serve(queue, now).0;
        }
        let mut index = 0;
        while let Some(&queue) = self.ready.get(index) {
            let (came, more) = self.serve(queue, now);
            worked |= came;
            if more {
                index += 1;
            } else if self.ready.get(index) == Some(&queue) {
                // Fewer than asked for: the next edge tells of more.
                self.ready.swap_remove(index);
            }
        }
        worked |= self.take_injected(now);
        worked |= self.take_lane();
        let more = self.pipeline.housekeep(now);
        (worked, more)
    }

    /// Takes one batch from a queue through the stages. Did packets come, and may more wait?
    fn serve(&mut self, (port, number): QueueId, now: Instant) -> (bool, bool) {
        let (pool, counters) = self.pipeline.parts();
        // Without slots for a whole batch, a short one does not mean that the queue is empty.
        let short_of_slots = pool.available() < BATCH;
        let batch = &mut *self.batch;
        let received = self.ports.receive(port, usize::from(number), pool, batch, counters);
        let came = batch.len();
        if came > 0 {
            let current = self.reader.refresh();
            self.pipeline.run(current, batch, Entry::Device, &mut self.ports, now);
            let (pool, counters) = self.pipeline.parts();
            self.ports.flush(pool, counters);
        }
        if let Err(error) = received {
            self.close(port);
            // Nobody asks any more while the router is being dropped.
            let _ = self.links.closed.send((port, error));
            (self.links.wake)();
            return (came > 0, false);
        }
        (came > 0, came == BATCH || short_of_slots)
    }

    fn take_injected(&mut self, now: Instant) -> bool {
        let mut taken = 0;
        while taken < BATCH
            && let Some(inject) = self.links.inject.pop()
        {
            taken += 1;
            let current = self.reader.refresh();
            self.pipeline.inject(current, inject, &mut self.ports, now);
        }
        if taken > 0 {
            let (pool, counters) = self.pipeline.parts();
            self.ports.flush(pool, counters);
        }
        taken > 0
    }

    /// Sends what other workers hand over for this worker's queues.
    fn take_lane(&mut self) -> bool {
        let (pool, counters) = self.pipeline.parts();
        let mut taken = 0;
        while taken < BATCH
            && let Some((port, packet)) = self.links.lane.take()
        {
            taken += 1;
            if let Err(packet) = self.ports.push(port, packet, pool, counters) {
                counters.dropped(crate::outcome::DropReason::PortGone, 1);
                pool.give(packet);
            }
        }
        if taken > 0 {
            self.ports.flush(pool, counters);
        }
        taken > 0
    }

    /// Asks which queues became ready, and waits for that as long as `timeout` says.
    fn look(&mut self, timeout: Option<Duration>) {
        // An interrupted poll has no events: the next round asks again.
        if self.poll.poll(&mut self.events, timeout).is_err() {
            return;
        }
        for event in &self.events {
            if event.token() == BELL {
                continue;
            }
            let queue = (PortId((event.token().0 >> 8) as u16), event.token().0 as u8);
            if !self.ready.contains(&queue) {
                self.ready.push(queue);
            }
            if event.is_error() && !self.suspects.iter().any(|(known, _)| *known == queue) {
                self.suspects.push((queue, Instant::now() + SUSPICION));
            }
        }
    }

    fn sleep(&mut self) {
        let (pool, _) = self.pipeline.parts();
        self.ports.housekeep(pool);
        self.links.bell.lie_down();
        self.reader.refresh();
        let work = !self.links.commands.is_empty()
            || !self.links.inject.is_empty()
            || !self.links.lane.is_empty();
        let idle = self.asked.is_empty() && self.ready.is_empty() && self.suspects.is_empty();
        let timeout = match work {
            true => Duration::ZERO,
            false if idle => SLEEP,
            false => SLEEP_ASKING,
        };
        self.look(Some(timeout));
        self.links.bell.get_up();
    }

    /// Does what the control side says; false to stop.
    fn obey(&mut self) -> bool {
        while let Ok(command) = self.links.commands.try_recv() {
            match command {
                Command::Attach(queue) => self.attach(queue),
                Command::AttachThrough { port, framing, abilities, lane } => {
                    self.pipeline.counters().port(port).clear();
                    self.ports.attach_through(port, framing, abilities, lane);
                }
                Command::Detach { port, done } => {
                    self.close(port);
                    // The control side may have given up waiting.
                    let _ = done.send(());
                }
                Command::Stop => return false,
            }
        }
        true
    }

    fn attach(&mut self, queue: Box<dyn Queue>) {
        let (port, fd, receives) = (queue.port(), queue.readable_fd(), queue.receives());
        let number = self.ports.attach(queue);
        if number == 0 {
            self.pipeline.counters().port(port).clear();
        }
        if !receives {
            return;
        }
        let id = (port, number as u8);
        let Some(fd) = fd else { return self.asked.push(id) };
        let token = Token(usize::from(port.0) << 8 | number & 0xff);
        let registered =
            self.poll.registry().register(&mut SourceFd(&fd), token, Interest::READABLE);
        match registered {
            // What came before the registration makes no edge.
            Ok(()) => self.ready.push(id),
            // A descriptor that can't be waited for is asked every round instead.
            Err(_) => self.asked.push(id),
        }
    }

    /// Closes this worker's queues of a port.
    fn close(&mut self, port: PortId) {
        self.ready.retain(|(id, _)| *id != port);
        self.asked.retain(|(id, _)| *id != port);
        self.suspects.retain(|((id, _), _)| *id != port);
        let (pool, counters) = self.pipeline.parts();
        for queue in self.ports.detach(port, pool, counters) {
            if let Some(fd) = queue.readable_fd() {
                // It may never have been registered; closing it ends a registration as well.
                drop(self.poll.registry().deregister(&mut SourceFd(&fd)));
            }
        }
    }
}
