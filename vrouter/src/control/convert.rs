//! What do the API's objects mean for the policy engine? Pure.

use super::world::World;
use crate::api::network_policy as api_policy;
use crate::api::{self, Key, Kind, Resource, WorkloadEndpoint};
use ipnet::IpNet;
use policy::Change;
use policy::model as engine;
use policy::model::WorkloadKey;
use std::collections::BTreeMap;

/// What an object's coming, change or going means: the world already is as it is now.
pub fn changes(world: &World, about: &Resource) -> Vec<Change> {
    let key = about.key();
    let there = world.get(&key);
    let namespace = key.namespace.as_deref().unwrap_or_default();
    match about {
        Resource::Namespace(_) => vec![match there {
            Some(Resource::Namespace(ns)) => Change::Namespace(engine::Namespace {
                name: key.name.as_str().into(),
                labels: ns.metadata.labels.clone(),
            }),
            _ => Change::NamespaceGone(key.name.as_str().into()),
        }],
        Resource::NetworkPolicy(_) => vec![match there {
            Some(Resource::NetworkPolicy(policy)) => {
                Change::NetworkPolicy(network_policy(namespace, &key.name, &policy.spec))
            }
            _ => Change::PolicyGone(policy::rule::PolicyKey::network_policy(namespace, &key.name)),
        }],
        Resource::Pod(_) => pod_changes(world, namespace, &key.name),
        Resource::WorkloadEndpoint(endpoint) => {
            let mut changes = match there {
                Some(Resource::WorkloadEndpoint(now)) => {
                    vec![Change::Workload(workload(world, now))]
                }
                _ => vec![Change::WorkloadGone(workload_key(&key))],
            };
            // A pod that was known by its Pod alone is known by its endpoint now, or again.
            changes.extend(pod_alone(world, namespace, &endpoint.spec.pod));
            changes
        }
        _ => Vec::new(),
    }
}

/// The policy engine's name for a `WorkloadEndpoint`.
pub fn workload_key(key: &Key) -> WorkloadKey {
    WorkloadKey::new(key.namespace.as_deref().unwrap_or_default(), &key.name, "endpoint")
}

/// Sources an endpoint may use besides its own addresses.
pub fn granted_sources(resource: &Resource) -> Vec<IpNet> {
    match resource {
        Resource::WorkloadEndpoint(e) => {
            e.spec.allow_spoofed_source_prefixes.iter().map(|c| c.0.trunc()).collect()
        }
        _ => Vec::new(),
    }
}

fn pod_key(namespace: &str, pod: &str) -> WorkloadKey {
    WorkloadKey::new(namespace, pod, "pod")
}

/// A pod changed: its endpoints take its labels; without an endpoint it stands for itself.
fn pod_changes(world: &World, namespace: &str, pod: &str) -> Vec<Change> {
    let mut changes: Vec<_> = endpoints_of(world, namespace, pod)
        .map(|endpoint| Change::Workload(workload(world, endpoint)))
        .collect();
    changes.extend(pod_alone(world, namespace, pod));
    changes
}

fn pod_alone(world: &World, namespace: &str, name: &str) -> Option<Change> {
    if name.is_empty() {
        return None;
    }
    let key = pod_key(namespace, name);
    let Some(Resource::Pod(pod)) = world.get(&Key::namespaced(Kind::Pod, namespace, name)) else {
        return Some(Change::WorkloadGone(key));
    };
    if endpoints_of(world, namespace, name).next().is_some() {
        return Some(Change::WorkloadGone(key));
    }
    Some(Change::Workload(engine::Workload {
        key,
        labels: pod.metadata.labels.clone(),
        addresses: pod.status.addresses().collect(),
        ports: pod_ports(pod),
        local: false,
        host_network: pod.spec.host_network,
        finished: pod.status.is_finished(),
        service_account: pod.spec.service_account_name.as_str().into(),
    }))
}

fn endpoints_of<'a>(
    world: &'a World,
    namespace: &'a str,
    pod: &'a str,
) -> impl Iterator<Item = &'a WorkloadEndpoint> {
    world.all::<WorkloadEndpoint>().filter(move |e| {
        e.spec.pod == pod && e.metadata.namespace.as_deref().unwrap_or_default() == namespace
    })
}

/// An endpoint with its pod's labels and ports, where the Pod itself is known.
fn workload(world: &World, endpoint: &WorkloadEndpoint) -> engine::Workload {
    let namespace = endpoint.metadata.namespace.as_deref().unwrap_or_default();
    let key = Key::namespaced(Kind::WorkloadEndpoint, namespace, &endpoint.metadata.name);
    let pod = match world.get(&Key::namespaced(Kind::Pod, namespace, &endpoint.spec.pod)) {
        Some(Resource::Pod(pod)) => Some(pod),
        _ => None,
    };
    let labels = pod.map_or(&endpoint.metadata.labels, |p| &p.metadata.labels).clone();
    let named =
        endpoint.spec.ports.iter().filter(|p| !p.name.is_empty()).map(|p| engine::NamedPort {
            name: p.name.as_str().into(),
            protocol: protocol(p.protocol),
            port: p.port,
        });
    engine::Workload {
        key: workload_key(&key),
        labels,
        addresses: endpoint.spec.ip_networks.iter().map(|c| c.0.addr()).collect(),
        ports: pod.map_or_else(|| named.collect(), |p| pod_ports(p)),
        local: endpoint.spec.node == world.me(),
        host_network: false,
        finished: pod.is_some_and(|p| p.status.is_finished()),
        service_account: endpoint.spec.service_account_name.as_str().into(),
    }
}

fn pod_ports(pod: &api::Pod) -> Vec<engine::NamedPort> {
    pod.spec
        .containers
        .iter()
        .flat_map(|c| &c.ports)
        .filter(|p| !p.name.is_empty())
        .map(|p| engine::NamedPort {
            name: p.name.as_str().into(),
            protocol: protocol(p.protocol),
            port: p.container_port,
        })
        .collect()
}

fn protocol(protocol: api_policy::Protocol) -> u8 {
    match protocol {
        api_policy::Protocol::TCP => 6,
        api_policy::Protocol::UDP => 17,
        api_policy::Protocol::SCTP => 132,
    }
}

fn network_policy(
    namespace: &str,
    name: &str,
    spec: &api_policy::NetworkPolicySpec,
) -> engine::NetworkPolicy {
    let rules = |ports: &[api_policy::PolicyPort], peers: &[api_policy::PolicyPeer]| {
        engine::NetworkPolicyRule {
            peers: peers.iter().map(policy_peer).collect(),
            ports: ports.iter().map(policy_port).collect(),
        }
    };
    engine::NetworkPolicy {
        namespace: namespace.into(),
        name: name.into(),
        pod_selector: selector(&spec.pod_selector),
        policy_types: spec
            .policy_types
            .iter()
            .map(|t| match t {
                api_policy::PolicyType::Ingress => engine::PolicyType::Ingress,
                api_policy::PolicyType::Egress => engine::PolicyType::Egress,
            })
            .collect(),
        ingress: spec.ingress.iter().map(|r| rules(&r.ports, &r.from)).collect(),
        egress: spec.egress.iter().map(|r| rules(&r.ports, &r.to)).collect(),
    }
}

fn policy_peer(peer: &api_policy::PolicyPeer) -> engine::NetworkPolicyPeer {
    match &peer.ip_block {
        Some(block) => engine::NetworkPolicyPeer::Block {
            cidr: block.cidr.0.trunc(),
            except: block.except.iter().map(|c| c.0.trunc()).collect(),
        },
        None => engine::NetworkPolicyPeer::Pods {
            namespaces: peer.namespace_selector.as_ref().map(selector),
            pods: peer.pod_selector.as_ref().map(selector),
        },
    }
}

fn policy_port(port: &api_policy::PolicyPort) -> engine::NetworkPolicyPort {
    engine::NetworkPolicyPort {
        protocol: protocol(port.protocol),
        port: port.port.as_ref().map(|p| match p {
            api_policy::PortRef::Number(first) => {
                engine::PortRef::Range(*first..=port.end_port.unwrap_or(*first))
            }
            api_policy::PortRef::Name(name) => engine::PortRef::Name(name.as_str().into()),
        }),
    }
}

fn selector(selector: &api_policy::LabelSelector) -> engine::LabelSelector {
    engine::LabelSelector {
        match_labels: selector.match_labels.clone().into_iter().collect::<BTreeMap<_, _>>(),
        match_expressions: selector
            .match_expressions
            .iter()
            .map(|e| engine::LabelRequirement {
                key: e.key.clone(),
                operator: match e.operator {
                    api_policy::LabelOperator::In => engine::LabelOperator::In,
                    api_policy::LabelOperator::NotIn => engine::LabelOperator::NotIn,
                    api_policy::LabelOperator::Exists => engine::LabelOperator::Exists,
                    api_policy::LabelOperator::DoesNotExist => engine::LabelOperator::DoesNotExist,
                },
                values: e.values.clone(),
            })
            .collect(),
    }
}
