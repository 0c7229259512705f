//! What is said about a node of the network?

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::{
    Faults, Metadata, Object, Specification, is_default,
    scalar::{AsNumber, Cidr},
};

/// A node: its addresses and BGP settings.
pub type Node = Object<NodeSpec, NodeStatus>;

/// What is wanted of a node; it writes most of it itself at start-up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSpec {
    /// BGP settings; a node without them speaks no BGP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bgp: Option<NodeBgp>,
    /// The address of its IPv4 VXLAN tunnel.
    #[serde(rename = "ipv4VXLANTunnelAddr", skip_serializing_if = "Option::is_none")]
    pub ipv4_vxlan_tunnel_addr: Option<Ipv4Addr>,
    /// The address of its IPv6 VXLAN tunnel.
    #[serde(rename = "ipv6VXLANTunnelAddr", skip_serializing_if = "Option::is_none")]
    pub ipv6_vxlan_tunnel_addr: Option<Ipv6Addr>,
    /// The Ethernet address of its IPv4 VXLAN tunnel.
    #[serde(rename = "vxlanTunnelMACAddr", skip_serializing_if = "Option::is_none")]
    pub vxlan_tunnel_mac_addr: Option<String>,
    /// The Ethernet address of its IPv6 VXLAN tunnel.
    #[serde(rename = "vxlanTunnelMACAddrV6", skip_serializing_if = "Option::is_none")]
    pub vxlan_tunnel_mac_addr_v6: Option<String>,
    /// `WireGuard`'s addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wireguard: Option<NodeWireguard>,
    /// What orchestrators call the node.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub orch_refs: Vec<OrchRef>,
    /// Every address by which the node is known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<NodeAddress>,
    /// Its interfaces, where they matter to others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<NodeInterface>,
}

/// A node's BGP settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeBgp {
    /// Its AS number; `None` takes the BGP configuration's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_number: Option<AsNumber>,
    /// Its IPv4 address with its subnet's prefix length, which decides `CrossSubnet`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv4_address: Option<Cidr>,
    /// Its IPv6 address with its subnet's prefix length.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6_address: Option<Cidr>,
    /// The address of `tunl0`, from a pool.
    #[serde(rename = "ipv4IPIPTunnelAddr", skip_serializing_if = "Option::is_none")]
    pub ipv4_ipip_tunnel_addr: Option<Ipv4Addr>,
    /// Makes the node a route reflector of this cluster and takes it out of the mesh.
    #[serde(rename = "routeReflectorClusterID", skip_serializing_if = "Option::is_none")]
    pub route_reflector_cluster_id: Option<Ipv4Addr>,
}

/// `WireGuard`'s addresses on a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeWireguard {
    /// Of the IPv4 device.
    #[serde(rename = "interfaceIPv4Address", skip_serializing_if = "Option::is_none")]
    pub interface_ipv4_address: Option<Ipv4Addr>,
    /// Of the IPv6 device.
    #[serde(rename = "interfaceIPv6Address", skip_serializing_if = "Option::is_none")]
    pub interface_ipv6_address: Option<Ipv6Addr>,
}

/// What an orchestrator calls the node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrchRef {
    /// The name there.
    #[serde(default, skip_serializing_if = "is_default")]
    pub node_name: String,
    /// Which one, such as `k8s`.
    pub orchestrator: String,
}

/// One address of a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeAddress {
    /// The address, with a prefix length where it is the node's BGP address.
    pub address: Cidr,
    /// What it is for.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<NodeAddressKind>,
}

/// What an address of a node is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeAddressKind {
    /// What nodes reach each other by.
    CalicoNodeIP,
    /// Kubernetes' internal address.
    InternalIP,
    /// Kubernetes' external address.
    ExternalIP,
}

/// One interface of a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeInterface {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<Cidr>,
}

/// What is known about a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatus {
    /// The IPv4 `WireGuard` device's public key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wireguard_public_key: Option<String>,
    /// The IPv6 `WireGuard` device's public key.
    #[serde(rename = "wireguardPublicKeyV6", skip_serializing_if = "Option::is_none")]
    pub wireguard_public_key_v6: Option<String>,
    /// The ranges Kubernetes gave to the node.
    #[serde(rename = "podCIDRs", skip_serializing_if = "Vec::is_empty")]
    pub pod_cidrs: Vec<Cidr>,
}

impl Specification for NodeSpec {
    fn validate(&self, _: &Metadata, faults: &mut Faults) {
        let Some(bgp) = &self.bgp else { return };
        if let Some(address) = bgp.ipv4_address.filter(|address| !address.addr().is_ipv4()) {
            faults.add(
                "spec.bgp.ipv4Address",
                address,
                "not IPv4; write an address such as 10.1.5.11/24",
            );
        }
        if let Some(address) = bgp.ipv6_address.filter(|address| !address.addr().is_ipv6()) {
            faults.add(
                "spec.bgp.ipv6Address",
                address,
                "not IPv6; write an address such as fd00::11/64",
            );
        }
        for (field, address) in
            [("spec.bgp.ipv4Address", bgp.ipv4_address), ("spec.bgp.ipv6Address", bgp.ipv6_address)]
        {
            let Some(address) = address else { continue };
            let ip = address.addr();
            if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() {
                faults.add(
                    field,
                    address,
                    "not an address by which other nodes can reach this one",
                );
            }
        }
    }
}
