//! Which address classes does a program tell apart on one side of its rules?
//!
//! Only the sets that the side refers to matter, so the node's classes fall into few side
//! classes: those that are in the same of these sets. A list that says nothing of the side
//! has one.

use super::AddressMatch;
use super::classes::{AddressClasses, ClassId};

/// Address class → side class.
#[derive(Debug, Default)]
pub(super) struct Sides {
    /// Indexed by [`ClassId`]; empty if the list refers to no set.
    map: Box<[u32]>,
    count: u32,
}

impl Sides {
    /// Compiles one side of a list.
    pub(super) fn compile<'a>(
        matches: impl Iterator<Item = &'a AddressMatch>,
        classes: &AddressClasses,
    ) -> Self {
        let mut sets: Vec<_> = matches.flat_map(AddressMatch::sets).collect();
        sets.sort_unstable();
        sets.dedup();
        if sets.is_empty() {
            return Self { map: Box::default(), count: 1 };
        }
        let mut map = vec![0_u32; classes.whole() as usize];
        // Splits each part by the next set. `split[part]` is the part its members move to.
        let mut split: Vec<(usize, u32)> = vec![(0, 0)];
        for (turn, set) in sets.iter().enumerate() {
            for class in classes.classes_in(*set) {
                let part = &mut map[*class as usize];
                let next = split.len() as u32;
                let (split_in, to) = &mut split[*part as usize];
                if *split_in == turn + 1 {
                    *part = *to;
                } else {
                    (*split_in, *to) = (turn + 1, next);
                    *part = next;
                    split.push((0, 0));
                }
            }
        }
        // Parts that were emptied by a later set get no number.
        let mut number = vec![u32::MAX; split.len()];
        let mut count = 0;
        for part in &mut map {
            let slot = &mut number[*part as usize];
            if *slot == u32::MAX {
                *slot = count;
                count += 1;
            }
            *part = *slot;
        }
        Self { map: map.into(), count }
    }

    /// How many side classes there are.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// The side class of an address class; `None` for a class that is not indexed.
    #[inline]
    pub(super) fn of(&self, class: ClassId) -> Option<u32> {
        if self.map.is_empty() { Some(0) } else { self.map.get(class.0 as usize).copied() }
    }
}
