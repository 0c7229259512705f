//! Does the directory keep what it is given, whoever else writes to it?

use std::{
    fs,
    path::Path,
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use super::*;
use crate::{
    api::{IpPoolSpec, Namespace, Node, NodeSpec},
    datastore::{WatchEvent, find},
};

fn pool(name: &str, cidr: &str) -> Resource {
    IpPool::named(name, IpPoolSpec::new(cidr.parse().unwrap())).into()
}

fn namespace(name: &str, label: &str) -> Resource {
    let mut namespace = Namespace::named(name, crate::api::kubernetes::NamespaceSpec {});
    namespace.metadata.labels.insert("label".to_owned(), label.to_owned());
    namespace.into()
}

fn text_of(name: &str, label: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels: {{label: \"{label}\"}}\n"
    )
}

fn key(name: &str) -> Key {
    Key::new(Kind::Namespace, name)
}

fn label(store: &FileStore, name: &str) -> Option<String> {
    store.get(&key(name)).ok()?.metadata().labels.get("label").cloned()
}

fn opened() -> (tempfile::TempDir, FileStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = FileStore::open(dir.path()).unwrap();
    (dir, store)
}

#[test]
fn compare_and_swap() {
    let (_dir, store) = opened();
    let first = store.create(namespace("a", "1")).unwrap();
    assert!(matches!(store.create(namespace("a", "2")), Err(Error::AlreadyExists(_))));
    assert_eq!(store.get(&key("a")).unwrap(), first);
    assert!(first.metadata().uid.is_some() && first.metadata().creation_timestamp.is_some());

    let mut second = namespace("a", "2");
    second.metadata_mut().resource_version = first.metadata().resource_version.clone();
    let second = store.update(second).unwrap();
    assert_ne!(second.revision(), first.revision());
    assert_eq!(second.metadata().uid, first.metadata().uid);
    assert!(matches!(store.update(first.clone()), Err(Error::Conflict { .. })));
    assert!(matches!(store.update(namespace("b", "1")), Err(Error::NotFound(_))));
    assert!(matches!(store.delete(&key("a"), Some(first.revision())), Err(Error::Conflict { .. })));
    assert_eq!(store.delete(&key("a"), Some(second.revision())).unwrap(), second);
    assert!(matches!(store.get(&key("a")), Err(Error::NotFound(_))));
    assert!(matches!(store.delete(&key("a"), None), Err(Error::NotFound(_))));
}

#[test]
fn apply_creates_then_replaces() {
    let (dir, store) = opened();
    let mut annotated = namespace("a", "1");
    annotated.metadata_mut().annotations.insert("gone".to_owned(), "yes".to_owned());
    let first = store.apply(annotated).unwrap();
    let second = store.apply(namespace("a", "2")).unwrap();
    assert!(second.metadata().annotations.is_empty());
    assert_eq!(second.metadata().uid, first.metadata().uid);
    assert_eq!(second.metadata().labels["label"], "2");
    assert_eq!(FileStore::open(dir.path()).unwrap().list(Kind::Namespace).unwrap(), [second]);
    assert!(dir.path().join("namespace/a.yaml").exists());
}

#[test]
fn a_node_keeps_what_it_wrote_about_itself() {
    let (_dir, store) = opened();
    let mut node = Node::named("a", NodeSpec::default());
    let bgp = node.spec.bgp.get_or_insert_default();
    bgp.ipv4_address = Some("10.1.5.11/24".parse().unwrap());
    bgp.ipv4_ipip_tunnel_addr = Some("10.244.0.1".parse().unwrap());
    store.create(node.clone().into()).unwrap();
    let mut reflector = Node::named("a", NodeSpec::default());
    let cluster = Some("244.0.0.1".parse().unwrap());
    reflector.spec.bgp.get_or_insert_default().route_reflector_cluster_id = cluster;
    store.apply(reflector.into()).unwrap();
    let now = find::<Node>(&store, "a").unwrap().unwrap().spec.bgp.unwrap();
    assert_eq!(
        (now.route_reflector_cluster_id, now.ipv4_address),
        (cluster, node.spec.bgp.clone().unwrap().ipv4_address)
    );
    store.apply(Node::named("a", NodeSpec::default()).into()).unwrap();
    let now = find::<Node>(&store, "a").unwrap().unwrap().spec.bgp.unwrap();
    assert_eq!(Some(now), node.spec.bgp, "what users wrote and take out is gone");
}

#[test]
fn pools_may_not_overlap_whoever_writes_them() {
    let (dir, store) = opened();
    store.create(pool("one", "10.0.0.0/16")).unwrap();
    let Err(Error::Refused(refusals)) = store.create(pool("two", "10.0.1.0/24")) else {
        panic!("accepted")
    };
    assert!(refusals[0].reason.contains("overlaps with pool one (10.0.0.0/16)"), "{}", refusals[0]);
    fs::write(dir.path().join("a.yaml"), pool("two", "10.0.2.0/24").to_yaml()).unwrap();
    assert_eq!(store.list(Kind::IpPool).unwrap().len(), 1);
    let (refusals, _) = store.problems().unwrap();
    assert_eq!(refusals.len(), 1);
    assert!(
        refusals[0].to_string().contains("a.yaml:1: IPPool two: spec.cidr: 10.0.2.0/24: overlaps"),
        "{}",
        refusals[0]
    );
    store.delete(&Key::new(Kind::IpPool, "one"), None).unwrap();
    assert!(find::<IpPool>(&store, "two").unwrap().is_some(), "its turn has come");

    let mut moved = find::<IpPool>(&store, "two").unwrap().unwrap();
    moved.spec.cidr = "10.0.0.0/8".parse().unwrap();
    assert!(
        matches!(store.update(moved.into()), Err(Error::Refused(_))),
        "a range cannot be changed"
    );
}

#[test]
fn a_users_file_is_changed_in_place() {
    let (dir, store) = opened();
    let file = dir.path().join("sub/mine.yml");
    fs::create_dir(dir.path().join("sub")).unwrap();
    let text = format!(
        "# mine\n---\n{}---\n# the second\n{}---\n{}",
        text_of("a", "1"),
        text_of("b", "1"),
        text_of("c", "1")
    );
    fs::write(&file, text).unwrap();
    let mut changed = store.get(&key("b")).unwrap();
    changed.metadata_mut().labels.insert("label".to_owned(), "2".to_owned());
    store.update(changed).unwrap();
    let now = fs::read_to_string(&file).unwrap();
    assert!(now.starts_with(&format!("# mine\n---\n{}---\n", text_of("a", "1"))), "{now}");
    assert!(now.ends_with(&format!("---\n{}", text_of("c", "1"))), "{now}");
    assert!(!dir.path().join("namespace").exists(), "it was not copied");
    let labels = |store: &FileStore| ["a", "b", "c"].map(|name| label(store, name));
    assert_eq!(labels(&store), [Some("1".into()), Some("2".into()), Some("1".into())]);
    assert_eq!(labels(&FileStore::open(dir.path()).unwrap()), labels(&store));

    store.delete(&key("a"), None).unwrap();
    store.delete(&key("b"), None).unwrap();
    assert_eq!(labels(&store), [None, None, Some("1".into())]);
    store.delete(&key("c"), None).unwrap();
    assert!(!file.exists(), "nothing is left in it");
}

#[test]
fn a_users_list_is_changed_in_place() {
    let (dir, store) = opened();
    let file = dir.path().join("list.json");
    let items = ["a", "b"].map(|name| namespace(name, "1").to_value());
    fs::write(
        &file,
        serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string(),
    )
    .unwrap();
    store.apply(namespace("b", "2")).unwrap();
    assert_eq!((label(&store, "a"), label(&store, "b")), (Some("1".into()), Some("2".into())));
    store.delete(&key("a"), None).unwrap();
    assert_eq!((label(&store, "a"), label(&store, "b")), (None, Some("2".into())));
    store.delete(&key("b"), None).unwrap();
    assert!(!file.exists());
}

#[test]
fn the_first_of_two_files_with_one_object_stays() {
    let (dir, store) = opened();
    fs::write(dir.path().join("m.yaml"), text_of("a", "first")).unwrap();
    assert_eq!(label(&store, "a").as_deref(), Some("first"));
    fs::write(dir.path().join("b.yaml"), text_of("a", "second")).unwrap();
    assert_eq!(store.list(Kind::Namespace).unwrap().len(), 1);
    assert_eq!(label(&store, "a").as_deref(), Some("first"));
    let told = store.problems().unwrap().0[0].to_string();
    assert!(
        told.contains("b.yaml") && told.contains("m.yaml") && told.contains("Namespace a"),
        "{told}"
    );
    fs::remove_file(dir.path().join("m.yaml")).unwrap();
    assert_eq!(label(&store, "a").as_deref(), Some("second"));
    assert!(store.problems().unwrap().0.is_empty());
}

#[test]
fn a_file_that_broke_keeps_its_last_good_objects() {
    let (dir, store) = opened();
    let file = dir.path().join("a.yaml");
    fs::write(&file, format!("{}---\n{}", text_of("a", "1"), text_of("b", "1"))).unwrap();
    assert_eq!(store.list(Kind::Namespace).unwrap().len(), 2);
    fs::write(&file, format!("{}---\nkind: [", text_of("a", "2"))).unwrap();
    assert_eq!((label(&store, "a"), label(&store, "b")), (Some("2".into()), Some("1".into())));
    assert!(matches!(store.delete(&key("b"), None), Err(Error::Refused(_))));
    assert!(matches!(store.apply(namespace("b", "3")), Err(Error::Refused(_))));

    let wrong = text_of("b", "not a label's value");
    fs::write(&file, format!("{}---\n{wrong}", text_of("c", "1"))).unwrap();
    assert_eq!(label(&store, "b").as_deref(), Some("1"), "the refused object is kept as it was");
    assert_eq!(
        (label(&store, "a"), label(&store, "c")),
        (None, Some("1".into())),
        "what was taken out is gone"
    );
    fs::write(&file, text_of("b", "4")).unwrap();
    assert_eq!((label(&store, "b"), label(&store, "c")), (Some("4".into()), None));
    fs::remove_file(&file).unwrap();
    assert!(store.list(Kind::Namespace).unwrap().is_empty());
}

#[test]
fn what_a_dead_process_left_is_never_read() {
    let (dir, store) = opened();
    store.create(namespace("a", "1")).unwrap();
    let half = dir.path().join("namespace/.writing-1-a.yaml");
    fs::write(&half, "apiVersion: v1\nkind: Name").unwrap();
    assert_eq!(store.list(Kind::Namespace).unwrap().len(), 1);
    assert!(store.problems().unwrap().0.is_empty());
    let again = FileStore::open(dir.path()).unwrap();
    assert!(!half.exists());
    assert_eq!(label(&again, "a").as_deref(), Some("1"));
}

#[test]
fn names_in_two_namespaces_do_not_collide() {
    let (_dir, store) = opened();
    for namespace in ["a", "b"] {
        let mut policy =
            crate::api::NetworkPolicy::named("web", crate::api::NetworkPolicySpec::default());
        policy.metadata.namespace = Some(namespace.to_owned());
        store.create(policy.into()).unwrap();
    }
    assert_eq!(store.list(Kind::NetworkPolicy).unwrap().len(), 2);
    store.delete(&Key::namespaced(Kind::NetworkPolicy, "a", "web"), None).unwrap();
    assert_eq!(store.list(Kind::NetworkPolicy).unwrap()[0].key().namespace.as_deref(), Some("b"));
}

fn watched(store: &FileStore) -> (Receiver<WatchEvent>, WatchHandle) {
    let (send, receive) = channel();
    let handle = store.watch(Box::new(move |event| drop(send.send(event)))).unwrap();
    (receive, handle)
}

/// Takes events until one is as wanted.
fn until(events: &Receiver<WatchEvent>, wanted: impl Fn(&WatchEvent) -> bool) -> Vec<WatchEvent> {
    let mut seen = Vec::new();
    loop {
        let event = events
            .recv_timeout(Duration::from_secs(20))
            .unwrap_or_else(|_| panic!("not seen; seen: {seen:?}"));
        let last = wanted(&event);
        seen.push(event);
        if last {
            return seen;
        }
    }
}

fn is_upsert(event: &WatchEvent, name: &str, label: &str) -> bool {
    matches!(event, WatchEvent::Upsert(found) if found.key() == key(name) && found.metadata().labels["label"] == label)
}

#[test]
fn a_watch_tells_what_is_there_and_every_change() {
    let (dir, store) = opened();
    store.create(namespace("a", "1")).unwrap();
    let (events, _handle) = watched(&store);
    let first = until(&events, |event| matches!(event, WatchEvent::Synced));
    assert!(first.len() == 2 && is_upsert(&first[0], "a", "1"), "{first:?}");

    let other = FileStore::open(dir.path()).unwrap();
    other.apply(namespace("a", "2")).unwrap();
    until(&events, |event| is_upsert(event, "a", "2"));
    other.delete(&key("a"), None).unwrap();
    until(&events, |event| matches!(event, WatchEvent::Delete(gone) if *gone == key("a")));

    fs::create_dir(dir.path().join("new")).unwrap();
    let file = dir.path().join("new/b.yaml");
    fs::write(&file, text_of("b", "1")).unwrap();
    until(&events, |event| is_upsert(event, "b", "1"));
    fs::write(&file, "kind: [").unwrap();
    let seen = until(&events, |event| matches!(event, WatchEvent::Refused(_)));
    assert!(!seen.iter().any(|event| matches!(event, WatchEvent::Delete(_))), "{seen:?}");
    fs::write(&file, text_of("b", "2")).unwrap();
    let seen = until(&events, |event| is_upsert(event, "b", "2"));
    assert!(
        !seen.iter().any(|event| matches!(event, WatchEvent::Refused(_))),
        "told once: {seen:?}"
    );
    until(&events, |event| matches!(event, WatchEvent::Mended(_)));
    fs::remove_dir_all(dir.path().join("new")).unwrap();
    until(&events, |event| matches!(event, WatchEvent::Delete(gone) if *gone == key("b")));
}

#[test]
fn a_lost_directory_keeps_the_last_state() {
    let (dir, store) = opened();
    store.create(namespace("a", "1")).unwrap();
    let (events, _handle) = watched(&store);
    until(&events, |event| matches!(event, WatchEvent::Synced));
    let away = dir.path().with_extension("away");
    fs::rename(dir.path(), &away).unwrap();
    let seen = until(&events, |event| matches!(event, WatchEvent::Lost(_)));
    assert!(!seen.iter().any(|event| matches!(event, WatchEvent::Delete(_))), "{seen:?}");
    fs::write(away.join("b.yaml"), text_of("b", "1")).unwrap();
    fs::rename(&away, dir.path()).unwrap();
    let seen = until(&events, |event| is_upsert(event, "b", "1"));
    assert!(!seen.iter().any(|event| matches!(event, WatchEvent::Delete(_))), "{seen:?}");
}

#[test]
fn a_watch_ends_with_its_handle() {
    let (_dir, store) = opened();
    let (events, handle) = watched(&store);
    until(&events, |event| matches!(event, WatchEvent::Synced));
    drop(handle);
    store.create(namespace("a", "1")).unwrap();
    assert!(events.recv().is_err(), "the sink is gone");
}

/// Many writers, each with its own view of the directory; whatever a watcher was told last is what is there.
#[test]
fn the_last_thing_told_is_the_last_state() {
    let (dir, store) = opened();
    let (events, _handle) = watched(&store);
    let path = dir.path();
    std::thread::scope(|scope| {
        for writer in 0..4 {
            scope.spawn(move || write_randomly(path, writer));
        }
    });
    store.create(namespace("end", "1")).unwrap();
    let mut told = std::collections::BTreeMap::new();
    let mut seen = until(&events, |event| is_upsert(event, "end", "1"));
    // What changed together with the last object may be told behind it.
    seen.extend(std::iter::from_fn(|| events.recv_timeout(Duration::from_millis(200)).ok()));
    for event in seen {
        match event {
            WatchEvent::Upsert(resource) => drop(told.insert(resource.key(), resource)),
            WatchEvent::Delete(key) => assert!(told.remove(&key).is_some(), "{key} was never told"),
            WatchEvent::Synced => {}
            other => panic!("{other:?}"),
        }
    }
    let there = store.list(Kind::Namespace).unwrap();
    assert_eq!(told.into_values().collect::<Vec<_>>(), there);
}

fn write_randomly(dir: &Path, writer: u32) {
    let store = FileStore::open(dir).unwrap();
    for step in 0..40_u32 {
        let name = format!("n{}", (step * 7 + writer) % 5);
        let outcome = match (step * 3 + writer) % 4 {
            0 => store.delete(&key(&name), None).map(drop),
            1 => store.create(namespace(&name, &format!("{writer}-{step}"))).map(drop),
            _ => store.apply(namespace(&name, &format!("{writer}-{step}"))).map(drop),
        };
        assert!(outcome.as_ref().err().is_none_or(Error::is_race), "{outcome:?}");
    }
}
