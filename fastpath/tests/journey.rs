//! Which way does a packet take through the node? One packet at a time, every counter checked.

#[expect(dead_code, reason = "other test binaries use the rest")]
mod lab;

use fastpath::capture::Way;
use fastpath::outcome::{DropReason, Outcome, PuntReason};
use fastpath::packet::Packet;
use fastpath::punt::Inject;
use fastpath::tables::nexthop::NextHop;
use fastpath::tables::{AdjacencyId, EndpointId};
use fastpath::trace::{Filter, Step};
use fastpath::wire::headers;
use lab::*;
use std::time::Duration;

fn dropped(reason: DropReason) -> Outcome {
    Outcome::Dropped(reason)
}

fn punted(reason: PuntReason) -> Outcome {
    Outcome::Punted(reason)
}

#[test]
fn from_pod_to_pod_and_back() {
    let mut world = World::new();
    let there = udp(A, B, (1000, 53));
    let happened = world.send(POD_A, &there);
    let (port, bytes, _) = happened.only();
    assert_eq!((port, ttl(bytes)), (POD_B, 63));
    assert_eq!(bytes[12..], there[12..]);
    headers::parse(bytes).expect("a right header checksum");
    let c = &happened.counters;
    assert_eq!((c.hits, c.misses, c.opened, c.merged, c.split), (0, 1, 1, 0, 0));

    let again = world.send(POD_A, &there);
    assert_eq!((again.counters.hits, again.counters.opened), (1, 0));
    let back = world.send(POD_B, &udp(B, A, (53, 1000)));
    assert_eq!((back.only().0, back.counters.hits, back.counters.opened), (POD_A, 1, 0));
    let flows = world.pipeline.conns().flows(world.now);
    assert_eq!((flows.len(), flows[0].source_port, flows[0].in_port), (1, 1000, POD_A));
}

#[test]
fn from_pod_to_pod_over_ipv6() {
    let mut world = World::new();
    let happened = world.send(POD_A, &udp6(A6, B6, (1000, 53)));
    let (port, bytes, _) = happened.only();
    assert_eq!((port, bytes[7]), (POD_B, 63));
    assert_eq!(world.send(POD_B, &udp6(B6, A6, (53, 1000))).only().0, POD_A);
}

#[test]
fn to_a_veth_pod_and_back_with_ethernet_headers() {
    let mut world = World::new();
    let happened = world.send(POD_A, &udp(A, C, (1000, 53)));
    let (port, bytes, _) = happened.only();
    assert_eq!(port, POD_C);
    assert_eq!((&bytes[..6], &bytes[6..12]), (&MAC_POD[..], &MAC_POD_PORT[..]));
    let back = ethernet(MAC_POD_PORT, MAC_POD, &udp(C, A, (53, 1000)));
    assert_eq!(world.send(POD_C, &back).only().0, POD_A);
}

#[test]
fn through_the_tunnel_and_out_of_it() {
    let mut world = World::new();
    let happened = world.send(POD_A, &tcp(A, FAR, (1000, 80), SYN));
    let (port, frame, _) = happened.only();
    assert_eq!(port, UPLINK);
    assert_eq!((&frame[..6], &frame[6..12]), (&MAC_FAR[..], &MAC_UPLINK[..]));
    let outer = headers::parse(&frame[14..]).expect("a right outer header");
    assert_eq!((outer.source, outer.destination), (NODE.into(), FAR_NODE.into()));
    assert_eq!((outer.protocol, outer.ttl), (4, 64));
    let inner = headers::parse(&frame[34..]).expect("a right inner header");
    assert_eq!((inner.destination, inner.ttl), (FAR.into(), 63));

    let answer = tcp(FAR, A, (80, 1000), SYN_ACK);
    let back = world.send(UPLINK, &wired(&ipip(FAR_NODE, NODE, &answer)));
    assert_eq!((back.only().0, ttl(back.only().1), back.counters.hits), (POD_A, 63, 1));
}

#[test]
fn to_another_node_without_a_tunnel() {
    let mut world = World::new();
    let happened = world.send(POD_A, &udp(A, NEAR, (1, 2)));
    assert_eq!((happened.only().0, ttl(&happened.only().1[14..])), (UPLINK, 63));
    let padded = [wired(&udp(NEAR, A, (2, 1))), vec![0; 20]].concat();
    let back = world.send(UPLINK, &padded);
    assert_eq!((back.only().0, back.only().1.len()), (POD_A, 33), "padding is cut off");
}

#[test]
fn between_host_and_pod_no_hop_is_counted() {
    let mut world = World::new();
    let happened = world.send(TUNL0, &udp(NODE, A, (1, 2)));
    assert_eq!((happened.only().0, ttl(happened.only().1)), (POD_A, 64));
    let last_hop = edit(udp(A, NODE, (2, 1)), |p| p[8] = 1);
    assert_eq!(world.send(POD_A, &last_hop).only().0, TUNL0);
    let office = world.send(POD_A, &udp(A, OFFICE, (3, 4)));
    assert_eq!((office.only().0, ttl(office.only().1)), (FORWARD, 64));
}

#[test]
fn what_came_by_a_host_port_is_answered_through_it() {
    for port in [TUNL0, FORWARD] {
        let mut world = World::new();
        // The FIB knows other ways to both sources.
        for source in [FAR, OFFICE, NODE, NOWHERE] {
            assert_eq!(world.send(port, &tcp(source, A, (1000, 80), SYN)).only().0, POD_A);
            let answer = tcp(A, source, (80, 1000), SYN_ACK);
            assert_eq!(world.send(POD_A, &answer).only().0, port, "answer to {source:?}");
            let asked = udp(source, A, (5, 53));
            world.send(port, &asked);
            let error = icmp_error(A, source, &asked);
            assert_eq!(world.send(POD_A, &error).only().0, port, "error to {source:?}");
            // So it is in the next generation.
            world.publish(|_| {});
            let more = world.send(POD_A, &tcp(A, source, (80, 1000), ACK));
            assert_eq!((more.only().0, more.counters.misses), (port, 1));
        }
    }
}

#[test]
fn equal_ways_are_shared_by_flows_and_kept_by_each() {
    let mut world = World::new();
    let mut seen = [0; 2];
    for flow in 0..64 {
        let macs: Vec<[u8; 6]> = (0..2)
            .map(|_| {
                // A new generation decides anew, and alike.
                world.publish(|_| {});
                let happened = world.send(POD_A, &udp(A, GROUP, (flow, 53)));
                happened.only().1[..6].try_into().expect("six")
            })
            .collect();
        assert_eq!(macs[0], macs[1]);
        seen[usize::from(macs[0] == MAC_GATEWAY)] += 1;
    }
    assert!(seen[0] > 16 && seen[1] > 16, "{seen:?}");
}

#[test]
fn dead_ends_have_their_names() {
    let mut world = World::new();
    for (to, outcome) in [
        (NOBODY, dropped(DropReason::Blackhole)),
        (NOWHERE, punted(PuntReason::Unreachable)),
        ([100, 66, 0, 1], punted(PuntReason::Unreachable)),
        ([100, 67, 0, 1], punted(PuntReason::Unreachable)),
        (ROUTER, punted(PuntReason::Unreachable)),
        (UNRESOLVED, punted(PuntReason::UnresolvedNeighbour)),
        (ON_LINK, punted(PuntReason::UnresolvedNeighbour)),
        (A, dropped(DropReason::Hairpin)),
    ] {
        let packet = udp(A, to, (1, 2));
        let happened = world.send(POD_A, &packet);
        assert_eq!(happened.outcome(), outcome, "to {to:?}");
        if let Some(punt) = happened.punts.first() {
            assert_eq!(punt.bytes, packet, "as it was received");
            assert_eq!((punt.in_port, punt.source_endpoint), (POD_A, Some(EndpointId(0))));
        }
        // An ICMP error is never answered by another.
        let error = icmp_error(A, to, &udp(to, A, (77, 88)));
        let expected = match (to, outcome) {
            (ROUTER, _) => punted(PuntReason::LocalIcmp),
            (NOWHERE, _) => dropped(DropReason::NoRoute),
            ([100, 66, ..], _) => dropped(DropReason::Unreachable),
            ([100, 67, ..], _) => dropped(DropReason::Prohibited),
            (_, outcome) => outcome,
        };
        assert_eq!(world.send(POD_A, &error).outcome(), expected, "error to {to:?}");
    }
    let ping = world.send(POD_A, &echo(A, ROUTER, 7, false));
    assert_eq!(ping.outcome(), punted(PuntReason::LocalIcmp));
}

#[test]
fn the_last_hop_goes_up_unchanged() {
    let mut world = World::new();
    for to in [B, FAR, NEAR, GROUP] {
        let packet = edit(udp(A, to, (1, 2)), |p| p[8] = 1);
        let happened = world.send(POD_A, &packet);
        assert_eq!(happened.outcome(), punted(PuntReason::TtlExpired));
        assert_eq!(happened.punts[0].bytes, packet);
        let error = edit(icmp_error(A, to, &udp(to, A, (7, 8))), |p| p[8] = 1);
        assert_eq!(world.send(POD_A, &error).outcome(), dropped(DropReason::TtlExpired));
    }
    let inner = edit(udp(FAR, A, (1, 2)), |p| p[8] = 1);
    let happened = world.send(UPLINK, &wired(&ipip(FAR_NODE, NODE, &inner)));
    assert_eq!(happened.punts[0].bytes, inner, "without the tunnel's header");
}

#[test]
fn a_held_packet_goes_on_when_the_neighbour_is_known() {
    let mut world = World::new();
    let packet = udp(A, UNRESOLVED, (1, 2));
    let happened = world.send(POD_A, &packet);
    let punt = &happened.punts[0];
    assert_eq!(punt.next_hop, NextHop::Adjacency(AdjacencyId(3)));
    world.publish(|tables| {
        let mut adjacencies = tables.adjacencies.to_vec();
        adjacencies[3].destination_mac = Some([9; 6]);
        tables.adjacencies = adjacencies.into();
    });
    let packet = Packet::from_bytes(&punt.bytes);
    let resumed = world.inject(Inject::Resume { packet, in_port: punt.in_port });
    let (port, frame, _) = resumed.only();
    assert_eq!((port, &frame[..6], frame[22]), (UPLINK, &[9; 6][..], 63));
    assert_eq!(resumed.counters.opened, 0, "its connection waited for it");
}

#[test]
fn the_routers_own_packets_meet_no_policy_and_lose_no_ttl() {
    let mut world = World::new();
    world.guard(EndpointId(0), fastpath::tables::Guard::Closed, fastpath::tables::Guard::Closed);
    let reply = Packet::from_bytes(&echo(ROUTER, A, 7, true));
    let happened = world.inject(Inject::Route { packet: reply });
    assert_eq!((happened.only().0, ttl(happened.only().1)), (POD_A, 64));
    assert_eq!(happened.counters.opened, 0);
    let frame = Packet::from_bytes(&[1, 2, 3]);
    let happened = world.inject(Inject::ToPort { port: POD_C, packet: frame });
    assert_eq!((happened.only().0, happened.only().1), (POD_C, &[1, 2, 3][..]));
    let lost = Packet::from_bytes(&[1]);
    let happened =
        world.inject(Inject::ToPort { port: fastpath::packet::PortId(99), packet: lost });
    assert_eq!(happened.outcome(), dropped(DropReason::PortGone));
    // An error about a connection of a host port goes back by that port.
    let asked = udp(OFFICE, B, (5, 53));
    world.send(TUNL0, &asked);
    let error = Packet::from_bytes(&icmp_error(ROUTER, OFFICE, &asked));
    assert_eq!(world.inject(Inject::Route { packet: error }).only().0, TUNL0);
    // So does an answer to it.
    let ping = world.send(FORWARD, &echo(NEAR, ROUTER, 9, false));
    assert_eq!(ping.outcome(), punted(PuntReason::LocalIcmp));
    let reply = Packet::from_bytes(&echo(ROUTER, NEAR, 9, true));
    assert_eq!(world.inject(Inject::Route { packet: reply }).only().0, FORWARD);
}

#[test]
fn address_resolution_of_veth_pods_goes_up_with_its_frame() {
    let mut world = World::new();
    let arp = [&[0xff; 6][..], &MAC_POD, &[8, 6], &[0; 28]].concat();
    let happened = world.send(POD_C, &arp);
    assert_eq!(happened.outcome(), punted(PuntReason::ArpOrNd));
    assert_eq!((&happened.punts[0].bytes, happened.punts[0].in_port), (&arp, POD_C));
    let solicitation = {
        let mut p = vec![0x60, 0, 0, 0, 0, 24, 58, 255];
        p.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        p.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 1]);
        p.extend([135, 0, 0, 0, 0, 0, 0, 0]);
        p.extend([0; 16]);
        ethernet([0x33, 0x33, 0xff, 0, 0, 1], MAC_POD, &p)
    };
    let happened = world.send(POD_C, &solicitation);
    assert_eq!(happened.outcome(), punted(PuntReason::ArpOrNd));
    assert_eq!(happened.punts[0].bytes, solicitation);
    let on_uplink = [&MAC_UPLINK[..], &MAC_FAR, &[8, 6], &[0; 28]].concat();
    assert_eq!(world.send(UPLINK, &on_uplink).outcome(), dropped(DropReason::NotIp));
}

#[test]
fn a_full_punt_ring_is_counted() {
    let mut world = World::new();
    let ping = echo(A, ROUTER, 7, false);
    let mut held = Vec::new();
    let mut refused = 0;
    for _ in 0..600 {
        world.device(POD_A).push(&ping, fastpath::packet::Offload::default());
        world.pump(POD_A);
        held.extend(world.punts.try_recv());
        refused = world.counters().drops_for(DropReason::PuntRing);
    }
    assert_eq!(held.len() as u64 + refused, 600);
    assert!(refused > 0, "somebody who holds packets cannot take all slots");
    drop(held);
    assert_eq!(world.send(POD_A, &ping).outcome(), punted(PuntReason::LocalIcmp));
}

#[test]
fn idle_connections_are_forgotten_and_the_table_is_bounded() {
    let mut world = World::with_connections(3);
    for flow in 0..3 {
        assert_eq!(world.send(POD_A, &udp(A, B, (flow, 53))).outcome(), Outcome::Forwarded);
    }
    let fourth = udp(A, B, (4, 53));
    assert_eq!(world.send(POD_A, &fourth).outcome(), dropped(DropReason::ConnectionTable));
    for _ in 0..70 {
        world.advance(Duration::from_secs(1));
        world.send(POD_A, &udp(A, B, (0, 53)));
        world.pipeline.housekeep(world.now);
    }
    assert_eq!((world.counters().expired, world.pipeline.conns().len()), (2, 1));
    assert_eq!(world.send(POD_A, &fourth).outcome(), Outcome::Forwarded);
    world.advance(Duration::from_secs(1_000));
    for _ in 0..5 {
        world.pipeline.housekeep(world.now);
    }
    assert_eq!((world.counters().expired, world.pipeline.conns().len()), (4, 0));
    assert!(!world.pipeline.has_timers());
}

#[test]
fn what_a_silent_flow_sent_is_known_soon() {
    let mut world = World::new();
    for _ in 0..10 {
        world.send(POD_A, &udp(A, B, (1, 53)));
    }
    world.send(POD_B, &udp(B, A, (53, 1)));
    world.advance(Duration::from_secs(20));
    world.pipeline.housekeep(world.now);
    let flows = world.pipeline.conns().flows(world.now);
    assert_eq!((flows[0].sent.packets, flows[0].sent.bytes), (10, 330));
    assert_eq!((flows[0].answered.packets, flows[0].idle), (1, Duration::from_secs(20)));
}

#[test]
fn an_established_connection_outlives_an_hour_of_rare_packets() {
    let mut world = World::new();
    world.send(POD_A, &tcp(A, B, (1, 80), SYN));
    world.send(POD_B, &tcp(B, A, (80, 1), SYN_ACK));
    world.send(POD_A, &tcp(A, B, (1, 80), ACK));
    for _ in 0..4 {
        world.advance(Duration::from_secs(3_500));
        for _ in 0..200 {
            world.pipeline.housekeep(world.now);
        }
        let happened = world.send(POD_B, &tcp(B, A, (80, 1), ACK));
        assert_eq!(happened.counters.opened, 0);
    }
    world.send(POD_B, &tcp(B, A, (80, 1), FIN));
    world.advance(Duration::from_mins(1));
    let anew = world.send(POD_A, &tcp(A, B, (1, 80), SYN));
    assert_eq!(anew.counters.opened, 1);
}

#[test]
fn a_trace_tells_every_stage() {
    let mut world = World::new();
    let traces = world.pipeline.traces().open(Filter::default(), 0, 10);
    world.send(POD_A, &udp(A, FAR, (1000, 53)));
    let trace = traces.try_recv().expect("a record");
    let [entered, parsed, looked_up, routed, judged, left, ended] = trace.steps.as_slice() else {
        panic!("{:?}", trace.steps)
    };
    assert!(matches!(entered, Step::Entered { port: POD_A, decapsulated: false, .. }));
    assert!(matches!(parsed, Step::Parsed(h) if h.destination_port == 53));
    assert_eq!(*looked_up, Step::LookedUp { hit: false, related: false });
    assert!(matches!(routed, Step::Routed(NextHop::Tunnel { .. })));
    assert!(matches!(judged, Step::Judged { denied: None, .. }));
    assert_eq!(*left, Step::Left { port: UPLINK, mtu: 1480, encapsulated: true });
    assert_eq!(*ended, Step::Ended(Outcome::Forwarded));
    world.send(POD_A, &[0; 3]);
    let trace = traces.try_recv().expect("a record");
    let last = trace.steps.last().expect("an end");
    assert_eq!(*last, Step::Ended(dropped(DropReason::Ipv4Version)));
}

#[test]
fn a_capture_shows_packets_as_received_and_as_sent_with_their_outcome() {
    let mut world = World::new();
    let captures = world.pipeline.captures().open(Filter::default(), 10_000, 10);
    let only_b = Filter { port: Some(POD_B), ..Filter::default() };
    let at_b = world.pipeline.captures().open(only_b, 4, 10);
    let packet = udp(A, B, (1000, 53));
    let happened = world.send(POD_A, &packet);
    let (sent, received) = (captures.try_recv().expect("one"), captures.try_recv().expect("two"));
    assert_eq!((received.way, received.port, &received.bytes), (Way::Received, POD_A, &packet));
    assert_eq!(received.outcome, Some(Outcome::Forwarded));
    assert_eq!((sent.way, sent.port, &sent.bytes[..]), (Way::Sent, POD_B, happened.only().1));
    let cut = at_b.try_recv().expect("one");
    assert_eq!((cut.len, cut.bytes.len()), (packet.len(), 4));
    assert!(at_b.try_recv().is_none());
    world.send(POD_A, &udp(B, A, (1, 2)));
    let spoofed = captures.try_recv().expect("one more");
    assert_eq!(spoofed.outcome, Some(dropped(DropReason::SourceSpoofed)));
}
