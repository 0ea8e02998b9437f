//! The first records go out right behind what opens the job: a round trip that nobody waits for.

use std::sync::Arc;
use std::time::Duration;

use metra_core::wire::FrameDecoder;
use metra_store::landing::NullLanding;
use metra_transport::{Link, LinkError};

use crate::link::{Path, connect};
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

/// When the first chunk was on a link whose opening is agreed on a round trip after it has begun, by both sides at once where
/// nothing is sent before.
async fn first_byte_of_a_begun_link(is_pull: bool) -> Duration {
    let rig = Rig::new();
    let (a, b, _cable) = connect(Path::default());
    let landing = Arc::new(NullLanding::default());
    let start = tokio::time::Instant::now();
    let spec = random(8 << 20);
    let running = if is_pull {
        let pulling = rig.pull(&spec, landing);
        tokio::spawn(async move { pulling.run().await.map(|(outcome, _)| outcome.finished.bytes) })
    } else {
        let pushing = rig.push(&spec, landing);
        tokio::spawn(async move { pushing.run().await.map(|outcome| outcome.finished.bytes) })
    };
    let (send, recv) = a.control().await.unwrap();
    let begun = rig.client.begin(a, send).unwrap();
    tokio::time::sleep(WAY).await;
    let (send, theirs) = b.control().await.unwrap();
    let first = rig.gateway.attach(b, send, theirs, FrameDecoder::new()).unwrap();
    tokio::time::sleep(WAY).await;
    begun.agreed(recv, FrameDecoder::new());
    let mut took = None;
    while took.is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let stats = first.link().stats();
        let chunks = if is_pull { stats.sent_bytes } else { stats.received_bytes };
        took = (chunks > 512 << 10).then(|| start.elapsed());
    }
    assert_eq!(ends(running).await.unwrap().unwrap(), 8 << 20);
    took.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_job_is_opened_while_its_link_is() {
    // Opened, asked for chunks and told so when the link is agreed on; they are there half a round trip later.
    let push = first_byte_of_a_begun_link(false).await;
    assert!(push <= 3 * WAY + SLACK, "{push:?}");
    // Answered when it is agreed on; asked for chunks then.
    let pull = first_byte_of_a_begun_link(true).await;
    assert!(pull <= 3 * WAY + SLACK, "{pull:?}");
}

#[tokio::test(start_paused = true)]
async fn a_link_that_is_not_agreed_on_is_closed_and_does_not_count() {
    let rig = Rig::new();
    let (a, b, refused) = connect(Path::default());
    let pushing = rig.push(&random(8 << 20), Arc::new(NullLanding::default()));
    let job = pushing.job.clone();
    let running = tokio::spawn(pushing.run());
    let (send, _recv) = a.control().await.unwrap();
    let begun = rig.client.begin(a, send).unwrap();
    tokio::time::sleep(WAY).await;
    assert_eq!((job.attachments(), rig.client.links().len()), (1, 1));
    drop(begun);
    assert_eq!((job.attachments(), rig.client.links().len()), (0, 0));
    assert!(matches!(b.closed().await, LinkError::ClosedByPeer { .. }));
    let _cable = rig.link(Path::default()).await;
    let outcome = ends(running).await.unwrap().unwrap();
    assert_eq!((outcome.finished.bytes, outcome.stats.chunks_resent, job.attachments()), (8 << 20, 0, 1));
    assert!(refused.sent.lock().unwrap().is_empty(), "no chunk before somebody has asked for it");
}
