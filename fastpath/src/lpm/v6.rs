//! Longest-prefix match for IPv6.

use super::trie::Trie;
use ipnet::Ipv6Net;
use std::net::Ipv6Addr;

/// IPv6 prefix → value; a clone shares everything, a change copies only what it touches.
#[derive(Clone, Debug, Default)]
pub struct Lpm6 {
    trie: Trie<u128>,
}

impl Lpm6 {
    /// The value of the longest prefix that covers `address`; 0 if none does.
    #[inline]
    pub fn lookup(&self, address: Ipv6Addr) -> u32 {
        self.trie.lookup(u128::from(address))
    }

    /// Looks up all addresses at once, each into the value of its place (0 if none covers it);
    /// what is longer than the other slice is left over.
    pub fn lookup_batch(&self, addresses: &[Ipv6Addr], values: &mut [u32]) {
        let count = addresses.len().min(values.len());
        self.trie.lookup_batch(addresses.iter().copied().map(u128::from), &mut values[..count]);
    }

    /// The longest prefix that covers `address`, and its value; for explaining, not for packets.
    pub fn longest_match(&self, address: Ipv6Addr) -> Option<(Ipv6Net, u32)> {
        let (len, value) = self.trie.longest(u128::from(address))?;
        Some((Ipv6Net::new(address, len).ok()?.trunc(), value))
    }

    /// The value of exactly this prefix.
    pub fn get(&self, prefix: Ipv6Net) -> Option<u32> {
        self.trie.get(u128::from(prefix.network()), prefix.prefix_len())
    }

    /// Adds or replaces a prefix; the value 0 removes it.
    pub fn insert(&mut self, prefix: Ipv6Net, value: u32) {
        self.trie.insert(u128::from(prefix.network()), prefix.prefix_len(), value);
    }

    /// Removes a prefix.
    pub fn remove(&mut self, prefix: Ipv6Net) {
        self.trie.remove(u128::from(prefix.network()), prefix.prefix_len());
    }

    /// All prefixes and their values, sorted by prefix.
    pub fn entries(&self) -> Vec<(Ipv6Net, u32)> {
        let place =
            |key: u128, depth: u8, byte: u8| key | u128::from(byte) << (120 - 8 * u32::from(depth));
        let entries = self.trie.entries(place).into_iter();
        let mut entries: Vec<_> = entries
            .filter_map(|(key, len, value)| Some((Ipv6Net::new(key.into(), len).ok()?, value)))
            .collect();
        entries.sort_unstable();
        entries
    }

    /// Prefixes held.
    pub fn len(&self) -> usize {
        self.trie.len()
    }

    /// No prefix at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Nodes that are not the other's too.
    #[cfg(test)]
    pub(super) fn nodes_not_in(&self, other: &Self) -> usize {
        self.trie.nodes_not_in(&other.trie)
    }
}
