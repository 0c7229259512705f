//! The paths in use depend on the candidates present, never on history.

use super::*;
use crate::rib::route::{AsPath, PathAttributes, Source, SourceKind};
use proptest::prelude::*;
use std::net::Ipv4Addr;
use std::sync::Arc;

#[derive(Debug, Clone)]
enum Change {
    Insert { prefix: u8, peer: u8, path_id: u8, preference: u8, length: u8, med: u8 },
    Remove { prefix: u8, peer: u8, path_id: u8 },
    Costs(Vec<(u8, Option<u8>)>),
    Multipath(u8),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => (0..4_u8, 0..5_u8, 0..2_u8, 0..2_u8, 1..3_u8, 0..2_u8).prop_map(
            |(prefix, peer, path_id, preference, length, med)| Change::Insert {
                prefix, peer, path_id, preference, length, med
            }
        ),
        3 => (0..4_u8, 0..5_u8, 0..2_u8)
            .prop_map(|(prefix, peer, path_id)| Change::Remove { prefix, peer, path_id }),
        1 => prop::collection::vec((0..5_u8, prop::option::of(0..3_u8)), 0..4)
            .prop_map(Change::Costs),
        1 => (0..4_u8).prop_map(Change::Multipath),
    ]
}

fn prefix(number: u8) -> IpNet {
    format!("10.{number}.0.0/16").parse().expect("a prefix")
}

fn candidate(peer: u8, path_id: u8, preference: u8, length: u8, med: u8) -> Candidate {
    let kind = match peer {
        0 => SourceKind::Local,
        1 | 2 => SourceKind::Internal,
        _ => SourceKind::External,
    };
    let mut attributes = PathAttributes::local(IpAddr::from([192, 0, 2, peer]));
    attributes.local_pref = Some(u32::from(preference));
    attributes.as_path = AsPath::sequence(&vec![u32::from(peer % 2) + 1; usize::from(length)]);
    attributes.med = Some(u32::from(med));
    Candidate {
        source: Arc::new(Source {
            peer: u32::from(peer),
            address: IpAddr::from([10, 0, 0, peer]),
            router_id: Ipv4Addr::new(1, 1, 1, peer / 2),
            kind,
            rr_client: false,
        }),
        path_id: u32::from(path_id),
        attributes: Arc::new(attributes),
    }
}

/// Everything that may be seen of a table.
fn view(rib: &LocRib) -> Vec<(IpNet, Vec<(u32, u32)>)> {
    let mut view: Vec<_> = rib
        .iter()
        .map(|(prefix, paths)| {
            (*prefix, paths.iter().map(|path| (path.source.peer, path.path_id)).collect())
        })
        .collect();
    view.sort();
    view
}

proptest! {
    #[test]
    fn incremental_is_from_scratch_and_changes_are_told(
        changes in prop::collection::vec(change(), 0..60),
    ) {
        let mut rib = LocRib::new(4);
        let mut world = std::collections::BTreeMap::new();
        let mut costs = AHashMap::new();
        let mut multipath = 4;
        for change in changes {
            let before: std::collections::BTreeMap<_, _> = view(&rib).into_iter().collect();
            let mut told = Vec::new();
            match change {
                Change::Insert { prefix: number, peer, path_id, preference, length, med } => {
                    let new = candidate(peer, path_id, preference, length, med);
                    world.insert((prefix(number), peer, path_id), new.clone());
                    if rib.insert(prefix(number), new) {
                        told.push(prefix(number));
                    }
                }
                Change::Remove { prefix: number, peer, path_id } => {
                    world.remove(&(prefix(number), peer, path_id));
                    if rib.remove(&prefix(number), u32::from(peer), u32::from(path_id)) {
                        told.push(prefix(number));
                    }
                }
                Change::Costs(list) => {
                    costs = list
                        .into_iter()
                        .map(|(peer, cost)| (IpAddr::from([192, 0, 2, peer]), cost.map(u32::from)))
                        .collect();
                    told = rib.set_costs(costs.clone());
                }
                Change::Multipath(count) => {
                    multipath = usize::from(count);
                    told = rib.set_multipath(multipath);
                }
            }
            let mut scratch = LocRib::new(multipath);
            scratch.set_costs(costs.clone());
            for ((prefix, _, _), candidate) in world.iter().rev() {
                scratch.insert(*prefix, candidate.clone());
            }
            prop_assert_eq!(view(&rib), view(&scratch));
            let after: std::collections::BTreeMap<_, _> = view(&rib).into_iter().collect();
            for number in 0..4 {
                let empty = Vec::new();
                let old = before.get(&prefix(number)).unwrap_or(&empty);
                let new = after.get(&prefix(number)).unwrap_or(&empty);
                prop_assert!(old == new || told.contains(&prefix(number)), "silent change");
            }
        }
    }
}

#[test]
fn a_route_told_again_unchanged_is_no_change() {
    let mut rib = LocRib::new(4);
    let route = candidate(3, 0, 1, 1, 0);
    assert!(rib.insert(prefix(0), route.clone()));
    assert!(!rib.insert(prefix(0), route));
    assert!(!rib.remove(&prefix(0), 4, 0), "another peer's");
    assert!(rib.remove(&prefix(0), 3, 0));
    assert!(rib.is_empty());
}

#[test]
fn a_worse_path_changes_nothing_in_use_but_is_explained() {
    let mut rib = LocRib::new(4);
    assert!(rib.insert(prefix(0), candidate(3, 0, 1, 1, 0)));
    assert!(!rib.insert(prefix(0), candidate(4, 0, 0, 1, 0)));
    let why = rib.explain(&prefix(0)).expect("known");
    assert_eq!(why.decided_by, Step::LocalPreference);
    let lost: Vec<_> = why.paths.iter().map(|(path, step)| (path.source.peer, *step)).collect();
    assert_eq!(lost, [(3, None), (4, Some(Step::LocalPreference))]);
}
