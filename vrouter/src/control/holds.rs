//! What happens to packets whose next hop's MAC address is not known? They wait, briefly, and few.

use fastpath::packet::{Packet, PortId};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Packets that wait for one neighbour.
const EACH: usize = 16;
/// Packets that wait for all of them.
const TOTAL: usize = 256;
/// Longest wait: the kernel gives up after three probes a second apart.
const WAIT: Duration = Duration::from_millis(3_500);

/// A neighbour: the kernel's interface index and the address.
pub type NeighbourKey = (u32, IpAddr);

/// One packet that waits.
#[derive(Debug)]
pub struct Held {
    /// The packet as it was received.
    pub packet: Packet,
    /// The port it came in by.
    pub in_port: PortId,
    until: Instant,
}

/// Packets that wait for neighbours.
#[derive(Debug, Default)]
pub struct Holds {
    waiting: BTreeMap<NeighbourKey, Vec<Held>>,
    total: usize,
    /// Packets that did not fit or waited too long.
    pub given_up: u64,
}

impl Holds {
    /// Holds a packet; true if it is the first for this neighbour, who should be asked for.
    pub fn hold(
        &mut self,
        key: NeighbourKey,
        packet: Packet,
        in_port: PortId,
        now: Instant,
    ) -> bool {
        let waiting = self.waiting.entry(key).or_default();
        let first = waiting.is_empty();
        if waiting.len() >= EACH || self.total >= TOTAL {
            self.given_up += 1;
        } else {
            waiting.push(Held { packet, in_port, until: now + WAIT });
            self.total += 1;
        }
        first
    }

    /// Takes out what waits for a neighbour (who answered, or who never will).
    pub fn release(&mut self, key: NeighbourKey) -> Vec<Held> {
        let released = self.waiting.remove(&key).unwrap_or_default();
        self.total -= released.len();
        released
    }

    /// Whom packets wait for.
    pub fn keys(&self) -> Vec<NeighbourKey> {
        self.waiting.keys().copied().collect()
    }

    /// Takes out what has waited too long.
    pub fn expire(&mut self, now: Instant) -> Vec<Held> {
        let mut expired = Vec::new();
        self.waiting.retain(|_, held| {
            expired.extend(held.extract_if(.., |h| h.until <= now));
            !held.is_empty()
        });
        self.total -= expired.len();
        self.given_up += expired.len() as u64;
        expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_wait_and_not_for_ever() {
        let now = Instant::now();
        let mut holds = Holds::default();
        let key = |i: u8| (1, IpAddr::from([10, 0, 0, i]));
        assert!(holds.hold(key(1), Packet::from_bytes(&[1]), PortId(3), now));
        for _ in 0..EACH {
            assert!(!holds.hold(key(1), Packet::from_bytes(&[2]), PortId(3), now));
        }
        assert_eq!(holds.given_up, 1);
        let released = holds.release(key(1));
        assert_eq!((released.len(), released[0].packet.bytes()), (EACH, &[1][..]));
        for i in 0..=255 {
            holds.hold(key(i), Packet::new(), PortId(0), now);
            holds.hold(key(i), Packet::new(), PortId(0), now);
        }
        assert_eq!(holds.total, TOTAL);
        assert_eq!(holds.expire(now).len(), 0);
        assert_eq!(holds.expire(now + WAIT).len(), TOTAL);
        assert!(holds.keys().is_empty() && holds.total == 0);
    }
}
