//! Are network policies obeyed on a running node: by new and by open connections, in every form?

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use bench::lab::traffic::{TcpEcho, connect};
use bench::lab::wait::retry;
use serde_json::Value;

use super::setup::{
    ANSWER, PATIENCE, SILENCE, Site, assert_no_ping, assert_no_tcp, assert_ping, tcp, until_no_tcp,
};

fn pod(namespace: &str, name: &str, app: &str, node: &str) -> String {
    format!(
        "
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}, labels: {{app: {app}}}}}
spec:
  nodeName: {node}
  containers:
    - name: main
      ports: [{{name: http, containerPort: 8080, protocol: TCP}}]
"
    )
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: {name}, namespace: e2e}}
spec: {spec}
"
    )
}

const ONLY_SHOP: &str = "{podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress], \
     ingress: [{from: [{podSelector: {matchLabels: {app: shop}}}]}]}";

#[test]
fn policies_come_change_and_go_under_traffic() {
    let site = Site::start(1, &[]);
    site.apply(&(pod("e2e", "web", "web", "node1") + &pod("e2e", "guest", "guest", "node1")));
    let (web, guest) = (site.pod(0, "web"), site.pod(0, "guest"));
    let target = SocketAddr::new(web.ip(), 8080);
    let _echo = TcpEcho::start(web.netns(), target).expect("a service");
    let mut open = connect(guest.netns(), target, ANSWER).expect("a connection");
    open.exchange(ANSWER).expect("an echo");

    site.apply(&policy("web", ONLY_SHOP));
    until_no_tcp(guest.netns(), target);
    assert!(open.exchange(SILENCE).is_err(), "the open connection goes on");
    // The same policy, changed: guests, too.
    site.apply(&policy("web", &ONLY_SHOP.replace("shop", "guest")));
    tcp(guest.netns(), target, PATIENCE);
    let mut open = connect(guest.netns(), target, ANSWER).expect("a connection");
    open.exchange(ANSWER).expect("an echo");

    // A label decides, also about what is open.
    site.apply(&pod("e2e", "guest", "burglar", "node1"));
    until_no_tcp(guest.netns(), target);
    assert!(open.exchange(SILENCE).is_err(), "a connection outlives its label");
    site.apply(&pod("e2e", "guest", "guest", "node1"));
    tcp(guest.netns(), target, PATIENCE);

    site.apply(&policy("web", ONLY_SHOP));
    until_no_tcp(guest.netns(), target);
    site.delete(&policy("web", ONLY_SHOP));
    tcp(guest.netns(), target, PATIENCE);
}

#[test]
fn peers_by_namespace_block_and_named_port() {
    let site = Site::start(2, &[]);
    site.apply(
        &("apiVersion: v1\nkind: Namespace\nmetadata: {name: other, labels: {team: blue}}\n"
            .to_owned()
            + &pod("e2e", "web", "web", "node1")
            + &pod("e2e", "guest", "guest", "node1")
            + &pod("other", "friend", "shop", "node2")),
    );
    let (web, guest) = (site.pod(0, "web"), site.pod(0, "guest"));
    let friend = site.pod_of(1, "other", "friend");
    let at = |l4_port| SocketAddr::new(web.ip(), l4_port);
    let _echoes: Vec<_> =
        [8080, 8081, 9000].map(|p| TcpEcho::start(web.netns(), at(p)).expect("a service")).into();
    tcp(friend.netns(), at(8080), PATIENCE);
    tcp(guest.netns(), at(8080), PATIENCE);

    // By namespace and pod at once, to a port by its name.
    site.apply(&policy(
        "web",
        "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{namespaceSelector: \
         {matchLabels: {team: blue}}, podSelector: {matchLabels: {app: shop}}}], \
         ports: [{port: http}]}]}",
    ));
    until_no_tcp(guest.netns(), at(8080));
    tcp(friend.netns(), at(8080), PATIENCE);
    assert_no_tcp(friend.netns(), at(8081));

    // By address, with an exception, to a range of ports.
    site.apply(&policy(
        "web",
        &format!(
            "{{podSelector: {{matchLabels: {{app: web}}}}, ingress: [{{from: [{{ipBlock: {{cidr: \
             172.31.0.0/16, except: ['{}/32']}}}}], ports: [{{protocol: TCP, port: 8080, endPort: \
             8081}}]}}]}}",
            guest.ip()
        ),
    ));
    retry(PATIENCE, "the changed policy", || connect(friend.netns(), at(8081), SILENCE))
        .expect("in force");
    tcp(friend.netns(), at(8080), PATIENCE);
    assert_no_tcp(friend.netns(), at(9000));
    assert_no_tcp(guest.netns(), at(8080));
    // Another pod of the e2e namespace is in the block and no exception.
    let late = site.pod(1, "late");
    tcp(late.netns(), at(8081), PATIENCE);
}

#[test]
fn egress_is_denied_by_default() {
    let site = Site::start(2, &[]);
    site.apply(&(pod("e2e", "web", "web", "node2") + &pod("e2e", "jail", "jail", "node1")));
    let (jail, web) = (site.pod(0, "jail"), site.pod(1, "web"));
    let at = |l4_port| SocketAddr::new(web.ip(), l4_port);
    let _echoes = [8080, 9000].map(|p| TcpEcho::start(web.netns(), at(p)).expect("a service"));
    tcp(jail.netns(), at(9000), PATIENCE);
    site.apply(&policy(
        "jail",
        "{podSelector: {matchLabels: {app: jail}}, policyTypes: [Egress], egress: [{to: \
         [{podSelector: {matchLabels: {app: web}}}], ports: [{port: http}]}]}",
    ));
    until_no_tcp(jail.netns(), at(9000));
    tcp(jail.netns(), at(8080), PATIENCE);
    assert_no_ping(jail.netns(), web.ip());
    assert_ping(web.netns(), jail.ip());
    let drops = site.drops(0);
    assert!(drops.get("policy-egress").is_some_and(|n| *n > 0), "{drops:?}");
}

#[test]
fn hosts_reach_their_own_pods_only() {
    let site = Site::start(2, &[]);
    let web = site.pod(0, "web");
    assert_ping(&site.hosts[0], web.ip());
    assert_ping(&site.hosts[1], web.ip());
    site.apply(&policy("none", "{podSelector: {}, policyTypes: [Ingress, Egress]}"));
    retry(PATIENCE, "the policy", || {
        let ping = bench::lab::tools::Ping { count: 1, timeout: SILENCE, ..Default::default() };
        anyhow::ensure!(ping.run(&site.hosts[1], web.ip())?.received == 0, "still answered");
        Ok(())
    })
    .expect("in force");
    assert_no_ping(&site.hosts[1], web.ip());
    assert_ping(&site.hosts[0], web.ip());
    assert_no_ping(web.netns(), super::setup::node_ip(2));
}

#[test]
fn counters_move_and_a_trace_names_the_rule() {
    let site = Site::start(1, &[]);
    site.apply(&(pod("e2e", "web", "web", "node1") + &pod("e2e", "shop", "shop", "node1")));
    let (web, shop) = (site.pod(0, "web"), site.pod(0, "shop"));
    let target = SocketAddr::new(web.ip(), 8080);
    let _echo = TcpEcho::start(web.netns(), target).expect("a service");
    site.apply(&policy("only-shop", ONLY_SHOP));
    let node = &site.nodes[0];
    retry(PATIENCE, "the policy", || {
        let rules = ingress_of(&node.ctl_json(&["show", "policy"])?, "e2e/web");
        anyhow::ensure!(rules["isolated"] == true, "{rules}");
        Ok(())
    })
    .expect("in force");
    let port = target.port().to_string();
    let words = ["trace", "--host", &web.ip().to_string(), "--l4-port", &port, "--count", "1"];
    let traced = thread::scope(|scope| {
        let trace = scope.spawn(|| node.ctl(&[&words[..], &["-o", "json"]].concat()));
        // Traffic goes on until the trace has seen some.
        while !trace.is_finished() {
            tcp(shop.netns(), target, PATIENCE);
            thread::sleep(Duration::from_millis(50));
        }
        trace.join().expect("it ends")
    });
    let traced = traced.expect("a trace");
    assert!(traced.contains("only-shop"), "{traced}");
    let rules = ingress_of(&node.ctl_json(&["show", "policy"]).expect("policy"), "e2e/web");
    let first = &rules["rules"][0];
    assert!(first["rule"].as_str().is_some_and(|name| name.contains("only-shop")), "{rules}");
    assert!(first["connections"].as_u64().is_some_and(|n| n > 0), "{rules}");
    assert!(first["packets"].as_u64().is_some_and(|n| n > 0), "{rules}");
}

fn ingress_of(pods: &Value, name: &str) -> Value {
    let mut rows = pods.as_array().into_iter().flatten();
    rows.find(|row| row["pod"] == name).map_or(Value::Null, |row| row["ingress"].clone())
}
