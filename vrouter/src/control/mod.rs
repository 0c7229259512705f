//! Who owns all control state? One loop: events mark dirty, one coalesced flush publishes.
//!
//! ```text
//! datastore · kernel · BGP · CNI · operator · punts ─► Event ─► handlers (mark dirty)
//!                                                                   │ nothing more waits
//!                                  Tables, generation n+1 ◄─ flush ◄┘
//! ```

pub mod assemble;
pub mod bgp;
mod care;
pub mod convert;
pub mod event;
mod flush;
pub mod holds;
pub mod keeper;
mod operator;
pub mod policy;
pub mod ports;
mod punts;
mod restore;
pub mod routing;
mod taps;
#[cfg(test)]
mod tests;
pub mod topology;
mod uplinks;
pub mod workloads;
pub mod world;

use crate::api::Kind;
use crate::config::NodeConfig;
use crate::datastore::{Datastore, WatchEvent};
use crate::host::netlink::Netlink;
use crate::host::state::{Changed, KernelState};
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};
use event::Event;
use fastpath::io::Queue;
use fastpath::packet::PortId;
use fastpath::publish::Generation;
use fastpath::router::Router;
use fastpath::tables::Tunnels;
use slowpath::bgp::{SpeakerEvent, SpeakerHandle};
use slowpath::punt::Answerer;
use slowpath::rib::fib::Routing;
use slowpath::rib::next_hop::Topology;
use slowpath::rib::table::{Source, Via};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use workloads::AttachError;

/// Events taken before a flush, so that a storm can't put it off for ever.
const EVENTS_PER_FLUSH: usize = 4_096;
/// Longest sleep: housekeeping (ports that closed, packets that waited too long).
const TICK: Duration = Duration::from_millis(250);
/// Sleep while a CNI caller waits for a generation to be live.
const TICK_WAITING: Duration = Duration::from_micros(200);
/// How long a CNI caller waits for every worker.
const LIVE_PATIENCE: Duration = Duration::from_secs(10);

/// What must be worked out again.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own, not a state")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Dirty {
    /// Nodes, pools, blocks, BGP objects.
    world: bool,
    /// Links, addresses, routes, neighbours of the kernel.
    kernel: bool,
    /// Attached pods.
    workloads: bool,
    /// Ports.
    ports: bool,
    /// Routes by BGP.
    bgp: bool,
    /// Policies, labels, addresses of pods anywhere.
    policy: bool,
}

impl Dirty {
    fn any(self) -> bool {
        self != Self::default()
    }
}

/// What the loop is made from.
pub struct Parts {
    /// Settings.
    pub config: Arc<NodeConfig>,
    /// The node's name.
    pub node: String,
    /// The objects.
    pub store: Arc<dyn Datastore>,
    /// The workers.
    pub router: Router,
    /// The kernel.
    pub netlink: Netlink,
    /// The kernel's networking at the start.
    pub kernel: KernelState,
    /// Who keeps the descriptors.
    pub keeper: Arc<keeper::Keeper>,
    /// The node's own IPv4 address.
    pub node_address: Option<std::net::Ipv4Addr>,
    /// BGP; `None` where it is switched off.
    pub speaker: Option<SpeakerHandle>,
    /// Forwarding goes on as before: what BGP's graceful restart promises to peers.
    pub restarting: bool,
    /// Where events come from, and a way to send some. Unbounded: the loop waits for some of those
    /// who send (BGP's thread, the operators'), so none of them may have to wait for the loop.
    pub events: (Sender<Event>, Receiver<Event>),
}

/// The control loop and all its state.
#[expect(clippy::struct_excessive_bools, reason = "each says one thing that happens once")]
pub struct Control {
    config: Arc<NodeConfig>,
    me: String,
    store: Arc<dyn Datastore>,
    router: Router,
    netlink: Netlink,
    keeper: Arc<keeper::Keeper>,
    sender: Sender<Event>,
    events: Receiver<Event>,
    world: world::World,
    synced: bool,
    kernel: KernelState,
    topology: Topology,
    routing: Routing,
    policy: policy::PolicyState,
    ports: ports::Ports,
    workloads: workloads::Workloads,
    uplinks: uplinks::Uplinks,
    /// Open devices that the workers get with the next tables, the first that know their ports.
    unattached: Vec<(PortId, Vec<Box<dyn Queue>>)>,
    host: uplinks::HostDoors,
    node_address: Option<std::net::Ipv4Addr>,
    speaker: Option<SpeakerHandle>,
    bgp: bgp::Desired,
    restarting: bool,
    next_hops: bgp::NextHops,
    tunnels: Arc<Tunnels>,
    answerer: Answerer,
    holds: holds::Holds,
    neighbours: BTreeSet<(u32, std::net::IpAddr)>,
    waiting: Vec<Waiting>,
    gone_addresses: Vec<std::net::IpAddr>,
    refused: BTreeSet<String>,
    dirty: Dirty,
    started: Instant,
    generation: Generation,
    stopping: bool,
    failed: bool,
    care: care::Care,
}

/// A CNI caller that waits for a generation.
struct Waiting {
    generation: Generation,
    until: Instant,
    reply: Sender<Result<(), AttachError>>,
}

impl Control {
    /// A loop that has not seen anything yet.
    pub fn new(parts: Parts, now: Instant) -> Self {
        let (sender, events) = parts.events;
        Self {
            me: parts.node.clone(),
            config: parts.config,
            store: parts.store,
            router: parts.router,
            netlink: parts.netlink,
            keeper: parts.keeper,
            sender,
            events,
            world: world::World::new(parts.node.clone()),
            synced: false,
            kernel: parts.kernel,
            topology: Topology::default(),
            routing: Routing::default(),
            policy: policy::PolicyState::default(),
            ports: ports::Ports::default(),
            workloads: workloads::Workloads::default(),
            uplinks: uplinks::Uplinks::default(),
            unattached: Vec::new(),
            host: uplinks::HostDoors::default(),
            node_address: parts.node_address,
            speaker: parts.speaker,
            bgp: bgp::Desired::default(),
            restarting: parts.restarting,
            next_hops: bgp::NextHops::default(),
            tunnels: Arc::default(),
            answerer: Answerer::new(
                crate::host::pod::GATEWAY_V4,
                crate::host::pod::GATEWAY_V6,
                now,
            ),
            holds: holds::Holds::default(),
            neighbours: BTreeSet::new(),
            waiting: Vec::new(),
            gone_addresses: Vec::new(),
            refused: BTreeSet::new(),
            dirty: Dirty { kernel: true, ..Dirty::default() },
            started: now,
            generation: Generation::default(),
            stopping: false,
            failed: false,
            care: care::Care::new(now),
        }
    }

    /// Runs until told to stop.
    ///
    /// # Errors
    /// A worker died.
    pub fn run(mut self) -> anyhow::Result<()> {
        while !self.stopping {
            let patience = if self.waiting.is_empty() { TICK } else { TICK_WAITING };
            match self.events.recv_timeout(patience) {
                Ok(event) => {
                    self.handle(event, Instant::now());
                    for _ in 0..EVENTS_PER_FLUSH {
                        let Ok(event) = self.events.try_recv() else { break };
                        self.handle(event, Instant::now());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let now = Instant::now();
            self.housekeep(now);
            // Before the first sync nothing new is opened: what the devices held goes on waiting.
            if self.dirty.any() && self.synced {
                self.flush(now);
            }
            self.answer_waiting(now);
        }
        let failed = self.failed;
        self.stop();
        anyhow::ensure!(!failed, "a worker died");
        Ok(())
    }

    fn handle(&mut self, event: Event, now: Instant) {
        match event {
            Event::Datastore(event) => self.datastore(event),
            Event::Kernel(events) => self.kernel_changed(&events),
            Event::Bgp(event) => self.bgp_changed(event),
            Event::Attach(attach) => self.attach(*attach),
            Event::Detach(detach) => {
                let _ = detach.reply.send(self.detach(&detach.port));
            }
            Event::NetnsGone(record) => self.netns_gone(&record),
            Event::Operator(request, reply) => {
                let _ = reply.send(self.operator(request));
            }
            Event::Punts => self.punts(now),
            Event::TunnelAddress(outcome) => self.tunnel_address(outcome),
            Event::Stop => self.stopping = true,
        }
    }

    fn datastore(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Upsert(resource) => self.learn(&resource),
            WatchEvent::Delete(key) => {
                if let Some(gone) = self.world.remove(&key) {
                    self.concern(key.kind);
                    for change in convert::changes(&self.world, &gone) {
                        self.policy.apply(change);
                    }
                }
            }
            WatchEvent::Synced => {
                self.synced = true;
                self.dirty.world = true;
                tracing::info!(objects = self.world.len(), "the datastore is read");
            }
            WatchEvent::Refused(refusal) => {
                tracing::error!("{refusal}");
                self.refused.insert(refusal.to_string());
            }
            WatchEvent::Mended(refusal) => {
                self.refused.remove(&refusal.to_string());
            }
            WatchEvent::Warned(warning) => tracing::warn!("{warning}"),
            WatchEvent::Lost(error) => {
                tracing::error!(%error, "the datastore can't be read; the last state stays in force");
            }
        }
    }

    /// Takes an object in and marks what depends on it.
    fn learn(&mut self, resource: &crate::api::Resource) {
        if !self.world.upsert(resource.clone()) {
            return;
        }
        self.concern(resource.kind());
        self.dirty.workloads |= self.workloads.grant(resource);
        for change in convert::changes(&self.world, resource) {
            self.policy.apply(change);
        }
    }

    fn concern(&mut self, kind: Kind) {
        match kind {
            Kind::Pod | Kind::Namespace | Kind::NetworkPolicy | Kind::WorkloadEndpoint => {
                self.dirty.policy = true;
            }
            _ => self.dirty.world = true,
        }
    }

    fn kernel_changed(&mut self, events: &[crate::host::monitor::KernelEvent]) {
        let mut changed = Changed::NONE;
        for event in events {
            changed = changed | self.kernel.apply(event);
        }
        if changed.any(Changed::OVERRUN) {
            match KernelState::dump(&mut self.netlink) {
                Ok(state) => self.kernel = state,
                Err(error) => tracing::error!(%error, "the kernel's state can't be read again"),
            }
            self.dirty.kernel = true;
        }
        self.notice(changed);
        let ours = Changed::LINKS | Changed::ADDRESSES | Changed::ROUTES | Changed::NEIGHBOURS;
        self.dirty.kernel |= changed.any(ours);
    }

    fn bgp_changed(&mut self, event: SpeakerEvent) {
        match event {
            SpeakerEvent::Routes(changes) => {
                for change in changes {
                    let mine = self.my_addresses();
                    let hops: BTreeSet<_> = change
                        .paths
                        .iter()
                        .map(|path| path.next_hop)
                        .filter(|hop| !mine.contains(hop))
                        .collect();
                    self.next_hops.met(&hops);
                    let via = (!hops.is_empty()).then(|| Via::NextHops(hops.into_iter().collect()));
                    self.routing.table.set(Source::Bgp, change.prefix, via);
                    self.dirty.bgp = true;
                }
            }
            SpeakerEvent::Peer(status) => {
                tracing::info!(
                    peer = %status.address,
                    state = %status.state,
                    error = status.last_error.as_deref().unwrap_or("-"),
                    "BGP peer"
                );
            }
            SpeakerEvent::Converged => tracing::info!("BGP has converged"),
        }
    }

    fn my_addresses(&self) -> Vec<std::net::IpAddr> {
        self.kernel.addresses.iter().map(|a| a.net.addr()).collect()
    }

    fn answer_waiting(&mut self, now: Instant) {
        let live = self.router.live();
        self.waiting.retain(|waiting| {
            if waiting.generation <= live {
                let _ = waiting.reply.send(Ok(()));
                false
            } else if waiting.until <= now {
                let _ = waiting.reply.send(Err(AttachError::Late));
                false
            } else {
                true
            }
        });
    }

    /// Ends without a word to the BGP peers: graceful restart keeps our routes with them until the
    /// next forwarder is there, and the holder keeps the pods' packets.
    fn stop(self) {
        tracing::info!("stopping; the holder keeps the devices, graceful restart the routes");
        drop(self.speaker);
    }
}
