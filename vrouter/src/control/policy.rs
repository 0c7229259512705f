//! Which compiled rules guard which endpoint? The policy engine's answers, as the workers' tables.

use fastpath::acl::classes::AddressClasses;
use fastpath::acl::classifier::Program;
use fastpath::acl::{AddressMatch, AddressSet, RuleId, RuleList, SetId};
use fastpath::tables::{Guard, ProgramId};
use policy::model::WorkloadKey;
use policy::{Change, Direction, EndpointRules, PolicyEngine, RuleName};
use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// Policy's state on the way to the tables.
#[derive(Default)]
pub struct PolicyState {
    engine: PolicyEngine,
    sets: BTreeMap<SetId, AddressSet>,
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

    /// Compiles what changed; true if the tables are new.
    pub fn flush(&mut self) -> bool {
        let flush = self.engine.flush();
        let sets_changed = !flush.sets.is_empty() || !flush.removed_sets.is_empty();
        if !sets_changed && flush.endpoints.is_empty() && flush.removed.is_empty() {
            return false;
        }
        for set in flush.sets {
            self.sets.insert(set.id, set);
        }
        for id in flush.removed_sets {
            self.sets.remove(&id);
        }
        for id in flush.removed_rules {
            self.names.remove(&id);
        }
        self.names.extend(flush.rule_names);
        for key in flush.over_limit {
            tracing::error!(workload = ?key, "more rules than an endpoint may have: the rest is denied");
        }
        if sets_changed {
            let sets = self.sets.values().cloned().collect();
            self.compiled.classes = Arc::new(AddressClasses::build(sets));
        }
        self.compile();
        true
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

    /// Endpoints with equal rules share one program. Programs are made anew with the classes they
    /// index; the stamp tells the workers whether a flow must be decided again.
    fn compile(&mut self) {
        let mut ids: HashMap<Arc<RuleList>, ProgramId> = HashMap::new();
        let mut programs = Vec::new();
        let mut guards = BTreeMap::new();
        let (classes, sets) = (&self.compiled.classes, &self.sets);
        let mut guard = |direction: &Direction| match direction {
            Direction::Open => Guard::Open,
            Direction::Rules(list) => {
                let id = *ids.entry(Arc::clone(list)).or_insert_with(|| {
                    let stamp = stamp(list, sets);
                    programs.push(Arc::new(Program::compile((**list).clone(), classes, stamp)));
                    ProgramId(programs.len() as u32 - 1)
                });
                Guard::Program(id)
            }
        };
        for (key, rules) in self.engine.endpoints() {
            guards.insert(key.clone(), (guard(&rules.egress), guard(&rules.ingress)));
        }
        self.compiled.programs = programs.into();
        self.compiled.guards = guards;
    }
}

/// Names what a list means: its rules, and the members of every set it refers to.
fn stamp(list: &RuleList, sets: &BTreeMap<SetId, AddressSet>) -> u64 {
    // Fixed keys, so that a restarted node gives equal content equal stamps.
    let mut hasher = DefaultHasher::new();
    list.hash(&mut hasher);
    for rule in &list.rules {
        for side in [&rule.matches.source, &rule.matches.destination] {
            for id in set_ids(side) {
                id.hash(&mut hasher);
                if let Some(set) = sets.get(&id) {
                    set.prefixes.hash(&mut hasher);
                }
            }
        }
    }
    hasher.finish()
}

fn set_ids(side: &AddressMatch) -> impl Iterator<Item = SetId> {
    side.all_of.iter().chain(side.any_of.iter().flatten()).chain(&side.none_of).copied()
}
