//! Do datagrams larger than the path arrive whole, and under the verdict of their first fragment?

use std::net::SocketAddr;

use bench::lab::traffic::UdpEcho;
use bench::lab::wait::retry;

use super::setup::{PATIENCE, Site, assert_udp, udp_echoed};

#[test]
fn large_datagrams_cross_nodes_under_policy() {
    let site = Site::start(2, &[]);
    let (a, b, c) = (site.pod(0, "a"), site.pod(1, "b"), site.pod(0, "c"));
    for (from, to) in [(&a, &b), (&b, &a), (&a, &c)] {
        assert_udp(from.netns(), to.netns(), to.ip(), 3000);
        assert_udp(from.netns(), to.netns(), to.ip(), 20_000);
    }
    let (open, closed) = (SocketAddr::new(b.ip(), 7000), SocketAddr::new(b.ip(), 7001));
    let _echoes = (UdpEcho::start(b.netns(), open), UdpEcho::start(b.netns(), closed));
    assert!(udp_echoed(a.netns(), closed, 3000));
    site.apply(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: one-port, namespace: e2e}
spec:
  podSelector: {}
  policyTypes: [Ingress]
  ingress:
    - ports: [{protocol: UDP, port: 7000}]
",
    );
    retry(PATIENCE, "the policy", || {
        anyhow::ensure!(!udp_echoed(a.netns(), closed, 100), "it still passes");
        Ok(())
    })
    .expect("in force");
    assert!(!udp_echoed(a.netns(), closed, 3000), "a fragmented datagram to a closed port");
    for _ in 0..3 {
        assert!(udp_echoed(a.netns(), open, 3000), "a fragmented datagram to an open port");
    }
    let drops = site.drops(1);
    assert!(drops.get("policy-ingress").is_some_and(|n| *n >= 2), "{drops:?}");
}
