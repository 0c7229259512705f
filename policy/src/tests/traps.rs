//! The places where implementations of `NetworkPolicy` go wrong, one case each.
//!
//! Every case is judged twice: by the compiled rules and by the oracle.

use super::*;

const WEB: &str = "10.0.0.1";
const WEB6: &str = "fd00::1";
const CLIENT: &str = "10.0.0.2";
const CLIENT6: &str = "fd00::2";
const DB: &str = "10.0.0.3";
const FAR: &str = "10.0.1.1";
const FAR_DB: &str = "10.0.1.2";
const NODE: &str = "192.168.0.1";
const OUTSIDE: &str = "203.0.113.7";
const OUTSIDE6: &str = "2001:db8::7";

/// Two namespaces; in `shop` web, client (both dual stack) and db, in `far` a client and a db.
fn cluster(policies: Vec<NetworkPolicy>) -> Cluster {
    let mut web = pod("shop", "web", &[("app", "web")], &[WEB, WEB6]);
    web.ports = vec![named_port("http", TCP, 8080), named_port("dns", UDP, 53)];
    let mut db = pod("shop", "db", &[("app", "db")], &[DB]);
    db.ports = vec![named_port("http", TCP, 80)];
    Cluster {
        namespaces: vec![namespace("shop", &[("team", "red")]), namespace("far", &[])],
        workloads: vec![
            web,
            pod("shop", "client", &[("app", "client")], &[CLIENT, CLIENT6]),
            db,
            pod("far", "client", &[("app", "client")], &[FAR]),
            pod("far", "db", &[("app", "db")], &[FAR_DB]),
        ],
        policies,
    }
}

/// Judges probes `(source, destination, protocol, port, passes)`.
fn judge(cluster: &Cluster, probes: &[(&str, &str, u8, u16, bool)]) {
    let node = Node::new(cluster);
    let classes = node.classes();
    let programs = node.programs(&classes);
    let side = |address: IpAddr, direction: usize| {
        let mut there = cluster.workloads.iter().filter(|w| w.is_selectable());
        let workload = there.find(|workload| workload.addresses.contains(&address))?;
        programs.get(&workload.key)?[direction].as_ref()
    };
    for (source, destination, protocol, port, allowed) in probes {
        let probe = probe(source, destination, *protocol, *port);
        let compiled = passes(side(probe.source, 1), &probe, &classes)
            && passes(side(probe.destination, 0), &probe, &classes);
        assert_eq!(compiled, *allowed, "compiled: {probe:?}");
        assert_eq!(cluster.allows(&probe), *allowed, "oracle: {probe:?}");
    }
}

fn to_web(ingress: Vec<NetworkPolicyRule>) -> Vec<NetworkPolicy> {
    vec![policy("shop", "web", selector(&[("app", "web")]), Some(ingress), None)]
}

fn from_client(egress: Vec<NetworkPolicyRule>) -> Vec<NetworkPolicy> {
    vec![policy("shop", "client", selector(&[("app", "client")]), None, Some(egress))]
}

fn in_namespaces(namespaces: LabelSelector, pods: Option<LabelSelector>) -> NetworkPolicyPeer {
    NetworkPolicyPeer::Pods { namespaces: Some(namespaces), pods }
}

#[test]
fn without_a_policy_everything_passes() {
    judge(
        &cluster(Vec::new()),
        &[
            (OUTSIDE, WEB, TCP, 80, true),
            (WEB, OUTSIDE, ICMP, 0x800, true),
            (CLIENT6, WEB6, 47, 0, true),
        ],
    );
}

#[test]
fn isolation_is_per_direction() {
    judge(
        &cluster(to_web(Vec::new())),
        &[(CLIENT, WEB, TCP, 80, false), (WEB, CLIENT, TCP, 80, true), (CLIENT, DB, TCP, 80, true)],
    );
    judge(
        &cluster(from_client(Vec::new())),
        &[(CLIENT, WEB, TCP, 80, false), (WEB, CLIENT, TCP, 80, true), (FAR, WEB, TCP, 80, true)],
    );
}

#[test]
fn both_sides_must_allow() {
    let all = || vec![NetworkPolicyRule::default()];
    let policies = [to_web(all()), from_client(Vec::new())].concat();
    judge(&cluster(policies), &[(CLIENT, WEB, TCP, 80, false), (FAR, WEB, TCP, 80, true)]);
    let policies = [to_web(Vec::new()), from_client(all())].concat();
    judge(&cluster(policies), &[(CLIENT, WEB, TCP, 80, false), (CLIENT, DB, TCP, 80, true)]);
}

#[test]
fn policies_add_up() {
    let mut policies = to_web(vec![rule(vec![pods(selector(&[("app", "client")]))], Vec::new())]);
    policies.push(policy("shop", "deny", selector(&[]), Some(Vec::new()), None));
    judge(
        &cluster(policies),
        &[(CLIENT, WEB, TCP, 80, true), (DB, WEB, TCP, 80, false), (WEB, CLIENT, TCP, 80, false)],
    );
}

#[test]
fn omitted_types_are_ingress_and_egress_only_with_egress_rules() {
    assert_eq!(PolicyType::default_types(false), [PolicyType::Ingress]);
    assert_eq!(PolicyType::default_types(true), [PolicyType::Ingress, PolicyType::Egress]);
}

#[test]
fn ingress_rules_of_an_egress_policy_say_nothing() {
    let mut policies = from_client(vec![rule(vec![block("10.0.0.0/24", &[])], Vec::new())]);
    policies[0].ingress = vec![rule(vec![pods(selector(&[("app", "web")]))], Vec::new())];
    judge(
        &cluster(policies),
        &[(DB, CLIENT, TCP, 80, true), (CLIENT, WEB, TCP, 80, true), (CLIENT, FAR, TCP, 80, false)],
    );
}

#[test]
fn an_empty_list_isolates_and_an_empty_rule_opens_to_everyone() {
    judge(&cluster(to_web(Vec::new())), &[(OUTSIDE, WEB, TCP, 80, false)]);
    judge(
        &cluster(to_web(vec![NetworkPolicyRule::default()])),
        &[
            (OUTSIDE, WEB, TCP, 80, true),
            (OUTSIDE6, WEB6, UDP, 80, true),
            (FAR, WEB, ICMP, 0x800, true),
            (NODE, WEB, 47, 0, true),
        ],
    );
}

#[test]
fn an_empty_pod_selector_is_every_pod_of_the_namespace_only() {
    let deny = policy("shop", "deny", selector(&[]), Some(Vec::new()), None);
    judge(
        &cluster(vec![deny]),
        &[(FAR, WEB, TCP, 80, false), (FAR, CLIENT, TCP, 80, false), (WEB, FAR, TCP, 80, true)],
    );
}

#[test]
fn a_pod_selector_alone_means_the_policys_own_namespace() {
    judge(
        &cluster(to_web(vec![rule(vec![pods(selector(&[("app", "client")]))], Vec::new())])),
        &[(CLIENT, WEB, TCP, 80, true), (FAR, WEB, TCP, 80, false), (DB, WEB, TCP, 80, false)],
    );
}

#[test]
fn selectors_in_one_peer_are_and_in_two_are_or() {
    let far = || selector(&[(NAMESPACE_NAME_LABEL, "far")]);
    let client = || selector(&[("app", "client")]);
    let and = rule(vec![in_namespaces(far(), Some(client()))], Vec::new());
    judge(
        &cluster(to_web(vec![and])),
        &[(FAR, WEB, TCP, 80, true), (FAR_DB, WEB, TCP, 80, false), (CLIENT, WEB, TCP, 80, false)],
    );
    let or = rule(vec![in_namespaces(far(), None), pods(client())], Vec::new());
    judge(
        &cluster(to_web(vec![or])),
        &[
            (FAR, WEB, TCP, 80, true),
            (FAR_DB, WEB, TCP, 80, true),
            (CLIENT, WEB, TCP, 80, true),
            (DB, WEB, TCP, 80, false),
        ],
    );
}

#[test]
fn an_empty_namespace_selector_is_all_pods_and_nothing_outside() {
    judge(
        &cluster(to_web(vec![rule(vec![in_namespaces(selector(&[]), None)], Vec::new())])),
        &[
            (FAR_DB, WEB, TCP, 80, true),
            (CLIENT6, WEB6, TCP, 80, true),
            (OUTSIDE, WEB, TCP, 80, false),
            (NODE, WEB, TCP, 80, false),
        ],
    );
}

#[test]
fn not_in_and_does_not_exist_match_absent_labels() {
    for absent in [
        expression("team", LabelOperator::NotIn, &["red"]),
        expression("team", LabelOperator::DoesNotExist, &[]),
    ] {
        let peer = in_namespaces(absent, None);
        judge(
            &cluster(to_web(vec![rule(vec![peer], Vec::new())])),
            &[(FAR, WEB, TCP, 80, true), (CLIENT, WEB, TCP, 80, false)],
        );
    }
    let peer = pods(expression("app", LabelOperator::NotIn, &["client"]));
    judge(
        &cluster(to_web(vec![rule(vec![peer], Vec::new())])),
        &[(DB, WEB, TCP, 80, true), (CLIENT, WEB, TCP, 80, false)],
    );
}

#[test]
fn a_namespace_nobody_declared_has_its_name_for_a_label() {
    let mut cluster = cluster(to_web(vec![rule(
        vec![in_namespaces(selector(&[(NAMESPACE_NAME_LABEL, "far")]), None)],
        Vec::new(),
    )]));
    cluster.namespaces.clear();
    judge(&cluster, &[(FAR, WEB, TCP, 80, true), (CLIENT, WEB, TCP, 80, false)]);
}

#[test]
fn a_port_without_a_number_is_all_of_its_protocol() {
    let tcp = NetworkPolicyPort { protocol: TCP, port: None };
    judge(
        &cluster(to_web(vec![rule(Vec::new(), vec![tcp])])),
        &[
            (CLIENT, WEB, TCP, 1, true),
            (CLIENT, WEB, TCP, 65_535, true),
            (CLIENT, WEB, UDP, 1, false),
            (CLIENT, WEB, ICMP, 0x800, false),
        ],
    );
}

#[test]
fn a_rule_for_one_protocol_isolates_the_others() {
    for only in [UDP, SCTP] {
        judge(
            &cluster(to_web(vec![rule(Vec::new(), vec![port(only, 80)])])),
            &[
                (CLIENT, WEB, only, 80, true),
                (CLIENT, WEB, only, 81, false),
                (CLIENT, WEB, TCP, 80, false),
            ],
        );
    }
}

#[test]
fn ports_of_a_rule_are_or_and_rules_are_not_mixed() {
    let rules = vec![
        rule(vec![pods(selector(&[("app", "client")]))], vec![port(TCP, 80), port(UDP, 53)]),
        rule(vec![pods(selector(&[("app", "db")]))], vec![port(TCP, 443)]),
    ];
    judge(
        &cluster(to_web(rules)),
        &[
            (CLIENT, WEB, TCP, 80, true),
            (CLIENT, WEB, UDP, 53, true),
            (CLIENT, WEB, TCP, 443, false),
            (DB, WEB, TCP, 443, true),
            (DB, WEB, TCP, 80, false),
        ],
    );
}

#[test]
fn end_port_is_inclusive() {
    let range = NetworkPolicyPort { protocol: TCP, port: Some(PortRef::Range(80..=90)) };
    judge(
        &cluster(to_web(vec![rule(Vec::new(), vec![range])])),
        &[
            (CLIENT, WEB, TCP, 79, false),
            (CLIENT, WEB, TCP, 80, true),
            (CLIENT, WEB, TCP, 90, true),
            (CLIENT, WEB, TCP, 91, false),
        ],
    );
}

#[test]
fn an_ingress_port_name_is_the_selected_pods_own() {
    let deny_all_but_http = policy(
        "shop",
        "http",
        selector(&[]),
        Some(vec![rule(Vec::new(), vec![port_name(TCP, "http")])]),
        None,
    );
    judge(
        &cluster(vec![deny_all_but_http]),
        &[
            (CLIENT, WEB, TCP, 8080, true),
            (CLIENT, WEB, TCP, 80, false),
            (CLIENT, DB, TCP, 80, true),
            (CLIENT, DB, TCP, 8080, false),
            (WEB, CLIENT, TCP, 80, false),
        ],
    );
}

#[test]
fn an_egress_port_name_is_each_destinations_own_and_nothing_outside() {
    judge(
        &cluster(from_client(vec![rule(Vec::new(), vec![port_name(TCP, "http")])])),
        &[
            (CLIENT, WEB, TCP, 8080, true),
            (CLIENT, WEB, TCP, 80, false),
            (CLIENT, DB, TCP, 80, true),
            (CLIENT, DB, TCP, 8080, false),
            (CLIENT, FAR, TCP, 80, false),
            (CLIENT, OUTSIDE, TCP, 80, false),
            (CLIENT6, WEB6, TCP, 8080, true),
        ],
    );
    let in_block = rule(vec![block("10.0.0.0/30", &[])], vec![port_name(TCP, "http")]);
    judge(
        &cluster(from_client(vec![in_block])),
        &[(CLIENT, WEB, TCP, 8080, true), (CLIENT6, WEB6, TCP, 8080, false)],
    );
}

#[test]
fn a_port_names_protocol_must_be_the_ports() {
    judge(
        &cluster(to_web(vec![rule(Vec::new(), vec![port_name(TCP, "dns")])])),
        &[(CLIENT, WEB, TCP, 53, false), (CLIENT, WEB, UDP, 53, false)],
    );
    judge(
        &cluster(to_web(vec![rule(Vec::new(), vec![port_name(UDP, "dns")])])),
        &[(CLIENT, WEB, UDP, 53, true), (CLIENT, WEB, TCP, 53, false)],
    );
}

#[test]
fn except_cancels_its_own_block_only() {
    let without = || block("10.0.0.0/24", &["10.0.0.2/32"]);
    judge(
        &cluster(to_web(vec![rule(vec![without()], Vec::new())])),
        &[(DB, WEB, TCP, 80, true), (CLIENT, WEB, TCP, 80, false), (FAR, WEB, TCP, 80, false)],
    );
    let another = pods(selector(&[("app", "client")]));
    judge(
        &cluster(to_web(vec![rule(vec![without(), another], Vec::new())])),
        &[(CLIENT, WEB, TCP, 80, true)],
    );
}

#[test]
fn a_block_matches_pods_and_one_family_only() {
    judge(
        &cluster(to_web(vec![rule(vec![block("0.0.0.0/0", &[])], Vec::new())])),
        &[
            (CLIENT, WEB, TCP, 80, true),
            (OUTSIDE, WEB, TCP, 80, true),
            (CLIENT6, WEB6, TCP, 80, false),
        ],
    );
    judge(
        &cluster(to_web(vec![rule(vec![block("::/0", &[])], Vec::new())])),
        &[(OUTSIDE6, WEB6, TCP, 80, true), (CLIENT, WEB, TCP, 80, false)],
    );
}

#[test]
fn host_bits_of_a_block_are_masked() {
    judge(
        &cluster(to_web(vec![rule(vec![block("10.0.0.9/24", &["10.0.0.3/31"])], Vec::new())])),
        &[
            (FAR, WEB, TCP, 80, false),
            (CLIENT, WEB, TCP, 80, false),
            ("10.0.0.4", WEB, TCP, 80, true),
        ],
    );
}

#[test]
fn a_selector_admits_all_addresses_of_a_pod() {
    judge(
        &cluster(to_web(vec![rule(vec![pods(selector(&[("app", "client")]))], Vec::new())])),
        &[
            (CLIENT, WEB, TCP, 80, true),
            (CLIENT6, WEB6, TCP, 80, true),
            ("fd00::3", WEB6, TCP, 80, false),
        ],
    );
}

#[test]
fn host_network_pods_are_neither_peers_nor_subjects() {
    let all_pods = rule(vec![in_namespaces(selector(&[]), None)], Vec::new());
    let deny = policy("shop", "deny", selector(&[]), Some(Vec::new()), None);
    let mut cluster = cluster([to_web(vec![all_pods]), vec![deny]].concat());
    let mut agent = pod("shop", "agent", &[("app", "client")], &[NODE]);
    agent.host_network = true;
    cluster.workloads.push(agent);
    judge(
        &cluster,
        &[(NODE, WEB, TCP, 80, false), (CLIENT, WEB, TCP, 80, true), (FAR, NODE, TCP, 80, true)],
    );
}

#[test]
fn a_finished_pod_gives_up_its_address() {
    let rules = vec![rule(vec![pods(selector(&[("job", "done")]))], vec![port_name(TCP, "http")])];
    let mut cluster = cluster([to_web(rules.clone()), from_client(rules)].concat());
    for address in [FAR, DB] {
        let mut job = pod("shop", &format!("job-{address}"), &[("job", "done")], &[address]);
        (job.finished, job.ports) = (true, vec![named_port("http", TCP, 80)]);
        cluster.workloads.push(job);
    }
    judge(&cluster, &[(FAR, WEB, TCP, 8080, false), (CLIENT, DB, TCP, 80, false)]);
}

#[test]
fn labels_of_pods_and_namespaces_count_as_they_are_now() {
    let from_red = rule(vec![in_namespaces(selector(&[("team", "red")]), None)], Vec::new());
    let before = cluster(to_web(vec![from_red]));
    let passes_from = |node: &Node, source| {
        let classes = node.classes();
        let programs = node.programs(&classes);
        let [ingress, _] = &programs[&WorkloadKey::new("shop", "web", "eth0")];
        passes(ingress.as_ref(), &probe(source, WEB, TCP, 80), &classes)
    };
    let mut node = Node::new(&before);
    assert!(passes_from(&node, CLIENT) && !passes_from(&node, FAR));
    node.engine.apply(Change::Namespace(namespace("far", &[("team", "red")])));
    node.engine.apply(Change::Namespace(namespace("shop", &[])));
    assert!(node.flush().endpoints.is_empty(), "only sets change");
    assert!(!passes_from(&node, CLIENT) && passes_from(&node, FAR));
    // Another pod is selected as subject as soon as its labels say so.
    let relabelled = pod("shop", "db", &[("app", "web")], &[DB]);
    node.engine.apply(Change::Workload(relabelled));
    assert_eq!(node.flush().endpoints.len(), 1);
    node.engine.apply(Change::NamespaceGone("far".into()));
    node.flush();
    assert!(!passes_from(&node, FAR));
}

#[test]
fn a_deny_all_policy_denies_what_is_no_tcp_udp_or_sctp_too() {
    judge(
        &cluster(to_web(Vec::new())),
        &[(CLIENT, WEB, ICMP, 0x800, false), (CLIENT, WEB, 47, 0, false)],
    );
}
