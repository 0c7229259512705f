//! How do routes get into the FIB? The winners of the route table, as next-hop ids, by difference.

use super::next_hop::{NextHopIndex, Resolved, Topology};
use super::table::{RouteTable, Source, Via};
use fastpath::tables::NextHopId;
use fastpath::tables::fib::Fib;
use fastpath::tables::nexthop::{Adjacency, NextHop, NextHopGroup};
use ipnet::IpNet;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

/// All of routing's state on the way from sources to the workers' tables.
#[derive(Debug, Default)]
pub struct Routing {
    /// Every source's routes.
    pub table: RouteTable,
    index: NextHopIndex,
    installed: HashMap<IpNet, NextHopId>,
    fib: Arc<Fib>,
    resolved: Resolved,
    parts: RoutingTables,
}

/// Routing's parts of one generation; what did not change is the same `Arc` as before.
#[derive(Clone, Debug)]
pub struct RoutingTables {
    /// Destination prefix → next-hop id.
    pub fib: Arc<Fib>,
    /// Indexed by next-hop id.
    pub next_hops: Arc<[NextHop]>,
    /// Equal-cost groups.
    pub groups: Arc<[NextHopGroup]>,
    /// Neighbours on uplinks.
    pub adjacencies: Arc<[Adjacency]>,
}

impl Default for RoutingTables {
    fn default() -> Self {
        Self {
            fib: Arc::default(),
            next_hops: Arc::from([NextHop::NoRoute]),
            groups: Arc::from([]),
            adjacencies: Arc::from([]),
        }
    }
}

impl Routing {
    /// Brings the tables up to date with the routes and the kernel's state.
    pub fn flush(&mut self, topology: &Topology) -> &RoutingTables {
        self.install();
        let resolved = self.index.resolve(topology);
        let old = &self.resolved;
        if resolved.next_hops != old.next_hops {
            self.parts.next_hops = resolved.next_hops.as_slice().into();
        }
        if resolved.groups != old.groups {
            self.parts.groups = resolved.groups.as_slice().into();
        }
        if resolved.adjacencies != old.adjacencies {
            self.parts.adjacencies = resolved.adjacencies.as_slice().into();
        }
        self.resolved = resolved;
        self.parts.fib = Arc::clone(&self.fib);
        &self.parts
    }

    fn install(&mut self) {
        let dirty = self.table.take_dirty();
        if dirty.is_empty() {
            return;
        }
        // A clone shares what does not change; the workers go on with the old one.
        let mut fib = (*self.fib).clone();
        for prefix in dirty {
            let old = self.installed.get(&prefix).copied();
            let new = self.table.best(&prefix).map(|(_, via)| self.index.acquire(via));
            match new {
                Some(id) if old == Some(id) => {}
                Some(id) => {
                    fib.insert(prefix, id);
                    self.installed.insert(prefix, id);
                }
                None if old.is_some() => {
                    fib.remove(prefix);
                    self.installed.remove(&prefix);
                }
                None => {}
            }
            if let Some(old) = old {
                self.index.release(old);
            }
        }
        self.fib = Arc::new(fib);
    }

    /// What the last flush resolved: neighbours wanted, links needed.
    pub fn resolved(&self) -> &Resolved {
        &self.resolved
    }

    /// What a way on was resolved to.
    pub fn next_hop(&self, via: &Via) -> Option<NextHop> {
        self.resolved.next_hops.get(self.index.id(via)?.0 as usize).copied()
    }

    /// The way on behind an id of the FIB (for traces).
    pub fn via(&self, id: NextHopId) -> Option<&Via> {
        self.index.via(id)
    }

    /// The route that an address takes, with its source.
    pub fn lookup(&self, address: IpAddr) -> Option<(IpNet, Source, &Via)> {
        self.table.lookup(address)
    }

    /// Routes installed.
    pub fn len(&self) -> usize {
        self.installed.len()
    }

    /// No route at all.
    pub fn is_empty(&self) -> bool {
        self.installed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn apply(routing: &mut Routing, changes: &[(u8, u32, Option<u32>)]) {
        for (source, prefix, via) in changes {
            let source = Source::ALL[usize::from(*source) % Source::ALL.len()];
            let prefix = IpNet::new(IpAddr::from((prefix << 24).to_be_bytes()), 8).expect("a /8");
            let via = via.map(|v| {
                Via::NextHops(
                    (0..=v % 3).map(|i| IpAddr::from([10, 0, v as u8, i as u8])).collect(),
                )
            });
            routing.table.set(source, prefix, via);
        }
    }

    proptest! {
        /// In whatever order and batches changes come, the tables say what they say from scratch.
        #[test]
        fn tables_depend_on_the_state_not_on_history(
            changes in proptest::collection::vec((0u8..7, 0u32..6, proptest::option::of(0u32..5)), 0..60),
            batch in 1usize..10,
        ) {
            let topology = Topology::default();
            let mut routing = Routing::default();
            for part in changes.chunks(batch) {
                apply(&mut routing, part);
                routing.flush(&topology);
            }
            let mut scratch = Routing::default();
            apply(&mut scratch, &changes);
            scratch.flush(&topology);
            prop_assert_eq!(routing.len(), scratch.len());
            for prefix in 0u32..6 {
                let address = IpAddr::from((prefix << 24 | 1).to_be_bytes());
                let via = |r: &Routing| r.via(r.parts.fib.lookup(address)).cloned();
                prop_assert_eq!(via(&routing), via(&scratch));
                prop_assert_eq!(
                    via(&routing),
                    routing.lookup(address).map(|(_, _, via)| via.clone())
                );
            }
        }
    }
}
