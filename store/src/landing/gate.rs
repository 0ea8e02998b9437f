//! Who is asked before a file gets its final name.
//!
//! All names are given at the end of a job ([`finish`](super::finish)); between the last byte and the first name every
//! file that would get one is shown to the [`Gate`]. So nothing is under a final name, not even for a moment, that the
//! gate has not let through; a crash in between leaves only staged files, and the next attempt asks again. What was
//! there already and is the same is not shown: it was, when it came.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use metra_core::code::Code;
use metra_core::id::EntryIndex;
use metra_core::manifest::{Entry, EntryKind};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::LandError;
use super::finish::Finish;
use super::plan::Fate;
use super::tree::TreeLanding;

/// Decides which files get their final names. Asked from several threads; may block.
pub trait Gate: Send + Sync {
    /// Whether an entry may come at all, as far as its path beneath the root and its size in bytes tell (`None`: a stream;
    /// 0 for a symbolic link). Asked before any of its chunks is.
    ///
    /// # Errors
    /// It may not: what the peer is told.
    fn announced(&self, path: &str, size: Option<u64>) -> Result<(), (Code, String)>;

    /// Whether any file has to be [examined](Self::examine). Asked once, at the end of the job.
    fn examines(&self) -> bool {
        true
    }

    /// Whether a file may get its final name. It is whole, verified and durable.
    ///
    /// # Errors
    /// The system failed: as if the name could not be given.
    fn examine(&self, file: &Whole<'_>) -> io::Result<Verdict>;

    /// The job is cancelled: whatever [`examine`](Self::examine) waits for, it waits no longer, and returns an error, now and
    /// from now on.
    fn cancel(&self) {}

    /// How many files of a job are examined at a time.
    fn at_once(&self) -> usize {
        1
    }
}

/// A file that is whole and has no final name yet.
#[derive(Debug)]
pub struct Whole<'a> {
    /// Its path to be, beneath the root.
    pub path: &'a str,
    /// Bytes.
    pub size: u64,
    /// For reading, at its start.
    pub content: File,
}

/// What becomes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It gets its name.
    Keep,
    /// It does not. It is removed; with a code that is retryable ([`Code::is_retryable`]) it stays staged, so that the next
    /// attempt at the job asks again and nothing is sent twice.
    Refuse(Code, String),
    /// It is moved to this path, where nothing is yet and its folder is, out of clients' reach, and counts as refused.
    Quarantine(PathBuf, Code, String),
}

/// Verdicts that wait to be acted on.
const QUEUE: usize = 64;

/// What the gate says of an entry of the manifest.
pub(super) fn announced(to: &TreeLanding, entry: &Entry) -> Result<(), (Code, String)> {
    let Some(gate) = &to.gate else { return Ok(()) };
    let size = match &entry.kind {
        EntryKind::Directory => return Ok(()),
        EntryKind::Symlink { .. } => Some(0),
        EntryKind::Stream => None,
        EntryKind::File { size } => Some(*size),
    };
    gate.announced(&to.place.path(&entry.path), size)
}

impl Finish<'_> {
    /// Shows every file that would get a name to the gate, several at a time.
    pub(super) fn examine(&mut self) -> Result<(), LandError> {
        let (to, ledger) = (self.to, self.ledger);
        let Some(gate) = to.gate.as_ref().filter(|gate| gate.examines()) else { return Ok(()) };
        let shown = |index: &EntryIndex| {
            let is_file = |e: Entry| matches!(e.kind, EntryKind::File { .. } | EntryKind::Stream);
            self.fate(*index) == Fate::Write
                && !self.broken.contains(&index.0)
                && ledger.entry(*index).is_some_and(is_file)
        };
        let files: Vec<_> = (0..ledger.entries()).map(EntryIndex).filter(shown).collect();
        let next = AtomicUsize::new(0);
        let (verdicts, judged) = mpsc::sync_channel(QUEUE);
        std::thread::scope(|scope| {
            for _ in 0..gate.at_once().clamp(1, files.len().max(1)) {
                let (verdicts, files, next) = (verdicts.clone(), &files, &next);
                scope.spawn(move || {
                    while let Some(index) = files.get(next.fetch_add(1, Ordering::Relaxed))
                        && !to.cancelled.load(Ordering::Acquire)
                    {
                        let Some(entry) = ledger.entry(*index) else { continue };
                        let size = ledger.size_of(*index).unwrap_or(0);
                        let path = to.place.path(&entry.path);
                        let judged = to
                            .staging
                            .reader(*index)
                            .and_then(|content| gate.examine(&Whole { path: &path, size, content }));
                        // Nobody listens any more: the job has failed.
                        if !matches!(judged, Ok(Verdict::Keep))
                            && verdicts.send((*index, entry, judged)).is_err()
                        {
                            return;
                        }
                    }
                });
            }
            drop(verdicts);
            judged.into_iter().try_for_each(|(index, entry, judged)| self.act(index, entry, judged))
        })?;
        match to.cancelled.load(Ordering::Acquire) {
            true => Err(cancelled()),
            false => Ok(()),
        }
    }

    fn act(&mut self, index: EntryIndex, entry: Entry, judged: io::Result<Verdict>) -> Result<(), LandError> {
        // What the gate says when it is told to stop is said of no file.
        if judged.is_err() && self.to.cancelled.load(Ordering::Acquire) {
            return Err(cancelled());
        }
        let done = match &judged {
            Ok(Verdict::Keep) => return Ok(()),
            Ok(Verdict::Refuse(code, _)) if code.is_retryable() => {
                self.may_be_tried_again = true;
                Ok(())
            }
            Ok(Verdict::Refuse(..)) => self.to.staging.remove(index),
            Ok(Verdict::Quarantine(path, ..)) => self.to.staging.move_away(index, path),
            Err(_) => Ok(()),
        };
        match (judged, done) {
            // Whatever fails, it gets no name.
            (Err(error), _) | (_, Err(error)) => self.failed(index, entry.path, error),
            (Ok(Verdict::Refuse(code, reason) | Verdict::Quarantine(_, code, reason)), Ok(())) => {
                self.lost(index);
                self.refuse(index, entry.path, (code, reason));
                Ok(())
            }
            (Ok(Verdict::Keep), Ok(())) => Ok(()),
        }
    }
}

fn cancelled() -> LandError {
    LandError::new("staging", io::Error::new(io::ErrorKind::ResourceBusy, "the job was cancelled"))
}

impl super::staging::Staging {
    /// A staged file for reading, whatever its mode, which it keeps.
    fn reader(&self, entry: EntryIndex) -> io::Result<File> {
        let (dir, name) = self.home(entry)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(&dir, &name, flags, Mode::empty());
        let fd = match open() {
            Err(Errno::ACCESS) => {
                let stat = rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW)?;
                rustix::fs::chmodat(&dir, &name, Mode::RUSR, AtFlags::empty())?;
                let opened = open();
                let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
                rustix::fs::chmodat(&dir, &name, mode, AtFlags::empty())?;
                opened?
            }
            opened => opened?,
        };
        Ok(fd.into())
    }

    /// Removes a staged file. What the journal says of its chunks is not believed without it.
    fn remove(&self, entry: EntryIndex) -> io::Result<()> {
        let (dir, name) = self.home(entry)?;
        Ok(rustix::fs::unlinkat(&dir, &name, AtFlags::empty())?)
    }

    /// Moves a staged file out of the staging folder, to a name that nothing has, for its owner to read and nobody else.
    fn move_away(&self, entry: EntryIndex, to: &Path) -> io::Result<()> {
        let (dir, name) = self.home(entry)?;
        rustix::fs::chmodat(&dir, &name, Mode::RUSR, AtFlags::empty())?;
        match rustix::fs::renameat(&dir, &name, CWD, to) {
            Err(Errno::XDEV) => {
                copy(&mut self.reader(entry)?, to).inspect_err(|_| {
                    let _ = std::fs::remove_file(to);
                })?;
                rustix::fs::unlinkat(&dir, &name, AtFlags::empty())?;
            }
            moved => moved?,
        }
        match to.parent() {
            Some(folder) => Ok(rustix::fs::fsync(File::open(folder)?.as_fd())?),
            None => Ok(()),
        }
    }
}

fn copy(from: &mut File, to: &Path) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut copy = File::from(rustix::fs::openat(CWD, to, flags, Mode::RUSR)?);
    io::copy(from, &mut copy)?;
    copy.sync_all()
}
