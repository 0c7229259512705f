//! Who answers ARP and neighbour discovery on a pod's Ethernet port? The router, for every
//! address but the pod's own (a point-to-point link has nobody else on it).
//!
//! On uplinks the kernel does it; TUN ports know no neighbours at all.

use etherparse::icmpv6::NeighborAdvertisementHeader;
use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, Icmpv6Type, NetSlice, PacketBuilder,
    SlicedPacket, TransportSlice,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The Ethernet frame that answers `frame`, if it is a request for an address that is not among
/// `pod_addresses`.
pub fn answer(frame: &[u8], router_mac: [u8; 6], pod_addresses: &[IpAddr]) -> Option<Vec<u8>> {
    let parsed = SlicedPacket::from_ethernet(frame).ok()?;
    match &parsed.net {
        Some(NetSlice::Arp(_)) => arp(frame, router_mac, pod_addresses),
        Some(NetSlice::Ipv6(_)) => neighbour_advertisement(&parsed, router_mac, pod_addresses),
        _ => None,
    }
}

fn arp(frame: &[u8], router_mac: [u8; 6], pod_addresses: &[IpAddr]) -> Option<Vec<u8>> {
    let request = ArpPacket::from_slice(frame.get(14..)?).ok()?.try_eth_ipv4().ok()?;
    let target = Ipv4Addr::from(request.target_ipv4);
    // A probe for one's own address (RFC 5227) must stay unanswered.
    if request.operation != ArpOperation::REQUEST || pod_addresses.contains(&IpAddr::V4(target)) {
        return None;
    }
    let reply = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        ArpOperation::REPLY,
        &router_mac,
        &request.target_ipv4,
        &request.sender_mac,
        &request.sender_ipv4,
    )
    .ok()?;
    let builder = PacketBuilder::ethernet2(router_mac, request.sender_mac).arp(reply);
    let mut out = Vec::with_capacity(builder.size());
    builder.write(&mut out).ok()?;
    Some(out)
}

/// RFC 4861 §7.2.4.
fn neighbour_advertisement(
    parsed: &SlicedPacket<'_>,
    router_mac: [u8; 6],
    pod_addresses: &[IpAddr],
) -> Option<Vec<u8>> {
    let (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Icmpv6(icmp))) =
        (&parsed.net, &parsed.transport)
    else {
        return None;
    };
    let header = ip.header();
    // §7.1.1: hop limit 255, or it came from another link.
    if icmp.icmp_type() != Icmpv6Type::NeighborSolicitation || header.hop_limit() != 255 {
        return None;
    }
    let target: [u8; 16] = icmp.payload().get(..16)?.try_into().ok()?;
    let asker = header.source_addr();
    let address = Ipv6Addr::from(target);
    // An unspecified source is duplicate address detection: nobody else is on this link.
    if asker.is_unspecified()
        || address.is_multicast()
        || pod_addresses.contains(&IpAddr::V6(address))
    {
        return None;
    }
    let to_mac = parsed.link.as_ref().and_then(|l| l.to_header()?.ethernet2())?.source;
    let kind = Icmpv6Type::NeighborAdvertisement(NeighborAdvertisementHeader {
        router: true,
        solicited: true,
        r#override: true,
    });
    let mut body = target.to_vec();
    // Option 2, target link-layer address, one unit of 8 bytes (§4.6.1).
    body.extend([2, 1]);
    body.extend(router_mac);
    let builder =
        PacketBuilder::ethernet2(router_mac, to_mac).ipv6(target, asker.octets(), 255).icmpv6(kind);
    let mut out = Vec::with_capacity(builder.size(body.len()));
    builder.write(&mut out, &body).ok()?;
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTER: [u8; 6] = [0xee; 6];
    const POD: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn request(target: [u8; 4]) -> Vec<u8> {
        let arp = ArpPacket::new(
            ArpHardwareId::ETHERNET,
            EtherType::IPV4,
            ArpOperation::REQUEST,
            &POD,
            &[192, 168, 0, 2],
            &[0; 6],
            &target,
        )
        .expect("sizes match");
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(POD, [0xff; 6]).arp(arp).write(&mut frame).expect("fits");
        frame
    }

    #[test]
    fn the_gateway_is_answered_and_the_pods_own_address_is_not() {
        let own = [IpAddr::from([192, 168, 0, 2])];
        let reply = answer(&request([169, 254, 1, 1]), ROUTER, &own).expect("an answer");
        let arp = ArpPacket::from_slice(&reply[14..]).expect("ARP").try_eth_ipv4().expect("IPv4");
        assert_eq!(arp.operation, ArpOperation::REPLY);
        assert_eq!((arp.sender_mac, arp.sender_ipv4), (ROUTER, [169, 254, 1, 1]));
        assert_eq!((arp.target_mac, arp.target_ipv4), (POD, [192, 168, 0, 2]));
        assert_eq!(&reply[..12], [POD, ROUTER].concat());
        assert_eq!(answer(&request([192, 168, 0, 2]), ROUTER, &own), None);
    }

    #[test]
    fn neighbour_solicitations_are_answered() {
        let gateway = Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee);
        let pod = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
        let solicit = |hops| {
            let mut frame = Vec::new();
            PacketBuilder::ethernet2(POD, [0x33, 0x33, 0xff, 0, 0, 1])
                .ipv6(pod.octets(), gateway.octets(), hops)
                .icmpv6(Icmpv6Type::NeighborSolicitation)
                .write(&mut frame, &gateway.octets())
                .expect("fits");
            frame
        };
        let reply = answer(&solicit(255), ROUTER, &[IpAddr::V6(pod)]).expect("an answer");
        let parsed = SlicedPacket::from_ethernet(&reply).expect("a frame");
        let Some(TransportSlice::Icmpv6(icmp)) = &parsed.transport else { panic!("ICMPv6") };
        assert!(matches!(icmp.icmp_type(), Icmpv6Type::NeighborAdvertisement(h) if h.solicited));
        assert!(icmp.is_checksum_valid(gateway.octets(), pod.octets()));
        assert_eq!(&icmp.payload()[16..], [&[2, 1][..], &ROUTER].concat());
        assert_eq!(answer(&solicit(64), ROUTER, &[]), None);
    }
}
