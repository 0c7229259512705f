//! How are prefixes kept so that a lookup is a few loads and a change copies a few nodes?
//!
//! A tree over the bytes of the address. A node stands at a depth (bytes above it), skips bytes
//! that all below it have in common, and holds the prefixes that end within its byte, spread over
//! its 256 slots in advance and stored as runs of equal values behind a bitmap; its children
//! stand behind another. A lookup follows the address down and keeps the last value it met.
//!
//! Nodes are shared: a clone costs one reference, and a change copies the nodes from the root to
//! the one that holds the prefix, no others.

use std::sync::Arc;

/// Addresses looked up side by side, so that their loads overlap.
const SIDE_BY_SIDE: usize = 8;

/// An address as a number, most significant byte first.
pub(super) trait Key: Copy + Eq + Default {
    /// The byte at a depth.
    fn byte(self, depth: u8) -> u8;
    /// How many leading bytes are equal.
    fn shared(self, other: Self) -> u8;
    /// The leading bytes, then zeros.
    fn truncate(self, bytes: u8) -> Self;
}

impl Key for u32 {
    #[inline]
    fn byte(self, depth: u8) -> u8 {
        (self >> (24 - 8 * u32::from(depth))) as u8
    }

    #[inline]
    fn shared(self, other: Self) -> u8 {
        ((self ^ other).leading_zeros() / 8) as u8
    }

    fn truncate(self, bytes: u8) -> Self {
        self & Self::MAX.checked_shl(32 - 8 * u32::from(bytes)).unwrap_or(0)
    }
}

impl Key for u128 {
    #[inline]
    fn byte(self, depth: u8) -> u8 {
        (self >> (120 - 8 * u32::from(depth))) as u8
    }

    #[inline]
    fn shared(self, other: Self) -> u8 {
        ((self ^ other).leading_zeros() / 8) as u8
    }

    fn truncate(self, bytes: u8) -> Self {
        self & Self::MAX.checked_shl(128 - 8 * u32::from(bytes)).unwrap_or(0)
    }
}

/// Prefix → value; 0 is no value.
#[derive(Clone, Debug, Default)]
pub(super) struct Trie<K> {
    root: Arc<Node<K>>,
    len: usize,
}

#[derive(Clone, Debug, Default)]
struct Node<K> {
    /// The bytes above, then zeros.
    key: K,
    /// How many bytes are above.
    depth: u8,
    /// Values by slot.
    runs: Runs,
    /// Slots that go on below, and where.
    below: Slots,
    children: Vec<Arc<Node<K>>>,
    /// The prefixes that end in this byte, sorted by length in it and first slot.
    prefixes: Vec<Prefix>,
}

/// A prefix within a node's byte.
#[derive(Clone, Copy, Debug)]
struct Prefix {
    /// Bits of the byte, 1 to 8; 0 only in the root.
    bits: u8,
    first: u8,
    value: u32,
}

/// Some of 256 slots, with how many there are before each quarter.
#[derive(Clone, Debug, Default)]
struct Slots {
    quarters: [u64; 4],
    before: [u8; 4],
}

/// A value for each of 256 slots: slots that begin another value than the one before.
#[derive(Clone, Debug, Default)]
struct Runs {
    starts: Slots,
    values: Box<[u32]>,
}

impl Slots {
    fn of(slots: impl Iterator<Item = u8>) -> Self {
        let mut quarters = [0_u64; 4];
        for slot in slots {
            quarters[usize::from(slot >> 6)] |= 1 << (slot & 63);
        }
        let mut before = [0; 4];
        for quarter in 1..4 {
            // Three quarters hold at most 192.
            before[quarter] = before[quarter - 1] + quarters[quarter - 1].count_ones() as u8;
        }
        Self { quarters, before }
    }

    #[inline]
    fn contains(&self, slot: u8) -> bool {
        self.quarters[usize::from(slot >> 6)] >> (slot & 63) & 1 == 1
    }

    /// How many there are up to this slot, itself included.
    #[inline]
    fn rank(&self, slot: u8) -> usize {
        let quarter = usize::from(slot >> 6);
        let up_to = u64::MAX >> (63 - (slot & 63));
        usize::from(self.before[quarter]) + (self.quarters[quarter] & up_to).count_ones() as usize
    }
}

impl Runs {
    /// Spreads prefixes over the slots; longer ones come later in the list and win.
    fn of(prefixes: &[Prefix]) -> Self {
        if prefixes.is_empty() {
            return Self::default();
        }
        let mut slots = [0_u32; 256];
        for Prefix { bits, first, value } in prefixes {
            let first = usize::from(*first);
            slots[first..first + (256 >> bits)].fill(*value);
        }
        let begins = |slot: &u8| match usize::from(*slot) {
            0 => true,
            slot => slots[slot] != slots[slot - 1],
        };
        let starts: Vec<u8> = (0..=u8::MAX).filter(begins).collect();
        let values = starts.iter().map(|slot| slots[usize::from(*slot)]).collect();
        Self { starts: Slots::of(starts.into_iter()), values }
    }

    #[inline]
    fn value(&self, slot: u8) -> u32 {
        // Without prefixes there is no run, and rank is 0.
        self.values.get(self.starts.rank(slot).wrapping_sub(1)).copied().unwrap_or(0)
    }
}

impl<K: Key> Node<K> {
    fn new(key: K, depth: u8) -> Self {
        Self { key: key.truncate(depth), depth, ..Self::default() }
    }

    #[inline]
    fn covers(&self, key: K) -> bool {
        key.shared(self.key) >= self.depth
    }

    #[inline]
    fn child(&self, slot: u8) -> Option<&Arc<Self>> {
        if self.below.contains(slot) { self.children.get(self.below.rank(slot) - 1) } else { None }
    }

    /// The child that an address goes on to.
    #[inline]
    fn next(&self, key: K) -> Option<&Self> {
        self.child(key.byte(self.depth)).map(AsRef::as_ref).filter(|child| child.covers(key))
    }

    fn place(&self, slot: u8) -> Result<usize, usize> {
        let rank = self.below.rank(slot);
        if self.below.contains(slot) { Ok(rank - 1) } else { Err(rank) }
    }

    /// The slots of the children, after they changed.
    fn index_children(&mut self) {
        let depth = self.depth;
        self.below = Slots::of(self.children.iter().map(|child| child.key.byte(depth)));
    }

    fn find(&self, bits: u8, first: u8) -> Result<usize, usize> {
        self.prefixes.binary_search_by_key(&(bits, first), |prefix| (prefix.bits, prefix.first))
    }

    /// Adds or replaces a prefix that ends in this node's byte; true if it is new.
    fn set(&mut self, bits: u8, first: u8, value: u32) -> bool {
        let place = self.find(bits, first);
        match place {
            Ok(at) => self.prefixes[at].value = value,
            Err(at) => self.prefixes.insert(at, Prefix { bits, first, value }),
        }
        self.runs = Runs::of(&self.prefixes);
        place.is_err()
    }

    /// Adds or replaces a prefix that ends at this depth or below, and that this node covers.
    fn insert(&mut self, key: K, len: u8, value: u32) -> bool {
        let (depth, bits) = ending(len);
        if depth == self.depth {
            return self.set(bits, key.byte(depth), value);
        }
        match self.place(key.byte(self.depth)) {
            Err(at) => {
                let mut child = Self::new(key, depth);
                child.set(bits, key.byte(depth), value);
                self.children.insert(at, Arc::new(child));
                self.index_children();
                true
            }
            Ok(at) => {
                let child = &mut self.children[at];
                let shared = key.shared(child.key).min(depth);
                if shared < child.depth {
                    // They part within the bytes the child skips: a node where they do.
                    let mut fork = Self::new(key, shared);
                    fork.children.push(child.clone());
                    fork.index_children();
                    *child = Arc::new(fork);
                }
                Arc::make_mut(child).insert(key, len, value)
            }
        }
    }

    /// Removes a prefix that is there, and nodes that have become needless.
    fn remove(&mut self, key: K, len: u8) {
        let (depth, bits) = ending(len);
        if depth == self.depth {
            if let Ok(at) = self.find(bits, key.byte(depth)) {
                self.prefixes.remove(at);
                self.runs = Runs::of(&self.prefixes);
            }
            return;
        }
        let Ok(at) = self.place(key.byte(self.depth)) else { return };
        let child = Arc::make_mut(&mut self.children[at]);
        child.remove(key, len);
        if child.prefixes.is_empty() && child.children.len() < 2 {
            match child.children.pop() {
                Some(only) => self.children[at] = only,
                None => drop(self.children.remove(at)),
            }
            self.index_children();
        }
    }

    fn collect(&self, found: &mut Vec<(K, u8, u32)>, with: &impl Fn(K, u8, u8) -> K) {
        for Prefix { bits, first, value } in &self.prefixes {
            found.push((with(self.key, self.depth, *first), 8 * self.depth + bits, *value));
        }
        for child in &self.children {
            child.collect(found, with);
        }
    }
}

/// The depth at whose byte a prefix ends, and its bits there.
fn ending(len: u8) -> (u8, u8) {
    match len {
        0 => (0, 0),
        _ => ((len - 1) / 8, (len - 1) % 8 + 1),
    }
}

impl<K: Key> Trie<K> {
    /// The value of the longest prefix that covers the address.
    #[inline]
    pub(super) fn lookup(&self, key: K) -> u32 {
        let mut best = 0;
        let mut at = Some(&*self.root);
        while let Some(node) = at {
            let value = node.runs.value(key.byte(node.depth));
            best = if value == 0 { best } else { value };
            at = node.next(key);
        }
        best
    }

    /// [`Self::lookup`] of several addresses; their steps alternate, so that one's loads are
    /// under way while another's are used.
    pub(super) fn lookup_batch(&self, keys: impl Iterator<Item = K>, values: &mut [u32]) {
        let mut keys = keys.fuse();
        for values in values.chunks_mut(SIDE_BY_SIDE) {
            values.fill(0);
            let mut at = [None; SIDE_BY_SIDE];
            let mut of = [K::default(); SIDE_BY_SIDE];
            let mut active = 0;
            for (key, (at, of)) in keys.by_ref().take(values.len()).zip(at.iter_mut().zip(&mut of))
            {
                (*at, *of) = (Some(&*self.root), key);
                active += 1;
            }
            while active > 0 {
                for (value, (at, key)) in values.iter_mut().zip(at.iter_mut().zip(&of)) {
                    let Some(node) = *at else { continue };
                    let met = node.runs.value(key.byte(node.depth));
                    *value = if met == 0 { *value } else { met };
                    *at = node.next(*key);
                    active -= usize::from(at.is_none());
                }
            }
        }
    }

    /// The length and value of the longest prefix that covers the address.
    pub(super) fn longest(&self, key: K) -> Option<(u8, u32)> {
        let mut best = None;
        let mut at = Some(&*self.root);
        while let Some(node) = at {
            let slot = key.byte(node.depth);
            let covers =
                |p: &&Prefix| usize::from(slot).wrapping_sub(usize::from(p.first)) < 256 >> p.bits;
            if let Some(prefix) = node.prefixes.iter().rev().find(covers) {
                best = Some((8 * node.depth + prefix.bits, prefix.value));
            }
            at = node.next(key);
        }
        best
    }

    /// The value of exactly this prefix.
    pub(super) fn get(&self, key: K, len: u8) -> Option<u32> {
        let (depth, bits) = ending(len);
        let mut at = Some(&*self.root);
        while let Some(node) = at.filter(|node| node.depth <= depth) {
            if node.depth == depth {
                let place = node.find(bits, key.byte(depth)).ok()?;
                return Some(node.prefixes[place].value);
            }
            at = node.next(key);
        }
        None
    }

    /// Adds or replaces a prefix (`key` has no bit beyond `len`); value 0 removes it.
    pub(super) fn insert(&mut self, key: K, len: u8, value: u32) {
        if value == 0 {
            self.remove(key, len);
        } else if self.get(key, len) != Some(value)
            && Arc::make_mut(&mut self.root).insert(key, len, value)
        {
            self.len += 1;
        }
    }

    /// Removes a prefix, if it is there.
    pub(super) fn remove(&mut self, key: K, len: u8) {
        if self.get(key, len).is_some() {
            Arc::make_mut(&mut self.root).remove(key, len);
            self.len -= 1;
        }
    }

    /// How many prefixes there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// All prefixes with their lengths and values, in no order. `with` puts a byte at a depth.
    pub(super) fn entries(&self, with: impl Fn(K, u8, u8) -> K) -> Vec<(K, u8, u32)> {
        let mut found = Vec::with_capacity(self.len);
        self.root.collect(&mut found, &with);
        found
    }

    /// How many nodes are not the other's too.
    #[cfg(test)]
    pub(super) fn nodes_not_in(&self, other: &Self) -> usize {
        fn nodes<K>(node: &Arc<Node<K>>, found: &mut Vec<*const Node<K>>) {
            found.push(Arc::as_ptr(node));
            node.children.iter().for_each(|child| nodes(child, found));
        }
        let (mut own, mut others) = (Vec::new(), Vec::new());
        nodes(&self.root, &mut own);
        nodes(&other.root, &mut others);
        own.iter().filter(|node| !others.contains(node)).count()
    }
}
