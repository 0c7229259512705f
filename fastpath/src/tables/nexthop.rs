//! Where may a packet go? Next hops, equal-cost groups, adjacencies.

use super::endpoint::EndpointId;
use crate::packet::PortId;
use std::net::{IpAddr, Ipv4Addr};

/// Index of a [`NextHop`]; 0 is "no route".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NextHopId(pub u32);

/// Index of an [`Adjacency`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AdjacencyId(pub u32);

/// Index of a [`NextHopGroup`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(pub u32);

/// What the FIB's answer means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NextHop {
    /// Nothing matched: ICMP unreachable goes back.
    #[default]
    NoRoute,
    /// A local workload.
    Endpoint(EndpointId),
    /// An address of the node itself: delivered to its kernel by the `tunl0` port.
    HostLocal,
    /// Something the node's kernel forwards to: handed over by the `vrouter-fwd` port.
    HostForward,
    /// An address of the router itself (the pods' gateway): the control plane answers.
    Router,
    /// A neighbour, or a gateway, on one of the router's uplinks.
    Adjacency(AdjacencyId),
    /// Another node, through IPIP: outer destination, and the adjacency that leads to it.
    Tunnel {
        /// The other node's address.
        remote: Ipv4Addr,
        /// How to reach it.
        adjacency: AdjacencyId,
    },
    /// One of several, chosen by the flow.
    Group(GroupId),
    /// A subnet on an uplink: the destination is itself the neighbour to be resolved.
    Glean(PortId),
    /// Dropped in silence.
    Blackhole,
    /// ICMP host unreachable goes back.
    Unreachable,
    /// ICMP administratively prohibited goes back.
    Prohibit,
}

/// Equal-cost next hops; a flow stays with the one its hash picked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NextHopGroup {
    /// At least one, at most [`crate::limits::GROUP_MEMBERS`]; none is itself a group.
    pub members: Vec<NextHopId>,
}

/// One neighbour on an uplink, ready to be sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adjacency {
    /// The port it is reached by.
    pub port: PortId,
    /// The neighbour's address (for punts and for people).
    pub address: IpAddr,
    /// Its MAC address; `None` while it is not resolved.
    pub destination_mac: Option<[u8; 6]>,
    /// The port's own MAC address.
    pub source_mac: [u8; 6],
    /// Largest IP packet, in bytes, the path takes.
    pub mtu: u16,
}
