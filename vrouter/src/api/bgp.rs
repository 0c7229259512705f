//! What is said about BGP: for all nodes, for one, and about other speakers?

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{
    Faults, Metadata, Object, Specification, is_default,
    scalar::{AsNumber, Cidr, PeerAddress, Span, check_selector},
};

/// BGP settings: the object `default` for all nodes, `node.<name>` for one.
pub type BgpConfiguration = Object<BgpConfigurationSpec>;

/// BGP speakers that some nodes peer with.
pub type BgpPeer = Object<BgpPeerSpec>;

/// The AS number of nodes that were given none.
pub const DEFAULT_AS_NUMBER: AsNumber = AsNumber(64_512);

/// What is wanted of BGP.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BgpConfigurationSpec {
    /// The AS number; see [`DEFAULT_AS_NUMBER`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_number: Option<AsNumber>,
    /// Whether every node peers with every other; `None` is yes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_to_node_mesh_enabled: Option<bool>,
    /// The TCP port; `None` is 179.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen_port: Option<u16>,
    /// What the speaker logs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_severity_screen: Option<String>,
    /// Which address it listens on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind_mode: Option<BindMode>,
    /// Names for communities.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub communities: Vec<Community>,
    /// Communities added to prefixes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prefix_advertisements: Vec<PrefixAdvertisement>,
    /// The mesh's TCP-MD5 password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_mesh_password: Option<Password>,
    /// How long the mesh keeps the routes of a restarting node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_mesh_max_restart_time: Option<Span>,
    /// Interfaces whose routes are not learned.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ignored_interfaces: Vec<String>,
    /// Service ranges to advertise.
    #[serde(rename = "serviceClusterIPs", skip_serializing_if = "Vec::is_empty")]
    pub service_cluster_ips: Vec<Block>,
    /// Ranges of services' external addresses to advertise.
    #[serde(rename = "serviceExternalIPs", skip_serializing_if = "Vec::is_empty")]
    pub service_external_ips: Vec<Block>,
    /// Ranges of load balancers' addresses to advertise.
    #[serde(rename = "serviceLoadBalancerIPs", skip_serializing_if = "Vec::is_empty")]
    pub service_load_balancer_ips: Vec<Block>,
    /// Whether load balancers' addresses are advertised as their range.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_load_balancer_aggregation: Option<Switch>,
    /// The address workloads peer with.
    #[serde(rename = "localWorkloadPeeringIPV4", skip_serializing_if = "Option::is_none")]
    pub local_workload_peering_ipv4: Option<IpAddr>,
    /// The IPv6 address workloads peer with.
    #[serde(rename = "localWorkloadPeeringIPV6", skip_serializing_if = "Option::is_none")]
    pub local_workload_peering_ipv6: Option<IpAddr>,
    /// Which cluster routes BGP programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program_cluster_routes: Option<ProgramClusterRoutes>,
    /// The metric of ordinary IPv4 routes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv4_normal_route_priority: Option<u32>,
    /// The metric of ordinary IPv6 routes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6_normal_route_priority: Option<u32>,
}

impl BgpConfigurationSpec {
    /// Whether every node peers with every other.
    pub fn mesh_enabled(&self) -> bool {
        self.node_to_node_mesh_enabled.unwrap_or(true)
    }
}

/// Which address a speaker listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BindMode {
    /// All.
    None,
    /// The node's.
    NodeIP,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Switch {
    /// On.
    Enabled,
    /// Off.
    Disabled,
}

/// Which cluster routes BGP programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProgramClusterRoutes {
    /// All.
    Enabled,
    /// None.
    Disabled,
    /// Those of pools with IPIP.
    EnabledIPIPOnly,
    /// Those of pools without encapsulation.
    EnabledNoEncapOnly,
}

/// A community with a name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Community {
    /// Its name.
    pub name: String,
    /// Two or three numbers with colons between them.
    pub value: String,
}

/// Communities for one prefix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PrefixAdvertisement {
    /// The prefix.
    pub cidr: Cidr,
    /// Names or values of communities.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub communities: Vec<String>,
}

/// A range, wrapped as the API wants it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Block {
    /// The range.
    pub cidr: Cidr,
}

/// Where a password is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Password {
    /// The secret and the key in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<SecretKeyRef>,
}

/// A key of a Kubernetes secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SecretKeyRef {
    /// The secret.
    #[serde(default)]
    pub name: String,
    /// The key.
    pub key: String,
    /// Whether it may be missing.
    #[serde(default, skip_serializing_if = "is_default")]
    pub optional: bool,
}

/// What is wanted of peers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BgpPeerSpec {
    /// The one node that peers; neither this nor a selector: all nodes.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// The nodes that peer.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node_selector: String,
    /// The speaker's address.
    #[serde(rename = "peerIP", skip_serializing_if = "Option::is_none")]
    pub peer_ip: Option<PeerAddress>,
    /// The nodes that are peered with.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub peer_selector: String,
    /// The workloads that are peered with.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub local_workload_selector: String,
    /// The speaker's AS number; `None` is that of our nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_number: Option<AsNumber>,
    /// Our AS number towards it.
    #[serde(rename = "localASNumber", skip_serializing_if = "Option::is_none")]
    pub local_as_number: Option<AsNumber>,
    /// How often our own AS number may stand in a received path.
    #[serde(rename = "numAllowedLocalASNumbers", skip_serializing_if = "Option::is_none")]
    pub num_allowed_local_as_numbers: Option<u32>,
    /// Whether next hops are sent on unchanged; the older way to say it.
    #[serde(skip_serializing_if = "is_default")]
    pub keep_original_next_hop: bool,
    /// Which next hop is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_hop_mode: Option<NextHopMode>,
    /// How often a keepalive is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keepalive_time: Option<Span>,
    /// How long the routes of a restarting speaker are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_restart_time: Option<Span>,
    /// The TCP-MD5 password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Password>,
    /// The gateway behind which the speaker is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reachable_by: Option<IpAddr>,
    /// Whether the selected peers also peer back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reverse_peering: Option<ReversePeering>,
    /// Which address the session comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_address: Option<SourceAddress>,
    /// The hops a speaker may be away (RFC 5082).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_security: Option<u8>,
    /// Filters, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<String>,
}

/// Which next hop is sent to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NextHopMode {
    /// As BGP has it.
    Auto,
    /// Our own address.
    #[serde(rename = "Self")]
    Own,
    /// What was received.
    Keep,
}

/// Whether selected peers also peer back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReversePeering {
    /// They do.
    Auto,
    /// Another object says so.
    Manual,
}

/// Which address a session comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SourceAddress {
    /// The node's.
    UseNodeIP,
    /// The one the kernel chooses.
    None,
}

impl Specification for BgpConfigurationSpec {
    fn validate(&self, metadata: &Metadata, faults: &mut Faults) {
        if metadata.name != "default" && !metadata.name.starts_with("node.") {
            faults.add(
                "metadata.name",
                &metadata.name,
                "write default for the settings of all nodes, or node.<name> for those of one",
            );
        }
        faults.add_if(
            self.listen_port == Some(0),
            "spec.listenPort",
            0,
            "must be between 1 and 65535",
        );
        if let Some(level) = &self.log_severity_screen {
            let known = ["trace", "debug", "info", "warning", "error", "fatal"];
            if !known.contains(&level.to_ascii_lowercase().as_str()) {
                faults.add(
                    "spec.logSeverityScreen",
                    level,
                    "write Trace, Debug, Info, Warning, Error or Fatal",
                );
            }
        }
        if !self.mesh_enabled() {
            let advice = "cannot be set when nodeToNodeMeshEnabled is false; remove one of the two";
            faults.add_if(self.node_mesh_password.is_some(), "spec.nodeMeshPassword", "", advice);
            if let Some(time) = self.node_mesh_max_restart_time {
                faults.add("spec.nodeMeshMaxRestartTime", time, advice);
            }
        }
        faults.add_if(
            !self.communities.is_empty() && self.prefix_advertisements.is_empty(),
            "spec.communities",
            "",
            "communities are defined but not used in prefixAdvertisements",
        );
        self.validate_communities(faults);
        for (field, priority) in [
            ("spec.ipv4NormalRoutePriority", self.ipv4_normal_route_priority),
            ("spec.ipv6NormalRoutePriority", self.ipv6_normal_route_priority),
        ] {
            if let Some(priority) =
                priority.filter(|priority| !(1..=2_147_483_646).contains(priority))
            {
                faults.add(field, priority, "must be between 1 and 2147483646");
            }
        }
    }
}

impl BgpConfigurationSpec {
    fn validate_communities(&self, faults: &mut Faults) {
        for (index, community) in self.communities.iter().enumerate() {
            if !is_community(&community.value) {
                faults.add(format!("spec.communities[{index}].value"), &community.value, COMMUNITY);
            }
        }
        for (index, prefix) in self.prefix_advertisements.iter().enumerate() {
            for community in &prefix.communities {
                let named = self.communities.iter().any(|known| known.name == *community);
                if !named && !is_community(community) {
                    let field = format!("spec.prefixAdvertisements[{index}].communities");
                    faults.add(
                        field,
                        community,
                        format!("no community of that name, and {COMMUNITY}"),
                    );
                }
            }
        }
    }
}

const COMMUNITY: &str =
    "not a community; write two numbers up to 65535, such as 64512:100, or three up to 4294967295";

/// A standard (RFC 1997) or large (RFC 8092) community.
fn is_community(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    let plain = |part: &&str| part.bytes().all(|b| b.is_ascii_digit());
    parts.iter().all(plain)
        && match parts.len() {
            2 => parts.iter().all(|part| part.parse::<u16>().is_ok()),
            3 => parts.iter().all(|part| part.parse::<u32>().is_ok()),
            _ => false,
        }
}

impl Specification for BgpPeerSpec {
    fn validate(&self, _: &Metadata, faults: &mut Faults) {
        let set = |text: &String| !text.is_empty();
        faults.add_if(
            set(&self.node) && set(&self.node_selector),
            "spec.nodeSelector",
            &self.node_selector,
            "node and nodeSelector cannot both be set; remove one of them",
        );
        faults.add_if(
            self.peer_ip.is_some() && set(&self.peer_selector),
            "spec.peerSelector",
            &self.peer_selector,
            "peerIP and peerSelector cannot both be set; remove one of them",
        );
        if let Some(number) = self.as_number.filter(|_| set(&self.peer_selector)) {
            faults.add(
                "spec.asNumber",
                number,
                "must be empty when peerSelector is set: the nodes' own numbers are used",
            );
        }
        if set(&self.local_workload_selector) {
            let advice = "must be empty when localWorkloadSelector is set";
            if let Some(address) = self.peer_ip {
                faults.add("spec.peerIP", address, advice);
            }
            faults.add_if(
                set(&self.peer_selector),
                "spec.peerSelector",
                &self.peer_selector,
                advice,
            );
            faults.add_if(
                self.as_number.is_none(),
                "spec.asNumber",
                "",
                "is required when localWorkloadSelector is set",
            );
        } else if self.peer_ip.is_none() && self.peer_selector.is_empty() {
            faults.add("spec.peerIP", "", "is required where there is no peerSelector");
        }
        if let Some(gateway) = self.reachable_by.filter(|_| self.peer_ip.is_none()) {
            faults.add("spec.reachableBy", gateway, "must be empty when peerIP is empty");
        }
        faults.add_if(
            self.keep_original_next_hop && self.next_hop_mode.is_some(),
            "spec.keepOriginalNextHop",
            true,
            "keepOriginalNextHop and nextHopMode cannot both be set; remove keepOriginalNextHop, which is deprecated",
        );
        for (field, selector) in [
            ("spec.nodeSelector", &self.node_selector),
            ("spec.peerSelector", &self.peer_selector),
            ("spec.localWorkloadSelector", &self.local_workload_selector),
        ] {
            check_selector(field, selector, faults);
        }
    }
}
