//! How fast is it, beside the kernel's own forwarding on the same wires in the same minute?

use std::net::IpAddr;

use anyhow::Context as _;
use bench::lab::tools::{Throughput, iperf3};
use bench::lab::wait::retry;
use bench::lab::{Lab, Netns, link, tools};

use super::cluster::{Cluster, Fabric, PLACES, Place};
use super::report::Report;
use super::{Mode, PATIENCE};

const SECONDS: u32 = 2;

/// A path by its ends: names of pods, which both worlds have.
const PATHS: [(&str, &str, &str, bool); 3] = [
    ("same node", "pod1", "pod1b", true),
    ("same subnet", "pod1", "pod2", true),
    ("across subnets", "pod1", "pod3", false),
];

/// Each path through the vRouter, then through the kernel.
pub(crate) fn compare(
    lab: &Lab,
    cluster: &Cluster,
    mode: Mode,
    report: &mut Report,
) -> anyhow::Result<()> {
    let kernel = KernelPods::build(lab)?;
    for (index, (what, from, to, same_subnet)) in PATHS.iter().enumerate() {
        let encapsulated = index > 0 && mode.encapsulates(*same_subnet);
        let ours = measured(cluster, from, to);
        let theirs = kernel.measure(index);
        let proof = ours.and_then(|ours| {
            let theirs = theirs?;
            Ok(format!(
                "vRouter {:.2} Gbit/s{}, kernel {:.2} Gbit/s, ratio {:.2}",
                ours.gbps(),
                if encapsulated { " in IPIP" } else { "" },
                theirs.gbps(),
                ours.gbps() / theirs.gbps()
            ))
        });
        report.check(&format!("{what}: {from} → {to}"), proof);
    }
    report.note("the kernel routes plainly everywhere: this one has no IPIP of its own to compare");
    Ok(())
}

/// The paths between nodes again, in another mode.
pub(crate) fn between_nodes(cluster: &Cluster, mode: Mode, report: &mut Report) {
    for (what, from, to, same_subnet) in &PATHS[1..] {
        let inside = if mode.encapsulates(*same_subnet) { " in IPIP" } else { "" };
        let proof = measured(cluster, from, to)
            .map(|ours| format!("vRouter {:.2} Gbit/s{inside}", ours.gbps()));
        report.check(&format!("{what}: {from} → {to}, TCP throughput"), proof);
    }
}

fn measured(cluster: &Cluster, from: &str, to: &str) -> anyhow::Result<Throughput> {
    let (from, to) = (cluster.pod(from)?, cluster.pod(to)?);
    iperf3(from.netns(), (to.netns(), to.ip()), SECONDS, &[])
}

/// The same wires with veth pods and static routes: what the kernel does without any of this.
struct KernelPods {
    _fabric: Fabric,
    /// pod1, pod1b, pod2, pod3.
    pods: Vec<(Netns, IpAddr)>,
}

impl KernelPods {
    fn build(lab: &Lab) -> anyhow::Result<Self> {
        let fabric = Fabric::build(lab, "k")?;
        for (host, place) in fabric.hosts.iter().zip(PLACES) {
            host.sysctl("net.ipv4.ip_forward", "1")?;
            for other in PLACES.iter().filter(|other| other.number != place.number) {
                let near = other.gateway() == place.gateway();
                let via = if near { other.address() } else { place.gateway() };
                link::route(host, &format!("{} via {via}", prefix(*other)))?;
            }
            link::route(&fabric.tor, &format!("{} via {}", prefix(place), place.address()))?;
        }
        let mut pods = Vec::new();
        for (name, index, last) in [("pod1", 0, 1), ("pod1b", 0, 2), ("pod2", 1, 1), ("pod3", 2, 1)]
        {
            pods.push(veth_pod(lab, &fabric, name, (index, last))?);
        }
        let kernel = Self { _fabric: fabric, pods };
        kernel.settle()?;
        Ok(kernel)
    }

    /// The first packet of a path waits for ARP: not what is measured.
    fn settle(&self) -> anyhow::Result<()> {
        let (first, others) = self.pods.split_first().context("four pods")?;
        for (_, address) in others {
            retry(PATIENCE, "the kernel's paths", || {
                let result = tools::ping(&first.0, *address)?;
                anyhow::ensure!(result.is_complete(), "{}", result.text);
                Ok(())
            })?;
        }
        Ok(())
    }

    fn measure(&self, index: usize) -> anyhow::Result<Throughput> {
        let (from, to) = (&self.pods[0], &self.pods[index + 1]);
        iperf3(&from.0, (&to.0, to.1), SECONDS, &[])
    }
}

fn prefix(place: Place) -> String {
    format!("172.20.{}.0/24", place.number)
}

fn veth_pod(
    lab: &Lab,
    fabric: &Fabric,
    name: &str,
    (index, last): (usize, u8),
) -> anyhow::Result<(Netns, IpAddr)> {
    let host = &fabric.hosts[index];
    let netns = lab.netns(&format!("k{name}"))?;
    link::veth((host, name), (&netns, "eth0"))?;
    let address = IpAddr::from([172, 20, PLACES[index].number, last]);
    link::addr(&netns, "eth0", &format!("{address}/32"))?;
    link::route(&netns, "169.254.1.1 dev eth0 scope link")?;
    link::route(&netns, "default via 169.254.1.1 dev eth0")?;
    // The host answers for the gateway nobody has, as Calico's do.
    host.sysctl(&format!("net.ipv4.conf.{name}.proxy_arp"), "1")?;
    host.sysctl(&format!("net.ipv4.neigh.{name}.proxy_delay"), "0")?;
    link::route(host, &format!("{address}/32 dev {name}"))?;
    Ok((netns, address))
}
