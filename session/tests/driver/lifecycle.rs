//! What is left when a job, a link or a session is over: nothing.

use std::sync::{Arc, Weak};
use std::time::Duration;

use metra_core::code::Code;
use metra_session::{SinkJob, SourceJob};
use metra_store::landing::NullLanding;

use crate::landing::MemoryLanding;
use crate::link::Path;
use crate::rig::{Rig, ends, random};

const MIB: u64 = 1 << 20;

/// Longer than a gateway remembers a job.
const AFTERWARDS: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn a_job_that_has_finished_is_gone() {
    let rig = Rig::new();
    let cables = [rig.link(Path::default()).await, rig.link(Path::default()).await];
    let pushing = rig.push(&random(4 * MIB), Arc::new(NullLanding::default()));
    let source: Weak<SourceJob> = Arc::downgrade(&pushing.job);
    ends(pushing.run()).await.unwrap();
    let pulling = rig.pull(&random(4 * MIB), Arc::new(NullLanding::default()));
    let sink: Weak<SinkJob> = Arc::downgrade(&pulling.job);
    ends(pulling.run()).await.unwrap();
    tokio::time::sleep(AFTERWARDS).await;
    assert!(source.upgrade().is_none(), "a task of the client's source lives on");
    assert!(sink.upgrade().is_none(), "a task of the client's sink lives on");
    assert!(!rig.gateway_holds_jobs(), "a task of the gateway's lives on");
    assert_eq!((rig.client.jobs(), rig.gateway.jobs()), (0, 0));
    assert_eq!(rig.client.links().len(), 2, "links stay");
    drop(cables);
}

#[tokio::test(start_paused = true)]
async fn a_link_that_was_lost_is_gone_while_its_job_goes_on() {
    let rig = Rig::new();
    let first = rig.link(Path::slow(MIB)).await;
    let second = rig.link(Path::slow(MIB)).await;
    let run = tokio::spawn(rig.push(&random(40 * MIB), Arc::new(NullLanding::default())).run());
    first.carried(2).await;
    first.cut();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!run.is_finished());
    assert!(!first.is_held(), "somebody still holds the lost link");
    assert!(second.is_held());
    ends(run).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_closed_ends_its_jobs_and_lets_everything_go() {
    let rig = Rig::new();
    let cable = rig.link(Path::slow(MIB)).await;
    let landing = Arc::new(MemoryLanding::default());
    let pushing = rig.push(&random(20 * MIB), landing.clone());
    let source = Arc::downgrade(&pushing.job);
    let push = tokio::spawn(pushing.run());
    let pulling = rig.pull(&random(20 * MIB), Arc::new(NullLanding::default()));
    let sink = Arc::downgrade(&pulling.job);
    let pull = tokio::spawn(pulling.run());
    cable.carried(4).await;
    rig.client.close(Code::Ok, "bye");
    assert_eq!(ends(push).await.unwrap().unwrap_err().code, Code::Cancelled);
    assert_eq!(ends(pull).await.unwrap().unwrap_err().code, Code::Cancelled);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(source.upgrade().is_none() && sink.upgrade().is_none());
    assert!(rig.gateway_holds_jobs(), "the gateway waits for the client to come back");
    rig.gateway.cancel_jobs(Code::Timeout, "it does not");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!rig.gateway_holds_jobs());
    assert!(rig.ended().iter().all(|end| end.as_ref().unwrap_err().code == Code::Timeout));
    assert_eq!(landing.synced() as usize, landing.writes().len(), "what had arrived is journaled");
    rig.gateway.close(Code::Ok, "");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!cable.is_held());
    assert_eq!((rig.client.links().len(), rig.gateway.links().len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_dropped_and_removed_is_gone_while_the_link_lives() {
    let rig = Rig::new();
    let cable = rig.link(Path::slow(100_000)).await;
    let pushing = rig.push(&random(8 * MIB), Arc::new(NullLanding::default()));
    let (source, id) = (Arc::downgrade(&pushing.job), pushing.job.id());
    let run = tokio::spawn(pushing.run());
    cable.carried(1).await;
    run.abort();
    let _ = run.await;
    rig.client.remove(id);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(source.upgrade().is_none());
    assert!(cable.is_held());
}

#[tokio::test(start_paused = true)]
async fn jobs_are_bounded_and_numbers_are_not_used_twice_at_a_time() {
    let rig = Rig::new();
    let mut kept = Vec::new();
    for _ in 0..metra_core::limits::JOBS_MAX {
        let pushing = rig.push(&random(MIB), Arc::new(NullLanding::default()));
        rig.client.add_source(pushing.job.clone(), None).unwrap();
        kept.push(pushing.job);
    }
    let one_more = rig.push(&random(MIB), Arc::new(NullLanding::default())).job;
    assert_eq!(rig.client.add_source(one_more.clone(), None).unwrap_err().code, Code::Limit);
    rig.client.remove(kept[3].id());
    assert_eq!(rig.client.add_source(kept[4].clone(), None).unwrap_err().code, Code::Limit);
    rig.client.add_source(one_more, None).unwrap();
    rig.client.close(Code::Ok, "");
    assert_eq!(rig.client.add_source(kept[3].clone(), None).unwrap_err().code, Code::Draining);
}

#[tokio::test(start_paused = true)]
async fn links_are_bounded_and_a_refused_one_is_closed() {
    let rig = Rig::new();
    for _ in 0..8 {
        rig.link(Path::default()).await;
    }
    let (a, b, cable) = crate::link::connect(Path::default());
    use metra_transport::Link;
    let (send, recv) = a.control().await.unwrap();
    let refused = rig.client.attach(a, send, recv, metra_core::wire::FrameDecoder::new());
    assert_eq!(refused.unwrap_err().code, Code::Limit);
    assert_eq!(cable.close_code(), Some(Code::Limit));
    drop(b);
}
