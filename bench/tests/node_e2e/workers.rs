//! Do two workers carry what one does, though a connection's directions arrive on either?

use std::net::SocketAddr;

use bench::lab::tools::iperf3;
use bench::lab::traffic::{TcpEcho, connect};

use super::setup::{
    ANSWER, PATIENCE, SILENCE, Site, assert_ping, assert_tcp, assert_udp, tcp, until_no_tcp,
};

#[test]
fn two_workers_carry_every_direction() {
    let site = Site::start(2, &[("VROUTER_WORKERS", "2")]);
    let pods = [site.pod(0, "a"), site.pod(0, "b"), site.pod(0, "c"), site.pod(1, "d")];
    for from in &pods {
        for to in &pods {
            if from.ip() != to.ip() {
                assert_ping(from.netns(), to.ip());
                assert_tcp(from.netns(), to.netns(), to.ip());
                assert_udp(from.netns(), to.netns(), to.ip(), 1200);
            }
        }
    }
    let stream = iperf3(pods[0].netns(), (pods[3].netns(), pods[3].ip()), 1, &["-P", "4"]);
    assert!(stream.expect("a stream").bits_per_second > 1e6);

    let target = SocketAddr::new(pods[1].ip(), 8080);
    let _echo = TcpEcho::start(pods[1].netns(), target).expect("a service");
    let mut open = connect(pods[3].netns(), target, ANSWER).expect("a connection");
    open.exchange(ANSWER).expect("an echo");
    site.apply(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: e2e}
spec: {podSelector: {}, policyTypes: [Ingress]}
",
    );
    for from in [&pods[0], &pods[2], &pods[3]] {
        until_no_tcp(from.netns(), target);
    }
    assert!(open.exchange(SILENCE).is_err(), "the open connection goes on");
    site.delete(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: e2e}
spec: {podSelector: {}, policyTypes: [Ingress]}
",
    );
    for from in [&pods[0], &pods[2], &pods[3]] {
        tcp(from.netns(), target, PATIENCE);
    }
}
