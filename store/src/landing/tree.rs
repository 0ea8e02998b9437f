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
//! Order of durability: file data and manifest are synced, then the journal commits "durable", then the source is told.
//! At the end: everything synced, the gate asked if there is one, names given, directories synced, then the receipt. A crash at any point leaves either
//! the old file or the new one under a name, never a part.
//!
//! One attempt at a time works in a staging folder. It is closed to other users of the system: files wait in it that
//! their directories would hide.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use metra_core::id::{ChunkIndex, EntryIndex, JobKey};
use metra_core::manifest::{Ledger, Record};
use metra_core::ranges::{IndexRange, IndexSet};
use metra_core::wire::{Keep, Overwrite, Placement};

use super::hold::{self, Hold};
use super::journal::{Journal, failed};
use super::place::Place;
use super::plan::{Fate, Plan};
use super::reuse::read_at;
use super::spool::Spool;
use super::staging::{FILES, Staging};
use super::{FinishReport, Gate, LandError, Landing, Piece, Planned};
use crate::beneath::Beneath;
use crate::catalogue::{Catalogue, Phase};
use crate::guard::Guard;

/// The folder of all staging folders, beneath a root. Its first component belongs to Metra; no entry may be named so.
pub(super) const JOBS: &str = ".metra/jobs";

/// Which job lands where.
#[derive(Clone, Debug)]
pub struct TreeTarget {
    /// Nothing is written outside of it.
    pub root: PathBuf,
    /// Relative to the root; "" is the root. Symbolic links in it are resolved once; links below it are not followed.
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
    /// Who says of each file, directory and link, by its final path, whether it may be written: what may not is refused
    /// ([`Code::Denied`](metra_core::code::Code::Denied)). `None`: all may.
    pub guard: Option<Guard>,
}

/// See the documentation of its file, `landing/tree.rs`.
pub struct TreeLanding {
    pub(super) target: TreeTarget,
    pub(super) place: Place,
    /// Follows no links.
    pub(super) root: Beneath,
    /// Path of the staging folder beneath the root.
    folder: String,
    pub(super) staging: Staging,
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) journal: Journal,
    pub(super) spool: Mutex<Spool>,
    pub(super) plan: Mutex<Plan>,
    /// An earlier attempt was interrupted while it gave names.
    pub(super) was_finishing: bool,
    /// An earlier attempt left its staging folder.
    resumed: bool,
    pub(super) hold: Arc<Hold>,
    pub(super) gate: Option<Arc<dyn Gate>>,
    pub(super) cancelled: AtomicBool,
}

impl TreeLanding {
    /// Opens the landing of a job, new or resumed. Waits a while for another attempt at the same job to end.
    ///
    /// # Errors
    /// The root is not a directory or cannot be written to, the destination is not allowed or is on another file
    /// system, the catalogue fails, or another process is at work on the same job ([`Code::Busy`]).
    ///
    /// [`Code::Busy`]: metra_core::code::Code::Busy
    pub fn open(target: TreeTarget, catalogue: Arc<Catalogue>) -> Result<Self, LandError> {
        let named = |e: io::Error| LandError::new(target.root.join(&target.dest).display().to_string(), e);
        let root = std::path::absolute(&target.root).and_then(|root| Beneath::open(&root)).map_err(named)?;
        let root = root.without_links();
        let folder = folder_of(&target);
        let (hold, resumed) = Hold::take(&root, &folder).map_err(named)?;
        let dir = root.below(&folder).map_err(named)?;
        let place = Place::of(&root, &dir, &target).inspect_err(|_| {
            if !resumed {
                let _ = hold::remove(&root, &folder);
            }
        });
        let place = place.map_err(named)?;
        let row = catalogue
            .job_open(&target.user, &target.key, &root.join(&folder), SystemTime::now())
            .map_err(failed)?;
        if !resumed && !row.is_new {
            // The journal speaks of staged files that are no longer there.
            catalogue.job_clear_durable(row.id).map_err(failed)?;
            catalogue.job_set_phase(row.id, Phase::Receiving, SystemTime::now()).map_err(failed)?;
        }
        dir.make_dir(FILES).map_err(named)?;
        let spool = Spool::open(&dir.join("manifest")).map_err(named)?;
        let durable = match resumed {
            true => catalogue.job_durable_set(row.id).map_err(failed)?,
            false => IndexSet::new(),
        };
        let journal = Journal::new(catalogue.clone(), row.id, durable);
        // A later manifest would give the numbers behind the end of this one to other chunks.
        journal.cut(ChunkIndex(spool.chunks()))?;
        let staging = Staging::new(dir, target.keep);
        let plan = Plan::new(&staging, resumed).map_err(named)?;
        Ok(Self {
            was_finishing: resumed && row.phase == Phase::Finishing,
            target,
            place,
            root,
            folder,
            staging,
            catalogue,
            journal,
            spool: Mutex::new(spool),
            plan: Mutex::new(plan),
            resumed,
            hold,
            gate: None,
            cancelled: AtomicBool::new(false),
        })
    }

    /// Has `gate` asked before a file gets its final name.
    pub fn gated(self, gate: Arc<dyn Gate>) -> Self {
        Self { gate: Some(gate), ..self }
    }

    pub(super) fn fate(&self, entry: EntryIndex) -> Fate {
        let plan = self.plan.lock().expect("no panic while held");
        plan.fates.get(entry.0 as usize).copied().unwrap_or(Fate::Refused)
    }

    /// Forgets the job and removes its staging folder.
    pub(super) fn clean_up(&self) -> Result<(), LandError> {
        self.staging.close();
        // First the journal: it must never speak of files that are not there.
        self.journal.forget()?;
        if let Err(error) = hold::remove(&self.root, &self.folder) {
            // Rubbish, not harm: the job is done.
            tracing::warn!(folder = self.folder, %error, "the staging folder could not be removed");
        }
        Ok(())
    }

    fn work<T>(&self, work: impl FnOnce() -> Result<T, LandError>) -> Result<T, LandError> {
        let _guard = self.hold.work().map_err(|e| LandError::new("staging", e))?;
        work()
    }
}

impl Landing for TreeLanding {
    fn plan(&self, records: &[Record]) -> Result<Planned, LandError> {
        self.work(|| self.plan.lock().expect("no panic while held").records(self, records))
    }

    fn plan_end(&self) -> Result<Planned, LandError> {
        self.work(|| self.plan.lock().expect("no panic while held").end(self))?;
        Ok(Planned::default())
    }

    fn write(&self, _: ChunkIndex, pieces: &[Piece], data: &[u8]) -> Result<(), LandError> {
        self.work(|| {
            for piece in pieces {
                let bytes = &data[piece.at as usize..][..piece.len as usize];
                let written = match piece.meta {
                    Some(meta) => self.staging.write_whole(piece.entry, bytes, meta),
                    None => self.staging.write_part(piece.entry, piece.offset, bytes),
                };
                written.map_err(|e| LandError::new(&piece.path, e))?;
            }
            Ok(())
        })
    }

    fn read_back(&self, _: ChunkIndex, pieces: &[Piece]) -> Option<Vec<u8>> {
        let mut data = Vec::with_capacity(pieces.iter().map(|p| p.len as usize).sum());
        for piece in pieces {
            let staged = || self.staging.read_part(FILES, piece.entry, piece.offset, piece.len);
            let there = || read_at(&self.root, &self.place.path(&piece.path), piece.offset, piece.len);
            let part = match self.fate(piece.entry) {
                Fate::Write => staged().or_else(there),
                _ => there().or_else(staged),
            };
            data.extend_from_slice(&part?);
        }
        Some(data)
    }

    fn sync(&self, ranges: &[IndexRange]) -> Result<(), LandError> {
        self.work(|| {
            self.staging.sync().map_err(|e| LandError::new("staging", e))?;
            let spooled = self.spool.lock().expect("no panic while held").sync();
            spooled.map_err(|e| LandError::new("manifest", e))?;
            self.journal.add(ranges)
        })
    }

    fn finish(&self, ledger: &Ledger, gone: &[u32]) -> Result<FinishReport, LandError> {
        let report = self.work(|| self.finish_job(ledger, gone));
        self.hold.give_back();
        report
    }

    fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        if let Some(gate) = &self.gate {
            gate.cancel();
        }
    }

    fn discard(&self) {
        // What an earlier attempt has received is worth keeping, whatever the peer says to this one.
        if !self.resumed
            && let Err(error) = self.work(|| self.clean_up())
        {
            tracing::warn!(%error, "a refused job stays in the journal");
        }
        self.hold.give_back();
    }
}

fn folder_of(target: &TreeTarget) -> String {
    let id = blake3::Hasher::new()
        .update(target.user.as_bytes())
        .update(&[0])
        .update(&target.key.0.0)
        .finalize()
        .to_hex();
    format!("{JOBS}/{}", &id[..32])
}
