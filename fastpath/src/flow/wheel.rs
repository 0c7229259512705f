//! Which connections must be looked at now? A wheel of one-second slots: bounded work per call,
//! no allocation, and nothing to do when a packet comes.
//!
//! A connection's deadline moves with its packets and its phase, so a node never stands for a
//! deadline: it asks again within [`SLOTS`] / 2 seconds.

use super::Tick;
use super::key::FlowKey;

/// Slots of one second; a power of two.
const SLOTS: usize = 32;
/// Longest time until a connection is asked again, in slots.
const HORIZON: u32 = SLOTS as u32 / 2;
/// No node.
const NONE: u32 = u32::MAX;

/// One connection to be asked about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timer {
    /// Its key.
    pub key: FlowKey,
    /// Its incarnation ([`super::conn::Conn::timer`]).
    pub timer: u32,
}

#[derive(Clone, Copy)]
struct Node {
    timer: Timer,
    next: u32,
}

/// One worker's timers.
pub struct Wheel {
    nodes: Vec<Node>,
    capacity: usize,
    free: u32,
    used: usize,
    slots: [u32; SLOTS],
    /// The second whose slot is emptied next.
    cursor: u32,
}

impl Wheel {
    /// Room for `capacity` timers (memory is touched when it is first needed).
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.min(NONE as usize - 1);
        Self {
            nodes: Vec::with_capacity(capacity),
            capacity,
            free: NONE,
            used: 0,
            slots: [NONE; SLOTS],
            cursor: 0,
        }
    }

    /// Is there a place for one more?
    pub fn has_room(&self) -> bool {
        self.used < self.capacity
    }

    /// Timers under way.
    pub fn len(&self) -> usize {
        self.used
    }

    /// No timer under way.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Asks about `timer` when `due` has passed, or earlier; false without room.
    pub fn add(&mut self, timer: Timer, now: Tick, due: Tick) -> bool {
        let index = if self.free == NONE {
            if self.nodes.len() == self.capacity {
                return false;
            }
            self.nodes.push(Node { timer, next: NONE });
            self.nodes.len() as u32 - 1
        } else {
            let index = self.free;
            self.free = self.nodes[index as usize].next;
            index
        };
        if self.used == 0 {
            self.cursor = now.whole_seconds();
        }
        self.used += 1;
        let wait = (due.whole_seconds() + 1).saturating_sub(self.cursor);
        let slot = (self.cursor + wait.clamp(1, HORIZON)) as usize % SLOTS;
        self.nodes[index as usize] = Node { timer, next: self.slots[slot] };
        self.slots[slot] = index;
        true
    }

    /// The next timer whose slot has come, taken out of the wheel; `None` when none is due.
    pub fn due(&mut self, now: Tick) -> Option<Timer> {
        let second = now.whole_seconds();
        if self.used == 0 {
            return None;
        }
        while self.cursor <= second {
            let slot = self.cursor as usize % SLOTS;
            let index = self.slots[slot];
            if index != NONE {
                let node = self.nodes[index as usize];
                self.slots[slot] = node.next;
                self.nodes[index as usize].next = self.free;
                self.free = index;
                self.used -= 1;
                return Some(node.timer);
            }
            if self.cursor == second {
                return None;
            }
            self.cursor += 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timer(n: u32) -> Timer {
        Timer { timer: n, ..Timer::default() }
    }

    #[test]
    fn nothing_is_due_early_and_everything_in_time() {
        let mut wheel = Wheel::new(100);
        for n in 0..100 {
            assert!(wheel.add(timer(n), Tick(0), Tick::seconds(n % 15)));
        }
        assert!(!wheel.add(timer(100), Tick(0), Tick(0)) && !wheel.has_room());
        let mut asked = Vec::new();
        for second in 0..=20 {
            while let Some(t) = wheel.due(Tick::seconds(second)) {
                assert!(t.timer % 15 < second, "timer {} at {second}", t.timer);
                assert!(t.timer % 15 + 1 >= second, "timer {} at {second}", t.timer);
                asked.push(t.timer);
            }
        }
        asked.sort_unstable();
        assert_eq!(asked, (0..100).collect::<Vec<_>>());
        assert!(wheel.is_empty() && wheel.has_room());
    }

    #[test]
    fn far_deadlines_are_asked_about_at_the_horizon_and_places_are_reused() {
        let mut wheel = Wheel::new(1);
        for round in 0..1000 {
            let now = Tick::seconds(round * 1000);
            assert!(wheel.add(timer(round), now, Tick(now.0 + 36_000)));
            assert_eq!(wheel.due(Tick(now.0 + 10 * (HORIZON - 1))), None);
            assert_eq!(wheel.due(Tick(now.0 + 10 * HORIZON)), Some(timer(round)));
        }
    }

    #[test]
    fn a_long_sleep_loses_no_timer() {
        let mut wheel = Wheel::new(10);
        wheel.add(timer(1), Tick(0), Tick::seconds(5));
        wheel.add(timer(2), Tick(0), Tick::seconds(9));
        let late = Tick::seconds(100_000);
        assert_eq!((wheel.due(late), wheel.due(late)), (Some(timer(1)), Some(timer(2))));
        assert_eq!(wheel.due(late), None);
    }
}
