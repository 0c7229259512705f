//! Which routes does the datastore ask for? Blocks, borrowed addresses, and what to announce.
//!
//! Pure: the world in, routes out. A block of an encapsulated pool is reached through the node
//! that owns it, with or without a BGP session; BGP decides un-encapsulated pools.

use super::world::World;
use crate::api::{EncapMode, IpPool, IpamBlock};
use ipnet::{IpNet, Ipv4Net};
use slowpath::rib::table::Via;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

/// What the blocks mean for this node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BlockRoutes {
    /// This node's own blocks: addresses in them that no pod has go nowhere.
    pub own: BTreeMap<IpNet, Via>,
    /// Other nodes' blocks, and addresses they borrowed.
    pub others: BTreeMap<IpNet, Via>,
    /// What BGP peers are told.
    pub announced: BTreeSet<IpNet>,
    /// Addresses of the other nodes, sorted: who may send us IPIP.
    pub tunnel_peers: Vec<Ipv4Addr>,
}

/// Works out the routes of the node called `me`.
pub fn block_routes(world: &World, me: &str) -> BlockRoutes {
    let addresses: BTreeMap<&str, Ipv4Net> =
        world.nodes().filter_map(|n| Some((n.name, n.v4?))).collect();
    let mine = addresses.get(me).copied();
    let others: BTreeSet<_> =
        addresses.iter().filter(|(name, _)| **name != me).map(|(_, net)| net.addr()).collect();
    let mut routes =
        BlockRoutes { tunnel_peers: others.into_iter().collect(), ..BlockRoutes::default() };
    for block in world.all::<IpamBlock>().filter(|b| !b.spec.deleted) {
        let cidr = block.spec.cidr.0.trunc();
        let Some(pool) = world.pool_of(cidr.addr()) else { continue };
        let owner = block.spec.node();
        match owner {
            Some(name) if name == me => {
                routes.own.insert(cidr, Via::Blackhole);
                if !pool.spec.disable_bgp_export {
                    routes.announced.insert(cidr);
                }
            }
            Some(name) => {
                if let Some(via) = addresses.get(name).and_then(|n| towards(pool, mine, *n)) {
                    routes.others.insert(cidr, via);
                }
            }
            None => {}
        }
        for (address, holder) in held_elsewhere(block, owner) {
            let prefix = IpNet::from(address);
            if holder == me {
                if !pool.spec.disable_bgp_export {
                    routes.announced.insert(prefix);
                }
            } else if let Some(via) = addresses.get(holder).and_then(|n| towards(pool, mine, *n)) {
                routes.others.insert(prefix, via);
            }
        }
    }
    routes
}

/// How a pool's addresses on another node are reached; `None` where BGP decides.
fn towards(pool: &IpPool, mine: Option<Ipv4Net>, node: Ipv4Net) -> Option<Via> {
    let address = node.addr();
    let encapsulate = match pool.spec.ipip_mode {
        EncapMode::Never => return None,
        EncapMode::Always => true,
        // Calico compares with our own subnet, by the prefix length of our Node's address.
        EncapMode::CrossSubnet => !mine.is_some_and(|net| net.contains(&address)),
    };
    Some(Via::Node { address, encapsulate })
}

/// Addresses of a block that other nodes than its owner hold.
fn held_elsewhere<'a>(
    block: &'a IpamBlock,
    owner: Option<&'a str>,
) -> impl Iterator<Item = (IpAddr, &'a str)> {
    (0..block.spec.allocations.len()).filter_map(move |ordinal| {
        let holder = block.spec.holder(ordinal)?.secondary.get("node")?;
        (Some(holder.as_str()) != owner).then(|| (block.spec.address(ordinal), holder.as_str()))
    })
}
