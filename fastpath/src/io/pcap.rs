//! How is recorded traffic played through the router? A [`Queue`] that receives a capture file
//! (pcap or pcapng) and writes what is sent to another.
//!
//! No clock is read: what is sent is stamped with the time of the packet received last, so the
//! same input always gives the same output.

use super::{Abilities, Framing, Queue, QueueError, Sent};
use crate::batch::Batch;
use crate::outcome::DropReason;
use crate::packet::{Packet, Pool, PortId};
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use pcap_file::pcapng::{Block, PcapNgReader};
use pcap_file::{DataLink, Endianness, PcapError, TsResolution};
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter};
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest packet written.
const SNAPLEN: u32 = 262_144;
/// How a pcapng file begins.
const PCAPNG_MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// Why a capture file can't be played or written.
#[derive(Debug, thiserror::Error)]
pub enum PcapQueueError {
    /// It can't be opened or created.
    #[error("{path}: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It is no capture file.
    #[error("{path}: not a pcap or pcapng file: {source}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: PcapError,
    },
    /// Its packets start with something else.
    #[error("{path}: packets of link type {found}; the router takes Ethernet (1) and raw IP (101)")]
    LinkType {
        /// The file.
        path: PathBuf,
        /// Its link type's number.
        found: u32,
    },
}

/// A port whose device is a pair of capture files.
pub struct PcapQueue {
    port: PortId,
    framing: Framing,
    source: Source,
    sink: Option<PcapWriter<BufWriter<File>>>,
    /// The time stamp of the packet received last.
    clock: Duration,
    finished: bool,
    skipped: u64,
}

enum Source {
    Pcap(PcapReader<BufReader<File>>),
    PcapNg(PcapNgReader<BufReader<File>>),
}

impl PcapQueue {
    /// Opens `input` to be received and creates `output`, if given, for what is sent.
    pub fn open(port: PortId, input: &Path, output: Option<&Path>) -> Result<Self, PcapQueueError> {
        let (source, link) = open_source(input)?;
        let framing = framing_of(link)
            .ok_or_else(|| PcapQueueError::LinkType { path: input.into(), found: link.into() })?;
        let sink = output.map(|path| create_sink(path, framing)).transpose()?;
        let clock = Duration::ZERO;
        Ok(Self { port, framing, source, sink, clock, finished: false, skipped: 0 })
    }

    /// Every packet of the input was received.
    pub fn finished(&self) -> bool {
        self.finished
    }

    /// Packets of a pcapng file that were passed over, as their interface's packets start with
    /// something else than the first one's.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    fn write(&mut self, packet: &Packet) -> bool {
        let Some(sink) = &mut self.sink else { return true };
        let record = PcapPacket::new(self.clock, packet.len() as u32, packet.bytes());
        sink.write_packet(&record).is_ok()
    }

    /// Fills `packet` with the next one; false at the end of the file.
    fn read(&mut self, packet: &mut Packet) -> Result<bool, PcapError> {
        match &mut self.source {
            Source::Pcap(reader) => {
                let Some(record) = reader.next_packet().transpose()? else { return Ok(false) };
                self.clock = record.timestamp;
                packet.fill(&record.data);
                Ok(true)
            }
            Source::PcapNg(reader) => loop {
                let (interface, stamp, found) = match reader.next_block().transpose()? {
                    None => return Ok(false),
                    Some(Block::EnhancedPacket(record)) => {
                        packet.fill(&record.data);
                        (record.interface_id, Some(record.timestamp), true)
                    }
                    Some(Block::SimplePacket(record)) => {
                        packet.fill(&record.data);
                        (0, None, true)
                    }
                    Some(_) => (0, None, false),
                };
                if !found {
                    continue;
                }
                let link = reader.interfaces().get(interface as usize).map(|i| i.linktype);
                if link.and_then(framing_of) != Some(self.framing) {
                    self.skipped += 1;
                    continue;
                }
                self.clock = stamp.unwrap_or(self.clock);
                return Ok(true);
            },
        }
    }
}

impl Queue for PcapQueue {
    fn port(&self) -> PortId {
        self.port
    }

    fn framing(&self) -> Framing {
        self.framing
    }

    /// None: a capture shows packets as they are on a wire.
    fn abilities(&self) -> Abilities {
        Abilities::default()
    }

    fn readable_fd(&self) -> Option<RawFd> {
        None
    }

    fn receive(
        &mut self,
        pool: &mut Pool,
        batch: &mut Batch,
        budget: usize,
    ) -> Result<usize, QueueError> {
        let mut received = 0;
        while received < budget && !batch.is_full() && !self.finished {
            let Some(mut packet) = pool.take() else { break };
            match self.read(&mut packet) {
                Ok(true) => {
                    packet.set_in_port(self.port);
                    batch.push(packet);
                    received += 1;
                }
                Ok(false) => {
                    self.finished = true;
                    pool.give(packet);
                }
                Err(_) => {
                    // What came before the damage is played.
                    self.finished = true;
                    pool.give(packet);
                    if received == 0 {
                        return Err(QueueError::Failed(libc::EBADMSG));
                    }
                }
            }
        }
        Ok(received)
    }

    fn transmit(&mut self, pool: &mut Pool, batch: &mut Batch) -> Sent {
        let mut sent = Sent::default();
        for packet in batch.drain(..) {
            if self.write(&packet) {
                sent.packets += 1;
                sent.bytes += packet.len();
            } else {
                sent.refused += 1;
                sent.reason = Some(DropReason::DeviceError);
            }
            pool.give(packet);
        }
        sent
    }
}

fn open_source(path: &Path) -> Result<(Source, DataLink), PcapQueueError> {
    let opened = |source| PcapQueueError::Open { path: path.into(), source };
    let format = |source| PcapQueueError::Format { path: path.into(), source };
    let mut file = BufReader::new(File::open(path).map_err(opened)?);
    if !file.fill_buf().map_err(opened)?.starts_with(&PCAPNG_MAGIC) {
        let reader = PcapReader::new(file).map_err(format)?;
        let link = reader.header().datalink;
        return Ok((Source::Pcap(reader), link));
    }
    let mut reader = PcapNgReader::new(file).map_err(format)?;
    // Interfaces are described before their packets; the first decides.
    loop {
        if let Some(interface) = reader.interfaces().first() {
            let link = interface.linktype;
            return Ok((Source::PcapNg(reader), link));
        }
        match reader.next_block() {
            Some(Ok(Block::InterfaceDescription(_) | Block::Unknown(_))) => {}
            Some(Err(error)) => return Err(format(error)),
            _ => return Err(format(PcapError::InvalidField("no interface before the packets"))),
        }
    }
}

fn create_sink(
    path: &Path,
    framing: Framing,
) -> Result<PcapWriter<BufWriter<File>>, PcapQueueError> {
    let file =
        File::create(path).map_err(|source| PcapQueueError::Open { path: path.into(), source })?;
    let header = PcapHeader {
        snaplen: SNAPLEN,
        datalink: match framing {
            Framing::Ip => DataLink::RAW,
            Framing::Ethernet => DataLink::ETHERNET,
        },
        ts_resolution: TsResolution::NanoSecond,
        endianness: Endianness::native(),
        ..PcapHeader::default()
    };
    PcapWriter::with_header(BufWriter::new(file), header)
        .map_err(|source| PcapQueueError::Format { path: path.into(), source })
}

fn framing_of(link: DataLink) -> Option<Framing> {
    match link {
        DataLink::ETHERNET => Some(Framing::Ethernet),
        DataLink::RAW | DataLink::IPV4 | DataLink::IPV6 => Some(Framing::Ip),
        _ => None,
    }
}

#[cfg(test)]
#[path = "pcap_tests.rs"]
mod tests;
