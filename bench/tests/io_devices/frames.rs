//! What do the device tests send? Frames of every kind that an uplink sees.

use etherparse::PacketBuilder;
use fastpath::packet::{Gso, Offload, Packet};
use fastpath::wire::headers::{self, Headers};
use fastpath::wire::{checksum, ether, ipip};
use std::net::Ipv4Addr;

pub(crate) const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub(crate) const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
pub(crate) const POD: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 9);

const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A UDP datagram from the node in a frame for `mac`.
pub(crate) fn udp(mac: [u8; 6], destination: Ipv4Addr, l4_port: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(PEER_MAC, mac)
        .ipv4(NODE.octets(), destination.octets(), 64)
        .udp(4_000, l4_port)
        .write(&mut frame, b"datagram of the device tests")
        .expect("fits");
    frame
}

/// The same over IPv6.
pub(crate) fn udp6(mac: [u8; 6], destination: &str) -> Vec<u8> {
    let address = |text: &str| text.parse::<std::net::Ipv6Addr>().expect("an address").octets();
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(PEER_MAC, mac)
        .ipv6(address("fd00::2"), address(destination), 64)
        .udp(4_000, 9)
        .write(&mut frame, b"datagram of the device tests")
        .expect("fits");
    frame
}

/// A datagram to a pod inside IPIP.
pub(crate) fn ipip(mac: [u8; 6], source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
    let inner = &udp(mac, POD, 9)[14..];
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(PEER_MAC, mac)
        .ipv4(source.octets(), destination.octets(), 64)
        .write(&mut frame, etherparse::IpNumber::IPV4, inner)
        .expect("fits");
    frame
}

/// Nine thousand bytes of TCP from a pod to another, to be cut at 1400, in a frame (and a tunnel);
/// the headers are the pods' packet's own.
pub(crate) fn tcp_super_packet(tunnelled: bool) -> (Packet, Headers) {
    let mut bytes = Vec::new();
    PacketBuilder::ipv4(POD.octets(), [10, 66, 1, 9], 63)
        .tcp(4_000, 80, 77, 1_024)
        .ack(5)
        .psh()
        .write(&mut bytes, &(0..=250).cycle().take(9_000).collect::<Vec<u8>>())
        .expect("fits");
    let headers = headers::parse(&bytes).expect("a packet");
    let sum = checksum::pseudo(&headers, checksum::l4_total(&headers));
    bytes[36..38].copy_from_slice(&sum.to_be_bytes());
    let mut packet = Packet::from_bytes(&bytes);
    *packet.offload_mut() = Offload {
        needs_checksum: true,
        gso: Gso::Tcp4,
        gso_size: 1_400,
        header_len: 40,
        csum_start: 20,
        csum_offset: 16,
    };
    if tunnelled {
        ipip::encapsulate(&mut packet, ROUTER, NODE, 99).expect("headroom");
    }
    ether::push(&mut packet, PEER_MAC, [2, 0, 0, 0, 0, 1], ether::IPV4).expect("headroom");
    (packet, headers)
}

/// A frame with a VLAN tag in front of its type.
pub(crate) fn tagged(frame: &[u8]) -> Vec<u8> {
    let mut tagged = frame[..12].to_vec();
    tagged.extend([0x81, 0x00, 0x00, 0x05]);
    tagged.extend(&frame[12..]);
    tagged
}

/// The bytes of packets, for comparison.
pub(crate) fn bytes(packets: &[Packet]) -> Vec<Vec<u8>> {
    packets.iter().map(|p| p.bytes().to_vec()).collect()
}
