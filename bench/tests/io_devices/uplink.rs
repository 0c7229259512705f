//! Do all forms of an uplink take the same packets, leave the rest to the kernel, and let go?

use crate::frames::{
    NODE, POD, ROUTER, STRANGER, bytes, ipip, tagged, tcp_super_packet, udp, udp6,
};
use crate::net::{Driver, Netns};
use fastpath::batch::Batch;
use fastpath::io::netdev::Netdev;
use fastpath::io::packet_socket::PacketQueue;
use fastpath::io::steer::{Steer, Take, UplinkMode};
use fastpath::io::uplink::nft::NftDrop;
use fastpath::io::uplink::{
    Sets, Uplink, UplinkControl, UplinkError, UplinkIo, UplinkOptions, open_uplink, open_veth_pod,
};
use fastpath::io::xdp::XdpQueue;
use fastpath::io::{Framing, QueueError};
use fastpath::packet::{Gso, Packet, Pool, PortId};
use fastpath::wire::gso;
use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

const FORMS: [(UplinkIo, UplinkMode); 3] = [
    (UplinkIo::Xdp, UplinkMode::Native),
    (UplinkIo::XdpGeneric, UplinkMode::Generic),
    (UplinkIo::Packet, UplinkMode::PacketSocket),
];

/// A router's namespace and another node's, joined by a veth pair (`up0` in both).
struct Link {
    router: Netns,
    peer: Netns,
}

/// What an uplink says of itself.
struct Facts {
    mode: UplinkMode,
    notes: Vec<String>,
    mac: [u8; 6],
    mtu: u32,
    is_veth: bool,
    partial_checksums: bool,
}

impl Link {
    fn new(tag: &str) -> Self {
        Self::with(tag, "")
    }

    fn with(tag: &str, options: &str) -> Self {
        let (router, peer) = (Netns::new(&format!("{tag}r")), Netns::new(&format!("{tag}p")));
        router.ip(&format!(
            "link add up0 {options} type veth peer name up0 {options} netns {}",
            peer.name()
        ));
        for (netns, address) in [(&router, ROUTER), (&peer, NODE)] {
            netns.ip("link set up0 addrgenmode none up");
            netns.ip(&format!("addr add {address}/24 dev up0"));
        }
        Self { router, peer }
    }

    fn open(&self, io: UplinkIo, sets: Sets) -> (Driver, UplinkControl, Facts) {
        let uplink = self.try_open(io, sets).expect("an uplink");
        let Uplink { mut queues, mode, notes, control, mac, mtu, is_veth, partial_checksums } =
            uplink;
        assert_eq!(queues.len(), 1);
        let driver = Driver::boxed(queues.remove(0));
        (driver, control, Facts { mode, notes, mac, mtu, is_veth, partial_checksums })
    }

    fn try_open(&self, io: UplinkIo, sets: Sets) -> Result<Uplink, UplinkError> {
        let options = UplinkOptions { interface: "up0".to_owned(), io, sets, kept: None };
        self.router.within(|| open_uplink(PortId(3), options))
    }

    /// Sends and sees everything on the peer's end.
    fn peer_queue(&self) -> Driver {
        Driver::new(self.peer.within(|| {
            let index = Netdev::open("up0").expect("the interface").index();
            PacketQueue::open(PortId(9), index, None).expect("a packet socket")
        }))
    }

    fn mac(&self) -> [u8; 6] {
        self.router
            .within(|| Netdev::open("up0").expect("there").mac().expect("asked").expect("Ethernet"))
    }

    fn ping(&self) -> bool {
        self.peer.succeeds(&format!("ping -c 1 -W 2 {ROUTER}"))
    }

    fn has_program(&self) -> bool {
        self.router.ip("link show up0").contains("xdp")
    }
}

fn sets() -> Sets {
    Sets {
        locals: vec![ROUTER],
        nodes: vec![NODE],
        pools: ["10.66.0.0/16", "fd66::/64"].map(|net| net.parse().expect("a prefix")).to_vec(),
    }
}

fn send(peer: &mut Driver, frame: &[u8]) {
    assert_eq!(peer.send(Packet::from_bytes(frame)).packets, 1);
}

#[test]
fn every_form_takes_the_routers_packets_and_no_others() {
    for (io, mode) in FORMS {
        let link = Link::new("take");
        link.router.ip(&format!("addr add {POD}/32 dev lo"));
        let kernel = link.router.within(|| UdpSocket::bind((POD, 9)).expect("bind"));
        kernel.set_nonblocking(true).expect("set");
        let (mut router, control, uplink) = link.open(io, sets());
        assert_eq!(uplink.mode, mode, "{:?}", uplink.notes);
        assert!(uplink.is_veth && uplink.mtu == 1500 && uplink.mac == link.mac());
        assert_eq!(uplink.partial_checksums, mode != UplinkMode::PacketSocket);
        assert_eq!(router.queue.framing(), Framing::Ethernet);
        assert_eq!(link.has_program(), mode != UplinkMode::PacketSocket);
        assert!(link.ping(), "{mode:?}: the node's own traffic passes");

        let (mut peer, mac) = (link.peer_queue(), link.mac());
        let ours = [
            ipip(mac, NODE, ROUTER),
            udp(mac, POD, 9),
            udp(mac, Ipv4Addr::new(10, 66, 255, 255), 9),
            udp6(mac, "fd66::9"),
        ];
        let others = [
            ipip(mac, STRANGER, ROUTER),
            ipip(mac, NODE, STRANGER),
            udp(mac, ROUTER, 9),
            udp(mac, Ipv4Addr::new(10, 67, 0, 1), 9),
            udp6(mac, "fd67::9"),
            tagged(&udp(mac, POD, 9)),
            tagged(&ipip(mac, NODE, ROUTER)),
            mac.repeat(3),
        ];
        for (i, other) in others.iter().enumerate() {
            send(&mut peer, other);
            send(&mut peer, &ours[i % ours.len()]);
        }
        let taken = router.drain(200);
        let expected: Vec<_> = ours.iter().chain(&ours).cloned().collect();
        assert_eq!(bytes(&taken), expected, "{mode:?}");
        assert!(taken.iter().all(|p| p.in_port() == PortId(3)));
        let seen = kernel.recv(&mut [0; 99]).map_err(|e| e.kind());
        assert_eq!(seen, Err(ErrorKind::WouldBlock), "{mode:?}: the kernel has no copy");
        let counters = control.counters().expect("counters");
        assert_eq!((counters.taken, counters.dropped), (8, 0), "{mode:?}");
        assert!(counters.passed >= others.len() as u64, "{mode:?}");
        assert_eq!(router.pool.available(), 128, "slots went back");

        // The router ends, by whatever death: its descriptors are closed.
        drop(router);
        link.router.within(|| drop(control));
        assert!(!link.has_program() && link.ping());
        send(&mut peer, &udp(mac, POD, 9));
        kernel.set_nonblocking(false).expect("set");
        kernel.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
        assert_eq!(kernel.recv(&mut [0; 99]).expect("the kernel's again"), 28);
    }
}

#[test]
fn nftables_drop_the_kernels_copies_where_no_program_can() {
    let link = Link::new("nft");
    link.router.ip(&format!("addr add {POD}/32 dev lo"));
    let kernel = link.router.within(|| UdpSocket::bind((POD, 9)).expect("bind"));
    kernel.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
    let (mut router, rules) = link.router.within(|| {
        let index = Netdev::open("up0").expect("there").index();
        let queue = PacketQueue::open(PortId(1), index, None).expect("a packet socket");
        let rules = NftDrop::new("up0", Take::Ours, &Sets::default()).expect("nft");
        (Driver::new(queue), rules)
    });
    let (mut peer, mac) = (link.peer_queue(), link.mac());
    send(&mut peer, &udp(mac, POD, 9));
    assert_eq!(kernel.recv(&mut [0; 99]).expect("nothing is ours yet"), 28);
    link.router.within(|| rules.set(&sets()).expect("live"));
    send(&mut peer, &udp(mac, POD, 9));
    assert!(link.ping());
    kernel.set_nonblocking(true).expect("set");
    assert_eq!(kernel.recv(&mut [0; 99]).map_err(|e| e.kind()), Err(ErrorKind::WouldBlock));
    let seen = bytes(&router.drain(100)).iter().filter(|f| **f == udp(mac, POD, 9)).count();
    assert_eq!(seen, 2, "the packet socket saw them all");
    link.router.within(|| drop(rules));
    send(&mut peer, &udp(mac, POD, 9));
    kernel.set_nonblocking(false).expect("set");
    assert_eq!(kernel.recv(&mut [0; 99]).expect("the kernel's again"), 28);
}

#[test]
fn every_form_sends_whole_batches() {
    for (io, mode) in FORMS {
        let link = Link::new("send");
        let (mut router, _control, _) = link.open(io, sets());
        let mut peer = link.peer_queue();
        let sent_frames: Vec<_> =
            (0..300).map(|i| udp([2, 0, 0, 0, 0, 2], Ipv4Addr::new(192, 0, 2, 2), i)).collect();
        for chunk in sent_frames.chunks(64) {
            let mut batch = Batch::new();
            for frame in chunk {
                let mut packet = router.pool.take().expect("a slot");
                packet.fill(frame);
                batch.push(packet);
            }
            let sent = router.queue.transmit(&mut router.pool, &mut batch);
            assert_eq!((sent.packets, sent.refused), (chunk.len(), 0), "{mode:?}");
            assert_eq!(sent.bytes, chunk.iter().map(Vec::len).sum::<usize>());
            assert!(batch.is_empty());
        }
        assert_eq!(router.pool.available(), 128, "slots went back");
        let mut seen = bytes(&peer.drain(200));
        seen.retain(|frame| frame[12..14] == [8, 0]);
        assert_eq!(seen, sent_frames, "{mode:?}");
    }
}

#[test]
fn super_packets_leave_whole_in_tunnels_too_and_are_cut_as_we_would() {
    for (io, mode) in FORMS {
        for tunnelled in [false, true] {
            let link = Link::new("whole");
            let (mut router, _control, _) = link.open(io, sets());
            let abilities = router.queue.abilities();
            assert!(abilities.tcp_segmentation && abilities.tunnel_segmentation, "{mode:?}");
            // The link's end cuts and sums, so that what arrives is what a wire would carry.
            let cut = "ethtool -K up0 tx off sg off tso off gso off tx-ipxip4-segmentation off";
            assert!(link.router.succeeds(cut));
            let mut peer = link.peer_queue();
            let (whole, headers) = tcp_super_packet(tunnelled);
            let (mut pool, mut expected) = (Pool::new(16), Vec::new());
            let mut keep = |piece: Packet| expected.push(piece.bytes().to_vec());
            let pieces = gso::segment(&whole, &headers, 1500, &mut pool, &mut keep);
            assert_eq!(pieces, Ok(7));
            let len = whole.len();
            let single = udp([2, 0, 0, 0, 0, 2], NODE, 9);
            let mut batch = Batch::from_iter([Packet::from_bytes(&single), whole]);
            let sent = router.queue.transmit(&mut router.pool, &mut batch);
            assert_eq!((sent.packets, sent.bytes, sent.refused), (2, single.len() + len, 0));
            let mut seen = bytes(&peer.drain(200));
            seen.retain(|frame| frame[12..14] == [8, 0]);
            expected.insert(0, single);
            assert_eq!(seen, expected, "{mode:?}, tunnelled: {tunnelled}");
        }
    }
}

#[test]
fn fewer_than_asked_for_means_that_none_waits() {
    for (io, mode) in FORMS {
        let link = Link::new("edge");
        let (mut router, _control, _) = link.open(io, sets());
        let (mut peer, frame) = (link.peer_queue(), udp(link.mac(), POD, 9));
        let mut receive = |budget| {
            let mut batch = Batch::new();
            let n = router.queue.receive(&mut router.pool, &mut batch, budget).expect("alive");
            batch.into_iter().for_each(|packet| router.pool.give(packet));
            n
        };
        for _ in 0..10 {
            send(&mut peer, &frame);
        }
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(receive(3), 3, "{mode:?}");
        for _ in 0..10 {
            send(&mut peer, &frame);
        }
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!((receive(64), receive(64)), (17, 0), "{mode:?}");
    }
}

#[test]
fn frames_come_back_however_many_are_sent() {
    for (io, _) in FORMS {
        let link = Link::new("many");
        let (mut router, _control, _) = link.open(io, sets());
        let frame = udp([2, 0, 0, 0, 0, 2], NODE, 9);
        for _ in 0..10_000 {
            router.queue.housekeep(&mut router.pool);
            assert_eq!(router.send(Packet::from_bytes(&frame)).packets, 1);
        }
    }
}

#[test]
fn what_is_taken_changes_while_it_runs() {
    for (io, mode) in FORMS {
        let link = Link::new("live");
        let (mut router, mut control, _) = link.open(io, Sets::default());
        let (mut peer, mac) = (link.peer_queue(), link.mac());
        let frames = [ipip(mac, NODE, ROUTER), udp(mac, POD, 9), udp6(mac, "fd66::9")];
        let mut taken = || {
            for frame in &frames {
                send(&mut peer, frame);
            }
            bytes(&router.drain(200))
        };
        assert!(taken().is_empty(), "{mode:?}");
        control.set_nodes(&[STRANGER, NODE]).expect("set");
        control.set_locals(&[ROUTER]).expect("set");
        assert_eq!(taken(), frames[..1], "{mode:?}");
        control.set_pools(&sets().pools).expect("set");
        assert_eq!(taken(), frames, "{mode:?}");
        control.set_nodes(&[STRANGER]).expect("set");
        control.set_pools(&sets().pools[1..]).expect("set");
        assert_eq!(taken(), frames[2..], "{mode:?}");
    }
}

#[test]
fn a_kept_link_goes_on_without_its_router_and_is_taken_up_again() {
    let link = Link::new("kept");
    link.router.ip(&format!("addr add {POD}/32 dev lo"));
    let (router, control, _) = link.open(UplinkIo::Auto, sets());
    let kept = control.link_fd().expect("an XDP link").try_clone_to_owned().expect("a copy");
    drop((router, control));
    assert!(link.has_program() && link.ping());
    let (mut peer, mac) = (link.peer_queue(), link.mac());
    let kernel = link.router.within(|| UdpSocket::bind((POD, 9)).expect("bind"));
    kernel.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
    send(&mut peer, &ipip(mac, NODE, ROUTER));
    send(&mut peer, &udp(mac, POD, 9));
    assert_eq!(kernel.recv(&mut [0; 99]).expect("passed"), 28, "without sockets it passes");

    // The next router finds the sets as they were.
    let copy = kept.try_clone().expect("a copy");
    let options = UplinkOptions {
        interface: "up0".to_owned(),
        io: UplinkIo::Auto,
        sets: sets(),
        kept: Some(copy),
    };
    let mut uplink = link.router.within(|| open_uplink(PortId(1), options)).expect("again");
    assert_eq!((uplink.mode, uplink.notes.len()), (UplinkMode::Native, 0), "{:?}", uplink.notes);
    let counters = uplink.control.counters().expect("counters");
    assert_eq!(counters.dropped, 1, "the tunnelled packet met no socket");
    let mut router = Driver::boxed(uplink.queues.remove(0));
    send(&mut peer, &ipip(mac, NODE, ROUTER));
    assert_eq!(bytes(&router.drain(200)), [ipip(mac, NODE, ROUTER)]);

    // A link that does not fit is taken off, even though it is held here.
    let options = UplinkOptions {
        interface: "up0".to_owned(),
        io: UplinkIo::Packet,
        sets: sets(),
        kept: Some(kept.try_clone().expect("a copy")),
    };
    drop((router, uplink));
    let uplink = link.router.within(|| open_uplink(PortId(1), options)).expect("again");
    assert_eq!(uplink.mode, UplinkMode::PacketSocket);
    assert!(!link.has_program() && uplink.notes.len() == 1, "{:?}", uplink.notes);
    drop(kept);
}

#[test]
fn a_queue_that_is_still_busy_is_waited_for() {
    let link = Link::new("busy");
    for _ in 0..10 {
        let uplink = link.try_open(UplinkIo::Xdp, sets()).expect("at once again");
        drop(uplink);
    }
    let held = link.router.within(|| XdpQueue::open(PortId(1), "up0", 0, 1500)).expect("a socket");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(150));
            drop(held);
        });
        link.try_open(UplinkIo::Xdp, sets()).expect("when the first has gone");
    });
}

#[test]
fn a_foreign_program_leads_to_the_packet_socket_with_the_reason() {
    let link = Link::new("alien");
    let index = link.router.within(|| Netdev::open("up0").expect("there").index());
    let attach = || Steer::attach(index, Take::Ours, UplinkMode::Native);
    let alien = link.router.within(attach).expect("attached");
    let uplink = link.try_open(UplinkIo::Auto, sets()).expect("a packet socket");
    assert_eq!(uplink.mode, UplinkMode::PacketSocket);
    assert_eq!(uplink.notes.len(), 2);
    for (note, mode) in uplink.notes.iter().zip(["xdp-native", "xdp-generic"]) {
        assert!(note.starts_with(mode) && note.contains("another XDP program"), "{note}");
    }
    let refused = link.try_open(UplinkIo::Xdp, sets()).err().expect("refused").to_string();
    assert!(refused.contains("up0") && refused.contains("another XDP program"), "{refused}");
    drop(alien);
}

#[test]
fn devices_that_xdp_does_not_suit_get_a_packet_socket() {
    let link = Link::new("suit");
    link.router.ip("link set up0 mtu 9000");
    let uplink = link.try_open(UplinkIo::Auto, sets()).expect("a packet socket");
    assert_eq!(uplink.mode, UplinkMode::PacketSocket);
    assert!(uplink.notes[0].contains("MTU"), "{:?}", uplink.notes);
    drop(uplink);
    link.router.ip("link add br0 type bridge");
    link.router.ip("link set br0 up");
    let open = |interface: &str| {
        let options = UplinkOptions {
            interface: interface.to_owned(),
            sets: sets(),
            ..UplinkOptions::default()
        };
        link.router.within(|| open_uplink(PortId(1), options))
    };
    let refusal = |interface| open(interface).err().expect("refused").to_string();
    let uplink = open("br0").expect("a packet socket");
    assert_eq!(uplink.mode, UplinkMode::PacketSocket);
    assert!(uplink.notes[0].contains("bridge") && !uplink.is_veth);
    assert!(refusal("none0").contains("none0"));
    link.router.ip("tuntap add tun0 mode tun");
    assert!(refusal("tun0").contains("no Ethernet device"));
}

#[test]
fn every_queue_of_a_device_has_its_socket() {
    let link = Link::with("queues", "numrxqueues 2 numtxqueues 2");
    let uplink = link.try_open(UplinkIo::Xdp, sets()).expect("an uplink");
    let mut drivers: Vec<_> = uplink.queues.into_iter().map(Driver::boxed).collect();
    assert_eq!(drivers.len(), 2);
    link.peer.ip("route add 10.66.0.0/16 via 192.0.2.1");
    link.peer.within(|| {
        for l4_port in 0..100 {
            let socket = UdpSocket::bind((NODE, 0)).expect("bind");
            socket.send_to(b"flow", (POD, 1_000 + l4_port)).expect("send");
        }
    });
    let counts: Vec<_> = drivers.iter_mut().map(|d| d.drain(300).len()).collect();
    assert_eq!(counts.iter().sum::<usize>(), 100, "{counts:?}");
    assert!(counts.iter().all(|n| *n > 0), "{counts:?}");
}

#[test]
fn a_deleted_interface_is_reported_as_gone_by_every_form() {
    for (io, mode) in FORMS {
        let link = Link::new("gone");
        let (mut router, _control, _) = link.open(io, sets());
        link.router.ip("link set up0 down");
        assert!(router.receive().is_ok_and(|b| b.is_empty()), "{mode:?}: down is not gone");
        link.router.ip("link set up0 up");
        router.receive().expect("up again");
        link.router.ip("link del up0");
        // An AF_XDP socket wakes nobody; its end shows when it is next asked.
        if mode == UplinkMode::PacketSocket {
            assert!(router.sleep(2000), "the worker is woken");
        }
        assert_eq!(router.receive().err(), Some(QueueError::Gone), "{mode:?}");
    }
}

#[test]
fn super_packets_pass_a_packet_socket_both_ways() {
    let link = Link::new("super");
    let (mut router, _control, _) = link.open(UplinkIo::Packet, sets());
    link.peer.ip("route add 10.66.0.0/16 via 192.0.2.1");
    link.peer.ip(&format!("neigh add {ROUTER} lladdr {} dev up0 nud permanent", text(link.mac())));
    let socket = link.peer.within(|| UdpSocket::bind((NODE, 4_000)).expect("bind"));
    setsockopt(&socket, UdpGsoSegment, &1_000).expect("segmentation offload");
    socket.send_to(&vec![7; 20_000], (POD, 4_000)).expect("send");
    let packet = router.wait_for(|p| p.bytes()[12..14] == [8, 0]).expect("one packet");
    assert_eq!(packet.len(), 14 + 20 + 8 + 20_000);
    let offload = *packet.offload();
    assert!(offload.needs_checksum && offload.gso == Gso::Udp, "{offload:?}");
    assert_eq!((offload.gso_size, offload.csum_start, offload.csum_offset), (1_000, 34, 6));
    // Back the way it came: addresses and MAC addresses swapped, which changes no sum.
    let mut back = packet;
    let bytes = back.bytes_mut();
    let (to, from) = (bytes[6..12].to_vec(), bytes[..6].to_vec());
    bytes[..6].copy_from_slice(&to);
    bytes[6..12].copy_from_slice(&from);
    let addresses = [&bytes[30..34], &bytes[26..30]].concat();
    bytes[26..34].copy_from_slice(&addresses);
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
    assert_eq!(router.send(back).packets, 1);
    for _ in 0..20 {
        let mut buffer = [0; 2_000];
        assert_eq!(socket.recv(&mut buffer).expect("a datagram"), 1_000);
        assert!(buffer[..1_000].iter().all(|b| *b == 7));
    }
}

#[test]
fn a_veth_pod_port_takes_everything() {
    let link = Link::new("pod");
    let mut uplink =
        link.router.within(|| open_veth_pod(PortId(4), "up0", None)).expect("a pod port");
    assert_eq!(uplink.mode, UplinkMode::Native, "{:?}", uplink.notes);
    let mut pod = Driver::boxed(uplink.queues.remove(0));
    assert!(!link.ping(), "the kernel sees nothing of it");
    let seen = pod.drain(100);
    assert!(seen.iter().any(|p| p.bytes()[12..14] == [8, 6]), "ARP is ours to answer");
    let mut peer = link.peer_queue();
    send(&mut peer, &tagged(&udp(link.mac(), POD, 9)));
    assert_eq!(bytes(&pod.drain(200)), [tagged(&udp(link.mac(), POD, 9))]);
    // Its sockets gone, it is closed.
    drop(pod);
    send(&mut peer, &udp(link.mac(), ROUTER, 9));
    assert!(uplink.control.counters().expect("counters").dropped > 0);
    uplink.control.close();
    link.peer.ip("neigh flush dev up0");
    assert!(link.ping());
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
