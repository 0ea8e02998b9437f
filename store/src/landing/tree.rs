//! Landing in a directory tree.
//!
//! ```text
//! ROOT/.metra/jobs/KEY/            staging folder of one job, on the same file system as the final names
//!   place                          what the destination path was taken to mean
//!   manifest                       records as they came, to compare with when the job is resumed
//!   files/SHARD/INDEX              one file an entry, chunks written in their places
//!   old/...                        what an earlier attempt left when the source had changed meanwhile
//! ```
//!
//! Order of durability: file data and manifest are synced, then the journal commits "durable", then the source is told. At
//! the end: everything synced, names given, directories synced, then the receipt. A crash at any point leaves
//! either the old file or the new one under a name, never a part.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use metra_core::chunker::zero_chunk_hash;
use metra_core::id::{ChunkIndex, EntryIndex, JobKey};
use metra_core::limits;
use metra_core::manifest::{Ledger, Record, Timestamp};
use metra_core::ranges::{IndexRange, IndexSet};
use metra_core::wire::{Keep, Overwrite, Placement};
use rustix::fs::{AtFlags, FallocateFlags, FileType, Mode, OFlags, Timestamps};

use super::carry::Spool;
use super::plan::{Fate, Plan};
use super::{FinishReport, LandError, Landing, Meta, Piece, Planned};
use crate::beneath::{Beneath, split};
use crate::catalogue::Catalogue;

/// The folder beneath a root that belongs to Metra; no entry may be named so.
pub(super) const OWN_FOLDER: &str = ".metra";
/// Staged files per folder.
const SHARD: u32 = 4096;
/// Large files kept open for writing.
const OPEN_FILES: usize = 64;
/// With more dirty files than this, the file system is synced as a whole.
const SYNC_SINGLY: usize = 8;

/// Which job lands where.
#[derive(Clone, Debug)]
pub struct TreeTarget {
    /// Nothing is written outside of it.
    pub root: PathBuf,
    /// Relative to the root; "" is the root.
    pub dest: String,
    /// What `dest` means.
    pub placement: Placement,
    /// What happens to what is there.
    pub overwrite: Overwrite,
    /// Which metadata is applied.
    pub keep: Keep,
    /// Whose job it is.
    pub user: String,
    /// Which job.
    pub key: JobKey,
}

/// See the module's documentation.
pub struct TreeLanding {
    pub(super) target: TreeTarget,
    pub(super) place: Place,
    pub(super) root: Beneath,
    /// Path of the staging folder beneath the root.
    pub(super) staging: String,
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) job: i64,
    pub(super) spool: Mutex<Spool>,
    plan: Mutex<Plan>,
    dirty: Mutex<HashSet<u32>>,
    open: Mutex<OpenFiles>,
    shards: Mutex<HashSet<u32>>,
}

/// What the destination path was taken to mean; written down so that a second attempt means the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Entries go beneath this directory.
    Into(String),
    /// The first component of every entry becomes this.
    As(String),
}

#[derive(Default)]
struct OpenFiles {
    files: HashMap<u32, Arc<File>>,
    order: Vec<u32>,
}

impl TreeLanding {
    /// Opens the landing of a job, new or resumed.
    pub fn open(target: TreeTarget, catalogue: Arc<Catalogue>) -> Result<Self, LandError> {
        let named = |e: io::Error| LandError::new(target.root.join(&target.dest).display().to_string(), e);
        let root = Beneath::open(&target.root).map_err(named)?;
        let id = blake3::Hasher::new()
            .update(target.user.as_bytes())
            .update(&[0])
            .update(&target.key.0.0)
            .finalize()
            .to_hex();
        let staging = format!("{OWN_FOLDER}/jobs/{}", &id[..32]);
        let found = root.stat(&staging).map_err(named)?.is_some();
        root.make_dir(&staging).map_err(named)?;
        root.make_dir(&format!("{staging}/files")).map_err(named)?;
        let place = Place::decide(&root, &staging, &target).map_err(named)?;
        let row = catalogue
            .job_open(&target.user, &target.key, &root.join(&staging), SystemTime::now())
            .map_err(|e| LandError::new("catalogue", io::Error::other(e)))?;
        if !found {
            // The journal speaks of staged files that are no longer there.
            catalogue
                .job_clear_durable(row.id)
                .map_err(|e| LandError::new("catalogue", io::Error::other(e)))?;
        }
        let durable = catalogue
            .job_durable_set(row.id)
            .map_err(|e| LandError::new("catalogue", io::Error::other(e)))?;
        let (spool, previous) = Spool::open(&root.join(&format!("{staging}/manifest"))).map_err(named)?;
        let durable = trusted(&catalogue, row.id, durable, previous.chunks())
            .map_err(|e| LandError::new("catalogue", io::Error::other(e)))?;
        let plan = Plan::new(previous, durable, found && row.is_new);
        Ok(Self {
            target,
            place,
            root,
            staging,
            catalogue,
            job: row.id,
            spool: Mutex::new(spool),
            plan: Mutex::new(plan),
            dirty: Mutex::default(),
            open: Mutex::default(),
            shards: Mutex::default(),
        })
    }

    pub(super) fn fate(&self, entry: EntryIndex) -> Fate {
        let plan = self.plan.lock().expect("no panic while held");
        plan.fates.get(entry.0 as usize).copied().unwrap_or(Fate::Refused)
    }

    /// The final path of an entry, beneath the root.
    pub(super) fn final_path(&self, path: &str) -> String {
        match &self.place {
            Place::Into(dir) => metra_core::path::join(dir, path),
            Place::As(name) => match path.split_once('/') {
                Some((_, rest)) => metra_core::path::join(name, rest),
                None => name.clone(),
            },
        }
    }

    /// The staged file of an entry, beneath the root.
    pub(super) fn staged_path(&self, folder: &str, entry: EntryIndex) -> String {
        format!("{}/{folder}/{:x}/{}", self.staging, entry.0 / SHARD, entry.0)
    }

    /// Opens (and makes) the staged file of an entry.
    fn create_staged(&self, entry: EntryIndex, mode: u32) -> io::Result<File> {
        let shard = entry.0 / SHARD;
        let path = self.staged_path("files", entry);
        let (dir, name) = split(&path);
        if !self.shards.lock().expect("no panic while held").contains(&shard) {
            self.root.make_dir(dir)?;
            self.shards.lock().expect("no panic while held").insert(shard);
        }
        let dir = self.root.dir(dir)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(File::from(rustix::fs::openat(&dir, name, flags, Mode::from_raw_mode(mode & 0o777))?))
    }

    /// The open staged file of a large entry.
    pub(super) fn large(&self, entry: EntryIndex) -> io::Result<Arc<File>> {
        let mut open = self.open.lock().expect("no panic while held");
        if let Some(file) = open.files.get(&entry.0) {
            return Ok(file.clone());
        }
        let file = Arc::new(self.create_staged(entry, 0o600)?);
        if open.order.len() >= OPEN_FILES {
            let oldest = open.order.remove(0);
            open.files.remove(&oldest);
        }
        open.order.push(entry.0);
        open.files.insert(entry.0, file.clone());
        Ok(file)
    }

    /// Reads a piece of an entry from `path` beneath the root.
    pub(super) fn read_piece(&self, path: &str, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let file = File::from(self.root.open_at(path, OFlags::RDONLY, Mode::empty())?);
        file.read_exact_at(out, offset)
    }

    /// Forgets every open file and folder, before they are renamed or removed.
    pub(super) fn close_files(&self) {
        *self.open.lock().expect("no panic while held") = OpenFiles::default();
        self.shards.lock().expect("no panic while held").clear();
        self.root.forget();
    }

    fn write_packed(&self, piece: &Piece, data: &[u8]) -> io::Result<()> {
        let meta = piece.meta.unwrap_or_default();
        let file = self.create_staged(piece.entry, meta.mode.unwrap_or(0o666))?;
        file.write_all_at(data, 0)?;
        let mode = meta.mode.map(|mode| (mode, default_mode(mode)));
        set_meta(&file, &meta, mode.is_some_and(|(mode, made)| mode != made))?;
        Ok(())
    }
}

impl Landing for TreeLanding {
    fn plan(&self, records: &[Record]) -> Result<Planned, LandError> {
        self.plan.lock().expect("no panic while held").records(self, records)
    }

    fn plan_end(&self) -> Result<Planned, LandError> {
        self.plan.lock().expect("no panic while held").end(self)
    }

    fn write(&self, chunk: ChunkIndex, pieces: &[Piece], data: &[u8]) -> Result<(), LandError> {
        let _ = chunk;
        for piece in pieces {
            let bytes = &data[piece.at as usize..][..piece.len as usize];
            let result = match piece.meta {
                Some(_) => self.write_packed(piece, bytes),
                None => self.large(piece.entry).and_then(|file| file.write_all_at(bytes, piece.offset)),
            };
            result.map_err(|e| LandError::new(&piece.path, e))?;
        }
        let mut dirty = self.dirty.lock().expect("no panic while held");
        dirty.extend(pieces.iter().map(|p| p.entry.0));
        Ok(())
    }

    fn read_back(&self, _: ChunkIndex, pieces: &[Piece]) -> Option<Vec<u8>> {
        let total: usize = pieces.iter().map(|p| p.len as usize).sum();
        let mut data = vec![0; total];
        for piece in pieces {
            let out = &mut data[piece.at as usize..][..piece.len as usize];
            let staged = self.staged_path("files", piece.entry);
            if self.read_piece(&staged, piece.offset, out).is_err() {
                self.read_piece(&self.final_path(&piece.path), piece.offset, out).ok()?;
            }
        }
        Some(data)
    }

    fn sync(&self, ranges: &[IndexRange]) -> Result<(), LandError> {
        let dirty = std::mem::take(&mut *self.dirty.lock().expect("no panic while held"));
        let sync = || -> io::Result<()> {
            if dirty.len() > SYNC_SINGLY {
                rustix::fs::syncfs(self.root.root())?;
            } else {
                for entry in &dirty {
                    let path = self.staged_path("files", EntryIndex(*entry));
                    let file = self.root.open_at(&path, OFlags::RDWR, Mode::empty())?;
                    rustix::fs::fdatasync(&file)?;
                }
            }
            self.spool.lock().expect("no panic while held").sync()
        };
        if let Err(e) = sync() {
            // Whether they reached the disk is not known: they stay dirty, and the chunks are not reported durable.
            self.dirty.lock().expect("no panic while held").extend(dirty);
            return Err(LandError::new("staging", e));
        }
        self.catalogue
            .commit_durable(&[(self.job, ranges.to_vec())])
            .map_err(|e| LandError::new("catalogue", io::Error::other(e)))
    }

    fn finish(&self, ledger: &Ledger, gone: &[u32]) -> Result<FinishReport, LandError> {
        self.finish_job(ledger, gone)
    }
}

impl Place {
    fn decide(root: &Beneath, staging: &str, target: &TreeTarget) -> io::Result<Self> {
        let note = root.join(&format!("{staging}/place"));
        if let Ok(text) = std::fs::read_to_string(&note)
            && let Some(place) = Self::parse(&text)
        {
            return Ok(place);
        }
        let dest = target.dest.trim_matches('/').to_owned();
        let is_dir = || -> io::Result<bool> {
            match root.dir(&dest) {
                Ok(_) => Ok(true),
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                    Ok(false)
                }
                Err(e) => Err(e),
            }
        };
        let place = match target.placement {
            Placement::Into => Place::Into(dest),
            Placement::As if dest.is_empty() => Place::Into(dest),
            Placement::As => Place::As(dest),
            Placement::Auto if dest.is_empty() || is_dir()? => Place::Into(dest),
            Placement::Auto => Place::As(dest),
        };
        write_whole(&note, place.text().as_bytes())?;
        Ok(place)
    }

    fn text(&self) -> String {
        match self {
            Place::Into(dir) => format!("into\n{dir}\n"),
            Place::As(name) => format!("as\n{name}\n"),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once('\n')?;
        let name = rest.strip_suffix('\n')?.to_owned();
        match kind {
            "into" => Some(Place::Into(name)),
            "as" => Some(Place::As(name)),
            _ => None,
        }
    }
}

/// Of what the journal calls durable, the part that the manifest on disk names. The rest is struck out: a later manifest
/// would give these numbers to other chunks.
fn trusted(
    catalogue: &Catalogue,
    job: i64,
    durable: IndexSet,
    chunks: u32,
) -> Result<IndexSet, crate::CatalogueError> {
    let mut kept = IndexSet::new();
    let mut all = true;
    for index in durable.ranges().flat_map(IndexRange::indexes) {
        if index < chunks {
            kept.insert(ChunkIndex(index));
        } else {
            all = false;
        }
    }
    if !all {
        catalogue.job_clear_durable(job)?;
        catalogue.job_durable(job, &kept.ranges().collect::<Vec<_>>())?;
    }
    Ok(kept)
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, bytes)?;
    std::fs::rename(&new, path)
}

/// The mode that a file made with `mode` gets under the process's mask.
pub(super) fn default_mode(mode: u32) -> u32 {
    use std::sync::OnceLock;
    static MASK: OnceLock<u32> = OnceLock::new();
    let mask = *MASK.get_or_init(|| {
        std::fs::read_to_string("/proc/self/status")
            .ok()
            .and_then(|status| {
                let line = status.lines().find_map(|l| l.strip_prefix("Umask:"))?;
                u32::from_str_radix(line.trim(), 8).ok()
            })
            .unwrap_or(0o7777)
    });
    mode & 0o777 & !mask
}

/// Applies mode (if `mode_differs`) and time to an open file.
pub(super) fn set_meta(file: &File, meta: &Meta, mode_differs: bool) -> io::Result<()> {
    if let Some(mode) = meta.mode
        && mode_differs
    {
        rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?;
    }
    if let Some(mtime) = meta.mtime {
        rustix::fs::futimens(file, &times(mtime))?;
    }
    Ok(())
}

/// Time of modification as given, time of access left alone.
pub(super) fn times(mtime: Timestamp) -> Timestamps {
    Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        last_modification: rustix::fs::Timespec { tv_sec: mtime.secs, tv_nsec: i64::from(mtime.nanos) as _ },
    }
}

/// Makes a hole of a whole zero chunk, whatever was there.
pub(super) fn punch(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let end = file.metadata()?.len();
    if end > offset {
        let len = len.min(end - offset);
        rustix::fs::fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len)?;
    }
    Ok(())
}

/// Whether a chunk is [`limits::CHUNK_MAX`] zeros: it becomes a hole and is never sent.
pub(super) fn is_hole(len: u32, hash: &metra_core::id::ChunkHash) -> bool {
    len as usize == limits::CHUNK_MAX && *hash == zero_chunk_hash()
}

/// What `rel` is, links not followed.
pub(super) fn kind_of(root: &Beneath, rel: &str) -> io::Result<Option<(FileType, rustix::fs::Stat)>> {
    Ok(root.stat(rel)?.map(|stat| (FileType::from_raw_mode(stat.st_mode), stat)))
}

/// Sets mode and time by name, in `dir`.
pub(super) fn set_meta_at(dir: &impl AsFd, name: &str, meta: &Meta, is_link: bool) -> io::Result<()> {
    if let Some(mode) = meta.mode
        && !is_link
    {
        rustix::fs::chmodat(dir, name, Mode::from_raw_mode(mode), AtFlags::empty())?;
    }
    if let Some(mtime) = meta.mtime {
        rustix::fs::utimensat(dir, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}
