//! Does every packet have exactly one outcome? Random packets, good and damaged, through random
//! tables, with generations, time and injected packets in between.

#[expect(dead_code, reason = "other test binaries use the rest")]
mod lab;

use fastpath::acl::Verdict;
use fastpath::batch::Batch;
use fastpath::io::fault::{FaultQueue, FaultRates};
use fastpath::io::memory::{self, MemoryConfig};
use fastpath::io::{Abilities, Framing};
use fastpath::limits::SLOTS_PER_WORKER;
use fastpath::packet::{Gso, Offload, Packet, PortId};
use fastpath::ports::Ports;
use fastpath::punt::Inject;
use fastpath::tables::nexthop::NextHop;
use fastpath::tables::port::PortRole;
use fastpath::tables::{Guard, ProgramId, Tables};
use lab::*;
use proptest::prelude::*;
use std::time::Duration;

const ADDRESSES: [[u8; 4]; 12] =
    [A, B, C, FAR, NEAR, NODE, ROUTER, OFFICE, GROUP, NOBODY, NOWHERE, UNRESOLVED];

/// One thing that happens to the router.
#[derive(Clone, Debug)]
enum Act {
    Receive(PortId, Vec<(Vec<u8>, Offload)>),
    Inject(u8, PortId, Vec<u8>),
    Publish(u64),
    Wait(u16),
}

fn address() -> impl Strategy<Value = [u8; 4]> {
    prop_oneof![12 => prop::sample::select(&ADDRESSES[..]), 1 => any::<[u8; 4]>()]
}

fn ip() -> impl Strategy<Value = Vec<u8>> {
    let ports = prop::sample::select(&[(1, 80), (80, 1), (53, 53), (1, 2)][..]);
    let flags = prop::sample::select(&[SYN, SYN_ACK, ACK, FIN, RST][..]);
    let len = prop_oneof![4 => 0..64usize, 1 => 1400..5000usize];
    let segment = (address(), address(), ports.clone(), flags, any::<u32>(), len.clone())
        .prop_map(|(a, b, p, f, seq, len)| tcp_with(a, b, p, f, seq, &vec![7; len]));
    let datagram =
        (address(), address(), ports, len, any::<bool>()).prop_map(|(a, b, p, len, df)| {
            edit(udp_with(a, b, p, &vec![7; len]), |ip| ip[6] = if df { 0x40 } else { 0 })
        });
    let icmp = (address(), address(), 0..3u16, any::<bool>())
        .prop_map(|(a, b, id, reply)| echo(a, b, id, reply));
    let error = (address(), address(), address())
        .prop_map(|(a, b, c)| icmp_error(a, b, &udp(b, c, (1, 80))));
    let v6 =
        any::<bool>().prop_map(|ab| if ab { udp6(A6, B6, (1, 2)) } else { udp6(B6, A6, (2, 1)) });
    let plain = prop_oneof![4 => segment, 3 => datagram, 1 => icmp, 1 => error, 1 => v6].boxed();
    let fragment = (plain.clone(), 0..8u16, any::<bool>(), 0..3u8).prop_map(|(p, at, more, id)| {
        if p[0] >> 4 != 4 {
            return p;
        }
        edit(p, |p| {
            p[5] = id;
            p[6..8].copy_from_slice(&((at * 8) | if more { 0x2000 } else { 0 }).to_be_bytes());
        })
    });
    let tunnelled = (plain.clone(), address(), any::<bool>()).prop_map(|(p, from, right)| {
        let from = if right { FAR_NODE } else { from };
        if p[0] >> 4 == 4 { ipip(from, NODE, &p) } else { p }
    });
    let low_ttl =
        plain.clone().prop_map(|p| if p[0] >> 4 == 4 { edit(p, |p| p[8] = 1) } else { p });
    prop_oneof![6 => plain, 2 => fragment, 2 => tunnelled, 1 => low_ttl]
}

fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let damage = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let cut = prop::option::weighted(0.1, any::<prop::sample::Index>());
    let hurt = (ip(), damage, cut, any::<bool>()).prop_map(|(mut p, damage, cut, fixed)| {
        for (at, value) in damage {
            let at = at.index(p.len());
            p[at] = value;
        }
        if fixed && p.len() >= 60 {
            fix(&mut p);
        }
        if let Some(cut) = cut {
            p.truncate(cut.index(p.len()));
        }
        p
    });
    prop_oneof![3 => ip(), 1 => hurt, 1 => prop::collection::vec(any::<u8>(), 0..80)]
}

fn offload() -> impl Strategy<Value = Offload> {
    let kind = prop::sample::select(&[Gso::None, Gso::Tcp4, Gso::Tcp6, Gso::Udp][..]);
    let likely = (any::<bool>(), prop::sample::select(&[6u16, 16][..]), 200..2000u16, kind)
        .prop_map(|(needs_checksum, csum_offset, gso_size, gso)| Offload {
            needs_checksum,
            gso: if needs_checksum { gso } else { Gso::None },
            gso_size: if gso == Gso::None { 0 } else { gso_size },
            header_len: 0,
            csum_start: 20,
            csum_offset,
        });
    // What io hands over is checked against the packet's length, and no more.
    let wild = (likely.clone(), any::<u16>(), any::<u16>(), any::<u16>())
        .prop_map(|(o, a, b, c)| Offload { csum_start: a, csum_offset: b, header_len: c, ..o });
    prop_oneof![6 => Just(Offload::default()), 3 => likely, 1 => wild]
}

fn act() -> impl Strategy<Value = Act> {
    let port = prop::sample::select(&PORTS[..]);
    let receive = (port.clone(), prop::collection::vec((damaged(), offload()), 1..20)).prop_map(
        |(port, packets)| {
            let own = |(p, offload)| (as_sent_by(port, p), offload);
            let framed = packets.into_iter().map(own).map(|(p, offload)| match port {
                UPLINK if !p.is_empty() => (wired(&p), Offload::default()),
                POD_C if !p.is_empty() => (ethernet(MAC_POD_PORT, MAC_POD, &p), Offload::default()),
                _ => (p, offload),
            });
            Act::Receive(port, framed.collect())
        },
    );
    let inject = (0..3u8, port, damaged()).prop_map(|(kind, port, p)| Act::Inject(kind, port, p));
    prop_oneof![
        8 => receive,
        1 => inject,
        1 => any::<u64>().prop_map(Act::Publish),
        1 => any::<u16>().prop_map(Act::Wait),
    ]
}

/// Pods mostly use their own addresses.
fn as_sent_by(port: PortId, mut packet: Vec<u8>) -> Vec<u8> {
    let own = match port {
        POD_A => A,
        POD_B => B,
        POD_C => C,
        _ => return packet,
    };
    let spoofs = packet.last().is_some_and(|last| last % 8 == 1);
    if packet.len() >= 28 && packet[0] == 0x45 && !spoofs {
        packet[12..16].copy_from_slice(&own);
        fix(&mut packet);
    }
    packet
}

/// Tables that are changed at random, sensibly or not.
fn shuffle(tables: &mut Tables, mut seed: u64) {
    let mut next = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % below
    };
    let mut hops = tables.next_hops.to_vec();
    let at = 1 + next(hops.len() as u64 - 1) as usize;
    hops[at] = match next(6) {
        0 => NextHop::NoRoute,
        1 => hops[1 + next(18) as usize],
        2 => NextHop::Endpoint(fastpath::tables::EndpointId(next(5) as u32)),
        3 => NextHop::Adjacency(fastpath::tables::AdjacencyId(next(6) as u32)),
        4 => NextHop::Group(fastpath::tables::GroupId(next(3) as u32)),
        _ => hops[at],
    };
    tables.next_hops = hops.into();
    let mut endpoints = tables.endpoints.to_vec();
    let at = next(3) as usize;
    let guard = |n: u64| match n {
        0 => Guard::Closed,
        1 | 2 => Guard::Program(ProgramId(n as u32 - 1)),
        3 => Guard::Program(ProgramId(9)),
        _ => Guard::Open,
    };
    endpoints[at].egress = guard(next(6));
    endpoints[at].ingress = guard(next(6));
    tables.endpoints = endpoints.into();
    let mut ports = tables.ports.to_vec();
    let at = next(6) as usize;
    match next(8) {
        0 => ports[at].role = PortRole::Unused,
        1 => ports[at].mtu = 68 + next(3000) as u16,
        _ => ports[at] = lab::tables().ports[at],
    }
    tables.ports = ports.into();
}

fn check(world: &mut World) {
    let counters = world.counters();
    let (came, went) = counters.balance();
    assert_eq!(came, went, "{counters:?}");
}

fn run(world: &mut World, acts: Vec<Act>) {
    for act in acts {
        match act {
            Act::Receive(port, packets) => {
                for (packet, offload) in packets {
                    world.device(port).push(&packet, offload);
                }
                world.pump(port);
            }
            Act::Inject(kind, port, bytes) => {
                let packet = Packet::from_bytes(&bytes);
                let inject = match kind {
                    0 => Inject::ToPort { port, packet },
                    1 => Inject::Route { packet },
                    _ => Inject::Resume { packet, in_port: port },
                };
                world.inject_quietly(inject);
            }
            Act::Publish(seed) => world.publish(|tables| shuffle(tables, seed)),
            Act::Wait(tenths) => world.advance(Duration::from_millis(u64::from(tenths) * 100)),
        }
        world.pipeline.housekeep(world.now);
        while world.punts.try_recv().is_some() {}
        world.devices.iter().for_each(|device| drop(device.take()));
        check(world);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_packet_has_one_outcome_and_every_slot_comes_back(
        acts in prop::collection::vec(act(), 1..40),
    ) {
        let mut world = World::with_connections(40);
        world.programs(vec![
            program(Verdict::Allow, 6, Some(80), 10, 1),
            program(Verdict::Deny, 17, Some(53), 20, 2),
        ]);
        run(&mut world, acts);
        world.pipeline.housekeep(world.now);
        let counters = world.counters();
        prop_assert_eq!(counters.received + counters.injected > 0, counters.balance().0 > 0);
        while let Some(packet) = world.pipeline.commons().take() {
            world.pipeline.pool().give(packet);
        }
        prop_assert!(world.pipeline.pool().available() >= SLOTS_PER_WORKER);
    }

    #[test]
    fn also_when_the_devices_misbehave(
        packets in prop::collection::vec((ip(), any::<bool>()), 1..200),
        seed: u64,
    ) {
        let mut world = World::new();
        let rates = FaultRates {
            loss: 50_000,
            corruption: 200_000,
            truncation: 100_000,
            duplication: 100_000,
            reordering: 100_000,
        };
        let mut ports = Ports::new();
        let mut devices = Vec::new();
        for port in [POD_A, UPLINK] {
            let framing = if port == UPLINK { Framing::Ethernet } else { Framing::Ip };
            let abilities = Abilities::default();
            let config = MemoryConfig { port, framing, abilities, ..MemoryConfig::default() };
            let (device, queue) = memory::pair(config);
            ports.attach(Box::new(FaultQueue::new(queue, seed, rates, rates)));
            devices.push(device);
        }
        world.ports = ports;
        for (packet, by_uplink) in packets {
            let frame = if by_uplink { wired(&packet) } else { packet };
            devices[usize::from(by_uplink)].push(&frame, Offload::default());
            world.pump(if by_uplink { UPLINK } else { POD_A });
            check(&mut world);
        }
    }

    #[test]
    fn a_batch_of_anything_is_taken(
        packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..64),
        port in 0..8u16,
    ) {
        let mut world = World::new();
        let mut batch: Batch = packets
            .iter()
            .map(|bytes| {
                let mut packet = Packet::from_bytes(bytes);
                packet.set_in_port(PortId(port));
                packet
            })
            .collect();
        let current = (&world.tables, fastpath::publish::Generation(1));
        let entry = fastpath::stage::Entry::Device;
        world.pipeline.run(current, &mut batch, entry, &mut world.ports, world.now);
        let counters = world.counters();
        let ended = counters.punted() + counters.dropped() + counters.merged;
        prop_assert!(ended <= packets.len() as u64);
    }
}
