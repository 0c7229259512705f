//! How do tables reach the workers? The door down: immutable values, published by generation,
//! taken between two batches. A worker never waits and never frees.

use crossbeam::utils::CachePadded;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

/// Counts the versions of the tables; 0 is the value the door was made with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(pub u64);

struct Slot<T> {
    generation: CachePadded<AtomicU64>,
    current: Mutex<Arc<T>>,
    /// One per reader: the generation it runs. worker: write · control: read
    seen: Mutex<Vec<Arc<CachePadded<AtomicU64>>>>,
}

/// The control side. Retired values are freed here and nowhere else.
pub struct Publisher<T> {
    slot: Arc<Slot<T>>,
    retired: Vec<Arc<T>>,
}

/// One worker's side.
pub struct Reader<T> {
    slot: Arc<Slot<T>>,
    held: Arc<T>,
    generation: u64,
    seen: Arc<CachePadded<AtomicU64>>,
}

impl<T> Publisher<T> {
    /// A door whose generation 0 is `first`.
    pub fn new(first: T) -> Self {
        let slot = Slot {
            generation: CachePadded::new(AtomicU64::new(0)),
            current: Mutex::new(Arc::new(first)),
            seen: Mutex::new(Vec::new()),
        };
        Self { slot: Arc::new(slot), retired: Vec::new() }
    }

    /// Puts `next` in force and returns its generation. Workers take it at their next batch.
    pub fn publish(&mut self, next: T) -> Generation {
        let next = Arc::new(next);
        let generation = {
            let mut current = self.slot.current.lock().unwrap_or_else(PoisonError::into_inner);
            let old = std::mem::replace(&mut *current, next);
            self.retired.push(old);
            // Under the lock, so that a reader that sees the new number finds the new value.
            self.slot.generation.fetch_add(1, Ordering::Release) + 1
        };
        // A count of one cannot rise again: the value has left the slot and no reader holds it.
        self.retired.retain(|old| Arc::strong_count(old) > 1);
        Generation(generation)
    }

    /// The value in force.
    pub fn current(&self) -> Arc<T> {
        Arc::clone(&self.slot.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The newest generation.
    pub fn generation(&self) -> Generation {
        Generation(self.slot.generation.load(Ordering::Acquire))
    }

    /// The generation that every reader runs at least; the newest one when there is no reader.
    pub fn live(&self) -> Generation {
        let mut seen = self.slot.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // A reader that was dropped holds nothing back.
        seen.retain(|s| Arc::strong_count(s) > 1);
        let newest = self.slot.generation.load(Ordering::Acquire);
        Generation(seen.iter().map(|s| s.load(Ordering::Acquire)).min().unwrap_or(newest))
    }

    /// A reader for one more worker.
    pub fn reader(&self) -> Reader<T> {
        let current = self.slot.current.lock().unwrap_or_else(PoisonError::into_inner);
        let held = Arc::clone(&current);
        let generation = self.slot.generation.load(Ordering::Acquire);
        let seen = Arc::new(CachePadded::new(AtomicU64::new(generation)));
        self.slot.seen.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&seen));
        drop(current);
        Reader { slot: Arc::clone(&self.slot), held, generation, seen }
    }
}

impl<T> Reader<T> {
    /// The newest value that can be had without waiting, and its generation. Once per batch.
    pub fn refresh(&mut self) -> (&T, Generation) {
        if self.slot.generation.load(Ordering::Acquire) != self.generation {
            let taken = match self.slot.current.try_lock() {
                Ok(current) => Some(current),
                Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => None,
            };
            if let Some(current) = taken {
                self.held = Arc::clone(&current);
                self.generation = self.slot.generation.load(Ordering::Acquire);
                drop(current);
                self.seen.store(self.generation, Ordering::Release);
            }
        }
        (&self.held, Generation(self.generation))
    }

    /// The value held, without looking for a newer one.
    pub fn held(&self) -> &T {
        &self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam::thread;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn readers_see_values_in_order_and_never_free() {
        struct Value(u64, std::thread::ThreadId);
        impl Drop for Value {
            fn drop(&mut self) {
                assert_eq!(self.1, std::thread::current().id(), "freed by a reader");
            }
        }
        let me = std::thread::current().id();
        let mut publisher = Publisher::new(Value(0, me));
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..3 {
                let mut reader = publisher.reader();
                let stop = &stop;
                scope.spawn(move |_| {
                    let mut last = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let (value, generation) = reader.refresh();
                        assert!(value.0 >= last && value.0 == generation.0);
                        last = value.0;
                    }
                    reader
                });
            }
            for i in 1..=20_000 {
                assert_eq!(publisher.publish(Value(i, me)).0, i);
            }
            while publisher.live().0 < 20_000 {
                std::hint::spin_loop();
            }
            stop.store(true, Ordering::Relaxed);
        })
        .expect("no reader panicked");
    }

    #[test]
    fn live_is_the_slowest_reader() {
        let mut publisher = Publisher::new(0);
        assert_eq!(publisher.live(), Generation(0));
        let (mut fast, slow) = (publisher.reader(), publisher.reader());
        publisher.publish(1);
        fast.refresh();
        assert_eq!(publisher.live(), Generation(0));
        drop(slow);
        assert_eq!(publisher.live(), Generation(1));
    }
}
