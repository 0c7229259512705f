//! What does a node's sudden death leave behind: for every form of port, and for policy?

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use bench::lab::VrouterNode;
use bench::lab::node::NodeSettings;
use bench::lab::traffic::{TcpEcho, TcpStreamer, UdpEcho, UdpStreamer, connect};
use bench::lab::wait::retry;

use super::setup::{ANSWER, PATIENCE, Site, assert_ping, assert_tcp, node_ip, udp_echoed};

/// The first node dies and comes back, with traffic on the uplink and between pods.
fn dies_and_comes_back(environment: &[(&str, &str)]) {
    let mut site = Site::start(2, environment);
    let (a, b, c) = (site.pod(0, "a"), site.pod(0, "b"), site.pod(1, "c"));
    assert_ping(a.netns(), c.ip());
    let mut echoes = Vec::new();
    let mut streams = Vec::new();
    for (from, to) in [(&a, &b), (&a, &c), (&c, &b)] {
        let target = SocketAddr::new(to.ip(), 7100 + u16::try_from(streams.len()).expect("few"));
        echoes.push(TcpEcho::start(to.netns(), target).expect("a service"));
        let mut connection = connect(from.netns(), target, ANSWER).expect("a connection");
        connection.exchange(ANSWER).expect("an echo");
        streams.push(TcpStreamer::start(connection, Duration::from_millis(5), PATIENCE));
    }
    for _ in 0..2 {
        site.nodes[0].kill().expect("it dies");
        // The node's own network has nothing to do with it.
        assert_ping(&site.hosts[0], node_ip(2));
        assert_tcp(&site.hosts[1], &site.hosts[0], node_ip(1));
        site.nodes[0].restart().expect("it starts again");
        assert_ping(a.netns(), b.ip());
        assert_ping(a.netns(), c.ip());
    }
    for stream in streams {
        let report = stream.stop().expect("the connection goes on");
        assert!(report.received > 0, "{report:?}");
    }
}

#[test]
fn with_veth_pods() {
    dies_and_comes_back(&[("VROUTER_POD_INTERFACE", "veth")]);
}

#[test]
fn with_a_generic_uplink() {
    dies_and_comes_back(&[("VROUTER_UPLINK_IO", "xdp-generic")]);
}

#[test]
fn with_a_packet_socket_and_two_workers() {
    dies_and_comes_back(&[("VROUTER_UPLINK_IO", "packet"), ("VROUTER_WORKERS", "2")]);
}

#[test]
fn it_comes_back_with_another_form_of_uplink() {
    let mut site = Site::start(2, &[]);
    let (a, b) = (site.pod(0, "a"), site.pod(1, "b"));
    assert_ping(a.netns(), b.ip());
    for (form, expected) in
        [("packet", "packet-socket"), ("xdp-generic", "xdp-generic"), ("xdp", "xdp-native")]
    {
        site.nodes[0].kill().expect("it dies");
        let settings = NodeSettings {
            name: "node1".to_owned(),
            address: format!("{}/24", node_ip(1)),
            datastore: site.lab.dir().join("datastore"),
            environment: vec![
                ("NO_DEFAULT_POOLS".to_owned(), "true".to_owned()),
                ("VROUTER_UPLINK_IO".to_owned(), form.to_owned()),
            ],
        };
        site.nodes[0] = VrouterNode::start(&site.hosts[0], settings).expect("it starts");
        assert_ping(a.netns(), b.ip());
        assert_tcp(b.netns(), a.netns(), a.ip());
        assert_ping(&site.hosts[0], node_ip(2));
        let status = site.nodes[0].ctl(&["node", "status"]).expect("status");
        assert!(status.contains(&format!("Uplink eth0: {expected}")), "{status}");
    }
}

#[test]
fn nothing_denied_passes_in_between() {
    let mut site = Site::start(2, &[]);
    let (web, near, far) = (site.pod(0, "web"), site.pod(0, "near"), site.pod(1, "far"));
    let target = SocketAddr::new(web.ip(), 7300);
    let _echo = UdpEcho::start(web.netns(), target).expect("a service");
    assert_ping(far.netns(), web.ip());
    site.apply(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: e2e}
spec: {podSelector: {}, policyTypes: [Ingress]}
",
    );
    retry(PATIENCE, "the policy", || {
        let passes = [&near, &far].map(|pod| udp_echoed(pod.netns(), target, 100));
        anyhow::ensure!(passes == [false, false], "{passes:?}");
        Ok(())
    })
    .expect("in force");
    let streams: Vec<_> = [&near, &far]
        .map(|pod| UdpStreamer::start(pod.netns(), target, 500).expect("a stream"))
        .into();
    for _ in 0..2 {
        site.nodes[0].kill().expect("it dies");
        thread::sleep(Duration::from_millis(200));
        site.nodes[0].restart().expect("it starts again");
        thread::sleep(Duration::from_millis(500));
    }
    // A pod that comes while the policy stands is closed from its first packet on.
    let late = site.pod(0, "late");
    let late_target = SocketAddr::new(late.ip(), 7300);
    let _late_echo = UdpEcho::start(late.netns(), late_target).expect("a service");
    let to_late = UdpStreamer::start(near.netns(), late_target, 500).expect("a stream");
    thread::sleep(Duration::from_millis(300));
    assert_ping(&site.hosts[0], web.ip());
    for stream in streams.into_iter().chain([to_late]) {
        let report = stream.stop().expect("a report");
        assert!(report.sent > 50 && report.received == 0, "{report:?}");
    }
}
