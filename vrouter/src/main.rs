//! tmp
use clap::{Parser, Subcommand};
use std::path::PathBuf; use std::process::ExitCode;
use tracing_subscriber::EnvFilter;
use vrouter::config::{NodeConfig, RunArgs};
use vrouter::ctl::watch; use vrouter::ctl::{request::Request, socket}; use vrouter::{cni, hold, node};
#[derive(Parser)] struct Cli { #[arg(long, global = true, env = "VROUTER_RUN_DIR")] run_dir: Option<String>, #[command(subcommand)] command: Command }
#[derive(Subcommand)] enum Command { Run(Box<RunArgs>), Trace(watch::TraceArgs), Capture(watch::CaptureArgs), Hold{#[arg(long)] socket: PathBuf}, Cni, Ask{json:String} }
fn main() -> ExitCode {
    let invoked = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    if invoked.file_name().is_some_and(|n| n == "vrouter-cni") { return cni::shim::run_plugin(); }
    let cli = Cli::parse();
    let sock = PathBuf::from(cli.run_dir.as_deref().unwrap_or("/run/vrouter")).join("vrouter.sock");
    let mut out = std::io::stdout();
    let r: anyhow::Result<()> = (|| { match cli.command {
        Command::Run(a) => { let c = NodeConfig::load(&a)?; tracing_subscriber::fmt().with_env_filter(EnvFilter::default().add_directive(c.log_level.into())).with_writer(std::io::stderr).init(); node::run(c)?; }
        Command::Trace(a) => watch::trace(&sock, a, &mut out)?, Command::Capture(a) => watch::capture(&sock, a, &mut out)?,
        Command::Hold{socket} => hold::run(&socket)?, Command::Cni => {cni::shim::run_plugin();},
        Command::Ask{json} => { let r: Request = serde_json::from_str(&json)?; println!("{}", serde_json::to_string_pretty(&socket::ask_once(&sock, &r)?)?); } } Ok(()) })();
    if let Err(e) = r { eprintln!("vrouter: {e:#}"); return ExitCode::from(1); } ExitCode::SUCCESS
}
