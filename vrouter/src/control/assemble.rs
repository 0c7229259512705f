//! How do the parts become one generation of the workers' tables? Pure, from current state.

use super::policy::PolicyTables;
use super::ports::{Ports, endpoint_of};
use super::workloads::Workloads;
use fastpath::tables::endpoint::EndpointEntry;
use fastpath::tables::port::PortRole;
use fastpath::tables::{Guard, Tables, Tunnels};
use slowpath::rib::fib::RoutingTables;
use std::sync::Arc;

/// Puts one generation together; what did not change is shared with the last one.
pub fn assemble(
    routing: &RoutingTables,
    policy: &PolicyTables,
    ports: &Ports,
    workloads: &Workloads,
    tunnels: &Arc<Tunnels>,
) -> Tables {
    let entries = ports.entries();
    let mut endpoints = vec![EndpointEntry::default(); entries.len()];
    for workload in workloads.iter() {
        let id = endpoint_of(workload.port);
        let Some(slot) = endpoints.get_mut(id.0 as usize) else { continue };
        // A workload the engine has not judged yet stays closed.
        let (egress, ingress) =
            policy.guards.get(&workload.key).copied().unwrap_or((Guard::Closed, Guard::Closed));
        *slot = EndpointEntry {
            port: workload.port,
            sources: workload.sources(),
            egress,
            ingress,
            mac: workload.mac,
        };
    }
    debug_assert!(
        entries
            .iter()
            .all(|e| !matches!(e.role, PortRole::Pod(id) if id.0 as usize >= endpoints.len())),
        "every pod port has an endpoint slot"
    );
    Tables {
        fib: Arc::clone(&routing.fib),
        next_hops: Arc::clone(&routing.next_hops),
        groups: Arc::clone(&routing.groups),
        adjacencies: Arc::clone(&routing.adjacencies),
        endpoints: endpoints.into(),
        ports: entries.into(),
        classes: Arc::clone(&policy.classes),
        programs: Arc::clone(&policy.programs),
        tunnels: Arc::clone(tunnels),
    }
}
