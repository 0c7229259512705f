//! Do pods reach what is not a pod: their hosts, networks behind them, prefixes learned over BGP?

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, ensure};
use bench::lab::tools::ping;
use bench::lab::wait::retry;
use bench::lab::{Netns, Pod};
use ipnet::Ipv4Net;

use super::PATIENCE;
use super::cluster::{Cluster, EXTERNAL, EXTERNAL_HOST, PLACES};
use super::report::Report;

/// Length of the pool's blocks, as the manifest says.
const BLOCK_LENGTH: u8 = 26;

/// Hosts and pods, own and other nodes'.
pub(crate) fn hosts(cluster: &Cluster, report: &mut Report) {
    for (name, what) in [("pod1", "its own pod"), ("pod3", "a pod elsewhere")] {
        report.check(
            &format!("host node1 → {what}, through tunl0"),
            cluster.pod(name).and_then(|pod| host_to_pod(cluster, pod)),
        );
    }
    for (place, what) in [(PLACES[0], "its own host"), (PLACES[2], "another host")] {
        let proof = cluster.pod("pod1").and_then(|pod| answered(pod.netns(), place.address()));
        report.check(&format!("pod1 → {what}"), proof);
    }
}

fn host_to_pod(cluster: &Cluster, pod: &Pod) -> anyhow::Result<String> {
    let host = cluster.fabric.hosts.first().context("four hosts")?;
    let route = host.ip(&format!("route get {}", pod.ip()))?;
    ensure!(route.contains("dev tunl0"), "the kernel does not use tunl0: {route}");
    let source = route.split_whitespace().skip_while(|word| *word != "src").nth(1);
    let answer = answered(host, pod.ip())?;
    Ok(format!("{answer}, from {}", source.unwrap_or("?")))
}

fn answered(from: &Netns, to: IpAddr) -> anyhow::Result<String> {
    retry(PATIENCE, "an answer to every ping", || {
        let result = ping(from, to)?;
        ensure!(result.is_complete(), "{}", result.text);
        Ok(format!("{to}: {:.3} ms", result.rtt_ms.unwrap_or_default()))
    })
}

/// What lies behind an interface that is none of the router's.
pub(crate) fn offices(cluster: &Cluster, report: &mut Report) {
    for (index, name) in [(0, "pod1"), (2, "pod3")] {
        let (place, office) = (PLACES[index], &cluster.offices[index]);
        let pod = match cluster.pod(name) {
            Ok(pod) => pod,
            Err(error) => return report.check(name, Err(error)),
        };
        report.check(
            &format!("{name} → a host behind its node's other interface"),
            answered(pod.netns(), place.office()),
        );
        report.check(&format!("and that host → {name}"), answered(office, pod.ip()));
    }
}

/// Routes over BGP, in both directions.
pub(crate) fn external(cluster: &Cluster, report: &mut Report) {
    let mut proofs = Vec::new();
    for pod in &cluster.pods {
        proofs.push(answered(pod.netns(), EXTERNAL_HOST));
    }
    let reached: anyhow::Result<Vec<String>> = proofs.into_iter().collect();
    report.check(
        &format!("{EXTERNAL}, announced by BIRD, is reached"),
        reached.map(|all| format!("by {} pods; {}", all.len(), all.join(", "))),
    );
    report.check("the pods' blocks stand in BIRD's table", blocks_in_bird(cluster));
    let tor = &cluster.fabric.tor;
    let back: anyhow::Result<Vec<String>> =
        cluster.pods.iter().map(|pod| answered(tor, pod.ip())).collect();
    report
        .check("the top-of-rack router reaches every pod by them", back.map(|all| all.join(", ")));
}

fn blocks_in_bird(cluster: &Cluster) -> anyhow::Result<String> {
    let mut wanted: Vec<Ipv4Net> = Vec::new();
    for pod in &cluster.pods {
        let IpAddr::V4(address) = pod.ip() else { continue };
        wanted.push(block_of(address)?);
    }
    wanted.sort_unstable();
    wanted.dedup();
    retry(PATIENCE, "the blocks in BIRD's table", || {
        let prefixes = cluster.bird.prefixes()?;
        let missing: Vec<&Ipv4Net> =
            wanted.iter().filter(|block| !prefixes.contains(&block.to_string())).collect();
        ensure!(missing.is_empty(), "BIRD lacks {missing:?}; it has {prefixes:?}");
        let names: Vec<String> = wanted.iter().map(ToString::to_string).collect();
        Ok(names.join(", "))
    })
}

fn block_of(address: Ipv4Addr) -> anyhow::Result<Ipv4Net> {
    Ok(Ipv4Net::new(address, BLOCK_LENGTH)?.trunc())
}
