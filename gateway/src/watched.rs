//! Small files that may change while the gateway runs: policies, keys.

use std::fmt::Display;
use std::path::Path;
use std::time::SystemTime;

/// What tells that a file is another one: also where a link to it is turned. `None`: it cannot be looked at.
pub(crate) type Stamp = Option<(SystemTime, u64)>;

/// The stamp of a file now. Taken before the file is read, so that what changes meanwhile is read again.
pub(crate) fn stamp(file: &Path) -> Stamp {
    let meta = std::fs::metadata(file).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}

/// The text of a file of at most `max` bytes.
///
/// # Errors
/// It cannot be read, is no text, or is longer; with its path. Fault: the configuration, or the disk.
pub(crate) fn read(file: &Path, max: u64) -> Result<String, String> {
    let about = |e: &dyn Display| format!("{}: {e}", file.display());
    let meta = std::fs::metadata(file).map_err(|e| about(&e))?;
    if meta.len() > max {
        return Err(about(&format_args!("longer than {} KiB", max / 1024)));
    }
    std::fs::read_to_string(file).map_err(|e| about(&e))
}
