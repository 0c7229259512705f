//! Does every kind of bad packet raise its own counter, and only that, while the node forwards on?

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use bench::lab::wait::retry;
use bench::lab::{Netns, Pod, raw};
use etherparse::{IpFragOffset, IpNumber, Ipv4Header};

use super::setup::{PATIENCE, Site, assert_ping, node_ip};

fn v4(address: IpAddr) -> Ipv4Addr {
    let text = address.to_string();
    text.parse().expect("an IPv4 address")
}

/// An IPv4 packet; `change` may spoil its header, whose checksum then is right again.
fn packet(
    (source, destination): (Ipv4Addr, Ipv4Addr),
    protocol: IpNumber,
    payload: &[u8],
    change: impl FnOnce(&mut Ipv4Header),
) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("short");
    let mut header =
        Ipv4Header::new(length, 64, protocol, source.octets(), destination.octets()).expect("fits");
    change(&mut header);
    header.header_checksum = header.calc_header_checksum();
    let mut bytes = header.to_bytes().to_vec();
    bytes.extend(payload);
    bytes
}

/// A UDP datagram without checksum, from port 4000 to port 9.
fn udp(length: u16) -> Vec<u8> {
    let mut bytes = vec![0x0f, 0xa0, 0, 9];
    bytes.extend((8 + length).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.resize(usize::from(8 + length), 0x55);
    bytes
}

fn fragment(offset: u16, more: bool, id: u16) -> impl FnOnce(&mut Ipv4Header) {
    move |header| {
        header.identification = id;
        header.more_fragments = more;
        header.dont_fragment = false;
        header.fragment_offset = IpFragOffset::try_new(offset / 8).expect("in range");
    }
}

fn as_is(_: &mut Ipv4Header) {}

/// Bytes with one changed afterwards, so that the checksum is as it was.
fn spoilt(mut bytes: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
    bytes[at] = value;
    bytes
}

/// What pods' kernels send by themselves changes these.
fn without_noise(mut drops: BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    drops.retain(|reason, _| reason != "link-local-multicast");
    drops
}

/// Sends `packets`, and waits until the counter `reason` of the first node has gone up by one, and
/// no other has.
fn raises(site: &Site, reason: &str, send: impl FnOnce()) {
    let before = without_noise(site.drops(0));
    send();
    let mut expected = before.clone();
    *expected.entry(reason.to_owned()).or_default() += 1;
    retry(PATIENCE, format!("the drop {reason}"), || {
        let now = without_noise(site.drops(0));
        anyhow::ensure!(now != before, "nothing was counted beyond {now:?}");
        Ok(())
    })
    .expect("a drop");
    let now = without_noise(site.drops(0));
    assert_eq!(now, expected, "{reason}");
}

/// What a pod may not send, each with the reason it is dropped for.
fn from_a_pod(own: Ipv4Addr, other: Ipv4Addr) -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let way = (own, other);
    let (udp_number, tcp_number) = (IpNumber::UDP, IpNumber::TCP);
    let good = packet(way, udp_number, &udp(32), as_is);
    let mut source_routed = packet(way, udp_number, &udp(32), as_is);
    source_routed[0] = 0x47;
    source_routed.splice(20..20, [131, 7, 4, 10, 77, 0, 1, 0]);
    let length = u16::try_from(source_routed.len()).expect("short");
    source_routed[2..4].copy_from_slice(&length.to_be_bytes());
    let header = Ipv4Header::from_slice(&source_routed).expect("a header").0;
    let sum = header.calc_header_checksum();
    source_routed[10..12].copy_from_slice(&sum.to_be_bytes());
    let stranger = Ipv4Addr::new(172, 31, 99, 99);
    vec![
        ("source-spoofed", vec![packet((stranger, other), udp_number, &udp(32), as_is)]),
        ("tunnel-from-pod", vec![packet(way, IpNumber::IPV4, &good, as_is)]),
        ("ipv4-checksum", vec![spoilt(good.clone(), 10, good[10] ^ 0x5a)]),
        ("ipv4-total-length", vec![packet(way, udp_number, &udp(32), |h| h.total_len += 8)]),
        ("ipv4-header-length", vec![spoilt(good.clone(), 0, 0x44)]),
        ("ipv4-truncated", vec![good[..12].to_vec()]),
        ("ipv4-options", vec![source_routed]),
        ("l4-truncated", vec![packet(way, tcp_number, &[0x55; 12], as_is)]),
        ("l4-length", vec![packet(way, udp_number, &spoilt(udp(32), 5, 4), as_is)]),
        (
            "source-invalid",
            vec![packet((Ipv4Addr::new(224, 0, 0, 9), other), udp_number, &udp(32), as_is)],
        ),
        (
            "destination-invalid",
            vec![packet((own, Ipv4Addr::LOCALHOST), udp_number, &udp(32), as_is)],
        ),
        ("fragment-tiny", vec![packet(way, tcp_number, &[0x55; 8], fragment(0, true, 1))]),
        ("fragment-no-first", vec![packet(way, udp_number, &[0x55; 64], fragment(64, false, 2))]),
        ("fragment-range", vec![packet(way, udp_number, &udp(33), fragment(0, true, 3))]),
        (
            "fragment-overlap",
            vec![
                packet(way, udp_number, &udp(56), fragment(0, true, 4)),
                packet(way, udp_number, &[0x66; 64], fragment(32, false, 4)),
            ],
        ),
    ]
}

fn sends_bad_packets(site: &Site, pod: &Pod, other: &Pod, link_header: &[u8]) {
    for (reason, packets) in from_a_pod(v4(pod.ip()), v4(other.ip())) {
        raises(site, reason, || {
            for bytes in packets {
                let frame: Vec<u8> = link_header.iter().copied().chain(bytes).collect();
                raw::send(pod.netns(), "eth0", &frame).expect("it is sent");
            }
        });
    }
    assert_ping(pod.netns(), other.ip());
}

#[test]
fn from_a_pod_on_a_tun() {
    let site = Site::start(1, &[]);
    let (pod, other) = (site.pod(0, "a"), site.pod(0, "b"));
    assert_ping(pod.netns(), other.ip());
    sends_bad_packets(&site, &pod, &other, &[]);
}

#[test]
fn from_a_pod_on_a_veth() {
    let site = Site::start(1, &[("VROUTER_POD_INTERFACE", "veth")]);
    let (pod, other) = (site.pod(0, "a"), site.pod(0, "b"));
    assert_ping(pod.netns(), other.ip());
    let gateway = pod.netns().sh("ip neigh show 169.254.1.1").expect("the gateway");
    let gateway = mac_after(&gateway, "lladdr");
    let header = ethernet(gateway, [2, 0, 0, 0, 0, 9]);
    sends_bad_packets(&site, &pod, &other, &header);
    raises(&site, "not-for-us", || {
        let good = packet((v4(pod.ip()), v4(other.ip())), IpNumber::UDP, &udp(32), as_is);
        let frame: Vec<u8> = ethernet([2, 9, 9, 9, 9, 9], [2, 0, 0, 0, 0, 9]);
        let frame: Vec<u8> = frame.into_iter().chain(good).collect();
        raw::send(pod.netns(), "eth0", &frame).expect("it is sent");
    });
}

fn mac_after(text: &str, word: &str) -> [u8; 6] {
    let mac = text.split_whitespace().skip_while(|w| *w != word).nth(1).expect("a MAC address");
    let bytes: Vec<u8> =
        mac.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("hex")).collect();
    bytes.try_into().expect("six bytes")
}

fn ethernet(destination: [u8; 6], source: [u8; 6]) -> Vec<u8> {
    [&destination[..], &source, &[0x08, 0x00]].concat()
}

/// Sends an IPv4 packet to the first node, raw, in a frame as a machine on the bridge sends it.
fn to_first_node(site: &Site, from: &Netns, bytes: &[u8]) {
    let mac =
        |netns: &Netns| mac_after(&netns.ip("-o link show dev eth0").expect("eth0"), "link/ether");
    let mut frame = ethernet(mac(&site.hosts[0]), mac(from));
    frame.extend(bytes);
    // By the wire itself: a bridge may drop what is malformed before the node sees it.
    raw::send(&site.switch, "p1", &frame).expect("it is sent");
}

#[test]
fn from_the_network() {
    let site = Site::start(2, &[]);
    let (pod, far) = (site.pod(0, "a"), site.pod(1, "b"));
    assert_ping(pod.netns(), far.ip());
    assert_ping(far.netns(), pod.ip());
    let (node1, node2) = (v4(node_ip(1)), v4(node_ip(2)));
    let (own, other) = (v4(pod.ip()), v4(far.ip()));
    let inner = packet((other, own), IpNumber::UDP, &udp(64), as_is);
    let tunnel = |inner: &[u8]| packet((node2, node1), IpNumber::IPV4, inner, as_is);
    let good = tunnel(&inner);
    let cases = [
        ("tunnel-nested", tunnel(&good)),
        ("tunnel-inner", tunnel(&spoilt(inner.clone(), 0, 0x65))),
        ("tunnel-inner-local", tunnel(&packet((own, own), IpNumber::UDP, &udp(64), as_is))),
        (
            "tunnel-fragment",
            packet((node2, node1), IpNumber::IPV4, &inner[..88], fragment(0, true, 7)),
        ),
        ("ipv4-checksum", tunnel(&spoilt(inner.clone(), 10, inner[10] ^ 0x5a))),
        ("ipv4-checksum", spoilt(good.clone(), 10, good[10] ^ 0x5a)),
        ("ipv4-total-length", tunnel(&inner[..60])),
    ];
    for (reason, bytes) in cases {
        raises(&site, reason, || to_first_node(&site, &site.hosts[1], &bytes));
    }

    // Who is no node may say what it likes: the steering leaves it to the kernel.
    let stranger = site.stranger("stranger", 99);
    let before = site.drops(0);
    let forged = packet((Ipv4Addr::new(10, 77, 0, 99), node1), IpNumber::IPV4, &inner, as_is);
    let heard = bench::lab::Capture::start(pod.netns(), "eth0", "udp port 9").expect("a capture");
    for _ in 0..3 {
        to_first_node(&site, &stranger, &forged);
    }
    to_first_node(&site, &site.hosts[1], &good);
    assert_ping(pod.netns(), far.ip());
    assert_ping(&stranger, node_ip(1));
    let frames = heard.stop().expect("frames");
    assert_eq!(frames.len(), 1, "only what a node sent arrives: {frames:?}");
    assert_eq!(without_noise(site.drops(0)), without_noise(before));
}
