//! What may a rule say? The ordered rule language of the fast path: no Kubernetes word in it.
//!
//! A [`RuleList`] is judged first match wins. [`linear`] does just that and is the oracle;
//! [`classifier`] gives the same answer in a few loads.

pub mod classes;
pub mod classifier;
mod l4;
pub mod linear;
pub mod rulebook;
mod sides;
#[cfg(test)]
mod tests;

use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// Names a rule across compilations: counters and verdicts carry it. 0 is "no rule" (the
/// default of the list).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId(pub u32);

/// Allow or deny, by rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Let it pass.
    Allow,
    /// Refuse it.
    Deny,
}

/// Names a set of addresses that rules refer to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SetId(pub u32);

/// One set of addresses: prefixes of both families, in any order, overlaps allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressSet {
    /// Its name in rules.
    pub id: SetId,
    /// Its members.
    pub prefixes: Vec<IpNet>,
}

/// Which protocols a rule takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ProtocolMatch {
    /// Every one.
    #[default]
    Any,
    /// This IP protocol number.
    Is(u8),
    /// Every one but this.
    Not(u8),
}

/// Which addresses one side of a rule takes: a member of every set in `all_of`, of at least one
/// in each group of `any_of` (an empty group matches nothing), and of none in `none_of`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct AddressMatch {
    /// Member of each of these.
    pub all_of: Vec<SetId>,
    /// Of each group, a member of at least one.
    pub any_of: Vec<Vec<SetId>>,
    /// Member of none of these.
    pub none_of: Vec<SetId>,
}

/// Which transport ports one side of a rule takes; a packet without ports (another protocol, a
/// later fragment without its first) matches only [`PortMatch::Any`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum PortMatch {
    /// Every one, also no port at all.
    #[default]
    Any,
    /// In one of these ranges (none: matches nothing).
    In(Vec<RangeInclusive<u16>>),
    /// A port, but in none of these ranges.
    NotIn(Vec<RangeInclusive<u16>>),
}

/// Which ICMP or `ICMPv6` messages a rule takes; a packet of another protocol is never taken,
/// negated or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IcmpMatch {
    /// The message type.
    pub kind: u8,
    /// The code; `None` takes every code.
    pub code: Option<u8>,
    /// Take every message but these.
    pub negated: bool,
}

/// What a packet must be for a rule to decide it; every part must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Match {
    /// IP version 4 or 6; `None` takes both.
    pub ip_version: Option<u8>,
    /// IP protocol.
    pub protocol: ProtocolMatch,
    /// Source address.
    pub source: AddressMatch,
    /// Destination address.
    pub destination: AddressMatch,
    /// Source port.
    pub source_port: PortMatch,
    /// Destination port.
    pub destination_port: PortMatch,
    /// ICMP type and code.
    pub icmp: Option<IcmpMatch>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Its lasting name.
    pub id: RuleId,
    /// What it takes.
    pub matches: Match,
    /// What it says.
    pub verdict: Verdict,
}

/// The rules of one direction of an endpoint, first match wins.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RuleList {
    /// In order.
    pub rules: Vec<Rule>,
    /// What is said when none matches.
    pub default: Verdict,
    /// The rule id that counts and explains the default ([`RuleId`] 0 if nothing does).
    pub default_rule: RuleId,
}

impl RuleList {
    /// The sets its rules refer to, sorted.
    pub fn sets(&self) -> Vec<SetId> {
        let sides = self.rules.iter().flat_map(|r| [&r.matches.source, &r.matches.destination]);
        let ids: BTreeSet<SetId> = sides.flat_map(AddressMatch::sets).collect();
        ids.into_iter().collect()
    }
}

impl AddressMatch {
    /// The sets it refers to, some perhaps more than once.
    pub fn sets(&self) -> impl Iterator<Item = SetId> {
        self.all_of.iter().chain(self.any_of.iter().flatten()).chain(&self.none_of).copied()
    }
}

/// What is judged. For ICMP, `source_port` is 0 and `destination_port` is type * 256 + code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Query {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Source port, where the protocol has one.
    pub source_port: u16,
    /// Destination port, where the protocol has one.
    pub destination_port: u16,
}

/// What was decided, and by which rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Decision {
    /// Allow or deny.
    pub verdict: Verdict,
    /// The rule behind it.
    pub rule: RuleId,
}

/// Has this IP protocol transport ports (TCP, UDP, DCCP, SCTP, UDP-Lite)?
pub const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, 6 | 17 | 33 | 132 | 136)
}

/// Is this IP protocol ICMP or `ICMPv6`?
pub const fn is_icmp(protocol: u8) -> bool {
    matches!(protocol, 1 | 58)
}
