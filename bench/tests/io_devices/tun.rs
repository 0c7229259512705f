//! Does a TUN queue carry a pod's packets, super-packets included, and notice the pod's end?

use crate::net::{Driver, Netns};
use etherparse::{PacketBuilder, PacketHeaders, TransportHeader};
use fastpath::io::QueueError;
use fastpath::io::tun::{self, TunOptions, TunQueue, UNUSED_OWNER};
use fastpath::outcome::DropReason;
use fastpath::packet::{Gso, Packet, PortId};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

const POD: Ipv4Addr = Ipv4Addr::new(10, 65, 0, 2);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 65, 0, 3);

/// A pod's namespace with its device, addressed as the CNI plugin does.
fn pod(tag: &str, address: Ipv4Addr, options: TunOptions) -> (Netns, OwnedFd) {
    let netns = Netns::new(tag);
    let fd = netns.within(|| tun::open("eth0", options).expect("a TUN device"));
    netns.ip("link set eth0 addrgenmode none up");
    netns.ip(&format!("addr add {address}/32 dev eth0"));
    netns.ip("route add 169.254.1.1 dev eth0 scope link");
    netns.ip("route add default via 169.254.1.1 dev eth0");
    (netns, fd)
}

fn owned() -> TunOptions {
    TunOptions { owner: Some(UNUSED_OWNER), ..TunOptions::default() }
}

fn is_icmp(packet: &Packet) -> bool {
    packet.bytes().get(9) == Some(&1)
}

fn is_udp(packet: &Packet) -> bool {
    packet.bytes().get(9) == Some(&17)
}

#[test]
fn an_echo_request_comes_out_and_its_reply_goes_in() {
    let (netns, fd) = pod("echo", POD, owned());
    let mut driver = Driver::new(TunQueue::new(PortId(7), fd));
    std::thread::scope(|scope| {
        let ping = scope.spawn(|| netns.succeeds("ping -c 1 -W 4 10.65.0.3"));
        let request = driver.wait_for(is_icmp).expect("the echo request");
        assert_eq!(request.in_port(), PortId(7));
        let headers = PacketHeaders::from_ip_slice(request.bytes()).expect("an IP packet");
        let TransportHeader::Icmpv4(icmp) = headers.transport.expect("ICMP") else {
            panic!("not ICMP")
        };
        let etherparse::Icmpv4Type::EchoRequest(echo) = icmp.icmp_type else { panic!("no echo") };
        let mut reply = Vec::new();
        PacketBuilder::ipv4(OTHER.octets(), POD.octets(), 64)
            .icmpv4_echo_reply(echo.id, echo.seq)
            .write(&mut reply, headers.payload.slice())
            .expect("fits");
        let sent = driver.send(Packet::from_bytes(&reply));
        assert_eq!((sent.packets, sent.bytes, sent.refused), (1, reply.len(), 0));
        assert!(ping.join().expect("no panic"), "ping saw the reply");
    });
    assert_eq!(driver.pool.available(), 128, "slots went back");
}

#[test]
fn tcp_passes_between_two_pods_in_super_packets() {
    let (client, client_fd) = pod("tcpa", POD, owned());
    let (server, server_fd) = pod("tcpb", OTHER, owned());
    let mut from = Driver::new(TunQueue::new(PortId(1), client_fd));
    let mut to = Driver::new(TunQueue::new(PortId(2), server_fd));
    let listener = server.within(|| TcpListener::bind((OTHER, 7000)).expect("listen"));
    let bytes = 4_000_000;
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            client.within(|| {
                let mut stream = TcpStream::connect((OTHER, 7000)).expect("connect");
                stream.write_all(&vec![0x5a; bytes]).expect("write");
            });
        });
        let receiver = scope.spawn(|| {
            let (mut stream, _) = listener.accept().expect("accept");
            let mut all = Vec::new();
            stream.read_to_end(&mut all).expect("read");
            all
        });
        let mut largest = 0;
        while !receiver.is_finished() {
            for back in [false, true] {
                let (source, target) =
                    if back { (&mut to, &mut from) } else { (&mut from, &mut to) };
                let mut batch = source.receive().expect("alive");
                for packet in &batch {
                    if packet.offload().gso == Gso::Tcp4 {
                        assert!(packet.offload().needs_checksum && packet.offload().gso_size > 500);
                        assert_eq!(packet.offload().csum_start, 20);
                        assert_eq!(packet.offload().csum_offset, 16);
                        largest = largest.max(packet.len());
                    }
                }
                let sent = target.queue.transmit(&mut target.pool, &mut batch);
                assert_eq!(sent.refused, 0, "{sent:?}");
            }
            from.sleep(1);
        }
        sender.join().expect("sent");
        let all = receiver.join().expect("received");
        assert!(all.len() == bytes && all.iter().all(|b| *b == 0x5a));
        assert!(largest > 10_000, "largest super-packet: {largest} bytes");
    });
}

#[test]
fn a_partial_checksum_is_finished_by_the_device() {
    let (netns, fd) = pod("csum", POD, owned());
    let socket = netns.within(|| UdpSocket::bind((POD, 9000)).expect("bind"));
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
    let mut driver = Driver::new(TunQueue::new(PortId(1), fd));
    let mut bytes = Vec::new();
    PacketBuilder::ipv4(OTHER.octets(), POD.octets(), 64)
        .udp(53, 9000)
        .write(&mut bytes, b"partial")
        .expect("fits");
    // The pseudo-header sum alone: addresses, protocol and length.
    let words = bytes[12..20].chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1]));
    let mut sum: u32 = words.sum::<u32>() + 17 + (8 + 7);
    sum = (sum & 0xffff) + (sum >> 16);
    bytes[26..28].copy_from_slice(&(sum as u16).to_be_bytes());
    let mut packet = Packet::from_bytes(&bytes);
    // Without the mark it is a wrong checksum and the socket sees nothing.
    packet.offload_mut().needs_checksum = true;
    (packet.offload_mut().csum_start, packet.offload_mut().csum_offset) = (20, 6);
    assert_eq!(driver.send(packet).packets, 1);
    let mut buffer = [0; 64];
    let len = socket.recv(&mut buffer).expect("delivered");
    assert_eq!(&buffer[..len], b"partial");
}

#[test]
fn what_does_not_fit_is_refused_for_a_reason() {
    let (netns, fd) = pod("refuse", POD, owned());
    let mut driver = Driver::new(TunQueue::new(PortId(1), fd));
    let mut bad = Packet::from_bytes(&[0x45; 40]);
    bad.offload_mut().needs_checksum = true;
    bad.offload_mut().csum_start = 4_000;
    assert_eq!(driver.send(bad).reason, Some(DropReason::DeviceError));
    driver.drain(200);
    netns.ip("link set eth0 down");
    let sent = driver.send(Packet::from_bytes(&[0x45; 40]));
    assert_eq!((sent.refused, sent.reason), (1, Some(DropReason::DeviceError)));
    assert!(driver.receive().expect("down is not gone").is_empty());
}

#[test]
fn a_deleted_link_is_reported_as_gone() {
    let (netns, fd) = pod("gone", POD, TunOptions { persist: true, ..owned() });
    let mut driver = Driver::new(TunQueue::new(PortId(1), fd));
    netns.ip("link del eth0");
    assert!(driver.sleep(2000), "the descriptor wakes its worker");
    assert_eq!(driver.receive().err(), Some(QueueError::Gone));
    let sent = driver.send(Packet::from_bytes(&[0x45; 40]));
    assert_eq!(sent.reason, Some(DropReason::PortGone));
}

#[test]
fn the_descriptor_follows_its_device_and_keeps_others_out() {
    let (netns, fd) = pod("name", POD, TunOptions { persist: true, ..owned() });
    netns.ip("link set eth0 down");
    netns.ip("link set eth0 name cali0 up");
    assert_eq!(tun::current_name(fd.as_fd()).expect("alive"), "cali0");
    tun::prepare(fd.as_fd()).expect("a device of ours can be prepared again");
    tun::current_netns(fd.as_fd()).expect("its namespace");
    let busy = netns.within(|| tun::open("cali0", owned()).err());
    assert!(busy.expect("refused").to_string().contains("cali0"));
    tun::set_carrier(fd.as_fd(), false).expect("carrier");
    assert!(netns.ip("link show cali0").contains("NO-CARRIER"));
    // It outlives its descriptor, with addresses, and is taken up again by name.
    drop(fd);
    assert!(netns.ip("addr show cali0").contains("10.65.0.2"));
    let again = netns.within(|| tun::open("cali0", owned()).expect("attach again"));
    assert_eq!(tun::current_name(again.as_fd()).expect("alive"), "cali0");
}

#[test]
fn several_queues_share_what_a_pod_sends() {
    let options = TunOptions { multi_queue: true, ..owned() };
    let (netns, first) = pod("queues", POD, options);
    let second = netns.within(|| tun::open("eth0", options).expect("a second queue"));
    let mut drivers = [first, second].map(|fd| Driver::new(TunQueue::new(PortId(1), fd)));
    netns.within(|| {
        for _ in 0..64 {
            let socket = UdpSocket::bind((POD, 0)).expect("bind");
            socket.send_to(b"x", (OTHER, 9)).expect("send");
        }
    });
    let counts = drivers.each_mut().map(|d| d.drain(200).iter().filter(|p| is_udp(p)).count());
    assert_eq!(counts.iter().sum::<usize>(), 64);
    assert!(counts.iter().all(|n| *n > 0), "{counts:?}");
}
