//! Where do the tests' packets go? A node's pipeline on memory ports: two TUN pods, a veth pod, the
//! host's two ports, an uplink with two other nodes and a gateway behind it. Every packet sent
//! through it is held against every counter.

use etherparse::PacketBuilder;
use fastpath::acl::classes::AddressClasses;
use fastpath::acl::classifier::Program;
use fastpath::acl::{Match, PortMatch, ProtocolMatch, Rule, RuleId, RuleList, Verdict};
use fastpath::batch::Batch;
use fastpath::counters::Counters;
use fastpath::io::memory::{self, MemoryConfig, MemoryDevice};
use fastpath::io::{Abilities, Framing};
use fastpath::outcome::Outcome;
use fastpath::packet::{Offload, Packet, PortId};
use fastpath::pipeline::Pipeline;
use fastpath::ports::Ports;
use fastpath::publish::Generation;
use fastpath::punt::{Inject, Punt, PuntReceiver};
use fastpath::stage::Entry;
use fastpath::tables::endpoint::EndpointEntry;
use fastpath::tables::fib::Fib;
use fastpath::tables::nexthop::{Adjacency, NextHop, NextHopGroup};
use fastpath::tables::port::{PortEntry, PortRole};
use fastpath::tables::{
    AdjacencyId, EndpointId, GroupId, Guard, NextHopId, ProgramId, Tables, Tunnels,
};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) const TUNL0: PortId = PortId(0);
pub(crate) const FORWARD: PortId = PortId(1);
pub(crate) const UPLINK: PortId = PortId(2);
pub(crate) const POD_A: PortId = PortId(3);
pub(crate) const POD_B: PortId = PortId(4);
/// A pod behind a veth: Ethernet, no offloads, partial checksums unannounced.
pub(crate) const POD_C: PortId = PortId(5);
pub(crate) const PORTS: [PortId; 6] = [TUNL0, FORWARD, UPLINK, POD_A, POD_B, POD_C];

pub(crate) const A: [u8; 4] = [10, 65, 0, 2];
pub(crate) const B: [u8; 4] = [10, 65, 0, 3];
pub(crate) const C: [u8; 4] = [10, 65, 0, 4];
/// A pod on the node behind the tunnel.
pub(crate) const FAR: [u8; 4] = [10, 65, 1, 2];
/// A pod on the node reached without a tunnel.
pub(crate) const NEAR: [u8; 4] = [10, 65, 2, 2];
pub(crate) const NODE: [u8; 4] = [192, 168, 0, 1];
pub(crate) const FAR_NODE: [u8; 4] = [192, 168, 0, 2];
/// The router's own address, the pods' gateway.
pub(crate) const ROUTER: [u8; 4] = [169, 254, 1, 1];
/// What the node's kernel forwards to.
pub(crate) const OFFICE: [u8; 4] = [203, 0, 113, 9];
/// Behind two equal gateways.
pub(crate) const GROUP: [u8; 4] = [198, 51, 100, 9];
/// An address of the node's block that no pod has.
pub(crate) const NOBODY: [u8; 4] = [10, 65, 0, 60];
/// No route leads there.
pub(crate) const NOWHERE: [u8; 4] = [100, 64, 0, 1];
/// The next hop's MAC address is not known.
pub(crate) const UNRESOLVED: [u8; 4] = [100, 65, 0, 1];
/// On the uplink's own subnet.
pub(crate) const ON_LINK: [u8; 4] = [192, 168, 0, 77];

pub(crate) const MAC_UPLINK: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const MAC_FAR: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub(crate) const MAC_GATEWAY: [u8; 6] = [2, 0, 0, 0, 0, 3];
pub(crate) const MAC_GATEWAY_2: [u8; 6] = [2, 0, 0, 0, 0, 4];
pub(crate) const MAC_POD_PORT: [u8; 6] = [0xee; 6];
pub(crate) const MAC_POD: [u8; 6] = [2, 0, 0, 0, 0, 5];

pub(crate) const A6: [u8; 16] = v6(2);
pub(crate) const B6: [u8; 16] = v6(3);

const fn v6(last: u8) -> [u8; 16] {
    [0xfd, 0x65, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]
}

/// What a packet did.
#[derive(Debug)]
pub(crate) struct Happened {
    /// What came out, by which port.
    pub(crate) out: Vec<(PortId, Vec<u8>, Offload)>,
    /// What went up.
    pub(crate) punts: Vec<PuntCopy>,
    /// How the counters changed.
    pub(crate) counters: Counters,
}

#[derive(Debug)]
pub(crate) struct PuntCopy {
    pub(crate) reason: fastpath::outcome::PuntReason,
    pub(crate) in_port: PortId,
    pub(crate) mtu: u16,
    pub(crate) next_hop: NextHop,
    pub(crate) source_endpoint: Option<EndpointId>,
    pub(crate) bytes: Vec<u8>,
}

impl From<Punt> for PuntCopy {
    fn from(punt: Punt) -> Self {
        Self {
            reason: punt.reason,
            in_port: punt.in_port,
            mtu: punt.mtu,
            next_hop: punt.next_hop,
            source_endpoint: punt.source_endpoint,
            bytes: punt.packet.bytes().to_vec(),
        }
    }
}

impl Happened {
    /// The one outcome of the one packet that was sent.
    pub(crate) fn outcome(&self) -> Outcome {
        let c = &self.counters;
        match (c.forwarded, c.punted(), c.dropped()) {
            (n, 0, 0) if n > 0 => Outcome::Forwarded,
            (0, 1, 0) => Outcome::Punted(*c.punts.keys().next().expect("one")),
            (0, 0, 1) => Outcome::Dropped(*c.drops.keys().next().expect("one")),
            other => unreachable!("not one outcome: {other:?}"),
        }
    }

    /// The one packet that came out.
    pub(crate) fn only(&self) -> (PortId, &[u8], &Offload) {
        match self.out.as_slice() {
            [(port, bytes, offload)] => (*port, bytes, offload),
            other => unreachable!("{} packets came out: {:?}", other.len(), self.counters),
        }
    }
}

pub(crate) struct World {
    pub(crate) pipeline: Pipeline,
    pub(crate) punts: PuntReceiver,
    pub(crate) ports: Ports,
    pub(crate) devices: Vec<MemoryDevice>,
    pub(crate) tables: Tables,
    pub(crate) generation: u64,
    pub(crate) now: Instant,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with_connections(10_000)
    }

    pub(crate) fn with_connections(connections: usize) -> Self {
        Self::build(connections, false)
    }

    /// A world whose devices forget what they are given, if they `discard`.
    pub(crate) fn build(connections: usize, discard: bool) -> Self {
        let now = Instant::now();
        let (pipeline, punts) = Pipeline::standalone(connections, now);
        let mut ports = Ports::new();
        let mut devices = Vec::new();
        for port in PORTS {
            let ethernet = port == UPLINK || port == POD_C;
            let framing = if ethernet { Framing::Ethernet } else { Framing::Ip };
            let abilities = if ethernet {
                Abilities::default()
            } else {
                Abilities {
                    checksum: true,
                    tcp_segmentation: true,
                    udp_segmentation: true,
                    tunnel_segmentation: false,
                }
            };
            let config = MemoryConfig {
                port,
                framing,
                abilities,
                capacity: 256,
                discard,
                ..MemoryConfig::default()
            };
            let (device, queue) = memory::pair(config);
            ports.attach(Box::new(queue));
            devices.push(device);
        }
        Self { pipeline, punts, ports, devices, tables: tables(), generation: 1, now }
    }

    /// Gives a port a device of other abilities.
    pub(crate) fn refit(&mut self, port: PortId, abilities: Abilities) {
        let (framing, _) = self.ports.facts(port).expect("a port");
        let (pool, counters) = self.pipeline.parts();
        drop(self.ports.detach(port, pool, counters));
        let config =
            MemoryConfig { port, framing, abilities, capacity: 256, ..MemoryConfig::default() };
        let (device, queue) = memory::pair(config);
        self.ports.attach(Box::new(queue));
        self.devices[usize::from(port.0)] = device;
    }

    /// Changes the tables and puts the next generation in force.
    pub(crate) fn publish(&mut self, change: impl FnOnce(&mut Tables)) {
        change(&mut self.tables);
        self.generation += 1;
    }

    /// Puts rules before one direction of an endpoint.
    pub(crate) fn guard(&mut self, endpoint: EndpointId, egress: Guard, ingress: Guard) {
        self.publish(|tables| {
            let mut endpoints = tables.endpoints.to_vec();
            let entry = &mut endpoints[endpoint.0 as usize];
            (entry.egress, entry.ingress) = (egress, ingress);
            tables.endpoints = endpoints.into();
        });
    }

    /// Puts programs in force.
    pub(crate) fn programs(&mut self, programs: Vec<Program>) {
        self.publish(|tables| tables.programs = programs.into_iter().map(Arc::new).collect());
    }

    pub(crate) fn device(&self, port: PortId) -> &MemoryDevice {
        &self.devices[usize::from(port.0)]
    }

    pub(crate) fn counters(&self) -> Counters {
        let mut counters = Counters::default();
        counters.add(self.pipeline.counters());
        counters
    }

    pub(crate) fn advance(&mut self, by: Duration) {
        self.now += by;
    }

    /// Receives and handles what waits at a port.
    pub(crate) fn pump(&mut self, port: PortId) {
        let mut batch = Batch::new();
        let (pool, counters) = self.pipeline.parts();
        self.ports.receive(port, 0, pool, &mut batch, counters).expect("a memory port");
        let current = (&self.tables, Generation(self.generation));
        self.pipeline.run(current, &mut batch, Entry::Device, &mut self.ports, self.now);
        assert!(batch.is_empty());
        let (pool, counters) = self.pipeline.parts();
        self.ports.flush(pool, counters);
    }

    /// Sends one packet into the router and holds what comes out against the counters.
    pub(crate) fn send(&mut self, port: PortId, frame: &[u8]) -> Happened {
        self.send_all(port, &[(frame.to_vec(), Offload::default())])
    }

    pub(crate) fn send_all(&mut self, port: PortId, frames: &[(Vec<u8>, Offload)]) -> Happened {
        let before = self.counters();
        for (frame, offload) in frames {
            assert!(self.device(port).push(frame, *offload));
        }
        self.pump(port);
        let happened = self.collect(&before);
        let counters = &happened.counters;
        assert_eq!(counters.received, frames.len() as u64);
        let traffic = counters.ports[&port].received;
        let bytes: usize = frames.iter().map(|(frame, _)| frame.len()).sum();
        assert_eq!((traffic.packets, traffic.bytes), (frames.len() as u64, bytes as u64));
        assert_eq!(counters.ports[&port].dropped, counters.dropped());
        happened
    }

    pub(crate) fn inject(&mut self, inject: Inject) -> Happened {
        let before = self.counters();
        self.inject_quietly(inject);
        let happened = self.collect(&before);
        assert_eq!(happened.counters.injected, 1);
        happened
    }

    /// Hands a packet down and looks at nothing.
    pub(crate) fn inject_quietly(&mut self, inject: Inject) {
        let current = (&self.tables, Generation(self.generation));
        self.pipeline.inject(current, inject, &mut self.ports, self.now);
        let (pool, counters) = self.pipeline.parts();
        self.ports.flush(pool, counters);
    }

    fn collect(&mut self, before: &Counters) -> Happened {
        let mut out = Vec::new();
        for port in PORTS {
            let sent = self.device(port).take();
            out.extend(sent.into_iter().map(|(bytes, offload)| (port, bytes, offload)));
        }
        let punts: Vec<PuntCopy> =
            std::iter::from_fn(|| self.punts.try_recv()).map(PuntCopy::from).collect();
        let counters = difference(&self.counters(), before);
        let (came, went) = counters.balance();
        assert_eq!(came, went, "{counters:?}");
        assert_eq!(counters.forwarded, out.len() as u64, "{counters:?}");
        assert_eq!(counters.punted(), punts.len() as u64, "{counters:?}");
        let bytes: usize = out.iter().map(|(_, bytes, _)| bytes.len()).sum();
        let counted: u64 = counters.ports.values().map(|p| p.sent.bytes).sum();
        assert_eq!(counted, bytes as u64);
        Happened { out, punts, counters }
    }
}

/// What was counted between two moments.
pub(crate) fn difference(after: &Counters, before: &Counters) -> Counters {
    let mut d = after.clone();
    d.received -= before.received;
    d.injected -= before.injected;
    d.split -= before.split;
    d.merged -= before.merged;
    d.forwarded -= before.forwarded;
    d.hits -= before.hits;
    d.misses -= before.misses;
    d.opened -= before.opened;
    d.expired -= before.expired;
    for (reason, n) in &mut d.drops {
        *n -= before.drops_for(*reason);
    }
    for (reason, n) in &mut d.punts {
        *n -= before.punts_for(*reason);
    }
    for (port, traffic) in &mut d.ports {
        let old = before.ports.get(port).copied().unwrap_or_default();
        traffic.received.packets -= old.received.packets;
        traffic.received.bytes -= old.received.bytes;
        traffic.sent.packets -= old.sent.packets;
        traffic.sent.bytes -= old.sent.bytes;
        traffic.dropped -= old.dropped;
        traffic.refused -= old.refused;
    }
    for (rule, hits) in &mut d.rules {
        let old = before.rules.get(rule).copied().unwrap_or_default();
        hits.traffic.packets -= old.traffic.packets;
        hits.traffic.bytes -= old.traffic.bytes;
        hits.connections -= old.connections;
    }
    d.drops.retain(|_, n| *n != 0);
    d.punts.retain(|_, n| *n != 0);
    d
}

fn port(role: PortRole, framing: Framing, mac: [u8; 6]) -> PortEntry {
    PortEntry { role, framing, mac, mtu: 1500, partial_checksums: framing == Framing::Ethernet }
}

fn endpoint(port: PortId, sources: &[&str]) -> EndpointEntry {
    EndpointEntry {
        port,
        sources: sources.iter().map(|net| net.parse().expect("a prefix")).collect(),
        egress: Guard::Open,
        ingress: Guard::Open,
        mac: MAC_POD,
    }
}

fn adjacency(address: [u8; 4], destination_mac: Option<[u8; 6]>) -> Adjacency {
    let (port, source_mac) = (UPLINK, MAC_UPLINK);
    Adjacency { port, address: address.into(), destination_mac, source_mac, mtu: 1500 }
}

pub(crate) fn tables() -> Tables {
    let hops = [
        ("10.65.0.2/32", NextHop::Endpoint(EndpointId(0))),
        ("10.65.0.3/32", NextHop::Endpoint(EndpointId(1))),
        ("10.65.0.4/32", NextHop::Endpoint(EndpointId(2))),
        ("fd65::2/128", NextHop::Endpoint(EndpointId(0))),
        ("fd65::3/128", NextHop::Endpoint(EndpointId(1))),
        ("10.65.0.0/26", NextHop::Blackhole),
        ("192.168.0.1/32", NextHop::HostLocal),
        ("203.0.113.0/24", NextHop::HostForward),
        ("169.254.1.1/32", NextHop::Router),
        ("10.65.2.0/26", NextHop::Adjacency(AdjacencyId(0))),
        ("10.65.1.0/26", NextHop::Tunnel { remote: FAR_NODE.into(), adjacency: AdjacencyId(0) }),
        ("198.51.100.0/24", NextHop::Group(GroupId(0))),
        ("100.65.0.0/16", NextHop::Adjacency(AdjacencyId(3))),
        ("192.168.0.0/24", NextHop::Glean(UPLINK)),
        ("100.66.0.0/16", NextHop::Unreachable),
        ("100.67.0.0/16", NextHop::Prohibit),
        ("192.0.2.1/32", NextHop::Adjacency(AdjacencyId(1))),
        ("192.0.2.2/32", NextHop::Adjacency(AdjacencyId(2))),
    ];
    let mut fib = Fib::default();
    let mut next_hops = vec![NextHop::NoRoute];
    for (prefix, hop) in hops {
        fib.insert(prefix.parse().expect("a prefix"), NextHopId(next_hops.len() as u32));
        next_hops.push(hop);
    }
    let members = vec![NextHopId(17), NextHopId(18)];
    Tables {
        fib: Arc::new(fib),
        next_hops: next_hops.into(),
        groups: Arc::new([NextHopGroup { members }]),
        adjacencies: Arc::new([
            adjacency(FAR_NODE, Some(MAC_FAR)),
            adjacency([192, 0, 2, 1], Some(MAC_GATEWAY)),
            adjacency([192, 0, 2, 2], Some(MAC_GATEWAY_2)),
            adjacency([192, 168, 0, 99], None),
        ]),
        endpoints: Arc::new([
            endpoint(POD_A, &["10.65.0.2/32", "fd65::2/128"]),
            endpoint(POD_B, &["10.65.0.3/32", "fd65::3/128"]),
            endpoint(POD_C, &["10.65.0.4/32"]),
        ]),
        ports: Arc::new([
            port(PortRole::HostLocal, Framing::Ip, [0; 6]),
            port(PortRole::HostForward, Framing::Ip, [0; 6]),
            port(PortRole::Uplink, Framing::Ethernet, MAC_UPLINK),
            port(PortRole::Pod(EndpointId(0)), Framing::Ip, [0; 6]),
            port(PortRole::Pod(EndpointId(1)), Framing::Ip, [0; 6]),
            port(PortRole::Pod(EndpointId(2)), Framing::Ethernet, MAC_POD_PORT),
        ]),
        tunnels: Arc::new(Tunnels {
            local: Some(NODE.into()),
            peers: vec![Ipv4Addr::from(FAR_NODE), Ipv4Addr::new(192, 168, 0, 3)],
        }),
        ..Tables::default()
    }
}

/// A program that says `verdict` to a protocol (and port), and the opposite to everything else.
pub(crate) fn program(
    verdict: Verdict,
    protocol: u8,
    l4_port: Option<u16>,
    rule: u32,
    stamp: u64,
) -> Program {
    let matches = Match {
        protocol: ProtocolMatch::Is(protocol),
        destination_port: l4_port.map_or(PortMatch::Any, |p| PortMatch::In(vec![p..=p])),
        ..Match::default()
    };
    let default = if verdict == Verdict::Allow { Verdict::Deny } else { Verdict::Allow };
    let rules = vec![Rule { id: RuleId(rule), matches, verdict }];
    let list = RuleList { rules, default, default_rule: RuleId(rule + 1) };
    Program::compile(list, &AddressClasses::default(), stamp)
}

pub(crate) fn guarded(program: u32) -> Guard {
    Guard::Program(ProgramId(program))
}

pub(crate) fn udp(from: [u8; 4], to: [u8; 4], ports: (u16, u16)) -> Vec<u8> {
    udp_with(from, to, ports, b"hello")
}

pub(crate) fn udp_with(from: [u8; 4], to: [u8; 4], ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ipv4(from, to, 64).udp(ports.0, ports.1);
    let mut bytes = Vec::new();
    builder.write(&mut bytes, payload).expect("a vector takes it");
    bytes
}

pub(crate) fn udp6(from: [u8; 16], to: [u8; 16], ports: (u16, u16)) -> Vec<u8> {
    let builder = PacketBuilder::ipv6(from, to, 64).udp(ports.0, ports.1);
    let mut bytes = Vec::new();
    builder.write(&mut bytes, b"hello").expect("a vector takes it");
    bytes
}

pub(crate) const SYN: &str = "S";
pub(crate) const SYN_ACK: &str = "SA";
pub(crate) const ACK: &str = "A";
pub(crate) const FIN: &str = "FA";
pub(crate) const RST: &str = "R";

pub(crate) fn tcp(from: [u8; 4], to: [u8; 4], ports: (u16, u16), flags: &str) -> Vec<u8> {
    tcp_with(from, to, ports, flags, 1000, b"")
}

pub(crate) fn tcp_with(
    from: [u8; 4],
    to: [u8; 4],
    ports: (u16, u16),
    flags: &str,
    seq: u32,
    payload: &[u8],
) -> Vec<u8> {
    let mut builder = PacketBuilder::ipv4(from, to, 64).tcp(ports.0, ports.1, seq, 1000);
    for flag in flags.chars() {
        builder = match flag {
            'S' => builder.syn(),
            'A' => builder.ack(1),
            'F' => builder.fin(),
            'R' => builder.rst(),
            other => unreachable!("no flag {other}"),
        };
    }
    let mut bytes = Vec::new();
    builder.write(&mut bytes, payload).expect("a vector takes it");
    // These tests speak of MTUs: TCP sets "don't fragment", and etherparse does.
    assert_eq!(bytes[6] & 0x40, 0x40);
    bytes
}

pub(crate) fn echo(from: [u8; 4], to: [u8; 4], id: u16, reply: bool) -> Vec<u8> {
    let builder = PacketBuilder::ipv4(from, to, 64);
    let builder =
        if reply { builder.icmpv4_echo_reply(id, 1) } else { builder.icmpv4_echo_request(id, 1) };
    let mut bytes = Vec::new();
    builder.write(&mut bytes, b"ping").expect("a vector takes it");
    bytes
}

/// An ICMP "port unreachable" about a packet.
pub(crate) fn icmp_error(from: [u8; 4], to: [u8; 4], about: &[u8]) -> Vec<u8> {
    let kind = etherparse::Icmpv4Type::DestinationUnreachable(
        etherparse::icmpv4::DestUnreachableHeader::Port,
    );
    let mut bytes = Vec::new();
    let builder = PacketBuilder::ipv4(from, to, 64).icmpv4(kind);
    builder.write(&mut bytes, &about[..28]).expect("a vector takes it");
    bytes
}

/// Rewrites an IPv4 header in place and fixes its checksum.
pub(crate) fn edit(mut packet: Vec<u8>, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    change(&mut packet);
    fix(&mut packet);
    packet
}

pub(crate) fn fix(packet: &mut [u8]) {
    let len = usize::from(packet[0] & 15) * 4;
    packet[10..12].fill(0);
    let sum = fastpath::wire::checksum::full(&packet[..len]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

pub(crate) fn ethernet(destination: [u8; 6], source: [u8; 6], ip: &[u8]) -> Vec<u8> {
    let kind: [u8; 2] = if ip[0] >> 4 == 6 { [0x86, 0xdd] } else { [8, 0] };
    [&destination[..], &source[..], &kind[..], ip].concat()
}

/// As it comes in by the uplink.
pub(crate) fn wired(ip: &[u8]) -> Vec<u8> {
    ethernet(MAC_UPLINK, MAC_FAR, ip)
}

pub(crate) fn ipip(from: [u8; 4], to: [u8; 4], inner: &[u8]) -> Vec<u8> {
    let mut packet = Packet::from_bytes(inner);
    fastpath::wire::ipip::encapsulate(&mut packet, from.into(), to.into(), 1).expect("headroom");
    packet.bytes().to_vec()
}

pub(crate) fn ttl(ip: &[u8]) -> u8 {
    ip[8]
}
