//! Which packets do tests start from? Valid ones, built by another implementation (etherparse).

use super::headers::{self, Headers};
use super::{checksum, put16};
use crate::packet::{Gso, Offload, Packet};
use etherparse::{
    IpHeaders, IpNumber, Ipv4Header, Ipv4Options, Ipv6FlowLabel, Ipv6Header, PacketBuilder,
    PacketBuilderStep, TcpHeader,
};
use proptest::prelude::*;

/// The transport part of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum L4 {
    Tcp,
    Udp,
    Icmp,
}

/// Everything that a sample packet is made from.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    pub(crate) v6: bool,
    pub(crate) l4: L4,
    pub(crate) source: u128,
    pub(crate) destination: u128,
    pub(crate) ports: (u16, u16),
    pub(crate) tos: u8,
    pub(crate) ttl: u8,
    pub(crate) dont_fragment: bool,
    pub(crate) ident: u16,
    pub(crate) seq: u32,
    /// Of CWR to FIN, those that a data segment may carry (see [`Recipe::tcp`]).
    pub(crate) flags: u8,
    /// 32-bit words of IPv4 options (no-operations).
    pub(crate) ip_options: usize,
    /// A TCP timestamp option.
    pub(crate) timestamp: Option<u32>,
    pub(crate) payload: Vec<u8>,
}

/// A plain TCP packet over IPv4.
pub(crate) fn plain() -> Recipe {
    Recipe {
        v6: false,
        l4: L4::Tcp,
        source: 0x0a41_0002,
        destination: 0x0a41_0003,
        ports: (40_000, 80),
        tos: 0,
        ttl: 64,
        dont_fragment: true,
        ident: 7,
        seq: 1_000,
        flags: 0x10,
        ip_options: 0,
        timestamp: None,
        payload: b"hello".to_vec(),
    }
}

impl Recipe {
    /// Source address as IPv4: always an ordinary unicast address.
    pub(crate) fn source_v4(&self) -> [u8; 4] {
        unicast_v4(self.source)
    }

    /// Destination address as IPv4.
    pub(crate) fn destination_v4(&self) -> [u8; 4] {
        unicast_v4(self.destination)
    }

    /// Source address as IPv6: always an ordinary unicast address.
    pub(crate) fn source_v6(&self) -> [u8; 16] {
        unicast_v6(self.source)
    }

    /// Destination address as IPv6.
    pub(crate) fn destination_v6(&self) -> [u8; 16] {
        unicast_v6(self.destination)
    }

    fn ip(&self) -> IpHeaders {
        if self.v6 {
            return IpHeaders::Ipv6(
                Ipv6Header {
                    traffic_class: self.tos,
                    flow_label: Ipv6FlowLabel::ZERO,
                    payload_length: 0,
                    next_header: IpNumber::TCP,
                    hop_limit: self.ttl,
                    source: self.source_v6(),
                    destination: self.destination_v6(),
                },
                etherparse::Ipv6Extensions::default(),
            );
        }
        let options = vec![1u8; self.ip_options * 4];
        IpHeaders::Ipv4(
            Ipv4Header {
                dscp: (self.tos >> 2).try_into().expect("six bits"),
                ecn: (self.tos & 3).try_into().expect("two bits"),
                identification: self.ident,
                dont_fragment: self.dont_fragment,
                time_to_live: self.ttl,
                source: self.source_v4(),
                destination: self.destination_v4(),
                options: Ipv4Options::try_from(options.as_slice()).expect("at most 40 bytes"),
                ..Ipv4Header::default()
            },
            etherparse::Ipv4Extensions::default(),
        )
    }

    /// The TCP header.
    pub(crate) fn tcp(&self) -> TcpHeader {
        let bit = |n: u8| self.flags >> n & 1 == 1;
        let mut tcp = TcpHeader {
            source_port: self.ports.0,
            destination_port: self.ports.1,
            sequence_number: self.seq,
            acknowledgment_number: 99,
            fin: bit(0),
            syn: bit(1),
            rst: bit(2),
            psh: bit(3),
            ack: bit(4),
            urg: bit(5),
            ece: bit(6),
            cwr: bit(7),
            window_size: 501,
            ..TcpHeader::default()
        };
        if let Some(stamp) = self.timestamp {
            let mut options = vec![1, 1, 8, 10];
            options.extend(stamp.to_be_bytes());
            options.extend([0, 0, 0, 9]);
            tcp.set_options_raw(&options).expect("twelve bytes");
        }
        tcp
    }

    /// The packet, from its IP header on, all checksums right.
    pub(crate) fn build(&self) -> Vec<u8> {
        let ip = PacketBuilder::ip(self.ip());
        let mut bytes = Vec::new();
        match self.l4 {
            L4::Tcp => ip.tcp_header(self.tcp()).write(&mut bytes, &self.payload),
            L4::Udp => ip.udp(self.ports.0, self.ports.1).write(&mut bytes, &self.payload),
            L4::Icmp => self.echo(ip, &mut bytes),
        }
        .expect("a packet that fits its length fields");
        bytes
    }

    fn echo(
        &self,
        ip: PacketBuilderStep<IpHeaders>,
        bytes: &mut Vec<u8>,
    ) -> Result<(), etherparse::err::packet::BuildWriteError> {
        if self.v6 {
            ip.icmpv6_echo_request(self.ports.0, self.ports.1).write(bytes, &self.payload)
        } else {
            ip.icmpv4_echo_request(self.ports.0, self.ports.1).write(bytes, &self.payload)
        }
    }
}

fn unicast_v4(address: u128) -> [u8; 4] {
    let [_, b, c, d] = (address as u32).to_be_bytes();
    [10, b, c, d]
}

fn unicast_v6(address: u128) -> [u8; 16] {
    let mut octets = address.to_be_bytes();
    octets[0] = 0xfd;
    octets
}

/// Any recipe, with up to `payload` bytes.
pub(crate) fn recipe(payload: usize) -> impl Strategy<Value = Recipe> {
    let l4 = prop_oneof![Just(L4::Tcp), Just(L4::Udp), Just(L4::Icmp)];
    let ip = (any::<bool>(), any::<u8>(), 2u8.., any::<bool>(), any::<u16>(), 0..=10usize);
    let ends = (any::<u128>(), any::<u128>(), any::<(u16, u16)>());
    let flags = any::<u8>().prop_map(|f| (f & 0b1101_1001) | 0x10);
    let tcp = (any::<u32>(), flags, any::<Option<u32>>());
    let payload = prop::collection::vec(any::<u8>(), 0..=payload);
    (l4, ip, ends, tcp, payload).prop_map(|(l4, ip, ends, tcp, payload)| Recipe {
        v6: ip.0,
        l4,
        source: ends.0,
        destination: ends.1,
        ports: ends.2,
        tos: ip.1,
        ttl: ip.2,
        dont_fragment: ip.3,
        ident: ip.4,
        seq: tcp.0,
        flags: tcp.1,
        ip_options: ip.5,
        timestamp: tcp.2,
        payload,
    })
}

/// Panics unless etherparse reads the packet and finds both its checksums right.
pub(crate) fn assert_checksums(ip: &[u8]) {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    let sliced = SlicedPacket::from_ip(ip).expect("a packet");
    let (v4, pair) = match sliced.net.as_ref().expect("an IP header") {
        NetSlice::Ipv4(v4) => {
            let header = v4.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum(), "IPv4 header");
            (true, (header.source.to_vec(), header.destination.to_vec()))
        }
        NetSlice::Ipv6(v6) => {
            let header = v6.header().to_header();
            (false, (header.source.to_vec(), header.destination.to_vec()))
        }
        NetSlice::Arp(_) => panic!("ARP is not IP"),
    };
    let a4 = |v: &Vec<u8>| -> [u8; 4] { v.as_slice().try_into().expect("four bytes") };
    let a6 = |v: &Vec<u8>| -> [u8; 16] { v.as_slice().try_into().expect("sixteen bytes") };
    let (found, right) = match sliced.transport.as_ref() {
        Some(TransportSlice::Tcp(tcp)) => {
            let right = if v4 {
                tcp.calc_checksum_ipv4(a4(&pair.0), a4(&pair.1))
            } else {
                tcp.calc_checksum_ipv6(a6(&pair.0), a6(&pair.1))
            };
            (tcp.checksum(), right.expect("a length that fits"))
        }
        Some(TransportSlice::Udp(udp)) => {
            let header = udp.to_header();
            let right = if v4 {
                header.calc_checksum_ipv4_raw(a4(&pair.0), a4(&pair.1), udp.payload())
            } else {
                header.calc_checksum_ipv6_raw(a6(&pair.0), a6(&pair.1), udp.payload())
            };
            (udp.checksum(), right.expect("a length that fits"))
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            let right = icmp.icmp_type().calc_checksum(icmp.payload());
            (icmp.header().checksum, right)
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            let payload = icmp.payload();
            let right = icmp.icmp_type().calc_checksum(a6(&pair.0), a6(&pair.1), payload);
            (icmp.checksum(), right.expect("a length that fits"))
        }
        other => panic!("no transport header but {other:?}"),
    };
    assert_eq!(found, right, "transport checksum");
}

/// The recipe's packet as a device hands a super-packet over: its checksum partial, its offload
/// header saying how to cut it; with the headers parsed from it.
pub(crate) fn super_packet(r: &Recipe, size: u16) -> (Packet, Headers) {
    let mut packet = Packet::from_bytes(&r.build());
    let headers = headers::parse(packet.bytes()).expect("valid");
    let (gso, csum_offset) = match (r.l4, r.v6) {
        (L4::Tcp, false) => (Gso::Tcp4, 16),
        (L4::Tcp, true) => (Gso::Tcp6, 16),
        _ => (Gso::Udp, 6),
    };
    let sum = checksum::pseudo(&headers, checksum::l4_total(&headers));
    put16(packet.bytes_mut(), usize::from(headers.l3_len + csum_offset), sum);
    *packet.offload_mut() = Offload {
        needs_checksum: true,
        gso,
        gso_size: size,
        header_len: headers.payload_offset() as u16,
        csum_start: headers.l3_len,
        csum_offset,
    };
    (packet, headers)
}
