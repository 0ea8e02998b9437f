//! Modes and times.
//!
//! Only the permission bits 0o777 of a mode are applied. Set-user-id and set-group-id would be granted in the name of
//! whoever runs the sink, which is not the owner of the source; the sticky bit means nothing on a file. A directory
//! that is there keeps these bits as they are.

use std::fs::File;
use std::io;
use std::sync::OnceLock;

use metra_core::manifest::{Entry, Timestamp};
use metra_core::wire::Keep;
use rustix::fs::{AtFlags, Mode, Timestamps};

use super::Meta;

/// The bits of a mode that are applied.
pub(super) const PERMISSIONS: u32 = 0o777;
/// What an owner needs to work in a directory.
pub(super) const OWNER: u32 = 0o700;
/// The mode of a file, before the process's mask, if none is kept.
pub(super) const FILE: u32 = 0o666;

impl Meta {
    /// What of an entry's metadata is applied.
    pub(super) fn of(entry: &Entry, keep: Keep) -> Self {
        Self { mode: entry.mode, mtime: entry.mtime }.kept(keep)
    }

    /// Less what is not kept.
    pub(super) fn kept(self, keep: Keep) -> Self {
        let mode = self.mode.filter(|_| keep.mode).map(|mode| mode & PERMISSIONS);
        Self { mode, mtime: self.mtime.filter(|_| keep.times) }
    }

    /// Applies it to an open file whose mode is `mode`.
    pub(super) fn apply(&self, file: &File, mode: Option<u32>) -> io::Result<()> {
        if let Some(wanted) = self.mode
            && mode != Some(wanted)
        {
            rustix::fs::fchmod(file, Mode::from_raw_mode(wanted))?;
        }
        if let Some(mtime) = self.mtime {
            rustix::fs::futimens(file, &times(mtime))?;
        }
        Ok(())
    }

    /// Applies the time to a symbolic link; links have no mode.
    pub(super) fn apply_to_link(&self, dir: impl std::os::fd::AsFd, name: &str) -> io::Result<()> {
        if let Some(mtime) = self.mtime {
            rustix::fs::utimensat(dir, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }
}

/// The mode that a file made with `mode` gets under the process's mask. `None`: the mask is not known.
pub(super) fn masked(mode: u32) -> Option<u32> {
    static MASK: OnceLock<Option<u32>> = OnceLock::new();
    let mask = MASK.get_or_init(|| {
        // Asking with umask(2) would change it for a moment, for all threads.
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find_map(|l| l.strip_prefix("Umask:"))?;
        u32::from_str_radix(line.trim(), 8).ok()
    });
    mask.map(|mask| mode & PERMISSIONS & !mask)
}

/// Time of modification as given, time of access left alone.
fn times(mtime: Timestamp) -> Timestamps {
    Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        last_modification: rustix::fs::Timespec { tv_sec: mtime.secs, tv_nsec: i64::from(mtime.nanos) as _ },
    }
}
