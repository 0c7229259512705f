//! What does a worker read? [`Tables`]: one immutable generation, each part behind its own `Arc`.
//!
//! Plain data and indices only: no names, no interior mutability but the classifier's lazily
//! filled cells. The control loop builds the next generation from what is dirty and shares the
//! rest; a next hop or an adjacency changes without touching the FIB, which holds indices.

pub mod endpoint;
pub mod fib;
pub mod nexthop;
pub mod port;

use crate::acl::classes::AddressClasses;
use crate::acl::classifier::Program;
use endpoint::EndpointEntry;
use fib::Fib;
use nexthop::{Adjacency, NextHop, NextHopGroup};
use port::PortEntry;
use std::net::Ipv4Addr;
use std::sync::Arc;

pub use endpoint::{EndpointId, Guard, ProgramId};
pub use nexthop::{AdjacencyId, GroupId, NextHopId};

/// Everything a worker reads, in one version.
#[derive(Clone, Default)]
pub struct Tables {
    /// Destination prefix → [`NextHopId`].
    pub fib: Arc<Fib>,
    /// Indexed by [`NextHopId`]; index 0 always is [`NextHop::NoRoute`].
    pub next_hops: Arc<[NextHop]>,
    /// Equal-cost groups, indexed by [`GroupId`].
    pub groups: Arc<[NextHopGroup]>,
    /// Resolved (or awaited) neighbours, indexed by [`AdjacencyId`].
    pub adjacencies: Arc<[Adjacency]>,
    /// Local workloads, indexed by [`EndpointId`].
    pub endpoints: Arc<[EndpointEntry]>,
    /// Ports, indexed by [`crate::packet::PortId`].
    pub ports: Arc<[PortEntry]>,
    /// Address → membership class, for every address set of every rule.
    pub classes: Arc<AddressClasses>,
    /// Compiled rules, indexed by [`ProgramId`].
    pub programs: Arc<[Arc<Program>]>,
    /// Tunnel ends.
    pub tunnels: Arc<Tunnels>,
}

/// Who may send us IPIP, and from which address ours goes out.
#[derive(Clone, Debug, Default)]
pub struct Tunnels {
    /// This node's address (outer source, and the only outer destination accepted); `None`
    /// refuses all IPIP.
    pub local: Option<Ipv4Addr>,
    /// Addresses of the other nodes, sorted.
    pub peers: Vec<Ipv4Addr>,
}

impl Tunnels {
    /// Is this address a node's?
    pub fn is_peer(&self, address: Ipv4Addr) -> bool {
        self.peers.binary_search(&address).is_ok()
    }
}

impl Tables {
    /// The next hop behind an id; an id out of range is [`NextHop::NoRoute`].
    pub fn next_hop(&self, id: NextHopId) -> NextHop {
        self.next_hops.get(id.0 as usize).copied().unwrap_or_default()
    }

    /// The endpoint behind an id.
    pub fn endpoint(&self, id: EndpointId) -> Option<&EndpointEntry> {
        self.endpoints.get(id.0 as usize)
    }

    /// The port behind an id; `None` for one this generation does not know.
    pub fn port(&self, id: crate::packet::PortId) -> Option<&PortEntry> {
        self.ports.get(usize::from(id.0))
    }

    /// The program behind an id.
    pub fn program(&self, id: ProgramId) -> Option<&Program> {
        self.programs.get(id.0 as usize).map(AsRef::as_ref)
    }
}
