//! Do pods' packets go where the node's kernel says, as soon as it says so?

use std::net::IpAddr;

use bench::lab::link;
use bench::lab::tools::{Fragments, Ping};
use bench::lab::wait::retry;
use bench::lab::{Netns, Pod};

use super::setup::{PATIENCE, SILENCE, Site, assert_ping};

/// Waits until pings are not answered, and returns what ping said.
fn until_no_ping(from: &Netns, to: IpAddr) -> String {
    let ping = Ping { count: 1, timeout: SILENCE, ..Ping::default() };
    retry(PATIENCE, format!("{to} to be out of reach"), || {
        let result = ping.run(from, to)?;
        anyhow::ensure!(result.received == 0, "{}", result.text);
        Ok(result.text)
    })
    .expect("out of reach")
}

#[test]
fn routes_of_the_kernel_come_and_go() {
    let site = Site::start(1, &[]);
    let pod = site.pod(0, "a");
    let host = &site.hosts[0];
    let gateway = site.stranger("router", 50);
    link::dummy(&gateway, "ext0", "198.51.100.1/24").expect("an address");
    link::route(&gateway, "172.31.0.0/16 via 10.77.0.11").expect("a way back");
    let beyond = IpAddr::from([198, 51, 100, 1]);
    until_no_ping(pod.netns(), beyond);
    link::route(host, "198.51.100.0/24 via 10.77.0.50").expect("a route");
    assert_ping(pod.netns(), beyond);
    let routes = site.nodes[0].ctl(&["show", "routes", "198.51.100.1"]).expect("a route");
    assert!(routes.contains("198.51.100.0/24") && routes.contains("10.77.0.50"), "{routes}");
    // A more specific one that says no, with an answer.
    link::route(host, "unreachable 198.51.100.1/32").expect("a route");
    let said = until_no_ping(pod.netns(), beyond);
    assert!(said.contains("Unreachable"), "{said}");
    host.ip("route del unreachable 198.51.100.1/32").expect("gone");
    assert_ping(pod.netns(), beyond);
    host.ip("route del 198.51.100.0/24").expect("gone");
    until_no_ping(pod.netns(), beyond);
}

#[test]
fn interfaces_come_and_go() {
    let site = Site::start(1, &[]);
    let pod = site.pod(0, "a");
    let host = &site.hosts[0];
    let office = site.lab.netns("office").expect("a namespace");
    link::veth((host, "ext0"), (&office, "eth0")).expect("a wire");
    link::addr(host, "ext0", "198.51.100.17/28").expect("an address");
    link::addr(&office, "eth0", "198.51.100.18/28").expect("an address");
    link::route(&office, "default via 198.51.100.17").expect("a route");
    let there = IpAddr::from([198, 51, 100, 18]);
    assert_ping(pod.netns(), there);
    assert_ping(pod.netns(), IpAddr::from([198, 51, 100, 17]));
    assert_ping(&office, pod.ip());
    host.ip("link del ext0").expect("gone");
    until_no_ping(pod.netns(), there);
    assert_ping(pod.netns(), super::setup::node_ip(1));
}

fn one_node_loses_its_link(environment: &[(&str, &str)]) {
    let site = Site::start(2, environment);
    let (a, b, c) = (site.pod(0, "a"), site.pod(0, "b"), site.pod(1, "c"));
    let host = &site.hosts[0];
    assert_ping(a.netns(), c.ip());
    host.ip("link set eth0 down").expect("down");
    until_no_ping(a.netns(), c.ip());
    assert_ping(a.netns(), b.ip());
    host.ip("link set eth0 up").expect("up");
    assert_ping(a.netns(), c.ip());
    assert_ping(c.netns(), b.ip());
    // The same from the wire's other end: the carrier goes.
    site.switch.ip("link set p1 down").expect("down");
    until_no_ping(a.netns(), c.ip());
    site.switch.ip("link set p1 up").expect("up");
    assert_ping(a.netns(), c.ip());
    narrower(&site, &a, &c);
}

/// The uplink's MTU is changed, and pods hear of it.
fn narrower(site: &Site, a: &Pod, c: &Pod) {
    site.hosts[0].ip("link set eth0 mtu 1400").expect("set");
    let large = Ping { count: 1, size: 1420, fragments: Fragments::Forbid, ..Ping::default() };
    retry(PATIENCE, "the tunnel's new MTU to be told", || {
        let result = large.run(a.netns(), c.ip())?;
        anyhow::ensure!(
            result.text.contains("mtu = 1380") || result.text.contains("mtu=1380"),
            "{}",
            result.text
        );
        Ok(())
    })
    .expect("told");
    assert_ping(a.netns(), c.ip());
}

#[test]
fn the_uplink_goes_down_and_up() {
    one_node_loses_its_link(&[]);
}

#[test]
fn the_packet_socket_s_uplink_goes_down_and_up() {
    one_node_loses_its_link(&[("VROUTER_UPLINK_IO", "packet")]);
}
