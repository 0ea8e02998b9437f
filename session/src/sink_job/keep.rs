//! Keeping: syncs from time to time until everything is durable, then gives the final names.

use std::sync::Arc;
use std::time::Duration;

use metra_core::manifest::Ledger;
use metra_core::ranges::IndexRange;
use metra_core::wire::Finished;
use metra_store::landing::LandError;

use super::{Planner, SinkJob, SinkOutcome};
use crate::job::{EntryReport, JobError};

/// What the keeper does next.
enum Next {
    Done,
    Sync(Vec<IndexRange>),
    /// For something to happen, or for this long.
    Wait(Option<Duration>),
}

impl SinkJob {
    /// Runs the job until its entries have their final names. `Finished` is sent with [`conclude`](Self::conclude).
    ///
    /// # Errors
    /// Why the job cannot go on, found here or said by the source. What was written is synced and journaled first.
    /// A lost link is no error: the job waits.
    pub async fn run(self: &Arc<Self>, planner: Planner) -> Result<SinkOutcome, JobError> {
        let _planner = self.rt.spawn(self.clone().plan(planner.0)).abort_on_drop();
        self.rt.spawn(self.clone().write_control());
        let kept = match self.keep().await {
            Ok(()) => self.finish().await,
            Err(error) => Err(error),
        };
        if let Err(error) = &kept {
            // What has arrived is kept for the next attempt, whatever ended this one. Nothing is written here any
            // more when that attempt begins.
            self.wait_for_disk().await;
            let (ranges, nothing) = {
                let mut state = self.lock();
                (state.sink.begin_sync(), state.sink.records() == 0)
            };
            let job = self.clone();
            let by_peer = error.by_peer;
            let close = move || {
                if nothing && by_peer {
                    job.landing.discard();
                } else if !ranges.is_empty() {
                    // The error that is told is the one that came first.
                    let _ = job.landing.sync(&ranges);
                }
            };
            self.rt.blocking(close).await;
            self.wait_until_told().await;
        }
        kept
    }

    /// Syncs from time to time until everything is durable.
    async fn keep(self: &Arc<Self>) -> Result<(), JobError> {
        loop {
            let work = self.work.notified();
            self.start_copies();
            match self.next()? {
                Next::Done => return Ok(()),
                Next::Sync(ranges) => self.sync(ranges).await?,
                Next::Wait(None) => work.await,
                Next::Wait(Some(wait)) => {
                    let _ = self.rt.timeout(wait.max(Duration::from_millis(1)), work).await;
                }
            }
        }
    }

    fn next(&self) -> Result<Next, JobError> {
        let mut state = self.lock();
        if let Some(error) = &state.failed {
            return Err(error.clone());
        }
        if state.sink.is_complete() {
            return Ok(Next::Done);
        }
        let Some(since) = state.unsynced_since else { return Ok(Next::Wait(None)) };
        let age = self.rt.now().saturating_duration_since(since);
        let (bytes, time) = self.config.sync;
        if state.sink.unsynced_bytes() < bytes && age < time && !state.sink.is_verified() {
            return Ok(Next::Wait(Some(time - age)));
        }
        state.unsynced_since = None;
        let ranges = state.sink.begin_sync();
        if ranges.is_empty() {
            return Ok(Next::Wait(None));
        }
        state.syncing = true;
        Ok(Next::Sync(ranges))
    }

    async fn sync(self: &Arc<Self>, ranges: Vec<IndexRange>) -> Result<(), JobError> {
        let job = self.clone();
        let (ranges, result) = self
            .rt
            .blocking(move || {
                let result = job.landing.sync(&ranges);
                (ranges, result)
            })
            .await;
        let mut state = self.lock();
        state.syncing = false;
        if result.is_ok() {
            state.sink.synced(&ranges);
        }
        drop(state);
        self.work.notify_waiters();
        self.out.notify_waiters();
        result.map_err(|e| JobError::new(e.code(), e.to_string())).inspect_err(|e| self.fail(e.clone()))
    }

    async fn finish(self: &Arc<Self>) -> Result<SinkOutcome, JobError> {
        self.wait_for_disk().await;
        let (ledger, gone, root, stats, last) = {
            let mut state = self.lock();
            let root = state.sink.root().unwrap_or_default();
            let gone = state.sink.gone_chunks().to_vec();
            state.entries = u64::from(state.sink.ledger().entries());
            (state.sink.take_ledger(), gone, root, state.sink.stats(), state.last_byte)
        };
        let landing = self.landing.clone();
        let (report, ledger): (Result<_, LandError>, Ledger) =
            self.rt.blocking(move || (landing.finish(&ledger, &gone), ledger)).await;
        let report = report
            .map_err(|e| JobError::new(e.code(), e.to_string()))
            .inspect_err(|e| self.fail(e.clone()))?;
        let mut state = self.lock();
        for (entry, path, code, reason) in report.statuses {
            let report = EntryReport { entry: Some(entry), path, code, reason };
            state.statuses.push_back(report.clone());
            state.reports.push(report);
        }
        let now = self.rt.now();
        Ok(SinkOutcome {
            finished: Finished {
                job: self.id,
                root,
                entries: report.entries,
                bytes: report.bytes,
                failed: report.failed,
                reused: stats.reused,
            },
            records: ledger.records(),
            entries: u64::from(ledger.entries()),
            chunks: u64::from(ledger.chunks()),
            withdrawn: u64::from(ledger.withdrawn()),
            stats,
            verify: now.saturating_duration_since(last.unwrap_or(now)),
        })
    }
}
