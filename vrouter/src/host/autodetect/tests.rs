//! Does each method pick the address its description promises, and explain itself?

use super::*;
use crate::host::monitor::KernelEvent;
use crate::host::netlink::{LinkLayer, RouteScope};

/// A node: (name, up, addresses), indices in order.
fn node(links: &[(&str, bool, &[&str])]) -> KernelState {
    let mut state = KernelState::default();
    for (index, (name, up, addresses)) in (1..).zip(links) {
        state.apply(&KernelEvent::Link(Link {
            index,
            name: (*name).into(),
            kind: None,
            layer: LinkLayer::Ethernet,
            mac: None,
            mtu: 1500,
            up: *up,
            carrier: *up,
            master: None,
            lower: None,
            lower_elsewhere: false,
            alias: None,
            tx_queue_length: 1000,
            qdisc: None,
        }));
        for address in *addresses {
            state.apply(&KernelEvent::Address(Address {
                link: index,
                net: address.trim_end_matches('!').parse().unwrap(),
                scope: RouteScope::Universe,
                secondary: address.ends_with('!'),
                deprecated: false,
                tentative: false,
            }));
        }
    }
    state
}

fn usual() -> KernelState {
    node(&[
        ("lo", true, &["127.0.0.1/8", "::1/128"]),
        ("docker0", true, &["172.17.0.1/16"]),
        ("eth9", false, &["192.0.2.9/24"]),
        (
            "eth0",
            true,
            &["169.254.7.7/16", "10.1.5.8/24!", "10.1.5.7/24", "fe80::1/64", "fd05::7/64"],
        ),
        ("eth1", true, &["10.1.8.7/25"]),
        ("tunl0", true, &["10.244.0.1/32"]),
    ])
}

fn try_find(method: &str, family: Family) -> Result<Detected, NotDetected> {
    let lookups = Lookups {
        resolve: &|name| match name {
            "gateway.test" => Ok(vec!["fd05::1".parse().unwrap(), "10.1.8.1".parse().unwrap()]),
            _ => Err(io::Error::other("no such name")),
        },
        source: &|ip| (ip.to_string() == "10.1.8.1").then(|| "10.1.8.7".parse().unwrap()),
        internal_ip: method.starts_with("kube").then(|| "10.1.8.7".parse().unwrap()),
    };
    detect(&method.parse().unwrap(), family, &usual(), &lookups)
}

fn find(method: &str) -> (String, String) {
    let found = try_find(method, Family::V4).unwrap();
    (found.net.to_string(), found.interface)
}

#[test]
fn each_method_picks_its_address() {
    let on = |net: &str, link: &str| (net.to_owned(), link.to_owned());
    assert_eq!(find("first-found"), on("10.1.5.7/24", "eth0"));
    assert_eq!(find("interface=eth1"), on("10.1.8.7/25", "eth1"));
    assert_eq!(find("interface=nothing,^docker.*"), on("172.17.0.1/16", "docker0"));
    assert_eq!(find("skip-interface=eth0"), on("10.1.8.7/25", "eth1"));
    assert_eq!(find("cidr=192.0.2.0/24, 10.1.8.0/24"), on("10.1.8.7/25", "eth1"));
    assert_eq!(find("can-reach=10.1.8.1"), on("10.1.8.7/25", "eth1"));
    assert_eq!(find("can-reach=gateway.test"), on("10.1.8.7/25", "eth1"));
    assert_eq!(find("kubernetes-internal-ip"), on("10.1.8.7/25", "eth1"));
    let v6 = try_find("first-found", Family::V6).unwrap();
    assert_eq!(v6.net.to_string(), "fd05::7/64");
}

#[test]
fn the_choice_is_explained() {
    let reason = try_find("skip-interface=eth0", Family::V4).unwrap().reason;
    for part in ["docker0 (never", "eth9 (down)", "eth0 (skipped by 'eth0')", "eth1 is the first"] {
        assert!(reason.contains(part), "{part} in: {reason}");
    }
}

#[test]
fn what_cannot_be_found_says_why() {
    let error = |method| try_find(method, Family::V4).unwrap_err().to_string();
    let no_internal = {
        let lookups = Lookups { resolve: &|_| Ok(vec![]), source: &|_| None, internal_ip: None };
        detect(&Method::KubernetesInternalIp, Family::V4, &usual(), &lookups).unwrap_err()
    };
    assert!(no_internal.to_string().contains("InternalIP is not known"), "{no_internal}");
    assert!(error("interface=bond.*").contains("there are lo, docker0, eth9"));
    assert!(error("interface=eth9").contains("eth9 is down"));
    assert!(error("can-reach=198.51.100.1").contains("no route to 198.51.100.1"));
    assert!(error("can-reach=nowhere.test").contains("cannot be resolved: no such name"));
    assert!(error("can-reach=fd05::1").contains("other family"));
    assert!(error("cidr=203.0.113.0/24").contains("no interface that is up"));
    let none = detect(
        &Method::FirstFound,
        Family::V4,
        &node(&[("lo", true, &["127.0.0.1/8"])]),
        &Lookups { resolve: &|_| Ok(vec![]), source: &|_| None, internal_ip: None },
    );
    assert!(none.unwrap_err().to_string().contains("lo (never a node's uplink"));
}

#[test]
fn methods_are_read_and_refused_by_name() {
    for text in ["first-found", "can-reach=8.8.8.8", "interface=eth.*,en.*", "cidr=10.0.0.0/8"] {
        assert_eq!(text.parse::<Method>().unwrap().to_string(), text);
    }
    let error = |text: &str| text.parse::<Method>().unwrap_err();
    assert_eq!(error("first"), MethodError::Unknown("first".into()));
    assert_eq!(error("interface="), MethodError::Empty("interface".into()));
    assert_eq!(error("cidr=10.0.0.0/33"), MethodError::Cidr("10.0.0.0/33".into()));
    assert!(error("interface=eth[").to_string().contains("'eth[' is not a regular expression"));
}
