//! What really passed an interface? tcpdump tells, frame by frame.

use std::fs::File;
use std::io::BufReader;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use etherparse::{NetSlice, SlicedPacket};
use nix::sys::signal::Signal;
use pcap_file::pcap::PcapReader;

use super::{Netns, Process};

const PATIENCE: Duration = Duration::from_secs(10);
/// IP protocol number of IPv4 in IPv4 (RFC 2003).
const IPIP: u8 = 4;

/// Captures of one interface keep their files apart.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Process,
    file: PathBuf,
}

/// One captured frame, from its Ethernet header on.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Since the epoch, by the kernel's clock.
    pub at: Duration,
    /// The bytes, as long as the capture's snap length lets them be.
    pub bytes: Vec<u8>,
    /// Length on the wire.
    pub length: usize,
}

impl Capture {
    /// Starts capturing what `filter` (pcap-filter syntax) selects on `interface`, both directions.
    /// Returns when the capture is running.
    pub fn start(netns: &Netns, interface: &str, filter: &str) -> anyhow::Result<Self> {
        let label = format!("tcpdump-{interface}");
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let file = netns.lab_dir().join(format!("{}.{label}.{number}.pcap", netns.short()));
        let mut command = netns.command("tcpdump");
        // Root keeps its rights (-Z): the file is ours. No buffering: what passed is in the file.
        command.args(["-i", interface, "-n", "-U", "--immediate-mode", "-s", "2048", "-Z", "root"]);
        command.args(["-w", "-", filter]);
        let log = netns.log_path(&format!("{label}.{number}"));
        let mut tcpdump = Process::start_into(command, &label, &log, &file)?;
        tcpdump.wait_for_log("listening on", PATIENCE)?;
        Ok(Self { tcpdump, file })
    }

    /// Ends the capture and returns its frames in order.
    pub fn stop(mut self) -> anyhow::Result<Vec<Frame>> {
        // A frame is handed to tcpdump a moment after it passed.
        std::thread::sleep(Duration::from_millis(100));
        self.tcpdump.stop(Signal::SIGINT, PATIENCE)?;
        self.frames()
    }

    /// The frames so far.
    pub fn frames(&self) -> anyhow::Result<Vec<Frame>> {
        let file = File::open(&self.file)?;
        let mut reader = PcapReader::new(BufReader::new(file))
            .with_context(|| format!("reading {}", self.file.display()))?;
        let mut frames = Vec::new();
        while let Some(Ok(packet)) = reader.next_packet() {
            frames.push(Frame {
                at: packet.timestamp,
                length: packet.orig_len as usize,
                bytes: packet.data.into_owned(),
            });
        }
        Ok(frames)
    }
}

impl Frame {
    /// What the outermost IP header says: source, destination, protocol, payload.
    pub fn ip(&self) -> Option<IpView<'_>> {
        view(SlicedPacket::from_ethernet(&self.bytes).ok()?)
    }

    /// The packet inside an IPIP tunnel, if this is one.
    pub fn tunnelled(&self) -> Option<IpView<'_>> {
        let outer = self.ip()?;
        (outer.protocol == IPIP).then(|| view(SlicedPacket::from_ip(outer.payload).ok()?))?
    }

    /// Whether it carries IPIP.
    pub fn is_ipip(&self) -> bool {
        self.ip().is_some_and(|ip| ip.protocol == IPIP)
    }

    /// Whether its innermost IP packet goes between `a` and `b`, in either direction.
    pub fn is_between(&self, a: IpAddr, b: IpAddr) -> bool {
        let inner = self.tunnelled().or_else(|| self.ip());
        inner.is_some_and(|ip| {
            (ip.source, ip.destination) == (a, b) || (ip.source, ip.destination) == (b, a)
        })
    }
}

/// The fields of an IP header tests ask for.
#[derive(Clone, Copy, Debug)]
pub struct IpView<'a> {
    /// Who sent it.
    pub source: IpAddr,
    /// Who gets it.
    pub destination: IpAddr,
    /// The protocol of the payload.
    pub protocol: u8,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// The whole type-of-service or traffic-class byte: DSCP and ECN.
    pub tos: u8,
    /// IPv4's "don't fragment"; IPv6 says true.
    pub dont_fragment: bool,
    /// What follows the IP header and its extensions.
    pub payload: &'a [u8],
}

fn view(packet: SlicedPacket<'_>) -> Option<IpView<'_>> {
    match packet.net? {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            Some(IpView {
                source: Ipv4Addr::from(header.source()).into(),
                destination: Ipv4Addr::from(header.destination()).into(),
                protocol: header.protocol().0,
                ttl: header.ttl(),
                tos: header.dcp().value() << 2 | header.ecn().value(),
                dont_fragment: header.dont_fragment(),
                payload: ip.payload().payload,
            })
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            Some(IpView {
                source: IpAddr::from(header.source()),
                destination: IpAddr::from(header.destination()),
                protocol: ip.payload().ip_number.0,
                ttl: header.hop_limit(),
                tos: header.traffic_class(),
                dont_fragment: true,
                payload: ip.payload().payload,
            })
        }
        NetSlice::Arp(_) => None,
    }
}
