//! What can an operator ask a running node, and how does it answer?
//!
//! One JSON object per line each way over the operator socket. A trace or a capture answers with
//! a line per packet until the client goes away or the count is reached.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::net::IpAddr;

/// One question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Is the node alive, and what does it run?
    Status,
    /// Ports: device, mode, counters.
    Interfaces,
    /// Routes; with an address, the one it takes.
    Routes {
        /// Whose route.
        #[serde(default)]
        address: Option<IpAddr>,
    },
    /// BGP peers, or routes.
    Bgp {
        /// Which part.
        #[serde(default)]
        what: BgpPart,
        /// Of one peer.
        #[serde(default)]
        peer: Option<IpAddr>,
        /// About one prefix.
        #[serde(default)]
        prefix: Option<ipnet::IpNet>,
    },
    /// Connections.
    Flows {
        /// At most so many.
        limit: usize,
    },
    /// Rules in force for the local pods, with their counters.
    Policy,
    /// Drop and punt reasons with their counters.
    Drops,
    /// Follow packets, stage by stage.
    Trace {
        /// Which packets.
        filter: PacketFilter,
        /// At most so many.
        count: u64,
    },
    /// Copies of packets as received and as sent.
    Capture {
        /// Which packets.
        filter: PacketFilter,
        /// At most so many (0: no end).
        count: u64,
        /// At most so many bytes of each.
        snaplen: u32,
    },
}

/// Which part of BGP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BgpPart {
    /// Sessions.
    #[default]
    Neighbors,
    /// The Loc-RIB.
    Routes,
    /// What a peer was told.
    Advertised,
    /// What a peer told.
    Received,
    /// Why a prefix's best path is the best.
    Why,
}

/// Which packets to follow or copy; everything given must match, in either direction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct PacketFilter {
    /// Packets from or to this address or prefix
    #[arg(long)]
    pub host: Option<String>,
    /// … whose other end is this address or prefix
    #[arg(long)]
    pub peer: Option<String>,
    /// IP protocol: tcp, udp, icmp, icmpv6, sctp or a number
    #[arg(long, short = 'p')]
    pub protocol: Option<String>,
    /// Source or destination TCP/UDP port
    #[arg(long)]
    pub l4_port: Option<u16>,
    /// Packets that come in by this port of the router (see `show interfaces`)
    #[arg(long, short = 'i')]
    pub interface: Option<String>,
}

/// One answer line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// What was asked for.
    Ok(Value),
    /// Why not.
    Error(String),
}

/// How the control loop answers: once, or with a stream that a socket thread drains.
pub enum Reply {
    /// One value.
    Value(Value),
    /// Not possible, and why.
    Error(String),
    /// A line per item: called until it says `None`; may block for at most a second, and then says
    /// `Some(None)`.
    Stream(Box<dyn FnMut() -> Option<Option<Value>> + Send>),
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Value(value) => f.debug_tuple("Value").field(value).finish(),
            Self::Error(error) => f.debug_tuple("Error").field(error).finish(),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

/// IP protocol numbers by the names operators use.
pub fn protocol_number(name: &str) -> Option<u8> {
    Some(match name.to_ascii_lowercase().as_str() {
        "icmp" => 1,
        "ipip" => 4,
        "tcp" => 6,
        "udp" => 17,
        "icmpv6" | "icmp6" => 58,
        "sctp" => 132,
        "udplite" => 136,
        number => number.parse().ok()?,
    })
}

/// The name operators use for an IP protocol number.
pub fn protocol_name(number: u8) -> String {
    match number {
        1 => "icmp".into(),
        4 => "ipip".into(),
        6 => "tcp".into(),
        17 => "udp".into(),
        58 => "icmpv6".into(),
        132 => "sctp".into(),
        136 => "udplite".into(),
        n => n.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_survive_the_wire() {
        let filter = PacketFilter { host: Some("10.0.0.1".into()), ..PacketFilter::default() };
        for request in [
            Request::Status,
            Request::Routes { address: None },
            Request::Bgp { what: BgpPart::Why, peer: None, prefix: "10.0.0.0/8".parse().ok() },
            Request::Capture { filter, count: 3, snaplen: 128 },
        ] {
            let line = serde_json::to_string(&request).expect("serialises");
            assert_eq!(serde_json::from_str::<Request>(&line).expect("parses"), request);
        }
        assert!(serde_json::from_str::<Request>(r#"{"ask":"routes","x":1}"#).is_err());
    }

    #[test]
    fn protocols_have_names() {
        for n in 0..=255 {
            assert_eq!(protocol_number(&protocol_name(n)), Some(n));
        }
        assert_eq!(protocol_number("TCP"), Some(6));
        assert_eq!(protocol_number("bogus"), None);
    }
}
