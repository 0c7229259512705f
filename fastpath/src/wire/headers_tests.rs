//! Does the one parse agree with another dissector, and is every way to be wrong told apart?

use super::*;
use crate::wire::put16;
use crate::wire::samples::{L4, Recipe, plain, recipe};
use proptest::prelude::*;

fn fix_checksum(ip: &mut [u8]) {
    let len = usize::from(ip[0] & 15) * 4;
    put16(ip, 10, 0);
    let checksum = checksum::full(&ip[..len]);
    put16(ip, 10, checksum);
}

/// A packet with one change and a right header checksum.
fn changed(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = plain().build();
    change(&mut bytes);
    fix_checksum(&mut bytes);
    bytes
}

fn v6(l4: L4) -> Recipe {
    Recipe { v6: true, l4, ..plain() }
}

/// An IPv6 packet with this chain of extension headers in front of its UDP header.
fn chained(first: u8, chain: &[u8]) -> Vec<u8> {
    let mut bytes = v6(L4::Udp).build();
    bytes.splice(40..40, chain.iter().copied());
    bytes[6] = first;
    let len = bytes.len() as u16 - 40;
    put16(&mut bytes, 4, len);
    bytes
}

proptest! {
    #[test]
    fn valid_packets_read_as_they_were_built(r in recipe(200), padding in 0usize..30) {
        let mut bytes = r.build();
        let len = bytes.len();
        bytes.extend(std::iter::repeat_n(0u8, padding));
        let h = parse(&bytes).expect("valid");
        prop_assert_eq!(h.total_len as usize, len);
        prop_assert_eq!((h.tos, h.ttl), (r.tos, r.ttl));
        prop_assert_eq!(h.fragment, Fragment::None);
        prop_assert_eq!(h.dont_fragment, r.dont_fragment || r.v6);
        prop_assert_eq!(usize::from(h.l3_len), if r.v6 { 40 } else { 20 + r.ip_options * 4 });
        let (source, destination) = if r.v6 {
            (IpAddr::from(r.source_v6()), IpAddr::from(r.destination_v6()))
        } else {
            (IpAddr::from(r.source_v4()), IpAddr::from(r.destination_v4()))
        };
        prop_assert_eq!((h.source, h.destination), (source, destination));
        prop_assert_eq!(&bytes[h.payload_offset()..len], &r.payload[..]);
        match r.l4 {
            L4::Icmp => {
                let kind: u16 = if r.v6 { 128 } else { 8 };
                prop_assert_eq!((h.source_port, h.destination_port), (0, kind * 256));
                prop_assert_eq!((h.icmp_id, h.tcp_flags), (r.ports.0, 0));
            }
            l4 => {
                prop_assert_eq!((h.source_port, h.destination_port), r.ports);
                prop_assert_eq!(h.tcp_flags, if l4 == L4::Tcp { r.flags } else { 0 });
            }
        }
    }

    #[test]
    fn no_bytes_ever_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), version in 0u8..3) {
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() {
            *first = [*first, 0x45 | (*first & 0xf), 0x60][usize::from(version)];
        }
        if let Ok(headers) = parse(&bytes) {
            prop_assert!(headers.total_len as usize <= bytes.len());
            prop_assert!(headers.payload_offset() <= headers.total_len as usize);
            let _ = quoted(&bytes, &headers);
            let _ = checksum::verify(&headers, &bytes);
        }
    }

    #[test]
    fn mutated_packets_never_panic_and_stay_in_bounds(
        r in recipe(80), at: prop::sample::Index, value: u8, cut: prop::sample::Index, fix: bool,
    ) {
        let mut bytes = r.build();
        let at = at.index(bytes.len());
        bytes[at] = value;
        if fix && bytes[0] >> 4 == 4 && usize::from(bytes[0] & 15) * 4 <= bytes.len() && bytes[0] & 15 > 4 {
            fix_checksum(&mut bytes);
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        if let Ok(headers) = parse(&bytes) {
            prop_assert!(headers.payload_offset() <= headers.total_len as usize);
            prop_assert!(headers.total_len as usize <= bytes.len());
            let _ = quoted(&bytes, &headers);
        }
    }

    #[test]
    fn a_cut_packet_is_always_refused(r in recipe(80), cut: prop::sample::Index) {
        let bytes = r.build();
        let cut = cut.index(bytes.len());
        prop_assert!(parse(&bytes[..cut]).is_err());
    }

    #[test]
    fn every_wrong_header_checksum_is_seen(r in recipe(0), wrong in 1u16..0xffff) {
        let mut bytes = Recipe { v6: false, ..r }.build();
        let right = be16(&bytes, 10);
        put16(&mut bytes, 10, right.wrapping_add(wrong));
        prop_assume!(!(right == 0 && wrong == 0xffff));
        prop_assert_eq!(parse(&bytes), Err(DropReason::Ipv4Checksum));
    }

    #[test]
    fn quotes_name_the_flow_of_the_packet_they_quote(r in recipe(60), cut in 8usize..70) {
        let inner = r.build();
        let whole = parse(&inner).expect("valid");
        let cut = (usize::from(whole.l3_len) + cut).min(inner.len());
        let error = Recipe { l4: L4::Icmp, payload: inner[..cut].to_vec(), ..r.clone() };
        let mut error_bytes = error.build();
        let l4 = if r.v6 { 40 } else { 20 + r.ip_options * 4 };
        (error_bytes[l4], error_bytes[l4 + 1]) = if r.v6 { (1, 0) } else { (3, 4) };
        let headers = parse(&error_bytes).expect("valid");
        prop_assert!(headers.is_icmp_error());
        let seen = quoted(&error_bytes, &headers).expect("long enough");
        prop_assert_eq!((seen.source, seen.destination), (whole.source, whole.destination));
        prop_assert_eq!(
            (seen.protocol, seen.source_port, seen.destination_port, seen.icmp_id),
            (whole.protocol, whole.source_port, whole.destination_port, whole.icmp_id)
        );
    }
}

#[test]
fn each_ipv4_fault_has_its_reason() {
    use DropReason as D;
    let cases: Vec<(Vec<u8>, D)> = vec![
        (vec![], D::Ipv4Truncated),
        (vec![0x45; 19], D::Ipv4Truncated),
        (vec![0x15; 60], D::Ipv4Version),
        (changed(|b| b[0] = 0x44), D::Ipv4HeaderLength),
        (plain().build()[..20].to_vec(), D::Ipv4TotalLength),
        (changed(|b| put16(b, 2, 19)), D::Ipv4TotalLength),
        (changed(|b| put16(b, 2, 20)), D::L4Truncated),
        (changed(|b| b[32] = 0x40), D::L4Length),
        (changed(|b| b[32] = 0xf0), D::L4Truncated),
        (changed(|b| b[12..16].copy_from_slice(&[224, 0, 0, 1])), D::SourceInvalid),
        (changed(|b| b[12..16].copy_from_slice(&[127, 0, 0, 1])), D::SourceInvalid),
        (changed(|b| b[12..16].fill(0)), D::SourceInvalid),
        (changed(|b| b[12..16].fill(255)), D::SourceInvalid),
        (changed(|b| b[16..20].fill(255)), D::DestinationInvalid),
        (changed(|b| b[16..20].fill(0)), D::DestinationInvalid),
        (changed(|b| b[16..20].copy_from_slice(&[127, 1, 2, 3])), D::DestinationInvalid),
        (changed(|b| b[16..20].copy_from_slice(&[239, 1, 2, 3])), D::DestinationInvalid),
    ];
    for (bytes, reason) in cases {
        assert_eq!(parse(&bytes), Err(reason), "{bytes:?}");
    }
}

#[test]
fn link_local_multicast_is_the_callers_to_name() {
    let report = changed(|b| b[16..20].copy_from_slice(&[224, 0, 0, 22]));
    assert!(parse(&report).expect("valid").is_link_local_multicast());
    let probe = changed(|b| {
        b[12..16].fill(0);
        b[16..20].copy_from_slice(&[224, 0, 0, 22]);
    });
    assert!(parse(&probe).expect("valid").is_link_local_multicast());
    assert!(!parse(&plain().build()).expect("valid").is_link_local_multicast());
}

#[test]
fn options_are_walked_and_source_routes_refused() {
    let with = |options: &[u8]| {
        let mut bytes = Recipe { ip_options: options.len() / 4, ..plain() }.build();
        bytes[20..20 + options.len()].copy_from_slice(options);
        fix_checksum(&mut bytes);
        parse(&bytes).map(|h| h.l3_len)
    };
    let refused = Err(DropReason::Ipv4Options);
    assert_eq!(with(&[148, 4, 0, 0]), Ok(24), "router alert");
    assert_eq!(with(&[1, 1, 1, 0]), Ok(24));
    assert_eq!(with(&[0, 131, 3, 4]), Ok(24), "nothing counts behind the end");
    assert_eq!(with(&[131, 3, 4, 0]), refused, "loose source route");
    assert_eq!(with(&[1, 137, 3, 4]), refused, "strict source route");
    assert_eq!(with(&[148, 5, 0, 0]), refused, "too long");
    assert_eq!(with(&[148, 0, 0, 0]), refused, "no length");
    assert_eq!(with(&[1, 1, 148, 1]), refused, "a length that holds nothing");
    assert_eq!(with(&[1, 1, 1, 148]), refused, "no length byte");
}

#[test]
fn ipv4_fragments_are_told_apart_and_tiny_ones_refused() {
    let piece = |place: u16, payload: usize| {
        let recipe = Recipe { payload: vec![0; payload], dont_fragment: false, ..plain() };
        let mut bytes = recipe.build();
        put16(&mut bytes, 6, place);
        fix_checksum(&mut bytes);
        parse(&bytes).map(|h| (h.fragment, h.source_port, h.l4_len))
    };
    let (first, more) = (0x2000, 0x2000);
    assert_eq!(piece(first, 4), Ok((Fragment::First { id: 7 }, 40_000, 20)));
    let later = |offset, more| Fragment::Later { id: 7, offset, more };
    assert_eq!(piece(more | 4, 4), Ok((later(32, true), 0, 0)));
    assert_eq!(piece(5, 3), Ok((later(40, false), 0, 0)));
    assert_eq!(piece(first, 5), Err(DropReason::FragmentRange), "not a multiple of 8");
    assert_eq!(piece(0x1fff, 4), Err(DropReason::FragmentRange), "beyond 65,535");
    assert_eq!(piece(more | 1, 4), Err(DropReason::FragmentTiny), "over the TCP header");
    assert_eq!(piece(2, 4), Err(DropReason::FragmentTiny), "over the TCP options");
    let tiny = changed(|b| {
        put16(b, 6, first);
        put16(b, 2, 36);
    });
    assert_eq!(parse(&tiny), Err(DropReason::FragmentTiny));
    let empty = changed(|b| {
        put16(b, 6, 9);
        put16(b, 2, 20);
    });
    assert_eq!(parse(&empty), Err(DropReason::FragmentTiny));
}

#[test]
fn each_ipv6_fault_has_its_reason() {
    use DropReason as D;
    let udp = v6(L4::Udp).build();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = udp.clone();
        change(&mut bytes);
        parse(&bytes).map(|h| h.protocol)
    };
    assert_eq!(parse(&udp[..39]), Err(D::Ipv6Truncated));
    assert_eq!(parse(&udp[..50]), Err(D::Ipv6PayloadLength));
    assert_eq!(with(&|b| put16(b, 4, 7)), Err(D::L4Truncated));
    assert_eq!(with(&|b| put16(b, 44, 7)), Err(D::L4Length));
    assert_eq!(with(&|b| put16(b, 44, 14)), Err(D::L4Length));
    assert_eq!(with(&|b| b[8] = 0xff), Err(D::SourceInvalid));
    assert_eq!(with(&|b| b[8..24].fill(0)), Err(D::SourceInvalid));
    assert_eq!(with(&|b| b[24..40].fill(0)), Err(D::DestinationInvalid));
    assert_eq!(with(&|b| b[24..26].copy_from_slice(&[0xff, 0x0e])), Err(D::DestinationInvalid));
    let mapped = |b: &mut Vec<u8>| {
        b[8..18].fill(0);
        b[18..20].fill(0xff);
    };
    assert_eq!(with(&mapped), Err(D::SourceInvalid));
    let solicit = |b: &mut Vec<u8>| {
        b[8..24].fill(0);
        b[24..26].copy_from_slice(&[0xff, 0x02]);
    };
    assert_eq!(with(&solicit), Ok(protocol::UDP), "an address being checked for duplicates");
}

#[test]
fn extension_headers_are_walked_within_a_bound() {
    let refused = Err(DropReason::Ipv6Extensions);
    let read = |first, chain: &[u8]| parse(&chained(first, chain)).map(|h| (h.protocol, h.l3_len));
    let option = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    assert_eq!(read(0, &option(17)), Ok((17, 48)), "hop by hop");
    assert_eq!(read(60, &option(17)), Ok((17, 48)), "destination options");
    assert_eq!(read(51, &[17, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2]), Ok((17, 52)), "authentication");
    assert_eq!(read(43, &option(17)), refused, "segments left");
    assert_eq!(read(43, &[17, 0, 4, 0, 0, 0, 0, 0]), Ok((17, 48)), "no segments left");
    assert_eq!(read(60, &[&option(0)[..], &option(17)].concat()), refused, "hop by hop later");
    assert_eq!(read(60, &[17, 200, 0, 0, 0, 0, 0, 0]), refused, "too long");
    assert_eq!(read(59, &[]), Ok((59, 40)), "no next header");
    let chain = |n: usize| [option(60).repeat(n - 1), option(17).to_vec()].concat();
    assert_eq!(read(60, &chain(EXTENSION_HEADERS)), Ok((17, 40 + 8 * EXTENSION_HEADERS as u16)));
    assert_eq!(read(60, &chain(EXTENSION_HEADERS + 1)), refused, "too many");
}

#[test]
fn ipv6_fragments_are_told_apart() {
    let piece = |next: u8, place: u16, rest: &[u8]| {
        let [high, low] = place.to_be_bytes();
        let head = [next, 0, high, low, 0, 0, 0, 9];
        let mut bytes = chained(44, &[&head[..], rest].concat());
        // "hello" and a UDP header make 13 bytes; 16 is a multiple of 8.
        bytes.extend([0; 3]);
        let len = bytes.len() as u16 - 40;
        put16(&mut bytes, 4, len);
        parse(&bytes).map(|h| (h.fragment, h.destination_port, h.l3_len))
    };
    assert_eq!(piece(17, 0, &[]), Ok((Fragment::None, 80, 48)), "atomic");
    assert_eq!(piece(17, 1, &[]), Ok((Fragment::First { id: 9 }, 80, 48)));
    let later = Fragment::Later { id: 9, offset: 64, more: true };
    assert_eq!(piece(17, 65, &[]), Ok((later, 0, 48)));
    assert_eq!(piece(6, 9, &[]), Err(DropReason::FragmentTiny), "over the TCP header");
    assert_eq!(piece(17, 0xfff8, &[]), Err(DropReason::FragmentRange));
    let again = [17, 0, 0, 0, 0, 0, 0, 9];
    assert_eq!(piece(44, 1, &again), Err(DropReason::Ipv6Extensions), "twice");
    assert_eq!(piece(60, 1, &[17, 9, 0, 0, 0, 0, 0, 0]), Err(DropReason::FragmentTiny));
    assert_eq!(piece(6, 1, &[]), Err(DropReason::FragmentTiny), "16 bytes of TCP");
}
