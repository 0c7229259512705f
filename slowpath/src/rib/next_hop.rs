//! Where does a route really lead? Next hops resolved to ports, neighbours and tunnels.
//!
//! The FIB holds a [`NextHopId`] per [`Via`]; when links or neighbours change, only the small
//! arrays behind the ids are computed anew: O(next hops), not O(routes).

use super::table::{Hop, Via};
use fastpath::packet::PortId;
use fastpath::tables::nexthop::{Adjacency, NextHop, NextHopGroup};
use fastpath::tables::{AdjacencyId, GroupId, NextHopId};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

/// One link of the node as resolution sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The router's port on it; `None` when the kernel keeps it.
    pub port: Option<PortId>,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// Up, and with a carrier.
    pub up: bool,
}

/// One route of the kernel's main table as resolution sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelRoute {
    /// Destination.
    pub prefix: IpNet,
    /// Ways on; a hop without gateway is a subnet on that link.
    pub hops: Vec<(Option<IpAddr>, u32)>,
}

/// What resolution reads of the node's kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// By interface index.
    pub links: BTreeMap<u32, Link>,
    /// The best route per prefix.
    pub routes: BTreeMap<IpNet, KernelRoute>,
    /// MAC addresses by interface index and address; only usable entries.
    pub neighbours: BTreeMap<(u32, IpAddr), [u8; 6]>,
}

impl Topology {
    /// Does the kernel's table lead to an address, by a link that is up?
    pub fn reaches(&self, address: IpAddr) -> bool {
        self.towards(address).is_some()
    }

    /// The link and neighbour that lead to an address by the kernel's table.
    fn towards(&self, address: IpAddr) -> Option<(u32, IpAddr)> {
        let full = IpNet::from(address).prefix_len();
        (0..=full).rev().find_map(|len| {
            let route = self.routes.get(&IpNet::new(address, len).ok()?.trunc())?;
            let usable = |link: &u32| self.links.get(link).is_some_and(|l| l.up);
            let (gateway, link) = route.hops.iter().find(|(_, link)| usable(link))?;
            Some((*link, gateway.unwrap_or(address)))
        })
    }
}

/// What the workers need behind the FIB's ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// Indexed by [`NextHopId`].
    pub next_hops: Vec<NextHop>,
    /// Indexed by [`GroupId`].
    pub groups: Vec<NextHopGroup>,
    /// Indexed by [`AdjacencyId`].
    pub adjacencies: Vec<Adjacency>,
    /// Neighbours (interface index, address) to be kept resolved by the kernel.
    pub neighbours: BTreeSet<(u32, IpAddr)>,
    /// Links that nodes or BGP next hops are reached by but the router has no port on.
    pub unowned_links: BTreeSet<u32>,
}

/// Ids for ways on: a [`Via`] keeps its id as long as a route uses it.
#[derive(Debug)]
pub struct NextHopIndex {
    ids: HashMap<Via, NextHopId>,
    slots: Vec<Option<(Via, u32)>>,
    free: Vec<u32>,
    adjacencies: Vec<(u32, IpAddr)>,
    adjacency_ids: HashMap<(u32, IpAddr), AdjacencyId>,
}

impl Default for NextHopIndex {
    fn default() -> Self {
        Self {
            ids: HashMap::new(),
            // Id 0 is "no route" for good.
            slots: vec![None],
            free: Vec::new(),
            adjacencies: Vec::new(),
            adjacency_ids: HashMap::new(),
        }
    }
}

impl NextHopIndex {
    /// The id of a way on, taken once more.
    pub fn acquire(&mut self, via: &Via) -> NextHopId {
        if let Some(id) = self.ids.get(via).copied() {
            if let Some((_, users)) = &mut self.slots[id.0 as usize] {
                *users += 1;
            }
            return id;
        }
        // A group's members are next hops of their own.
        for member in members(via) {
            self.acquire(&member);
        }
        let slot = Some((via.clone(), 1));
        let id = if let Some(free) = self.free.pop() {
            self.slots[free as usize] = slot;
            NextHopId(free)
        } else {
            self.slots.push(slot);
            NextHopId(self.slots.len() as u32 - 1)
        };
        self.ids.insert(via.clone(), id);
        id
    }

    /// Gives an id back that [`NextHopIndex::acquire`] gave.
    pub fn release(&mut self, id: NextHopId) {
        let Some(Some((via, users))) = self.slots.get_mut(id.0 as usize) else { return };
        *users -= 1;
        if *users > 0 {
            return;
        }
        let via = via.clone();
        self.slots[id.0 as usize] = None;
        self.free.push(id.0);
        self.ids.remove(&via);
        for member in members(&via) {
            if let Some(member) = self.ids.get(&member).copied() {
                self.release(member);
            }
        }
    }

    /// The way on behind an id.
    pub fn via(&self, id: NextHopId) -> Option<&Via> {
        self.slots.get(id.0 as usize)?.as_ref().map(|(via, _)| via)
    }

    /// The id of a way on that is in use.
    pub fn id(&self, via: &Via) -> Option<NextHopId> {
        self.ids.get(via).copied()
    }

    /// Resolves every id against the kernel's state now. Ids of adjacencies are kept.
    pub fn resolve(&mut self, topology: &Topology) -> Resolved {
        let mut resolved = Resolved::default();
        for i in 0..self.slots.len() {
            let via = self.slots[i].as_ref().map(|(via, _)| via.clone());
            let next_hop = via.map_or(NextHop::NoRoute, |v| self.one(&v, topology, &mut resolved));
            resolved.next_hops.push(next_hop);
        }
        resolved.adjacencies = self.adjacencies.iter().map(|k| adjacency(topology, *k)).collect();
        resolved
    }

    fn one(&mut self, via: &Via, topology: &Topology, out: &mut Resolved) -> NextHop {
        match via {
            Via::Endpoint(id) => NextHop::Endpoint(*id),
            Via::HostLocal => NextHop::HostLocal,
            Via::Router => NextHop::Router,
            Via::Blackhole => NextHop::Blackhole,
            Via::Unreachable => NextHop::Unreachable,
            Via::Prohibit => NextHop::Prohibit,
            Via::Link(link) => match topology.links.get(link).and_then(|l| l.port) {
                Some(port) => NextHop::Glean(port),
                None => NextHop::HostForward,
            },
            Via::Gateways(hops) if hops.len() > 1 => self.group(via, out),
            Via::NextHops(hops) if hops.len() > 1 => self.group(via, out),
            Via::Gateways(hops) => match hops.first() {
                Some(Hop { address, link: Some(link) }) => {
                    self.gateway(*link, *address, topology, out)
                }
                Some(Hop { address, link: None }) => match topology.towards(*address) {
                    Some((link, neighbour)) => self.gateway(link, neighbour, topology, out),
                    None => NextHop::Unreachable,
                },
                None => NextHop::Unreachable,
            },
            Via::NextHops(hops) => match hops.first().and_then(|a| topology.towards(*a)) {
                Some((link, neighbour)) => {
                    out.require(link, topology);
                    self.gateway(link, neighbour, topology, out)
                }
                None => NextHop::Unreachable,
            },
            Via::Node { address, encapsulate } => {
                let Some((link, neighbour)) = topology.towards(IpAddr::V4(*address)) else {
                    return NextHop::Unreachable;
                };
                out.require(link, topology);
                match (self.gateway(link, neighbour, topology, out), encapsulate) {
                    (NextHop::Adjacency(adjacency), true) => {
                        NextHop::Tunnel { remote: *address, adjacency }
                    }
                    (plain, false) => plain,
                    // No port on that link (yet): the kernel can't encapsulate for us.
                    (_, true) => NextHop::Unreachable,
                }
            }
        }
    }

    fn gateway(
        &mut self,
        link: u32,
        neighbour: IpAddr,
        topology: &Topology,
        out: &mut Resolved,
    ) -> NextHop {
        let Some(owned) = topology.links.get(&link) else { return NextHop::Unreachable };
        if owned.port.is_none() {
            return NextHop::HostForward;
        }
        out.neighbours.insert((link, neighbour));
        let next = AdjacencyId(self.adjacencies.len() as u32);
        let id = *self.adjacency_ids.entry((link, neighbour)).or_insert(next);
        if id == next {
            self.adjacencies.push((link, neighbour));
        }
        NextHop::Adjacency(id)
    }

    fn group(&self, via: &Via, out: &mut Resolved) -> NextHop {
        let members: Vec<_> =
            members(via).iter().filter_map(|m| self.ids.get(m).copied()).collect();
        out.groups.push(NextHopGroup { members });
        NextHop::Group(GroupId(out.groups.len() as u32 - 1))
    }
}

impl Resolved {
    fn require(&mut self, link: u32, topology: &Topology) {
        if topology.links.get(&link).is_some_and(|l| l.port.is_none()) {
            self.unowned_links.insert(link);
        }
    }
}

/// The single next hops that a group consists of (none for what is no group).
fn members(via: &Via) -> Vec<Via> {
    let limit = fastpath::limits::GROUP_MEMBERS;
    match via {
        Via::Gateways(hops) if hops.len() > 1 => {
            hops.iter().take(limit).map(|h| Via::Gateways(vec![*h])).collect()
        }
        Via::NextHops(hops) if hops.len() > 1 => {
            hops.iter().take(limit).map(|h| Via::NextHops(vec![*h])).collect()
        }
        _ => Vec::new(),
    }
}

fn adjacency(topology: &Topology, (link, address): (u32, IpAddr)) -> Adjacency {
    let found = topology.links.get(&link);
    Adjacency {
        port: found.and_then(|l| l.port).unwrap_or(PortId(u16::MAX)),
        address,
        destination_mac: topology.neighbours.get(&(link, address)).copied(),
        source_mac: found.map_or([0; 6], |l| l.mac),
        mtu: found.map_or(1500, |l| l.mtu),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn ip(s: &str) -> IpAddr {
        s.parse().expect("an address")
    }

    fn topology() -> Topology {
        let mut t = Topology::default();
        let link = |port| Link { port, mac: MAC, mtu: 1500, up: true };
        t.links.insert(2, link(Some(PortId(7))));
        t.links.insert(3, link(None));
        for (prefix, gateway, on) in [
            ("10.1.5.0/24", None, 2),
            ("0.0.0.0/0", Some(ip("10.1.5.1")), 2),
            ("198.51.100.0/24", None, 3),
        ] {
            let prefix: IpNet = prefix.parse().expect("a prefix");
            t.routes.insert(prefix, KernelRoute { prefix, hops: vec![(gateway, on)] });
        }
        t.neighbours.insert((2, ip("10.1.5.1")), MAC);
        t
    }

    fn resolve(via: &Via) -> (NextHop, Resolved) {
        let mut index = NextHopIndex::default();
        let id = index.acquire(via);
        let resolved = index.resolve(&topology());
        (resolved.next_hops[id.0 as usize], resolved)
    }

    #[test]
    fn nodes_are_reached_by_link_or_gateway() {
        let node = |a: [u8; 4], encapsulate| Via::Node { address: Ipv4Addr::from(a), encapsulate };
        let (hop, r) = resolve(&node([10, 1, 5, 9], true));
        assert!(matches!(hop, NextHop::Tunnel { remote, .. } if remote.octets() == [10, 1, 5, 9]));
        assert_eq!(r.adjacencies[0].address, ip("10.1.5.9"));
        assert_eq!(r.adjacencies[0].destination_mac, None);
        let (hop, r) = resolve(&node([10, 1, 8, 9], false));
        assert!(matches!(hop, NextHop::Adjacency(_)));
        assert_eq!(r.adjacencies[0].address, ip("10.1.5.1"));
        assert_eq!(r.adjacencies[0].destination_mac, Some(MAC));
        assert!(r.neighbours.contains(&(2, ip("10.1.5.1"))));
    }

    #[test]
    fn links_the_router_does_not_own_are_the_kernels() {
        assert_eq!(resolve(&Via::Link(3)).0, NextHop::HostForward);
        assert_eq!(resolve(&Via::Link(2)).0, NextHop::Glean(PortId(7)));
        let hop = Hop { address: ip("198.51.100.1"), link: Some(3) };
        let (next_hop, r) = resolve(&Via::Gateways(vec![hop]));
        assert_eq!(next_hop, NextHop::HostForward);
        assert!(r.unowned_links.is_empty());
        // A BGP next hop there is a reason to open a port on it.
        let (next_hop, r) = resolve(&Via::NextHops(vec![ip("198.51.100.1")]));
        assert_eq!(next_hop, NextHop::HostForward);
        assert!(r.unowned_links.contains(&3));
    }

    #[test]
    fn groups_hold_their_members_and_ids_are_given_back() {
        let mut index = NextHopIndex::default();
        let two = Via::NextHops(vec![ip("10.1.5.2"), ip("10.1.5.3")]);
        let id = index.acquire(&two);
        let r = index.resolve(&topology());
        assert_eq!(r.next_hops[id.0 as usize], NextHop::Group(GroupId(0)));
        assert_eq!(r.groups[0].members.len(), 2);
        assert_eq!(r.adjacencies.len(), 2);
        index.release(id);
        assert!(index.ids.is_empty() && index.free.len() == 3);
        assert_eq!(index.resolve(&topology()).next_hops, vec![NextHop::NoRoute; 4]);
        assert!(index.acquire(&two).0 != 0);
    }

    #[test]
    fn nothing_leads_out_of_a_link_that_is_down() {
        let mut t = topology();
        t.links.get_mut(&2).expect("link 2").up = false;
        let mut index = NextHopIndex::default();
        let id = index.acquire(&Via::NextHops(vec![ip("10.1.5.2")]));
        assert_eq!(index.resolve(&t).next_hops[id.0 as usize], NextHop::Unreachable);
    }
}
