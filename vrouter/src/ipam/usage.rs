//! How full are the pools, and who has which address?

use std::net::IpAddr;

use serde::Serialize;

use super::handle::describe;
use crate::{
    api::{IpPool, IpamBlock, IpamBlockSpec, ipam::AllocationAttribute, scalar::Cidr},
    datastore::{self, Datastore},
};

/// A pool's use.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PoolUsage {
    /// The pool's name.
    pub pool: String,
    /// Its range.
    pub cidr: Cidr,
    /// How many addresses it has; `u128::MAX` stands for all of IPv6.
    pub total: u128,
    /// How many are in use.
    pub in_use: u128,
    /// Its blocks, in order.
    pub blocks: Vec<BlockUsage>,
}

/// A block's use.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BlockUsage {
    /// Its range.
    pub cidr: Cidr,
    /// The node that claims it.
    pub node: Option<String>,
    /// How many addresses it has.
    pub total: usize,
    /// How many are in use.
    pub in_use: usize,
    /// The addresses that other nodes use.
    pub borrowed: Vec<Holding>,
}

/// An address in use.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Holding {
    /// The address.
    pub address: IpAddr,
    /// The node that uses it.
    pub node: Option<String>,
    /// The block it is in.
    pub block: Cidr,
    /// The node that claims the block.
    pub block_owner: Option<String>,
    /// `Workload`, or what kind of tunnel.
    pub kind: String,
    /// Who has it, in words.
    pub holder: String,
    /// Everything that is known about the owner.
    pub attributes: AllocationAttribute,
}

/// The use of every pool, by name. Blocks outside all pools are not counted.
pub fn usage(datastore: &dyn Datastore) -> Result<Vec<PoolUsage>, datastore::Error> {
    let blocks: Vec<IpamBlock> = datastore::list(datastore)?;
    let pools: Vec<IpPool> = datastore::list(datastore)?;
    Ok(pools.into_iter().map(|pool| pool_usage(pool, &blocks)).collect())
}

/// What is known about an address: `Err` names the reason why there is nothing.
pub fn lookup(
    datastore: &dyn Datastore,
    address: IpAddr,
) -> Result<Option<Holding>, datastore::Error> {
    let blocks: Vec<IpamBlock> = datastore::list(datastore)?;
    let block = blocks.into_iter().find(|block| block.spec.cidr.contains(&address));
    Ok(block.and_then(|block| holding(&block.spec, block.spec.ordinal(address)?)))
}

fn pool_usage(pool: IpPool, blocks: &[IpamBlock]) -> PoolUsage {
    let cidr = pool.spec.cidr;
    let mut blocks: Vec<BlockUsage> = blocks
        .iter()
        .filter(|block| cidr.contains(&block.spec.cidr.0))
        .map(|block| block_usage(&block.spec))
        .collect();
    blocks.sort_by_key(|block| block.cidr);
    let bits = u32::from(cidr.max_prefix_len() - cidr.prefix_len());
    PoolUsage {
        pool: pool.metadata.name,
        cidr,
        total: 1_u128.checked_shl(bits).unwrap_or(u128::MAX),
        in_use: blocks.iter().map(|block| block.in_use as u128).sum(),
        blocks,
    }
}

fn block_usage(block: &IpamBlockSpec) -> BlockUsage {
    let holdings = (0..block.allocations.len()).filter_map(|ordinal| holding(block, ordinal));
    let owner = block.node();
    BlockUsage {
        cidr: block.cidr,
        node: owner.map(str::to_owned),
        total: block.allocations.len(),
        in_use: block.in_use(),
        borrowed: holdings.filter(|holding| holding.node.as_deref() != owner).collect(),
    }
}

fn holding(block: &IpamBlockSpec, ordinal: usize) -> Option<Holding> {
    let attributes = block.holder(ordinal)?.clone();
    Some(Holding {
        address: block.address(ordinal),
        node: attributes.secondary.get("node").cloned(),
        block: block.cidr,
        block_owner: block.node().map(str::to_owned),
        kind: attributes.secondary.get("type").cloned().unwrap_or_else(|| "Workload".to_owned()),
        holder: describe(&attributes),
        attributes,
    })
}
