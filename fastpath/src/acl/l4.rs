//! Which protocols and ports does a program tell apart?
//!
//! Two packets are in the same class if every rule's version, protocol, destination port and
//! ICMP parts say the same of both. Protocols that no rule names and that have no ports share
//! one column; a column is a sorted list of port intervals, or a table once they are many.

use super::{IcmpMatch, Match, PortMatch, ProtocolMatch};
use crate::limits::PORT_LISTINGS;
use ahash::{AHashMap, AHashSet};
use std::ops::RangeInclusive;

/// Intervals a column searches; with more it has a table of all ports (128 KiB).
const SEARCHED: usize = 32;

/// IP version, protocol and port → class.
#[derive(Debug)]
pub(super) struct L4 {
    /// Column of each protocol, IPv4 first.
    column_of: Box<[[u16; 256]; 2]>,
    columns: Box<[Column]>,
    count: u32,
}

/// Source port → class, for the few lists that look at it.
#[derive(Debug)]
pub(super) struct SourcePorts {
    /// With ports; packets without any are class 0.
    column: Column,
    count: u32,
}

/// Port → class.
#[derive(Debug, PartialEq, Eq, Hash, Clone)]
struct Column {
    /// First port of each interval.
    starts: Box<[u16]>,
    /// Class of each interval.
    classes: Box<[u32]>,
    /// Interval of each port, if there are many intervals.
    table: Option<Box<[u16]>>,
}

/// What a match says of protocol and destination port.
type Spec<'a> = (Option<u8>, ProtocolMatch, &'a PortMatch, Option<IcmpMatch>);

impl L4 {
    /// Compiles the matches; `None` if it would not fit.
    pub(super) fn compile<'a>(matches: impl Iterator<Item = &'a Match>) -> Option<Self> {
        let mut known = AHashSet::new();
        let mut specs: Vec<Spec<'a>> = Vec::new();
        let mut named = vec![1_u8, 6, 17, 33, 58, 132, 136];
        for m in matches {
            let spec = (m.ip_version, m.protocol, &m.destination_port, m.icmp);
            if known.insert(spec) {
                specs.push(spec);
            }
            if let ProtocolMatch::Is(number) | ProtocolMatch::Not(number) = m.protocol {
                named.push(number);
            }
        }
        named.sort_unstable();
        named.dedup();
        let mut interned = Interned::default();
        let mut columns: Vec<Column> = Vec::new();
        let mut column_of = Box::new([[0_u16; 256]; 2]);
        for (version, of_protocol) in [4_u8, 6].into_iter().zip(column_of.iter_mut()) {
            let other = (0..=u8::MAX).find(|number| named.binary_search(number).is_err());
            for protocol in named.iter().copied().chain(other) {
                let ranges =
                    specs.iter().map(|spec| port_ranges(spec, version, protocol)).collect();
                let column = interned.column(ranges)?;
                let at = columns.iter().position(|c| *c == column).unwrap_or_else(|| {
                    columns.push(column);
                    columns.len() - 1
                }) as u16;
                if Some(protocol) == other {
                    for (number, slot) in (0..=u8::MAX).zip(of_protocol.iter_mut()) {
                        if named.binary_search(&number).is_err() {
                            *slot = at;
                        }
                    }
                } else {
                    of_protocol[usize::from(protocol)] = at;
                }
            }
        }
        Some(Self { column_of, columns: columns.into(), count: interned.count() })
    }

    /// How many classes there are.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// The class of a packet.
    #[inline]
    pub(super) fn of(&self, is_v4: bool, protocol: u8, port: u16) -> u32 {
        let column = self.column_of[usize::from(!is_v4)][usize::from(protocol)];
        self.columns[usize::from(column)].class(port)
    }
}

impl SourcePorts {
    /// Compiles the matches; `None` if it would not fit.
    pub(super) fn compile<'a>(matches: impl Iterator<Item = &'a Match>) -> Option<Self> {
        let mut known = AHashSet::new();
        let mut ranges = Vec::new();
        for m in matches.filter(|m| m.source_port != PortMatch::Any) {
            if known.insert(&m.source_port) {
                ranges.push(normal(&m.source_port));
            }
        }
        let mut interned = Interned::default();
        if !ranges.is_empty() {
            // Class 0: no port, so none of them holds.
            interned.column(vec![Vec::new(); ranges.len()])?;
        }
        let column = interned.column(ranges)?;
        Some(Self { column, count: interned.count() })
    }

    /// How many classes there are.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// The class of a packet.
    #[inline]
    pub(super) fn of(&self, protocol: u8, port: u16) -> u32 {
        if self.count == 1 || !super::has_ports(protocol) { 0 } else { self.column.class(port) }
    }
}

impl Column {
    #[inline]
    fn class(&self, port: u16) -> u32 {
        let interval = match &self.table {
            None => self.starts.partition_point(|start| *start <= port) - 1,
            Some(table) => usize::from(table[usize::from(port)]),
        };
        self.classes[interval]
    }
}

/// The ports for which a spec holds, given version and protocol: sorted, apart from each other.
fn port_ranges(spec: &Spec<'_>, version: u8, protocol: u8) -> Vec<RangeInclusive<u16>> {
    let (wanted_version, wanted_protocol, ports, icmp) = spec;
    let protocol_holds = match wanted_protocol {
        ProtocolMatch::Any => true,
        ProtocolMatch::Is(number) => *number == protocol,
        ProtocolMatch::Not(number) => *number != protocol,
    };
    if !protocol_holds || wanted_version.is_some_and(|wanted| wanted != version) {
        return Vec::new();
    }
    match (icmp, ports) {
        (None, PortMatch::Any) => normal(ports),
        (None, _) if super::has_ports(protocol) => normal(ports),
        (Some(icmp), PortMatch::Any) if super::is_icmp(protocol) => {
            let first = u16::from(icmp.kind) << 8;
            let range = match icmp.code {
                None => first..=first | 0xff,
                Some(code) => first | u16::from(code)..=first | u16::from(code),
            };
            if icmp.negated { complement(&[range]) } else { vec![range] }
        }
        _ => Vec::new(),
    }
}

/// The ports a match takes: sorted, apart from each other.
fn normal(ports: &PortMatch) -> Vec<RangeInclusive<u16>> {
    let merge = |ranges: &[RangeInclusive<u16>]| {
        let mut sorted: Vec<_> = ranges.iter().filter(|r| !r.is_empty()).cloned().collect();
        sorted.sort_unstable_by_key(|range| *range.start());
        let mut merged: Vec<RangeInclusive<u16>> = Vec::new();
        for range in sorted {
            match merged.last_mut() {
                Some(last) if u32::from(*range.start()) <= u32::from(*last.end()) + 1 => {
                    *last = *last.start()..=*last.end().max(range.end());
                }
                _ => merged.push(range),
            }
        }
        merged
    };
    match ports {
        PortMatch::Any => vec![0..=u16::MAX],
        PortMatch::In(ranges) => merge(ranges),
        PortMatch::NotIn(ranges) => complement(&merge(ranges)),
    }
}

/// The ports outside of sorted ranges that are apart from each other.
fn complement(ranges: &[RangeInclusive<u16>]) -> Vec<RangeInclusive<u16>> {
    let mut gaps = Vec::new();
    let mut next = 0_u32;
    for range in ranges {
        if u32::from(*range.start()) > next {
            gaps.push(next as u16..=range.start() - 1);
        }
        next = u32::from(*range.end()) + 1;
    }
    if let Ok(next) = u16::try_from(next) {
        gaps.push(next..=u16::MAX);
    }
    gaps
}

/// Classes while they are found: which specs hold.
#[derive(Default)]
struct Interned {
    classes: AHashMap<Vec<u32>, u32>,
    work: usize,
}

impl Interned {
    fn count(&self) -> u32 {
        (self.classes.len() as u32).max(1)
    }

    /// Sweeps over the ports: at each start or end of a range another class begins. `ranges[i]`
    /// is where spec i holds.
    fn column(&mut self, ranges: Vec<Vec<RangeInclusive<u16>>>) -> Option<Column> {
        let mut events: Vec<(u32, bool, u32)> = Vec::new();
        for (spec, ranges) in ranges.into_iter().enumerate() {
            for range in ranges {
                events.push((u32::from(*range.start()), true, spec as u32));
                events.push((u32::from(*range.end()) + 1, false, spec as u32));
            }
        }
        events.sort_unstable();
        let mut active: Vec<u32> = Vec::new();
        let (mut starts, mut classes) = (Vec::new(), Vec::new());
        let mut next = 0;
        let mut port = 0;
        while let Ok(start) = u16::try_from(port) {
            while let Some((_, begins, spec)) = events.get(next).filter(|e| e.0 == port) {
                match (active.binary_search(spec), begins) {
                    (Err(at), true) => active.insert(at, *spec),
                    (Ok(at), false) => drop(active.remove(at)),
                    // Ranges of one spec are apart, so it neither begins nor ends twice.
                    _ => {}
                }
                next += 1;
            }
            let class = self.class(&active)?;
            if classes.last() != Some(&class) {
                starts.push(start);
                classes.push(class);
            }
            port = events.get(next).map_or(u32::MAX, |event| event.0);
        }
        let table = (starts.len() > SEARCHED).then(|| table(&starts));
        Some(Column { starts: starts.into(), classes: classes.into(), table })
    }

    fn class(&mut self, active: &[u32]) -> Option<u32> {
        self.work += active.len();
        if self.work > PORT_LISTINGS {
            return None;
        }
        if let Some(class) = self.classes.get(active) {
            return Some(*class);
        }
        let class = self.classes.len() as u32;
        self.classes.insert(active.to_vec(), class);
        Some(class)
    }
}

fn table(starts: &[u16]) -> Box<[u16]> {
    let mut interval = 0_usize;
    (0..=u16::MAX)
        .map(|port| {
            if starts.get(interval + 1) == Some(&port) {
                interval += 1;
            }
            interval as u16
        })
        .collect()
}
