//! What do bad objects, bad files and a second writer do to a running node? Nothing but be named.

use std::fs;
use std::thread;

use bench::lab::wait::retry;

use super::setup::{PATIENCE, Site, assert_ping};

fn notes(site: &Site) -> String {
    site.nodes[0].ctl_json(&["node", "status"]).expect("status")["notes"].to_string()
}

fn until_notes(site: &Site, what: &str, holds: impl Fn(&str) -> bool) {
    retry(PATIENCE, what.to_owned(), || {
        let notes = notes(site);
        anyhow::ensure!(holds(&notes), "the notes are {notes}");
        Ok(())
    })
    .expect("noted");
}

#[test]
fn broken_files_are_told_and_change_nothing() {
    let site = Site::start(1, &[]);
    let (a, b) = (site.pod(0, "a"), site.pod(0, "b"));
    let folder = site.lab.dir().join("datastore");
    let cases = [
        ("torn.yaml", "apiVersion: v1\nkind: [Namespace\n", "torn.yaml"),
        (
            "kind.yaml",
            "apiVersion: projectcalico.org/v3\nkind: Bogus\nmetadata: {name: x}\n",
            "Bogus",
        ),
        (
            "field.yaml",
            "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: x}\n\
             spec: {cidr: 10.9.0.0/16, bogusField: 1}\n",
            "bogusField",
        ),
        (
            "cidr.yaml",
            "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: x}\n\
             spec: {cidr: 10.9.0.0/33}\n",
            "10.9.0.0/33",
        ),
    ];
    for (file, text, named) in cases {
        fs::write(folder.join(file), text).expect("written");
        until_notes(&site, file, |notes| notes.contains(file) && notes.contains(named));
        assert_ping(a.netns(), b.ip());
    }
    let c = site.pod(0, "c");
    assert_ping(a.netns(), c.ip());
    // A file that is mended or gone is not held against anybody.
    fs::write(
        folder.join("torn.yaml"),
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: mended}\n",
    )
    .expect("written");
    for file in ["kind.yaml", "field.yaml", "cidr.yaml"] {
        fs::remove_file(folder.join(file)).expect("removed");
    }
    until_notes(&site, "no notes", |notes| !notes.contains(".yaml"));
    let text = site.nodes[0].ctl(&["get", "namespace"]).expect("namespaces");
    assert!(text.contains("mended"), "{text}");
}

#[test]
fn bad_objects_are_refused_by_apply() {
    let site = Site::start(1, &[]);
    let before = site.nodes[0].ctl(&["get", "ippool"]).expect("pools");
    let pool = |spec: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{name: x}}\nspec: {spec}\n"
        )
    };
    let cases = [
        (pool("{cidr: 172.31.64.0/18}"), vec!["spec.cidr", "pool-v4", "manifest-"]),
        (pool("{cidr: 10.0.0.0/33}"), vec!["spec.cidr", "10.0.0.0/33", "manifest-"]),
        (pool("{cidr: 10.0.0.0/16, blockSize: 12}"), vec!["spec.blockSize", "manifest-"]),
        (pool("{cidr: 10.0.0.0/16, bogusField: 1}"), vec!["bogusField", "manifest-"]),
        (
            "apiVersion: projectcalico.org/v3\nkind: Bogus\nmetadata: {name: x}\n".to_owned(),
            vec!["Bogus", "manifest-"],
        ),
        ("kind: [".to_owned(), vec!["manifest-"]),
    ];
    for (manifest, words) in cases {
        let message = site.refused(&manifest);
        assert!(message.contains("exit status: 1"), "{message}");
        for word in words {
            assert!(message.contains(word), "{word} is not in: {message}");
        }
    }
    assert_eq!(site.nodes[0].ctl(&["get", "ippool"]).expect("pools"), before);
}

#[test]
fn two_nodes_write_at_once() {
    const EACH: usize = 15;
    let site = Site::start(2, &[]);
    thread::scope(|scope| {
        for (number, node) in site.nodes.iter().enumerate() {
            let site = &site;
            scope.spawn(move || {
                for i in 0..EACH {
                    let file = site.file(&format!(
                        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: n{number}-{i}}}\n"
                    ));
                    node.apply(&file).expect("it is applied");
                    // Both write this one, again and again.
                    let file = site.file(&format!(
                        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: both, labels: {{by: \
                         'n{number}-{i}'}}}}\n"
                    ));
                    node.apply(&file).expect("it is applied");
                }
            });
            scope.spawn(move || {
                for i in 0..3 {
                    let pod = site.pod(number, &format!("pod{number}-{i}"));
                    assert_ping(&site.hosts[number], pod.ip());
                }
            });
        }
    });
    for node in &site.nodes {
        let text = node.ctl(&["get", "namespace"]).expect("namespaces");
        for number in 0..2 {
            for i in 0..EACH {
                assert!(text.contains(&format!("n{number}-{i}")), "{text}");
            }
        }
    }
    assert!(!notes(&site).contains(".yaml"), "{}", notes(&site));
}
