//! How does the node's own traffic, and what its kernel forwards, reach the router and come back?
//!
//! Two TUN devices in the host's namespace. `iif lo` rules send what the node itself originates to
//! the pools by the first, all other rules what the kernel forwards by the second: the router can
//! tell the node from its guests by the port alone.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::forward::{self, ForwardError};
use super::netlink::{
    Family, Link, LinkChange, Netlink, NetlinkError, NextHop, Route, RouteScope, Rule,
};
use super::sysctl::{self, SysctlError};

/// What the host's ports are to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPorts {
    /// Device of what the node originates: [`Prepared::node_port`].
    pub node_port: String,
    /// Device of what the kernel forwards: [`FORWARD_PORT`].
    pub forward_port: String,
    /// The node's tunnel addresses (from a pool, at most one of a family), on both devices.
    pub addresses: Vec<IpAddr>,
    /// The pools whose traffic the router carries.
    pub pools: Vec<IpNet>,
    /// MTU in bytes of both devices.
    pub mtu: u32,
    /// Packets the kernel keeps while no forwarder reads.
    pub tx_queue_length: u32,
}

/// What [`prepare`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// The name to open the node's TUN device under.
    pub node_port: String,
    /// What an operator should know, in sentences.
    pub notices: Vec<String>,
}

/// The node's port, named as under Calico.
pub const NODE_PORT: &str = "tunl0";
/// Its name where the kernel's own tunnel device holds that one.
pub const NODE_PORT_BESIDE_KERNEL: &str = "tunl0-vr";
/// The port of what the kernel forwards.
pub const FORWARD_PORT: &str = "vrouter-fwd";

/// Marks devices as ours, so that a restart may take them over.
const ALIAS: &str = "vrouter host port";
/// Marks routes and rules as ours: the protocol number Calico's node agent uses for cluster routes.
pub const PROTOCOL: u8 = 80;
/// Rules stand before the main table (32766) and before the rules of cloud providers (from 512);
/// below 90 there is room for an administrator's exceptions.
const PRIORITY_ORIGINATED: u32 = 90;
/// After the other: what `iif lo` did not take is forwarded.
const PRIORITY_FORWARDED: u32 = 91;
/// "vr" in ASCII: outside the ranges people and other agents (1 to 250) number their tables in.
const TABLE_ORIGINATED: u32 = 0x7672;
/// The next one.
const TABLE_FORWARDED: u32 = 0x7673;

/// Settings of both devices.
const DEVICE_SETTINGS: [(&str, &str); 5] = [
    // The kernel's routes to pods lead to the one device, answers may come by the other.
    ("rp_filter", "2"),
    // A reply to a translated host port carries an address of the node itself.
    ("accept_local", "1"),
    // A host port opened on 127.0.0.1 is translated to a pod and back.
    ("route_localnet", "1"),
    // Packets that come and go by the same device are no routing mistake here.
    ("send_redirects", "0"),
    ("forwarding", "1"),
];

/// Why the host's ports could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The kernel refused a step.
    #[error("host ports: {0}")]
    Netlink(#[from] NetlinkError),
    /// A setting could not be made.
    #[error("host ports: {0}")]
    Sysctl(#[from] SysctlError),
    /// The packet filter could not be asked or told.
    #[error("host ports: {0}")]
    Forward(#[from] ForwardError),
    /// Somebody else has a device of our name.
    #[error(
        "interface {name} (kind {kind}) was not made by this node; remove it (ip link delete \
         {name}) or rename it"
    )]
    Foreign {
        /// Its name.
        name: String,
        /// What it is.
        kind: String,
    },
    /// A device is not there: its TUN descriptor has to be open first.
    #[error("interface {name} does not exist; its TUN device must be opened first")]
    Missing {
        /// Its name.
        name: String,
    },
}

/// Before the TUN devices are opened: finds their names free or ours, and takes the kernel's IPIP
/// device down where it holds the first one.
pub fn prepare(netlink: &mut Netlink) -> Result<Prepared, HostError> {
    let mut prepared = Prepared { node_port: NODE_PORT.into(), notices: Vec::new() };
    let holder = netlink.link(NODE_PORT)?;
    if let Some(kernels) = holder.as_ref().filter(|link| is_kernel_tunnel(link)) {
        prepared.node_port = NODE_PORT_BESIDE_KERNEL.into();
        prepared.notices.push(take_down(netlink, kernels)?);
    } else {
        refuse_foreign(holder.as_ref())?;
    }
    refuse_foreign(netlink.link(NODE_PORT_BESIDE_KERNEL)?.as_ref())?;
    refuse_foreign(netlink.link(FORWARD_PORT)?.as_ref())?;
    Ok(prepared)
}

/// Makes the host's ports what `wanted` says, whatever they were before; says in sentences what it
/// changed. Rules and routes of others stay. Settings and packet filter are those of the calling
/// thread's namespace, which must be `netlink`'s.
pub fn ensure(netlink: &mut Netlink, wanted: &HostPorts) -> Result<Vec<String>, HostError> {
    let mut done = Vec::new();
    if wanted.node_port != NODE_PORT {
        let kernels = netlink.link(NODE_PORT)?.filter(|link| link.up && is_kernel_tunnel(link));
        done.extend(kernels.map(|link| take_down(netlink, &link)).transpose()?);
    }
    let node = device(netlink, &wanted.node_port, wanted, &mut done)?;
    let forward = device(netlink, &wanted.forward_port, wanted, &mut done)?;
    if sysctl::set("ipv4/ip_forward", "1")? {
        done.push("switched IPv4 forwarding on".into());
    }
    if wanted.pools.iter().any(|pool| pool.addr().is_ipv6())
        && sysctl::set("ipv6/conf/all/forwarding", "1")?
    {
        done.push("switched IPv6 forwarding on".into());
    }
    // New routes before their rules, old rules before their routes: a rule never leads into an
    // empty table (it would fall through to the main one, and out by the default route).
    let (routes, rules) = (wanted.routes(node, forward), wanted.rules());
    add_routes(netlink, &routes, &mut done)?;
    sync_rules(netlink, &rules, &mut done)?;
    remove_other_routes(netlink, &routes, &mut done)?;
    done.extend(forward::accept(&[&wanted.node_port, &wanted.forward_port])?);
    Ok(done)
}

/// Removes rules, routes and packet filter rules. The devices end with their descriptors.
pub fn remove(netlink: &mut Netlink) -> Result<(), HostError> {
    let mut done = Vec::new();
    sync_rules(netlink, &BTreeSet::new(), &mut done)?;
    remove_other_routes(netlink, &[], &mut done)?;
    forward::withdraw(&[NODE_PORT, NODE_PORT_BESIDE_KERNEL, FORWARD_PORT])?;
    Ok(())
}

impl HostPorts {
    fn rules(&self) -> BTreeSet<Rule> {
        self.pools
            .iter()
            .flat_map(|pool| {
                let forwarded = Rule {
                    family: Family::of(pool.addr()),
                    priority: PRIORITY_FORWARDED,
                    input: None,
                    destination: Some(pool.trunc()),
                    source: None,
                    table: TABLE_FORWARDED,
                    protocol: PROTOCOL,
                };
                let originated = Rule {
                    priority: PRIORITY_ORIGINATED,
                    input: Some("lo".into()),
                    table: TABLE_ORIGINATED,
                    ..forwarded.clone()
                };
                [originated, forwarded]
            })
            .collect()
    }

    fn routes(&self, node: u32, forward: u32) -> Vec<Route> {
        let mut routes = Vec::new();
        for pool in &self.pools {
            let family = Family::of(pool.addr());
            for (table, link) in [(TABLE_ORIGINATED, node), (TABLE_FORWARDED, forward)] {
                routes.push(Route {
                    table,
                    protocol: PROTOCOL,
                    // IPv6 has no scopes, and counts "not said" as 1024.
                    metric: if family == Family::V6 { 1024 } else { 0 },
                    scope: if family == Family::V6 {
                        RouteScope::Universe
                    } else {
                        RouteScope::Link
                    },
                    source: self.addresses.iter().copied().find(|ip| Family::of(*ip) == family),
                    ..Route::new(pool.trunc(), NextHop::device(link))
                });
            }
        }
        routes
    }
}

/// Sets one device up and gives its index.
fn device(
    netlink: &mut Netlink,
    name: &str,
    wanted: &HostPorts,
    done: &mut Vec<String>,
) -> Result<u32, HostError> {
    let link = netlink.link(name)?.ok_or_else(|| HostError::Missing { name: name.into() })?;
    refuse_foreign(Some(&link))?;
    for (setting, value) in DEVICE_SETTINGS {
        sysctl::set(&format!("ipv4/conf/{name}/{setting}"), value)?;
    }
    let change = LinkChange {
        alias: (link.alias.as_deref() != Some(ALIAS)).then_some(ALIAS),
        mtu: (link.mtu != wanted.mtu).then_some(wanted.mtu),
        tx_queue_length: (link.tx_queue_length != wanted.tx_queue_length)
            .then_some(wanted.tx_queue_length),
        no_link_local: !link.up,
        ..LinkChange::default()
    };
    if change.alias.is_some() || change.mtu.is_some() || change.tx_queue_length.is_some() {
        netlink.change_link(link.index, &change)?;
        done.push(format!("{name}: set MTU {}, queue {}", wanted.mtu, wanted.tx_queue_length));
    }
    if !link.up {
        // Without a queue of the qdisc's own before the device's: see the pods' interfaces.
        netlink.set_root_qdisc(link.index, "noqueue")?;
        let up = LinkChange { up: Some(true), no_link_local: true, ..LinkChange::default() };
        netlink.change_link(link.index, &up)?;
        done.push(format!("{name}: set up"));
    }
    sync_addresses(netlink, &link, &wanted.addresses, done)?;
    Ok(link.index)
}

fn sync_addresses(
    netlink: &mut Netlink,
    link: &Link,
    wanted: &[IpAddr],
    done: &mut Vec<String>,
) -> Result<(), HostError> {
    let wanted: Vec<IpNet> = wanted.iter().copied().map(IpNet::from).collect();
    let mut present = Vec::new();
    for address in netlink.addresses()?.into_iter().filter(|a| a.link == link.index) {
        present.push(address.net);
    }
    for net in wanted.iter().filter(|net| !present.contains(net)) {
        netlink.add_address(link.index, *net)?;
        done.push(format!("{}: added address {net}", link.name));
    }
    for net in present.iter().filter(|net| !wanted.contains(net)) {
        netlink.delete_address(link.index, *net)?;
        done.push(format!("{}: removed address {net}", link.name));
    }
    Ok(())
}

fn add_routes(
    netlink: &mut Netlink,
    wanted: &[Route],
    done: &mut Vec<String>,
) -> Result<(), HostError> {
    let present = our_routes(netlink)?;
    for route in wanted {
        let same = |r: &&Route| {
            r.table == route.table
                && r.destination == route.destination
                && r.source == route.source
                && r.has_same_hops(route)
        };
        if present.iter().find(same).is_none() {
            netlink.replace_route(route)?;
            done.push(format!("set route {route}"));
        }
    }
    Ok(())
}

fn remove_other_routes(
    netlink: &mut Netlink,
    wanted: &[Route],
    done: &mut Vec<String>,
) -> Result<(), HostError> {
    for route in our_routes(netlink)? {
        let keep = |w: &Route| {
            w.table == route.table && w.destination == route.destination && w.has_same_hops(&route)
        };
        if !wanted.iter().any(keep) {
            netlink.delete_route(&route)?;
            done.push(format!("deleted route {route}"));
        }
    }
    Ok(())
}

fn our_routes(netlink: &mut Netlink) -> Result<Vec<Route>, HostError> {
    let mut routes = netlink.routes(TABLE_ORIGINATED)?;
    routes.extend(netlink.routes(TABLE_FORWARDED)?);
    routes.retain(|route| route.protocol == PROTOCOL);
    Ok(routes)
}

fn sync_rules(
    netlink: &mut Netlink,
    wanted: &BTreeSet<Rule>,
    done: &mut Vec<String>,
) -> Result<(), HostError> {
    let mut present = BTreeSet::new();
    for family in [Family::V4, Family::V6] {
        present.extend(netlink.rules(family)?.into_iter().filter(|rule| {
            matches!(rule.table, TABLE_ORIGINATED | TABLE_FORWARDED) && rule.protocol == PROTOCOL
        }));
    }
    for rule in wanted.difference(&present) {
        netlink.add_rule(rule)?;
        done.push(format!("added {rule}"));
    }
    for rule in present.difference(wanted) {
        netlink.delete_rule(rule)?;
        done.push(format!("deleted {rule}"));
    }
    Ok(())
}

fn is_kernel_tunnel(link: &Link) -> bool {
    link.kind.as_deref() == Some("ipip")
}

/// A TUN device without alias that never came up is what an interrupted start leaves behind.
fn refuse_foreign(link: Option<&Link>) -> Result<(), HostError> {
    let Some(link) = link else { return Ok(()) };
    let unfinished = link.alias.is_none() && !link.up;
    let ours =
        link.kind.as_deref() == Some("tun") && (unfinished || link.alias.as_deref() == Some(ALIAS));
    if ours {
        return Ok(());
    }
    let kind = link.kind.clone().unwrap_or_else(|| "hardware".into());
    Err(HostError::Foreign { name: link.name.clone(), kind })
}

fn take_down(netlink: &mut Netlink, kernels: &Link) -> Result<String, HostError> {
    if kernels.up {
        netlink
            .change_link(kernels.index, &LinkChange { up: Some(false), ..LinkChange::default() })?;
    }
    Ok(kernel_tunnel_notice())
}

fn kernel_tunnel_notice() -> String {
    format!(
        "the kernel's ipip module holds the name {NODE_PORT}: its device is taken down and ours is \
         {NODE_PORT_BESIDE_KERNEL}. To get the name back: 'modprobe -r ipip', keep it from being \
         loaded ('echo blacklist ipip > /etc/modprobe.d/vrouter.conf'), then restart this node"
    )
}
