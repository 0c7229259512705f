//! Is every segment a right packet for another dissector, and are they together the original?

use super::*;
use crate::wire::checksum::finish_partial;
use crate::wire::headers::parse;
use crate::wire::samples::{L4, Recipe, assert_checksums, plain, recipe, super_packet};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use std::net::Ipv4Addr;

const HERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

fn cut(
    packet: &Packet,
    headers: &Headers,
    mtu: usize,
    checksums: Checksums,
) -> Result<Vec<Packet>, DropReason> {
    let slots = packet.len() / usize::from(packet.offload().gso_size.max(100)) + 1;
    let slots = if mtu < 2_000 { slots + packet.len() / 100 } else { slots };
    let mut pool = Pool::new(slots.min(64));
    let slots = pool.available();
    let mut segments = Vec::new();
    let count =
        segment_with(packet, headers, mtu, checksums, &mut pool, &mut |s| segments.push(s))?;
    assert_eq!((count, pool.available()), (segments.len(), slots - segments.len()));
    Ok(segments)
}

/// One segment as etherparse reads it: (identification, TCP sequence and flags, payload).
fn dissect(ip: &[u8]) -> (Option<u16>, Option<(u32, u8)>, Vec<u8>) {
    assert_checksums(ip);
    let sliced = SlicedPacket::from_ip(ip).expect("a packet");
    let ident = match sliced.net.expect("an IP header") {
        NetSlice::Ipv4(v4) => {
            assert_eq!(usize::from(v4.header().total_len()), ip.len());
            Some(v4.header().identification())
        }
        NetSlice::Ipv6(v6) => {
            assert_eq!(usize::from(v6.header().payload_length()) + 40, ip.len());
            None
        }
        NetSlice::Arp(_) => panic!("ARP is not IP"),
    };
    match sliced.transport.expect("a transport header") {
        TransportSlice::Tcp(tcp) => {
            let flags = tcp.header_slice()[13];
            (ident, Some((tcp.sequence_number(), flags)), tcp.payload().to_vec())
        }
        TransportSlice::Udp(udp) => {
            assert_eq!(usize::from(udp.length()), udp.payload().len() + 8);
            (ident, None, udp.payload().to_vec())
        }
        other => panic!("{other:?}"),
    }
}

/// Checks the segments (IP packets) against the recipe they come from; `size` is their payload's.
fn check(r: &Recipe, size: usize, segments: &[Vec<u8>]) {
    let mut payload = Vec::new();
    for (i, bytes) in segments.iter().enumerate() {
        let last = i + 1 == segments.len();
        let (ident, tcp, piece) = dissect(bytes);
        if let Some(ident) = ident {
            assert_eq!(ident, r.ident.wrapping_add(i as u16));
        }
        if let Some((seq, flags)) = tcp {
            assert_eq!(seq, r.seq.wrapping_add(payload.len() as u32));
            let mut expected = r.flags;
            if !last {
                expected &= !(FIN | PSH);
            }
            if i > 0 {
                expected &= !CWR;
            }
            assert_eq!(flags, expected, "segment {i} of {}", segments.len());
        }
        assert!(piece.len() == size || (last && piece.len() < size));
        let h = parse(bytes).expect("valid");
        assert_eq!(
            (h.tos, h.ttl, h.source_port, h.destination_port),
            (r.tos, r.ttl, r.ports.0, r.ports.1)
        );
        payload.extend(piece);
    }
    assert_eq!(payload, r.payload);
}

fn stream(r: Recipe) -> Recipe {
    Recipe { l4: if r.l4 == L4::Icmp { L4::Udp } else { r.l4 }, ..r }
}

proptest! {
    #[test]
    fn segments_are_right_packets_and_together_the_original(r in recipe(9_000), size in 256u16..2_000) {
        let r = stream(r);
        let (packet, headers) = super_packet(&r, size);
        let segments = cut(&packet, &headers, usize::MAX, Checksums::Finish).expect("fits");
        let largest = segments.iter().map(Packet::len).max();
        prop_assert_eq!(largest, Some(max_segment_len(&packet, &headers)));
        prop_assert!(segments.iter().all(|s| *s.offload() == Offload::default()));
        let bytes: Vec<_> = segments.iter().map(|s| s.bytes().to_vec()).collect();
        check(&r, size.into(), &bytes);
    }

    #[test]
    fn tunnelled_and_framed_super_packets_are_cut_alike(
        r in recipe(6_000), size in 256u16..2_000, framed: bool, tunnelled: bool,
    ) {
        let r = stream(Recipe { v6: r.v6 && !tunnelled, ..r });
        let (mut packet, headers) = super_packet(&r, size);
        if tunnelled {
            ipip::encapsulate(&mut packet, HERE, THERE, 0xffff).expect("headroom");
        }
        if framed {
            ether::push(&mut packet, [1; 6], [2; 6], ether::IPV4).expect("headroom");
        }
        let segments = cut(&packet, &headers, usize::MAX, Checksums::Finish).expect("fits");
        let front = packet.len() - headers.total_len as usize;
        let largest = segments.iter().map(Packet::len).max().expect("one");
        prop_assert_eq!(largest, max_segment_len(&packet, &headers) + if framed { 14 } else { 0 });
        for (i, segment) in segments.iter().enumerate() {
            let mut bytes = segment.bytes();
            if framed {
                prop_assert_eq!(&bytes[..14], &packet.bytes()[..14]);
                bytes = &bytes[14..];
            }
            if tunnelled {
                let outer = parse(bytes).expect("valid");
                prop_assert_eq!(outer.total_len as usize, bytes.len());
                prop_assert_eq!(be16(bytes, 4), 0xffffu16.wrapping_add(i as u16));
                prop_assert_eq!(outer.protocol, protocol::IPIP);
            }
        }
        let bytes: Vec<_> = segments.iter().map(|s| s.bytes()[front..].to_vec()).collect();
        check(&r, size.into(), &bytes);
    }

    #[test]
    fn checksums_left_partial_can_be_finished(r in recipe(4_000), size in 256u16..2_000) {
        let r = stream(r);
        let (packet, headers) = super_packet(&r, size);
        let finished = cut(&packet, &headers, usize::MAX, Checksums::Finish).expect("fits");
        let mut partial = cut(&packet, &headers, usize::MAX, Checksums::LeavePartial).expect("fits");
        for (left, right) in partial.iter_mut().zip(&finished) {
            let h = parse(left.bytes()).expect("valid");
            prop_assert!(checksum::is_partial(&h, left.bytes()));
            finish_checksum(left).expect("in bounds");
            prop_assert_eq!(*left.offload(), Offload::default());
            let at = checksum::field(&h, left.bytes()).expect("a checksum");
            // TCP's twin zeroes differ between the two ways.
            if be16(left.bytes(), at) != 0xffff {
                prop_assert_eq!(left.bytes(), right.bytes());
            }
        }
    }

    #[test]
    fn a_smaller_mtu_cuts_only_what_may_be_cut(r in recipe(5_000), mtu in 200usize..3_000) {
        let r = stream(r);
        let (packet, headers) = super_packet(&r, 1_448);
        let room = mtu.saturating_sub(headers.payload_offset());
        let fits = r.payload.len().min(1_448) <= room;
        let may_cut = r.l4 == L4::Tcp && !r.v6 && !r.dont_fragment;
        let result = cut(&packet, &headers, mtu, Checksums::Finish);
        if fits || may_cut {
            let segments = result.expect("fits");
            prop_assert!(segments.iter().all(|s| s.len() <= mtu));
            let bytes: Vec<_> = segments.iter().map(|s| s.bytes().to_vec()).collect();
            check(&r, room.min(1_448), &bytes);
        } else {
            prop_assert_eq!(result.expect_err("too long"), DropReason::MtuExceeded);
        }
    }

    #[test]
    fn no_offload_header_ever_panics(r in recipe(600), start: u16, size: u16, kind in 0u8..4, len: u16) {
        let bytes = r.build();
        let headers = parse(&bytes).expect("valid");
        let mut packet = Packet::from_bytes(&bytes);
        let gso = [Gso::None, Gso::Tcp4, Gso::Tcp6, Gso::Udp][usize::from(kind)];
        *packet.offload_mut() = Offload {
            needs_checksum: true,
            gso,
            gso_size: size % 700,
            header_len: len,
            csum_start: if len & 1 == 0 { start % 100 } else { start },
            csum_offset: len,
        };
        let _ = cut(&packet, &headers, usize::from(size), Checksums::Finish);
        let _ = max_segment_len(&packet, &headers);
        let _ = finish_checksum(&mut packet);
    }

    #[test]
    fn a_checksum_known_to_be_right_can_be_left_open(r in recipe(100)) {
        let bytes = r.build();
        let headers = parse(&bytes).expect("valid");
        let mut packet = Packet::from_bytes(&bytes);
        make_partial(&mut packet, &headers);
        prop_assert_eq!(packet.offload().needs_checksum, r.l4 != L4::Icmp);
        if r.l4 != L4::Icmp {
            prop_assert!(checksum::is_partial(&headers, packet.bytes()));
            let offload = *packet.offload();
            make_partial(&mut packet, &headers);
            prop_assert_eq!(*packet.offload(), offload);
            let mut again = packet.bytes().to_vec();
            finish_partial(&mut again, offload.csum_start, offload.csum_offset).expect("in bounds");
            prop_assert!(checksum::verify(&headers, &again));
        }
    }
}

#[test]
fn an_address_translated_after_the_parse_counts() {
    use crate::wire::rewrite::{Side, set_address};
    let r = Recipe { payload: vec![3; 3_000], ..plain() };
    let (mut packet, headers) = super_packet(&r, 1_000);
    let mut moving = headers;
    let new = Ipv4Addr::new(10, 9, 8, 7).into();
    set_address(packet.bytes_mut(), &mut moving, Side::Destination, new, true);
    for segment in cut(&packet, &headers, usize::MAX, Checksums::Finish).expect("fits") {
        assert_checksums(segment.bytes());
    }
}

#[test]
fn without_slots_for_all_none_is_handed_out() {
    let (packet, headers) = super_packet(&Recipe { payload: vec![0; 1_000], ..plain() }, 300);
    let mut pool = Pool::new(3);
    let result = segment(&packet, &headers, 1_500, &mut pool, &mut |_| panic!("none"));
    assert_eq!((result, pool.available()), (Err(DropReason::PoolEmpty), 3));
}

#[test]
fn kinds_that_contradict_the_headers_are_refused() {
    let (mut packet, headers) = super_packet(&Recipe { payload: vec![0; 1_000], ..plain() }, 300);
    for kind in [Gso::None, Gso::Tcp6, Gso::Udp] {
        packet.offload_mut().gso = kind;
        let result = cut(&packet, &headers, 1_500, Checksums::Finish);
        assert_eq!(result.expect_err("refused"), DropReason::OffloadKind);
    }
}
