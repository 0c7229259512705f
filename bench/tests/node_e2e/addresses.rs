//! Are pods reached at whatever address they have: asked for, used before, borrowed from another
//! node's block?

use std::net::{IpAddr, SocketAddr};

use bench::lab::Pod;
use bench::lab::traffic::{TcpEcho, connect};

use super::setup::{
    ANSWER, PATIENCE, POOL, SILENCE, Site, assert_no_tcp, assert_ping, assert_tcp, tcp,
    until_no_tcp,
};

fn fixed(name: &str, app: &str, node: &str, address: IpAddr) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: e2e
  labels: {{app: {app}}}
  annotations: {{cni.projectcalico.org/ipAddrs: '[\"{address}\"]'}}
spec: {{nodeName: {node}}}
"
    )
}

#[test]
fn a_full_pool_s_addresses_are_borrowed() {
    let mut site = Site::prepare(2, &[]);
    // Two blocks of four addresses, one for each node, which takes the first for its tunnel.
    site.apply(&POOL.replace("172.31.0.0/16, blockSize: 26", "172.31.0.0/29, blockSize: 30"));
    for node in &mut site.nodes {
        node.restart().expect("it starts");
    }
    let far = site.pod(1, "far");
    let pods: Vec<Pod> = (0..5).map(|i| site.pod(0, &format!("a{i}"))).collect();
    let theirs = |pod: &&Pod| {
        let block = |ip: IpAddr| {
            ip.to_string().rsplit('.').next().map(|n| n.parse::<u8>().expect("a byte") / 4)
        };
        block(pod.ip()) == block(far.ip())
    };
    let borrowed: Vec<&Pod> = pods.iter().filter(theirs).collect();
    assert!(!borrowed.is_empty(), "five pods do not fit into one block");
    for pod in &pods {
        assert_ping(far.netns(), pod.ip());
        assert_ping(&site.hosts[0], pod.ip());
        assert_ping(&site.hosts[1], pod.ip());
        assert_tcp(far.netns(), pod.netns(), pod.ip());
        assert_tcp(pod.netns(), far.netns(), far.ip());
        assert_ping(pods[0].netns(), pod.ip());
    }
}

#[test]
fn an_address_moves_to_another_pod_and_node() {
    let site = Site::start(2, &[]);
    let client = site.pod(0, "client");
    let address = {
        let first = site.pod(0, "probe");
        let address = first.ip();
        first.detach().expect("DEL");
        address
    };
    site.apply(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: e2e}
spec: {podSelector: {matchLabels: {app: closed}}, policyTypes: [Ingress]}
",
    );
    let target = SocketAddr::new(address, 7400);
    site.apply(&fixed("open", "open", "node1", address));
    let open = site.pod(0, "open");
    assert_eq!(open.ip(), address, "the pod asked for it");
    let echo = TcpEcho::start(open.netns(), target).expect("a service");
    tcp(client.netns(), target, PATIENCE);
    let mut connection = connect(client.netns(), target, ANSWER).expect("a connection");
    connection.exchange(ANSWER).expect("an echo");
    drop(echo);
    open.detach().expect("DEL");

    // The next owner of the address is closed, whatever its predecessor's connections were.
    site.apply(&fixed("closed", "closed", "node1", address));
    let closed = site.pod(0, "closed");
    assert_eq!(closed.ip(), address);
    let echo = TcpEcho::start(closed.netns(), target).expect("a service");
    assert_no_tcp(client.netns(), target);
    assert!(connection.exchange(SILENCE).is_err(), "a connection of the address's last owner");
    drop(echo);
    closed.detach().expect("DEL");

    // On the other node it is an address of a block that is not that node's.
    site.apply(&fixed("moved", "open", "node2", address));
    let moved = site.pod(1, "moved");
    assert_eq!(moved.ip(), address);
    let _echo = TcpEcho::start(moved.netns(), target).expect("a service");
    tcp(client.netns(), target, PATIENCE);
    assert_ping(&site.hosts[0], address);
    assert_ping(moved.netns(), client.ip());
    site.apply(&fixed("moved", "closed", "node2", address));
    until_no_tcp(client.netns(), target);
}
