//! Bytes of every kind: round trips, malformed messages with their exact verdicts, and garbage.

use super::*;
use crate::bgp::capability::{AddPath, Capabilities, GracefulRestart};
use crate::bgp::encode::{self, EncodeContext, EncodeError};
use crate::rib::route::{AsPath, Origin, Segment, SegmentKind, UnknownAttribute};
use ipnet::IpNet;
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const EXTERNAL: Context =
    Context { four_byte_as: true, internal: false, add_path_receive: [false; 2] };
const INTERNAL: Context = Context { internal: true, ..EXTERNAL };
const TWO_OCTETS: Context = Context { four_byte_as: false, ..EXTERNAL };

fn wrap(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    message(kind, &mut out, |out| out.extend_from_slice(body));
    out
}

fn update_body(withdrawn: &[u8], attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let mut body = bytes::len16(withdrawn.len()).to_vec();
    body.extend_from_slice(withdrawn);
    body.extend_from_slice(&bytes::len16(attributes.len()));
    body.extend_from_slice(attributes);
    body.extend_from_slice(nlri);
    body
}

/// An UPDATE with these attributes and the prefix 10.1.0.0/16.
fn with_attributes(attributes: &[&[u8]]) -> Vec<u8> {
    wrap(2, &update_body(&[], &attributes.concat(), NLRI))
}

const NLRI: &[u8] = &[16, 10, 1];
const ORIGIN: &[u8] = &[0x40, 1, 1, 0];
const PATH: &[u8] = &[0x40, 2, 6, 2, 1, 0, 0, 0xFD, 0xE9];
const NEXT_HOP: &[u8] = &[0x40, 3, 4, 10, 0, 0, 1];

fn update(message: &[u8], context: Context) -> Update {
    match decode(message, &context) {
        Ok(Message::Update(update)) => update,
        other => panic!("no UPDATE: {other:?}"),
    }
}

fn refused(message: &[u8], context: Context) -> (u8, u8) {
    match decode(message, &context) {
        Err(notification) => (notification.code, notification.subcode),
        Ok(message) => panic!("accepted: {message:?}"),
    }
}

fn prefix(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

#[test]
fn headers_are_checked_with_the_length_or_type_as_data() {
    let keepalive = wrap(4, &[]);
    assert_eq!(decode(&keepalive, &EXTERNAL), Ok(Message::Keepalive));
    let mut marker = keepalive.clone();
    marker[3] = 0;
    assert_eq!(refused(&marker, EXTERNAL), (1, 1));
    assert_eq!(frame(&keepalive[..7]), Ok(None), "more bytes may come");
    assert_eq!(frame(&[0xFF, 0]), Err(Notification::of(code::NOT_SYNCHRONIZED)));
    for (kind, length) in
        [(4, 18), (4, 20), (1, 28), (2, 22), (3, 20), (5, 22), (2, 4097), (4, 0xFFFF)]
    {
        let mut header = vec![0xFF; 16];
        header.extend_from_slice(&u16::to_be_bytes(length));
        header.push(kind);
        let expected = Notification::with(code::BAD_LENGTH, length.to_be_bytes());
        assert_eq!(frame(&header), Err(expected), "type {kind}, length {length}");
    }
    let mut unknown = keepalive;
    unknown[18] = 7;
    assert_eq!(frame(&unknown), Err(Notification::with(code::BAD_TYPE, [7])));
}

#[test]
fn opens_are_refused_with_the_right_subcode() {
    // Version, AS, hold time, identifier, parameters.
    let good = [&[4, 0xFD, 0xE9, 0, 90, 10, 0, 0, 9][..], &[0]].concat();
    assert!(decode(&wrap(1, &good), &EXTERNAL).is_ok());
    let altered = |at: usize, bytes: &[u8]| {
        let mut body = good.clone();
        body.splice(at..=at, bytes.iter().copied());
        wrap(1, &body)
    };
    let overwritten = |at: usize, bytes: &[u8]| {
        let mut body = good.clone();
        body[at..at + bytes.len()].copy_from_slice(bytes);
        wrap(1, &body)
    };
    let version = decode(&overwritten(0, &[3]), &EXTERNAL);
    assert_eq!(version, Err(Notification::with(code::BAD_VERSION, [0, 4])));
    assert_eq!(refused(&overwritten(1, &[0, 0]), EXTERNAL), (2, 2), "AS 0");
    for hold in [1, 2] {
        assert_eq!(refused(&overwritten(3, &[0, hold]), EXTERNAL), (2, 6));
    }
    assert_eq!(refused(&overwritten(5, &[0; 4]), EXTERNAL), (2, 3), "identifier 0");
    let cases: [(&[u8], (u8, u8), &str); 7] = [
        (&[4, 1, 2, 0, 0], (2, 4), "authentication parameter"),
        (&[3, 9, 1, 0], (2, 4), "unknown parameter"),
        (&[5], (2, 0), "parameters longer than the message"),
        (&[0, 1], (2, 0), "bytes after the parameters"),
        (&[4, 2, 9, 1, 0], (2, 0), "capability list past the end"),
        (&[4, 2, 2, 1, 4], (2, 0), "capability past its list"),
        (&[6, 2, 4, 65, 2, 0, 1], (2, 0), "4-octet AS capability of two octets"),
    ];
    for (parameters, expected, what) in cases {
        assert_eq!(refused(&altered(9, parameters), EXTERNAL), expected, "{what}");
    }
    let four_octets = altered(9, &[8, 2, 6, 65, 4, 0, 1, 0, 0]);
    let Ok(Message::Open(open)) = decode(&four_octets, &EXTERNAL) else { panic!("refused") };
    assert_eq!(open.asn, 65536);
    let zero = altered(9, &[8, 2, 6, 65, 4, 0, 0, 0, 0]);
    assert_eq!(refused(&zero, EXTERNAL), (2, 2), "AS 0 by capability");
    let extended = altered(9, &[255, 255, 0, 9, 2, 0, 6, 65, 4, 0, 1, 0, 0]);
    let Ok(Message::Open(open)) = decode(&extended, &EXTERNAL) else { panic!("refused") };
    assert_eq!(open.asn, 65536, "RFC 9072");
}

/// One row of RFC 7606: what is wrong, the attribute, and the treatment from an external and an
/// internal peer.
type Case = (&'static str, &'static [u8], Expected, Expected);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Accept,
    Discard,
    Withdraw,
    Reset(u8),
}
use Expected::{Accept, Discard, Reset, Withdraw};

/// Attributes that stand beside good ones (the good one of the same type is left out).
const CASES: &[Case] = &[
    ("ORIGIN of no octets", &[0x40, 1, 0], Withdraw, Withdraw),
    ("ORIGIN of two octets", &[0x40, 1, 2, 0, 0], Withdraw, Withdraw),
    ("ORIGIN 3", &[0x40, 1, 1, 3], Withdraw, Withdraw),
    ("ORIGIN optional", &[0xC0, 1, 1, 0], Withdraw, Withdraw),
    ("ORIGIN partial", &[0x60, 1, 1, 0], Withdraw, Withdraw),
    ("ORIGIN of extended length", &[0x50, 1, 0, 1, 0], Accept, Accept),
    ("AS_PATH empty", &[0x40, 2, 0], Accept, Accept),
    ("AS_PATH segment without numbers", &[0x40, 2, 2, 2, 0], Withdraw, Withdraw),
    ("AS_PATH overrun", &[0x40, 2, 6, 2, 2, 0, 0, 0, 1], Withdraw, Withdraw),
    ("AS_PATH underrun", &[0x40, 2, 7, 2, 1, 0, 0, 0, 1, 2], Withdraw, Withdraw),
    ("AS_PATH segment type 0", &[0x40, 2, 6, 0, 1, 0, 0, 0, 1], Withdraw, Withdraw),
    ("AS_PATH confederation", &[0x40, 2, 6, 3, 1, 0, 0, 0, 1], Withdraw, Withdraw),
    ("AS_PATH with AS 0", &[0x40, 2, 6, 2, 1, 0, 0, 0, 0], Withdraw, Withdraw),
    ("AS_PATH optional", &[0xC0, 2, 6, 2, 1, 0, 0, 0, 1], Withdraw, Withdraw),
    ("AS_PATH partial", &[0x60, 2, 6, 2, 1, 0, 0, 0, 1], Withdraw, Withdraw),
    ("NEXT_HOP of three octets", &[0x40, 3, 3, 10, 0, 0], Withdraw, Withdraw),
    ("NEXT_HOP of five octets", &[0x40, 3, 5, 10, 0, 0, 1, 1], Withdraw, Withdraw),
    ("NEXT_HOP 0.0.0.0", &[0x40, 3, 4, 0, 0, 0, 0], Withdraw, Withdraw),
    ("NEXT_HOP multicast", &[0x40, 3, 4, 224, 0, 0, 5], Withdraw, Withdraw),
    ("NEXT_HOP loopback", &[0x40, 3, 4, 127, 0, 0, 1], Withdraw, Withdraw),
    ("NEXT_HOP optional", &[0xC0, 3, 4, 10, 0, 0, 1], Withdraw, Withdraw),
    ("MED of three octets", &[0x80, 4, 3, 0, 0, 0], Withdraw, Withdraw),
    ("MED transitive", &[0xC0, 4, 4, 0, 0, 0, 1], Withdraw, Withdraw),
    ("MED", &[0x80, 4, 4, 0, 0, 0, 1], Accept, Accept),
    ("LOCAL_PREF", &[0x40, 5, 4, 0, 0, 0, 1], Discard, Accept),
    ("LOCAL_PREF of three octets", &[0x40, 5, 3, 0, 0, 1], Discard, Withdraw),
    ("LOCAL_PREF optional", &[0xC0, 5, 4, 0, 0, 0, 1], Withdraw, Withdraw),
    ("ATOMIC_AGGREGATE of one octet", &[0x40, 6, 1, 0], Discard, Discard),
    ("AGGREGATOR of seven octets", &[0xC0, 7, 7, 0, 0, 1, 1, 1, 1, 1], Discard, Discard),
    ("AGGREGATOR of a 2-octet speaker", &[0xC0, 7, 6, 0, 1, 1, 1, 1, 1], Discard, Discard),
    ("AGGREGATOR with AS 0", &[0xC0, 7, 8, 0, 0, 0, 0, 1, 1, 1, 1], Discard, Discard),
    ("AGGREGATOR", &[0xC0, 7, 8, 0, 0, 0, 1, 1, 1, 1, 1], Accept, Accept),
    ("COMMUNITIES empty", &[0xC0, 8, 0], Withdraw, Withdraw),
    ("COMMUNITIES of five octets", &[0xC0, 8, 5, 0, 0, 0, 1, 1], Withdraw, Withdraw),
    ("COMMUNITIES non-transitive", &[0x80, 8, 4, 0, 0, 0, 1], Withdraw, Withdraw),
    ("COMMUNITIES partial", &[0xE0, 8, 4, 0, 0, 0, 1], Accept, Accept),
    ("ORIGINATOR_ID", &[0x80, 9, 4, 1, 1, 1, 1], Discard, Accept),
    ("ORIGINATOR_ID of five octets", &[0x80, 9, 5, 1, 1, 1, 1, 1], Discard, Withdraw),
    ("CLUSTER_LIST", &[0x80, 10, 4, 1, 1, 1, 1], Discard, Accept),
    ("CLUSTER_LIST empty", &[0x80, 10, 0], Discard, Withdraw),
    ("CLUSTER_LIST of five octets", &[0x80, 10, 5, 1, 1, 1, 1, 1], Discard, Withdraw),
    ("MP_REACH too short", &[0x80, 14, 2, 0, 2], Reset(9), Reset(9)),
    (
        "MP_REACH with a next hop of five",
        &[0x80, 14, 10, 0, 2, 1, 5, 1, 1, 1, 1, 1, 0],
        Reset(9),
        Reset(9),
    ),
    ("MP_REACH of a family unknown", &[0x80, 14, 9, 0, 25, 65, 4, 1, 1, 1, 1, 0], Accept, Accept),
    ("MP_UNREACH too short", &[0x80, 15, 2, 0, 2], Reset(9), Reset(9)),
    ("MP_UNREACH of a /129", &[0x80, 15, 4, 0, 2, 1, 129], Reset(9), Reset(9)),
    ("EXTENDED_COMMUNITIES of nine", &[0xC0, 16, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0], Withdraw, Withdraw),
    ("EXTENDED_COMMUNITIES empty", &[0xC0, 16, 0], Withdraw, Withdraw),
    ("AS4_PATH between 4-octet speakers", &[0xC0, 17, 6, 2, 1, 0, 0, 0, 1], Discard, Discard),
    ("AS4_AGGREGATOR likewise", &[0xC0, 18, 8, 0, 0, 0, 1, 1, 1, 1, 1], Discard, Discard),
    (
        "LARGE_COMMUNITIES of eleven",
        &[0xC0, 32, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        Withdraw,
        Withdraw,
    ),
    ("LARGE_COMMUNITIES empty", &[0xC0, 32, 0], Withdraw, Withdraw),
    ("unknown and well-known", &[0x40, 99, 1, 0], Reset(2), Reset(2)),
    ("unknown and optional", &[0x80, 99, 1, 0], Accept, Accept),
    ("unknown, optional, transitive", &[0xC0, 99, 1, 0], Accept, Accept),
    ("length past the list", &[0xC0, 99, 200, 0], Withdraw, Withdraw),
    ("two octets at the end", &[0xC0, 99], Withdraw, Withdraw),
];

#[test]
fn malformed_attributes_get_the_treatment_of_rfc_7606() {
    for (what, attribute, external, internal) in CASES {
        let mut list: Vec<&[u8]> =
            [ORIGIN, PATH, NEXT_HOP].into_iter().filter(|good| good[1] != attribute[1]).collect();
        list.push(attribute);
        let message = with_attributes(&list);
        for (context, expected) in [(EXTERNAL, external), (INTERNAL, internal)] {
            let got = match decode(&message, &context) {
                Err(notification) => {
                    assert_eq!(notification.code, 3, "{what}");
                    Reset(notification.subcode)
                }
                Ok(Message::Update(update)) => verdict(what, &update),
                Ok(other) => panic!("{what}: {other:?}"),
            };
            assert_eq!(got, *expected, "{what}, internal: {}", context.internal);
        }
    }
}

fn verdict(what: &str, update: &Update) -> Expected {
    let all = [prefix("10.1.0.0/16")];
    let withdrawn: Vec<IpNet> = update.withdrawn.iter().map(|nlri| nlri.prefix).collect();
    if update.announced.is_empty() {
        assert_eq!(withdrawn, all, "{what}: the routes are withdrawn");
        assert!(update.errors.iter().any(|e| e.treatment == Treatment::Withdraw), "{what}");
        return Withdraw;
    }
    assert!(withdrawn.is_empty(), "{what}");
    if update.errors.is_empty() { Accept } else { Discard }
}

#[test]
fn missing_mandatory_attributes_withdraw_the_routes() {
    for missing in [ORIGIN, PATH, NEXT_HOP] {
        let list: Vec<&[u8]> =
            [ORIGIN, PATH, NEXT_HOP].into_iter().filter(|one| *one != missing).collect();
        let update = update(&with_attributes(&list), EXTERNAL);
        assert_eq!(verdict("missing", &update), Withdraw);
        assert_eq!(update.errors[0].code, missing[1]);
        assert_eq!(update.errors[0].problem, Problem::Missing);
    }
}

#[test]
fn duplicates_are_discarded_but_those_of_mp_attributes_reset() {
    let other_origin: &[u8] = &[0x40, 1, 1, 2];
    let update = update(&with_attributes(&[ORIGIN, PATH, NEXT_HOP, other_origin]), EXTERNAL);
    assert_eq!(update.announced[0].attributes.origin, Origin::Igp, "the first one counts");
    assert_eq!(update.errors[0].problem, Problem::Duplicate);
    let unreach: &[u8] = &[0x80, 15, 3, 0, 2, 1];
    let twice = with_attributes(&[ORIGIN, PATH, NEXT_HOP, unreach, unreach]);
    assert_eq!(refused(&twice, EXTERNAL), (3, 1));
}

#[test]
fn lengths_and_prefixes_that_do_not_fit_reset_the_session() {
    let cases: [(&[u8], (u8, u8), &str); 6] = [
        (&[0, 9, 0, 0], (3, 1), "withdrawn routes past the end"),
        (&[0, 0, 0, 9], (3, 1), "attributes past the end"),
        (&[0, 1, 33, 0, 0], (3, 10), "withdrawn /33"),
        (&[0, 2, 24, 10, 0, 0], (3, 10), "withdrawn prefix cut short"),
        (&[0, 0, 0, 0, 33, 10, 0, 0, 0, 0], (3, 10), "announced /33"),
        (&[0, 0, 0, 0, 24, 10], (3, 10), "announced prefix cut short"),
    ];
    for (body, expected, what) in cases {
        assert_eq!(refused(&wrap(2, body), EXTERNAL), expected, "{what}");
    }
    // RFC 7606 §5.2: with no route to withdraw, treat-as-withdraw is not enough.
    let no_routes = wrap(2, &update_body(&[], &[0x40, 1, 1, 9], &[]));
    assert_eq!(refused(&no_routes, EXTERNAL), (3, 1));
}

#[test]
fn prefixes_that_nobody_may_route_are_left_out() {
    let nlri = [&[8, 127][..], &[4, 0xE0], NLRI, &[0]].concat();
    let body = update_body(&[], &[ORIGIN, PATH, NEXT_HOP].concat(), &nlri);
    let update = update(&wrap(2, &body), EXTERNAL);
    let kept: Vec<IpNet> = update.announced[0].nlri.iter().map(|nlri| nlri.prefix).collect();
    assert_eq!(kept, [prefix("10.1.0.0/16"), prefix("0.0.0.0/0")]);
}

#[test]
fn a_mapped_next_hop_is_the_ipv4_address_it_means() {
    let mut reach = vec![0x80, 14, 24, 0, 2, 1, 16];
    reach.extend_from_slice(&Ipv4Addr::new(10, 0, 0, 3).to_ipv6_mapped().octets());
    reach.extend_from_slice(&[0, 16, 0xFD, 0]);
    let body = update_body(&[], &[ORIGIN, PATH, &reach].concat(), &[]);
    let update = update(&wrap(2, &body), EXTERNAL);
    assert_eq!(update.announced[0].attributes.next_hop, IpAddr::from([10, 0, 0, 3]));
    assert_eq!(update.announced[0].nlri, [Nlri::of(prefix("fd00::/16"))]);
}

#[test]
fn a_path_split_for_a_two_octet_peer_is_put_together_again() {
    // 65001 23456 23456, of which the last two are known in full.
    let path: &[u8] = &[0x40, 2, 8, 2, 3, 0xFD, 0xE9, 0x5B, 0xA0, 0x5B, 0xA0];
    let full: &[u8] = &[0xC0, 17, 10, 2, 2, 0, 1, 0, 0, 0, 1, 0, 1];
    let update_of = |list: &[&[u8]]| update(&with_attributes(list), TWO_OCTETS);
    let merged = update_of(&[ORIGIN, path, NEXT_HOP, full]);
    assert_eq!(merged.announced[0].attributes.as_path.to_string(), "65001 65536 65537");
    // An aggregator that knows no AS4 attributes makes them stale (RFC 6793 §4.2.3).
    let aggregator: &[u8] = &[0xC0, 7, 6, 0, 9, 1, 1, 1, 1];
    let stale = update_of(&[ORIGIN, path, NEXT_HOP, aggregator, full]);
    assert_eq!(stale.announced[0].attributes.as_path.to_string(), "65001 23456 23456");
    // Longer than what it should complete: ignored.
    let short: &[u8] = &[0x40, 2, 4, 2, 1, 0xFD, 0xE9];
    let ignored = update_of(&[ORIGIN, short, NEXT_HOP, full]);
    assert_eq!(ignored.announced[0].attributes.as_path.to_string(), "65001");
    let broken: &[u8] = &[0xC0, 17, 6, 0, 1, 0, 0, 0, 1];
    let kept = update_of(&[ORIGIN, short, NEXT_HOP, broken]);
    assert_eq!(kept.errors[0].treatment, Treatment::Discard);
    assert_eq!(kept.announced.len(), 1);
}

#[test]
fn the_end_of_the_table_is_told_and_understood() {
    for family in Family::ALL {
        let mut out = Vec::new();
        encode::end_of_rib(family, &mut out);
        assert_eq!(update(&out, EXTERNAL).end_of_rib, Some(family));
    }
    let withdrawal = update(&wrap(2, &update_body(&[16, 10, 1], &[], &[])), EXTERNAL);
    assert_eq!(withdrawal.end_of_rib, None);
}

#[test]
fn refresh_requests() {
    let mut out = Vec::new();
    encode_route_refresh(Family::Ipv6, &mut out);
    assert_eq!(decode(&out, &EXTERNAL), Ok(Message::RouteRefresh(Some(Family::Ipv6))));
    let marker = wrap(5, &[0, 1, 1, 1]);
    assert_eq!(decode(&marker, &EXTERNAL), Ok(Message::RouteRefresh(None)), "subtype 1");
    let foreign = wrap(5, &[0, 25, 0, 70]);
    assert_eq!(decode(&foreign, &EXTERNAL), Ok(Message::RouteRefresh(None)));
}

#[test]
fn what_does_not_fit_one_message_goes_into_several() {
    let mut attributes = PathAttributes::local(IpAddr::from([10, 0, 0, 1]));
    let list: Vec<Nlri> = (0..3000_u32)
        .map(|number| Ipv4Addr::from(0x0A00_0000 + (number << 8)))
        .map(|address| Nlri::of(prefix(&format!("{address}/24"))))
        .collect();
    let context = EncodeContext { four_byte_as: true, add_path: false };
    let mut out = Vec::new();
    let count = encode::announce(&attributes, Family::Ipv4, &list, context, &mut out);
    assert_eq!(count, Ok(3));
    assert_eq!(read_all(&out, EXTERNAL).1, list);
    out.clear();
    assert_eq!(encode::withdraw(Family::Ipv4, &list, context, &mut out), 3);
    assert_eq!(read_all(&out, EXTERNAL).0, list);
    attributes.communities = (0..1100).collect();
    out.clear();
    let too_long = encode::announce(&attributes, Family::Ipv4, &list, context, &mut out);
    assert!(matches!(too_long, Err(EncodeError::AttributesTooLong(_))), "{too_long:?}");
    assert!(out.is_empty());
    attributes.next_hop = IpAddr::V6(Ipv6Addr::LOCALHOST);
    let wrong = encode::announce(&attributes, Family::Ipv4, &list, context, &mut out);
    assert_eq!(wrong, Err(EncodeError::NextHopFamily));
}

/// Withdrawn and announced prefixes of a stream of UPDATEs, each at most 4096 octets.
fn read_all(mut stream: &[u8], context: Context) -> (Vec<Nlri>, Vec<Nlri>) {
    let (mut withdrawn, mut announced) = (Vec::new(), Vec::new());
    while let Some(length) = frame(stream).expect("good headers") {
        let update = update(&stream[..length], context);
        withdrawn.extend(update.withdrawn);
        announced.extend(update.announced.into_iter().flat_map(|group| group.nlri));
        stream = &stream[length..];
        if stream.is_empty() {
            break;
        }
    }
    (withdrawn, announced)
}

fn capabilities() -> impl Strategy<Value = Capabilities> {
    let restart = (any::<bool>(), 0..4096_u16, any::<[Option<bool>; 2]>()).prop_map(
        |(restarting, restart_time, families)| GracefulRestart {
            restarting,
            restart_time,
            families,
        },
    );
    let add_path = any::<[(bool, bool); 2]>()
        .prop_map(|pairs| pairs.map(|(receive, send)| AddPath { receive, send }));
    (any::<[bool; 2]>(), any::<bool>(), prop::option::of(restart), add_path).prop_map(
        |(families, route_refresh, graceful_restart, add_path)| Capabilities {
            families,
            multiprotocol: families != [false; 2],
            four_byte_as: true,
            route_refresh,
            graceful_restart,
            add_path,
        },
    )
}

fn as_path() -> impl Strategy<Value = AsPath> {
    let segment =
        (any::<bool>(), prop::collection::vec(1..=u32::MAX, 1..6)).prop_map(|(ordered, asns)| {
            Segment { kind: if ordered { SegmentKind::Sequence } else { SegmentKind::Set }, asns }
        });
    prop::collection::vec(segment, 0..4).prop_map(|segments| AsPath { segments })
}

fn attributes() -> impl Strategy<Value = PathAttributes> {
    let numbers = (
        prop::sample::select(vec![Origin::Igp, Origin::Egp, Origin::Incomplete]),
        as_path(),
        prop::option::of(any::<u32>()),
        prop::option::of(any::<u32>()),
        any::<bool>(),
        prop::option::of((1..=u32::MAX, any::<Ipv4Addr>())),
    );
    let lists = (
        prop::collection::vec(any::<u32>(), 0..70),
        prop::collection::vec(any::<[u8; 8]>(), 0..4),
        prop::collection::vec(any::<[u32; 3]>(), 0..4),
        prop::option::of(any::<Ipv4Addr>()),
        prop::collection::vec(any::<Ipv4Addr>(), 0..4),
        prop::option::of(prop::collection::vec(any::<u8>(), 0..300)),
    );
    (numbers, lists).prop_map(|(numbers, lists)| {
        let (origin, as_path, med, local_pref, atomic_aggregate, aggregator) = numbers;
        let (communities, extended, large, originator_id, cluster_list, unknown) = lists;
        PathAttributes {
            origin,
            as_path,
            med,
            local_pref,
            atomic_aggregate,
            aggregator,
            communities,
            extended_communities: extended,
            large_communities: large,
            originator_id,
            cluster_list,
            unknown: unknown
                .map(|value| UnknownAttribute { code: 99, flags: 0xE0, value })
                .into_iter()
                .collect(),
            ..PathAttributes::local(IpAddr::from([10, 0, 0, 1]))
        }
    })
}

fn v4_prefix() -> impl Strategy<Value = IpNet> {
    (0x0100_0000..0x7E00_0000_u32, 8..=32_u8).prop_map(|(address, length)| {
        IpNet::new(IpAddr::from(Ipv4Addr::from(address)), length).expect("a length").trunc()
    })
}

fn v6_prefix() -> impl Strategy<Value = IpNet> {
    (any::<u128>(), 16..=128_u8).prop_map(|(bits, length)| {
        let address = Ipv6Addr::from((0x2001 << 112) | (bits >> 16));
        IpNet::new(IpAddr::from(address), length).expect("a length").trunc()
    })
}

proptest! {
    #[test]
    fn opens_survive_the_wire(
        asn in 1..=u32::MAX,
        hold_time in prop::sample::select(vec![0_u16, 3, 90, 240, u16::MAX]),
        router_id in 1..=u32::MAX,
        capabilities in capabilities(),
    ) {
        let open = Open { asn, hold_time, router_id: Ipv4Addr::from(router_id), capabilities };
        let mut out = Vec::new();
        encode_open(&open, &mut out);
        prop_assert_eq!(decode(&out, &EXTERNAL), Ok(Message::Open(open)));
    }

    #[test]
    fn routes_survive_the_wire(
        attributes in attributes(),
        four in prop::collection::vec(v4_prefix(), 1..50),
        six in prop::collection::vec(v6_prefix(), 1..50),
        two_octets: bool,
        link_local: bool,
        path_ids: bool,
    ) {
        let encode_as = EncodeContext { four_byte_as: !two_octets, add_path: path_ids };
        let context = Context {
            four_byte_as: !two_octets,
            internal: true,
            add_path_receive: [path_ids; 2],
        };
        let number = |(index, prefix): (usize, &IpNet)| Nlri {
            prefix: *prefix,
            path_id: if path_ids { u32::try_from(index).unwrap_or(0) } else { 0 },
        };
        let (four, six): (Vec<Nlri>, Vec<Nlri>) = (
            four.iter().enumerate().map(number).collect(),
            six.iter().enumerate().map(number).collect(),
        );
        let mut in_six = attributes.clone();
        in_six.next_hop = IpAddr::V6("2001:db8::1".parse().expect("an address"));
        in_six.link_local = link_local.then(|| "fe80::1".parse().expect("an address"));
        for (family, attributes, nlri) in
            [(Family::Ipv4, &attributes, &four), (Family::Ipv6, &in_six, &six)]
        {
            let mut out = Vec::new();
            let count = encode::announce(attributes, family, nlri, encode_as, &mut out);
            prop_assert_eq!(count, Ok(1));
            let update = update(&out, context);
            prop_assert!(update.errors.is_empty(), "{:?}", update.errors);
            prop_assert_eq!(&update.announced[0].nlri, nlri);
            let got = &update.announced[0].attributes;
            if two_octets {
                // Segment borders may move where the two paths are put together.
                let flat: Vec<u32> = got.as_path.asns().collect();
                let want: Vec<u32> = attributes.as_path.asns().collect();
                let known = attributes.as_path.asns().any(|asn| asn > 0xFFFF);
                if known && attributes.aggregator.is_none() {
                    prop_assert_eq!(flat, want);
                }
            } else {
                prop_assert_eq!(got, attributes);
            }
            out.clear();
            prop_assert_eq!(encode::withdraw(family, nlri, encode_as, &mut out), 1);
            prop_assert_eq!(&read_all(&out, context).0, nlri);
        }
    }

    #[test]
    fn notifications_survive_the_wire(code: u8, subcode: u8, data: Vec<u8>) {
        let notification = Notification { code, subcode, data };
        let mut out = Vec::new();
        encode_notification(&notification, &mut out);
        prop_assert_eq!(decode(&out, &EXTERNAL), Ok(Message::Notification(notification.clone())));
        prop_assert!(!notification.to_string().is_empty());
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(
        kind in 0..7_u8,
        body in prop::collection::vec(any::<u8>(), 0..300),
        four_byte_as: bool,
        internal: bool,
        add_path: bool,
    ) {
        let context = Context { four_byte_as, internal, add_path_receive: [add_path; 2] };
        let _verdict = decode(&wrap(kind, &body), &context);
        let _raw = decode(&body, &context);
    }

    #[test]
    fn good_messages_gone_bad_do_not_make_it_panic(
        attributes in attributes(),
        prefixes in prop::collection::vec(v6_prefix(), 1..9),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..9),
        cut in any::<prop::sample::Index>(),
        four_byte_as: bool,
        add_path: bool,
    ) {
        let nlri: Vec<Nlri> = prefixes.into_iter().map(Nlri::of).collect();
        let encode_as = EncodeContext { four_byte_as, add_path };
        let mut out = Vec::new();
        encode::announce(&attributes, Family::Ipv6, &nlri, encode_as, &mut out).expect("fits");
        for (at, value) in damage {
            let at = at.index(out.len() - HEADER) + HEADER;
            out[at] = value;
        }
        let context = Context { four_byte_as, internal: true, add_path_receive: [add_path; 2] };
        let _verdict = decode(&out, &context);
        let shorter = wrap(2, &out[HEADER..HEADER + cut.index(out.len() - HEADER)]);
        let _verdict = decode(&shorter, &context);
    }
}
