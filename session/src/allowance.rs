//! What a job may move, where somebody divides a rate among jobs.
//!
//! ```text
//!  job --ask(bytes)--> Grantor            a sink before it asks for chunks, a source before it sends one
//!   ^                     |
//!   +--- grant(bytes) ----+               at once, or when it is the job's turn
//! ```
//!
//! A job asks for what it could use now, and no more, so that what one does not use is there for others.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::futures::Notified;
use tokio::sync::{Notify, Semaphore};

use crate::job::JobError;

/// What a job may have on its way besides what fills its path: the time of two looks at its rate.
const AHEAD: Duration = Duration::from_millis(500);
/// About a chunk, so that one is there when another has arrived. Bytes.
const NEXT: u64 = 1 << 20;
/// Who divides a rate among jobs. May answer while it is asked.
pub trait Grantor: Send + Sync {
    /// A job wants to move so many bytes more than it has asked for before. All of them are granted, sooner or later.
    fn ask(&self, bytes: u64);

    /// A job has so many files more than it has said before.
    ///
    /// # Errors
    /// It may not have them: the job ends so.
    fn files(&self, files: u64) -> Result<(), JobError>;
}

/// What was granted to one job.
pub struct Allowance {
    grantor: Arc<dyn Grantor>,
    /// A permit is a byte that was granted and not used. First come, first served.
    granted: Semaphore,
    /// Asked for by a sink and not granted yet.
    asked: AtomicU64,
    changed: Notify,
    /// Bytes per second; `u64::MAX`: none.
    pace: AtomicU64,
    /// Bytes on their way, if that is as much as may be; `u64::MAX`: less.
    behind: AtomicU64,
}

impl fmt::Debug for Allowance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Allowance").field("unused", &self.unused()).finish_non_exhaustive()
    }
}

impl Allowance {
    /// Nothing granted yet.
    pub fn new(grantor: Arc<dyn Grantor>) -> Arc<Self> {
        let (granted, asked, changed) = (Semaphore::new(0), AtomicU64::new(0), Notify::new());
        Arc::new(Self {
            grantor,
            granted,
            asked,
            changed,
            pace: AtomicU64::new(u64::MAX),
            behind: AtomicU64::new(u64::MAX),
        })
    }

    /// Bytes were granted that had been asked for.
    pub fn grant(&self, bytes: u64) {
        let _ =
            self.asked.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |a| Some(a.saturating_sub(bytes)));
        self.put_back(bytes);
    }

    /// The source sends no faster than this for the moment, bytes per second: nobody asks further ahead than is of use
    /// then. `None`: as fast as it can.
    pub fn set_pace(&self, pace: Option<u64>) {
        self.pace.store(pace.unwrap_or(u64::MAX), Ordering::Relaxed);
        // It may ask for more.
        self.changed.notify_waiters();
    }

    /// Whether there is a pace.
    pub(crate) fn is_paced(&self) -> bool {
        self.pace.load(Ordering::Relaxed) != u64::MAX
    }

    /// What a job had on its way when it looked last, if that was as much as may be, or as its links or its sink take, so that it did
    /// not ask for more: it moves less than it may. Bytes.
    pub fn behind(&self) -> Option<u64> {
        let behind = self.behind.load(Ordering::Relaxed);
        (behind != u64::MAX).then_some(behind)
    }

    /// A job has looked whether it can ask for more; see [`behind`](Self::behind).
    pub(crate) fn set_behind(&self, behind: Option<u64>) {
        self.behind.store(behind.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How much a sink may have asked its source for and not received yet, or a source sent that has not arrived, over links of this
    /// round-trip time. Bytes. What was allowed comes whatever others are granted meanwhile.
    pub(crate) fn reach(&self, rtt: Duration) -> u64 {
        match self.pace.load(Ordering::Relaxed) {
            u64::MAX => u64::MAX,
            pace => ((pace as f64 * (rtt + AHEAD).as_secs_f64()) as u64).saturating_add(NEXT),
        }
    }

    /// Bytes that were granted and not used.
    pub fn unused(&self) -> u64 {
        self.granted.available_permits() as u64
    }

    /// Resolves when something was granted after this was called.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Asks for as much as is missing to `bytes`; for a job that uses its allowance in one place.
    pub(crate) fn ask_up_to(&self, bytes: u64) {
        let missing = bytes.saturating_sub(self.unused() + self.asked.load(Ordering::SeqCst));
        if missing > 0 {
            self.asked.fetch_add(missing, Ordering::SeqCst);
            self.grantor.ask(missing);
        }
    }

    /// Uses bytes that are there; for the same job.
    pub(crate) fn spend(&self, bytes: u64) {
        self.granted.forget_permits(usize::try_from(bytes).unwrap_or(usize::MAX));
    }

    /// Bytes that were used are not moved after all.
    pub(crate) fn put_back(&self, bytes: u64) {
        let room = (Semaphore::MAX_PERMITS as u64).saturating_sub(self.unused());
        self.granted.add_permits(bytes.min(room) as usize);
        self.changed.notify_waiters();
    }

    /// Asks for the bytes of a chunk, and waits until they are granted.
    pub(crate) async fn take(&self, bytes: u32) {
        self.grantor.ask(u64::from(bytes));
        if let Ok(permits) = self.granted.acquire_many(bytes).await {
            permits.forget();
        }
    }

    /// See [`Grantor::files`].
    pub(crate) fn files(&self, files: u64) -> Result<(), JobError> {
        if files == 0 { Ok(()) } else { self.grantor.files(files) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Mutex;
    use std::sync::atomic::AtomicBool;

    use super::*;

    /// Notes what it is asked for; grants nothing by itself.
    #[derive(Default)]
    struct Notes(Mutex<Vec<u64>>);

    impl Grantor for Notes {
        fn ask(&self, bytes: u64) {
            self.0.lock().unwrap().push(bytes);
        }

        fn files(&self, _: u64) -> Result<(), JobError> {
            Ok(())
        }
    }

    fn allowance() -> (Arc<Notes>, Arc<Allowance>) {
        let notes = Arc::new(Notes::default());
        (notes.clone(), Allowance::new(notes))
    }

    #[test]
    fn no_more_is_asked_for_than_is_missing() {
        let (notes, allowance) = allowance();
        allowance.ask_up_to(100);
        allowance.ask_up_to(100);
        allowance.ask_up_to(150);
        assert_eq!(*notes.0.lock().unwrap(), [100, 50]);
        allowance.grant(60);
        allowance.ask_up_to(150);
        assert_eq!((notes.0.lock().unwrap().len(), allowance.unused()), (2, 60));
        allowance.spend(60);
        allowance.ask_up_to(150);
        assert_eq!(*notes.0.lock().unwrap(), [100, 50, 60]);
        allowance.put_back(10);
        assert_eq!(allowance.unused(), 10);
    }

    #[tokio::test]
    async fn a_large_chunk_is_not_overtaken_by_small_ones() {
        let (notes, allowance) = allowance();
        let done = Arc::new(AtomicBool::new(false));
        let large = tokio::spawn({
            let (allowance, done) = (allowance.clone(), done.clone());
            async move {
                allowance.take(100).await;
                done.store(true, Ordering::SeqCst);
            }
        });
        tokio::task::yield_now().await;
        let small = tokio::spawn({
            let allowance = allowance.clone();
            async move { allowance.take(10).await }
        });
        tokio::task::yield_now().await;
        assert_eq!(*notes.0.lock().unwrap(), [100, 10]);
        allowance.grant(50);
        tokio::task::yield_now().await;
        assert!(!small.is_finished() && !done.load(Ordering::SeqCst));
        allowance.grant(60);
        small.await.unwrap();
        large.await.unwrap();
        assert_eq!((done.load(Ordering::SeqCst), allowance.unused()), (true, 0));
    }
}
