//! What does the node tell its operators? Its state as JSON; the client makes tables of it.

use super::Control;
use crate::ctl::request::{BgpPart, Reply, Request, protocol_name};
use crate::host::netlink::MacAddress;
use fastpath::acl::RuleId;
use fastpath::outcome::{DropReason, PuntReason};
use fastpath::tables::nexthop::NextHop;
use fastpath::tables::port::PortRole;
use ipnet::IpNet;
use serde_json::{Value, json};
use slowpath::bgp::{PeerStatus, RouteEntry, RouteQuery};
use slowpath::rib::table::{Source, Via};
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

impl Control {
    pub(super) fn operator(&mut self, request: Request) -> Reply {
        match request {
            Request::Status => Reply::Value(self.status()),
            Request::Interfaces => Reply::Value(self.interfaces()),
            Request::Routes { address } => Reply::Value(self.routes(address)),
            Request::Bgp { what, peer, prefix } => self.show_bgp(what, peer, prefix),
            Request::Flows { limit } => Reply::Value(self.flows(limit)),
            Request::Policy => Reply::Value(self.show_policy()),
            Request::Drops => Reply::Value(self.drops()),
            Request::Trace { filter, count } => self.trace(&filter, count),
            Request::Capture { filter, count, snaplen } => self.capture(&filter, count, snaplen),
        }
    }

    fn status(&self) -> Value {
        let peers =
            self.speaker.as_ref().map(slowpath::bgp::SpeakerHandle::peers).unwrap_or_default();
        let uplinks: Vec<_> = self
            .ports
            .iter()
            .filter(|(_, p)| p.entry.role == PortRole::Uplink)
            .map(|(_, p)| json!({"name": p.name, "mode": p.mode, "notes": p.notes}))
            .collect();
        json!({
            "node": self.me,
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "uptimeSeconds": self.started.elapsed().as_secs(),
            "address": self.my_node_address(),
            "asNumber": self.bgp.global.as_ref().map(|g| g.local_as),
            "tunnelAddress": self.host.tunnel_address(),
            "generation": self.generation.0,
            "live": self.router.live().0,
            "datastoreSynced": self.synced,
            "pods": self.workloads.len(),
            "routes": self.routing.len(),
            "uplinks": uplinks,
            "bgp": peers.iter().map(peer_value).collect::<Vec<_>>(),
            "notes": self.notes(),
        })
    }

    fn notes(&self) -> Vec<String> {
        self.refused.iter().cloned().chain(self.bgp.notes.iter().cloned()).collect()
    }

    fn interfaces(&self) -> Value {
        let counters = self.router.counters();
        let rows = self.ports.iter().map(|(id, port)| {
            let traffic = counters.ports.get(&id).copied().unwrap_or_default();
            let workload = self.workloads.get(&port.name);
            json!({
                "name": port.name,
                "id": id.0,
                "role": role_name(port.entry.role),
                "mode": port.mode,
                "mtu": port.entry.mtu,
                "pod": workload.map(|w| format!("{}/{}", w.record.namespace, w.record.pod)),
                "addresses": workload.map(|w| w.record.addresses.clone()).unwrap_or_default(),
                "receivedPackets": traffic.received.packets,
                "receivedBytes": traffic.received.bytes,
                "sentPackets": traffic.sent.packets,
                "sentBytes": traffic.sent.bytes,
                "dropped": traffic.dropped,
                "refused": traffic.refused,
                "notes": port.notes,
            })
        });
        Value::Array(rows.collect())
    }

    fn routes(&self, address: Option<IpAddr>) -> Value {
        match address {
            None => {
                let rows = self.routing.table.iter().map(|(p, s, v)| self.route(p, s, v, true));
                Value::Array(rows.collect())
            }
            Some(address) => {
                let Some((prefix, _, _)) = self.routing.lookup(address) else { return json!([]) };
                let candidates = self.routing.table.candidates(&prefix);
                let rows = candidates
                    .into_iter()
                    .enumerate()
                    .map(|(i, (source, via))| self.route(prefix, source, via, i == 0));
                Value::Array(rows.collect())
            }
        }
    }

    fn route(&self, prefix: IpNet, source: Source, via: &Via, used: bool) -> Value {
        let tables = self.router.tables();
        let next_hop = self.routing.next_hop(via);
        let adjacency = match next_hop {
            Some(NextHop::Adjacency(id) | NextHop::Tunnel { adjacency: id, .. }) => {
                tables.adjacencies.get(id.0 as usize).copied()
            }
            _ => None,
        };
        let port = adjacency.and_then(|a| self.ports.get(a.port)).map(|p| p.name.clone());
        json!({
            "prefix": prefix,
            "source": source.name(),
            "via": self.via_text(via),
            "used": used,
            "resolved": used.then(|| next_hop.map(next_hop_name)).flatten(),
            "port": port,
            "neighbour": adjacency.map(|a| a.address),
            "mac": adjacency.and_then(|a| a.destination_mac).map(|mac| MacAddress(mac).to_string()),
        })
    }

    /// A way on in an operator's words.
    pub(super) fn via_text(&self, via: &Via) -> String {
        let link = |index: &u32| {
            self.kernel.links.get(index).map_or_else(|| format!("link {index}"), |l| l.name.clone())
        };
        match via {
            Via::Endpoint(id) => self
                .ports
                .get(fastpath::packet::PortId(id.0 as u16))
                .map_or_else(|| "a pod that is gone".into(), |p| p.name.clone()),
            Via::HostLocal => "this node".into(),
            Via::Router => "this router".into(),
            Via::Blackhole => "blackhole".into(),
            Via::Unreachable => "unreachable".into(),
            Via::Prohibit => "prohibit".into(),
            Via::Link(index) => format!("dev {}", link(index)),
            Via::Gateways(hops) => {
                let hops: Vec<_> = hops
                    .iter()
                    .map(|h| match &h.link {
                        Some(index) => format!("{} dev {}", h.address, link(index)),
                        None => h.address.to_string(),
                    })
                    .collect();
                hops.join(", ")
            }
            Via::NextHops(hops) => {
                hops.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            }
            Via::Node { address, encapsulate: true } => format!("ipip to {address}"),
            Via::Node { address, encapsulate: false } => format!("{address} (node)"),
        }
    }

    fn show_bgp(&self, what: BgpPart, peer: Option<IpAddr>, prefix: Option<IpNet>) -> Reply {
        let Some(speaker) = &self.speaker else {
            return Reply::Error("BGP is switched off (CALICO_NETWORKING_BACKEND=none)".into());
        };
        let query = match (what, peer, prefix) {
            (BgpPart::Neighbors, _, _) => {
                return Reply::Value(speaker.peers().iter().map(peer_value).collect());
            }
            (BgpPart::Routes, _, _) => RouteQuery::LocRib,
            (BgpPart::Advertised, Some(peer), _) => RouteQuery::Advertised(peer),
            (BgpPart::Received, Some(peer), _) => RouteQuery::Received(peer),
            (BgpPart::Why, _, Some(prefix)) => RouteQuery::Why(prefix),
            (BgpPart::Why, _, None) => return Reply::Error("why of which prefix?".into()),
            _ => return Reply::Error("routes of which peer? Give its address".into()),
        };
        Reply::Value(speaker.routes(query).iter().map(entry_value).collect())
    }

    fn flows(&self, limit: usize) -> Value {
        let mut flows = self.router.flows();
        flows.sort_by_key(|f| std::cmp::Reverse(f.sent.packets + f.answered.packets));
        let total = flows.len();
        let rows: Vec<_> = flows
            .iter()
            .take(limit)
            .map(|f| {
                json!({
                    "protocol": protocol_name(f.protocol),
                    "source": f.source, "sourcePort": f.source_port,
                    "destination": f.destination, "destinationPort": f.destination_port,
                    "interface": self.ports.get(f.in_port).map(|p| p.name.clone()),
                    "state": f.phase.name(),
                    "verdict": f.judgement.denied.map_or("allow", |reason| reason.name()),
                    "egressRule": self.rule_text(f.judgement.egress_rule),
                    "ingressRule": self.rule_text(f.judgement.ingress_rule),
                    "ageSeconds": f.age.as_secs(), "idleSeconds": f.idle.as_secs(),
                    "sentPackets": f.sent.packets, "sentBytes": f.sent.bytes,
                    "answeredPackets": f.answered.packets, "answeredBytes": f.answered.bytes,
                })
            })
            .collect();
        json!({"total": total, "flows": rows})
    }

    /// The rule behind an id in words; `None` where no rule decided.
    pub(super) fn rule_text(&self, rule: RuleId) -> Option<String> {
        if rule == RuleId(0) {
            return None;
        }
        Some(
            self.policy
                .rule_name(rule)
                .map_or_else(|| format!("rule {} (gone)", rule.0), ToString::to_string),
        )
    }

    fn show_policy(&self) -> Value {
        let counters = self.router.counters();
        let rules = |direction: &policy::Direction| match direction {
            policy::Direction::Open => json!({"isolated": false, "rules": []}),
            policy::Direction::Rules(list) => {
                let ids = list.rules.iter().map(|r| (r.id, r.verdict));
                let ids = ids.chain([(list.default_rule, list.default)]);
                let rows: Vec<_> = ids
                    .map(|(id, verdict)| {
                        let hits = counters.rules.get(&id).copied().unwrap_or_default();
                        json!({
                            "id": id.0,
                            "rule": self.rule_text(id),
                            "verdict": format!("{verdict:?}").to_lowercase(),
                            "packets": hits.traffic.packets,
                            "bytes": hits.traffic.bytes,
                            "connections": hits.connections,
                        })
                    })
                    .collect();
                json!({"isolated": true, "rules": rows})
            }
        };
        let rows = self.workloads.iter().map(|w| {
            let in_force = self.policy.rules(&w.key);
            json!({
                "pod": format!("{}/{}", w.record.namespace, w.record.pod),
                "interface": w.record.port,
                "egress": in_force.map(|r| rules(&r.egress)),
                "ingress": in_force.map(|r| rules(&r.ingress)),
            })
        });
        Value::Array(rows.collect())
    }

    fn drops(&self) -> Value {
        let counters = self.router.counters();
        let drops: Vec<_> = DropReason::ALL
            .iter()
            .map(|r| {
                let packets = counters.drops_for(*r);
                json!({"reason": r.name(), "packets": packets, "meaning": r.describe()})
            })
            .collect();
        let punts: Vec<_> = PuntReason::ALL
            .iter()
            .map(|r| {
                let packets = counters.punts_for(*r);
                json!({"reason": r.name(), "packets": packets, "meaning": r.describe()})
            })
            .collect();
        json!({
            "received": counters.received,
            "injected": counters.injected,
            "split": counters.split,
            "merged": counters.merged,
            "forwarded": counters.forwarded,
            "answersSuppressed": self.answerer.suppressed,
            "heldAndGivenUp": self.holds.given_up,
            "drops": drops,
            "punts": punts,
        })
    }
}

fn role_name(role: PortRole) -> &'static str {
    match role {
        PortRole::Unused => "unused",
        PortRole::Pod(_) => "pod",
        PortRole::HostLocal => "host",
        PortRole::HostForward => "host-forward",
        PortRole::Uplink => "uplink",
    }
}

/// A next hop's kind in one word or two.
pub(super) fn next_hop_name(next_hop: NextHop) -> &'static str {
    match next_hop {
        NextHop::NoRoute => "no route",
        NextHop::Endpoint(_) => "pod",
        NextHop::HostLocal => "host",
        NextHop::HostForward => "host forwards",
        NextHop::Router => "router",
        NextHop::Adjacency(_) => "neighbour",
        NextHop::Tunnel { .. } => "ipip",
        NextHop::Group(_) => "group",
        NextHop::Glean(_) => "glean",
        NextHop::Blackhole => "blackhole",
        NextHop::Unreachable => "unreachable",
        NextHop::Prohibit => "prohibit",
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

fn peer_value(peer: &PeerStatus) -> Value {
    json!({
        "name": peer.name,
        "address": peer.address,
        "type": peer.kind.to_string(),
        "remoteAS": peer.remote_as,
        "localAS": peer.local_as,
        "state": peer.state.to_string(),
        "sinceUnix": seconds(peer.since),
        "uptimeSeconds": peer.uptime.map(|u| u.as_secs()),
        "lastError": peer.last_error,
        "received": peer.received,
        "accepted": peer.accepted,
        "advertised": peer.advertised,
        "messagesIn": peer.messages_in,
        "messagesOut": peer.messages_out,
        "flaps": peer.flaps,
        "capabilities": peer.capabilities,
    })
}

fn entry_value(entry: &RouteEntry) -> Value {
    let attributes = &entry.attributes;
    json!({
        "prefix": entry.prefix,
        "peer": entry.peer,
        "best": entry.best,
        "inUse": entry.in_use,
        "accepted": entry.accepted,
        "reason": entry.reason(),
        "nextHop": attributes.next_hop,
        "asPath": attributes.as_path.to_string(),
        "localPref": attributes.local_pref,
        "med": attributes.med,
        "origin": attributes.origin.to_string(),
    })
}
