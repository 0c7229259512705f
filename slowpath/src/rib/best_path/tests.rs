//! One test per step of the decision: the winner must lose on every later step.

use super::*;
use crate::rib::route::{AsPath, Origin};
use std::net::{IpAddr, Ipv4Addr};

/// A path from peer `number`, whose later steps all favour the higher number.
struct Path {
    number: u8,
    kind: SourceKind,
    attributes: PathAttributes,
}

fn path(number: u8) -> Path {
    let mut attributes = PathAttributes::local(IpAddr::from([192, 0, 2, number]));
    attributes.as_path = AsPath::sequence(&[65001, 65002]);
    Path { number, kind: SourceKind::External, attributes }
}

impl Path {
    fn with(mut self, change: impl FnOnce(&mut PathAttributes)) -> Self {
        change(&mut self.attributes);
        self
    }

    fn of(mut self, kind: SourceKind) -> Self {
        self.kind = kind;
        self
    }

    fn candidate(self) -> Candidate {
        Candidate {
            source: Arc::new(Source {
                peer: u32::from(self.number),
                address: IpAddr::from([10, 0, 0, self.number]),
                router_id: Ipv4Addr::new(1, 1, 1, self.number),
                kind: self.kind,
                rr_client: false,
            }),
            path_id: 0,
            attributes: Arc::new(self.attributes),
        }
    }
}

/// The second path must win at `step`, whichever comes first.
fn second_wins(first: Path, second: Path, step: Step) {
    let (first, second) = (first.candidate(), second.candidate());
    let ab = select(&[first.clone(), second.clone()], |_| Some(0), 1);
    assert_eq!((ab.best, ab.decided_by), (Some(1), step));
    assert_eq!(ab.lost_at, [Some(step), None]);
    assert_eq!(ab.multipath, [1]);
    let ba = select(&[second, first], |_| Some(0), 1);
    assert_eq!((ba.best, ba.decided_by), (Some(0), step));
}

#[test]
fn nothing_and_one() {
    let none = select(&[], |_| Some(0), 4);
    assert_eq!((none.best, none.decided_by), (None, Step::Only));
    assert!(none.multipath.is_empty());
    let one = select(&[path(1).candidate()], |_| Some(0), 4);
    assert_eq!((one.best, one.decided_by), (Some(0), Step::Only));
    assert_eq!(one.multipath, [0]);
}

#[test]
fn an_unreachable_next_hop_cannot_win() {
    let paths = [path(1).candidate(), path(2).candidate()];
    let dead = IpAddr::from([192, 0, 2, 1]);
    let reach = |c: &Candidate| (c.attributes.next_hop != dead).then_some(0);
    let selection = select(&paths, reach, 4);
    assert_eq!((selection.best, selection.decided_by), (Some(1), Step::Unreachable));
    assert_eq!(select(&paths[..1], reach, 4).best, None);
}

#[test]
fn a_local_route_beats_any_preference() {
    let strong = path(1).with(|a| a.local_pref = Some(u32::MAX));
    second_wins(strong, path(2).of(SourceKind::Local), Step::Local);
}

#[test]
fn local_preference_and_its_default() {
    let long = |a: &mut PathAttributes| {
        a.local_pref = Some(101);
        a.as_path = AsPath::sequence(&[1, 2, 3, 4]);
    };
    second_wins(path(1), path(2).with(long), Step::LocalPreference);
}

#[test]
fn path_length_counts_a_set_once() {
    let longer = path(1).with(|a| a.as_path = AsPath::sequence(&[1, 2, 3]));
    let short = path(2).with(|a| {
        a.origin = Origin::Incomplete;
        a.as_path.segments.clear();
        a.as_path.prepend(65001);
    });
    second_wins(longer, short, Step::PathLength);
}

#[test]
fn origin() {
    let egp = path(1).with(|a| a.origin = Origin::Egp);
    let igp = path(2).with(|a| a.med = Some(9));
    second_wins(egp, igp, Step::Origin);
}

#[test]
fn med_counts_within_one_neighbouring_as_only() {
    let high = path(1).with(|a| a.med = Some(9));
    second_wins(high, path(2).of(SourceKind::Internal), Step::Med);
    let elsewhere = path(1).with(|a| {
        a.med = Some(9);
        a.as_path = AsPath::sequence(&[65003, 65002]);
    });
    let selection = select(&[elsewhere.candidate(), path(2).candidate()], |_| Some(0), 1);
    assert_eq!((selection.best, selection.decided_by), (Some(0), Step::RouterId));
}

#[test]
fn med_does_not_depend_on_the_order_of_arrival() {
    // The classic: a (AS 1, MED 10), b (AS 2), c (AS 1, MED 5) with ids that favour a, b, c.
    let make = |number, asn, med| {
        let path = path(number).with(|a| {
            a.as_path = AsPath::sequence(&[asn]);
            a.med = Some(med);
        });
        path.candidate()
    };
    let paths = [make(1, 1, 10), make(2, 2, 0), make(3, 1, 5)];
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let shuffled: Vec<Candidate> = order.iter().map(|&index| paths[index].clone()).collect();
        let best = select(&shuffled, |_| Some(0), 1).best.expect("a best path");
        assert_eq!(shuffled[best].source.peer, 2, "order {order:?}");
    }
}

#[test]
fn external_over_internal() {
    second_wins(path(1).of(SourceKind::Internal), path(2), Step::External);
}

#[test]
fn cost_to_the_next_hop() {
    let paths = [path(1).candidate(), path(2).candidate()];
    let cost = |c: &Candidate| Some(if c.source.peer == 1 { 20 } else { 10 });
    let selection = select(&paths, cost, 4);
    assert_eq!((selection.best, selection.decided_by), (Some(1), Step::Cost));
    assert_eq!(selection.multipath, [1]);
}

#[test]
fn router_id_or_that_of_the_originator() {
    second_wins(path(2), path(1), Step::RouterId);
    let reflected = path(9).with(|a| a.originator_id = Some(Ipv4Addr::new(1, 1, 1, 0)));
    second_wins(path(1), reflected, Step::RouterId);
}

#[test]
fn cluster_list_length() {
    let originator = |a: &mut PathAttributes| a.originator_id = Some(Ipv4Addr::new(9, 9, 9, 9));
    let far = path(1).with(originator).with(|a| a.cluster_list = vec![Ipv4Addr::LOCALHOST; 2]);
    let near = path(2).with(originator).with(|a| a.cluster_list = vec![Ipv4Addr::LOCALHOST]);
    second_wins(far, near, Step::ClusterList);
}

#[test]
fn peer_address() {
    let originator = |a: &mut PathAttributes| a.originator_id = Some(Ipv4Addr::new(9, 9, 9, 9));
    second_wins(path(2).with(originator), path(1).with(originator), Step::PeerAddress);
}

#[test]
fn path_identifier() {
    let a = Candidate { path_id: 7, ..path(1).candidate() };
    let b = Candidate { path_id: 3, ..path(1).candidate() };
    let selection = select(&[a, b], |_| Some(0), 1);
    assert_eq!((selection.best, selection.decided_by), (Some(1), Step::PathId));
}

#[test]
fn equal_up_to_the_router_id_is_multipath_best_first_and_bounded() {
    let worse = path(4).with(|a| a.med = Some(1));
    let paths: Vec<Candidate> =
        [path(3), path(1), worse, path(2)].into_iter().map(Path::candidate).collect();
    let selection = select(&paths, |_| Some(0), 16);
    assert_eq!(selection.multipath, [1, 3, 0]);
    assert_eq!(select(&paths, |_| Some(0), 2).multipath, [1, 3]);
    assert_eq!(select(&paths, |_| Some(0), 0).multipath, [1]);
}
