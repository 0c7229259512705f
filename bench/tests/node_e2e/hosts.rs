//! Do streams pass between pods and the nodes' own kernels, and what lies behind those?

use std::net::IpAddr;

use bench::lab::tools::iperf3;
use bench::lab::{Netns, link};

use super::setup::{Site, assert_ping, assert_tcp, assert_udp, node_ip};

/// Large segments, one datagram, one connection; both ways.
fn streams(a: (&Netns, IpAddr), b: (&Netns, IpAddr)) {
    for (from, to) in [(a, b), (b, a)] {
        assert_ping(from.0, to.1);
        assert_tcp(from.0, to.0, to.1);
        assert_udp(from.0, to.0, to.1, 1000);
        assert_udp(from.0, to.0, to.1, 4000);
        let result = iperf3(from.0, to, 1, &[]).expect("a stream");
        assert!(result.bits_per_second > 1e7, "{} to {}: {result:?}", from.0.short(), to.0.short());
    }
}

#[test]
fn a_pod_and_its_own_host() {
    let site = Site::start(1, &[]);
    let pod = site.pod(0, "a");
    streams((pod.netns(), pod.ip()), (&site.hosts[0], node_ip(1)));
}

#[test]
fn a_pod_and_another_host() {
    let site = Site::start(2, &[]);
    let pod = site.pod(0, "a");
    streams((pod.netns(), pod.ip()), (&site.hosts[1], node_ip(2)));
}

#[test]
fn a_veth_pod_and_hosts() {
    let site = Site::start(2, &[("VROUTER_POD_INTERFACE", "veth")]);
    let pod = site.pod(0, "a");
    streams((pod.netns(), pod.ip()), (&site.hosts[0], node_ip(1)));
    streams((pod.netns(), pod.ip()), (&site.hosts[1], node_ip(2)));
}

#[test]
fn a_pod_and_a_machine_behind_its_host() {
    let site = Site::start(1, &[]);
    let pod = site.pod(0, "a");
    let office = site.lab.netns("office").expect("a namespace");
    link::veth((&site.hosts[0], "ext0"), (&office, "eth0")).expect("a wire");
    link::addr(&site.hosts[0], "ext0", "198.51.100.17/28").expect("an address");
    link::addr(&office, "eth0", "198.51.100.18/28").expect("an address");
    link::route(&office, "default via 198.51.100.17").expect("a route");
    streams((pod.netns(), pod.ip()), (&office, IpAddr::from([198, 51, 100, 18])));
}

#[test]
fn a_pod_and_a_machine_on_the_uplink() {
    let site = Site::start(1, &[]);
    let pod = site.pod(0, "a");
    let machine = site.stranger("machine", 60);
    link::route(&machine, "172.31.0.0/16 via 10.77.0.11").expect("a route");
    streams((pod.netns(), pod.ip()), (&machine, IpAddr::from([10, 77, 0, 60])));
}
