//! The temporary folder of the demo, and the large file in it.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::Stop;
use crate::exit::{Exit, Failure};
use crate::output;

/// A folder that is removed when this is dropped.
pub(super) struct Place {
    path: PathBuf,
    free: u64,
    keep: bool,
}

impl Place {
    /// A new folder where `bytes` have room, and some more for journals.
    pub(super) fn new(bytes: u64, keep: bool) -> Result<Self, Failure> {
        let needed = bytes + bytes / 20 + (64 << 20);
        let mut looked_at = Vec::new();
        for dir in candidates() {
            let Ok(stat) = rustix::fs::statvfs(&dir) else { continue };
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            looked_at.push(format!("{} has {}", dir.display(), output::bytes(free)));
            if free < needed {
                continue;
            }
            let Ok(folder) = tempfile::Builder::new().prefix("metra-demo-").tempdir_in(&dir) else {
                continue;
            };
            return Ok(Self { path: folder.keep(), free, keep });
        }
        let message = format!(
            "{} are needed for a while, and {}; set TMPDIR to a folder with more room, or use a smaller --size or \
             PATH",
            output::bytes(needed),
            if looked_at.is_empty() { "no folder can be written".to_owned() } else { looked_at.join(", ") }
        );
        Err(Failure::new(Exit::Fatal, message))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that were free before the demo.
    pub(super) fn free(&self) -> u64 {
        self.free
    }

    pub(super) fn is_kept(&self) -> bool {
        self.keep
    }

    pub(super) fn remove(&self) {
        if fs::remove_dir_all(&self.path).is_ok() || !self.path.exists() {
            return;
        }
        // A directory that is a copy of one without the right to write in it.
        make_writable(&self.path);
        if let Err(e) = fs::remove_dir_all(&self.path) {
            eprintln!("metra: {}: cannot be removed: {e}", self.path.display());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.keep && self.path.exists() {
            self.remove();
        }
    }
}

/// What the user has chosen; else a folder on a disk rather than one in memory.
fn candidates() -> Vec<PathBuf> {
    if let Some(chosen) = std::env::var_os("TMPDIR").filter(|dir| !dir.is_empty()) {
        return vec![chosen.into()];
    }
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
    [Some("/var/tmp".into()), Some(std::env::temp_dir()), beside].into_iter().flatten().collect()
}

fn make_writable(dir: &Path) {
    // What does not work here shows when the folder is removed.
    let _ = fs::set_permissions(dir, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            make_writable(&entry.path());
        }
    }
}

/// Writes bytes that do not compress, different ones each time.
pub(super) fn write_random(path: &Path, size: u64, stop: &Stop) -> Result<(), Failure> {
    let failed = |e: std::io::Error| Failure::io(path.display(), &e);
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).map_err(failed)?);
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let mut state = seed.as_nanos() as u64;
    let mut block = vec![0; 1 << 20];
    let mut left = size;
    while left > 0 {
        stop.check()?;
        for word in block.chunks_exact_mut(8) {
            word.copy_from_slice(&next(&mut state).to_le_bytes());
        }
        let part = left.min(block.len() as u64);
        file.write_all(&block[..part as usize]).map_err(failed)?;
        left -= part;
    }
    file.flush().map_err(failed)
}

/// SplitMix64 (Steele, Lea and Flood 2014): not secret, only without patterns.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_place_is_removed_even_if_it_cannot_be_written() {
        let place = Place::new(0, false).unwrap();
        let path = place.path().to_owned();
        fs::create_dir_all(path.join("a/b")).unwrap();
        fs::write(path.join("a/b/c"), "x").unwrap();
        fs::set_permissions(path.join("a/b"), fs::Permissions::from_mode(0o500)).unwrap();
        drop(place);
        assert!(!path.exists());
    }

    #[test]
    fn a_place_that_is_too_small_says_what_is_needed() {
        let failure = Place::new(1 << 55, false).err().unwrap();
        assert!(
            failure.message.contains("33.6 PiB are needed") && failure.message.contains("TMPDIR"),
            "{}",
            failure.message
        );
    }

    #[test]
    fn the_large_file_has_its_size() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("large");
        for size in [0, 5, (1 << 20) + 1] {
            write_random(&path, size, &Stop::default()).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().len(), size);
        }
        let stop = Stop::default();
        stop.set(Exit::Interrupted);
        assert_eq!(write_random(&path, 5, &stop).unwrap_err().exit, Exit::Interrupted);
    }
}
