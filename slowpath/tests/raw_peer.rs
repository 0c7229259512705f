//! What does a live session do with exactly these bytes? A peer made of a socket and our codec.

use slowpath::bgp::capability::{Capabilities, Open};
use slowpath::bgp::encode::{self, EncodeContext};
use slowpath::bgp::message::{self, Context, Message, Update};
use slowpath::bgp::nlri::Nlri;
use slowpath::bgp::{
    self, PeerConfig, PeerStatus, RouteQuery, SpeakerConfig, SpeakerHandle, State,
};
use slowpath::rib::route::{AsPath, Family, PathAttributes, UnknownAttribute};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const SPEAKER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 79, 1));
const CONTEXT: EncodeContext = EncodeContext { four_byte_as: true, add_path: false };

/// A peer that says only what the test says.
struct Raw {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Raw {
    /// Connects from `127.0.79.<number>`, of AS 65000 + number, and exchanges OPENs.
    fn connect(number: u8, port: u16) -> Self {
        let mut raw = Self::connect_only(number, port);
        let open = Open {
            asn: 65000 + u32::from(number),
            hold_time: 90,
            router_id: Ipv4Addr::new(9, 9, 9, number),
            capabilities: Capabilities {
                families: [true, true],
                multiprotocol: true,
                four_byte_as: true,
                route_refresh: true,
                ..Capabilities::default()
            },
        };
        raw.send(|out| message::encode_open(&open, out));
        raw.send(message::encode_keepalive);
        assert!(matches!(raw.next(), Some(Message::Open(_))));
        assert_eq!(raw.next(), Some(Message::Keepalive));
        raw
    }

    fn connect_only(number: u8, port: u16) -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
            .expect("a socket");
        let source = SocketAddr::from(([127, 0, 79, number], 0));
        socket.bind(&source.into()).expect("a loopback address");
        socket.connect(&SocketAddr::new(SPEAKER, port).into()).expect("a listener");
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket");
        Self { stream, received: Vec::new() }
    }

    fn send(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        let mut out = Vec::new();
        encode(&mut out);
        self.stream.write_all(&out).expect("an open connection");
    }

    fn announce(&mut self, attributes: &PathAttributes, prefix: &str) {
        self.send(|out| {
            let nlri = [Nlri::of(prefix.parse().expect("a prefix"))];
            let sent = encode::announce(attributes, Family::Ipv4, &nlri, CONTEXT, out);
            assert_eq!(sent, Ok(1));
        });
    }

    /// The next message; `None` at the end of the connection.
    fn next(&mut self) -> Option<Message> {
        let context = Context { four_byte_as: true, ..Context::default() };
        loop {
            if let Some(length) = message::frame(&self.received).expect("good headers")
                && length <= self.received.len()
            {
                let bytes: Vec<u8> = self.received.drain(..length).collect();
                return Some(message::decode(&bytes, &context).expect("a good message"));
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer).expect("an answer") {
                0 => return None,
                count => self.received.extend_from_slice(&buffer[..count]),
            }
        }
    }

    /// The next UPDATE that announces or withdraws something.
    fn next_update(&mut self) -> Update {
        loop {
            match self.next().expect("an UPDATE") {
                Message::Update(update) if update.end_of_rib.is_none() => return update,
                _ => {}
            }
        }
    }
}

/// A speaker of AS 65001 that awaits the peers 2 and 3.
fn speaker() -> (SpeakerHandle, u16) {
    let port = {
        // Freed again at once: the speaker takes it.
        let probe = std::net::TcpListener::bind((SPEAKER, 0)).expect("a port");
        probe.local_addr().expect("bound").port()
    };
    let config = SpeakerConfig {
        listen_port: port,
        listen_addresses: vec![SPEAKER],
        ..SpeakerConfig::new(65001, Ipv4Addr::new(10, 0, 0, 1))
    };
    let handle = bgp::spawn(config, |_| ()).expect("a listener");
    let peer = |number: u8| PeerConfig {
        passive: true,
        next_hop_ipv4: Some(Ipv4Addr::new(10, 79, 0, 1)),
        ..PeerConfig::new(
            number.to_string(),
            IpAddr::from([127, 0, 79, number]),
            65000 + u32::from(number),
        )
    };
    handle.set_peers(vec![peer(2), peer(3)]);
    // An answer means that the peers are known before anybody connects.
    assert_eq!(handle.peers().len(), 2);
    (handle, port)
}

fn attributes() -> PathAttributes {
    PathAttributes {
        as_path: AsPath::sequence(&[65002, 65100]),
        ..PathAttributes::local(IpAddr::from([10, 79, 0, 2]))
    }
}

fn status(handle: &SpeakerHandle, number: usize) -> PeerStatus {
    handle.peers().swap_remove(number - 2)
}

fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < limit, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_malformed_attribute_withdraws_the_route_and_keeps_the_session() {
    let (handle, port) = speaker();
    let mut raw = Raw::connect(2, port);
    raw.announce(&attributes(), "10.1.0.0/16");
    raw.announce(&attributes(), "10.2.0.0/16");
    wait("both routes", || handle.routes(RouteQuery::LocRib).len() == 2);
    let mut bytes = Vec::new();
    let nlri = [Nlri::of("10.1.0.0/16".parse().expect("a prefix"))];
    let sent = encode::announce(&attributes(), Family::Ipv4, &nlri, CONTEXT, &mut bytes);
    assert_eq!(sent, Ok(1));
    // ORIGIN is the first attribute: header, two lengths, flags, type, length, value.
    assert_eq!(bytes[23..27], [0x40, 1, 1, 0]);
    bytes[26] = 77;
    raw.send(|out| out.extend_from_slice(&bytes));
    wait("the route to go", || handle.routes(RouteQuery::LocRib).len() == 1);
    let status = status(&handle, 2);
    assert_eq!((status.state, status.update_errors), (State::Established, 1));
}

#[test]
fn an_unknown_transitive_attribute_goes_on_with_the_partial_bit() {
    let (handle, port) = speaker();
    let (mut from, mut to) = (Raw::connect(2, port), Raw::connect(3, port));
    wait("both sessions", || handle.peers().iter().all(|p| p.state == State::Established));
    let mut sent = attributes();
    sent.unknown = vec![UnknownAttribute { code: 200, flags: 0xC0, value: vec![1, 2, 3] }];
    from.announce(&sent, "10.1.0.0/16");
    let update = to.next_update();
    let got = &update.announced[0].attributes;
    assert_eq!(got.unknown, [UnknownAttribute { code: 200, flags: 0xE0, value: vec![1, 2, 3] }]);
    assert_eq!(got.as_path.to_string(), "65001 65002 65100");
    assert_eq!(got.next_hop, IpAddr::from([10, 79, 0, 1]));
}

#[test]
fn a_session_that_ends_withdraws_its_routes_everywhere() {
    let (handle, port) = speaker();
    let (mut from, mut to) = (Raw::connect(2, port), Raw::connect(3, port));
    from.announce(&attributes(), "10.1.0.0/16");
    assert_eq!(to.next_update().announced.len(), 1);
    drop(from);
    let withdrawn = to.next_update().withdrawn;
    assert_eq!(withdrawn, [Nlri::of("10.1.0.0/16".parse().expect("a prefix"))]);
    assert!(!status(&handle, 2).stale, "this peer offered no graceful restart");
}

#[test]
fn a_refresh_is_answered_with_everything() {
    let (_handle, port) = speaker();
    let (mut from, mut to) = (Raw::connect(2, port), Raw::connect(3, port));
    from.announce(&attributes(), "10.1.0.0/16");
    let first = to.next_update();
    to.send(|out| message::encode_route_refresh(Family::Ipv4, out));
    assert_eq!(to.next_update(), first);
}

#[test]
fn a_second_connection_does_not_disturb_an_established_session() {
    let (handle, port) = speaker();
    let mut first = Raw::connect(2, port);
    first.announce(&attributes(), "10.1.0.0/16");
    wait("the route", || handle.routes(RouteQuery::LocRib).len() == 1);
    let mut second = Raw::connect_only(2, port);
    let Some(Message::Notification(refusal)) = second.next() else { panic!("not refused") };
    assert_eq!((refusal.code, refusal.subcode), (6, 5));
    assert_eq!(second.next(), None);
    first.announce(&attributes(), "10.2.0.0/16");
    wait("the second route", || handle.routes(RouteQuery::LocRib).len() == 2);
    assert_eq!(status(&handle, 2).flaps, 0);
}

#[test]
fn an_update_before_its_time_is_refused_by_state() {
    let (handle, port) = speaker();
    let mut raw = Raw::connect_only(2, port);
    raw.announce(&attributes(), "10.1.0.0/16");
    assert!(matches!(raw.next(), Some(Message::Open(_))));
    let Some(Message::Notification(refusal)) = raw.next() else { panic!("not refused") };
    assert_eq!((refusal.code, refusal.subcode), (5, 1));
    assert!(handle.routes(RouteQuery::LocRib).is_empty());
}
