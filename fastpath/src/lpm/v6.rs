//! Longest-prefix match for IPv6.

use ipnet::Ipv6Net;
use std::collections::BTreeMap;
use std::net::Ipv6Addr;

/// IPv6 prefix → value; cheap to clone where chunks are shared.
#[derive(Clone, Debug, Default)]
pub struct Lpm6 {
    routes: BTreeMap<(u8, Ipv6Addr), u32>,
}

impl Lpm6 {
    /// The value of the longest prefix that covers `address`; 0 if none does.
    pub fn lookup(&self, address: Ipv6Addr) -> u32 {
        (0..=Ipv6Net::from(address).max_prefix_len())
            .rev()
            .find_map(|len| {
                let net = Ipv6Net::new(address, len).ok()?.network();
                self.routes.get(&(len, net)).copied()
            })
            .unwrap_or(0)
    }

    /// Adds or replaces a prefix.
    pub fn insert(&mut self, prefix: Ipv6Net, value: u32) {
        self.routes.insert((prefix.prefix_len(), prefix.network()), value);
    }

    /// Removes a prefix.
    pub fn remove(&mut self, prefix: Ipv6Net) {
        self.routes.remove(&(prefix.prefix_len(), prefix.network()));
    }

    /// Prefixes held.
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// No prefix at all.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }
}
