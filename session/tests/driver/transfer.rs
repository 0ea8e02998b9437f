//! Jobs on links without faults.

use std::path::Path as FsPath;
use std::sync::Arc;

use metra_core::code::Code;
use metra_core::id::{Digest, JobKey};
use metra_core::wire::{Keep, Overwrite, Placement};
use metra_store::Catalogue;
use metra_store::landing::{NullLanding, TreeLanding, TreeTarget};
use metra_store::source::{Root, SourceSpec};

use crate::landing::{Manners, MemoryLanding};
use crate::link::Path;
use crate::rig::{RECEIPT, Rig, ends, random};

const MIB: u64 = 1 << 20;

#[tokio::test(start_paused = true)]
async fn a_push_completes() {
    let rig = Rig::new();
    let cable = rig.link(Path::default()).await;
    let landing = Arc::new(MemoryLanding::default());
    let pushing = rig.push(&random(20 * MIB), landing.clone());
    let job = pushing.job.clone();
    let outcome = ends(pushing.run()).await.unwrap();
    assert_eq!((outcome.finished.bytes, outcome.finished.failed), (20 * MIB, 0));
    assert_eq!(job.receipt().as_deref(), Some(RECEIPT));
    assert_eq!(landing.file(0).len() as u64, 20 * MIB);
    assert_eq!(cable.chunks() as u64, outcome.chunks, "every chunk is sent once");
    assert_eq!(outcome.stats.chunks_resent, 0);
    assert!(landing.writes().values().all(|times| *times == 1));
    let progress = job.progress();
    assert_eq!((progress.announced, progress.verified, progress.durable), (20 * MIB, 20 * MIB, 20 * MIB));
}

#[tokio::test(start_paused = true)]
async fn a_pull_completes() {
    let rig = Rig::new();
    let cable = rig.link(Path::default()).await;
    let landing = Arc::new(MemoryLanding::default());
    let pulling = rig.pull(&random(20 * MIB), landing.clone());
    let job = pulling.job.clone();
    let (outcome, receipt) = ends(pulling.run()).await.unwrap();
    assert_eq!((outcome.finished.bytes, outcome.finished.failed), (20 * MIB, 0));
    assert_eq!(receipt.as_deref(), Some(RECEIPT));
    assert_eq!(landing.file(0).len() as u64, 20 * MIB);
    assert_eq!(cable.chunks() as u64, outcome.chunks);
    assert_eq!((outcome.stats.duplicates, outcome.stats.damaged), (0, 0));
    assert_eq!(job.progress().durable, 20 * MIB);
}

#[tokio::test(start_paused = true)]
async fn an_empty_tree_completes_in_both_directions() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new();
    rig.link(Path::default()).await;
    let spec = SourceSpec::new(vec![Root::path(dir.path())]);
    let outcome = ends(rig.push(&spec, Arc::new(NullLanding::default())).run()).await.unwrap();
    assert_eq!((outcome.chunks, outcome.finished.entries), (0, 1));
    let (outcome, _) = ends(rig.pull(&spec, Arc::new(NullLanding::default())).run()).await.unwrap();
    assert_eq!((outcome.chunks, outcome.finished.entries), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn two_links_share_the_work() {
    let rig = Rig::new();
    let cables = [rig.link(Path::line(4 << 20)).await, rig.link(Path::line(4 << 20)).await];
    let outcome = ends(rig.push(&random(24 * MIB), Arc::new(NullLanding::default())).run()).await.unwrap();
    let carried = cables.each_ref().map(|cable| cable.chunks() as u64);
    assert_eq!(carried.iter().sum::<u64>(), outcome.chunks);
    assert!(carried.iter().all(|chunks| *chunks * 4 >= outcome.chunks), "{carried:?}");
}

#[tokio::test(start_paused = true)]
async fn several_jobs_run_at_a_time() {
    let rig = Rig::new();
    rig.link(Path::default()).await;
    let one = rig.push(&random(6 * MIB), Arc::new(NullLanding::default()));
    let two = rig.pull(&random(5 * MIB), Arc::new(NullLanding::default()));
    let (one, two) = ends(async { tokio::join!(one.run(), two.run()) }).await;
    assert_eq!(one.unwrap().finished.bytes, 6 * MIB);
    assert_eq!(two.unwrap().0.finished.bytes, 5 * MIB);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_decides_late_does_not_stop_the_source() {
    // Much more than the source reads ahead of what the sink has spoken on.
    let rig = Rig::new();
    rig.link(Path::default()).await;
    let landing = Arc::new(MemoryLanding::new(Manners { late: true, ..Manners::default() }));
    let start = rig.rt.now();
    let outcome = ends(rig.push(&random(48 * MIB), landing.clone()).run()).await.unwrap();
    assert!(
        rig.rt.now() - start < std::time::Duration::from_secs(1),
        "it is told to go on, it need not guess"
    );
    assert_eq!(outcome.finished.bytes, 48 * MIB);
    assert_eq!(landing.file(0).len() as u64, 48 * MIB);
}

#[tokio::test(start_paused = true)]
async fn twins_are_copied_and_not_sent() {
    let dir = tempfile::tempdir().unwrap();
    let twin: Vec<u8> = (0..600_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for name in ["a", "b", "c"] {
        std::fs::write(dir.path().join(name), &twin).unwrap();
    }
    let rig = Rig::new();
    let cable = rig.link(Path::default()).await;
    let landing = Arc::new(MemoryLanding::new(Manners { reads_back: true, ..Manners::default() }));
    let spec = SourceSpec::new(vec![Root::Path { path: dir.path().into(), contents: true }]);
    let outcome = ends(rig.push(&spec, landing.clone()).run()).await.unwrap();
    assert_eq!(cable.chunks() as u64 * 3, outcome.chunks);
    assert_eq!(outcome.finished.reused * 3, outcome.chunks * 2);
    assert!((0..3).all(|entry| landing.file(entry) == twin));
}

#[tokio::test(start_paused = true)]
async fn refused_entries_are_reported_to_the_source() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..300 {
        std::fs::write(dir.path().join(format!("f{i:03}")), [i as u8; 100]).unwrap();
    }
    let rig = Rig::new();
    rig.link(Path::default()).await;
    let landing = Arc::new(MemoryLanding::new(Manners { refuse: Some("7"), ..Manners::default() }));
    let spec = SourceSpec::new(vec![Root::Path { path: dir.path().into(), contents: true }]);
    let pushing = rig.push(&spec, landing);
    let job = pushing.job.clone();
    let outcome = ends(pushing.run()).await.unwrap();
    assert_eq!(outcome.finished.failed, 30);
    assert_eq!(job.report_counts(), (30, 0));
    let mut arrived = Vec::new();
    assert!(job.for_each_sent(|_, entry| arrived.push(entry.path.clone())));
    assert_eq!(arrived.len(), 270);
    assert!(arrived.iter().all(|path| !path.ends_with('7')));
}

#[tokio::test(start_paused = true)]
async fn a_plan_that_begins_again_plans_every_record_once() {
    // More records in one frame than are planned at a time.
    let dir = tempfile::tempdir().unwrap();
    for i in 0..700 {
        std::fs::write(dir.path().join(format!("f{i:03}")), format!("content {i}")).unwrap();
    }
    for restart_at in [1, 300, 650] {
        let rig = Rig::new();
        rig.link(Path::default()).await;
        let manners = Manners { restart_at: Some(restart_at), ..Manners::default() };
        let landing = Arc::new(MemoryLanding::new(manners));
        let spec = SourceSpec::new(vec![Root::Path { path: dir.path().into(), contents: true }]);
        let outcome = ends(rig.push(&spec, landing.clone()).run()).await.unwrap();
        assert_eq!(outcome.finished.failed, 0);
        assert_eq!(landing.planned().len() as u64, outcome.records);
        assert_eq!(landing.file(699), b"content 699");
    }
}

#[tokio::test(start_paused = true)]
async fn a_landing_in_sequence_is_never_ahead_of_its_window() {
    let rig = Rig::new();
    let paths = [Path::slow(1 << 20), Path::slow(16 << 20)];
    for path in paths {
        rig.link(path).await;
    }
    let landing = Arc::new(MemoryLanding::new(Manners { in_sequence: true, ..Manners::default() }));
    let (outcome, _) = ends(rig.pull(&random(32 * MIB), landing.clone()).run()).await.unwrap();
    assert_eq!(outcome.finished.bytes, 32 * MIB);
}

fn tree(at: &FsPath, files: usize) {
    std::fs::create_dir_all(at.join("deep")).unwrap();
    for i in 0..files {
        std::fs::write(at.join(format!("deep/f{i:04}")), vec![(i % 251) as u8; i * 13 % 3000]).unwrap();
    }
    std::fs::write(at.join("large"), (0..3_000_000u32).flat_map(|i| i.to_le_bytes()).collect::<Vec<_>>())
        .unwrap();
}

fn tree_landing(root: &FsPath, catalogue: &Arc<Catalogue>) -> Arc<TreeLanding> {
    let target = TreeTarget {
        root: root.to_owned(),
        dest: String::new(),
        placement: Placement::Into,
        overwrite: Overwrite::Different,
        keep: Keep { mode: true, times: true },
        user: "ann".to_owned(),
        key: JobKey(Digest([1; 32])),
        guard: None,
    };
    Arc::new(TreeLanding::open(target, catalogue.clone()).unwrap())
}

fn same(a: &FsPath, b: &FsPath) {
    for entry in std::fs::read_dir(a).unwrap() {
        let name = entry.unwrap().file_name();
        let (a, b) = (a.join(&name), b.join(&name));
        if a.is_dir() {
            same(&a, &b);
        } else {
            assert!(std::fs::read(&a).unwrap() == std::fs::read(&b).unwrap(), "{a:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_tree_lands_and_is_found_unchanged_the_next_time() {
    let dir = tempfile::tempdir().unwrap();
    let (source, root) = (dir.path().join("source"), dir.path().join("root"));
    std::fs::create_dir_all(&root).unwrap();
    tree(&source, 400);
    let catalogue = Arc::new(Catalogue::open_in_memory().unwrap());
    let spec = SourceSpec::new(vec![Root::Path { path: source.clone(), contents: true }]);
    for (pass, expected) in [(0, 0), (1, 401)] {
        let rig = Rig::new();
        let cable = rig.link(Path::default()).await;
        // The large file is longer than what is read ahead.
        let pushing = rig.push(&spec, tree_landing(&root, &catalogue));
        let job = pushing.job.clone();
        let outcome = ends(pushing.run()).await.unwrap();
        assert_eq!(outcome.finished.failed, 0);
        assert_eq!(job.report_counts(), (0, expected));
        assert_eq!(cable.chunks() == 0, pass == 1);
        same(&source, &root);
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_differs_from_the_one_before_lands_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (source, root) = (dir.path().join("source"), dir.path().join("root"));
    std::fs::create_dir_all(&root).unwrap();
    tree(&source, 900);
    let catalogue = Arc::new(Catalogue::open_in_memory().unwrap());
    let spec = SourceSpec::new(vec![Root::Path { path: source.clone(), contents: true }]);
    {
        let rig = Rig::new();
        let cable = rig.link(Path::slow(1 << 20)).await;
        let pushing = rig.push(&spec, tree_landing(&root, &catalogue));
        let job = pushing.job.clone();
        let run = tokio::spawn(pushing.run());
        cable.carried(3).await;
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        job.cancel(Code::Cancelled, "enough");
        assert_eq!(ends(run).await.unwrap().unwrap_err().code, Code::Cancelled);
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        assert_eq!(rig.ended().len(), 1, "the gateway has let go");
    }
    std::fs::write(source.join("deep/f0500"), b"another content altogether").unwrap();
    std::fs::write(source.join("deep/a-new-one"), b"new").unwrap();
    let rig = Rig::new();
    rig.link(Path::default()).await;
    let outcome = ends(rig.push(&spec, tree_landing(&root, &catalogue)).run()).await.unwrap();
    assert_eq!(outcome.finished.failed, 0);
    same(&source, &root);
}
