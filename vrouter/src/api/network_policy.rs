//! What may a Kubernetes `NetworkPolicy` say?

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{
    Faults, Metadata, Object, Specification,
    metadata::{LABEL_KEY, LABEL_VALUE, is_label_value, is_qualified_name},
    scalar::Cidr,
};

/// Kubernetes' network policy.
pub type NetworkPolicy = Object<NetworkPolicySpec>;

/// What is wanted: which pods are isolated, and what they may still do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkPolicySpec {
    /// The pods of the policy's namespace it is about; empty is all.
    pub pod_selector: LabelSelector,
    /// The directions in which it isolates; filled in where it was not written.
    pub policy_types: Vec<PolicyType>,
    /// Whom they may be reached by.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<IngressRule>,
    /// Whom they may reach.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<EgressRule>,
}

/// A direction, seen from the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PolicyType {
    /// Towards the pod.
    Ingress,
    /// From the pod.
    Egress,
}

/// What may reach the pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct IngressRule {
    /// The pods' ports; empty is all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PolicyPort>,
    /// The sources; empty is all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<PolicyPeer>,
}

/// What the pods may reach.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EgressRule {
    /// The destinations' ports; empty is all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PolicyPort>,
    /// The destinations; empty is all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<PolicyPeer>,
}

/// Ports of one protocol.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyPort {
    /// The protocol.
    pub protocol: Protocol,
    /// The port, or the first one; `None` is all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<PortRef>,
    /// The last port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_port: Option<u16>,
}

/// A transport protocol with ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    #[default]
    TCP,
    /// UDP.
    UDP,
    /// SCTP.
    SCTP,
}

/// A port by number, or by the name a pod gives it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PortRef {
    /// Its number.
    Number(u16),
    /// Its name.
    Name(String),
}

/// Others: pods, or addresses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyPeer {
    /// Pods by their labels, in the policy's namespace or those selected beside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
    /// Namespaces by their labels; empty is all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_block: Option<IpBlock>,
}

/// Addresses of a prefix, without some.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IpBlock {
    /// The prefix.
    pub cidr: Cidr,
    /// Prefixes inside it that are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<Cidr>,
}

/// Kubernetes' label selector; all parts must hold, an empty one selects everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    /// Labels that must have these values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// Conditions on labels.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<LabelRequirement>,
}

/// A condition on one label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabelRequirement {
    /// The label's key.
    pub key: String,
    /// The condition.
    pub operator: LabelOperator,
    /// The values it is about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// A condition on a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LabelOperator {
    /// It has one of the values.
    In,
    /// It has none of them, or is absent.
    NotIn,
    /// It is there.
    Exists,
    /// It is absent.
    DoesNotExist,
}

impl fmt::Display for PortRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::TCP => "TCP",
            Self::UDP => "UDP",
            Self::SCTP => "SCTP",
        })
    }
}

impl Serialize for PortRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => serializer.serialize_u16(*number),
            Self::Name(name) => serializer.serialize_str(name),
        }
    }
}

impl<'de> Deserialize<'de> for PortRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(i64),
            Name(String),
        }
        let wrong =
            "not a port; write a number between 1 and 65535, or the name of a container's port";
        match Written::deserialize(deserializer).map_err(|_| de::Error::custom(wrong))? {
            Written::Number(number) => u16::try_from(number)
                .ok()
                .filter(|port| *port != 0)
                .map(Self::Number)
                .ok_or_else(|| de::Error::custom(wrong)),
            Written::Name(name) => Ok(Self::Name(name)),
        }
    }
}

impl Specification for NetworkPolicySpec {
    fn fill_defaults(&mut self) {
        if self.policy_types.is_empty() {
            self.policy_types.push(PolicyType::Ingress);
            if !self.egress.is_empty() {
                self.policy_types.push(PolicyType::Egress);
            }
        }
    }

    fn validate(&self, _: &Metadata, faults: &mut Faults) {
        validate_selector("spec.podSelector", &self.pod_selector, faults);
        faults.add_if(
            self.policy_types.len() > 2,
            "spec.policyTypes",
            self.policy_types.len(),
            "may name Ingress and Egress once each",
        );
        for (index, rule) in self.ingress.iter().enumerate() {
            let field = format!("spec.ingress[{index}]");
            validate_rule(&field, "from", &rule.ports, &rule.from, faults);
        }
        for (index, rule) in self.egress.iter().enumerate() {
            let field = format!("spec.egress[{index}]");
            validate_rule(&field, "to", &rule.ports, &rule.to, faults);
        }
    }
}

fn validate_rule(
    field: &str,
    peers_field: &str,
    ports: &[PolicyPort],
    peers: &[PolicyPeer],
    faults: &mut Faults,
) {
    for (index, port) in ports.iter().enumerate() {
        validate_port(&format!("{field}.ports[{index}]"), port, faults);
    }
    for (index, peer) in peers.iter().enumerate() {
        validate_peer(&format!("{field}.{peers_field}[{index}]"), peer, faults);
    }
}

fn validate_port(field: &str, port: &PolicyPort, faults: &mut Faults) {
    match (&port.port, port.end_port) {
        (Some(PortRef::Name(name)), _) if !is_port_name(name) => faults.add(
            format!("{field}.port"),
            name,
            "not a port name: at most 15 lower-case letters, digits and single `-`, with a letter among them",
        ),
        (Some(PortRef::Name(_)), Some(end)) => {
            faults.add(format!("{field}.endPort"), end, "may be set only where port is a number");
        }
        (Some(PortRef::Number(first)), Some(end)) if end < *first => {
            faults.add(format!("{field}.endPort"), end, format!("must be {first} or more: it is the last port"));
        }
        (None, Some(end)) => {
            faults.add(format!("{field}.endPort"), end, "may be set only together with port");
        }
        _ => {}
    }
}

fn validate_peer(field: &str, peer: &PolicyPeer, faults: &mut Faults) {
    let selects = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
    match &peer.ip_block {
        None if !selects => {
            faults.add(field, "", "must have a podSelector, a namespaceSelector or an ipBlock");
        }
        Some(block) if selects => {
            let reason = "may not stand beside a podSelector or namespaceSelector; make it an entry of its own";
            faults.add(format!("{field}.ipBlock"), block.cidr, reason);
        }
        _ => {}
    }
    if let Some(block) = &peer.ip_block {
        for (index, except) in block.except.iter().enumerate() {
            // Strictly inside: leaving out the whole prefix would leave nothing.
            let inside = block.cidr.trunc().contains(&except.trunc())
                && except.prefix_len() > block.cidr.prefix_len();
            if !inside {
                let field = format!("{field}.ipBlock.except[{index}]");
                faults.add(
                    field,
                    except,
                    format!("must be a smaller prefix inside {}", block.cidr),
                );
            }
        }
    }
    for (name, selector) in
        [("podSelector", &peer.pod_selector), ("namespaceSelector", &peer.namespace_selector)]
    {
        if let Some(selector) = selector {
            validate_selector(&format!("{field}.{name}"), selector, faults);
        }
    }
}

fn validate_selector(field: &str, selector: &LabelSelector, faults: &mut Faults) {
    for (key, value) in &selector.match_labels {
        faults.add_if(!is_qualified_name(key), &format!("{field}.matchLabels"), key, LABEL_KEY);
        faults.add_if(
            !is_label_value(value),
            &format!("{field}.matchLabels.{key}"),
            value,
            LABEL_VALUE,
        );
    }
    for (index, requirement) in selector.match_expressions.iter().enumerate() {
        let field = format!("{field}.matchExpressions[{index}]");
        faults.add_if(
            !is_qualified_name(&requirement.key),
            &format!("{field}.key"),
            &requirement.key,
            LABEL_KEY,
        );
        let needs_values = matches!(requirement.operator, LabelOperator::In | LabelOperator::NotIn);
        if needs_values == requirement.values.is_empty() {
            let reason = if needs_values {
                "is required with In and NotIn"
            } else {
                "must be left out with Exists and DoesNotExist"
            };
            faults.add(format!("{field}.values"), requirement.values.join(","), reason);
        }
        for value in requirement.values.iter().filter(|value| !is_label_value(value)) {
            faults.add(format!("{field}.values"), value, LABEL_VALUE);
        }
    }
}

/// A service name as RFC 6335 §5.1 has it, in lower case.
fn is_port_name(name: &str) -> bool {
    let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=15).contains(&name.len())
        && name.bytes().all(inside)
        && name.bytes().any(|b| b.is_ascii_lowercase())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--")
}
