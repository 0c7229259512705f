//! Can bytes on any port break the pipeline, or leave it without exactly one outcome?
//!
//! The node of the fast path's own tests takes them: pods, host ports and an uplink on memory
//! devices, and after each input what came in must equal what went out.
#![no_main]

use std::cell::RefCell;
use std::time::Duration;

use fastpath::packet::{Gso, Offload};
use libfuzzer_sys::fuzz_target;

#[expect(dead_code, reason = "the fast path's tests use the rest")]
#[path = "../../../fastpath/tests/lab/mod.rs"]
mod lab;

use lab::{PORTS, World};

thread_local! {
    // Its slots are tens of megabytes: made once, and what earlier inputs left is part of the test.
    static WORLD: RefCell<World> = RefCell::new(World::with_connections(256));
}

/// The longest packet of one input.
const LONGEST: usize = 2048;

fuzz_target!(|input: &[u8]| {
    WORLD.with_borrow_mut(|world| {
        let mut rest = input;
        while let Some(step) = Step::take(&mut rest) {
            world.advance(step.pause);
            let port = PORTS[step.port % PORTS.len()];
            assert!(world.device(port).push(&step.frame, step.offload), "the device is full");
            world.pump(port);
            for port in PORTS {
                world.device(port).take();
            }
            while world.punts.try_recv().is_some() {}
            // What a worker does between two rounds: time-outs, and slots that came back.
            world.pipeline.housekeep(world.now);
        }
        let (came, went) = world.counters().balance();
        assert_eq!(came, went, "{:?}", world.counters());
    });
});

/// One packet, and the time before it.
struct Step {
    pause: Duration,
    port: usize,
    frame: Vec<u8>,
    offload: Offload,
}

impl Step {
    /// Reads a step: port and switches, a pause, a length, the bytes (and an offload header).
    fn take(input: &mut &[u8]) -> Option<Self> {
        let ([switches, pause, high, low], rest) = input.split_first_chunk()?;
        let length = usize::from(u16::from_be_bytes([*high, *low])) % LONGEST;
        let (bytes, rest) = rest.split_at(length.min(rest.len()));
        *input = rest;
        let mut frame = bytes.to_vec();
        if switches & 0x08 != 0 {
            repair(&mut frame);
        }
        let offload = if switches & 0x10 != 0 { offload(input) } else { Offload::default() };
        let pause = Duration::from_millis(u64::from(*pause) << (switches >> 5));
        Some(Self { pause, port: usize::from(switches & 0x07), frame, offload })
    }
}

fn offload(input: &mut &[u8]) -> Offload {
    let Some((fields, rest)) = input.split_first_chunk::<10>() else { return Offload::default() };
    *input = rest;
    let word = |at: usize| u16::from_be_bytes([fields[at], fields[at + 1]]);
    Offload {
        needs_checksum: fields[0] & 1 != 0,
        gso: match fields[1] % 4 {
            0 => Gso::None,
            1 => Gso::Tcp4,
            2 => Gso::Tcp6,
            _ => Gso::Udp,
        },
        gso_size: word(2),
        header_len: word(4),
        csum_start: word(6),
        csum_offset: word(8),
    }
}

/// Puts the right checksum into IPv4 headers, so that mutations get past it: the outer one, and one
/// inside a tunnel, with or without an Ethernet header before them.
fn repair(frame: &mut [u8]) {
    for start in [0, 14] {
        let inner = start + 20;
        for at in [inner, start] {
            let Some(header) = frame.get_mut(at..at + 20) else { continue };
            if header[0] != 0x45 {
                continue;
            }
            header[10..12].fill(0);
            let sum: u32 = header
                .chunks_exact(2)
                .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
                .sum();
            let folded = (sum & 0xFFFF) + (sum >> 16);
            let folded = (folded & 0xFFFF) + (folded >> 16);
            let checksum = !u16::try_from(folded).unwrap_or(u16::MAX);
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
    }
}
