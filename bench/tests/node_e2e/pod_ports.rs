//! Do pods on veth pairs get what pods on TUN devices get, and do the two reach each other?

use bench::lab::tools::iperf3;
use bench::lab::{Netns, Pod};

use super::setup::{Site, assert_ping, assert_tcp, assert_udp};

fn both_ways(a: &Pod, b: &Pod) {
    assert_ping(a.netns(), b.ip());
    assert_ping(b.netns(), a.ip());
    assert_tcp(a.netns(), b.netns(), b.ip());
    assert_tcp(b.netns(), a.netns(), a.ip());
    assert_udp(a.netns(), b.netns(), b.ip(), 1000);
}

/// A stream large enough to come as super-packets arrives whole.
fn stream(a: &Pod, b: &Pod) {
    let result = iperf3(a.netns(), (b.netns(), b.ip()), 1, &[]).expect("a stream");
    assert!(result.bits_per_second > 1e6, "{result:?}");
}

fn mac_of(netns: &Netns) -> String {
    let line = netns.ip("-o link show dev eth0").expect("eth0");
    let mut words = line.split_whitespace();
    words.find(|word| *word == "link/ether").expect("an Ethernet interface");
    words.next().expect("a MAC address").to_owned()
}

#[test]
fn veth_pods_reach_each_other_and_other_nodes() {
    let site = Site::start(2, &[("VROUTER_POD_INTERFACE", "veth")]);
    let (a, b, c) = (site.pod(0, "a"), site.pod(0, "b"), site.pod(1, "c"));
    both_ways(&a, &b);
    let neighbours = a.netns().ip("neigh show dev eth0").expect("neighbours");
    assert!(neighbours.contains("169.254.1.1 lladdr"), "the gateway answers ARP: {neighbours}");
    both_ways(&a, &c);
    stream(&a, &b);
    stream(&a, &c);
    stream(&c, &a);
    assert_ping(&site.hosts[0], a.ip());
    a.detach().expect("DEL");
    assert!(a.netns().ip("link show dev eth0").is_err(), "eth0 is still there");
    both_ways(&b, &c);
}

#[test]
fn one_pod_asks_for_a_mac_address() {
    let site = Site::start(1, &[]);
    site.apply(
        "
apiVersion: v1
kind: Pod
metadata:
  name: a
  namespace: e2e
  annotations: {cni.projectcalico.org/hwAddr: '1e:1c:1e:1c:1e:01'}
spec: {nodeName: node1}
",
    );
    let (a, b) = (site.pod(0, "a"), site.pod(0, "b"));
    assert_eq!(mac_of(a.netns()), "1e:1c:1e:1c:1e:01");
    assert_eq!(a.result()["interfaces"][0]["mac"], "1e:1c:1e:1c:1e:01");
    both_ways(&a, &b);
    stream(&a, &b);
    stream(&b, &a);
    let ports = site.nodes[0].ctl_json(&["show", "interfaces"]).expect("ports");
    let mode = |pod: &str| {
        let rows = ports.as_array().expect("a list");
        rows.iter().find(|row| row["pod"] == pod).expect("its port")["mode"].clone()
    };
    assert_ne!(mode("e2e/a"), "tun");
    assert_eq!(mode("e2e/b"), "tun");
}
