//! What is new for the fast path after these changes?
//!
//! [`PolicyEngine::apply`] only notes what is dirty; [`PolicyEngine::flush`] brings the sets up to
//! date, lowers the rules of the endpoints that are touched, and gives what differs from the
//! flush before. What it gives depends on what is there, not on the order in which it came; only
//! the numbers of rules and sets do, and they stay with what they name.

use crate::index::PolicyIndex;
use crate::kubernetes;
use crate::lower::{Lowering, References};
use crate::model::{Namespace, NetworkPolicy, PolicyType, Workload, WorkloadKey};
use crate::names::{Names, RuleName};
use crate::resolve::resolve;
use crate::rule::{Policy, PolicyKey, PolicyKind, PortName};
use crate::sets::Sets;
use crate::world::{Slot, Update, World};
use ahash::{AHashMap, AHashSet};
use fastpath::acl::{AddressSet, RuleId, RuleList, SetId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One change of what is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A namespace is there, with these labels.
    Namespace(Namespace),
    /// A namespace is gone. Workloads that are still in it are known by its name only.
    NamespaceGone(Arc<str>),
    /// A workload is there, like this.
    Workload(Workload),
    /// A workload is gone.
    WorkloadGone(WorkloadKey),
    /// A Kubernetes `NetworkPolicy` is there, like this.
    NetworkPolicy(NetworkPolicy),
    /// A policy is gone.
    PolicyGone(PolicyKey),
}

/// What may pass in one direction of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Everything: no policy isolates it in this direction.
    Open,
    /// What these rules say. Equal lists of different endpoints are equal values, so that their
    /// programs can be shared.
    Rules(Arc<RuleList>),
}

/// What may pass to and from an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointRules {
    /// From it.
    pub egress: Direction,
    /// To it.
    pub ingress: Direction,
}

/// What differs from the flush before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flush {
    /// Local workloads that are new or whose rules changed, sorted by key.
    pub endpoints: Vec<(WorkloadKey, EndpointRules)>,
    /// Workloads that no longer are local ones under policy.
    pub removed: Vec<WorkloadKey>,
    /// Sets that are new or have other members, whole, sorted by id.
    pub sets: Vec<AddressSet>,
    /// Sets that no rule refers to any more; their ids may come back in a later flush.
    pub removed_sets: Vec<SetId>,
    /// Names of rules that are new or stand in another place of their policy.
    pub rule_names: BTreeMap<RuleId, RuleName>,
    /// Rules that are gone; their ids may come back in a later flush, so counters must restart.
    pub removed_rules: Vec<RuleId>,
    /// Endpoints whose rules did not all fit ([`crate::limits`]); the rest is denied.
    pub over_limit: Vec<WorkloadKey>,
}

/// The policies and workloads of the cluster, and what they mean for this node's workloads.
#[derive(Debug, Default)]
pub struct PolicyEngine {
    world: World,
    policies: PolicyIndex,
    sets: Sets,
    names: Names,
    endpoints: BTreeMap<WorkloadKey, Endpoint>,
    /// Who spells out the numbers of a port name.
    port_name_users: AHashMap<PortName, AHashSet<WorkloadKey>>,
    /// Workloads to compare with the sets; true if their addresses changed.
    dirty_members: BTreeMap<Slot, bool>,
    dirty_endpoints: BTreeSet<WorkloadKey>,
}

#[derive(Debug)]
struct Endpoint {
    rules: EndpointRules,
    references: References,
}

impl Flush {
    /// Is there nothing new?
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl PolicyEngine {
    /// An engine that knows nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a change; its effect comes with the next flush.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Namespace(namespace) => {
                let name = namespace.name.clone();
                if self.world.set_namespace(namespace) {
                    self.namespace_changed(&name);
                }
            }
            Change::NamespaceGone(name) => {
                if self.world.remove_namespace(&name) {
                    self.namespace_changed(&name);
                }
            }
            Change::Workload(workload) => {
                let (key, local) = (workload.key.clone(), workload.local);
                let update = self.world.set_workload(workload);
                self.workload_changed(&key, local, update);
            }
            Change::WorkloadGone(key) => {
                let update = self.world.remove_workload(&key);
                self.workload_changed(&key, false, update);
            }
            Change::NetworkPolicy(policy) => {
                let policy = Arc::new(kubernetes::convert(&policy));
                self.touch_subjects(&policy);
                if let Some(before) = self.policies.insert(policy) {
                    self.touch_subjects(&before);
                }
            }
            Change::PolicyGone(key) => {
                if let Some(before) = self.policies.remove(&key) {
                    self.touch_subjects(&before);
                }
            }
        }
    }

    /// Brings everything up to date and gives what is new.
    pub fn flush(&mut self) -> Flush {
        let mut flush = Flush::default();
        for (slot, addresses) in std::mem::take(&mut self.dirty_members) {
            self.sets.update(slot, addresses, &self.world);
        }
        for name in self.world.take_renumbered() {
            self.dirty_endpoints
                .extend(self.port_name_users.get(&name).into_iter().flatten().cloned());
        }
        let dirty = std::mem::take(&mut self.dirty_endpoints);
        // All lowered before any old reference is given back: what stays keeps its id.
        let lowered: Vec<_> = dirty
            .into_iter()
            .map(|key| {
                let endpoint = self.lower(&key);
                (key, endpoint)
            })
            .collect();
        for (key, endpoint) in lowered {
            self.replace(key, endpoint, &mut flush);
        }
        flush.removed_sets = self.sets.collect();
        flush.sets = self.sets.take_changed(&self.world);
        flush.removed_rules = self.names.collect();
        flush.rule_names = self.names.take_changed();
        self.world.reap();
        flush
    }

    /// What a rule id stands for.
    pub fn rule_name(&self, id: RuleId) -> Option<&RuleName> {
        self.names.get(id)
    }

    /// The rules of a local workload, as of the last flush.
    pub fn rules(&self, key: &WorkloadKey) -> Option<&EndpointRules> {
        self.endpoints.get(key).map(|endpoint| &endpoint.rules)
    }

    /// The local workloads under policy, with their rules, as of the last flush.
    pub fn endpoints(&self) -> impl Iterator<Item = (&WorkloadKey, &EndpointRules)> {
        self.endpoints.iter().map(|(key, endpoint)| (key, &endpoint.rules))
    }

    /// All sets that rules refer to.
    pub fn sets(&self) -> Vec<AddressSet> {
        self.sets.all(&self.world)
    }

    /// The policies that apply to a workload, sorted.
    pub fn policies_of(&self, key: &WorkloadKey) -> Vec<Arc<Policy>> {
        let workload = self.workload(key).filter(|workload| workload.is_selectable());
        workload.map(|workload| self.policies.of(workload, &self.world)).unwrap_or_default()
    }

    /// A workload, by its key.
    pub fn workload(&self, key: &WorkloadKey) -> Option<&Workload> {
        self.world.by_key(key)
    }

    /// Compiles an endpoint; `None` if there is none.
    fn lower(&mut self, key: &WorkloadKey) -> Option<Endpoint> {
        let workload = self.world.by_key(key)?;
        if !workload.local || !workload.is_selectable() {
            return None;
        }
        let policies = self.policies.of(workload, &self.world);
        let mut lowering = Lowering {
            workload,
            world: &self.world,
            sets: &mut self.sets,
            names: &mut self.names,
            references: References::default(),
        };
        let mut direction = |direction: PolicyType| match resolve(&policies, direction) {
            None => Direction::Open,
            Some(resolved) => Direction::Rules(Arc::new(lowering.lower(resolved, direction))),
        };
        let rules = EndpointRules {
            egress: direction(PolicyType::Egress),
            ingress: direction(PolicyType::Ingress),
        };
        Some(Endpoint { rules, references: lowering.references })
    }

    /// Puts an endpoint in the place of the one before, and tells what that changes.
    fn replace(&mut self, key: WorkloadKey, endpoint: Option<Endpoint>, flush: &mut Flush) {
        let before = self.endpoints.remove(&key);
        if let Some(before) = &before {
            self.release(&key, &before.references);
        }
        match endpoint {
            Some(endpoint) => {
                if before.is_none_or(|before| before.rules != endpoint.rules) {
                    flush.endpoints.push((key.clone(), endpoint.rules.clone()));
                }
                if endpoint.references.over_limit {
                    flush.over_limit.push(key.clone());
                }
                for name in &endpoint.references.port_names {
                    self.port_name_users.entry(name.clone()).or_default().insert(key.clone());
                }
                self.endpoints.insert(key, endpoint);
            }
            None if before.is_some() => flush.removed.push(key),
            None => {}
        }
    }

    fn release(&mut self, key: &WorkloadKey, references: &References) {
        references.sets.iter().for_each(|id| self.sets.release(*id));
        references.rules.iter().for_each(|id| self.names.release(*id));
        for name in &references.port_names {
            if let Some(users) = self.port_name_users.get_mut(name) {
                users.remove(key);
                if users.is_empty() {
                    self.port_name_users.remove(name);
                }
            }
        }
    }

    fn namespace_changed(&mut self, name: &str) {
        for (slot, _) in self.world.workloads_in(name) {
            self.dirty_members.entry(slot).or_insert(false);
        }
    }

    fn workload_changed(&mut self, key: &WorkloadKey, local: bool, update: Option<Update>) {
        if let Some(Update { slot, addresses }) = update {
            *self.dirty_members.entry(slot).or_insert(false) |= addresses;
            if local || self.endpoints.contains_key(key) {
                self.dirty_endpoints.insert(key.clone());
            }
        }
    }

    fn touch_subjects(&mut self, policy: &Policy) {
        for slot in PolicyIndex::subjects(policy, &self.world) {
            if let Some(workload) = self.world.workload(slot) {
                self.dirty_endpoints.insert(workload.key.clone());
            }
        }
    }
}

impl PolicyKey {
    /// The key of a Kubernetes `NetworkPolicy`.
    pub fn network_policy(namespace: &str, name: &str) -> Self {
        let (namespace, name) = (namespace.into(), name.into());
        Self { kind: PolicyKind::NetworkPolicy, namespace, name }
    }
}
