//! Do the fragments, put together by their headers, give the original back?

use super::*;
use crate::packet::Offload;
use crate::wire::checksum::finish_partial;
use crate::wire::headers::{Fragment, parse};
use crate::wire::ipip;
use crate::wire::samples::{L4, Recipe, plain, recipe, super_packet};
use etherparse::Ipv4HeaderSlice;
use proptest::prelude::*;

fn cut(packet: &Packet, mtu: usize) -> Result<Vec<Packet>, DropReason> {
    let slots = packet.len() / mtu.saturating_sub(67).max(20) + 1;
    let mut pool = Pool::new(slots);
    let mut pieces = Vec::new();
    let count = fragment(packet, mtu, &mut pool, &mut |p| pieces.push(p))?;
    assert_eq!((count, pool.available()), (pieces.len(), slots - pieces.len()));
    Ok(pieces)
}

/// Puts the payload together as RFC 791 §3.2 says, whatever order the pieces come in; also says
/// whether more is to follow.
fn reassemble(pieces: &[Packet]) -> (Vec<u8>, bool) {
    let mut payload = Vec::new();
    let mut open = true;
    for piece in pieces.iter().rev() {
        let header = Ipv4HeaderSlice::from_slice(piece.bytes()).expect("a header").to_header();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        assert_eq!(usize::from(header.total_len), piece.len());
        let at = usize::from(header.fragment_offset.value()) * 8;
        let part = &piece.bytes()[header.header_len()..];
        if payload.len() < at + part.len() {
            payload.resize(at + part.len(), 0xee);
        }
        payload[at..at + part.len()].copy_from_slice(part);
        open &= header.more_fragments;
        assert!(!header.more_fragments || part.len() % 8 == 0);
    }
    (payload, open)
}

fn may_be_cut(r: Recipe) -> Recipe {
    Recipe { v6: false, dont_fragment: false, ..r }
}

proptest! {
    #[test]
    fn fragments_reassemble_to_the_original(r in recipe(4_000), mtu in 100usize..1_600) {
        let r = may_be_cut(r);
        let bytes = r.build();
        let pieces = cut(&Packet::from_bytes(&bytes), mtu).expect("may be cut");
        let (payload, open) = reassemble(&pieces);
        prop_assert_eq!(&payload, &bytes[20 + r.ip_options * 4..]);
        prop_assert!(!open);
        prop_assert!(pieces.iter().all(|p| p.len() <= mtu));
        prop_assert_eq!(pieces.len() == 1, bytes.len() <= mtu);
        let mut end = 0;
        for piece in &pieces {
            let h = parse(piece.bytes()).expect("valid");
            prop_assert_eq!((h.tos, h.ttl, h.protocol), (r.tos, r.ttl, pieces_protocol(&r)));
            match h.fragment {
                Fragment::None => prop_assert_eq!(pieces.len(), 1),
                Fragment::First { id } => prop_assert_eq!((id, end), (r.ident.into(), 0)),
                Fragment::Later { id, offset, .. } => {
                    prop_assert_eq!((id, usize::from(offset)), (r.ident.into(), end));
                }
            }
            end += piece.len() - usize::from(h.l3_len);
        }
    }

    #[test]
    fn a_fragment_of_a_fragment_still_fits(r in recipe(4_000), first in 500usize..1_600, second in 100usize..500) {
        let bytes = may_be_cut(r.clone()).build();
        let mut pieces = Vec::new();
        for piece in cut(&Packet::from_bytes(&bytes), first).expect("may be cut") {
            pieces.extend(cut(&piece, second).expect("may be cut"));
        }
        let (payload, open) = reassemble(&pieces);
        prop_assert_eq!(&payload, &bytes[20 + r.ip_options * 4..]);
        prop_assert!(!open);
    }

    #[test]
    fn a_checksum_left_open_is_finished(r in recipe(3_000), mtu in 100usize..900, tunnelled: bool) {
        let l4 = if r.l4 == L4::Icmp { L4::Tcp } else { r.l4 };
        let (mut packet, headers) = super_packet(&may_be_cut(Recipe { l4, ..r }), 300);
        let Offload { csum_start, csum_offset, .. } = *packet.offload();
        *packet.offload_mut() = Offload { needs_checksum: true, csum_start, csum_offset, ..Offload::default() };
        let mut finished = packet.bytes().to_vec();
        finish_partial(&mut finished, csum_start, csum_offset).expect("in bounds");
        let mut skip = usize::from(headers.l3_len);
        if tunnelled {
            let (here, there) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
            ipip::encapsulate(&mut packet, here, there, 5).expect("headroom");
            skip = 0;
        }
        let pieces = cut(&packet, mtu).expect("may be cut");
        prop_assert!(pieces.iter().all(|p| !p.offload().needs_checksum));
        prop_assert_eq!(&reassemble(&pieces).0, &finished[skip..]);
    }

    #[test]
    fn no_bytes_ever_panic(bytes: Vec<u8>, mtu in 0usize..200, start: u16, offset: u16, fix: bool) {
        let mut packet = Packet::from_bytes(&bytes);
        if fix && bytes.len() > 20 {
            packet.bytes_mut()[0] = 0x45 + bytes[0] % 11;
            packet.bytes_mut()[6] &= 0x3f;
        }
        packet.offload_mut().needs_checksum = start & 1 == 1;
        packet.offload_mut().csum_start = start % 128;
        packet.offload_mut().csum_offset = offset % 128;
        let _ = cut(&packet, mtu);
    }
}

fn pieces_protocol(r: &Recipe) -> u8 {
    match r.l4 {
        L4::Tcp => 6,
        L4::Udp => 17,
        L4::Icmp => 1,
    }
}

#[test]
fn only_options_that_ask_for_it_are_copied() {
    let mut bytes = may_be_cut(Recipe { ip_options: 3, payload: vec![1; 200], ..plain() }).build();
    // Record route (not copied), a security option (copied), end.
    bytes[20..32].copy_from_slice(&[7, 3, 4, 130, 5, 1, 2, 3, 1, 1, 0, 0]);
    bytes[10..12].fill(0);
    let sum = checksum::full(&bytes[..32]);
    put16(&mut bytes, 10, sum);
    let pieces = cut(&Packet::from_bytes(&bytes), 120).expect("may be cut");
    assert_eq!(pieces[0].bytes()[20..32], bytes[20..32]);
    for piece in &pieces[1..] {
        assert_eq!(piece.bytes()[0], 0x47);
        assert_eq!(piece.bytes()[20..28], [130, 5, 1, 2, 3, 0, 0, 0]);
    }
    assert_eq!(reassemble(&pieces).0, &bytes[32..]);
}

#[test]
fn what_must_not_be_cut_is_named() {
    let big = Recipe { payload: vec![0; 500], ..plain() };
    let refused = |r: &Recipe, mtu| cut(&Packet::from_bytes(&r.build()), mtu).expect_err("refused");
    assert_eq!(refused(&big, 200), DropReason::MtuExceeded);
    assert_eq!(refused(&Recipe { v6: true, ..big.clone() }, 200), DropReason::Ipv4Version);
    assert_eq!(refused(&may_be_cut(big.clone()), 27), DropReason::MtuExceeded);
    let (packet, _) = super_packet(&may_be_cut(big.clone()), 300);
    assert_eq!(cut(&packet, 200).expect_err("refused"), DropReason::OffloadKind);
    let packet = Packet::from_bytes(&may_be_cut(big).build());
    let mut pool = Pool::new(2);
    let result = fragment(&packet, 200, &mut pool, &mut |_| panic!("none"));
    assert_eq!((result, pool.available()), (Err(DropReason::PoolEmpty), 2));
}
