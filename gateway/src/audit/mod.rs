//! The audit trail: from what the gateway decides to files and syslog servers. The records are `metra_policy::audit`'s.
//!
//! ```text
//! call sites --trail--> Record --Audit::record--> a queue a sink --> file::run:   write, sync, rotate
//!                                    |                         `---> syslog::run: connect, write, connect again
//!                          Audit::gate: refuses what is new while it cannot be written
//! ```
//!
//! Recording never waits: a queue that is full loses the record, and counts it. Each sink has its own queue and its own task, so
//! that one that stalls stops neither the gateway nor the other.
//!
//! Non-goals: what is recorded when (the call sites), what a record looks like (the policy crate).

mod clock;
mod file;
mod files;
mod sink;
mod syslog;
#[cfg(test)]
mod tests;
mod trail;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use metra_core::code::Code;
use metra_policy::audit::Record;
use metra_transport::Rt;

pub(crate) use clock::timestamp;
pub(crate) use files::{FileTrail, Judged};
pub(crate) use trail::{TunnelRun, TunnelTrail};

use crate::config::{self, OnFailure};
use crate::open::Refused;
use file::LogFile;
use sink::{Line, Sink};
use syslog::Server;

/// Why a gateway without a place for its audit trail does not start.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file. Fault: the configuration, the disk, or another gateway that has it.
    #[error("{path}: {source}")]
    File {
        /// It.
        path: String,
        /// What the system says.
        source: io::Error,
    },
    /// How the syslog server is known. Fault: the configuration.
    #[error(transparent)]
    Certificates(#[from] metra_certs::Error),
}

/// The audit trail of a gateway. Clones are the same.
#[derive(Clone)]
pub(crate) struct Audit(Arc<Inner>);

struct Inner {
    rt: Rt,
    refuses: bool,
    sinks: Vec<Sink>,
    next: AtomicU64,
}

impl Audit {
    /// Opens what the configuration names.
    ///
    /// # Errors
    /// The file cannot be opened, or the certificates for the server cannot be read. That it is not there is none.
    pub(crate) fn start(rt: &Rt, config: &config::Audit) -> Result<Self, AuditError> {
        let mut sinks = Vec::new();
        if let Some(config) = &config.file {
            let named = |source| AuditError::File { path: config.path.display().to_string(), source };
            let log = LogFile::open(config.clone(), std::time::SystemTime::now()).map_err(named)?;
            let (sink, queue, health) = Sink::new("file", config.format);
            rt.spawn(file::run(rt.clone(), log, queue, health));
            sinks.push(sink);
        }
        if let Some(config) = &config.syslog {
            let server = Server::new(config)?;
            let (sink, queue, health) = Sink::new("syslog", config.format);
            rt.spawn(syslog::run(rt.clone(), server, queue, health));
            sinks.push(sink);
        }
        let refuses = config.on_failure == OnFailure::Refuse;
        Ok(Self(Arc::new(Inner { rt: rt.clone(), refuses, sinks, next: AtomicU64::new(0) })))
    }

    /// Writes a record, soon. Its number is set here.
    pub(crate) fn record(&self, mut record: Record) {
        if self.0.sinks.is_empty() {
            return;
        }
        record.sequence = self.0.next.fetch_add(1, Ordering::Relaxed);
        let mut lines = [None, None];
        for sink in &self.0.sinks {
            // Each format once.
            let line = lines[sink.format() as usize].get_or_insert_with(|| Line::of(&record, sink.format()));
            sink.push(line.clone(), record.is_refusal());
        }
    }

    /// Whether something new may be: not while its record could not be written, where the configuration wants that.
    ///
    /// # Errors
    /// [`Code::Busy`] and [`UNWRITABLE`].
    pub(crate) fn gate(&self) -> Result<(), Refused> {
        if self.0.refuses && self.0.sinks.iter().any(Sink::is_failing) {
            metrics::counter!("metra_audit_refused_total").increment(1);
            return Err(Refused::new(Code::Busy, UNWRITABLE));
        }
        Ok(())
    }

    /// Resolves when all that was recorded so far is written and synced, or after `limit`.
    pub(crate) async fn flush(&self, limit: Duration) {
        let all = futures_util::future::join_all(self.0.sinks.iter().map(Sink::flush));
        let _ = self.0.rt.timeout(limit, all).await;
    }
}

/// The rule by which something is refused while it cannot be written.
pub(crate) const ON_FAILURE: &str = "audit.on_failure";
/// What is said to whoever is refused for it.
pub(crate) const UNWRITABLE: &str = "the audit trail cannot be written; try again later";
