//! What do the device tests stand on? Namespaces that vanish with their test, and a queue driver.

use fastpath::batch::Batch;
use fastpath::io::{Queue, QueueError, Sent};
use fastpath::packet::{Packet, Pool};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::os::fd::BorrowedFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A network namespace, removed (with all that runs in it) when the test ends, however it ends.
pub(crate) struct Netns(pub(crate) String);

impl Netns {
    pub(crate) fn new(tag: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("vrio-{tag}-{}-{n}", std::process::id());
        run(&["ip", "netns", "add", &name]);
        let netns = Self(name);
        netns.ip("link set lo up");
        netns
    }

    /// `ip` inside.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        let mut command = vec!["ip", "-n", &self.0];
        command.extend(arguments.split_whitespace());
        run(&command)
    }

    /// Did the command succeed inside?
    pub(crate) fn succeeds(&self, command: &str) -> bool {
        Command::new("ip")
            .args(["netns", "exec", &self.0])
            .args(command.split_whitespace())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("ip runs")
            .success()
    }

    /// Runs `work` in a thread inside.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let handle = File::open(format!("/run/netns/{}", self.0)).expect("the namespace exists");
        std::thread::scope(|scope| {
            scope
                .spawn(move || {
                    setns(handle, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
                    work()
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn run(command: &[&str]) -> String {
    let out = Command::new(command[0]).args(&command[1..]).output().expect("the command exists");
    assert!(
        out.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8_lossy(&out.stdout).into_owned()
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
