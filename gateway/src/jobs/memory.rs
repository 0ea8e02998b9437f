//! The memory that the jobs of a gateway share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use metra_core::credit::CreditLimits;
use metra_session::{Budget, SinkJob};

/// No receiving job is given less to ask for ahead than this, however many there are; one chunk. Bytes.
const LEAST: u64 = metra_core::limits::CHUNK_MAX as u64;
/// What a receiving job asks for ahead to begin with, if its share allows. Bytes.
const FLOOR: u64 = 64 << 20;
/// The same where rates are limited: what was asked for already still comes when a limit becomes lower.
const FLOOR_LIMITED: u64 = 16 << 20;
/// What a sending job keeps in memory of what it has read, if its share allows. Bytes.
const RING: u64 = 256 << 20;

/// See the module's documentation.
pub(crate) struct Memory {
    manifests: Arc<Budget>,
    receive: u64,
    limited: AtomicBool,
    sinks: Mutex<Vec<Weak<SinkJob>>>,
    rings: Arc<AtomicU64>,
}

/// Counts a sending job for as long as it runs.
pub(crate) struct RingGuard(Arc<AtomicU64>);

impl Drop for RingGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn is_running(job: &Weak<SinkJob>) -> bool {
    job.upgrade().is_some_and(|job| !job.is_over())
}

impl Memory {
    pub(crate) fn new(manifests: u64, receive: u64) -> Self {
        let (limited, sinks) = (AtomicBool::new(false), Mutex::default());
        Self { manifests: Budget::new(manifests), receive, limited, sinks, rings: Arc::default() }
    }

    /// Whether rates are limited, from now on.
    pub(crate) fn set_limited(&self, limited: bool) {
        self.limited.store(limited, Ordering::Relaxed);
        self.divide();
    }

    /// For manifests.
    pub(crate) fn manifests(&self) -> Arc<Budget> {
        self.manifests.clone()
    }

    /// What a job may ask for ahead if `jobs` share.
    pub(crate) fn share(&self, jobs: usize) -> CreditLimits {
        let ceiling = (self.receive / jobs.max(1) as u64).max(LEAST);
        let floor = if self.limited.load(Ordering::Relaxed) { FLOOR_LIMITED } else { FLOOR };
        CreditLimits { floor: floor.min(ceiling), ceiling }
    }

    /// Whether one more receiving job has room for at least a chunk.
    ///
    /// # Errors
    /// What to tell the client.
    pub(crate) fn admit(&self) -> Result<(), &'static str> {
        let jobs =
            self.sinks.lock().expect("no panic while held").iter().filter(|job| is_running(job)).count();
        if (jobs as u64 + 1) * LEAST > self.receive.max(LEAST) {
            return Err("the memory for receiving is used up by other jobs; try again later");
        }
        Ok(())
    }

    /// A sending job has begun. What it may keep in memory of what it has read; counts until the guard is dropped.
    ///
    /// # Errors
    /// What to tell the client.
    pub(crate) fn ring(&self) -> Result<(usize, RingGuard), &'static str> {
        let jobs = self.rings.fetch_add(1, Ordering::Relaxed) + 1;
        let guard = RingGuard(self.rings.clone());
        let share = self.receive / jobs;
        if share < LEAST {
            return Err("the memory for sending is used up by other jobs; try again later");
        }
        Ok((share.min(RING) as usize, guard))
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
