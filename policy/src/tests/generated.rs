//! Does the engine, through the compiled classifier, say what the oracle says, for any cluster
//! and whatever happened before?

use super::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;

const NAMESPACES: [&str; 4] = ["a", "b", "c", "undeclared"];

fn some_labels() -> impl Strategy<Value = Labels> {
    let value = prop_oneof![Just("x"), Just("y")];
    (option::of(value.clone()), option::of(value)).prop_map(|(app, tier)| {
        let pairs = [("app", app), ("tier", tier)];
        let present = pairs.into_iter().filter_map(|(k, v)| Some((k.to_owned(), v?.to_owned())));
        present.collect()
    })
}

fn some_selector() -> impl Strategy<Value = LabelSelector> {
    let operator = prop_oneof![
        Just(LabelOperator::In),
        Just(LabelOperator::NotIn),
        Just(LabelOperator::Exists),
        Just(LabelOperator::DoesNotExist)
    ];
    let key = prop_oneof![Just("app"), Just("tier"), Just(NAMESPACE_NAME_LABEL)];
    let value = prop_oneof![Just("x"), Just("y"), Just("a"), Just("b")];
    let requirement = (key, operator, vec(value, 1..3)).prop_map(|(key, operator, values)| {
        let values = match operator {
            LabelOperator::Exists | LabelOperator::DoesNotExist => Vec::new(),
            _ => values.into_iter().map(str::to_owned).collect(),
        };
        LabelRequirement { key: key.to_owned(), operator, values }
    });
    prop_oneof![
        1 => Just(LabelSelector::default()),
        2 => some_labels().prop_map(|match_labels| LabelSelector {
            match_labels,
            match_expressions: Vec::new()
        }),
        1 => (some_labels(), vec(requirement, 0..3))
            .prop_map(|(match_labels, match_expressions)| LabelSelector {
                match_labels,
                match_expressions
            }),
    ]
}

fn some_namespaces() -> impl Strategy<Value = Vec<Namespace>> {
    vec(option::weighted(0.8, some_labels()), 3).prop_map(|labels| {
        let there =
            NAMESPACES.iter().zip(labels).filter_map(|(name, labels)| Some((name, labels?)));
        there.map(|(name, labels)| Namespace { name: (*name).into(), labels }).collect()
    })
}

/// Pod `n` has the addresses `10.0.0.n` and `fd00::n`, a finished one those of another.
fn some_workloads() -> impl Strategy<Value = Vec<Workload>> {
    let port = (
        prop_oneof![Just("http"), Just("dns")],
        prop_oneof![3 => Just(TCP), 1 => Just(UDP)],
        prop_oneof![Just(80_u16), Just(81), Just(8080)],
    )
        .prop_map(|(name, protocol, port)| named_port(name, protocol, port));
    let workload = (
        0..NAMESPACES.len(),
        some_labels(),
        vec(port, 0..3),
        prop_oneof![3 => Just(true), 1 => Just(false)],
        0..10_u8,
        any::<(bool, bool)>(),
    );
    vec(workload, 1..9).prop_map(|workloads| {
        let workloads = workloads.into_iter().zip(1_u8..);
        workloads
            .map(|((namespace, labels, ports, local, state, (four, six)), n)| {
                let (host_network, finished) = (state == 0, state == 1);
                let name = format!("pod-{n}");
                let n = if finished { n % 4 + 1 } else { n };
                let four = (four || !six).then(|| IpAddr::from([10, 0, 0, n]));
                let six = six.then(|| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(n)]));
                let addresses = if host_network {
                    vec![IpAddr::from([192, 168, 0, 1])]
                } else {
                    four.into_iter().chain(six).collect()
                };
                Workload {
                    labels,
                    addresses,
                    ports,
                    local,
                    host_network,
                    finished,
                    ..pod(NAMESPACES[namespace], &name, &[], &[])
                }
            })
            .collect()
    })
}

fn some_peer() -> impl Strategy<Value = NetworkPolicyPeer> {
    let net = |text: &str| text.parse::<IpNet>().expect("a prefix");
    let block = prop_oneof![
        Just((net("0.0.0.0/0"), net("10.0.0.2/32"))),
        Just((net("10.0.0.0/29"), net("10.0.0.4/30"))),
        Just((net("10.0.0.0/30"), net("10.0.0.1/32"))),
        Just((net("fd00::/64"), net("fd00::2/127"))),
        Just((net("192.168.0.0/16"), net("192.168.7.0/24"))),
    ];
    prop_oneof![
        (option::of(some_selector()), option::of(some_selector())).prop_map(
            |(namespaces, pods)| {
                let pods = if namespaces.is_none() { Some(pods.unwrap_or_default()) } else { pods };
                NetworkPolicyPeer::Pods { namespaces, pods }
            }
        ),
        (block, any::<bool>()).prop_map(|((cidr, except), without)| {
            let except = without.then_some(except).into_iter().collect();
            NetworkPolicyPeer::Block { cidr, except }
        }),
    ]
}

fn some_port() -> impl Strategy<Value = NetworkPolicyPort> {
    let range = prop_oneof![
        Just(80..=80_u16),
        Just(80..=8080_u16),
        Just(53..=53_u16),
        Just(1..=65_535_u16),
    ];
    let port = prop_oneof![
        3 => range.prop_map(|range: RangeInclusive<u16>| Some(PortRef::Range(range))),
        2 => prop_oneof![Just("http"), Just("dns"), Just("unknown")]
            .prop_map(|name| Some(PortRef::Name(name.into()))),
        1 => Just(None),
    ];
    let protocol = prop_oneof![4 => Just(TCP), 2 => Just(UDP), 1 => Just(SCTP)];
    (protocol, port).prop_map(|(protocol, port)| NetworkPolicyPort { protocol, port })
}

fn some_policies() -> impl Strategy<Value = Vec<NetworkPolicy>> {
    let rules = || {
        vec(
            (vec(some_peer(), 0..3), vec(some_port(), 0..3))
                .prop_map(|(peers, ports)| rule(peers, ports)),
            0..3,
        )
    };
    let types = prop_oneof![
        Just(vec![PolicyType::Ingress]),
        Just(vec![PolicyType::Egress]),
        Just(vec![PolicyType::Ingress, PolicyType::Egress]),
    ];
    let policy = (0..NAMESPACES.len(), some_selector(), types, rules(), rules());
    vec(policy, 0..6).prop_map(|policies| {
        let policies = policies.into_iter().enumerate();
        policies
            .map(|(n, (namespace, pod_selector, policy_types, ingress, egress))| NetworkPolicy {
                namespace: NAMESPACES[namespace].into(),
                name: format!("p{n}").into(),
                pod_selector,
                policy_types,
                ingress,
                egress,
            })
            .collect()
    })
}

fn cluster() -> impl Strategy<Value = Cluster> {
    (some_namespaces(), some_workloads(), some_policies())
        .prop_map(|(namespaces, workloads, policies)| Cluster { namespaces, workloads, policies })
}

/// Compares every local workload's programs with the oracle, on all addresses and a few ports.
fn compare(node: &Node, cluster: &Cluster) -> Result<(), TestCaseError> {
    let classes = node.classes();
    let programs = node.programs(&classes);
    let mut others: BTreeSet<IpAddr> =
        cluster.workloads.iter().flat_map(|w| w.addresses.iter().copied()).collect();
    others.extend(
        ["8.8.8.8", "10.0.0.6", "10.0.0.200", "192.168.7.7", "fd00::3", "2001:db8::1"]
            .map(|text| text.parse::<IpAddr>().expect("an address")),
    );
    let services = [
        (TCP, 80),
        (TCP, 81),
        (TCP, 8080),
        (TCP, 9000),
        (UDP, 80),
        (UDP, 53),
        (SCTP, 80),
        (ICMP, 0x800),
    ];
    for workload in cluster.workloads.iter().filter(|w| w.local) {
        let key = &workload.key;
        let Some([ingress, egress]) = programs.get(key) else {
            prop_assert!(!workload.is_selectable(), "{} has no rules", key);
            continue;
        };
        for (own, other) in
            workload.addresses.iter().flat_map(|o| others.iter().map(move |t| (*o, *t)))
        {
            if own.is_ipv4() != other.is_ipv4() {
                continue;
            }
            for (protocol, port) in services {
                let out = Probe { source: own, destination: other, protocol, port };
                prop_assert_eq!(
                    Some(passes(egress.as_ref(), &out, &classes)),
                    cluster.workload_allows(key, &out, PolicyType::Egress),
                    "{} sends {:?}",
                    key,
                    out
                );
                let into = Probe { source: other, destination: own, protocol, port };
                prop_assert_eq!(
                    Some(passes(ingress.as_ref(), &into, &classes)),
                    cluster.workload_allows(key, &into, PolicyType::Ingress),
                    "{} gets {:?}",
                    key,
                    into
                );
            }
        }
    }
    Ok(())
}

/// What a node holds, without the numbers of rules and sets.
fn shape(node: &Node) -> Vec<String> {
    let set = |id: &SetId| format!("{:?}", node.sets[id].prefixes);
    let sets = |ids: &[SetId]| ids.iter().map(set).collect::<Vec<_>>().join(" ");
    let mut lines = Vec::new();
    for (key, rules) in &node.endpoints {
        for side in [&rules.ingress, &rules.egress] {
            let Some(list) = list(side) else {
                lines.push(format!("{key} open"));
                continue;
            };
            for rule in &list.rules {
                let m = &rule.matches;
                for side in [&m.source, &m.destination] {
                    let groups: Vec<_> = side.any_of.iter().map(|group| sets(group)).collect();
                    lines.push(format!(
                        "{} {groups:?} {}",
                        sets(&side.all_of),
                        sets(&side.none_of)
                    ));
                }
                let l4 = (m.protocol, &m.source_port, &m.destination_port, m.icmp, m.ip_version);
                lines.push(format!("{key} {} {l4:?} {:?}", node.names[&rule.id], rule.verdict));
            }
            lines.push(format!("{key} {} {:?}", node.names[&list.default_rule], list.default));
        }
    }
    let mut sets: Vec<String> = node.sets.keys().map(set).collect();
    sets.sort();
    lines.extend(sets);
    lines
}

/// What leads from one cluster to another.
fn transition(before: &Cluster, after: &Cluster) -> Vec<Change> {
    let mut found = changes(after);
    for namespace in &before.namespaces {
        if after.namespaces.iter().all(|other| other.name != namespace.name) {
            found.push(Change::NamespaceGone(namespace.name.clone()));
        }
    }
    for workload in &before.workloads {
        if after.workloads.iter().all(|other| other.key != workload.key) {
            found.push(Change::WorkloadGone(workload.key.clone()));
        }
    }
    for policy in &before.policies {
        let key = crate::kubernetes::key(&policy.namespace, &policy.name);
        if after.policies.iter().all(|p| crate::kubernetes::key(&p.namespace, &p.name) != key) {
            found.push(Change::PolicyGone(key));
        }
    }
    found
}

/// An order: each change swapped with another one, a flush after some.
fn disorder(changes: &mut [Change], order: &[(usize, bool)]) -> Vec<bool> {
    for (at, (other, _)) in (0..changes.len()).zip(order.iter().cycle()) {
        let other = other % changes.len();
        changes.swap(at, other);
    }
    order.iter().map(|(_, flush)| *flush).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn the_compiled_rules_say_what_the_oracle_says(cluster in cluster()) {
        compare(&Node::new(&cluster), &cluster)?;
    }

    #[test]
    fn any_order_of_changes_gives_the_same_as_from_scratch(
        clusters in vec(cluster(), 1..4),
        order in vec((any::<usize>(), any::<bool>()), 1..40),
    ) {
        let mut node = Node::default();
        let mut before = Cluster::default();
        for cluster in clusters {
            let mut changes = transition(&before, &cluster);
            let flushes = disorder(&mut changes, &order);
            for (change, flush) in changes.into_iter().zip(flushes.into_iter().cycle()) {
                node.engine.apply(change);
                if flush {
                    node.flush();
                }
            }
            node.flush();
            before = cluster;
        }
        compare(&node, &before)?;
        prop_assert_eq!(shape(&node), shape(&Node::new(&before)));
        for change in changes(&before) {
            node.engine.apply(change);
        }
        let flush = node.flush();
        prop_assert!(flush.is_empty(), "nothing is new, but {:?}", flush);
    }

    #[test]
    fn explaining_names_the_verdict_that_is_in_force(cluster in cluster()) {
        let node = Node::new(&cluster);
        let addresses: Vec<IpAddr> =
            cluster.workloads.iter().flat_map(|w| w.addresses.iter().copied()).collect();
        for source in &addresses {
            for destination in &addresses {
                let probe =
                    Probe { source: *source, destination: *destination, protocol: TCP, port: 80 };
                let explanation = node.engine.explain(&query(&probe));
                for (judgement, direction) in [
                    (&explanation.egress, PolicyType::Egress),
                    (&explanation.ingress, PolicyType::Ingress),
                ] {
                    let Some(judgement) = judgement else { continue };
                    let allowed = cluster.workload_allows(&judgement.workload, &probe, direction);
                    prop_assert_eq!(allowed, Some(judgement.verdict == Verdict::Allow));
                    let by_rule = matches!(judgement.rule, Some(RuleName::Rule { .. }));
                    let at_end = matches!(judgement.rule, Some(RuleName::Isolated { .. }));
                    let other = if allowed == Some(true) { at_end } else { by_rule };
                    prop_assert!(!other, "{:?}", judgement);
                }
            }
        }
    }
}
