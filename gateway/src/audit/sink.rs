//! The queue before each place that records go to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use metra_policy::audit::Record;
use tokio::sync::{mpsc, oneshot};

use crate::config::AuditFormat;

/// Records that wait for one sink. Each has at most 8 KiB.
pub(super) const QUEUE: usize = 4096;
/// Lines that are written at once.
pub(super) const BATCH: usize = 256;
/// Room for those that run already: what is new is refused before the queue is full.
const RESERVE: usize = QUEUE / 8;

/// A record as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Without its end.
    pub(super) text: Arc<str>,
    /// Milliseconds since the epoch.
    pub(super) time: u64,
    /// Of syslog (RFC 5424 table 2).
    pub(super) severity: u8,
}

/// What is in a queue.
pub(super) enum Item {
    /// To be written.
    Line(Line),
    /// To be answered when all before it is written and synced.
    Flush(oneshot::Sender<()>),
}

/// The near end of a queue.
pub(super) struct Sink {
    queue: mpsc::Sender<Item>,
    health: Arc<Health>,
    format: AuditFormat,
}

/// Whether a sink can be written to, and what became of its records.
pub(super) struct Health {
    name: &'static str,
    failing: AtomicBool,
}

impl Line {
    pub(super) fn of(record: &Record, format: AuditFormat) -> Self {
        let text = match format {
            AuditFormat::Json => record.json(),
            AuditFormat::Cef => record.cef(),
        };
        let severity = match record.severity() {
            1 => INFORMATIONAL,
            2 => NOTICE,
            _ => WARNING,
        };
        Self { text: text.into(), time: record.time, severity }
    }
}

impl Sink {
    pub(super) fn new(name: &'static str, format: AuditFormat) -> (Self, mpsc::Receiver<Item>, Arc<Health>) {
        let (queue, items) = mpsc::channel(QUEUE);
        let health = Arc::new(Health { name, failing: AtomicBool::new(false) });
        metrics::gauge!("metra_audit_failing", "sink" => name).set(0.0);
        (Self { queue, health: health.clone(), format }, items, health)
    }

    pub(super) fn format(&self) -> AuditFormat {
        self.format
    }

    /// Queues a line if there is room. Refusals have half of it: they cost whoever makes them nothing.
    pub(super) fn push(&self, line: Line, is_refusal: bool) {
        let has_room = !is_refusal || self.queue.capacity() > QUEUE / 2;
        if !has_room || self.queue.try_send(Item::Line(line)).is_err() {
            self.health.lost(1);
        }
    }

    /// Whether what is recorded now may not be written.
    pub(super) fn is_failing(&self) -> bool {
        self.health.failing.load(Ordering::Relaxed) || self.queue.capacity() < RESERVE
    }

    /// Resolves when all that is queued is written; never, if that cannot be.
    pub(super) async fn flush(&self) {
        let (done, written) = oneshot::channel();
        if self.queue.send(Item::Flush(done)).await.is_ok() {
            // The task is gone with its runtime.
            let _ = written.await;
        }
    }
}

impl Health {
    /// It cannot be written to.
    pub(super) fn failed(&self, error: &dyn std::fmt::Display) {
        if !self.failing.swap(true, Ordering::Relaxed) {
            metrics::gauge!("metra_audit_failing", "sink" => self.name).set(1.0);
            tracing::error!(sink = self.name, %error, "the audit trail cannot be written");
        }
    }

    /// It can.
    pub(super) fn works(&self) {
        if self.failing.swap(false, Ordering::Relaxed) {
            metrics::gauge!("metra_audit_failing", "sink" => self.name).set(0.0);
            tracing::info!(sink = self.name, "the audit trail is written again");
        }
    }

    pub(super) fn written(&self, records: usize) {
        metrics::counter!("metra_audit_records_total", "sink" => self.name).increment(records as u64);
    }

    fn lost(&self, records: usize) {
        metrics::counter!("metra_audit_lost_total", "sink" => self.name).increment(records as u64);
    }
}

/// What has been taken from a queue and is not yet written: lines, and who waits for them.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) lines: Vec<Line>,
    pub(super) flushes: Vec<oneshot::Sender<()>>,
}

impl Batch {
    /// `item`, and what else there is at this moment.
    pub(super) fn take(&mut self, item: Item, queue: &mut mpsc::Receiver<Item>) {
        let mut next = Some(item);
        while let Some(item) = next {
            match item {
                Item::Line(line) => self.lines.push(line),
                // What comes after it need not be waited for.
                Item::Flush(done) => return self.flushes.push(done),
            }
            next = if self.lines.len() < BATCH { queue.try_recv().ok() } else { None };
        }
    }

    /// All of it is written and synced.
    pub(super) fn answer(&mut self) {
        for done in self.flushes.drain(..) {
            let _ = done.send(());
        }
    }
}

const WARNING: u8 = 4;
const NOTICE: u8 = 5;
const INFORMATIONAL: u8 = 6;
