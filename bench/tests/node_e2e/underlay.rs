//! Is a node at home on the interfaces real nodes have: a bridge, large frames?

use bench::lab::node::NodeSettings;
use bench::lab::tools::iperf3;
use bench::lab::{VrouterNode, link};

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

#[test]
fn its_address_is_found() {
    let methods = [
        "first-found",
        "interface=eth.*",
        "skip-interface=tunl.*,vrouter.*",
        "can-reach=10.77.0.1",
        "cidr=10.77.0.0/24",
    ];
    for method in methods {
        let mut site = Site::prepare(1, &[]);
        site.apply(POOL);
        let settings = NodeSettings {
            name: "node1".to_owned(),
            address: "autodetect".to_owned(),
            datastore: site.lab.dir().join("datastore"),
            environment: vec![
                ("NO_DEFAULT_POOLS".to_owned(), "true".to_owned()),
                ("IP_AUTODETECTION_METHOD".to_owned(), method.to_owned()),
            ],
        };
        site.nodes[0] = VrouterNode::start(&site.hosts[0], settings).expect("it starts");
        let status = site.nodes[0].ctl_json(&["node", "status"]).expect("status");
        assert_eq!(status["address"], "10.77.0.11", "{method}: {status}");
        let pod = site.pod(0, "a");
        assert_ping(&site.hosts[0], pod.ip());
    }
}
