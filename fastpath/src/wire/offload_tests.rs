//! Is every offload header that does not fit its packet refused for the right reason?

use super::*;
use crate::packet::Packet;
use crate::wire::headers::parse;
use crate::wire::samples::{L4, Recipe, plain, recipe};
use proptest::prelude::*;

/// What a device would say of this super-packet.
fn super_offload(r: &Recipe) -> Offload {
    let l3: u16 = if r.v6 { 40 } else { 20 + r.ip_options as u16 * 4 };
    let (gso, csum_offset, l4) = match (r.l4, r.v6) {
        (L4::Tcp, false) => (Gso::Tcp4, 16, 20),
        (L4::Tcp, true) => (Gso::Tcp6, 16, 20),
        _ => (Gso::Udp, 6, 8),
    };
    Offload {
        needs_checksum: true,
        gso,
        gso_size: 1400,
        header_len: l3 + l4,
        csum_start: l3,
        csum_offset,
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(r in recipe(40), size in 1u16.., plain: bool) {
        let mut offload = Offload { gso_size: size, ..super_offload(&r) };
        if plain {
            (offload.gso, offload.gso_size, offload.header_len) = (Gso::None, 0, 0);
        }
        prop_assert_eq!(decode(&encode(&offload), &r.build()), Ok(offload));
        prop_assert_eq!(decode(&encode(&Offload::default()), &[]), Ok(Offload::default()));
    }

    #[test]
    fn no_header_ever_panics_or_points_outside(header: [u8; 10], r in recipe(40), known: bool) {
        let mut header = header;
        if known {
            (header[0], header[1]) = (header[0] & 1, [0, 1, 4, 5, 0x81][usize::from(header[1] % 5)]);
            (header[3], header[7], header[9]) = (0, 0, 0);
        }
        let bytes = r.build();
        let Ok(offload) = decode(&header, &bytes) else { return Ok(()) };
        let headers = parse(&bytes).expect("valid");
        if validate(&offload, &headers, &bytes).is_ok() && offload.needs_checksum {
            let end = usize::from(offload.csum_start) + usize::from(offload.csum_offset) + 2;
            prop_assert!(end <= bytes.len() && offload.csum_start >= headers.l3_len);
            prop_assert!(offload.gso == Gso::None || offload.gso_size >= GSO_SIZE_MIN);
        }
    }

    #[test]
    fn honest_super_packets_pass(r in recipe(2000)) {
        let r = Recipe { l4: if r.l4 == L4::Icmp { L4::Udp } else { r.l4 }, ..r };
        let bytes = r.build();
        let headers = parse(&bytes).expect("valid");
        prop_assert_eq!(validate(&super_offload(&r), &headers, &bytes), Ok(()));
        prop_assert!(is_partial(&super_offload(&r), &headers));
    }
}

#[test]
fn each_contradiction_has_its_reason() {
    use DropReason as D;
    let r = Recipe { payload: vec![0; 3000], ..plain() };
    let bytes = r.build();
    let headers = parse(&bytes).expect("valid");
    let judge = |change: &dyn Fn(&mut Offload)| {
        let mut offload = super_offload(&r);
        change(&mut offload);
        validate(&offload, &headers, &bytes)
    };
    assert_eq!(judge(&|_| ()), Ok(()));
    assert_eq!(judge(&|o| o.gso_size = 255), Err(D::OffloadSegmentSize));
    assert_eq!(judge(&|o| o.gso_size = 0), Err(D::OffloadSegmentSize));
    assert_eq!(judge(&|o| o.gso_size = 256), Ok(()));
    assert_eq!(judge(&|o| o.gso = Gso::Tcp6), Err(D::OffloadKind));
    assert_eq!(judge(&|o| o.gso = Gso::Udp), Err(D::OffloadKind));
    assert_eq!(judge(&|o| o.needs_checksum = false), Err(D::OffloadKind));
    assert_eq!(judge(&|o| o.csum_offset = 6), Err(D::OffloadKind));
    assert_eq!(judge(&|o| o.csum_start = 12), Err(D::OffloadBounds), "in the IP header");
    assert_eq!(judge(&|o| o.csum_start = 30), Err(D::OffloadBounds), "in the TCP header");
    assert_eq!(judge(&|o| o.csum_start = 40), Err(D::OffloadKind), "TSO of something deeper");
    let deeper = |o: &mut Offload| (o.csum_start, o.gso) = (60, Gso::None);
    assert_eq!(judge(&deeper), Ok(()), "a tunnel of the pod's own");
    assert_eq!(judge(&|o| o.csum_start = 3030), Err(D::OffloadBounds), "past the end");
    let piece = Recipe { dont_fragment: false, payload: vec![0; 3004], ..plain() };
    let mut bytes = piece.build();
    bytes[6] = 0x20;
    bytes[10..12].fill(0);
    let sum = checksum::full(&bytes[..20]);
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    let headers = parse(&bytes).expect("valid");
    assert_eq!(validate(&super_offload(&piece), &headers, &bytes), Err(D::OffloadKind));
}

#[test]
fn unknown_kinds_and_far_offsets_are_refused_before_parsing() {
    let bytes = Recipe { payload: vec![0; 3000], ..plain() }.build();
    let with = |at: usize, value: u8| {
        let mut header = encode(&super_offload(&plain()));
        header[at] = value;
        decode(&header, &bytes)
    };
    assert!(with(1, 1 | GSO_ECN).is_ok_and(|o| o.gso == Gso::Tcp4));
    assert_eq!(with(1, 3), Err(DropReason::OffloadKind), "UFO");
    assert_eq!(with(1, 9), Err(DropReason::OffloadKind));
    assert_eq!(with(0, 0), Err(DropReason::OffloadKind), "segments without a checksum");
    assert_eq!(with(7, 0xff), Err(DropReason::OffloadBounds), "checksum start");
    assert_eq!(with(9, 0xff), Err(DropReason::OffloadBounds), "checksum offset");
    assert_eq!(with(3, 0xff), Err(DropReason::OffloadBounds), "header length");
    let mut header = encode(&super_offload(&plain()));
    header[4..6].fill(0);
    assert_eq!(decode(&header, &bytes), Err(DropReason::OffloadSegmentSize));
}

#[test]
fn the_kernels_own_header_of_a_udp_packet_is_understood() {
    // As a TUN device gives it for a local sender's UDP over IPv4.
    let header = [1, 0, 0, 0, 0, 0, 20, 0, 6, 0].map(|b: u8| b);
    let packet = Packet::from_bytes(&Recipe { l4: L4::Udp, ..plain() }.build());
    let offload = decode(&header, packet.bytes()).expect("valid");
    let headers = parse(packet.bytes()).expect("valid");
    if cfg!(target_endian = "little") {
        assert_eq!(validate(&offload, &headers, packet.bytes()), Ok(()));
        assert!(is_partial(&offload, &headers));
    }
}
