//! Which compiled rules guard which endpoint? The policy engine's answers, as the workers' tables.

use fastpath::acl::RuleId;
use fastpath::acl::classes::AddressClasses;
use fastpath::acl::classifier::Program;
use fastpath::acl::rulebook::Rulebook;
use fastpath::tables::{Guard, ProgramId};
use policy::model::WorkloadKey;
use policy::{Change, Direction, EndpointRules, PolicyEngine, RuleName};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Policy's state on the way to the tables.
#[derive(Default)]
pub struct PolicyState {
    engine: PolicyEngine,
    rulebook: Rulebook,
    names: BTreeMap<RuleId, RuleName>,
    compiled: PolicyTables,
}

/// Policy's parts of one generation.
#[derive(Clone, Default)]
pub struct PolicyTables {
    /// Address → membership class.
    pub classes: Arc<AddressClasses>,
    /// Compiled rules, by program id.
    pub programs: Arc<[Arc<Program>]>,
    /// Egress and ingress guard of each local endpoint.
    pub guards: BTreeMap<WorkloadKey, (Guard, Guard)>,
}

impl PolicyState {
    /// Tells the engine of a change; nothing is compiled yet.
    pub fn apply(&mut self, change: Change) {
        self.engine.apply(change);
    }

    /// Compiles what changed.
    pub fn flush(&mut self) {
        let flush = self.engine.flush();
        if flush.is_empty() {
            return;
        }
        for id in flush.removed_sets {
            self.rulebook.remove_set(id);
        }
        for set in flush.sets {
            self.rulebook.set(set);
        }
        for id in flush.removed_rules {
            self.names.remove(&id);
        }
        self.names.extend(flush.rule_names);
        for key in flush.over_limit {
            tracing::error!(workload = ?key, "more rules than an endpoint may have: the rest is denied");
        }
        self.compile();
    }

    /// The tables as last compiled.
    pub fn tables(&self) -> &PolicyTables {
        &self.compiled
    }

    /// What operators call a rule.
    pub fn rule_name(&self, id: RuleId) -> Option<&RuleName> {
        self.names.get(&id)
    }

    /// Every rule's name.
    pub fn rule_names(&self) -> impl Iterator<Item = (RuleId, &RuleName)> {
        self.names.iter().map(|(id, name)| (*id, name))
    }

    /// The rules in force for a local endpoint.
    pub fn rules(&self, key: &WorkloadKey) -> Option<&EndpointRules> {
        self.engine.rules(key)
    }

    /// Endpoints with equal rules share one program.
    fn compile(&mut self) {
        let directions = || self.engine.endpoints().flat_map(|(_, r)| [&r.egress, &r.ingress]);
        let lists = directions().filter_map(|direction| match direction {
            Direction::Open => None,
            Direction::Rules(list) => Some(list),
        });
        let chapter = self.rulebook.compile(lists);
        let mut places = chapter.places.into_iter();
        let mut guard = |direction: &Direction| match direction {
            Direction::Open => Guard::Open,
            // One place per list, in the order of asking.
            Direction::Rules(_) => {
                places.next().map_or(Guard::Closed, |place| Guard::Program(ProgramId(place)))
            }
        };
        let guards = self
            .engine
            .endpoints()
            .map(|(key, rules)| {
                let egress = guard(&rules.egress);
                (key.clone(), (egress, guard(&rules.ingress)))
            })
            .collect();
        self.compiled =
            PolicyTables { classes: chapter.classes, programs: chapter.programs, guards };
    }
}
