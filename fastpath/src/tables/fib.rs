//! Which next hop does a destination have? Both families' longest-prefix matches.

use super::nexthop::NextHopId;
use crate::lpm::{v4::Lpm4, v6::Lpm6};
use ipnet::IpNet;
use std::net::IpAddr;

/// Destination prefix → next hop, both families.
#[derive(Clone, Debug, Default)]
pub struct Fib {
    /// IPv4.
    pub v4: Lpm4,
    /// IPv6.
    pub v6: Lpm6,
}

impl Fib {
    /// The next hop of the longest prefix that covers `destination`; id 0 if none does.
    pub fn lookup(&self, destination: IpAddr) -> NextHopId {
        match destination {
            IpAddr::V4(a) => NextHopId(self.v4.lookup(a)),
            IpAddr::V6(a) => NextHopId(self.v6.lookup(a)),
        }
    }

    /// The longest prefix that covers `destination`, and its next hop; for explaining, not for
    /// packets.
    pub fn longest_match(&self, destination: IpAddr) -> Option<(IpNet, NextHopId)> {
        match destination {
            IpAddr::V4(a) => self.v4.longest_match(a).map(|(p, id)| (p.into(), NextHopId(id))),
            IpAddr::V6(a) => self.v6.longest_match(a).map(|(p, id)| (p.into(), NextHopId(id))),
        }
    }

    /// Adds or replaces a route.
    pub fn insert(&mut self, prefix: IpNet, next_hop: NextHopId) {
        match prefix {
            IpNet::V4(p) => self.v4.insert(p, next_hop.0),
            IpNet::V6(p) => self.v6.insert(p, next_hop.0),
        }
    }

    /// Removes a route; a shorter one that covers it takes over.
    pub fn remove(&mut self, prefix: IpNet) {
        match prefix {
            IpNet::V4(p) => self.v4.remove(p),
            IpNet::V6(p) => self.v6.remove(p),
        }
    }

    /// Routes of both families.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// No route at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
