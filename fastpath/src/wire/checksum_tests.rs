//! Do full, incremental and partial checksums agree, and with another implementation's?

use super::*;
use crate::wire::headers::parse;
use crate::wire::samples::{L4, Recipe, assert_checksums, plain, recipe};
use proptest::prelude::*;

/// RFC 1071 §4.1 word for word: 16 bits at a time, fold at the end.
fn slow_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u64;
    for pair in bytes.chunks(2) {
        sum += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

proptest! {
    #[test]
    fn the_fast_sum_is_the_plain_one(bytes in prop::collection::vec(any::<u8>(), 0..700)) {
        prop_assert_eq!(sum(&bytes), slow_sum(&bytes));
    }

    #[test]
    fn long_runs_of_ones_do_not_overflow(len in 60_000usize..66_000) {
        let bytes = vec![0xff; len];
        prop_assert_eq!(sum(&bytes), slow_sum(&bytes));
    }

    #[test]
    fn a_changed_word_gives_the_full_checksum(
        mut bytes in prop::collection::vec(any::<u8>(), 2..120), at: prop::sample::Index, new: u16,
        extreme in prop::option::of(prop::sample::select(vec![0u16, 0xffff])),
    ) {
        let at = at.index(bytes.len() / 2) * 2;
        let new = extreme.unwrap_or(new);
        bytes[0] |= 1; // A sum of nothing but zeros has no place in a packet.
        let (before, old) = (full(&bytes), be16(&bytes, at));
        put16(&mut bytes, at, new);
        prop_assume!(bytes.iter().any(|b| *b != 0));
        prop_assert_eq!(update16(before, old, new), full(&bytes));
        prop_assert_eq!(change_sum(!before, old, new), sum(&bytes));
    }

    #[test]
    fn a_changed_long_word_gives_the_full_checksum(mut bytes: [u8; 20], new: u32) {
        bytes[0] |= 1;
        let before = full(&bytes);
        let old = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        bytes[4..8].copy_from_slice(&new.to_be_bytes());
        prop_assert_eq!(update32(before, old, new), full(&bytes));
    }

    #[test]
    fn finished_partial_checksums_are_what_another_implementation_computes(r in recipe(300)) {
        let original = r.build();
        let headers = parse(&original).expect("valid");
        let at = field(&headers, &original).expect("a checksum");
        let mut bytes = original.clone();
        put16(&mut bytes, at, pseudo(&headers, l4_total(&headers)));
        if r.l4 != L4::Icmp {
            prop_assert!(is_partial(&headers, &bytes));
        }
        let start = headers.l3_len;
        finish_partial(&mut bytes, start, at as u16 - start).expect("in bounds");
        if r.l4 == L4::Udp {
            prop_assert_eq!(&bytes, &original);
        }
        prop_assert!(verify(&headers, &bytes));
        // The two zeroes of ones' complement: etherparse knows one of them.
        if be16(&bytes, at) != 0xffff {
            prop_assert_eq!(&bytes, &original);
            assert_checksums(&bytes);
        }
    }

    #[test]
    fn one_wrong_bit_anywhere_under_the_checksum_is_seen(r in recipe(100), bit: prop::sample::Index) {
        let mut bytes = r.build();
        let headers = parse(&bytes).expect("valid");
        prop_assert!(verify(&headers, &bytes));
        let start = usize::from(headers.l3_len);
        let bit = start * 8 + bit.index((bytes.len() - start) * 8);
        let at = field(&headers, &bytes).expect("a checksum");
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assume!(!(r.l4 == L4::Udp && be16(&bytes, at) == 0));
        prop_assert!(!verify(&headers, &bytes));
    }

    #[test]
    fn pseudo_headers_are_summed_as_written(r in recipe(0), len: u32) {
        let r = Recipe { l4: if r.v6 { r.l4 } else { L4::Udp }, ..r };
        let bytes = r.build();
        let headers = parse(&bytes).expect("valid");
        let mut flat = Vec::new();
        flat.extend(if r.v6 { &bytes[8..40] } else { &bytes[12..20] });
        flat.extend([0, 0, 0, headers.protocol]);
        flat.extend(len.to_be_bytes());
        prop_assert_eq!(pseudo(&headers, len), slow_sum(&flat));
    }
}

#[test]
fn a_field_outside_the_packet_is_refused() {
    let mut bytes = [1; 40];
    assert_eq!(finish_partial(&mut bytes, 20, 18), Ok(()));
    assert_eq!(finish_partial(&mut bytes, 20, 19), Err(DropReason::OffloadBounds));
    assert_eq!(finish_partial(&mut bytes, 65_535, 65_535), Err(DropReason::OffloadBounds));
    assert_eq!(finish_partial(&mut [], 0, 0), Err(DropReason::OffloadBounds));
}

#[test]
fn udp_without_a_checksum_is_right_over_ipv4_only() {
    for v6 in [false, true] {
        let mut recipe = plain();
        (recipe.l4, recipe.v6) = (L4::Udp, v6);
        let mut bytes = recipe.build();
        let headers = parse(&bytes).expect("valid");
        let at = field(&headers, &bytes).expect("a checksum");
        put16(&mut bytes, at, 0);
        // RFC 8200 §8.1: over IPv6 it is never optional.
        assert_eq!(verify(&headers, &bytes), !v6);
    }
}

#[test]
fn a_udp_checksum_of_zero_is_sent_as_its_twin() {
    let mut recipe = plain();
    (recipe.l4, recipe.payload) = (L4::Udp, vec![0, 0]);
    let bytes = recipe.build();
    let headers = parse(&bytes).expect("valid");
    // Chosen so that everything else sums to 0xffff.
    let field_value = be16(&bytes, 26);
    recipe.payload = field_value.to_be_bytes().to_vec();
    let mut bytes = recipe.build();
    assert_eq!(be16(&bytes, 26), 0xffff, "etherparse does so as well");
    put16(&mut bytes, 26, pseudo(&headers, l4_total(&headers)));
    finish_partial(&mut bytes, 20, 6).expect("in bounds");
    assert_eq!(be16(&bytes, 26), 0xffff);
}
