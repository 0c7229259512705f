//! Do numbers stay with what they name?

use super::*;
use crate::rule::PolicyKey;

const WEB: &str = "10.0.0.1";
const CLIENT: &str = "10.0.0.2";

fn web_and_client() -> Cluster {
    let from_client = rule(vec![pods(selector(&[("app", "client")]))], vec![port(TCP, 80)]);
    Cluster {
        namespaces: vec![namespace("shop", &[])],
        workloads: vec![
            pod("shop", "web", &[("app", "web")], &[WEB]),
            pod("shop", "client", &[("app", "client")], &[CLIENT]),
        ],
        policies: vec![policy(
            "shop",
            "web",
            selector(&[("app", "web")]),
            Some(vec![from_client]),
            None,
        )],
    }
}

fn ingress(node: &Node) -> &RuleList {
    list(&node.endpoints[&WorkloadKey::new("shop", "web", "eth0")].ingress).expect("isolated")
}

#[test]
fn a_rule_keeps_its_id_when_another_comes_before_it() {
    let mut cluster = web_and_client();
    let mut node = Node::new(&cluster);
    let before = ingress(&node).rules[0].clone();
    let first = rule(vec![block("10.9.0.0/16", &[])], Vec::new());
    cluster.policies[0].ingress.insert(0, first);
    node.engine.apply(Change::NetworkPolicy(cluster.policies[0].clone()));
    let flush = node.flush();
    assert_eq!(ingress(&node).rules[1], before);
    assert_eq!(node.names[&before.id].to_string(), "NetworkPolicy shop/web ingress[1]");
    let touched: Vec<_> = flush.endpoints.iter().map(|(key, _)| key.to_string()).collect();
    assert_eq!(touched, ["shop/web/eth0"]);
    assert!(flush.removed_rules.is_empty() && flush.removed_sets.is_empty());
    assert_eq!(flush.sets.len(), 1, "only the new block");
}

#[test]
fn a_changed_peer_touches_its_set_and_no_rules() {
    let mut cluster = web_and_client();
    let mut node = Node::new(&cluster);
    cluster.workloads[1].labels = labels(&[("app", "other")]);
    node.engine.apply(Change::Workload(cluster.workloads[1].clone()));
    let flush = node.flush();
    assert_eq!((flush.endpoints.len(), flush.sets.len()), (0, 1));
    assert!(flush.sets[0].prefixes.is_empty());
}

#[test]
fn what_nobody_uses_is_reported_and_its_id_returns_later_only() {
    let cluster = web_and_client();
    let mut node = Node::new(&cluster);
    let rules: Vec<RuleId> = node.names.keys().copied().collect();
    let sets: Vec<SetId> = node.sets.keys().copied().collect();
    node.engine.apply(Change::PolicyGone(PolicyKey::network_policy("shop", "web")));
    let mut other = cluster.policies[0].clone();
    other.name = "other".into();
    other.ingress[0].peers = vec![block("10.9.0.0/16", &[])];
    node.engine.apply(Change::NetworkPolicy(other));
    let flush = node.flush();
    assert_eq!((&flush.removed_rules, &flush.removed_sets), (&rules, &sets));
    assert!(flush.rule_names.keys().all(|id| !rules.contains(id)));
    assert!(flush.sets.iter().all(|set| !sets.contains(&set.id)));
    node.engine.apply(Change::NetworkPolicy(cluster.policies[0].clone()));
    let flush = node.flush();
    assert!(flush.rule_names.keys().any(|id| rules.contains(id)));
}

#[test]
fn endpoints_under_equal_rules_have_equal_lists() {
    let mut cluster = web_and_client();
    cluster.workloads.push(pod("shop", "web-2", &[("app", "web")], &["10.0.0.3"]));
    let node = Node::new(&cluster);
    let second = &node.endpoints[&WorkloadKey::new("shop", "web-2", "eth0")];
    assert_eq!(list(&second.ingress).map(AsRef::as_ref), Some(ingress(&node)));
}

#[test]
fn an_endpoint_that_is_no_longer_local_or_finished_is_removed() {
    for change in [0, 1, 2, 3] {
        let cluster = web_and_client();
        let mut node = Node::new(&cluster);
        let mut web = cluster.workloads[0].clone();
        match change {
            0 => web.local = false,
            1 => web.finished = true,
            2 => web.host_network = true,
            _ => {}
        }
        node.engine.apply(match change {
            3 => Change::WorkloadGone(web.key.clone()),
            _ => Change::Workload(web.clone()),
        });
        assert_eq!(node.flush().removed, [web.key]);
    }
}

#[test]
fn a_port_name_with_too_many_numbers_is_cut_and_reported() {
    let mut cluster = Cluster::default();
    let numbers = crate::limits::PORT_NUMBERS as u16 + 5;
    for n in 1..=numbers {
        let address = format!("10.1.{}.{}", n >> 8, n & 255);
        let mut server = pod("shop", &format!("server-{n}"), &[], &[&address]);
        (server.local, server.ports) = (false, vec![named_port("http", TCP, n)]);
        cluster.workloads.push(server);
    }
    cluster.workloads.push(pod("shop", "web", &[], &[WEB]));
    let to_http = rule(Vec::new(), vec![port_name(TCP, "http")]);
    cluster.policies.push(policy("shop", "out", selector(&[]), None, Some(vec![to_http])));
    let mut node = Node::default();
    for change in changes(&cluster) {
        node.engine.apply(change);
    }
    assert_eq!(node.flush().over_limit, [WorkloadKey::new("shop", "web", "eth0")]);
    let classes = node.classes();
    let programs = node.programs(&classes);
    let [_, egress] = &programs[&WorkloadKey::new("shop", "web", "eth0")];
    assert!(passes(egress.as_ref(), &probe(WEB, "10.1.0.7", TCP, 7), &classes));
    assert!(!passes(egress.as_ref(), &probe(WEB, "10.1.0.7", TCP, 8), &classes));
    assert!(!passes(egress.as_ref(), &probe(WEB, "10.1.4.3", TCP, numbers), &classes));
}

#[test]
fn a_judgement_reads_as_a_sentence() {
    let node = Node::new(&web_and_client());
    let judge = |source: &str, port| {
        node.engine.explain(&query(&probe(source, WEB, TCP, port))).ingress.expect("web is local")
    };
    assert_eq!(
        judge(CLIENT, 80).to_string(),
        "shop/web/eth0 ingress: allowed by NetworkPolicy shop/web ingress[0]"
    );
    assert_eq!(
        judge(CLIENT, 81).to_string(),
        "shop/web/eth0 ingress: denied by ingress isolation by NetworkPolicy shop/web: \
         no rule allows it"
    );
    let egress = node.engine.explain(&query(&probe(CLIENT, WEB, TCP, 80))).egress;
    assert_eq!(
        egress.expect("client is local").to_string(),
        "shop/client/eth0 egress: allowed as no policy isolates it"
    );
}
