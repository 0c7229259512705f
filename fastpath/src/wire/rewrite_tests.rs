//! Do rewritten packets carry the checksums another implementation would compute?

use super::*;
use crate::wire::checksum::{finish_partial, l4_total, pseudo, verify};
use crate::wire::headers::{parse, quoted};
use crate::wire::samples::{L4, Recipe, assert_checksums, plain, recipe};
use proptest::prelude::*;

fn address(r: &Recipe, raw: u128) -> IpAddr {
    let other = Recipe { source: raw, ..r.clone() };
    if r.v6 { IpAddr::from(other.source_v6()) } else { IpAddr::from(other.source_v4()) }
}

/// etherparse never writes a UDP checksum of 0xffff's twin nor TCP's; both zeroes are right.
fn assert_right(bytes: &[u8]) {
    let headers = parse(bytes).expect("valid");
    assert!(verify(&headers, bytes));
    let at = checksum::field(&headers, bytes).expect("a checksum");
    if !matches!(be16(bytes, at), 0 | 0xffff) {
        assert_checksums(bytes);
    }
}

fn rewrite(bytes: &mut [u8], r: &Recipe, new: (u128, u128), ports: (u16, u16), partial: bool) {
    let mut h = parse(bytes).expect("valid");
    set_address(bytes, &mut h, Side::Source, address(r, new.0), partial);
    set_address(bytes, &mut h, Side::Destination, address(r, new.1), partial);
    if r.l4 == L4::Icmp {
        set_icmp_id(bytes, &mut h, ports.0);
    } else {
        set_port(bytes, &mut h, Side::Source, ports.0, partial);
        set_port(bytes, &mut h, Side::Destination, ports.1, partial);
    }
    assert_eq!(Ok(h), parse(bytes), "the parsed headers follow");
}

proptest! {
    #[test]
    fn a_translated_packet_is_the_one_built_with_its_new_addresses(
        r in recipe(60), new: (u128, u128), ports: (u16, u16),
    ) {
        let mut bytes = r.build();
        rewrite(&mut bytes, &r, new, ports, false);
        let ports = if r.l4 == L4::Icmp { (ports.0, r.ports.1) } else { ports };
        let fresh = Recipe { source: new.0, destination: new.1, ports, ..r.clone() };
        prop_assert_eq!(bytes, fresh.build());
    }

    #[test]
    fn a_partial_checksum_survives_translation(r in recipe(60), new: (u128, u128), ports: (u16, u16)) {
        let r = Recipe { l4: if r.l4 == L4::Icmp { L4::Udp } else { r.l4 }, ..r };
        let mut bytes = r.build();
        let h = parse(&bytes).expect("valid");
        let at = checksum::field(&h, &bytes).expect("a checksum");
        put16(&mut bytes, at, pseudo(&h, l4_total(&h)));
        rewrite(&mut bytes, &r, new, ports, true);
        let h = parse(&bytes).expect("valid");
        prop_assert!(checksum::is_partial(&h, &bytes), "still the pseudo-header sum");
        finish_partial(&mut bytes, h.l3_len, at as u16 - h.l3_len).expect("in bounds");
        assert_right(&bytes);
    }

    #[test]
    fn a_shorter_life_is_the_only_difference(r in recipe(20)) {
        let mut bytes = r.build();
        decrement_ttl(&mut bytes).expect("at least 2");
        prop_assert_eq!(bytes, Recipe { ttl: r.ttl - 1, ..r.clone() }.build());
    }

    #[test]
    fn a_service_class_changes_with_its_checksum(r in recipe(20), tos: u8) {
        let r = Recipe { v6: false, ..r };
        let mut bytes = r.build();
        set_tos(&mut bytes, tos);
        prop_assert_eq!(bytes, Recipe { tos, ..r.clone() }.build());
    }

    #[test]
    fn quoted_packets_are_translated_with_their_error(
        r in recipe(40), new: u128, port: u16, cut in 8usize..60, source: bool,
    ) {
        let inner = r.build();
        let l3 = if r.v6 { 40 } else { 20 + r.ip_options * 4 };
        // Half a checksum field (an odd cut) is left as it is: compare whole ones.
        let cut = (l3 + cut / 2 * 2).min(inner.len());
        let mut bytes = error(&r, &inner[..cut]);
        let headers = parse(&bytes).expect("valid");
        let side = if source { Side::Source } else { Side::Destination };
        prop_assert!(set_quoted(&mut bytes, &headers, side, address(&r, new), Some(port)));
        let mut fresh = r.clone();
        if source { fresh.source = new } else { fresh.destination = new }
        if source || r.l4 == L4::Icmp { fresh.ports.0 = port } else { fresh.ports.1 = port }
        let seen = quoted(&bytes, &headers).expect("long enough");
        prop_assert_eq!(seen.source_port, if r.l4 == L4::Icmp { 0 } else { fresh.ports.0 });
        prop_assert_eq!(&bytes[l3 + 8..], &fresh.build()[..cut]);
        assert_right(&bytes);
    }

    #[test]
    fn no_bytes_ever_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..120), icmp: bool) {
        let _ = decrement_ttl(&mut bytes);
        set_tos(&mut bytes, 9);
        let mut ip = Recipe { l4: L4::Icmp, payload: bytes, ..plain() }.build();
        if icmp {
            ip[20] = 3;
        }
        let headers = parse(&ip).expect("valid");
        let _ = set_quoted(&mut ip, &headers, Side::Source, [10, 0, 0, 1].into(), Some(5));
    }
}

/// "Port unreachable", or its IPv6 twin, about `quote`.
fn error(r: &Recipe, quote: &[u8]) -> Vec<u8> {
    let carrier = Recipe { l4: L4::Icmp, payload: quote.to_vec(), ports: (0, 0), ..r.clone() };
    let mut bytes = carrier.build();
    let l3 = bytes.len() - 8 - quote.len();
    (bytes[l3], bytes[l3 + 1]) = if r.v6 { (1, 4) } else { (3, 3) };
    let h = parse(&bytes).expect("valid");
    put16(&mut bytes, l3 + 2, pseudo(&h, l4_total(&h)));
    let start = h.l3_len;
    finish_partial(&mut bytes, start, 2).expect("in bounds");
    bytes
}

#[test]
fn a_life_that_ends_here_is_named_and_left_alone() {
    for ttl in [0, 1] {
        for v6 in [false, true] {
            let mut bytes = Recipe { v6, ttl, ..plain() }.build();
            let before = bytes.clone();
            assert_eq!(decrement_ttl(&mut bytes), Err(DropReason::TtlExpired));
            assert_eq!(bytes, before);
        }
    }
}

#[test]
fn udp_without_a_checksum_keeps_none() {
    let r = Recipe { l4: L4::Udp, ..plain() };
    let mut bytes = r.build();
    put16(&mut bytes, 26, 0);
    rewrite(&mut bytes, &r, (5, 6), (7, 8), false);
    assert_eq!(be16(&bytes, 26), 0);
}

#[test]
fn what_is_no_error_is_not_searched_for_a_quote() {
    let mut bytes = Recipe { l4: L4::Icmp, payload: plain().build(), ..plain() }.build();
    let headers = parse(&bytes).expect("valid");
    let before = bytes.clone();
    assert!(!set_quoted(&mut bytes, &headers, Side::Source, [10, 0, 0, 1].into(), None));
    assert_eq!(bytes, before);
}
