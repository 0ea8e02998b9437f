//! What is decided on single files of a job: a record for each that does not pass as it is.
//!
//! What passes has none: a job may have millions of files, and its end says how many there were.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use metra_core::code::Code;
use metra_policy::audit::{Action, Event, Record, Resource, Verdict};
use metra_session::LinkHandle;
use metra_store::Guard;

use super::Audit;
use super::trail::of;
use crate::authority::policies_in;
use crate::sessions::{Live, unix_millis};

/// Refusals of one attempt at a job that cost whoever provokes them nothing: these many are recorded, and all are counted
/// at its end.
const CHEAP_MAX: u32 = 1000;

/// The records of one attempt at a job. Clones are the same.
#[derive(Clone)]
pub(crate) struct FileTrail(Arc<Inner>);

struct Inner {
    audit: Audit,
    record: Record,
    cheap: AtomicU32,
}

/// A file that does not pass as it is.
pub(crate) struct Judged<'a> {
    /// As the user sees it.
    pub(crate) path: &'a str,
    /// Bytes, if that is known.
    pub(crate) size: Option<u64>,
    /// Which rule decided.
    pub(crate) rule: Option<&'a str>,
    /// [`Code::Ok`]: it passes all the same.
    pub(crate) code: Code,
    /// What the client is told, or would be.
    pub(crate) reason: &'a str,
    /// Whether somebody had to look into it.
    pub(crate) looked: bool,
}

impl Audit {
    /// Records for the files of this job.
    pub(crate) fn files(&self, live: &Live, link: &LinkHandle, action: Action, job: u64) -> FileTrail {
        let mut record = of(live, link, Event::Decision, action);
        record.job = Some(job);
        FileTrail(Arc::new(Inner { audit: self.clone(), record, cheap: AtomicU32::new(CHEAP_MAX) }))
    }
}

impl FileTrail {
    /// It was decided on.
    pub(crate) fn judged(&self, judged: &Judged<'_>) {
        let Inner { audit, record, cheap } = &*self.0;
        let one = |left: u32| left.checked_sub(1);
        if !judged.looked && cheap.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one).is_err() {
            return;
        }
        let passes = judged.code == Code::Ok;
        audit.record(Record {
            time: unix_millis(),
            verdict: Some(if passes { Verdict::Permitted } else { Verdict::Refused }),
            resource: Resource::Path(judged.path.to_owned()),
            bytes: judged.size,
            rule: judged.rule.map(ToOwned::to_owned),
            code: judged.code.name(),
            reason: judged.reason.to_owned(),
            ..record.clone()
        });
    }

    /// Asks `guard`, of paths below `home`, and records what it refuses.
    pub(crate) fn watch(&self, guard: Guard, home: PathBuf) -> Guard {
        let trail = self.clone();
        Guard::new(move |path, size| {
            guard.may(path, size).inspect_err(|reason| {
                let path = path.strip_prefix(&home).unwrap_or(path).to_string_lossy();
                let rule = policies_in(reason);
                trail.judged(&Judged { path: &path, size, rule, code: Code::Denied, reason, looked: false });
            })
        })
    }
}
