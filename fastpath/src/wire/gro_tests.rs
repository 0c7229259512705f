//! Does coalescing give back what was segmented, and leave alone what must not be merged?

use super::*;
use crate::outcome::DropReason;
use crate::wire::gso;
use crate::wire::samples::{L4, Recipe, plain, recipe, super_packet};
use proptest::prelude::*;

fn segments(packet: &Packet, headers: &Headers) -> Vec<Packet> {
    let mut all = Vec::new();
    let mut pool = Pool::new(packet.len() / usize::from(packet.offload().gso_size) + 1);
    gso::segment(packet, headers, usize::MAX, &mut pool, &mut |s| all.push(s)).expect("fits");
    all
}

/// A packet of a stream whose segments are 300 bytes long, number `n` of it.
fn part(n: u16, change: impl FnOnce(&mut Recipe)) -> Packet {
    let mut r = Recipe { payload: vec![n as u8; 300], dont_fragment: false, ..plain() };
    r.seq = r.seq.wrapping_add(u32::from(n) * 300);
    r.ident = r.ident.wrapping_add(n);
    change(&mut r);
    Packet::from_bytes(&r.build())
}

fn coalesced(packets: Vec<Packet>) -> Vec<Packet> {
    let before = packets.len();
    let mut pool = Pool::new(before);
    let held: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
    let mut batch: Batch = packets.into_iter().collect();
    let absorbed = coalesce(&mut batch, &mut pool, false);
    assert_eq!(batch.len() + absorbed, before);
    assert_eq!(pool.available(), absorbed, "their slots came back");
    drop(held);
    batch.into_iter().collect()
}

proptest! {
    #[test]
    fn what_was_segmented_comes_back(r in recipe(9_000), size in 256u16..1_600, padding in 0usize..20) {
        let l4 = if r.l4 == L4::Icmp { L4::Udp } else { r.l4 };
        let r = Recipe { l4, ip_options: 0, ..r };
        let (original, headers) = super_packet(&r, size);
        let mut pieces = segments(&original, &headers);
        let count = pieces.len();
        for piece in &mut pieces {
            piece.extend(&[0xaa; 20][..padding]);
        }
        let merged = coalesced(pieces);
        prop_assert_eq!(merged.len(), 1);
        if count > 1 {
            prop_assert_eq!(merged[0].bytes(), original.bytes());
            prop_assert_eq!(merged[0].offload(), original.offload());
        } else {
            prop_assert_eq!(*merged[0].offload(), Offload::default());
        }
    }

    #[test]
    fn interleaved_flows_come_back_each_as_a_whole(r in recipe(5_000), size in 300u16..1_600, flows in 2u16..5) {
        let l4 = if r.l4 == L4::Icmp { L4::Tcp } else { r.l4 };
        let mut originals = Vec::new();
        let mut queues = Vec::new();
        for flow in 0..flows {
            let payload = r.payload.iter().map(|b| b ^ flow as u8).collect();
            let ports = (r.ports.0.wrapping_add(flow), r.ports.1);
            let r = Recipe { l4, ip_options: 0, ports, payload, ..r.clone() };
            let (original, headers) = super_packet(&r, size);
            queues.push(segments(&original, &headers).into_iter());
            originals.push(original);
        }
        let mut mixed = Vec::new();
        while queues.iter().any(|q| q.len() > 0) {
            mixed.extend(queues.iter_mut().filter_map(Iterator::next));
        }
        prop_assume!(mixed.len() <= BATCH && mixed.len() > originals.len());
        let merged = coalesced(mixed);
        prop_assert_eq!(merged.len(), originals.len());
        for (merged, original) in merged.iter().zip(&originals) {
            prop_assert_eq!(merged.bytes(), original.bytes());
        }
    }

    #[test]
    fn no_flows_bytes_are_lost_added_or_reordered(
        choices in prop::collection::vec((0u16..3, 1usize..4, any::<bool>(), 0u8..20), 1..BATCH),
        tcp: bool,
    ) {
        let mut next = [0u32; 3];
        let mut expected: [Vec<u8>; 3] = Default::default();
        let mut packets = Vec::new();
        for (i, (flow, size, push, odd)) in choices.into_iter().enumerate() {
            let f = usize::from(flow);
            let payload = vec![i as u8; size * 100];
            let mut r = Recipe { l4: if tcp { L4::Tcp } else { L4::Udp }, ports: (1, flow), ..plain() };
            r.seq = next[f];
            next[f] += payload.len() as u32;
            r.flags |= if push { PSH } else { 0 };
            r.ttl = if odd == 0 { 9 } else { 64 };
            expected[f].extend(&payload);
            r.payload = payload;
            packets.push(Packet::from_bytes(&r.build()));
        }
        let mut seen: [Vec<u8>; 3] = Default::default();
        for mut packet in coalesced(packets) {
            let headers = parse(packet.bytes()).expect("valid");
            let whole = packet.offload().gso == Gso::None;
            let pieces = if whole {
                gso::finish_checksum(&mut packet).expect("in bounds");
                vec![packet]
            } else {
                segments(&packet, &headers)
            };
            for piece in pieces {
                let headers = parse(piece.bytes()).expect("valid");
                prop_assert!(checksum::verify(&headers, piece.bytes()));
                let flow = usize::from(headers.destination_port);
                seen[flow].extend(&piece.bytes()[headers.payload_offset()..]);
            }
        }
        prop_assert_eq!(seen, expected);
    }

    #[test]
    fn no_bytes_ever_panic(r in recipe(400), at: prop::sample::Index, value: u8, bytes: Vec<u8>) {
        let mut broken = r.build();
        let at = at.index(broken.len());
        broken[at] = value;
        let packets = [&r.build()[..], &broken, &bytes, &r.build()].map(Packet::from_bytes);
        coalesced(packets.into_iter().collect());
    }
}

#[test]
fn two_that_belong_together_are_merged() {
    let merged = coalesced(vec![part(0, |_| ()), part(1, |_| ()), part(2, |r| r.flags |= PSH)]);
    assert_eq!(merged.len(), 1);
    assert_eq!((merged[0].len(), merged[0].offload().gso_size), (40 + 900, 300));
    let headers = parse(merged[0].bytes()).expect("valid");
    assert_eq!(headers.tcp_flags, ACK | PSH);
}

#[test]
fn whatever_differs_keeps_them_apart() {
    type Change = fn(&mut Recipe);
    let tcp: [(&str, Change); 12] = [
        ("a gap", |r| r.seq += 1),
        ("seen before", |r| r.seq -= 300),
        ("another port", |r| r.ports.0 += 1),
        ("another address", |r| r.source += 1),
        ("another TTL", |r| r.ttl -= 1),
        ("a congestion mark", |r| r.tos = 3),
        ("a timestamp", |r| r.timestamp = Some(1)),
        ("a reset", |r| r.flags |= 4),
        ("a new congestion answer", |r| r.flags |= CWR),
        ("an identification that does not count on", |r| r.ident += 1),
        ("longer than the first", |r| r.payload.push(1)),
        ("IP options", |r| r.ip_options = 1),
    ];
    for (what, change) in tcp {
        assert_eq!(coalesced(vec![part(0, |_| ()), part(1, change)]).len(), 2, "{what}");
    }
    let pushed = |r: &mut Recipe| r.flags |= PSH;
    assert_eq!(coalesced(vec![part(0, pushed), part(1, |_| ())]).len(), 2, "after a push");
    let short = |r: &mut Recipe| r.payload.truncate(299);
    let after_short = |r: &mut Recipe| r.seq -= 1;
    assert_eq!(coalesced(vec![part(0, |_| ()), part(1, short), part(2, after_short)]).len(), 2);
    let fixed = |r: &mut Recipe| (r.dont_fragment, r.ident) = (true, 0);
    assert_eq!(coalesced(vec![part(0, fixed), part(1, fixed)]).len(), 1, "no one needs the id");
}

#[test]
fn a_wrong_checksum_is_never_hidden() {
    for broken in 0..2 {
        let mut packets = vec![part(0, |_| ()), part(1, |_| ()), part(2, |_| ())];
        packets[broken].bytes_mut()[50] ^= 1;
        let before = packets[broken].bytes().to_vec();
        let after = coalesced(packets);
        assert!(after.iter().any(|p| p.bytes() == before && p.offload().gso == Gso::None));
    }
}

#[test]
fn udp_of_one_size_is_merged_and_without_checksum_is_not() {
    let udp = |n: u16, len: usize| part(n, |r| (r.l4, r.payload) = (L4::Udp, vec![n as u8; len]));
    let merged = coalesced(vec![udp(0, 300), udp(1, 300), udp(2, 200), udp(3, 300)]);
    assert_eq!(merged.len(), 2);
    assert_eq!((merged[0].offload().gso, merged[0].len()), (Gso::Udp, 28 + 800));
    let mut bare = udp(1, 300);
    bare.bytes_mut()[26..28].fill(0);
    assert_eq!(coalesced(vec![udp(0, 300), bare]).len(), 2);
}

#[test]
fn nothing_overtakes_what_is_not_looked_into() {
    let udp = |n: u16| part(n, |r| r.l4 = L4::Udp);
    let mut piece = udp(1);
    piece.bytes_mut()[6] = 0x20;
    let (bytes, sum) = (piece.bytes_mut(), 0);
    put16(bytes, 10, sum);
    let sum = checksum::full(&bytes[..20]);
    put16(bytes, 10, sum);
    let after = coalesced(vec![udp(0), piece, udp(1)]);
    assert_eq!(after.len(), 3);
}

#[test]
fn partial_checksums_of_local_senders_count_as_right() {
    let mut packets = vec![part(0, |_| ()), part(1, |_| ())];
    for packet in &mut packets {
        let headers = parse(packet.bytes()).expect("valid");
        gso::make_partial(packet, &headers);
    }
    assert_eq!(coalesced(packets).len(), 1);
}

#[test]
fn partial_checksums_that_nothing_announced_are_believed_only_on_a_veth() {
    let unannounced = |n: u16| {
        let mut packet = part(n, |_| ());
        let headers = parse(packet.bytes()).expect("valid");
        gso::make_partial(&mut packet, &headers);
        *packet.offload_mut() = Offload::default();
        packet
    };
    let merged = |unfinished: bool| {
        let mut batch: Batch = (0..3).map(unannounced).collect();
        coalesce(&mut batch, &mut Pool::new(0), unfinished)
    };
    assert_eq!((merged(true), merged(false)), (2, 0));
    let mut broken: Batch = (0..3).map(unannounced).collect();
    broken[1].bytes_mut()[36] ^= 1;
    assert_eq!(coalesce(&mut broken, &mut Pool::new(0), true), 0);
}

#[test]
fn a_merged_packet_stays_within_the_longest() {
    let mut packets = Vec::new();
    for n in 0..50u16 {
        packets.push(part(n, |r| {
            r.payload = vec![1; 1_448];
            r.seq = u32::from(n) * 1_448;
        }));
    }
    let merged = coalesced(packets);
    assert_eq!(merged.len(), 2);
    assert!(merged[0].len() <= PACKET_MAX && merged[0].len() > PACKET_MAX - 1_448);
    let headers = parse(merged[0].bytes()).expect("valid");
    let cut = gso::segment(&merged[0], &headers, 1_500, &mut Pool::new(4), &mut |_| ());
    assert_eq!(cut, Err(DropReason::PoolEmpty));
}
