//! How does a watcher learn what changed in the directory?
//!
//! A thread of its own compares what is in force with what it has told, whenever the kernel reports a change and
//! every few seconds in any case. So nothing depends on seeing every report.

use std::{
    collections::{BTreeSet, HashMap},
    io::{PipeReader, PipeWriter},
    os::fd::AsFd,
    path::PathBuf,
    sync::Arc,
    thread,
    time::Duration,
};

use inotify::{EventMask, Inotify, WatchMask};
use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::{Error, Inner, Sink, WatchHandle, index, io};
use crate::{
    api::{Key, Refusal, Resource, Warning},
    datastore::WatchEvent,
};

/// How long a missed report can stay unnoticed.
const RESCAN_MS: u16 = 5_000;
/// The same where the kernel gives no reports.
const POLL_MS: u16 = 500;
/// One change is often several reports; they are looked at together.
const GATHER: Duration = Duration::from_millis(3);

pub(super) fn start(inner: Arc<Inner>, sink: Sink) -> Result<WatchHandle, Error> {
    let (stopped, stop) = std::io::pipe().map_err(io("watch", &inner.dir))?;
    let dir = inner.dir.clone();
    let watcher = Watcher {
        inner,
        sink,
        told: HashMap::new(),
        refused: BTreeSet::new(),
        warned: BTreeSet::new(),
        lost: None,
    };
    let thread = thread::Builder::new()
        .name("datastore-watch".to_owned())
        .spawn(move || watcher.run(&stopped));
    let thread = thread.map_err(io("watch", &dir))?;
    Ok(WatchHandle::new(move || end(stop, thread)))
}

fn end(stop: PipeWriter, thread: thread::JoinHandle<()>) {
    drop(stop);
    // A handle dropped by the sink itself must not wait for its own thread.
    if thread.thread().id() != thread::current().id() && thread.join().is_err() {
        tracing::error!("the thread that watched the datastore had panicked");
    }
}

struct Watcher {
    inner: Arc<Inner>,
    sink: Sink,
    told: HashMap<Key, String>,
    refused: BTreeSet<Refusal>,
    warned: BTreeSet<Warning>,
    lost: Option<String>,
}

impl Watcher {
    fn run(mut self, stopped: &PipeReader) {
        let mut reports = Reports::open();
        let mut synced = false;
        loop {
            // Directories are watched before they are read: what appears in between is reported.
            reports.follow(&self.inner.dir);
            if self.tell_changes() && !synced {
                synced = true;
                (self.sink)(WatchEvent::Synced);
            }
            if !reports.wait(stopped, self.lost.is_some()) {
                return;
            }
        }
    }

    /// Tells what changed; says whether the directory could be read.
    fn tell_changes(&mut self) -> bool {
        let changes = match self.inner.scanned() {
            Ok(index) => Changes {
                upserts: index
                    .all()
                    .filter(|(key, resource)| {
                        self.told.get(*key).is_none_or(|told| told != resource.revision())
                    })
                    .map(|(_, resource)| resource.clone())
                    .collect(),
                deletes: {
                    let there: std::collections::HashSet<&Key> =
                        index.all().map(|(key, _)| key).collect();
                    self.told.keys().filter(|key| !there.contains(key)).cloned().collect()
                },
                refused: index.refusals().into_iter().collect(),
                warned: index.warnings().into_iter().collect(),
            },
            Err(error) => {
                let message = error.to_string();
                if self.lost.as_ref() != Some(&message) {
                    self.lost = Some(message);
                    (self.sink)(WatchEvent::Lost(Arc::new(error)));
                }
                return false;
            }
        };
        self.lost = None;
        self.tell(changes);
        true
    }

    fn tell(&mut self, mut changes: Changes) {
        changes.deletes.sort_unstable();
        changes.upserts.sort_by_cached_key(Resource::key);
        for key in changes.deletes {
            self.told.remove(&key);
            (self.sink)(WatchEvent::Delete(key));
        }
        for resource in changes.upserts {
            self.told.insert(resource.key(), resource.revision().to_owned());
            (self.sink)(WatchEvent::Upsert(resource));
        }
        for refusal in changes.refused.difference(&self.refused) {
            (self.sink)(WatchEvent::Refused(refusal.clone()));
        }
        for refusal in self.refused.difference(&changes.refused) {
            (self.sink)(WatchEvent::Mended(refusal.clone()));
        }
        for warning in changes.warned.difference(&self.warned) {
            (self.sink)(WatchEvent::Warned(warning.clone()));
        }
        self.refused = changes.refused;
        self.warned = changes.warned;
    }
}

struct Changes {
    upserts: Vec<Resource>,
    deletes: Vec<Key>,
    refused: BTreeSet<Refusal>,
    warned: BTreeSet<Warning>,
}

/// The kernel's reports about the directory and those below it.
struct Reports {
    inotify: Option<Inotify>,
    followed: BTreeSet<PathBuf>,
}

impl Reports {
    fn open() -> Self {
        let inotify = Inotify::init()
            .inspect_err(|error| tracing::warn!(%error, "no reports of changed files; the datastore is read at intervals"))
            .ok();
        Self { inotify, followed: BTreeSet::new() }
    }

    fn follow(&mut self, dir: &std::path::Path) {
        let (Some(inotify), Ok((_, directories))) = (&self.inotify, index::walk(dir)) else {
            return;
        };
        let mask = WatchMask::CLOSE_WRITE
            | WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::MOVED_FROM
            | WatchMask::MOVED_TO
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        for directory in directories {
            // Asking twice for the same directory is harmless, and finds one that took another's name.
            if inotify.watches().add(&directory, mask).is_ok() {
                self.followed.insert(directory);
            } else if self.followed.remove(&directory) || !self.followed.contains(dir) {
                tracing::warn!(directory = %directory.display(), "no reports of changes here; it is read at intervals");
            }
        }
    }

    /// Waits for a change or the next look around; `false` when the watch is over.
    fn wait(&mut self, stopped: &PipeReader, lost: bool) -> bool {
        let reported = self.inotify.is_some() && !self.followed.is_empty() && !lost;
        let interval = if reported { RESCAN_MS } else { POLL_MS };
        loop {
            let mut polled = vec![PollFd::new(stopped.as_fd(), PollFlags::POLLIN)];
            if let Some(inotify) = &self.inotify {
                polled.push(PollFd::new(inotify.as_fd(), PollFlags::POLLIN));
            }
            let ready = nix::poll::poll(&mut polled, PollTimeout::from(interval)).unwrap_or(0);
            let reported = polled.get(1).and_then(PollFd::any).unwrap_or(false);
            if polled[0].any().unwrap_or(true) {
                return false;
            }
            if !reported || ready == 0 {
                return true;
            }
            if self.drain() {
                thread::sleep(GATHER);
                self.drain();
                return true;
            }
        }
    }

    /// Takes what was reported; says whether a file can have changed.
    fn drain(&mut self) -> bool {
        let mut buffer = [0; 16 << 10];
        let mut relevant = false;
        while let Some(inotify) = &mut self.inotify {
            let Ok(events) = inotify.read_events(&mut buffer) else { break };
            let mut any = false;
            for event in events {
                any = true;
                let hidden = event.name.is_some_and(|name| name.to_string_lossy().starts_with('.'));
                // A file that was only created has no content yet; the report of its end follows.
                let empty = event.mask.contains(EventMask::CREATE)
                    && !event.mask.contains(EventMask::ISDIR);
                relevant |= !hidden && !empty;
            }
            if !any {
                break;
            }
        }
        relevant
    }
}
