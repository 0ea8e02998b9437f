//! Jobs that nobody comes back to.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::hold;
use super::tree::JOBS;
use crate::beneath::Beneath;
use crate::catalogue::{Catalogue, JobRow};

/// Removes what jobs beneath `root` have staged if nothing was done for them since `since`, and forgets them. Jobs that
/// an attempt is at work on are left alone. Returns how many went.
///
/// Staging folders that the catalogue does not know (it may have been lost) are judged by the time of their manifest.
///
/// # Errors
/// The root or the catalogue cannot be read, or a folder cannot be removed.
pub fn remove_abandoned(root: &Path, catalogue: &Catalogue, since: SystemTime) -> io::Result<u64> {
    let root = Beneath::open(&std::path::absolute(root)?)?.without_links();
    let jobs = catalogue.jobs().map_err(io::Error::other)?;
    let names = match root.names(JOBS) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        names => names?,
    };
    let mut count = 0;
    for name in names {
        let folder = format!("{JOBS}/{name}");
        let path = root.join(&folder);
        let rows = || jobs.iter().filter(|row| row.dir == path);
        // The lock is on this handle.
        let Some(_lock) = hold::try_lock(&root, &folder)? else { continue };
        if last_use(&root, &folder, rows())? >= since {
            continue;
        }
        for row in rows() {
            catalogue.job_forget(row.id).map_err(io::Error::other)?;
        }
        hold::remove(&root, &folder)?;
        count += 1;
    }
    Ok(count)
}

fn last_use<'a>(
    root: &Beneath,
    folder: &str,
    rows: impl Iterator<Item = &'a JobRow>,
) -> io::Result<SystemTime> {
    let mut last = rows.map(|row| row.used).max().unwrap_or(UNIX_EPOCH);
    for path in [folder.to_owned(), format!("{folder}/manifest")] {
        let changed = root.stat(&path)?.and_then(|stat| u64::try_from(stat.st_mtime).ok());
        last = last.max(changed.map_or(UNIX_EPOCH, |secs| UNIX_EPOCH + Duration::from_secs(secs)));
    }
    Ok(last)
}
