//! What does the demo run on? Four nodes in two subnets, a router with BIRD between them, pods.
//!
//! ```text
//!                 tor: BIRD, AS 65000, owns 203.0.113.0/24
//!            10.1.5.1/24 ─ br5        br8 ─ 10.1.8.1/24
//!             p1 │    │ p2              p3 │    │ p4
//!           eth0 │    │ eth0          eth0 │    │ eth0
//!  10.1.5.11  node1  node2 10.1.5.12    node3  node4   10.1.8.11, 10.1.8.12
//!             │  │     │                  │     │
//!         pod1 pod1b  pod2               pod3  pod4    each node also: ext0 ─ an office host
//! ```

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bench::lab::node::NodeSettings;
use bench::lab::{Bird, Lab, Netns, Pod, VrouterNode, link};

/// A node's place: its number, subnet and address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) number: u8,
    subnet: u8,
    host: u8,
}

pub(crate) const PLACES: [Place; 4] = [
    Place { number: 1, subnet: 5, host: 11 },
    Place { number: 2, subnet: 5, host: 12 },
    Place { number: 3, subnet: 8, host: 11 },
    Place { number: 4, subnet: 8, host: 12 },
];

const SUBNETS: [u8; 2] = [5, 8];
/// What only BIRD knows; the router has the first address.
pub(crate) const EXTERNAL: &str = "203.0.113.0/24";
pub(crate) const EXTERNAL_HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));

impl Place {
    pub(crate) fn address(self) -> IpAddr {
        IpAddr::from([10, 1, self.subnet, self.host])
    }

    pub(crate) fn gateway(self) -> IpAddr {
        IpAddr::from([10, 1, self.subnet, 1])
    }

    /// The host behind the node's second interface.
    pub(crate) fn office(self) -> IpAddr {
        IpAddr::from([198, 51, 100, 16 * self.number + 2])
    }

    /// The router's end of the node's link, where captures are taken.
    pub(crate) fn far_end(self) -> String {
        format!("p{}", self.number)
    }
}

/// The wires without anything that routes pods: the same for the vRouter and for the kernel.
#[derive(Debug)]
pub(crate) struct Fabric {
    pub(crate) tor: Netns,
    pub(crate) hosts: Vec<Netns>,
}

impl Fabric {
    /// `prefix` tells two fabrics of one lab apart.
    pub(crate) fn build(lab: &Lab, prefix: &str) -> anyhow::Result<Self> {
        let tor = lab.netns(&format!("{prefix}tor"))?;
        tor.sysctl("net.ipv4.ip_forward", "1")?;
        let mut hosts = Vec::new();
        for place in PLACES {
            let host = lab.netns(&format!("{prefix}node{}", place.number))?;
            link::veth((&host, "eth0"), (&tor, &place.far_end()))?;
            link::addr(&host, "eth0", &format!("{}/24", place.address()))?;
            link::route(&host, &format!("default via {}", place.gateway()))?;
            hosts.push(host);
        }
        for subnet in SUBNETS {
            let members: Vec<String> = PLACES
                .iter()
                .filter(|place| place.subnet == subnet)
                .map(|place| place.far_end())
                .collect();
            let members: Vec<&str> = members.iter().map(String::as_str).collect();
            let bridge = format!("br{subnet}");
            link::bridge(&tor, &bridge, &members)?;
            link::addr(&tor, &bridge, &format!("10.1.{subnet}.1/24"))?;
        }
        Ok(Self { tor, hosts })
    }
}

/// Everything that runs.
#[derive(Debug)]
pub(crate) struct Cluster {
    // Dropped in this order: programs before the namespaces they run in.
    pub(crate) bird: Bird,
    pub(crate) nodes: Vec<VrouterNode>,
    pub(crate) offices: Vec<Netns>,
    pub(crate) pods: Vec<Pod>,
    pub(crate) fabric: Fabric,
}

impl Cluster {
    /// Builds the fabric, applies the manifests, starts BIRD and the nodes, attaches no pod yet.
    pub(crate) fn start(lab: &Lab, pool: &Path) -> anyhow::Result<Self> {
        let fabric = Fabric::build(lab, "")?;
        link::dummy(&fabric.tor, "ext0", "203.0.113.1/24")?;
        let mut offices = Vec::new();
        for (place, host) in PLACES.iter().zip(&fabric.hosts) {
            offices.push(office(lab, *place, host)?);
        }
        let bird = Bird::start(&fabric.tor, &bird_config())?;
        let mut nodes = Vec::new();
        for (place, host) in PLACES.iter().zip(&fabric.hosts) {
            let settings = NodeSettings {
                name: format!("node{}", place.number),
                address: format!("{}/24", place.address()),
                datastore: lab.dir().join("datastore"),
                environment: vec![("NO_DEFAULT_POOLS".into(), "true".into())],
            };
            nodes.push(VrouterNode::prepare(host, settings)?);
        }
        let first = nodes.first().context("four nodes")?;
        for file in [pool, &manifest("bgp.yaml"), &manifest("pods.yaml")] {
            first.apply(file)?;
        }
        for node in &mut nodes {
            node.restart_without_waiting()?;
        }
        for node in &mut nodes {
            node.wait_ready()?;
        }
        Ok(Self { bird, nodes, offices, pods: Vec::new(), fabric })
    }

    /// Attaches every pod, as a container runtime does. The order: pod1, pod1b, pod2, pod3, pod4.
    pub(crate) fn attach_pods(&mut self, lab: &Lab) -> anyhow::Result<()> {
        for (name, node) in [("pod1", 0), ("pod1b", 0), ("pod2", 1), ("pod3", 2), ("pod4", 3)] {
            let netns = lab.netns(name)?;
            self.pods.push(Pod::attach(&self.nodes[node], &netns, "demo", name)?);
        }
        Ok(())
    }

    pub(crate) fn pod(&self, name: &str) -> anyhow::Result<&Pod> {
        let found = self.pods.iter().find(|pod| pod.netns().short() == name);
        found.with_context(|| format!("there is no {name}"))
    }
}

/// A host behind a node's second interface, which the router does not own.
fn office(lab: &Lab, place: Place, host: &Netns) -> anyhow::Result<Netns> {
    let netns = lab.netns(&format!("office{}", place.number))?;
    link::veth((host, "ext0"), (&netns, "eth0"))?;
    let near = 16 * place.number + 1;
    link::addr(host, "ext0", &format!("198.51.100.{near}/28"))?;
    link::addr(&netns, "eth0", &format!("{}/28", place.office()))?;
    link::route(&netns, &format!("default via 198.51.100.{near}"))?;
    Ok(netns)
}

/// A top-of-rack router: announces its own prefix, takes the pods' blocks, forwards by both.
fn bird_config() -> String {
    let mut config = String::from(
        "router id 10.1.5.1;\n\
         protocol device {}\n\
         protocol direct { ipv4; interface \"ext0\"; }\n\
         protocol kernel { ipv4 { export where source = RTS_BGP; import none; }; }\n\
         template bgp node {\n\
           local as 65000;\n\
           ipv4 { import all; export where source = RTS_DEVICE; next hop self; };\n\
           connect retry time 1; connect delay time 1; error wait time 1, 2;\n\
         }\n",
    );
    for place in PLACES {
        let (number, address) = (place.number, place.address());
        _ = writeln!(
            config,
            "protocol bgp node{number} from node {{ neighbor {address} as 64512; }}"
        );
    }
    config
}

/// A file of the demo's manifests.
pub(crate) fn manifest(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/demo").join(name)
}
