//! How does a packet's stay end? Exactly one [`Outcome`]; each reason is a counter.

/// How a packet's stay in the router ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Handed to a port (a local pod, the host, an uplink).
    Forwarded,
    /// Handed to the control plane.
    Punted(PuntReason),
    /// Gone, for a named reason.
    Dropped(DropReason),
}

macro_rules! reasons {
    ($(#[$meta:meta])* $kind:ident { $($variant:ident = $name:literal, $text:literal;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $kind { $(#[doc = $text] $variant,)* }

        impl $kind {
            /// Every reason, in counter order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// How many reasons there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The stable name: counters, JSON and metrics use it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One sentence for an operator.
            pub const fn describe(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The counter's index.
            pub const fn index(self) -> usize {
                self as usize
            }
        }
    };
}

reasons! {
    /// Why a packet was dropped.
    DropReason {
        EthernetTruncated = "ethernet-truncated", "the frame ends inside its Ethernet header";
        NotIp = "not-ip", "the frame carries neither IPv4 nor IPv6 (nor what the control plane answers)";
        NotForUs = "not-for-us", "the frame's destination MAC address is not this router's";
        Ipv4Truncated = "ipv4-truncated", "the packet ends inside its IPv4 header";
        Ipv4Version = "ip-version", "the IP version is neither 4 nor 6";
        Ipv4HeaderLength = "ipv4-header-length", "the IPv4 header length is below 20 bytes";
        Ipv4TotalLength = "ipv4-total-length", "the IPv4 total length does not fit header or packet";
        Ipv4Checksum = "ipv4-checksum", "the IPv4 header checksum is wrong";
        Ipv4Options = "ipv4-options", "the IPv4 options are malformed or source-route the packet";
        Ipv6Truncated = "ipv6-truncated", "the packet ends inside its IPv6 header";
        Ipv6PayloadLength = "ipv6-payload-length", "the IPv6 payload length does not fit the packet";
        Ipv6Extensions = "ipv6-extensions", "the IPv6 extension headers are malformed or too many";
        L4Truncated = "l4-truncated", "the packet ends inside its TCP, UDP, SCTP or ICMP header";
        L4Length = "l4-length", "the TCP data offset or the UDP length is below its minimum or does not fit the packet";
        SourceInvalid = "source-invalid", "the source is a multicast, broadcast, loopback or unspecified address";
        DestinationInvalid = "destination-invalid", "the destination is an address that no router forwards to";
        SourceSpoofed = "source-spoofed", "a pod sent with a source address that is not its own";
        SourceLocal = "source-local", "a packet from the network whose source is an address of this node or of its pods";
        LinkLocalMulticast = "link-local-multicast", "link-local multicast a pod's kernel sends by itself (router solicitations, reports): expected, not forwarded";
        OffloadSegmentSize = "offload-segment-size", "the offload header's segment size is missing or below 256 bytes";
        OffloadBounds = "offload-bounds", "the offload header points outside its packet";
        OffloadKind = "offload-kind", "the offload header contradicts the packet's own headers";
        FragmentOverlap = "fragment-overlap", "a fragment overlaps another of its datagram";
        FragmentTiny = "fragment-tiny", "a first fragment too small to hold its transport header";
        FragmentRange = "fragment-range", "a fragment is no multiple of 8 bytes or ends beyond the longest packet";
        FragmentNoFirst = "fragment-no-first", "a later fragment whose first was never seen (or is too long ago)";
        FragmentTable = "fragment-table-full", "too many fragmented datagrams at once";
        TunnelPeer = "tunnel-peer", "IPIP from an address that is no node";
        TunnelFromPod = "tunnel-from-pod", "a pod sent IPIP";
        TunnelNested = "tunnel-nested", "IPIP inside IPIP";
        TunnelInner = "tunnel-inner", "what IPIP carries is not an IPv4 packet";
        TunnelFragment = "tunnel-fragment", "a fragment of an IPIP packet (tunnels are not reassembled)";
        TunnelInnerLocal = "tunnel-inner-local", "the inner source of a tunnelled packet is an address of this node";
        TunnelNotLocal = "tunnel-not-local", "IPIP whose outer destination is not this node";
        TunnelEcn = "tunnel-ecn", "congestion was marked on the outer header of a packet whose inner one can't carry it (RFC 6040)";
        TtlExpired = "ttl-expired", "the TTL or hop limit ran out and no ICMP error may answer";
        NoRoute = "no-route", "no route to the destination";
        Blackhole = "blackhole", "the route says blackhole (an address of this node's blocks that no pod has)";
        Unreachable = "unreachable", "the route says unreachable";
        Prohibited = "prohibited", "the route says prohibit";
        NeighbourUnresolved = "neighbour-unresolved", "the next hop's MAC address is not known (yet)";
        NoPolicyYet = "no-policy-yet", "the endpoint's policy is not in force yet, so it is closed";
        PolicyEgress = "policy-egress", "denied by the source pod's egress policy";
        PolicyIngress = "policy-ingress", "denied by the destination pod's ingress policy";
        ConnectionTable = "connection-table-full", "the connection table is full";
        ConnectionInvalid = "connection-invalid", "the packet does not fit its connection's state";
        MtuExceeded = "mtu-exceeded", "larger than the path takes, and no ICMP error may answer";
        NoHeadroom = "no-headroom", "no room in front of the packet for its new headers";
        PortGone = "port-gone", "the port it should leave by does not exist (any more)";
        QueueFull = "queue-full", "the device did not take it";
        DeviceError = "device-error", "the device refused it";
        PuntRing = "punt-ring-full", "the control plane did not keep up";
        InjectRing = "inject-ring-full", "packets of the control plane that did not fit";
        PoolEmpty = "pool-empty", "no packet slot was free";
        Hairpin = "hairpin", "the route leads back out of the port and pod it came from";
        FaultInjected = "fault-injected", "dropped by the fault injector of a test";
    }
}

reasons! {
    /// Why a packet was handed to the control plane.
    PuntReason {
        LocalIcmp = "local-icmp", "ICMP to one of the router's own addresses";
        TtlExpired = "ttl-expired", "the TTL or hop limit ran out: ICMP time exceeded goes back";
        FragmentationNeeded = "fragmentation-needed", "larger than the path takes: ICMP goes back";
        Unreachable = "unreachable", "no way on: ICMP destination unreachable goes back";
        UnresolvedNeighbour = "unresolved-neighbour", "held until the next hop's MAC address is known";
        ArpOrNd = "arp-or-nd", "address resolution on a veth pod port";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_name_and_a_sentence() {
        let mut names: Vec<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropReason::COUNT);
        for (i, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), i);
            assert!(reason.describe().len() > 10, "{}", reason.name());
        }
        assert!(PuntReason::ALL.iter().all(|r| r.describe().len() > 10));
    }
}
