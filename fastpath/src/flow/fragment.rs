//! Which ports does a later fragment have? Those of its datagram's first: it is judged as the
//! first was. Bounded in datagrams and time; what overlaps or comes without a first is refused.

use super::Tick;
use super::key;
use crate::limits::PACKET_MAX;
use crate::outcome::DropReason;
use ahash::RandomState;
use arrayvec::ArrayVec;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

/// How long a datagram's fragments may take.
const LIFETIME: Tick = Tick(150);
/// Disjoint pieces of one datagram that are kept apart; in order there is one.
const PIECES: usize = 16;
/// Datagrams that are looked through for one whose time is over when the table is full.
const SEARCH: usize = 8;

/// Names a datagram (RFC 791 §3.2, RFC 8200 §4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DatagramKey {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// IP protocol number; 0 for IPv6, whose fragments need not agree on it.
    pub protocol: u8,
    /// Identification.
    pub id: u32,
}

/// What later fragments take over from the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FirstFacts {
    /// IP protocol number.
    pub protocol: u8,
    /// Source port.
    pub source_port: u16,
    /// Destination port (ICMP: type * 256 + code).
    pub destination_port: u16,
    /// ICMP query identifier.
    pub icmp_id: u16,
    /// TCP flags.
    pub tcp_flags: u8,
}

/// The bytes of its datagram's payload that a fragment carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Offset of the first, in bytes.
    pub offset: usize,
    /// How many.
    pub len: usize,
    /// Do more fragments follow?
    pub more: bool,
}

struct Datagram {
    facts: FirstFacts,
    /// Disjoint, sorted, not adjacent: [start, end).
    pieces: ArrayVec<(u32, u32), PIECES>,
    /// Length of the whole payload, once the last fragment was seen.
    total: Option<u32>,
    deadline: Tick,
}

/// One worker's fragmented datagrams.
pub struct Fragments {
    datagrams: HashMap<DatagramKey, Datagram, RandomState>,
    /// In order of arrival; holds at least every key of `datagrams`.
    queue: VecDeque<(DatagramKey, Tick)>,
    capacity: usize,
}

impl Fragments {
    /// Room for `capacity` datagrams at once.
    pub fn new(capacity: usize) -> Self {
        let hasher = key::process_hasher().clone();
        Self {
            // Twice the room, so that deleted slots are cleared in place and nothing grows.
            datagrams: HashMap::with_capacity_and_hasher(2 * capacity, hasher),
            queue: VecDeque::with_capacity(capacity + 1),
            capacity,
        }
    }

    /// A first fragment came: remembers it.
    ///
    /// # Errors
    /// It overlaps what came before, or there is no room.
    pub fn first(
        &mut self,
        key: DatagramKey,
        facts: FirstFacts,
        piece: Piece,
        now: Tick,
    ) -> Result<(), DropReason> {
        if let Some(old) = self.datagrams.get(&key)
            && now <= old.deadline
        {
            return Err(DropReason::FragmentOverlap);
        }
        if !self.make_room(now) {
            return Err(DropReason::FragmentTable);
        }
        let deadline = Tick(now.0.saturating_add(LIFETIME.0));
        let mut datagram = Datagram { facts, pieces: ArrayVec::new(), total: None, deadline };
        datagram.add(piece)?;
        self.datagrams.insert(key, datagram);
        self.queue.push_back((key, deadline));
        Ok(())
    }

    /// A later fragment came: what its first said.
    ///
    /// # Errors
    /// Its first is not known, it overlaps another, or it is out of all bounds.
    pub fn later(
        &mut self,
        key: DatagramKey,
        piece: Piece,
        now: Tick,
    ) -> Result<FirstFacts, DropReason> {
        let datagram = self.datagrams.get_mut(&key).ok_or(DropReason::FragmentNoFirst)?;
        if now > datagram.deadline {
            return Err(DropReason::FragmentNoFirst);
        }
        datagram.add(piece)?;
        let facts = datagram.facts;
        if datagram.is_complete() {
            self.datagrams.remove(&key);
        }
        Ok(facts)
    }

    /// What the first fragment of a datagram under way said.
    pub fn facts(&self, key: &DatagramKey) -> Option<FirstFacts> {
        self.datagrams.get(key).map(|datagram| datagram.facts)
    }

    /// Datagrams under way.
    pub fn len(&self) -> usize {
        self.datagrams.len()
    }

    /// None under way.
    pub fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }

    fn make_room(&mut self, now: Tick) -> bool {
        for _ in 0..SEARCH {
            let overdue = self.queue.front().is_some_and(|(_, deadline)| now > *deadline);
            if self.queue.len() < self.capacity && !overdue {
                return true;
            }
            let Some((key, deadline)) = self.queue.pop_front() else { return true };
            let living = self.datagrams.get(&key).is_some_and(|d| d.deadline == deadline);
            if living && now <= deadline {
                self.queue.push_back((key, deadline));
            } else if living {
                self.datagrams.remove(&key);
            }
        }
        self.queue.len() < self.capacity
    }
}

impl Datagram {
    fn add(&mut self, piece: Piece) -> Result<(), DropReason> {
        let (start, end) = (piece.offset as u32, (piece.offset + piece.len) as u32);
        if piece.offset + piece.len > PACKET_MAX {
            return Err(DropReason::FragmentRange);
        }
        let past_the_end = match self.total {
            Some(total) => end > total || !piece.more,
            None => !piece.more && self.pieces.last().is_some_and(|last| last.1 > end),
        };
        let at = self.pieces.partition_point(|p| p.1 <= start);
        if past_the_end || self.pieces.get(at).is_some_and(|next| next.0 < end) {
            return Err(DropReason::FragmentOverlap);
        }
        let joins_left = at > 0 && self.pieces[at - 1].1 == start;
        let joins_right = self.pieces.get(at).is_some_and(|next| next.0 == end);
        match (joins_left, joins_right) {
            (true, true) => {
                self.pieces[at - 1].1 = self.pieces[at].1;
                self.pieces.remove(at);
            }
            (true, false) => self.pieces[at - 1].1 = end,
            (false, true) => self.pieces[at].0 = start,
            (false, false) => {
                self.pieces.try_insert(at, (start, end)).map_err(|_| DropReason::FragmentTable)?;
            }
        }
        if !piece.more {
            self.total = Some(end);
        }
        Ok(())
    }

    fn is_complete(&self) -> bool {
        matches!((self.pieces.as_slice(), self.total), ([(0, end)], Some(total)) if *end == total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: u32) -> DatagramKey {
        let (source, destination) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        DatagramKey { source, destination, protocol: 17, id }
    }

    fn piece(offset: usize, len: usize, more: bool) -> Piece {
        Piece { offset, len, more }
    }

    const FACTS: FirstFacts =
        FirstFacts { protocol: 17, source_port: 7, destination_port: 53, icmp_id: 0, tcp_flags: 0 };

    fn table() -> Fragments {
        let mut table = Fragments::new(4);
        table.first(key(1), FACTS, piece(0, 1480, true), Tick(0)).expect("room");
        table
    }

    #[test]
    fn later_fragments_take_over_what_the_first_said_in_any_order() {
        let mut table = table();
        assert_eq!(table.later(key(1), piece(2960, 100, false), Tick(1)), Ok(FACTS));
        assert_eq!(table.later(key(1), piece(1480, 1480, true), Tick(2)), Ok(FACTS));
        assert!(table.is_empty(), "a complete datagram is forgotten");
        let again = table.later(key(1), piece(1480, 1480, true), Tick(2));
        assert_eq!(again, Err(DropReason::FragmentNoFirst));
    }

    #[test]
    fn overlaps_are_refused() {
        for bad in [piece(0, 8, true), piece(1472, 16, true), piece(0, 1480, true)] {
            let answer = table().later(key(1), bad, Tick(1));
            assert_eq!(answer, Err(DropReason::FragmentOverlap), "{bad:?}");
        }
        let mut table = table();
        table.later(key(1), piece(4000, 8, false), Tick(1)).expect("the last");
        for bad in [piece(4000, 16, true), piece(3992, 16, true), piece(4008, 8, true)] {
            assert_eq!(table.later(key(1), bad, Tick(1)), Err(DropReason::FragmentOverlap));
        }
        let first = table.first(key(1), FACTS, piece(0, 8, true), Tick(1));
        assert_eq!(first, Err(DropReason::FragmentOverlap));
        let far = table.later(key(1), piece(65_528, 16, false), Tick(1));
        assert_eq!(far, Err(DropReason::FragmentRange));
    }

    #[test]
    fn a_scattered_datagram_is_bounded() {
        let mut table = table();
        let mut refused = 0;
        for n in 0..100 {
            refused +=
                usize::from(table.later(key(1), piece(2000 + 32 * n, 8, true), Tick(1)).is_err());
        }
        assert_eq!(refused, 100 - (PIECES - 1));
    }

    #[test]
    fn a_full_table_waits_for_time_or_completion() {
        let mut table = table();
        for id in 2..=4 {
            table.first(key(id), FACTS, piece(0, 8, true), Tick(0)).expect("room");
        }
        let more =
            |table: &mut Fragments, id, now| table.first(key(id), FACTS, piece(0, 8, true), now);
        assert_eq!(more(&mut table, 5, Tick(1)), Err(DropReason::FragmentTable));
        table.later(key(3), piece(8, 8, false), Tick(1)).expect("completes");
        assert_eq!(more(&mut table, 5, Tick(1)), Ok(()));
        assert_eq!(more(&mut table, 6, Tick(1)), Err(DropReason::FragmentTable));
        assert_eq!(more(&mut table, 6, Tick(151)), Ok(()));
        let late = table.later(key(1), piece(1480, 8, false), Tick(151));
        assert_eq!(late, Err(DropReason::FragmentNoFirst));
        assert!(table.len() <= 4);
    }
}
