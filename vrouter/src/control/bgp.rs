//! What is the BGP speaker to be? Peers and announcements, from the datastore's objects. Pure.

use super::world::{NodeView, World};
use crate::api::bgp::{NextHopMode as ApiNextHop, SourceAddress};
use crate::api::{BgpConfiguration, BgpPeer, BgpPeerSpec, IpPool};
use crate::config::NodeConfig;
use ipnet::IpNet;
use slowpath::bgp::{OriginatedRoute, PeerConfig, PeerKind, SpeakerConfig};
use slowpath::rib::adj_rib_out::NextHopMode;
use slowpath::rib::filter::{PrefixMatch, RouteFilter};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

/// Calico's AS number where nobody says another.
const DEFAULT_AS: u32 = 64_512;
/// What BIRD in Calico's nodes sends: 2147483647 less the kernel metric, 1024 unless changed.
const LOCAL_PREF: u32 = 2_147_483_647;
/// The kernel metric of an ordinary route in Calico's nodes.
const NORMAL_PRIORITY: u32 = 1_024;

/// What the speaker is to be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// Itself; `None` until this node has an address.
    pub global: Option<SpeakerConfig>,
    /// Its peers, by name.
    pub peers: Vec<PeerConfig>,
    /// What it announces.
    pub originated: Vec<OriginatedRoute>,
    /// What could not be done, in sentences.
    pub notes: Vec<String>,
}

/// BGP next hops met so far, to tell the speaker which of them lead nowhere.
#[derive(Debug, Default)]
pub struct NextHops {
    met: BTreeSet<IpAddr>,
    unreachable: Vec<(IpAddr, Option<u32>)>,
}

/// Next hops remembered; more count as reachable until the route that uses them is resolved.
const NEXT_HOPS: usize = 65_536;

impl NextHops {
    /// Paths with these next hops were heard.
    pub fn met(&mut self, hops: &BTreeSet<IpAddr>) {
        if self.met.len() < NEXT_HOPS {
            self.met.extend(hops);
        }
    }

    /// The next hops that lead nowhere now, if they are others than last time.
    pub fn unreachable(
        &mut self,
        reaches: impl Fn(IpAddr) -> bool,
    ) -> Option<Vec<(IpAddr, Option<u32>)>> {
        let now: Vec<_> =
            self.met.iter().filter(|hop| !reaches(**hop)).map(|hop| (*hop, None)).collect();
        (now != self.unreachable).then(|| {
            self.unreachable.clone_from(&now);
            now
        })
    }
}

/// Works out what the speaker of the node called `me` is to be.
pub fn desired(
    world: &World,
    me: &str,
    config: &NodeConfig,
    announced: &BTreeSet<IpNet>,
) -> Desired {
    let mut desired = Desired::default();
    let global = world.named::<BgpConfiguration>("default").map(|c| &c.spec);
    let own = world.named::<BgpConfiguration>(&format!("node.{me}")).map(|c| &c.spec);
    let cluster_as = global.and_then(|c| c.as_number).map_or(DEFAULT_AS, |a| a.0);
    let Some(node) = world.nodes().find(|node| node.name == me) else { return desired };
    let Some(address) = node.v4 else { return desired };
    let local_as = node.as_number.unwrap_or(cluster_as);
    let router_id = config.router_id.unwrap_or(address.addr());
    let mut speaker = SpeakerConfig::new(local_as, router_id);
    if let Some(port) = own.and_then(|c| c.listen_port).or(global.and_then(|c| c.listen_port)) {
        speaker.listen_port = port;
    }
    let bind = own.and_then(|c| c.bind_mode).or(global.and_then(|c| c.bind_mode));
    if bind == Some(crate::api::bgp::BindMode::NodeIP) {
        speaker.listen_addresses = vec![IpAddr::V4(address.addr())];
    }
    speaker.cluster_id = node.cluster_id;
    let listen_port = speaker.listen_port;
    desired.global = Some(speaker);

    let mut builder = Builder {
        world,
        node: &node,
        address: address.addr(),
        cluster_as,
        listen_port,
        export: export_filter(world),
        peers: BTreeMap::new(),
        notes: Vec::new(),
    };
    if global.is_none_or(crate::api::BgpConfigurationSpec::mesh_enabled) {
        builder.mesh();
    }
    for peer in world.all::<BgpPeer>() {
        builder.peer(&peer.metadata.name, &peer.spec);
    }
    desired.notes = builder.notes;
    desired.peers = builder.peers.into_values().collect();
    let priority = global.and_then(|c| c.ipv4_normal_route_priority).unwrap_or(NORMAL_PRIORITY);
    desired.originated = announced
        .iter()
        .map(|prefix| {
            let mut route = OriginatedRoute::new(*prefix);
            route.local_pref = Some(LOCAL_PREF - priority);
            route
        })
        .collect();
    desired
}

struct Builder<'a> {
    world: &'a World,
    node: &'a NodeView<'a>,
    address: Ipv4Addr,
    cluster_as: u32,
    listen_port: u16,
    export: RouteFilter,
    peers: BTreeMap<String, PeerConfig>,
    notes: Vec<String>,
}

impl Builder<'_> {
    /// The full mesh: every other node, unless either side is a route reflector.
    fn mesh(&mut self) {
        if self.node.cluster_id.is_some() {
            return;
        }
        let others: Vec<_> = self
            .world
            .nodes()
            .filter(|other| other.name != self.node.name && other.cluster_id.is_none())
            .filter_map(|other| Some((other.name.to_owned(), other.v4?.addr(), other.as_number)))
            .collect();
        for (name, address, as_number) in others {
            let remote_as = as_number.unwrap_or(self.cluster_as);
            let mut peer = self.new_peer(format!("mesh.{name}"), address.into(), remote_as);
            peer.kind = PeerKind::Mesh;
            // As Calico's nodes do it: a comparison of strings, or both ends may wait in a mixed
            // cluster ("10.0.0.9" is greater than "10.0.0.10").
            peer.passive = address.to_string() > self.address.to_string();
            self.add(peer);
        }
    }

    fn peer(&mut self, name: &str, spec: &BgpPeerSpec) {
        let global = spec.node.is_empty() && spec.node_selector.is_empty();
        let mine = global
            || spec.node == self.node.name
            || (!spec.node_selector.is_empty()
                && crate::selects(&spec.node_selector, self.node.labels));
        if !mine {
            return;
        }
        let kind = if global { PeerKind::Global } else { PeerKind::NodeSpecific };
        if spec.password.is_some() {
            self.notes.push(format!(
                "BGPPeer {name}: spec.password refers to a Kubernetes Secret, which the file \
                 datastore does not hold; the peer is left out rather than run without it"
            ));
            return;
        }
        if let Some(remote) = &spec.peer_ip {
            let remote_as = spec.as_number.map_or(self.cluster_as, |a| a.0);
            let mut peer = self.new_peer(name.to_owned(), remote.ip, remote_as);
            if let Some(port) = remote.l4_port {
                peer.port = port;
            }
            self.settings(&mut peer, spec, kind, None);
            self.add(peer);
        }
        if spec.peer_selector.is_empty() {
            return;
        }
        let others: Vec<_> = self
            .world
            .nodes()
            .filter(|n| n.name != self.node.name && crate::selects(&spec.peer_selector, n.labels))
            .filter_map(|n| Some((n.name.to_owned(), n.v4?.addr(), n.as_number, n.cluster_id)))
            .collect();
        for (other, address, as_number, cluster_id) in others {
            let remote_as = as_number.unwrap_or(self.cluster_as);
            let mut peer = self.new_peer(format!("{name}.{other}"), address.into(), remote_as);
            // Both ends may find the other by the same BGPPeer: one of them waits, as in the mesh.
            peer.passive = address.to_string() > self.address.to_string();
            self.settings(&mut peer, spec, kind, cluster_id);
            self.add(peer);
        }
    }

    fn settings(
        &self,
        peer: &mut PeerConfig,
        spec: &BgpPeerSpec,
        kind: PeerKind,
        remote_cluster: Option<Ipv4Addr>,
    ) {
        peer.kind = kind;
        peer.local_as = spec.local_as_number.map(|a| a.0);
        peer.keepalive = spec.keepalive_time.map(|s| s.0);
        peer.max_restart_time = spec.max_restart_time.map(|s| s.0);
        peer.ttl_security = spec.ttl_security;
        peer.allow_own_as =
            spec.num_allowed_local_as_numbers.map_or(0, |n| n.min(u32::from(u8::MAX)) as u8);
        if spec.source_address == Some(SourceAddress::None) {
            peer.local_address = None;
        }
        peer.next_hop_mode = match spec.next_hop_mode {
            Some(ApiNextHop::Own) => NextHopMode::OwnAddress,
            Some(ApiNextHop::Keep) => NextHopMode::Keep,
            _ if spec.keep_original_next_hop => NextHopMode::Keep,
            _ => NextHopMode::Auto,
        };
        // Calico's rule: both internal, we reflect, and the other end is no reflector of ours.
        peer.rr_client = peer.remote_as == self.node.as_number.unwrap_or(self.cluster_as)
            && self.node.cluster_id.is_some()
            && remote_cluster != self.node.cluster_id;
    }

    fn new_peer(&self, name: String, address: IpAddr, remote_as: u32) -> PeerConfig {
        let mut peer = PeerConfig::new(name, address, remote_as);
        peer.port = self.listen_port;
        peer.local_address = address.is_ipv4().then_some(IpAddr::V4(self.address));
        peer.next_hop_ipv4 = Some(self.address);
        peer.next_hop_ipv6 = match self.node.v6 {
            Some(IpNet::V6(net)) => Some(net.addr()),
            _ => None,
        };
        peer.families = [true, peer.next_hop_ipv6.is_some()];
        peer.export = self.export.clone();
        peer
    }

    /// One session per address: what names a peer explicitly is preferred to the mesh.
    fn add(&mut self, peer: PeerConfig) {
        if peer.address == IpAddr::V4(self.address) {
            return;
        }
        self.peers.retain(|_, other| other.address != peer.address || other.name == peer.name);
        self.peers.insert(peer.name.clone(), peer);
    }
}

/// Only pools' addresses leave the cluster (what was learned from one router is no business of
/// another), as with Calico.
fn export_filter(world: &World) -> RouteFilter {
    let pools = world
        .all::<IpPool>()
        .filter(|pool| !pool.spec.disable_bgp_export)
        .map(|pool| PrefixMatch::or_longer(pool.spec.cidr.0))
        .collect();
    RouteFilter::only(pools)
}
