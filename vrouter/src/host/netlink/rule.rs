//! Which policy rules choose a routing table, and how are they added and removed?

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Netlink, NetlinkError};

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The prefix length of a single address: 32 or 128.
    pub fn host_prefix(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    pub(super) fn to_netlink(self) -> AddressFamily {
        match self {
            Self::V4 => AddressFamily::Inet,
            Self::V6 => AddressFamily::Inet6,
        }
    }

    pub(super) fn from_netlink(family: AddressFamily) -> Option<Self> {
        match family {
            AddressFamily::Inet => Some(Self::V4),
            AddressFamily::Inet6 => Some(Self::V6),
            _ => None,
        }
    }
}

/// A rule that looks a table up for what it matches.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rule {
    /// Which family's packets.
    pub family: Family,
    /// Order: small numbers first.
    pub priority: u32,
    /// Only packets that came in by this device; `lo` are those the node itself originates.
    pub input: Option<String>,
    /// Only packets to this prefix.
    pub destination: Option<IpNet>,
    /// Only packets from this prefix.
    pub source: Option<IpNet>,
    /// The table to look up; 0 for rules that do something else.
    pub table: u32,
    /// Who set the rule (`RTPROT_` number).
    pub protocol: u8,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {}:", self.priority)?;
        if let Some(net) = self.source {
            write!(f, " from {net}")?;
        }
        if let Some(net) = self.destination {
            write!(f, " to {net}")?;
        }
        if let Some(name) = &self.input {
            write!(f, " iif {name}")?;
        }
        write!(f, " lookup {}", self.table)
    }
}

impl Netlink {
    /// All rules of one family, in no promised order.
    pub fn rules(&mut self, family: Family) -> Result<Vec<Rule>, NetlinkError> {
        let mut message = RuleMessage::default();
        message.header.family = family.to_netlink();
        let request = RouteNetlinkMessage::GetRule(message);
        let answers = self.dump(&request, || format!("list IP{family:?} rules"))?;
        Ok(answers.iter().filter_map(Rule::from_netlink).collect())
    }

    /// Adds a rule; one that is there already stays the only one.
    pub fn add_rule(&mut self, rule: &Rule) -> Result<(), NetlinkError> {
        let request = RouteNetlinkMessage::NewRule(rule.to_netlink());
        match self.execute(request, NLM_F_CREATE | NLM_F_EXCL, || format!("add {rule}")) {
            Err(error) if error.is_existing() => Ok(()),
            other => other,
        }
    }

    /// Removes a rule; `Ok(false)` if it is not there.
    pub fn delete_rule(&mut self, rule: &Rule) -> Result<bool, NetlinkError> {
        let request = RouteNetlinkMessage::DelRule(rule.to_netlink());
        match self.execute(request, 0, || format!("delete {rule}")) {
            Ok(()) => Ok(true),
            Err(error) if error.is_missing() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Rule {
    /// Reads a rule out of a `NewRule` or `DelRule` message.
    pub(in crate::host) fn from_netlink(message: &RouteNetlinkMessage) -> Option<Self> {
        let (RouteNetlinkMessage::NewRule(message) | RouteNetlinkMessage::DelRule(message)) =
            message
        else {
            return None;
        };
        let mut rule = Self {
            family: Family::from_netlink(message.header.family)?,
            priority: 0,
            input: None,
            destination: None,
            source: None,
            table: u32::from(message.header.table),
            protocol: 0,
        };
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Priority(priority) => rule.priority = *priority,
                RuleAttribute::Iifname(name) => rule.input = Some(name.clone()),
                RuleAttribute::Table(table) => rule.table = *table,
                RuleAttribute::Protocol(protocol) => rule.protocol = (*protocol).into(),
                RuleAttribute::Destination(ip) => {
                    rule.destination = IpNet::new(*ip, message.header.dst_len).ok();
                }
                RuleAttribute::Source(ip) => {
                    rule.source = IpNet::new(*ip, message.header.src_len).ok();
                }
                _ => {}
            }
        }
        Some(rule)
    }

    fn to_netlink(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = self.family.to_netlink();
        message.header.action = RuleAction::ToTable;
        // A table number above 255 travels in the attribute only.
        message.header.table = u8::try_from(self.table).unwrap_or_default();
        let attributes = &mut message.attributes;
        attributes.push(RuleAttribute::Table(self.table));
        attributes.push(RuleAttribute::Priority(self.priority));
        attributes.push(RuleAttribute::Protocol(RouteProtocol::from(self.protocol)));
        attributes.extend(self.input.clone().map(RuleAttribute::Iifname));
        if let Some(net) = self.destination {
            message.header.dst_len = net.prefix_len();
            attributes.push(RuleAttribute::Destination(net.network()));
        }
        if let Some(net) = self.source {
            message.header.src_len = net.prefix_len();
            attributes.push(RuleAttribute::Source(net.network()));
        }
        message
    }
}
