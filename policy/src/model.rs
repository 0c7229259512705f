//! What does policy know of the cluster? Its inputs, validated by whoever read them.
//!
//! What validation is to refuse, and would at worst match nothing here, is: an `except` outside
//! its block, a port range that ends before it begins, `In` without values.

use ipnet::IpNet;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Labels by key.
pub type Labels = BTreeMap<String, String>;

/// The label every namespace has of itself, written or not.
pub const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// TCP's protocol number, the default of a rule's port.
pub const TCP: u8 = 6;

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: Arc<str>,
    /// Its labels; [`NAMESPACE_NAME_LABEL`] is added.
    pub labels: Labels,
}

/// Names an interface of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadKey {
    /// The pod's namespace.
    pub namespace: Arc<str>,
    /// The pod.
    pub name: Arc<str>,
    /// The interface (`eth0`).
    pub endpoint: Arc<str>,
}

/// An interface of a pod, on this node or another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Its name.
    pub key: WorkloadKey,
    /// The pod's labels.
    pub labels: Labels,
    /// All its addresses, of both families.
    pub addresses: Vec<IpAddr>,
    /// The named ports of its containers.
    pub ports: Vec<NamedPort>,
    /// Is it on this node, so that rules are wanted for it?
    pub local: bool,
    /// Has it the node's own network? Such a pod is neither subject nor peer of a policy; its
    /// traffic is the node's.
    pub host_network: bool,
    /// Has it succeeded or failed? Its addresses may be another's by now.
    pub finished: bool,
    /// The name of its service account.
    pub service_account: Arc<str>,
}

/// A port of a pod that rules may name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamedPort {
    /// Its name.
    pub name: Arc<str>,
    /// IP protocol number.
    pub protocol: u8,
    /// Its number.
    pub port: u16,
}

/// A Kubernetes `NetworkPolicy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// The namespace whose pods it selects.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// The pods it isolates; empty: all of the namespace.
    pub pod_selector: LabelSelector,
    /// The directions it isolates in, after [`PolicyType::default_types`].
    pub policy_types: Vec<PolicyType>,
    /// What may reach the pods; rules of a direction that is no policy type say nothing.
    pub ingress: Vec<NetworkPolicyRule>,
    /// What the pods may reach.
    pub egress: Vec<NetworkPolicyRule>,
}

/// A direction, seen from the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PolicyType {
    /// Towards the pod.
    Ingress,
    /// From the pod.
    Egress,
}

/// One rule: any of the peers, on any of the ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkPolicyRule {
    /// Whom; empty: everyone, also outside the cluster.
    pub peers: Vec<NetworkPolicyPeer>,
    /// On which of the destination's ports; empty: all ports of all protocols.
    pub ports: Vec<NetworkPolicyPort>,
}

/// One peer of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkPolicyPeer {
    /// Pods that both selectors select.
    Pods {
        /// `None`: the policy's own namespace.
        namespaces: Option<LabelSelector>,
        /// `None`: all pods of the namespaces.
        pods: Option<LabelSelector>,
    },
    /// Addresses.
    Block {
        /// The prefix.
        cidr: IpNet,
        /// Parts of it that are left out.
        except: Vec<IpNet>,
    },
}

/// Ports of one protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkPolicyPort {
    /// IP protocol number ([`TCP`] where the policy says none).
    pub protocol: u8,
    /// `None`: all of the protocol's.
    pub port: Option<PortRef>,
}

/// A port, or several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortRef {
    /// `port` to `endPort`, or the same twice.
    Range(RangeInclusive<u16>),
    /// The port that the destination pod gives this name, for the same protocol.
    Name(Arc<str>),
}

/// Kubernetes' label selector: all parts must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LabelSelector {
    /// Labels with these values.
    pub match_labels: Labels,
    /// Conditions on labels.
    pub match_expressions: Vec<LabelRequirement>,
}

/// One condition on a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LabelRequirement {
    /// The label's key.
    pub key: String,
    /// The condition.
    pub operator: LabelOperator,
    /// What it compares with.
    pub values: Vec<String>,
}

/// A condition on a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LabelOperator {
    /// It has one of the values.
    In,
    /// It has none of the values, or is absent.
    NotIn,
    /// It is there.
    Exists,
    /// It is absent.
    DoesNotExist,
}

impl WorkloadKey {
    /// A key of its parts.
    pub fn new(namespace: &str, name: &str, endpoint: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into(), endpoint: endpoint.into() }
    }
}

impl fmt::Display for WorkloadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.namespace, self.name, self.endpoint)
    }
}

impl Workload {
    /// May policies select it, as subject or as peer?
    pub fn is_selectable(&self) -> bool {
        !self.finished && !self.host_network
    }
}

impl PolicyType {
    /// The types of a `NetworkPolicy` that names none: "Ingress will always be set and Egress
    /// will be set if the `NetworkPolicy` has any egress rules".
    pub fn default_types(has_egress_rules: bool) -> Vec<Self> {
        if has_egress_rules { vec![Self::Ingress, Self::Egress] } else { vec![Self::Ingress] }
    }
}

impl fmt::Display for PolicyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}
