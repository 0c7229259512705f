//! Is every text of manifests read as its authors meant it?

use proptest::prelude::*;

use super::*;

#[test]
fn one_broken_document_leaves_the_others() {
    let text = "# pools\n---\napiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: a}\nspec: {cidr: 10.0.0.0/16}\n---\nkind: [unclosed\n--- # third\n\napiVersion: v1\nkind: Namespace\nmetadata: {name: b}\n...\n---\n---\n# nothing\n---\njust text\n";
    let parsed = parse(text);
    let names: Vec<_> = parsed
        .objects
        .iter()
        .map(|located| (located.resource.key().name, located.position.line))
        .collect();
    assert_eq!(names, [("a".to_owned(), 3), ("b".to_owned(), 11)]);
    let lines: Vec<_> = parsed.refusals.iter().map(|refusal| refusal.line).collect();
    assert_eq!(lines, [8, 19], "{:?}", parsed.refusals);
    assert!(parsed.refusals[0].reason.starts_with("not YAML"));
    let spans: String = [0, 1].map(|i| &text[parsed.objects[i].position.span.clone()]).concat();
    assert!(spans.contains("name: a") && spans.contains("name: b") && !spans.contains("unclosed"));
}

#[test]
fn a_text_that_grows_when_it_is_read_is_refused() {
    let level = |level: usize| {
        let below = format!("*a{}", level - 1);
        format!("a{level}: &a{level} [{}]\n", [below.as_str(); 10].join(", "))
    };
    let first = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    let text = std::iter::once(first).chain((1..12).map(level)).collect::<Vec<_>>().concat();
    let refusal = refused(&text);
    assert!(refusal.reason.contains("not YAML"), "{refusal}");
    let deep = format!("apiVersion: {}", "[".repeat(100_000));
    assert!(refused(&deep).reason.contains("not YAML"));
    let long = format!("# {}\na: b\n", "x".repeat(parse::MAX_DOCUMENT_BYTES));
    assert!(refused(&long).reason.contains("split it"));
}

#[test]
fn lists_and_json() {
    let list = r#"{"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}},
        {"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": "p"}, "spec": {"cidr": "bad"}},
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "b", "labels": {"x": "y"}}}]}
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "c"}}"#;
    let parsed = parse(list);
    let items: Vec<_> = parsed
        .objects
        .iter()
        .map(|located| (located.resource.key().name, located.position.item))
        .collect();
    assert_eq!(
        items,
        [("a".to_owned(), Some(0)), ("b".to_owned(), Some(2)), ("c".to_owned(), None)]
    );
    assert_eq!((parsed.refusals.len(), parsed.refusals[0].field.as_str()), (1, "spec.cidr"));
    let typed = "apiVersion: projectcalico.org/v3\nkind: IPPoolList\nitems:\n- apiVersion: projectcalico.org/v3\n  kind: IPPool\n  metadata: {name: a}\n  spec: {cidr: 10.0.0.0/16}\n";
    assert_eq!(valid(typed).key(), Key::new(Kind::IpPool, "a"));
    assert_eq!(
        parse("apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: List, items: []}]\n")
            .refusals
            .len(),
        1
    );
}

#[test]
fn what_does_less_than_it_says_is_told() {
    let parsed =
        parse(&manifest("IPPool", "{cidr: 10.0.0.0/16, natOutgoing: true, vxlanMode: Never}"));
    assert_eq!((parsed.objects.len(), parsed.refusals.len(), parsed.warnings.len()), (1, 0, 1));
    assert!(
        parsed.warnings[0].to_string().contains("IPPool one: spec.natOutgoing: true: accepted"),
        "{}",
        parsed.warnings[0]
    );
    assert!(
        parse(&manifest("IPPool", "{cidr: 10.0.0.0/16, natOutgoing: false}")).warnings.is_empty()
    );
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in ".{0,400}") {
        let _ = parse(&text);
    }

    #[test]
    fn no_manifest_makes_the_parser_panic(
        words in prop::collection::vec(prop::sample::select(vec![
            "apiVersion: projectcalico.org/v3\n", "kind: IPPool\n", "kind: List\n", "items:\n- ", "---\n", "...\n",
            "metadata: {name: a}\n", "spec:\n", "  cidr: 10.0.0.0/16\n", "  blockSize: 255\n", "{", "}", "[", "]", "&a ", "*a\n",
            "<<: ", "!!str ", "? ", "- ", "\t", "%YAML 1.2\n", "|\n", ">-\n", "'", "\"", "#", "null\n", "\u{feff}", "{}\n{}",
        ]), 0..24)
    ) {
        let text = words.concat();
        let parsed = parse(&text);
        for located in parsed.objects {
            prop_assert!(text.get(located.position.span).is_some());
        }
    }

    #[test]
    fn metadata_survives_a_round_trip(
        labels in prop::collection::btree_map("[a-z]{1,8}", "[A-Za-z0-9]{0,8}", 0..4),
        annotations in prop::collection::btree_map("[a-z]{1,8}", ".{0,40}", 0..4),
    ) {
        let mut pool = IpPool::named("a", IpPoolSpec::new("10.0.0.0/16".parse().unwrap()));
        pool.metadata.labels = labels;
        pool.metadata.annotations = annotations;
        let resource = Resource::from(pool);
        prop_assert_eq!(valid(&resource.to_yaml()), resource);
    }
}
