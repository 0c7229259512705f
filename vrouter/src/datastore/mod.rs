//! How does the node read, change and follow the objects, whatever keeps them?
//!
//! Every change of an existing object is a compare-and-swap on its revision, so that any number of nodes may
//! share a datastore. Revisions are opaque; they are compared for equality only.

use std::{io, path::PathBuf, sync::Arc};

use crate::api::{ApiObject, Key, Kind, Refusal, Resource, Warning};

pub mod file;

pub use file::FileStore;

/// What keeps the objects. Calls block; they may be made from any thread.
pub trait Datastore: Send + Sync {
    /// Every object of a kind, by namespace and name.
    fn list(&self, kind: Kind) -> Result<Vec<Resource>, Error>;

    /// One object.
    fn get(&self, key: &Key) -> Result<Resource, Error>;

    /// Stores a new object, and returns it with its revision.
    fn create(&self, resource: Resource) -> Result<Resource, Error>;

    /// Replaces an object that still has the revision that `resource` carries.
    fn update(&self, resource: Resource) -> Result<Resource, Error>;

    /// Stores an object whether or not there is one of its name. An existing one keeps its identity, its status where
    /// the new one has none, and a node what it wrote about itself where the new one says nothing about it.
    fn apply(&self, resource: Resource) -> Result<Resource, Error>;

    /// Deletes an object, where `revision` is given only if it still has that one, and returns it.
    fn delete(&self, key: &Key, revision: Option<&str>) -> Result<Resource, Error>;

    /// Follows every object: first all there are and [`WatchEvent::Synced`], then every change. For one object
    /// events come in order and the last one is its last state; states between may be left out. The sink is called from
    /// one thread, and must not call back into the handle.
    fn watch(&self, sink: Sink) -> Result<WatchHandle, Error>;
}

/// Where a watch delivers its events.
pub type Sink = Box<dyn Fn(WatchEvent) + Send>;

/// What happened to an object, or to the watch.
#[derive(Clone, Debug)]
pub enum WatchEvent {
    /// The object is there, or changed.
    Upsert(Resource),
    /// The object is gone.
    Delete(Key),
    /// Everything that was there when the watch began has been delivered.
    Synced,
    /// Something that was written is not in force; what was in force before it stays.
    Refused(Refusal),
    /// What was refused is so no more: it was mended, or taken away.
    Mended(Refusal),
    /// Something that was written is in force but does less than it says.
    Warned(Warning),
    /// The datastore can't be read. The last state stays in force, and events go on when it can be read again.
    Lost(Arc<Error>),
}

/// Ends the watch when dropped.
#[must_use = "the watch ends when the handle is dropped"]
pub struct WatchHandle {
    stop: Option<Box<dyn FnOnce() + Send>>,
}

impl WatchHandle {
    /// A handle that calls `stop` once when dropped.
    pub fn new(stop: impl FnOnce() + Send + 'static) -> Self {
        Self { stop: Some(Box::new(stop)) }
    }
}

impl std::fmt::Debug for WatchHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WatchHandle").finish_non_exhaustive()
    }
}

impl Drop for WatchHandle {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop();
        }
    }
}

/// Why the datastore did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such object.
    #[error("{0} does not exist")]
    NotFound(Key),
    /// There is one of this name already.
    #[error("{0} exists already")]
    AlreadyExists(Key),
    /// Somebody else changed the object since it was read.
    #[error(
        "{key} was changed by somebody else: its revision is {found}, not {expected}; read it again"
    )]
    Conflict {
        /// The object.
        key: Key,
        /// The revision that was expected.
        expected: String,
        /// The revision it has.
        found: String,
    },
    /// The object breaks rules of the API.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Refused(Vec<Refusal>),
    /// A file could not be read or written.
    #[error("{}: cannot {what}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl Error {
    /// Whether reading again and trying again can help.
    pub const fn is_race(&self) -> bool {
        matches!(self, Self::Conflict { .. } | Self::AlreadyExists(_) | Self::NotFound(_))
    }
}

/// One object as its own type; `None` where it does not exist.
pub fn find<T: ApiObject>(datastore: &dyn Datastore, name: &str) -> Result<Option<T>, Error> {
    find_in(datastore, &Key::new(T::KIND, name))
}

/// One object, perhaps of a namespace, as its own type; `None` where it does not exist.
pub fn find_in<T: ApiObject>(datastore: &dyn Datastore, key: &Key) -> Result<Option<T>, Error> {
    match datastore.get(key) {
        Ok(resource) => Ok(T::from_resource(resource)),
        Err(Error::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Every object of a kind as its own type.
pub fn list<T: ApiObject>(datastore: &dyn Datastore) -> Result<Vec<T>, Error> {
    Ok(datastore.list(T::KIND)?.into_iter().filter_map(T::from_resource).collect())
}

/// Refuses an object that breaks rules of the API, also those about `old` and the other `pools`.
pub(crate) fn check(
    resource: &Resource,
    old: Option<&Resource>,
    pools: &[crate::api::IpPool],
) -> Result<(), Error> {
    let mut faults = resource.validate();
    if let Some(old) = old {
        faults.0.extend(resource.validate_update(old).0);
    }
    if let Resource::IpPool(pool) = resource {
        crate::api::ippool::validate_no_overlap(
            &pool.metadata.name,
            &pool.spec,
            pools,
            &mut faults,
        );
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(Error::Refused(faults.into_refusals(&resource.key())))
}
