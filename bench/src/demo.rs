//! `bench demo`: which scenario, in which modes, and what stays afterwards?

mod cluster;
mod hosts;
mod policy;
mod reach;
mod report;
mod speed;
mod survive;

use std::time::{Duration, Instant};
use std::{fmt, process};

use anyhow::Context as _;
use bench::lab::{self, Lab};
use clap::{Args, ValueEnum};

use cluster::Cluster;
use report::Report;
pub(crate) use report::say;

/// Longest time anything may take to come about: a session, a route, a change of mode.
const PATIENCE: Duration = Duration::from_secs(20);

/// What to show.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Which scenario.
    #[arg(long, value_enum, default_value = "basic")]
    scenario: Scenario,
    /// The pool's encapsulation mode; without it `CrossSubnet`, then Always.
    #[arg(long, value_enum, ignore_case = true)]
    ipip: Option<Mode>,
    /// Leave everything running afterwards; `demo-clean` removes it.
    #[arg(long)]
    keep: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Scenario {
    /// Two subnets of nodes, a top-of-rack router, pods, a policy, failures.
    Basic,
}

/// When packets between nodes are encapsulated.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Mode {
    /// Between all nodes.
    #[value(name = "Always")]
    Always,
    /// Between nodes of different subnets.
    #[value(name = "CrossSubnet")]
    CrossSubnet,
    /// Nowhere.
    #[value(name = "Never")]
    Never,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Mode {
    /// Whether a packet to another node is encapsulated, as Calico documents the modes.
    fn encapsulates(self, same_subnet: bool) -> bool {
        match self {
            Self::Always => true,
            Self::CrossSubnet => !same_subnet,
            Self::Never => false,
        }
    }

    fn manifest(self) -> std::path::PathBuf {
        cluster::manifest(match self {
            Self::Always => "modes/ippool-always.yaml",
            Self::CrossSubnet => "ippool.yaml",
            Self::Never => "modes/ippool-never.yaml",
        })
    }
}

/// Runs the demo. Whether every claim held.
pub(crate) fn run(options: &Options) -> anyhow::Result<bool> {
    let lab = Lab::new("demo")?;
    let modes = options.ipip.map_or(vec![Mode::CrossSubnet, Mode::Always], |mode| vec![mode]);
    let mut report = Report::new();
    let mut cluster = None;
    let ended = match options.scenario {
        Scenario::Basic => basic(&lab, &modes, &mut report, &mut cluster),
    };
    if let Err(error) = ended {
        report.check("the scenario runs to its end", Err(error));
    }
    let held = report.finish();
    if !held {
        say(&format!("\nWhat the processes said last:\n{}", lab.logs(15)));
    }
    if options.keep {
        leave(&lab, cluster.as_ref())?;
        // Nothing may be dropped: what runs is what was asked for.
        process::exit(i32::from(!held));
    }
    Ok(held)
}

fn leave(lab: &Lab, cluster: Option<&Cluster>) -> anyhow::Result<()> {
    lab.keep()?;
    say(&format!("\nKept: {}-*; `make demo-clean` removes it. Have a look:", lab.id()));
    if let Some(node) = cluster.and_then(|cluster| cluster.nodes.first()) {
        let (binary, run_dir) = (node.binary().display(), node.run_dir());
        let run_dir = run_dir.display();
        for words in ["node status", "show routes", "show bgp", "show drops", "capture"] {
            say(&format!("  {binary} {words} --run-dir {run_dir}"));
        }
    }
    say(&format!("  ip netns exec {}-pod1 ping {}", lab.id(), cluster::EXTERNAL_HOST));
    Ok(())
}

/// Removes what earlier demos left.
pub(crate) fn clean() {
    let removed = lab::remove_kept();
    if removed.is_empty() {
        say("nothing to remove");
    }
    for id in removed {
        say(&format!("removed {id}"));
    }
}

fn basic(
    lab: &Lab,
    modes: &[Mode],
    report: &mut Report,
    slot: &mut Option<Cluster>,
) -> anyhow::Result<()> {
    let (first, rest) = modes.split_first().context("no mode to show")?;
    report.section(&format!("A cluster: four nodes, two subnets, BIRD between them, IPIP {first}"));
    let start = Instant::now();
    let cluster = slot.insert(Cluster::start(lab, &first.manifest())?);
    report.note(&format!("nodes answer after {}", report::ms(start.elapsed())));
    let start = Instant::now();
    cluster.attach_pods(lab)?;
    let took = report::ms(start.elapsed());
    report.note(&format!("{} pods attached through the CNI plugin in {took}", cluster.pods.len()));
    reach::sessions(cluster, report);

    report.section(&format!("Pods reach each other, IPIP {first}"));
    reach::pods(cluster, *first, report);
    report.section("Hosts, other interfaces and the world outside");
    hosts::hosts(cluster, report);
    hosts::offices(cluster, report);
    hosts::external(cluster, report);
    reach::too_large(cluster, *first, report);
    report.section("NetworkPolicy");
    policy::check(cluster, report)?;
    report.section("Throughput, TCP, one stream, beside the kernel on the same wires");
    speed::compare(lab, cluster, *first, report)?;
    report.section("A forwarder is killed");
    survive::forwarder(cluster, report)?;
    survive::holder(cluster, report)?;

    for mode in rest {
        report.section(&format!("The pool is changed to IPIP {mode}, while everything runs"));
        cluster.nodes.first().context("four nodes")?.apply(&mode.manifest())?;
        reach::pods(cluster, *mode, report);
        hosts::hosts(cluster, report);
        reach::too_large(cluster, *mode, report);
        speed::between_nodes(cluster, *mode, report);
    }
    Ok(())
}
