//! What do the device tests stand on? Namespaces that vanish with their test, and a queue driver.

use bench::lab::{self, Lab};
use fastpath::batch::Batch;
use fastpath::io::{Queue, QueueError, Sent};
use fastpath::packet::{Packet, Pool};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// A network namespace of a laboratory of its own, removed when the test ends, however it ends.
pub(crate) struct Netns {
    netns: lab::Netns,
    _lab: Lab,
}

impl Netns {
    pub(crate) fn new(name: &str) -> Self {
        let lab = Lab::new("io").expect("a laboratory (needs root)");
        Self { netns: lab.netns(name).expect("a namespace"), _lab: lab }
    }

    pub(crate) fn name(&self) -> &str {
        self.netns.name()
    }

    /// `ip` inside.
    pub(crate) fn ip(&self, line: &str) -> String {
        self.netns.ip(line).expect("ip succeeds")
    }

    /// Does the command succeed inside?
    pub(crate) fn succeeds(&self, line: &str) -> bool {
        let words: Vec<&str> = line.split_whitespace().collect();
        self.netns.try_exec(&words).expect("it starts").status.success()
    }

    /// Runs `work` in a thread inside.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.netns.enter(work).expect("the namespace exists")
    }
}

/// A packet outside any pool, so that the queue's slots are not used up.
fn copy(packet: &Packet) -> Packet {
    let mut copy = Packet::new();
    copy.copy_from(packet);
    copy
}

/// Drives one queue as a worker would.
pub(crate) struct Driver {
    pub(crate) queue: Box<dyn Queue>,
    pub(crate) pool: Pool,
}

impl Driver {
    pub(crate) fn new(queue: impl Queue + 'static) -> Self {
        Self::boxed(Box::new(queue))
    }

    pub(crate) fn boxed(queue: Box<dyn Queue>) -> Self {
        Self { queue, pool: Pool::new(128) }
    }

    /// What is waiting now.
    pub(crate) fn receive(&mut self) -> Result<Batch, QueueError> {
        let mut batch = Batch::new();
        self.queue.housekeep(&mut self.pool);
        self.queue.receive(&mut self.pool, &mut batch, 64)?;
        Ok(batch)
    }

    /// Waits for a packet that `wanted` accepts; others are thrown away.
    pub(crate) fn wait_for(&mut self, wanted: impl Fn(&Packet) -> bool) -> Option<Packet> {
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            let batch = self.receive().expect("the device lives");
            let mut found = None;
            for packet in batch {
                if found.is_none() && wanted(&packet) {
                    found = Some(copy(&packet));
                }
                self.pool.give(packet);
            }
            if found.is_some() {
                return found;
            }
            self.sleep(100);
        }
        None
    }

    /// Everything that comes within `quiet` milliseconds of silence.
    pub(crate) fn drain(&mut self, quiet: u16) -> Vec<Packet> {
        let mut all = Vec::new();
        loop {
            let batch = self.receive().expect("the device lives");
            if batch.is_empty() {
                if !self.sleep(quiet) {
                    return all;
                }
            } else {
                for packet in batch {
                    all.push(copy(&packet));
                    self.pool.give(packet);
                }
            }
        }
    }

    /// Sends one packet.
    pub(crate) fn send(&mut self, packet: Packet) -> Sent {
        let mut batch = Batch::new();
        batch.push(packet);
        self.queue.transmit(&mut self.pool, &mut batch)
    }

    /// Sleeps until the queue's descriptor is readable; false when time ran out.
    pub(crate) fn sleep(&self, milliseconds: u16) -> bool {
        let raw = self.queue.readable_fd().expect("a device");
        #[expect(unsafe_code, reason = "the trait gives a raw descriptor for readiness")]
        // SAFETY: the queue owns the descriptor and outlives this call.
        let fd = unsafe { BorrowedFd::borrow_raw(raw) };
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(milliseconds)).expect("poll") > 0
    }
}
