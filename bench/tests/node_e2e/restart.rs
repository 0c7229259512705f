//! What does a node's end cost its pods, in good order and otherwise?

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use bench::lab::pod::{Call, Runtime};
use bench::lab::traffic::{TcpEcho, TcpStreamer, connect};
use bench::lab::wait::retry;
use bench::lab::{Netns, Pod, link};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use super::setup::{ANSWER, NAMESPACE, PATIENCE, Site, assert_ping, assert_tcp};

/// One connection that talks all the time.
fn talk(from: &Pod, to: &Pod) -> (TcpEcho, TcpStreamer) {
    let target = SocketAddr::new(to.ip(), 7100);
    let echo = TcpEcho::start(to.netns(), target).expect("a service");
    let mut connection = connect(from.netns(), target, ANSWER).expect("a connection");
    connection.exchange(ANSWER).expect("an echo");
    (echo, TcpStreamer::start(connection, Duration::from_millis(5), PATIENCE))
}

fn goes_on((_echo, stream): (TcpEcho, TcpStreamer)) {
    let report = stream.stop().expect("the connection goes on");
    assert!(report.received > 0, "{report:?}");
}

fn restarted_in_good_order(environment: &[(&str, &str)]) {
    let mut site = Site::start(2, environment);
    let (a, b, c) = (site.pod(0, "a"), site.pod(0, "b"), site.pod(1, "c"));
    assert_ping(a.netns(), c.ip());
    let (near, far) = (talk(&a, &b), talk(&a, &c));
    for _ in 0..2 {
        site.nodes[0].stop().expect("it ends when asked");
        assert_ping(&site.hosts[0], super::setup::node_ip(2));
        site.nodes[0].restart().expect("it starts again");
        assert_ping(a.netns(), b.ip());
        assert_ping(a.netns(), c.ip());
    }
    goes_on(near);
    goes_on(far);
    assert_tcp(c.netns(), b.netns(), b.ip());
    let d = site.pod(0, "d");
    assert_ping(c.netns(), d.ip());
}

#[test]
fn connections_outlive_a_restart() {
    restarted_in_good_order(&[]);
}

#[test]
fn connections_of_veth_pods_outlive_a_restart() {
    restarted_in_good_order(&[("VROUTER_POD_INTERFACE", "veth")]);
}

#[test]
fn a_pod_that_vanished_meanwhile_is_forgotten() {
    let mut site = Site::start(1, &[]);
    let (a, b) = (site.pod(0, "a"), site.pod(0, "b"));
    site.nodes[0].stop().expect("it ends");
    b.netns().delete().expect("its namespace vanishes");
    site.nodes[0].restart().expect("it starts again");
    assert_ping(&site.hosts[0], a.ip());
    let ports = site.nodes[0].ctl_json(&["show", "interfaces"]).expect("ports").to_string();
    assert!(ports.contains("e2e/a") && !ports.contains("e2e/b"), "{ports}");
    // The runtime has not forgotten it, and takes it away.
    b.detach().expect("DEL");
    let endpoints =
        site.nodes[0].ctl_json(&["get", "workloadendpoint", "-A"]).expect("endpoints").to_string();
    assert!(!endpoints.contains(b.container()), "{endpoints}");
    let c = site.pod(0, "c");
    assert_ping(a.netns(), c.ip());
}

#[test]
fn a_holder_that_died_is_replaced() {
    let mut site = Site::start(1, &[]);
    let (a, b) = (site.pod(0, "a"), site.pod(0, "b"));
    let stream = talk(&a, &b);
    let holder = site.nodes[0].holder().expect("a holder");
    kill(holder, Signal::SIGKILL).expect("it dies");
    retry(PATIENCE, "another holder", || {
        let new = site.nodes[0].holder().filter(|new| *new != holder);
        new.ok_or_else(|| anyhow::anyhow!("none yet"))
    })
    .expect("another holder");
    // What it was given keeps the pods' devices alive over the forwarder's death.
    retry(PATIENCE, "the new holder to have everything", || {
        anyhow::ensure!(site.nodes[0].log().contains("a new one keeps everything"), "not yet");
        Ok(())
    })
    .expect("told");
    site.nodes[0].kill().expect("it dies");
    assert!(a.netns().ip("-o link show dev eth0").expect("eth0").contains("LOWER_UP"));
    site.nodes[0].restart().expect("it starts again");
    assert_ping(a.netns(), b.ip());
    goes_on(stream);
    assert!(site.nodes[0].log().contains("the holder kept its descriptor"));
}

/// Addresses in use, by block and in all.
fn usage(site: &Site) -> Value {
    site.nodes[0].ctl_json(&["ipam", "show", "--show-blocks"]).expect("usage")
}

fn plugin(runtime: &Runtime, command: &str, netns: &Netns, number: u64) -> bool {
    let container = format!("dead{number:04}");
    let arguments = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={NAMESPACE};K8S_POD_NAME=p{number};\
         K8S_POD_INFRA_CONTAINER_ID={container}"
    );
    let path = netns.path();
    let call = Call {
        command,
        container: &container,
        netns: &path.to_string_lossy(),
        arguments: &arguments,
        config: runtime.config(),
    };
    runtime.call(&call).expect("the plugin runs").success
}

#[test]
fn a_node_killed_while_it_adds_leaks_nothing() {
    let mut site = Site::start(1, &[]);
    let a = site.pod(0, "a");
    let runtime = Runtime::new(&site.nodes[0]).expect("a runtime");
    let before = usage(&site);
    for (number, milliseconds) in (0..).zip([2, 6, 10, 14, 20, 40]) {
        let netns = site.lab.netns(&format!("p{number}")).expect("a namespace");
        thread::scope(|scope| {
            let adding = scope.spawn(|| plugin(&runtime, "ADD", &netns, number));
            thread::sleep(Duration::from_millis(milliseconds));
            site.nodes[0].kill().expect("it dies");
            _ = adding.join().expect("the plugin ends");
        });
        site.nodes[0].restart().expect("it starts again");
        assert!(plugin(&runtime, "DEL", &netns, number), "DEL");
        assert!(netns.ip("link show dev eth0").is_err(), "eth0 is still there");
        assert_eq!(usage(&site), before, "killed after {milliseconds} ms");
    }
    assert_ping(&site.hosts[0], a.ip());
}

#[test]
fn a_namespace_that_vanishes_is_let_go() {
    let site = Site::start(1, &[]);
    let (a, b) = (site.pod(0, "a"), site.pod(0, "b"));
    // A wire into it, which ends when it does.
    link::veth((&site.hosts[0], "canary"), (b.netns(), "canary")).expect("a wire");
    b.netns().delete().expect("it vanishes");
    retry(PATIENCE, "the port to be closed", || {
        let ports = site.nodes[0].ctl_json(&["show", "interfaces"])?.to_string();
        anyhow::ensure!(ports.contains("e2e/a") && !ports.contains("e2e/b"), "{ports}");
        Ok(())
    })
    .expect("closed");
    // Neither the node nor its holder keeps it alive.
    retry(PATIENCE, "the namespace to end", || {
        anyhow::ensure!(!link::exists(&site.hosts[0], "canary"), "it lives on");
        Ok(())
    })
    .expect("ended");
    b.detach().expect("DEL");
    assert_ping(&site.hosts[0], a.ip());
}
