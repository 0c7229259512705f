//! What do the API's own texts say of a packet? The oracle that the engine is compared with.
//!
//! It reads namespaces, pods and policies for every question anew and shares no step with the
//! engine: no conversion, no selector expression, no set, no rule list.

use crate::model::{
    LabelOperator, LabelSelector, Labels, NAMESPACE_NAME_LABEL, Namespace, NetworkPolicy,
    NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicyRule, PolicyType, PortRef, Workload,
    WorkloadKey,
};
use std::net::IpAddr;
use std::sync::Arc;

/// A cluster, as its objects are written.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// Its namespaces.
    pub namespaces: Vec<Namespace>,
    /// Its pods; no two that may be selected have an address in common.
    pub workloads: Vec<Workload>,
    /// Its policies.
    pub policies: Vec<NetworkPolicy>,
}

/// The first packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Where it comes from.
    pub source: IpAddr,
    /// Where it goes.
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port, for TCP, UDP and SCTP.
    pub port: u16,
}

impl Cluster {
    /// May the packet pass? The source pod's egress and the destination pod's ingress must both
    /// allow it; an address that is no pod's has no policy.
    pub fn allows(&self, probe: &Probe) -> bool {
        let side = |address, direction| {
            self.pod(address).is_none_or(|pod| self.pod_allows(pod, probe, direction))
        };
        side(probe.source, PolicyType::Egress) && side(probe.destination, PolicyType::Ingress)
    }

    /// Does this workload allow the packet in this direction? `None` if it is not there, or no
    /// subject of policies.
    pub fn workload_allows(
        &self,
        key: &WorkloadKey,
        probe: &Probe,
        direction: PolicyType,
    ) -> Option<bool> {
        let pod = self.workloads.iter().find(|workload| workload.key == *key)?;
        let subject = !pod.finished && !pod.host_network;
        subject.then(|| self.pod_allows(pod, probe, direction))
    }

    /// Policies add up: not isolated, or allowed by any rule of any that isolates.
    fn pod_allows(&self, pod: &Workload, probe: &Probe, direction: PolicyType) -> bool {
        let mut isolated = false;
        for policy in &self.policies {
            let applies = policy.namespace == pod.key.namespace
                && selects(&policy.pod_selector, &pod.labels)
                && policy.policy_types.contains(&direction);
            if !applies {
                continue;
            }
            isolated = true;
            let (rules, peer) = match direction {
                PolicyType::Ingress => (&policy.ingress, probe.source),
                PolicyType::Egress => (&policy.egress, probe.destination),
            };
            let destination = match direction {
                PolicyType::Ingress => Some(pod),
                PolicyType::Egress => self.pod(probe.destination),
            };
            let allows = |rule: &NetworkPolicyRule| {
                self.peer_matches(rule, peer, &policy.namespace)
                    && port_matches(rule, probe, destination)
            };
            if rules.iter().any(allows) {
                return true;
            }
        }
        !isolated
    }

    fn peer_matches(&self, rule: &NetworkPolicyRule, address: IpAddr, own: &Arc<str>) -> bool {
        rule.peers.is_empty()
            || rule.peers.iter().any(|peer| match peer {
                NetworkPolicyPeer::Block { cidr, except } => {
                    cidr.contains(&address) && !except.iter().any(|e| e.contains(&address))
                }
                NetworkPolicyPeer::Pods { namespaces, pods } => {
                    self.pod(address).is_some_and(|pod| {
                        let in_namespace = match namespaces {
                            None => pod.key.namespace == *own,
                            Some(wanted) => {
                                selects(wanted, &self.namespace_labels(&pod.key.namespace))
                            }
                        };
                        in_namespace
                            && pods.as_ref().is_none_or(|wanted| selects(wanted, &pod.labels))
                    })
                }
            })
    }

    /// The pod that has an address: host-network pods have the node's, finished ones none.
    fn pod(&self, address: IpAddr) -> Option<&Workload> {
        self.workloads
            .iter()
            .find(|pod| !pod.finished && !pod.host_network && pod.addresses.contains(&address))
    }

    fn namespace_labels(&self, name: &Arc<str>) -> Labels {
        let written = self.namespaces.iter().find(|namespace| namespace.name == *name);
        let mut labels = written.map(|namespace| namespace.labels.clone()).unwrap_or_default();
        labels.insert(NAMESPACE_NAME_LABEL.to_owned(), name.to_string());
        labels
    }
}

fn port_matches(rule: &NetworkPolicyRule, probe: &Probe, destination: Option<&Workload>) -> bool {
    rule.ports.is_empty()
        || rule.ports.iter().any(|NetworkPolicyPort { protocol, port }| {
            *protocol == probe.protocol
                && match port {
                    None => true,
                    Some(PortRef::Range(range)) => range.contains(&probe.port),
                    Some(PortRef::Name(name)) => destination.is_some_and(|pod| {
                        pod.ports.iter().any(|named| {
                            named.name == *name
                                && named.protocol == *protocol
                                && named.port == probe.port
                        })
                    }),
                }
        })
}

fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    let equal = selector.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value));
    equal
        && selector.match_expressions.iter().all(|requirement| {
            let value = labels.get(&requirement.key);
            match requirement.operator {
                LabelOperator::Exists => value.is_some(),
                LabelOperator::DoesNotExist => value.is_none(),
                LabelOperator::In => value.is_some_and(|v| requirement.values.contains(v)),
                LabelOperator::NotIn => value.is_none_or(|v| !requirement.values.contains(v)),
            }
        })
}
