//! What does the control side hold of the fast path? One handle: tables down, packets up, ports in
//! and out, and everything there is to see.

use crate::capture::Captured;
use crate::counters::{Counters, WorkerCounters};
use crate::flow::conn::{ConnTable, FlowInfo};
use crate::io::{Queue, QueueError};
use crate::limits::{CONNECTIONS, INJECT_RING, PORTS, PUNT_RING, SLOTS_PER_WORKER};
use crate::outcome::DropReason;
use crate::packet::PortId;
use crate::pipeline::{Pipeline, Shared};
use crate::ports::{Doorbell, Lane};
use crate::publish::{Generation, Publisher};
use crate::punt::{self, Commons, Inject, PuntReceiver, Wake};
use crate::tables::Tables;
use crate::trace::{Filter, TapReceiver, Taps, Trace};
use crate::worker::{BELL, Closed, Command, Links, Worker};
use crossbeam::channel::{self, Receiver, Sender};
use crossbeam::queue::ArrayQueue;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How a router is to run.
#[derive(Clone)]
pub struct RouterConfig {
    /// Threads that move packets; at least one.
    pub workers: usize,
    /// The cores to pin them to, one each; `None` leaves them to the scheduler.
    pub cores: Option<Vec<usize>>,
    /// Connections there may be.
    pub connections: usize,
    /// How long a worker without work spins before it sleeps.
    pub spin: Duration,
    /// Start of the threads' names.
    pub name: String,
    /// Called, from a worker, when there is something to take from [`Router::punts`] or
    /// [`Router::closed_ports`] after nothing was.
    pub wake: Wake,
}

impl Default for RouterConfig {
    fn default() -> Self {
        Self {
            workers: 1,
            cores: None,
            connections: CONNECTIONS,
            spin: Duration::from_micros(50),
            name: "fastpath".to_owned(),
            wake: Arc::new(|| {}),
        }
    }
}

struct Handle {
    commands: Sender<Command>,
    inject: Arc<ArrayQueue<Inject>>,
    lane: Arc<Lane>,
    bell: Arc<Doorbell>,
    counters: Arc<WorkerCounters>,
    thread: Option<JoinHandle<()>>,
}

/// A running fast path. Dropping it stops the workers and closes all queues.
pub struct Router {
    config: RouterConfig,
    publisher: Publisher<Tables>,
    workers: Vec<Handle>,
    /// Which worker owns a port's first queue.
    owners: Vec<Option<usize>>,
    conns: Arc<ConnTable>,
    punts: PuntReceiver,
    closed: Receiver<Closed>,
    traces: Arc<Taps<Trace>>,
    captures: Arc<Taps<Captured>>,
    inject_refused: AtomicU64,
}

impl Router {
    /// Starts the workers on the first tables.
    ///
    /// # Errors
    /// A thread or its poll could not be made.
    pub fn start(config: RouterConfig, first: Tables) -> io::Result<Self> {
        let count = config.workers.max(1);
        let (closed_sender, closed) = channel::unbounded();
        let mut router = Self {
            publisher: Publisher::new(first),
            workers: Vec::with_capacity(count),
            owners: vec![None; PORTS],
            conns: Arc::new(ConnTable::new(config.connections, Instant::now())),
            punts: punt::ring(PUNT_RING, Arc::clone(&config.wake)),
            closed,
            config,
            traces: Arc::default(),
            captures: Arc::default(),
            inject_refused: AtomicU64::new(0),
        };
        let commons = Arc::new(Commons::new(count * SLOTS_PER_WORKER));
        for index in 0..count {
            let handle = router.start_worker(index, &commons, &closed_sender)?;
            router.workers.push(handle);
        }
        Ok(router)
    }

    fn start_worker(
        &self,
        index: usize,
        commons: &Arc<Commons>,
        closed: &Sender<Closed>,
    ) -> io::Result<Handle> {
        let config = &self.config;
        let poll = mio::Poll::new()?;
        let bell = Arc::new(Doorbell::new(mio::Waker::new(poll.registry(), BELL)?));
        let lane = Arc::new(Lane::new(Arc::clone(&bell)));
        let inject = Arc::new(ArrayQueue::new(INJECT_RING));
        let (commands, receiver) = channel::unbounded();
        let counters = Arc::new(WorkerCounters::default());
        let shared = Shared {
            conns: Arc::clone(&self.conns),
            counters: Arc::clone(&counters),
            commons: Arc::clone(commons),
            punts: self.punts.sender(Arc::clone(commons), SLOTS_PER_WORKER / 2),
            traces: Arc::clone(&self.traces),
            captures: Arc::clone(&self.captures),
        };
        let links = Links {
            commands: receiver,
            inject: Arc::clone(&inject),
            lane: Arc::clone(&lane),
            bell: Arc::clone(&bell),
            closed: closed.clone(),
            wake: Arc::clone(&config.wake),
        };
        let (reader, spin) = (self.publisher.reader(), config.spin);
        let core = config.cores.as_ref().and_then(|cores| cores.get(index)).copied();
        let thread =
            thread::Builder::new().name(format!("{}-{index}", config.name)).spawn(move || {
                if let Some(id) = core {
                    core_affinity::set_for_current(core_affinity::CoreId { id });
                }
                // Made here, so that its memory is near the core that uses it.
                Worker::new(Pipeline::new(shared), reader, links, poll, spin).run();
            })?;
        Ok(Handle { commands, inject, lane, bell, counters, thread: Some(thread) })
    }

    /// Puts new tables in force; workers take them between two batches.
    pub fn publish(&mut self, tables: Tables) -> Generation {
        let generation = self.publisher.publish(tables);
        self.workers.iter().for_each(|worker| worker.bell.ring());
        generation
    }

    /// The generation that every worker runs at least.
    pub fn live(&self) -> Generation {
        self.publisher.live()
    }

    /// The newest tables.
    pub fn tables(&self) -> Arc<Tables> {
        self.publisher.current()
    }

    /// Waits until every worker runs this generation or a newer one; false if `timeout` was first.
    pub fn wait_live(&self, generation: Generation, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        while self.live() < generation {
            if Instant::now() >= deadline {
                return false;
            }
            // A worker that missed the new tables by a hair finds them when it is woken again.
            self.workers.iter().for_each(|worker| worker.bell.ring());
            thread::sleep(Duration::from_micros(50));
        }
        true
    }

    /// Gives a port's queues to the workers, in turn; workers without one send through another's.
    /// The tables must know the port for its packets to pass.
    pub fn attach(&mut self, port: PortId, queues: Vec<Box<dyn Queue>>) {
        let Some(first) = queues.first() else { return };
        let (framing, abilities) = (first.framing(), first.abilities());
        let (own, all) = (queues.len(), self.workers.len());
        // Single-queue ports are spread by their number.
        let start = usize::from(port.0) % all;
        for (index, queue) in queues.into_iter().enumerate() {
            self.tell((start + index) % all, Command::Attach(queue));
        }
        for index in own..all {
            let lane = Arc::clone(&self.workers[(start + index % own) % all].lane);
            let through = Command::AttachThrough { port, framing, abilities, lane };
            self.tell((start + index) % all, through);
        }
        if let Some(owner) = self.owners.get_mut(usize::from(port.0)) {
            *owner = Some(start);
        }
    }

    /// Takes a port away from the workers. True when its queues are closed; false if a worker did
    /// not answer within `timeout` (it will close them as soon as it can).
    pub fn detach(&mut self, port: PortId, timeout: Duration) -> bool {
        if let Some(owner) = self.owners.get_mut(usize::from(port.0)) {
            *owner = None;
        }
        let (done, answers) = channel::bounded(self.workers.len());
        for index in 0..self.workers.len() {
            self.tell(index, Command::Detach { port, done: done.clone() });
        }
        let deadline = Instant::now() + timeout;
        (0..self.workers.len()).all(|_| answers.recv_deadline(deadline).is_ok())
    }

    fn tell(&self, worker: usize, command: Command) {
        let worker = &self.workers[worker];
        // A worker ends only when this handle is dropped.
        drop(worker.commands.send(command));
        worker.bell.ring();
    }

    /// Packets for the control side.
    pub fn punts(&self) -> &PuntReceiver {
        &self.punts
    }

    /// Hands a packet down; false (and counted) if there was no room.
    pub fn inject(&self, inject: Inject) -> bool {
        let owner = match &inject {
            Inject::ToPort { port, .. } | Inject::Resume { in_port: port, .. } => {
                self.owners.get(usize::from(port.0)).copied().flatten().unwrap_or(0)
            }
            Inject::Route { .. } => 0,
        };
        let worker = &self.workers[owner];
        let taken = worker.inject.push(inject).is_ok();
        if taken {
            worker.bell.ring();
        } else {
            self.inject_refused.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    /// Ports whose device failed since this was last asked. They are closed already; the tables
    /// still name them until the next generation.
    pub fn closed_ports(&self) -> Vec<(PortId, QueueError)> {
        self.closed.try_iter().collect()
    }

    /// Do all workers still run? One that panicked moves nothing any more.
    pub fn is_running(&self) -> bool {
        let ended = |worker: &Handle| worker.thread.as_ref().is_none_or(JoinHandle::is_finished);
        !self.workers.iter().any(ended)
    }

    /// Everything that was counted so far.
    pub fn counters(&self) -> Counters {
        let mut sum = Counters::default();
        self.workers.iter().for_each(|worker| sum.add(&worker.counters));
        let refused = self.inject_refused.load(Ordering::Relaxed);
        sum.injected += refused;
        sum.add_drops(DropReason::InjectRing, refused);
        sum
    }

    /// The connections there are.
    pub fn flows(&self) -> Vec<FlowInfo> {
        self.conns.flows(Instant::now())
    }

    /// Forgets the connections of an address that a workload gave up. Publish the tables without
    /// the workload first: what workers remember themselves ends with the next generation.
    pub fn forget(&self, address: IpAddr) {
        self.conns.forget(address);
    }

    /// Follows matching packets, `limit` of them, stage by stage.
    pub fn trace(&self, filter: Filter, limit: usize) -> TapReceiver<Trace> {
        self.traces.open(filter, 0, limit)
    }

    /// Copies matching packets, `limit` of them, as received and as sent, `snaplen` bytes each.
    pub fn capture(&self, filter: Filter, snaplen: usize, limit: usize) -> TapReceiver<Captured> {
        self.captures.open(filter, snaplen, limit)
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        for index in 0..self.workers.len() {
            self.tell(index, Command::Stop);
        }
        for worker in &mut self.workers {
            if let Some(thread) = worker.thread.take() {
                // A worker that panicked has said so on its own.
                drop(thread.join());
            }
        }
    }
}
