//! What do the everyday tools measure? ping and iperf3, run and read.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

use super::Netns;

const PATIENCE: Duration = Duration::from_secs(10);

/// How to ping. [`Ping::default`]: three packets, 56 bytes, 50 ms apart, 1 s to answer.
#[derive(Clone, Debug)]
pub struct Ping {
    /// Packets to send.
    pub count: u32,
    /// Between two packets.
    pub interval: Duration,
    /// Time an answer may take.
    pub timeout: Duration,
    /// ICMP payload, bytes.
    pub size: u32,
    /// What to do about packets that are too large for the path.
    pub fragments: Fragments,
    /// Address or interface to send from.
    pub source: Option<String>,
}

/// Whether a [`Ping`] may be fragmented on its way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fragments {
    /// As the system does: DF, and sizes after what it learned of the path.
    Default,
    /// DF; what the system learned of the path is forgotten first, so that an answer is the path's.
    Forbid,
    /// No DF.
    Allow,
}

impl Default for Ping {
    fn default() -> Self {
        Self {
            count: 3,
            interval: Duration::from_millis(50),
            timeout: Duration::from_secs(1),
            size: 56,
            fragments: Fragments::Default,
            source: None,
        }
    }
}

/// What ping saw.
#[derive(Clone, Debug)]
pub struct PingResult {
    /// Echo requests sent.
    pub sent: u32,
    /// Answers received.
    pub received: u32,
    /// Mean round-trip time, milliseconds; none without an answer.
    pub rtt_ms: Option<f64>,
    /// All it wrote: errors that came back are named here.
    pub text: String,
}

impl PingResult {
    /// Whether every request was answered.
    pub fn is_complete(&self) -> bool {
        self.sent > 0 && self.received == self.sent
    }
}

impl Ping {
    /// Pings `target` from `netns`. Silence is a result, not an error.
    pub fn run(&self, netns: &Netns, target: IpAddr) -> anyhow::Result<PingResult> {
        let seconds = |duration: Duration| format!("{:.3}", duration.as_secs_f64());
        let mut words: Vec<String> =
            ["ping", "-n", "-c"].iter().map(|word| (*word).to_owned()).collect();
        words.push(self.count.to_string());
        words.extend(["-i".into(), seconds(self.interval), "-W".into(), seconds(self.timeout)]);
        words.extend(["-s".into(), self.size.to_string()]);
        match self.fragments {
            Fragments::Default => {}
            Fragments::Forbid => {
                netns.ip("route flush cache")?;
                words.extend(["-M".into(), "do".into()]);
            }
            Fragments::Allow => words.extend(["-M".into(), "dont".into()]),
        }
        if let Some(source) = &self.source {
            words.extend(["-I".into(), source.clone()]);
        }
        words.push(target.to_string());
        let output = netns.try_exec(&words)?;
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        parse_ping(&text).with_context(|| format!("{}: {words:?} said:\n{text}", netns.short()))
    }
}

/// Three pings from `netns` to `target`.
pub fn ping(netns: &Netns, target: IpAddr) -> anyhow::Result<PingResult> {
    Ping::default().run(netns, target)
}

fn parse_ping(text: &str) -> Option<PingResult> {
    let summary = text.lines().find(|line| line.contains("packets transmitted"))?;
    let number = |label: &str| -> Option<u32> {
        let (head, _) = summary.split_once(label)?;
        head.split([' ', ',']).rfind(|word| !word.is_empty())?.parse().ok()
    };
    let rtt_ms = text
        .lines()
        .find(|line| line.starts_with("rtt "))
        .and_then(|line| line.split(" = ").nth(1)?.split('/').nth(1)?.parse().ok());
    Some(PingResult {
        sent: number(" packets transmitted")?,
        received: number(" received")?,
        rtt_ms,
        text: text.to_owned(),
    })
}

/// A throughput measurement.
#[derive(Clone, Copy, Debug)]
pub struct Throughput {
    /// What the receiver got, bits per second.
    pub bits_per_second: f64,
    /// TCP segments sent again.
    pub retransmits: u64,
}

impl Throughput {
    /// In units of 10⁹ bits per second.
    pub fn gbps(&self) -> f64 {
        self.bits_per_second / 1e9
    }
}

/// TCP throughput from `client` to `server` for `seconds` (not 0: iperf3 would never end), by iperf3. Extra words go to the client
/// (`-P 4`, `-R`, `-u -b 1G`).
pub fn iperf3(
    client: &Netns,
    server: (&Netns, IpAddr),
    seconds: u32,
    extra: &[&str],
) -> anyhow::Result<Throughput> {
    let (server_ns, address) = server;
    let mut listener = server_ns.spawn(
        &format!("iperf3-for-{}", client.short()),
        &["iperf3", "-s", "-1", "--forceflush", "-B", &address.to_string()],
    )?;
    wait_for_listener(server_ns, &mut listener)?;
    let (target, time) = (address.to_string(), seconds.to_string());
    let mut words = vec!["iperf3", "-J", "-c", &target, "-t", &time, "--connect-timeout", "3000"];
    words.extend(extra);
    let output = client.try_exec(&words)?;
    let report: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    parse_iperf3(&report)
}

fn wait_for_listener(netns: &Netns, listener: &mut super::Process) -> anyhow::Result<()> {
    // The log is shared by runs, so its words may be an earlier run's: ask for the socket.
    super::wait_until(PATIENCE, "iperf3 to listen", || {
        !listener.is_running()
            || netns.sh("ss -Hltn sport = :5201").is_ok_and(|sockets| !sockets.trim().is_empty())
    })?;
    anyhow::ensure!(listener.is_running(), "iperf3 ended at once:\n{}", listener.log());
    Ok(())
}

fn parse_iperf3(report: &Value) -> anyhow::Result<Throughput> {
    if let Some(error) = report.get("error").and_then(Value::as_str) {
        anyhow::bail!("iperf3: {error}");
    }
    let end = report.get("end").context("iperf3's report has no end")?;
    let sum = end.get("sum_received").or_else(|| end.get("sum")).context("nor a sum")?;
    Ok(Throughput {
        bits_per_second: sum
            .get("bits_per_second")
            .and_then(Value::as_f64)
            .context("nor a throughput")?,
        retransmits: end
            .pointer("/sum_sent/retransmits")
            .and_then(Value::as_u64)
            .unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::{parse_iperf3, parse_ping};

    #[test]
    fn ping_with_loss_and_errors() {
        let text = "PING 10.0.0.1 (10.0.0.1) 56(84) bytes of data.\n\n--- 10.0.0.1 ping statistics ---\n\
            3 packets transmitted, 1 received, +2 errors, 66% packet loss, time 402ms\n\
            rtt min/avg/max/mdev = 0.043/0.051/0.060/0.003 ms\n";
        let result = parse_ping(text).expect("a summary");
        assert_eq!((result.sent, result.received, result.rtt_ms), (3, 1, Some(0.051)));
        assert!(!result.is_complete());
    }

    #[test]
    fn ping_without_an_answer() {
        let text = "2 packets transmitted, 0 received, 100% packet loss, time 1001ms\n\n";
        let result = parse_ping(text).expect("a summary");
        assert_eq!((result.sent, result.received, result.rtt_ms), (2, 0, None));
        assert!(parse_ping("ping: unknown host").is_none());
    }

    #[test]
    fn iperf3_reports_and_errors() {
        let report = serde_json::json!({"end": {
            "sum_sent": {"bits_per_second": 2e9, "retransmits": 3},
            "sum_received": {"bits_per_second": 1.5e9}}});
        let result = parse_iperf3(&report).expect("a report");
        assert!((result.gbps() - 1.5).abs() < 1e-9);
        assert_eq!(result.retransmits, 3);
        let failed = serde_json::json!({"error": "unable to connect"});
        assert!(parse_iperf3(&failed).unwrap_err().to_string().contains("unable to connect"));
    }
}
