//! How does a node come to own a block, and give it up again?

use std::collections::HashSet;

use super::{Family, Ipam, IpamError, block, pools, until_won, won};
use crate::{
    api::{
        BlockAffinity, BlockAffinitySpec, IpPool, IpamBlock, Key, Kind,
        ipam::{AffinityState, affinity_name},
        scalar::Cidr,
    },
    datastore::{self, find},
};

impl Ipam<'_> {
    /// The blocks this node claims, after finishing claims that were begun and not finished.
    pub(super) fn own_blocks(&self, family: Family) -> Result<Vec<Cidr>, IpamError> {
        let mut own = Vec::new();
        for affinity in datastore::list::<BlockAffinity>(self.datastore)? {
            let spec = &affinity.spec;
            let mine = spec.node == self.node
                && spec.kind != "virtual"
                && Family::of(spec.cidr.addr()) == family;
            let ours = mine
                && match spec.state {
                    AffinityState::Confirmed => true,
                    AffinityState::Pending => self.claim(&spec.cidr)?,
                    AffinityState::PendingDeletion => {
                        self.release_affinity(&spec.cidr)?;
                        false
                    }
                };
            if ours {
                own.push(spec.cidr);
            }
        }
        Ok(own)
    }

    /// Claims a block that nobody has, if there is one in the pools.
    pub(super) fn unclaimed_block(
        &self,
        pools: &[IpPool],
        reserved: &[Cidr],
        held: usize,
        limit: usize,
    ) -> Result<Option<Cidr>, IpamError> {
        let taken: HashSet<Cidr> = datastore::list::<IpamBlock>(self.datastore)?
            .into_iter()
            .map(|block| block.spec.cidr)
            .collect();
        for pool in pools {
            let candidates = pools::blocks_in_order(pool, &self.node);
            let reserved = |block: &Cidr| reserved.iter().any(|cidr| cidr.contains(&block.0));
            for cidr in candidates.filter(|cidr| !taken.contains(cidr) && !reserved(cidr)) {
                if held >= limit {
                    return Err(IpamError::BlockLimit { node: self.node.clone(), held, limit });
                }
                if self.claim(&cidr)? {
                    return Ok(Some(cidr));
                }
            }
        }
        Ok(None)
    }

    /// Makes the block this node's; `false` where it is another's.
    pub(super) fn claim(&self, cidr: &Cidr) -> Result<bool, IpamError> {
        let name = affinity_name(&self.node, cidr);
        until_won(&format!("BlockAffinity {name}"), || {
            let Some(pending) = self.pending_affinity(&name, cidr)? else { return Ok(None) };
            let strict = self.config()?.strict_affinity;
            let fresh = block::empty(*cidr, &self.node, strict, now());
            let created =
                won(self.datastore.create(IpamBlock::named(cidr.to_name(), fresh).into()))?;
            if created.is_none() {
                let Some(existing) = find::<IpamBlock>(self.datastore, &cidr.to_name())? else {
                    return Ok(None);
                };
                if existing.spec.node() != Some(&self.node) {
                    let revision = pending.metadata.resource_version.as_deref();
                    let deleted =
                        self.datastore.delete(&Key::new(Kind::BlockAffinity, &name), revision);
                    return Ok(won(deleted)?.map(|_| false));
                }
            }
            if pending.spec.state == AffinityState::Confirmed {
                return Ok(Some(true));
            }
            let mut confirmed = pending;
            confirmed.spec.state = AffinityState::Confirmed;
            Ok(won(self.datastore.update(confirmed.into()))?.map(|_| true))
        })
    }

    /// The claim as it is, or a new one; a claim that was being given up is taken up again.
    fn pending_affinity(
        &self,
        name: &str,
        cidr: &Cidr,
    ) -> Result<Option<BlockAffinity>, IpamError> {
        let Some(existing) = find::<BlockAffinity>(self.datastore, name)? else {
            let spec = BlockAffinitySpec {
                cidr: *cidr,
                node: self.node.clone(),
                state: AffinityState::Pending,
                kind: "host".to_owned(),
                deleted: false,
            };
            let created = won(self.datastore.create(BlockAffinity::named(name, spec).into()))?;
            return Ok(created.and_then(crate::api::ApiObject::from_resource));
        };
        if existing.spec.state != AffinityState::PendingDeletion {
            return Ok(Some(existing));
        }
        let mut again = existing;
        again.spec.state = AffinityState::Pending;
        let updated = won(self.datastore.update(again.into()))?;
        Ok(updated.and_then(crate::api::ApiObject::from_resource))
    }

    /// Gives up a block: an empty one is deleted, one with addresses in use is left without an owner.
    pub fn release_affinity(&self, cidr: &Cidr) -> Result<(), IpamError> {
        let name = affinity_name(&self.node, cidr);
        until_won(&format!("BlockAffinity {name}"), || {
            let Some(mut affinity) = find::<BlockAffinity>(self.datastore, &name)? else {
                return Ok(Some(()));
            };
            if affinity.spec.state != AffinityState::PendingDeletion {
                affinity.spec.state = AffinityState::PendingDeletion;
                let Some(updated) = won(self.datastore.update(affinity.into()))? else {
                    return Ok(None);
                };
                let Some(updated) = crate::api::ApiObject::from_resource(updated) else {
                    return Ok(None);
                };
                affinity = updated;
            }
            if !self.disown(cidr)? {
                return Ok(None);
            }
            let revision = affinity.metadata.resource_version.as_deref();
            Ok(won(self.datastore.delete(&Key::new(Kind::BlockAffinity, &name), revision))?
                .map(drop))
        })
    }

    /// Takes this node's claim out of the block itself; `false` where a race was lost.
    fn disown(&self, cidr: &Cidr) -> Result<bool, IpamError> {
        let Some(mut block) = find::<IpamBlock>(self.datastore, &cidr.to_name())? else {
            return Ok(true);
        };
        if block.spec.node() != Some(&self.node) {
            return Ok(true);
        }
        let changed = if block.spec.in_use() == 0 {
            let revision = block.metadata.resource_version.as_deref();
            self.datastore.delete(&Key::new(Kind::IpamBlock, cidr.to_name()), revision)
        } else {
            block.spec.affinity = None;
            block.spec.affinity_claim_time = None;
            block.spec.sequence_number += 1;
            self.datastore.update(block.into())
        };
        Ok(won(changed)?.is_some())
    }
}

/// The wall clock, RFC 3339.
pub(super) fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
