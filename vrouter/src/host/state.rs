//! What does the kernel's networking look like now, as far as events tell?

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::BitOr;

use ipnet::IpNet;

use super::monitor::{KernelEvent, RoutePlace};
use super::netlink::{Address, Family, Link, Neighbour, Netlink, NetlinkError, Route, TABLE_MAIN};

/// A namespace's links, addresses, main routes and neighbours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelState {
    /// Devices by index.
    pub links: BTreeMap<u32, Link>,
    /// Usable addresses by device, IPv4 first and in the kernel's order: the first is what it sends
    /// from. IPv6 addresses under detection of duplicates are not in it: nobody tells of them.
    pub addresses: Vec<Address>,
    /// Neighbours by device and address.
    pub neighbours: BTreeMap<(u32, IpAddr), Neighbour>,
    routes: BTreeMap<RouteKey, Vec<Route>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct RouteKey {
    destination: IpNet,
    tos: u8,
    metric: u32,
}

/// Which parts an event touched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changed(u8);

impl Changed {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Devices.
    pub const LINKS: Self = Self(1);
    /// Addresses.
    pub const ADDRESSES: Self = Self(2);
    /// Routes of the main table.
    pub const ROUTES: Self = Self(4);
    /// Policy rules (not kept here).
    pub const RULES: Self = Self(8);
    /// Neighbours.
    pub const NEIGHBOURS: Self = Self(16);
    /// Routes of other tables (not kept here).
    pub const OTHER_ROUTES: Self = Self(32);
    /// Events were lost: the state must be dumped again.
    pub const OVERRUN: Self = Self(64);

    /// Whether any part of `other` is in it.
    pub fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    fn when(self, condition: bool) -> Self {
        if condition { self } else { Self::NONE }
    }
}

impl BitOr for Changed {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl KernelState {
    /// Reads everything anew.
    pub fn dump(netlink: &mut Netlink) -> Result<Self, NetlinkError> {
        let mut state = Self::default();
        for link in netlink.links()? {
            state.links.insert(link.index, link);
        }
        // In the kernel's order already, which for IPv4 means something.
        for address in netlink.addresses()?.into_iter().filter(|address| !address.tentative) {
            let end = state.addresses.partition_point(|known| group(known) <= group(&address));
            let place = if address.net.addr().is_ipv4() { end } else { state.place_of(&address) };
            state.addresses.insert(place, address);
        }
        for neighbour in netlink.neighbours()? {
            state.neighbours.insert((neighbour.link, neighbour.address), neighbour);
        }
        for route in netlink.routes(TABLE_MAIN)? {
            state.routes.entry(RouteKey::of(&route)).or_default().push(route);
        }
        Ok(state)
    }

    /// The device of that name.
    pub fn link_named(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    /// The addresses of one device.
    pub fn addresses_of(&self, link: u32) -> impl Iterator<Item = &Address> {
        self.addresses.iter().filter(move |address| address.link == link)
    }

    /// The routes of the main table by destination and metric; of several with the same ones the
    /// kernel uses the first.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        self.routes.values().flatten()
    }

    /// The main table's route to an address: longest prefix, then smallest metric, with a next hop
    /// whose device is up where it has next hops at all.
    pub fn route_to(&self, destination: IpAddr) -> Option<&Route> {
        let longest = Family::of(destination).host_prefix();
        (0..=longest).rev().find_map(|length| {
            let prefix = IpNet::new(destination, length).ok()?.trunc();
            let first = RouteKey { destination: prefix, tos: 0, metric: 0 };
            let last = RouteKey { metric: u32::MAX, ..first };
            let usable = |route: &&Route| {
                route.next_hops.is_empty() || route.next_hops.iter().any(|hop| !hop.dead)
            };
            self.routes.range(first..=last).flat_map(|(_, routes)| routes).find(usable)
        })
    }

    /// Takes an event in and says what it changed. An event that tells what is known already
    /// changes nothing.
    pub fn apply(&mut self, event: &KernelEvent) -> Changed {
        match event {
            KernelEvent::Link(link) => self.link_changed(link),
            KernelEvent::LinkGone { index } => self.link_gone(*index),
            KernelEvent::Address(address) if address.tentative => self.address_gone(address),
            KernelEvent::Address(address) => self.address_changed(address),
            KernelEvent::AddressGone(address) => self.address_gone(address),
            KernelEvent::Route { route, .. } | KernelEvent::RouteGone(route)
                if route.table != TABLE_MAIN =>
            {
                Changed::OTHER_ROUTES
            }
            KernelEvent::Route { route, place } => {
                Changed::ROUTES.when(self.route_changed(route, *place))
            }
            KernelEvent::RouteGone(route) => Changed::ROUTES.when(self.route_gone(route)),
            KernelEvent::Rule(_) | KernelEvent::RuleGone(_) => Changed::RULES,
            KernelEvent::Neighbour(neighbour) => {
                let key = (neighbour.link, neighbour.address);
                let before = self.neighbours.insert(key, neighbour.clone());
                Changed::NEIGHBOURS.when(before.as_ref() != Some(neighbour))
            }
            KernelEvent::NeighbourGone { link, address } => {
                Changed::NEIGHBOURS.when(self.neighbours.remove(&(*link, *address)).is_some())
            }
            KernelEvent::Overrun => Changed::OVERRUN,
        }
    }

    fn link_changed(&mut self, link: &Link) -> Changed {
        let before = self.links.insert(link.index, link.clone());
        if before.as_ref() == Some(link) {
            return Changed::NONE;
        }
        // The kernel removes or restores a link's IPv4 routes without telling.
        let changed = self.retain_routes(|route| {
            for hop in route.next_hops.iter_mut().filter(|hop| hop.link == link.index) {
                hop.dead = !link.up;
                hop.linkdown = !link.carrier;
            }
            !(route.next_hops.iter().any(|hop| hop.link == link.index)
                && route.next_hops.iter().all(|hop| hop.dead))
        });
        Changed::LINKS | Changed::ROUTES.when(changed)
    }

    fn link_gone(&mut self, index: u32) -> Changed {
        let known = self.links.remove(&index).is_some();
        let (addresses, neighbours) = (self.addresses.len(), self.neighbours.len());
        self.addresses.retain(|address| address.link != index);
        self.neighbours.retain(|(link, _), _| *link != index);
        let routes = self.retain_routes(|route| {
            let had = !route.next_hops.is_empty();
            route.next_hops.retain(|hop| hop.link != index);
            !(had && route.next_hops.is_empty())
        });
        Changed::LINKS.when(known)
            | Changed::ADDRESSES.when(self.addresses.len() != addresses)
            | Changed::NEIGHBOURS.when(self.neighbours.len() != neighbours)
            | Changed::ROUTES.when(routes)
    }

    fn address_changed(&mut self, address: &Address) -> Changed {
        match self.addresses.iter_mut().find(|known| known.is_same(address)) {
            Some(known) if known == address => Changed::NONE,
            Some(known) => {
                known.clone_from(address);
                Changed::ADDRESSES
            }
            None => {
                self.addresses.insert(self.place_of(address), address.clone());
                Changed::ADDRESSES
            }
        }
    }

    /// Where a new address belongs.
    fn place_of(&self, address: &Address) -> usize {
        let before = |known: &Address| match group(known).cmp(&group(address)) {
            Ordering::Equal if address.net.addr().is_ipv6() => known.net < address.net,
            Ordering::Equal => address.secondary || known.precedes_primary(address),
            order => order == Ordering::Less,
        };
        self.addresses.iter().rposition(before).map_or(0, |last| last + 1)
    }

    fn address_gone(&mut self, address: &Address) -> Changed {
        let before = self.addresses.len();
        self.addresses.retain(|known| !known.is_same(address));
        let ip = address.net.addr();
        let elsewhere = self.addresses.iter().any(|known| known.net.addr() == ip);
        // None of this is told: IPv4 routes go with their source address, IPv6 routes of the same
        // device go on without it.
        let routes = self.retain_routes(|route| {
            let named = route.source == Some(ip);
            if named && ip.is_ipv6() && route.next_hops.iter().any(|hop| hop.link == address.link) {
                route.source = None;
            }
            !(named && ip.is_ipv4() && !elsewhere)
        });
        Changed::ADDRESSES.when(before != self.addresses.len()) | Changed::ROUTES.when(routes)
    }

    fn route_changed(&mut self, route: &Route, place: RoutePlace) -> bool {
        let known = self.routes.entry(RouteKey::of(route)).or_default();
        if known.contains(route) {
            return false;
        }
        let existing = match Family::of(route.destination.addr()) {
            Family::V4 => (place == RoutePlace::Replace && !known.is_empty()).then_some(0),
            // IPv6 joins routes with gateways into one multipath route and announces it whole;
            // without a gateway they stand side by side (fe80::/64 of each device), new ones last.
            Family::V6 => known
                .iter()
                .position(|other| {
                    other.shares_a_hop(route) || (other.has_gateway() && route.has_gateway())
                })
                .or_else(|| (place == RoutePlace::Replace && !known.is_empty()).then_some(0)),
        };
        match existing {
            Some(index) => known[index] = route.clone(),
            None if place == RoutePlace::First && route.destination.addr().is_ipv4() => {
                known.insert(0, route.clone());
            }
            None => known.push(route.clone()),
        }
        true
    }

    fn route_gone(&mut self, route: &Route) -> bool {
        let key = RouteKey::of(route);
        let Some(known) = self.routes.get_mut(&key) else { return false };
        let Some(index) = known
            .iter()
            .position(|other| other.has_same_hops(route))
            .or_else(|| known.iter().position(|other| other.shares_a_hop(route)))
        else {
            return false;
        };
        let found = &mut known[index];
        found.next_hops.retain(|hop| !route.next_hops.iter().any(|gone| gone.is_same(hop)));
        if let [last] = found.next_hops.as_mut_slice() {
            // What is no multipath route any more has no shares.
            last.weight = 1;
        }
        if found.next_hops.is_empty() {
            known.remove(index);
        }
        if known.is_empty() {
            self.routes.remove(&key);
        }
        true
    }

    /// Keeps what `keep` says, which may change the routes too; says whether anything changed.
    fn retain_routes(&mut self, mut keep: impl FnMut(&mut Route) -> bool) -> bool {
        let mut changed = false;
        self.routes.retain(|_, routes| {
            routes.retain_mut(|route| {
                let before = route.clone();
                let kept = keep(route);
                changed |= !kept || *route != before;
                kept
            });
            !routes.is_empty()
        });
        changed
    }
}

/// What addresses are sorted by before anything else.
fn group(address: &Address) -> (u32, Family) {
    (address.link, Family::of(address.net.addr()))
}

impl RouteKey {
    fn of(route: &Route) -> Self {
        Self { destination: route.destination, tos: route.tos, metric: route.metric }
    }
}
