//! Do the host's ports follow what is wanted, once, and leave everything else alone?

use std::os::fd::OwnedFd;
use std::process::Command;

use fastpath::io::tun::{self, TunOptions};

use super::*;
use crate::host::netlink::LinkLayer;
use crate::host::netns::{NetNs, run_in};

/// Runs a test inside a namespace with both TUN devices open.
fn on_a_host(test: impl FnOnce(&mut Netlink) + Send) {
    let namespace = NetNs::new_anonymous().unwrap();
    run_in(&namespace, || {
        let mut netlink = Netlink::open().unwrap();
        let prepared = prepare(&mut netlink).unwrap();
        assert_eq!((prepared.node_port.as_str(), prepared.notices.len()), (NODE_PORT, 0));
        let _ports = (open(NODE_PORT), open(FORWARD_PORT));
        test(&mut netlink);
    })
    .unwrap();
}

fn open(name: &str) -> OwnedFd {
    tun::open(name, TunOptions::default()).unwrap()
}

fn wanted(pools: &[&str]) -> HostPorts {
    HostPorts {
        node_port: NODE_PORT.into(),
        forward_port: FORWARD_PORT.into(),
        addresses: vec!["10.244.7.1".parse().unwrap(), "fd00:244::1".parse().unwrap()],
        pools: pools.iter().map(|pool| pool.parse().unwrap()).collect(),
        mtu: 1480,
        tx_queue_length: 5000,
    }
}

fn command(line: &str) -> String {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_node_and_its_guests_take_different_ports() {
    on_a_host(|netlink| {
        ensure(netlink, &wanted(&["10.244.0.0/16", "fd00:244::/48"])).unwrap();
        let own = netlink.lookup_route("10.244.9.9".parse().unwrap()).unwrap().unwrap();
        let (node, forward) = (
            netlink.link(NODE_PORT).unwrap().unwrap(),
            netlink.link(FORWARD_PORT).unwrap().unwrap(),
        );
        assert_eq!(own.next_hops[0].link, node.index);
        assert_eq!(own.source, Some("10.244.7.1".parse().unwrap()));
        let own = netlink.lookup_route("fd00:244::99".parse().unwrap()).unwrap().unwrap();
        assert_eq!(own.next_hops[0].link, node.index);
        command("ip link add guest type veth peer name far");
        command("ip address add 192.0.2.1/24 dev guest");
        command("ip link set guest up");
        command("ip link set far up");
        let guest = command("ip route get 10.244.9.9 from 192.0.2.7 iif guest");
        assert!(guest.contains("dev vrouter-fwd"), "{guest}");
        for link in [&node, &forward] {
            assert_eq!((link.mtu, link.tx_queue_length, link.up), (1480, 5000, true));
            assert_eq!(link.layer, LinkLayer::None);
            assert_eq!(
                netlink.addresses().unwrap().iter().filter(|a| a.link == link.index).count(),
                2
            );
            let setting = |name: &str| {
                let path = format!("/proc/sys/net/ipv4/conf/{}/{name}", link.name);
                std::fs::read_to_string(path).unwrap().trim().to_owned()
            };
            assert_eq!((setting("rp_filter"), setting("accept_local")), ("2".into(), "1".into()));
            assert_eq!(
                (setting("route_localnet"), setting("send_redirects")),
                ("1".into(), "0".into())
            );
        }
        assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap().trim(), "1");
    });
}

#[test]
fn doing_it_again_changes_nothing_and_pools_come_and_go() {
    on_a_host(|netlink| {
        command("ip rule add to 10.244.0.0/16 lookup 99 priority 50");
        command("ip rule add to 198.51.100.0/24 lookup 30322 priority 60");
        command("ip route add blackhole 203.0.113.0/24 table 30322");
        let first = ensure(netlink, &wanted(&["10.244.0.0/16"])).unwrap();
        assert!(
            first.iter().any(|s| s == "added rule 90: to 10.244.0.0/16 iif lo lookup 30322"),
            "{first:?}"
        );
        assert_eq!(ensure(netlink, &wanted(&["10.244.0.0/16"])).unwrap(), Vec::<String>::new());

        let both = ensure(netlink, &wanted(&["10.244.0.0/16", "10.245.0.0/16"])).unwrap();
        assert_eq!(both.len(), 4, "two routes, two rules: {both:?}");
        let one = ensure(netlink, &wanted(&["10.245.0.0/16"])).unwrap();
        assert_eq!(
            one.iter().filter(|s| s.starts_with("deleted") && s.contains("10.244")).count(),
            4
        );

        let mut moved = wanted(&["10.245.0.0/16"]);
        moved.addresses = vec!["10.245.0.1".parse().unwrap()];
        ensure(netlink, &moved).unwrap();
        let own = netlink.lookup_route("10.245.9.9".parse().unwrap()).unwrap().unwrap();
        assert_eq!(own.source, Some("10.245.0.1".parse().unwrap()));
        assert_eq!(ensure(netlink, &moved).unwrap(), Vec::<String>::new());

        // Somebody deletes a rule: it comes back.
        command("ip rule del priority 91");
        assert_eq!(ensure(netlink, &moved).unwrap().len(), 1);

        remove(netlink).unwrap();
        let rules = command("ip rule show");
        assert!(rules.contains("50:") && rules.contains("60:"), "foreign rules stay: {rules}");
        assert!(!rules.contains("90:") && !rules.contains("91:"), "{rules}");
        let routes = command("ip route show table 30322");
        assert_eq!(routes.lines().count(), 1, "the foreign route stays: {routes}");
    });
}

#[test]
fn a_dropping_forward_chain_is_opened_for_our_ports_only_once() {
    on_a_host(|netlink| {
        command("iptables-nft -P FORWARD DROP");
        command("nft add table inet site");
        command(
            "nft add chain inet site passing { type filter hook forward priority 0 ; policy drop ; }",
        );
        let first = ensure(netlink, &wanted(&["10.244.0.0/16"])).unwrap();
        assert!(first.iter().any(|s| s.contains("inet site passing accepts")), "{first:?}");
        let rules = command("iptables-nft -S FORWARD");
        for rule in ["-i tunl0", "-o tunl0", "-i vrouter-fwd", "-o vrouter-fwd"] {
            assert_eq!(rules.matches(rule).count(), 1, "{rules}");
        }
        assert_eq!(ensure(netlink, &wanted(&["10.244.0.0/16"])).unwrap(), Vec::<String>::new());
        remove(netlink).unwrap();
        assert_eq!(command("iptables-nft -S FORWARD").trim(), "-P FORWARD DROP");
        assert!(!command("nft list ruleset").contains("vrouter"));
    });
}

#[test]
fn an_accepting_forward_chain_is_left_alone() {
    on_a_host(|netlink| {
        command("iptables-nft -P FORWARD ACCEPT");
        ensure(netlink, &wanted(&["10.244.0.0/16"])).unwrap();
        assert_eq!(command("iptables-nft -S FORWARD").trim(), "-P FORWARD ACCEPT");
    });
}

#[test]
fn foreign_devices_of_our_names_are_refused() {
    run_in(&NetNs::new_anonymous().unwrap(), || {
        let mut netlink = Netlink::open().unwrap();
        let error = ensure(&mut netlink, &wanted(&[])).unwrap_err();
        assert!(error.to_string().contains("tunl0 does not exist"), "{error}");
        netlink.create_link(NODE_PORT, "bridge").unwrap();
        let error = prepare(&mut netlink).unwrap_err().to_string();
        assert!(error.contains("tunl0 (kind bridge) was not made by this node"), "{error}");
        command("ip link delete tunl0");
        // Another program's TUN device: up, without our mark.
        let _other = open(FORWARD_PORT);
        command("ip link set vrouter-fwd up");
        let error = prepare(&mut netlink).unwrap_err().to_string();
        assert!(error.contains("vrouter-fwd (kind tun)"), "{error}");
    })
    .unwrap();
}

#[test]
fn a_restart_takes_its_own_devices_over() {
    on_a_host(|netlink| {
        ensure(netlink, &wanted(&["10.244.0.0/16"])).unwrap();
        assert_eq!(prepare(netlink).unwrap().node_port, NODE_PORT);
    });
}

#[test]
fn the_kernels_tunnel_is_taken_down_and_named() {
    // No ipip module here: a device of another kind plays it, and the decision is asked directly.
    run_in(&NetNs::new_anonymous().unwrap(), || {
        let mut netlink = Netlink::open().unwrap();
        netlink.create_link(NODE_PORT, "bridge").unwrap();
        command("ip link set tunl0 up");
        let link = Link { kind: Some("ipip".into()), ..netlink.link(NODE_PORT).unwrap().unwrap() };
        assert!(is_kernel_tunnel(&link));
        let notice = take_down(&mut netlink, &link).unwrap();
        assert!(!netlink.link(NODE_PORT).unwrap().unwrap().up);
        assert!(notice.contains("tunl0-vr") && notice.contains("modprobe -r ipip"), "{notice}");
    })
    .unwrap();
}
