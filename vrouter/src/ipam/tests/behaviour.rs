//! Does one node after the other get what Calico would give it?

use super::*;
use crate::api::{EncapMode, Key, Kind, ippool::AssignmentMode};

#[test]
fn an_owner_keeps_its_address_until_it_is_released() {
    let (_dir, store) = opened();
    pool(&store, "p", "10.0.0.0/24", 26, |_| {});
    let first = assign(&store, "a", "one").unwrap();
    assert_eq!(assign(&store, "a", "one").unwrap(), first);
    assert_ne!(assign(&store, "a", "two").unwrap(), first);
    let ipam = Ipam::new(&store, "a");
    assert_eq!(ipam.addresses_of("one").unwrap(), [first]);
    assert_eq!(ipam.release_handle("one").unwrap(), [first]);
    assert_eq!(ipam.release_handle("one").unwrap(), [] as [IpAddr; 0]);
    assert_eq!(consistent(&store).len(), 1);
    assert!(find::<IpamHandle>(&store, "one").unwrap().is_none());

    let block = list::<IpamBlock>(&store).unwrap().remove(0).spec;
    assert_eq!(block.node(), Some("a"));
    assert_eq!(
        block.unallocated.last(),
        block.ordinal(first).as_ref(),
        "the one released last is used last"
    );
    let holder = block.holder(1).unwrap();
    assert_eq!(holder.secondary["pod"], "two");
    assert_eq!(
        (holder.secondary["node"].as_str(), holder.secondary["namespace"].as_str()),
        ("a", "default")
    );
    assert!(holder.secondary.contains_key("timestamp"));
    assert_eq!(block.sequence_number, 3);
    assert_eq!(block.sequence_number_for_allocation, [("1".to_owned(), 2)].into());
}

#[test]
fn addresses_are_used_again_in_the_order_they_were_freed() {
    let (_dir, store) = opened();
    pool(&store, "p", "10.0.0.0/30", 30, |_| {});
    let ipam = Ipam::new(&store, "a");
    for handle in ["1", "2", "3", "4"] {
        assign(&store, "a", handle).unwrap();
    }
    for handle in ["3", "1"] {
        ipam.release_handle(handle).unwrap();
    }
    let again = ["5", "6"].map(|handle| assign(&store, "a", handle).unwrap().to_string());
    assert_eq!(again, ["10.0.0.2", "10.0.0.0"]);
}

#[test]
fn own_blocks_then_new_ones_then_others() {
    let (_dir, store) = opened();
    pool(&store, "p", "10.0.0.0/29", 30, |_| {});
    let of = |node: &str, handle: &str| {
        let block = |address| pools::block_of(&list::<IpPool>(&store).unwrap()[0], address);
        assign(&store, node, handle).map(block)
    };
    let block_a = of("a", "1").unwrap();
    let block_b = of("b", "2").unwrap();
    assert_ne!(block_a, block_b, "every node has a block of its own");
    for handle in ["3", "4", "5"] {
        assert_eq!(of("a", handle).unwrap(), block_a);
    }
    assert_eq!(of("a", "6").unwrap(), block_b, "borrowed");
    let usage = usage::usage(&store).unwrap();
    let borrowed: Vec<_> = usage[0].blocks.iter().flat_map(|block| &block.borrowed).collect();
    assert_eq!(borrowed.len(), 1);
    assert_eq!(
        (borrowed[0].node.as_deref(), borrowed[0].block_owner.as_deref()),
        (Some("a"), Some("b"))
    );
    assert_eq!((usage[0].total, usage[0].in_use), (8, 6));

    configure(&store, IpamConfigurationSpec { strict_affinity: true, ..Default::default() });
    assert!(
        matches!(of("a", "7"), Err(IpamError::Exhausted { .. })),
        "strict: nothing is borrowed"
    );
    assert_eq!(of("b", "8").unwrap(), block_b);
    configure(&store, IpamConfigurationSpec::default());
    of("a", "9").unwrap();
    let Err(error) = of("a", "10") else { panic!("there are only eight") };
    assert!(error.to_string().contains("p (10.0.0.0/29)"), "{error}");
    assert!(find::<IpamHandle>(&store, "10").unwrap().is_none(), "no trace is left of what failed");
    assert_eq!(consistent(&store).len(), 8);
}

#[test]
fn a_node_at_its_block_limit_does_not_borrow() {
    let (_dir, store) = opened();
    pool(&store, "p", "10.0.0.0/26", 31, |_| {});
    assign(&store, "b", "elsewhere").unwrap();
    for count in 0..2 * DEFAULT_BLOCK_LIMIT {
        assign(&store, "a", &format!("h{count}")).unwrap();
    }
    let Err(error) = assign(&store, "a", "more") else { panic!("over the limit") };
    assert!(matches!(error, IpamError::BlockLimit { held: DEFAULT_BLOCK_LIMIT, .. }), "{error}");
    configure(
        &store,
        IpamConfigurationSpec {
            strict_affinity: true,
            max_blocks_per_host: 21,
            ..Default::default()
        },
    );
    assign(&store, "a", "more").unwrap();
    configure(&store, IpamConfigurationSpec { auto_allocate_blocks: false, ..Default::default() });
    assert!(assign(&store, "c", "borrows").is_ok(), "may not claim, so it borrows");
}

#[test]
fn pools_are_chosen_by_their_flags_and_selectors() {
    let (_dir, store) = opened();
    let none = |why: &str| {
        let Err(error) = assign(&store, "a", "h") else { panic!("{why}") };
        assert!(
            matches!(error, IpamError::NoPool { .. }) && error.to_string().contains(why),
            "{error}"
        );
    };
    none("add an IPPool");
    pool(&store, "p", "10.0.0.0/24", 26, |spec| spec.disabled = true);
    none("p is disabled");
    pool(&store, "p", "10.0.0.0/24", 26, |spec| spec.assignment_mode = AssignmentMode::Manual);
    none("asked for by name");
    pool(&store, "p", "10.0.0.0/24", 26, |spec| spec.allowed_uses = vec![AllowedUse::Tunnel]);
    none("not for Workload");
    pool(&store, "p", "10.0.0.0/24", 26, |spec| "has(x)".clone_into(&mut spec.node_selector));
    none("does not select node a");
    let selects = |selector: &str, labels: &BTreeMap<String, String>| {
        selector == "all()" || (selector == "has(x)" && labels.contains_key("x"))
    };
    let mut labelled = Node::named("a", crate::api::NodeSpec::default());
    labelled.metadata.labels.insert("x".to_owned(), String::new());
    store.apply(labelled.into()).unwrap();
    let ipam = Ipam::new(&store, "a").with_selector(&selects);
    ipam.assign(&request("h")).unwrap();
    assert!(Ipam::new(&store, "b").with_selector(&selects).assign(&request("i")).is_err());

    pool(&store, "q", "10.1.0.0/24", 26, |spec| {
        spec.assignment_mode = AssignmentMode::Manual;
        "has(never)".clone_into(&mut spec.node_selector);
    });
    for (handle, wanted) in [("j", "q"), ("k", "10.1.0.0/24")] {
        let asked = AssignRequest { pools: vec![wanted.to_owned()], ..request(handle) };
        let got = Ipam::new(&store, "b").assign(&asked).unwrap();
        assert!("10.1.0.0/24".parse::<IpNet>().unwrap().contains(&got.address));
    }
    let unknown = AssignRequest { pools: vec!["r".to_owned()], ..request("l") };
    assert!(ipam.assign(&unknown).unwrap_err().to_string().contains("r does not exist"));

    pool(&store, "v6", "fd00::/64", 122, |_| {});
    let v6 = AssignRequest { family: Family::V6, ..request("h") };
    assert!(ipam.assign(&v6).unwrap().address.is_ipv6());
    assert_eq!(ipam.addresses_of("h").unwrap().len(), 2, "one owner has both families");
    assert_eq!(ipam.release_handle("h").unwrap().len(), 2);
}

#[test]
fn namespaces_are_selected() {
    let (_dir, store) = opened();
    pool(&store, "p", "10.0.0.0/24", 26, |spec| {
        "has(team)".clone_into(&mut spec.namespace_selector);
    });
    let selects = |selector: &str, labels: &BTreeMap<String, String>| {
        selector == "all()" || (selector == "has(team)" && labels.contains_key("team"))
    };
    let ipam = Ipam::new(&store, "a").with_selector(&selects);
    let refused = ipam.assign(&request("h")).unwrap_err().to_string();
    assert!(refused.contains("does not select the namespace (has(team))"), "{refused}");
    let namespace_labels = [("team".to_owned(), "x".to_owned())].into();
    ipam.assign(&AssignRequest { namespace_labels, ..request("h") }).unwrap();
}

#[test]
fn reserved_addresses_are_given_only_where_they_are_asked_for() {
    let (_dir, store) = opened();
    pool(&store, "p", "10.0.0.0/28", 29, |_| {});
    let mut reserved =
        crate::api::IpReservation::named("r", crate::api::ipam::IpReservationSpec::default());
    reserved.spec.reserved_cidrs =
        ["10.0.0.0/29", "10.0.0.8/30", "10.0.0.13/32"].map(|cidr| cidr.parse().unwrap()).to_vec();
    store.create(reserved.into()).unwrap();
    let got: BTreeSet<String> = (0..3)
        .map(|count| assign(&store, "a", &format!("h{count}")).unwrap().to_string())
        .collect();
    assert_eq!(got.into_iter().collect::<Vec<_>>(), ["10.0.0.12", "10.0.0.14", "10.0.0.15"]);
    assert!(assign(&store, "a", "more").is_err());
    let fixed = AssignRequest { fixed: Some("10.0.0.1".parse().unwrap()), ..request("fixed") };
    assert_eq!(Ipam::new(&store, "a").assign(&fixed).unwrap().address.to_string(), "10.0.0.1");
}

#[test]
fn fixed_addresses() {
    let (_dir, store) = opened();
    pool(&store, "p", "10.0.0.0/24", 26, |_| {});
    let ipam = Ipam::new(&store, "a");
    let wants = |handle: &str, address: &str| AssignRequest {
        fixed: Some(address.parse().unwrap()),
        ..request(handle)
    };
    let got = ipam.assign(&wants("one", "10.0.0.77")).unwrap();
    assert_eq!(
        (got.address.to_string(), got.block.to_string()),
        ("10.0.0.77".into(), "10.0.0.64/26".into())
    );
    assert_eq!(ipam.assign(&wants("one", "10.0.0.77")).unwrap(), got);
    let error =
        |handle: &str, address: &str| ipam.assign(&wants(handle, address)).unwrap_err().to_string();
    assert!(error("one", "10.0.0.78").contains("already has 10.0.0.77"));
    assert!(error("two", "10.0.0.77").contains("10.0.0.77 is taken by pod default/one"));
    assert!(error("two", "10.9.0.1").contains("in no pool"));
    assert!(error("two", "fd00::1").contains("not IPv4"));
    Ipam::new(&store, "b").assign(&wants("three", "10.0.0.78")).unwrap();
    configure(&store, IpamConfigurationSpec { strict_affinity: true, ..Default::default() });
    let strict =
        Ipam::new(&store, "b").assign(&wants("four", "10.0.0.79")).unwrap_err().to_string();
    assert!(strict.contains("belongs to a"), "{strict}");
    assert_eq!(consistent(&store).len(), 2);
}

#[test]
fn tunnel_addresses_follow_the_pools() {
    let (_dir, store) = opened();
    let ipam = Ipam::new(&store, "a");
    assert_eq!(ipam.ensure_tunnel_address().unwrap(), None);
    pool(&store, "plain", "10.0.0.0/24", 26, |_| {});
    let plain = ipam.ensure_tunnel_address().unwrap();
    assert_eq!(ipam.ensure_tunnel_address().unwrap(), plain, "also where nothing is encapsulated");
    pool(&store, "ipip", "10.1.0.0/24", 26, |spec| spec.ipip_mode = EncapMode::CrossSubnet);
    let tunnel: IpAddr = ipam.ensure_tunnel_address().unwrap().unwrap().into();
    assert!("10.1.0.0/24".parse::<IpNet>().unwrap().contains(&tunnel));
    assert_eq!(consistent(&store).len(), 1, "the old one was released");
    let found = usage::lookup(&store, tunnel).unwrap().unwrap();
    assert_eq!(
        (found.kind.as_str(), found.holder.as_str()),
        ("ipipTunnelAddress", "ipipTunnelAddress of a")
    );
    assert_eq!(found.attributes.handle_id.as_deref(), Some("ipip-tunnel-addr-a"));
    pool(&store, "ipip", "10.1.0.0/24", 26, |spec| spec.disabled = true);
    let back: IpAddr = ipam.ensure_tunnel_address().unwrap().unwrap().into();
    assert!("10.0.0.0/24".parse::<IpNet>().unwrap().contains(&back));
}

#[test]
fn one_address_is_released_whoever_has_it() {
    let (_dir, store) = opened();
    pool(&store, "p", "10.0.0.0/24", 26, |_| {});
    let address = assign(&store, "a", "one").unwrap();
    let other = Ipam::new(&store, "b");
    assert!(other.release_address(address).unwrap());
    assert!(!other.release_address(address).unwrap());
    assert!(!other.release_address("10.9.9.9".parse().unwrap()).unwrap());
    assert_eq!(consistent(&store).len(), 0);
    assert!(list::<IpamHandle>(&store).unwrap().is_empty());
}

#[test]
fn what_a_dead_process_began_is_finished_or_undone() {
    let (_dir, store) = opened();
    pool(&store, "p", "10.0.0.0/29", 30, |_| {});
    let cidr: Cidr = "10.0.0.0/30".parse().unwrap();
    let affinity = |node: &str, state| {
        let spec = crate::api::BlockAffinitySpec {
            cidr,
            node: node.to_owned(),
            state,
            kind: "host".to_owned(),
            deleted: false,
        };
        store
            .apply(BlockAffinity::named(crate::api::ipam::affinity_name(node, &cidr), spec).into())
            .unwrap();
    };
    // Claimed, and died before the block was there.
    affinity("a", AffinityState::Pending);
    assert!(
        cidr.contains(&assign(&store, "a", "one").unwrap()),
        "the claim is finished, not a new one begun"
    );
    // Claimed a block that is another's.
    affinity("b", AffinityState::Pending);
    assert!(!cidr.contains(&assign(&store, "b", "two").unwrap()));
    assert_eq!(list::<BlockAffinity>(&store).unwrap().len(), 2, "the claim that lost is gone");
    // Tied a handle, and died before the address was taken.
    let mut tied = IpamHandle::named(handle_name("three"), crate::api::IpamHandleSpec::default());
    "three".clone_into(&mut tied.spec.handle_id);
    tied.spec.block.insert(cidr.to_string(), 1);
    store.create(tied.into()).unwrap();
    assert!(cidr.contains(&assign(&store, "a", "three").unwrap()));
    assert_eq!(Ipam::new(&store, "a").release_handle("three").unwrap().len(), 1);
    // Began to give the block up.
    affinity("a", AffinityState::PendingDeletion);
    Ipam::new(&store, "a").release_handle("one").unwrap();
    assign(&store, "a", "four").unwrap();
    consistent(&store);
}

#[test]
fn a_block_is_given_up_with_and_without_addresses_in_it() {
    let (_dir, store) = opened();
    pool(&store, "p", "10.0.0.0/24", 26, |_| {});
    let ipam = Ipam::new(&store, "a");
    let held = ipam.assign(&request("one")).unwrap();
    ipam.release_affinity(&Cidr(held.block)).unwrap();
    assert!(list::<BlockAffinity>(&store).unwrap().is_empty());
    assert_eq!(list::<IpamBlock>(&store).unwrap()[0].spec.affinity, None);
    assert_eq!(consistent(&store).len(), 1);
    ipam.release_handle("one").unwrap();
    assert!(
        list::<IpamBlock>(&store).unwrap().is_empty(),
        "nobody's block goes with its last address"
    );

    let held = ipam.assign(&request("two")).unwrap();
    ipam.release_handle("two").unwrap();
    ipam.release_affinity(&Cidr(held.block)).unwrap();
    assert!(store.list(Kind::IpamBlock).unwrap().is_empty());
    assert!(store.get(&Key::new(Kind::BlockAffinity, "a")).is_err());
    ipam.release_affinity(&Cidr(held.block)).unwrap();
}

#[test]
fn blocks_are_tried_in_an_order_of_the_node() {
    let of = |cidr: &str, size: u8, node: &str| {
        let mut pool = IpPool::named("p", IpPoolSpec::new(cidr.parse().unwrap()));
        pool.spec.block_size = Some(size);
        pools::blocks_in_order(&pool, node).take(5_000).collect::<Vec<_>>()
    };
    let (a, b) = (of("10.0.0.0/16", 26, "node-a"), of("10.0.0.0/16", 26, "node-b"));
    assert_eq!(a.len(), 1024);
    assert_eq!(a.iter().collect::<BTreeSet<_>>().len(), 1024);
    assert!(a.iter().all(|block| block.is_masked() && block.prefix_len() == 26));
    assert_ne!(a[0], b[0]);
    assert_eq!(of("10.0.0.0/26", 26, "x").len(), 1);
    assert_eq!(of("0.0.0.0/0", 32, "x").len(), 5_000);
    assert_eq!(of("::/0", 128, "x").len(), 5_000);
    assert!(
        of("fd00::/48", 122, "x")
            .iter()
            .all(|block| "fd00::/48".parse::<IpNet>().unwrap().contains(&block.0))
    );
}
