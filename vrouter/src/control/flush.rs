//! How does what is dirty become a generation in force? The one place that publishes.

use super::ports::{self, Port, endpoint_of};
use super::topology::{kernel_routes, neighbour_routes, topology};
use super::workloads::{Attach, AttachError, Record, Workload};
use super::{Control, Dirty, LIVE_PATIENCE, Waiting, assemble, bgp, convert, routing};
use crate::config::PodPort;
use crate::host::pod;
use fastpath::io::{Framing, Queue, tun::TunQueue};
use fastpath::packet::PortId;
use fastpath::tables::Tunnels;
use fastpath::tables::port::PortRole;
use ipnet::IpNet;
use slowpath::rib::table::{Source, Via};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Opening uplinks changes the ports, which changes next hops; twice is enough to settle.
const ROUNDS: usize = 3;
/// How long a worker may take to let go of a port.
const DETACH_PATIENCE: Duration = Duration::from_secs(2);

impl Control {
    /// Compiles what is dirty and publishes one new generation.
    pub(super) fn flush(&mut self, now: Instant) {
        let dirty = std::mem::take(&mut self.dirty);
        self.flush_sources(dirty);
        for _ in 0..ROUNDS {
            if dirty.kernel || dirty.ports || dirty.world || self.dirty.ports {
                let hidden = self.host.links(&self.kernel);
                self.topology = topology(&self.kernel, &self.ports.uplinks(), &hidden);
            }
            self.dirty.ports = false;
            self.routing.flush(&self.topology);
            if !self.open_uplinks() {
                break;
            }
        }
        if let Some(speaker) = &self.speaker
            && (dirty.kernel || dirty.bgp)
            && let Some(costs) = self.next_hops.unreachable(|hop| self.topology.reaches(hop))
        {
            speaker.set_next_hops(costs);
        }
        if dirty.policy || dirty.workloads {
            self.policy.flush();
        }
        let parts = self.routing.flush(&self.topology);
        let tables = assemble::assemble(
            parts,
            self.policy.tables(),
            &self.ports,
            &self.workloads,
            &self.tunnels,
        );
        self.generation = self.router.publish(tables);
        self.attach_opened();
        // After the tables without them: their next owner must not inherit their connections.
        for address in std::mem::take(&mut self.gone_addresses) {
            let taken = |w: &Workload| w.record.addresses.contains(&address);
            if !self.workloads.iter().any(taken) {
                self.router.forget(address);
            }
        }
        for waiting in &mut self.waiting {
            // Asked for before this flush: this is the first generation that holds it.
            waiting.generation = waiting.generation.min(self.generation);
        }
        self.follow_neighbours();
        self.resume_held(now);
    }

    /// Gives the workers what was opened since the last tables. Only now do the tables know these
    /// ports, and pods come last: what waits in their devices finds the port it leaves by.
    fn attach_opened(&mut self) {
        let mut opened = std::mem::take(&mut self.unattached);
        opened.sort_by_key(|(id, _)| {
            self.ports.get(*id).is_some_and(|port| matches!(port.entry.role, PortRole::Pod(_)))
        });
        for (id, queues) in opened {
            self.router.attach(id, queues);
        }
    }

    fn flush_sources(&mut self, dirty: Dirty) {
        if dirty.kernel || dirty.ports {
            let hidden = self.host.links(&self.kernel);
            let mut routes = kernel_routes(&self.kernel, &hidden);
            for gateway in [IpAddr::V4(pod::GATEWAY_V4), IpAddr::V6(pod::GATEWAY_V6)] {
                routes.local.insert(IpNet::from(gateway), Via::Router);
            }
            routes.connected.extend(neighbour_routes(&self.kernel, &self.ports.uplinks()));
            self.routing.table.replace(Source::Local, routes.local);
            self.routing.table.replace(Source::Connected, routes.connected);
            self.routing.table.replace(Source::Kernel, routes.other);
        }
        if dirty.world {
            self.flush_world();
        } else if dirty.kernel && self.host.mtu() != Some(self.door_mtu()) {
            self.ensure_host_doors();
        }
        if dirty.workloads {
            let routes = self
                .workloads
                .iter()
                .flat_map(|w| {
                    let via = Via::Endpoint(endpoint_of(w.port));
                    w.record.addresses.iter().map(move |a| (IpNet::from(*a), via.clone()))
                })
                .collect();
            self.routing.table.replace(Source::Workload, routes);
        }
    }

    fn flush_world(&mut self) {
        let routes = routing::block_routes(&self.world, &self.me);
        self.routing.table.replace(Source::OwnBlock, routes.own);
        self.routing.table.replace(Source::Block, routes.others);
        let local = self.my_node_address();
        if self.tunnels.local != local || self.tunnels.peers != routes.tunnel_peers {
            self.tunnels = Arc::new(Tunnels { local, peers: routes.tunnel_peers });
        }
        if let Some(v4) = local {
            self.answerer.set_addresses(v4, self.my_v6());
        }
        self.steer_uplinks();
        self.ensure_host_doors();
        self.want_tunnel_address();
        let mut desired = bgp::desired(&self.world, &self.me, &self.config, &routes.announced);
        if let Some(global) = &mut desired.global {
            global.restarting = self.restarting;
        }
        for note in &desired.notes {
            if !self.bgp.notes.contains(note) {
                tracing::warn!("{note}");
            }
        }
        if let Some(speaker) = &self.speaker {
            if let Some(global) = &desired.global
                && self.bgp.global.as_ref() != Some(global)
            {
                speaker.set_global(global.clone());
            }
            if desired.peers != self.bgp.peers {
                speaker.set_peers(desired.peers.clone());
            }
            if desired.originated != self.bgp.originated {
                speaker.set_originated(desired.originated.clone());
            }
        }
        self.bgp = desired;
    }

    /// This node's IPv4 address, by its Node object.
    pub(super) fn my_node_address(&self) -> Option<std::net::Ipv4Addr> {
        let me = self.world.nodes().find(|node| node.name == self.me)?;
        me.v4.map(|net| net.addr())
    }

    fn my_v6(&self) -> std::net::Ipv6Addr {
        let v6 = self.world.nodes().find(|node| node.name == self.me).and_then(|node| node.v6);
        match v6 {
            Some(IpNet::V6(net)) => net.addr(),
            _ => pod::GATEWAY_V6,
        }
    }

    /// Puts a pod's port into the tables; the caller hears when every worker has it.
    pub(super) fn attach(&mut self, attach: Attach) {
        let Attach { record, tun, resource, reply } = attach;
        self.detach(&record.port);
        let id = match self.open_pod_port(&record, tun) {
            Ok(id) => id,
            Err(error) => {
                let _ = reply.send(Err(error));
                return;
            }
        };
        let granted = convert::granted_sources(&resource);
        let key = convert::workload_key(&resource.key());
        let mac = record.mac;
        let resource_key = resource.key();
        self.workloads.insert(Workload {
            key,
            resource: resource_key,
            port: id,
            record,
            granted,
            mac,
        });
        self.learn(&resource);
        self.dirty.workloads = true;
        self.dirty.policy = true;
        self.dirty.ports = true;
        self.waiting.push(Waiting {
            generation: fastpath::publish::Generation(u64::MAX),
            until: Instant::now() + LIVE_PATIENCE,
            reply,
        });
    }

    fn open_pod_port(
        &mut self,
        record: &Record,
        tun: Option<OwnedFd>,
    ) -> Result<PortId, AttachError> {
        let mut entry = ports::ip_entry(PortRole::Unused, record.mtu);
        let mode = match record.kind {
            PodPort::Tun => "tun",
            PodPort::Veth => {
                entry.framing = Framing::Ethernet;
                entry.mac = pod::HOST_MAC.0;
                entry.partial_checksums = true;
                "xdp"
            }
        };
        let port = Port {
            name: record.port.clone(),
            entry,
            link: record.host_link,
            mode: mode.into(),
            notes: Vec::new(),
        };
        let id = self.ports.add(port)?;
        let queues = match (record.kind, tun) {
            (PodPort::Tun, Some(fd)) => Ok(vec![Box::new(TunQueue::new(id, fd)) as Box<dyn Queue>]),
            (PodPort::Veth, None) => {
                self.uplinks.open_pod(id, &record.port).map_err(AttachError::from)
            }
            _ => Err(AttachError::Descriptor),
        };
        match queues {
            Ok(queues) => self.unattached.push((id, queues)),
            Err(error) => {
                self.ports.remove(id);
                return Err(error);
            }
        }
        if let Some(port) = self.ports.get_mut(id) {
            port.entry.role = PortRole::Pod(endpoint_of(id));
        }
        Ok(id)
    }

    /// Closes a pod's port; false if there is none of that name.
    pub(super) fn detach(&mut self, name: &str) -> bool {
        let Some(workload) = self.workloads.remove(name) else { return false };
        self.close_port(workload.port);
        self.uplinks.close_pod(name);
        self.ports.remove(workload.port);
        self.gone_addresses.extend(workload.record.addresses);
        self.dirty.workloads = true;
        self.dirty.ports = true;
        self.dirty.policy = true;
        true
    }

    /// Has the workers let go of a port's queues.
    pub(super) fn close_port(&mut self, port: PortId) {
        self.unattached.retain(|(id, _)| *id != port);
        self.router.detach(port, DETACH_PATIENCE);
    }

    /// Lets go of a port whose pod is gone: our descriptors would keep its namespace alive. The
    /// record and the address stay until the runtime's DEL.
    pub(super) fn netns_gone(&mut self, record: &Record) {
        // The name may be a new sandbox's by now.
        let same = self.workloads.get(&record.port).is_some_and(|w| w.record.netns == record.netns);
        if same && self.detach(&record.port) {
            tracing::warn!(port = %record.port, netns = %record.netns.display(), "a pod's namespace is gone: its port is closed");
            self.keeper.release(&format!("tun:{}", record.port));
        }
    }

    /// Asks the kernel to keep the neighbours resolved that next hops need.
    fn follow_neighbours(&mut self) {
        let wanted = self.routing.resolved().neighbours.clone();
        for (link, address) in wanted.difference(&self.neighbours) {
            if let Err(error) = self.netlink.manage_neighbour(*link, *address) {
                tracing::warn!(%address, %error, "the kernel won't keep a neighbour resolved");
            }
        }
        let gone: Vec<_> = self.neighbours.difference(&wanted).copied().collect();
        for (link, address) in gone {
            // Back to an ordinary entry: the node's own traffic may still need it.
            let _ = self.netlink.delete_neighbour(link, address);
        }
        self.neighbours = wanted;
    }
}
