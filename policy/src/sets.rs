//! Which addresses are in the sets that rules refer to? Kept as workloads change.
//!
//! Only sets of local endpoints' rules exist. A workload that changes is compared with the sets
//! that could take it, and touches those it enters, leaves or has other addresses in.

use crate::ids::Ids;
use crate::model::Workload;
use crate::rule::{PortName, Scope, SetKey};
use crate::world::{Slot, World};
use ahash::{AHashMap, AHashSet};
use fastpath::acl::{AddressSet, SetId};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The sets in use.
#[derive(Debug, Default)]
pub(crate) struct Sets {
    ids: Ids<Arc<SetKey>>,
    current: AHashMap<SetId, Set>,
    /// Sets of pods, by the one namespace they are of.
    of_namespace: AHashMap<Arc<str>, BTreeSet<SetId>>,
    /// Sets of pods of several namespaces.
    of_namespaces: BTreeSet<SetId>,
    of_port_name: AHashMap<PortName, BTreeSet<SetId>>,
    /// The sets each workload is in, sorted; indexed by slot.
    member_of: Vec<Vec<SetId>>,
    changed: BTreeSet<SetId>,
}

#[derive(Debug)]
struct Set {
    key: Arc<SetKey>,
    members: AHashSet<Slot>,
}

impl Sets {
    /// The set's id, referred to once more; a new one is filled.
    pub(crate) fn acquire(&mut self, key: &Arc<SetKey>, world: &World) -> SetId {
        let (id, new) = self.ids.acquire(key);
        let id = SetId(id);
        if new {
            self.fill(id, key, world);
        }
        id
    }

    pub(crate) fn release(&mut self, id: SetId) {
        self.ids.release(id.0);
    }

    /// A workload changed or is gone: it may be in other sets, or with other addresses.
    pub(crate) fn update(&mut self, slot: Slot, addresses_changed: bool, world: &World) {
        let now = match world.workload(slot) {
            Some(workload) => self.sets_with(workload, world),
            None => Vec::new(),
        };
        if self.member_of.len() <= slot as usize {
            self.member_of.resize(slot as usize + 1, Vec::new());
        }
        let before = std::mem::replace(&mut self.member_of[slot as usize], now);
        let now = &self.member_of[slot as usize];
        for id in &before {
            let stays = now.binary_search(id).is_ok();
            if !stays && let Some(set) = self.current.get_mut(id) {
                set.members.remove(&slot);
            }
            if !stays || addresses_changed {
                self.changed.insert(*id);
            }
        }
        for id in now.iter().filter(|id| before.binary_search(id).is_err()) {
            if let Some(set) = self.current.get_mut(id) {
                set.members.insert(slot);
            }
            self.changed.insert(*id);
        }
    }

    /// Drops the sets that nobody refers to.
    pub(crate) fn collect(&mut self) -> Vec<SetId> {
        let gone = self.ids.collect();
        gone.into_iter()
            .map(|(id, key)| {
                let id = SetId(id);
                for slot in self.current.remove(&id).into_iter().flat_map(|set| set.members) {
                    self.member_of[slot as usize].retain(|other| *other != id);
                }
                self.changed.remove(&id);
                self.unlist(id, &key);
                id
            })
            .collect()
    }

    /// The sets that changed since last asked.
    pub(crate) fn take_changed(&mut self, world: &World) -> Vec<AddressSet> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().filter_map(|id| self.addresses(id, world)).collect()
    }

    /// All sets as they are.
    pub(crate) fn all(&self, world: &World) -> Vec<AddressSet> {
        let ids: BTreeSet<SetId> = self.current.keys().copied().collect();
        ids.into_iter().filter_map(|id| self.addresses(id, world)).collect()
    }

    fn addresses(&self, id: SetId, world: &World) -> Option<AddressSet> {
        let set = self.current.get(&id)?;
        let mut prefixes: Vec<IpNet> = match &*set.key {
            SetKey::Nets(nets) => nets.clone(),
            SetKey::Pods(_) | SetKey::NamedPort(..) => set
                .members
                .iter()
                .filter_map(|slot| world.workload(*slot))
                .flat_map(|workload| workload.addresses.iter().copied().map(IpNet::from))
                .collect(),
        };
        prefixes.sort_unstable();
        prefixes.dedup();
        Some(AddressSet { id, prefixes })
    }

    fn fill(&mut self, id: SetId, key: &Arc<SetKey>, world: &World) {
        let mut members = AHashSet::new();
        let candidates = match &**key {
            SetKey::Pods(selection) => world.workloads_of(&selection.scope),
            SetKey::NamedPort(..) => Box::new(world.workloads()),
            SetKey::Nets(_) => Box::new(std::iter::empty()),
        };
        for (slot, _) in candidates.filter(|(_, workload)| takes(key, workload, world)) {
            members.insert(slot);
            if self.member_of.len() <= slot as usize {
                self.member_of.resize(slot as usize + 1, Vec::new());
            }
            let sets = &mut self.member_of[slot as usize];
            if let Err(at) = sets.binary_search(&id) {
                sets.insert(at, id);
            }
        }
        match &**key {
            SetKey::Pods(selection) => match &selection.scope {
                Scope::Namespace(name) => {
                    self.of_namespace.entry(name.clone()).or_default().insert(id);
                }
                Scope::Namespaces(_) => {
                    self.of_namespaces.insert(id);
                }
            },
            SetKey::NamedPort(name, _) => {
                self.of_port_name.entry(name.clone()).or_default().insert(id);
            }
            SetKey::Nets(_) => {}
        }
        self.current.insert(id, Set { key: key.clone(), members });
        self.changed.insert(id);
    }

    fn unlist(&mut self, id: SetId, key: &SetKey) {
        match key {
            SetKey::Pods(selection) => match &selection.scope {
                Scope::Namespace(name) => {
                    if let Some(ids) = self.of_namespace.get_mut(name) {
                        ids.remove(&id);
                        if ids.is_empty() {
                            self.of_namespace.remove(name);
                        }
                    }
                }
                Scope::Namespaces(_) => {
                    self.of_namespaces.remove(&id);
                }
            },
            SetKey::NamedPort(name, _) => {
                if let Some(ids) = self.of_port_name.get_mut(name) {
                    ids.remove(&id);
                    if ids.is_empty() {
                        self.of_port_name.remove(name);
                    }
                }
            }
            SetKey::Nets(_) => {}
        }
    }

    /// The sets a workload is in, sorted.
    fn sets_with(&self, workload: &Workload, world: &World) -> Vec<SetId> {
        let own = self.of_namespace.get(&workload.key.namespace).into_iter().flatten();
        let ports = workload.ports.iter().flat_map(|port| {
            let name = PortName { protocol: port.protocol, name: port.name.clone() };
            self.of_port_name.get(&name).into_iter().flatten()
        });
        let candidates = own.chain(&self.of_namespaces).chain(ports);
        let takes =
            |id: &&SetId| self.current.get(id).is_some_and(|set| takes(&set.key, workload, world));
        let ids: BTreeSet<SetId> = candidates.filter(takes).copied().collect();
        ids.into_iter().collect()
    }
}

fn takes(key: &SetKey, workload: &Workload, world: &World) -> bool {
    workload.is_selectable()
        && match key {
            SetKey::Pods(selection) => world.selects(selection, workload),
            SetKey::NamedPort(name, number) => workload.ports.iter().any(|port| {
                (port.protocol, &port.name, port.port) == (name.protocol, &name.name, *number)
            }),
            SetKey::Nets(_) => false,
        }
}
