//! Does the plugin behave towards a runtime as the CNI specification says?

use std::thread;

use bench::lab::Netns;
use bench::lab::pod::{Answer, Call, Runtime};
use bench::lab::wait::retry;
use serde_json::{Value, json};

use super::setup::{NAMESPACE, PATIENCE, POOL, Site, assert_ping};

/// A runtime's view of one pod.
struct Sandbox {
    runtime: Runtime,
    container: String,
    netns: String,
    arguments: String,
}

impl Sandbox {
    fn new(site: &Site, netns: &Netns, pod: &str, container: &str) -> Self {
        Self {
            runtime: Runtime::new(&site.nodes[0]).expect("a runtime"),
            container: container.to_owned(),
            netns: netns.path().to_string_lossy().into_owned(),
            arguments: format!(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE={NAMESPACE};K8S_POD_NAME={pod};\
                 K8S_POD_INFRA_CONTAINER_ID={container}"
            ),
        }
    }

    fn call(&self, command: &str, different: &Value) -> Answer {
        call(&self.runtime, command, (&self.container, &self.netns, &self.arguments), different)
    }

    fn add(&self) -> Value {
        let answer = self.call("ADD", &Value::Null);
        assert!(answer.success, "{answer:?}");
        answer.output
    }
}

fn call(
    runtime: &Runtime,
    command: &str,
    (container, netns, arguments): (&str, &str, &str),
    different: &Value,
) -> Answer {
    let mut config = runtime.config();
    if let (Some(fields), Some(different)) = (config.as_object_mut(), different.as_object()) {
        fields.extend(different.clone());
    }
    let call = Call { command, container, netns, arguments, config };
    runtime.call(&call).expect("the plugin runs")
}

fn address(result: &Value) -> &str {
    result["ips"][0]["address"].as_str().expect("an address")
}

/// Addresses in use by pods, as `ipam show` counts them per block.
fn used(site: &Site) -> Value {
    site.nodes[0].ctl_json(&["get", "workloadendpoint", "-A"]).expect("endpoints")
}

#[test]
fn add_check_and_del_as_often_as_one_likes() {
    let site = Site::start(1, &[]);
    let (netns, other) = (site.lab.netns("a").expect("a"), site.pod(0, "other"));
    let pod = Sandbox::new(&site, &netns, "a", "c0ffee01");
    let first = pod.add();
    let second = pod.add();
    assert_eq!(address(&first), address(&second), "the same pod gets the same address");
    let ip = address(&second).split('/').next().expect("it").parse().expect("an address");
    assert_ping(other.netns(), ip);

    let previous = json!({"prevResult": second});
    let check = pod.call("CHECK", &previous);
    assert!(check.success, "{check:?}");
    netns.ip("addr flush dev eth0").expect("broken on purpose");
    let check = pod.call("CHECK", &previous);
    assert!(!check.success, "{check:?}");
    assert!(check.output["code"].as_u64().is_some(), "{check:?}");

    for _ in 0..2 {
        let del = pod.call("DEL", &previous);
        assert!(del.success, "{del:?}");
    }
    assert!(netns.ip("link show dev eth0").is_err(), "eth0 is still there");
    let check = pod.call("CHECK", &previous);
    assert_eq!(check.output["code"], 3, "an unknown container: {check:?}");

    // Without CNI_NETNS, and when the namespace is gone.
    let result = pod.add();
    let gone = Sandbox { netns: String::new(), ..Sandbox::new(&site, &netns, "a", "c0ffee01") };
    assert!(gone.call("DEL", &json!({"prevResult": result})).success);
    assert!(netns.ip("link show dev eth0").is_err(), "eth0 is still there");
    pod.add();
    netns.delete().expect("it vanishes");
    let del = pod.call("DEL", &Value::Null);
    assert!(del.success, "{del:?}");
    let endpoints = used(&site).to_string();
    assert!(!endpoints.contains("c0ffee01"), "{endpoints}");
    assert_ping(&site.hosts[0], other.ip());
}

#[test]
fn a_new_sandbox_of_a_pod_replaces_the_old_one() {
    let site = Site::start(1, &[]);
    let other = site.pod(0, "other");
    let (old_netns, new_netns) =
        (site.lab.netns("old").expect("a"), site.lab.netns("new").expect("a"));
    let old = Sandbox::new(&site, &old_netns, "a", "c0ffee02");
    let new = Sandbox::new(&site, &new_netns, "a", "c0ffee03");
    old.add();
    let result = new.add();
    let ip = address(&result).split('/').next().expect("it").parse().expect("an address");
    assert_ping(other.netns(), ip);
    // The runtime takes the old one away afterwards: the new one stays.
    assert!(old.call("DEL", &Value::Null).success);
    assert_ping(other.netns(), ip);
    assert!(new.call("CHECK", &json!({"prevResult": result})).success);
}

#[test]
fn garbage_is_collected_and_the_status_told() {
    let mut site = Site::start(1, &[]);
    let runtime = Runtime::new(&site.nodes[0]).expect("a runtime");
    let status = |runtime: &Runtime| call(runtime, "STATUS", ("", "", ""), &Value::Null);
    assert!(status(&runtime).success);
    let (kept, lost) = (site.pod(0, "kept"), site.pod(0, "lost"));
    let valid = json!({"cni.dev/valid-attachments":
        [{"containerID": kept.container(), "ifname": "eth0"}]});
    let answer = call(&runtime, "GC", ("", "", ""), &valid);
    assert!(answer.success, "{answer:?}");
    assert!(lost.netns().ip("link show dev eth0").is_err(), "it is still attached");
    assert_ping(&site.hosts[0], kept.ip());
    let endpoints = used(&site).to_string();
    assert!(endpoints.contains(kept.container()) && !endpoints.contains(lost.container()));

    let version = call(&runtime, "VERSION", ("", "", ""), &Value::Null);
    let versions = &version.output["supportedVersions"];
    assert_eq!(*versions, json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]), "{version:?}");

    site.delete(POOL.split("---").next().expect("the pool"));
    retry(PATIENCE, "no pool", || {
        let answer = status(&runtime);
        anyhow::ensure!(answer.output["code"] == 50, "{answer:?}");
        Ok(())
    })
    .expect("told");
    let netns = site.lab.netns("poor").expect("a namespace");
    let poor = Sandbox::new(&site, &netns, "poor", "c0ffee04").call("ADD", &Value::Null);
    assert!(!poor.success && poor.output["msg"].is_string(), "{poor:?}");
    assert!(netns.ip("link show dev eth0").is_err(), "half a pod");

    site.nodes[0].stop().expect("it stops");
    let netns = site.lab.netns("late").expect("a namespace");
    let sandbox = Sandbox::new(&site, &netns, "late", "c0ffee05");
    for command in ["ADD", "DEL"] {
        let answer = sandbox.call(command, &Value::Null);
        assert!(!answer.success);
        assert_eq!(answer.output["code"], 11, "try again: {answer:?}");
    }
    assert_eq!(status(&runtime).output["code"], 50);
}

#[test]
fn results_in_every_version_and_two_at_once() {
    let site = Site::start(1, &[]);
    for (number, version) in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"].iter().enumerate() {
        let netns = site.lab.netns(&format!("v{number}")).expect("a namespace");
        let pod = Sandbox::new(&site, &netns, &format!("v{number}"), &format!("c0ffee1{number}"));
        let answer = pod.call("ADD", &json!({"cniVersion": version}));
        assert!(answer.success, "{answer:?}");
        assert_eq!(answer.output["cniVersion"], *version);
        let ip = &answer.output["ips"][0];
        assert_eq!(ip.get("version").is_some(), *version < "1.0.0", "{answer:?}");
        let interface = &answer.output["interfaces"][0];
        assert_eq!(interface.get("mtu").is_some(), *version >= "1.1.0", "{answer:?}");
    }
    let unknown = site.lab.netns("unknown").expect("a namespace");
    let pod = Sandbox::new(&site, &unknown, "unknown", "c0ffee20");
    assert_eq!(pod.call("ADD", &json!({"cniVersion": "2.0.0"})).output["code"], 1);

    let pods: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = ["p", "q", "r", "s"]
            .into_iter()
            .map(|name| {
                let site = &site;
                scope.spawn(move || site.pod(0, name))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("attached")).collect()
    });
    for from in &pods {
        for to in pods.iter().filter(|to| to.ip() != from.ip()) {
            assert_ping(from.netns(), to.ip());
        }
    }
}
