//! The harness's command line: which scenario runs?

mod demo;
mod throughput;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Demos of the vRouter on network namespaces of this machine.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build a small cluster, use it, and check every claim. Exit status 0 only if all hold.
    Demo(demo::Options),
    /// Remove what `demo --keep` left, and what killed runs could not remove.
    DemoClean,
    /// Measure what two nodes carry between their pods, and what it costs their workers.
    Throughput(throughput::Options),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Demo(options) => demo::run(&options),
        Command::DemoClean => {
            demo::clean();
            Ok(true)
        }
        Command::Throughput(options) => throughput::run(&options),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            demo::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
