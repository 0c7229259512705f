//! What is refused, and by which name? Every packet that must not pass, with its own reason.

#[expect(dead_code, reason = "other test binaries use the rest")]
mod lab;

use fastpath::limits::BATCH;
use fastpath::outcome::{DropReason, Outcome};
use fastpath::packet::{Gso, Offload, PortId};
use fastpath::tables::port::PortEntry;
use lab::*;

fn check(port: PortId, frame: &[u8], reason: DropReason) {
    let happened = World::new().send(port, frame);
    assert_eq!(happened.outcome(), Outcome::Dropped(reason));
    assert_eq!(happened.counters.opened, 0, "{reason:?} left a connection");
}

fn check_offload(frame: &[u8], offload: Offload, reason: DropReason) {
    let happened = World::new().send_all(POD_A, &[(frame.to_vec(), offload)]);
    assert_eq!(happened.outcome(), Outcome::Dropped(reason), "{offload:?}");
}

#[test]
fn frames() {
    let ip = udp(NEAR, A, (1, 2));
    check(UPLINK, &wired(&ip)[..13], DropReason::EthernetTruncated);
    check(UPLINK, &ethernet([2, 9, 9, 9, 9, 9], MAC_FAR, &ip), DropReason::NotForUs);
    check(UPLINK, &ethernet([0xff; 6], MAC_FAR, &ip), DropReason::NotForUs);
    let mut vlan = wired(&ip);
    vlan[12..14].copy_from_slice(&[0x81, 0]);
    check(UPLINK, &vlan, DropReason::NotIp);
    let mut lldp = wired(&ip);
    lldp[12..14].copy_from_slice(&[0x88, 0xcc]);
    check(UPLINK, &lldp, DropReason::NotIp);
}

#[test]
fn ip_headers() {
    let ip = udp(A, B, (1, 2));
    check(POD_A, &[], DropReason::Ipv4Truncated);
    check(POD_A, &ip[..19], DropReason::Ipv4Truncated);
    check(POD_A, &[0x55; 40], DropReason::Ipv4Version);
    check(POD_A, &edit(ip.clone(), |p| p[0] = 0x44), DropReason::Ipv4HeaderLength);
    check(POD_A, &edit(ip.clone(), |p| p[3] = 200), DropReason::Ipv4TotalLength);
    let mut wrong = ip.clone();
    wrong[10] ^= 1;
    check(POD_A, &wrong, DropReason::Ipv4Checksum);
    check(POD_A, &edit(ip[..24].to_vec(), |p| p[3] = 24), DropReason::L4Truncated);
    let loopback = udp([127, 0, 0, 1], B, (1, 2));
    check(POD_A, &loopback, DropReason::SourceInvalid);
    check(POD_A, &udp(A, [127, 0, 0, 1], (1, 2)), DropReason::DestinationInvalid);
    check(POD_A, &udp(A, [239, 1, 1, 1], (1, 2)), DropReason::DestinationInvalid);
    let ip6 = udp6(A6, B6, (1, 2));
    check(POD_A, &ip6[..39], DropReason::Ipv6Truncated);
    let mut long = ip6.clone();
    long[5] = 200;
    check(POD_A, &long, DropReason::Ipv6PayloadLength);
    let mut chain = ip6;
    chain[6] = 60;
    chain[41] = 9;
    check(POD_A, &chain, DropReason::Ipv6Extensions);
}

#[test]
fn sources() {
    check(POD_A, &udp(B, C, (1, 2)), DropReason::SourceSpoofed);
    check(POD_A, &udp(NODE, B, (1, 2)), DropReason::SourceSpoofed);
    check(POD_A, &udp6(B6, A6, (1, 2)), DropReason::SourceSpoofed);
    check(POD_C, &ethernet(MAC_POD_PORT, MAC_POD, &udp(A, B, (1, 2))), DropReason::SourceSpoofed);
    for local in [B, NODE, ROUTER] {
        check(UPLINK, &wired(&udp(local, A, (1, 2))), DropReason::SourceLocal);
    }
}

#[test]
fn the_network_cannot_join_a_connection_between_local_pods() {
    let mut world = World::new();
    assert_eq!(world.send(POD_A, &udp(A, B, (1, 2))).outcome(), Outcome::Forwarded);
    for forged in [udp(A, B, (1, 2)), udp(B, A, (2, 1))] {
        let happened = world.send(UPLINK, &wired(&forged));
        assert_eq!(happened.outcome(), Outcome::Dropped(DropReason::SourceLocal));
    }
    assert_eq!(world.send(POD_B, &udp(B, A, (2, 1))).outcome(), Outcome::Forwarded);
}

#[test]
fn what_a_pods_kernel_says_by_itself_is_no_spoofing() {
    let link_local = {
        let mut address = [0; 16];
        address[..2].copy_from_slice(&[0xfe, 0x80]);
        address[15] = 1;
        address
    };
    let all_routers = {
        let mut address = [0; 16];
        address[..2].copy_from_slice(&[0xff, 2]);
        address[15] = 2;
        address
    };
    let solicitation = |source: [u8; 16]| {
        let mut p = vec![0x60, 0, 0, 0, 0, 8, 58, 255];
        p.extend(source);
        p.extend(all_routers);
        p.extend([133, 0, 0, 0, 0, 0, 0, 0]);
        p
    };
    check(POD_A, &solicitation(link_local), DropReason::LinkLocalMulticast);
    check(POD_A, &solicitation([0; 16]), DropReason::LinkLocalMulticast);
    let igmp = edit(udp([0; 4], [224, 0, 0, 22], (1, 2)), |p| p[9] = 2);
    check(POD_A, &igmp, DropReason::LinkLocalMulticast);
    check(POD_A, &udp(A, [224, 0, 0, 251], (5353, 5353)), DropReason::LinkLocalMulticast);
    let framed = ethernet([0x33, 0x33, 0, 0, 0, 2], MAC_POD, &solicitation(link_local));
    check(POD_C, &framed, DropReason::LinkLocalMulticast);
}

#[test]
fn tunnels() {
    let inner = udp(FAR, A, (1, 2));
    let outside = |from, to, inner: &[u8]| wired(&ipip(from, to, inner));
    check(UPLINK, &outside([192, 168, 0, 66], NODE, &inner), DropReason::TunnelPeer);
    check(UPLINK, &outside(FAR_NODE, [192, 168, 0, 9], &inner), DropReason::TunnelNotLocal);
    let nested = ipip(FAR, A, &inner);
    check(UPLINK, &outside(FAR_NODE, NODE, &nested), DropReason::TunnelNested);
    check(POD_A, &ipip(A, FAR_NODE, &inner), DropReason::TunnelFromPod);
    for local in [A, NODE, ROUTER] {
        let inner = udp(local, B, (1, 2));
        check(UPLINK, &outside(FAR_NODE, NODE, &inner), DropReason::TunnelInnerLocal);
    }
    let congested = wired(&edit(ipip(FAR_NODE, NODE, &inner), |p| p[1] = 3));
    check(UPLINK, &congested, DropReason::TunnelEcn);
    let aligned = udp_with(FAR, A, (1, 2), b"four");
    let piece = wired(&edit(ipip(FAR_NODE, NODE, &aligned)[..48].to_vec(), |p| {
        p[3] = 44;
        p[6] = 0x20;
    }));
    check(UPLINK, &piece, DropReason::TunnelFragment);
    let no_inner = wired(&edit(ipip(FAR_NODE, NODE, &inner)[..30].to_vec(), |p| p[3] = 30));
    check(UPLINK, &no_inner, DropReason::TunnelInner);
    let bad_inner = edit(inner, |p| p[3] = 99);
    check(UPLINK, &outside(FAR_NODE, NODE, &bad_inner), DropReason::Ipv4TotalLength);
}

#[test]
fn offload_headers() {
    let packet = tcp_with(A, B, (1, 80), ACK, 1, &[7; 3000]);
    let good = Offload {
        needs_checksum: true,
        gso: Gso::Tcp4,
        gso_size: 1000,
        header_len: 40,
        csum_start: 20,
        csum_offset: 16,
    };
    let passes = World::new().send_all(POD_A, &[(packet.clone(), good)]);
    assert_eq!((passes.only().0, *passes.only().2), (POD_B, good), "whole and unchecksummed");
    let small = Offload { gso_size: 255, ..good };
    check_offload(&packet, small, DropReason::OffloadSegmentSize);
    check_offload(&packet, Offload { csum_start: 4000, ..good }, DropReason::OffloadBounds);
    check_offload(&packet, Offload { csum_start: 19, ..good }, DropReason::OffloadBounds);
    check_offload(&packet, Offload { csum_offset: 6, ..good }, DropReason::OffloadKind);
    check_offload(&packet, Offload { gso: Gso::Udp, ..good }, DropReason::OffloadKind);
    check_offload(&packet, Offload { gso: Gso::Tcp6, ..good }, DropReason::OffloadKind);
    let none = World::new().send_all(TUNL0, &[(packet.clone(), Offload { gso_size: 1, ..good })]);
    assert_eq!(none.outcome(), Outcome::Dropped(DropReason::OffloadSegmentSize));
    let unfinished = Offload { needs_checksum: false, ..good };
    check_offload(&packet, unfinished, DropReason::OffloadKind);
}

#[test]
fn ports_that_are_not_there() {
    let mut world = World::new();
    world.publish(|tables| {
        let mut ports = tables.ports.to_vec();
        ports[usize::from(POD_B.0)] = PortEntry::default();
        tables.ports = ports.into();
    });
    let gone = Outcome::Dropped(DropReason::PortGone);
    assert_eq!(world.send(POD_A, &udp(A, B, (1, 2))).outcome(), gone);
    assert_eq!(world.send(POD_B, &udp(B, A, (2, 1))).outcome(), gone);
    world.publish(|tables| tables.ports = tables.ports[..3].into());
    assert_eq!(world.send(POD_A, &udp(A, NEAR, (1, 2))).outcome(), gone);
    world.publish(|tables| *tables = lab::tables());
    let (pool, counters) = world.pipeline.parts();
    assert_eq!(world.ports.detach(POD_B, pool, counters).len(), 1);
    assert_eq!(world.send(POD_A, &udp(A, B, (1, 2))).outcome(), gone);
}

#[test]
fn a_device_that_takes_no_more_is_counted() {
    let mut world = World::new();
    let packet = udp(A, B, (1, 2));
    for _ in 0..300 {
        world.device(POD_A).push(&packet, Offload::default());
        world.pump(POD_A);
    }
    let counters = world.counters();
    assert_eq!((counters.forwarded, counters.drops_for(DropReason::QueueFull)), (256, 44));
    assert_eq!(counters.ports[&POD_B].refused, 44);
    assert_eq!(counters.balance().0, counters.balance().1);
    assert!(world.pipeline.pool().available() >= BATCH);
}
