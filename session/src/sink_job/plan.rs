//! Planning: what of the records that arrive is here already. Waits for the disk, and for room among the statuses that
//! wait to be sent.

use std::sync::Arc;

use metra_core::code::Code;
use metra_core::id::Digest;
use metra_core::manifest::{EntryKind, Record};
use metra_store::landing::{LandError, Landing, Planned};
use tokio::sync::mpsc;

use super::SinkJob;
use crate::job::{EntryReport, JobError};

/// Records planned between two looks at the state: bounds how long reused data is copied before wants go out.
const PLAN_BATCH: usize = 256;

/// What the planner works at.
pub(super) enum Planning {
    Records { first: u64, records: Vec<Record> },
    End { records: u64, root: Digest },
}

/// Files and links among records: what counts, where files are counted.
fn files(records: &[Record]) -> u64 {
    let counts = |r: &&Record| matches!(r, Record::Entry(entry) if entry.kind != EntryKind::Directory);
    records.iter().filter(counts).count() as u64
}

impl SinkJob {
    /// The planner task.
    pub(super) async fn plan(self: Arc<Self>, mut queue: mpsc::Receiver<Planning>) {
        while let Some(planning) = queue.recv().await {
            let result = match planning {
                Planning::Records { first, records } => self.plan_records(first, records).await,
                Planning::End { records, root } => self.plan_end(records, root).await,
            };
            if let Err(error) = result {
                self.fail(error);
                return;
            }
            self.out.notify_waiters();
            self.work.notify_waiters();
        }
    }

    async fn plan_records(self: &Arc<Self>, first: u64, mut records: Vec<Record>) -> Result<(), JobError> {
        let known = {
            let mut state = self.lock();
            let known = state.sink.on_records(first, &records);
            let memory = (state.sink.ledger().memory() as u64).saturating_mul(3) / 2;
            if !state.memory.grow(memory) {
                return Err(JobError::new(Code::Busy, "the memory set aside for manifests is used up"));
            }
            let known = known.map_err(|e| JobError::new(e.code(), e.to_string()))?;
            let ledger = state.sink.ledger();
            let begun = |r: &Record| matches!(r, Record::Withdraw(e) if !ledger.chunks_of(*e).is_empty());
            if self.landing.abilities().in_sequence && records[known..].iter().any(begun) {
                // It cannot be taken back, nor is what follows where it should be.
                let reason = "a file changed while it was read, after a part of it had been sent";
                return Err(JobError::new(Code::Changed, reason));
            }
            known
        };
        records.drain(..known);
        while !records.is_empty() {
            let rest = records.split_off(records.len().min(PLAN_BATCH));
            let new = files(&records);
            if self.plan_batch(records).await? {
                // The rest is in the ledger already, and so has been planned as well.
                self.plan_again().await?;
                return self.count_files(new + files(&rest));
            }
            self.count_files(new)?;
            records = rest;
        }
        Ok(())
    }

    /// So many files more have been planned. They count, but for those that are the same already.
    fn count_files(&self, new: u64) -> Result<(), JobError> {
        let Some(allowance) = &self.config.allowance else { return Ok(()) };
        // What is known to be the same costs nothing from the start: a tree that is sent again does not need the quota of a new one.
        let more = {
            let mut state = self.lock();
            state.files.seen += new;
            let due = state.files.seen.saturating_sub(state.reports.unchanged);
            let more = due.saturating_sub(state.files.counted);
            state.files.counted += more;
            more
        };
        allowance.files(more)
    }

    /// Plans some records. Returns whether everything must be planned again.
    async fn plan_batch(self: &Arc<Self>, batch: Vec<Record>) -> Result<bool, JobError> {
        let chunks = batch.iter().filter(|r| matches!(r, Record::Chunk { .. })).count() as u32;
        let planned = self.ask(move |landing| landing.plan(&batch)).await?;
        self.planned(planned, chunks).await
    }

    /// Asks the landing for a plan, unless the job is over.
    async fn ask(
        &self,
        ask: impl FnOnce(&dyn Landing) -> Result<Planned, LandError> + Send + 'static,
    ) -> Result<Planned, JobError> {
        {
            let mut state = self.lock();
            if let Some(error) = &state.failed {
                return Err(error.clone());
            }
            state.planning = true;
        }
        let landing = self.landing.clone();
        let planned = self.rt.blocking(move || ask(&*landing)).await;
        self.lock().planning = false;
        self.work.notify_waiters();
        planned.map_err(|e| JobError::new(e.code(), e.to_string()))
    }

    /// What an earlier attempt left was set aside: everything known so far is planned anew.
    async fn plan_again(self: &Arc<Self>) -> Result<(), JobError> {
        tracing::info!(
            job = self.id.0,
            "the source differs from the earlier attempt; its chunks are reused by hash"
        );
        self.lock().sink.replan();
        // What was decided by the old plan must not land in the midst of the new one.
        self.wait_for_disk().await;
        let mut from = 0;
        loop {
            let batch: Vec<Record> = self.lock().sink.ledger().replay(from).take(PLAN_BATCH).collect();
            if batch.is_empty() {
                return Ok(());
            }
            from += batch.len() as u64;
            self.plan_batch(batch).await?;
        }
    }

    async fn plan_end(self: &Arc<Self>, records: u64, root: Digest) -> Result<(), JobError> {
        // A source that was attached again says it again.
        if self.lock().sink.root().is_none() {
            let planned = self.ask(|landing| landing.plan_end()).await?;
            if self.planned(planned, 0).await? {
                self.plan_again().await?;
            }
        }
        let result = self.lock().sink.on_end(records, root);
        result.map_err(|e| JobError::new(e.code(), e.to_string()))
    }

    /// Takes a plan in; waits while too many statuses wait. Returns whether to plan again.
    async fn planned(&self, planned: Planned, chunks: u32) -> Result<bool, JobError> {
        if planned.restart {
            return Ok(true);
        }
        {
            let mut state = self.lock();
            for (chunk, resolution) in planned.resolutions {
                state.sink.resolve(chunk, resolution);
            }
            state.sink.planned(chunks);
            for (entry, path, code, reason) in planned.statuses {
                let report = EntryReport { entry: Some(entry), path, code, reason };
                state.statuses.push_back(report.clone());
                state.reports.push(report);
            }
            if state.sink.unsynced_bytes() > 0 {
                state.unsynced_since.get_or_insert(self.rt.now());
            }
        }
        self.out.notify_waiters();
        self.work.notify_waiters();
        loop {
            let work = self.work.notified();
            {
                let state = self.lock();
                if !state.statuses.is_full() || state.failed.is_some() || state.ended {
                    return Ok(false);
                }
            }
            work.await;
        }
    }

    /// Resolves when the landing is at rest: no write, sync or plan is under way.
    pub(super) async fn wait_for_disk(&self) {
        loop {
            let work = self.work.notified();
            {
                let state = self.lock();
                if state.writing == 0 && !state.syncing && !state.planning {
                    return;
                }
            }
            work.await;
        }
    }
}
