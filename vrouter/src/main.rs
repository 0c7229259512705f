//! vrouter: the node and its commands. Reads the command line, runs it, maps errors to exit codes.

use clap::{Parser, Subcommand};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use vrouter::config::RunArgs;
use vrouter::ctl::output::Output;
use vrouter::ctl::{ipam, resource, show, watch};
use vrouter::{cni, hold, node};

/// A userspace router for Kubernetes nodes: pods on TUN devices, nodes joined by IPIP over AF_XDP,
/// routes by BGP, Calico's and Kubernetes' resources.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    /// Where the node's sockets are
    #[arg(long, global = true, env = "VROUTER_RUN_DIR", default_value = "/run/vrouter")]
    run_dir: PathBuf,
    /// Where the file datastore's resources are
    #[arg(
        long,
        global = true,
        env = "VROUTER_DATASTORE_DIR",
        default_value = "/etc/vrouter/resources"
    )]
    datastore_dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the node: forwarder, BGP, CNI server, operator socket
    Run(Box<RunArgs>),
    #[command(flatten)]
    Resource(resource::Command),
    /// Addresses: who has which
    #[command(subcommand)]
    Ipam(ipam::Command),
    /// The node itself
    #[command(subcommand)]
    Node(NodeCommand),
    /// What a running node knows and does
    Show {
        #[command(subcommand)]
        what: show::Show,
        /// json or yaml instead of a table
        #[arg(long, short = 'o', global = true)]
        output: Option<Output>,
    },
    /// Follow packets through a running node, stage by stage
    Trace(watch::TraceArgs),
    /// Copy packets of a running node, before and after rewriting, each with its outcome
    Capture(watch::CaptureArgs),
    /// Keep the node's device descriptors (started by `run`; never needs an operator)
    Hold {
        /// Its socket
        #[arg(long)]
        socket: PathBuf,
    },
    /// The CNI plugin (what a container runtime calls as `vrouter-cni`)
    Cni,
}

#[derive(Subcommand)]
enum NodeCommand {
    /// BGP peers and the node's state
    Status {
        /// json or yaml instead of a table
        #[arg(long, short = 'o')]
        output: Option<Output>,
    },
}

fn main() -> ExitCode {
    let invoked = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    let name = invoked.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    if matches!(name, "vrouter-cni" | "calico") {
        return cni::shim::run_plugin();
    }
    let cli = Cli::parse();
    let mut out = std::io::stdout().lock();
    match run(cli, &mut out) {
        Ok(code) => code,
        Err(error) => {
            let _ = out.flush();
            let _ = writeln!(std::io::stderr(), "vrouter: {error:#}");
            ExitCode::from(1)
        }
    }
}

fn run(cli: Cli, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let socket = cli.run_dir.join("vrouter.sock");
    match cli.command {
        Command::Run(args) => {
            let config = args.into_config(&cli.run_dir, &cli.datastore_dir)?;
            log_to_stderr(&config.log_level);
            node::run(config)?;
        }
        Command::Resource(command) => {
            return Ok(resource::run(&command, &*store(&cli.datastore_dir)?, out)?);
        }
        Command::Ipam(command) => {
            return Ok(ipam::run(&command, &*store(&cli.datastore_dir)?, out)?);
        }
        Command::Node(NodeCommand::Status { output }) => {
            show::node_status(&socket, output.unwrap_or_default(), out)?;
        }
        Command::Show { what, output } => {
            show::show(&socket, &what, output.unwrap_or_default(), out)?;
        }
        Command::Trace(args) => watch::trace(&socket, args, out)?,
        Command::Capture(args) => watch::capture(&socket, args, out)?,
        Command::Hold { socket } => hold::run(&socket)?,
        Command::Cni => return Ok(cni::shim::run_plugin()),
    }
    Ok(ExitCode::SUCCESS)
}

fn store(directory: &Path) -> anyhow::Result<Box<dyn vrouter::datastore::Datastore>> {
    Ok(Box::new(vrouter::datastore::FileStore::open(directory)?))
}

fn log_to_stderr(level: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}
