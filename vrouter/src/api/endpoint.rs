//! What is said about a pod's interface?

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Faults, Metadata, Object, Specification, is_default,
    network_policy::{PortRef, Protocol},
    scalar::Cidr,
};

/// A pod's interface, on the node where it is.
pub type WorkloadEndpoint = Object<WorkloadEndpointSpec>;

/// What is known about a pod's interface.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadEndpointSpec {
    /// Who made it, such as `k8s`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub orchestrator: String,
    /// The workload, for orchestrators other than Kubernetes.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub workload: String,
    /// The node it is on.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// The container it belongs to.
    #[serde(rename = "containerID", skip_serializing_if = "String::is_empty")]
    pub container_id: String,
    /// The pod it belongs to.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pod: String,
    /// Its name in the pod, such as `eth0`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub endpoint: String,
    /// The pod's service account.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service_account_name: String,
    /// Its addresses, each a /32 or /128.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ip_networks: Vec<Cidr>,
    /// Addresses translated to its own.
    #[serde(rename = "ipNATs", skip_serializing_if = "is_default")]
    pub ip_nats: Vec<Value>,
    /// The gateway the pod sees.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ipv4_gateway: String,
    /// The IPv6 gateway the pod sees.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ipv6_gateway: String,
    /// Profiles, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub profiles: Vec<String>,
    /// Its name on the node: `cali` and 11 hexadecimal digits.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub interface_name: String,
    /// The pod's Ethernet address, where it has one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// The pod's ports, for rules that name them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<EndpointPort>,
    /// Sources other than its own addresses that it may send from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_spoofed_source_prefixes: Vec<Cidr>,
    /// Bandwidth and packet-rate limits; kept as they were read.
    #[serde(skip_serializing_if = "is_default")]
    pub qos_controls: Value,
}

/// A port of a pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointPort {
    /// Its name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
    /// The port of the node that leads to it.
    #[serde(skip_serializing_if = "is_default")]
    pub host_port: u16,
    /// The node's address of that port.
    #[serde(rename = "hostIP", skip_serializing_if = "String::is_empty")]
    pub host_ip: String,
}

impl EndpointPort {
    /// Whether a rule that names `wanted` means this port.
    pub fn is(&self, wanted: &PortRef) -> bool {
        match wanted {
            PortRef::Number(number) => *number == self.port,
            PortRef::Name(name) => *name == self.name,
        }
    }
}

/// The name Calico gives to the endpoint `endpoint` of a Kubernetes pod.
pub fn endpoint_name(node: &str, pod: &str, endpoint: &str) -> String {
    let part = |text: &str| text.replace('-', "--");
    format!("{}-k8s-{}-{}", part(node), part(pod), part(endpoint))
}

impl Specification for WorkloadEndpointSpec {
    fn validate(&self, metadata: &Metadata, faults: &mut Faults) {
        for (field, value) in [("spec.node", &self.node), ("spec.endpoint", &self.endpoint)] {
            faults.add_if(value.is_empty(), field, "", "is required");
        }
        for (index, network) in self.ip_networks.iter().enumerate() {
            if network.prefix_len() != network.max_prefix_len() {
                let field = format!("spec.ipNetworks[{index}]");
                faults.add(
                    field,
                    network,
                    format!("not a single address; write {}", Cidr::from(network.addr())),
                );
            }
        }
        if self.orchestrator == "k8s" && !self.pod.is_empty() && !self.node.is_empty() {
            let expected = endpoint_name(&self.node, &self.pod, &self.endpoint);
            faults.add_if(
                expected != metadata.name && !metadata.name.is_empty(),
                "metadata.name",
                &metadata.name,
                &format!("must be made of node, pod and endpoint: {expected}"),
            );
        }
    }
}
