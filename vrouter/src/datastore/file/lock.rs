//! How do processes that share the directory take turns to write?

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use super::{Error, io};

/// How long a writer waits for the others; one write takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// The lock of a directory. The kernel releases it when its holder dies.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    path: PathBuf,
    file: File,
}

/// The lock is held while this lives.
#[derive(Debug)]
pub(super) struct Held<'a>(&'a File);

impl DirectoryLock {
    pub(super) fn open(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(".lock");
        let opened = File::options().create(true).truncate(false).write(true).open(&path);
        Ok(Self { file: opened.map_err(io("open the lock", &path))?, path })
    }

    /// Waits for the lock; a process that stopped while it held it is not waited for without end.
    pub(super) fn take(&self) -> Result<Held<'_>, Error> {
        let begun = Instant::now();
        let mut pause = Duration::from_micros(50);
        loop {
            match self.file.try_lock() {
                Ok(()) => return Ok(Held(&self.file)),
                Err(TryLockError::WouldBlock) if begun.elapsed() < PATIENCE => thread::sleep(pause),
                Err(TryLockError::WouldBlock) => {
                    let slow = std::io::Error::new(
                        std::io::ErrorKind::TimedOut,
                        "another process holds it",
                    );
                    return Err(io("take the lock", &self.path)(slow));
                }
                Err(TryLockError::Error(error)) => {
                    return Err(io("take the lock", &self.path)(error));
                }
            }
            pause = (pause * 2).min(Duration::from_millis(2));
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // Fails only for a bad descriptor, and closing would release it too.
        let _ = self.0.unlock();
    }
}
