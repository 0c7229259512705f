//! Does a pod's interface carry packets, survive what it must, and go away completely?

use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::{Duration, Instant};

use super::*;

fn pod(port: &str) -> PodInterface {
    PodInterface {
        name: "eth0".into(),
        port: port.into(),
        addresses: vec!["10.244.1.5".parse().unwrap(), "fd00:244::5".parse().unwrap()],
        mtu: 1480,
        tx_queue_length: TX_QUEUE_LENGTH,
        mac: None,
        ip_forwarding: false,
    }
}

/// Reads packets until one has the wanted IP protocol; gives it without its vnet header.
fn next_packet(fd: &OwnedFd, version: u8, protocol: u8) -> Vec<u8> {
    let end = Instant::now() + Duration::from_secs(10);
    let mut buffer = vec![0; 66_000];
    loop {
        match nix::unistd::read(fd, &mut buffer) {
            Ok(length) => {
                let packet = &buffer[10..length];
                let found = if packet[0] >> 4 == 4 { packet[9] } else { packet[6] };
                if packet[0] >> 4 == version && found == protocol {
                    return packet.to_vec();
                }
            }
            Err(nix::errno::Errno::EAGAIN) => std::thread::sleep(Duration::from_millis(5)),
            Err(error) => panic!("read: {error}"),
        }
        assert!(Instant::now() < end, "no IPv{version} packet of protocol {protocol} came");
    }
}

fn run(namespace: &NetNs, program: &str, arguments: &[&str]) -> bool {
    run_in(namespace, || Command::new(program).args(arguments).output().unwrap().status.success())
        .unwrap()
}

#[test]
fn names_are_the_ones_known_from_calico() {
    // Computed by `printf default.web-0 | sha1sum`.
    assert_eq!(interface_name("default", "web-0", "cali"), "cali0d7763386da");
    assert_eq!(interface_name("default", "web-0", "cali").len(), 15);
}

#[test]
fn what_the_pod_sends_is_readable_and_what_is_written_arrives() {
    let namespace = NetNs::new_anonymous().unwrap();
    let fd = attach_tun(&namespace, &pod("cali0000000000a")).unwrap();
    check(&namespace, &pod("")).unwrap();
    let ping = std::thread::spawn({
        let namespace = NetNs::open(format!("/proc/self/fd/{}", namespace.as_fd().as_raw_fd()));
        let namespace = namespace.unwrap();
        move || run(&namespace, "ping", &["-c1", "-W9", "10.99.0.1"])
    });
    let mut packet = next_packet(&fd, 4, 1);
    assert_eq!(packet[12..20], [10, 244, 1, 5, 10, 99, 0, 1]);
    // Turn the echo request into its reply: swapping addresses keeps the IP checksum.
    packet.copy_within(12..16, 16);
    packet[12..16].copy_from_slice(&[10, 99, 0, 1]);
    packet[20] = 0;
    let sum = u32::from(u16::from_be_bytes([packet[22], packet[23]])) + 0x0800;
    let folded = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    packet[22..24].copy_from_slice(&folded.to_be_bytes());
    let reply: Vec<u8> = [0; 10].into_iter().chain(packet).collect();
    nix::unistd::write(&fd, &reply).unwrap();
    assert!(ping.join().unwrap(), "ping got its reply");
    // No neighbour discovery before the first IPv6 packet: the gateway needs no resolution.
    assert!(!run(&namespace, "ping", &["-c1", "-W1", "fd99::1"]));
    assert_eq!(next_packet(&fd, 6, 58)[24..40], "fd99::1".parse::<Ipv6Addr>().unwrap().octets());
}

#[test]
fn the_device_is_set_up_quiet_and_closed_to_others() {
    let namespace = NetNs::new_anonymous().unwrap();
    let fd = attach_tun(&namespace, &pod("cali0000000000b")).unwrap();
    let mut netlink = Netlink::open_in(&namespace).unwrap();
    let link = netlink.link("eth0").unwrap().unwrap();
    assert_eq!(link.alias.as_deref(), Some("cali0000000000b"));
    assert_eq!((link.mtu, link.tx_queue_length, link.up), (1480, TX_QUEUE_LENGTH, true));
    assert_eq!(link.qdisc.as_deref(), Some("noqueue"));
    let addresses = netlink.addresses().unwrap();
    let mine: Vec<_> = addresses.iter().filter(|a| a.link == link.index).map(|a| a.net).collect();
    assert_eq!(mine, ["10.244.1.5/32".parse().unwrap(), "fd00:244::5/128".parse().unwrap()]);
    let mut nothing = [0; 2000];
    assert_eq!(nix::unistd::read(&fd, &mut nothing), Err(nix::errno::Errno::EAGAIN));
    let busy = reattach_tun(&namespace, &pod("")).unwrap_err();
    assert!(busy.to_string().contains("TUN device eth0: open"), "{busy}");
}

#[test]
fn a_lost_descriptor_leaves_the_device_and_it_is_taken_over() {
    let namespace = NetNs::new_anonymous().unwrap();
    let wanted = pod("cali0000000000c");
    drop(attach_tun(&namespace, &wanted).unwrap());
    let mut netlink = Netlink::open_in(&namespace).unwrap();
    let before = netlink.link("eth0").unwrap().unwrap();
    let fd = reattach_tun(&namespace, &wanted).unwrap();
    let after = netlink.link("eth0").unwrap().unwrap();
    assert_eq!(before.index, after.index, "the same device");
    check(&namespace, &wanted).unwrap();
    assert!(!run(&namespace, "ping", &["-c1", "-W1", "10.99.0.1"]));
    next_packet(&fd, 4, 1);
}

#[test]
fn attaching_again_replaces_and_detaching_removes() {
    let namespace = NetNs::new_anonymous().unwrap();
    let wanted = pod("cali0000000000d");
    let old = attach_tun(&namespace, &wanted).unwrap();
    let _new = attach_tun(&namespace, &wanted).unwrap();
    let mut buffer = [0; 64];
    let gone = nix::unistd::read(&old, &mut buffer).unwrap_err();
    assert_eq!(gone, nix::errno::Errno::EBADFD, "the replaced device's queue says so");
    check(&namespace, &wanted).unwrap();
    assert!(detach(&namespace, "eth0").unwrap());
    assert!(!detach(&namespace, "eth0").unwrap());
    let missing = check(&namespace, &wanted).unwrap_err().to_string();
    assert!(missing.ends_with("it does not exist"), "{missing}");
}

#[test]
fn forwarding_is_off_and_check_names_what_somebody_took_away() {
    let namespace = NetNs::new_anonymous().unwrap();
    let wanted = pod("cali0000000000e");
    run_in(&namespace, || std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap()).unwrap();
    let _fd = attach_tun(&namespace, &wanted).unwrap();
    let forwarding = || std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
    assert_eq!(run_in(&namespace, forwarding).unwrap(), "0\n", "a pod is no router");
    let mut netlink = Netlink::open_in(&namespace).unwrap();
    let index = netlink.link("eth0").unwrap().unwrap().index;
    let default = wanted.routes(index).remove(1);
    netlink.delete_route(&default).unwrap();
    let error = check(&namespace, &wanted).unwrap_err().to_string();
    assert!(error.contains("the route 0.0.0.0/0 via 169.254.1.1"), "{error}");
    netlink.replace_route(&default).unwrap();
    netlink.delete_address(index, "fd00:244::5/128".parse().unwrap()).unwrap();
    let error = check(&namespace, &wanted).unwrap_err().to_string();
    assert!(error.contains("lacks the address fd00:244::5"), "{error}");
}

#[test]
fn the_veth_port_has_its_macs_and_a_silent_host_end() {
    let (host, namespace) = (NetNs::new_anonymous().unwrap(), NetNs::new_anonymous().unwrap());
    let mac = MacAddress([2, 0, 0, 0, 0, 7]);
    let wanted = PodInterface { mac: Some(mac), ..pod("cali0000000000f") };
    let attach = || {
        run_in(&host, || attach_veth(&mut Netlink::open().unwrap(), &namespace, &wanted)).unwrap()
    };
    attach().unwrap();
    let attached = attach().unwrap();
    assert_eq!(attached.pod_mac, mac);
    check(&namespace, &wanted).unwrap();
    let mut netlink = Netlink::open_in(&host).unwrap();
    let near = netlink.link_by_index(attached.host_link).unwrap().unwrap();
    assert_eq!((near.name.as_str(), near.mac, near.up), ("cali0000000000f", Some(HOST_MAC), true));
    assert!(netlink.addresses().unwrap().iter().all(|a| a.link != near.index));
    assert!(detach(&namespace, "eth0").unwrap());
    assert_eq!(netlink.link("cali0000000000f").unwrap(), None);
}

#[test]
fn what_is_no_pods_is_never_touched() {
    let namespace = NetNs::new_anonymous().unwrap();
    let wanted = pod("cali0000000000g");
    let refused = run_in(&namespace, || {
        (attach_tun(&namespace, &wanted).unwrap_err(), detach(&namespace, "eth0").unwrap_err())
    });
    let (attach, detached) = refused.unwrap();
    assert!(attach.to_string().contains("the host's own namespace"), "{attach}");
    assert!(detached.to_string().contains("the host's own namespace"), "{detached}");
    let mut netlink = Netlink::open_in(&namespace).unwrap();
    netlink.create_link("eth0", "bridge").unwrap();
    let error = attach_tun(&namespace, &wanted).unwrap_err().to_string();
    assert!(error.contains("it is of kind bridge"), "{error}");
    assert!(netlink.link("eth0").unwrap().is_some());
}

#[test]
fn a_failed_attach_leaves_nothing_behind() {
    let namespace = NetNs::new_anonymous().unwrap();
    let impossible = PodInterface { mtu: 70_000, ..pod("cali0000000000h") };
    let error = attach_tun(&namespace, &impossible).unwrap_err().to_string();
    assert!(error.contains("mtu 70000"), "{error}");
    assert_eq!(Netlink::open_in(&namespace).unwrap().link("eth0").unwrap(), None);
}
