//! Is every rule of the API kept, in both directions, and is every manifest read as its authors meant it?

mod bgp;
mod manifests;
mod other;
mod policy;
mod pool;

use std::path::Path;

use super::*;

fn parse(text: &str) -> Parsed {
    parse_documents(text, Path::new("test.yaml"))
}

/// The one valid object of a text.
fn valid(text: &str) -> Resource {
    let mut parsed = parse(text);
    assert_eq!(parsed.refusals, [], "{text}");
    assert_eq!(parsed.objects.len(), 1, "{text}");
    parsed.objects.remove(0).resource
}

/// The field and the reason of the only refusal of a text.
fn refused(text: &str) -> Refusal {
    let mut parsed = parse(text);
    assert_eq!(parsed.objects, [], "{text}");
    assert_eq!(parsed.refusals.len(), 1, "{text}: {:?}", parsed.refusals);
    parsed.refusals.remove(0)
}

fn manifest(kind: &str, spec: &str) -> String {
    let name = match kind {
        "BGPConfiguration" | "IPAMConfiguration" => "default",
        _ => "one",
    };
    format!(
        "apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    )
}

fn policy(spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: one, namespace: ns}}\nspec: {spec}\n"
    )
}

/// Every row is refused for its field alone, with a reason that has these words.
fn all_refused(kind: &str, rows: &[(&str, &str, &str)]) {
    for (spec, field, words) in rows {
        let text = if kind == "NetworkPolicy" { policy(spec) } else { manifest(kind, spec) };
        let refusal = refused(&text);
        assert_eq!(refusal.field, *field, "{spec}: {refusal}");
        assert!(refusal.reason.contains(words), "{spec}: {refusal}");
        let told = refusal.to_string();
        assert!(
            told.starts_with("test.yaml:1: ")
                && told.contains(kind)
                && told.contains("one") | told.contains("default"),
            "{told}"
        );
    }
}

fn all_accepted(kind: &str, specs: &[&str]) {
    for spec in specs {
        let text = if kind == "NetworkPolicy" { policy(spec) } else { manifest(kind, spec) };
        let resource = valid(&text);
        assert_eq!(valid(&resource.to_yaml()), resource, "what was written reads back: {spec}");
    }
}
