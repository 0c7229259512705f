//! What is a speaker told: itself, its peers, and the routes it originates?

use super::capability::{AddPath, Capabilities, GracefulRestart, Open};
use crate::rib::adj_rib_out::NextHopMode;
use crate::rib::filter::RouteFilter;
use crate::rib::route::Origin;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// The port BGP listens on.
pub const BGP_PORT: u16 = 179;

/// The speaker itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpeakerConfig {
    /// Our AS number.
    pub local_as: u32,
    /// Our BGP identifier; unique in the AS and not zero.
    pub router_id: Ipv4Addr,
    /// TCP port to listen on.
    pub listen_port: u16,
    /// Addresses to listen on; empty = all.
    pub listen_addresses: Vec<IpAddr>,
    /// Hold time to propose; zero = none, else at least 3 s.
    pub hold_time: Duration,
    /// Our cluster id; `Some` makes us reflect routes for clients (RFC 4456).
    pub cluster_id: Option<Ipv4Addr>,
    /// Ask peers to keep our routes this long when we restart (RFC 4724); at most 4095 s.
    /// `None` = do not offer graceful restart.
    pub graceful_restart: Option<Duration>,
    /// This process replaces one that forwarded packets, and forwarding went on meanwhile.
    pub restarting: bool,
    /// How many equal paths to use for a prefix; at least 1.
    pub multipath: usize,
}

impl SpeakerConfig {
    /// The usual: port 179 on all addresses, 90 s hold time, graceful restart of 120 s, 16 paths.
    pub fn new(local_as: u32, router_id: Ipv4Addr) -> Self {
        Self {
            local_as,
            router_id,
            listen_port: BGP_PORT,
            listen_addresses: Vec::new(),
            hold_time: Duration::from_secs(90),
            cluster_id: None,
            graceful_restart: Some(Duration::from_mins(2)),
            restarting: false,
            multipath: 16,
        }
    }
}

/// Why a peer is there; as `calicoctl node status` tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PeerKind {
    /// Of the node-to-node mesh.
    Mesh,
    /// Named for this node.
    NodeSpecific,
    /// Named for all nodes.
    Global,
}

impl std::fmt::Display for PeerKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Mesh => "node-to-node mesh",
            Self::NodeSpecific => "node specific",
            Self::Global => "global",
        })
    }
}

/// One peer. Peers are told apart by `name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerConfig {
    /// A name that stays the same while other fields change.
    pub name: String,
    /// Where the peer is.
    pub address: IpAddr,
    /// The port it listens on.
    pub port: u16,
    /// The AS it must be of.
    pub remote_as: u32,
    /// Our AS number towards this peer, instead of the speaker's.
    pub local_as: Option<u32>,
    /// Our address of the connection.
    pub local_address: Option<IpAddr>,
    /// Wait for the peer to connect.
    pub passive: bool,
    /// Why the peer is there.
    pub kind: PeerKind,
    /// Hold time to propose, instead of the speaker's.
    pub hold_time: Option<Duration>,
    /// KEEPALIVE interval, instead of a third of the hold time.
    pub keepalive: Option<Duration>,
    /// TTL of our packets; default 64 (the peer may be several hops away).
    pub ttl: Option<u8>,
    /// Accept packets only from at most so many hops away (GTSM, RFC 5082).
    pub ttl_security: Option<u8>,
    /// TCP-MD5 password (RFC 2385), at most 80 octets.
    pub password: Option<String>,
    /// Which next hop the peer hears.
    pub next_hop_mode: NextHopMode,
    /// Our IPv4 next hop, instead of the connection's local address.
    pub next_hop_ipv4: Option<Ipv4Addr>,
    /// Our IPv6 next hop, instead of the connection's local address.
    pub next_hop_ipv6: Option<Ipv6Addr>,
    /// The peer is a route-reflection client of ours.
    pub rr_client: bool,
    /// What may come in.
    pub import: RouteFilter,
    /// What may go out.
    pub export: RouteFilter,
    /// The longest time to keep the peer's routes while it restarts; default 120 s.
    pub max_restart_time: Option<Duration>,
    /// End the session if the peer announces more prefixes than this.
    pub max_prefixes: Option<u32>,
    /// How often our own AS number may occur in a received path.
    pub allow_own_as: u8,
    /// The families to exchange routes of, by [`Family::index`](crate::rib::route::Family::index).
    pub families: [bool; 2],
    /// Accept several paths of a prefix, if the peer can send them (RFC 7911).
    pub add_path_receive: bool,
}

/// How long a restarting peer's routes are kept at most, unless configured.
pub const DEFAULT_MAX_RESTART: Duration = Duration::from_mins(2);
/// The TTL of our packets, unless configured: Calico's peers may be several hops away.
pub const DEFAULT_TTL: u8 = 64;

impl PeerConfig {
    /// A peer with everything at its default.
    pub fn new(name: impl Into<String>, address: IpAddr, remote_as: u32) -> Self {
        Self {
            name: name.into(),
            address,
            port: BGP_PORT,
            remote_as,
            local_as: None,
            local_address: None,
            passive: false,
            kind: PeerKind::Global,
            hold_time: None,
            keepalive: None,
            ttl: None,
            ttl_security: None,
            password: None,
            next_hop_mode: NextHopMode::Auto,
            next_hop_ipv4: None,
            next_hop_ipv6: None,
            rr_client: false,
            import: RouteFilter::AcceptAll,
            export: RouteFilter::AcceptAll,
            max_restart_time: None,
            max_prefixes: None,
            allow_own_as: 0,
            families: [true; 2],
            add_path_receive: true,
        }
    }

    /// Our AS number towards this peer.
    pub fn effective_local_as(&self, speaker: &SpeakerConfig) -> u32 {
        self.local_as.unwrap_or(speaker.local_as)
    }

    /// Whether the session to this peer is internal.
    pub fn internal(&self, speaker: &SpeakerConfig) -> bool {
        self.remote_as == self.effective_local_as(speaker)
    }

    /// Whether a change from `self` to `new` needs a new session. What is left out here takes effect
    /// on the running one.
    pub(crate) fn needs_reset(&self, new: &Self) -> bool {
        let live = Self {
            kind: new.kind,
            passive: new.passive,
            next_hop_mode: new.next_hop_mode,
            next_hop_ipv4: new.next_hop_ipv4,
            next_hop_ipv6: new.next_hop_ipv6,
            rr_client: new.rr_client,
            import: new.import.clone(),
            export: new.export.clone(),
            max_restart_time: new.max_restart_time,
            max_prefixes: new.max_prefixes,
            allow_own_as: new.allow_own_as,
            ..self.clone()
        };
        live != *new
    }

    /// The OPEN to send to this peer. `recovered` = our forwarding outlived an earlier session.
    pub(crate) fn open(&self, speaker: &SpeakerConfig, restarting: bool, recovered: bool) -> Open {
        let hold = self.hold_time.unwrap_or(speaker.hold_time).as_secs();
        let families = self.families;
        let receive =
            |speaks: bool| AddPath { receive: speaks && self.add_path_receive, send: false };
        let kept = |speaks: bool| speaks.then_some(restarting || recovered);
        let graceful_restart = speaker.graceful_restart.map(|time| GracefulRestart {
            restarting,
            restart_time: u16::try_from(time.as_secs()).unwrap_or(u16::MAX).min(4095),
            families: families.map(kept),
        });
        Open {
            asn: self.effective_local_as(speaker),
            hold_time: match u16::try_from(hold).unwrap_or(u16::MAX) {
                // RFC 4271 §4.2 forbids 1 and 2.
                1 | 2 => 3,
                seconds => seconds,
            },
            router_id: speaker.router_id,
            capabilities: Capabilities {
                families,
                multiprotocol: true,
                four_byte_as: true,
                route_refresh: true,
                graceful_restart,
                add_path: families.map(receive),
            },
        }
    }
}

/// A route this speaker originates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginatedRoute {
    /// The prefix.
    pub prefix: IpNet,
    /// Where packets go; `None` = to this speaker.
    pub next_hop: Option<IpAddr>,
    /// `LOCAL_PREF` for internal peers.
    pub local_pref: Option<u32>,
    /// MED.
    pub med: Option<u32>,
    /// Communities (RFC 1997).
    pub communities: Vec<u32>,
    /// Large communities (RFC 8092).
    pub large_communities: Vec<[u32; 3]>,
    /// ORIGIN.
    pub origin: Origin,
}

impl OriginatedRoute {
    /// A route to this speaker with nothing else to it.
    pub fn new(prefix: IpNet) -> Self {
        Self {
            prefix: prefix.trunc(),
            next_hop: None,
            local_pref: None,
            med: None,
            communities: Vec::new(),
            large_communities: Vec::new(),
            origin: Origin::Igp,
        }
    }
}
