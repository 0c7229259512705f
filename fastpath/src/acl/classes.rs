//! Which sets is an address a member of? One longest-prefix match whose leaves are classes.

use super::{AddressSet, SetId};
use std::net::IpAddr;

/// One membership vector: all addresses that are in exactly the same sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClassId(pub u32);

/// Address → class, for every set of every rule.
#[derive(Clone, Debug, Default)]
pub struct AddressClasses {
    sets: Vec<AddressSet>,
}

impl AddressClasses {
    /// Compiles the sets.
    pub fn build(sets: Vec<AddressSet>) -> Self {
        Self { sets }
    }

    /// The class of an address.
    pub fn class_of(&self, address: IpAddr) -> ClassId {
        let _ = address;
        ClassId(0)
    }

    /// Is every address of this class in the set?
    pub fn contains(&self, class: ClassId, set: SetId) -> bool {
        let _ = (class, set, &self.sets);
        false
    }
}
