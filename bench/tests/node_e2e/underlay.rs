//! Is a node at home on the interfaces real nodes have: a bridge, large frames?

use bench::lab::link;
use bench::lab::tools::iperf3;

use super::setup::{POOL, Site, assert_ping, assert_tcp, assert_udp, node_ip};

/// Two nodes whose address is moved from `eth0` to `interface`, which `make` adds.
fn on(interface: &str, make: &[&str], expected: &str) {
    let mut site = Site::prepare(2, &[]);
    site.apply(POOL);
    for (number, node) in (1..).zip(&mut site.nodes) {
        let host = node.netns().clone();
        host.ip("addr flush dev eth0").expect("flushed");
        for line in make {
            host.ip(line).expect("made");
        }
        host.ip(&format!("link set {interface} up")).expect("up");
        link::addr(&host, interface, &format!("{}/24", node_ip(number))).expect("an address");
        node.restart().expect("it starts");
    }
    let (a, b) = (site.pod(0, "a"), site.pod(1, "b"));
    assert_ping(&site.hosts[0], node_ip(2));
    assert_ping(a.netns(), b.ip());
    assert_ping(b.netns(), a.ip());
    assert_tcp(a.netns(), b.netns(), b.ip());
    assert_udp(a.netns(), b.netns(), b.ip(), 3000);
    for (from, to) in [(&a, &b), (&b, &a)] {
        let stream = iperf3(from.netns(), (to.netns(), to.ip()), 1, &[]).expect("a stream");
        assert!(stream.bits_per_second > 1e6, "{stream:?}");
    }
    let status = site.nodes[0].ctl(&["node", "status"]).expect("status");
    assert!(status.contains(&format!("Uplink {interface}: {expected}")), "{status}");
}

#[test]
fn a_bridge() {
    on("br-up", &["link add br-up type bridge", "link set eth0 master br-up"], "packet-socket");
}

#[test]
fn large_frames() {
    let mut site = Site::prepare(2, &[]);
    site.apply(POOL);
    for port in ["p1", "p2", "br0"] {
        link::mtu(&site.switch, port, 9000).expect("set");
    }
    for node in &mut site.nodes {
        link::mtu(node.netns(), "eth0", 9000).expect("set");
        node.restart().expect("it starts");
    }
    let (a, b) = (site.pod(0, "a"), site.pod(1, "b"));
    let mtu = a.netns().ip("-o link show dev eth0").expect("eth0");
    assert!(mtu.contains("mtu 8980"), "{mtu}");
    assert_ping(a.netns(), b.ip());
    assert_udp(a.netns(), b.netns(), b.ip(), 8900);
    let stream = iperf3(a.netns(), (b.netns(), b.ip()), 1, &[]).expect("a stream");
    assert!(stream.bits_per_second > 1e6, "{stream:?}");
}
