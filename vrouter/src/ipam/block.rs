//! How does one block change when an address is taken or given back?

use std::{collections::BTreeMap, net::IpAddr};

use crate::api::{IpamBlockSpec, ipam::AllocationAttribute, scalar::Cidr};

/// Who may take addresses of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The node that claims it.
    Own,
    /// Any node, where the block is not strict.
    Borrow,
}

/// A block nobody has taken an address of, claimed by `node`.
pub fn empty(cidr: Cidr, node: &str, strict: bool, now: String) -> IpamBlockSpec {
    let size = IpamBlockSpec::size(&cidr);
    IpamBlockSpec {
        cidr,
        affinity: Some(format!("host:{node}")),
        affinity_claim_time: Some(now),
        strict_affinity: strict,
        allocations: vec![None; size],
        unallocated: (0..size).collect(),
        attributes: Vec::new(),
        sequence_number: 0,
        sequence_number_for_allocation: BTreeMap::new(),
        deleted: false,
    }
}

/// Whether `node` may take addresses of the block.
pub fn admits(block: &IpamBlockSpec, node: &str, access: Access) -> bool {
    let own = block.node() == Some(node);
    !block.deleted && (own || (access == Access::Borrow && !block.strict_affinity))
}

/// The free address that has been free for longest and is not reserved.
pub fn next_free(block: &IpamBlockSpec, reserved: &[Cidr]) -> Option<usize> {
    let allowed = |ordinal: &&usize| {
        let address = block.address(**ordinal);
        !reserved.iter().any(|cidr| cidr.contains(&address))
    };
    block.unallocated.iter().find(allowed).copied()
}

/// Gives a free address to an owner.
pub fn take(block: &mut IpamBlockSpec, ordinal: usize, owner: AllocationAttribute) {
    block.unallocated.retain(|free| *free != ordinal);
    let known = block.attributes.iter().position(|attribute| *attribute == owner);
    let index = known.unwrap_or_else(|| {
        block.attributes.push(owner);
        block.attributes.len() - 1
    });
    if let Some(allocation) = block.allocations.get_mut(ordinal) {
        *allocation = Some(index);
    }
    block.sequence_number += 1;
    block.sequence_number_for_allocation.insert(ordinal.to_string(), block.sequence_number);
}

/// The addresses an owner has in the block.
pub fn held_by(block: &IpamBlockSpec, handle: &str) -> Vec<usize> {
    let is_owner = |ordinal: &usize| {
        block.holder(*ordinal).is_some_and(|holder| holder.handle_id.as_deref() == Some(handle))
    };
    (0..block.allocations.len()).filter(is_owner).collect()
}

/// Takes addresses back; they go to the end of the queue of free ones. Says which.
pub fn give_back(block: &mut IpamBlockSpec, ordinals: &[usize]) -> Vec<IpAddr> {
    let mut released = Vec::new();
    for ordinal in ordinals {
        let Some(allocation) = block.allocations.get_mut(*ordinal).filter(|taken| taken.is_some())
        else {
            continue;
        };
        *allocation = None;
        block.unallocated.push(*ordinal);
        block.sequence_number_for_allocation.remove(&ordinal.to_string());
        released.push(block.address(*ordinal));
    }
    if !released.is_empty() {
        block.sequence_number += 1;
        forget_unused(block);
    }
    released
}

/// Drops what is known about owners that have no address any more.
fn forget_unused(block: &mut IpamBlockSpec) {
    let mut moved = vec![None; block.attributes.len()];
    let mut kept = Vec::new();
    for allocation in block.allocations.iter_mut().flatten() {
        let Some(slot) = moved.get_mut(*allocation) else { continue };
        let new = *slot.get_or_insert_with(|| {
            kept.extend(block.attributes.get(*allocation).cloned());
            kept.len() - 1
        });
        *allocation = new;
    }
    block.attributes = kept;
}
