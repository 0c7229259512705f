//! Does the injector do what it says, no more, and the same every time?

use super::*;
use crate::io::memory::{MemoryConfig, MemoryDevice, MemoryQueue, pair};
use crate::limits::BATCH;
use crate::packet::Offload;
use proptest::prelude::*;

const ALWAYS: u32 = 1_000_000;
const NEVER: FaultRates =
    FaultRates { loss: 0, corruption: 0, truncation: 0, duplication: 0, reordering: 0 };

fn faulty(
    seed: u64,
    receive: FaultRates,
    transmit: FaultRates,
) -> (MemoryDevice, FaultQueue<MemoryQueue>) {
    let config = MemoryConfig { capacity: 4_096, ..MemoryConfig::default() };
    let (device, queue) = pair(config);
    (device, FaultQueue::new(queue, seed, receive, transmit))
}

/// Receives until nothing waits; checks that it was told apart from a lossy moment.
fn receive_all(queue: &mut FaultQueue<MemoryQueue>, budget: usize) -> Vec<Vec<u8>> {
    let (mut pool, mut batch) = (Pool::new(budget + 2), Batch::new());
    let mut all = Vec::new();
    loop {
        let got = queue.receive(&mut pool, &mut batch, budget).expect("present");
        assert!(got == batch.len() && got <= budget);
        for packet in batch.drain(..) {
            all.push(packet.bytes().to_vec());
            pool.give(packet);
        }
        if got < budget {
            return all;
        }
    }
}

fn push_numbers(device: &MemoryDevice, count: u16) -> Vec<Vec<u8>> {
    let packets: Vec<_> = (0..count).map(|n| n.to_be_bytes().to_vec()).collect();
    for packet in &packets {
        assert!(device.push(packet, Offload::default()));
    }
    packets
}

fn count(counter: &AtomicU64) -> usize {
    counter.load(Ordering::Relaxed) as usize
}

proptest! {
    #[test]
    fn without_faults_it_is_not_there(budget in 1usize..=BATCH, packets in 0u16..200) {
        let (device, mut queue) = faulty(1, NEVER, NEVER);
        let pushed = push_numbers(&device, packets);
        prop_assert_eq!(receive_all(&mut queue, budget), pushed);
    }

    #[test]
    fn what_is_received_is_what_was_pushed_less_and_more_than_counted(
        seed: u64, loss in 0u32..400_000, duplication in 0u32..400_000,
        reordering in 0u32..400_000, budget in 1usize..=BATCH, packets in 0u16..300,
    ) {
        let rates = FaultRates { loss, duplication, reordering, ..NEVER };
        let (device, mut queue) = faulty(seed, rates, NEVER);
        let mut expected = push_numbers(&device, packets);
        let mut seen = receive_all(&mut queue, budget);
        prop_assert_eq!(device.waiting(), 0, "all was asked for");
        let counts = queue.counts();
        prop_assert_eq!(
            seen.len() + count(&counts.lost),
            expected.len() + count(&counts.duplicated)
        );
        if reordering == 0 {
            prop_assert!(seen.is_sorted());
        }
        // Nothing but what was pushed, and every packet that was not lost.
        seen.sort_unstable();
        seen.dedup();
        expected.retain(|packet| seen.contains(packet));
        prop_assert_eq!(seen.len(), usize::from(packets) - count(&counts.lost));
        prop_assert_eq!(seen, expected);
    }

    #[test]
    fn the_same_seed_gives_the_same_faults(seed: u64) {
        let half = ALWAYS / 2;
        let rates = FaultRates {
            loss: half / 4, corruption: half, truncation: half, duplication: half, reordering: half,
        };
        let run = || {
            let (device, mut queue) = faulty(seed, rates, NEVER);
            push_numbers(&device, 100);
            receive_all(&mut queue, 16)
        };
        prop_assert_eq!(run(), run());
    }

    #[test]
    fn transmit_accounts_for_every_packet_it_was_given(
        seed: u64, loss in 0u32..=ALWAYS, duplication in 0u32..=ALWAYS, reordering in 0u32..=ALWAYS,
        packets in 0u16..=BATCH as u16,
    ) {
        let rates = FaultRates { loss, duplication, reordering, ..NEVER };
        let (device, mut queue) = faulty(seed, NEVER, rates);
        let mut batch: Batch =
            (0..packets).map(|n| Packet::from_bytes(&n.to_be_bytes())).collect();
        let mut pool = Pool::new(8);
        let sent = queue.transmit(&mut pool, &mut batch);
        let counts = queue.counts();
        prop_assert!(batch.is_empty());
        prop_assert_eq!(sent.packets + sent.refused, usize::from(packets));
        prop_assert_eq!(sent.refused, count(&counts.lost));
        prop_assert_eq!(sent.reason.is_some(), sent.refused > 0);
        prop_assert_eq!(device.take().len(), sent.packets + count(&counts.duplicated));
    }
}

#[test]
fn each_fault_does_what_its_name_says() {
    let one = |rates: FaultRates, packets: u16| {
        let (device, mut queue) = faulty(7, rates, NEVER);
        push_numbers(&device, packets);
        receive_all(&mut queue, 8)
    };
    assert!(one(FaultRates { loss: ALWAYS, ..NEVER }, 3).is_empty());
    let damaged = one(FaultRates { corruption: ALWAYS, ..NEVER }, 1);
    let bits: u32 = damaged[0].iter().map(|byte| byte.count_ones()).sum();
    assert_eq!((damaged[0].len(), bits), (2, 1));
    assert!(one(FaultRates { truncation: ALWAYS, ..NEVER }, 1)[0].len() < 2);
    let doubled = one(FaultRates { duplication: ALWAYS, ..NEVER }, 2);
    assert_eq!(doubled, [[0, 0], [0, 0], [0, 1], [0, 1]]);
    let swapped = one(FaultRates { reordering: ALWAYS, ..NEVER }, 4);
    assert_eq!(swapped, [[0, 1], [0, 0], [0, 3], [0, 2]]);
}

#[test]
fn a_gone_device_is_still_reported() {
    let (device, mut queue) = faulty(1, NEVER, NEVER);
    device.remove();
    let result = queue.receive(&mut Pool::new(1), &mut Batch::new(), 1);
    assert_eq!(result, Err(QueueError::Gone));
}
