//! Is decapsulate after encapsulate the identity, and is the ECN table RFC 6040's?

use super::*;
use crate::packet::Offload;
use crate::wire::headers::parse;
use crate::wire::samples::{Recipe, plain, recipe};
use etherparse::{IpNumber, Ipv4HeaderSlice};
use proptest::prelude::*;

const HERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

proptest! {
    #[test]
    fn out_of_the_tunnel_comes_what_went_in(r in recipe(80), ident: u16) {
        let inner = Recipe { v6: false, ..r }.build();
        let mut packet = Packet::from_bytes(&inner);
        *packet.offload_mut() = Offload { needs_checksum: true, csum_start: 20, csum_offset: 6, ..Offload::default() };
        let offload = *packet.offload();
        encapsulate(&mut packet, HERE, THERE, ident).expect("headroom");
        prop_assert_eq!(packet.offload().csum_start, 40);
        decapsulate(&mut packet).expect("our own");
        prop_assert_eq!(packet.bytes(), &inner[..]);
        prop_assert_eq!(*packet.offload(), offload);
    }

    #[test]
    fn the_outer_header_reads_as_rfc_2003_says(r in recipe(80), ident: u16) {
        let r = Recipe { v6: false, ..r };
        let inner = r.build();
        let mut packet = Packet::from_bytes(&inner);
        encapsulate(&mut packet, HERE, THERE, ident).expect("headroom");
        let outer = Ipv4HeaderSlice::from_slice(packet.bytes()).expect("a header").to_header();
        prop_assert_eq!(outer.header_checksum, outer.calc_header_checksum());
        prop_assert_eq!((outer.source, outer.destination), (HERE.octets(), THERE.octets()));
        prop_assert_eq!(outer.protocol, IpNumber::IPV4);
        prop_assert_eq!((outer.time_to_live, outer.identification), (OUTER_TTL, ident));
        prop_assert_eq!(usize::from(outer.total_len), inner.len() + OVERHEAD);
        prop_assert_eq!(outer.dont_fragment, r.dont_fragment);
        prop_assert!(!outer.more_fragments && outer.fragment_offset.value() == 0);
        prop_assert_eq!(outer.dscp.value() << 2 | outer.ecn.value(), r.tos);
        let headers = parse(packet.bytes()).expect("valid");
        prop_assert_eq!((headers.protocol, headers.l3_len, headers.l4_len), (protocol::IPIP, 20, 0));
    }

    #[test]
    fn outer_headers_with_options_come_off_whole(words in 0usize..=10) {
        let inner = plain().build();
        let mut outer = Recipe { ip_options: words, payload: vec![], ..plain() }.build();
        outer.truncate(20 + words * 4);
        outer[9] = protocol::IPIP;
        let mut packet = Packet::from_bytes(&[&outer[..], &inner].concat());
        decapsulate(&mut packet).expect("valid");
        prop_assert_eq!(packet.bytes(), &inner[..]);
    }

    #[test]
    fn no_bytes_ever_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), offload: (u16, u16)) {
        let mut packet = Packet::from_bytes(&bytes);
        packet.offload_mut().csum_start = offload.0 % 1000;
        packet.offload_mut().needs_checksum = offload.1 & 1 == 1;
        let before = bytes.clone();
        if decapsulate(&mut packet).is_err() {
            prop_assert_eq!(packet.bytes(), &before[..]);
        }
        let _ = encapsulate(&mut packet, HERE, THERE, 0);
    }
}

/// RFC 6040 §4.2, figure 4, row by row: the arriving inner field, then what leaves for an
/// arriving outer field of Not-ECT, ECT(0), ECT(1), CE.
const FIGURE_4: [(u8, [Option<u8>; 4]); 4] = [
    (0b00, [Some(0b00), Some(0b00), Some(0b00), None]),
    (0b10, [Some(0b10), Some(0b10), Some(0b01), Some(0b11)]),
    (0b01, [Some(0b01), Some(0b01), Some(0b01), Some(0b11)]),
    (0b11, [Some(0b11), Some(0b11), Some(0b11), Some(0b11)]),
];

#[test]
fn congestion_marks_leave_the_tunnel_as_rfc_6040_says() {
    for (inner, row) in FIGURE_4 {
        for (outer, expected) in [0b00, 0b10, 0b01, 0b11].into_iter().zip(row) {
            let recipe = Recipe { tos: 0b1011_1000 | inner, ..plain() };
            let mut packet = Packet::from_bytes(&recipe.build());
            encapsulate(&mut packet, HERE, THERE, 1).expect("headroom");
            set_tos(packet.bytes_mut(), outer);
            let before = packet.bytes().to_vec();
            let result = decapsulate(&mut packet);
            if let Some(ecn) = expected {
                assert_eq!(result, Ok(()), "inner {inner:02b} outer {outer:02b}");
                let leaves = Recipe { tos: 0b1011_1000 | ecn, ..plain() };
                assert_eq!(packet.bytes(), leaves.build(), "inner {inner:02b} outer {outer:02b}");
            } else {
                assert_eq!(result, Err(DropReason::TunnelEcn));
                assert_eq!(packet.bytes(), before);
            }
        }
    }
}

#[test]
fn what_does_not_belong_into_a_tunnel_is_named() {
    let v6 = Recipe { v6: true, ..plain() }.build();
    let mut packet = Packet::from_bytes(&v6);
    assert_eq!(encapsulate(&mut packet, HERE, THERE, 0), Err(DropReason::TunnelInner));
    let mut long = plain();
    long.payload = vec![0; 65_535 - 40];
    let mut packet = Packet::from_bytes(&long.build());
    assert_eq!(encapsulate(&mut packet, HERE, THERE, 0), Err(DropReason::MtuExceeded));
    packet.offload_mut().gso = Gso::Tcp4;
    assert_eq!(encapsulate(&mut packet, HERE, THERE, 0), Ok(()), "it will be cut");
    let mut full = Packet::from_bytes(&plain().build());
    let room = full.headroom() - 19;
    full.push_front(room).expect("headroom")[0] = 0x45;
    assert_eq!(encapsulate(&mut full, HERE, THERE, 0), Err(DropReason::NoHeadroom));
}

#[test]
fn what_does_not_belong_out_of_a_tunnel_is_named() {
    let tunnelled = |change: &dyn Fn(&mut [u8])| {
        let mut packet = Packet::from_bytes(&plain().build());
        encapsulate(&mut packet, HERE, THERE, 0).expect("headroom");
        change(packet.bytes_mut());
        decapsulate(&mut packet)
    };
    assert_eq!(tunnelled(&|b| b[20] = 0x65), Err(DropReason::TunnelInner));
    assert_eq!(tunnelled(&|b| b[20] = 0x44), Err(DropReason::TunnelInner));
    assert_eq!(tunnelled(&|b| b[6] = 0x20), Err(DropReason::TunnelFragment));
    assert_eq!(tunnelled(&|b| b[7] = 1), Err(DropReason::TunnelFragment));
    let mut packet = Packet::from_bytes(&plain().build());
    encapsulate(&mut packet, HERE, THERE, 0).expect("headroom");
    packet.offload_mut().needs_checksum = true;
    assert_eq!(decapsulate(&mut packet), Err(DropReason::OffloadBounds));
    let mut cut = Packet::from_bytes(&packet.bytes()[..39]);
    assert_eq!(decapsulate(&mut cut), Err(DropReason::TunnelInner));
}
