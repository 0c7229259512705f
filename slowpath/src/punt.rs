//! What goes back for a punted packet? ICMP echo replies and errors, rate-limited.
//!
//! Pure: bytes and a time in, bytes out. The caller injects the answer.

use etherparse::icmpv4::{DestUnreachableHeader, TimeExceededCode};
use etherparse::icmpv6;
use etherparse::{Icmpv4Type, Icmpv6Type, IpNumber, NetSlice, PacketBuilder, SlicedPacket};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Longest ICMP error (RFC 1812 §4.3.2.3).
const ERROR_MAX_V4: usize = 576;
/// Longest `ICMPv6` error: the minimum MTU (RFC 4443 §2.4 c).
const ERROR_MAX_V6: usize = 1280;
/// Time to live of what the router itself sends.
const TTL: u8 = 64;
/// Answers per second, to everybody.
const RATE_TOTAL: f64 = 2_000.0;
/// Answers per second, to one address.
const RATE_EACH: f64 = 100.0;
/// Addresses whose rate is remembered.
const ADDRESSES: usize = 1_024;

/// What is to be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Echo reply, if it is an echo request.
    Echo,
    /// The TTL or hop limit ran out.
    TimeExceeded,
    /// The next link takes at most this many bytes (RFC 1191, RFC 8201).
    TooBig(u16),
    /// No route.
    NoRoute,
    /// The next hop does not answer.
    HostUnreachable,
    /// A route says prohibit.
    Prohibited,
    /// Nobody listens at the router's own address.
    PortUnreachable,
}

/// Builds answers, within limits.
#[derive(Debug)]
pub struct Answerer {
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    total: Bucket,
    each: HashMap<IpAddr, Bucket>,
    /// Answers not given because of the limits.
    pub suppressed: u64,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn take(&mut self, rate: f64, now: Instant) -> bool {
        // A burst of a tenth of a second's worth, at least ten.
        let burst = (rate / 10.0).max(10.0);
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * rate).min(burst);
        self.at = now;
        let ok = self.tokens >= 1.0;
        if ok {
            self.tokens -= 1.0;
        }
        ok
    }
}

impl Answerer {
    /// Answers come from these addresses of the router (errors; echo replies come from the
    /// address that was asked).
    pub fn new(v4: Ipv4Addr, v6: Ipv6Addr, now: Instant) -> Self {
        let total = Bucket { tokens: RATE_TOTAL / 10.0, at: now };
        Self { v4, v6, total, each: HashMap::new(), suppressed: 0 }
    }

    /// The addresses errors come from.
    pub fn set_addresses(&mut self, v4: Ipv4Addr, v6: Ipv6Addr) {
        (self.v4, self.v6) = (v4, v6);
    }

    /// The IP packet that answers `packet` (from its IP header on), if one may go back.
    pub fn answer(&mut self, packet: &[u8], what: Answer, now: Instant) -> Option<Vec<u8>> {
        let parsed = SlicedPacket::from_ip(packet).ok()?;
        let reply = match (&parsed.net, what) {
            (Some(NetSlice::Ipv4(_)), Answer::Echo) => echo_v4(&parsed),
            (Some(NetSlice::Ipv6(_)), Answer::Echo) => echo_v6(&parsed),
            (Some(NetSlice::Ipv4(_)), _) => self.error_v4(&parsed, packet, what),
            (Some(NetSlice::Ipv6(_)), _) => self.error_v6(&parsed, packet, what),
            _ => None,
        }?;
        let to = match SlicedPacket::from_ip(&reply).ok()?.net? {
            NetSlice::Ipv4(ip) => IpAddr::V4(ip.header().destination_addr()),
            NetSlice::Ipv6(ip) => IpAddr::V6(ip.header().destination_addr()),
            NetSlice::Arp(_) => return None,
        };
        if self.allowed(to, now) {
            Some(reply)
        } else {
            self.suppressed += 1;
            None
        }
    }

    fn allowed(&mut self, to: IpAddr, now: Instant) -> bool {
        if !self.each.contains_key(&to) && self.each.len() >= ADDRESSES {
            // Those that are full again have nothing to remember.
            self.each
                .retain(|_, b| now.saturating_duration_since(b.at) < Duration::from_millis(200));
            if self.each.len() >= ADDRESSES {
                return false;
            }
        }
        let fresh = Bucket { tokens: RATE_EACH / 10.0, at: now };
        self.each.entry(to).or_insert(fresh).take(RATE_EACH, now)
            && self.total.take(RATE_TOTAL, now)
    }

    fn error_v4(&self, parsed: &SlicedPacket<'_>, packet: &[u8], what: Answer) -> Option<Vec<u8>> {
        let Some(NetSlice::Ipv4(ip)) = &parsed.net else { return None };
        let header = ip.header();
        // RFC 1122 §3.2.2: never about an ICMP error, a later fragment, or what was not sent
        // from one host to one host.
        let source = header.source_addr();
        let destination = header.destination_addr();
        if header.fragments_offset().value() != 0
            || source.is_unspecified()
            || source.is_multicast()
            || source.is_broadcast()
            || source.is_loopback()
            || destination.is_multicast()
            || destination.is_broadcast()
            || is_icmp_error_v4(header.protocol(), ip.payload().payload)
        {
            return None;
        }
        let kind = match what {
            Answer::TimeExceeded => {
                Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit)
            }
            Answer::TooBig(mtu) => {
                Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded {
                    next_hop_mtu: mtu,
                })
            }
            Answer::NoRoute => Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Network),
            Answer::HostUnreachable => {
                Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Host)
            }
            Answer::Prohibited => {
                Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FilterProhibited)
            }
            Answer::PortUnreachable => {
                Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port)
            }
            Answer::Echo => return None,
        };
        let quoted = &packet[..packet.len().min(ERROR_MAX_V4 - 28)];
        let builder = PacketBuilder::ipv4(self.v4.octets(), source.octets(), TTL).icmpv4(kind);
        built(builder.size(quoted.len()), |out| builder.write_to_vec(out, quoted).is_ok())
    }

    fn error_v6(&self, parsed: &SlicedPacket<'_>, packet: &[u8], what: Answer) -> Option<Vec<u8>> {
        let Some(NetSlice::Ipv6(ip)) = &parsed.net else { return None };
        let header = ip.header();
        let source = header.source_addr();
        let payload = ip.payload();
        let is_error = payload.ip_number == IpNumber::IPV6_ICMP
            && payload.payload.first().is_some_and(|kind| *kind < 128);
        // RFC 4443 §2.4 e: multicast destinations only for packet too big.
        let multicast = header.destination_addr().is_multicast();
        if source.is_unspecified()
            || source.is_multicast()
            || is_error
            || (multicast && !matches!(what, Answer::TooBig(_)))
        {
            return None;
        }
        let unreachable = Icmpv6Type::DestinationUnreachable;
        let kind = match what {
            Answer::TimeExceeded => {
                Icmpv6Type::TimeExceeded(icmpv6::TimeExceededCode::HopLimitExceeded)
            }
            Answer::TooBig(mtu) => Icmpv6Type::PacketTooBig { mtu: u32::from(mtu) },
            Answer::NoRoute => unreachable(icmpv6::DestUnreachableCode::NoRoute),
            Answer::HostUnreachable => unreachable(icmpv6::DestUnreachableCode::Address),
            Answer::Prohibited => unreachable(icmpv6::DestUnreachableCode::Prohibited),
            Answer::PortUnreachable => unreachable(icmpv6::DestUnreachableCode::Port),
            Answer::Echo => return None,
        };
        let quoted = &packet[..packet.len().min(ERROR_MAX_V6 - 48)];
        let builder = PacketBuilder::ipv6(self.v6.octets(), source.octets(), TTL).icmpv6(kind);
        built(builder.size(quoted.len()), |out| builder.write_to_vec(out, quoted).is_ok())
    }
}

fn echo_v4(parsed: &SlicedPacket<'_>) -> Option<Vec<u8>> {
    let Some(NetSlice::Ipv4(ip)) = &parsed.net else { return None };
    let Some(etherparse::TransportSlice::Icmpv4(icmp)) = &parsed.transport else { return None };
    let Icmpv4Type::EchoRequest(echo) = icmp.icmp_type() else { return None };
    let header = ip.header();
    let builder = PacketBuilder::ipv4(header.destination(), header.source(), TTL)
        .icmpv4(Icmpv4Type::EchoReply(echo));
    let data = icmp.payload();
    built(builder.size(data.len()), |out| builder.write_to_vec(out, data).is_ok())
}

fn echo_v6(parsed: &SlicedPacket<'_>) -> Option<Vec<u8>> {
    let Some(NetSlice::Ipv6(ip)) = &parsed.net else { return None };
    let Some(etherparse::TransportSlice::Icmpv6(icmp)) = &parsed.transport else { return None };
    let Icmpv6Type::EchoRequest(echo) = icmp.icmp_type() else { return None };
    let header = ip.header();
    let builder = PacketBuilder::ipv6(header.destination(), header.source(), TTL)
        .icmpv6(Icmpv6Type::EchoReply(echo));
    let data = icmp.payload();
    built(builder.size(data.len()), |out| builder.write_to_vec(out, data).is_ok())
}

fn is_icmp_error_v4(protocol: IpNumber, payload: &[u8]) -> bool {
    // Unreachable, source quench, redirect, time exceeded, parameter problem.
    protocol == IpNumber::ICMP && payload.first().is_some_and(|t| matches!(t, 3 | 4 | 5 | 11 | 12))
}

fn built(size: usize, write: impl FnOnce(&mut Vec<u8>) -> bool) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(size);
    write(&mut out).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{Icmpv4Slice, Icmpv6Slice};

    const ME4: Ipv4Addr = Ipv4Addr::new(10, 1, 5, 11);
    const ME6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);

    fn udp4(payload: usize) -> Vec<u8> {
        let mut out = Vec::new();
        PacketBuilder::ipv4([192, 168, 0, 2], [192, 168, 9, 9], 1)
            .udp(1000, 53)
            .write(&mut out, &vec![7; payload])
            .expect("fits");
        out
    }

    fn icmp4(packet: &[u8]) -> (Ipv4Addr, Ipv4Addr, Icmpv4Type, Vec<u8>) {
        let parsed = SlicedPacket::from_ip(packet).expect("an IP packet");
        let Some(NetSlice::Ipv4(ip)) = &parsed.net else { panic!("IPv4") };
        let icmp = Icmpv4Slice::from_slice(ip.payload().payload).expect("ICMP");
        let sum = etherparse::checksum::Sum16BitWords::new()
            .add_slice(ip.payload().payload)
            .ones_complement();
        assert_eq!(sum, 0, "ICMP checksum");
        let header = ip.header();
        (header.source_addr(), header.destination_addr(), icmp.icmp_type(), icmp.payload().to_vec())
    }

    #[test]
    fn too_big_quotes_the_packet_and_names_the_mtu() {
        let now = Instant::now();
        let mut a = Answerer::new(ME4, ME6, now);
        let packet = udp4(1400);
        let reply = a.answer(&packet, Answer::TooBig(1480), now).expect("an answer");
        let (source, destination, kind, quoted) = icmp4(&reply);
        assert_eq!((source, destination), (ME4, Ipv4Addr::new(192, 168, 0, 2)));
        let wanted = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1480 };
        assert_eq!(kind, Icmpv4Type::DestinationUnreachable(wanted));
        assert_eq!(quoted, packet[..ERROR_MAX_V4 - 28]);
    }

    #[test]
    fn errors_are_never_answered_with_errors() {
        let now = Instant::now();
        let mut a = Answerer::new(ME4, ME6, now);
        let error = a.answer(&udp4(10), Answer::TimeExceeded, now).expect("an answer");
        assert_eq!(a.answer(&error, Answer::TimeExceeded, now), None);
        let mut fragment = udp4(10);
        fragment[7] = 1;
        assert_eq!(a.answer(&fragment, Answer::NoRoute, now), None);
        let mut multicast = udp4(10);
        multicast[16] = 224;
        assert_eq!(a.answer(&multicast, Answer::NoRoute, now), None);
    }

    #[test]
    fn echo_is_answered_from_the_address_that_was_asked() {
        let now = Instant::now();
        let mut a = Answerer::new(ME4, ME6, now);
        let mut ping = Vec::new();
        PacketBuilder::ipv4([192, 168, 0, 2], [169, 254, 1, 1], 64)
            .icmpv4_echo_request(7, 9)
            .write(&mut ping, b"abc")
            .expect("fits");
        let reply = a.answer(&ping, Answer::Echo, now).expect("an answer");
        let (source, destination, kind, data) = icmp4(&reply);
        assert_eq!(source, Ipv4Addr::new(169, 254, 1, 1));
        assert_eq!(destination, Ipv4Addr::new(192, 168, 0, 2));
        assert!(matches!(kind, Icmpv4Type::EchoReply(e) if e.id == 7 && e.seq == 9));
        assert_eq!(data, b"abc");
        assert_eq!(a.answer(&udp4(1), Answer::Echo, now), None);
    }

    #[test]
    fn icmpv6_packet_too_big() {
        let now = Instant::now();
        let mut a = Answerer::new(ME4, ME6, now);
        let mut packet = Vec::new();
        let (from, to) = ([0xfd; 16], [0xfe; 16]);
        PacketBuilder::ipv6(from, to, 9).udp(1, 2).write(&mut packet, &[0; 2000]).expect("fits");
        let reply = a.answer(&packet, Answer::TooBig(1400), now).expect("an answer");
        assert_eq!(reply.len(), ERROR_MAX_V6);
        let parsed = SlicedPacket::from_ip(&reply).expect("IPv6");
        let Some(NetSlice::Ipv6(ip)) = &parsed.net else { panic!("IPv6") };
        let icmp = Icmpv6Slice::from_slice(ip.payload().payload).expect("ICMPv6");
        assert_eq!(icmp.icmp_type(), Icmpv6Type::PacketTooBig { mtu: 1400 });
        assert!(icmp.is_checksum_valid(ME6.octets(), from));
    }

    #[test]
    fn answers_are_limited_per_address_and_recover() {
        let now = Instant::now();
        let mut a = Answerer::new(ME4, ME6, now);
        let packet = udp4(1);
        let given = (0..1000).filter(|_| a.answer(&packet, Answer::NoRoute, now).is_some()).count();
        assert_eq!(given, 10);
        assert_eq!(a.suppressed, 990);
        assert!(a.answer(&packet, Answer::NoRoute, now + Duration::from_secs(1)).is_some());
    }
}
