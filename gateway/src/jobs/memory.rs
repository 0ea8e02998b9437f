//! The memory that the jobs of a gateway share.

use std::sync::{Arc, Mutex, Weak};

use metra_core::credit::CreditLimits;
use metra_session::{Budget, SinkJob};

/// No receiving job is given less to ask for ahead than this, however many there are; one chunk. Bytes.
const LEAST: u64 = metra_core::limits::CHUNK_MAX as u64;
/// What a receiving job asks for ahead to begin with, if its share allows. Bytes.
const FLOOR: u64 = 32 << 20;

/// See the module's documentation.
pub(crate) struct Memory {
    manifests: Arc<Budget>,
    receive: u64,
    sinks: Mutex<Vec<Weak<SinkJob>>>,
}

impl Memory {
    pub(crate) fn new(manifests: u64, receive: u64) -> Self {
        Self { manifests: Budget::new(manifests), receive, sinks: Mutex::default() }
    }

    /// For manifests.
    pub(crate) fn manifests(&self) -> Arc<Budget> {
        self.manifests.clone()
    }

    /// What a job may ask for ahead if `jobs` share.
    pub(crate) fn share(&self, jobs: usize) -> CreditLimits {
        let ceiling = (self.receive / jobs.max(1) as u64).max(LEAST);
        CreditLimits { floor: FLOOR.min(ceiling), ceiling }
    }

    /// A job has begun; all get a new share.
    pub(crate) fn add(&self, job: &Arc<SinkJob>) {
        self.sinks.lock().expect("no panic while held").push(Arc::downgrade(job));
        self.divide();
    }

    /// Divides what there is among the jobs that are left.
    pub(crate) fn divide(&self) {
        let jobs: Vec<Arc<SinkJob>> = {
            let mut sinks = self.sinks.lock().expect("no panic while held");
            sinks.retain(|job| job.strong_count() > 0);
            sinks.iter().filter_map(Weak::upgrade).collect()
        };
        let share = self.share(jobs.iter().filter(|job| !job.is_over()).count());
        for job in jobs {
            job.set_credit(share);
        }
    }
}
