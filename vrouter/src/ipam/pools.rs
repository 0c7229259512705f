//! From which pools may an address come, and in which order are their blocks tried?

use std::net::IpAddr;

use ipnet::IpNet;

use super::{AssignRequest, Family, Ipam, IpamError};
use crate::{
    api::{
        IpPool, IpReservation, IpamBlock,
        ippool::{AllowedUse, AssignmentMode},
        scalar::Cidr,
    },
    datastore,
};

/// A pool with more blocks than this is not looked through to its end.
const MOST_BLOCKS_TRIED: u128 = 1 << 20;

impl Ipam<'_> {
    /// The pools an address for `request` may come from; at least one.
    pub(super) fn pools_for(&self, request: &AssignRequest) -> Result<Vec<IpPool>, IpamError> {
        let pools: Vec<IpPool> = datastore::list(self.datastore)?;
        let labels = self.node_labels()?;
        let mut chosen = Vec::new();
        let mut why = Vec::new();
        for wanted in &request.pools {
            let known = |pool: &IpPool| {
                pool.metadata.name == *wanted || pool.spec.cidr.to_string() == *wanted
            };
            if !pools.iter().any(known) {
                why.push(format!("{wanted} does not exist"));
            }
        }
        for pool in pools {
            let (name, spec) = (&pool.metadata.name, &pool.spec);
            let asked = request
                .pools
                .iter()
                .any(|wanted| wanted == name || *wanted == spec.cidr.to_string());
            let reason = if !request.pools.is_empty() && !asked {
                continue;
            } else if spec.is_ipv4() != (request.family == Family::V4) {
                format!("is not {}", request.family)
            } else if spec.disabled {
                "is disabled".to_owned()
            } else if !spec.allows(request.purpose) {
                format!("is not for {:?} addresses", request.purpose)
            } else if !asked && spec.assignment_mode == AssignmentMode::Manual {
                "is used only where it is asked for by name".to_owned()
            } else if !asked && !(self.selects)(&spec.node_selector, &labels) {
                format!("does not select node {} ({})", self.node, spec.node_selector)
            } else if !asked
                && !spec.namespace_selector.is_empty()
                && !(self.selects)(&spec.namespace_selector, &request.namespace_labels)
            {
                format!("does not select the namespace ({})", spec.namespace_selector)
            } else {
                chosen.push(pool);
                continue;
            };
            why.push(format!("{name} {reason}"));
        }
        if chosen.is_empty() {
            let what = format!("an {} address on node {}", request.family, self.node);
            let why = if why.is_empty() {
                "there is none; add an IPPool".to_owned()
            } else {
                why.join(", ")
            };
            return Err(IpamError::NoPool { what, why });
        }
        Ok(chosen)
    }

    /// The pools this node may take addresses of a kind from; perhaps none.
    pub(super) fn usable_pools(
        &self,
        family: Family,
        purpose: AllowedUse,
    ) -> Result<Vec<IpPool>, IpamError> {
        let mut request = AssignRequest::workload("", family, "", "");
        request.purpose = purpose;
        match self.pools_for(&request) {
            Err(IpamError::NoPool { .. }) => Ok(Vec::new()),
            pools => pools,
        }
    }

    /// What must not be assigned without being asked for.
    pub(super) fn reservations(&self) -> Result<Vec<Cidr>, IpamError> {
        let all: Vec<IpReservation> = datastore::list(self.datastore)?;
        Ok(all.into_iter().flat_map(|reservation| reservation.spec.reserved_cidrs).collect())
    }

    /// Blocks of the pools with free addresses that other nodes or nobody claims, in this node's order.
    pub(super) fn others_blocks(&self, pools: &[IpPool]) -> Result<Vec<Cidr>, IpamError> {
        let within = |block: &IpamBlock| {
            pools.iter().any(|pool| pool.spec.cidr.contains(&block.spec.cidr.0))
        };
        let mut blocks: Vec<Cidr> = datastore::list::<IpamBlock>(self.datastore)?
            .into_iter()
            .filter(|block| within(block) && !block.spec.unallocated.is_empty())
            .filter(|block| block.spec.node() != Some(&self.node))
            .map(|block| block.spec.cidr)
            .collect();
        if !blocks.is_empty() {
            let start = usize::try_from(seed(&self.node) % (blocks.len() as u64)).unwrap_or(0);
            blocks.rotate_left(start);
        }
        Ok(blocks)
    }
}

/// The block of a pool an address is in.
pub(super) fn block_of(pool: &IpPool, address: IpAddr) -> Cidr {
    let length = pool.spec.block_prefix_len().min(IpNet::from(address).max_prefix_len());
    // The length was capped to what the family has, which is all that can be wrong with it.
    IpNet::new(address, length).map_or_else(|_| Cidr::from(address), |net| Cidr(net.trunc()))
}

/// The blocks of a pool, beginning at a place that depends on the node: nodes that start together meet rarely.
pub(super) fn blocks_in_order(pool: &IpPool, node: &str) -> impl Iterator<Item = Cidr> {
    let net = pool.spec.cidr.0.trunc();
    let length = pool.spec.block_prefix_len();
    let bits = u32::from(length.saturating_sub(net.prefix_len()));
    let count = 1_u128.checked_shl(bits).unwrap_or(u128::MAX);
    let shift = u32::from(net.max_prefix_len().saturating_sub(length));
    let start = u128::from(seed(node)) % count;
    (0..count.min(MOST_BLOCKS_TRIED)).filter_map(move |step| {
        let index = (start + step) % count;
        let address = match net.network() {
            IpAddr::V4(first) => IpAddr::V4(
                (u32::from(first) | (u32::try_from(index).ok()?.checked_shl(shift)?)).into(),
            ),
            IpAddr::V6(first) => IpAddr::V6((u128::from(first) | index.checked_shl(shift)?).into()),
        };
        IpNet::new(address, length).ok().map(Cidr)
    })
}

/// FNV-1a of a name.
fn seed(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
