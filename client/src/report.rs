//! What a job has to say, while it runs and at its end.

use std::time::{Duration, Instant};

use metra_core::code::Code;
use metra_core::id::Digest;
use metra_core::receipt::SignedReceipt;
use metra_core::wire::Finished;
use metra_session::{EntryReport, Progress};

/// Called while a job runs.
pub struct Watch {
    /// About ten times a second.
    pub progress: Box<dyn FnMut(&Progress) + Send>,
    /// For every entry that was not simply transferred.
    pub report: Box<dyn FnMut(&EntryReport) + Send>,
}

impl Default for Watch {
    fn default() -> Self {
        Self { progress: Box::new(|_| {}), report: Box::new(|_| {}) }
    }
}

/// How a job went. Complete unless `failed` is more than 0.
#[derive(Clone, Debug)]
pub struct JobReport {
    /// Bytes of the entries that are in their places now.
    pub bytes: u64,
    /// These entries, unchanged ones included.
    pub entries: u64,
    /// Entries that were the same already.
    pub unchanged: u64,
    /// Entries that were refused, could not be read, or changed.
    pub failed: u64,
    /// From the call to the end.
    pub elapsed: Duration,
    /// From the call to the first byte of a chunk on a link.
    pub first_byte: Option<Duration>,
    /// From the last byte to the final names.
    pub verify: Duration,
    /// Chunks of the manifest.
    pub chunks: u64,
    /// Chunks sent (or received, by `get`).
    pub chunks_sent: u64,
    /// Of these, chunks sent more than once (or received in vain).
    pub chunks_resent: u64,
    /// Chunks that the sink had already.
    pub chunks_reused: u64,
    /// How often the job went on after its link was lost or the gateway was restarted.
    pub resumes: u32,
    /// The identity of what was transferred.
    pub root: Digest,
    /// Kinds of the links that were in use.
    pub links: Vec<String>,
    /// Signed by the gateway.
    pub receipt: Option<SignedReceipt>,
    /// Entries that were not simply transferred; the first 10,000.
    pub reports: Vec<EntryReport>,
}

/// Collects over all attempts at a job.
pub(crate) struct Collected {
    watch: Watch,
    pub(crate) started: Instant,
    pub(crate) first_byte: Option<Duration>,
    pub(crate) reports: Vec<EntryReport>,
    pub(crate) chunks_sent: u64,
    pub(crate) chunks_resent: u64,
    pub(crate) resumes: u32,
}

const REPORTS_MAX: usize = 10_000;

impl Collected {
    pub(crate) fn new(watch: Watch, started: Instant) -> Self {
        Self {
            watch,
            started,
            first_byte: None,
            reports: Vec::new(),
            chunks_sent: 0,
            chunks_resent: 0,
            resumes: 0,
        }
    }

    /// Chunks that never had to be moved in this call. After a restart the sink counts as reused what an earlier attempt of
    /// the same call has moved.
    pub(crate) fn reused(&self, finished: &Finished, chunks: u64) -> u64 {
        let moved = self.chunks_sent.saturating_sub(self.chunks_resent);
        finished.reused.min(chunks.saturating_sub(moved))
    }

    /// A look at the running attempt, which began `offset` after the call.
    pub(crate) fn look(&mut self, mut progress: Progress, offset: Duration, reports: Vec<EntryReport>) {
        if let Some(first_byte) = progress.first_byte {
            self.first_byte.get_or_insert(first_byte + offset);
        }
        progress.first_byte = self.first_byte;
        (self.watch.progress)(&progress);
        for report in reports {
            // A second attempt says again what the first has said.
            let said = |r: &EntryReport| r.path == report.path && r.code == report.code;
            if self.resumes > 0 && report.code != Code::Ok && self.reports.iter().any(said) {
                continue;
            }
            (self.watch.report)(&report);
            if self.reports.len() < REPORTS_MAX {
                self.reports.push(report);
            }
        }
    }
}
