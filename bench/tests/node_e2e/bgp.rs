//! Does a node peer with a real BIRD as the datastore says, and stop when it says so?

use std::net::IpAddr;

use bench::lab::wait::retry;
use bench::lab::{Bird, link};

use super::setup::{PATIENCE, Site, assert_no_ping, assert_ping};

fn config(number: u32, announces: bool) -> String {
    let protocol =
        if announces { "protocol static s4 { ipv4; route 203.0.113.0/24 blackhole; }" } else { "" };
    format!(
        "router id 10.77.0.200;
        protocol device {{ }}
        protocol kernel {{ ipv4 {{ export where source = RTS_BGP; import none; }}; }}
        {protocol}
        protocol bgp node1 {{
            direct; local 10.77.0.200 as {number}; neighbor 10.77.0.11 as 64512;
            connect retry time 1; connect delay time 1; error wait time 1, 2;
            ipv4 {{ import all; export where source = RTS_STATIC; next hop self; }};
        }}"
    )
}

fn peer(number: u32) -> String {
    format!(
        "
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {{name: tor}}
spec: {{node: node1, peerIP: 10.77.0.200, asNumber: {number}}}
"
    )
}

fn routes_contain(site: &Site, prefix: &str) -> anyhow::Result<bool> {
    Ok(site.nodes[0].ctl_json(&["show", "routes"])?.to_string().contains(prefix))
}

fn peers_with(number: u32) {
    let site = Site::start(1, &[]);
    let pod = site.pod(0, "a");
    let tor = site.stranger("tor", 200);
    link::dummy(&tor, "ext0", "203.0.113.1/32").expect("an address");
    let bird = Bird::start(&tor, &config(number, true)).expect("BIRD");
    let beyond = IpAddr::from([203, 0, 113, 1]);
    assert_no_ping(pod.netns(), beyond);
    site.apply(&peer(number));
    retry(PATIENCE, "the session", || {
        anyhow::ensure!(bird.is_established("node1"), "{}", bird.birdc("show protocols")?);
        Ok(())
    })
    .expect("established");
    assert_ping(pod.netns(), beyond);
    retry(PATIENCE, "the node's block in BIRD", || {
        let prefixes = bird.prefixes()?;
        anyhow::ensure!(prefixes.iter().any(|p| p.starts_with("172.31.")), "{prefixes:?}");
        Ok(())
    })
    .expect("announced");
    assert_ping(&tor, pod.ip());
    assert!(routes_contain(&site, "203.0.113.0/24").expect("routes"));
    let status = site.nodes[0].ctl(&["node", "status"]).expect("status");
    assert!(status.contains("10.77.0.200") && status.contains("Established"), "{status}");

    bird.configure(&config(number, false)).expect("configured");
    retry(PATIENCE, "the withdrawal", || {
        anyhow::ensure!(!routes_contain(&site, "203.0.113.0/24")?, "it is still there");
        Ok(())
    })
    .expect("withdrawn");
    assert_no_ping(pod.netns(), beyond);
    assert!(bird.is_established("node1"));
    bird.configure(&config(number, true)).expect("configured");
    assert_ping(pod.netns(), beyond);

    site.delete(&peer(number));
    retry(PATIENCE, "the session's end", || {
        anyhow::ensure!(!bird.is_established("node1"), "it is still established");
        anyhow::ensure!(!routes_contain(&site, "203.0.113.0/24")?, "its route is still there");
        Ok(())
    })
    .expect("ended");
    let peers = site.nodes[0].ctl_json(&["show", "bgp"]).expect("peers");
    assert!(!peers.to_string().contains("10.77.0.200"), "{peers}");
}

#[test]
fn internally() {
    peers_with(64_512);
}

#[test]
fn externally() {
    peers_with(65_000);
}
