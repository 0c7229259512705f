//! Which paths are known to each prefix, and which of them are in use?
//!
//! The outcome depends on the present candidates only, never on the order they came in.

use super::best_path::{self, Candidate, Selection, Step};
use ahash::AHashMap;
use ipnet::IpNet;
use std::net::IpAddr;

/// The cost to a next hop where nothing was said about it: all are equal.
const UNKNOWN_COST: u32 = 0;

/// All candidates by prefix, with the selected ones in front.
#[derive(Debug)]
pub struct LocRib {
    destinations: AHashMap<IpNet, Destination>,
    costs: AHashMap<IpAddr, Option<u32>>,
    multipath: usize,
}

/// Why a prefix's best path is the best.
#[derive(Debug)]
pub struct Explanation<'a> {
    /// Every candidate with the step it lost at; `None` for the best one.
    pub paths: Vec<(&'a Candidate, Option<Step>)>,
    /// The step that eliminated the last rival.
    pub decided_by: Step,
}

#[derive(Debug, Default)]
struct Destination {
    /// The first `selected` are in use, the best one foremost.
    candidates: Vec<Candidate>,
    selected: usize,
}

impl LocRib {
    /// An empty table that uses up to `multipath` equal paths.
    pub fn new(multipath: usize) -> Self {
        Self { destinations: AHashMap::new(), costs: AHashMap::new(), multipath }
    }

    /// Adds or replaces the candidate of its peer and path identifier; `true` if the paths in use
    /// changed.
    pub fn insert(&mut self, prefix: IpNet, candidate: Candidate) -> bool {
        let destination = self.destinations.entry(prefix).or_default();
        let before = destination.in_use().to_vec();
        let same = |held: &&mut Candidate| {
            held.source.peer == candidate.source.peer && held.path_id == candidate.path_id
        };
        if let Some(held) = destination.candidates.iter_mut().find(same) {
            *held = candidate;
        } else {
            destination.candidates.push(candidate);
        }
        destination.decide(&self.costs, self.multipath);
        !same_paths(&before, destination.in_use())
    }

    /// Removes a peer's candidate; `true` if the paths in use changed.
    pub fn remove(&mut self, prefix: &IpNet, peer: u32, path_id: u32) -> bool {
        let Some(destination) = self.destinations.get_mut(prefix) else { return false };
        let found = destination
            .candidates
            .iter()
            .position(|held| held.source.peer == peer && held.path_id == path_id);
        let Some(index) = found else { return false };
        let before = destination.in_use().to_vec();
        destination.candidates.remove(index);
        if destination.candidates.is_empty() {
            self.destinations.remove(prefix);
            return !before.is_empty();
        }
        destination.decide(&self.costs, self.multipath);
        !same_paths(&before, destination.in_use())
    }

    /// The paths in use, best first; empty if there is none.
    pub fn selected(&self, prefix: &IpNet) -> &[Candidate] {
        self.destinations.get(prefix).map_or(&[], Destination::in_use)
    }

    /// The best path.
    pub fn best(&self, prefix: &IpNet) -> Option<&Candidate> {
        self.selected(prefix).first()
    }

    /// Every candidate for `prefix`, those in use first, and why it won or lost.
    pub fn explain(&self, prefix: &IpNet) -> Option<Explanation<'_>> {
        let destination = self.destinations.get(prefix)?;
        let selection = destination.select(&self.costs, self.multipath);
        let paths = destination.candidates.iter().zip(selection.lost_at).collect();
        Some(Explanation { paths, decided_by: selection.decided_by })
    }

    /// Every prefix with its paths in use, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&IpNet, &[Candidate])> {
        self.destinations.iter().map(|(prefix, destination)| (prefix, destination.in_use()))
    }

    /// Prefixes known.
    pub fn len(&self) -> usize {
        self.destinations.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.destinations.is_empty()
    }

    /// Bounds the number of equal paths; returns the prefixes whose paths in use changed.
    pub fn set_multipath(&mut self, multipath: usize) -> Vec<IpNet> {
        self.multipath = multipath;
        self.decide_all()
    }

    /// Replaces what is known about next hops: `Some(cost)`, or `None` for an unreachable one; those
    /// not listed count as equally near. Returns the prefixes whose paths in use changed.
    pub fn set_costs(&mut self, costs: AHashMap<IpAddr, Option<u32>>) -> Vec<IpNet> {
        if self.costs == costs {
            return Vec::new();
        }
        self.costs = costs;
        self.decide_all()
    }

    fn decide_all(&mut self) -> Vec<IpNet> {
        let mut changed = Vec::new();
        for (prefix, destination) in &mut self.destinations {
            let before = destination.in_use().to_vec();
            destination.decide(&self.costs, self.multipath);
            if !same_paths(&before, destination.in_use()) {
                changed.push(*prefix);
            }
        }
        changed
    }
}

impl Destination {
    fn in_use(&self) -> &[Candidate] {
        &self.candidates[..self.selected]
    }

    fn select(&self, costs: &AHashMap<IpAddr, Option<u32>>, multipath: usize) -> Selection {
        let cost = |candidate: &Candidate| {
            let next_hop = candidate.attributes.next_hop;
            costs.get(&next_hop).copied().unwrap_or(Some(UNKNOWN_COST))
        };
        best_path::select(&self.candidates, cost, multipath)
    }

    /// Selects again and moves the chosen ones to the front.
    fn decide(&mut self, costs: &AHashMap<IpAddr, Option<u32>>, multipath: usize) {
        if costs.is_empty() && self.candidates.len() == 1 {
            self.selected = 1;
            return;
        }
        let selection = self.select(costs, multipath);
        let chosen: Vec<Candidate> =
            selection.multipath.iter().map(|&index| self.candidates[index].clone()).collect();
        self.selected = chosen.len();
        let mut index = 0;
        self.candidates.retain(|_| {
            index += 1;
            !selection.multipath.contains(&(index - 1))
        });
        self.candidates.splice(0..0, chosen);
    }
}

fn same_paths(a: &[Candidate], b: &[Candidate]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same(b))
}

#[cfg(test)]
mod tests;
