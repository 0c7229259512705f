//! Does the fast path allocate? Not after warm-up: neither for established flows nor for new ones,
//! nor when connections end.

#[expect(dead_code, reason = "other test binaries use the rest")]
mod lab;

use fastpath::outcome::DropReason;
use fastpath::packet::{Gso, Offload};
use lab::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

#[expect(unsafe_code, reason = "an allocator that counts is an allocator")]
// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that is ending has no counter any more.
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: as our caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: as our caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations and frees of this thread while `work` ran.
fn counted(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.with(Cell::get);
    work();
    ALLOCATIONS.with(Cell::get) - before
}

/// Pushes frames, then counts what handling them allocates.
fn allocations(world: &mut World, port: fastpath::packet::PortId, frames: &[Vec<u8>]) -> u64 {
    let offload = |frame: &[u8]| {
        if frame.len() > 2000 && port == POD_A {
            Offload {
                needs_checksum: true,
                gso: Gso::Tcp4,
                gso_size: 1400,
                header_len: 40,
                csum_start: 20,
                csum_offset: 16,
            }
        } else {
            Offload::default()
        }
    };
    for frame in frames {
        assert!(world.device(port).push(frame, offload(frame)));
    }
    counted(|| {
        while world.devices[usize::from(port.0)].waiting() > 0 {
            world.pump(port);
        }
        world.pipeline.housekeep(world.now);
    })
}

#[test]
fn the_counter_counts() {
    assert_eq!(counted(|| drop(vec![1u8; 10])), 2);
}

#[test]
fn nothing_is_allocated_once_warm() {
    let mut world = World::build(20_000, true);
    let flows = |from: u16| (from..from + 60).map(|p| udp(A, B, (p, 53))).collect::<Vec<_>>();
    let big = tcp_with(A, FAR, (1, 80), ACK, 1, &vec![7; 20_000]);
    let segments: Vec<_> = (0..20u32)
        .map(|n| tcp_with(FAR, A, (80, 1), ACK, 1000 + 1000 * n, &[7; 1000]))
        .map(|ip| wired(&ipip(FAR_NODE, NODE, &ip)))
        .collect();
    let replies: Vec<_> = (0..60u16).map(|p| udp(B, A, (53, p))).collect();
    let drops: Vec<_> = (0..60u16).map(|p| udp(B, C, (53, p))).collect();
    let pings: Vec<_> = (0..60u16).map(|id| echo(A, ROUTER, id, false)).collect();
    let fragments: Vec<_> = (0..60u16)
        .map(|n| {
            edit(udp_with(A, B, (7, 53), &[7; 16]), |p| {
                p[5] = n as u8 / 2;
                p[6..8].copy_from_slice(&if n % 2 == 0 { [0x20, 0] } else { [0, 3] });
            })
        })
        .collect();
    let mut late = Vec::new();
    for round in 0..60u16 {
        let mut count = allocations(&mut world, POD_A, &flows(0));
        count += allocations(&mut world, POD_A, &flows(1_000 + 60 * round));
        count += allocations(&mut world, POD_B, &replies);
        count += allocations(&mut world, POD_A, &drops);
        count += allocations(&mut world, POD_A, std::slice::from_ref(&big));
        count += allocations(&mut world, UPLINK, &segments);
        count += allocations(&mut world, POD_A, &fragments);
        count += allocations(&mut world, POD_A, &pings);
        count += counted(|| while world.punts.try_recv().is_some() {});
        world.advance(Duration::from_secs(3));
        if round >= 30 {
            late.push(count);
        }
    }
    assert!(world.counters().expired > 500 && world.counters().opened > 3_000);
    assert!(world.counters().punted() == 60 * 60);
    assert_eq!(world.counters().drops_for(DropReason::FragmentNoFirst), 0);
    assert!(world.counters().split > 0 && world.counters().merged > 0);
    assert_eq!(late, vec![0; 30], "{:?}", world.counters().drops);
}

#[test]
fn a_new_generation_is_taken_without_allocation() {
    let mut world = World::build(1_000, true);
    let packets: Vec<_> = (0..60u16).map(|p| udp(A, B, (p, 53))).collect();
    allocations(&mut world, POD_A, &packets);
    allocations(&mut world, POD_A, &packets);
    for _ in 0..10 {
        world.publish(|_| {});
        assert_eq!(allocations(&mut world, POD_A, &packets), 0);
    }
    assert_eq!(world.counters().opened, 60);
}
