//! What does a rule list say when it is simply read from top to bottom? The oracle.
//!
//! Nothing here is compiled and nothing is shared with [`super::classes`] or
//! [`super::classifier`]: sets are searched prefix by prefix. Its cost is that of the list's
//! length times the sets', so packets never come here; tests and explanations do.

use super::{
    AddressMatch, AddressSet, Decision, IcmpMatch, Match, PortMatch, ProtocolMatch, Query, Rule,
    RuleList, SetId,
};
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// Judges a packet: the first rule that takes it decides, else the list's default. A set that
/// `sets` does not hold has no members.
pub fn decide(list: &RuleList, query: &Query, sets: &[AddressSet]) -> Decision {
    match first_match(list, query, sets) {
        Some(rule) => Decision { verdict: rule.verdict, rule: rule.id },
        None => Decision { verdict: list.default, rule: list.default_rule },
    }
}

/// The first rule that takes the packet.
pub fn first_match<'a>(list: &'a RuleList, query: &Query, sets: &[AddressSet]) -> Option<&'a Rule> {
    list.rules.iter().find(|rule| takes(&rule.matches, query, sets))
}

/// Does every part of the match hold?
pub fn takes(matches: &Match, query: &Query, sets: &[AddressSet]) -> bool {
    let version = if query.source.is_ipv4() { 4 } else { 6 };
    matches.ip_version.is_none_or(|wanted| wanted == version)
        && protocol_holds(matches.protocol, query.protocol)
        && address_holds(&matches.source, query.source, sets)
        && address_holds(&matches.destination, query.destination, sets)
        && port_holds(&matches.source_port, query.protocol, query.source_port)
        && port_holds(&matches.destination_port, query.protocol, query.destination_port)
        && icmp_holds(matches.icmp, query)
}

fn protocol_holds(wanted: ProtocolMatch, protocol: u8) -> bool {
    match wanted {
        ProtocolMatch::Any => true,
        ProtocolMatch::Is(number) => number == protocol,
        ProtocolMatch::Not(number) => number != protocol,
    }
}

fn address_holds(wanted: &AddressMatch, address: IpAddr, sets: &[AddressSet]) -> bool {
    let member = |id: &SetId| {
        sets.iter().any(|set| set.id == *id && set.prefixes.iter().any(|p| p.contains(&address)))
    };
    wanted.all_of.iter().all(member)
        && wanted.any_of.iter().all(|group| group.iter().any(member))
        && !wanted.none_of.iter().any(member)
}

fn port_holds(wanted: &PortMatch, protocol: u8, port: u16) -> bool {
    let within = |ranges: &[RangeInclusive<u16>]| ranges.iter().any(|range| range.contains(&port));
    match wanted {
        PortMatch::Any => true,
        PortMatch::In(ranges) => super::has_ports(protocol) && within(ranges),
        PortMatch::NotIn(ranges) => super::has_ports(protocol) && !within(ranges),
    }
}

fn icmp_holds(wanted: Option<IcmpMatch>, query: &Query) -> bool {
    let Some(wanted) = wanted else { return true };
    let [kind, code] = query.destination_port.to_be_bytes();
    let same = kind == wanted.kind && wanted.code.is_none_or(|c| c == code);
    super::is_icmp(query.protocol) && same != wanted.negated
}
