//! What do the rules say, in a few loads?
//!
//! Everything a list can tell apart is an index: the source's and the destination's side class
//! (`sides`), the class of version, protocol and port (`l4`), and seldom one of the source port.
//! The cell they name holds the rule that decides. Cells are filled when first asked for, by
//! reading the list from top to bottom over class membership, and are never wrong afterwards: a
//! program is immutable. A list whose cells would be too many keeps a table of recent answers
//! instead; one that can't be indexed at all, and a class it does not know, is read each time.

use super::classes::{AddressClasses, ClassId};
use super::l4::{L4, SourcePorts};
use super::sides::Sides;
use super::{AddressMatch, Decision, Match, PortMatch, ProtocolMatch, Query, RuleList, SetId};
use crate::limits::{PROGRAM_ANSWERS, PROGRAM_CELLS};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A compiled rule list. Endpoints with equal lists share one.
#[derive(Debug)]
pub struct Program {
    rules: RuleList,
    /// By rule index; the last is the default.
    decisions: Box<[Decision]>,
    index: Option<Index>,
    /// The numbering of classes the index was made for.
    lineage: u64,
    stamp: u64,
}

/// From a packet to its cell.
#[derive(Debug)]
struct Index {
    sources: Sides,
    destinations: Sides,
    l4: L4,
    source_ports: SourcePorts,
    cells: Cells,
}

/// Rule index + 1 of each cell; 0 is "not computed yet".
#[derive(Debug)]
enum Cells {
    /// All of them.
    Matrix(Box<[AtomicU32]>),
    /// The last asked for of those that share a slot: high half the cell's number divided by
    /// the slots, low half as in a matrix.
    Recent(Box<[AtomicU64]>),
}

impl Program {
    /// Compiles a list. `stamp` names the content: a flow decided under an equal stamp need not be
    /// decided again, so it must change when a rule or the members of a set it refers to do.
    pub fn compile(rules: RuleList, classes: &AddressClasses, stamp: u64) -> Self {
        Self::compile_within(rules, classes, stamp, PROGRAM_CELLS)
    }

    pub(super) fn compile_within(
        rules: RuleList,
        classes: &AddressClasses,
        stamp: u64,
        most_cells: u64,
    ) -> Self {
        let decisions = rules
            .rules
            .iter()
            .map(|rule| Decision { verdict: rule.verdict, rule: rule.id })
            .chain([Decision { verdict: rules.default, rule: rules.default_rule }])
            .collect();
        let index = Index::compile(&rules, classes, most_cells);
        Self { decisions, index, lineage: classes.lineage(), rules, stamp }
    }

    /// Judges a packet. `source` and `destination` are the classes of the query's addresses in
    /// `classes`. Classes of another build than the program's give the right answer too, slowly.
    pub fn decide(
        &self,
        query: &Query,
        source: ClassId,
        destination: ClassId,
        classes: &AddressClasses,
    ) -> Decision {
        let rule = match &self.index {
            Some(index) if self.lineage == classes.lineage() => {
                match index.cell(query, source, destination) {
                    Some(cell) => index.cells.read_or(cell, || {
                        first_match(&self.rules, query, source, destination, classes)
                    }),
                    None => first_match(&self.rules, query, source, destination, classes),
                }
            }
            _ => first_match(&self.rules, query, source, destination, classes),
        };
        self.decisions[rule]
    }

    /// The content's stamp.
    pub fn stamp(&self) -> u64 {
        self.stamp
    }

    /// The rules it was compiled from.
    pub fn rules(&self) -> &RuleList {
        &self.rules
    }

    /// How many cells it tells apart; `None` if it is not indexed.
    pub fn cells(&self) -> Option<u64> {
        self.index.as_ref().and_then(Index::cells_wanted)
    }
}

impl Index {
    fn compile(rules: &RuleList, classes: &AddressClasses, most_cells: u64) -> Option<Self> {
        let matches = || rules.rules.iter().map(|rule| &rule.matches);
        let mut index = Self {
            sources: Sides::compile(matches().map(|m| &m.source), classes),
            destinations: Sides::compile(matches().map(|m| &m.destination), classes),
            l4: L4::compile(matches())?,
            source_ports: SourcePorts::compile(matches())?,
            cells: Cells::Matrix(Box::default()),
        };
        let cells = index.cells_wanted()?;
        index.cells = if cells <= most_cells {
            Cells::Matrix(bytemuck::zeroed_slice_box(cells as usize))
        } else {
            Cells::Recent(bytemuck::zeroed_slice_box(PROGRAM_ANSWERS as usize))
        };
        Some(index)
    }

    /// How many combinations there are; `None` if they can't be numbered.
    fn cells_wanted(&self) -> Option<u64> {
        [self.destinations.count(), self.l4.count(), self.source_ports.count()]
            .into_iter()
            .try_fold(u64::from(self.sources.count()), |cells, n| cells.checked_mul(u64::from(n)))
            .filter(|cells| u32::try_from(*cells / PROGRAM_ANSWERS).is_ok())
    }

    /// The cell of a packet; `None` if an address is of a class that is not indexed.
    #[inline]
    fn cell(&self, query: &Query, source: ClassId, destination: ClassId) -> Option<u64> {
        let l4 = self.l4.of(query.source.is_ipv4(), query.protocol, query.destination_port);
        let source_port = self.source_ports.of(query.protocol, query.source_port);
        let row = u64::from(self.sources.of(source)?) * u64::from(self.destinations.count())
            + u64::from(self.destinations.of(destination)?);
        let column = u64::from(l4) * u64::from(self.source_ports.count()) + u64::from(source_port);
        Some(row * u64::from(self.l4.count()) * u64::from(self.source_ports.count()) + column)
    }
}

impl Cells {
    /// The rule index in the cell, computed if it is not there. Every thread computes the same,
    /// so the order in which they store does not matter.
    #[inline]
    fn read_or(&self, cell: u64, compute: impl FnOnce() -> usize) -> usize {
        match self {
            Self::Matrix(cells) => {
                let cell = &cells[cell as usize];
                match cell.load(Ordering::Relaxed) {
                    0 => {
                        let rule = compute();
                        cell.store(rule as u32 + 1, Ordering::Relaxed);
                        rule
                    }
                    known => known as usize - 1,
                }
            }
            Self::Recent(answers) => {
                let slot = &answers[(cell % PROGRAM_ANSWERS) as usize];
                let name = (cell / PROGRAM_ANSWERS) << 32;
                let known = slot.load(Ordering::Relaxed);
                if known & !u64::from(u32::MAX) == name && known as u32 != 0 {
                    return known as u32 as usize - 1;
                }
                let rule = compute();
                slot.store(name | (rule as u64 + 1), Ordering::Relaxed);
                rule
            }
        }
    }
}

/// The index of the first rule that takes the packet, or of the default after the last.
fn first_match(
    list: &RuleList,
    query: &Query,
    source: ClassId,
    destination: ClassId,
    classes: &AddressClasses,
) -> usize {
    let takes = |m: &Match| {
        l4_takes(m, query)
            && side_takes(&m.source, source, classes)
            && side_takes(&m.destination, destination, classes)
    };
    list.rules.iter().position(|rule| takes(&rule.matches)).unwrap_or(list.rules.len())
}

fn side_takes(side: &AddressMatch, class: ClassId, classes: &AddressClasses) -> bool {
    let within = |set: &SetId| classes.contains(class, *set);
    side.all_of.iter().all(within)
        && !side.none_of.iter().any(within)
        && side.any_of.iter().all(|group| group.iter().any(within))
}

fn l4_takes(m: &Match, query: &Query) -> bool {
    let version_differs = match m.ip_version {
        Some(4) => query.source.is_ipv6(),
        Some(6) => query.source.is_ipv4(),
        Some(_) => true,
        None => false,
    };
    let protocol_differs = match m.protocol {
        ProtocolMatch::Any => false,
        ProtocolMatch::Is(number) => number != query.protocol,
        ProtocolMatch::Not(number) => number == query.protocol,
    };
    if version_differs || protocol_differs {
        return false;
    }
    if let Some(icmp) = m.icmp {
        let asked = query.destination_port;
        let equal = match icmp.code {
            Some(code) => asked == u16::from_be_bytes([icmp.kind, code]),
            None => asked >> 8 == u16::from(icmp.kind),
        };
        if !super::is_icmp(query.protocol) || equal == icmp.negated {
            return false;
        }
    }
    ports_take(&m.destination_port, query.protocol, query.destination_port)
        && ports_take(&m.source_port, query.protocol, query.source_port)
}

fn ports_take(ports: &PortMatch, protocol: u8, port: u16) -> bool {
    let (ranges, wanted) = match ports {
        PortMatch::Any => return true,
        PortMatch::In(ranges) => (ranges, true),
        PortMatch::NotIn(ranges) => (ranges, false),
    };
    super::has_ports(protocol) && ranges.iter().any(|r| r.contains(&port)) == wanted
}
