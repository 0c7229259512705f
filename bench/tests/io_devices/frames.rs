//! What do the device tests send? Frames of every kind that an uplink sees.

use etherparse::PacketBuilder;
use fastpath::packet::Packet;
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
