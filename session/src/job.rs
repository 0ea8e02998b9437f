//! What source and sink jobs share.

use std::collections::{HashSet, VecDeque};

use metra_core::code::Code;
use metra_core::id::EntryIndex;

/// Why a job ended without success. What is durable stays; the same job may be tried again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct JobError {
    /// Why, for programs.
    pub code: Code,
    /// Why, for people.
    pub reason: String,
    /// Whether the peer said so (else this side found it).
    pub by_peer: bool,
}

impl JobError {
    /// Found on this side.
    pub fn new(code: Code, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), by_peer: false }
    }
}

/// What became of an entry that was not simply transferred.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryReport {
    /// The entry, if it is in the manifest.
    pub entry: Option<EntryIndex>,
    /// Its path.
    pub path: String,
    /// `Ok`: it was the same already. Else why it was not transferred.
    pub code: Code,
    /// For people.
    pub reason: String,
}

/// Reports, counted all and kept up to a limit, so that a million refused files do not fill the memory.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    kept: VecDeque<EntryReport>,
    /// Every entry that failed; at most one for each entry of the manifest.
    failed_entries: HashSet<EntryIndex>,
    pub(crate) unchanged: u64,
    pub(crate) failed: u64,
}

/// Reports that wait to be taken.
const REPORTS_MAX: usize = 10_000;

impl Reports {
    pub(crate) fn push(&mut self, report: EntryReport) {
        if report.code == Code::Ok {
            self.unchanged += 1;
        } else {
            self.failed += 1;
            self.failed_entries.extend(report.entry);
        }
        if self.kept.len() < REPORTS_MAX {
            self.kept.push_back(report);
        }
    }

    pub(crate) fn has_failed(&self, entry: EntryIndex) -> bool {
        self.failed_entries.contains(&entry)
    }

    pub(crate) fn take(&mut self) -> Vec<EntryReport> {
        self.kept.drain(..).collect()
    }
}
