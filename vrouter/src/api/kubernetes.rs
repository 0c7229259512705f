//! What does policy need to know of Kubernetes' namespaces and pods?
//!
//! Everything else in them is left unread: they are other people's objects.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Faults, Metadata, Object, Specification, is_default, network_policy::Protocol};

/// A namespace; its labels are all that matters.
pub type Namespace = Object<NamespaceSpec>;
/// A pod.
pub type Pod = Object<PodSpec, PodStatus>;

/// Nothing in it matters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NamespaceSpec {}

/// What a pod is to run as.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// The node it runs on.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node_name: String,
    /// Whether it has the node's own network.
    #[serde(skip_serializing_if = "is_default")]
    pub host_network: bool,
    /// Its service account.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service_account_name: String,
    /// Its containers.
    pub containers: Vec<Container>,
    /// Containers that run before the others; those that restart always run beside them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub init_containers: Vec<Container>,
}

/// A container of a pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// Its ports.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<ContainerPort>,
    /// `Always` makes an init container run beside the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_policy: Option<String>,
}

/// A port of a container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerPort {
    /// Its name, for rules that use it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its number.
    pub container_port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port of the node that leads to it.
    #[serde(skip_serializing_if = "is_default")]
    pub host_port: u16,
}

/// What a pod was observed to be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub phase: String,
    /// Its first address.
    #[serde(rename = "podIP", skip_serializing_if = "Option::is_none")]
    pub pod_ip: Option<IpAddr>,
    /// Its addresses, at most one of each family.
    #[serde(rename = "podIPs", skip_serializing_if = "Vec::is_empty")]
    pub pod_ips: Vec<PodIp>,
    /// Its node's address.
    #[serde(rename = "hostIP", skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

/// An address of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PodIp {
    /// The address.
    pub ip: IpAddr,
}

impl PodStatus {
    /// All its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let first =
            self.pod_ip.filter(|first| self.pod_ips.iter().all(|pod_ip| pod_ip.ip != *first));
        first.into_iter().chain(self.pod_ips.iter().map(|pod_ip| pod_ip.ip))
    }

    /// Whether it has ended, so that its addresses may already be another pod's.
    pub fn is_finished(&self) -> bool {
        matches!(self.phase.as_str(), "Succeeded" | "Failed")
    }
}

impl Specification for NamespaceSpec {
    fn validate(&self, _: &Metadata, _: &mut Faults) {}
}

impl Specification for PodSpec {
    fn validate(&self, _: &Metadata, _: &mut Faults) {}
}
