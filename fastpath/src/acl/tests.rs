//! Does the classifier say what the plain scan says, whatever the rules?

use super::classes::AddressClasses;
use super::classifier::Program;
use super::*;
use ipnet::{Ipv4Net, Ipv6Net};
use proptest::collection::vec;
use proptest::prelude::*;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// Few addresses, so that sets overlap and queries hit.
fn v4() -> impl Strategy<Value = Ipv4Addr> {
    prop_oneof![
        8 => (0_u8..2, 0_u8..2, 0_u8..8).prop_map(|(a, b, c)| Ipv4Addr::new(10, a, b, c)),
        1 => any::<u32>().prop_map(Ipv4Addr::from),
    ]
}

fn v6() -> impl Strategy<Value = Ipv6Addr> {
    prop_oneof![
        8 => (0_u16..2, 0_u16..8).prop_map(|(a, b)| Ipv6Addr::new(0xfd00, a, 0, 0, 0, 0, 0, b)),
        1 => any::<u128>().prop_map(Ipv6Addr::from),
    ]
}

fn prefix() -> impl Strategy<Value = IpNet> {
    prop_oneof![
        (v4(), prop_oneof![Just(0_u8), Just(8), Just(16), Just(24), 28_u8..=32])
            .prop_map(|(a, len)| Ipv4Net::new(a, len).expect("length in range").into()),
        (v6(), prop_oneof![Just(0_u8), Just(32), Just(64), 124_u8..=128])
            .prop_map(|(a, len)| Ipv6Net::new(a, len).expect("length in range").into()),
    ]
}

fn sets() -> impl Strategy<Value = Vec<AddressSet>> {
    vec((0_u32..7, vec(prefix(), 0..6)), 0..7).prop_map(|sets| {
        sets.into_iter().map(|(id, prefixes)| AddressSet { id: SetId(id), prefixes }).collect()
    })
}

fn side() -> impl Strategy<Value = AddressMatch> {
    // Set 7 never exists.
    let ids = |most| vec((0_u32..8).prop_map(SetId), 0..most);
    prop_oneof![
        2 => Just(AddressMatch::default()),
        3 => ids(3).prop_map(|group| AddressMatch { any_of: vec![group], ..Default::default() }),
        2 => (ids(2), vec(ids(3), 0..3), ids(2))
            .prop_map(|(all_of, any_of, none_of)| AddressMatch { all_of, any_of, none_of }),
    ]
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![
        4 => prop_oneof![Just(0_u16), Just(22), Just(53), Just(80), Just(443), Just(65535)],
        2 => (0_u16..4, 0_u16..3).prop_map(|(kind, code)| kind << 8 | code),
        1 => any::<u16>(),
    ]
}

fn ranges() -> impl Strategy<Value = Vec<RangeInclusive<u16>>> {
    let range = prop_oneof![
        port().prop_map(|p| p..=p),
        (port(), port()).prop_map(|(a, b)| a.min(b)..=a.max(b)),
        // Nothing is in a range that ends before it begins.
        (port(), port()).prop_map(|(a, b)| a..=b),
    ];
    vec(range, 0..4)
}

fn ports() -> impl Strategy<Value = PortMatch> {
    prop_oneof![
        3 => Just(PortMatch::Any),
        3 => ranges().prop_map(PortMatch::In),
        1 => ranges().prop_map(PortMatch::NotIn),
        1 => (0_u16..200).prop_map(|n| PortMatch::In((0..n).map(|i| i * 7..=i * 7 + 2).collect())),
    ]
}

fn protocol_number() -> impl Strategy<Value = u8> {
    prop_oneof![Just(1_u8), Just(6), Just(6), Just(17), Just(58), Just(132), any::<u8>()]
}

fn protocol() -> impl Strategy<Value = ProtocolMatch> {
    prop_oneof![
        2 => Just(ProtocolMatch::Any),
        4 => protocol_number().prop_map(ProtocolMatch::Is),
        1 => protocol_number().prop_map(ProtocolMatch::Not),
    ]
}

fn icmp() -> impl Strategy<Value = Option<IcmpMatch>> {
    prop_oneof![
        4 => Just(None),
        1 => (0_u8..4, proptest::option::of(0_u8..3), any::<bool>())
            .prop_map(|(kind, code, negated)| Some(IcmpMatch { kind, code, negated })),
    ]
}

fn matches() -> impl Strategy<Value = Match> {
    let version = prop_oneof![6 => Just(None), 1 => Just(Some(4)), 1 => Just(Some(6))];
    let source_port = prop_oneof![4 => Just(PortMatch::Any), 1 => ports()];
    (version, protocol(), side(), side(), source_port, ports(), icmp()).prop_map(
        |(ip_version, protocol, source, destination, source_port, destination_port, icmp)| Match {
            ip_version,
            protocol,
            source,
            destination,
            source_port,
            destination_port,
            icmp,
        },
    )
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![Just(Verdict::Allow), Just(Verdict::Deny)]
}

fn list() -> impl Strategy<Value = RuleList> {
    (vec((matches(), verdict()), 0..12), verdict()).prop_map(|(rules, default)| RuleList {
        rules: rules
            .into_iter()
            .zip(1..)
            .map(|((matches, verdict), id)| Rule { id: RuleId(id), matches, verdict })
            .collect(),
        default,
        default_rule: RuleId(99),
    })
}

fn query() -> impl Strategy<Value = Query> {
    let addresses = prop_oneof![
        (v4(), v4()).prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b))),
        (v6(), v6()).prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b))),
    ];
    (addresses, protocol_number(), port(), port()).prop_map(
        |((source, destination), protocol, source_port, destination_port)| Query {
            source,
            destination,
            protocol,
            source_port,
            destination_port,
        },
    )
}

fn judge(program: &Program, query: &Query, classes: &AddressClasses) -> Decision {
    let source = classes.class_of(query.source);
    program.decide(query, source, classes.class_of(query.destination), classes)
}

proptest! {
    #[test]
    fn membership_is_what_a_scan_of_the_prefixes_finds(
        sets in sets(), addresses in vec(prop_oneof![
            v4().prop_map(IpAddr::from), v6().prop_map(IpAddr::from)], 1..40),
        limit in prop_oneof![Just(crate::limits::CLASS_MEMBERS), 0_usize..8],
    ) {
        let classes = AddressClasses::build_within(sets.clone(), limit);
        for address in addresses {
            let class = classes.class_of(address);
            let scan: Vec<SetId> = (0..8).map(SetId).filter(|id| sets.iter().any(|set| {
                set.id == *id && set.prefixes.iter().any(|p| p.contains(&address))
            })).collect();
            prop_assert_eq!(&classes.sets_of(class), &scan);
            for id in (0..8).map(SetId) {
                prop_assert_eq!(classes.contains(class, id), scan.contains(&id));
            }
        }
    }

    #[test]
    fn equal_membership_is_one_class(sets in sets(), addresses in vec(v4(), 2..30)) {
        let classes = AddressClasses::build(sets);
        for pair in addresses.windows(2) {
            let (a, b) = (classes.class_of(pair[0].into()), classes.class_of(pair[1].into()));
            prop_assert_eq!(a == b, classes.sets_of(a) == classes.sets_of(b));
        }
    }

    #[test]
    fn the_classifier_says_what_the_scan_says(
        sets in sets(), list in list(), queries in vec(query(), 1..60),
        limit in prop_oneof![4 => Just(crate::limits::CLASS_MEMBERS), 1 => 0_usize..8],
        most_cells in prop_oneof![3 => Just(1_u64 << 22), 1 => Just(0)],
    ) {
        let classes = AddressClasses::build_within(sets.clone(), limit);
        let program = Program::compile_within(list.clone(), &classes, 1, most_cells);
        // Twice: the first asks fill the cells, the second read them.
        for query in queries.iter().chain(&queries) {
            prop_assert_eq!(judge(&program, query, &classes), linear::decide(&list, query, &sets));
        }
    }

    #[test]
    fn classes_of_another_build_are_judged_by_their_own_sets(
        before in sets(), after in sets(), list in list(), queries in vec(query(), 1..40),
    ) {
        let program = Program::compile(list.clone(), &AddressClasses::build(before), 1);
        let classes = AddressClasses::build(after.clone());
        for query in &queries {
            prop_assert_eq!(judge(&program, query, &classes), linear::decide(&list, query, &after));
        }
    }
}

fn tcp(source: [u8; 4], destination: [u8; 4], port: u16) -> Query {
    Query {
        source: IpAddr::from(source),
        destination: IpAddr::from(destination),
        protocol: 6,
        source_port: 40_000,
        destination_port: port,
    }
}

fn allow(id: u32, matches: Match) -> Rule {
    Rule { id: RuleId(id), matches, verdict: Verdict::Allow }
}

fn denying(rules: Vec<Rule>) -> RuleList {
    RuleList { rules, default: Verdict::Deny, default_rule: RuleId(1000) }
}

#[test]
fn an_empty_list_says_its_default_for_every_packet() {
    let classes = AddressClasses::default();
    let program = Program::compile(denying(Vec::new()), &classes, 7);
    let decision = judge(&program, &tcp([10, 0, 0, 1], [10, 0, 0, 2], 80), &classes);
    assert_eq!(decision, Decision { verdict: Verdict::Deny, rule: RuleId(1000) });
    assert_eq!((program.cells(), program.stamp()), (Some(1), 7));
}

#[test]
fn many_ports_and_sets_are_told_apart_by_few_cells() {
    let set = |n: u8| AddressSet {
        id: SetId(u32::from(n)),
        prefixes: vec![Ipv4Net::new(Ipv4Addr::new(10, n, 0, 0), 16).expect("valid").into()],
    };
    let sets: Vec<_> = (0..100).map(set).collect();
    let rules = (0..100_u16).map(|n| {
        let source = AddressMatch { all_of: vec![SetId(u32::from(n))], ..Default::default() };
        let destination_port = PortMatch::In(vec![1000 + n..=1000 + n]);
        let protocol = ProtocolMatch::Is(6);
        allow(u32::from(n) + 1, Match { protocol, source, destination_port, ..Match::default() })
    });
    let list = denying(rules.collect());
    let classes = AddressClasses::build(sets.clone());
    let program = Program::compile(list.clone(), &classes, 1);
    assert_eq!(program.cells(), Some(101 * 101));
    for n in 0..100_u8 {
        for port in [1000 + u16::from(n), 999, 1100, 1001 + u16::from(n)] {
            let query = tcp([10, n, 3, 4], [10, 200, 0, 1], port);
            assert_eq!(judge(&program, &query, &classes), linear::decide(&list, &query, &sets));
        }
    }
}

#[test]
fn thousands_of_overlapping_sets_stay_right_and_within_the_bound() {
    // Nested and staggered prefixes: every one in a set of its own.
    let sets: Vec<_> = (0..3000_u32)
        .map(|n| {
            let address = Ipv4Addr::from(0x0a00_0000 | (n % 64) << 12);
            let prefix = Ipv4Net::new(address, 8 + (n % 25) as u8).expect("valid").into();
            AddressSet { id: SetId(n), prefixes: vec![prefix] }
        })
        .collect();
    let classes = AddressClasses::build_within(sets.clone(), 2000);
    assert!(classes.linked() > 0, "the bound was reached");
    let rules = (0..300).map(|n| {
        let all_of = vec![SetId(n * 10)];
        let source = AddressMatch { all_of, ..Default::default() };
        allow(n + 1, Match { source, ..Match::default() })
    });
    let list = denying(rules.rev().collect());
    let program = Program::compile(list.clone(), &classes, 1);
    for n in 0..512_u32 {
        let query = tcp(Ipv4Addr::from(0x0a00_0000 | n << 9).octets(), [10, 9, 9, 9], n as u16);
        assert_eq!(judge(&program, &query, &classes), linear::decide(&list, &query, &sets));
    }
}

#[test]
fn a_program_is_filled_by_many_threads_at_once() {
    let sets = vec![AddressSet { id: SetId(1), prefixes: vec!["10.0.0.0/24".parse().expect("p")] }];
    let source = AddressMatch { all_of: vec![SetId(1)], ..Default::default() };
    let list = denying(vec![allow(1, Match { source, ..Match::default() })]);
    let classes = Arc::new(AddressClasses::build(sets.clone()));
    let program = Arc::new(Program::compile(list.clone(), &classes, 1));
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let (program, classes, list, sets) = (&program, &classes, &list, &sets);
            scope.spawn(move || {
                for n in 0..200 {
                    let query = tcp([10, 0, n % 3, thread], [10, 0, 0, 2], u16::from(n));
                    assert_eq!(judge(program, &query, classes), linear::decide(list, &query, sets));
                }
            });
        }
    });
}
