//! Which connections are there? The truth that outlives a worker's cache: who began, what decided
//! it, how far it is.

use super::key::{self, FlowKey, Side};
use super::tcp::Phase;
use super::{Tick, Traffic};
use crate::acl::RuleId;
use crate::outcome::DropReason;
use crate::packet::PortId;
use ahash::RandomState;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Shards of the table: each lock is held for one entry's time.
const SHARDS: usize = 256;

/// What stood before one direction of an endpoint when a connection was judged. Equal stamps
/// decide equally, so a connection whose stamps are the same in a newer generation stays decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stamp {
    /// No local endpoint, or one that is not judged here.
    #[default]
    Exempt,
    /// Everything was refused.
    Closed,
    /// Everything was let through.
    Open,
    /// The program with this content.
    Program(u64),
}

/// What was decided about a connection, and by what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// What stood before the originator's egress.
    pub egress: Stamp,
    /// What stood before the responder's ingress.
    pub ingress: Stamp,
    /// The egress rule that decided (0: none).
    pub egress_rule: RuleId,
    /// The ingress rule that decided (0: none).
    pub ingress_rule: RuleId,
    /// Why it is denied; `None` is allowed.
    pub denied: Option<DropReason>,
}

/// One connection.
#[derive(Clone, Copy, Debug)]
pub struct Conn {
    /// The side that began it.
    pub origin: Side,
    /// The port by which the originator's packets come in. One that the host's kernel hangs on is
    /// also where replies go, whatever the FIB says.
    pub origin_port: PortId,
    /// How far it is.
    pub phase: Phase,
    /// Generation of the tables that `judgement` is known to hold for.
    pub generation: u64,
    /// What was decided.
    pub judgement: Judgement,
    /// What rules see as destination port, if it is ICMP: type * 256 + code of the first message.
    pub icmp: u16,
    /// When it began.
    pub born: Tick,
    /// When a worker last reported a packet of it.
    pub seen: Tick,
    /// What each [`Side`] sent, as far as the workers have reported it.
    pub traffic: [Traffic; 2],
    /// Tells this incarnation from an earlier one with the same key.
    pub timer: u32,
}

impl Conn {
    /// When it may be forgotten. Workers report packets of a busy connection late, at most after
    /// an eighth of its patience: that much is added.
    pub fn deadline(&self, key: &FlowKey) -> Tick {
        let patience = self.phase.patience(key.protocol());
        Tick(self.seen.0.saturating_add(patience.0 + patience.0 / 8))
    }
}

/// The table is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// What became of a connection whose timer ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Not this timer's business any more.
    Stale,
    /// Forgotten.
    Removed,
    /// Ask again then.
    Until(Tick),
}

/// Every connection, shared by all workers, sized at start.
pub struct ConnTable {
    map: DashMap<FlowKey, Conn, RandomState>,
    count: AtomicUsize,
    capacity: usize,
    timers: AtomicU32,
    epoch: Instant,
}

impl ConnTable {
    /// A table for `capacity` connections; `now` becomes [`Tick`] 0.
    pub fn new(capacity: usize, now: Instant) -> Self {
        let capacity = capacity.max(1);
        // Twice the room: below half full the shards clear deleted slots in place and never grow,
        // so a connection that comes allocates nothing. Shards do not fill evenly, hence the rest.
        let shards = SHARDS.min(capacity.next_power_of_two()).max(2);
        let room = 2 * capacity + 64 * shards;
        let hasher = key::process_hasher().clone();
        let map = DashMap::with_capacity_and_hasher_and_shard_amount(room, hasher, shards);
        let (count, timers) = (AtomicUsize::new(0), AtomicU32::new(0));
        Self { map, count, capacity, timers, epoch: now }
    }

    /// The tick of a moment.
    pub fn tick(&self, now: Instant) -> Tick {
        Tick((now.saturating_duration_since(self.epoch).as_millis() / 100) as u32)
    }

    /// The connection of a key, unless its time is over.
    pub fn get(&self, key: &FlowKey, now: Tick) -> Option<Conn> {
        let conn = *self.map.get(key)?;
        (now <= conn.deadline(key)).then_some(conn)
    }

    /// Opens a connection, or returns the one that another worker opened meanwhile, and whether
    /// it is new. `replace` puts the new one in an old one's place.
    ///
    /// # Errors
    /// No room.
    pub fn open(&self, key: FlowKey, conn: Conn, replace: bool) -> Result<(Conn, bool), Full> {
        let now = conn.seen;
        match self.map.entry(key) {
            Entry::Occupied(mut old) => {
                if !replace && now <= old.get().deadline(&key) {
                    return Ok((*old.get(), false));
                }
                let conn = Conn { timer: self.next_timer(), ..conn };
                old.insert(conn);
                Ok((conn, true))
            }
            Entry::Vacant(place) => {
                if self.count.fetch_add(1, Ordering::Relaxed) >= self.capacity {
                    self.count.fetch_sub(1, Ordering::Relaxed);
                    return Err(Full);
                }
                let conn = Conn { timer: self.next_timer(), ..conn };
                place.insert(conn);
                Ok((conn, true))
            }
        }
    }

    /// Changes a living connection; returns it, or `None` if there is none.
    pub fn update(&self, key: &FlowKey, now: Tick, change: impl FnOnce(&mut Conn)) -> Option<Conn> {
        let mut conn = self.map.get_mut(key)?;
        if now > conn.deadline(key) {
            return None;
        }
        change(&mut conn);
        conn.seen = conn.seen.max(now);
        Some(*conn)
    }

    /// The timer of a connection ran: forgets it if it is due.
    pub fn expire(&self, key: &FlowKey, timer: u32, now: Tick) -> Expiry {
        let mut answer = Expiry::Stale;
        let removed = self.map.remove_if(key, |key, conn| {
            if conn.timer != timer {
                return false;
            }
            let deadline = conn.deadline(key);
            if now <= deadline {
                answer = Expiry::Until(deadline);
            }
            now > deadline
        });
        if removed.is_some() {
            self.count.fetch_sub(1, Ordering::Relaxed);
            answer = Expiry::Removed;
        }
        answer
    }

    /// Forgets every connection of an address: whoever has it next inherits none. Takes each
    /// shard's lock in turn; workers forget with the next generation.
    pub fn forget(&self, address: IpAddr) {
        self.map.retain(|key, _| {
            let other =
                [Side::Low, Side::High].iter().all(|side| key.end(*side).address != address);
            if !other {
                self.count.fetch_sub(1, Ordering::Relaxed);
            }
            other
        });
    }

    /// Connections in the table.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// No connection at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Connections there may be.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// What an operator is shown; takes each shard's lock in turn.
    pub fn flows(&self, now: Instant) -> Vec<FlowInfo> {
        let now = self.tick(now);
        let alive = self.map.iter().filter(|entry| now <= entry.deadline(entry.key()));
        alive.map(|entry| FlowInfo::new(entry.key(), entry.value(), now)).collect()
    }

    fn next_timer(&self) -> u32 {
        self.timers.fetch_add(1, Ordering::Relaxed)
    }
}

/// One connection as operators see it, in the originator's direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowInfo {
    /// IP protocol number.
    pub protocol: u8,
    /// Who began.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// The originator's port (ICMP queries: the identifier).
    pub source_port: u16,
    /// The responder's port (ICMP queries: the identifier).
    pub destination_port: u16,
    /// The port by which it came in.
    pub in_port: PortId,
    /// How far it is.
    pub phase: Phase,
    /// What was decided, by which rules.
    pub judgement: Judgement,
    /// Since its first packet.
    pub age: Duration,
    /// Since a worker last reported a packet.
    pub idle: Duration,
    /// What the originator sent, as far as reported.
    pub sent: Traffic,
    /// What the responder sent, as far as reported.
    pub answered: Traffic,
}

impl FlowInfo {
    fn new(key: &FlowKey, conn: &Conn, now: Tick) -> Self {
        let (from, to) = (key.end(conn.origin), key.end(conn.origin.other()));
        Self {
            protocol: key.protocol(),
            source: from.address,
            destination: to.address,
            source_port: from.l4_port,
            destination_port: to.l4_port,
            in_port: conn.origin_port,
            phase: conn.phase,
            judgement: conn.judgement,
            age: now.since(conn.born),
            idle: now.since(conn.seen),
            sent: conn.traffic[conn.origin.index()],
            answered: conn.traffic[conn.origin.other().index()],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::key::End;
    use crate::wire::protocol;

    fn key(n: u8) -> FlowKey {
        let end = |last, l4_port| End { address: [10, 0, 0, last].into(), l4_port };
        FlowKey::new(protocol::UDP, end(n, 1000), end(200, 53)).0
    }

    fn conn(seen: Tick) -> Conn {
        Conn {
            origin: Side::Low,
            origin_port: PortId(1),
            phase: Phase::OneWay,
            generation: 0,
            judgement: Judgement::default(),
            icmp: 0,
            born: seen,
            seen,
            traffic: Default::default(),
            timer: 0,
        }
    }

    #[test]
    fn a_full_table_says_so_and_makes_room_when_a_connection_ends() {
        let table = ConnTable::new(2, Instant::now());
        let first = table.open(key(1), conn(Tick(0)), false).expect("room").0;
        table.open(key(2), conn(Tick(0)), false).expect("room");
        assert_eq!(table.open(key(3), conn(Tick(0)), false).err(), Some(Full));
        let late = Tick::seconds(68);
        assert_eq!(table.expire(&key(1), first.timer, Tick::seconds(67)), Expiry::Until(Tick(675)));
        assert_eq!(table.expire(&key(1), first.timer, late), Expiry::Removed);
        assert_eq!(table.expire(&key(1), first.timer, late), Expiry::Stale);
        assert!(table.open(key(3), conn(late), false).is_ok());
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn one_key_is_one_connection_until_its_time_is_over() {
        let table = ConnTable::new(10, Instant::now());
        let (first, new) = table.open(key(1), conn(Tick(0)), false).expect("room");
        assert!(new);
        let (again, new) = table.open(key(1), conn(Tick(5)), false).expect("room");
        assert!(!new && again.timer == first.timer);
        assert!(table.get(&key(1), Tick::seconds(68)).is_none());
        let (later, new) = table.open(key(1), conn(Tick::seconds(68)), false).expect("room");
        assert!(new && later.timer != first.timer && table.len() == 1);
        assert_eq!(table.expire(&key(1), first.timer, Tick::seconds(999)), Expiry::Stale);
    }

    #[test]
    fn an_address_that_is_given_up_leaves_no_connection() {
        let table = ConnTable::new(10, Instant::now());
        for n in 1..=3 {
            table.open(key(n), conn(Tick(0)), false).expect("room");
        }
        table.forget([10, 0, 0, 2].into());
        assert!(table.get(&key(1), Tick(0)).is_some() && table.get(&key(2), Tick(0)).is_none());
        assert_eq!(table.len(), 2);
        table.forget([10, 0, 0, 200].into());
        assert!(table.is_empty());
    }

    #[test]
    fn operators_see_the_originators_direction() {
        let start = Instant::now();
        let table = ConnTable::new(10, start);
        let origin = Side::High;
        table.open(key(1), Conn { origin, ..conn(Tick(0)) }, false).expect("room");
        table.update(&key(1), Tick(10), |c| c.traffic[1].add(3, 300)).expect("alive");
        let flows = table.flows(start + Duration::from_secs(3));
        let flow = flows.first().expect("one");
        assert_eq!((flow.source_port, flow.destination_port), (53, 1000));
        assert_eq!((flow.sent.packets, flow.sent.bytes), (3, 300));
        assert_eq!((flow.age, flow.idle), (Duration::from_secs(3), Duration::from_secs(2)));
    }
}
