//! Which of the other objects are refused?

use super::*;
use crate::api::scalar::{AsNumber, PeerAddress, Span};

#[test]
fn other_kinds() {
    all_refused(
        "Node",
        &[
            ("{bgp: {ipv4Address: 'fd00::1/64'}}", "spec.bgp.ipv4Address", "not IPv4"),
            ("{bgp: {ipv6Address: 10.0.0.1/24}}", "spec.bgp.ipv6Address", "not IPv6"),
            ("{bgp: {ipv4Address: 127.0.0.1/8}}", "spec.bgp.ipv4Address", "can reach"),
            ("{bgp: {ipv4IPIPTunnelAddr: 10.0.0.0/24}}", "spec.bgp.ipv4IPIPTunnelAddr", "invalid"),
            (
                "{bgp: {routeReflectorClusterID: one}}",
                "spec.bgp.routeReflectorClusterID",
                "invalid",
            ),
        ],
    );
    all_accepted(
        "Node",
        &[
            "{}",
            "{bgp: {asNumber: 64512, ipv4Address: 10.1.5.11/24, ipv4IPIPTunnelAddr: 10.244.0.1, routeReflectorClusterID: 244.0.0.1}}",
            "{addresses: [{address: 10.1.5.11/24, type: CalicoNodeIP}, {address: 10.1.5.11, type: InternalIP}], orchRefs: [{nodeName: one, orchestrator: k8s}]}",
        ],
    );
    all_refused(
        "IPAMConfiguration",
        &[
            ("{maxBlocksPerHost: 4}", "spec.maxBlocksPerHost", "needs strictAffinity"),
            (
                "{maxBlocksPerHost: 1000001, strictAffinity: true}",
                "spec.maxBlocksPerHost",
                "between 0 and 1000000",
            ),
            ("{ipCooldownSeconds: 1201}", "spec.ipCooldownSeconds", "between 0 and 1200"),
        ],
    );
    all_accepted(
        "IPAMConfiguration",
        &["{}", "{strictAffinity: true, autoAllocateBlocks: true, maxBlocksPerHost: 4}"],
    );
    all_refused(
        "IPReservation",
        &[("{reservedCIDRs: [10.0.0.1/24]}", "spec.reservedCIDRs[0]", "write 10.0.0.0/24")],
    );
    all_accepted("IPReservation", &["{reservedCIDRs: [10.0.0.0/24, 10.0.1.7]}"]);
    all_refused("IPAMHandle", &[("{handleID: two, block: {}}", "metadata.name", "must be two")]);
    all_accepted("IPAMHandle", &["{handleID: one, block: {10.0.0.0/26: 1}}"]);
    all_refused(
        "BlockAffinity",
        &[
            ("{cidr: 10.0.0.0/26, node: ''}", "spec.node", "is required"),
            ("{cidr: 10.0.0.0/26, node: a, state: lost}", "spec.state", "`pendingDeletion`"),
        ],
    );
    all_accepted(
        "BlockAffinity",
        &["{cidr: 10.0.0.0/26, node: a, state: confirmed, type: host, deleted: false}"],
    );
}

#[test]
fn workload_endpoints() {
    let text = |name: &str, networks: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\nmetadata: {{name: {name}, namespace: default}}\nspec: {{node: node-1, orchestrator: k8s, pod: web-0, endpoint: eth0, ipNetworks: [{networks}], interfaceName: cali0123456789a, ports: [{{name: http, protocol: TCP, port: 80}}]}}\n"
        )
    };
    let name = endpoint::endpoint_name("node-1", "web-0", "eth0");
    assert_eq!(name, "node--1-k8s-web--0-eth0");
    valid(&text(&name, "10.0.0.1/32, 'fd00::1/128'"));
    assert_eq!(refused(&text(&name, "10.0.0.0/24")).field, "spec.ipNetworks[0]");
    assert_eq!(refused(&text("web-0", "10.0.0.1/32")).field, "metadata.name");
}

#[test]
fn blocks_must_add_up() {
    let text = |allocations: &str, unallocated: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: IPAMBlock\nmetadata: {{name: 10-0-0-0-31}}\nspec: {{cidr: 10.0.0.0/31, affinity: 'host:a', strictAffinity: false, allocations: [{allocations}], unallocated: [{unallocated}], attributes: [{{handle_id: h, secondary: {{node: a}}}}]}}\n"
        )
    };
    let Resource::IpamBlock(block) = valid(&text("0, null", "1")) else { unreachable!() };
    assert_eq!(block.spec.holder(0).unwrap().handle_id.as_deref(), Some("h"));
    assert_eq!(
        (block.spec.holder(1), block.spec.node(), block.spec.in_use()),
        (None, Some("a"), 1)
    );
    assert_eq!(block.spec.ordinal(block.spec.address(1)), Some(1));
    assert_eq!(refused(&text("0", "")).field, "spec.allocations");
    assert_eq!(refused(&text("7, null", "1")).field, "spec.allocations");
    assert_eq!(refused(&text("0, null", "0, 1")).field, "spec.unallocated");
    assert_eq!(refused(&text("null, null", "1, 1")).field, "spec.unallocated");
    assert_eq!(refused(&text("null, null", "1, 2")).field, "spec.unallocated");
}

#[test]
fn metadata_rules() {
    let with = |metadata: &str| format!("apiVersion: v1\nkind: Namespace\nmetadata: {metadata}\n");
    for (metadata, field) in [
        ("{}", "metadata.name"),
        ("{name: Upper}", "metadata.name"),
        ("{name: ../../etc/passwd}", "metadata.name"),
        ("{name: a..b}", "metadata.name"),
        ("{name: .hidden}", "metadata.name"),
        ("{name: 7}", "metadata.name"),
        ("{name: a, namespace: b}", "metadata.namespace"),
        ("{name: a, labels: {a b: c}}", "metadata.labels"),
        ("{name: a, labels: {a: c d}}", "metadata.labels.a"),
        ("{name: a, labels: {a: true}}", "metadata.labels.a"),
    ] {
        assert_eq!(refused(&with(metadata)).field, field, "{metadata}");
    }
    let pod = valid(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, managedFields: [{manager: x}]}\nspec: {containers: [{name: c, image: i, ports: [{containerPort: 80, name: http}]}], nodeName: n, tolerations: []}\nstatus: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}], qosClass: Burstable}\n",
    );
    assert_eq!(pod.key(), Key::namespaced(Kind::Pod, "default", "a"));
    let Resource::Pod(pod) = pod else { unreachable!() };
    assert_eq!(pod.status.addresses().count(), 2);
    let exported = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: a, uid: u, resourceVersion: '7', creationTimestamp: null, managedFields: [{a: b}], generation: 1}\nspec: {cidr: 10.0.0.0/16}\nstatus: {conditions: [{type: Allocatable, status: 'True'}]}\n";
    assert_eq!(valid(exported).revision(), "7");
}

#[test]
fn kinds_that_are_not_known() {
    let text =
        |api: &str, kind: &str| format!("apiVersion: {api}\nkind: {kind}\nmetadata: {{name: a}}\n");
    for (api, kind, field, words) in [
        ("projectcalico.org/v3", "BGPFilter", "kind", "not supported yet"),
        ("projectcalico.org/v3", "GlobalNetworkPolicy", "kind", "not supported yet"),
        ("projectcalico.org/v3", "NetworkPolicy", "kind", "not supported yet"),
        ("crd.projectcalico.org/v1", "IPPool", "apiVersion", "projectcalico.org/v3"),
        ("projectcalico.org/v3", "IpPool", "kind", "IPPool"),
        ("v1", "ConfigMap", "kind", "known are Namespace, Pod"),
        ("apps/v1", "Deployment", "apiVersion", "unknown apiVersion"),
        ("''", "IPPool", "apiVersion", "is required"),
        ("v1", "''", "kind", "is required"),
        ("v1", "7", "kind", "is required"),
    ] {
        let refusal = refused(&text(api, kind));
        assert_eq!(refusal.field, field, "{refusal}");
        assert!(refusal.reason.contains(words), "{refusal}");
    }
}

#[test]
fn scalars() {
    let span = |text: &str| text.parse::<Span>().map(|span| span.0.as_millis()).ok();
    assert_eq!(
        (span("1m30s"), span("90s"), span("1h"), span("500ms")),
        (Some(90_000), Some(90_000), Some(3_600_000), Some(500))
    );
    assert_eq!(
        (span(""), span("90"), span("s"), span("-1s"), span("99999999999999999999h")),
        (None, None, None, None, None)
    );
    let number = |text: &str| text.parse::<AsNumber>().map(|number| number.0).ok();
    assert_eq!(
        (number("1.10"), number("64512"), number("0"), number("0.0"), number("1.65536")),
        (Some(65_546), Some(64_512), None, None, None)
    );
    let peer = |text: &str| text.parse::<PeerAddress>().map(|peer| peer.to_string()).ok();
    assert_eq!(peer("[2001:db8::1]:1790").as_deref(), Some("[2001:db8::1]:1790"));
    assert_eq!(
        (peer("2001:db8::1").as_deref(), peer("10.0.0.1:99999"), peer("host")),
        (Some("2001:db8::1"), None, None)
    );
    assert_eq!(ipam::handle_name("k8s-pod-network.0123abc"), "k8s-pod-network.0123abc");
    assert_ne!(ipam::handle_name("A"), ipam::handle_name("a"));
    assert!(metadata::is_subdomain(&ipam::handle_name(&"x/".repeat(300))));
}

#[test]
fn operators_words_for_kinds() {
    for kind in Kind::ALL {
        assert_eq!(Kind::from_word(kind.as_str()), Some(*kind));
        assert_eq!(Kind::from_word(kind.plural()), Some(*kind));
        assert_eq!(Kind::from_manifest(kind.api_version(), kind.as_str()), Some(*kind));
        assert!(kind.aliases().iter().all(|alias| Kind::from_word(alias) == Some(*kind)));
    }
}
