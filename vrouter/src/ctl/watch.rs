//! How do operators see packets? `trace` as text or JSON, `capture` as lines or as pcapng.

use super::request::{PacketFilter, Request};
use super::socket::{self, AskError};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::{DataLink, PcapError};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why watching ended early.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The node.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The output.
    #[error("{what}: {source}")]
    Output {
        /// The file, or standard output.
        what: String,
        /// Why.
        source: io::Error,
    },
}

/// Options of `vrouter trace`.
#[derive(Debug, clap::Args)]
pub struct TraceArgs {
    #[command(flatten)]
    filter: PacketFilter,
    /// Stop after so many packets (0: go on until interrupted)
    #[arg(long, short = 'c', default_value_t = 10)]
    count: u64,
    /// One JSON object a packet
    #[arg(long, short = 'o', value_parser = ["json"])]
    output: Option<String>,
}

/// Options of `vrouter capture`.
#[derive(Debug, clap::Args)]
pub struct CaptureArgs {
    /// Only at this port of the router (see `vrouter show interfaces`)
    port: Option<String>,
    #[command(flatten)]
    filter: PacketFilter,
    /// Write pcapng to this file, or to standard output with `-`
    #[arg(long, short = 'w')]
    write: Option<PathBuf>,
    /// Stop after so many packets (0: go on until interrupted)
    #[arg(long, short = 'c', default_value_t = 0)]
    count: u64,
    /// Bytes kept of each packet
    #[arg(long, short = 's', default_value_t = 65_535)]
    snaplen: u32,
    /// One JSON object a packet, instead of a line
    #[arg(long, short = 'o', value_parser = ["json"])]
    output: Option<String>,
}

/// Follows packets through a running node.
pub fn trace(socket: &Path, args: TraceArgs, out: &mut dyn Write) -> Result<(), WatchError> {
    let json = args.output.is_some();
    let request = Request::Trace { filter: args.filter, count: args.count };
    let mut failed = None;
    let mut number = 0_u64;
    socket::ask(socket, &request, |value| {
        number += 1;
        let written =
            if json { writeln!(out, "{value}") } else { write_trace(out, number, &value) };
        failed = written.and_then(|()| out.flush()).err();
        failed.is_none()
    })?;
    end(failed, "standard output")
}

/// Copies packets of a running node.
pub fn capture(socket: &Path, args: CaptureArgs, out: &mut dyn Write) -> Result<(), WatchError> {
    let mut filter = args.filter;
    if args.port.is_some() {
        filter.interface = args.port;
    }
    let request = Request::Capture { filter, count: args.count, snaplen: args.snaplen };
    let Some(path) = args.write else {
        let json = args.output.is_some();
        let mut failed = None;
        socket::ask(socket, &request, |value| {
            let written =
                if json { writeln!(out, "{value}") } else { writeln!(out, "{}", line(&value)) };
            failed = written.and_then(|()| out.flush()).err();
            failed.is_none()
        })?;
        return end(failed, "standard output");
    };
    let what = path.display().to_string();
    let output = |source| WatchError::Output { what: what.clone(), source };
    let sink: Box<dyn Write + '_> = if path.as_os_str() == "-" {
        Box::new(out)
    } else {
        Box::new(BufWriter::new(File::create(&path).map_err(output)?))
    };
    let mut pcap = Pcap::new(sink, args.snaplen).map_err(output)?;
    let mut failed = None;
    socket::ask(socket, &request, |value| {
        failed = pcap.write(&value).err();
        failed.is_none()
    })?;
    end(failed, &what)
}

/// A reader that went away (`| head`) is a good end.
fn end(failed: Option<io::Error>, what: &str) -> Result<(), WatchError> {
    match failed {
        Some(source) if source.kind() != io::ErrorKind::BrokenPipe => {
            Err(WatchError::Output { what: what.to_owned(), source })
        }
        _ => Ok(()),
    }
}

fn write_trace(out: &mut dyn Write, number: u64, trace: &Value) -> io::Result<()> {
    writeln!(out, "packet {number}")?;
    for step in trace["steps"].as_array().into_iter().flatten() {
        let stage = step["stage"].as_str().unwrap_or_default();
        let facts: Vec<_> = step
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, value)| *key != "stage" && !value.is_null() && **value != false)
            .map(|(key, value)| match value {
                Value::String(text) => format!("{key}: {text}"),
                other => format!("{key}: {other}"),
            })
            .collect();
        writeln!(out, "  {stage:<8} {}", facts.join(", "))?;
    }
    Ok(())
}

/// One line per packet: where, which way, what, and what became of it.
fn line(captured: &Value) -> String {
    let text = |key: &str| captured[key].as_str().unwrap_or_default();
    let bytes = unhex(text("bytes"));
    let parsed = if captured["ethernet"] == true {
        SlicedPacket::from_ethernet(&bytes)
    } else {
        SlicedPacket::from_ip(&bytes)
    };
    let what = parsed.map_or_else(|_| "?".to_owned(), |p| summary(&p));
    let length = &captured["length"];
    let mut line = format!("{:<16} {:<8} {what}, {length} bytes", text("port"), text("way"));
    if let Some(outcome) = captured["outcome"].as_str() {
        line.push_str(" — ");
        line.push_str(outcome);
    }
    line
}

fn summary(packet: &SlicedPacket<'_>) -> String {
    let (source, destination, protocol) = match &packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            let h = ip.header();
            (h.source_addr().to_string(), h.destination_addr().to_string(), h.protocol().0)
        }
        Some(NetSlice::Ipv6(ip)) => {
            let h = ip.header();
            let protocol = ip.payload().ip_number.0;
            (h.source_addr().to_string(), h.destination_addr().to_string(), protocol)
        }
        Some(NetSlice::Arp(_)) => return "ARP".to_owned(),
        None => return "not IP".to_owned(),
    };
    let name = super::request::protocol_name(protocol);
    match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => format!(
            "{source}:{} > {destination}:{} tcp {}",
            tcp.source_port(),
            tcp.destination_port(),
            flags(tcp)
        ),
        Some(TransportSlice::Udp(udp)) => {
            format!("{source}:{} > {destination}:{} udp", udp.source_port(), udp.destination_port())
        }
        _ => format!("{source} > {destination} {name}"),
    }
}

fn flags(tcp: &etherparse::TcpSlice<'_>) -> String {
    let all =
        [(tcp.syn(), 'S'), (tcp.fin(), 'F'), (tcp.rst(), 'R'), (tcp.psh(), 'P'), (tcp.ack(), '.')];
    all.into_iter().filter(|(set, _)| *set).map(|(_, letter)| letter).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks_exact(2)
        .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

/// pcapng with one interface per port. All have Ethernet as link type, since readers refuse a
/// file with several: IP packets get an empty Ethernet header.
struct Pcap<'a> {
    writer: PcapNgWriter<Box<dyn Write + 'a>>,
    interfaces: BTreeMap<String, u32>,
    snaplen: u32,
}

impl<'a> Pcap<'a> {
    fn new(sink: Box<dyn Write + 'a>, snaplen: u32) -> io::Result<Self> {
        let writer = PcapNgWriter::new(sink).map_err(io_error)?;
        Ok(Self { writer, interfaces: BTreeMap::new(), snaplen: snaplen.saturating_add(14) })
    }

    fn write(&mut self, captured: &Value) -> io::Result<()> {
        let port = captured["port"].as_str().unwrap_or_default();
        let interface_id = self.interface(port)?;
        let bytes = unhex(captured["bytes"].as_str().unwrap_or_default());
        let mut original_len = captured["length"].as_u64().unwrap_or_default() as u32;
        let data = if captured["ethernet"] == true {
            bytes
        } else {
            original_len += 14;
            let kind =
                if bytes.first().is_some_and(|b| b >> 4 == 6) { [0x86, 0xdd] } else { [8, 0] };
            [&[0; 12][..], &kind, &bytes].concat()
        };
        let way = captured["way"].as_str().unwrap_or_default();
        let comment = match captured["outcome"].as_str() {
            Some(outcome) => format!("{way} at {port}, {outcome}"),
            None => format!("{way} at {port}"),
        };
        let block = EnhancedPacketBlock {
            interface_id,
            timestamp: Duration::from_nanos(captured["timeNanos"].as_u64().unwrap_or_default()),
            original_len,
            data: Cow::Owned(data),
            options: vec![EnhancedPacketOption::Comment(Cow::Owned(comment))],
        };
        self.writer.write_pcapng_block(block).map_err(io_error)?;
        self.writer.get_mut().flush()
    }

    fn interface(&mut self, port: &str) -> io::Result<u32> {
        if let Some(id) = self.interfaces.get(port) {
            return Ok(*id);
        }
        let block = InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: self.snaplen,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Owned(port.to_owned())),
                // Nanoseconds.
                InterfaceDescriptionOption::IfTsResol(9),
            ],
        };
        self.writer.write_pcapng_block(block).map_err(io_error)?;
        let id = self.interfaces.len() as u32;
        self.interfaces.insert(port.to_owned(), id);
        Ok(id)
    }
}

fn io_error(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pcap_file::pcapng::{Block, PcapNgReader};
    use serde_json::json;

    #[test]
    fn captures_read_back_with_their_outcome() {
        let mut packet = Vec::new();
        etherparse::PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .udp(1, 2)
            .write(&mut packet, b"x")
            .expect("fits");
        let hex = packet.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().concat();
        let captured = json!({
            "timeNanos": 1_700_000_000_123_456_789_u64, "port": "cali1", "way": "received",
            "ethernet": false, "length": packet.len(), "bytes": hex,
            "outcome": "dropped: policy-ingress (…)",
        });
        assert_eq!(
            line(&captured),
            "cali1            received 10.0.0.1:1 > 10.0.0.2:2 udp, 29 bytes — dropped: policy-ingress (…)"
        );
        let mut file = Vec::new();
        let mut pcap = Pcap::new(Box::new(&mut file), 65_535).expect("started");
        pcap.write(&captured).expect("written");
        drop(pcap);
        let mut reader = PcapNgReader::new(&file[..]).expect("a header");
        let mut seen = 0;
        while let Some(block) = reader.next_block() {
            if let Block::EnhancedPacket(block) = block.expect("a block") {
                assert_eq!(&block.data[14..], packet);
                assert!(block.options.iter().any(|o| matches!(o,
                    EnhancedPacketOption::Comment(c) if c.contains("policy-ingress"))));
                seen += 1;
            }
        }
        assert_eq!(seen, 1);
    }
}
