//! What does a policy say, whatever its kind? The form that resolving and lowering work on.

use crate::model::PolicyType;
use crate::selector::Selector;
use fastpath::acl::PortMatch;
use ipnet::IpNet;
use std::fmt;
use std::sync::Arc;

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its name.
    pub key: PolicyKey,
    /// The workloads it applies to.
    pub subject: PodSelection,
    /// What it says of what reaches them; `None`: it does not apply in this direction.
    pub ingress: Option<Vec<Arc<Rule>>>,
    /// What it says of what they send.
    pub egress: Option<Vec<Arc<Rule>>>,
}

/// Names a policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyKey {
    /// Its kind.
    pub kind: PolicyKind,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// The kinds of policy there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PolicyKind {
    /// Kubernetes' `NetworkPolicy`.
    NetworkPolicy,
}

/// One rule: allows what comes from (or goes to) one of the peers on one of the ports.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Whom; `None`: everyone.
    pub peers: Option<Vec<Peer>>,
    /// On which of the destination's ports; `None`: whatever protocol and port.
    pub ports: Option<Ports>,
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// The members of a set.
    Set(Arc<SetKey>),
    /// The members of one set that are not in the other.
    Without(Arc<SetKey>, Arc<SetKey>),
}

/// Some protocols and their ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ports {
    /// By number, each protocol once.
    pub numbered: Vec<(u8, PortMatch)>,
    /// By the name the destination gives them.
    pub named: Vec<PortName>,
}

/// A port that each workload numbers for itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortName {
    /// IP protocol number.
    pub protocol: u8,
    /// The name.
    pub name: Arc<str>,
}

/// What a set of addresses is made of; equal keys are one set.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SetKey {
    /// The addresses of these workloads.
    Pods(PodSelection),
    /// The addresses of all workloads that give this number to the port of this name.
    NamedPort(PortName, u16),
    /// These prefixes, sorted.
    Nets(Vec<IpNet>),
}

/// Some workloads.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodSelection {
    /// In which namespaces.
    pub scope: Scope,
    /// By the pods' labels.
    pub pods: Selector,
}

/// Some namespaces.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// This one.
    Namespace(Arc<str>),
    /// By the namespaces' labels.
    Namespaces(Selector),
}

impl Policy {
    /// The rules of a direction, if it applies in it.
    pub fn rules(&self, direction: PolicyType) -> Option<&[Arc<Rule>]> {
        match direction {
            PolicyType::Ingress => self.ingress.as_deref(),
            PolicyType::Egress => self.egress.as_deref(),
        }
    }
}

impl fmt::Display for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PolicyKind::NetworkPolicy = self.kind;
        write!(f, "NetworkPolicy {}/{}", self.namespace, self.name)
    }
}
