//! Which chunks of a job are durable: the catalogue's rows, and the same in memory.
//!
//! A chunk in the journal is taken for what it is without being read again. So nothing gets in before it is synced, and
//! a chunk goes out before its place is written anew.

use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use metra_core::id::ChunkIndex;
use metra_core::ranges::{IndexRange, IndexSet};

use super::LandError;
use crate::catalogue::{Catalogue, CatalogueError, Phase};

pub(super) struct Journal {
    catalogue: Arc<Catalogue>,
    job: i64,
    durable: Mutex<IndexSet>,
}

/// Chunks that leave the journal together, because each time costs a sync.
const BLOCK: u32 = 1024;

impl Journal {
    pub(super) fn new(catalogue: Arc<Catalogue>, job: i64, durable: IndexSet) -> Self {
        Self { catalogue, job, durable: Mutex::new(durable) }
    }

    pub(super) fn contains(&self, chunk: ChunkIndex) -> bool {
        self.durable.lock().expect("no panic while held").contains(chunk)
    }

    /// Adds chunks that are synced; on return they survive a crash.
    pub(super) fn add(&self, ranges: &[IndexRange]) -> Result<(), LandError> {
        let mut durable = self.durable.lock().expect("no panic while held");
        self.catalogue.commit_durable(&[(self.job, ranges.to_vec())]).map_err(failed)?;
        ranges.iter().for_each(|range| durable.insert_range(*range));
        Ok(())
    }

    /// Takes all chunks from `first` on out.
    pub(super) fn cut(&self, first: ChunkIndex) -> Result<(), LandError> {
        self.keep(|index| index < first.0)
    }

    /// Takes a chunk out because it is not where it was, and those after it, which hashing finds again: most likely
    /// they are not there either.
    pub(super) fn distrust(&self, chunk: ChunkIndex) -> Result<(), LandError> {
        if !self.contains(chunk) {
            return Ok(());
        }
        let block = chunk.0..chunk.0.saturating_add(BLOCK);
        self.keep(|index| !block.contains(&index))
    }

    fn keep(&self, keep: impl Fn(u32) -> bool) -> Result<(), LandError> {
        let mut durable = self.durable.lock().expect("no panic while held");
        let mut kept = IndexSet::new();
        for index in durable.ranges().flat_map(IndexRange::indexes).filter(|index| keep(*index)) {
            kept.insert(ChunkIndex(index));
        }
        if kept.count() < durable.count() {
            self.catalogue.job_set_durable(self.job, &kept).map_err(failed)?;
            *durable = kept;
        }
        Ok(())
    }

    /// Names begin to be given.
    pub(super) fn finishing(&self) -> Result<(), LandError> {
        self.catalogue.job_set_phase(self.job, Phase::Finishing, SystemTime::now()).map_err(failed)
    }

    /// The job is over.
    pub(super) fn forget(&self) -> Result<(), LandError> {
        self.catalogue.job_forget(self.job).map_err(failed).map(|_| ())
    }
}

pub(super) fn failed(error: CatalogueError) -> LandError {
    LandError::new("catalogue", std::io::Error::other(error))
}
