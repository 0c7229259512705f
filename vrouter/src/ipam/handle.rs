//! How are an address and its owner tied together, so that neither is lost without the other?

use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    AssignRequest, Assignment, Family, Ipam, IpamError, block, claim::now, until_won, won,
};
use crate::{
    api::{
        IpamBlock, IpamHandle, IpamHandleSpec, Key, Kind,
        ipam::{AllocationAttribute, handle_name},
        scalar::Cidr,
    },
    datastore::find,
};

/// One try to take an address of a block.
enum Try {
    Taken(IpAddr),
    Full,
    Raced,
}

impl Ipam<'_> {
    /// The addresses of a family an owner has.
    pub(super) fn held(&self, handle: &str, family: Family) -> Result<Vec<Assignment>, IpamError> {
        let mut held = Vec::new();
        let Some(object) = self.handle(handle)? else { return Ok(held) };
        for cidr in blocks_of(&object).filter(|cidr| Family::of(cidr.addr()) == family) {
            let Some(block) = find::<IpamBlock>(self.datastore, &cidr.to_name())? else { continue };
            let ordinals = block::held_by(&block.spec, handle).into_iter();
            held.extend(ordinals.map(|ordinal| assignment(block.spec.address(ordinal), &cidr)));
        }
        Ok(held)
    }

    /// Takes any free address of a block.
    pub(super) fn assign_in(
        &self,
        cidr: &Cidr,
        request: &AssignRequest,
        reserved: &[Cidr],
        access: block::Access,
    ) -> Result<Option<Assignment>, IpamError> {
        let mut tied = false;
        let address = until_won(&format!("IPAMBlock {cidr}"), || {
            let Some(block) = find::<IpamBlock>(self.datastore, &cidr.to_name())? else {
                return Ok(Some(None));
            };
            let free = block::next_free(&block.spec, reserved);
            let free = free.filter(|_| block::admits(&block.spec, &self.node, access));
            match self.try_take(block, free, request, &mut tied)? {
                Try::Taken(address) => Ok(Some(Some(address))),
                Try::Full => Ok(Some(None)),
                Try::Raced => Ok(None),
            }
        });
        self.untie_unless_taken(tied, &request.handle, cidr, &address)?;
        Ok(address?.map(|address| assignment(address, cidr)))
    }

    /// Takes one certain address of a block.
    pub(super) fn assign_exactly(
        &self,
        cidr: &Cidr,
        request: &AssignRequest,
        address: IpAddr,
        access: block::Access,
    ) -> Result<Assignment, IpamError> {
        let mut tied = false;
        let taken = until_won(&format!("IPAMBlock {cidr}"), || {
            let Some(block) = find::<IpamBlock>(self.datastore, &cidr.to_name())? else {
                self.claim(cidr)?;
                return Ok(None);
            };
            if !block::admits(&block.spec, &self.node, access) {
                let owner = block.spec.node().unwrap_or("nobody").to_owned();
                let why = format!("its block {cidr} belongs to {owner}, and affinity is strict");
                return Err(IpamError::Unusable { address, why });
            }
            let ordinal = block.spec.ordinal(address);
            if let Some(holder) = ordinal.and_then(|ordinal| block.spec.holder(ordinal)) {
                return Err(IpamError::Taken { address, holder: describe(holder) });
            }
            match self.try_take(block, ordinal, request, &mut tied)? {
                Try::Taken(address) => Ok(Some(Some(address))),
                Try::Full | Try::Raced => Ok(None),
            }
        });
        self.untie_unless_taken(tied, &request.handle, cidr, &taken)?;
        taken.map(|_| assignment(address, cidr))
    }

    fn try_take(
        &self,
        mut block: IpamBlock,
        ordinal: Option<usize>,
        request: &AssignRequest,
        tied: &mut bool,
    ) -> Result<Try, IpamError> {
        let Some(ordinal) = ordinal else { return Ok(Try::Full) };
        if !*tied {
            let count = block::held_by(&block.spec, &request.handle).len() + 1;
            self.tie(&request.handle, &block.spec.cidr, count)?;
            *tied = true;
        }
        let mut secondary = request.attributes.clone();
        secondary.insert("node".to_owned(), self.node.clone());
        secondary.entry("timestamp".to_owned()).or_insert_with(now);
        let owner = AllocationAttribute {
            handle_id: Some(request.handle.clone()),
            secondary,
            ..AllocationAttribute::default()
        };
        block::take(&mut block.spec, ordinal, owner);
        let address = block.spec.address(ordinal);
        let updated = won(self.datastore.update(block.into()))?;
        Ok(if updated.is_some() { Try::Taken(address) } else { Try::Raced })
    }

    fn untie_unless_taken(
        &self,
        tied: bool,
        handle: &str,
        cidr: &Cidr,
        taken: &Result<Option<IpAddr>, IpamError>,
    ) -> Result<(), IpamError> {
        // After an I/O error nobody knows whether the address was taken: only the tie can find it again.
        let unknown = matches!(taken, Ok(Some(_)) | Err(IpamError::Datastore(_)));
        if tied && !unknown { self.untie(handle, cidr) } else { Ok(()) }
    }

    /// Notes in the handle that its owner has `count` addresses of a block.
    fn tie(&self, handle: &str, cidr: &Cidr, count: usize) -> Result<(), IpamError> {
        let name = handle_name(handle);
        until_won(&format!("IPAMHandle {name}"), || {
            let existing = self.handle(handle)?;
            let is_new = existing.is_none();
            let mut object = existing.unwrap_or_else(|| {
                IpamHandle::named(
                    &name,
                    IpamHandleSpec { handle_id: handle.to_owned(), ..IpamHandleSpec::default() },
                )
            });
            object.spec.block.insert(cidr.to_string(), u64::try_from(count).unwrap_or(u64::MAX));
            let stored = if is_new {
                self.datastore.create(object.into())
            } else {
                self.datastore.update(object.into())
            };
            Ok(won(stored)?.map(drop))
        })
    }

    /// Takes a block out of a handle; a handle without blocks is deleted.
    fn untie(&self, handle: &str, cidr: &Cidr) -> Result<(), IpamError> {
        let name = handle_name(handle);
        until_won(&format!("IPAMHandle {name}"), || {
            let Some(mut object) = self.handle(handle)? else { return Ok(Some(())) };
            object.spec.block.remove(&cidr.to_string());
            let stored = if object.spec.block.is_empty() {
                let revision = object.metadata.resource_version.as_deref();
                self.datastore.delete(&Key::new(Kind::IpamHandle, &name), revision)
            } else {
                self.datastore.update(object.into())
            };
            Ok(won(stored)?.map(drop))
        })
    }

    pub(super) fn release_owner(&self, handle: &str) -> Result<Vec<IpAddr>, IpamError> {
        let mut released = Vec::new();
        let Some(object) = self.handle(handle)? else { return Ok(released) };
        for cidr in blocks_of(&object) {
            released.extend(self.release_in(&cidr, |block| block::held_by(block, handle))?);
            self.untie(handle, &cidr)?;
        }
        if object.spec.block.is_empty() {
            let name = handle_name(handle);
            won(self.datastore.delete(
                &Key::new(Kind::IpamHandle, name),
                object.metadata.resource_version.as_deref(),
            ))?;
        }
        Ok(released)
    }

    /// Takes one address back, whoever has it; says whether somebody had it.
    pub fn release_address(&self, address: IpAddr) -> Result<bool, IpamError> {
        let blocks = crate::datastore::list::<IpamBlock>(self.datastore)?;
        let Some(block) = blocks.into_iter().find(|block| block.spec.cidr.contains(&address))
        else {
            return Ok(false);
        };
        let spec = block.spec;
        let holder = spec.ordinal(address).and_then(|ordinal| spec.holder(ordinal)).cloned();
        let Some(holder) = holder else { return Ok(false) };
        // Only what was seen is released: the address may meanwhile have gone to somebody else.
        let still_theirs = |block: &crate::api::IpamBlockSpec| {
            let ordinal = block.ordinal(address);
            ordinal.filter(|ordinal| block.holder(*ordinal) == Some(&holder)).into_iter().collect()
        };
        let released = self.release_in(&spec.cidr, still_theirs)?;
        if let Some(handle) = &holder.handle_id {
            let left = find::<IpamBlock>(self.datastore, &spec.cidr.to_name())?;
            match left.map_or(0, |block| block::held_by(&block.spec, handle).len()) {
                0 => self.untie(handle, &spec.cidr)?,
                count => self.tie(handle, &spec.cidr, count)?,
            }
        }
        Ok(!released.is_empty())
    }

    fn release_in(
        &self,
        cidr: &Cidr,
        which: impl Fn(&crate::api::IpamBlockSpec) -> Vec<usize>,
    ) -> Result<Vec<IpAddr>, IpamError> {
        until_won(&format!("IPAMBlock {cidr}"), || {
            let Some(mut block) = find::<IpamBlock>(self.datastore, &cidr.to_name())? else {
                return Ok(Some(Vec::new()));
            };
            let theirs = which(&block.spec);
            let released = block::give_back(&mut block.spec, &theirs);
            if released.is_empty() {
                return Ok(Some(released));
            }
            // A block that nobody claims goes with its last address.
            let stored = if block.spec.affinity.is_none() && block.spec.in_use() == 0 {
                let revision = block.metadata.resource_version.as_deref();
                self.datastore.delete(&Key::new(Kind::IpamBlock, cidr.to_name()), revision)
            } else {
                self.datastore.update(block.into())
            };
            Ok(won(stored)?.map(|_| released))
        })
    }

    fn handle(&self, handle: &str) -> Result<Option<IpamHandle>, IpamError> {
        Ok(find::<IpamHandle>(self.datastore, &handle_name(handle))?)
    }
}

fn blocks_of(handle: &IpamHandle) -> impl Iterator<Item = Cidr> {
    handle.spec.block.keys().filter_map(|cidr| cidr.parse().ok())
}

fn assignment(address: IpAddr, cidr: &Cidr) -> Assignment {
    let block: IpNet = cidr.0;
    Assignment { address, block }
}

/// Names an owner as well as it is known.
pub(super) fn describe(owner: &AllocationAttribute) -> String {
    let secondary = &owner.secondary;
    match (secondary.get("namespace"), secondary.get("pod"), secondary.get("type")) {
        (Some(namespace), Some(pod), _) => format!("pod {namespace}/{pod}"),
        (_, _, Some(kind)) => {
            format!("{kind} of {}", secondary.get("node").map_or("a node", String::as_str))
        }
        _ => owner.handle_id.clone().unwrap_or_else(|| "an unknown owner".to_owned()),
    }
}
