//! What is a route made of: address family, AS path, path attributes, and how equal attributes are shared.
//!
//! Attribute sets are immutable and interned: a table of a million routes holds each distinct set
//! once, and "same attributes" is one pointer comparison.

use ahash::AHashSet;
use ipnet::IpNet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// The path attributes of a route, decoded; the next hop is one of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PathAttributes {
    /// ORIGIN (RFC 4271 §5.1.1).
    pub origin: Origin,
    /// `AS_PATH`, always with 4-octet numbers (RFC 6793).
    pub as_path: AsPath,
    /// Where to send packets. An IPv4-mapped IPv6 next hop is held as the IPv4 address it means.
    pub next_hop: IpAddr,
    /// The link-local half of an IPv6 next hop (RFC 2545 §3), if the peer sent one.
    pub link_local: Option<Ipv6Addr>,
    /// `MULTI_EXIT_DISC`; missing counts as 0.
    pub med: Option<u32>,
    /// `LOCAL_PREF`; only between internal peers, missing counts as 100.
    pub local_pref: Option<u32>,
    /// `ATOMIC_AGGREGATE` is present.
    pub atomic_aggregate: bool,
    /// AGGREGATOR: AS number and BGP identifier.
    pub aggregator: Option<(u32, Ipv4Addr)>,
    /// COMMUNITIES (RFC 1997), in the order received.
    pub communities: Vec<u32>,
    /// Extended communities (RFC 4360), opaque.
    pub extended_communities: Vec<[u8; 8]>,
    /// Large communities (RFC 8092).
    pub large_communities: Vec<[u32; 3]>,
    /// `ORIGINATOR_ID` (RFC 4456 §8).
    pub originator_id: Option<Ipv4Addr>,
    /// `CLUSTER_LIST` (RFC 4456 §8), nearest reflector first.
    pub cluster_list: Vec<Ipv4Addr>,
    /// Optional transitive attributes we do not know, passed on with the Partial bit.
    pub unknown: Vec<UnknownAttribute>,
}

impl PathAttributes {
    /// Attributes of a route that starts here: empty path, IGP origin, nothing optional.
    pub fn local(next_hop: IpAddr) -> Self {
        Self {
            origin: Origin::Igp,
            as_path: AsPath::default(),
            next_hop,
            link_local: None,
            med: None,
            local_pref: None,
            atomic_aggregate: false,
            aggregator: None,
            communities: Vec::new(),
            extended_communities: Vec::new(),
            large_communities: Vec::new(),
            originator_id: None,
            cluster_list: Vec::new(),
            unknown: Vec::new(),
        }
    }

    /// The degree of preference (RFC 4271 §9.1.1): `LOCAL_PREF`, or its usual default.
    pub fn preference(&self) -> u32 {
        self.local_pref.unwrap_or(DEFAULT_LOCAL_PREF)
    }

    /// Whether `community` is attached.
    pub fn has_community(&self, community: u32) -> bool {
        self.communities.contains(&community)
    }
}

/// `LOCAL_PREF` where none was given.
pub const DEFAULT_LOCAL_PREF: u32 = 100;
/// `NO_EXPORT` (RFC 1997): not outside this AS.
pub const NO_EXPORT: u32 = 0xFFFF_FF01;
/// `NO_ADVERTISE` (RFC 1997): to no other peer.
pub const NO_ADVERTISE: u32 = 0xFFFF_FF02;
/// `NO_EXPORT_SUBCONFED` (RFC 1997): to no external peer, confederation members included.
pub const NO_EXPORT_SUBCONFED: u32 = 0xFFFF_FF03;

/// An optional transitive attribute of a type we do not know; value kept byte for byte.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UnknownAttribute {
    /// Type code.
    pub code: u8,
    /// Flags as received.
    pub flags: u8,
    /// The value.
    pub value: Vec<u8>,
}

/// The address families we speak, both unicast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4 unicast (AFI 1, SAFI 1).
    Ipv4,
    /// IPv6 unicast (AFI 2, SAFI 1).
    Ipv6,
}

impl Family {
    /// Every family, in index order.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// The family a prefix belongs to.
    pub fn of(prefix: &IpNet) -> Self {
        match prefix {
            IpNet::V4(_) => Self::Ipv4,
            IpNet::V6(_) => Self::Ipv6,
        }
    }

    /// Position in per-family arrays.
    pub fn index(self) -> usize {
        match self {
            Self::Ipv4 => 0,
            Self::Ipv6 => 1,
        }
    }

    /// The AFI on the wire (RFC 4760).
    pub fn afi(self) -> u16 {
        match self {
            Self::Ipv4 => 1,
            Self::Ipv6 => 2,
        }
    }

    /// The family of an AFI and SAFI, if it is one of ours.
    pub fn from_wire(afi: u16, safi: u8) -> Option<Self> {
        match (afi, safi) {
            (1, 1) => Some(Self::Ipv4),
            (2, 1) => Some(Self::Ipv6),
            _ => None,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "IPv4 unicast",
            Self::Ipv6 => "IPv6 unicast",
        })
    }
}

/// ORIGIN; the lower one is preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Origin {
    /// Interior to the originating AS.
    #[default]
    Igp,
    /// Learned by EGP.
    Egp,
    /// Anything else.
    Incomplete,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Igp => "IGP",
            Self::Egp => "EGP",
            Self::Incomplete => "incomplete",
        })
    }
}

/// `AS_PATH`: segments from the nearest AS to the origin.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct AsPath {
    /// The segments in wire order.
    pub segments: Vec<Segment>,
}

/// One segment; at most 255 numbers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Segment {
    /// Ordered or not.
    pub kind: SegmentKind,
    /// The AS numbers.
    pub asns: Vec<u32>,
}

/// The kinds of path segment accepted from a peer (confederations are not spoken).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SegmentKind {
    /// Unordered, by aggregation.
    Set,
    /// Ordered.
    Sequence,
}

/// What one segment's length octet can count.
const MAX_SEGMENT: usize = 255;

impl AsPath {
    /// A path of one ordered segment.
    pub fn sequence(asns: &[u32]) -> Self {
        if asns.is_empty() {
            return Self::default();
        }
        Self { segments: vec![Segment { kind: SegmentKind::Sequence, asns: asns.to_vec() }] }
    }

    /// Length for comparison: a set counts as one (RFC 4271 §9.1.2.2 a).
    pub fn length(&self) -> usize {
        let count = |segment: &Segment| match segment.kind {
            SegmentKind::Set => 1,
            SegmentKind::Sequence => segment.asns.len(),
        };
        self.segments.iter().map(count).sum()
    }

    /// The neighbouring AS the route came from, for MED comparison; `None` for a local path.
    pub fn neighbour_as(&self) -> Option<u32> {
        let first = self.segments.first()?;
        if first.kind == SegmentKind::Sequence { first.asns.first().copied() } else { None }
    }

    /// How often `asn` occurs.
    pub fn occurrences(&self, asn: u32) -> usize {
        self.asns().filter(|&found| found == asn).count()
    }

    /// Every number in the path, nearest first.
    pub fn asns(&self) -> impl Iterator<Item = u32> + '_ {
        self.segments.iter().flat_map(|segment| segment.asns.iter().copied())
    }

    /// Puts `asn` in front, in a new segment where the first is a set or full (RFC 4271 §5.1.2).
    pub fn prepend(&mut self, asn: u32) {
        match self.segments.first_mut() {
            Some(first)
                if first.kind == SegmentKind::Sequence && first.asns.len() < MAX_SEGMENT =>
            {
                first.asns.insert(0, asn);
            }
            _ => self.segments.insert(0, Segment { kind: SegmentKind::Sequence, asns: vec![asn] }),
        }
    }
}

impl fmt::Display for AsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, segment) in self.segments.iter().enumerate() {
            let (open, between, close) = match segment.kind {
                SegmentKind::Set => ("{", ",", "}"),
                SegmentKind::Sequence => ("", " ", ""),
            };
            f.write_str(if index > 0 { " " } else { "" })?;
            f.write_str(open)?;
            for (position, asn) in segment.asns.iter().enumerate() {
                f.write_str(if position > 0 { between } else { "" })?;
                write!(f, "{asn}")?;
            }
            f.write_str(close)?;
        }
        Ok(())
    }
}

/// Which of our peers a route came from, as far as the decision process asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The speaker's number for the peer; [`Source::LOCAL`] for routes that start here.
    pub peer: u32,
    /// The address the session runs to.
    pub address: IpAddr,
    /// The peer's BGP identifier.
    pub router_id: Ipv4Addr,
    /// External, internal or local.
    pub kind: SourceKind,
    /// The peer is a route-reflection client of ours (RFC 4456).
    pub rr_client: bool,
}

impl Source {
    /// The peer number of locally originated routes.
    pub const LOCAL: u32 = u32::MAX;

    /// The source of locally originated routes.
    pub fn local(router_id: Ipv4Addr) -> Self {
        Self {
            peer: Self::LOCAL,
            address: IpAddr::V4(router_id),
            router_id,
            kind: SourceKind::Local,
            rr_client: false,
        }
    }
}

/// How a route came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind {
    /// Originated by this speaker.
    Local,
    /// From a peer of another AS.
    External,
    /// From a peer of our own AS.
    Internal,
}

/// The table of attribute sets in use; equal sets share one allocation.
#[derive(Debug, Default)]
pub struct Interner {
    sets: AHashSet<Arc<PathAttributes>>,
    /// Sweep unused sets when the table has grown to this size.
    sweep_at: usize,
}

/// Below this many sets a sweep frees too little to be worth it.
const MIN_SWEEP: usize = 1024;

impl Interner {
    /// The shared form of `attributes`.
    pub fn intern(&mut self, attributes: PathAttributes) -> Arc<PathAttributes> {
        if let Some(shared) = self.sets.get(&attributes) {
            return Arc::clone(shared);
        }
        if self.sets.len() >= self.sweep_at.max(MIN_SWEEP) {
            self.sets.retain(|set| Arc::strong_count(set) > 1);
            // Amortised: the next sweep comes when the table has doubled again.
            self.sweep_at = self.sets.len() * 2;
        }
        let shared = Arc::new(attributes);
        self.sets.insert(Arc::clone(&shared));
        shared
    }

    /// How many distinct sets are held (unused ones not yet swept included).
    pub fn len(&self) -> usize {
        self.sets.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_attributes_share_one_allocation_and_unused_ones_are_swept() {
        let mut interner = Interner::default();
        let next_hop = IpAddr::from([10, 0, 0, 1]);
        let a = interner.intern(PathAttributes::local(next_hop));
        let b = interner.intern(PathAttributes::local(next_hop));
        assert!(Arc::ptr_eq(&a, &b));
        for med in 0..5000 {
            let mut attributes = PathAttributes::local(next_hop);
            attributes.med = Some(med);
            interner.intern(attributes);
        }
        assert!(interner.len() <= 2 * MIN_SWEEP, "{} unused sets kept", interner.len());
        assert!(Arc::ptr_eq(&a, &interner.intern(PathAttributes::local(next_hop))));
    }

    #[test]
    fn a_set_counts_one_and_a_full_segment_gets_a_new_one_in_front() {
        let mut path = AsPath {
            segments: vec![
                Segment { kind: SegmentKind::Sequence, asns: vec![1; 255] },
                Segment { kind: SegmentKind::Set, asns: vec![2, 3] },
            ],
        };
        assert_eq!(path.length(), 256);
        path.prepend(9);
        assert_eq!(path.segments.len(), 3);
        assert_eq!(path.neighbour_as(), Some(9));
        assert_eq!(path.length(), 257);
        assert_eq!(AsPath::sequence(&[65001, 2]).to_string(), "65001 2");
    }
}
