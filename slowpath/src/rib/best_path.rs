//! Which path to a prefix is best, and which step decided?
//!
//! The decision process of RFC 4271 §9.1.2.2 with the additions of RFC 4456 §9, as a pure function
//! that eliminates candidates step by step, in this order:
//!
//! 1. a route that starts here
//! 2. highest `LOCAL_PREF`
//! 3. shortest `AS_PATH`
//! 4. lowest ORIGIN
//! 5. lowest MED among routes of the same neighbouring AS
//! 6. external over internal
//! 7. lowest cost to the next hop
//! 8. lowest router id (that of the originator, if reflected); what is equal up to here is multipath
//! 9. shortest `CLUSTER_LIST`
//! 10. lowest peer address
//! 11. lowest path identifier (ADD-PATH)

use super::route::{PathAttributes, Source, SourceKind};
use std::cmp::Reverse;
use std::fmt;
use std::sync::Arc;

/// A path that may become the best one.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The peer it came from.
    pub source: Arc<Source>,
    /// The path identifier the peer gave it, 0 without ADD-PATH.
    pub path_id: u32,
    /// Its attributes, after the import filter.
    pub attributes: Arc<PathAttributes>,
}

impl Candidate {
    /// Whether both are the same route: same peer, same identifier, same attributes.
    pub fn same(&self, other: &Self) -> bool {
        self.source.peer == other.source.peer
            && self.path_id == other.path_id
            && Arc::ptr_eq(&self.attributes, &other.attributes)
            && self.source == other.source
    }
}

/// The step at which a path lost (or the best one won).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// There was no other path.
    Only,
    /// A route that starts here was preferred.
    Local,
    /// The next hop cannot be reached.
    Unreachable,
    /// `LOCAL_PREF`.
    LocalPreference,
    /// Length of `AS_PATH`.
    PathLength,
    /// ORIGIN.
    Origin,
    /// `MULTI_EXIT_DISC`.
    Med,
    /// External over internal.
    External,
    /// Cost to the next hop.
    Cost,
    /// Router id.
    RouterId,
    /// Length of `CLUSTER_LIST`.
    ClusterList,
    /// Peer address.
    PeerAddress,
    /// Path identifier.
    PathId,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Only => "the only path",
            Self::Local => "originated here",
            Self::Unreachable => "next hop unreachable",
            Self::LocalPreference => "highest local preference",
            Self::PathLength => "shortest AS path",
            Self::Origin => "lowest origin",
            Self::Med => "lowest MED of the same neighbouring AS",
            Self::External => "external over internal",
            Self::Cost => "lowest cost to the next hop",
            Self::RouterId => "lowest router id",
            Self::ClusterList => "shortest cluster list",
            Self::PeerAddress => "lowest peer address",
            Self::PathId => "lowest path identifier",
        })
    }
}

/// What [`select`] found. Indices are those of the candidates given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// The best path; `None` if no candidate is usable.
    pub best: Option<usize>,
    /// The best path and those as good as it up to the router id, best first.
    pub multipath: Vec<usize>,
    /// Per candidate the step at which it was eliminated; `None` for the best one.
    pub lost_at: Vec<Option<Step>>,
    /// The step that eliminated the last rival.
    pub decided_by: Step,
}

/// Selects the best of `candidates`.
///
/// `cost` gives the cost to a candidate's next hop (`None` = unreachable, and so unusable);
/// `multipath` bounds the number of equal paths (0 counts as 1).
pub fn select(
    candidates: &[Candidate],
    cost: impl Fn(&Candidate) -> Option<u32>,
    multipath: usize,
) -> Selection {
    let mut race = Race {
        candidates,
        alive: (0..candidates.len()).collect(),
        lost_at: vec![None; candidates.len()],
        decided_by: Step::Only,
    };
    race.keep(Step::Unreachable, |candidate, _| {
        candidate.source.kind == SourceKind::Local || cost(candidate).is_some()
    });
    race.lowest(Step::Local, |c| c.source.kind != SourceKind::Local);
    race.lowest(Step::LocalPreference, |c| Reverse(c.attributes.preference()));
    race.lowest(Step::PathLength, |c| c.attributes.as_path.length());
    race.lowest(Step::Origin, |c| c.attributes.origin);
    race.keep(Step::Med, |candidate, rivals| {
        !rivals.iter().any(|rival| loses_on_med(candidate, rival))
    });
    race.lowest(Step::External, |c| c.source.kind == SourceKind::Internal);
    race.lowest(Step::Cost, |c| cost(c).unwrap_or(0));
    let equal = race.alive.clone();
    race.lowest(Step::RouterId, router_id);
    race.lowest(Step::ClusterList, |c| c.attributes.cluster_list.len());
    race.lowest(Step::PeerAddress, |c| c.source.address);
    race.lowest(Step::PathId, |c| c.path_id);
    let best = race.alive.first().copied();
    let mut ranked = equal;
    ranked.sort_by_key(|&index| {
        let c = &candidates[index];
        (router_id(c), c.attributes.cluster_list.len(), c.source.address, c.path_id)
    });
    ranked.truncate(multipath.max(1));
    Selection { best, multipath: ranked, lost_at: race.lost_at, decided_by: race.decided_by }
}

/// The BGP identifier to compare: that of the originator of a reflected route (RFC 4456 §9).
fn router_id(candidate: &Candidate) -> u32 {
    u32::from(candidate.attributes.originator_id.unwrap_or(candidate.source.router_id))
}

fn loses_on_med(candidate: &Candidate, rival: &Candidate) -> bool {
    let (a, b) = (&candidate.attributes, &rival.attributes);
    a.as_path.neighbour_as() == b.as_path.neighbour_as() && a.med.unwrap_or(0) > b.med.unwrap_or(0)
}

struct Race<'a> {
    candidates: &'a [Candidate],
    alive: Vec<usize>,
    lost_at: Vec<Option<Step>>,
    decided_by: Step,
}

impl Race<'_> {
    /// Keeps the candidates with the lowest `key`.
    fn lowest<K: Ord>(&mut self, step: Step, key: impl Fn(&Candidate) -> K) {
        if self.alive.len() < 2 {
            return;
        }
        let candidates = self.candidates;
        let Some(lowest) = self.alive.iter().map(|&index| key(&candidates[index])).min() else {
            return;
        };
        self.keep(step, |candidate, _| key(candidate) <= lowest);
    }

    /// Keeps the candidates that pass `test`, which sees all that are still in the race.
    fn keep(&mut self, step: Step, test: impl Fn(&Candidate, &[&Candidate]) -> bool) {
        let candidates = self.candidates;
        let rivals: Vec<&Candidate> = self.alive.iter().map(|&index| &candidates[index]).collect();
        let before = self.alive.len();
        let lost_at = &mut self.lost_at;
        self.alive.retain(|&index| {
            let stays = test(&candidates[index], &rivals);
            if !stays {
                lost_at[index] = Some(step);
            }
            stays
        });
        if self.alive.len() < before {
            self.decided_by = step;
        }
    }
}

#[cfg(test)]
mod tests;
