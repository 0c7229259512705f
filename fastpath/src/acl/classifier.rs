//! What do the rules say, in a few loads?

use super::classes::{AddressClasses, ClassId};
use super::{Decision, Query, RuleList, Verdict};

/// A compiled rule list.
#[derive(Debug)]
pub struct Program {
    rules: RuleList,
    stamp: u64,
}

impl Program {
    /// Compiles a list. `stamp` names the content: a flow decided under an equal stamp need not be
    /// decided again, so it must change when a rule or the members of a set it refers to do.
    pub fn compile(rules: RuleList, classes: &AddressClasses, stamp: u64) -> Self {
        let _ = classes;
        Self { rules, stamp }
    }

    /// Judges a packet.
    pub fn decide(
        &self,
        query: &Query,
        source: ClassId,
        destination: ClassId,
        classes: &AddressClasses,
    ) -> Decision {
        let _ = (query, source, destination, classes, Verdict::Deny);
        Decision { verdict: self.rules.default, rule: self.rules.default_rule }
    }

    /// The content's stamp.
    pub fn stamp(&self) -> u64 {
        self.stamp
    }

    /// The rules it was compiled from.
    pub fn rules(&self) -> &RuleList {
        &self.rules
    }
}
