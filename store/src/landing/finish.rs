//! The end of a job: final names.
//!
//! Everything is durable in the staging folder by now. Names are given by `rename`, in the order of the manifest;
//! directories get their times last, because every rename changes them. A crash in the middle is repaired by the
//! next attempt: what is no longer staged has its name already.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::time::SystemTime;

use metra_core::code::Code;
use metra_core::id::EntryIndex;
use metra_core::manifest::{Entry, EntryKind, Ledger};
use rustix::fs::{AtFlags, Mode, OFlags};

use super::plan::Fate;
use super::tree::{TreeLanding, set_meta, set_meta_at};
use super::{FinishReport, LandError, Meta};
use crate::beneath::split;
use crate::catalogue::Phase;
use crate::existing;
use crate::source::ManifestCache;

/// With more names than this, the file system is synced as a whole.
const SYNC_SINGLY: usize = 8;

impl TreeLanding {
    pub(super) fn finish_job(&self, ledger: &Ledger, gone: &[u32]) -> Result<FinishReport, LandError> {
        let journal = |e: crate::CatalogueError| LandError::new("catalogue", io::Error::other(e));
        self.catalogue.job_set_phase(self.job, Phase::Finishing, SystemTime::now()).map_err(journal)?;
        self.close_files();
        let broken = broken_entries(ledger, gone);
        let mut report = FinishReport::default();
        let mut directories = Vec::new();
        let mut parents = HashSet::new();
        for index in (0..ledger.entries()).map(EntryIndex) {
            let Some(entry) = ledger.entry(index) else { continue };
            let fate = self.fate(index);
            let size = ledger.size_of(index).unwrap_or(0);
            let result = match fate {
                Fate::Refused | Fate::Withdrawn => {
                    report.failed += 1;
                    continue;
                }
                _ if ledger.is_withdrawn(index) => {
                    report.failed += 1;
                    continue;
                }
                _ if broken.contains(&index.0) => {
                    Err((Code::Changed, "the source no longer has its bytes".into()))
                }
                Fate::Kept => Ok(()),
                Fate::Write => {
                    if entry.kind == EntryKind::Directory {
                        directories.push(index);
                    }
                    self.place_entry(index, &entry, size).map_err(|e| (code_of(&e), e.to_string()))
                }
            };
            match result {
                Ok(()) => {
                    report.entries += 1;
                    report.bytes += size;
                    if parents.len() <= SYNC_SINGLY {
                        parents.insert(split(&self.final_path(&entry.path)).0.to_owned());
                    }
                    self.learn(ledger, index, &entry);
                }
                Err((code, reason)) => {
                    report.failed += 1;
                    report.statuses.push((index, entry.path, code, reason));
                }
            }
        }
        for index in directories.into_iter().rev() {
            if let Some(entry) = ledger.entry(index) {
                self.dress_directory(&entry).map_err(|e| LandError::new(&entry.path, e))?;
            }
        }
        self.sync_names(&parents).map_err(|e| LandError::new(&self.target.dest, e))?;
        // Before the staging folder goes: a journal must never speak of files that are not there.
        self.catalogue.job_forget(self.job).map_err(journal)?;
        self.clean_up();
        Ok(report)
    }

    /// Gives one entry its final name.
    fn place_entry(&self, index: EntryIndex, entry: &Entry, size: u64) -> io::Result<()> {
        let path = self.final_path(&entry.path);
        let (parent, name) = split(&path);
        let dir = self.root.make_dir(parent)?;
        match &entry.kind {
            EntryKind::Directory => {
                self.root.make_dir(&path)?;
                Ok(())
            }
            EntryKind::Symlink { target } => {
                let staged = self.fresh_name(index)?;
                rustix::fs::symlinkat(target.as_str(), self.root.root(), &staged)?;
                rustix::fs::renameat(self.root.root(), &staged, &dir, name)?;
                set_meta_at(&dir, name, &self.meta(entry), true)
            }
            EntryKind::File { .. } | EntryKind::Stream => {
                let staged = self.staged_path("files", index);
                if size == 0 {
                    self.make_empty(&staged, entry)?;
                } else if entry.is_large() && !self.complete_large(&staged, entry, size)? {
                    return self.placed_before(&path, size);
                }
                match rustix::fs::renameat(self.root.root(), &staged, &dir, name) {
                    Ok(()) => Ok(()),
                    Err(rustix::io::Errno::NOENT) => self.placed_before(&path, size),
                    Err(e) => Err(e.into()),
                }
            }
        }
    }

    /// Size, mode and time of a large file; its bytes are all there. `false`: it is not staged.
    fn complete_large(&self, staged: &str, entry: &Entry, size: u64) -> io::Result<bool> {
        let file = match self.root.open_at(staged, OFlags::RDWR, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        };
        // A trailing hole was never written; bytes of an earlier, longer attempt may stand behind the end.
        if file.metadata()?.len() != size {
            file.set_len(size)?;
        }
        let meta = self.meta(entry);
        if meta.mode.is_none() {
            rustix::fs::fchmod(&file, Mode::from_raw_mode(super::tree::default_mode(0o666)))?;
        }
        set_meta(&file, &meta, true)?;
        file.sync_all()?;
        Ok(true)
    }

    fn make_empty(&self, staged: &str, entry: &Entry) -> io::Result<()> {
        self.root.make_dir(split(staged).0)?;
        let meta = self.meta(entry);
        let mode = Mode::from_raw_mode(meta.mode.unwrap_or(0o666) & 0o777);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
        let file = File::from(self.root.open_at(staged, flags, mode)?);
        set_meta(&file, &meta, true)
    }

    /// A file that is not staged any more was given its name by an attempt that was interrupted after that.
    fn placed_before(&self, path: &str, size: u64) -> io::Result<()> {
        match self.root.stat(path)? {
            Some(stat) if stat.st_size as u64 == size => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::NotFound, "its staged file is gone")),
        }
    }

    fn dress_directory(&self, entry: &Entry) -> io::Result<()> {
        let path = self.final_path(&entry.path);
        if path.is_empty() {
            return Ok(());
        }
        let (parent, name) = split(&path);
        set_meta_at(&self.root.dir(parent)?, name, &self.meta(entry), false)
    }

    /// A name in the staging folder at which nothing stands.
    fn fresh_name(&self, index: EntryIndex) -> io::Result<String> {
        let staged = self.staged_path("files", index);
        self.root.make_dir(split(&staged).0)?;
        match rustix::fs::unlinkat(self.root.root(), &staged, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(staged),
            Err(e) => Err(e.into()),
        }
    }

    fn meta(&self, entry: &Entry) -> Meta {
        Meta {
            mode: entry.mode.filter(|_| self.target.keep.mode),
            mtime: entry.mtime.filter(|_| self.target.keep.times),
        }
    }

    /// Remembers the chunks of a large file that is in place now, so that the next version of it, or the way back,
    /// need not read it.
    fn learn(&self, ledger: &Ledger, index: EntryIndex, entry: &Entry) {
        if !entry.is_large() {
            return;
        }
        let path = self.final_path(&entry.path);
        let Ok(fd) = self.root.open_at(&path, OFlags::RDONLY, Mode::empty()) else { return };
        let Ok(id) = existing::identity(&File::from(fd), &self.root.join(&path)) else { return };
        let chunks: Vec<_> = ledger
            .chunks_of(index)
            .filter_map(|c| ledger.chunk(metra_core::id::ChunkIndex(c)))
            .map(|info| (info.len, info.hash))
            .collect();
        self.catalogue.append(&id, 0, &chunks, true);
    }

    fn sync_names(&self, parents: &HashSet<String>) -> io::Result<()> {
        if parents.len() > SYNC_SINGLY {
            rustix::fs::syncfs(self.root.root())?;
            return Ok(());
        }
        for parent in parents {
            let mut parent = parent.as_str();
            // A directory made on the way is as new as the name in it.
            loop {
                match self.root.open_at(parent, OFlags::DIRECTORY, Mode::empty()) {
                    Ok(dir) => rustix::fs::fsync(&dir)?,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => return Err(e),
                }
                if parent.is_empty() {
                    break;
                }
                parent = split(parent).0;
            }
        }
        Ok(())
    }

    /// Removes the staging folder. A failure leaves rubbish, not harm: the job is done.
    fn clean_up(&self) {
        self.root.forget();
        if let Err(e) = self.root.remove(&self.staging, true) {
            tracing::warn!(staging = %self.staging, error = %e, "the staging folder could not be removed");
        }
        // The folders above are shared with other jobs: they go only when they are empty.
        for folder in
            [format!("{OWN}/jobs", OWN = super::tree::OWN_FOLDER), super::tree::OWN_FOLDER.to_owned()]
        {
            let _ = self.root.remove(&folder, false);
        }
    }
}

/// Entries that miss bytes.
fn broken_entries(ledger: &Ledger, gone: &[u32]) -> HashSet<u32> {
    gone.iter()
        .flat_map(|chunk| ledger.segments(metra_core::id::ChunkIndex(*chunk)))
        .map(|segment| segment.entry.0)
        .collect()
}

fn code_of(e: &io::Error) -> Code {
    match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Code::NoSpace,
        _ => Code::WriteFailed,
    }
}
