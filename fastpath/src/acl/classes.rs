//! Which sets is an address a member of? One longest-prefix match whose leaves are classes.
//!
//! The prefixes of all sets form a tree by inclusion; walking it from the outside in, each prefix
//! is in the sets of the one around it and in its own. Equal membership vectors are one class, so
//! there are as many classes as there are different label signatures, not as many as pods. Should
//! the vectors grow past [`CLASS_MEMBERS`] (thousands of sets that overlap in thousands of
//! ways), further classes hold their own sets and a link to the class around them: memory stays
//! linear in the input and the answers stay right, only no program indexes them.

use super::{AddressSet, SetId};
use crate::limits::CLASS_MEMBERS;
use crate::lpm::{v4::Lpm4, v6::Lpm6};
use ahash::AHashMap;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};

/// Memberships copied while vectors are built, before the rest is linked.
const VECTOR_WORK: usize = 1 << 26;

/// One membership vector: all addresses that are in exactly the same sets. Class 0 is in none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClassId(pub u32);

/// Address → class, for every set of every rule.
#[derive(Clone, Debug)]
pub struct AddressClasses {
    v4: Lpm4,
    v6: Lpm6,
    /// The sets' names, sorted; sets are indices into it from here on.
    ids: Vec<SetId>,
    /// Indexed by class.
    classes: Vec<Class>,
    /// Sorted set indices of every class, one after the other.
    members: Vec<u32>,
    /// Where each set's part of `by_set` starts; one more than there are sets.
    by_set_starts: Vec<u32>,
    /// The whole classes of every set, one set after the other.
    by_set: Vec<u32>,
    /// Classes below this hold their whole vector.
    whole: u32,
    /// Which numbering of classes this is.
    lineage: u64,
}

/// Sets of a class: those written out, and those of the class it is linked to.
#[derive(Clone, Copy, Debug, Default)]
struct Class {
    start: u32,
    end: u32,
    /// 0: none, the vector is whole.
    outer: u32,
}

impl Default for AddressClasses {
    fn default() -> Self {
        Self::build(Vec::new())
    }
}

impl AddressClasses {
    /// Compiles the sets; two of the same id are one.
    pub fn build(sets: Vec<AddressSet>) -> Self {
        Self::build_within(sets, CLASS_MEMBERS)
    }

    /// The class of an address.
    pub fn class_of(&self, address: IpAddr) -> ClassId {
        ClassId(match address {
            IpAddr::V4(a) => self.v4.lookup(a),
            IpAddr::V6(a) => self.v6.lookup(a),
        })
    }

    /// Is every address of this class in the set? A set or class that does not exist has none.
    pub fn contains(&self, class: ClassId, set: SetId) -> bool {
        let Ok(index) = self.ids.binary_search(&set) else { return false };
        self.has(class.0, index as u32)
    }

    /// The sets a class is in, sorted by id.
    pub fn sets_of(&self, class: ClassId) -> Vec<SetId> {
        self.ids
            .iter()
            .enumerate()
            .filter(|(index, _)| self.has(class.0, *index as u32))
            .map(|(_, id)| *id)
            .collect()
    }

    /// How many classes there are, class 0 included.
    pub fn len(&self) -> usize {
        self.classes.len()
    }

    /// How many of them programs do not index, as memberships grew past [`CLASS_MEMBERS`].
    pub fn linked(&self) -> usize {
        self.classes.len() - self.whole as usize
    }

    /// Never: class 0 exists always.
    pub fn is_empty(&self) -> bool {
        self.classes.is_empty()
    }

    /// Names this numbering of classes: a program indexes classes of one numbering only.
    pub(super) fn lineage(&self) -> u64 {
        self.lineage
    }

    /// Classes below this number are listed by [`Self::classes_in`].
    pub(super) fn whole(&self) -> u32 {
        self.whole
    }

    /// The whole classes that are in a set.
    pub(super) fn classes_in(&self, set: SetId) -> &[u32] {
        let Ok(index) = self.ids.binary_search(&set) else { return &[] };
        let start = self.by_set_starts[index] as usize;
        &self.by_set[start..self.by_set_starts[index + 1] as usize]
    }

    pub(super) fn build_within(sets: Vec<AddressSet>, vector_members: usize) -> Self {
        static LINEAGE: AtomicU64 = AtomicU64::new(1);
        let mut ids: Vec<SetId> = sets.iter().map(|set| set.id).collect();
        ids.sort_unstable();
        ids.dedup();
        let lineage = if sets.is_empty() { 0 } else { LINEAGE.fetch_add(1, Ordering::Relaxed) };
        let (mut four, mut six) = (Vec::new(), Vec::new());
        for set in sets {
            let Ok(index) = ids.binary_search(&set.id) else { continue };
            for prefix in set.prefixes {
                match prefix {
                    IpNet::V4(p) => four.push((p.network(), p.prefix_len(), index as u32)),
                    IpNet::V6(p) => six.push((p.network(), p.prefix_len(), index as u32)),
                }
            }
        }
        let mut vectors = Vectors::new(vector_members);
        let mut built = Self {
            v4: Lpm4::default(),
            v6: Lpm6::default(),
            ids,
            classes: Vec::new(),
            members: Vec::new(),
            by_set_starts: Vec::new(),
            by_set: Vec::new(),
            whole: 0,
            lineage,
        };
        let covers4 = |outer: Ipv4Addr, len: u8, inner: Ipv4Addr| {
            (u32::from(outer) ^ u32::from(inner)).leading_zeros() >= u32::from(len)
        };
        for (network, len, class) in vectors.walk(four, covers4) {
            if let Ok(prefix) = ipnet::Ipv4Net::new(network, len) {
                built.v4.insert(prefix, class);
            }
        }
        let covers6 = |outer: Ipv6Addr, len: u8, inner: Ipv6Addr| {
            (u128::from(outer) ^ u128::from(inner)).leading_zeros() >= u32::from(len)
        };
        for (network, len, class) in vectors.walk(six, covers6) {
            if let Ok(prefix) = ipnet::Ipv6Net::new(network, len) {
                built.v6.insert(prefix, class);
            }
        }
        built.whole = vectors.whole.unwrap_or(vectors.classes.len() as u32);
        built.classes = vectors.classes;
        built.members = vectors.members;
        built.invert();
        built
    }

    /// Writes set → whole classes.
    fn invert(&mut self) {
        let whole = &self.classes[..self.whole as usize];
        let written = whole.last().map_or(0, |class| class.end as usize);
        let mut starts = vec![0_u32; self.ids.len() + 2];
        for set in &self.members[..written] {
            starts[*set as usize + 2] += 1;
        }
        for index in 2..starts.len() {
            starts[index] += starts[index - 1];
        }
        self.by_set = vec![0; written];
        for (number, class) in whole.iter().enumerate() {
            for set in &self.members[class.start as usize..class.end as usize] {
                let next = &mut starts[*set as usize + 1];
                self.by_set[*next as usize] = number as u32;
                *next += 1;
            }
        }
        starts.pop();
        self.by_set_starts = starts;
    }

    fn has(&self, class: u32, set: u32) -> bool {
        has(&self.classes, &self.members, class, set)
    }
}

fn has(classes: &[Class], members: &[u32], mut class: u32, set: u32) -> bool {
    while let Some(Class { start, end, outer }) = classes.get(class as usize) {
        if members[*start as usize..*end as usize].binary_search(&set).is_ok() {
            return true;
        }
        if *outer == 0 {
            return false;
        }
        class = *outer;
    }
    false
}

/// Classes while they are found.
struct Vectors {
    classes: Vec<Class>,
    members: Vec<u32>,
    known: AHashMap<Box<[u32]>, u32>,
    limit: usize,
    work: usize,
    /// Set when the limit is reached: the first linked class.
    whole: Option<u32>,
}

/// A prefix around the one being looked at.
struct Outer<A> {
    network: A,
    len: u8,
    class: u32,
}

impl Vectors {
    fn new(limit: usize) -> Self {
        let known = AHashMap::from_iter([(Box::default(), 0)]);
        Self {
            classes: vec![Class::default()],
            members: Vec::new(),
            known,
            limit,
            work: 0,
            whole: None,
        }
    }

    /// The class of every prefix that differs from what is around it.
    fn walk<A: Copy + Ord>(
        &mut self,
        mut entries: Vec<(A, u8, u32)>,
        covers: impl Fn(A, u8, A) -> bool,
    ) -> Vec<(A, u8, u32)> {
        entries.sort_unstable();
        entries.dedup();
        let mut found = Vec::new();
        let mut around: Vec<Outer<A>> = Vec::new();
        for group in entries.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
            let (network, len, _) = group[0];
            while around.last().is_some_and(|o| !covers(o.network, o.len, network)) {
                around.pop();
            }
            let outer = around.last().map_or(0, |o| o.class);
            let own = group.iter().map(|entry| entry.2);
            let class = self.class(outer, own);
            if class != outer {
                found.push((network, len, class));
            }
            around.push(Outer { network, len, class });
        }
        found
    }

    /// The class that is in everything `outer` is in, and in `own` (sorted).
    fn class(&mut self, outer: u32, own: impl Iterator<Item = u32>) -> u32 {
        let mut new: Vec<u32> =
            own.filter(|set| !has(&self.classes, &self.members, outer, *set)).collect();
        if new.is_empty() {
            return outer;
        }
        if self.whole.is_some() {
            return self.add(&new, outer);
        }
        let Class { start, end, .. } = self.classes[outer as usize];
        new.extend_from_slice(&self.members[start as usize..end as usize]);
        new.sort_unstable();
        if let Some(class) = self.known.get(new.as_slice()) {
            self.work += new.len();
            return *class;
        }
        let class = self.add(&new, 0);
        self.work += new.len();
        self.known.insert(new.into(), class);
        if self.members.len() >= self.limit || self.work >= VECTOR_WORK {
            self.whole = Some(self.classes.len() as u32);
        }
        class
    }

    fn add(&mut self, sets: &[u32], outer: u32) -> u32 {
        let start = self.members.len() as u32;
        self.members.extend_from_slice(sets);
        self.classes.push(Class { start, end: self.members.len() as u32, outer });
        self.classes.len() as u32 - 1
    }
}
