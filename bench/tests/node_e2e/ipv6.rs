//! Do two pods of one node speak IPv6 with each other, under policy, with the right ICMP?

use std::net::{IpAddr, SocketAddr};

use bench::lab::Pod;
use bench::lab::tools::{Fragments, Ping};
use bench::lab::traffic::TcpEcho;
use serde_json::{Value, json};

use super::setup::{Site, assert_ping, assert_tcp, assert_udp, tcp, until_no_tcp};

const POOL_V6: &str = "
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pool-v6}
spec: {cidr: 'fd00:77::/48', blockSize: 122, ipipMode: Never, natOutgoing: false}
";

fn both_families() -> Value {
    json!({"ipam": {"type": "calico-ipam", "assign_ipv4": "true", "assign_ipv6": "true"}})
}

fn v6(pod: &Pod) -> IpAddr {
    pod.ips().into_iter().find(IpAddr::is_ipv6).expect("an IPv6 address")
}

fn two_pods(environment: &[(&str, &str)]) {
    let site = Site::start(1, environment);
    site.apply(POOL_V6);
    let a = site.pod_with(0, "a", both_families());
    let b = site.pod_with(0, "b", both_families());
    assert_eq!((a.ips().len(), b.ips().len()), (2, 2), "{} {}", a.result(), b.result());
    assert_ping(a.netns(), v6(&b));
    assert_ping(b.netns(), v6(&a));
    assert_ping(a.netns(), b.ip());
    assert_tcp(a.netns(), b.netns(), v6(&b));
    assert_udp(a.netns(), b.netns(), v6(&b), 1000);
    // Fragments of IPv6, made by the sender.
    assert_udp(a.netns(), b.netns(), v6(&b), 3000);
}

#[test]
fn over_tun() {
    two_pods(&[]);
}

#[test]
fn over_veth() {
    two_pods(&[("VROUTER_POD_INTERFACE", "veth")]);
}

#[test]
fn a_policy_selects_an_ipv6_block() {
    let site = Site::start(1, &[]);
    site.apply(POOL_V6);
    let a = site.pod_with(0, "a", both_families());
    let b = site.pod_with(0, "b", both_families());
    let c = site.pod_with(0, "c", both_families());
    let target = SocketAddr::new(v6(&c), 8080);
    let _echo = TcpEcho::start(c.netns(), target).expect("a service");
    tcp(b.netns(), target, super::setup::PATIENCE);
    site.apply(&format!(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: only-a, namespace: e2e}}
spec:
  podSelector: {{matchExpressions: [{{key: projectcalico.org/orchestrator, operator: Exists}}]}}
  policyTypes: [Ingress]
  ingress:
    - from: [{{ipBlock: {{cidr: '{}/128'}}}}]
",
        v6(&a)
    ));
    until_no_tcp(b.netns(), target);
    tcp(a.netns(), target, super::setup::ANSWER);
}

#[test]
fn too_big_is_told() {
    let site = Site::start(1, &[]);
    site.apply(POOL_V6);
    let a = site.pod_with(0, "a", both_families());
    let mut narrow = both_families();
    narrow["mtu"] = json!(1300);
    let b = site.pod_with(0, "b", narrow);
    assert_ping(a.netns(), v6(&b));
    let large = Ping { count: 2, size: 1380, fragments: Fragments::Forbid, ..Ping::default() };
    let result = large.run(a.netns(), v6(&b)).expect("ping runs");
    assert_eq!(result.received, 0, "{}", result.text);
    assert!(result.text.contains("Packet too big: mtu=1300"), "{}", result.text);
    let result = large.run(a.netns(), b.ip()).expect("ping runs");
    assert!(
        result.text.contains("mtu = 1300") || result.text.contains("mtu=1300"),
        "{}",
        result.text
    );
}
