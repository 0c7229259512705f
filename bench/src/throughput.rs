//! `bench throughput`: how much of a pod's traffic do two nodes carry, and what does a worker do
//! meanwhile? Two routers of this process over a bridge, one pod each (and a second on the first),
//! without control plane: what is measured is the fast path and its devices.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bench::lab::tools::{Ping, iperf3};
use bench::lab::{Lab, Netns, link};
use clap::{Args, ValueEnum};
use fastpath::counters::Counters;
use fastpath::io::tun::{self, TunOptions, TunQueue};
use fastpath::io::uplink::{Sets, Uplink, UplinkControl, UplinkIo, UplinkOptions, open_uplink};
use fastpath::io::{Framing, Queue};
use fastpath::packet::PortId;
use fastpath::router::{Router, RouterConfig};
use fastpath::tables::endpoint::EndpointEntry;
use fastpath::tables::fib::Fib;
use fastpath::tables::nexthop::{Adjacency, NextHop};
use fastpath::tables::port::{PortEntry, PortRole};
use fastpath::tables::{AdjacencyId, EndpointId, Guard, NextHopId, Tables, Tunnels};

use crate::demo::say;

const UPLINK: PortId = PortId(0);
const MTU: u16 = 1_500;
/// A tunnel's header fits.
const POD_MTU: u16 = 1_480;
/// IP, TCP and the timestamp option.
const TCP_HEADERS: u16 = 52;
const TUN_QUEUE: u32 = 5_000;
/// The pods' gateway, which nobody is asked for on a TUN.
const GATEWAY: &str = "169.254.1.1";

/// What to measure.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 3)]
    seconds: u32,
    /// Times each path is measured; the median is what counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// The form of the uplinks.
    #[arg(long, value_enum, default_value = "xdp")]
    io: Form,
    /// Further words for iperf3's client (`-P 4`).
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    iperf: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Form {
    /// `AF_XDP`, the program in the driver.
    Xdp,
    /// A packet socket.
    Packet,
}

/// One node.
struct Node {
    router: Router,
    name: String,
    mac: [u8; 6],
    pods: Vec<(Netns, Ipv4Addr)>,
    address: Ipv4Addr,
    partial_checksums: bool,
    _control: UplinkControl,
}

/// Measures and prints.
pub(crate) fn run(options: &Options) -> anyhow::Result<bool> {
    let lab = Lab::new("tput")?;
    let fabric = lab.netns("fabric")?;
    let mut nodes = Vec::new();
    for number in 1..=2 {
        nodes.push(Node::build(&lab, &fabric, number, options.io)?);
    }
    link::bridge(&fabric, "br0", &["p1", "p2"])?;
    idle(&nodes)?;
    say(HEADER);
    let mut medians = Vec::new();
    for (what, ipip, to) in
        [("same node", false, (0, 1)), ("plain", false, (1, 0)), ("IPIP", true, (1, 0))]
    {
        publish(&mut nodes, ipip)?;
        let mut rates = Vec::new();
        for _ in 0..options.rounds.max(1) {
            rates.push(measure(&nodes, what, to, options)?);
        }
        rates.sort_by(f64::total_cmp);
        medians.push(format!("{what} {:.2}", rates[rates.len() / 2]));
        if what == "IPIP" {
            latency(&nodes)?;
        }
    }
    say(&format!("median Gbit/s: {}", medians.join(", ")));
    Ok(true)
}

const HEADER: &str = "path          Gbit/s  again | each node: segments seen, merged, bytes a write into a \
                      pod takes, CPU ns a segment, CPU busy, drops";

fn measure(
    nodes: &[Node],
    what: &str,
    (node, pod): (usize, usize),
    options: &Options,
) -> anyhow::Result<f64> {
    let (from, to) = (&nodes[0].pods[0], &nodes[node].pods[pod]);
    let before: Vec<_> = nodes.iter().map(Node::snapshot).collect();
    let start = Instant::now();
    let extra: Vec<&str> = options.iperf.split_whitespace().collect();
    let result = iperf3(&from.0, (&to.0, IpAddr::V4(to.1)), options.seconds, &extra)?;
    let took = start.elapsed();
    let mut line = format!("{what:<12} {:7.2} {:6}", result.gbps(), result.retransmits);
    for (node, (counted, cpu)) in nodes.iter().zip(&before) {
        let (now, cpu_now) = node.snapshot();
        let cpu = cpu_now.saturating_sub(*cpu);
        let bytes = (result.bits_per_second / 8.0 * f64::from(options.seconds)).max(1.0);
        let segments = bytes / f64::from(POD_MTU - TCP_HEADERS);
        _ = write!(
            line,
            " | {segments:8.0} {:8} {:6} {:5.0} ns {:3.0} % {}",
            now.merged - counted.merged,
            per_write(&now, counted),
            cpu.as_secs_f64() * 1e9 / segments,
            cpu.as_secs_f64() / took.as_secs_f64() * 100.0,
            drops(&now, counted),
        );
    }
    say(&line);
    Ok(result.gbps())
}

/// Mean size of what went into the pods.
fn per_write(now: &Counters, before: &Counters) -> u64 {
    let sum = |counters: &Counters| {
        let pods = counters.ports.iter().filter(|(port, _)| **port != UPLINK);
        pods.fold((0, 0), |(packets, bytes), (_, port)| {
            (packets + port.sent.packets, bytes + port.sent.bytes)
        })
    };
    let ((packets, bytes), (packets0, bytes0)) = (sum(now), sum(before));
    (bytes - bytes0) / (packets - packets0).max(1)
}

fn drops(now: &Counters, before: &Counters) -> String {
    let new = now.drops.iter().filter_map(|(reason, count)| {
        let count = count - before.drops.get(reason).copied().unwrap_or_default();
        (count != 0).then(|| format!("{reason:?} {count}"))
    });
    let listed: Vec<String> = new.collect();
    if listed.is_empty() { "-".to_owned() } else { listed.join(" ") }
}

/// What a worker costs that has nothing to do.
fn idle(nodes: &[Node]) -> anyhow::Result<()> {
    const WATCHED: Duration = Duration::from_secs(2);
    let before: Vec<Duration> = nodes.iter().map(|node| node.snapshot().1).collect();
    thread::sleep(WATCHED);
    for (node, before) in nodes.iter().zip(before) {
        let share = node.snapshot().1.saturating_sub(before).as_secs_f64() / WATCHED.as_secs_f64();
        say(&format!("{} idle: {:.2} % of a core", node.name, share * 100.0));
    }
    let status = std::fs::read_to_string("/proc/self/status").context("this process's status")?;
    let rss = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default();
    say(&format!(
        "both routers' process: {}",
        rss.split_whitespace().collect::<Vec<_>>().join(" ")
    ));
    Ok(())
}

/// Round trips between pods while nothing else happens: each wakes two sleeping workers twice.
fn latency(nodes: &[Node]) -> anyhow::Result<()> {
    let ping = Ping { count: 50, interval: Duration::from_millis(20), ..Ping::default() };
    for (what, node, pod) in [("same node", 0, 1), ("IPIP", 1, 0)] {
        let target = IpAddr::V4(nodes[node].pods[pod].1);
        let result = ping.run(&nodes[0].pods[0].0, target)?;
        let rtt = result.text.lines().find(|line| line.starts_with("rtt")).unwrap_or("no answer");
        say(&format!("idle round trip, {what}: {rtt}"));
    }
    Ok(())
}

impl Node {
    fn build(lab: &Lab, fabric: &Netns, number: u8, form: Form) -> anyhow::Result<Self> {
        let name = format!("n{number}");
        let host = lab.netns(&name)?;
        link::veth((&host, "eth0"), (fabric, &format!("p{number}")))?;
        let address = Ipv4Addr::new(10, 9, 0, number);
        link::addr(&host, "eth0", &format!("{address}/24"))?;
        let sets = Sets {
            locals: vec![address],
            nodes: vec![Ipv4Addr::new(10, 9, 0, 3 - number)],
            pools: vec!["10.10.0.0/16".parse()?],
        };
        let interface = "eth0".to_owned();
        let io = match form {
            Form::Xdp => UplinkIo::Xdp,
            Form::Packet => UplinkIo::Packet,
        };
        let opened =
            host.enter(|| open_uplink(UPLINK, UplinkOptions { interface, io, sets, kept: None }))??;
        let Uplink { queues, control, mac, partial_checksums, .. } = opened;
        let config = RouterConfig { name: name.clone(), ..RouterConfig::default() };
        let mut router = Router::start(config, Tables::default())?;
        router.attach(UPLINK, queues);
        let mut pods = Vec::new();
        for last in 1..=2 {
            let address = Ipv4Addr::new(10, 10, number, last);
            let netns = lab.netns(&format!("{name}p{last}"))?;
            router.attach(PortId(u16::from(last)), vec![pod_queue(&netns, address, last)?]);
            pods.push((netns, address));
        }
        Ok(Self { router, name, mac, pods, address, partial_checksums, _control: control })
    }

    /// What was counted, and the CPU time of its worker so far.
    fn snapshot(&self) -> (Counters, Duration) {
        (self.router.counters(), thread_time(&format!("{}-0", self.name)))
    }
}

fn pod_queue(netns: &Netns, address: Ipv4Addr, last: u8) -> anyhow::Result<Box<dyn Queue>> {
    let fd = netns.enter(|| tun::open("eth0", TunOptions::default()))??;
    netns.ip(&format!("link set eth0 mtu {POD_MTU} txqueuelen {TUN_QUEUE} up"))?;
    link::addr(netns, "eth0", &format!("{address}/32"))?;
    link::route(netns, &format!("{GATEWAY} dev eth0 scope link"))?;
    link::route(netns, &format!("default via {GATEWAY} dev eth0 onlink"))?;
    Ok(Box::new(TunQueue::new(PortId(u16::from(last)), fd)))
}

/// Tells every node where the pods are.
fn publish(nodes: &mut [Node], ipip: bool) -> anyhow::Result<()> {
    let places: Vec<_> = nodes.iter().map(|node| (node.address, node.mac)).collect();
    for (index, node) in nodes.iter_mut().enumerate() {
        let generation =
            node.router.publish(tables(&places, index, (ipip, node.partial_checksums))?);
        let live = node.router.wait_live(generation, Duration::from_secs(5));
        anyhow::ensure!(live, "{} does not take new tables", node.name);
    }
    Ok(())
}

fn tables(
    places: &[(Ipv4Addr, [u8; 6])],
    own: usize,
    (ipip, partial_checksums): (bool, bool),
) -> anyhow::Result<Tables> {
    let (address, mac) = places[own];
    let (far, far_mac) = places[1 - own];
    let adjacency = AdjacencyId(0);
    let away = if ipip {
        NextHop::Tunnel { remote: far, adjacency }
    } else {
        NextHop::Adjacency(adjacency)
    };
    let mut next_hops = vec![NextHop::NoRoute, away];
    let mut fib = Fib::default();
    fib.insert(format!("10.10.{}.0/24", 2 - own).parse()?, NextHopId(1));
    let pod = PortEntry { framing: Framing::Ip, mtu: POD_MTU, ..PortEntry::default() };
    let uplink = PortEntry {
        role: PortRole::Uplink,
        framing: Framing::Ethernet,
        mac,
        mtu: MTU,
        partial_checksums,
    };
    let (mut ports, mut endpoints) = (vec![uplink], Vec::new());
    for last in 1..=2_u8 {
        let endpoint = EndpointId(u32::from(last) - 1);
        let prefix = format!("10.10.{}.{last}/32", own + 1).parse()?;
        fib.insert(prefix, NextHopId(u32::try_from(next_hops.len())?));
        next_hops.push(NextHop::Endpoint(endpoint));
        ports.push(PortEntry { role: PortRole::Pod(endpoint), ..pod });
        endpoints.push(EndpointEntry {
            port: PortId(u16::from(last)),
            sources: vec![prefix],
            egress: Guard::Open,
            ingress: Guard::Open,
            mac: [0; 6],
        });
    }
    Ok(Tables {
        fib: Arc::new(fib),
        next_hops: next_hops.into(),
        adjacencies: vec![Adjacency {
            port: UPLINK,
            address: IpAddr::V4(far),
            destination_mac: Some(far_mac),
            source_mac: mac,
            mtu: MTU,
        }]
        .into(),
        endpoints: endpoints.into(),
        ports: ports.into(),
        tunnels: Arc::new(Tunnels { local: Some(address), peers: vec![far] }),
        ..Tables::default()
    })
}

/// CPU time of this process's thread of that name; zero if there is none.
fn thread_time(name: &str) -> Duration {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return Duration::ZERO };
    for thread in threads.flatten() {
        let read = |file: &str| std::fs::read_to_string(thread.path().join(file));
        if read("comm").is_ok_and(|comm| comm.trim_end() == name) {
            let nanos = read("schedstat")
                .ok()
                .and_then(|text| text.split_whitespace().next().and_then(|word| word.parse().ok()));
            return Duration::from_nanos(nanos.unwrap_or_default());
        }
    }
    Duration::ZERO
}
