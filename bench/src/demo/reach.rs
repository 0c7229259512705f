//! Do pods reach each other, over the wire the mode promises?

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bench::lab::tools::{Fragments, Ping, ping};
use bench::lab::traffic::{TcpEcho, connect};
use bench::lab::wait::retry;
use bench::lab::{Capture, Pod};

use super::cluster::{Cluster, PLACES};
use super::report::{Report, ms};
use super::{Mode, PATIENCE};

/// The echo service of every check.
pub(crate) const ECHO_PORT: u16 = 7007;
/// Time one exchange may take when the path is up.
pub(crate) const ANSWER: Duration = Duration::from_secs(3);
const PINGS: u32 = 3;
/// What a 1500-byte wire leaves inside an IPIP header (RFC 2003).
const TUNNEL_MTU: u32 = 1480;

/// A pair of pods on different nodes.
struct Path {
    what: &'static str,
    from: &'static str,
    to: &'static str,
    /// Index of the first pod's node.
    node: usize,
    same_subnet: bool,
}

const PATHS: [Path; 3] = [
    Path { what: "same subnet", from: "pod1", to: "pod2", node: 0, same_subnet: true },
    Path { what: "same subnet", from: "pod3", to: "pod4", node: 2, same_subnet: true },
    Path { what: "across subnets", from: "pod1", to: "pod3", node: 0, same_subnet: false },
];

/// The nodes' mesh and their sessions with the top-of-rack router.
pub(crate) fn sessions(cluster: &Cluster, report: &mut Report) {
    let start = Instant::now();
    let mesh = retry(PATIENCE, "every node's sessions", || {
        for node in &cluster.nodes {
            let status = node.ctl(&["node", "status"])?;
            let up = status.matches("Established").count();
            ensure!(up >= PLACES.len(), "{}: {up} sessions up:\n{status}", node.name());
        }
        Ok(format!("3 in the mesh and 1 outside, each node, after {}", ms(start.elapsed())))
    });
    report.check("BGP: every node's sessions are established", mesh);
    let bird = retry(PATIENCE, "BIRD's sessions", || {
        for place in PLACES {
            let name = format!("node{}", place.number);
            ensure!(cluster.bird.is_established(&name), "{name} is not established in BIRD");
        }
        Ok(format!("AS 65000 ↔ AS 64512, {} sessions", PLACES.len()))
    });
    report.check("BGP: BIRD says the same", bird);
}

/// Same node, same subnet, across subnets: ping, TCP, and what the wire carried.
pub(crate) fn pods(cluster: &Cluster, mode: Mode, report: &mut Report) {
    report.check("same node: pod1 → pod1b, ping", pinged(cluster, "pod1", "pod1b"));
    report.check("same node: pod1 → pod1b, TCP", exchanged(cluster, "pod1", "pod1b"));
    for path in &PATHS {
        let Path { what, from, to, .. } = path;
        report.check(&format!("{what}: {from} → {to}, ping"), pinged(cluster, from, to));
        report.check(&format!("{what}: {from} → {to}, TCP"), exchanged(cluster, from, to));
        let encapsulated = mode.encapsulates(path.same_subnet);
        let claim = if encapsulated { "only IPIP" } else { "no IPIP" };
        report.check(
            &format!("{what}: {claim} on {from}'s node's wire"),
            on_the_wire(cluster, path, encapsulated),
        );
    }
}

fn pinged(cluster: &Cluster, from: &str, to: &str) -> anyhow::Result<String> {
    let (from, to) = (cluster.pod(from)?, cluster.pod(to)?);
    retry(PATIENCE, "an answer to every ping", || complete(from, to.ip()))
}

/// Three pings, all answered.
fn complete(from: &Pod, to: std::net::IpAddr) -> anyhow::Result<String> {
    let result = ping(from.netns(), to)?;
    ensure!(result.is_complete(), "{}", result.text);
    let rtt = result.rtt_ms.unwrap_or_default();
    Ok(format!("{} → {to}: {}/{} in {rtt:.3} ms", from.ip(), result.received, result.sent))
}

/// Opens a connection and exchanges one message.
pub(crate) fn exchanged(cluster: &Cluster, from: &str, to: &str) -> anyhow::Result<String> {
    let (from, to) = (cluster.pod(from)?, cluster.pod(to)?);
    let target = SocketAddr::new(to.ip(), ECHO_PORT);
    let _echo = TcpEcho::start(to.netns(), target)?;
    let start = Instant::now();
    let mut connection = connect(from.netns(), target, ANSWER)?;
    let opened = start.elapsed();
    let took = connection.exchange(ANSWER)?;
    Ok(format!("opened in {}, echo in {}", ms(opened), ms(took)))
}

/// Pings, and looks at every frame that passed the far end of the first node's link.
fn on_the_wire(cluster: &Cluster, path: &Path, encapsulated: bool) -> anyhow::Result<String> {
    let (from, to) = (cluster.pod(path.from)?, cluster.pod(path.to)?);
    let far_end = PLACES.get(path.node).context("a node")?.far_end();
    retry(PATIENCE, "the wire to carry what the mode says", || {
        let capture = Capture::start(&cluster.fabric.tor, &far_end, "icmp or ip proto 4")?;
        let result = ping(from.netns(), to.ip())?;
        let frames = capture.stop()?;
        let ours = frames.iter().filter(|frame| frame.is_between(from.ip(), to.ip()));
        let (ipip, plain): (Vec<_>, Vec<_>) = ours.partition(|frame| frame.is_ipip());
        let expected = 2 * PINGS as usize;
        let (wanted, unwanted) = if encapsulated { (&ipip, &plain) } else { (&plain, &ipip) };
        let seen = format!("{} IPIP, {} plain frames", ipip.len(), plain.len());
        ensure!(
            result.is_complete() && wanted.len() == expected && unwanted.is_empty(),
            "{}/{} answered, {seen}",
            result.received,
            result.sent
        );
        Ok(seen)
    })
}

/// A pod that believes in 1500 bytes learns what the tunnel takes; what may be cut arrives.
pub(crate) fn too_large(cluster: &Cluster, mode: Mode, report: &mut Report) {
    if !mode.encapsulates(false) {
        return;
    }
    report.check("too large for the tunnel, DF: the right ICMP", refused(cluster));
    report.check("too large for the tunnel, no DF: arrives in parts", cut(cluster));
}

/// `work` with an interface in pod1 that takes whole Ethernet packets.
fn with_1500<T>(
    cluster: &Cluster,
    work: impl FnOnce(&Pod) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let pod = cluster.pod("pod1")?;
    pod.netns().ip("link set eth0 mtu 1500")?;
    let result = work(pod);
    pod.netns().ip(&format!("link set eth0 mtu {TUNNEL_MTU}"))?;
    result
}

/// 1472 bytes of ICMP payload make a 1500-byte packet.
fn large(fragments: Fragments) -> Ping {
    Ping { count: 1, size: 1472, fragments, ..Ping::default() }
}

fn refused(cluster: &Cluster) -> anyhow::Result<String> {
    with_1500(cluster, |pod| {
        let result = large(Fragments::Forbid).run(pod.netns(), cluster.pod("pod3")?.ip())?;
        let expected = format!("(mtu = {TUNNEL_MTU})");
        let answer = result.text.lines().find(|line| line.contains("Frag needed"));
        let answer = answer.with_context(|| format!("no ICMP came back:\n{}", result.text))?;
        ensure!(answer.contains(&expected), "{answer}, expected {expected}");
        Ok(answer.trim().to_owned())
    })
}

fn cut(cluster: &Cluster) -> anyhow::Result<String> {
    with_1500(cluster, |pod| {
        let result = large(Fragments::Allow).run(pod.netns(), cluster.pod("pod3")?.ip())?;
        ensure!(result.is_complete(), "{}", result.text);
        Ok(format!("1500 bytes there and back in {:.3} ms", result.rtt_ms.unwrap_or_default()))
    })
}
