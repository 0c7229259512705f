//! What do an endpoint's rules look like in the fast path's language?

use crate::limits;
use crate::model::{PolicyType, Workload};
use crate::names::Names;
use crate::resolve::Resolved;
use crate::rule::{Peer, PortName, Ports, SetKey};
use crate::sets::Sets;
use crate::world::World;
use fastpath::acl::{
    AddressMatch, Match, PortMatch, ProtocolMatch, Rule, RuleId, RuleList, SetId, Verdict,
};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What an endpoint's rules refer to, each as often as it does.
#[derive(Debug, Default)]
pub(crate) struct References {
    pub(crate) sets: Vec<SetId>,
    pub(crate) rules: Vec<RuleId>,
    /// Port names whose numbers the rules spell out.
    pub(crate) port_names: BTreeSet<PortName>,
    /// A bound was reached.
    pub(crate) over_limit: bool,
}

/// Everything lowering reads, and the ids it takes.
pub(crate) struct Lowering<'a> {
    pub(crate) workload: &'a Workload,
    pub(crate) world: &'a World,
    pub(crate) sets: &'a mut Sets,
    pub(crate) names: &'a mut Names,
    pub(crate) references: References,
}

/// Protocol and port of a rule, and the set its destination must be in besides.
struct L4 {
    protocol: ProtocolMatch,
    port: PortMatch,
    destination: Option<SetId>,
}

impl Lowering<'_> {
    /// Lowers the rules of one direction.
    pub(crate) fn lower(&mut self, resolved: Resolved, direction: PolicyType) -> RuleList {
        let mut rules = Vec::new();
        for resolved in resolved.rules {
            let id = self.names.acquire(&resolved.key, resolved.name);
            self.references.rules.push(id);
            let sides = self.sides(resolved.rule.peers.as_deref());
            let l4 = self.l4(resolved.rule.ports.as_ref(), direction);
            if rules.len() + l4.len() * sides.len() > limits::RULES {
                // All rules allow: what is left out is denied by the end.
                self.references.over_limit = true;
                break;
            }
            for (L4 { protocol, port, destination }, side) in
                l4.iter().flat_map(|l4| sides.iter().map(move |side| (l4, side)))
            {
                let mut matches = Match {
                    protocol: *protocol,
                    destination_port: port.clone(),
                    ..Match::default()
                };
                match direction {
                    PolicyType::Ingress => matches.source = side.clone(),
                    PolicyType::Egress => matches.destination = side.clone(),
                }
                matches.destination.all_of.extend(destination);
                rules.push(Rule { id, matches, verdict: Verdict::Allow });
            }
        }
        let (key, name) = resolved.end;
        let default_rule = self.names.acquire(&key, name);
        self.references.rules.push(default_rule);
        RuleList { rules, default: Verdict::Deny, default_rule }
    }

    /// The peer's side of a rule, as alternatives: all plain sets are one.
    fn sides(&mut self, peers: Option<&[Peer]>) -> Vec<AddressMatch> {
        let Some(peers) = peers else { return vec![AddressMatch::default()] };
        let mut sides = Vec::new();
        let mut plain = Vec::new();
        for peer in peers {
            match peer {
                Peer::Set(key) => plain.push(self.set(key)),
                Peer::Without(within, except) => sides.push(AddressMatch {
                    all_of: vec![self.set(within)],
                    any_of: Vec::new(),
                    none_of: vec![self.set(except)],
                }),
            }
        }
        if !plain.is_empty() {
            sides.push(AddressMatch { any_of: vec![plain], ..AddressMatch::default() });
        }
        sides
    }

    /// Protocols and ports of a rule, as alternatives.
    fn l4(&mut self, ports: Option<&Ports>, direction: PolicyType) -> Vec<L4> {
        let Some(ports) = ports else {
            let (protocol, port) = (ProtocolMatch::Any, PortMatch::Any);
            return vec![L4 { protocol, port, destination: None }];
        };
        let mut found: Vec<L4> = ports
            .numbered
            .iter()
            .map(|(protocol, port)| L4 {
                protocol: ProtocolMatch::Is(*protocol),
                port: port.clone(),
                destination: None,
            })
            .collect();
        for name in &ports.named {
            match direction {
                PolicyType::Ingress => found.extend(self.own_port(name)),
                PolicyType::Egress => self.peers_ports(name, &mut found),
            }
        }
        found
    }

    /// A named port where the endpoint itself is the destination.
    fn own_port(&self, name: &PortName) -> Option<L4> {
        let named = self.workload.ports.iter();
        let named = named.filter(|port| (port.protocol, &port.name) == (name.protocol, &name.name));
        let numbers: BTreeSet<u16> = named.map(|port| port.port).collect();
        (!numbers.is_empty()).then(|| L4 {
            protocol: ProtocolMatch::Is(name.protocol),
            port: PortMatch::In(numbers.into_iter().map(|number| number..=number).collect()),
            destination: None,
        })
    }

    /// A named port where the destination may be any workload: for each number the workloads
    /// that mean it.
    fn peers_ports(&mut self, name: &PortName, found: &mut Vec<L4>) {
        self.references.port_names.insert(name.clone());
        let mut numbers: Vec<u16> =
            self.world.port_numbers(name).take(limits::PORT_NUMBERS + 1).collect();
        if numbers.len() > limits::PORT_NUMBERS {
            numbers.pop();
            self.references.over_limit = true;
        }
        for number in numbers {
            let set = self.set(&Arc::new(SetKey::NamedPort(name.clone(), number)));
            found.push(L4 {
                protocol: ProtocolMatch::Is(name.protocol),
                port: PortMatch::In(vec![number..=number]),
                destination: Some(set),
            });
        }
    }

    fn set(&mut self, key: &Arc<SetKey>) -> SetId {
        let id = self.sets.acquire(key, self.world);
        self.references.sets.push(id);
        id
    }
}
