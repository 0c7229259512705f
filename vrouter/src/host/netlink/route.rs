//! Which routes are in the kernel's tables, and how are they set and removed?

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteNextHop,
    RouteNextHopFlags, RouteProtocol, RouteScope as KernelScope, RouteType, RouteVia,
};

use super::rule::Family;
use super::{Netlink, NetlinkError};

/// The table packets are routed by when no rule says otherwise (`RT_TABLE_MAIN`).
pub const TABLE_MAIN: u32 = 254;
/// The table of the node's own addresses (`RT_TABLE_LOCAL`).
pub const TABLE_LOCAL: u32 = 255;

/// One route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where to; a length of 0 is the default route.
    pub destination: IpNet,
    /// Which table it stands in.
    pub table: u32,
    /// Order among routes to the same destination: small numbers first (IPv6: 1024 is "not said").
    pub metric: u32,
    /// Who set it (`RTPROT_` number: 2 kernel, 3 boot, 4 static, 12 BIRD, 80 this node).
    pub protocol: u8,
    /// How far its destination is.
    pub scope: RouteScope,
    /// What happens to packets that match.
    pub kind: RouteKind,
    /// Where they go: one, several for multipath, none unless `kind` is unicast.
    pub next_hops: Vec<NextHop>,
    /// The source address the node itself uses.
    pub source: Option<IpAddr>,
    /// A path MTU in bytes set on the route.
    pub mtu: Option<u32>,
    /// Type of service it is limited to (IPv4); 0 for all.
    pub tos: u8,
}

/// One way of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextHop {
    /// The device.
    pub link: u32,
    /// The router there; `None` if the destination itself is on the link.
    pub gateway: Option<IpAddr>,
    /// Its share among several, from 1.
    pub weight: u16,
    /// The gateway is on the link though no address of ours says so.
    pub onlink: bool,
    /// The device is down.
    pub dead: bool,
    /// The device has no carrier.
    pub linkdown: bool,
}

/// What a route does with packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteKind {
    /// Sends them on.
    Unicast,
    /// Delivers them here.
    Local,
    /// Drops them without a word.
    Blackhole,
    /// Drops them with "host unreachable".
    Unreachable,
    /// Drops them with "administratively prohibited".
    Prohibit,
    /// Anything else (broadcast, anycast, multicast, throw …), by its `RTN_` number.
    Other(u8),
}

/// How far a destination is (`RT_SCOPE_`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteScope {
    /// Anywhere.
    Universe,
    /// On the link.
    Link,
    /// This node.
    Host,
    /// Any other number.
    Other(u8),
}

impl RouteScope {
    pub(super) fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Universe,
            253 => Self::Link,
            254 => Self::Host,
            other => Self::Other(other),
        }
    }

    pub(super) fn to_u8(self) -> u8 {
        match self {
            Self::Universe => 0,
            Self::Link => 253,
            Self::Host => 254,
            Self::Other(value) => value,
        }
    }
}

impl NextHop {
    /// A way over a device to what is directly on it.
    pub fn device(link: u32) -> Self {
        Self { link, gateway: None, weight: 1, onlink: false, dead: false, linkdown: false }
    }

    /// A way over a device by a router on it.
    pub fn via(link: u32, gateway: IpAddr) -> Self {
        Self { gateway: Some(gateway), ..Self::device(link) }
    }

    /// Whether it is the same way, whatever its state and share.
    pub fn is_same(&self, other: &Self) -> bool {
        self.link == other.link && self.gateway == other.gateway
    }
}

impl Route {
    /// A unicast route in the main table, scope by whether it has a gateway.
    pub fn new(destination: IpNet, next_hop: NextHop) -> Self {
        let scope = match next_hop.gateway {
            None if destination.addr().is_ipv4() => RouteScope::Link,
            _ => RouteScope::Universe,
        };
        Self {
            destination,
            table: TABLE_MAIN,
            metric: 0,
            protocol: 3,
            scope,
            kind: RouteKind::Unicast,
            next_hops: vec![next_hop],
            source: None,
            mtu: None,
            tos: 0,
        }
    }

    /// A route that drops what matches.
    pub fn blackhole(destination: IpNet) -> Self {
        Self {
            scope: RouteScope::Universe,
            kind: RouteKind::Blackhole,
            next_hops: Vec::new(),
            ..Self::new(destination, NextHop::device(0))
        }
    }

    /// Whether both go the same ways in the same order.
    pub fn has_same_hops(&self, other: &Self) -> bool {
        self.next_hops.len() == other.next_hops.len()
            && self.next_hops.iter().zip(&other.next_hops).all(|(a, b)| a.is_same(b))
    }

    /// Whether both have a way in common.
    pub fn shares_a_hop(&self, other: &Self) -> bool {
        self.next_hops.iter().any(|a| other.next_hops.iter().any(|b| a.is_same(b)))
    }

    /// Whether any of its ways leads over a router.
    pub fn has_gateway(&self) -> bool {
        self.next_hops.iter().any(|hop| hop.gateway.is_some())
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind != RouteKind::Unicast {
            write!(f, "{:?} ", self.kind)?;
        }
        write!(f, "{}", self.destination)?;
        for hop in &self.next_hops {
            if let Some(gateway) = hop.gateway {
                write!(f, " via {gateway}")?;
            }
            write!(f, " on link {}", hop.link)?;
        }
        write!(f, " table {}", self.table)?;
        if self.metric != 0 {
            write!(f, " metric {}", self.metric)?;
        }
        Ok(())
    }
}

impl Netlink {
    /// The routes of one table, both families.
    pub fn routes(&mut self, table: u32) -> Result<Vec<Route>, NetlinkError> {
        let mut found = Vec::new();
        for family in [Family::V4, Family::V6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family.to_netlink();
            set_table(&mut message, table);
            let request = RouteNetlinkMessage::GetRoute(message);
            match self.dump(&request, || format!("list IP{family:?} routes of table {table}")) {
                Ok(answers) => found.extend(answers.iter().filter_map(Route::from_netlink)),
                // A table nobody used yet does not exist.
                Err(error) if error.is_missing() => {}
                Err(error) => return Err(error),
            }
        }
        found.retain(|route| route.table == table);
        Ok(found)
    }

    /// Sets a route in place of one with the same destination, table and metric.
    pub fn replace_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        let request = RouteNetlinkMessage::NewRoute(route.to_netlink());
        self.execute(request, NLM_F_CREATE | NLM_F_REPLACE, || format!("set route {route}"))
    }

    /// Adds a route; refused if one with the same destination, table and metric is there.
    pub fn add_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        let request = RouteNetlinkMessage::NewRoute(route.to_netlink());
        self.execute(request, NLM_F_CREATE | NLM_F_EXCL, || format!("add route {route}"))
    }

    /// Removes a route; `Ok(false)` if it is not there.
    pub fn delete_route(&mut self, route: &Route) -> Result<bool, NetlinkError> {
        let request = RouteNetlinkMessage::DelRoute(route.to_netlink());
        match self.execute(request, 0, || format!("delete route {route}")) {
            Ok(()) => Ok(true),
            Err(error) if error.is_missing() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The route the kernel itself would use for a packet of its own to `destination`; its
    /// `destination` field is the address asked for.
    pub fn lookup_route(&mut self, destination: IpAddr) -> Result<Option<Route>, NetlinkError> {
        let mut message = RouteMessage::default();
        let family = Family::of(destination);
        message.header.address_family = family.to_netlink();
        message.header.destination_prefix_length = family.host_prefix();
        message.attributes.push(RouteAttribute::Destination(address(destination)));
        let request = RouteNetlinkMessage::GetRoute(message);
        match self.ask(request, || format!("look up the route to {destination}")) {
            Ok(answers) => Ok(answers.iter().find_map(Route::from_netlink)),
            Err(error)
                if error.is_missing()
                    || matches!(
                        error.errno(),
                        Some(
                            nix::errno::Errno::ENETUNREACH
                                | nix::errno::Errno::EHOSTUNREACH
                                | nix::errno::Errno::EACCES
                                | nix::errno::Errno::EINVAL
                        )
                    ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl Route {
    /// Reads a route out of a `NewRoute` or `DelRoute` message; `None` for cached ones.
    pub(in crate::host) fn from_netlink(message: &RouteNetlinkMessage) -> Option<Self> {
        let (RouteNetlinkMessage::NewRoute(message) | RouteNetlinkMessage::DelRoute(message)) =
            message
        else {
            return None;
        };
        let header = &message.header;
        let family = Family::from_netlink(header.address_family)?;
        let mut destination: IpAddr = match family {
            Family::V4 => std::net::Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        let mut route = Self {
            table: u32::from(header.table),
            protocol: header.protocol.into(),
            scope: RouteScope::from_u8(header.scope.into()),
            kind: RouteKind::from_netlink(header.kind),
            tos: header.tos,
            ..Self::blackhole(IpNet::new_assert(destination, 0))
        };
        let mut single = NextHop::device(0);
        single.read_flags(header.flags.bits());
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(ip) => destination = ip_of(ip)?,
                RouteAttribute::Table(table) => route.table = *table,
                RouteAttribute::Priority(metric) => route.metric = *metric,
                RouteAttribute::PrefSource(ip) => route.source = ip_of(ip),
                RouteAttribute::Metrics(metrics) => {
                    route.mtu = metrics.iter().find_map(|metric| match metric {
                        RouteMetric::Mtu(mtu) => Some(*mtu),
                        _ => None,
                    });
                }
                RouteAttribute::MultiPath(hops) => {
                    route.next_hops = hops.iter().map(NextHop::from_netlink).collect();
                }
                other => single.read_attribute(other),
            }
        }
        if route.next_hops.is_empty() && single.link != 0 && route.kind.has_next_hop() {
            route.next_hops.push(single);
        }
        route.destination = IpNet::new(destination, header.destination_prefix_length).ok()?;
        Some(route)
    }

    fn to_netlink(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        let ip = self.destination.network();
        message.header.address_family = Family::of(ip).to_netlink();
        message.header.destination_prefix_length = self.destination.prefix_len();
        message.header.protocol = RouteProtocol::from(self.protocol);
        message.header.scope = KernelScope::from(self.scope.to_u8());
        message.header.kind = self.kind.to_netlink();
        message.header.tos = self.tos;
        set_table(&mut message, self.table);
        if self.destination.prefix_len() > 0 {
            message.attributes.push(RouteAttribute::Destination(address(ip)));
        }
        if self.metric != 0 {
            message.attributes.push(RouteAttribute::Priority(self.metric));
        }
        message.attributes.extend(self.source.map(|ip| RouteAttribute::PrefSource(address(ip))));
        message
            .attributes
            .extend(self.mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
        match self.next_hops.as_slice() {
            [] => {}
            [hop] => {
                message.attributes.push(RouteAttribute::Oif(hop.link));
                message.attributes.extend(hop.gateway_attribute(ip));
                if hop.onlink {
                    message.header.flags |= RouteFlags::Onlink;
                }
            }
            hops => {
                let hops = hops.iter().map(|hop| hop.to_netlink(ip)).collect();
                message.attributes.push(RouteAttribute::MultiPath(hops));
            }
        }
        message
    }
}

impl NextHop {
    fn from_netlink(hop: &RouteNextHop) -> Self {
        let mut next_hop = Self::device(hop.interface_index);
        next_hop.weight = u16::from(hop.hops) + 1;
        next_hop.read_flags(u32::from(hop.flags.bits()));
        hop.attributes.iter().for_each(|attribute| next_hop.read_attribute(attribute));
        next_hop
    }

    fn read_flags(&mut self, flags: u32) {
        let has = |flag: RouteNextHopFlags| flags & u32::from(flag.bits()) != 0;
        self.onlink = has(RouteNextHopFlags::Onlink);
        self.dead = has(RouteNextHopFlags::Dead);
        self.linkdown = has(RouteNextHopFlags::Linkdown);
    }

    fn read_attribute(&mut self, attribute: &RouteAttribute) {
        match attribute {
            RouteAttribute::Oif(link) => self.link = *link,
            RouteAttribute::Gateway(ip) => self.gateway = ip_of(ip),
            // RFC 5549: an IPv4 route over an IPv6 router.
            RouteAttribute::Via(RouteVia::Inet(ip)) => self.gateway = Some((*ip).into()),
            RouteAttribute::Via(RouteVia::Inet6(ip)) => self.gateway = Some((*ip).into()),
            _ => {}
        }
    }

    fn gateway_attribute(&self, destination: IpAddr) -> Option<RouteAttribute> {
        Some(match (self.gateway?, destination) {
            (IpAddr::V6(ip), IpAddr::V4(_)) => RouteAttribute::Via(RouteVia::Inet6(ip)),
            (ip, _) => RouteAttribute::Gateway(address(ip)),
        })
    }

    fn to_netlink(&self, destination: IpAddr) -> RouteNextHop {
        let mut hop = RouteNextHop::default();
        hop.interface_index = self.link;
        hop.hops = u8::try_from(self.weight.saturating_sub(1)).unwrap_or(u8::MAX);
        if self.onlink {
            hop.flags = RouteNextHopFlags::Onlink;
        }
        hop.attributes.extend(self.gateway_attribute(destination));
        hop
    }
}

impl RouteKind {
    fn from_netlink(kind: RouteType) -> Self {
        match kind {
            RouteType::Unicast => Self::Unicast,
            RouteType::Local => Self::Local,
            RouteType::BlackHole => Self::Blackhole,
            RouteType::Unreachable => Self::Unreachable,
            RouteType::Prohibit => Self::Prohibit,
            other => Self::Other(other.into()),
        }
    }

    fn to_netlink(self) -> RouteType {
        match self {
            Self::Unicast => RouteType::Unicast,
            Self::Local => RouteType::Local,
            Self::Blackhole => RouteType::BlackHole,
            Self::Unreachable => RouteType::Unreachable,
            Self::Prohibit => RouteType::Prohibit,
            Self::Other(number) => RouteType::from(number),
        }
    }

    /// IPv6 shows its dropping routes with the loopback device, which is no way anywhere.
    fn has_next_hop(self) -> bool {
        !matches!(self, Self::Blackhole | Self::Unreachable | Self::Prohibit)
    }
}

fn set_table(message: &mut RouteMessage, table: u32) {
    message.header.table = u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    message.attributes.push(RouteAttribute::Table(table));
}

fn address(ip: IpAddr) -> RouteAddress {
    match ip {
        IpAddr::V4(ip) => RouteAddress::Inet(ip),
        IpAddr::V6(ip) => RouteAddress::Inet6(ip),
    }
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}
