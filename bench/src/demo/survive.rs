//! What does a killed forwarder cost? The host's network nothing, open connections a pause.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bench::lab::tools::{Ping, ping};
use bench::lab::traffic::{TcpEcho, TcpStreamer, UdpEcho, UdpStreamer, connect};
use bench::lab::wait::retry;
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use super::PATIENCE;
use super::cluster::{Cluster, PLACES};
use super::reach::{ANSWER, ECHO_PORT};
use super::report::{Report, ms};

/// Datagrams a second.
const PACE: u32 = 1000;
/// What the streams get before and after.
const CALM: Duration = Duration::from_millis(500);
const SENT_IN_CALM: u64 = 500;
/// How long the forwarder is gone at least.
const GONE: Duration = Duration::from_millis(500);
/// A TCP connection that stands still longer is lost.
const TCP_PATIENCE: Duration = Duration::from_secs(20);

/// node1's forwarder dies by SIGKILL while pod1 talks with pod3, and is started again.
pub(crate) fn forwarder(cluster: &mut Cluster, report: &mut Report) -> anyhow::Result<()> {
    let (near, far) = (cluster.pod("pod1")?.clone(), cluster.pod("pod3")?.clone());
    let target = SocketAddr::new(far.ip(), ECHO_PORT);
    let _echoes = (UdpEcho::start(far.netns(), target)?, TcpEcho::start(far.netns(), target)?);
    let mut connection = connect(near.netns(), target, ANSWER)?;
    connection.exchange(ANSWER)?;
    let tcp = TcpStreamer::start(connection, Duration::from_millis(5), TCP_PATIENCE);
    let udp = UdpStreamer::start(near.netns(), target, PACE)?;
    std::thread::sleep(CALM);

    let node = cluster.nodes.first_mut().context("four nodes")?;
    node.kill()?;
    let killed = Instant::now();
    let host = node.netns().clone();
    let quick = Ping { interval: Duration::from_millis(10), ..Ping::default() };
    let alive = quick.run(&host, PLACES[0].gateway()).and_then(|result| {
        ensure!(result.is_complete(), "{}", result.text);
        Ok(format!("host → {}: {}/{}", PLACES[0].gateway(), result.received, result.sent))
    });
    report.check("SIGKILL: the host's own network works on", alive);
    let kept = near.netns().ip("-o link show dev eth0").and_then(|link| {
        ensure!(link.contains("LOWER_UP"), "eth0 has no carrier: {link}");
        let address = near.netns().ip("-o addr show dev eth0")?;
        ensure!(address.contains(&near.ip().to_string()), "eth0 lost its address: {address}");
        Ok("eth0 up, with carrier and address".to_owned())
    });
    report.check("SIGKILL: the pods keep their interfaces", kept);
    std::thread::sleep(GONE.saturating_sub(killed.elapsed()));

    let gone = killed.elapsed();
    cluster.nodes.first_mut().context("four nodes")?.restart()?;
    report.note(&format!(
        "started again after {}, answers its operator {} later",
        ms(gone),
        ms(killed.elapsed().saturating_sub(gone))
    ));
    std::thread::sleep(CALM);
    let stream = udp.stop()?;
    report.note(&format!("node1 since its start: {}", outcomes(cluster)?));
    report.check(
        "restarted: datagrams flow again, 1000 a second",
        if stream.received > 0 && stream.longest_gap < PATIENCE && after_gap(&stream) {
            let (lost, sent) = (stream.lost(), stream.sent);
            Ok(format!("{lost} of {sent} lost, longest gap {}", ms(stream.longest_gap)))
        } else {
            Err(anyhow::anyhow!("{stream:?}"))
        },
    );
    report.check(
        "restarted: the open TCP connection goes on",
        tcp.stop().map(|stream| {
            format!("{} echoes, longest pause {}", stream.received, ms(stream.longest_gap))
        }),
    );
    Ok(())
}

/// What the restarted forwarder did with what it received, in its own words.
fn outcomes(cluster: &Cluster) -> anyhow::Result<String> {
    let node = cluster.nodes.first().context("four nodes")?;
    let counted = node.ctl_json(&["show", "drops"])?;
    let mut words = Vec::new();
    for total in ["received", "merged", "forwarded"] {
        let n =
            counted.get(total).and_then(Value::as_u64).with_context(|| format!("no {total}"))?;
        words.push(format!("{n} {total}"));
    }
    for (list, outcome) in [("drops", "dropped"), ("punts", "punted")] {
        for reason in counted.get(list).and_then(Value::as_array).into_iter().flatten() {
            let n = reason.get("packets").and_then(Value::as_u64).unwrap_or_default();
            let name = reason.get("reason").and_then(Value::as_str).unwrap_or("?");
            if n > 0 {
                words.push(format!("{n} {outcome}: {name}"));
            }
        }
    }
    Ok(words.join(", "))
}

/// Whether echoes came after the longest gap: what was lost is not the whole rest.
fn after_gap(stream: &bench::lab::traffic::StreamReport) -> bool {
    stream.received > SENT_IN_CALM
}

/// The forwarder and the holder die together; the ports are built anew.
pub(crate) fn holder(cluster: &mut Cluster, report: &mut Report) -> anyhow::Result<()> {
    let (near, far) = (cluster.pod("pod1")?.clone(), cluster.pod("pod3")?.clone());
    let node = cluster.nodes.first_mut().context("four nodes")?;
    let proof = node.holder().context("node1 has no holder process").and_then(|holder| {
        kill(holder, Signal::SIGKILL)?;
        node.kill()?;
        let result = ping(node.netns(), PLACES[0].gateway())?;
        ensure!(result.is_complete(), "the host's network: {}", result.text);
        let start = Instant::now();
        node.restart()?;
        retry(PATIENCE, "pods to be reached again", || {
            let result = Ping { count: 1, ..Ping::default() }.run(near.netns(), far.ip())?;
            ensure!(result.is_complete(), "{}", result.text);
            Ok(())
        })?;
        let address = near.netns().ip("-o addr show dev eth0")?;
        ensure!(address.contains(&near.ip().to_string()), "pod1's address: {address}");
        let new = node.holder().context("no new holder process")?;
        ensure!(new != holder, "the killed holder is still there");
        Ok(format!("{} → {} {} after the start", near.ip(), far.ip(), ms(start.elapsed())))
    });
    report.check("holder killed too: the ports are built anew", proof);
    Ok(())
}
