//! What was decided about this flow, in this generation? One worker's private [`FlowCache`]: a hit
//! takes no lock and costs two cache lines. What must outlive it stands in [`conn`].

pub mod conn;
pub mod fragment;
pub mod key;
pub mod tcp;
pub mod wheel;

use crate::acl::RuleId;
use crate::tables::nexthop::NextHop;
use key::{FlowKey, Side};
use std::time::Duration;
use tcp::Phase;

/// Tenths of seconds since the connection table was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(pub u32);

impl Tick {
    /// As many ticks as these seconds have.
    pub fn seconds(seconds: u32) -> Self {
        Self(seconds.saturating_mul(10))
    }

    /// Whole seconds.
    pub fn whole_seconds(self) -> u32 {
        self.0 / 10
    }

    /// Time since an earlier tick.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::from(self.0.saturating_sub(earlier.0)) * 100)
    }
}

/// How much was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets (a super-packet counts once).
    pub packets: u64,
    /// Their bytes from the IP header on.
    pub bytes: u64,
}

impl Traffic {
    /// Adds to it.
    pub fn add(&mut self, packets: u64, bytes: u64) {
        self.packets += packets;
        self.bytes += bytes;
    }
}

/// What a worker remembers of an allowed connection. Both directions share one entry.
#[derive(Clone, Copy, Debug, Default)]
pub struct FlowEntry {
    /// The connection.
    pub key: FlowKey,
    /// The generation it was decided in.
    pub generation: u64,
    /// Where to what each [`Side`] sends goes; never a group.
    pub next_hop: [NextHop; 2],
    /// The rules behind it: the originator's egress, the responder's ingress.
    pub rules: [RuleId; 2],
    /// What each [`Side`] sent since the last report to the connection table.
    pub unreported: [Traffic; 2],
    /// When it was last reported there.
    pub reported: Tick,
    /// The side that began it.
    pub origin: Side,
    /// How far it is, as far as this worker knows.
    pub phase: Phase,
}

impl FlowEntry {
    /// Is it time to tell the connection table that the connection lives?
    pub fn report_due(&self, now: Tick) -> bool {
        let interval = (self.phase.patience(self.key.protocol()).0 / 8).min(REPORT_MAX.0);
        now.0.saturating_sub(self.reported.0) >= interval
    }
}

/// A busy flow is reported to the connection table at least this often (operators look there).
const REPORT_MAX: Tick = Tick(50);

/// Entries that share a bucket: their tags fill a quarter of a cache line.
const WAYS: usize = 8;

/// One worker's private cache of decided flows: a bucket of 8 fingerprints is looked through
/// before an entry is touched. What falls out is found again in the connection table.
pub struct FlowCache {
    tags: Box<[[u16; WAYS]]>,
    entries: Box<[[FlowEntry; WAYS]]>,
    mask: usize,
}

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    bucket: u32,
    way: u8,
}

impl FlowCache {
    /// A cache of at least `entries` entries (rounded up to a power of two).
    pub fn new(entries: usize) -> Self {
        let buckets = entries.div_ceil(WAYS).next_power_of_two();
        Self {
            tags: vec![[0; WAYS]; buckets].into(),
            entries: vec![[FlowEntry::default(); WAYS]; buckets].into(),
            mask: buckets - 1,
        }
    }

    fn bucket(&self, hash: u64) -> usize {
        hash as usize & self.mask
    }

    /// The fingerprint: bits that do not choose the bucket, never 0 (that is an empty way).
    fn tag(hash: u64) -> u16 {
        (hash >> 48) as u16 | 1
    }

    /// The entry of a key, of whatever generation.
    pub fn find(&self, key: &FlowKey, hash: u64) -> Option<Place> {
        let (bucket, tag) = (self.bucket(hash), Self::tag(hash));
        let tags = &self.tags[bucket];
        let way =
            (0..WAYS).find(|&way| tags[way] == tag && self.entries[bucket][way].key == *key)?;
        Some(Place { bucket: bucket as u32, way: way as u8 })
    }

    /// The entry at a place.
    pub fn entry(&mut self, place: Place) -> &mut FlowEntry {
        &mut self.entries[place.bucket as usize][usize::from(place.way)]
    }

    /// Remembers an entry; returns the one that had to make room for it, if that was another
    /// connection's: its unreported traffic must be reported.
    pub fn remember(&mut self, entry: FlowEntry, hash: u64) -> Option<FlowEntry> {
        let (bucket, tag) = (self.bucket(hash), Self::tag(hash));
        let same = self.find(&entry.key, hash).map(|place| usize::from(place.way));
        let way = same.unwrap_or_else(|| self.victim(bucket));
        let old = std::mem::replace(&mut self.entries[bucket][way], entry);
        let occupied = std::mem::replace(&mut self.tags[bucket][way], tag) != 0;
        (occupied && same.is_none()).then_some(old)
    }

    /// Forgets a key.
    pub fn forget(&mut self, key: &FlowKey, hash: u64) {
        if let Some(place) = self.find(key, hash) {
            self.tags[place.bucket as usize][usize::from(place.way)] = 0;
        }
    }

    /// An empty way, else the one that was reported longest ago.
    fn victim(&self, bucket: usize) -> usize {
        let (tags, entries) = (&self.tags[bucket], &self.entries[bucket]);
        let age = |way: &usize| (tags[*way] != 0, entries[*way].reported);
        (0..WAYS).min_by_key(age).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::key::End;
    use super::*;
    use proptest::prelude::*;

    fn entry(n: u16, reported: u32) -> FlowEntry {
        let end = |last, l4_port| End { address: [10, 0, 0, last].into(), l4_port };
        let key = FlowKey::new(17, end(1, n), end(2, 53)).0;
        FlowEntry { key, reported: Tick(reported), ..FlowEntry::default() }
    }

    #[test]
    fn the_cache_finds_what_it_was_told_until_it_forgets() {
        let mut cache = FlowCache::new(64);
        let one = entry(1, 0);
        let hash = one.key.hash64();
        assert_eq!(cache.find(&one.key, hash), None);
        assert!(cache.remember(one, hash).is_none());
        assert!(cache.remember(FlowEntry { generation: 7, ..one }, hash).is_none());
        let place = cache.find(&one.key, hash).expect("remembered");
        assert_eq!(cache.entry(place).generation, 7);
        cache.forget(&one.key, hash);
        assert_eq!(cache.find(&one.key, hash), None);
    }

    proptest! {
        #[test]
        fn a_full_bucket_gives_up_its_oldest_entry(order in Just((0..8u32).collect::<Vec<_>>()).prop_shuffle()) {
            let mut cache = FlowCache::new(8);
            for (n, age) in order.iter().enumerate() {
                let one = entry(n as u16, *age);
                prop_assert!(cache.remember(one, one.key.hash64()).is_none());
            }
            let next = entry(100, 9);
            let evicted = cache.remember(next, next.key.hash64()).expect("full");
            prop_assert_eq!(evicted.reported, Tick(0));
            prop_assert!(cache.find(&next.key, next.key.hash64()).is_some());
            prop_assert!(cache.find(&evicted.key, evicted.key.hash64()).is_none());
        }
    }

    #[test]
    fn reports_come_well_before_a_connection_would_be_forgotten() {
        for (protocol, phase) in [(1, Phase::OneWay), (17, Phase::TwoWay), (6, Phase::Established)]
        {
            let end = End { address: [10, 0, 0, 1].into(), l4_port: 1 };
            let key = FlowKey::new(protocol, end, end).0;
            let entry = FlowEntry { key, phase, ..FlowEntry::default() };
            assert!(!entry.report_due(Tick(0)));
            assert!(entry.report_due(Tick(phase.patience(protocol).0 / 2)));
        }
    }
}
