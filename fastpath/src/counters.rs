//! How much of everything was there? One set of counters per worker, written by it alone; the
//! control side adds them up.
//!
//! The identity that always holds once nothing is under way:
//!
//! ```text
//! received + injected + split = forwarded + punted + Σ dropped + merged
//! ```
//!
//! A packet cut into n (segments, fragments) adds n - 1 to `split`; n packets built into one
//! super-packet add n - 1 to `merged`. `forwarded` counts what a device took.

use crate::acl::RuleId;
use crate::flow::Traffic;
use crate::limits::{PORTS, RULE_COUNTERS};
use crate::outcome::{DropReason, Outcome, PuntReason};
use crate::packet::PortId;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// One counter with one writer: adding is a load and a store, no locked instruction.
#[derive(Debug, Default)]
pub struct Cell(AtomicU64);

impl Cell {
    /// Adds. Only the worker that owns it may.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Starts over. Only the worker that owns it may.
    fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One port's counters in one worker.
#[derive(Debug, Default)]
pub struct PortCells {
    /// Packets and bytes received.
    pub received: [Cell; 2],
    /// Packets and bytes sent.
    pub sent: [Cell; 2],
    /// Packets received here that were dropped.
    pub dropped: Cell,
    /// Packets the device refused.
    pub refused: Cell,
}

impl PortCells {
    /// Starts over: the port's number was given to another device.
    pub fn clear(&self) {
        let all = self.received.iter().chain(&self.sent).chain([&self.dropped, &self.refused]);
        all.for_each(Cell::clear);
    }
}

/// One rule's counters in one worker: packets, bytes, connections.
#[derive(Debug, Default)]
pub struct RuleCells([Cell; 3]);

/// One worker's counters. worker: write · control: read
#[derive(Debug)]
pub struct WorkerCounters {
    /// Packets taken from ports.
    pub received: Cell,
    /// Packets taken from the control side.
    pub injected: Cell,
    /// Packets that came into being by cutting others.
    pub split: Cell,
    /// Packets that vanished into super-packets.
    pub merged: Cell,
    /// Packets that a device took.
    pub forwarded: Cell,
    /// Packets of connections this worker had decided in this generation.
    pub hits: Cell,
    /// Packets that had to be routed and judged (or whose connection had to be asked).
    pub misses: Cell,
    /// Connections opened.
    pub opened: Cell,
    /// Connections whose time was over.
    pub expired: Cell,
    /// Nanoseconds in rounds that moved packets.
    pub busy: Cell,
    /// Nanoseconds in rounds that found nothing, spinning and sleep included.
    pub idle: Cell,
    drops: [Cell; DropReason::COUNT],
    punts: [Cell; PuntReason::COUNT],
    ports: Box<[PortCells]>,
    rules: Box<[RuleCells]>,
}

impl Default for WorkerCounters {
    fn default() -> Self {
        let cell = Cell::default;
        Self {
            received: cell(),
            injected: cell(),
            split: cell(),
            merged: cell(),
            forwarded: cell(),
            hits: cell(),
            misses: cell(),
            opened: cell(),
            expired: cell(),
            busy: cell(),
            idle: cell(),
            drops: std::array::from_fn(|_| cell()),
            punts: std::array::from_fn(|_| cell()),
            ports: (0..PORTS).map(|_| PortCells::default()).collect(),
            rules: (0..RULE_COUNTERS).map(|_| RuleCells::default()).collect(),
        }
    }
}

impl WorkerCounters {
    /// Counts how one packet's stay ended. What was handed to a port counts as forwarded once the
    /// device has taken it.
    pub fn ended(&self, in_port: PortId, outcome: Outcome) {
        match outcome {
            Outcome::Forwarded => {}
            Outcome::Punted(reason) => self.punts[reason.index()].add(1),
            Outcome::Dropped(reason) => {
                self.drops[reason.index()].add(1);
                self.port(in_port).dropped.add(1);
            }
        }
    }

    /// Counts packets dropped behind the stages (a device refused them).
    pub fn dropped(&self, reason: DropReason, packets: u64) {
        self.drops[reason.index()].add(packets);
    }

    /// A port's counters; ports beyond the limit share the last one.
    pub fn port(&self, port: PortId) -> &PortCells {
        &self.ports[usize::from(port.0).min(PORTS - 1)]
    }

    /// Counts one packet under a rule; rule 0 is none.
    pub fn hit(&self, rule: RuleId, bytes: u64) {
        if rule != RuleId(0) {
            let cells = &self.rules[(rule.0 as usize).min(RULE_COUNTERS - 1)].0;
            cells[0].add(1);
            cells[1].add(bytes);
        }
    }

    /// Counts a new connection under a rule; rule 0 is none.
    pub fn opened_by(&self, rule: RuleId) {
        if rule != RuleId(0) {
            self.rules[(rule.0 as usize).min(RULE_COUNTERS - 1)].0[2].add(1);
        }
    }
}

/// What one port saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortTraffic {
    /// Received from the device.
    pub received: Traffic,
    /// Taken by the device.
    pub sent: Traffic,
    /// Received here and dropped.
    pub dropped: u64,
    /// Refused by the device.
    pub refused: u64,
}

/// What one rule decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleHits {
    /// Packets of connections it decided, and what it denied.
    pub traffic: Traffic,
    /// Connections it decided.
    pub connections: u64,
}

/// What one worker did with its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// In rounds that moved packets.
    pub busy: Duration,
    /// In rounds that found nothing.
    pub idle: Duration,
}

/// All workers' counters at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets taken from ports.
    pub received: u64,
    /// Packets taken from the control side.
    pub injected: u64,
    /// Packets that came into being by cutting others.
    pub split: u64,
    /// Packets that vanished into super-packets.
    pub merged: u64,
    /// Packets that a device took.
    pub forwarded: u64,
    /// Packets of connections decided before.
    pub hits: u64,
    /// Packets that had to be routed and judged.
    pub misses: u64,
    /// Connections opened.
    pub opened: u64,
    /// Connections whose time was over.
    pub expired: u64,
    /// By reason; reasons that never occurred are missing.
    pub drops: BTreeMap<DropReason, u64>,
    /// By reason; reasons that never occurred are missing.
    pub punts: BTreeMap<PuntReason, u64>,
    /// By port; silent ports are missing.
    pub ports: BTreeMap<PortId, PortTraffic>,
    /// By rule; rules never hit are missing.
    pub rules: BTreeMap<RuleId, RuleHits>,
    /// By worker.
    pub workers: Vec<Load>,
}

impl Counters {
    /// Adds one worker's.
    pub fn add(&mut self, worker: &WorkerCounters) {
        for (sum, cell) in [
            (&mut self.received, &worker.received),
            (&mut self.injected, &worker.injected),
            (&mut self.split, &worker.split),
            (&mut self.merged, &worker.merged),
            (&mut self.forwarded, &worker.forwarded),
            (&mut self.hits, &worker.hits),
            (&mut self.misses, &worker.misses),
            (&mut self.opened, &worker.opened),
            (&mut self.expired, &worker.expired),
        ] {
            *sum += cell.get();
        }
        for (reason, cell) in DropReason::ALL.iter().zip(&worker.drops) {
            add(&mut self.drops, *reason, cell.get());
        }
        for (reason, cell) in PuntReason::ALL.iter().zip(&worker.punts) {
            add(&mut self.punts, *reason, cell.get());
        }
        for (port, cells) in worker.ports.iter().enumerate() {
            self.add_port(PortId(port as u16), cells);
        }
        for (rule, cells) in
            worker.rules.iter().enumerate().filter(|(_, c)| c.0.iter().any(|cell| cell.get() != 0))
        {
            let hits = self.rules.entry(RuleId(rule as u32)).or_default();
            hits.traffic.add(cells.0[0].get(), cells.0[1].get());
            hits.connections += cells.0[2].get();
        }
        self.workers.push(Load {
            busy: Duration::from_nanos(worker.busy.get()),
            idle: Duration::from_nanos(worker.idle.get()),
        });
    }

    /// Counts drops that no worker saw.
    pub fn add_drops(&mut self, reason: DropReason, packets: u64) {
        add(&mut self.drops, reason, packets);
    }

    fn add_port(&mut self, port: PortId, cells: &PortCells) {
        let seen = PortTraffic {
            received: Traffic { packets: cells.received[0].get(), bytes: cells.received[1].get() },
            sent: Traffic { packets: cells.sent[0].get(), bytes: cells.sent[1].get() },
            dropped: cells.dropped.get(),
            refused: cells.refused.get(),
        };
        if seen != PortTraffic::default() {
            let sum = self.ports.entry(port).or_default();
            sum.received.add(seen.received.packets, seen.received.bytes);
            sum.sent.add(seen.sent.packets, seen.sent.bytes);
            sum.dropped += seen.dropped;
            sum.refused += seen.refused;
        }
    }

    /// Drops of all reasons.
    pub fn dropped(&self) -> u64 {
        self.drops.values().sum()
    }

    /// Punts of all reasons.
    pub fn punted(&self) -> u64 {
        self.punts.values().sum()
    }

    /// Drops for one reason.
    pub fn drops_for(&self, reason: DropReason) -> u64 {
        self.drops.get(&reason).copied().unwrap_or(0)
    }

    /// Punts for one reason.
    pub fn punts_for(&self, reason: PuntReason) -> u64 {
        self.punts.get(&reason).copied().unwrap_or(0)
    }

    /// Both sides of the identity that always holds once nothing is under way.
    pub fn balance(&self) -> (u64, u64) {
        let came = self.received + self.injected + self.split;
        (came, self.forwarded + self.punted() + self.dropped() + self.merged)
    }
}

fn add<K: Ord>(map: &mut BTreeMap<K, u64>, key: K, n: u64) {
    if n != 0 {
        *map.entry(key).or_default() += n;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_workers_add_up() {
        let (a, b) = (WorkerCounters::default(), WorkerCounters::default());
        for worker in [&a, &b] {
            worker.received.add(3);
            worker.forwarded.add(1);
            worker.ended(PortId(7), Outcome::Dropped(DropReason::NotIp));
            worker.ended(PortId(7), Outcome::Punted(PuntReason::LocalIcmp));
            worker.hit(RuleId(5), 100);
            worker.opened_by(RuleId(5));
            worker.hit(RuleId(0), 100);
            worker.hit(RuleId(u32::MAX), 50);
        }
        let mut sum = Counters::default();
        sum.add(&a);
        sum.add(&b);
        assert_eq!(sum.balance(), (6, 6));
        assert_eq!(sum.drops_for(DropReason::NotIp), 2);
        assert_eq!(sum.punts_for(PuntReason::LocalIcmp), 2);
        assert_eq!(sum.ports[&PortId(7)].dropped, 2);
        assert_eq!(sum.rules[&RuleId(5)].connections, 2);
        assert_eq!(sum.rules[&RuleId(RULE_COUNTERS as u32 - 1)].traffic.packets, 2);
        assert_eq!((sum.rules.len(), sum.workers.len()), (2, 2));
    }
}
