//! How is a directory of manifests a datastore that several nodes may share?
//!
//! Users may put any manifests into it, under any names. What programs store gets a file of its own,
//! `<dir>/<kind>/[<namespace>.]<name>.yaml`, written beside and renamed over, so that a reader sees the old or the
//! new object and never a part. Changes are made under a lock that all processes take; an object's revision is a
//! digest of its content, so an edit by hand counts as a change like any other.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Datastore, Error, Sink, WatchHandle, check};
use crate::api::{ApiObject, IpPool, Key, Kind, Refusal, Resource, Warning, is_default};

mod index;
mod lock;
mod revision;
mod rewrite;
#[cfg(test)]
mod tests;
mod watch;
mod write;

use index::Index;

/// A directory of manifests.
#[derive(Clone, Debug)]
pub struct FileStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    lock: lock::DirectoryLock,
    index: Mutex<Index>,
}

impl FileStore {
    /// Opens a directory, and makes it where there is none.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, Error> {
        let dir = dir.into();
        std::fs::create_dir_all(&dir).map_err(io("create the directory", &dir))?;
        let lock = lock::DirectoryLock::open(&dir)?;
        let store =
            Self { inner: Arc::new(Inner { index: Mutex::new(Index::new(&dir)), lock, dir }) };
        // Whoever holds the lock is the only one who can be writing, so what lies about was left by a dead process.
        let held = store.inner.lock.take()?;
        write::remove_leftovers(&store.inner.dir)?;
        drop(held);
        Ok(store)
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// What in the directory is not in force, and what does less than it says.
    pub fn problems(&self) -> Result<(Vec<Refusal>, Vec<Warning>), Error> {
        let index = self.inner.scanned()?;
        Ok((index.refusals(), index.warnings()))
    }
}

impl Inner {
    fn index(&self) -> MutexGuard<'_, Index> {
        // A panic while scanning leaves at worst an old view, which the next scan corrects.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn scanned(&self) -> Result<MutexGuard<'_, Index>, Error> {
        let mut index = self.index();
        index.scan()?;
        Ok(index)
    }

    /// Validates and writes `resource`, over `old` if there is one; under the lock.
    fn store(
        &self,
        index: &Index,
        mut resource: Resource,
        old: Option<&Resource>,
    ) -> Result<Resource, Error> {
        let pools: Vec<IpPool> = match resource.kind() {
            Kind::IpPool => {
                index.list(Kind::IpPool).into_iter().filter_map(IpPool::from_resource).collect()
            }
            _ => Vec::new(),
        };
        check(&resource, old, &pools)?;
        if let Some(broken) = index.broken_home(&resource.key()) {
            return Err(Error::Refused(vec![broken]));
        }
        let metadata = resource.metadata_mut();
        metadata.resource_version = None;
        let before = old.map(Resource::metadata);
        metadata.uid = before.and_then(|old| old.uid.clone()).or_else(|| Some(revision::new_uid()));
        metadata.creation_timestamp =
            before.and_then(|old| old.creation_timestamp.clone()).or_else(|| Some(revision::now()));
        let key = resource.key();
        match index.place(&key) {
            Some(place) if place.file != write::own_file(&self.dir, &key) => {
                rewrite::replace(&place, Some(&resource))?;
            }
            _ => write::write(&self.dir, &resource)?,
        }
        revision::stamp(&mut resource);
        Ok(resource)
    }
}

impl Datastore for FileStore {
    fn list(&self, kind: Kind) -> Result<Vec<Resource>, Error> {
        Ok(self.inner.scanned()?.list(kind))
    }

    fn get(&self, key: &Key) -> Result<Resource, Error> {
        let mut index = self.inner.index();
        index.look_up(key)?.ok_or_else(|| Error::NotFound(key.clone()))
    }

    fn create(&self, mut resource: Resource) -> Result<Resource, Error> {
        resource.fill_defaults();
        let key = resource.key();
        let mut index = self.inner.index();
        let _held = self.inner.lock.take()?;
        index.scan()?;
        if index.get(&key).is_some() {
            return Err(Error::AlreadyExists(key));
        }
        self.inner.store(&index, resource, None)
    }

    fn update(&self, mut resource: Resource) -> Result<Resource, Error> {
        resource.fill_defaults();
        let key = resource.key();
        let mut index = self.inner.index();
        let _held = self.inner.lock.take()?;
        let old = index.look_up(&key)?.ok_or_else(|| Error::NotFound(key.clone()))?;
        unchanged(&key, resource.revision(), &old)?;
        self.inner.store(&index, resource, Some(&old))
    }

    fn apply(&self, mut resource: Resource) -> Result<Resource, Error> {
        resource.fill_defaults();
        let key = resource.key();
        let mut index = self.inner.index();
        let _held = self.inner.lock.take()?;
        index.scan()?;
        let Some(old) = index.get(&key) else {
            return self.inner.store(&index, resource, None);
        };
        if !resource.revision().is_empty() {
            unchanged(&key, resource.revision(), &old)?;
        }
        keep_unsaid(&mut resource, &old);
        self.inner.store(&index, resource, Some(&old))
    }

    fn delete(&self, key: &Key, revision: Option<&str>) -> Result<Resource, Error> {
        let mut index = self.inner.index();
        let _held = self.inner.lock.take()?;
        let old = index.look_up(key)?.ok_or_else(|| Error::NotFound(key.clone()))?;
        if let Some(revision) = revision {
            unchanged(key, revision, &old)?;
        }
        match index.place(key) {
            Some(place) => rewrite::replace(&place, None)?,
            None => return Err(Error::Refused(index.broken_home(key).into_iter().collect())),
        }
        Ok(old)
    }

    fn watch(&self, sink: Sink) -> Result<WatchHandle, Error> {
        watch::start(self.inner.clone(), sink)
    }
}

fn unchanged(key: &Key, expected: &str, found: &Resource) -> Result<(), Error> {
    if expected == found.revision() {
        return Ok(());
    }
    Err(Error::Conflict {
        key: key.clone(),
        expected: expected.to_owned(),
        found: found.revision().to_owned(),
    })
}

/// Takes over what the applied object says nothing about and did not come from users.
fn keep_unsaid(new: &mut Resource, old: &Resource) {
    match (new, old) {
        (Resource::Node(new), Resource::Node(old)) => {
            if is_default(&new.status) {
                new.status.clone_from(&old.status);
            }
            let Some(known) = &old.spec.bgp else { return };
            let said = new.spec.bgp.get_or_insert_default();
            said.ipv4_address = said.ipv4_address.or(known.ipv4_address);
            said.ipv6_address = said.ipv6_address.or(known.ipv6_address);
            said.ipv4_ipip_tunnel_addr = said.ipv4_ipip_tunnel_addr.or(known.ipv4_ipip_tunnel_addr);
        }
        (Resource::Pod(new), Resource::Pod(old)) if is_default(&new.status) => {
            new.status.clone_from(&old.status);
        }
        (Resource::IpPool(new), Resource::IpPool(old)) if new.status.is_null() => {
            new.status.clone_from(&old.status);
        }
        _ => {}
    }
}

/// Wraps an I/O error with what was tried on which path.
fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { what, path, source }
}
