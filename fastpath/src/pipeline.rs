//! In which order do the stages run? Here, and nowhere else.

use crate::batch::Batch;
use crate::capture::{Captured, Captures};
use crate::counters::WorkerCounters;
use crate::flow::conn::{ConnTable, Expiry};
use crate::flow::fragment::Fragments;
use crate::flow::wheel::Wheel;
use crate::flow::{FlowCache, Tick};
use crate::io::Framing;
use crate::limits::{
    EXPIRIES_PER_ROUND, FLOW_CACHE, FRAGMENTED_DATAGRAMS, PUNT_RING, SLOTS_PER_WORKER,
};
use crate::packet::{Packet, Pool};
use crate::ports::Ports;
use crate::publish::Generation;
use crate::punt::{self, Commons, Inject, PuntReceiver, PuntSender};
use crate::stage::{
    Entry, Hosts, Items, Misses, State, View, acl, egress, ingress, lookup, remember, rewrite,
    route,
};
use crate::tables::Tables;
use crate::trace::{LocalTaps, Taps, Trace};
use std::sync::Arc;
use std::time::Instant;

/// What a worker's pipeline shares with others.
pub struct Shared {
    /// All connections.
    pub conns: Arc<ConnTable>,
    /// This worker's counters.
    pub counters: Arc<WorkerCounters>,
    /// Slots that are nobody's at the moment.
    pub commons: Arc<Commons>,
    /// The door up.
    pub punts: PuntSender,
    /// Open traces.
    pub traces: Arc<Taps<Trace>>,
    /// Open captures.
    pub captures: Arc<Taps<Captured>>,
}

/// One worker's stages with all they remember. Has no thread and makes no system call.
pub struct Pipeline {
    state: State,
    commons: Arc<Commons>,
    traces: Arc<Taps<Trace>>,
    captures: Arc<Taps<Captured>>,
    items: Box<Items>,
    misses: Box<Misses>,
    generation: Option<Generation>,
    hosts: Hosts,
}

impl Pipeline {
    /// A pipeline with its own slots and an empty cache.
    pub fn new(shared: Shared) -> Self {
        let state = State {
            cache: FlowCache::new(FLOW_CACHE),
            fragments: Fragments::new(FRAGMENTED_DATAGRAMS),
            wheel: Wheel::new(shared.conns.capacity() + EXPIRIES_PER_ROUND),
            conns: shared.conns,
            pool: Pool::with_spare(SLOTS_PER_WORKER, SLOTS_PER_WORKER / 2),
            counters: shared.counters,
            punts: shared.punts,
            ident: 0,
            pieces: Vec::with_capacity(2 * SLOTS_PER_WORKER),
            fragments_out: Vec::with_capacity(2 * SLOTS_PER_WORKER),
            traces: LocalTaps::new(Arc::clone(&shared.traces)),
            captures: Captures::new(Arc::clone(&shared.captures)),
        };
        Self {
            state,
            commons: shared.commons,
            traces: shared.traces,
            captures: shared.captures,
            items: Box::default(),
            misses: Box::default(),
            generation: None,
            hosts: Hosts::default(),
        }
    }

    /// A pipeline that shares nothing (tests, benches, fuzzing) and the control side of its door.
    pub fn standalone(connections: usize, now: Instant) -> (Self, PuntReceiver) {
        let receiver = punt::ring(PUNT_RING, Arc::new(|| {}));
        let commons = Arc::new(Commons::new(SLOTS_PER_WORKER));
        let punts = receiver.sender(Arc::clone(&commons), SLOTS_PER_WORKER / 2);
        let pipeline = Self::new(Shared {
            conns: Arc::new(ConnTable::new(connections, now)),
            counters: Arc::default(),
            commons,
            punts,
            traces: Arc::default(),
            captures: Arc::default(),
        });
        (pipeline, receiver)
    }

    /// Takes a batch through all stages; what leaves is queued at `ports` (see [`Ports::flush`]).
    /// `batch` is empty afterwards. Every packet in it has one outcome.
    pub fn run(
        &mut self,
        (tables, generation): (&Tables, Generation),
        batch: &mut Batch,
        entry: Entry,
        ports: &mut Ports,
        now: Instant,
    ) {
        if self.generation != Some(generation) {
            self.generation = Some(generation);
            self.hosts = Hosts::of(tables);
        }
        let tick = self.state.conns.tick(now);
        let view =
            View { tables, generation: generation.0, now: tick, moment: now, hosts: self.hosts };
        let (state, items, misses) = (&mut self.state, &mut *self.items, &mut *self.misses);
        state.traces.refresh();
        if entry == Entry::Device {
            let framing = |port| tables.port(port).map_or(Framing::Ip, |port| port.framing);
            state.captures.begin(batch.iter_mut(), framing, now);
        }

        ingress::run(&view, state, batch, items, entry);
        lookup::run(&view, state, items, misses);
        if !misses.is_empty() {
            route::run(&view, items, misses);
            acl::run(&view, state, items, misses);
            remember::run(&view, state, items, misses);
        }
        rewrite::run(&view, ports, items);
        egress::run(&view, state, ports, items);

        if !state.captures.is_empty() {
            state.captures.end();
        }
    }

    /// Takes one packet of the control side.
    pub fn inject(
        &mut self,
        current: (&Tables, Generation),
        inject: Inject,
        ports: &mut Ports,
        now: Instant,
    ) {
        let State { pool, counters, .. } = &mut self.state;
        counters.injected.add(1);
        let mut batch = Batch::new();
        match inject {
            Inject::ToPort { port, packet } => {
                if let Err(packet) = ports.push(port, packet, pool, counters) {
                    counters.dropped(crate::outcome::DropReason::PortGone, 1);
                    pool.give(packet);
                }
            }
            Inject::Route { mut packet } => {
                packet.set_mark(0);
                batch.push(packet);
                self.run(current, &mut batch, Entry::Own, ports, now);
            }
            Inject::Resume { mut packet, in_port } => {
                packet.set_mark(0);
                packet.set_in_port(in_port);
                batch.push(packet);
                self.run(current, &mut batch, Entry::Held, ports, now);
            }
        }
    }

    /// Between two rounds: forgets connections whose time is over, a bounded number at once, and
    /// evens out the slots. True if more connections wait to be looked at.
    pub fn housekeep(&mut self, now: Instant) -> bool {
        let tick = self.state.conns.tick(now);
        let more = (0..EXPIRIES_PER_ROUND).all(|_| self.expire_one(tick));
        let pool = &mut self.state.pool;
        while pool.available() > SLOTS_PER_WORKER
            && let Some(packet) = pool.take()
        {
            self.commons.leave(packet);
        }
        while pool.available() < SLOTS_PER_WORKER / 2
            && let Some(packet) = self.commons.take()
        {
            pool.give(packet);
        }
        more
    }

    fn expire_one(&mut self, now: Tick) -> bool {
        let Some(timer) = self.state.wheel.due(now) else { return false };
        let hash = timer.key.hash64();
        // What a flow that fell silent did last is reported now.
        lookup::report_idle(&mut self.state, &timer.key, hash);
        let State { wheel, conns, cache, counters, .. } = &mut self.state;
        match conns.expire(&timer.key, timer.timer, now) {
            Expiry::Stale => {}
            Expiry::Removed => {
                cache.forget(&timer.key, hash);
                counters.expired.add(1);
            }
            Expiry::Until(due) => {
                // Its place in the wheel has just become free.
                wheel.add(timer, now, due);
            }
        }
        true
    }

    /// Does anything need [`Pipeline::housekeep`] as time goes by?
    pub fn has_timers(&self) -> bool {
        !self.state.wheel.is_empty()
    }

    /// Its free slots.
    pub fn pool(&mut self) -> &mut Pool {
        &mut self.state.pool
    }

    /// Its free slots, and its counters.
    pub fn parts(&mut self) -> (&mut Pool, &WorkerCounters) {
        (&mut self.state.pool, &self.state.counters)
    }

    /// What it counted.
    pub fn counters(&self) -> &Arc<WorkerCounters> {
        &self.state.counters
    }

    /// The connection table.
    pub fn conns(&self) -> &Arc<ConnTable> {
        &self.state.conns
    }

    /// Slots that are nobody's at the moment.
    pub fn commons(&self) -> &Arc<Commons> {
        &self.commons
    }

    /// Where traces are opened.
    pub fn traces(&self) -> &Arc<Taps<Trace>> {
        &self.traces
    }

    /// Where captures are opened.
    pub fn captures(&self) -> &Arc<Taps<Captured>> {
        &self.captures
    }

    /// A slot, outside any pool when that is empty (tests, replay).
    pub fn slot(&mut self) -> Packet {
        self.state.pool.take().unwrap_or_default()
    }
}
