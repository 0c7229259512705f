//! The engine judged by what the fast path would do with its output.

mod generated;
mod ids;
mod traps;

use crate::engine::{Change, Direction, EndpointRules, Flush, PolicyEngine};
use crate::model::*;
use crate::names::RuleName;
use crate::oracle::{Cluster, Probe};
use fastpath::acl::classes::AddressClasses;
use fastpath::acl::classifier::Program;
use fastpath::acl::{AddressSet, Query, RuleId, RuleList, SetId, Verdict};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

const UDP: u8 = 17;
const SCTP: u8 = 132;
const ICMP: u8 = 1;

/// What a node holds after some flushes: it keeps what a flush does not mention.
#[derive(Default)]
struct Node {
    engine: PolicyEngine,
    endpoints: BTreeMap<WorkloadKey, EndpointRules>,
    sets: BTreeMap<SetId, AddressSet>,
    names: BTreeMap<RuleId, RuleName>,
}

impl Node {
    fn new(cluster: &Cluster) -> Self {
        let mut node = Self::default();
        for change in changes(cluster) {
            node.engine.apply(change);
        }
        node.flush();
        node
    }

    /// Takes a flush over, and checks that everything it speaks of is known.
    fn flush(&mut self) -> Flush {
        let flush = self.engine.flush();
        for key in &flush.removed {
            assert!(self.endpoints.remove(key).is_some(), "{key} was never there");
        }
        self.endpoints.extend(flush.endpoints.iter().cloned());
        for id in &flush.removed_sets {
            self.sets.remove(id);
        }
        self.sets.extend(flush.sets.iter().map(|set| (set.id, set.clone())));
        for id in &flush.removed_rules {
            self.names.remove(id);
        }
        self.names.extend(flush.rule_names.iter().map(|(id, name)| (*id, name.clone())));
        for rules in self.endpoints.values() {
            for list in [&rules.egress, &rules.ingress].into_iter().filter_map(list) {
                assert!(self.names.contains_key(&list.default_rule));
                for rule in &list.rules {
                    assert!(self.names.contains_key(&rule.id));
                    let sides = [&rule.matches.source, &rule.matches.destination];
                    for side in sides {
                        let groups = side.any_of.iter().flatten();
                        for id in side.all_of.iter().chain(&side.none_of).chain(groups) {
                            assert!(self.sets.contains_key(id), "{id:?} is referred to");
                        }
                    }
                }
            }
        }
        assert_eq!(self.engine.sets(), self.sets.values().cloned().collect::<Vec<_>>());
        flush
    }

    /// The compiled programs of a workload.
    fn programs(&self, classes: &AddressClasses) -> BTreeMap<WorkloadKey, [Option<Program>; 2]> {
        let compile = |side: &Direction| {
            list(side).map(|list| Program::compile(RuleList::clone(list), classes, 0))
        };
        let programs = self.endpoints.iter();
        programs
            .map(|(key, rules)| (key.clone(), [compile(&rules.ingress), compile(&rules.egress)]))
            .collect()
    }

    fn classes(&self) -> AddressClasses {
        AddressClasses::build(self.sets.values().cloned().collect())
    }
}

fn list(side: &Direction) -> Option<&Arc<RuleList>> {
    match side {
        Direction::Open => None,
        Direction::Rules(list) => Some(list),
    }
}

fn query(probe: &Probe) -> Query {
    Query {
        source: probe.source,
        destination: probe.destination,
        protocol: probe.protocol,
        source_port: 40_000,
        destination_port: probe.port,
    }
}

/// Does a compiled side let the probe pass?
fn passes(program: Option<&Program>, probe: &Probe, classes: &AddressClasses) -> bool {
    program.is_none_or(|program| {
        let query = query(probe);
        let source = classes.class_of(query.source);
        let destination = classes.class_of(query.destination);
        program.decide(&query, source, destination, classes).verdict == Verdict::Allow
    })
}

fn changes(cluster: &Cluster) -> Vec<Change> {
    let namespaces = cluster.namespaces.iter().cloned().map(Change::Namespace);
    let workloads = cluster.workloads.iter().cloned().map(Change::Workload);
    let policies = cluster.policies.iter().cloned().map(Change::NetworkPolicy);
    namespaces.chain(workloads).chain(policies).collect()
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn namespace(name: &str, pairs: &[(&str, &str)]) -> Namespace {
    Namespace { name: name.into(), labels: labels(pairs) }
}

/// A local pod.
fn pod(namespace: &str, name: &str, pairs: &[(&str, &str)], addresses: &[&str]) -> Workload {
    Workload {
        key: WorkloadKey::new(namespace, name, "eth0"),
        labels: labels(pairs),
        addresses: addresses.iter().map(|a| a.parse().expect("an address")).collect(),
        ports: Vec::new(),
        local: true,
        host_network: false,
        finished: false,
        service_account: "default".into(),
    }
}

fn named_port(name: &str, protocol: u8, port: u16) -> NamedPort {
    NamedPort { name: name.into(), protocol, port }
}

fn selector(pairs: &[(&str, &str)]) -> LabelSelector {
    LabelSelector { match_labels: labels(pairs), match_expressions: Vec::new() }
}

fn expression(key: &str, operator: LabelOperator, values: &[&str]) -> LabelSelector {
    let values = values.iter().map(|v| (*v).to_owned()).collect();
    let requirement = LabelRequirement { key: key.to_owned(), operator, values };
    LabelSelector { match_labels: Labels::new(), match_expressions: vec![requirement] }
}

/// Pods of the policy's own namespace.
fn pods(pods: LabelSelector) -> NetworkPolicyPeer {
    NetworkPolicyPeer::Pods { namespaces: None, pods: Some(pods) }
}

fn block(cidr: &str, except: &[&str]) -> NetworkPolicyPeer {
    let net = |text: &str| text.parse::<IpNet>().expect("a prefix");
    NetworkPolicyPeer::Block { cidr: net(cidr), except: except.iter().map(|e| net(e)).collect() }
}

fn port(protocol: u8, number: u16) -> NetworkPolicyPort {
    NetworkPolicyPort { protocol, port: Some(PortRef::Range(number..=number)) }
}

fn port_name(protocol: u8, name: &str) -> NetworkPolicyPort {
    NetworkPolicyPort { protocol, port: Some(PortRef::Name(name.into())) }
}

fn rule(peers: Vec<NetworkPolicyPeer>, ports: Vec<NetworkPolicyPort>) -> NetworkPolicyRule {
    NetworkPolicyRule { peers, ports }
}

fn policy(
    namespace: &str,
    name: &str,
    pod_selector: LabelSelector,
    ingress: Option<Vec<NetworkPolicyRule>>,
    egress: Option<Vec<NetworkPolicyRule>>,
) -> NetworkPolicy {
    let ingress_type = ingress.is_some().then_some(PolicyType::Ingress);
    let egress_type = egress.is_some().then_some(PolicyType::Egress);
    NetworkPolicy {
        namespace: namespace.into(),
        name: name.into(),
        pod_selector,
        policy_types: ingress_type.into_iter().chain(egress_type).collect(),
        ingress: ingress.unwrap_or_default(),
        egress: egress.unwrap_or_default(),
    }
}

fn probe(source: &str, destination: &str, protocol: u8, port: u16) -> Probe {
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    Probe { source: address(source), destination: address(destination), protocol, port }
}
