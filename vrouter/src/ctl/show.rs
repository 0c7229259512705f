//! How does a node's state look to its operators? Tables of what the node answers, or its JSON.

use super::output::{Output, terminal_width};
use super::request::{BgpPart, Request};
use super::socket::{self, AskError};
use super::table::Table;
use ipnet::IpNet;
use serde_json::Value;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What `vrouter show` shows.
#[derive(Debug, clap::Subcommand)]
pub enum Show {
    /// The router's ports: pods, the node's doors, uplinks
    Interfaces,
    /// Every route with its source, or the one an address takes
    Routes {
        /// Only the route this address takes, with those that lost
        address: Option<IpAddr>,
    },
    /// BGP peers, or routes
    Bgp {
        /// Which part; the sessions where none is named
        #[command(subcommand)]
        what: Option<ShowBgp>,
    },
    /// Connections, the busiest first
    Flows {
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// The rules in force for this node's pods, with their counters
    Policy,
    /// Why packets were dropped or handed to the control plane
    Drops {
        /// Reasons that never happened, too
        #[arg(long)]
        all: bool,
    },
}

/// What `vrouter show bgp` shows.
#[derive(Debug, clap::Subcommand)]
pub enum ShowBgp {
    /// Sessions
    Neighbors,
    /// The routes in use and those that lost
    Routes,
    /// What a peer was told
    Advertised {
        /// The peer's address
        peer: IpAddr,
    },
    /// What a peer told
    Received {
        /// The peer's address
        peer: IpAddr,
    },
    /// Which step decided about a prefix
    Why {
        /// The prefix
        prefix: IpNet,
    },
}

/// Why nothing was shown.
#[derive(Debug, thiserror::Error)]
pub enum ShowError {
    /// The node.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The output.
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
}

/// Asks the node and shows what it answers.
pub fn show(
    socket: &Path,
    what: &Show,
    output: Output,
    out: &mut dyn Write,
) -> Result<(), ShowError> {
    let request = match what {
        Show::Interfaces => Request::Interfaces,
        Show::Routes { address } => Request::Routes { address: *address },
        Show::Bgp { what } => bgp_request(what.as_ref()),
        Show::Flows { limit } => Request::Flows { limit: *limit },
        Show::Policy => Request::Policy,
        Show::Drops { .. } => Request::Drops,
    };
    let value = socket::ask_once(socket, &request)?;
    if output.is_structured() {
        return Ok(output.write(&value, out)?);
    }
    match what {
        Show::Interfaces => interfaces(&value, out)?,
        Show::Routes { .. } => routes(&value, out)?,
        Show::Bgp { what: None | Some(ShowBgp::Neighbors) } => neighbors(&value, out)?,
        Show::Bgp { .. } => bgp_routes(&value, out)?,
        Show::Flows { .. } => flows(&value, out)?,
        Show::Policy => policy(&value, out)?,
        Show::Drops { all } => drops(&value, *all, out)?,
    }
    Ok(())
}

fn bgp_request(what: Option<&ShowBgp>) -> Request {
    let (what, peer, prefix) = match what {
        None | Some(ShowBgp::Neighbors) => (BgpPart::Neighbors, None, None),
        Some(ShowBgp::Routes) => (BgpPart::Routes, None, None),
        Some(ShowBgp::Advertised { peer }) => (BgpPart::Advertised, Some(*peer), None),
        Some(ShowBgp::Received { peer }) => (BgpPart::Received, Some(*peer), None),
        Some(ShowBgp::Why { prefix }) => (BgpPart::Why, None, Some(*prefix)),
    };
    Request::Bgp { what, peer, prefix }
}

/// `vrouter node status`, in calicoctl's columns, and the node's own state.
pub fn node_status(socket: &Path, output: Output, out: &mut dyn Write) -> Result<(), ShowError> {
    let value = socket::ask_once(socket, &Request::Status)?;
    if output.is_structured() {
        return Ok(output.write(&value, out)?);
    }
    writeln!(
        out,
        "vRouter process is running (pid {}, up {}), node {}, address {}, AS {}.",
        cell(&value["pid"]),
        span(value["uptimeSeconds"].as_u64().unwrap_or_default()),
        cell(&value["node"]),
        cell(&value["address"]),
        cell(&value["asNumber"]),
    )?;
    writeln!(
        out,
        "Tunnel address {}, {} pods, {} routes, tables of generation {} ({} live in every worker).",
        cell(&value["tunnelAddress"]),
        cell(&value["pods"]),
        cell(&value["routes"]),
        cell(&value["generation"]),
        cell(&value["live"]),
    )?;
    for uplink in rows(&value["uplinks"]) {
        writeln!(out, "Uplink {}: {}.", cell(&uplink["name"]), cell(&uplink["mode"]))?;
        for note in rows(&uplink["notes"]) {
            writeln!(out, "  {}", cell(note))?;
        }
    }
    for note in rows(&value["notes"]) {
        writeln!(out, "Note: {}", cell(note))?;
    }
    for (title, version4) in [("IPv4 BGP status", true), ("IPv6 BGP status", false)] {
        let mut table = Table::new(["PEER ADDRESS", "PEER TYPE", "STATE", "SINCE", "INFO"]);
        let mut any = false;
        for peer in rows(&value["bgp"]) {
            let address = peer["address"].as_str().unwrap_or_default();
            if address.contains(':') == version4 {
                continue;
            }
            any = true;
            let state = peer["state"].as_str().unwrap_or_default();
            let up = state == "Established";
            let info = peer["lastError"].as_str().filter(|_| !up).unwrap_or(state);
            table.row([
                address.to_owned(),
                cell(&peer["type"]),
                if up { "up" } else { "start" }.to_owned(),
                clock(peer["sinceUnix"].as_u64().unwrap_or_default()),
                info.to_owned(),
            ]);
        }
        writeln!(out, "\n{title}")?;
        if any {
            table.write_boxed(out, terminal_width())?;
        } else {
            writeln!(out, "No peers.")?;
        }
    }
    Ok(())
}

fn interfaces(value: &Value, out: &mut dyn Write) -> io::Result<()> {
    let mut table = Table::new([
        "NAME",
        "ROLE",
        "MODE",
        "MTU",
        "POD",
        "ADDRESSES",
        "RX PACKETS",
        "TX PACKETS",
        "DROPPED",
    ]);
    for port in rows(value) {
        table.row([
            cell(&port["name"]),
            cell(&port["role"]),
            cell(&port["mode"]),
            cell(&port["mtu"]),
            cell(&port["pod"]),
            list(&port["addresses"]),
            cell(&port["receivedPackets"]),
            cell(&port["sentPackets"]),
            cell(&port["dropped"]),
        ]);
    }
    table.write(out)
}

fn routes(value: &Value, out: &mut dyn Write) -> io::Result<()> {
    let mut table = Table::new(["PREFIX", "SOURCE", "VIA", "RESOLVED", "PORT", "NEIGHBOUR", "MAC"]);
    for route in rows(value) {
        let resolved = if route["used"] == true { cell(&route["resolved"]) } else { "lost".into() };
        table.row([
            cell(&route["prefix"]),
            cell(&route["source"]),
            cell(&route["via"]),
            resolved,
            cell(&route["port"]),
            cell(&route["neighbour"]),
            cell(&route["mac"]),
        ]);
    }
    table.write(out)
}

fn neighbors(value: &Value, out: &mut dyn Write) -> io::Result<()> {
    let mut table = Table::new([
        "PEER",
        "TYPE",
        "AS",
        "STATE",
        "UPTIME",
        "RECEIVED",
        "ADVERTISED",
        "LAST ERROR",
    ]);
    for peer in rows(value) {
        table.row([
            cell(&peer["address"]),
            cell(&peer["type"]),
            cell(&peer["remoteAS"]),
            cell(&peer["state"]),
            peer["uptimeSeconds"].as_u64().map_or_else(|| "-".into(), span),
            cell(&peer["received"]),
            cell(&peer["advertised"]),
            cell(&peer["lastError"]),
        ]);
    }
    table.write(out)
}

fn bgp_routes(value: &Value, out: &mut dyn Write) -> io::Result<()> {
    let mut table = Table::new([
        "",
        "PREFIX",
        "NEXT HOP",
        "PEER",
        "AS PATH",
        "LOCAL PREF",
        "MED",
        "DECIDED BY",
    ]);
    for route in rows(value) {
        let mark = match (route["best"] == true, route["inUse"] == true) {
            (true, _) => ">",
            (false, true) => "=",
            _ => "",
        };
        table.row([
            mark.to_owned(),
            cell(&route["prefix"]),
            cell(&route["nextHop"]),
            cell(&route["peer"]),
            cell(&route["asPath"]),
            cell(&route["localPref"]),
            cell(&route["med"]),
            cell(&route["reason"]),
        ]);
    }
    table.write(out)
}

fn flows(value: &Value, out: &mut dyn Write) -> io::Result<()> {
    let mut table = Table::new([
        "PROTO",
        "SOURCE",
        "DESTINATION",
        "IN BY",
        "STATE",
        "VERDICT",
        "IDLE",
        "SENT",
        "ANSWERED",
        "RULE",
    ]);
    for flow in rows(&value["flows"]) {
        let end = |a: &str, p: &str| format!("{}:{}", cell(&flow[a]), cell(&flow[p]));
        let rule = if flow["ingressRule"].is_null() { "egressRule" } else { "ingressRule" };
        table.row([
            cell(&flow["protocol"]),
            end("source", "sourcePort"),
            end("destination", "destinationPort"),
            cell(&flow["interface"]),
            cell(&flow["state"]),
            cell(&flow["verdict"]),
            span(flow["idleSeconds"].as_u64().unwrap_or_default()),
            cell(&flow["sentPackets"]),
            cell(&flow["answeredPackets"]),
            cell(&flow[rule]),
        ]);
    }
    table.write(out)?;
    writeln!(out, "{} connections", cell(&value["total"]))
}

fn policy(value: &Value, out: &mut dyn Write) -> io::Result<()> {
    let mut table =
        Table::new(["POD", "DIRECTION", "VERDICT", "PACKETS", "BYTES", "CONNECTIONS", "RULE"]);
    for pod in rows(value) {
        for direction in ["ingress", "egress"] {
            let state = &pod[direction];
            if state.is_null() || state["isolated"] == false {
                let what = if state.is_null() { "closed: not judged yet" } else { "not isolated" };
                let verdict = if state.is_null() { "deny" } else { "allow" };
                table.row([
                    cell(&pod["pod"]),
                    direction.to_owned(),
                    verdict.to_owned(),
                    "-".into(),
                    "-".into(),
                    "-".into(),
                    what.to_owned(),
                ]);
            }
            for rule in rows(&state["rules"]) {
                table.row([
                    cell(&pod["pod"]),
                    direction.to_owned(),
                    cell(&rule["verdict"]),
                    cell(&rule["packets"]),
                    cell(&rule["bytes"]),
                    cell(&rule["connections"]),
                    cell(&rule["rule"]),
                ]);
            }
        }
    }
    table.write(out)
}

fn drops(value: &Value, all: bool, out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "{} received + {} injected + {} split = {} forwarded + {} merged + what follows",
        cell(&value["received"]),
        cell(&value["injected"]),
        cell(&value["split"]),
        cell(&value["forwarded"]),
        cell(&value["merged"]),
    )?;
    let mut table = Table::new(["OUTCOME", "REASON", "PACKETS", "MEANING"]);
    for (outcome, key) in [("dropped", "drops"), ("punted", "punts")] {
        for reason in rows(&value[key]).filter(|r| all || r["packets"] != 0) {
            table.row([
                outcome.to_owned(),
                cell(&reason["reason"]),
                cell(&reason["packets"]),
                cell(&reason["meaning"]),
            ]);
        }
    }
    table.write(out)
}

fn rows(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A value in a table's cell.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn list(value: &Value) -> String {
    rows(value).map(cell).collect::<Vec<_>>().join(",")
}

/// A time span as people say it: the two largest units.
fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, m) => format!("{m}m{}s", seconds % 60),
        (0, h, m) => format!("{h}h{m}m"),
        (d, h, _) => format!("{d}d{h}h"),
    }
}

/// The time of day of today, or the date, in UTC, as calicoctl's SINCE.
fn clock(unix: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    if now / 86_400 == unix / 86_400 {
        let second = unix % 86_400;
        return format!("{:02}:{:02}:{:02}", second / 3_600, second / 60 % 60, second % 60);
    }
    format!("{} ago", span(now.saturating_sub(unix)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (61, "1m1s"), (3_660, "1h1m"), (90_000, "1d1h")]
        {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn closed_pods_are_told_from_open_ones() {
        let value = serde_json::json!([{"pod": "ns/a", "egress": null,
            "ingress": {"isolated": false, "rules": []}}]);
        let mut out = Vec::new();
        policy(&value, &mut out).expect("written");
        let text = String::from_utf8(out).expect("text");
        assert!(text.contains("not isolated") && text.contains("closed"), "{text}");
    }
}
