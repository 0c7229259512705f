//! Which address does a pod get, and how do many nodes hand out addresses without ever giving one twice?
//!
//! Pools are cut into blocks; a node claims blocks and assigns from its own first, so nodes rarely meet. Every
//! step is a compare-and-swap of one object, and the order of the steps is chosen so that a process that dies between
//! two of them leaves nothing that the next one can't finish or undo:
//!
//! ```text
//! claim    BlockAffinity pending ─► IPAMBlock with our affinity ─► BlockAffinity confirmed
//! assign   IPAMHandle names the block ─► the block names the handle
//! release  the block forgets the handle ─► IPAMHandle deleted
//! ```

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr},
    thread,
    time::Duration,
};

use ipnet::IpNet;

use crate::{
    api::{
        EncapMode, IpPool, IpamConfiguration, IpamConfigurationSpec, Node, ippool::AllowedUse,
        scalar::Cidr,
    },
    datastore::{self, Datastore, find},
};

pub mod block;
mod claim;
mod handle;
mod pools;
#[cfg(test)]
mod tests;
pub mod usage;

/// The blocks a node may claim where nothing else is configured, as Calico's.
pub const DEFAULT_BLOCK_LIMIT: usize = 20;
/// How often a lost race is run again.
const ATTEMPTS: u32 = 100;

/// Decides whether a selector selects an object with these labels.
pub type Selects<'a> = dyn Fn(&str, &BTreeMap<String, String>) -> bool + Sync + 'a;

/// Hands out addresses in the name of one node.
pub struct Ipam<'a> {
    datastore: &'a dyn Datastore,
    node: String,
    selects: &'a Selects<'a>,
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// An address that somebody wants.
#[derive(Clone, Debug, PartialEq)]
pub struct AssignRequest {
    /// Who it is for; asking again for the same owner gives the same address.
    pub handle: String,
    /// The family.
    pub family: Family,
    /// What is to be remembered about the owner: `pod`, `namespace`, `type`; node and time are added.
    pub attributes: BTreeMap<String, String>,
    /// Pools by name or range; empty leaves the choice to the pools' selectors.
    pub pools: Vec<String>,
    /// The one address that will do.
    pub fixed: Option<IpAddr>,
    /// The labels of the pod's namespace, for pools that select namespaces.
    pub namespace_labels: BTreeMap<String, String>,
    /// What the address is for.
    pub purpose: AllowedUse,
}

impl AssignRequest {
    /// A request for a pod's address.
    pub fn workload(handle: impl Into<String>, family: Family, namespace: &str, pod: &str) -> Self {
        let attributes = [("namespace", namespace), ("pod", pod)];
        Self {
            handle: handle.into(),
            family,
            attributes: attributes.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            pools: Vec::new(),
            fixed: None,
            namespace_labels: BTreeMap::new(),
            purpose: AllowedUse::Workload,
        }
    }
}

/// An address somebody got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The address.
    pub address: IpAddr,
    /// The block it is in.
    pub block: IpNet,
}

/// Why there is no address.
#[derive(Debug, thiserror::Error)]
pub enum IpamError {
    /// No pool may be used.
    #[error("no pool for {what}: {why}")]
    NoPool {
        /// What an address was wanted for.
        what: String,
        /// Why each pool was passed over.
        why: String,
    },
    /// All addresses are taken.
    #[error(
        "no free address in {pools}: add a pool, or release addresses that are not used any more"
    )]
    Exhausted {
        /// The pools that were looked through.
        pools: String,
    },
    /// The node may not claim another block.
    #[error(
        "node {node} holds {held} blocks, all full, and may hold no more; raise maxBlocksPerHost in IPAMConfiguration default (now {limit})"
    )]
    BlockLimit {
        /// The node.
        node: String,
        /// How many it has.
        held: usize,
        /// How many it may have.
        limit: usize,
    },
    /// The wanted address is somebody else's.
    #[error("{address} is taken by {holder}")]
    Taken {
        /// The address.
        address: IpAddr,
        /// Who has it.
        holder: String,
    },
    /// The wanted address can't be assigned here.
    #[error("{address} cannot be assigned: {why}")]
    Unusable {
        /// The address.
        address: IpAddr,
        /// Why.
        why: String,
    },
    /// Others were always faster.
    #[error("{what} was changed by others {ATTEMPTS} times in a row; try again")]
    Contended {
        /// The object.
        what: String,
    },
    /// The datastore failed.
    #[error(transparent)]
    Datastore(#[from] datastore::Error),
}

impl Family {
    /// The family of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// The only selectors that can be judged without a selector language: none, and `all()`.
pub fn selects_all(selector: &str, _: &BTreeMap<String, String>) -> bool {
    matches!(selector.trim(), "" | "all()")
}

impl<'a> Ipam<'a> {
    /// Hands out addresses in the name of `node`; pools that select nodes by labels are passed over.
    pub fn new(datastore: &'a dyn Datastore, node: impl Into<String>) -> Self {
        Self { datastore, node: node.into(), selects: &selects_all }
    }

    /// Judges the pools' selectors with `selects`.
    #[must_use]
    pub fn with_selector(self, selects: &'a Selects<'a>) -> Self {
        Self { selects, ..self }
    }

    /// Gives the owner an address, or the one it has.
    ///
    /// Requests for one owner must not be made at the same time; for different owners they may.
    pub fn assign(&self, request: &AssignRequest) -> Result<Assignment, IpamError> {
        if let Some(held) = self.held(&request.handle, request.family)?.into_iter().next() {
            return match request.fixed {
                Some(wanted) if wanted != held.address => Err(IpamError::Unusable {
                    address: wanted,
                    why: format!(
                        "{} already has {}; release that first",
                        request.handle, held.address
                    ),
                }),
                _ => Ok(held),
            };
        }
        let config = self.config()?;
        match request.fixed {
            Some(address) => self.assign_fixed(request, address, &config),
            None => self.assign_any(request, &config),
        }
    }

    /// Takes every address from an owner; says which. An owner without any is fine.
    pub fn release_handle(&self, handle: &str) -> Result<Vec<IpAddr>, IpamError> {
        self.release_owner(handle)
    }

    /// The addresses an owner has.
    pub fn addresses_of(&self, handle: &str) -> Result<Vec<IpAddr>, IpamError> {
        let both = [Family::V4, Family::V6].map(|family| self.held(handle, family));
        let [v4, v6] = both;
        Ok(v4?.into_iter().chain(v6?).map(|held| held.address).collect())
    }

    /// Gives the node's IPIP tunnel an address of a pool; a new one where its pool went out of use, and none where
    /// no pool may be used for tunnels.
    pub fn ensure_tunnel_address(&self) -> Result<Option<Ipv4Addr>, IpamError> {
        let handle = format!("ipip-tunnel-addr-{}", self.node);
        let mut pools = self.usable_pools(Family::V4, AllowedUse::Tunnel)?;
        if pools.iter().any(|pool| pool.spec.ipip_mode != EncapMode::Never) {
            pools.retain(|pool| pool.spec.ipip_mode != EncapMode::Never);
        }
        let v4 = |address| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        };
        if let Some(held) = self.held(&handle, Family::V4)?.into_iter().next() {
            if pools.iter().any(|pool| pool.spec.cidr.contains(&held.address)) {
                return Ok(v4(held.address));
            }
            self.release_owner(&handle)?;
        }
        if pools.is_empty() {
            return Ok(None);
        }
        let assigned = self.assign(&AssignRequest {
            handle,
            family: Family::V4,
            attributes: [("type".to_owned(), "ipipTunnelAddress".to_owned())].into(),
            pools: pools.iter().map(|pool| pool.metadata.name.clone()).collect(),
            fixed: None,
            namespace_labels: BTreeMap::new(),
            purpose: AllowedUse::Tunnel,
        })?;
        Ok(v4(assigned.address))
    }

    fn assign_any(
        &self,
        request: &AssignRequest,
        config: &IpamConfigurationSpec,
    ) -> Result<Assignment, IpamError> {
        let pools = self.pools_for(request)?;
        let reserved = self.reservations()?;
        let within = |cidr: &Cidr| pools.iter().any(|pool| pool.spec.cidr.contains(&cidr.0));

        let own = self.own_blocks(request.family)?;
        for cidr in own.iter().filter(|cidr| within(cidr)) {
            if let Some(found) = self.assign_in(cidr, request, &reserved, block::Access::Own)? {
                return Ok(found);
            }
        }
        if config.auto_allocate_blocks {
            let limit = match config.max_blocks_per_host {
                0 => DEFAULT_BLOCK_LIMIT,
                limit => usize::try_from(limit).unwrap_or(usize::MAX),
            };
            let mut held = own.len();
            // Somebody else on this node may empty a new block before us; then the next one is claimed.
            while let Some(cidr) = self.unclaimed_block(&pools, &reserved, held, limit)? {
                held += 1;
                if let Some(found) =
                    self.assign_in(&cidr, request, &reserved, block::Access::Own)?
                {
                    return Ok(found);
                }
            }
        }
        if !config.strict_affinity {
            for cidr in self.others_blocks(&pools)? {
                if let Some(found) =
                    self.assign_in(&cidr, request, &reserved, block::Access::Borrow)?
                {
                    return Ok(found);
                }
            }
        }
        let names = pools.iter().map(|pool| format!("{} ({})", pool.metadata.name, pool.spec.cidr));
        Err(IpamError::Exhausted { pools: names.collect::<Vec<_>>().join(", ") })
    }

    fn assign_fixed(
        &self,
        request: &AssignRequest,
        address: IpAddr,
        config: &IpamConfigurationSpec,
    ) -> Result<Assignment, IpamError> {
        let unusable = |why: &str| IpamError::Unusable { address, why: why.to_owned() };
        if Family::of(address) != request.family {
            return Err(unusable(&format!("it is not {}", request.family)));
        }
        let pools: Vec<IpPool> = datastore::list(self.datastore)?;
        let pool = pools.iter().find(|pool| pool.spec.cidr.contains(&address));
        let pool = pool.ok_or_else(|| {
            unusable("it is in no pool; add an IPPool, or choose an address of one")
        })?;
        if pool.spec.disabled {
            return Err(unusable(&format!("its pool {} is disabled", pool.metadata.name)));
        }
        let block = pools::block_of(pool, address);
        if find::<crate::api::IpamBlock>(self.datastore, &block.to_name())?.is_none() {
            self.claim(&block)?;
        }
        let access =
            if config.strict_affinity { block::Access::Own } else { block::Access::Borrow };
        self.assign_exactly(&block, request, address, access)
    }

    fn config(&self) -> Result<IpamConfigurationSpec, IpamError> {
        let config = find::<IpamConfiguration>(self.datastore, "default")?;
        Ok(config.map(|config| config.spec).unwrap_or_default())
    }

    fn node_labels(&self) -> Result<BTreeMap<String, String>, IpamError> {
        let node = find::<Node>(self.datastore, &self.node)?;
        Ok(node.map(|node| node.metadata.labels).unwrap_or_default())
    }
}

/// Runs `step` until it does not lose a race; `None` is a lost one.
fn until_won<T>(
    what: &str,
    mut step: impl FnMut() -> Result<Option<T>, IpamError>,
) -> Result<T, IpamError> {
    for attempt in 0..ATTEMPTS {
        if let Some(result) = step()? {
            return Ok(result);
        }
        // Those who met wait for different times: the address of a local tells threads and processes apart.
        let salt =
            u64::from(std::process::id()) ^ (std::ptr::from_ref(&attempt).addr() as u64 >> 4);
        let most = 100 * u64::from(attempt.min(40) + 1);
        thread::sleep(Duration::from_micros(
            salt.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(attempt) % most,
        ));
    }
    Err(IpamError::Contended { what: what.to_owned() })
}

/// `Ok(None)` where somebody else was faster.
fn won<T>(result: Result<T, datastore::Error>) -> Result<Option<T>, IpamError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_race() => Ok(None),
        Err(error) => Err(error.into()),
    }
}
