//! The first records go out right behind what opens the job: a round trip that nobody waits for.

use std::sync::Arc;
use std::time::Duration;

use metra_store::landing::NullLanding;

use crate::link::Path;
use crate::rig::{Rig, ends, random};

/// One way of [`Path::default`].
const WAY: Duration = Duration::from_millis(20);
/// What disks and tasks take, which are not virtual, at most.
const SLACK: Duration = Duration::from_millis(15);

/// When the source of a push had its first chunk on a link, where opening the job takes so long at the gateway.
async fn first_byte_of_a_push(opening: Duration) -> Duration {
    let rig = Rig::new();
    let _cable = rig.link(Path::default()).await;
    rig.opens_in(opening);
    let pushing = rig.push(&random(8 << 20), Arc::new(NullLanding::default()));
    let job = pushing.job.clone();
    let outcome = ends(pushing.run()).await.unwrap();
    assert_eq!((outcome.finished.bytes, outcome.finished.failed), (8 << 20, 0));
    job.progress().first_byte.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_push_asks_for_chunks_a_round_trip_after_it_was_opened() {
    for opening in [Duration::ZERO, Duration::from_millis(5), Duration::from_secs(2)] {
        let took = first_byte_of_a_push(opening).await;
        let expected = 2 * WAY + opening;
        assert!(took >= expected && took <= expected + SLACK, "{took:?} for {expected:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pull_is_asked_for_chunks_when_it_answers() {
    let rig = Rig::new();
    let _cable = rig.link(Path::default()).await;
    let pulling = rig.pull(&random(8 << 20), Arc::new(NullLanding::default()));
    let job = pulling.job.clone();
    ends(pulling.run()).await.unwrap();
    let took = job.progress().first_byte.unwrap();
    assert!(took >= 4 * WAY && took <= 4 * WAY + SLACK, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_link_that_is_lost_while_a_push_is_opened_costs_nothing_but_time() {
    let rig = Rig::new();
    let first = rig.link(Path::default()).await;
    rig.opens_in(Duration::from_millis(200));
    let pushing = rig.push(&random(8 << 20), Arc::new(NullLanding::default()));
    let running = tokio::spawn(pushing.run());
    // The job and its first records are there, and it is not open.
    tokio::time::sleep(Duration::from_millis(60)).await;
    first.cut();
    let _second = rig.link(Path::default()).await;
    let outcome = ends(running).await.unwrap().unwrap();
    assert_eq!((outcome.finished.bytes, outcome.stats.chunks_resent), (8 << 20, 0));
}
