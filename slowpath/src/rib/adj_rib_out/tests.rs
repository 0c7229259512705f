//! Who hears what: one test per rule of advertisement.

use super::*;
use crate::rib::route::AsPath;

const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 100);
const HEARD: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7));

fn target(internal: bool) -> Target {
    Target {
        peer: 1,
        local_as: 64512,
        internal,
        rr_client: false,
        cluster_id: None,
        next_hop_mode: NextHopMode::Auto,
        own_ipv4: Some(OWN),
        own_ipv6: None,
        families: [true, true],
    }
}

fn source(kind: SourceKind) -> Source {
    Source { peer: 2, address: HEARD, router_id: Ipv4Addr::new(7, 7, 7, 7), kind, rr_client: false }
}

fn heard() -> PathAttributes {
    let mut attributes = PathAttributes::local(HEARD);
    attributes.as_path = AsPath::sequence(&[65009]);
    attributes
}

fn told(kind: SourceKind, heard: &PathAttributes, target: &Target) -> Option<PathAttributes> {
    export(Family::Ipv4, &source(kind), heard, target)
}

#[test]
fn nobody_hears_his_own_route_or_a_family_he_does_not_speak() {
    let from_himself = Source { peer: 1, ..source(SourceKind::External) };
    assert_eq!(export(Family::Ipv4, &from_himself, &heard(), &target(false)), None);
    let four_only = Target { families: [true, false], ..target(false) };
    assert_eq!(export(Family::Ipv6, &source(SourceKind::External), &heard(), &four_only), None);
}

#[test]
fn external_peers_hear_us_in_the_path_and_no_local_attributes() {
    let mut route = heard();
    route.local_pref = Some(7);
    route.med = Some(5);
    route.originator_id = Some(OWN);
    route.cluster_list = vec![OWN];
    let sent = told(SourceKind::Internal, &route, &target(false)).expect("sent");
    assert_eq!(sent.as_path.to_string(), "64512 65009");
    assert_eq!((sent.local_pref, sent.med, sent.originator_id), (None, None, None));
    assert!(sent.cluster_list.is_empty());
    assert_eq!(sent.next_hop, IpAddr::V4(OWN));
    let ours = told(SourceKind::Local, &route, &target(false)).expect("sent");
    assert_eq!(ours.med, Some(5), "our own MED is meant for the neighbour");
}

#[test]
fn internal_peers_hear_external_routes_unchanged_but_for_the_preference() {
    let sent = told(SourceKind::External, &heard(), &target(true)).expect("sent");
    assert_eq!(sent, PathAttributes { local_pref: Some(DEFAULT_LOCAL_PREF), ..heard() });
}

#[test]
fn internal_routes_go_to_internal_peers_by_reflection_only() {
    assert_eq!(told(SourceKind::Internal, &heard(), &target(true)), None);
    let cluster = Some(Ipv4Addr::new(244, 0, 0, 1));
    let between_others = Target { cluster_id: cluster, ..target(true) };
    assert_eq!(told(SourceKind::Internal, &heard(), &between_others), None);
    let to_client = Target { rr_client: true, ..between_others.clone() };
    let sent = told(SourceKind::Internal, &heard(), &to_client).expect("sent to a client");
    assert_eq!(sent.originator_id, Some(Ipv4Addr::new(7, 7, 7, 7)));
    assert_eq!(sent.cluster_list, [Ipv4Addr::new(244, 0, 0, 1)]);
    assert_eq!(sent.next_hop, HEARD, "a reflector does not put itself in the way");
    let from_client = Source { rr_client: true, ..source(SourceKind::Internal) };
    assert!(export(Family::Ipv4, &from_client, &heard(), &between_others).is_some());
}

#[test]
fn a_second_reflector_keeps_the_originator_and_adds_itself_in_front() {
    let mut route = heard();
    route.originator_id = Some(Ipv4Addr::new(3, 3, 3, 3));
    route.cluster_list = vec![Ipv4Addr::new(244, 0, 0, 2)];
    let target =
        Target { rr_client: true, cluster_id: Some(Ipv4Addr::new(244, 0, 0, 1)), ..target(true) };
    let sent = told(SourceKind::Internal, &route, &target).expect("sent");
    assert_eq!(sent.originator_id, Some(Ipv4Addr::new(3, 3, 3, 3)));
    let clusters = [Ipv4Addr::new(244, 0, 0, 1), Ipv4Addr::new(244, 0, 0, 2)];
    assert_eq!(sent.cluster_list, clusters);
}

#[test]
fn well_known_communities_are_honoured_for_learned_routes() {
    let with = |community| PathAttributes { communities: vec![community], ..heard() };
    for internal in [false, true] {
        assert_eq!(told(SourceKind::External, &with(NO_ADVERTISE), &target(internal)), None);
    }
    for community in [NO_EXPORT, NO_EXPORT_SUBCONFED] {
        assert_eq!(told(SourceKind::External, &with(community), &target(false)), None);
        assert!(told(SourceKind::External, &with(community), &target(true)).is_some());
    }
    assert!(told(SourceKind::Local, &with(NO_EXPORT), &target(false)).is_some());
}

#[test]
fn next_hop_modes() {
    let next_hop = |kind, mode, internal| {
        let target = Target { next_hop_mode: mode, ..target(internal) };
        told(kind, &heard(), &target).expect("sent").next_hop
    };
    let own = IpAddr::V4(OWN);
    assert_eq!(next_hop(SourceKind::External, NextHopMode::Keep, false), HEARD);
    assert_eq!(next_hop(SourceKind::External, NextHopMode::OwnAddress, true), own);
    assert_eq!(next_hop(SourceKind::External, NextHopMode::Auto, true), HEARD);
    let unset = PathAttributes::local(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let keep = Target { next_hop_mode: NextHopMode::Keep, ..target(true) };
    assert_eq!(told(SourceKind::Local, &unset, &keep).expect("sent").next_hop, own);
    let six = export(Family::Ipv6, &source(SourceKind::Local), &unset, &target(true));
    assert_eq!(six, None, "no IPv6 address of ours is known");
}

#[test]
fn only_differences_are_sent() {
    let mut out = AdjRibOut::default();
    let prefix: IpNet = "10.0.0.0/24".parse().expect("a prefix");
    let attributes = Arc::new(heard());
    assert_eq!(out.set(prefix, None), Send::Nothing);
    assert_eq!(out.set(prefix, Some(Arc::clone(&attributes))), Send::Announce);
    assert_eq!(out.set(prefix, Some(Arc::clone(&attributes))), Send::Nothing);
    out.resend(prefix);
    assert_eq!(out.take(10), [prefix]);
    assert_eq!(out.set(prefix, Some(attributes)), Send::Announce, "asked for again");
    assert_eq!(out.set(prefix, None), Send::Withdraw);
    assert!(out.is_empty());
}

#[test]
fn a_prefix_waits_once_however_often_it_changes() {
    let mut out = AdjRibOut::default();
    let prefixes: Vec<IpNet> =
        (0..5_u8).map(|n| format!("10.{n}.0.0/16").parse().expect("a prefix")).collect();
    for prefix in prefixes.iter().chain(&prefixes) {
        out.touch(*prefix);
    }
    assert_eq!(out.take(3), prefixes[..3]);
    assert!(out.pending());
    assert_eq!(out.take(9), prefixes[3..]);
    assert!(!out.pending());
}
