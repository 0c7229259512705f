//! vrouter: the node and its commands. Reads the command line, runs it, maps errors to exit codes.

use clap::{Parser, Subcommand};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use vrouter::config::{NodeConfig, RunArgs};
use vrouter::ctl::output::Output;
use vrouter::ctl::{ipam, resource, show, watch};
use vrouter::{cni, hold, node};

/// A userspace router for Kubernetes nodes: pods on TUN devices, nodes joined by IPIP over `AF_XDP`,
/// routes by BGP, Calico's and Kubernetes' resources.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Where the node's sockets are
    #[arg(long, global = true, env = "VROUTER_RUN_DIR", value_name = "DIR")]
    run_dir: Option<String>,
    /// Where the file datastore's resources are
    #[arg(long, global = true, env = "VROUTER_DATASTORE_DIR", value_name = "DIR")]
    datastore_dir: Option<String>,
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
        /// The form of the answer
        #[arg(long, short = 'o', global = true, value_enum, default_value_t)]
        output: Output,
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
        /// The form of the answer
        #[arg(long, short = 'o', value_enum, default_value_t)]
        output: Output,
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
        // A reader that went away (`| head`) is a good end.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = out.flush();
            let _ = writeln!(std::io::stderr(), "vrouter: {error:#}");
            ExitCode::from(1)
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

fn run(cli: Cli, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let run_dir = PathBuf::from(cli.run_dir.as_deref().unwrap_or("/run/vrouter"));
    let datastore_dir =
        PathBuf::from(cli.datastore_dir.as_deref().unwrap_or("/etc/vrouter/resources"));
    let socket = run_dir.join("vrouter.sock");
    match cli.command {
        Command::Run(args) => {
            let config = NodeConfig::load(&args)?;
            log_to_stderr(config.log_level);
            node::run(config)?;
        }
        Command::Resource(command) => {
            return Ok(resource::run(&command, &*store(&datastore_dir)?, out)?);
        }
        Command::Ipam(command) => {
            return Ok(ipam::run(&command, &*store(&datastore_dir)?, out)?);
        }
        Command::Node(NodeCommand::Status { output }) => {
            show::node_status(&socket, output, out)?;
        }
        Command::Show { what, output } => show::show(&socket, &what, output, out)?,
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

fn log_to_stderr(level: LevelFilter) {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::default().add_directive(level.into()));
    let colour = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colour)
        .with_writer(std::io::stderr)
        .init();
}
