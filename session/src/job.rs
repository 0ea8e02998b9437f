//! What source and sink jobs share.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use metra_core::code::Code;
use metra_core::id::EntryIndex;
use tokio::sync::Notify;

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

impl EntryReport {
    /// About how much memory it takes. Bytes.
    pub(crate) fn size(&self) -> usize {
        size_of::<Self>() + self.path.len() + self.reason.len()
    }
}

/// Reports that wait to be sent. Whoever adds to them waits while they are full.
#[derive(Debug, Default)]
pub(crate) struct Statuses {
    queue: VecDeque<EntryReport>,
    bytes: usize,
}

/// Statuses that may wait, and the memory that they may take. Bytes.
const STATUSES_MAX: (usize, usize) = (4096, 1 << 20);

impl Statuses {
    pub(crate) fn push_back(&mut self, report: EntryReport) {
        self.bytes += report.size();
        self.queue.push_back(report);
    }

    pub(crate) fn push_front(&mut self, report: EntryReport) {
        self.bytes += report.size();
        self.queue.push_front(report);
    }

    pub(crate) fn pop_front(&mut self) -> Option<EntryReport> {
        let report = self.queue.pop_front()?;
        self.bytes -= report.size();
        Some(report)
    }

    /// Puts what `other` holds in front of what is here.
    pub(crate) fn prepend(&mut self, other: &mut Statuses) {
        while let Some(report) = other.queue.pop_back() {
            self.push_front(report);
        }
        other.bytes = 0;
    }

    pub(crate) fn is_full(&self) -> bool {
        self.queue.len() >= STATUSES_MAX.0 || self.bytes >= STATUSES_MAX.1
    }
}

/// Reports, counted all and kept up to a limit, so that a million refused files do not fill the memory.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    kept: VecDeque<EntryReport>,
    kept_bytes: usize,
    /// Every entry that failed; at most one for each entry of the manifest.
    failed_entries: HashSet<EntryIndex>,
    pub(crate) unchanged: u64,
    pub(crate) failed: u64,
}

/// Reports that wait to be taken, and the memory that they may take. Bytes.
const REPORTS_MAX: (usize, usize) = (10_000, 4 << 20);

impl Reports {
    /// Counts a report, and keeps it if there is room. An entry that failed fails once, however often that is said.
    pub(crate) fn push(&mut self, report: EntryReport) {
        if report.code == Code::Ok {
            self.unchanged += 1;
        } else {
            if report.entry.is_some_and(|entry| !self.failed_entries.insert(entry)) {
                return;
            }
            self.failed += 1;
        }
        let bytes = self.kept_bytes + report.size();
        if self.kept.len() < REPORTS_MAX.0 && bytes <= REPORTS_MAX.1 {
            self.kept_bytes = bytes;
            self.kept.push_back(report);
        }
    }

    pub(crate) fn has_failed(&self, entry: EntryIndex) -> bool {
        self.failed_entries.contains(&entry)
    }

    /// Entries that failed.
    pub(crate) fn failed_entries(&self) -> impl Iterator<Item = EntryIndex> + '_ {
        self.failed_entries.iter().copied()
    }

    pub(crate) fn take(&mut self) -> Vec<EntryReport> {
        self.kept_bytes = 0;
        self.kept.drain(..).collect()
    }
}

/// Tells the tasks of a job to stop; once said it stays said.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    said: AtomicBool,
    changed: Notify,
}

impl Stop {
    pub(crate) fn say(&self) {
        self.said.store(true, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    /// Resolves when it has been said.
    pub(crate) async fn said(&self) {
        loop {
            let changed = self.changed.notified();
            if self.said.load(Ordering::SeqCst) {
                return;
            }
            changed.await;
        }
    }
}

/// How long a job that is over waits for room on its link to say so.
pub(crate) const TELL: Duration = Duration::from_secs(10);

/// Cuts a text to what a frame may carry, at a character.
pub(crate) fn clip(text: &str) -> String {
    let mut end = text.len().min(metra_core::limits::TEXT_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(entry: u32, code: Code, path: String) -> EntryReport {
        EntryReport { entry: Some(EntryIndex(entry)), path, code, reason: String::new() }
    }

    #[test]
    fn an_entry_fails_once_however_often_it_is_said() {
        let mut reports = Reports::default();
        for _ in 0..3 {
            reports.push(report(7, Code::BadName, "a".to_owned()));
        }
        assert_eq!((reports.failed, reports.take().len()), (1, 1));
        assert!(reports.has_failed(EntryIndex(7)) && !reports.has_failed(EntryIndex(8)));
    }

    #[test]
    fn what_is_kept_is_bounded_in_number_and_bytes() {
        let mut reports = Reports::default();
        for _ in 0..20_000 {
            reports.push(EntryReport {
                entry: None,
                path: "p".to_owned(),
                code: Code::Ok,
                reason: String::new(),
            });
        }
        assert_eq!((reports.unchanged, reports.take().len()), (20_000, REPORTS_MAX.0));
        for entry in 0..2000 {
            reports.push(report(entry, Code::BadName, "x".repeat(16384)));
        }
        let kept = reports.take();
        assert_eq!(reports.failed, 2000);
        assert!(kept.iter().map(EntryReport::size).sum::<usize>() <= REPORTS_MAX.1 && kept.len() > 200);
        reports.push(report(9999, Code::BadName, "y".to_owned()));
        assert_eq!(reports.take().len(), 1, "what was taken makes room");
    }

    #[test]
    fn statuses_are_full_by_number_or_bytes_and_keep_their_order() {
        let mut statuses = Statuses::default();
        for entry in 0..4096 {
            assert!(!statuses.is_full());
            statuses.push_back(report(entry, Code::Exists, String::new()));
        }
        assert!(statuses.is_full());
        let first = statuses.pop_front();
        assert!(!statuses.is_full());
        let mut told = Statuses::default();
        told.push_back(first.expect("there is one"));
        told.push_back(report(9999, Code::Exists, "x".repeat(1 << 20)));
        assert!(told.is_full());
        statuses.prepend(&mut told);
        let order: Vec<_> = std::iter::from_fn(|| statuses.pop_front()).filter_map(|r| r.entry).collect();
        assert_eq!(order[..3], [EntryIndex(0), EntryIndex(9999), EntryIndex(1)]);
        assert_eq!((statuses.bytes, told.bytes, told.pop_front()), (0, 0, None));
    }

    #[test]
    fn texts_are_cut_at_a_character() {
        let text = "ä".repeat(1000);
        assert_eq!(clip(&text).len(), 1024);
        assert_eq!(clip(&format!("a{text}")).len(), 1023);
        assert_eq!(clip("short"), "short");
    }
}
