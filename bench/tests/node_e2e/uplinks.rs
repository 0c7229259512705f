//! Does every form of uplink carry the tunnel, and leave the node's own network alone?

use std::net::SocketAddr;
use std::time::Duration;

use bench::lab::tools::iperf3;
use bench::lab::traffic::{TcpEcho, TcpStreamer, connect};

use super::setup::{ANSWER, PATIENCE, Site, assert_ping, assert_tcp, assert_udp, node_ip};

fn carries(form: &str, expected: &str) {
    let site = Site::start(2, &[("VROUTER_UPLINK_IO", form)]);
    if form == "xdp-generic" {
        // Wires between machines carry no super-packets; those between namespaces do.
        for port in ["p1", "p2"] {
            let cut = "tso off gso off tx-udp-segmentation off";
            site.switch.sh(&format!("ethtool -K {port} {cut}")).expect("it is cut");
        }
    }
    let (first, second) = (&site.hosts[0], &site.hosts[1]);
    let own = SocketAddr::new(node_ip(2), 22);
    let _echo = TcpEcho::start(second, own).expect("a service of the host");
    let mut connection = connect(first, own, ANSWER).expect("the hosts' own connection");
    connection.exchange(ANSWER).expect("an echo");
    let own = TcpStreamer::start(connection, Duration::from_millis(5), PATIENCE);

    let (a, b) = (site.pod(0, "a"), site.pod(1, "b"));
    assert_ping(a.netns(), b.ip());
    assert_ping(b.netns(), a.ip());
    assert_tcp(a.netns(), b.netns(), b.ip());
    assert_tcp(b.netns(), a.netns(), a.ip());
    assert_udp(a.netns(), b.netns(), b.ip(), 1400);
    for (from, to) in [(&a, &b), (&b, &a)] {
        let stream = iperf3(from.netns(), (to.netns(), to.ip()), 1, &[]).expect("a stream");
        assert!(stream.bits_per_second > 1e6, "{stream:?}");
    }
    for node in &site.nodes {
        let status = node.ctl_json(&["node", "status"]).expect("status");
        let uplink = &status["uplinks"][0];
        assert_eq!(uplink["name"], "eth0", "{status}");
        let mode = uplink["mode"].as_str().expect("a mode");
        assert_eq!(mode, expected, "{status}");
        let text = node.ctl(&["node", "status"]).expect("status");
        assert!(text.contains(&format!("Uplink eth0: {expected}")), "{text}");
    }
    assert_ping(first, node_ip(2));
    let report = own.stop().expect("the hosts' own connection goes on");
    assert!(report.received > 10, "{report:?}");
}

#[test]
fn native_xdp() {
    carries("xdp", "xdp-native");
}

#[test]
fn generic_xdp() {
    carries("xdp-generic", "xdp-generic");
}

#[test]
fn packet_socket() {
    carries("packet", "packet-socket");
}
