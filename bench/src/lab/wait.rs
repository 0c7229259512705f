//! How does a test wait for something that takes time? By asking again, up to a limit.

use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

const STEP: Duration = Duration::from_millis(20);

/// Asks `condition` until it says true. After `timeout`: an error that names `what`.
pub fn wait_until(
    timeout: Duration,
    what: impl Display,
    mut condition: impl FnMut() -> bool,
) -> anyhow::Result<Duration> {
    let start = Instant::now();
    loop {
        if condition() {
            return Ok(start.elapsed());
        }
        anyhow::ensure!(start.elapsed() < timeout, "waited {timeout:?} in vain: {what}");
        thread::sleep(STEP);
    }
}

/// Tries `attempt` until it succeeds, and returns its value. After `timeout`: its last error.
pub fn retry<T>(
    timeout: Duration,
    what: impl Display,
    mut attempt: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() >= timeout => {
                return Err(error.context(format!("waited {timeout:?} in vain: {what}")));
            }
            Err(_) => thread::sleep(STEP),
        }
    }
}
