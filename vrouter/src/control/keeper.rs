//! How are descriptors kept for the next forwarder? In the holder process, and again in the next
//! holder if that one dies.

use crate::hold::{HoldError, Holder};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A connection to the holder, with a copy of everything that was given to it.
pub struct Keeper {
    socket: PathBuf,
    exe: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    holder: Option<Holder>,
    kept: BTreeMap<String, (OwnedFd, Vec<u8>)>,
}

impl Keeper {
    /// Connects to the holder of this socket, and starts one if there is none.
    pub fn open(socket: PathBuf, exe: PathBuf) -> Result<Self, HoldError> {
        let holder = Holder::connect_or_spawn(&socket, &exe)?;
        let inner = Mutex::new(Inner { holder: Some(holder), kept: BTreeMap::new() });
        Ok(Self { socket, exe, inner })
    }

    /// What the holder has from before; from now on it is ours to keep.
    pub fn take_over(&self, name: &str) -> Option<OwnedFd> {
        let mut inner = self.lock();
        let (fd, metadata) = match inner.holder.as_mut()?.get(name) {
            Ok(found) => found?,
            Err(error) => {
                tracing::warn!(name, %error, "the holder can't give a descriptor back");
                return None;
            }
        };
        let copy = fd.try_clone().ok()?;
        inner.kept.insert(name.to_owned(), (copy, metadata));
        Some(fd)
    }

    /// The names of everything the holder has.
    pub fn names(&self) -> Vec<String> {
        let mut inner = self.lock();
        let held = inner.holder.as_mut().and_then(|h| h.list().ok()).unwrap_or_default();
        held.into_iter().map(|h| h.name).collect()
    }

    /// Keeps a copy of a descriptor; a failure is told, not fatal: only the next restart is
    /// less smooth.
    pub fn keep(&self, name: &str, fd: BorrowedFd<'_>) {
        let mut inner = self.lock();
        match fd.try_clone_to_owned() {
            Ok(copy) => {
                inner.kept.insert(name.to_owned(), (copy, Vec::new()));
            }
            Err(error) => tracing::warn!(name, %error, "a descriptor can't be kept"),
        }
        if let Some(holder) = inner.holder.as_mut()
            && let Err(error) = holder.put(name, fd, &[])
        {
            tracing::warn!(name, %error, "the holder does not take a descriptor");
            inner.holder = None;
        }
    }

    /// Lets go of a descriptor everywhere.
    pub fn release(&self, name: &str) {
        let mut inner = self.lock();
        inner.kept.remove(name);
        if let Some(holder) = inner.holder.as_mut()
            && holder.release(name).is_err()
        {
            inner.holder = None;
        }
    }

    /// Looks after the holder: one that died is started again and given everything once more.
    /// True if that had to be done.
    pub fn look_after(&self) -> bool {
        let mut inner = self.lock();
        if inner.holder.as_mut().is_some_and(|h| h.version().is_ok()) {
            return false;
        }
        inner.holder = None;
        match Holder::connect_or_spawn(&self.socket, &self.exe) {
            Ok(mut holder) => {
                for (name, (fd, metadata)) in &inner.kept {
                    if let Err(error) = holder.put(name, fd.as_fd(), metadata) {
                        tracing::warn!(name, %error, "the holder does not take a descriptor");
                    }
                }
                tracing::warn!(
                    kept = inner.kept.len(),
                    "the holder had died: a new one keeps everything"
                );
                inner.holder = Some(holder);
            }
            Err(error) => tracing::error!(%error, "no holder can be started"),
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
