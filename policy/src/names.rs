//! Which rule is behind a `RuleId`?
//!
//! An id belongs to what a rule says in its policy, not to its place: a rule that stays the same
//! keeps its id, and so its counters, when others come before it; only its name moves.

use crate::ids::Ids;
use crate::model::PolicyType;
use crate::rule::{PolicyKey, Rule};
use ahash::AHashMap;
use fastpath::acl::RuleId;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// What a [`RuleId`] stands for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RuleName {
    /// A rule of a policy.
    Rule {
        /// The policy.
        policy: PolicyKey,
        /// Which of its lists of rules.
        direction: PolicyType,
        /// Its place in the list, counted from 0.
        index: u32,
    },
    /// The end: these policies isolate the workload, and no rule of theirs allows the packet.
    Isolated {
        /// The direction it is isolated in.
        direction: PolicyType,
        /// The policies, sorted.
        by: Vec<PolicyKey>,
    },
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule { policy, direction, index } => write!(f, "{policy} {direction}[{index}]"),
            Self::Isolated { direction, by } => {
                write!(f, "{direction} isolation by ")?;
                for (position, policy) in by.iter().enumerate() {
                    let comma = if position == 0 { "" } else { ", " };
                    write!(f, "{comma}{policy}")?;
                }
                f.write_str(": no rule allows it")
            }
        }
    }
}

/// What makes a rule the same rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum RuleKey {
    Rule {
        policy: PolicyKey,
        direction: PolicyType,
        rule: Arc<Rule>,
        /// Which of several equal rules of the list.
        occurrence: u32,
    },
    Isolated {
        direction: PolicyType,
        by: Vec<PolicyKey>,
    },
}

/// The ids in use and their names.
#[derive(Debug, Default)]
pub(crate) struct Names {
    ids: Ids<RuleKey>,
    current: AHashMap<RuleId, RuleName>,
    /// New names since last asked.
    changed: BTreeMap<RuleId, RuleName>,
}

impl Names {
    /// The rule's id, referred to once more.
    pub(crate) fn acquire(&mut self, key: &RuleKey, name: RuleName) -> RuleId {
        let id = RuleId(self.ids.acquire(key).0);
        if self.current.get(&id) != Some(&name) {
            self.changed.insert(id, name.clone());
            self.current.insert(id, name);
        }
        id
    }

    pub(crate) fn release(&mut self, id: RuleId) {
        self.ids.release(id.0);
    }

    /// Ids that are no longer in use.
    pub(crate) fn collect(&mut self) -> Vec<RuleId> {
        let gone: Vec<RuleId> = self.ids.collect().into_iter().map(|(id, _)| RuleId(id)).collect();
        for id in &gone {
            self.current.remove(id);
            self.changed.remove(id);
        }
        gone
    }

    pub(crate) fn take_changed(&mut self) -> BTreeMap<RuleId, RuleName> {
        std::mem::take(&mut self.changed)
    }

    pub(crate) fn get(&self, id: RuleId) -> Option<&RuleName> {
        self.current.get(&id)
    }
}
