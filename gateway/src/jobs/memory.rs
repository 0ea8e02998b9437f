//! The memory that the jobs of a gateway share.

use std::collections::HashMap;
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
    /// And whose they are.
    sinks: Mutex<Vec<(Weak<SinkJob>, String)>>,
    rings: Arc<AtomicU64>,
}

/// Counts a sending job for as long as it runs.
pub(crate) struct RingGuard(Arc<AtomicU64>);

impl Drop for RingGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn is_running((job, _): &(Weak<SinkJob>, String)) -> bool {
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

    /// What a job may ask for ahead that is the only one.
    pub(crate) fn all(&self) -> CreditLimits {
        self.limits(self.receive)
    }

    fn limits(&self, share: u64) -> CreditLimits {
        let ceiling = share.max(LEAST);
        let floor = if self.limited.load(Ordering::Relaxed) { FLOOR_LIMITED } else { FLOOR };
        CreditLimits { floor: floor.min(ceiling), ceiling }
    }

    /// Whether one more receiving job has room for at least a chunk.
    ///
    /// # Errors
    /// What to tell the client.
    pub(crate) fn admit(&self) -> Result<(), &'static str> {
        let jobs = self.sinks.lock().expect("no panic while held").iter().filter(|of| is_running(of)).count();
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

    /// A job of a user has begun; all get a new share.
    pub(crate) fn add(&self, job: &Arc<SinkJob>, user: &str) {
        self.sinks.lock().expect("no panic while held").push((Arc::downgrade(job), user.to_owned()));
        self.divide();
    }

    /// Divides what there is among the jobs that are left: a chunk for each, and what is left in equal parts among users, or many
    /// jobs of one would slow down the others.
    pub(crate) fn divide(&self) {
        let jobs: Vec<(Arc<SinkJob>, String)> = {
            let mut sinks = self.sinks.lock().expect("no panic while held");
            sinks.retain(|(job, _)| job.strong_count() > 0);
            sinks.iter().filter_map(|(job, user)| Some((job.upgrade()?, user.clone()))).collect()
        };
        let running: Vec<&str> =
            jobs.iter().filter(|(job, _)| !job.is_over()).map(|(_, user)| user.as_str()).collect();
        let shares = shares(self.receive, &running);
        for (job, user) in &jobs {
            let share = shares.get(user.as_str()).copied().unwrap_or(LEAST);
            job.set_credit(self.limits(share));
        }
    }
}

/// What each job of a user has of `all`, if these are the users of all jobs. Bytes; the shares of all jobs together are no more than
/// all, if that is enough for [`LEAST`] each.
fn shares<'a>(all: u64, running: &[&'a str]) -> HashMap<&'a str, u64> {
    let mut jobs: HashMap<&str, u64> = HashMap::new();
    for user in running {
        *jobs.entry(user).or_default() += 1;
    }
    let of_user = all.saturating_sub(running.len() as u64 * LEAST) / jobs.len().max(1) as u64;
    jobs.into_iter().map(|(user, jobs)| (user, LEAST + of_user / jobs)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_jobs_of_one_user_do_not_take_from_others() {
        const ALL: u64 = 1 << 30;
        assert_eq!(shares(ALL, &["a"])["a"], ALL);
        let mut running = vec!["a", "b"];
        running.extend(std::iter::repeat_n("many", 64));
        let found = shares(ALL, &running);
        assert!(found["a"] > ALL / 5 && found["a"] == found["b"], "{found:?}");
        assert!(found["many"] >= LEAST);
        assert!(found["a"] * 2 + found["many"] * 64 <= ALL, "{found:?}");
        // A chunk each, whatever there is.
        assert_eq!(shares(LEAST, &["a", "b"])["a"], LEAST);
    }
}
