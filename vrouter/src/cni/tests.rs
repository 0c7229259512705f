//! Does every version's runtime get what its specification promises?

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::config::Attachment;
use super::request::{AddRequest, CheckRequest, DelRequest, GcRequest};
use super::result::{AddResult, CniError, ErrorCode, Interface, IpConfig, RouteConfig, Version};
use super::server::{CniHandler, CniServer};
use super::shim::call;

/// A node that attaches pods in memory.
#[derive(Default)]
struct Node {
    pods: Mutex<BTreeSet<Attachment>>,
    seen: Mutex<Vec<String>>,
}

fn result() -> AddResult {
    AddResult {
        interfaces: vec![
            Interface { name: "cali0d7763386da".into(), ..Interface::default() },
            Interface {
                name: "eth0".into(),
                mac: Some("ee:ee:ee:ee:ee:ee".into()),
                mtu: Some(1480),
                sandbox: Some("/run/netns/pod".into()),
            },
        ],
        ips: vec![
            IpConfig {
                address: "10.244.1.5/32".parse().unwrap(),
                gateway: Some("169.254.1.1".parse().unwrap()),
                interface: Some(1),
            },
            IpConfig { address: "fd00::5/128".parse().unwrap(), gateway: None, interface: Some(1) },
        ],
        routes: vec![RouteConfig {
            dst: "0.0.0.0/0".parse().unwrap(),
            gw: Some("169.254.1.1".parse().unwrap()),
        }],
        ..AddResult::default()
    }
}

impl CniHandler for Node {
    fn add(&self, request: &AddRequest) -> Result<AddResult, CniError> {
        assert_ne!(request.attachment.container_id, "panic", "the handler fails");
        let pod = format!("{:?}/{:?}", request.args.namespace, request.args.pod);
        self.seen.lock().unwrap().push(format!("{} {pod}", request.netns.display()));
        self.pods.lock().unwrap().insert(request.attachment.clone());
        Ok(result())
    }

    fn del(&self, request: &DelRequest) -> Result<(), CniError> {
        self.pods.lock().unwrap().remove(&request.attachment);
        Ok(())
    }

    fn check(&self, request: &CheckRequest) -> Result<(), CniError> {
        if request.expected != result() || !self.pods.lock().unwrap().contains(&request.attachment)
        {
            return Err(CniError::new(ErrorCode::UnknownContainer, "it is not attached"));
        }
        Ok(())
    }

    fn gc(&self, request: &GcRequest) -> Result<(), CniError> {
        self.pods.lock().unwrap().retain(|pod| request.valid.contains(pod));
        Ok(())
    }

    fn status(&self) -> Result<(), CniError> {
        Err(CniError::new(ErrorCode::NotAvailable, "no pool").with_details("apply an IPPool"))
    }
}

struct Fixture {
    directory: TempDir,
    node: Arc<Node>,
    server: Option<CniServer>,
}

impl Fixture {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let node = Arc::new(Node::default());
        let socket = directory.path().join("run/cni.sock");
        let server = CniServer::start(&socket, Arc::clone(&node) as Arc<dyn CniHandler>).unwrap();
        Self { directory, node, server: Some(server) }
    }

    fn config(&self, version: &str) -> Value {
        json!({
            "cniVersion": version,
            "name": "k8s-pod-network",
            "type": "calico",
            "vrouter_socket": self.directory.path().join("run/cni.sock"),
        })
    }

    fn call(&self, command: &str, version: &str) -> Result<Option<Value>, Value> {
        call_with(command, &self.config(version), &[])
    }
}

fn call_with(
    command: &str,
    config: &Value,
    changes: &[(&str, &str)],
) -> Result<Option<Value>, Value> {
    let mut environment = BTreeMap::from([
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", "c0ffee"),
        ("CNI_NETNS", "/run/netns/pod"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;X=1"),
    ]);
    environment.extend(changes.iter().copied());
    let get = |name: &str| {
        environment.get(name).map(|v| (*v).to_owned()).filter(|value| !value.is_empty())
    };
    let input = config.to_string();
    call(&get, input.as_bytes()).map_err(|failure| failure.error.to_json(&failure.version))
}

fn code(result: &Result<Option<Value>, Value>) -> u64 {
    result.as_ref().unwrap_err()["code"].as_u64().unwrap()
}

#[test]
fn every_version_gets_its_own_result_format() {
    let fixture = Fixture::new();
    let old = |version: &str| {
        json!({
            "cniVersion": version,
            "interfaces": [
                {"name": "cali0d7763386da"},
                {"name": "eth0", "mac": "ee:ee:ee:ee:ee:ee", "sandbox": "/run/netns/pod"},
            ],
            "ips": [
                {"version": "4", "address": "10.244.1.5/32", "gateway": "169.254.1.1", "interface": 1},
                {"version": "6", "address": "fd00::5/128", "interface": 1},
            ],
            "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}],
            "dns": {},
        })
    };
    assert_eq!(fixture.call("ADD", "0.3.1").unwrap().unwrap(), old("0.3.1"));
    assert_eq!(fixture.call("ADD", "0.4.0").unwrap().unwrap(), old("0.4.0"));
    let mut new = old("1.0.0");
    for ip in new["ips"].as_array_mut().unwrap() {
        ip.as_object_mut().unwrap().remove("version");
    }
    assert_eq!(fixture.call("ADD", "1.0.0").unwrap().unwrap(), new);
    new["cniVersion"] = json!("1.1.0");
    new["interfaces"][1]["mtu"] = json!(1480);
    assert_eq!(fixture.call("ADD", "1.1.0").unwrap().unwrap(), new);
    let seen = fixture.node.seen.lock().unwrap();
    assert_eq!(seen[0], r#"/run/netns/pod Some("default")/Some("web-0")"#);
}

#[test]
fn version_needs_nobody() {
    let config = json!({"cniVersion": "1.0.0"});
    let answer = call_with("VERSION", &config, &[]).unwrap().unwrap();
    assert_eq!(
        answer,
        json!({
            "cniVersion": "1.0.0",
            "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"],
        })
    );
}

#[test]
fn a_pod_is_added_checked_and_removed_any_number_of_times() {
    let fixture = Fixture::new();
    for version in Version::ALL {
        let version = version.as_str();
        fixture.call("ADD", version).unwrap();
        let added = fixture.call("ADD", version).unwrap().unwrap();
        if version != "0.3.1" {
            let mut config = fixture.config(version);
            config["prevResult"] = added;
            // Only 1.1.0 tells the MTU, so only there the whole of what was added comes back.
            let checked = call_with("CHECK", &config, &[]);
            assert_eq!(checked.is_ok(), version == "1.1.0", "{checked:?}");
        }
        assert_eq!(fixture.call("DEL", version), Ok(None));
        assert_eq!(fixture.call("DEL", version), Ok(None));
        assert!(fixture.node.pods.lock().unwrap().is_empty());
    }
    let without = [("CNI_NETNS", "")];
    assert_eq!(call_with("DEL", &fixture.config("1.0.0"), &without), Ok(None));
}

#[test]
fn gc_keeps_only_what_is_valid() {
    let fixture = Fixture::new();
    for container in ["a", "b", "c"] {
        let id = [("CNI_CONTAINERID", container)];
        call_with("ADD", &fixture.config("1.1.0"), &id).unwrap();
    }
    let mut config = fixture.config("1.1.0");
    config["cni.dev/valid-attachments"] =
        json!([{"containerID": "b", "ifname": "eth0"}, {"containerID": "c", "ifname": "eth1"}]);
    let nothing = [("CNI_CONTAINERID", ""), ("CNI_NETNS", ""), ("CNI_IFNAME", "")];
    assert_eq!(call_with("GC", &config, &nothing), Ok(None));
    let left = fixture.node.pods.lock().unwrap();
    assert_eq!(left.iter().map(|pod| pod.container_id.as_str()).collect::<Vec<_>>(), ["b"]);
}

#[test]
fn errors_of_the_node_reach_the_runtime_whole() {
    let fixture = Fixture::new();
    let error = fixture.call("STATUS", "1.1.0").unwrap_err();
    assert_eq!(
        error,
        json!({"cniVersion": "1.1.0", "code": 50, "msg": "no pool", "details": "apply an IPPool"})
    );
    // A handler that panics costs its own request, no other.
    let panic = [("CNI_CONTAINERID", "panic")];
    assert_eq!(code(&call_with("ADD", &fixture.config("1.0.0"), &panic)), 11);
    fixture.call("ADD", "1.0.0").unwrap();
}

#[test]
fn without_a_node_the_runtime_is_told_to_try_again() {
    let mut fixture = Fixture::new();
    fixture.server = None;
    for (command, expected) in [("ADD", 11), ("DEL", 11), ("STATUS", 50)] {
        let error = fixture.call(command, "1.1.0");
        assert_eq!(code(&error), expected);
        let details = error.unwrap_err()["details"].as_str().unwrap().to_owned();
        assert!(details.contains("run/cni.sock: No such file"), "{details}");
    }
}

#[test]
fn wrong_calls_are_refused_with_their_code() {
    let fixture = Fixture::new();
    let good = fixture.config("1.0.0");
    let with = |field: &str, value: Value| {
        let mut config = good.clone();
        config[field] = value;
        config
    };
    let add = |config: &Value, changes: &[_]| call_with("ADD", config, changes);
    assert_eq!(code(&add(&with("cniVersion", json!("0.2.0")), &[])), 1);
    assert_eq!(code(&add(&with("cniVersion", Value::Null), &[])), 1);
    assert_eq!(code(&fixture.call("CHECK", "0.3.1")), 1);
    assert_eq!(code(&fixture.call("GC", "1.0.0")), 1);
    assert_eq!(code(&add(&with("ipam", json!({"type": "host-local"})), &[])), 2);
    assert_eq!(code(&add(&with("dataplane_options", json!({"type": "grpc"})), &[])), 2);
    for (name, value) in [
        ("CNI_CONTAINERID", ""),
        ("CNI_CONTAINERID", "../x"),
        ("CNI_IFNAME", ""),
        ("CNI_IFNAME", "interface-too-long"),
        ("CNI_IFNAME", "eth0:1"),
        ("CNI_NETNS", ""),
        ("CNI_COMMAND", "ATTACH"),
        ("CNI_ARGS", "K8S_POD_NAME"),
        ("CNI_ARGS", "UNKNOWN=1"),
    ] {
        let error = add(&good, &[(name, value)]);
        assert_eq!(code(&error), 4, "{name}={value}");
        let message = error.unwrap_err()["msg"].as_str().unwrap().to_owned();
        assert!(message.contains(name), "{message}");
    }
    let mistyped = add(&with("ipam", json!({"ipv4_pools": "10.0.0.0/8"})), &[]);
    assert_eq!(code(&mistyped), 6);
    assert!(mistyped.unwrap_err()["msg"].as_str().unwrap().contains("ipam.ipv4_pools"));
    assert_eq!(code(&add(&with("name", json!("")), &[])), 7);
    assert_eq!(code(&add(&with("prevResult", json!({})), &[])), 7);
    assert_eq!(code(&fixture.call("CHECK", "1.0.0")), 7);
    assert_eq!(code(&fixture.call("GC", "1.1.0")), 7);
}

#[test]
fn calicos_own_configuration_is_accepted() {
    let fixture = Fixture::new();
    let mut config = fixture.config("0.3.1");
    for (field, value) in [
        ("log_level", json!("info")),
        ("log_file_path", json!("/var/log/calico/cni/cni.log")),
        ("datastore_type", json!("kubernetes")),
        ("nodename", json!("node-1")),
        ("mtu", json!(0)),
        ("ipam", json!({"type": "calico-ipam", "assign_ipv4": "true", "ipv4_pools": ["default"]})),
        ("policy", json!({"type": "k8s"})),
        ("kubernetes", json!({"kubeconfig": "/etc/cni/net.d/calico-kubeconfig"})),
        ("container_settings", json!({"allow_ip_forwarding": true})),
        ("feature_control", json!({"floating_ips": false})),
        ("num_queues", json!(1)),
    ] {
        config[field] = value;
    }
    let parsed = super::config::NetConf::parse(config.to_string().as_bytes()).unwrap();
    assert!(parsed.container_settings.allow_ip_forwarding);
    assert!(parsed.assigns_ipv4() && !parsed.assigns_ipv6());
    assert_eq!(parsed.other["nodename"], "node-1");
    call_with("ADD", &config, &[]).unwrap();
}

#[test]
fn nonsense_on_the_socket_is_answered_and_harms_nobody() {
    let fixture = Fixture::new();
    let path = fixture.directory.path().join("run/cni.sock");
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"{\"command\":\"dance\"}").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let reply: Value = super::request::receive(&stream).unwrap();
    assert_eq!(reply["error"]["code"], 6, "{reply}");
    drop(UnixStream::connect(&path).unwrap());
    fixture.call("ADD", "1.0.0").unwrap();
}

#[test]
fn the_socket_is_roots_alone_and_only_a_dead_one_is_replaced() {
    let mut fixture = Fixture::new();
    let path = fixture.directory.path().join("run/cni.sock");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let start = |path: &Path| CniServer::start(path, Arc::new(Node::default()));
    let taken = start(&path).unwrap_err();
    assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
    fixture.server = None;
    assert!(!path.exists());
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "what a killed node leaves");
    fixture.server = Some(start(&path).unwrap());
    fixture.call("ADD", "1.0.0").unwrap();
}

#[test]
fn many_pods_at_once_are_all_served() {
    let fixture = Fixture::new();
    thread::scope(|scope| {
        for n in 0..32 {
            let fixture = &fixture;
            scope.spawn(move || {
                let id = format!("pod{n}");
                let changes = [("CNI_CONTAINERID", id.as_str())];
                call_with("ADD", &fixture.config("1.0.0"), &changes).unwrap();
            });
        }
    });
    assert_eq!(fixture.node.pods.lock().unwrap().len(), 32);
}

/// Found by fuzzing: a number beyond an integer's range lost its last digit on the way to the node.
#[test]
fn unknown_numbers_are_passed_on_as_they_came() {
    use super::config::NetConf;
    let text = br#"{"cniVersion":"1.0.0","name":"net","x":1400000000000000200080,"y":1e-7}"#;
    let config = NetConf::parse(text).expect("accepted");
    let passed_on = serde_json::to_vec(&config).expect("a configuration is JSON");
    assert_eq!(NetConf::parse(&passed_on).expect("accepted again"), config);
}
