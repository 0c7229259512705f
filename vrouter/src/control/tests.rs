//! What do the datastore's objects mean? Routes, BGP, policy inputs, from manifests.

use super::routing::block_routes;
use super::world::World;
use super::{bgp, convert};
use crate::api::parse_documents;
use crate::config::{NodeConfig, RunArgs};
use ipnet::IpNet;
use policy::Change;
use slowpath::bgp::PeerKind;
use slowpath::rib::table::Via;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

fn world(me: &str, manifests: &[&str]) -> World {
    let mut world = World::new(me);
    for manifest in manifests {
        let parsed = parse_documents(manifest, Path::new("test.yaml"));
        assert!(parsed.refusals.is_empty(), "{:?}", parsed.refusals);
        for object in parsed.objects {
            world.upsert(object.resource);
        }
    }
    world
}

fn node(name: &str, address: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {{name: {name}, labels: {{rack: a}}}}\n\
         spec: {{bgp: {{ipv4Address: {address}}}}}"
    )
}

fn pool(mode: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{name: pool}}\n\
         spec: {{cidr: 192.168.0.0/16, ipipMode: {mode}}}"
    )
}

/// A block of eight addresses; `holders` says which node holds which of them.
fn block(cidr: &str, owner: &str, holders: &[(usize, &str)]) -> String {
    let slots: Vec<_> = (0..8)
        .map(|i| holders.iter().position(|(o, _)| *o == i).map_or("null".into(), |p| p.to_string()))
        .collect();
    let free: Vec<_> =
        (0..8).filter(|i| !holders.iter().any(|(o, _)| o == i)).map(|i| i.to_string()).collect();
    let attributes: Vec<_> = holders
        .iter()
        .map(|(o, node)| format!("{{handle_id: h{o}, secondary: {{node: {node}}}}}"))
        .collect();
    format!(
        "apiVersion: projectcalico.org/v3\nkind: IPAMBlock\nmetadata: {{name: {}}}\n\
         spec:\n  cidr: {cidr}\n  affinity: host:{owner}\n  strictAffinity: false\n  allocations: [{}]\n  \
         unallocated: [{}]\n  attributes: [{}]",
        cidr.replace(['.', '/'], "-"),
        slots.join(", "),
        free.join(", "),
        attributes.join(", "),
    )
}

fn three_nodes(mode: &str) -> World {
    world(
        "n1",
        &[
            &node("n1", "10.1.5.11/24"),
            &node("n2", "10.1.5.12/24"),
            &node("n3", "10.1.8.13/24"),
            &pool(mode),
            &block("192.168.1.0/29", "n1", &[(0, "n1"), (1, "n3")]),
            &block("192.168.2.0/29", "n2", &[]),
            &block("192.168.3.0/29", "n3", &[(2, "n1"), (3, "n2")]),
        ],
    )
}

#[test]
fn blocks_are_reached_as_the_pools_mode_says() {
    let to = |a: [u8; 4], encapsulate| Some(Via::Node { address: Ipv4Addr::from(a), encapsulate });
    for (mode, near, far) in [
        ("Always", to([10, 1, 5, 12], true), to([10, 1, 8, 13], true)),
        ("CrossSubnet", to([10, 1, 5, 12], false), to([10, 1, 8, 13], true)),
        // BGP decides.
        ("Never", None, None),
    ] {
        let routes = block_routes(&three_nodes(mode), "n1");
        let via = |p: &str| routes.others.get(&net(p)).cloned();
        assert_eq!(via("192.168.2.0/29"), near, "{mode}");
        assert_eq!(via("192.168.3.0/29"), far, "{mode}");
        // n3 borrowed an address of n1's block, n2 one of n3's.
        assert_eq!(via("192.168.1.1/32"), far, "{mode}");
        assert_eq!(via("192.168.3.3/32"), near, "{mode}");
        assert_eq!(routes.own, BTreeMap::from([(net("192.168.1.0/29"), Via::Blackhole)]));
        // The block, and the address n1 borrowed from n3.
        let announced = ["192.168.1.0/29", "192.168.3.2/32"].map(net);
        assert_eq!(routes.announced, BTreeSet::from(announced), "{mode}");
        let peers = [[10, 1, 5, 12], [10, 1, 8, 13]].map(Ipv4Addr::from);
        assert_eq!(routes.tunnel_peers, peers);
    }
}

#[test]
fn a_pool_kept_from_bgp_is_not_announced() {
    let hidden = pool("Always").replace('}', ", disableBGPExport: true}").replacen(
        ", disableBGPExport: true",
        "",
        1,
    );
    let mut world = three_nodes("Always");
    for object in parse_documents(&hidden, Path::new("t")).objects {
        world.upsert(object.resource);
    }
    let routes = block_routes(&world, "n1");
    assert!(routes.announced.is_empty() && !routes.own.is_empty());
}

fn config() -> NodeConfig {
    let environment = BTreeMap::from([("NODENAME".to_owned(), "n1".to_owned())]);
    NodeConfig::resolve(&RunArgs::default(), &environment, None).expect("defaults are valid")
}

fn desired(world: &World) -> bgp::Desired {
    bgp::desired(world, "n1", &config(), &BTreeSet::from([net("192.168.1.0/29")]))
}

#[test]
fn nodes_form_a_mesh_with_one_waiting_side() {
    // "10.1.5.9" is the greater string, though the smaller address: as Calico's nodes compare.
    let world =
        world("n1", &[&node("n1", "10.1.5.10/24"), &node("n2", "10.1.5.9/24"), &pool("Never")]);
    let wanted = desired(&world);
    let global = wanted.global.expect("an address, so a speaker");
    assert_eq!((global.local_as, global.router_id), (64_512, Ipv4Addr::new(10, 1, 5, 10)));
    let [peer] = &wanted.peers[..] else { panic!("one peer: {:?}", wanted.peers) };
    assert_eq!((peer.kind, peer.passive, peer.remote_as), (PeerKind::Mesh, true, 64_512));
    let [route] = &wanted.originated[..] else { panic!("one route") };
    // Calico's BIRD ranks by local preference: the kernel metric 1024, turned round.
    assert_eq!(route.local_pref, Some(2_147_483_647 - 1_024));
}

#[test]
fn bgp_objects_say_who_peers_with_whom() {
    let base = [node("n1", "10.1.5.11/24"), node("n2", "10.1.5.12/24"), pool("Never")];
    let base: Vec<&str> = base.iter().map(String::as_str).collect();
    let with = |more: &[&str]| {
        let world = world("n1", &[&base[..], more].concat());
        desired(&world)
    };
    let configuration = "apiVersion: projectcalico.org/v3\nkind: BGPConfiguration\n\
        metadata: {name: default}\nspec: {asNumber: 63400, nodeToNodeMeshEnabled: false, listenPort: 1179}";
    let quiet = with(&[configuration]);
    assert!(quiet.peers.is_empty());
    let global = quiet.global.expect("a speaker");
    assert_eq!((global.local_as, global.listen_port), (63_400, 1_179));

    let peer = |spec: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {{name: tor}}\nspec: {{{spec}}}"
        )
    };
    let tor = "peerIP: 10.1.5.1, asNumber: 65000";
    let kinds = |spec: &str| -> Vec<(IpAddr, u32, PeerKind)> {
        let wanted = with(&[configuration, &peer(spec)]);
        wanted.peers.iter().map(|p| (p.address, p.remote_as, p.kind)).collect()
    };
    let address = IpAddr::from([10, 1, 5, 1]);
    assert_eq!(kinds(tor), [(address, 65_000, PeerKind::Global)]);
    assert_eq!(kinds(&format!("{tor}, node: n1")), [(address, 65_000, PeerKind::NodeSpecific)]);
    assert_eq!(kinds(&format!("{tor}, node: n2")), []);
    let selected = format!("{tor}, nodeSelector: rack == 'a'");
    assert_eq!(kinds(&selected), [(address, 65_000, PeerKind::NodeSpecific)]);
    assert_eq!(kinds(&format!("{tor}, nodeSelector: rack == 'b'")), []);
    let others = kinds("peerSelector: all()");
    assert_eq!(others, [(IpAddr::from([10, 1, 5, 12]), 63_400, PeerKind::Global)]);
}

#[test]
fn a_pods_labels_are_its_pod_objects_and_its_addresses_its_endpoints() {
    let endpoint = "apiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\n\
        metadata: {name: n1-k8s-web-eth0, namespace: shop, labels: {app: old}}\n\
        spec: {orchestrator: k8s, node: n1, pod: web, endpoint: eth0, containerID: c, \
        interfaceName: cali1, ipNetworks: [192.168.1.2/32]}";
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop, labels: {app: web}}\n\
        spec: {containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}";
    let alone = world("n1", &[endpoint]);
    let both = world("n1", &[endpoint, pod]);
    let workload = |world: &World| {
        let key = crate::api::Key::namespaced(
            crate::api::Kind::WorkloadEndpoint,
            "shop",
            "n1-k8s-web-eth0",
        );
        let about = world.get(&key).expect("the endpoint").clone();
        convert::changes(world, &about)
            .into_iter()
            .find_map(|change| match change {
                Change::Workload(workload) => Some(workload),
                _ => None,
            })
            .expect("a workload")
    };
    let known = workload(&alone);
    assert_eq!(known.labels.get("app").map(String::as_str), Some("old"));
    assert_eq!(known.addresses, [IpAddr::from([192, 168, 1, 2])]);
    assert!(known.local && !known.finished);
    let known = workload(&both);
    assert_eq!(known.labels.get("app").map(String::as_str), Some("web"));
    assert_eq!(known.ports.len(), 1);
    assert!(!workload(&world("n2", &[endpoint])).local);
}

#[test]
fn what_an_endpoint_grants_follows_its_object() {
    use super::workloads::{Record, Workload, Workloads};
    let endpoint = |granted: &str| {
        let manifest = format!(
            "apiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\n\
             metadata: {{name: n1-k8s-web-eth0, namespace: shop}}\n\
             spec: {{orchestrator: k8s, node: n1, pod: web, endpoint: eth0, containerID: c, \
             interfaceName: cali1, ipNetworks: [192.168.1.2/32], allowSpoofedSourcePrefixes: [{granted}]}}"
        );
        let parsed = parse_documents(&manifest, Path::new("test.yaml"));
        parsed.objects.into_iter().next().expect("an endpoint").resource
    };
    let record = Record {
        namespace: "shop".into(),
        endpoint: "n1-k8s-web-eth0".into(),
        pod: "web".into(),
        container_id: "c".into(),
        netns: "/run/netns/web".into(),
        interface: "eth0".into(),
        port: "cali1".into(),
        kind: crate::config::PodPort::Tun,
        addresses: vec![IpAddr::from([192, 168, 1, 2])],
        mtu: 1480,
        mac: [0; 6],
        host_link: None,
        ip_forwarding: false,
    };
    let key = endpoint("").key();
    let mut workloads = Workloads::default();
    workloads.insert(Workload {
        key: convert::workload_key(&key),
        resource: key,
        port: fastpath::packet::PortId(1),
        record,
        granted: Vec::new(),
        mac: [0; 6],
    });
    assert!(!workloads.grant(&endpoint("")));
    assert!(workloads.grant(&endpoint("10.9.0.0/16")));
    let sources = workloads.get("cali1").expect("attached").sources();
    assert_eq!(sources, [net("192.168.1.2/32"), net("10.9.0.0/16")]);
    assert!(workloads.grant(&endpoint("")));
}
