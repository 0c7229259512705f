//! What do the node tests stand on? Nodes on one bridge, pods, and what one asks of them.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bench::lab::node::NodeSettings;
use bench::lab::tools::Ping;
use bench::lab::traffic::{TcpEcho, UdpEcho, connect};
use bench::lab::wait::retry;
use bench::lab::{Lab, Netns, Pod, VrouterNode, link};
use serde_json::Value;

/// Longest time anything may take to come about.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Longest time one answer may take.
pub(crate) const ANSWER: Duration = Duration::from_secs(3);
/// So long nothing must come through for it to be denied.
pub(crate) const SILENCE: Duration = Duration::from_millis(500);
/// The pods' Kubernetes namespace.
pub(crate) const NAMESPACE: &str = "e2e";

/// The pool every site starts with.
pub(crate) const POOL: &str = "
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pool-v4}
spec: {cidr: 172.31.0.0/16, blockSize: 26, ipipMode: Always, natOutgoing: false}
---
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec: {asNumber: 64512, nodeToNodeMeshEnabled: true}
---
apiVersion: v1
kind: Namespace
metadata: {name: e2e, labels: {team: red}}
";

/// Nodes `10.77.0.11`, `10.77.0.12`, … on one bridge.
pub(crate) struct Site {
    // Dropped in this order: programs before the namespaces they run in.
    pub(crate) nodes: Vec<VrouterNode>,
    pub(crate) hosts: Vec<Netns>,
    pub(crate) switch: Netns,
    pub(crate) lab: Lab,
    manifests: AtomicU32,
}

impl Site {
    /// `count` nodes that run, on the standard pool.
    pub(crate) fn start(count: u8, environment: &[(&str, &str)]) -> Self {
        let mut site = Self::prepare(count, environment);
        site.apply(POOL);
        for node in &mut site.nodes {
            node.restart_without_waiting().expect("it starts");
        }
        for node in &mut site.nodes {
            node.wait_ready().expect("it answers");
        }
        site
    }

    /// Nodes that do not run yet, on an empty datastore.
    pub(crate) fn prepare(count: u8, environment: &[(&str, &str)]) -> Self {
        let lab = Lab::new("node").expect("a laboratory (needs root)");
        let switch = lab.netns("switch").expect("a namespace");
        let (mut hosts, mut nodes, mut ports) = (Vec::new(), Vec::new(), Vec::new());
        for number in 1..=count {
            let host = lab.netns(&format!("node{number}")).expect("a namespace");
            let port = format!("p{number}");
            link::veth((&host, "eth0"), (&switch, &port)).expect("a wire");
            ports.push(port);
            let address = format!("{}/24", node_ip(number));
            link::addr(&host, "eth0", &address).expect("an address");
            link::route(&host, "default via 10.77.0.1").expect("a route");
            let mut variables = vec![("NO_DEFAULT_POOLS".to_owned(), "true".to_owned())];
            variables.extend(environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
            let settings = NodeSettings {
                name: format!("node{number}"),
                address,
                datastore: lab.dir().join("datastore"),
                environment: variables,
            };
            nodes.push(VrouterNode::prepare(&host, settings).expect("a node"));
            hosts.push(host);
        }
        let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
        link::bridge(&switch, "br0", &ports).expect("a bridge");
        link::addr(&switch, "br0", "10.77.0.1/24").expect("an address");
        Self { nodes, hosts, switch, lab, manifests: AtomicU32::new(0) }
    }

    /// A further machine on the bridge, no node: `10.77.0.<host>`.
    pub(crate) fn stranger(&self, name: &str, host: u8) -> Netns {
        let netns = self.lab.netns(name).expect("a namespace");
        let port = format!("p-{name}");
        link::veth((&netns, "eth0"), (&self.switch, &port)).expect("a wire");
        self.switch.ip(&format!("link set {port} master br0")).expect("a bridge port");
        link::addr(&netns, "eth0", &format!("10.77.0.{host}/24")).expect("an address");
        netns
    }

    /// Attaches a pod to the node with this index.
    pub(crate) fn pod(&self, node: usize, name: &str) -> Pod {
        self.pod_with(node, name, Value::Null)
    }

    /// Attaches a pod with fields of the network configuration that differ.
    pub(crate) fn pod_with(&self, node: usize, name: &str, different: Value) -> Pod {
        let netns = self.lab.netns(name).expect("a namespace");
        Pod::attach_with(&self.nodes[node], &netns, (NAMESPACE, name), different)
            .expect("the pod is attached")
    }

    /// Attaches a pod of another Kubernetes namespace.
    pub(crate) fn pod_of(&self, node: usize, namespace: &str, name: &str) -> Pod {
        let netns = self.lab.netns(name).expect("a namespace");
        Pod::attach(&self.nodes[node], &netns, namespace, name).expect("the pod is attached")
    }

    /// Applies a manifest.
    pub(crate) fn apply(&self, manifest: &str) {
        self.nodes[0].apply(&self.file(manifest)).expect("it is applied");
    }

    /// What the refused manifest's message is.
    pub(crate) fn refused(&self, manifest: &str) -> String {
        format!("{:#}", self.nodes[0].apply(&self.file(manifest)).expect_err("it is refused"))
    }

    /// Deletes what a manifest names.
    pub(crate) fn delete(&self, manifest: &str) {
        let file = self.file(manifest);
        self.nodes[0]
            .ctl(&["delete".as_ref(), "-f".as_ref(), file.as_os_str()])
            .expect("it is deleted");
    }

    pub(crate) fn file(&self, manifest: &str) -> PathBuf {
        let number = self.manifests.fetch_add(1, Ordering::Relaxed);
        let path = self.lab.dir().join(format!("manifest-{number}.yaml"));
        fs::write(&path, manifest).expect("written");
        path
    }

    /// Drops of a node by reason, those that happened.
    pub(crate) fn drops(&self, node: usize) -> BTreeMap<String, u64> {
        let value = self.nodes[node].ctl_json(&["show", "drops"]).expect("drops");
        let rows = value["drops"].as_array().expect("a list");
        rows.iter()
            .map(|row| {
                let packets = row["packets"].as_u64().expect("a number");
                (row["reason"].as_str().expect("a name").to_owned(), packets)
            })
            .filter(|(_, packets)| *packets > 0)
            .collect()
    }
}

pub(crate) fn node_ip(number: u8) -> IpAddr {
    IpAddr::from([10, 77, 0, 10 + number])
}

/// Every one of three pings is answered, at the latest after a while.
pub(crate) fn assert_ping(from: &Netns, to: IpAddr) {
    retry(PATIENCE, format!("{} pings {to}", from.short()), || {
        let result = Ping::default().run(from, to)?;
        anyhow::ensure!(result.is_complete(), "{}", result.text);
        Ok(())
    })
    .expect("answers");
}

/// No ping is answered.
pub(crate) fn assert_no_ping(from: &Netns, to: IpAddr) {
    let ping = Ping { count: 2, timeout: SILENCE, ..Ping::default() };
    let result = ping.run(from, to).expect("ping runs");
    assert_eq!(result.received, 0, "{} reaches {to}: {}", from.short(), result.text);
}

/// A TCP connection opens and carries messages both ways.
pub(crate) fn assert_tcp(from: &Netns, to: &Netns, address: IpAddr) {
    let target = SocketAddr::new(address, 7001);
    let _echo = TcpEcho::start(to, target).expect("an echo service");
    tcp(from, target, PATIENCE);
}

/// Connects to a service that is there and exchanges messages.
pub(crate) fn tcp(from: &Netns, target: SocketAddr, patience: Duration) {
    retry(patience, format!("TCP from {} to {target}", from.short()), || {
        let mut connection = connect(from, target, ANSWER)?;
        for _ in 0..3 {
            connection.exchange(ANSWER)?;
        }
        Ok(())
    })
    .expect("a connection");
}

/// Nobody answers to a SYN.
pub(crate) fn assert_no_tcp(from: &Netns, target: SocketAddr) {
    assert!(connect(from, target, SILENCE).is_err(), "{} reaches {target}", from.short());
}

/// Waits until a SYN is not answered any more.
pub(crate) fn until_no_tcp(from: &Netns, target: SocketAddr) {
    retry(PATIENCE, format!("{} to be shut out of {target}", from.short()), || {
        anyhow::ensure!(connect(from, target, SILENCE).is_err(), "it connects");
        Ok(())
    })
    .expect("shut out");
}

/// One datagram of `length` bytes is echoed.
pub(crate) fn udp_echoed(from: &Netns, target: SocketAddr, length: usize) -> bool {
    let any: SocketAddr =
        if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().expect("any");
    let socket = from.enter(|| std::net::UdpSocket::bind(any)).expect("inside").expect("a socket");
    socket.set_read_timeout(Some(SILENCE)).expect("set");
    let data: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
    if socket.send_to(&data, target).is_err() {
        return false;
    }
    let mut answer = vec![0; 65536];
    match socket.recv_from(&mut answer) {
        Ok((got, _)) => {
            assert_eq!(&answer[..got], data, "the datagram was changed on its way");
            true
        }
        Err(_) => false,
    }
}

/// A datagram of `length` bytes comes back, at the latest after a while.
pub(crate) fn assert_udp(from: &Netns, to: &Netns, address: IpAddr, length: usize) {
    let target = SocketAddr::new(address, 7002);
    let _echo = UdpEcho::start(to, target).expect("an echo service");
    retry(PATIENCE, format!("UDP from {} to {target}", from.short()), || {
        anyhow::ensure!(udp_echoed(from, target, length), "no echo of {length} bytes");
        Ok(())
    })
    .expect("echoes");
}
