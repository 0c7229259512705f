//! Does address management behave as Calico's, and survive whoever else is at it?

mod behaviour;
mod concurrent;

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::{
    api::{
        BlockAffinity, IpPoolSpec, IpamBlock, IpamHandle, Resource,
        ipam::{AffinityState, handle_name},
    },
    datastore::{FileStore, list},
};

fn opened() -> (tempfile::TempDir, FileStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = FileStore::open(dir.path()).unwrap();
    (dir, store)
}

fn pool(
    store: &FileStore,
    name: &str,
    cidr: &str,
    block_size: u8,
    change: impl FnOnce(&mut IpPoolSpec),
) {
    let mut pool = IpPool::named(name, IpPoolSpec::new(cidr.parse().unwrap()));
    pool.spec.block_size = Some(block_size);
    change(&mut pool.spec);
    store.apply(pool.into()).unwrap();
}

fn configure(store: &FileStore, spec: IpamConfigurationSpec) {
    store.apply(IpamConfiguration::named("default", spec).into()).unwrap();
}

fn request(handle: &str) -> AssignRequest {
    AssignRequest::workload(handle, Family::V4, "default", handle)
}

fn assign(store: &FileStore, node: &str, handle: &str) -> Result<IpAddr, IpamError> {
    Ipam::new(store, node).assign(&request(handle)).map(|assignment| assignment.address)
}

/// Everything the objects say must fit together. Returns every address in use and its owner.
fn consistent(store: &FileStore) -> BTreeMap<IpAddr, String> {
    let (refusals, _) = store.problems().unwrap();
    assert_eq!(refusals, []);
    let handles: Vec<IpamHandle> = list(store).unwrap();
    let ties: BTreeSet<(String, String)> = handles
        .iter()
        .flat_map(|handle| {
            handle.spec.block.keys().map(|block| (handle.spec.handle_id.clone(), block.clone()))
        })
        .collect();
    let blocks: Vec<IpamBlock> = list(store).unwrap();
    let mut owners = BTreeMap::new();
    for block in &blocks {
        let spec = &block.spec;
        assert!(Resource::from(block.clone()).validate().is_empty());
        assert_eq!(spec.in_use() + spec.unallocated.len(), spec.allocations.len());
        for ordinal in 0..spec.allocations.len() {
            let Some(holder) = spec.holder(ordinal) else { continue };
            let handle = holder.handle_id.clone().unwrap();
            assert!(
                ties.contains(&(handle.clone(), spec.cidr.to_string())),
                "{handle} can't be found to be released"
            );
            assert!(owners.insert(spec.address(ordinal), handle).is_none(), "in two blocks");
        }
    }
    for affinity in list::<BlockAffinity>(store).unwrap() {
        if affinity.spec.state == AffinityState::Confirmed {
            let block = blocks.iter().find(|block| block.spec.cidr == affinity.spec.cidr).unwrap();
            assert_eq!(
                block.spec.node(),
                Some(affinity.spec.node.as_str()),
                "a block has one owner"
            );
        }
    }
    owners
}
