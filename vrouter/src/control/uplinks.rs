//! Which interfaces does the router take packets from, and by which doors does it reach the
//! node's own kernel?

use super::Control;
use super::event::Event;
use super::ports::{Port, ip_entry};
use crate::api::{self, ippool::AllowedUse};
use crate::host::links::{self, FORWARD_PORT, HostPorts};
use crate::host::netlink::LinkLayer;
use crate::host::pod::TX_QUEUE_LENGTH;
use crate::host::state::KernelState;
use fastpath::io::tun::{TunOptions, TunQueue};
use fastpath::io::uplink::{
    Sets, Uplink, UplinkControl, UplinkError, UplinkOptions, open_uplink, open_veth_pod,
};
use fastpath::io::{Framing, Queue};
use fastpath::packet::PortId;
use fastpath::tables::port::{PortEntry, PortRole};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Bytes that an outer IPv4 header takes from every packet (RFC 2003).
const IPIP_OVERHEAD: u32 = 20;
/// How long an interface that could not be opened is left alone.
const RETRY: Duration = Duration::from_secs(5);

/// Open uplinks and veth pods.
#[derive(Default)]
pub(super) struct Uplinks {
    open: BTreeMap<PortId, UplinkControl>,
    pods: BTreeMap<String, UplinkControl>,
    failed: BTreeMap<String, (Instant, String)>,
}

/// The doors to the node's kernel: `tunl0` and `vrouter-fwd`.
#[derive(Default)]
pub(super) struct HostDoors {
    node: Option<(PortId, String)>,
    forward: Option<(PortId, String)>,
    tunnel: Option<Ipv4Addr>,
    asked: bool,
    ensured: Option<HostPorts>,
}

impl Uplinks {
    /// The port is closed already; its steering goes too.
    pub(super) fn forget(&mut self, port: PortId) {
        self.open.remove(&port);
    }

    /// Is there an interface that should be an uplink, and could not be opened a while ago?
    pub(super) fn any_failed(&self) -> bool {
        self.failed.values().any(|(at, _)| at.elapsed() >= RETRY)
    }

    /// Ends the steering of a pod's veth.
    pub(super) fn close_pod(&mut self, name: &str) {
        if let Some(control) = self.pods.remove(name) {
            control.close();
        }
    }

    /// Opens the host's end of a pod's veth pair.
    pub(super) fn open_pod(
        &mut self,
        port: PortId,
        name: &str,
    ) -> Result<Vec<Box<dyn Queue>>, UplinkError> {
        let Uplink { queues, control, .. } = open_veth_pod(port, name, None)?;
        self.pods.insert(name.to_owned(), control);
        Ok(queues)
    }
}

impl HostDoors {
    /// The doors' interface indices: routing must not lead into them.
    pub(super) fn links(&self, kernel: &KernelState) -> BTreeSet<u32> {
        let names = [&self.node, &self.forward].into_iter().flatten().map(|(_, name)| name);
        names.filter_map(|name| kernel.link_named(name).map(|l| l.index)).collect()
    }

    /// The node's tunnel address.
    pub(super) fn tunnel_address(&self) -> Option<Ipv4Addr> {
        self.tunnel
    }

    /// The MTU the doors were given.
    pub(super) fn mtu(&self) -> Option<u32> {
        self.ensured.as_ref().map(|doors| doors.mtu)
    }

    /// Is a door closed that should be open?
    pub(super) fn is_incomplete(&self) -> bool {
        self.node.is_none() || self.forward.is_none()
    }

    /// Somebody may have changed what was ensured: look again.
    pub(super) fn doubt(&mut self) {
        self.ensured = None;
    }

    /// A door closed.
    pub(super) fn forget(&mut self, port: PortId) {
        for door in [&mut self.node, &mut self.forward] {
            if door.as_ref().is_some_and(|(id, _)| *id == port) {
                *door = None;
                self.ensured = None;
            }
        }
    }
}

impl Control {
    /// Opens the two doors to the kernel, or takes them over from the holder.
    pub(super) fn open_doors(&mut self) -> anyhow::Result<()> {
        let prepared = links::prepare(&mut self.netlink)?;
        for notice in &prepared.notices {
            tracing::warn!("{notice}");
        }
        if self.host.node.is_none() {
            let node = self.open_door(&prepared.node_port, PortRole::HostLocal)?;
            self.host.node = Some((node, prepared.node_port));
        }
        if self.host.forward.is_none() {
            let forward = self.open_door(FORWARD_PORT, PortRole::HostForward)?;
            self.host.forward = Some((forward, FORWARD_PORT.to_owned()));
        }
        self.dirty.ports = true;
        Ok(())
    }

    fn open_door(&mut self, name: &str, role: PortRole) -> anyhow::Result<PortId> {
        let kept = format!("tun:{name}");
        let fd = match self.keeper.take_over(&kept) {
            Some(fd) => fd,
            None => fastpath::io::tun::open(name, TunOptions::default())?,
        };
        self.keeper.keep(&kept, fd.as_fd());
        let port = Port {
            name: name.to_owned(),
            entry: ip_entry(role, self.door_mtu() as u16),
            link: None,
            mode: "tun".into(),
            notes: Vec::new(),
        };
        let id = self.ports.add(port)?;
        self.unattached.push((id, vec![Box::new(TunQueue::new(id, fd))]));
        Ok(id)
    }

    /// The MTU of pods and doors: what the uplink takes, less the tunnel's header.
    pub(super) fn door_mtu(&self) -> u32 {
        if let Some(mtu) = self.config.ipip_mtu {
            return mtu;
        }
        let uplink =
            self.node_link().and_then(|l| self.kernel.links.get(&l)).map_or(1500, |l| l.mtu);
        uplink.min(u32::from(u16::MAX)) - IPIP_OVERHEAD
    }

    /// The interface that holds the node's address.
    fn node_link(&self) -> Option<u32> {
        let address = IpAddr::V4(self.my_node_address().or(self.config_address())?);
        self.kernel.addresses.iter().find(|a| a.net.addr() == address).map(|a| a.link)
    }

    fn config_address(&self) -> Option<Ipv4Addr> {
        self.node_address
    }

    /// Makes devices, addresses, rules and routes of the doors what the pools ask for.
    pub(super) fn ensure_host_doors(&mut self) {
        let (Some((node, node_port)), Some((forward, forward_port))) =
            (self.host.node.clone(), self.host.forward.clone())
        else {
            return;
        };
        let mtu = self.door_mtu();
        let pools = self.world.all::<api::IpPool>().map(|p| p.spec.cidr.0.trunc()).collect();
        let wanted = HostPorts {
            node_port,
            forward_port,
            addresses: self.host.tunnel.map(IpAddr::V4).into_iter().collect(),
            pools,
            mtu,
            tx_queue_length: TX_QUEUE_LENGTH,
        };
        if self.host.ensured.as_ref() == Some(&wanted) {
            return;
        }
        match links::ensure(&mut self.netlink, &wanted) {
            Ok(done) => {
                for sentence in done {
                    tracing::info!("{sentence}");
                }
                for id in [node, forward] {
                    if let Some(port) = self.ports.get_mut(id) {
                        port.entry.mtu = mtu as u16;
                    }
                }
                self.host.ensured = Some(wanted);
            }
            Err(error) => tracing::error!(%error, "the doors to the kernel can't be set up"),
        }
    }

    /// Has the tunnel address allocated, by a thread of its own: the datastore may be slow.
    pub(super) fn want_tunnel_address(&mut self) {
        let usable = |pool: &api::IpPool| {
            !pool.spec.disabled && pool.spec.is_ipv4() && pool.spec.allows(AllowedUse::Tunnel)
        };
        if self.host.tunnel.is_some()
            || self.host.asked
            || !self.world.all::<api::IpPool>().any(usable)
        {
            return;
        }
        self.host.asked = true;
        let (store, me) = (std::sync::Arc::clone(&self.store), self.me.clone());
        let sender = self.sender.clone();
        let spawned = std::thread::Builder::new().name("tunnel-address".into()).spawn(move || {
            let outcome = crate::node::tunnel_address(&*store, &me);
            let _ = sender.send(Event::TunnelAddress(outcome));
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "no thread to allocate the tunnel address");
            self.host.asked = false;
        }
    }

    pub(super) fn tunnel_address(&mut self, outcome: anyhow::Result<Option<Ipv4Addr>>) {
        match outcome {
            Ok(Some(address)) => {
                tracing::info!(%address, "the node's tunnel address");
                self.host.tunnel = Some(address);
                self.dirty.world = true;
            }
            Ok(None) => self.host.asked = false,
            Err(error) => {
                // Asked again with the next change of the world.
                tracing::error!("no tunnel address: {error:#}");
                self.host.asked = false;
            }
        }
    }

    /// Opens the uplinks that are needed and not open; true if ports changed.
    pub(super) fn open_uplinks(&mut self) -> bool {
        let open = self.ports.uplinks();
        self.follow_links(&open);
        let hidden = self.host.links(&self.kernel);
        let configured = self.config.uplinks.iter().filter_map(|n| self.kernel.link_named(n));
        let mut wanted: BTreeSet<u32> = configured.map(|l| l.index).collect();
        wanted.extend(self.node_link());
        wanted.extend(&self.routing.resolved().unowned_links);
        let names: Vec<_> = wanted
            .into_iter()
            .filter(|index| !open.contains_key(index) && !hidden.contains(index))
            .filter_map(|index| self.kernel.links.get(&index))
            .filter(|link| link.layer == LinkLayer::Ethernet && link.up)
            .map(|link| (link.index, link.name.clone()))
            .collect();
        let mut opened = false;
        for (index, name) in names {
            if self.uplinks.failed.get(&name).is_some_and(|(at, _)| at.elapsed() < RETRY) {
                continue;
            }
            match self.open_one(index, &name) {
                Ok(()) => {
                    self.uplinks.failed.remove(&name);
                    opened = true;
                }
                Err(error) => {
                    tracing::error!(interface = %name, %error, "an uplink can't be opened");
                    self.uplinks.failed.insert(name, (Instant::now(), error.to_string()));
                }
            }
        }
        if opened {
            self.dirty.ports = true;
        }
        opened
    }

    fn open_one(&mut self, index: u32, name: &str) -> anyhow::Result<()> {
        let entry = PortEntry { framing: Framing::Ethernet, ..ip_entry(PortRole::Unused, 1500) };
        let port = Port {
            name: name.to_owned(),
            entry,
            link: Some(index),
            mode: String::new(),
            notes: Vec::new(),
        };
        let id = self.ports.add(port)?;
        let kept_name = format!("xdp:{name}");
        let options = UplinkOptions {
            interface: name.to_owned(),
            io: self.config.uplink_io,
            sets: self.steered(),
            kept: self.keeper.take_over(&kept_name),
        };
        let uplink = match open_uplink(id, options) {
            Ok(uplink) => uplink,
            Err(error) => {
                self.ports.remove(id);
                return Err(error.into());
            }
        };
        if let Some(link) = uplink.control.link_fd() {
            self.keeper.keep(&kept_name, link);
        }
        tracing::info!(interface = name, mode = uplink.mode.name(), "uplink");
        for note in &uplink.notes {
            tracing::warn!(interface = name, "{note}");
        }
        if let Some(port) = self.ports.get_mut(id) {
            uplink.mode.name().clone_into(&mut port.mode);
            port.notes = uplink.notes;
            port.entry.role = PortRole::Uplink;
            port.entry.mac = uplink.mac;
            port.entry.mtu = uplink.mtu.min(u32::from(u16::MAX)) as u16;
            port.entry.partial_checksums = uplink.partial_checksums;
        }
        self.uplinks.open.insert(id, uplink.control);
        self.unattached.push((id, uplink.queues));
        Ok(())
    }

    /// MTU and MAC address of open uplinks follow their links; a link that is gone closes its port.
    fn follow_links(&mut self, open: &BTreeMap<u32, PortId>) {
        for (index, id) in open {
            match self.kernel.links.get(index) {
                Some(link) => {
                    let (mac, mtu) = (link.mac, link.mtu.min(u32::from(u16::MAX)) as u16);
                    if let Some(port) = self.ports.get_mut(*id) {
                        port.entry.mtu = mtu;
                        port.entry.mac = mac.map_or(port.entry.mac, |m| m.0);
                    }
                }
                None => self.port_closed(*id, fastpath::io::QueueError::Gone),
            }
        }
    }

    /// What is ours among an uplink's packets.
    fn steered(&self) -> Sets {
        Sets {
            locals: self.tunnels.local.into_iter().collect(),
            nodes: self.tunnels.peers.clone(),
            pools: self.pool_prefixes(),
        }
    }

    fn pool_prefixes(&self) -> Vec<IpNet> {
        self.world.all::<api::IpPool>().map(|p| p.spec.cidr.0.trunc()).collect()
    }

    /// Tells every open uplink what is ours.
    pub(super) fn steer_uplinks(&mut self) {
        let sets = self.steered();
        for (port, control) in &mut self.uplinks.open {
            let told = control
                .set_locals(&sets.locals)
                .and_then(|()| control.set_nodes(&sets.nodes))
                .and_then(|()| control.set_pools(&sets.pools));
            if let Err(error) = told {
                let name = self.ports.get(*port).map(|p| p.name.as_str());
                tracing::error!(interface = name, %error, "the steering can't be told what is ours");
            }
        }
    }
}
