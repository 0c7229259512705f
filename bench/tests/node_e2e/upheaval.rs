//! Does a node stand it when what it stands on is taken away under it, and put back?

use std::fs;
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use bench::lab::tools::Ping;
use bench::lab::wait::retry;
use bench::lab::{link, wait_until};

use super::setup::{ANSWER, PATIENCE, Site, assert_ping, assert_tcp, node_ip};

#[test]
fn a_pod_is_reached_as_soon_as_add_returns() {
    let site = Site::start(1, &[]);
    let watcher = site.pod(0, "watcher");
    let once = Ping { count: 1, timeout: ANSWER, ..Ping::default() };
    thread::scope(|scope| {
        for lane in 0..3 {
            let (site, watcher, once) = (&site, &watcher, &once);
            scope.spawn(move || {
                for round in 0..5 {
                    let pod = site.pod(0, &format!("p{lane}x{round}"));
                    let result = once.run(watcher.netns(), pod.ip()).expect("ping runs");
                    assert_eq!(result.received, 1, "{}: {}", pod.netns().short(), result.text);
                    let result = once.run(pod.netns(), watcher.ip()).expect("ping runs");
                    assert_eq!(result.received, 1, "{}: {}", pod.netns().short(), result.text);
                    pod.detach().expect("DEL");
                }
            });
        }
    });
    let status = site.nodes[0].ctl_json(&["node", "status"]).expect("status");
    assert_eq!(status["pods"], 1, "{status}");
}

#[test]
fn the_router_s_own_addresses_answer() {
    let site = Site::start(2, &[]);
    let (a, b) = (site.pod(0, "a"), site.pod(1, "b"));
    let tunnel = |node: usize| -> IpAddr {
        let status = site.nodes[node].ctl_json(&["node", "status"]).expect("status");
        status["tunnelAddress"].as_str().expect("an address").parse().expect("an address")
    };
    assert_ping(a.netns(), IpAddr::from([169, 254, 1, 1]));
    assert_ping(a.netns(), tunnel(0));
    assert_ping(a.netns(), tunnel(1));
    assert_ping(&site.hosts[0], tunnel(1));
    assert_ping(b.netns(), node_ip(1));
}

#[test]
fn the_uplink_is_replaced() {
    let site = Site::start(2, &[]);
    let (a, b) = (site.pod(0, "a"), site.pod(1, "b"));
    assert_ping(a.netns(), b.ip());
    let host = &site.hosts[0];
    host.ip("link del eth0").expect("gone");
    thread::sleep(Duration::from_millis(300));
    link::veth((host, "eth0"), (&site.switch, "p1")).expect("a wire");
    site.switch.ip("link set p1 master br0").expect("a bridge port");
    link::addr(host, "eth0", "10.77.0.11/24").expect("an address");
    assert_ping(host, node_ip(2));
    assert_ping(a.netns(), b.ip());
    assert_tcp(b.netns(), a.netns(), a.ip());
}

#[test]
fn doors_and_rules_are_made_again() {
    let site = Site::start(2, &[]);
    let (a, b) = (site.pod(0, "a"), site.pod(1, "b"));
    let host = &site.hosts[0];
    assert_ping(host, a.ip());
    for door in ["tunl0", "vrouter-fwd"] {
        host.ip(&format!("link del {door}")).expect("gone");
        wait_until(PATIENCE, format!("{door} to be made again"), || link::exists(host, door))
            .expect("made again");
        assert_ping(host, a.ip());
        assert_ping(host, b.ip());
        assert_ping(a.netns(), b.ip());
    }
    let rules = host.ip("rule show").expect("rules");
    let ours: Vec<&str> = rules
        .lines()
        .filter_map(|line| line.split(':').next())
        .filter(|priority| !["0", "32766", "32767"].contains(priority))
        .collect();
    assert!(!ours.is_empty(), "{rules}");
    for priority in ours {
        host.ip(&format!("rule del priority {priority}")).expect("gone");
    }
    assert_ping(host, a.ip());
    assert_ping(host, b.ip());
}

#[test]
fn the_datastore_is_away_for_a_while() {
    let site = Site::start(2, &[]);
    let (a, b) = (site.pod(0, "a"), site.pod(1, "b"));
    assert_ping(a.netns(), b.ip());
    let (there, away) = (site.lab.dir().join("datastore"), site.lab.dir().join("away"));
    fs::rename(&there, &away).expect("moved");
    thread::sleep(Duration::from_secs(2));
    assert_ping(a.netns(), b.ip());
    assert_ping(&site.hosts[0], b.ip());
    if there.exists() {
        // Somebody made it anew, empty: nothing that was known may have been forgotten for it.
        fs::remove_dir_all(&there).expect("removed");
    }
    fs::rename(&away, &there).expect("moved back");
    let netns = site.lab.netns("c").expect("a namespace");
    let c = retry(PATIENCE, "pods to be added again", || {
        bench::lab::Pod::attach(&site.nodes[0], &netns, "e2e", "c")
    })
    .expect("attached");
    assert_ping(b.netns(), c.ip());
}

#[test]
fn a_node_that_leaves_the_cluster_is_forgotten() {
    let mut site = Site::start(2, &[]);
    let (a, b) = (site.pod(0, "a"), site.pod(1, "b"));
    assert_ping(a.netns(), b.ip());
    site.nodes[1].stop().expect("it stops");
    let node = "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: node2}\n";
    site.delete(node);
    retry(PATIENCE, "its routes to go", || {
        let routes = site.nodes[0].ctl_json(&["show", "routes"])?.to_string();
        anyhow::ensure!(!routes.contains("ipip to 10.77.0.12"), "{routes}");
        let peers = site.nodes[0].ctl_json(&["show", "bgp"])?.to_string();
        anyhow::ensure!(!peers.contains("10.77.0.12"), "{peers}");
        Ok(())
    })
    .expect("gone");
    assert_ping(&site.hosts[0], a.ip());
    // And is known again when it comes back.
    site.nodes[1].restart().expect("it starts again");
    assert_ping(a.netns(), b.ip());
}

#[test]
fn one_run_directory_has_one_node() {
    let site = Site::start(1, &[]);
    let pod = site.pod(0, "a");
    let binary = site.nodes[0].binary().to_string_lossy().into_owned();
    let run_dir = site.nodes[0].run_dir().to_string_lossy().into_owned();
    let datastore = site.lab.dir().join("datastore").to_string_lossy().into_owned();
    let environment = [
        ("NODENAME", "node1"),
        ("IP", "10.77.0.11/24"),
        ("VROUTER_RUN_DIR", &run_dir),
        ("VROUTER_DATASTORE_DIR", &datastore),
    ];
    let second = site.hosts[0].try_exec_with_input(&[&binary, "run"], &environment, "");
    let second = second.expect("it starts");
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr).into_owned()
        + &String::from_utf8_lossy(&second.stdout);
    assert!(said.contains("run directory"), "{said}");
    assert_ping(&site.hosts[0], pod.ip());
}
