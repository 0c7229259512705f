//! What of the kernel's networking does routing use? Links, local addresses, the main table.

use crate::host::netlink::{LinkLayer, Route, RouteKind};
use crate::host::state::KernelState;
use fastpath::packet::PortId;
use ipnet::IpNet;
use slowpath::rib::next_hop::{KernelRoute, Link, Topology};
use slowpath::rib::table::{Hop, Via};
use std::collections::{BTreeMap, BTreeSet};

/// Routes with this protocol number are our own (Calico's number for cluster routes).
pub const OWN_PROTOCOL: u8 = 80;

/// What next-hop resolution reads: `ports` are the router's ports by interface index, `hidden`
/// the interfaces that are the router's own doors to the kernel.
pub fn topology(
    kernel: &KernelState,
    ports: &BTreeMap<u32, PortId>,
    hidden: &BTreeSet<u32>,
) -> Topology {
    let mut topology = Topology::default();
    for link in kernel.links.values() {
        let mac = link.mac.map_or([0; 6], |m| m.0);
        let up = link.up && link.carrier;
        let mtu = link.mtu.min(u32::from(u16::MAX)) as u16;
        let port = ports.get(&link.index).copied();
        topology.links.insert(link.index, Link { port, mac, mtu, up });
    }
    for route in usable(kernel, hidden) {
        let hops = route.next_hops.iter().map(|h| (h.gateway, h.link)).collect();
        let prefix = route.destination.trunc();
        topology.routes.entry(prefix).or_insert(KernelRoute { prefix, hops });
    }
    for ((link, address), neighbour) in &kernel.neighbours {
        if let (true, Some(mac)) = (neighbour.state.is_usable(), neighbour.mac) {
            topology.neighbours.insert((*link, *address), mac.0);
        }
    }
    topology
}

/// The kernel as a route source: subnets on links, everything else of the main table, and the
/// node's own addresses.
#[derive(Debug, Default, PartialEq)]
pub struct KernelRoutes {
    /// The node's own addresses.
    pub local: BTreeMap<IpNet, Via>,
    /// Subnets on its links.
    pub connected: BTreeMap<IpNet, Via>,
    /// The rest.
    pub other: BTreeMap<IpNet, Via>,
}

/// Reads the kernel's routes as a route source.
pub fn kernel_routes(kernel: &KernelState, hidden: &BTreeSet<u32>) -> KernelRoutes {
    let mut routes = KernelRoutes::default();
    for address in &kernel.addresses {
        let ip = address.net.addr();
        let loopback =
            kernel.links.get(&address.link).is_some_and(|l| l.layer == LinkLayer::Loopback);
        // Link-local addresses exist once per link; 127/8 never leaves the node.
        if ip.is_loopback() || is_link_local(ip) && !loopback {
            continue;
        }
        routes.local.insert(IpNet::from(ip), Via::HostLocal);
    }
    for route in usable(kernel, hidden) {
        let prefix = route.destination.trunc();
        if is_link_local(prefix.addr()) {
            continue;
        }
        let (map, via) = match (route.kind, route.next_hops.as_slice()) {
            (RouteKind::Blackhole, _) => (&mut routes.other, Via::Blackhole),
            (RouteKind::Unreachable, _) => (&mut routes.other, Via::Unreachable),
            (RouteKind::Prohibit, _) => (&mut routes.other, Via::Prohibit),
            (_, []) => continue,
            (_, [only]) if only.gateway.is_none() => (&mut routes.connected, Via::Link(only.link)),
            (_, hops) => {
                let hops = hops
                    .iter()
                    .filter_map(|h| Some(Hop { address: h.gateway?, link: Some(h.link) }))
                    .collect();
                (&mut routes.other, Via::Gateways(hops))
            }
        };
        map.entry(prefix).or_insert(via);
    }
    routes
}

/// Host routes to the neighbours on uplinks that the kernel keeps resolved for us: what a subnet's
/// route alone would have to hold for resolution goes straight to them.
pub fn neighbour_routes(
    kernel: &KernelState,
    uplinks: &BTreeMap<u32, PortId>,
) -> BTreeMap<IpNet, Via> {
    kernel
        .neighbours
        .iter()
        .filter(|((link, address), n)| {
            let usable = n.managed && n.mac.is_some() && n.state.is_usable();
            usable && uplinks.contains_key(link) && !is_link_local(*address)
        })
        .map(|((link, address), _)| {
            let hop = Hop { address: *address, link: Some(*link) };
            (IpNet::from(*address), Via::Gateways(vec![hop]))
        })
        .collect()
}

/// Routes of the main table that others made, the preferred of each prefix first.
fn usable<'a>(kernel: &'a KernelState, hidden: &BTreeSet<u32>) -> impl Iterator<Item = &'a Route> {
    let mut routes: Vec<_> = kernel
        .routes()
        .filter(|r| r.tos == 0 && r.protocol != OWN_PROTOCOL)
        .filter(|r| r.next_hops.is_empty() || r.next_hops.iter().any(|h| !h.dead))
        .filter(|r| !r.next_hops.iter().any(|h| hidden.contains(&h.link)))
        .collect();
    routes.sort_by_key(|r| r.metric);
    routes.into_iter()
}

fn is_link_local(address: std::net::IpAddr) -> bool {
    match address {
        std::net::IpAddr::V4(a) => a.is_link_local(),
        std::net::IpAddr::V6(a) => a.is_unicast_link_local() || a.is_multicast(),
    }
}
