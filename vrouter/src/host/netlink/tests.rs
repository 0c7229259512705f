//! Does what is set in a real kernel read back as it was set, and do changes arrive as events?

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::*;
use crate::host::monitor::{KernelEvent, Monitor, RoutePlace};
use crate::host::state::{Changed, KernelState};

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

const UP: LinkChange<'static> = LinkChange {
    name: None,
    namespace: None,
    up: Some(true),
    mtu: None,
    tx_queue_length: None,
    mac: None,
    alias: None,
    master: None,
    no_link_local: false,
};

/// A namespace with a device `d0` (10.9.0.1/24) that is up.
fn namespace() -> (NetNs, Netlink, u32) {
    let namespace = NetNs::new_anonymous().unwrap();
    let mut netlink = Netlink::open_in(&namespace).unwrap();
    netlink.create_link("d0", "dummy").or_else(|_| netlink.create_link("d0", "bridge")).unwrap();
    let index = netlink.link("d0").unwrap().unwrap().index;
    netlink.change_link(index, &UP).unwrap();
    netlink.add_address(index, net("10.9.0.1/24")).unwrap();
    (namespace, netlink, index)
}

/// Two namespaces joined by a veth pair, both ends up: 10.8.0.1/24 and 10.8.0.2/24.
fn joined() -> (NetNs, Netlink, u32, NetNs, Netlink, u32) {
    let (near, far) = (NetNs::new_anonymous().unwrap(), NetNs::new_anonymous().unwrap());
    let mut near_netlink = Netlink::open_in(&near).unwrap();
    let mut far_netlink = Netlink::open_in(&far).unwrap();
    near_netlink
        .create_veth(&VethPair {
            name: "near",
            peer_name: "far",
            peer_namespace: Some(far.as_fd()),
            mac: Some(MacAddress([0xee; 6])),
            peer_mac: None,
            mtu: 1400,
        })
        .unwrap();
    let near_index = near_netlink.link("near").unwrap().unwrap().index;
    let far_index = far_netlink.link("far").unwrap().unwrap().index;
    near_netlink.change_link(near_index, &UP).unwrap();
    far_netlink.change_link(far_index, &UP).unwrap();
    near_netlink.add_address(near_index, net("10.8.0.1/24")).unwrap();
    far_netlink.add_address(far_index, net("10.8.0.2/24")).unwrap();
    (near, near_netlink, near_index, far, far_netlink, far_index)
}

/// Applies events until `done` holds; panics after ten seconds with what was seen.
fn follow(
    monitor: &mut Monitor,
    state: &mut KernelState,
    done: impl Fn(&KernelState) -> bool,
) -> Changed {
    let end = Instant::now() + Duration::from_secs(10);
    let mut changed = Changed::NONE;
    while !done(state) {
        assert!(Instant::now() < end, "not seen; the state is {state:#?}");
        let mut fds = [PollFd::new(monitor.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(100u8)).unwrap();
        for event in monitor.read().unwrap() {
            changed = changed | state.apply(&event);
        }
    }
    changed
}

#[test]
fn a_veth_pair_is_made_in_two_namespaces_changed_and_removed() {
    let (_near, mut netlink, index, _far, mut far_netlink, far_index) = joined();
    let near = netlink.link_by_index(index).unwrap().unwrap();
    assert_eq!(near.kind.as_deref(), Some("veth"));
    assert_eq!(near.layer, LinkLayer::Ethernet);
    assert_eq!(near.mac, Some(MacAddress([0xee; 6])));
    assert_eq!((near.mtu, near.up, near.lower_elsewhere), (1400, true, true));

    let change = LinkChange {
        name: Some("cali0"),
        mtu: Some(1300),
        tx_queue_length: Some(77),
        mac: Some(MacAddress([2, 0, 0, 0, 0, 9])),
        alias: Some("a pod"),
        no_link_local: true,
        up: Some(false),
        ..LinkChange::default()
    };
    netlink.change_link(index, &change).unwrap();
    let near = netlink.link("cali0").unwrap().unwrap();
    assert_eq!((near.mtu, near.tx_queue_length, near.up), (1300, 77, false));
    assert_eq!(near.alias.as_deref(), Some("a pod"));
    assert_eq!(near.mac.unwrap().to_string(), "02:00:00:00:00:09");
    netlink.change_link(index, &UP).unwrap();
    let quiet =
        netlink.addresses().unwrap().iter().all(|a| a.link != index || a.net.addr().is_ipv4());
    assert!(quiet, "no IPv6 link-local address of its own");

    assert!(netlink.delete_link(index).unwrap());
    assert!(!netlink.delete_link(index).unwrap());
    assert_eq!(netlink.link("cali0").unwrap(), None);
    assert_eq!(far_netlink.link_by_index(far_index).unwrap(), None);
}

#[test]
fn a_refusal_names_operation_object_and_reason() {
    let (_namespace, mut netlink, index) = namespace();
    let error = netlink.create_link("d0", "bridge").unwrap_err();
    assert!(error.is_existing(), "{error}");
    assert!(error.to_string().starts_with("create bridge d0: File exists"), "{error}");
    let route = Route::new(net("10.1.0.0/16"), NextHop::via(index, ip("192.0.2.1")));
    let error = netlink.add_route(&route).unwrap_err().to_string();
    assert!(error.contains("add route 10.1.0.0/16 via 192.0.2.1"), "{error}");
    assert!(error.contains("Nexthop has invalid gateway"), "the kernel's own text: {error}");
}

#[test]
fn addresses_of_both_families_read_back() {
    let (_namespace, mut netlink, index) = namespace();
    netlink.add_address(index, net("fd00::7/128")).unwrap();
    netlink.add_address(index, net("fd00::7/128")).unwrap();
    let mine = |netlink: &mut Netlink| -> Vec<IpNet> {
        let all = netlink.addresses().unwrap();
        all.iter().filter(|a| a.link == index && !a.tentative).map(|a| a.net).collect()
    };
    assert!(mine(&mut netlink).contains(&net("10.9.0.1/24")));
    assert!(mine(&mut netlink).contains(&net("fd00::7/128")));
    assert!(netlink.delete_address(index, net("fd00::7/128")).unwrap());
    assert!(!netlink.delete_address(index, net("fd00::7/128")).unwrap());
    assert!(!mine(&mut netlink).contains(&net("fd00::7/128")));
}

#[test]
fn routes_of_every_shape_read_back() {
    let (_namespace, mut netlink, index) = namespace();
    netlink.add_address(index, net("fd00::1/64")).unwrap();
    let (a, b) = (NextHop::via(index, ip("10.9.0.2")), NextHop::via(index, ip("10.9.0.3")));
    let plain = Route { protocol: 80, metric: 7, ..Route::new(net("10.1.0.0/16"), a.clone()) };
    let direct = Route {
        source: Some(ip("10.9.0.1")),
        mtu: Some(1280),
        ..Route::new(net("10.2.0.0/16"), NextHop::device(index))
    };
    let multipath = Route {
        next_hops: vec![a, NextHop { weight: 3, ..b }],
        ..Route::new(net("10.3.0.0/16"), NextHop::via(index, ip("10.9.0.2")))
    };
    let onlink = Route::new(
        net("0.0.0.0/0"),
        NextHop { onlink: true, ..NextHop::via(index, ip("169.254.1.1")) },
    );
    let blackhole = Route { table: 7_000, ..Route::blackhole(net("10.4.0.0/26")) };
    let over_v6 = Route::new(net("10.5.0.0/16"), NextHop::via(index, ip("fd00::2")));
    let v6 =
        Route { metric: 1024, ..Route::new(net("fd01::/64"), NextHop::via(index, ip("fd00::2"))) };
    let v6_multipath = Route {
        next_hops: vec![NextHop::via(index, ip("fd00::2")), NextHop::via(index, ip("fd00::3"))],
        destination: net("fd02::/64"),
        ..v6.clone()
    };
    for route in [&plain, &direct, &multipath, &onlink, &blackhole, &over_v6, &v6, &v6_multipath] {
        netlink.replace_route(route).unwrap();
        netlink.replace_route(route).unwrap();
        let mut stored = netlink.routes(route.table).unwrap();
        stored.retain(|other| other.destination == route.destination);
        for hop in stored.iter_mut().flat_map(|route| &mut route.next_hops) {
            hop.linkdown = false;
        }
        assert_eq!(stored, [(*route).clone()]);
    }
    assert!(netlink.add_route(&plain).unwrap_err().is_existing());
    let found = netlink.lookup_route(ip("10.3.4.5")).unwrap().unwrap();
    assert_eq!(found.next_hops[0].link, index);
    assert_eq!(netlink.lookup_route(ip("fd99::1")).unwrap(), None);
    for route in [&plain, &multipath, &blackhole, &v6_multipath] {
        assert!(netlink.delete_route(route).unwrap());
        assert!(!netlink.delete_route(route).unwrap());
    }
}

#[test]
fn rules_read_back_and_are_added_once() {
    let (_namespace, mut netlink, _) = namespace();
    for (family, destination) in [(Family::V4, "10.244.0.0/16"), (Family::V6, "fd10::/48")] {
        let rule = Rule {
            family,
            priority: 90,
            input: Some("lo".into()),
            destination: Some(net(destination)),
            source: None,
            table: 30_322,
            protocol: 80,
        };
        netlink.add_rule(&rule).unwrap();
        netlink.add_rule(&rule).unwrap();
        let stored = netlink.rules(family).unwrap();
        assert_eq!(stored.iter().filter(|other| **other == rule).count(), 1, "{stored:?}");
        assert!(netlink.delete_rule(&rule).unwrap());
        assert!(!netlink.delete_rule(&rule).unwrap());
    }
}

#[test]
fn the_monitor_sees_what_the_dump_would_show() {
    let (namespace, mut netlink, index) = namespace();
    let mut monitor = Monitor::open_in(&namespace).unwrap();
    let mut state = KernelState::dump(&mut netlink).unwrap();
    let gateway = ip("10.9.0.2");
    let route = Route::new(net("10.1.0.0/16"), NextHop::via(index, gateway));
    netlink.add_route(&route).unwrap();
    netlink.add_address(index, net("10.7.0.1/32")).unwrap();
    let sourced = Route {
        source: Some(ip("10.7.0.1")),
        ..Route::new(net("10.2.0.0/16"), NextHop::device(index))
    };
    netlink.add_route(&sourced).unwrap();
    let changed = follow(&mut monitor, &mut state, |state| {
        state.routes().any(|r| r.destination == sourced.destination)
    });
    assert!(changed.any(Changed::ROUTES) && changed.any(Changed::ADDRESSES));
    assert_eq!(state.route_to(ip("10.1.2.3")).unwrap().next_hops[0].gateway, Some(gateway));

    // The kernel removes the route with its source address and says nothing about it.
    netlink.delete_address(index, net("10.7.0.1/32")).unwrap();
    follow(&mut monitor, &mut state, |state| {
        state.addresses.iter().all(|a| a.net != net("10.7.0.1/32"))
    });
    assert!(state.routes().all(|r| r.destination != sourced.destination));

    // Taken down: its IPv4 routes are gone, silently too.
    netlink.change_link(index, &LinkChange { up: Some(false), ..LinkChange::default() }).unwrap();
    follow(&mut monitor, &mut state, |state| !state.links[&index].up);
    assert_eq!(state.route_to(ip("10.1.2.3")), None);
    for event in monitor.read().unwrap() {
        state.apply(&event);
    }
    assert_eq!(state, KernelState::dump(&mut netlink).unwrap());

    netlink.delete_link(index).unwrap();
    follow(&mut monitor, &mut state, |state| !state.links.contains_key(&index));
    assert!(state.addresses_of(index).next().is_none());
}

#[test]
fn a_managed_neighbour_is_resolved_and_reported() {
    let (near, mut netlink, index, _far, mut far_netlink, far_index) = joined();
    let mut monitor = Monitor::open_in(&near).unwrap();
    let mut state = KernelState::dump(&mut netlink).unwrap();
    let address = ip("10.8.0.2");
    netlink.manage_neighbour(index, address).unwrap();
    follow(&mut monitor, &mut state, |state| {
        state.neighbours.get(&(index, address)).is_some_and(|n| n.state.is_usable())
    });
    let neighbour = &state.neighbours[&(index, address)];
    assert!(neighbour.managed);
    assert_eq!(neighbour.mac, far_netlink.link_by_index(far_index).unwrap().unwrap().mac);
    netlink.probe_neighbour(index, address).unwrap();
    assert!(netlink.neighbours().unwrap().iter().any(|n| n.address == address));
    assert!(netlink.delete_neighbour(index, address).unwrap());
    assert!(!netlink.delete_neighbour(index, address).unwrap());
    let fixed = MacAddress([2, 0, 0, 0, 0, 5]);
    netlink.set_neighbour(index, ip("10.8.0.5"), fixed).unwrap();
    let stored = netlink.neighbours().unwrap();
    let stored = stored.iter().find(|n| n.address == ip("10.8.0.5")).unwrap();
    assert_eq!((stored.mac, stored.state), (Some(fixed), NeighbourState::Permanent));
}

#[test]
fn lost_events_are_announced() {
    let (namespace, mut netlink, index) = namespace();
    let mut monitor = Monitor::open_in(&namespace).unwrap();
    setsockopt(&monitor, sockopt::RcvBuf, &2048).unwrap();
    for n in 1..200u8 {
        netlink.add_address(index, net(&format!("10.10.0.{n}/32"))).unwrap();
    }
    let events = monitor.read().unwrap();
    assert!(events.contains(&KernelEvent::Overrun));
    assert!(KernelState::default().apply(&KernelEvent::Overrun).any(Changed::OVERRUN));
}

#[test]
fn the_longest_prefix_then_the_smallest_metric_wins() {
    let mut state = KernelState::default();
    let mut add = |destination: &str, metric, link| {
        let route = Route { metric, ..Route::new(net(destination), NextHop::device(link)) };
        state.apply(&KernelEvent::Route { route, place: RoutePlace::First });
    };
    add("0.0.0.0/0", 100, 1);
    add("0.0.0.0/0", 50, 2);
    add("10.0.0.0/8", 0, 3);
    add("10.1.2.3/32", 7, 4);
    add("::/0", 1024, 5);
    let mut dead = Route::new(net("10.1.0.0/16"), NextHop { dead: true, ..NextHop::device(6) });
    state.apply(&KernelEvent::Route { route: dead.clone(), place: RoutePlace::First });
    let by = |state: &KernelState, to| state.route_to(ip(to)).map(|r| r.next_hops[0].link);
    assert_eq!(by(&state, "192.0.2.1"), Some(2));
    assert_eq!(by(&state, "10.1.9.9"), Some(3), "not by a dead device");
    assert_eq!(by(&state, "10.1.2.3"), Some(4));
    assert_eq!(by(&state, "2001:db8::1"), Some(5));
    dead.next_hops[0].dead = false;
    state.apply(&KernelEvent::Route { route: dead, place: RoutePlace::Replace });
    assert_eq!(by(&state, "10.1.9.9"), Some(6));
}

/// A small deterministic generator (xorshift), so that a failure can be repeated by its seed.
struct Dice(u32);

impl Dice {
    fn below(&mut self, end: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0 % end
    }
}

/// One random change; refusals of the kernel are part of the game.
fn random_change(dice: &mut Dice, netlink: &mut Netlink, links: [u32; 2]) {
    let link = links[dice.below(2) as usize];
    let other = links[dice.below(2) as usize];
    let n = dice.below(4);
    let v6 = dice.below(2) == 1;
    let (gateway, destination, address) = if v6 {
        (format!("fd08::{}", n + 2), format!("fd20:{n}::/64"), format!("fd07::{n}/128"))
    } else {
        (format!("10.8.0.{}", n + 2), format!("10.2{n}.0.0/16"), format!("10.7.0.{n}/32"))
    };
    let mut route = Route {
        metric: 1024 + dice.below(2),
        ..Route::new(net(&destination), NextHop::via(link, ip(&gateway)))
    };
    match dice.below(12) {
        0 => drop(netlink.add_address(link, net(&address))),
        1 => drop(netlink.delete_address(link, net(&address))),
        2 => drop(netlink.add_route(&route)),
        3 => drop(netlink.replace_route(&route)),
        4 => drop(netlink.delete_route(&route)),
        5 | 6 => {
            let second = if v6 { "fd08::9" } else { "10.8.0.9" };
            route.next_hops.push(NextHop { weight: 2, ..NextHop::via(other, ip(second)) });
            drop(netlink.replace_route(&route));
        }
        7 => {
            route.source = Some(net(&address).addr());
            drop(netlink.add_route(&route));
        }
        8 => {
            route = Route { metric: route.metric, ..Route::blackhole(net(&destination)) };
            drop(netlink.add_route(&route));
        }
        9 => {
            let down = LinkChange { up: Some(false), ..LinkChange::default() };
            netlink.change_link(link, &down).unwrap();
        }
        10 => {
            let mtu = LinkChange { mtu: Some(1400 + dice.below(100)), ..LinkChange::default() };
            netlink.change_link(link, &mtu).unwrap();
        }
        _ => {
            netlink.change_link(link, &UP).unwrap();
            let own = if v6 { "fd08::1/64" } else { "10.8.0.1/24" };
            drop(netlink.add_address(links[0], net(own)));
        }
    }
}

#[test]
fn after_any_changes_the_state_from_events_is_what_a_dump_shows() {
    for seed in 1..=12u32 {
        let (near, mut netlink, first, _far, _far_netlink, _) = joined();
        netlink.create_link("d1", "bridge").unwrap();
        let second = netlink.link("d1").unwrap().unwrap().index;
        run_in(&near, || {
            for place in ["all", "near", "d1"] {
                // Without waiting for duplicates each step settles at once.
                let path = format!("/proc/sys/net/ipv6/conf/{place}/accept_dad");
                std::fs::write(path, "0").unwrap();
            }
        })
        .unwrap();
        let mut monitor = Monitor::open_in(&near).unwrap();
        let mut state = KernelState::dump(&mut netlink).unwrap();
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9));
        for step in 0..60 {
            random_change(&mut dice, &mut netlink, [first, second]);
            // Duplicate address detection and carriers take their time, so the two may differ for
            // a moment; neighbours come and go by themselves.
            let mut dumped = KernelState::default();
            let settled = (0..400).any(|_| {
                for event in monitor.read().unwrap() {
                    state.apply(&event);
                }
                dumped = KernelState::dump(&mut netlink).unwrap();
                dumped.neighbours.clone_from(&state.neighbours);
                let same = dumped == state;
                if !same {
                    std::thread::sleep(Duration::from_millis(5));
                }
                same
            });
            if !settled {
                assert_eq!(
                    state.routes().collect::<Vec<_>>(),
                    dumped.routes().collect::<Vec<_>>(),
                    "seed {seed}, step {step}: routes from events, dumped"
                );
                assert_eq!(state, dumped, "seed {seed}, step {step}: from events, dumped");
            }
        }
    }
}
