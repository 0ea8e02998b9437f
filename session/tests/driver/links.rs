//! Links that are lost, and others that take their place.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metra_core::wire::ChunkHeader;
use metra_session::JobError;
use metra_store::landing::NullLanding;
use metra_store::source::{Root, SourceSpec};

use crate::landing::{Manners, MemoryLanding};
use crate::link::{Cable, Fault, Path};
use crate::rig::{RECEIPT, Rig, ends, random};

const MIB: u64 = 1 << 20;

/// Numbers that look random, the same for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

#[tokio::test(start_paused = true)]
async fn a_push_goes_on_wherever_its_link_is_cut() {
    for cut_at in (0..520).step_by(13) {
        let rig = Rig::new();
        let first = rig.link(Path::slow(8 * MIB)).await;
        let landing = Arc::new(MemoryLanding::default());
        let pushing = rig.push(&random(3 * MIB), landing.clone());
        let job = pushing.job.clone();
        let run = tokio::spawn(pushing.run());
        tokio::time::sleep(Duration::from_millis(cut_at)).await;
        first.cut();
        tokio::time::sleep(Duration::from_millis(50)).await;
        rig.link(Path::slow(8 * MIB)).await;
        let outcome = ends(run).await.unwrap().unwrap_or_else(|e| panic!("cut at {cut_at} ms: {e}"));
        assert_eq!(outcome.finished.bytes, 3 * MIB, "cut at {cut_at} ms");
        assert_eq!(job.receipt().as_deref(), Some(RECEIPT), "cut at {cut_at} ms");
        assert!(landing.writes().values().all(|times| *times == 1), "cut at {cut_at} ms");
        assert!(job.attachments() <= 2);
        tokio::time::sleep(Duration::from_secs(40)).await;
        assert_eq!(rig.ended().len(), 1, "one job all the time, cut at {cut_at} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pull_goes_on_wherever_its_link_is_cut() {
    for cut_at in (0..520).step_by(13) {
        let rig = Rig::new();
        let first = rig.link(Path::slow(8 * MIB)).await;
        let landing = Arc::new(MemoryLanding::default());
        let pulling = rig.pull(&random(3 * MIB), landing.clone());
        let run = tokio::spawn(pulling.run());
        tokio::time::sleep(Duration::from_millis(cut_at)).await;
        first.cut();
        tokio::time::sleep(Duration::from_millis(50)).await;
        rig.link(Path::slow(8 * MIB)).await;
        let (outcome, receipt) =
            ends(run).await.unwrap().unwrap_or_else(|e| panic!("cut at {cut_at} ms: {e}"));
        assert_eq!(outcome.finished.bytes, 3 * MIB, "cut at {cut_at} ms");
        assert_eq!(receipt.as_deref(), Some(RECEIPT), "cut at {cut_at} ms");
        assert!(landing.writes().values().all(|times| *times == 1), "cut at {cut_at} ms");
    }
}

/// How long a job takes over a link that carries 64 MiB a second, and another one of so many bytes a second.
async fn takes(push: bool, other: Option<u64>) -> (Duration, usize) {
    let mut rig = Rig::new();
    rig.ask_for_more();
    rig.link(Path::line(64 * MIB)).await;
    let slow = match other {
        Some(rate) => Some(rig.link(Path::line(rate)).await),
        None => None,
    };
    let start = tokio::time::Instant::now();
    let (spec, landing) = (random(640 * MIB), Arc::new(NullLanding::default()));
    let bytes = if push {
        ends(rig.push(&spec, landing).run()).await.unwrap().finished.bytes
    } else {
        ends(rig.pull(&spec, landing).run()).await.unwrap().0.finished.bytes
    };
    assert_eq!(bytes, 640 * MIB);
    (start.elapsed(), slow.map_or(0, |cable| cable.chunks()))
}

#[tokio::test(start_paused = true)]
async fn the_last_chunks_do_not_wait_for_a_slow_link() {
    for push in [true, false] {
        let (alone, _) = takes(push, None).await;
        for rate in [2 * MIB, 16 * MIB] {
            let (both, chunks) = takes(push, Some(rate)).await;
            assert!(both < alone, "{both:?} with {rate}, {alone:?} without, push: {push}");
            // What the other one adds, if that is worth something.
            assert!(rate < 16 * MIB || both < alone * 9 / 10, "{both:?}, {alone:?}");
            assert!(chunks >= 4, "{chunks} of {rate}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_slow_link_has_at_the_end_is_taken_from_it() {
    for push in [true, false] {
        let mut rig = Rig::new();
        rig.ask_for_more();
        let cables = [rig.link(Path::line(16 * MIB)).await, rig.link(Path::line(MIB / 32)).await];
        let start = tokio::time::Instant::now();
        let (spec, landing) = (random(32 * MIB), Arc::new(MemoryLanding::default()));
        let finished = if push {
            ends(rig.push(&spec, landing.clone()).run()).await.unwrap().finished
        } else {
            ends(rig.pull(&spec, landing.clone()).run()).await.unwrap().0.finished
        };
        assert_eq!(finished.bytes, 32 * MIB);
        // The slow one needs half a minute for a chunk, and has begun with one at least.
        assert!(cables[1].chunks() > 0);
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}, push: {push}", start.elapsed());
        assert!(landing.writes().values().all(|times| *times == 1));
        assert_eq!(cables.iter().map(|cable| cable.close_code()).collect::<Vec<_>>(), [None, None]);
    }
}

#[tokio::test(start_paused = true)]
async fn one_of_two_links_is_lost() {
    for (lost, control) in [(0, true), (1, false)] {
        for push in [true, false] {
            let rig = Rig::new();
            let cables = [rig.link(Path::slow(2 * MIB)).await, rig.link(Path::slow(2 * MIB)).await];
            let landing = Arc::new(NullLanding::default());
            let run: tokio::task::JoinHandle<(u64, u32)> = if push {
                let pushing = rig.push(&random(16 * MIB), landing);
                let job = pushing.job.clone();
                tokio::spawn(async move {
                    let outcome = pushing.run().await.unwrap();
                    (outcome.finished.bytes, job.attachments())
                })
            } else {
                let pulling = rig.pull(&random(16 * MIB), landing);
                let job = pulling.job.clone();
                tokio::spawn(async move {
                    let (outcome, _) = pulling.run().await.unwrap();
                    (outcome.finished.bytes, job.attachments())
                })
            };
            cables[lost].carried(3).await;
            cables[lost].cut();
            let (bytes, attachments) = ends(run).await.unwrap();
            assert_eq!(bytes, 16 * MIB);
            assert_eq!(
                attachments,
                if control { 2 } else { 1 },
                "control link lost: {control}, push: {push}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_silent_link_has_taken_goes_another_way() {
    // One link takes everything and delivers nothing; whether it carries the control or not, it is not waited for.
    for hole_first in [false, true] {
        let rig = Rig::new();
        let hole = || Path::with(|_, _| Fault::Swallow);
        let good = || Path::slow(4 * MIB);
        let (first, second) = if hole_first { (hole(), good()) } else { (good(), hole()) };
        let cables = [rig.link(first).await, rig.link(second).await];
        let hole = &cables[usize::from(!hole_first)];
        let started = tokio::time::Instant::now();
        let pushing = rig.push(&random(8 * MIB), Arc::new(NullLanding::default()));
        let run = tokio::spawn(pushing.run());
        hole.carried(1).await;
        assert_eq!(ends(run).await.unwrap().unwrap().finished.bytes, 8 * MIB);
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        assert_eq!(hole.close_code(), None, "the link may come back");
        assert!(hole.chunks() <= 4, "nothing is given to it once it is silent");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_link_is_kept_where_there_is_no_other() {
    let rig = Rig::new();
    let hole = rig.link(Path::with(|_, number| if number < 3 { Fault::Swallow } else { Fault::None })).await;
    let pushing = rig.push(&random(8 * MIB), Arc::new(NullLanding::default()));
    let job = pushing.job.clone();
    let run = tokio::spawn(pushing.run());
    hole.carried(3).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(!run.is_finished() && job.attachments() == 1, "there is nowhere else to go");
    rig.link(Path::slow(4 * MIB)).await;
    assert_eq!(ends(run).await.unwrap().unwrap().finished.bytes, 8 * MIB);
}

#[tokio::test(start_paused = true)]
async fn a_job_without_a_link_waits() {
    let rig = Rig::new();
    let run = tokio::spawn(rig.push(&random(2 * MIB), Arc::new(NullLanding::default())).run());
    tokio::time::sleep(Duration::from_secs(1000)).await;
    assert!(!run.is_finished());
    rig.link(Path::default()).await;
    assert_eq!(ends(run).await.unwrap().unwrap().finished.bytes, 2 * MIB);
}

#[tokio::test(start_paused = true)]
async fn a_link_lost_while_the_names_are_given_is_made_good() {
    let rig = Rig::new();
    let instant = || Path { latency: Duration::ZERO, ..Path::default() };
    let first = rig.link(instant()).await;
    let manners = Manners { finish_takes: Duration::from_millis(400), ..Manners::default() };
    let pushing = rig.push(&random(2 * MIB), Arc::new(MemoryLanding::new(manners)));
    let job = pushing.job.clone();
    let run = tokio::spawn(pushing.run());
    // Virtual time stands still while the landing is at work; everything else goes on.
    while rig.gateway_sink().is_none_or(|sink| sink.progress().durable < 2 * MIB) {
        tokio::task::yield_now().await;
    }
    first.cut();
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    let second = rig.link(instant()).await;
    let outcome = ends(run).await.unwrap().unwrap();
    assert_eq!(outcome.finished.bytes, 2 * MIB);
    assert_eq!((job.attachments(), second.chunks()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn failures_that_were_lost_with_a_link_are_told_again() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..2000 {
        std::fs::write(dir.path().join(format!("f{i:04}")), [i as u8; 40]).unwrap();
    }
    let spec = SourceSpec::new(vec![Root::Path { path: dir.path().into(), contents: true }]);
    for cut_at in (50..140).step_by(4) {
        let rig = Rig::new();
        let first =
            rig.link(Path { latency: Duration::from_millis(20), control_room: 2, ..Path::slow(MIB) }).await;
        let landing = Arc::new(MemoryLanding::new(Manners { refuse: Some("3"), ..Manners::default() }));
        let pushing = rig.push(&spec, landing);
        let job = pushing.job.clone();
        let run = tokio::spawn(pushing.run());
        tokio::time::sleep(Duration::from_millis(cut_at)).await;
        first.cut();
        rig.link(Path::default()).await;
        let outcome = ends(run).await.unwrap().unwrap();
        assert_eq!(outcome.finished.failed, 200);
        assert_eq!(job.report_counts(), (200, 0), "cut at {cut_at} ms");
        let mut sent = 0;
        assert!(job.for_each_sent(|_, _| sent += 1));
        assert_eq!(sent, 1800, "cut at {cut_at} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn storms_of_faults_and_losses_end_well() {
    for seed in 0..24u64 {
        let rig = Rig::new();
        let mut dice = Dice(seed);
        let flips: Arc<Mutex<HashMap<u32, u32>>> = Arc::default();
        let noisy = move |header: &ChunkHeader, number: u64| {
            let mut dice = Dice(seed ^ (u64::from(header.chunk.0) << 20) ^ (number << 40));
            dice.roll(2);
            match dice.roll(20) {
                0 => {
                    let mut flips = flips.lock().unwrap();
                    let times = flips.entry(header.chunk.0).or_default();
                    *times += 1;
                    // Once more, and the job rightly fails.
                    if *times < 5 { Fault::Flip } else { Fault::None }
                }
                1 => Fault::Reset(dice.roll(300_000) as usize),
                2 => Fault::Swallow,
                _ => Fault::None,
            }
        };
        let landing = Arc::new(MemoryLanding::new(Manners {
            reads_back: seed % 2 == 0,
            in_sequence: seed % 3 == 0,
            late: seed % 5 == 0,
            ..Manners::default()
        }));
        let path = || Path { rate: 6 * MIB, ..Path::with(noisy.clone()) };
        let mut cables: Vec<Arc<Cable>> = vec![rig.link(path()).await];
        let mut run: tokio::task::JoinHandle<Result<u64, JobError>> = if seed % 2 == 0 {
            let pushing = rig.push(&random(10 * MIB), landing.clone());
            tokio::spawn(async move { pushing.run().await.map(|o| o.finished.bytes) })
        } else {
            let pulling = rig.pull(&random(10 * MIB), landing.clone());
            tokio::spawn(async move { pulling.run().await.map(|o| o.0.finished.bytes) })
        };
        let bytes = ends(async {
            loop {
                let wait = Duration::from_millis(20 + dice.roll(400));
                tokio::select! {
                    bytes = &mut run => return bytes.unwrap(),
                    () = tokio::time::sleep(wait) => {}
                }
                // Nothing is lost for ever: whatever is swallowed comes back when its link is cut, sooner or later.
                if cables.len() >= 3 || (dice.roll(3) == 0 && !cables.is_empty()) {
                    let which = dice.roll(cables.len() as u64) as usize;
                    cables.swap_remove(which).cut();
                } else {
                    cables.push(rig.link(path()).await);
                }
            }
        })
        .await;
        assert_eq!(bytes, Ok(10 * MIB), "seed {seed}");
        assert_eq!(landing.file(0).len() as u64, 10 * MIB, "seed {seed}");
        assert!(landing.writes().values().all(|times| *times == 1), "seed {seed}");
    }
}
