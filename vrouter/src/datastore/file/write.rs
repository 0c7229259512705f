//! How does one object get onto the disk whole, or not at all?

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use super::{Error, io};
use crate::api::{Key, Resource};

const TEMPORARY: &str = ".writing-";

/// The file a program's own object gets.
pub(super) fn own_file(dir: &Path, key: &Key) -> PathBuf {
    let name = match &key.namespace {
        Some(namespace) => format!("{namespace}.{}.yaml", key.name),
        None => format!("{}.yaml", key.name),
    };
    dir.join(key.kind.as_str().to_ascii_lowercase()).join(name)
}

/// Writes an object into its own file.
pub(super) fn write(dir: &Path, resource: &Resource) -> Result<(), Error> {
    let file = own_file(dir, &resource.key());
    let parent = file.parent().unwrap_or(dir);
    if !parent.exists() {
        fs::create_dir_all(parent).map_err(io("create the directory", parent))?;
        sync_directory(dir)?;
    }
    write_whole(&file, resource.to_yaml().as_bytes())
}

/// Puts `content` in the place of a file: a reader, and a machine that lost its power, sees the old or the new.
pub(super) fn write_whole(file: &Path, content: &[u8]) -> Result<(), Error> {
    let parent = file.parent().unwrap_or(Path::new("."));
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    // A name of 255 bytes is all a directory takes; the lock keeps two writers from the same one.
    let short: String = name.chars().take(180).collect();
    let temporary = parent.join(format!("{TEMPORARY}{}-{short}", std::process::id()));
    let result = write_and_rename(&temporary, file, content);
    if result.is_err() {
        // What matters is the first error; a leftover is removed by the next process that opens the directory.
        let _ = fs::remove_file(&temporary);
    }
    result?;
    sync_directory(parent)
}

fn write_and_rename(temporary: &Path, file: &Path, content: &[u8]) -> Result<(), Error> {
    let mut open = File::create(temporary).map_err(io("create", temporary))?;
    if let Ok(existing) = fs::metadata(file) {
        open.set_permissions(existing.permissions()).map_err(io("set the mode of", temporary))?;
    }
    open.write_all(content).map_err(io("write", temporary))?;
    open.sync_all().map_err(io("write", temporary))?;
    fs::rename(temporary, file).map_err(io("replace", file))
}

/// Removes a file for good.
pub(super) fn remove(file: &Path) -> Result<(), Error> {
    fs::remove_file(file).map_err(io("delete", file))?;
    sync_directory(file.parent().unwrap_or(Path::new(".")))
}

fn sync_directory(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|open| open.sync_all()).map_err(io("write", dir))
}

/// Removes what processes left that died while they wrote.
pub(super) fn remove_leftovers(dir: &Path) -> Result<(), Error> {
    let entries = fs::read_dir(dir).map_err(io("list", dir))?;
    for entry in entries.flatten() {
        let path = entry.path();
        let kind = entry.file_type().map_err(io("look at", &path))?;
        if kind.is_dir() {
            remove_leftovers(&path)?;
        } else if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            fs::remove_file(&path).map_err(io("delete", &path))?;
        }
    }
    Ok(())
}
