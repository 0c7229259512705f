//! Which number has this key, for as long as anybody refers to it?

use ahash::AHashMap;
use std::collections::BTreeSet;
use std::hash::Hash;

/// Numbers from 1 up for keys that are referred to. A number is used again only after the
/// [`Ids::collect`] that reported it unused, so what is derived from it can be dropped between.
#[derive(Debug)]
pub(crate) struct Ids<K> {
    by_key: AHashMap<K, u32>,
    entries: Vec<Option<Entry<K>>>,
    free: BTreeSet<u32>,
    unused: BTreeSet<u32>,
}

#[derive(Debug)]
struct Entry<K> {
    key: K,
    references: usize,
}

impl<K> Default for Ids<K> {
    fn default() -> Self {
        Self {
            by_key: AHashMap::new(),
            entries: Vec::new(),
            free: BTreeSet::new(),
            unused: BTreeSet::new(),
        }
    }
}

impl<K: Clone + Eq + Hash> Ids<K> {
    /// The key's number, referred to once more; true if it is new.
    pub(crate) fn acquire(&mut self, key: &K) -> (u32, bool) {
        if let Some(id) = self.by_key.get(key).copied() {
            if let Some(entry) = self.entry(id) {
                entry.references += 1;
            }
            self.unused.remove(&id);
            return (id, false);
        }
        let id = self.free.pop_first().unwrap_or_else(|| {
            self.entries.push(None);
            self.entries.len() as u32
        });
        self.entries[id as usize - 1] = Some(Entry { key: key.clone(), references: 1 });
        self.by_key.insert(key.clone(), id);
        (id, true)
    }

    /// Gives one reference back.
    pub(crate) fn release(&mut self, id: u32) {
        let Some(entry) = self.entry(id) else { return };
        entry.references = entry.references.saturating_sub(1);
        if entry.references == 0 {
            self.unused.insert(id);
        }
    }

    /// Forgets the keys that nobody refers to, and gives them with their numbers.
    pub(crate) fn collect(&mut self) -> Vec<(u32, K)> {
        let mut gone = Vec::new();
        for id in std::mem::take(&mut self.unused) {
            if let Some(entry) = self.entries[id as usize - 1].take() {
                self.by_key.remove(&entry.key);
                self.free.insert(id);
                gone.push((id, entry.key));
            }
        }
        gone
    }

    fn entry(&mut self, id: u32) -> Option<&mut Entry<K>> {
        self.entries.get_mut((id as usize).checked_sub(1)?)?.as_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_stays_while_it_is_referred_to_and_returns_only_after_collection() {
        let mut ids = Ids::default();
        assert_eq!(ids.acquire(&"a"), (1, true));
        assert_eq!(ids.acquire(&"b"), (2, true));
        assert_eq!(ids.acquire(&"a"), (1, false));
        ids.release(1);
        ids.release(1);
        assert_eq!(ids.acquire(&"c"), (3, true));
        assert_eq!(ids.acquire(&"a"), (1, false));
        assert_eq!(ids.collect(), []);
        ids.release(1);
        assert_eq!(ids.collect(), [(1, "a")]);
        assert_eq!(ids.acquire(&"d"), (1, true));
    }
}
