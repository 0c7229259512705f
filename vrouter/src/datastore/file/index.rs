//! Which objects do the files hold, and which of them are in force?
//!
//! A view of the directory that reads again only what changed. The first file that has an object stays its
//! home; a file that no longer reads keeps the objects it had.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    ops::Range,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::{Error, io, revision, write};
use crate::api::{
    Faults, IpPool, Key, Kind, Position, Refusal, Resource, Warning, ippool::validate_no_overlap,
    parse_documents,
};

/// No file may be longer.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// A file that changed this shortly before it was read may have changed again without a new time.
const CLOCK_GRAIN: Duration = Duration::from_millis(50);
/// An editor that rewrites a file in place empties it first; so long an empty file is taken for one being written.
const REWRITE_TIME: Duration = Duration::from_secs(2);

/// What the files hold.
#[derive(Debug)]
pub(super) struct Index {
    dir: PathBuf,
    files: BTreeMap<PathBuf, FileState>,
    in_force: HashMap<Key, Home>,
    conflicts: Vec<Refusal>,
}

/// Where an object stands, to be changed there.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) file: PathBuf,
    pub(super) span: Range<usize>,
    pub(super) item: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Home {
    file: PathBuf,
    entry: usize,
}

#[derive(Debug)]
struct FileState {
    stamp: Stamp,
    entries: Vec<Entry>,
    refusals: Vec<Refusal>,
    warnings: Vec<Warning>,
}

#[derive(Debug)]
struct Entry {
    resource: Resource,
    /// Where it stands; `None` for one that is kept although its file no longer reads.
    position: Option<Position>,
}

/// Tells whether a file changed since it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    /// Whether the file was so fresh that an equal stamp proves nothing.
    racy: bool,
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        let age =
            metadata.modified().ok().and_then(|time| SystemTime::now().duration_since(time).ok());
        Self {
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            racy: age.is_none_or(|age| age < CLOCK_GRAIN),
        }
    }

    fn proves_unchanged(&self, now: &Self) -> bool {
        !self.racy && Self { racy: false, ..*now } == *self
    }
}

impl Index {
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            files: BTreeMap::new(),
            in_force: HashMap::new(),
            conflicts: Vec::new(),
        }
    }

    /// Brings the view up to date with the directory. On an error the last view stays.
    pub(super) fn scan(&mut self) -> Result<(), Error> {
        let (files, _) = walk(&self.dir)?;
        let mut moved = false;
        for file in &files {
            moved |= self.refresh(file, false)?;
        }
        let known = self.files.len();
        self.files.retain(|file, _| files.binary_search(file).is_ok());
        if moved || self.files.len() != known {
            self.settle();
        }
        Ok(())
    }

    /// An object as it is on the disk now; looks at its own file first, at all only if it is not there.
    pub(super) fn look_up(&mut self, key: &Key) -> Result<Option<Resource>, Error> {
        let home = self.in_force.get(key).map(|home| home.file.clone());
        let file = home.unwrap_or_else(|| write::own_file(&self.dir, key));
        // A stamp is not proof enough for a compare-and-swap, so the one file is read in any case.
        if self.refresh(&file, true)? {
            self.settle();
        }
        if let Some(found) = self.get(key) {
            return Ok(Some(found));
        }
        self.scan()?;
        Ok(self.get(key))
    }

    /// An object in force, by the current view.
    pub(super) fn get(&self, key: &Key) -> Option<Resource> {
        Some(self.entry(self.in_force.get(key)?)?.resource.clone())
    }

    /// Where an object in force stands; `None` where there is none, or its file has to be mended first.
    pub(super) fn place(&self, key: &Key) -> Option<Place> {
        let home = self.in_force.get(key)?;
        let position = self.entry(home)?.position.as_ref()?;
        Some(Place { file: home.file.clone(), span: position.span.clone(), item: position.item })
    }

    /// The objects of a kind that are in force, by namespace and name.
    pub(super) fn list(&self, kind: Kind) -> Vec<Resource> {
        let mut homes: Vec<_> = self.in_force.iter().filter(|(key, _)| key.kind == kind).collect();
        homes.sort_unstable_by_key(|(key, _)| *key);
        homes.into_iter().filter_map(|(_, home)| Some(self.entry(home)?.resource.clone())).collect()
    }

    /// Every object in force.
    pub(super) fn all(&self) -> impl Iterator<Item = (&Key, &Resource)> {
        self.in_force.iter().filter_map(|(key, home)| Some((key, &self.entry(home)?.resource)))
    }

    pub(super) fn refusals(&self) -> Vec<Refusal> {
        self.files
            .values()
            .flat_map(|file| &file.refusals)
            .chain(&self.conflicts)
            .cloned()
            .collect()
    }

    pub(super) fn warnings(&self) -> Vec<Warning> {
        self.files.values().flat_map(|file| &file.warnings).cloned().collect()
    }

    /// Why an object whose file has to be mended can't be changed.
    pub(super) fn broken_home(&self, key: &Key) -> Option<Refusal> {
        let home = self.in_force.get(key)?;
        let kept = self.entry(home)?.position.is_none();
        kept.then(|| Refusal {
            file: home.file.clone(),
            ..Refusal::of(key, "can't be changed while its file is broken; mend the file first")
        })
    }

    fn entry(&self, home: &Home) -> Option<&Entry> {
        self.files.get(&home.file)?.entries.get(home.entry)
    }

    /// Reads one file again if it changed; says whether what is in force has to be worked out again.
    fn refresh(&mut self, file: &Path, force: bool) -> Result<bool, Error> {
        let metadata = match fs::metadata(file) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(self.files.remove(file).is_some());
            }
            Err(error) => return Err(io("look at", file)(error)),
        };
        let stamp = Stamp::of(&metadata);
        let old = self.files.get(file);
        if old.is_some_and(|old| !force && old.stamp.proves_unchanged(&stamp)) {
            return Ok(false);
        }
        let young = metadata
            .modified()
            .ok()
            .and_then(|time| time.elapsed().ok())
            .is_none_or(|age| age < REWRITE_TIME);
        if metadata.len() == 0 && young && old.is_some_and(|old| old.stamp.bytes > 0) {
            return Ok(false);
        }
        let new = load(file, stamp, old);
        let same_keys = old.is_some_and(|old| {
            old.entries.len() == new.entries.len()
                && old
                    .entries
                    .iter()
                    .zip(&new.entries)
                    .all(|(old, new)| old.resource.key() == new.resource.key())
        });
        let pools = new.entries.iter().any(|entry| entry.resource.kind() == Kind::IpPool);
        self.files.insert(file.to_owned(), new);
        Ok(!same_keys || pools)
    }

    /// Works out what is in force. What was in force keeps its home while it is still there.
    fn settle(&mut self) {
        let mut homes: HashMap<Key, Vec<Home>> = HashMap::new();
        for (file, state) in &self.files {
            for (entry, object) in state.entries.iter().enumerate() {
                homes
                    .entry(object.resource.key())
                    .or_default()
                    .push(Home { file: file.clone(), entry });
            }
        }
        let mut in_force = HashMap::with_capacity(homes.len());
        let mut conflicts = Vec::new();
        for (key, mut candidates) in homes {
            let before = self.in_force.get(&key).map(|home| &home.file);
            let own = write::own_file(&self.dir, &key);
            candidates.sort_by_key(|home| (Some(&home.file) != before, home.file != own));
            let mut candidates = candidates.into_iter();
            let Some(first) = candidates.next() else { continue };
            for other in candidates {
                let line = self
                    .entry(&other)
                    .and_then(|entry| entry.position.as_ref())
                    .map_or(0, |at| at.line);
                let reason = format!(
                    "is in {} already, and that one is in force; remove one of the two",
                    first.file.display()
                );
                conflicts.push(Refusal { file: other.file, line, ..Refusal::of(&key, reason) });
            }
            in_force.insert(key, first);
        }
        self.refuse_overlaps(&mut in_force, &mut conflicts);
        conflicts.sort();
        self.in_force = in_force;
        self.conflicts = conflicts;
    }

    /// Takes pools out of force that overlap with one that was there before, or with one of an earlier file.
    fn refuse_overlaps(&self, in_force: &mut HashMap<Key, Home>, conflicts: &mut Vec<Refusal>) {
        let mut pools: Vec<(Key, Home)> = in_force
            .iter()
            .filter(|(key, _)| key.kind == Kind::IpPool)
            .map(|(key, home)| (key.clone(), home.clone()))
            .collect();
        pools.sort_by_key(|(key, home)| {
            (!self.in_force.contains_key(key), home.file.clone(), home.entry)
        });
        let mut accepted: Vec<&IpPool> = Vec::new();
        for (key, home) in pools {
            let Some(Entry { resource: Resource::IpPool(pool), position }) = self.entry(&home)
            else {
                continue;
            };
            let mut faults = Faults::default();
            validate_no_overlap(&key.name, &pool.spec, accepted.iter().copied(), &mut faults);
            if faults.is_empty() {
                accepted.push(pool);
                continue;
            }
            in_force.remove(&key);
            let line = position.as_ref().map_or(0, |position| position.line);
            let located = |refusal| Refusal { file: home.file.clone(), line, ..refusal };
            conflicts.extend(faults.into_refusals(&key).into_iter().map(located));
        }
    }
}

/// Reads a file; what it had before and can't be read any more is kept.
fn load(file: &Path, stamp: Stamp, old: Option<&FileState>) -> FileState {
    let mut state =
        FileState { stamp, entries: Vec::new(), refusals: Vec::new(), warnings: Vec::new() };
    match read(file, stamp.bytes) {
        Ok(text) => {
            let parsed = parse_documents(&text, file);
            state.refusals = parsed.refusals;
            state.warnings = parsed.warnings;
            state.entries = parsed
                .objects
                .into_iter()
                .map(|located| {
                    let mut resource = located.resource;
                    revision::stamp(&mut resource);
                    Entry { resource, position: Some(located.position) }
                })
                .collect();
        }
        Err(refusal) => state.refusals.push(*refusal),
    }
    if let Some(old) = old {
        keep_last_good(&mut state, old);
    }
    state
}

fn read(file: &Path, bytes: u64) -> Result<String, Box<Refusal>> {
    let refused =
        |reason: String| Box::new(Refusal { file: file.to_owned(), reason, ..Refusal::default() });
    if bytes > MAX_FILE_BYTES {
        return Err(refused(format!(
            "has {bytes} bytes; files of at most {MAX_FILE_BYTES} are read"
        )));
    }
    let bytes = fs::read(file).map_err(|error| refused(format!("cannot be read: {error}")))?;
    String::from_utf8(bytes).map_err(|_| refused("is not UTF-8 text".to_owned()))
}

fn keep_last_good(state: &mut FileState, old: &FileState) {
    if state.refusals.is_empty() {
        return;
    }
    // Without a kind and a name, the refused object may be any of those that are missing now.
    let nameless =
        state.refusals.iter().any(|refusal| refusal.kind.is_empty() || refusal.name.is_empty());
    for entry in &old.entries {
        let key = entry.resource.key();
        let there = state.entries.iter().any(|new| new.resource.key() == key);
        let named = || state.refusals.iter().any(|refusal| is_about(refusal, &key));
        if !there && (nameless || named()) {
            state.entries.push(Entry { resource: entry.resource.clone(), position: None });
        }
    }
}

/// Whether a refusal is about this object. A manifest may leave out the namespace `default`.
fn is_about(refusal: &Refusal, key: &Key) -> bool {
    let (namespace, name) = match refusal.name.split_once('/') {
        Some((namespace, name)) => (Some(namespace), name),
        None => (None, refusal.name.as_str()),
    };
    let wanted = key.namespace.as_deref();
    refusal.kind == key.kind.as_str()
        && name == key.name
        && (wanted == namespace || (namespace.is_none() && wanted == Some("default")))
}

/// The manifests below a directory, sorted, and the directories. What begins with a dot is not looked at.
pub(super) fn walk(dir: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), Error> {
    let mut files = Vec::new();
    let mut directories = vec![dir.to_owned()];
    let mut next = 0;
    while let Some(current) = directories.get(next).cloned() {
        next += 1;
        let entries = match fs::read_dir(&current) {
            Ok(entries) => entries,
            // A directory may go away while its parent is being read; the top one must be there.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && current != dir => {
                continue;
            }
            Err(error) => return Err(io("list", &current)(error)),
        };
        for entry in entries {
            let entry = entry.map_err(io("list", &current))?;
            let path = entry.path();
            if entry.file_name().to_string_lossy().starts_with('.') {
                continue;
            }
            // Links to files are followed, as Kubernetes mounts its ConfigMaps; links to directories could form a ring.
            let kind = entry.file_type().map_err(io("look at", &path))?;
            if kind.is_dir() {
                directories.push(path);
            } else if is_manifest(&path) && path.is_file() {
                files.push(path);
            }
        }
    }
    files.sort_unstable();
    Ok((files, directories))
}

fn is_manifest(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
}
