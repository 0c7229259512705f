//! What does a Kubernetes `NetworkPolicy` mean in neutral rules?

use crate::model::{
    LabelOperator, LabelSelector, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicyRule, PolicyType, PortRef,
};
use crate::rule::{
    Peer, PodSelection, Policy, PolicyKey, PolicyKind, PortName, Ports, Rule, Scope, SetKey,
};
use crate::selector::Selector;
use fastpath::acl::PortMatch;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Converts a policy.
pub fn convert(policy: &NetworkPolicy) -> Policy {
    let namespace = &policy.namespace;
    let direction = |wanted: PolicyType, rules: &[NetworkPolicyRule]| {
        policy
            .policy_types
            .contains(&wanted)
            .then(|| rules.iter().map(|rule| Arc::new(rule_of(rule, namespace))).collect())
    };
    Policy {
        key: key(namespace, &policy.name),
        subject: PodSelection {
            scope: Scope::Namespace(namespace.clone()),
            pods: selector(&policy.pod_selector),
        },
        ingress: direction(PolicyType::Ingress, &policy.ingress),
        egress: direction(PolicyType::Egress, &policy.egress),
    }
}

/// The key of a `NetworkPolicy`.
pub fn key(namespace: &Arc<str>, name: &Arc<str>) -> PolicyKey {
    PolicyKey { kind: PolicyKind::NetworkPolicy, namespace: namespace.clone(), name: name.clone() }
}

/// A label selector as an expression: conditions sorted, so that selectors of equal meaning and
/// different order are one.
pub fn selector(selector: &LabelSelector) -> Selector {
    let labels = selector.match_labels.iter().map(|(key, value)| Selector::equal(key, value));
    let expressions = selector.match_expressions.iter().map(|requirement| {
        let key = Arc::from(requirement.key.as_str());
        let values = || requirement.values.iter().map(|v| Arc::from(v.as_str())).collect();
        match requirement.operator {
            LabelOperator::In => Selector::In(key, values()),
            // Holds for an object without the label, as the API server has it.
            LabelOperator::NotIn => Selector::NotIn(key, values()),
            LabelOperator::Exists => Selector::Has(key),
            LabelOperator::DoesNotExist => Selector::Not(Box::new(Selector::Has(key))),
        }
    });
    let parts: BTreeSet<_> = labels.chain(expressions).collect();
    Selector::and(parts.into_iter().collect())
}

fn rule_of(rule: &NetworkPolicyRule, namespace: &Arc<str>) -> Rule {
    let peers = rule.peers.iter().map(|peer| peer_of(peer, namespace));
    Rule {
        peers: (!rule.peers.is_empty()).then(|| peers.collect()),
        ports: (!rule.ports.is_empty()).then(|| ports_of(&rule.ports)),
    }
}

fn peer_of(peer: &NetworkPolicyPeer, namespace: &Arc<str>) -> Peer {
    let nets = |nets: &[IpNet]| {
        let sorted: BTreeSet<IpNet> = nets.iter().map(IpNet::trunc).collect();
        Arc::new(SetKey::Nets(sorted.into_iter().collect()))
    };
    match peer {
        NetworkPolicyPeer::Pods { namespaces, pods } => {
            let scope = match namespaces {
                None => Scope::Namespace(namespace.clone()),
                Some(namespaces) => Scope::Namespaces(selector(namespaces)),
            };
            let pods = pods.as_ref().map_or(Selector::All, selector);
            Peer::Set(Arc::new(SetKey::Pods(PodSelection { scope, pods })))
        }
        NetworkPolicyPeer::Block { cidr, except } if except.is_empty() => Peer::Set(nets(&[*cidr])),
        NetworkPolicyPeer::Block { cidr, except } => Peer::Without(nets(&[*cidr]), nets(except)),
    }
}

fn ports_of(ports: &[NetworkPolicyPort]) -> Ports {
    let mut numbered: BTreeMap<u8, Option<Vec<RangeInclusive<u16>>>> = BTreeMap::new();
    let mut named = BTreeSet::new();
    for port in ports {
        match &port.port {
            None => {
                numbered.insert(port.protocol, None);
            }
            Some(PortRef::Range(range)) => {
                if let Some(ranges) =
                    numbered.entry(port.protocol).or_insert_with(|| Some(Vec::new()))
                {
                    ranges.push(range.clone());
                }
            }
            Some(PortRef::Name(name)) => {
                named.insert(PortName { protocol: port.protocol, name: name.clone() });
            }
        }
    }
    let numbered = numbered
        .into_iter()
        .map(|(protocol, ranges)| (protocol, ranges.map_or(PortMatch::Any, PortMatch::In)));
    Ports { numbered: numbered.collect(), named: named.into_iter().collect() }
}
