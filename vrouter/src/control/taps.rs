//! How do operators watch packets? Traces and captures, as streams of JSON from the workers' taps.

use super::Control;
use super::operator::next_hop_name;
use crate::ctl::request::{PacketFilter, Reply, protocol_name, protocol_number};
use fastpath::acl::RuleId;
use fastpath::capture::{Captured, Way};
use fastpath::io::Framing;
use fastpath::outcome::Outcome;
use fastpath::packet::PortId;
use fastpath::tables::Tables;
use fastpath::tables::nexthop::NextHop;
use fastpath::tables::port::PortRole;
use fastpath::trace::{Filter, Step, Trace, wall_clock};
use ipnet::IpNet;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// How long a stream waits before it looks whether its client is still there.
const PATIENCE: Duration = Duration::from_millis(200);
/// Records of a trace or capture without a limit.
const ENDLESS: usize = usize::MAX;

/// Words for what the workers number, as of when the tap was opened.
struct Words {
    ports: BTreeMap<PortId, String>,
    rules: BTreeMap<RuleId, String>,
    tables: Arc<Tables>,
}

/// Why nothing can be watched.
#[derive(Debug, thiserror::Error)]
enum FilterError {
    #[error("--{what} {value}: neither an address nor a prefix")]
    Address { what: &'static str, value: String },
    #[error("no port is called {0}; `vrouter show interfaces` lists them")]
    Port(String),
    #[error("--protocol {0}: not tcp, udp, icmp, icmpv6, sctp or a number")]
    Protocol(String),
}

impl Control {
    pub(super) fn trace(&self, filter: &PacketFilter, count: u64) -> Reply {
        let filter = match self.tap_filter(filter) {
            Ok(filter) => filter,
            Err(error) => return Reply::Error(error.to_string()),
        };
        let receiver = self.router.trace(filter, limit(count));
        let words = self.words();
        Reply::Stream(Box::new(move || match receiver.recv_timeout(PATIENCE) {
            Some(trace) => Some(Some(words.trace(&trace))),
            None if receiver.is_finished() => None,
            None => Some(None),
        }))
    }

    pub(super) fn capture(&self, filter: &PacketFilter, count: u64, snaplen: u32) -> Reply {
        let filter = match self.tap_filter(filter) {
            Ok(filter) => filter,
            Err(error) => return Reply::Error(error.to_string()),
        };
        let receiver = self.router.capture(filter, snaplen as usize, limit(count));
        let words = self.words();
        Reply::Stream(Box::new(move || match receiver.recv_timeout(PATIENCE) {
            Some(captured) => Some(Some(words.captured(&captured))),
            None if receiver.is_finished() => None,
            None => Some(None),
        }))
    }

    fn tap_filter(&self, wanted: &PacketFilter) -> Result<Filter, FilterError> {
        let net =
            |what: &'static str, text: &Option<String>| -> Result<Option<IpNet>, FilterError> {
                let Some(text) = text else { return Ok(None) };
                let address = text.parse::<IpAddr>().map(IpNet::from);
                match address.or_else(|_| text.parse::<IpNet>().map(|net| net.trunc())) {
                    Ok(net) => Ok(Some(net)),
                    Err(_) => Err(FilterError::Address { what, value: text.clone() }),
                }
            };
        let port = match &wanted.interface {
            None => None,
            Some(name) => {
                Some(self.ports.named(name).ok_or_else(|| FilterError::Port(name.clone()))?)
            }
        };
        let protocol = match &wanted.protocol {
            None => None,
            Some(name) => {
                Some(protocol_number(name).ok_or_else(|| FilterError::Protocol(name.clone()))?)
            }
        };
        Ok(Filter {
            port,
            host: net("host", &wanted.host)?,
            peer: net("peer", &wanted.peer)?,
            protocol,
            l4_port: wanted.l4_port,
        })
    }

    fn words(&self) -> Words {
        Words {
            ports: self.ports.iter().map(|(id, p)| (id, p.name.clone())).collect(),
            rules: self.policy.rule_names().map(|(id, name)| (id, name.to_string())).collect(),
            tables: self.router.tables(),
        }
    }
}

fn limit(count: u64) -> usize {
    if count == 0 { ENDLESS } else { usize::try_from(count).unwrap_or(ENDLESS) }
}

impl Words {
    fn port(&self, id: PortId) -> String {
        self.ports.get(&id).cloned().unwrap_or_else(|| format!("port {}", id.0))
    }

    fn rule(&self, id: RuleId) -> Option<String> {
        (id != RuleId(0))
            .then(|| self.rules.get(&id).cloned().unwrap_or_else(|| format!("rule {}", id.0)))
    }

    fn next_hop(&self, next_hop: NextHop) -> String {
        let adjacency = |id: fastpath::tables::AdjacencyId| {
            self.tables.adjacencies.get(id.0 as usize).map_or_else(
                || "a neighbour".to_owned(),
                |a| format!("{} by {}", a.address, self.port(a.port)),
            )
        };
        match next_hop {
            NextHop::Endpoint(id) => format!("pod at {}", self.port(PortId(id.0 as u16))),
            NextHop::Adjacency(id) => format!("neighbour {}", adjacency(id)),
            NextHop::Tunnel { remote, adjacency: id } => {
                format!("ipip to {remote} through {}", adjacency(id))
            }
            NextHop::Glean(port) => format!("a neighbour to be found on {}", self.port(port)),
            other => next_hop_name(other).to_owned(),
        }
    }

    fn trace(&self, trace: &Trace) -> Value {
        let time = wall_clock(trace.time).duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut destination = None;
        let mut steps = Vec::with_capacity(trace.steps.len());
        for step in &trace.steps {
            if let Step::Parsed(headers) = step {
                destination = Some(headers.destination);
            }
            steps.push(self.step(step, destination));
        }
        json!({"timeUnix": time.as_secs_f64(), "steps": steps})
    }

    fn step(&self, step: &Step, destination: Option<IpAddr>) -> Value {
        match step {
            Step::Entered { role: PortRole::Unused, .. } => {
                json!({"stage": "ingress", "port": "the router itself"})
            }
            Step::Entered { port, role, decapsulated, offload } => json!({
                "stage": "ingress", "port": self.port(*port), "role": format!("{role:?}"),
                "decapsulated": decapsulated, "segmentSize": offload.gso_size,
            }),
            Step::Parsed(h) => json!({
                "stage": "ingress", "source": h.source, "destination": h.destination,
                "protocol": protocol_name(h.protocol), "sourcePort": h.source_port,
                "destinationPort": h.destination_port, "ttl": h.ttl, "length": h.total_len,
            }),
            Step::LookedUp { hit, related } => {
                json!({"stage": "lookup", "hit": hit, "icmpErrorOfConnection": related})
            }
            Step::Routed(next_hop) => json!({
                "stage": "route", "prefix": destination
                    .and_then(|d| self.tables.fib.longest_match(d))
                    .map(|(prefix, _)| prefix),
                "nextHop": self.next_hop(*next_hop),
            }),
            Step::Judged { egress_rule, ingress_rule, denied } => json!({
                "stage": "acl",
                "verdict": if denied.is_some() { "deny" } else { "allow" },
                "egressRule": self.rule(*egress_rule), "ingressRule": self.rule(*ingress_rule),
                "reason": denied.map(fastpath::outcome::DropReason::name),
            }),
            Step::Left { port, mtu, encapsulated } => json!({
                "stage": "rewrite", "port": self.port(*port), "mtu": mtu,
                "encapsulated": encapsulated,
            }),
            Step::Ended(outcome) => {
                json!({"stage": "egress", "outcome": outcome_text(*outcome)})
            }
        }
    }

    fn captured(&self, captured: &Captured) -> Value {
        let time = wall_clock(captured.time).duration_since(UNIX_EPOCH).unwrap_or_default();
        json!({
            "timeNanos": time.as_nanos() as u64,
            "port": self.port(captured.port),
            "way": match captured.way { Way::Received => "received", Way::Sent => "sent" },
            "ethernet": captured.framing == Framing::Ethernet,
            "length": captured.len,
            "bytes": hex(&captured.bytes),
            "outcome": captured.outcome.map(outcome_text),
        })
    }
}

fn outcome_text(outcome: Outcome) -> String {
    match outcome {
        Outcome::Forwarded => "forwarded".to_owned(),
        Outcome::Punted(reason) => format!("punted: {}", reason.name()),
        Outcome::Dropped(reason) => format!("dropped: {} ({})", reason.name(), reason.describe()),
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [b >> 4, b & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}
