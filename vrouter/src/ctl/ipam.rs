//! How does an operator see how full the pools are, and who has an address?

use std::{io, net::IpAddr, process::ExitCode};

use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    output::{self, Exit, Output, Streams},
    table::Table,
};
use crate::{
    api::IpamConfiguration,
    datastore::{Datastore, find},
    ipam::{
        Ipam,
        usage::{self, Holding, PoolUsage},
    },
};

/// What can be done about addresses.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Show how full the pools are, or who has an address
    Show(ShowArgs),
    /// Take an address back, whoever has it
    Release(ReleaseArgs),
}

/// What to show.
#[derive(Clone, Debug, Args)]
pub struct ShowArgs {
    /// Show who has this address
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Option<IpAddr>,
    /// Show the pools' blocks
    #[arg(long)]
    pub show_blocks: bool,
    /// Show the addresses that nodes took of other nodes' blocks
    #[arg(long)]
    pub show_borrowed: bool,
    /// Show how addresses are assigned
    #[arg(long)]
    pub show_configuration: bool,
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// What to take back.
#[derive(Clone, Debug, Args)]
pub struct ReleaseArgs {
    /// The address
    #[arg(long, value_name = "ADDRESS", required = true)]
    pub ip: IpAddr,
}

/// Does what the operator asks, and answers to `out`; what went wrong goes to standard error.
pub fn run(
    command: &Command,
    store: &dyn Datastore,
    out: &mut dyn io::Write,
) -> io::Result<ExitCode> {
    output::with_standard_streams(out, |io| run_with(command, store, io))
}

/// Does what the operator asks.
pub(super) fn run_with(
    command: &Command,
    store: &dyn Datastore,
    io: &mut Streams<'_>,
) -> io::Result<Exit> {
    match command {
        Command::Show(args) => show(args, store, io),
        Command::Release(args) => match Ipam::new(store, "").release_address(args.ip) {
            Ok(true) => writeln!(io.out, "{} released", args.ip).map(|()| Exit::Done),
            Ok(false) => io.problem(format!("{} is not assigned", args.ip)),
            Err(error) => io.problem(error),
        },
    }
}

fn show(args: &ShowArgs, store: &dyn Datastore, io: &mut Streams<'_>) -> io::Result<Exit> {
    if let Some(address) = args.ip {
        return match usage::lookup(store, address) {
            Ok(holding) => show_address(args, address, holding.as_ref(), io),
            Err(error) => io.problem(error),
        };
    }
    if args.show_configuration {
        return show_configuration(args, store, io);
    }
    let pools = match usage::usage(store) {
        Ok(pools) => pools,
        Err(error) => return io.problem(error),
    };
    if args.output.is_structured() {
        args.output.write(&json!({ "pools": pools }), io.out)?;
    } else if args.show_borrowed {
        borrowed_table(&pools).write_boxed(io.out, io.width)?;
    } else {
        usage_table(&pools, args.show_blocks).write_boxed(io.out, io.width)?;
    }
    Ok(Exit::Done)
}

fn usage_table(pools: &[PoolUsage], with_blocks: bool) -> Table {
    let mut table = Table::new(["GROUPING", "CIDR", "IPS TOTAL", "IPS IN USE", "IPS FREE"]);
    let mut row = |grouping: &str, cidr: String, total: u128, in_use: u128| {
        let free = total.saturating_sub(in_use);
        let share = |count: u128| format!("{count} ({}%)", percent(count, total));
        table.row([grouping.to_owned(), cidr, total.to_string(), share(in_use), share(free)]);
    };
    for pool in pools {
        row("IP Pool", pool.cidr.to_string(), pool.total, pool.in_use);
        for block in pool.blocks.iter().filter(|_| with_blocks) {
            row("Block", block.cidr.to_string(), block.total as u128, block.in_use as u128);
        }
    }
    table
}

/// Rounded to the nearest whole number.
fn percent(count: u128, total: u128) -> u128 {
    // Totals of IPv6 pools leave no room for a factor of a hundred.
    let (count, total) = if total > 1 << 100 { (count >> 16, total >> 16) } else { (count, total) };
    (count * 100 + total / 2).checked_div(total).unwrap_or(0)
}

fn borrowed_table(pools: &[PoolUsage]) -> Table {
    let mut table =
        Table::new(["IP", "BORROWING-NODE", "BLOCK", "BLOCK OWNER", "TYPE", "ALLOCATED-TO"]);
    let blocks = pools.iter().flat_map(|pool| &pool.blocks);
    for holding in blocks.flat_map(|block| &block.borrowed) {
        let node = |node: &Option<String>| node.clone().unwrap_or_else(|| "-".to_owned());
        table.row([
            holding.address.to_string(),
            node(&holding.node),
            holding.block.to_string(),
            node(&holding.block_owner),
            holding.kind.clone(),
            holding.holder.clone(),
        ]);
    }
    table
}

fn show_address(
    args: &ShowArgs,
    address: IpAddr,
    holding: Option<&Holding>,
    io: &mut Streams<'_>,
) -> io::Result<Exit> {
    if args.output.is_structured() {
        let value =
            json!({ "address": address, "assigned": holding.is_some(), "holding": holding });
        args.output.write(&value, io.out)?;
        return Ok(Exit::Done);
    }
    let Some(holding) = holding else {
        writeln!(io.out, "{address} is not assigned")?;
        return Ok(Exit::Done);
    };
    writeln!(io.out, "{address} is assigned to {}", holding.holder)?;
    let mut table = Table::new(["PROPERTY", "VALUE"]);
    table.row(["block".to_owned(), holding.block.to_string()]);
    table.row([
        "block owner".to_owned(),
        holding.block_owner.clone().unwrap_or_else(|| "-".to_owned()),
    ]);
    table.row(["handle".to_owned(), holding.attributes.handle_id.clone().unwrap_or_default()]);
    for (property, value) in &holding.attributes.secondary {
        table.row([property, value]);
    }
    table.write_boxed(io.out, io.width)?;
    Ok(Exit::Done)
}

fn show_configuration(
    args: &ShowArgs,
    store: &dyn Datastore,
    io: &mut Streams<'_>,
) -> io::Result<Exit> {
    let spec = match find::<IpamConfiguration>(store, "default") {
        Ok(config) => config.map(|config| config.spec).unwrap_or_default(),
        Err(error) => return io.problem(error),
    };
    if args.output.is_structured() {
        args.output.write(&serde_json::to_value(&spec).map_err(io::Error::other)?, io.out)?;
        return Ok(Exit::Done);
    }
    let mut table = Table::new(["PROPERTY", "VALUE"]);
    table.row(["StrictAffinity".to_owned(), spec.strict_affinity.to_string()]);
    table.row(["AutoAllocateBlocks".to_owned(), spec.auto_allocate_blocks.to_string()]);
    table.row(["MaxBlocksPerHost".to_owned(), spec.max_blocks_per_host.to_string()]);
    table.write_boxed(io.out, io.width)?;
    Ok(Exit::Done)
}
