//! Which programs does the next generation hold, and which of them say the same as before?
//!
//! The control loop tells it the sets that changed and, for each generation, the lists in use.
//! Equal lists share a program. Classes are built anew only if a set changed; then programs are
//! compiled again for their new numbers, but keep their stamp unless a set of theirs changed, so
//! that flows are not decided again for a change that does not concern them.

use super::classes::AddressClasses;
use super::classifier::Program;
use super::{AddressSet, RuleList, SetId};
use ahash::AHashMap;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The sets in use and the programs of the last generation.
#[derive(Debug, Default)]
pub struct Rulebook {
    sets: BTreeMap<SetId, Versioned>,
    classes: Arc<AddressClasses>,
    /// A set changed since the classes were built.
    stale: bool,
    programs: AHashMap<Arc<RuleList>, Compiled>,
    /// Last number given to a version of a set or to a program's content.
    counter: u64,
}

#[derive(Debug)]
struct Versioned {
    set: AddressSet,
    version: u64,
}

#[derive(Clone, Debug)]
struct Compiled {
    program: Arc<Program>,
    /// The sets it refers to, with the version it was compiled for (0: there was none).
    sets: Vec<(SetId, u64)>,
}

/// What a generation holds of rules.
#[derive(Clone, Debug)]
pub struct Chapter {
    /// Address → class.
    pub classes: Arc<AddressClasses>,
    /// Each different list once.
    pub programs: Arc<[Arc<Program>]>,
    /// The place in `programs` of each list asked for, in the order of asking.
    pub places: Vec<u32>,
}

impl Rulebook {
    /// A set is there, with these members.
    pub fn set(&mut self, set: AddressSet) {
        if self.sets.get(&set.id).is_none_or(|known| known.set != set) {
            self.counter += 1;
            self.sets.insert(set.id, Versioned { set, version: self.counter });
            self.stale = true;
        }
    }

    /// A set is gone.
    pub fn remove_set(&mut self, id: SetId) {
        self.stale |= self.sets.remove(&id).is_some();
    }

    /// Compiles the lists of the next generation; those of the last that are not among them are
    /// forgotten.
    pub fn compile<'a>(&mut self, lists: impl IntoIterator<Item = &'a Arc<RuleList>>) -> Chapter {
        let rebuilt = std::mem::take(&mut self.stale);
        if rebuilt {
            let sets = self.sets.values().map(|known| known.set.clone()).collect();
            self.classes = Arc::new(AddressClasses::build(sets));
        }
        let before = std::mem::take(&mut self.programs);
        let mut found: AHashMap<&Arc<RuleList>, u32> = AHashMap::new();
        let mut programs: Vec<Arc<Program>> = Vec::new();
        let mut places = Vec::new();
        for list in lists {
            let place = *found.entry(list).or_insert_with(|| {
                let compiled = match before.get(list) {
                    Some(known) if !rebuilt => known.clone(),
                    known => self.compile_list(list, known),
                };
                programs.push(compiled.program.clone());
                self.programs.insert(list.clone(), compiled);
                programs.len() as u32 - 1
            });
            places.push(place);
        }
        Chapter { classes: self.classes.clone(), programs: programs.into(), places }
    }

    fn compile_list(&mut self, list: &Arc<RuleList>, before: Option<&Compiled>) -> Compiled {
        let version = |id: SetId| (id, self.sets.get(&id).map_or(0, |known| known.version));
        let sets: Vec<_> = list.sets().into_iter().map(version).collect();
        let stamp = match before {
            Some(before) if before.sets == sets => before.program.stamp(),
            _ => {
                self.counter += 1;
                self.counter
            }
        };
        let program = Arc::new(Program::compile(RuleList::clone(list), &self.classes, stamp));
        Compiled { program, sets }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acl::{AddressMatch, Match, Query, Rule, RuleId, Verdict};
    use std::net::IpAddr;

    fn list(set: u32) -> Arc<RuleList> {
        let source = AddressMatch { all_of: vec![SetId(set)], ..AddressMatch::default() };
        let matches = Match { source, ..Match::default() };
        let rules = vec![Rule { id: RuleId(set), matches, verdict: Verdict::Allow }];
        Arc::new(RuleList { rules, default: Verdict::Deny, default_rule: RuleId(99) })
    }

    fn set(id: u32, prefix: &str) -> AddressSet {
        AddressSet { id: SetId(id), prefixes: vec![prefix.parse().expect("a prefix")] }
    }

    fn allows(chapter: &Chapter, place: usize, source: [u8; 4]) -> bool {
        let (source, destination) = (IpAddr::from(source), IpAddr::from([10, 9, 9, 9]));
        let query =
            Query { source, destination, protocol: 6, source_port: 1, destination_port: 80 };
        let class = |address| chapter.classes.class_of(address);
        let program = &chapter.programs[chapter.places[place] as usize];
        let decision = program.decide(&query, class(source), class(destination), &chapter.classes);
        decision.verdict == Verdict::Allow
    }

    fn stamps(chapter: &Chapter) -> Vec<u64> {
        chapter.places.iter().map(|place| chapter.programs[*place as usize].stamp()).collect()
    }

    #[test]
    fn equal_lists_share_a_program_and_unchanged_ones_stay() {
        let mut book = Rulebook::default();
        book.set(set(1, "10.0.0.0/24"));
        let first = book.compile(&[list(1), list(1)]);
        assert_eq!((first.programs.len(), &first.places), (1, &vec![0, 0]));
        let second = book.compile(&[list(1)]);
        assert!(Arc::ptr_eq(&first.programs[0], &second.programs[0]));
        assert!(Arc::ptr_eq(&first.classes, &second.classes));
    }

    #[test]
    fn a_stamp_changes_with_the_rules_sets_only() {
        let mut book = Rulebook::default();
        book.set(set(1, "10.0.0.0/24"));
        book.set(set(2, "10.0.1.0/24"));
        let lists = [list(1), list(2), list(3)];
        let before = book.compile(&lists);
        book.set(set(1, "10.0.0.0/24"));
        assert!(Arc::ptr_eq(&before.classes, &book.compile(&lists).classes), "nothing changed");
        book.set(set(2, "10.0.2.0/24"));
        let after = book.compile(&lists);
        let (old, new) = (stamps(&before), stamps(&after));
        assert_eq!((old[0], old[2]), (new[0], new[2]));
        assert_ne!(old[1], new[1]);
        assert!(allows(&after, 0, [10, 0, 0, 1]) && !allows(&after, 0, [10, 0, 2, 1]));
        assert!(allows(&after, 1, [10, 0, 2, 1]) && !allows(&after, 1, [10, 0, 1, 1]));
        // What was compiled before still says what it said.
        assert!(allows(&before, 1, [10, 0, 1, 1]) && !allows(&before, 1, [10, 0, 2, 1]));
        book.remove_set(SetId(1));
        let gone = book.compile(&lists);
        assert_ne!(stamps(&gone)[0], new[0]);
        assert!(!allows(&gone, 0, [10, 0, 0, 1]));
        let mut all = [old, new, stamps(&gone)].concat();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 5, "no two contents have a stamp in common");
    }
}
