//! Which namespaces and workloads are there now?

use crate::model::{Labels, NAMESPACE_NAME_LABEL, Namespace, Workload, WorkloadKey};
use crate::rule::{PodSelection, PortName, Scope};
use ahash::{AHashMap, AHashSet};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Number of a workload; kept until [`World::reap`] after it is gone.
pub(crate) type Slot = u32;

/// Everything known of the cluster but its policies.
#[derive(Debug, Default)]
pub(crate) struct World {
    namespaces: AHashMap<Arc<str>, NamespaceEntry>,
    slots: Vec<Option<Workload>>,
    by_key: AHashMap<WorkloadKey, Slot>,
    /// Slots whose workload is gone.
    gone: BTreeSet<Slot>,
    free: Vec<Slot>,
    /// How many workloads give a named port which number.
    port_names: AHashMap<PortName, BTreeMap<u16, u32>>,
    /// Port names that got or lost a number since last asked.
    renumbered: AHashSet<PortName>,
}

#[derive(Debug)]
struct NamespaceEntry {
    labels: Labels,
    /// Is there an object, or only workloads that say they are in it?
    declared: bool,
    workloads: BTreeSet<Slot>,
}

impl NamespaceEntry {
    fn implied(name: &str) -> Self {
        let labels = Labels::from([(NAMESPACE_NAME_LABEL.to_owned(), name.to_owned())]);
        Self { labels, declared: false, workloads: BTreeSet::new() }
    }
}

/// What an update changed of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Update {
    pub(crate) slot: Slot,
    /// Its addresses are others, so sets it stays in change too.
    pub(crate) addresses: bool,
}

impl World {
    /// Adds or replaces a namespace; true if its labels changed.
    pub(crate) fn set_namespace(&mut self, namespace: Namespace) -> bool {
        let Namespace { name, mut labels } = namespace;
        labels.insert(NAMESPACE_NAME_LABEL.to_owned(), name.to_string());
        let entry =
            self.namespaces.entry(name.clone()).or_insert_with(|| NamespaceEntry::implied(&name));
        entry.declared = true;
        let changed = entry.labels != labels;
        entry.labels = labels;
        changed
    }

    /// Removes a namespace; workloads that are still in it see only its name.
    pub(crate) fn remove_namespace(&mut self, name: &str) -> bool {
        let Some(entry) = self.namespaces.get_mut(name) else { return false };
        let implied = NamespaceEntry::implied(name).labels;
        let changed = entry.labels != implied;
        (entry.labels, entry.declared) = (implied, false);
        self.forget_if_empty(name);
        changed
    }

    /// Adds or replaces a workload; `None` if it is as before.
    pub(crate) fn set_workload(&mut self, workload: Workload) -> Option<Update> {
        let slot = self.slot(&workload.key);
        let before = self.slots[slot as usize].take();
        if before.as_ref() == Some(&workload) {
            self.slots[slot as usize] = before;
            return None;
        }
        let addresses = before.as_ref().is_none_or(|w| w.addresses != workload.addresses);
        let namespace = &workload.key.namespace;
        self.namespaces
            .entry(namespace.clone())
            .or_insert_with(|| NamespaceEntry::implied(namespace))
            .workloads
            .insert(slot);
        // Added before it is taken away: a number that stays is not reported.
        self.count_ports(&workload, true);
        if let Some(before) = before {
            self.count_ports(&before, false);
        }
        self.slots[slot as usize] = Some(workload);
        Some(Update { slot, addresses })
    }

    /// Removes a workload.
    pub(crate) fn remove_workload(&mut self, key: &WorkloadKey) -> Option<Update> {
        let slot = *self.by_key.get(key)?;
        let workload = self.slots[slot as usize].take()?;
        self.count_ports(&workload, false);
        self.gone.insert(slot);
        if let Some(entry) = self.namespaces.get_mut(&key.namespace) {
            entry.workloads.remove(&slot);
        }
        self.forget_if_empty(&key.namespace);
        Some(Update { slot, addresses: true })
    }

    /// Lets the slots of workloads that are gone be used again; afterwards nothing may hold one.
    pub(crate) fn reap(&mut self) {
        let gone = std::mem::take(&mut self.gone);
        if !gone.is_empty() {
            self.by_key.retain(|_, slot| !gone.contains(slot));
            self.free.extend(gone);
        }
    }

    pub(crate) fn workload(&self, slot: Slot) -> Option<&Workload> {
        self.slots.get(slot as usize)?.as_ref()
    }

    pub(crate) fn by_key(&self, key: &WorkloadKey) -> Option<&Workload> {
        self.workload(*self.by_key.get(key)?)
    }

    /// The workloads of a namespace.
    pub(crate) fn workloads_in<'a>(
        &'a self,
        namespace: &str,
    ) -> impl Iterator<Item = (Slot, &'a Workload)> + use<'a> {
        let slots = self.namespaces.get(namespace).into_iter().flat_map(|entry| &entry.workloads);
        slots.filter_map(|slot| Some((*slot, self.workload(*slot)?)))
    }

    /// All workloads that may be in a scope's namespaces.
    pub(crate) fn workloads_of<'a>(
        &'a self,
        scope: &Scope,
    ) -> Box<dyn Iterator<Item = (Slot, &'a Workload)> + 'a> {
        match scope {
            Scope::Namespace(name) => Box::new(self.workloads_in(name)),
            Scope::Namespaces(_) => Box::new(self.workloads()),
        }
    }

    pub(crate) fn workloads(&self) -> impl Iterator<Item = (Slot, &Workload)> {
        (0..).zip(&self.slots).filter_map(|(slot, workload)| Some((slot, workload.as_ref()?)))
    }

    /// Does the selection take this workload?
    pub(crate) fn selects(&self, selection: &PodSelection, workload: &Workload) -> bool {
        let namespace = &workload.key.namespace;
        let in_scope = match &selection.scope {
            Scope::Namespace(name) => name == namespace,
            Scope::Namespaces(selector) => {
                self.namespaces.get(namespace).is_some_and(|entry| selector.matches(&entry.labels))
            }
        };
        in_scope && selection.pods.matches(&workload.labels)
    }

    /// The numbers that workloads give a named port, lowest first.
    pub(crate) fn port_numbers(&self, name: &PortName) -> impl Iterator<Item = u16> {
        self.port_names.get(name).into_iter().flat_map(|numbers| numbers.keys().copied())
    }

    /// Port names whose numbers changed since last asked.
    pub(crate) fn take_renumbered(&mut self) -> AHashSet<PortName> {
        std::mem::take(&mut self.renumbered)
    }

    fn slot(&mut self, key: &WorkloadKey) -> Slot {
        if let Some(slot) = self.by_key.get(key) {
            self.gone.remove(slot);
            return *slot;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as Slot - 1
        });
        self.by_key.insert(key.clone(), slot);
        slot
    }

    fn count_ports(&mut self, workload: &Workload, there: bool) {
        if !workload.is_selectable() {
            return;
        }
        for port in &workload.ports {
            let name = PortName { protocol: port.protocol, name: port.name.clone() };
            let numbers = self.port_names.entry(name.clone()).or_default();
            let count = numbers.entry(port.port).or_insert(0);
            *count = if there { *count + 1 } else { count.saturating_sub(1) };
            let count = *count;
            if count == 0 {
                numbers.remove(&port.port);
            }
            if numbers.is_empty() {
                self.port_names.remove(&name);
            }
            if count == u32::from(there) {
                self.renumbered.insert(name);
            }
        }
    }

    fn forget_if_empty(&mut self, name: &str) {
        if self.namespaces.get(name).is_some_and(|e| !e.declared && e.workloads.is_empty()) {
            self.namespaces.remove(name);
        }
    }
}
