//! Do the commands that need only the datastore do what an operator expects of calicoctl?

use std::net::IpAddr;

use clap::Parser;

use super::{
    ipam,
    output::{Exit, Streams},
    resource,
};
use crate::{
    datastore::FileStore,
    ipam::{AssignRequest, Family, Ipam},
};

#[derive(Parser)]
enum Command {
    #[command(flatten)]
    Resource(resource::Command),
    #[command(subcommand)]
    Ipam(ipam::Command),
}

struct Shell {
    dir: tempfile::TempDir,
    store: FileStore,
}

struct Answer {
    exit: Exit,
    out: String,
    err: String,
}

impl Shell {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = FileStore::open(dir.path().join("objects")).unwrap();
        Self { dir, store }
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn run_with(&self, line: &str, input: &str) -> Answer {
        let words = ["vrouter"].into_iter().chain(line.split_whitespace());
        let command = Command::try_parse_from(words).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut input = input.as_bytes();
        let mut io = Streams { input: &mut input, out: &mut out, err: &mut err, width: None };
        let exit = match command {
            Command::Resource(command) => resource::run_with(&command, &self.store, &mut io),
            Command::Ipam(command) => ipam::run_with(&command, &self.store, &mut io),
        };
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Answer { exit: exit.unwrap(), out: text(out), err: text(err) }
    }

    fn run(&self, line: &str) -> Answer {
        self.run_with(line, "")
    }

    fn done(&self, line: &str) -> String {
        let answer = self.run(line);
        assert_eq!((answer.exit, answer.err.as_str()), (Exit::Done, ""), "{line}");
        answer.out
    }
}

const POOL: &str = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: pods}\nspec: {cidr: 10.244.0.0/16, ipipMode: CrossSubnet}\n";
const PEER: &str = "apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {name: tor}\nspec: {peerIP: 10.1.5.1, asNumber: 64513}\n";
const POLICY: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: deny}\nspec: {podSelector: {}}\n";

#[test]
fn resources_are_applied_shown_and_deleted() {
    let shell = Shell::new();
    let file = shell.file("all.yaml", &format!("{POOL}---\n{PEER}"));
    assert_eq!(
        shell.done(&format!("apply -f {file}")),
        "IPPool pods created\nBGPPeer tor created\n"
    );
    assert_eq!(
        shell.done(&format!("apply -f {file}")),
        "IPPool pods unchanged\nBGPPeer tor unchanged\n"
    );
    assert_eq!(
        shell.done("get ippool"),
        "NAME   CIDR            SELECTOR\npods   10.244.0.0/16   all()\n"
    );
    assert_eq!(
        shell.done("get ippools -o wide"),
        "NAME   CIDR            NAT     IPIPMODE      VXLANMODE   DISABLED   DISABLEBGPEXPORT   SELECTOR   ASSIGNMENTMODE\n\
         pods   10.244.0.0/16   false   CrossSubnet   Never       false      false              all()      Automatic\n"
    );
    assert_eq!(
        shell.done("get bgppeer tor"),
        "NAME   PEERIP     NODE       ASN\ntor    10.1.5.1   (global)   64513\n"
    );
    let both = shell.done(&format!("get -f {file}"));
    assert!(both.contains("pods") && both.contains("tor"), "{both}");
    assert_eq!(shell.done("delete ippool pods"), "IPPool pods deleted\n");
    assert_eq!(shell.done(&format!("delete -s -f {file}")), "BGPPeer tor deleted\n");
    assert_eq!(shell.done("get ippool"), "NAME   CIDR   SELECTOR\n");
}

#[test]
fn what_is_shown_can_be_applied() {
    let shell = Shell::new();
    assert_eq!(shell.run_with("apply -f -", POOL).out, "IPPool pods created\n");
    let yaml = shell.done("get ippool pods -o yaml");
    assert!(yaml.starts_with("apiVersion: projectcalico.org/v3\nkind: IPPool\n"), "{yaml}");
    assert_eq!(shell.run_with("apply -f -", &yaml).out, "IPPool pods unchanged\n");
    let json = shell.done("get ippool -o json");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["kind"], "IPPoolList");
    let changed = json.replace("CrossSubnet", "Always");
    assert_eq!(shell.run_with("replace -f -", &changed).out, "IPPool pods changed\n");
    let stale = shell.run_with("apply -f -", &yaml);
    assert!(
        stale.exit == Exit::Refused && stale.err.contains("changed by somebody else"),
        "{}",
        stale.err
    );
}

#[test]
fn what_is_refused_is_told_and_the_rest_is_done() {
    let shell = Shell::new();
    let file = shell
        .file("mixed.yaml", &format!("{}---\n{PEER}", POOL.replace("10.244.0.0/16", "10.244.0.0")));
    let answer = shell.run(&format!("create -f {file}"));
    assert_eq!((answer.exit, answer.out.as_str()), (Exit::Refused, "BGPPeer tor created\n"));
    assert!(
        answer.err.contains(
            "mixed.yaml:1: IPPool pods: spec.cidr: 10.244.0.0/32: smaller than one block"
        ),
        "{}",
        answer.err
    );
    let again = shell.run_with("create -f -", PEER);
    assert!(
        again.exit == Exit::Refused && again.err.contains("BGPPeer tor exists already"),
        "{}",
        again.err
    );
    let missing = shell.run_with("replace -f -", POOL);
    assert!(
        missing.exit == Exit::Refused && missing.err.contains("IPPool pods does not exist"),
        "{}",
        missing.err
    );
    assert_eq!(shell.run("get bgppeer other").exit, Exit::Refused);
    assert_eq!(shell.run("delete bgppeer other").exit, Exit::Refused);
    assert_eq!(shell.run("apply -f /does/not/exist.yaml").exit, Exit::Refused);
    let unknown = shell.run("get gizmo");
    assert!(
        unknown.exit == Exit::Usage && unknown.err.contains("known are node, ippool"),
        "{}",
        unknown.err
    );
    let warned =
        shell.run_with("apply -f -", &POOL.replace("ipipMode", "natOutgoing: true, ipipMode"));
    assert!(
        warned.exit == Exit::Done
            && warned.err.contains("warning: ")
            && warned.out.contains("created"),
        "{}",
        warned.err
    );
    assert!(
        Command::try_parse_from(["vrouter", "delete", "ippool"]).is_err(),
        "never everything by omission"
    );
}

#[test]
fn namespaces() {
    let shell = Shell::new();
    for namespace in ["a", "b"] {
        assert_eq!(shell.run_with(&format!("apply -n {namespace} -f -"), POLICY).exit, Exit::Done);
    }
    assert_eq!(shell.done("get netpol"), "NAME   POD-SELECTOR   TYPES\n");
    assert_eq!(
        shell.done("get netpol -n a"),
        "NAME   POD-SELECTOR   TYPES\ndeny   <all>          Ingress\n"
    );
    assert_eq!(shell.done("get netpol -A").lines().count(), 3);
    assert_eq!(shell.done("delete netpol deny -n a"), "NetworkPolicy a/deny deleted\n");
    assert!(shell.done("get netpol -A").ends_with("b           deny   <all>          Ingress\n"));
}

#[test]
fn every_kind_has_its_columns() {
    use crate::api::Kind;
    let shell = Shell::new();
    for kind in Kind::ALL {
        for form in ["", "-o wide"] {
            let out = shell.done(&format!("get {kind} {form}"));
            assert!(out.starts_with("NAME") || out.starts_with("WORKLOAD"), "{kind}: {out}");
        }
    }
}

fn assign(shell: &Shell, node: &str, pod: &str) -> IpAddr {
    let request =
        AssignRequest::workload(format!("k8s-pod-network.{pod}"), Family::V4, "default", pod);
    Ipam::new(&shell.store, node).assign(&request).unwrap().address
}

#[test]
fn addresses_are_shown_as_calicoctl_does() {
    let shell = Shell::new();
    shell.run_with("apply -f -", &POOL.replace("10.244.0.0/16,", "10.244.0.0/24, blockSize: 25,"));
    let address = assign(&shell, "node-1", "web");
    assign(&shell, "node-2", "db");
    let plain = shell.done("ipam show");
    assert_eq!(
        plain,
        "+----------+---------------+-----------+------------+-----------+\n\
         | GROUPING | CIDR          | IPS TOTAL | IPS IN USE | IPS FREE  |\n\
         +----------+---------------+-----------+------------+-----------+\n\
         | IP Pool  | 10.244.0.0/24 | 256       | 2 (1%)     | 254 (99%) |\n\
         +----------+---------------+-----------+------------+-----------+\n"
    );
    let blocks = shell.done("ipam show --show-blocks");
    assert!(
        blocks.contains("| Block    | 10.244.0.0/25   | 128       | 1 (1%)     | 127 (99%) |"),
        "{blocks}"
    );
    let json: serde_json::Value = serde_json::from_str(&shell.done("ipam show -o json")).unwrap();
    assert_eq!(
        (json["pools"][0]["total"].as_u64(), json["pools"][0]["in_use"].as_u64()),
        (Some(256), Some(2))
    );

    let who = shell.done(&format!("ipam show --ip {address}"));
    assert!(
        who.starts_with(&format!("{address} is assigned to pod default/web\n"))
            && who.contains("| node-1 "),
        "{who}"
    );
    assert_eq!(shell.done("ipam show --ip 10.9.9.9"), "10.9.9.9 is not assigned\n");
    assert!(
        shell.done("ipam show --show-configuration").contains("| StrictAffinity     | false |")
    );
    assert_eq!(
        shell.done(&format!("ipam release --ip {address}")),
        format!("{address} released\n")
    );
    assert_eq!(shell.run(&format!("ipam release --ip {address}")).exit, Exit::Refused);
}

#[test]
fn borrowed_addresses_are_shown() {
    let shell = Shell::new();
    shell.run_with("apply -f -", &POOL.replace("10.244.0.0/16,", "10.244.0.0/30, blockSize: 30,"));
    assign(&shell, "node-1", "web");
    let borrowed = assign(&shell, "node-2", "db");
    let out = shell.done("ipam show --show-borrowed");
    let row = out.lines().nth(3).unwrap().split('|').map(str::trim).collect::<Vec<_>>();
    let wanted = [
        "",
        &borrowed.to_string(),
        "node-2",
        "10.244.0.0/30",
        "node-1",
        "Workload",
        "pod default/db",
        "",
    ];
    assert_eq!(row, wanted, "{out}");
}
