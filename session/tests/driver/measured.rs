//! What a job measures adds up, whatever becomes of its links.

use std::sync::Arc;
use std::time::Duration;

use metra_session::{Kpis, Meter, Progress, Session, Side};
use metra_store::landing::NullLanding;
use metra_transport::Rt;

use crate::link::Path;
use crate::rig::{Rig, ends, random};

const MIB: u64 = 1 << 20;

/// Looks at a job ten times a second until `run` ends.
async fn measured<T>(
    rt: &Rt,
    session: &Session,
    side: Side,
    progress: impl Fn() -> Progress,
    run: impl Future<Output = T>,
) -> (T, Kpis) {
    let mut meter = Meter::new(side, session.traffic());
    let started = rt.now();
    tokio::pin!(run);
    let result = loop {
        tokio::select! {
            result = &mut run => break result,
            () = rt.sleep(Duration::from_millis(100)) => {}
        }
        meter.look(rt.now(), started, &progress(), &session.traffic());
    };
    meter.look(rt.now(), started, &progress(), &session.traffic());
    (result, meter.kpis())
}

#[tokio::test(start_paused = true)]
async fn a_push_that_loses_a_link_counts_both() {
    let rig = Rig::new();
    // Four chunks at a time, each at this rate.
    let path = || Path::slow(2 * MIB);
    let first = rig.link(path()).await;
    let pushing = rig.push(&random(80 * MIB), Arc::new(NullLanding::default()));
    let (job, session, rt) = (pushing.job.clone(), rig.client.clone(), rig.rt.clone());
    let started = rt.now();
    let run = tokio::spawn(async move {
        let progress = || job.progress();
        measured(&rt, &session, Side::Source, progress, pushing.run()).await
    });
    tokio::time::sleep(Duration::from_secs(4)).await;
    first.cut();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let second = rig.link(path()).await;
    let (outcome, kpis) = ends(run).await.unwrap();
    let elapsed = rig.rt.now() - started;

    let stats = outcome.unwrap().stats;
    assert_eq!((kpis.moved, kpis.delivered), (stats.bytes_sent, 80 * MIB));
    assert!(kpis.moved <= kpis.delivered + 16 * MIB, "{kpis:?}");
    // What the first link has carried is not forgotten.
    let (a, b) = (first.stats(0), second.stats(0));
    assert!(a.sent_bytes > 16 * MIB && b.sent_bytes > 16 * MIB, "{a:?}, {b:?}");
    // A frame or two may have gone out after the last look.
    let same = |measured: u64, first: u64, second: u64| assert!((first + second).abs_diff(measured) < 100);
    same(kpis.traffic.sent_bytes, a.sent_bytes, b.sent_bytes);
    same(kpis.traffic.received_bytes, a.received_bytes, b.received_bytes);
    same(kpis.traffic.sent_packets, a.sent_packets, b.sent_packets);
    assert_eq!(kpis.traffic.links, 1, "one link joined after it had begun");
    let ratio = kpis.wire_ratio().unwrap();
    assert!((1.0..1.3).contains(&ratio), "{ratio}");
    let reverse = kpis.reverse_bytes_per_gb().unwrap();
    assert!(reverse > 0.0 && reverse < 1e6, "{reverse}");
    let rtts = kpis.rtts.unwrap();
    assert_eq!([rtts.min, rtts.p50, rtts.p95, rtts.last], [Duration::from_millis(40); 4]);

    // The seconds without a link are seconds, too.
    let seconds = kpis.seconds.count();
    assert!(seconds.abs_diff(elapsed.as_secs()) <= 1, "{seconds} of {elapsed:?}");
    let rate = |percent| kpis.throughput(percent).unwrap();
    assert_eq!(rate(5), 0, "{:?}", kpis.seconds);
    // The median second is a second with a link.
    assert!(rate(95) <= 8 * MIB && rate(50) > 80 * MIB / elapsed.as_secs() / 2, "{:?}", kpis.seconds);
    let sum: u64 = kpis.seconds.iter().map(|(bytes, times)| bytes * times).sum();
    assert!(sum > 66 * MIB && sum <= 81 * MIB, "{} of {}", sum, 80 * MIB);
}

#[tokio::test(start_paused = true)]
async fn a_pull_over_two_links_counts_both() {
    let rig = Rig::new();
    let cables = [rig.link(Path::slow(MIB)).await, rig.link(Path::slow(MIB)).await];
    let pulling = rig.pull(&random(40 * MIB), Arc::new(NullLanding::default()));
    let (job, session, rt) = (pulling.job.clone(), rig.client.clone(), rig.rt.clone());
    let (result, kpis) = ends(measured(&rt, &session, Side::Sink, || job.progress(), pulling.run())).await;
    result.unwrap();
    assert_eq!((kpis.moved, kpis.delivered), (40 * MIB, 40 * MIB));
    let received: u64 = cables.iter().map(|cable| cable.stats(0).received_bytes).sum();
    assert!(received.abs_diff(kpis.forward_bytes()) < 1000, "{received}: {kpis:?}");
    let ratio = kpis.wire_ratio().unwrap();
    assert!((1.0..1.01).contains(&ratio), "{ratio}");
    let sum: u64 = kpis.seconds.iter().map(|(bytes, times)| bytes * times).sum();
    assert!(sum > 30 * MIB && sum <= 40 * MIB, "{sum}: {:?}", kpis.seconds);
    let [low, middle, high] = [5, 50, 95].map(|percent| kpis.throughput(percent).unwrap());
    assert!(0 < low && low <= middle && middle <= high && high <= 8 * MIB, "{:?}", kpis.seconds);
}

#[tokio::test(start_paused = true)]
async fn what_takes_no_time_has_no_rate() {
    let rig = Rig::new();
    rig.link(Path::default()).await;
    let pushing = rig.push(&random(MIB), Arc::new(NullLanding::default()));
    let (job, session, rt) = (pushing.job.clone(), rig.client.clone(), rig.rt.clone());
    let (result, kpis) = ends(measured(&rt, &session, Side::Source, || job.progress(), pushing.run())).await;
    result.unwrap();
    assert_eq!((kpis.delivered, kpis.throughput(50)), (MIB, None));
    assert!(kpis.wire_ratio().unwrap() >= 1.0);
}
