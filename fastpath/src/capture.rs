//! What did the packets at a port look like, as received and as sent, and what became of them?

use crate::io::Framing;
use crate::outcome::Outcome;
use crate::packet::{Packet, PortId};
use crate::trace::{LocalTaps, Taps};
use crate::wire::{ether, headers};
use std::sync::Arc;
use std::time::Instant;

/// Which way a captured packet went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// Taken from the device.
    Received,
    /// Handed to the device.
    Sent,
}

/// One captured packet.
#[derive(Clone, Debug)]
pub struct Captured {
    /// When its batch was taken up.
    pub time: Instant,
    /// At which port.
    pub port: PortId,
    /// In which direction.
    pub way: Way,
    /// What its bytes start with.
    pub framing: Framing,
    /// Its length.
    pub len: usize,
    /// Its first bytes.
    pub bytes: Vec<u8>,
    /// How its stay ended; `None` for one that vanished into a super-packet.
    pub outcome: Option<Outcome>,
}

/// Bits of a packet's mark that number its snapshot (0: none).
const NUMBER: u16 = 0x7f;

/// One worker's captures: what was received waits here until its outcome is known.
pub struct Captures {
    taps: LocalTaps<Captured>,
    /// Snapshots of the batch under way; a packet's mark says which is its.
    waiting: Vec<Option<Captured>>,
}

impl Captures {
    /// A view of these taps.
    pub fn new(shared: Arc<Taps<Captured>>) -> Self {
        Self { taps: LocalTaps::new(shared), waiting: Vec::new() }
    }

    /// Looks for taps and, if there are any, keeps what this batch looks like.
    pub fn begin<'a>(
        &mut self,
        packets: impl Iterator<Item = &'a mut Packet>,
        framing: impl Fn(PortId) -> Framing,
        time: Instant,
    ) {
        self.taps.refresh();
        if self.taps.is_empty() {
            return;
        }
        self.waiting.clear();
        for packet in packets {
            let port = packet.in_port();
            self.waiting.push(Some(snapshot(packet, port, framing(port), time)));
            let number = self.waiting.len() as u16 & NUMBER;
            packet.set_mark((packet.mark() & !NUMBER) | number);
        }
    }

    /// Nobody listens.
    pub fn is_empty(&self) -> bool {
        self.taps.is_empty()
    }

    /// A received packet's stay ended.
    pub fn ended(&mut self, mark: u16, outcome: Outcome) {
        let Some(index) = usize::from(mark & NUMBER).checked_sub(1) else { return };
        if let Some(mut captured) = self.waiting.get_mut(index).and_then(Option::take) {
            captured.outcome = Some(outcome);
            self.offer(&captured);
        }
    }

    /// A packet goes out by a port.
    pub fn sent(&self, packet: &Packet, port: PortId, framing: Framing, time: Instant) {
        let mut captured = snapshot(packet, port, framing, time);
        captured.way = Way::Sent;
        captured.outcome = Some(Outcome::Forwarded);
        self.offer(&captured);
    }

    /// The batch is through: what has no outcome vanished into a super-packet.
    pub fn end(&mut self) {
        for captured in std::mem::take(&mut self.waiting).into_iter().flatten() {
            self.offer(&captured);
        }
    }

    fn offer(&self, captured: &Captured) {
        let ip = match captured.framing {
            Framing::Ip => Some(captured.bytes.as_slice()),
            Framing::Ethernet => captured.bytes.get(ether::LEN..),
        };
        let headers = ip.and_then(|ip| headers::parse(ip).ok());
        for tap in self.taps.matching(captured.port, headers.as_ref()) {
            let mut copy = captured.clone();
            copy.bytes.truncate(tap.snaplen);
            tap.offer(copy);
        }
    }
}

fn snapshot(packet: &Packet, port: PortId, framing: Framing, time: Instant) -> Captured {
    Captured {
        time,
        port,
        way: Way::Received,
        framing,
        len: packet.len(),
        bytes: packet.bytes().to_vec(),
        outcome: None,
    }
}
