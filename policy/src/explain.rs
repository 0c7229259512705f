//! Which rule decides about these packets?
//!
//! Judged from top to bottom over the same lowered rules and sets that the fast path compiles,
//! as of the engine's last flush.

use crate::engine::{Direction, PolicyEngine};
use crate::model::{PolicyType, WorkloadKey};
use crate::names::RuleName;
use fastpath::acl::{Query, Verdict, linear};
use std::fmt;
use std::net::IpAddr;

/// What is decided about a packet, on both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// By the rules of the local workload that sends it, if one does.
    pub egress: Option<Judgement>,
    /// By the rules of the local workload it is for, if it is for one.
    pub ingress: Option<Judgement>,
}

/// What one side decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Whose rules.
    pub workload: WorkloadKey,
    /// Which of them.
    pub direction: PolicyType,
    /// Allow or deny.
    pub verdict: Verdict,
    /// The rule behind it; `None`: no policy isolates the workload in this direction.
    pub rule: Option<RuleName>,
}

impl Explanation {
    /// Is it allowed on both sides?
    pub fn allows(&self) -> bool {
        let denies = |side: &Option<Judgement>| {
            side.as_ref().is_some_and(|judgement| judgement.verdict == Verdict::Deny)
        };
        !denies(&self.egress) && !denies(&self.ingress)
    }
}

impl PolicyEngine {
    /// Says what is decided about a packet that begins a connection.
    pub fn explain(&self, query: &Query) -> Explanation {
        Explanation {
            egress: self.judge(query, query.source, PolicyType::Egress),
            ingress: self.judge(query, query.destination, PolicyType::Ingress),
        }
    }

    fn judge(&self, query: &Query, own: IpAddr, direction: PolicyType) -> Option<Judgement> {
        let has = |key: &WorkloadKey| {
            self.workload(key).is_some_and(|workload| workload.addresses.contains(&own))
        };
        let (key, rules) = self.endpoints().find(|(key, _)| has(key))?;
        let side = match direction {
            PolicyType::Egress => &rules.egress,
            PolicyType::Ingress => &rules.ingress,
        };
        let (verdict, rule) = match side {
            Direction::Open => (Verdict::Allow, None),
            Direction::Rules(list) => {
                let decision = linear::decide(list, query, &self.sets());
                (decision.verdict, self.rule_name(decision.rule).cloned())
            }
        };
        Some(Judgement { workload: key.clone(), direction, verdict, rule })
    }
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Allow => "allowed",
            Verdict::Deny => "denied",
        };
        write!(f, "{} {}: {verdict} ", self.workload, self.direction)?;
        match &self.rule {
            Some(rule) => write!(f, "by {rule}"),
            None => f.write_str("as no policy isolates it"),
        }
    }
}
