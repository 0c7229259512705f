//! Which source's route wins for a prefix? All route sources of the node side by side.
//!
//! Each source hands in what it wants now; the table keeps them apart and says which prefixes
//! changed. It knows no next-hop resolution (`next_hop`) and no BGP decision (`best_path`).

use fastpath::tables::EndpointId;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

/// Where a route comes from, the preferred first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Source {
    /// An address of the node, or of the router itself.
    Local,
    /// A pod on this node.
    Workload,
    /// A block of addresses this node owns: what no pod has goes nowhere.
    OwnBlock,
    /// A subnet on one of the node's links.
    Connected,
    /// A block (or a borrowed address) another node owns, by the datastore.
    Block,
    /// Learned by BGP.
    Bgp,
    /// Any other route of the kernel's main table.
    Kernel,
}

impl Source {
    /// All of them, the preferred first.
    pub const ALL: [Self; 7] = [
        Self::Local,
        Self::Workload,
        Self::OwnBlock,
        Self::Connected,
        Self::Block,
        Self::Bgp,
        Self::Kernel,
    ];

    /// The word operators see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Workload => "workload",
            Self::OwnBlock => "own-block",
            Self::Connected => "connected",
            Self::Block => "block",
            Self::Bgp => "bgp",
            Self::Kernel => "kernel",
        }
    }
}

/// One way on: a gateway, by a link where the route names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hop {
    /// The gateway (or BGP next hop).
    pub address: IpAddr,
    /// The kernel's interface index, where the route names one.
    pub link: Option<u32>,
}

/// Where a route leads, before resolution.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Via {
    /// A local workload.
    Endpoint(EndpointId),
    /// The node's own stack.
    HostLocal,
    /// The control plane answers.
    Router,
    /// Dropped in silence.
    Blackhole,
    /// Refused with host unreachable.
    Unreachable,
    /// Refused with administratively prohibited.
    Prohibit,
    /// A subnet on a link (the kernel's interface index).
    Link(u32),
    /// Gateways the kernel's own table names: what the router owns no link for, the kernel forwards.
    Gateways(Vec<Hop>),
    /// BGP next hops, resolved through the kernel's table.
    NextHops(Vec<IpAddr>),
    /// Another node, in IPIP or plainly.
    Node {
        /// Its address.
        address: Ipv4Addr,
        /// In IPIP.
        encapsulate: bool,
    },
}

/// Every source's routes.
#[derive(Debug, Default)]
pub struct RouteTable {
    sources: [BTreeMap<IpNet, Via>; 7],
    dirty: BTreeSet<IpNet>,
}

impl RouteTable {
    /// Sets, replaces or (with `None`) removes one source's route.
    pub fn set(&mut self, source: Source, prefix: IpNet, via: Option<Via>) {
        let prefix = prefix.trunc();
        let routes = &mut self.sources[source as usize];
        let changed = match via {
            Some(via) => {
                routes.get(&prefix) != Some(&via) && {
                    routes.insert(prefix, via);
                    true
                }
            }
            None => routes.remove(&prefix).is_some(),
        };
        if changed {
            self.dirty.insert(prefix);
        }
    }

    /// Replaces all routes of one source; only real differences are marked.
    pub fn replace(&mut self, source: Source, routes: BTreeMap<IpNet, Via>) {
        let old = std::mem::take(&mut self.sources[source as usize]);
        for (prefix, via) in &old {
            if routes.get(prefix) != Some(via) {
                self.dirty.insert(*prefix);
            }
        }
        self.dirty.extend(routes.keys().filter(|p| !old.contains_key(p)));
        self.sources[source as usize] = routes;
    }

    /// The winner for exactly this prefix.
    pub fn best(&self, prefix: &IpNet) -> Option<(Source, &Via)> {
        Source::ALL.into_iter().find_map(|s| Some((s, self.sources[s as usize].get(prefix)?)))
    }

    /// Everyone's route for exactly this prefix, the winner first.
    pub fn candidates(&self, prefix: &IpNet) -> Vec<(Source, &Via)> {
        Source::ALL
            .into_iter()
            .filter_map(|s| Some((s, self.sources[s as usize].get(prefix)?)))
            .collect()
    }

    /// The winner of the longest prefix that covers an address.
    pub fn lookup(&self, address: IpAddr) -> Option<(IpNet, Source, &Via)> {
        let full = IpNet::from(address);
        (0..=full.prefix_len()).rev().find_map(|len| {
            let prefix = IpNet::new(address, len).ok()?.trunc();
            self.best(&prefix).map(|(source, via)| (prefix, source, via))
        })
    }

    /// Prefixes whose winner may have changed since the last call.
    pub fn take_dirty(&mut self) -> BTreeSet<IpNet> {
        std::mem::take(&mut self.dirty)
    }

    /// Anything changed since [`RouteTable::take_dirty`]?
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Every prefix with its winner, in order.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, Source, &Via)> {
        let prefixes: BTreeSet<_> = self.sources.iter().flat_map(BTreeMap::keys).collect();
        prefixes.into_iter().filter_map(|p| self.best(p).map(|(s, v)| (*p, s, v)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(s: &str) -> IpNet {
        s.parse().expect("a prefix")
    }

    #[test]
    fn the_preferred_source_wins_and_its_loser_takes_over() {
        let mut table = RouteTable::default();
        table.set(Source::Kernel, net("10.0.0.0/8"), Some(Via::Link(1)));
        table.set(Source::Bgp, net("10.0.0.0/8"), Some(Via::Blackhole));
        assert_eq!(table.best(&net("10.0.0.0/8")), Some((Source::Bgp, &Via::Blackhole)));
        assert_eq!(table.take_dirty().len(), 1);
        table.set(Source::Bgp, net("10.0.0.0/8"), Some(Via::Blackhole));
        assert!(!table.is_dirty());
        table.set(Source::Bgp, net("10.0.0.0/8"), None);
        assert_eq!(table.best(&net("10.0.0.0/8")), Some((Source::Kernel, &Via::Link(1))));
        let found = table.lookup("10.1.2.3".parse().expect("address")).expect("covered");
        assert_eq!(found.0, net("10.0.0.0/8"));
    }

    proptest! {
        #[test]
        fn replacing_marks_exactly_the_differences(
            old in proptest::collection::btree_map(0u32..32, 0u32..3, 0..20),
            new in proptest::collection::btree_map(0u32..32, 0u32..3, 0..20),
        ) {
            let routes = |m: &BTreeMap<u32, u32>| -> BTreeMap<IpNet, Via> {
                m.iter().map(|(k, v)| {
                    (IpNet::from(IpAddr::from(Ipv4Addr::from(*k))), Via::Link(*v))
                }).collect()
            };
            let mut table = RouteTable::default();
            table.replace(Source::Bgp, routes(&old));
            table.take_dirty();
            table.replace(Source::Bgp, routes(&new));
            let (old, new) = (routes(&old), routes(&new));
            let expected: BTreeSet<_> = old.keys().chain(new.keys())
                .filter(|p| old.get(p) != new.get(p)).copied().collect();
            prop_assert_eq!(table.take_dirty(), expected);
        }
    }
}
