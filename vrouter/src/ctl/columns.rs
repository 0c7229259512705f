//! Which columns does a table of each kind have? Those of `calicoctl get`, where it knows the kind.

use super::table::Table;
use crate::api::{BgpPeerSpec, IpPoolSpec, Kind, Resource, WorkloadEndpointSpec};

/// The resources of one kind as a table.
pub(super) fn table<'a>(
    kind: Kind,
    resources: impl Iterator<Item = &'a Resource>,
    wide: bool,
    with_namespace: bool,
) -> Table {
    let namespace = with_namespace && kind.namespaced();
    let lead = namespace.then_some("NAMESPACE");
    let mut table = Table::new(lead.into_iter().chain(headings(kind, wide).iter().copied()));
    for resource in resources {
        let lead = namespace.then(|| resource.metadata().namespace.clone().unwrap_or_default());
        table.row(lead.into_iter().chain(cells(resource, wide)));
    }
    table
}

const fn headings(kind: Kind, wide: bool) -> &'static [&'static str] {
    match (kind, wide) {
        (Kind::Node, true) => &["NAME", "ASN", "IPV4", "IPV6"],
        (Kind::IpPool, false) => &["NAME", "CIDR", "SELECTOR"],
        (Kind::IpPool, true) => &[
            "NAME",
            "CIDR",
            "NAT",
            "IPIPMODE",
            "VXLANMODE",
            "DISABLED",
            "DISABLEBGPEXPORT",
            "SELECTOR",
            "ASSIGNMENTMODE",
        ],
        (Kind::BgpConfiguration, _) => &["NAME", "LOGSEVERITY", "MESHENABLED", "ASNUMBER"],
        (Kind::BgpPeer, _) => &["NAME", "PEERIP", "NODE", "ASN"],
        (Kind::WorkloadEndpoint, false) => &["WORKLOAD", "NODE", "NETWORKS", "INTERFACE"],
        (Kind::WorkloadEndpoint, true) => {
            &["NAME", "WORKLOAD", "NODE", "NETWORKS", "INTERFACE", "PROFILES", "NATS"]
        }
        (Kind::IpamBlock, _) => &["NAME", "CIDR", "AFFINITY", "IN-USE"],
        (Kind::BlockAffinity, _) => &["NAME", "CIDR", "NODE", "STATE"],
        (Kind::IpamHandle, _) => &["NAME", "BLOCKS"],
        (Kind::IpamConfiguration, _) => {
            &["NAME", "STRICTAFFINITY", "MAXBLOCKSPERHOST", "AUTOALLOCATEBLOCKS"]
        }
        (Kind::IpReservation, true) => &["NAME", "CIDRS"],
        (Kind::NetworkPolicy, _) => &["NAME", "POD-SELECTOR", "TYPES"],
        (Kind::Pod, _) => &["NAME", "NODE", "IPS", "PHASE"],
        (Kind::Namespace, true) => &["NAME", "LABELS"],
        (Kind::Node | Kind::IpReservation | Kind::Namespace, false) => &["NAME"],
    }
}

fn cells(resource: &Resource, wide: bool) -> Vec<String> {
    let name = resource.metadata().name.clone();
    let labels =
        || joined(resource.metadata().labels.iter().map(|(key, value)| format!("{key}={value}")));
    match resource {
        Resource::Node(node) if wide => {
            let bgp = node.spec.bgp.clone().unwrap_or_default();
            vec![name, shown(bgp.as_number), shown(bgp.ipv4_address), shown(bgp.ipv6_address)]
        }
        Resource::IpPool(pool) => pool_cells(name, &pool.spec, wide),
        Resource::BgpConfiguration(config) => {
            let spec = &config.spec;
            let level = spec.log_severity_screen.clone();
            vec![name, shown(level), shown(spec.node_to_node_mesh_enabled), shown(spec.as_number)]
        }
        Resource::BgpPeer(peer) => peer_cells(name, &peer.spec),
        Resource::WorkloadEndpoint(endpoint) => endpoint_cells(name, &endpoint.spec, wide),
        Resource::IpamBlock(block) => {
            let spec = &block.spec;
            let in_use = format!("{} of {}", spec.in_use(), spec.allocations.len());
            vec![name, spec.cidr.to_string(), shown(spec.affinity.clone()), in_use]
        }
        Resource::BlockAffinity(affinity) => {
            let spec = &affinity.spec;
            let state = serde_json::to_value(spec.state).ok();
            let state = state.as_ref().and_then(|state| state.as_str()).unwrap_or_default();
            vec![name, spec.cidr.to_string(), spec.node.clone(), state.to_owned()]
        }
        Resource::IpamHandle(handle) => vec![name, joined(handle.spec.block.keys().cloned())],
        Resource::IpamConfiguration(config) => {
            let spec = &config.spec;
            let limit = spec.max_blocks_per_host.to_string();
            vec![
                name,
                spec.strict_affinity.to_string(),
                limit,
                spec.auto_allocate_blocks.to_string(),
            ]
        }
        Resource::IpReservation(reservation) if wide => {
            vec![name, joined(reservation.spec.reserved_cidrs.iter().map(ToString::to_string))]
        }
        Resource::NetworkPolicy(policy) => {
            let selector = serde_json::to_value(&policy.spec.pod_selector).unwrap_or_default();
            let selector = if selector.as_object().is_none_or(serde_json::Map::is_empty) {
                "<all>".to_owned()
            } else {
                selector.to_string()
            };
            let types = policy.spec.policy_types.iter().map(|direction| format!("{direction:?}"));
            vec![name, selector, joined(types)]
        }
        Resource::Pod(pod) => {
            let addresses = joined(pod.status.addresses().map(|address| address.to_string()));
            vec![name, pod.spec.node_name.clone(), addresses, pod.status.phase.clone()]
        }
        Resource::Namespace(_) if wide => vec![name, labels()],
        Resource::Node(_) | Resource::IpReservation(_) | Resource::Namespace(_) => vec![name],
    }
}

fn pool_cells(name: String, spec: &IpPoolSpec, wide: bool) -> Vec<String> {
    let cidr = spec.cidr.to_string();
    if !wide {
        return vec![name, cidr, spec.node_selector.clone()];
    }
    vec![
        name,
        cidr,
        spec.nat_outgoing.to_string(),
        spec.ipip_mode.to_string(),
        spec.vxlan_mode.to_string(),
        spec.disabled.to_string(),
        spec.disable_bgp_export.to_string(),
        spec.node_selector.clone(),
        format!("{:?}", spec.assignment_mode),
    ]
}

fn peer_cells(name: String, spec: &BgpPeerSpec) -> Vec<String> {
    let node = match (spec.node.as_str(), spec.node_selector.as_str()) {
        ("", "") => "(global)",
        ("", selector) => selector,
        (node, _) => node,
    };
    let peer =
        spec.peer_ip.map_or_else(|| spec.peer_selector.clone(), |address| address.to_string());
    vec![name, peer, node.to_owned(), shown(spec.as_number)]
}

fn endpoint_cells(name: String, spec: &WorkloadEndpointSpec, wide: bool) -> Vec<String> {
    let workload = if spec.pod.is_empty() { spec.workload.clone() } else { spec.pod.clone() };
    let networks = joined(spec.ip_networks.iter().map(ToString::to_string));
    let mut cells = vec![workload, spec.node.clone(), networks, spec.interface_name.clone()];
    if wide {
        cells.insert(0, name);
        cells.push(joined(spec.profiles.iter().cloned()));
        cells.push(joined(spec.ip_nats.iter().map(ToString::to_string)));
    }
    cells
}

fn joined(texts: impl Iterator<Item = String>) -> String {
    texts.collect::<Vec<_>>().join(",")
}

/// A value, or a dash where there is none.
fn shown(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}
