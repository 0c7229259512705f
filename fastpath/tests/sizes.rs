//! What becomes of packets that do not fit? MTU, fragments, super-packets, partial checksums.

#[expect(dead_code, reason = "other test binaries use the rest")]
mod lab;

use fastpath::acl::Verdict;
use fastpath::io::Abilities;
use fastpath::outcome::{DropReason, Outcome, PuntReason};
use fastpath::packet::{Gso, Offload};
use fastpath::tables::{EndpointId, Guard};
use fastpath::wire::{checksum, fragment, headers};
use lab::*;
use std::time::Duration;

fn tcp_offload(gso_size: u16) -> Offload {
    let gso = if gso_size == 0 { Gso::None } else { Gso::Tcp4 };
    let header_len = if gso_size == 0 { 0 } else { 40 };
    Offload { needs_checksum: true, gso, gso_size, header_len, csum_start: 20, csum_offset: 16 }
}

/// Leaves the transport checksum to the device.
fn partial(mut packet: Vec<u8>) -> Vec<u8> {
    let h = headers::parse(&packet).expect("valid");
    let at = checksum::field(&h, &packet).expect("has one");
    let sum = checksum::pseudo(&h, checksum::l4_total(&h));
    packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    packet
}

fn assert_right(ip: &[u8]) {
    let h = headers::parse(ip).expect("a right header");
    assert!(checksum::verify(&h, ip), "transport checksum");
}

fn pieces(packet: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    let mut pool = fastpath::packet::Pool::new(64);
    let packet = fastpath::packet::Packet::from_bytes(packet);
    fragment::fragment(&packet, mtu, &mut pool, &mut |p| out.push(p.bytes().to_vec()))
        .expect("may be cut");
    out
}

/// UDP that may be fragmented.
fn large_udp(to: [u8; 4], len: usize) -> Vec<u8> {
    edit(udp_with(A, to, (1000, 53), &vec![7; len]), |p| {
        p[4..6].copy_from_slice(&[1, 2]);
        p[6] = 0;
    })
}

#[test]
fn what_may_not_be_cut_goes_up_with_the_mtu() {
    for (to, mtu) in [(NEAR, 1500), (FAR, 1480), (B, 1500)] {
        let mut world = World::new();
        let fits = tcp_with(A, to, (1, 80), ACK, 1, &vec![0; mtu - 40]);
        assert_eq!(world.send(POD_A, &fits).outcome(), Outcome::Forwarded, "to {to:?}");
        let packet = tcp_with(A, to, (1, 80), ACK, 1, &vec![0; mtu - 39]);
        let happened = world.send(POD_A, &packet);
        assert_eq!(happened.outcome(), Outcome::Punted(PuntReason::FragmentationNeeded));
        assert_eq!((happened.punts[0].mtu, &happened.punts[0].bytes), (mtu as u16, &packet));
        // Segments of a super-packet are what counts, not its own length.
        let mss = mtu as u16 - 40;
        let big = partial(tcp_with(A, to, (1, 80), ACK, 1, &vec![0; 5000]));
        let whole = world.send_all(POD_A, &[(big.clone(), tcp_offload(mss))]);
        assert!(whole.counters.forwarded >= 1);
        let happened = world.send_all(POD_A, &[(big.clone(), tcp_offload(mss + 1))]);
        assert_eq!(happened.outcome(), Outcome::Punted(PuntReason::FragmentationNeeded));
        assert_eq!(happened.punts[0].bytes, big);
    }
    let mut world = World::new();
    world.publish(|tables| {
        let mut ports = tables.ports.to_vec();
        ports[usize::from(POD_B.0)].mtu = 50;
        tables.ports = ports.into();
    });
    let v6 = world.send(POD_A, &udp6(A6, B6, (1, 2)));
    assert_eq!(v6.outcome(), Outcome::Punted(PuntReason::FragmentationNeeded));
    let error = edit(icmp_error(A, B, &udp(B, A, (1, 2))), |p| p[6] = 0x40);
    let outcome = world.send(POD_A, &error).outcome();
    assert_eq!(outcome, Outcome::Dropped(DropReason::MtuExceeded), "no error about an error");
}

#[test]
fn ipv4_that_may_be_cut_is_fragmented_also_for_the_tunnel() {
    for (to, header) in [(NEAR, 14), (FAR, 34)] {
        let mut world = World::new();
        let packet = large_udp(to, 3000);
        let happened = world.send(POD_A, &packet);
        assert_eq!((happened.counters.forwarded, happened.counters.split), (3, 2));
        let mut payload = Vec::new();
        for (port, frame, _) in &happened.out {
            assert!(*port == UPLINK && frame.len() <= 1514);
            let piece = headers::parse(&frame[header..]).expect("valid");
            payload.extend_from_slice(&frame[header + 20..][..piece.total_len as usize - 20]);
        }
        assert_eq!(payload, packet[20..], "to {to:?}");
    }
}

#[test]
fn super_packets_are_cut_where_they_leave_the_node() {
    for (to, header, mss) in [(NEAR, 14, 1460), (FAR, 34, 1440), (C, 14, 1460)] {
        let mut world = World::new();
        let payload: Vec<u8> = (0..10_000u32).map(|n| n as u8).collect();
        let packet = partial(tcp_with(A, to, (1, 80), ACK, 1000, &payload));
        let happened = world.send_all(POD_A, &[(packet, tcp_offload(mss))]);
        let mut seen = Vec::new();
        for (_, frame, offload) in &happened.out {
            assert_eq!(*offload, Offload::default());
            let ip = &frame[header..];
            assert_right(ip);
            assert_eq!(ttl(ip), 63);
            seen.extend_from_slice(&ip[40..]);
        }
        assert_eq!(seen, payload);
        let count = 10_000usize.div_ceil(usize::from(mss)) as u64;
        assert_eq!((happened.counters.forwarded, happened.counters.split), (count, count - 1));
    }
}

#[test]
fn super_packets_leave_the_node_whole_where_the_device_takes_them() {
    let mut world = World::new();
    let able = Abilities {
        checksum: false,
        tcp_segmentation: true,
        udp_segmentation: false,
        tunnel_segmentation: true,
    };
    let packet = |to| partial(tcp_with(A, to, (1, 80), ACK, 1000, &[7; 10_000]));
    for (abilities, to, header, whole) in [
        (able, NEAR, 14, true),
        (able, FAR, 34, true),
        (Abilities { tunnel_segmentation: false, ..able }, NEAR, 14, true),
        (Abilities { tunnel_segmentation: false, ..able }, FAR, 34, false),
    ] {
        world.refit(UPLINK, abilities);
        let happened = world.send_all(POD_A, &[(packet(to), tcp_offload(1_400))]);
        if !whole {
            assert_eq!((happened.counters.forwarded, happened.counters.split), (8, 7));
            continue;
        }
        let (_, frame, offload) = happened.only();
        let front = header as u16;
        let moved =
            Offload { header_len: 40 + front, csum_start: 20 + front, ..tcp_offload(1_400) };
        assert_eq!((*offload, happened.counters.split), (moved, 0), "to {to:?}");
        assert_eq!((frame.len(), ttl(&frame[header..])), (header + 10_040, 63));
    }
    // What is no super-packet has its checksum as before.
    let single = partial(tcp_with(A, NEAR, (1, 80), ACK, 1, b"data"));
    let happened = world.send_all(POD_A, &[(single, tcp_offload(0))]);
    assert_right(&happened.only().1[14..]);
    assert_eq!(*happened.only().2, Offload::default());
}

#[test]
fn large_datagrams_of_a_udp_super_packet_are_cut_twice() {
    let mut world = World::new();
    let packet = partial(large_udp(NEAR, 6000));
    let offload = Offload {
        needs_checksum: true,
        gso: Gso::Udp,
        gso_size: 3000,
        header_len: 28,
        csum_start: 20,
        csum_offset: 6,
    };
    let happened = world.send_all(POD_A, &[(packet, offload)]);
    assert_eq!((happened.counters.forwarded, happened.counters.split), (6, 5));
    assert!(happened.out.iter().all(|(_, frame, _)| frame.len() <= 1514));
}

#[test]
fn segments_from_the_wire_become_a_super_packet_for_a_pod() {
    let mut world = World::new();
    let frames: Vec<_> = (0..10u32)
        .map(|n| tcp_with(FAR, A, (80, 1), ACK, 1000 + 1000 * n, &[n as u8; 1000]))
        .map(|ip| (wired(&ipip(FAR_NODE, NODE, &ip)), Offload::default()))
        .collect();
    let happened = world.send_all(UPLINK, &frames);
    let (port, bytes, offload) = happened.only();
    assert_eq!((port, bytes.len(), happened.counters.merged), (POD_A, 40 + 10_000, 9));
    assert_eq!((offload.gso, offload.gso_size, offload.needs_checksum), (Gso::Tcp4, 1000, true));
    // What cannot take it gets what came.
    let to_c: Vec<_> = (0..10u32)
        .map(|n| tcp_with(FAR, C, (80, 1), ACK, 1000 + 1000 * n, &[n as u8; 1000]))
        .map(|ip| (wired(&ipip(FAR_NODE, NODE, &ip)), Offload::default()))
        .collect();
    let happened = world.send_all(UPLINK, &to_c);
    assert_eq!((happened.counters.merged, happened.counters.split), (9, 9));
    for (n, (port, frame, _)) in happened.out.iter().enumerate() {
        assert_right(&frame[14..]);
        assert_eq!((*port, frame[14 + 40]), (POD_C, n as u8));
    }
}

#[test]
fn the_smallest_datagrams_from_the_wire_come_through() {
    let mut world = World::new();
    let frames: Vec<_> = (0..8u8)
        .map(|n| wired(&udp_with(NEAR, A, (7, 8), &[n])))
        .map(|frame| (frame, Offload::default()))
        .collect();
    let happened = world.send_all(UPLINK, &frames);
    let payload: usize = happened.out.iter().map(|(_, bytes, _)| bytes.len() - 28).sum();
    assert_eq!((payload, happened.counters.dropped()), (8, 0));
}

#[test]
fn a_partial_checksum_is_finished_before_a_wire_and_kept_between_pods() {
    let mut world = World::new();
    let packet = |to| partial(tcp_with(A, to, (1, 80), ACK, 1, b"data"));
    let kept = world.send_all(POD_A, &[(packet(B), tcp_offload(0))]);
    assert_eq!(*kept.only().2, tcp_offload(0));
    for (to, header) in [(NEAR, 14), (FAR, 34)] {
        let happened = world.send_all(POD_A, &[(packet(to), tcp_offload(0))]);
        assert_right(&happened.only().1[header..]);
        assert_eq!(*happened.only().2, Offload::default());
    }
    // Nothing announces it on a veth.
    let unannounced = partial(tcp_with(C, NEAR, (1, 80), ACK, 1, b"data"));
    let happened = world.send(POD_C, &ethernet(MAC_POD_PORT, MAC_POD, &unannounced));
    assert_right(&happened.only().1[14..]);
    let unannounced = partial(tcp_with(C, A, (1, 80), ACK, 1, b"data"));
    let happened = world.send(POD_C, &ethernet(MAC_POD_PORT, MAC_POD, &unannounced));
    assert_eq!(*happened.only().2, tcp_offload(0));
}

#[test]
fn fragments_follow_the_first_ones_verdict() {
    let mut world = World::new();
    world.programs(vec![program(Verdict::Allow, 17, Some(53), 10, 1)]);
    world.guard(EndpointId(1), Guard::Open, guarded(0));
    let good = pieces(&large_udp(B, 4000), 1500);
    assert_eq!(good.len(), 3);
    let early = world.send(POD_A, &good[1]);
    assert_eq!(early.outcome(), Outcome::Dropped(DropReason::FragmentNoFirst));
    for (n, piece) in good.iter().enumerate() {
        let happened = world.send(POD_A, piece);
        assert_eq!(happened.only().0, POD_B, "piece {n}");
        assert_eq!(happened.counters.rules[&fastpath::acl::RuleId(10)].traffic.packets, 1);
    }
    let over = world.send(POD_A, &good[2]);
    assert_eq!(over.outcome(), Outcome::Dropped(DropReason::FragmentNoFirst));
    // The same to a port that is denied: all of it.
    let bad: Vec<_> = good
        .iter()
        .map(|piece| {
            edit(piece.clone(), |p| {
                p[5] = 9;
                if p[6] & 0x1f | p[7] == 0 {
                    p[23] = 54;
                }
            })
        })
        .collect();
    for piece in &bad {
        let outcome = world.send(POD_A, piece).outcome();
        assert_eq!(outcome, Outcome::Dropped(DropReason::PolicyIngress));
    }
}

#[test]
fn overlapping_tiny_and_late_fragments_are_refused() {
    let mut world = World::new();
    let all = pieces(&large_udp(B, 4000), 1500);
    assert_eq!(world.send(POD_A, &all[0]).outcome(), Outcome::Forwarded);
    let again = world.send(POD_A, &all[0]);
    assert_eq!(again.outcome(), Outcome::Dropped(DropReason::FragmentOverlap));
    // One unit earlier: its first eight bytes are the first's last.
    let overlap = edit(all[1].clone(), |p| p[7] -= 1);
    let outcome = world.send(POD_A, &overlap).outcome();
    assert_eq!(outcome, Outcome::Dropped(DropReason::FragmentOverlap));
    world.advance(Duration::from_secs(16));
    let late = world.send(POD_A, &all[1]);
    assert_eq!(late.outcome(), Outcome::Dropped(DropReason::FragmentNoFirst));
    let tiny = edit(tcp(A, B, (1, 80), SYN)[..36].to_vec(), |p| {
        p[3] = 36;
        p[6] = 0x20;
    });
    let outcome = world.send(POD_A, &tiny).outcome();
    assert_eq!(outcome, Outcome::Dropped(DropReason::FragmentTiny));
}

#[test]
fn fragments_of_replies_and_of_tunnelled_packets_follow_too() {
    let mut world = World::new();
    world.guard(EndpointId(0), Guard::Open, Guard::Closed);
    world.send(POD_A, &udp(A, FAR, (1000, 53)));
    let closed = Outcome::Dropped(DropReason::NoPolicyYet);
    for (l4_port, outcome) in [(1000, Outcome::Forwarded), (1001, closed)] {
        let datagram = edit(udp_with(FAR, A, (53, l4_port), &[7; 3000]), |p| {
            p[4..6].copy_from_slice(&l4_port.to_be_bytes());
            p[6] = 0;
        });
        for piece in pieces(&datagram, 1480) {
            let happened = world.send(UPLINK, &wired(&ipip(FAR_NODE, NODE, &piece)));
            assert_eq!(happened.outcome(), outcome, "to port {l4_port}");
        }
    }
}
