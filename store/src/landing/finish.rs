//! The end of a job: final names.
//!
//! 1. What has no chunks is made, and what has is given its size, mode and time, all in the staging folder; synced.
//! 2. If there is a [`Gate`](super::Gate), it is asked about every file, which may keep it from its name.
//! 3. Names are given by `rename`, in the order of the manifest; directories are made on the way.
//! 4. Directories get their modes and times, the deepest first: every rename would change the time, and a mode may
//!    forbid it. The names are synced.
//! 5. The journal forgets the job, and the staging folder goes.
//!
//! A crash in the middle is repaired by the next attempt: what is no longer staged has its name already, and planning
//! finds it there by its bytes.

use std::collections::{BTreeSet, HashSet};
use std::io;

use metra_core::code::Code;
use metra_core::id::{ChunkIndex, EntryIndex};
use metra_core::manifest::{Entry, EntryKind, Ledger};
use metra_core::wire::Overwrite;
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::judge::refusal;
use super::meta::{OWNER, PERMISSIONS};
use super::plan::Fate;
use super::tree::TreeLanding;
use super::{FinishReport, LandError, Meta};
use crate::beneath::split;
use crate::existing;
use crate::source::ManifestCache;

/// With more names than this, the file system is synced as a whole.
const SYNC_SINGLY: usize = 8;
/// Statuses in a report; what is more is only counted.
const STATUSES_MAX: usize = 4096;

impl TreeLanding {
    pub(super) fn finish_job(&self, ledger: &Ledger, gone: &[u32]) -> Result<FinishReport, LandError> {
        self.journal.finishing()?;
        self.staging.close();
        self.root.forget();
        let mut finish = Finish {
            to: self,
            ledger,
            fates: std::mem::take(&mut self.plan.lock().expect("no panic while held").fates),
            broken: broken_entries(ledger, gone),
            directories: Vec::new(),
            parents: BTreeSet::new(),
            report: FinishReport::default(),
            may_be_tried_again: false,
        };
        finish.prepare()?;
        finish.examine()?;
        finish.give_names()?;
        finish.dress_directories();
        finish.sync_names().map_err(|e| LandError::new(&self.target.dest, e))?;
        let Finish { report, may_be_tried_again, .. } = finish;
        // What is staged and could not get its name is not thrown away: the next attempt may succeed.
        if !may_be_tried_again {
            self.clean_up()?;
        }
        Ok(report)
    }
}

pub(super) struct Finish<'a> {
    pub(super) to: &'a TreeLanding,
    pub(super) ledger: &'a Ledger,
    fates: Vec<Fate>,
    /// Entries that miss bytes.
    pub(super) broken: HashSet<u32>,
    /// Directories to be dressed: how deep, which, and the mode to go back to if none is kept.
    directories: Vec<(usize, EntryIndex, Option<u32>)>,
    /// Where names were given; no more than one above [`SYNC_SINGLY`].
    parents: BTreeSet<String>,
    report: FinishReport,
    pub(super) may_be_tried_again: bool,
}

impl Finish<'_> {
    pub(super) fn fate(&self, index: EntryIndex) -> Fate {
        match self.fates.get(index.0 as usize) {
            _ if self.ledger.is_withdrawn(index) => Fate::Withdrawn,
            Some(fate) => *fate,
            None => Fate::Refused,
        }
    }

    /// Step 1.
    fn prepare(&mut self) -> Result<(), LandError> {
        for index in (0..self.ledger.entries()).map(EntryIndex) {
            if self.fate(index) != Fate::Write || self.broken.contains(&index.0) {
                continue;
            }
            let Some(entry) = self.ledger.entry(index) else { continue };
            let size = self.ledger.size_of(index).unwrap_or(0);
            let done = match &entry.kind {
                EntryKind::Directory => continue,
                EntryKind::Symlink { target } => self.stage_link(index, &entry, target),
                EntryKind::File { .. } | EntryKind::Stream if size == 0 => {
                    let meta = Meta { mode: entry.mode, mtime: entry.mtime };
                    self.to.staging.write_whole(index, &[], meta)
                }
                _ if entry.is_large() => self.complete(index, &entry, size),
                _ => continue,
            };
            if let Err(error) = done {
                self.failed(index, entry.path, error)?;
            }
        }
        self.to.staging.sync().map_err(|e| LandError::new("staging", e))
    }

    fn stage_link(&self, index: EntryIndex, entry: &Entry, target: &str) -> io::Result<()> {
        let (dir, name) = self.to.staging.home(index)?;
        match rustix::fs::unlinkat(&dir, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(e.into()),
        }
        rustix::fs::symlinkat(target, &dir, &name)?;
        Meta::of(entry, self.to.target.keep).apply_to_link(&dir, &name)
    }

    /// Size, mode and time of a large file; its bytes are all there.
    fn complete(&self, index: EntryIndex, entry: &Entry, size: u64) -> io::Result<()> {
        let Some(file) = self.to.staging.existing(index)? else {
            return Err(io::Error::new(io::ErrorKind::NotFound, "its staged file is gone"));
        };
        // A hole at the end was never written; bytes of an earlier, longer attempt may stand behind the end.
        if file.metadata()?.len() != size {
            file.set_len(size)?;
        }
        Meta::of(entry, self.to.target.keep).apply(&file, None)?;
        self.to.staging.mark(index);
        Ok(())
    }

    /// Step 3.
    fn give_names(&mut self) -> Result<(), LandError> {
        for index in (0..self.ledger.entries()).map(EntryIndex) {
            let fate = self.fate(index);
            match fate {
                // Reported in step 1 or 2.
                Fate::Failed => continue,
                Fate::Refused | Fate::Withdrawn => {
                    self.report.failed += 1;
                    continue;
                }
                Fate::Write | Fate::Kept | Fate::KeptButMode => {}
            }
            let Some(entry) = self.ledger.entry(index) else { continue };
            if fate == Fate::Write && self.broken.contains(&index.0) {
                self.refuse(index, entry.path, (Code::Changed, "the source no longer has its bytes".into()));
                continue;
            }
            let path = self.to.place.path(&entry.path);
            let done = match fate {
                Fate::KeptButMode => self.set_mode(&path, &entry),
                Fate::Write => self.give_name(index, &entry, &path),
                _ => Ok(()),
            };
            match done {
                Ok(()) => {
                    self.report.entries += 1;
                    self.report.bytes += self.ledger.size_of(index).unwrap_or(0);
                    if self.parents.len() <= SYNC_SINGLY && !self.parents.contains(split(&path).0) {
                        self.parents.insert(split(&path).0.to_owned());
                    }
                    if entry.is_large() {
                        self.learn(index, &path);
                    }
                }
                Err(error) => self.failed(index, entry.path, error)?,
            }
        }
        Ok(())
    }

    fn give_name(&mut self, index: EntryIndex, entry: &Entry, path: &str) -> io::Result<()> {
        if entry.kind == EntryKind::Directory {
            return self.make_directory(index, entry, path);
        }
        let (parent, name) = split(path);
        let target = self.to.root.make_dir(parent)?;
        let (home, staged) = self.to.staging.home(index)?;
        if self.to.target.overwrite != Overwrite::Never {
            return Ok(rustix::fs::renameat(&home, &staged, &target, name)?);
        }
        // Whatever came there since planning stays.
        match rustix::fs::renameat_with(&home, &staged, &target, name, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::NOSYS) => match self.to.root.stat(path)? {
                Some(_) => Err(Errno::EXIST.into()),
                None => Ok(rustix::fs::renameat(&home, &staged, &target, name)?),
            },
            done => Ok(done?),
        }
    }

    /// Makes a directory in which the rest of the job can work, whatever its mode is to be.
    fn make_directory(&mut self, index: EntryIndex, entry: &Entry, path: &str) -> io::Result<()> {
        let meta = Meta::of(entry, self.to.target.keep);
        let mode = meta.mode.unwrap_or(PERMISSIONS) | OWNER;
        let made = self.to.root.make_new(path, Mode::from_raw_mode(mode))?;
        // That it is a directory, and no link to one.
        let fd = self.to.root.dir(path)?;
        let mut before = None;
        if !made {
            if self.to.target.overwrite == Overwrite::Never && !self.to.was_finishing {
                return Ok(());
            }
            let mode = rustix::fs::fstat(&fd)?.st_mode & 0o7777;
            if mode & OWNER != OWNER {
                let (parent, name) = split(path);
                let parent = self.to.root.dir(parent)?;
                // Somebody else's directory may still be open to us: that shows when names are given in it.
                if rustix::fs::chmodat(&parent, name, Mode::from_raw_mode(mode | OWNER), AtFlags::empty())
                    .is_ok()
                {
                    before = Some(mode & PERMISSIONS);
                }
            }
        }
        self.directories.push((path.matches('/').count(), index, before));
        Ok(())
    }

    /// Sets the mode of a file that is the same otherwise.
    fn set_mode(&self, path: &str, entry: &Entry) -> io::Result<()> {
        let file = self.to.root.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?;
        Meta { mtime: None, ..Meta::of(entry, self.to.target.keep) }.apply(&file.into(), None)
    }

    /// Remembers the chunks of a large file that is in place now, so that the next version of it, or the way back,
    /// need not read it.
    fn learn(&self, index: EntryIndex, path: &str) {
        let Ok(fd) = self.to.root.open_at(path, OFlags::RDONLY, Mode::empty()) else { return };
        let Ok(id) = existing::identity(&fd.into(), &self.to.root.join(path)) else { return };
        let infos = self.ledger.chunks_of(index).filter_map(|c| self.ledger.chunk(ChunkIndex(c)));
        let chunks: Vec<_> = infos.map(|info| (info.len, info.hash)).collect();
        self.to.catalogue.append(&id, 0, &chunks, true);
    }

    /// Step 4. What fails here is left as it is: the directory may be somebody else's.
    fn dress_directories(&mut self) {
        let mut directories = std::mem::take(&mut self.directories);
        directories.sort_by_key(|directory| std::cmp::Reverse(directory.0));
        for (_, index, before) in directories {
            let Some(entry) = self.ledger.entry(index) else { continue };
            if let Err(error) = self.dress(&entry, before) {
                tracing::warn!(path = entry.path, %error, "mode or time of a directory could not be set");
            }
        }
    }

    fn dress(&self, entry: &Entry, before: Option<u32>) -> io::Result<()> {
        let meta = Meta::of(entry, self.to.target.keep);
        let meta = Meta { mode: meta.mode.or(before), ..meta };
        if meta == Meta::default() {
            return Ok(());
        }
        let dir = self.to.root.open_at(&self.to.place.path(&entry.path), OFlags::DIRECTORY, Mode::empty())?;
        let mode = rustix::fs::fstat(&dir)?.st_mode & 0o7777;
        // The bits that are not carried stay as they are.
        let wanted = meta.mode.map(|wanted| wanted | mode & !PERMISSIONS);
        Meta { mode: wanted, ..meta }.apply(&dir.into(), Some(mode))
    }

    fn sync_names(&self) -> io::Result<()> {
        if self.parents.len() > SYNC_SINGLY {
            return Ok(rustix::fs::syncfs(self.to.root.root())?);
        }
        // A directory made on the way is as new as the name in it.
        let mut folders = BTreeSet::from([""]);
        for parent in &self.parents {
            let mut parent = parent.as_str();
            while folders.insert(parent) {
                parent = split(parent).0;
            }
        }
        for folder in folders {
            match self.to.root.open_at(folder, OFlags::DIRECTORY, Mode::empty()) {
                Ok(dir) => rustix::fs::fsync(&dir)?,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                // Its mode does not let it be opened.
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                    return Ok(rustix::fs::syncfs(self.to.root.root())?);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// An entry failed here: that is the end for it, or for the job if the others must fail as well.
    pub(super) fn failed(
        &mut self,
        index: EntryIndex,
        path: String,
        error: io::Error,
    ) -> Result<(), LandError> {
        use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        let of_all = matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem)
            || matches!(Errno::from_io_error(&error), Some(Errno::IO | Errno::MFILE | Errno::NFILE));
        if of_all {
            return Err(LandError::new(path, error));
        }
        self.lost(index);
        let (code, reason) = refusal(&error);
        // What is in the way stays there; anything else may be over the next time.
        self.may_be_tried_again |= code == Code::WriteFailed;
        self.refuse(index, path, (code, reason));
        Ok(())
    }

    /// It gets no name.
    pub(super) fn lost(&mut self, index: EntryIndex) {
        if let Some(fate) = self.fates.get_mut(index.0 as usize) {
            *fate = Fate::Failed;
        }
    }

    pub(super) fn refuse(&mut self, index: EntryIndex, path: String, (code, reason): (Code, String)) {
        self.report.failed += 1;
        if self.report.statuses.len() < STATUSES_MAX {
            self.report.statuses.push((index, path, code, reason));
        }
    }
}

/// Entries that miss bytes.
pub(super) fn broken_entries(ledger: &Ledger, gone: &[u32]) -> HashSet<u32> {
    gone.iter().flat_map(|chunk| ledger.segments(ChunkIndex(*chunk))).map(|segment| segment.entry.0).collect()
}
