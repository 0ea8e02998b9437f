//! Jobs that may not move more than somebody grants them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metra_core::code::Code;
use metra_session::{Allowance, Grantor, JobError, Progress};
use metra_store::landing::NullLanding;

use crate::link::Path;
use crate::rig::{Rig, ends, random};

const MIB: u64 = 1 << 20;

/// Notes what is asked for, and grants it up to a limit that the test raises.
#[derive(Default)]
struct Purse {
    asked: AtomicU64,
    granted: AtomicU64,
    limit: AtomicU64,
    files: AtomicU64,
    allowance: Mutex<Option<Arc<Allowance>>>,
}

impl Purse {
    fn allowance() -> (Arc<Self>, Arc<Allowance>) {
        let purse = Arc::new(Self::default());
        let allowance = Allowance::new(purse.clone());
        *purse.allowance.lock().unwrap() = Some(allowance.clone());
        (purse, allowance)
    }

    /// Grants up to so much in all.
    fn allow(&self, limit: u64) {
        self.limit.store(limit, Ordering::SeqCst);
        self.give();
    }

    fn give(&self) {
        let granted = self.granted.load(Ordering::SeqCst);
        let due = self.asked.load(Ordering::SeqCst).min(self.limit.load(Ordering::SeqCst));
        if due > granted {
            self.granted.store(due, Ordering::SeqCst);
            self.allowance.lock().unwrap().as_ref().unwrap().grant(due - granted);
        }
    }
}

impl Grantor for Purse {
    fn ask(&self, bytes: u64) {
        self.asked.fetch_add(bytes, Ordering::SeqCst);
        self.give();
    }

    fn files(&self, files: u64) -> Result<(), JobError> {
        if self.files.fetch_add(files, Ordering::SeqCst) + files > 1 {
            return Err(JobError::new(Code::Limit, "the quota of files of the day is used up"));
        }
        Ok(())
    }
}

/// Runs for a minute with each of some limits, and then without one.
async fn stops_at(purse: &Purse, limits: &[u64], progress: impl Fn() -> Progress) {
    for limit in limits {
        purse.allow(*limit);
        tokio::time::sleep(Duration::from_secs(60)).await;
        let moved = progress().moved;
        assert!(moved <= *limit, "{moved} of {limit}");
        assert!(moved + 8 * MIB > *limit, "{moved} of {limit}: what is granted is used");
        let asked = purse.asked.load(Ordering::SeqCst);
        assert!(asked <= limit + 32 * MIB, "{asked}: no more is asked for than there is use for");
    }
    purse.allow(u64::MAX);
}

#[tokio::test(start_paused = true)]
async fn a_source_sends_what_is_granted() {
    let mut rig = Rig::new();
    let (purse, allowance) = Purse::allowance();
    rig.source.allowance = Some(allowance.clone());
    let _cable = rig.link(Path::default()).await;
    let pushing = rig.push(&random(64 * MIB), Arc::new(NullLanding::default()));
    let job = pushing.job.clone();
    let run = tokio::spawn(pushing.run());
    stops_at(&purse, &[0, 9 * MIB, 30 * MIB], || job.progress()).await;
    ends(run).await.unwrap().unwrap();
    let granted = purse.granted.load(Ordering::SeqCst);
    assert_eq!((granted - allowance.unused(), purse.files.load(Ordering::SeqCst)), (64 * MIB, 1));
}

#[tokio::test(start_paused = true)]
async fn a_source_asks_for_what_it_can_send_soon_and_says_when_it_is_behind() {
    let mut rig = Rig::new();
    let (purse, allowance) = Purse::allowance();
    rig.source.allowance = Some(allowance.clone());
    let _cable = rig.link(Path::line(MIB)).await;
    let pushing = rig.push(&random(200 * MIB), Arc::new(NullLanding::default()));
    let job = pushing.job.clone();
    let run = tokio::spawn(pushing.run());
    let ahead = || purse.granted.load(Ordering::SeqCst) - job.progress().verified;
    purse.allow(8 * MIB);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(allowance.behind(), None, "it waits for what it is granted");
    // It is slower than what it is granted: without a pace it has as much on its way as goes out at once, ...
    purse.allow(u64::MAX);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let unpaced = ahead();
    assert!(allowance.behind().is_some_and(|behind| behind > 2 * MIB), "{unpaced}");
    // ... and with one what it sends in half a second, a chunk, and the one that is on its way.
    allowance.set_pace(Some(MIB / 2));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(ahead() < 3 * MIB && ahead() < unpaced, "{} of {unpaced}", ahead());
    assert!(allowance.behind().is_some_and(|behind| behind >= MIB), "{:?}", allowance.behind());
    // The rest is on its way, and nothing is left to ask for.
    ends(run).await.unwrap().unwrap();
    assert_eq!(allowance.behind(), None);
}

#[tokio::test(start_paused = true)]
async fn a_sink_asks_for_what_is_granted() {
    let mut rig = Rig::new();
    let (purse, allowance) = Purse::allowance();
    rig.sink.allowance = Some(allowance.clone());
    let _cable = rig.link(Path::default()).await;
    let pulling = rig.pull(&random(64 * MIB), Arc::new(NullLanding::default()));
    let job = pulling.job.clone();
    let run = tokio::spawn(pulling.run());
    stops_at(&purse, &[0, 9 * MIB, 30 * MIB], || job.progress()).await;
    ends(run).await.unwrap().unwrap();
    let granted = purse.granted.load(Ordering::SeqCst);
    assert_eq!((granted - allowance.unused(), purse.files.load(Ordering::SeqCst)), (64 * MIB, 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_lost_with_a_link_is_not_spent_twice() {
    let mut rig = Rig::new();
    let (purse, allowance) = Purse::allowance();
    rig.sink.allowance = Some(allowance.clone());
    let first = rig.link(Path::slow(MIB)).await;
    let pulling = rig.pull(&random(40 * MIB), Arc::new(NullLanding::default()));
    purse.allow(20 * MIB);
    let job = pulling.job.clone();
    let run = tokio::spawn(pulling.run());
    first.carried(4).await;
    first.cut();
    let _second = rig.link(Path::default()).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let moved = job.progress().moved;
    assert!(moved + 4 * MIB > 20 * MIB, "{moved}: what was asked for over the lost link is asked for again");
    purse.allow(u64::MAX);
    ends(run).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_job_that_may_not_move_more_can_be_ended() {
    let mut rig = Rig::new();
    let (purse, allowance) = Purse::allowance();
    (rig.source.allowance, rig.sink.allowance) = (Some(allowance.clone()), Some(allowance));
    let _cable = rig.link(Path::default()).await;
    purse.allow(MIB);
    let pushing = rig.push(&random(64 * MIB), Arc::new(NullLanding::default()));
    let job = pushing.job.clone();
    let run = tokio::spawn(pushing.run());
    tokio::time::sleep(Duration::from_secs(5)).await;
    job.cancel(Code::Cancelled, "enough");
    assert_eq!(ends(run).await.unwrap().unwrap_err().code, Code::Cancelled);
    // The second file is one too many, and says so to the other side.
    let pulling = rig.pull(&random(MIB), Arc::new(NullLanding::default()));
    let (error, ended) = (ends(pulling.run()).await.unwrap_err(), Duration::from_secs(60));
    assert_eq!((error.code, &*error.reason), (Code::Limit, "the quota of files of the day is used up"));
    tokio::time::sleep(ended).await;
    assert!(!rig.gateway_holds_jobs());
}
