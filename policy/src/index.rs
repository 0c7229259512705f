//! Which policies are there, and which of them apply to a workload?

use crate::model::Workload;
use crate::rule::{Policy, PolicyKey, Scope};
use crate::world::{Slot, World};
use ahash::AHashMap;
use std::collections::BTreeMap;
use std::sync::Arc;

/// All policies, by the namespace of their subjects.
#[derive(Debug, Default)]
pub(crate) struct PolicyIndex {
    of_namespace: AHashMap<Arc<str>, BTreeMap<PolicyKey, Arc<Policy>>>,
}

impl PolicyIndex {
    /// Adds or replaces a policy; gives the one it replaces.
    pub(crate) fn insert(&mut self, policy: Arc<Policy>) -> Option<Arc<Policy>> {
        let namespace = policy.key.namespace.clone();
        self.of_namespace.entry(namespace).or_default().insert(policy.key.clone(), policy)
    }

    pub(crate) fn remove(&mut self, key: &PolicyKey) -> Option<Arc<Policy>> {
        let policies = self.of_namespace.get_mut(&key.namespace)?;
        let policy = policies.remove(key);
        if policies.is_empty() {
            self.of_namespace.remove(&key.namespace);
        }
        policy
    }

    /// The policies that apply to a workload, sorted by key.
    pub(crate) fn of(&self, workload: &Workload, world: &World) -> Vec<Arc<Policy>> {
        let policies = self.of_namespace.get(&workload.key.namespace);
        let policies = policies.into_iter().flat_map(BTreeMap::values);
        policies.filter(|policy| world.selects(&policy.subject, workload)).cloned().collect()
    }

    /// The local workloads a policy applies to.
    pub(crate) fn subjects(policy: &Policy, world: &World) -> Vec<Slot> {
        let scope: &Scope = &policy.subject.scope;
        let local = world.workloads_of(scope).filter(|(_, workload)| workload.local);
        local
            .filter(|(_, workload)| world.selects(&policy.subject, workload))
            .map(|(slot, _)| slot)
            .collect()
    }
}
