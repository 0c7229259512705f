//! Do our own speakers agree with each other, over real sockets on loopback?

use slowpath::bgp::{
    self, OriginatedRoute, PeerConfig, PeerStatus, RouteChange, RouteQuery, SpeakerConfig,
    SpeakerEvent, SpeakerHandle, State,
};
use slowpath::rib::best_path::Step;
use slowpath::rib::filter::{PrefixMatch, RouteFilter};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Each test has a port of its own; below the ephemeral range, and spread by process.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 600).unwrap_or(0) * 20;
    loop {
        let port = 20_000 + start + NEXT.fetch_add(1, Ordering::Relaxed);
        if std::net::TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
}

/// A speaker on `127.0.x.y` that keeps what it reported.
struct Node {
    address: IpAddr,
    next_hop: Ipv4Addr,
    port: u16,
    handle: SpeakerHandle,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    routes: BTreeMap<String, Vec<RouteChange>>,
    states: Vec<(String, State)>,
    converged: usize,
}

fn config(number: u8, asn: u32, address: IpAddr, port: u16) -> SpeakerConfig {
    SpeakerConfig {
        listen_port: port,
        listen_addresses: vec![address],
        ..SpeakerConfig::new(asn, Ipv4Addr::new(10, 0, 0, number))
    }
}

impl Node {
    fn start(number: u8, asn: u32, port: u16) -> Self {
        Self::with(number, port, |address| config(number, asn, address, port))
    }

    fn with(number: u8, port: u16, config: impl Fn(IpAddr) -> SpeakerConfig) -> Self {
        let address = IpAddr::from([127, 0, 77, number]);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let record = Arc::clone(&seen);
        let handle = bgp::spawn(config(address), move |event| {
            let mut seen = record.lock().expect("no panic while recording");
            match event {
                SpeakerEvent::Routes(changes) => {
                    for change in changes {
                        let key = change.prefix.to_string();
                        seen.routes.entry(key).or_default().push(change);
                    }
                }
                SpeakerEvent::Peer(status) => seen.states.push((status.name, status.state)),
                SpeakerEvent::Converged => seen.converged += 1,
            }
        });
        Self {
            address,
            port,
            handle: handle.expect("a free port"),
            next_hop: Ipv4Addr::new(10, 77, 0, number),
            seen,
        }
    }

    fn to(&self, other: &Self, remote_as: u32) -> PeerConfig {
        PeerConfig {
            port: other.port,
            local_address: Some(self.address),
            // One side waits, as in a mesh: two connections at once may cost the first of them
            // after it was established (RFC 4271 §6.8), which would count as a flap.
            passive: self.address > other.address,
            // A loopback address is no next hop for anybody else.
            next_hop_ipv4: Some(self.next_hop),
            ..PeerConfig::new(other.address.to_string(), other.address, remote_as)
        }
    }

    fn originate(&self, prefixes: &[&str]) {
        let routes = prefixes.iter().map(|text| originated(text)).collect();
        self.handle.set_originated(routes);
    }

    fn peer(&self, other: &Self) -> PeerStatus {
        let peers = self.handle.peers();
        peers.into_iter().find(|peer| peer.address == other.address).expect("a configured peer")
    }

    /// The next hops in use for a prefix.
    fn next_hops(&self, prefix: &str) -> Vec<String> {
        let routes = self.handle.routes(RouteQuery::LocRib);
        let wanted = routes.iter().filter(|route| route.prefix.to_string() == prefix);
        wanted.map(|route| route.attributes.next_hop.to_string()).collect()
    }

    fn reported(&self, prefix: &str) -> Option<RouteChange> {
        let seen = self.seen.lock().expect("no panic while recording");
        seen.routes.get(prefix).and_then(|changes| changes.last().cloned())
    }
}

fn originated(text: &str) -> OriginatedRoute {
    OriginatedRoute::new(text.parse().expect("a prefix"))
}

/// Waits for something that must come; the limit only ends a broken run.
fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < limit, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn established(a: &Node, b: &Node) {
    wait("the session", || {
        a.peer(b).state == State::Established && b.peer(a).state == State::Established
    });
}

#[test]
fn an_internal_pair_exchanges_and_withdraws_routes_of_both_families() {
    let port = free_port();
    let (a, b) = (Node::start(1, 64512, port), Node::start(2, 64512, port));
    let own = Some("fd00::1".parse().expect("an address"));
    a.handle.set_peers(vec![PeerConfig { next_hop_ipv6: own, ..a.to(&b, 64512) }]);
    b.handle.set_peers(vec![PeerConfig { passive: true, ..b.to(&a, 64512) }]);
    let mut route = originated("192.168.1.0/26");
    route.local_pref = Some(2_147_482_623);
    route.communities = vec![64512 << 16 | 7];
    a.handle.set_originated(vec![route, originated("fd01::/64")]);
    b.originate(&["192.168.2.0/26"]);
    established(&a, &b);
    wait("both of a's routes at b", || b.handle.routes(RouteQuery::LocRib).len() == 3);
    wait("b's route at a", || a.next_hops("192.168.2.0/26") == [b.next_hop.to_string()]);
    let change = b.reported("192.168.1.0/26").expect("reported");
    assert_eq!(change.paths.len(), 1);
    assert_eq!(change.paths[0].next_hop, a.next_hop);
    assert_eq!(change.paths[0].peer, a.address);
    assert!(change.paths[0].ibgp);
    assert_eq!(change.paths[0].attributes.local_pref, Some(2_147_482_623));
    assert_eq!(change.paths[0].attributes.communities, [64512 << 16 | 7]);
    assert_eq!(b.next_hops("fd01::/64"), ["fd00::1"]);
    a.originate(&["fd01::/64"]);
    wait("the withdrawal", || b.next_hops("192.168.1.0/26").is_empty());
    assert!(b.reported("192.168.1.0/26").expect("reported").paths.is_empty());
    wait("both to be converged", || {
        [&a, &b].iter().all(|node| node.seen.lock().expect("recorded").converged == 1)
    });
    let status = a.peer(&b);
    assert_eq!((status.received, status.accepted, status.advertised), (1, 1, 1));
    assert!(status.capabilities.iter().any(|words| words == "4-byte AS"), "{status:?}");
}

#[test]
fn both_sides_connect_at_once_and_one_connection_stays() {
    let port = free_port();
    let (a, b) = (Node::start(3, 64512, port), Node::start(4, 65001, port));
    let active = |peer| PeerConfig { passive: false, ..peer };
    for _ in 0..10 {
        a.handle.set_peers(vec![active(a.to(&b, 65001))]);
        b.handle.set_peers(vec![active(b.to(&a, 64512))]);
        established(&a, &b);
        a.handle.set_peers(Vec::new());
        b.handle.set_peers(Vec::new());
        wait("no peers", || a.handle.peers().is_empty() && b.handle.peers().is_empty());
    }
}

#[test]
fn an_external_session_prepends_and_sets_itself_as_next_hop() {
    let port = free_port();
    let (a, b, c) =
        (Node::start(5, 65001, port), Node::start(6, 65002, port), Node::start(7, 65003, port));
    a.handle.set_peers(vec![a.to(&b, 65002)]);
    b.handle.set_peers(vec![b.to(&a, 65001), b.to(&c, 65003)]);
    c.handle.set_peers(vec![c.to(&b, 65002)]);
    let mut route = originated("10.5.0.0/16");
    route.med = Some(7);
    route.local_pref = Some(500);
    a.handle.set_originated(vec![route]);
    wait("the route to pass through", || c.next_hops("10.5.0.0/16") == [b.next_hop.to_string()]);
    let at_b = b.reported("10.5.0.0/16").expect("reported");
    assert_eq!(at_b.paths[0].attributes.med, Some(7));
    assert_eq!(at_b.paths[0].attributes.local_pref, None);
    let at_c = c.reported("10.5.0.0/16").expect("reported");
    assert_eq!(at_c.paths[0].attributes.as_path.to_string(), "65002 65001");
    assert_eq!(at_c.paths[0].attributes.med, None, "a received MED goes no further");
    assert!(!at_c.paths[0].ibgp);
}

#[test]
fn internal_routes_pass_on_only_through_a_reflector() {
    let port = free_port();
    let (a, r, c) =
        (Node::start(8, 64512, port), Node::start(9, 64512, port), Node::start(10, 64512, port));
    a.handle.set_peers(vec![a.to(&r, 64512)]);
    c.handle.set_peers(vec![c.to(&r, 64512)]);
    r.handle.set_peers(vec![r.to(&a, 64512), r.to(&c, 64512)]);
    a.originate(&["192.168.8.0/26"]);
    wait("the route at the middle", || !r.next_hops("192.168.8.0/26").is_empty());
    established(&r, &c);
    assert!(r.handle.routes(RouteQuery::Advertised(c.address)).is_empty());
    let reflector = SpeakerConfig {
        cluster_id: Some(Ipv4Addr::new(244, 0, 0, 1)),
        ..config(9, 64512, r.address, port)
    };
    r.handle.set_global(reflector);
    let client = |peer| PeerConfig { rr_client: true, ..peer };
    r.handle.set_peers(vec![client(r.to(&a, 64512)), client(r.to(&c, 64512))]);
    wait("the reflected route", || c.next_hops("192.168.8.0/26") == [a.next_hop.to_string()]);
    let change = c.reported("192.168.8.0/26").expect("reported");
    let attributes = &change.paths[0].attributes;
    assert_eq!(attributes.originator_id, Some(Ipv4Addr::new(10, 0, 0, 8)));
    assert_eq!(attributes.cluster_list, [Ipv4Addr::new(244, 0, 0, 1)]);
    assert_eq!(r.peer(&a).flaps + r.peer(&c).flaps, 0, "roles change without a new session");
}

#[test]
fn a_path_through_our_own_as_is_refused_unless_allowed() {
    let port = free_port();
    let (a, b, c) =
        (Node::start(30, 65001, port), Node::start(31, 65002, port), Node::start(32, 65001, port));
    a.handle.set_peers(vec![a.to(&b, 65002)]);
    b.handle.set_peers(vec![b.to(&a, 65001), b.to(&c, 65001)]);
    c.handle.set_peers(vec![c.to(&b, 65002)]);
    a.originate(&["10.30.0.0/16"]);
    wait("the route to be heard", || c.peer(&b).received == 1);
    assert_eq!(c.peer(&b).accepted, 0);
    let heard = c.handle.routes(RouteQuery::Received(b.address));
    assert!(!heard[0].accepted && !heard[0].in_use);
    assert!(heard[0].reason().contains("loop check"));
    c.handle.set_peers(vec![PeerConfig { allow_own_as: 1, ..c.to(&b, 65002) }]);
    wait("the route to be used", || c.next_hops("10.30.0.0/16") == [b.next_hop.to_string()]);
    assert_eq!(c.peer(&b).flaps, 0);
}

#[test]
fn reflectors_of_one_cluster_do_not_pass_routes_in_a_circle() {
    let port = free_port();
    let reflector = |number| {
        Node::with(number, port, |address| SpeakerConfig {
            cluster_id: Some(Ipv4Addr::new(244, 0, 0, 1)),
            ..config(number, 64512, address, port)
        })
    };
    let (a, r, s) = (Node::start(33, 64512, port), reflector(34), reflector(35));
    let client = |peer| PeerConfig { rr_client: true, ..peer };
    a.handle.set_peers(vec![a.to(&r, 64512), a.to(&s, 64512)]);
    r.handle.set_peers(vec![client(r.to(&a, 64512)), r.to(&s, 64512)]);
    s.handle.set_peers(vec![client(s.to(&a, 64512)), s.to(&r, 64512)]);
    a.originate(&["10.33.0.0/16"]);
    wait("both to hear it from each other, too", || {
        r.peer(&s).received == 1 && s.peer(&r).received == 1
    });
    assert_eq!((r.peer(&s).accepted, s.peer(&r).accepted), (0, 0));
    wait("both to use the client's", || {
        [&r, &s].iter().all(|node| node.next_hops("10.33.0.0/16") == [a.next_hop.to_string()])
    });
    assert_eq!(a.peer(&r).accepted, 0, "its own route comes back to nobody");
}

#[test]
fn equal_paths_are_used_together_and_why_names_the_step() {
    let port = free_port();
    let (a, b, c) =
        (Node::start(11, 65001, port), Node::start(12, 65002, port), Node::start(13, 65003, port));
    c.handle.set_peers(vec![c.to(&a, 65001), c.to(&b, 65002)]);
    a.handle.set_peers(vec![a.to(&c, 65003)]);
    b.handle.set_peers(vec![b.to(&c, 65003)]);
    a.originate(&["10.9.0.0/16"]);
    b.originate(&["10.9.0.0/16"]);
    wait("two equal paths", || c.next_hops("10.9.0.0/16").len() == 2);
    let prefix = "10.9.0.0/16".parse().expect("a prefix");
    let why = c.handle.routes(RouteQuery::Why(prefix));
    assert_eq!(why[0].step, Some(Step::RouterId));
    assert!(why[0].best && why[1].in_use && !why[1].best);
    assert_eq!(why[0].reason(), "lowest router id");
    c.handle.set_next_hops(vec![(IpAddr::V4(a.next_hop), None)]);
    wait("the path through a to go", || c.next_hops("10.9.0.0/16") == [b.next_hop.to_string()]);
    let why = c.handle.routes(RouteQuery::Why(prefix));
    assert_eq!(why[1].reason(), "lost on: next hop unreachable");
}

#[test]
fn a_changed_filter_takes_effect_without_a_new_session() {
    let port = free_port();
    let (a, b) = (Node::start(14, 64512, port), Node::start(15, 64512, port));
    a.handle.set_peers(vec![a.to(&b, 64512)]);
    b.handle.set_peers(vec![b.to(&a, 64512)]);
    a.originate(&["10.1.0.0/24", "10.2.0.0/24"]);
    wait("both routes", || b.handle.routes(RouteQuery::LocRib).len() == 2);
    let only = |text: &str| {
        RouteFilter::only(vec![PrefixMatch::or_longer(text.parse().expect("a prefix"))])
    };
    b.handle.set_peers(vec![PeerConfig { import: only("10.1.0.0/16"), ..b.to(&a, 64512) }]);
    wait("the import filter", || b.next_hops("10.2.0.0/24").is_empty());
    let status = b.peer(&a);
    assert_eq!((status.received, status.accepted, status.flaps), (2, 1, 0));
    b.handle.set_peers(vec![b.to(&a, 64512)]);
    wait("the filter to be gone", || !b.next_hops("10.2.0.0/24").is_empty());
    a.handle.set_peers(vec![PeerConfig { export: only("10.2.0.0/16"), ..a.to(&b, 64512) }]);
    wait("the export filter", || b.next_hops("10.1.0.0/24").is_empty());
    assert_eq!(b.peer(&a).flaps, 0);
}

#[test]
fn garbage_from_one_peer_is_answered_and_the_others_do_not_notice() {
    let port = free_port();
    let (a, b) = (Node::start(16, 64512, port), Node::start(17, 64512, port));
    let garbage = IpAddr::from([127, 0, 77, 116]);
    let vandal = PeerConfig { passive: true, ..PeerConfig::new("vandal", garbage, 65009) };
    a.handle.set_peers(vec![a.to(&b, 64512), vandal]);
    b.handle.set_peers(vec![b.to(&a, 64512)]);
    established(&a, &b);
    for (bytes, expected) in [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), [1, 1]),
        ([vec![0xFF; 16], vec![0, 5, 4]].concat(), [1, 2]),
        ([vec![0xFF; 16], vec![0, 19, 9]].concat(), [1, 3]),
        ([vec![0xFF; 16], vec![0, 19, 4]].concat(), [5, 1]),
    ] {
        let answer = talk(garbage, SocketAddr::new(a.address, port), &bytes);
        assert_eq!(answer.last().map(|(kind, _)| *kind), Some(3), "{answer:?}");
        assert_eq!(answer.last().map(|(_, body)| [body[0], body[1]]), Some(expected));
    }
    a.originate(&["10.16.0.0/16"]);
    wait("a route after all that", || !b.next_hops("10.16.0.0/16").is_empty());
    assert_eq!((a.peer(&b).flaps, b.peer(&a).flaps), (0, 0));
}

#[test]
fn a_stranger_is_refused_with_a_reason() {
    let port = free_port();
    let a = Node::start(18, 64512, port);
    let stranger = IpAddr::from([127, 0, 77, 118]);
    let answer = talk(stranger, SocketAddr::new(a.address, port), &[]);
    assert_eq!(answer, [(3, vec![6, 5])]);
}

/// Connects from `source`, sends `bytes`, and returns the messages that come until the end.
fn talk(source: IpAddr, to: SocketAddr, bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut stream = connect(source, to);
    stream.write_all(bytes).expect("a connection");
    let mut received = Vec::new();
    stream.read_to_end(&mut received).expect("an orderly end");
    messages(&received)
}

fn connect(source: IpAddr, to: SocketAddr) -> TcpStream {
    let socket =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::new(source, 0).into()).expect("a loopback address");
    socket.connect(&to.into()).expect("a listener");
    socket.into()
}

fn messages(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut list = Vec::new();
    while bytes.len() >= 19 {
        let length = usize::from(u16::from_be_bytes([bytes[16], bytes[17]]));
        list.push((bytes[18], bytes[19..length].to_vec()));
        bytes = &bytes[length..];
    }
    list
}

#[test]
fn a_silent_peer_loses_its_session_when_the_hold_time_is_over() {
    let port = free_port();
    let a = Node::start(19, 64512, port);
    let mute = IpAddr::from([127, 0, 77, 119]);
    let peer = PeerConfig {
        passive: true,
        hold_time: Some(Duration::from_secs(3)),
        ..PeerConfig::new("mute", mute, 65009)
    };
    a.handle.set_peers(vec![peer]);
    wait("the peer", || a.handle.peers().len() == 1);
    let mut open = vec![0xFF; 16];
    open.extend_from_slice(&[0, 29, 1, 4]);
    open.extend_from_slice(&65009_u16.to_be_bytes());
    open.extend_from_slice(&[0, 90, 9, 9, 9, 9, 0]);
    let keepalive = [vec![0xFF; 16], vec![0, 19, 4]].concat();
    let answer = talk(mute, SocketAddr::new(a.address, port), &[open, keepalive].concat());
    let kinds: Vec<u8> = answer.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(&kinds[..2], &[1, 4], "OPEN and KEEPALIVE first");
    assert_eq!(answer.last(), Some(&(3, vec![4, 0])));
    let states = a.seen.lock().expect("recorded").states.clone();
    assert!(states.contains(&("mute".to_owned(), State::Established)));
}

#[test]
fn a_shutdown_says_why() {
    let port = free_port();
    let (a, b) = (Node::start(20, 64512, port), Node::start(21, 64512, port));
    a.handle.set_peers(vec![a.to(&b, 64512)]);
    b.handle.set_peers(vec![b.to(&a, 64512)]);
    a.originate(&["10.20.0.0/16"]);
    wait("the route", || !b.next_hops("10.20.0.0/16").is_empty());
    let Node { address, handle, .. } = a;
    handle.shutdown("node is drained");
    wait("the end of the session", || b.handle.peers()[0].state != State::Established);
    assert_eq!(b.handle.peers()[0].address, address);
    let said = b.seen.lock().expect("recorded").states.len();
    assert!(said >= 2);
    wait("the routes to go", || b.next_hops("10.20.0.0/16").is_empty());
}

#[test]
fn a_peer_that_dies_and_comes_back_keeps_its_routes_meanwhile() {
    let port = free_port();
    let b = Node::start(23, 64512, port);
    let a = Node::start(22, 64512, port);
    let (to_a, to_b) = (b.to(&a, 64512), a.to(&b, 64512));
    b.handle.set_peers(vec![to_a]);
    a.handle.set_peers(vec![to_b.clone()]);
    a.originate(&["10.22.0.0/16", "10.23.0.0/16"]);
    wait("both routes", || b.handle.routes(RouteQuery::LocRib).len() == 2);
    // No farewell: as if the process had been killed.
    drop(a);
    wait("the end of the session", || b.handle.peers()[0].state != State::Established);
    assert!(b.handle.peers()[0].stale);
    assert_eq!(b.handle.routes(RouteQuery::LocRib).len(), 2, "kept while the peer restarts");
    let a = Node::with(22, port, |address| SpeakerConfig {
        restarting: true,
        ..config(22, 64512, address, port)
    });
    a.handle.set_peers(vec![to_b]);
    established(&a, &b);
    assert_eq!(b.handle.routes(RouteQuery::LocRib).len(), 2, "kept until its table is complete");
    a.originate(&["10.22.0.0/16"]);
    wait("what was not announced again to go", || {
        b.handle.routes(RouteQuery::LocRib).len() == 1 && !b.handle.peers()[0].stale
    });
    let history = b.seen.lock().expect("recorded").routes["10.22.0.0/16"].clone();
    assert!(history.iter().all(|change| !change.paths.is_empty()), "never withdrawn");
}

#[test]
fn too_many_prefixes_end_the_session_with_the_limit_in_the_notification() {
    let port = free_port();
    let (a, b) = (Node::start(24, 64512, port), Node::start(25, 64512, port));
    a.handle.set_peers(vec![a.to(&b, 64512)]);
    b.handle.set_peers(vec![PeerConfig { max_prefixes: Some(2), ..b.to(&a, 64512) }]);
    a.originate(&["10.1.0.0/24", "10.2.0.0/24", "10.3.0.0/24"]);
    wait("the limit to bite", || {
        a.peer(&b).last_error.is_some_and(|error| error.contains("maximum number of prefixes"))
    });
    wait("its routes to go", || b.handle.routes(RouteQuery::LocRib).is_empty());
}

#[test]
fn ten_thousand_routes_arrive_and_go() {
    let port = free_port();
    let (a, b) = (Node::start(26, 65001, port), Node::start(27, 65002, port));
    a.handle.set_peers(vec![a.to(&b, 65002)]);
    b.handle.set_peers(vec![b.to(&a, 65001)]);
    let route = |number: u32| {
        let address = Ipv4Addr::from(0x0A00_0000 + (number << 8));
        let mut route = originated(&format!("{address}/24"));
        route.med = Some(number / 5);
        route
    };
    a.handle.set_originated((0..10_000).map(route).collect());
    wait("all routes", || b.peer(&a).accepted == 10_000);
    a.handle.clear(None, true);
    a.handle.set_originated(Vec::new());
    wait("all withdrawn", || b.peer(&a).received == 0);
    assert_eq!(b.peer(&a).flaps, 0);
}

#[test]
fn a_password_must_match() {
    let port = free_port();
    let (a, b) = (Node::start(28, 64512, port), Node::start(29, 64512, port));
    let with = |peer: PeerConfig, password: &str| PeerConfig {
        password: Some(password.to_owned()),
        ..peer
    };
    b.handle.set_peers(vec![with(b.to(&a, 64512), "secret")]);
    a.handle.set_peers(vec![with(a.to(&b, 64512), "secret")]);
    established(&a, &b);
    b.handle.set_peers(vec![with(b.to(&a, 64512), "other")]);
    wait("the session to end", || b.peer(&a).state != State::Established);
    a.handle.set_peers(vec![with(a.to(&b, 64512), "other")]);
    established(&a, &b);
}
