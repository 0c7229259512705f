//! Which rules apply to an endpoint in one direction, in which order?

use crate::model::PolicyType;
use crate::names::{RuleKey, RuleName};
use crate::rule::{Policy, Rule};
use ahash::AHashMap;
use std::sync::Arc;

/// The rules of one direction.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) rules: Vec<ResolvedRule>,
    /// What decides when none of them matches.
    pub(crate) end: (RuleKey, RuleName),
}

/// A rule and what it is called.
#[derive(Debug)]
pub(crate) struct ResolvedRule {
    pub(crate) rule: Arc<Rule>,
    pub(crate) key: RuleKey,
    pub(crate) name: RuleName,
}

/// Orders the rules of the policies that apply to an endpoint; `None` if none of them is about
/// this direction, so that it is not isolated in it. Policies add up: as all rules allow, their
/// order decides only which is named for a packet that several allow (the first by key).
pub(crate) fn resolve(policies: &[Arc<Policy>], direction: PolicyType) -> Option<Resolved> {
    let mut rules = Vec::new();
    let mut isolating = Vec::new();
    for policy in policies {
        let Some(listed) = policy.rules(direction) else { continue };
        isolating.push(policy.key.clone());
        let mut seen: AHashMap<&Rule, u32> = AHashMap::new();
        for (rule, index) in listed.iter().zip(0..) {
            let occurrence = seen.entry(rule).or_insert(0);
            let key = RuleKey::Rule {
                policy: policy.key.clone(),
                direction,
                rule: rule.clone(),
                occurrence: *occurrence,
            };
            *occurrence += 1;
            let name = RuleName::Rule { policy: policy.key.clone(), direction, index };
            rules.push(ResolvedRule { rule: rule.clone(), key, name });
        }
    }
    if isolating.is_empty() {
        return None;
    }
    let end = (
        RuleKey::Isolated { direction, by: isolating.clone() },
        RuleName::Isolated { direction, by: isolating },
    );
    Some(Resolved { rules, end })
}
