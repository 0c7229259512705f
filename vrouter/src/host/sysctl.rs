//! How is a network setting under `/proc/sys/net` read and set in the calling thread's namespace?

use std::io;
use std::path::PathBuf;

/// A setting that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("{} = {value}: {source}", path.display())]
pub struct SysctlError {
    path: PathBuf,
    value: String,
    source: io::Error,
}

/// Sets `/proc/sys/net/<path>` unless it has that value already (so that a read-only `/proc/sys`
/// with the right values will do). Says whether it changed anything.
pub(super) fn set(path: &str, value: &str) -> Result<bool, SysctlError> {
    let path = PathBuf::from("/proc/sys/net").join(path);
    if std::fs::read_to_string(&path).is_ok_and(|present| present.trim() == value) {
        return Ok(false);
    }
    std::fs::write(&path, value).map(|()| true).map_err(|source| SysctlError {
        path,
        value: value.into(),
        source,
    })
}
