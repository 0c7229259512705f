//! How does a pod get its interface, and how is it taken away?
//!
//! The pod sees what it would see under Calico: one interface with a /32 (/128) address and a
//! default route over 169.254.1.1 (`fe80::ecee:eeff:feee:eeee`).

#[cfg(test)]
mod tests;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};

use fastpath::io::tun::{self, TunOptions, UNUSED_OWNER};
use ipnet::IpNet;
use sha1::{Digest, Sha1};

use super::netlink::{
    Family, Link, LinkChange, MacAddress, Netlink, NetlinkError, NextHop, Route, TABLE_MAIN,
    VethPair,
};
use super::netns::{NetNs, NetNsError, run_in};
use super::sysctl::{self, SysctlError};

/// What a pod's interface is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodInterface {
    /// Its name in the pod, normally `eth0`.
    pub name: String,
    /// The router's name of the port (`cali…`): the TUN's alias, the veth's host end.
    pub port: String,
    /// The pod's addresses, at most one of each family is usual.
    pub addresses: Vec<IpAddr>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Packets the kernel keeps for the pod's sender while no forwarder reads: a lossless gap lasts
    /// this many packets divided by the packet rate.
    pub tx_queue_length: u32,
    /// The pod end's MAC of a veth pair; `None` lets the kernel choose.
    pub mac: Option<MacAddress>,
    /// Whether the pod may forward packets.
    pub ip_forwarding: bool,
}

/// A veth pair as attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttachedVeth {
    /// The host end's index.
    pub host_link: u32,
    /// The pod end's MAC, where the router sends frames to.
    pub pod_mac: MacAddress,
}

/// The IPv4 gateway every pod has.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The IPv6 gateway every pod has: the link-local address of [`HOST_MAC`].
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee);
/// The MAC of every veth's host end.
pub const HOST_MAC: MacAddress = MacAddress([0xee; 6]);
/// The queue a pod's interface gets unless said otherwise: five seconds at 1000 packets a second.
pub const TX_QUEUE_LENGTH: u32 = 5_000;

/// Why a pod's interface could not be set up or taken away.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// The pod's namespace could not be used.
    #[error(transparent)]
    Namespace(#[from] NetNsError),
    /// The kernel refused a step.
    #[error("interface {interface} in {namespace}: {source}")]
    Netlink {
        /// The interface.
        interface: String,
        /// The namespace's path.
        namespace: String,
        /// The step and the reason.
        source: NetlinkError,
    },
    /// The device could not be opened.
    #[error("interface {interface} in {namespace}: {source}")]
    Open {
        /// The interface.
        interface: String,
        /// The namespace's path.
        namespace: String,
        /// What the kernel said: `EBUSY` if a forwarder or the holder has it.
        source: io::Error,
    },
    /// A setting could not be made.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// It is not as it should be.
    #[error("interface {interface} in {namespace}: {what}")]
    Wrong {
        /// The interface.
        interface: String,
        /// The namespace's path.
        namespace: String,
        /// What is wrong and what would be right.
        what: String,
    },
}

/// The name of a pod's port: `prefix` and the first 11 hexadecimal digits of the SHA-1 of
/// `namespace.pod`.
pub fn interface_name(namespace: &str, pod: &str, prefix: &str) -> String {
    use std::fmt::Write as _;
    let digest = Sha1::digest(format!("{namespace}.{pod}"));
    let mut name = digest.iter().take(6).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    name.truncate(11);
    format!("{prefix}{name}")
}

/// Gives a pod a new TUN interface, in place of one of that name, and returns its only queue. The
/// device is persistent: it survives the loss of every descriptor.
pub fn attach_tun(namespace: &NetNs, pod: &PodInterface) -> Result<OwnedFd, PodError> {
    let step = Step { namespace, pod };
    let mut netlink = step.netlink()?;
    step.remove(&mut netlink)?;
    step.open_and_set_up(&mut netlink).inspect_err(|_| {
        let _ = step.remove(&mut netlink);
    })
}

/// Takes over the pod's TUN interface if it is still there (without a reader: after the holder's
/// death), else makes it anew; either way with everything as `pod` says.
pub fn reattach_tun(namespace: &NetNs, pod: &PodInterface) -> Result<OwnedFd, PodError> {
    let step = Step { namespace, pod };
    let mut netlink = step.netlink()?;
    let found = step.find(&mut netlink)?;
    if found.is_some_and(|link| link.kind.as_deref() != Some("tun")) {
        step.remove(&mut netlink)?;
    }
    step.open_and_set_up(&mut netlink)
}

/// Gives a pod a veth pair, in place of one of either name. The host end carries no kernel IP: its
/// frames are the router's.
pub fn attach_veth(
    host: &mut Netlink,
    namespace: &NetNs,
    pod: &PodInterface,
) -> Result<AttachedVeth, PodError> {
    let step = Step { namespace, pod };
    let mut netlink = step.netlink()?;
    step.remove(&mut netlink)?;
    let failed = |source| step.failed(source);
    if let Some(stale) = host.link(&pod.port).map_err(failed)? {
        host.delete_link(stale.index).map_err(failed)?;
    }
    step.set_forwarding()?;
    host.create_veth(&VethPair {
        name: &pod.port,
        peer_name: &pod.name,
        peer_namespace: Some(namespace.as_fd()),
        mac: Some(HOST_MAC),
        peer_mac: pod.mac,
        mtu: pod.mtu,
    })
    .map_err(failed)?;
    step.set_up_veth(host, &mut netlink).inspect_err(|_| {
        let _ = step.remove(&mut netlink);
    })
}

/// Takes a pod's interface away, of either sort; `Ok(false)` if it was not there. A veth's host end
/// goes with it.
pub fn detach(namespace: &NetNs, name: &str) -> Result<bool, PodError> {
    let mut netlink = open_in(namespace, name)?;
    delete(&mut netlink, namespace, name)
}

/// Whether the pod's interface still is what [`attach_tun`] or [`attach_veth`] made; the error says
/// what is missing.
pub fn check(namespace: &NetNs, pod: &PodInterface) -> Result<(), PodError> {
    let step = Step { namespace, pod };
    let mut netlink = step.netlink()?;
    let Some(link) = step.find(&mut netlink)? else {
        return Err(step.wrong("it does not exist".into()));
    };
    if !link.up {
        return Err(step.wrong("it is down, it should be up".into()));
    }
    let addresses = netlink.addresses().map_err(|e| step.failed(e))?;
    for address in &pod.addresses {
        if !addresses.iter().any(|a| a.link == link.index && a.net.addr() == *address) {
            return Err(step.wrong(format!("it lacks the address {address}")));
        }
    }
    let routes = netlink.routes(TABLE_MAIN).map_err(|e| step.failed(e))?;
    for wanted in pod.routes(link.index) {
        let found =
            routes.iter().any(|r| r.destination == wanted.destination && r.has_same_hops(&wanted));
        if !found {
            return Err(step.wrong(format!("the route {wanted} is missing")));
        }
    }
    Ok(())
}

impl PodInterface {
    fn has(&self, family: Family) -> bool {
        self.addresses.iter().any(|address| Family::of(*address) == family)
    }

    fn routes(&self, link: u32) -> Vec<Route> {
        let mut routes = Vec::new();
        let default = |gateway: IpAddr, unspecified: IpAddr, onlink| {
            let hop = NextHop { onlink, ..NextHop::via(link, gateway) };
            Route::new(IpNet::new_assert(unspecified, 0), hop)
        };
        if self.has(Family::V4) {
            let gateway = IpNet::from(IpAddr::from(GATEWAY_V4));
            routes.push(Route::new(gateway, NextHop::device(link)));
            routes.push(default(GATEWAY_V4.into(), Ipv4Addr::UNSPECIFIED.into(), false));
        }
        if self.has(Family::V6) {
            routes.push(default(GATEWAY_V6.into(), Ipv6Addr::UNSPECIFIED.into(), true));
        }
        routes
    }
}

/// One pod's set-up, for errors that name it.
struct Step<'a> {
    namespace: &'a NetNs,
    pod: &'a PodInterface,
}

impl Step<'_> {
    fn netlink(&self) -> Result<Netlink, PodError> {
        open_in(self.namespace, &self.pod.name)
    }

    fn find(&self, netlink: &mut Netlink) -> Result<Option<Link>, PodError> {
        netlink.link(&self.pod.name).map_err(|source| self.failed(source))
    }

    fn remove(&self, netlink: &mut Netlink) -> Result<bool, PodError> {
        delete(netlink, self.namespace, &self.pod.name)
    }

    fn open_and_set_up(&self, netlink: &mut Netlink) -> Result<OwnedFd, PodError> {
        // Single queue: then nobody in the pod can attach beside us while a descriptor is open.
        self.set_forwarding()?;
        // The owner shuts everybody else out while none is.
        let options = TunOptions { owner: Some(UNUSED_OWNER), multi_queue: false, persist: true };
        let name = &self.pod.name;
        let fd = run_in(self.namespace, || tun::open(name, options))?.map_err(|source| {
            PodError::Open {
                interface: name.clone(),
                namespace: self.namespace.path().display().to_string(),
                source,
            }
        })?;
        let link = self.find(netlink)?.ok_or_else(|| self.vanished())?;
        let failed = |source| self.failed(source);
        let prepared = LinkChange {
            alias: Some(&self.pod.port),
            tx_queue_length: Some(self.pod.tx_queue_length),
            no_link_local: true,
            ..LinkChange::default()
        };
        netlink.change_link(link.index, &prepared).map_err(failed)?;
        if !link.up {
            // Before it comes up: a default qdisc has a queue of its own in front of the device's,
            // and costs memory.
            netlink.set_root_qdisc(link.index, "noqueue").map_err(failed)?;
        }
        self.bring_up(netlink, &link)?;
        self.address_and_route(netlink, &link)?;
        Ok(fd)
    }

    /// The steps after a veth pair is made.
    fn set_up_veth(
        &self,
        host: &mut Netlink,
        netlink: &mut Netlink,
    ) -> Result<AttachedVeth, PodError> {
        let failed = |source| self.failed(source);
        let near = host.link(&self.pod.port).map_err(failed)?.ok_or_else(|| self.vanished())?;
        silence(&self.pod.port)?;
        let up = LinkChange { up: Some(true), no_link_local: true, ..LinkChange::default() };
        host.change_link(near.index, &up).map_err(failed)?;
        let far = self.find(netlink)?.ok_or_else(|| self.vanished())?;
        self.bring_up(netlink, &far)?;
        self.address_and_route(netlink, &far)?;
        let pod_mac = far.mac.ok_or_else(|| self.wrong("it has no MAC address".into()))?;
        Ok(AttachedVeth { host_link: near.index, pod_mac })
    }

    /// A new namespace inherits IPv4 forwarding from the host, where it is on.
    fn set_forwarding(&self) -> Result<(), PodError> {
        let value = if self.pod.ip_forwarding { "1" } else { "0" };
        run_in(self.namespace, || {
            sysctl::set("ipv4/ip_forward", value)?;
            if std::path::Path::new("/proc/sys/net/ipv6").exists() {
                sysctl::set("ipv6/conf/all/forwarding", value)?;
            }
            Ok(())
        })?
    }

    fn bring_up(&self, netlink: &mut Netlink, link: &Link) -> Result<(), PodError> {
        if self.pod.has(Family::V6) {
            let name = &self.pod.name;
            // Runtimes switch IPv6 off for namespaces they think have none.
            run_in(self.namespace, || {
                sysctl::set(&format!("ipv6/conf/{name}/disable_ipv6"), "0")?;
                sysctl::set(&format!("ipv6/conf/{name}/accept_dad"), "0")
            })??;
        }
        let change =
            LinkChange { up: Some(true), mtu: Some(self.pod.mtu), ..LinkChange::default() };
        netlink.change_link(link.index, &change).map_err(|source| self.failed(source))
    }

    fn address_and_route(&self, netlink: &mut Netlink, link: &Link) -> Result<(), PodError> {
        let failed = |source| self.failed(source);
        for address in &self.pod.addresses {
            netlink.add_address(link.index, IpNet::from(*address)).map_err(failed)?;
        }
        for route in self.pod.routes(link.index) {
            netlink.replace_route(&route).map_err(failed)?;
        }
        Ok(())
    }

    fn failed(&self, source: NetlinkError) -> PodError {
        failed(self.namespace, &self.pod.name, source)
    }

    fn vanished(&self) -> PodError {
        self.wrong("it vanished while it was set up".into())
    }

    fn wrong(&self, what: String) -> PodError {
        wrong(self.namespace, &self.pod.name, what)
    }
}

/// The kernel must neither speak nor forward on a veth's host end, whatever reaches it there.
fn silence(port: &str) -> Result<(), PodError> {
    sysctl::set(&format!("ipv4/conf/{port}/forwarding"), "0")?;
    sysctl::set(&format!("ipv4/conf/{port}/arp_ignore"), "8")?;
    if std::path::Path::new("/proc/sys/net/ipv6").exists() {
        sysctl::set(&format!("ipv6/conf/{port}/disable_ipv6"), "1")?;
    }
    Ok(())
}

fn delete(netlink: &mut Netlink, namespace: &NetNs, name: &str) -> Result<bool, PodError> {
    let failed = |source| failed(namespace, name, source);
    let Some(link) = netlink.link(name).map_err(failed)? else { return Ok(false) };
    if !matches!(link.kind.as_deref(), Some("tun" | "veth")) {
        let kind = link.kind.as_deref().unwrap_or("hardware");
        let what = format!("it is of kind {kind}; this node makes and removes tun and veth only");
        return Err(wrong(namespace, name, what));
    }
    netlink.delete_link(link.index).map_err(failed)
}

/// A path that leads to the host's own namespace would cost the node its network.
fn open_in(namespace: &NetNs, name: &str) -> Result<Netlink, PodError> {
    if NetNs::current()?.id() == namespace.id() {
        return Err(wrong(namespace, name, "this is the host's own namespace, no pod's".into()));
    }
    Netlink::open_in(namespace).map_err(|source| failed(namespace, name, source))
}

fn wrong(namespace: &NetNs, name: &str, what: String) -> PodError {
    PodError::Wrong {
        interface: name.into(),
        namespace: namespace.path().display().to_string(),
        what,
    }
}

fn failed(namespace: &NetNs, name: &str, source: NetlinkError) -> PodError {
    PodError::Netlink {
        interface: name.into(),
        namespace: namespace.path().display().to_string(),
        source,
    }
}
