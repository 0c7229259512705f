//! Do the trees say what plain maps of prefixes say, whatever was inserted and removed?

use super::v4::Lpm4;
use super::v6::Lpm6;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The plain form: every length is tried, longest first.
#[derive(Default)]
struct Plain(BTreeMap<IpNet, u32>);

impl Plain {
    fn longest_match(&self, address: IpAddr) -> Option<(IpNet, u32)> {
        let most = IpNet::from(address).max_prefix_len();
        (0..=most).rev().find_map(|len| {
            let net = IpNet::new(address, len).expect("length in range").trunc();
            Some((net, *self.0.get(&net)?))
        })
    }

    fn set(&mut self, prefix: IpNet, value: u32) {
        match value {
            0 => self.0.remove(&prefix.trunc()),
            _ => self.0.insert(prefix.trunc(), value),
        };
    }
}

/// Close together half of the time, so that prefixes nest and nodes split.
fn v4() -> impl Strategy<Value = u32> {
    prop_oneof![
        (0_u32..4, 0_u32..4, 0_u32..4, 0_u32..8)
            .prop_map(|(a, b, c, d)| a << 30 | b << 23 | c << 13 | d),
        any::<u32>(),
    ]
}

fn v6() -> impl Strategy<Value = u128> {
    prop_oneof![
        (0_u128..3, 0_u128..3, 0_u128..3, 0_u128..8).prop_map(|(a, b, c, d)| 0xfd << 120
            | a << 78
            | b << 40
            | c << 30
            | d),
        any::<u128>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn v4_is_the_plain_map(
        changes in vec((v4(), 0_u8..=32, 0_u32..5), 0..120), asked in vec(v4(), 1..40),
    ) {
        let (mut table, mut plain) = (Lpm4::default(), Plain::default());
        let mut addresses: Vec<Ipv4Addr> = asked.into_iter().map(Ipv4Addr::from).collect();
        for (address, len, value) in changes {
            let prefix = Ipv4Net::new(address.into(), len).expect("length in range");
            plain.set(prefix.into(), value);
            match value {
                0 => table.remove(prefix),
                _ => table.insert(prefix, value),
            }
            addresses.extend([prefix.network(), prefix.broadcast()]);
            addresses.push(u32::from(prefix.broadcast()).wrapping_add(1).into());
        }
        prop_assert_eq!(table.len(), plain.0.len());
        let mut values = vec![9; addresses.len()];
        table.lookup_batch(&addresses, &mut values);
        for (address, value) in addresses.iter().zip(values) {
            let wanted = plain.longest_match((*address).into());
            prop_assert_eq!(table.lookup(*address), wanted.map_or(0, |(_, value)| value));
            prop_assert_eq!(table.lookup(*address), value);
            let found = table.longest_match(*address);
            prop_assert_eq!(found.map(|(net, value)| (IpNet::from(net), value)), wanted);
        }
        let entries = table.entries().into_iter().map(|(net, value)| (IpNet::from(net), value));
        prop_assert!(entries.eq(plain.0.iter().map(|(net, value)| (*net, *value))));
        for (prefix, value) in table.entries() {
            prop_assert_eq!(table.get(prefix), Some(value));
            table.insert(prefix, 0);
        }
        prop_assert!(table.is_empty());
        prop_assert_eq!(table.nodes_not_in(&table.clone()), 0);
        prop_assert_eq!(table.nodes_not_in(&Lpm4::default()), 1, "the root is all that stays");
    }

    #[test]
    fn v6_is_the_plain_map(
        changes in vec((v6(), 0_u8..=128, 0_u32..5), 0..120), asked in vec(v6(), 1..40),
    ) {
        let (mut table, mut plain) = (Lpm6::default(), Plain::default());
        let mut addresses: Vec<Ipv6Addr> = asked.into_iter().map(Ipv6Addr::from).collect();
        for (address, len, value) in changes {
            let prefix = Ipv6Net::new(address.into(), len).expect("length in range");
            plain.set(prefix.into(), value);
            match value {
                0 => table.remove(prefix),
                _ => table.insert(prefix, value),
            }
            addresses.extend([prefix.network(), prefix.broadcast()]);
            addresses.push(u128::from(prefix.broadcast()).wrapping_add(1).into());
        }
        prop_assert_eq!(table.len(), plain.0.len());
        let mut values = vec![9; addresses.len()];
        table.lookup_batch(&addresses, &mut values);
        for (address, value) in addresses.iter().zip(values) {
            let wanted = plain.longest_match((*address).into());
            prop_assert_eq!(table.lookup(*address), wanted.map_or(0, |(_, value)| value));
            prop_assert_eq!(table.lookup(*address), value);
            let found = table.longest_match(*address);
            prop_assert_eq!(found.map(|(net, value)| (IpNet::from(net), value)), wanted);
        }
        let entries = table.entries().into_iter().map(|(net, value)| (IpNet::from(net), value));
        prop_assert!(entries.eq(plain.0.iter().map(|(net, value)| (*net, *value))));
        for (prefix, value) in table.entries() {
            prop_assert_eq!(table.get(prefix), Some(value));
            table.insert(prefix, 0);
        }
        prop_assert_eq!(table.nodes_not_in(&Lpm6::default()), 1, "the root is all that stays");
    }

    #[test]
    fn a_clone_keeps_what_it_was(
        before in vec((v4(), 0_u8..=32), 0..60), after in vec((v4(), 0_u8..=32, 0_u32..3), 1..60),
    ) {
        let mut table = Lpm4::default();
        for (address, len) in before {
            table.insert(Ipv4Net::new(address.into(), len).expect("length in range"), 1);
        }
        let (old, entries) = (table.clone(), table.entries());
        for (address, len, value) in after {
            table.insert(Ipv4Net::new(address.into(), len).expect("length in range"), value);
        }
        prop_assert_eq!(old.entries(), entries);
    }
}

#[test]
fn one_route_more_copies_the_path_to_it_only() {
    let mut table = Lpm4::default();
    for n in 0..2000_u32 {
        let address = Ipv4Addr::from(0x0a00_0000 | n << 6);
        table.insert(Ipv4Net::new(address, 26).expect("valid"), n + 1);
    }
    let before = table.clone();
    assert_eq!(table.nodes_not_in(&before), 0);
    table.insert("10.0.7.9/32".parse().expect("valid"), 7);
    let copied = table.nodes_not_in(&before);
    assert!(copied <= 5, "{copied} nodes for one route");
    table.insert("10.0.7.9/32".parse().expect("valid"), 7);
    assert_eq!(table.nodes_not_in(&before), copied);
    assert_eq!(before.lookup([10, 0, 7, 9].into()), 29);
    assert_eq!(table.lookup([10, 0, 7, 9].into()), 7);
}

#[test]
fn the_ends_of_the_address_space_are_covered() {
    let mut table = Lpm6::default();
    table.insert("::/0".parse().expect("valid"), 1);
    table.insert("::/128".parse().expect("valid"), 2);
    let last = Ipv6Addr::from(u128::MAX);
    table.insert(last.into(), 3);
    assert_eq!(table.lookup(Ipv6Addr::UNSPECIFIED), 2);
    assert_eq!(table.lookup(last), 3);
    assert_eq!(table.lookup("8000::".parse().expect("valid")), 1);
    table.remove("::/0".parse().expect("valid"));
    assert_eq!(table.lookup("8000::".parse().expect("valid")), 0);
    assert_eq!(table.len(), 2);
}

#[test]
fn a_batch_takes_as_many_as_both_slices_hold() {
    let mut table = Lpm4::default();
    table.insert("0.0.0.0/0".parse().expect("valid"), 5);
    let addresses = [Ipv4Addr::LOCALHOST; 20];
    let mut values = [0; 11];
    table.lookup_batch(&addresses, &mut values);
    assert_eq!(values, [5; 11]);
    let mut values = [9; 30];
    table.lookup_batch(&addresses, &mut values);
    assert_eq!((values[19], values[20]), (5, 9));
}
