//! Do selectors read, write and hold as Calico's do?

use super::*;
use crate::model::Labels;
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn holds(text: &str, pairs: &[(&str, &str)]) -> bool {
    text.parse::<Selector>().expect(text).matches(&labels(pairs))
}

#[test]
fn each_operator_holds_as_documented() {
    let front: &[(&str, &str)] = &[("role", "frontend"), ("tier", "")];
    for (text, with, without) in [
        ("role == 'frontend'", true, false),
        ("role == \"back\"", false, false),
        ("role != 'frontend'", false, true),
        ("role != 'back'", true, true),
        ("has(role)", true, false),
        ("!has(role)", false, true),
        ("role in {'frontend', 'x'}", true, false),
        ("role in {}", false, false),
        ("role not in {'frontend'}", false, true),
        ("role not in {}", true, true),
        ("role contains 'ont'", true, false),
        ("role starts with 'front'", true, false),
        ("role ends with 'end'", true, false),
        ("role starts with 'end'", false, false),
        ("tier == ''", true, false),
        ("all()", true, true),
        ("!all()", false, false),
        ("", true, true),
        (" \t", true, true),
        ("global()", true, true),
        ("role == 'x' || has(tier) && role == 'frontend'", true, false),
        ("(role == 'x' || has(tier)) && role == 'x'", false, false),
        ("!(role == 'frontend') || !!has(role)", true, true),
    ] {
        assert_eq!(holds(text, front), with, "{text} with the labels");
        assert_eq!(holds(text, &[]), without, "{text} without labels");
    }
}

#[test]
fn blanks_are_free_and_keywords_may_be_keys() {
    for text in
        ["a in{'b'}", "a\tnot\tin { 'b' , }", "a notin {'b'}", "acontains'b'", "a contains'b'"]
    {
        let parsed = text.parse::<Selector>();
        // `acontains` is one key.
        assert_eq!(parsed.is_ok(), text != "acontains'b'", "{text}");
    }
    assert!(holds(
        "has == 'x' && all == 'y' && in in {'z'}",
        &[("has", "x"), ("all", "y"), ("in", "z")]
    ));
    assert!(holds("has( kubernetes.io/metadata.name )", &[("kubernetes.io/metadata.name", "")]));
}

#[test]
fn the_normal_form_is_calicos() {
    for (text, normal) in [
        ("", "all()"),
        ("a=='b'", "a == \"b\""),
        ("a == '\"'", "a == '\"'"),
        ("a in {'c','b','c',}", "a in {\"b\", \"c\"}"),
        ("a=='b'&&!has(c)||d!='e'", "((a == \"b\" && !has(c)) || d != \"e\")"),
        ("!!(((has(a))))", "has(a)"),
        ("!(has(a)&&all( ))", "!(has(a) && all())"),
    ] {
        assert_eq!(text.parse::<Selector>().expect(text).to_string(), normal);
    }
}

#[test]
fn an_error_names_the_place_and_what_would_be_right() {
    let nested = "(".repeat(DEPTH_MAX + 1);
    let long = "a".repeat(600);
    for (text, position, expected) in [
        ("a", 1, Expected::Operator),
        ("a = 'b'", 2, Expected::Operator),
        ("a == b", 5, Expected::String),
        ("a == 'b", 7, Expected::Quote),
        ("a == 'b' c", 9, Expected::End),
        ("a == 'b')", 8, Expected::End),
        ("(a == 'b'", 9, Expected::Text(")")),
        ("a in {'b'", 9, Expected::Text("}")),
        ("a in {'b' 'c'}", 10, Expected::Text("}")),
        ("a in 'b'", 5, Expected::Text("{")),
        ("a not 'b'", 6, Expected::Text("in")),
        ("a starts 'b'", 9, Expected::Text("with")),
        ("&& has(a)", 0, Expected::Operation),
        ("has(a) &&", 9, Expected::Operation),
        ("has()", 4, Expected::Key),
        ("has(ä)", 4, Expected::Key),
        ("!= 'b'", 0, Expected::Operation),
        ("a\n== 'b'", 1, Expected::Operator),
        (&nested, DEPTH_MAX + 1, Expected::Less),
        (&long, 0, Expected::Key),
    ] {
        assert_eq!(text.parse::<Selector>(), Err(ParseError { position, expected }), "{text}");
    }
    assert!("a".repeat(LENGTH_MAX + 1).parse::<Selector>().is_err());
}

fn key() -> impl Strategy<Value = Arc<str>> {
    prop_oneof![Just("a"), Just("b"), Just("in"), Just("has"), Just("x.io/y-z")].prop_map(Arc::from)
}

fn value() -> impl Strategy<Value = Arc<str>> {
    prop_oneof![Just(""), Just("a"), Just("ab"), Just("b\"c"), Just("it's")].prop_map(Arc::from)
}

fn selector() -> impl Strategy<Value = Selector> {
    let comparison = prop_oneof![
        Just(Comparison::Equal),
        Just(Comparison::NotEqual),
        Just(Comparison::Contains),
        Just(Comparison::StartsWith),
        Just(Comparison::EndsWith),
    ];
    let leaf = prop_oneof![
        Just(Selector::All),
        Just(Selector::Global),
        key().prop_map(Selector::Has),
        (key(), comparison, value()).prop_map(|(k, c, v)| Selector::Compare(k, c, v)),
        (key(), btree_set(value(), 0..3)).prop_map(|(k, v)| Selector::In(k, v)),
        (key(), btree_set(value(), 0..3)).prop_map(|(k, v)| Selector::NotIn(k, v)),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        let negatable =
            inner.clone().prop_filter("!! is nothing", |s| !matches!(s, Selector::Not(_)));
        prop_oneof![
            negatable.prop_map(|s| Selector::Not(Box::new(s))),
            vec(inner.clone(), 2..4).prop_map(Selector::And),
            vec(inner, 2..4).prop_map(Selector::Or),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_reads_back_the_same(selector in selector()) {
        prop_assert_eq!(selector.to_string().parse::<Selector>(), Ok(selector));
    }

    #[test]
    fn no_text_is_too_strange(text in "[ahs!=&|(){}'\", in]{0,40}|\\PC{0,40}") {
        if let Ok(selector) = text.parse::<Selector>() {
            prop_assert_eq!(selector.to_string().parse::<Selector>(), Ok(selector));
        }
    }

    #[test]
    fn negation_turns_every_answer_around(
        selector in selector(),
        labels in btree_map(key().prop_map(|k| k.to_string()), value().prop_map(|v| v.to_string()), 0..4),
    ) {
        let negated = Selector::Not(Box::new(selector.clone()));
        prop_assert_ne!(selector.matches(&labels), negated.matches(&labels));
    }
}
