//! Chunks that arrive damaged, cut short, or not at all; disks that fail.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metra_core::code::Code;
use metra_core::limits::CHUNK_ATTEMPTS;
use metra_core::wire::ChunkHeader;
use metra_store::landing::NullLanding;
use metra_store::source::{Root, SourceSpec};

use crate::landing::{Manners, MemoryLanding};
use crate::link::{Fault, Path};
use crate::rig::{Rig, ends, random};

const MIB: u64 = 1 << 20;

/// `fault` for the first arrival of every chunk for which `which` holds.
fn first_time(
    fault: Fault,
    which: impl Fn(u32) -> bool + Send + Sync + 'static,
) -> impl Fn(&ChunkHeader, u64) -> Fault + Send + Sync {
    let seen = Mutex::new(HashSet::new());
    move |header, _| {
        let first = which(header.chunk.0) && seen.lock().unwrap().insert(header.chunk.0);
        if first { fault } else { Fault::None }
    }
}

#[tokio::test(start_paused = true)]
async fn damaged_chunks_are_asked_for_again_and_counted() {
    for fault in [Fault::Flip, Fault::Short, Fault::Long] {
        let rig = Rig::new();
        let cable = rig.link(Path::with(first_time(fault, |chunk| chunk % 2 == 0))).await;
        let landing = Arc::new(MemoryLanding::default());
        let (outcome, _) = ends(rig.pull(&random(10 * MIB), landing.clone()).run()).await.unwrap();
        let damaged = outcome.chunks.div_ceil(2);
        assert_eq!(outcome.stats.damaged, damaged, "{fault:?}");
        assert_eq!(outcome.stats.received, outcome.chunks);
        assert_eq!(cable.chunks() as u64, outcome.chunks + damaged);
        assert!(landing.writes().values().all(|times| *times == 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_is_always_damaged_fails_the_job_and_names_its_file() {
    for fault in [Fault::Flip, Fault::Short, Fault::Long] {
        let rig = Rig::new();
        let always = move |header: &ChunkHeader, _| if header.chunk.0 == 1 { fault } else { Fault::None };
        let cable = rig.link(Path::with(always)).await;
        let result = ends(rig.push(&random(6 * MIB), Arc::new(NullLanding::default())).run()).await;
        let error = result.unwrap_err();
        assert_eq!((error.code, error.by_peer), (Code::Integrity, true), "{fault:?}: {error}");
        assert!(error.reason.contains("chunk 1") && error.reason.contains("random"), "{error}");
        let arrivals = cable.sent.lock().unwrap().iter().filter(|sent| sent.chunk.0 == 1).count();
        assert_eq!(arrivals, usize::from(CHUNK_ATTEMPTS));
        tokio::time::sleep(Duration::from_secs(1)).await;
        let ended = rig.ended();
        assert_eq!(ended[0].as_ref().unwrap_err().code, Code::Integrity);
    }
}

#[tokio::test(start_paused = true)]
async fn reset_streams_are_asked_for_again() {
    let rig = Rig::new();
    let cable = rig.link(Path::with(first_time(Fault::Reset(100_000), |_| true))).await;
    let outcome = ends(rig.push(&random(8 * MIB), Arc::new(NullLanding::default())).run()).await.unwrap();
    assert_eq!(cable.chunks() as u64, 2 * outcome.chunks);
    assert_eq!(outcome.stats.chunks_sent, outcome.chunks, "what was not taken whole was not sent");
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_the_sink_could_not_make_sense_of_is_sent_again() {
    let rig = Rig::new();
    let cable = rig.link(Path::with(first_time(Fault::Refuse(Code::Protocol), |_| true))).await;
    let outcome = ends(rig.push(&random(8 * MIB), Arc::new(NullLanding::default())).run()).await.unwrap();
    assert_eq!(cable.chunks() as u64, 2 * outcome.chunks);
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_the_sink_never_makes_sense_of_fails_the_job() {
    let rig = Rig::new();
    rig.link(Path::with(|_, _| Fault::Refuse(Code::Protocol))).await;
    let result = ends(rig.push(&random(MIB), Arc::new(NullLanding::default())).run()).await;
    assert_eq!(result.unwrap_err().code, Code::Integrity);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(rig.ended()[0].as_ref().is_err_and(|e| e.by_peer));
}

#[tokio::test(start_paused = true)]
async fn a_chunk_of_another_length_than_its_record_says_fails_the_job() {
    let rig = Rig::new();
    rig.link(Path::with(|_, _| Fault::WrongLength)).await;
    let result = ends(rig.pull(&random(MIB), Arc::new(NullLanding::default())).run()).await;
    assert_eq!(result.unwrap_err().code, Code::Protocol);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_changes_after_it_was_read_is_gone_and_the_rest_arrives() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a-stays"), vec![1; 3_000_000]).unwrap();
    std::fs::write(
        dir.path().join("b-changes"),
        (0..2_000_000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>(),
    )
    .unwrap();
    let mut rig = Rig::new();
    // Nothing of what was read stays in memory.
    rig.source.ring = 0;
    rig.source.lookahead = (64 << 20, 64 << 20);
    let cable = rig.link(Path::slow(MIB)).await;
    let spec = SourceSpec::new(vec![Root::Path { path: dir.path().into(), contents: true }]);
    let landing = Arc::new(MemoryLanding::default());
    let pushing = rig.push(&spec, landing.clone());
    let job = pushing.job.clone();
    let run = tokio::spawn(pushing.run());
    cable.carried(2).await;
    std::fs::write(dir.path().join("b-changes"), b"another content").unwrap();
    let outcome = ends(run).await.unwrap().unwrap();
    assert_eq!((outcome.finished.entries, outcome.finished.failed), (1, 1));
    assert_eq!(landing.file(0), vec![1; 3_000_000]);
    assert_eq!(job.report_counts(), (1, 0), "said by both sides, counted once");
    let reports = job.take_reports();
    assert_eq!((reports[0].path.as_str(), reports[0].code), ("b-changes", Code::Changed));
    assert!(job.for_each_sent(|_, entry| assert_eq!(entry.path, "a-stays")));
}

#[tokio::test(start_paused = true)]
async fn what_a_landing_in_sequence_cannot_get_fails_the_job() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, (0..2_000_000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>()).unwrap();
    let rig = Rig::new();
    let cable = rig.link(Path::slow(MIB)).await;
    let landing = Arc::new(MemoryLanding::new(Manners { in_sequence: true, ..Manners::default() }));
    let run = tokio::spawn(rig.pull(&SourceSpec::new(vec![Root::path(&file)]), landing).run());
    cable.carried(2).await;
    std::fs::write(&file, b"another content").unwrap();
    let result = ends(run).await.unwrap();
    // Unless everything was in memory before it changed.
    if let Err(error) = result {
        assert_eq!(error.code, Code::Changed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_ends_the_job_on_both_sides_and_keeps_what_was_written() {
    let rig = Rig::new();
    rig.link(Path::slow(4 * MIB)).await;
    let landing = Arc::new(MemoryLanding::new(Manners { full_at: Some(4), ..Manners::default() }));
    let error = ends(rig.push(&random(12 * MIB), landing.clone()).run()).await.unwrap_err();
    assert_eq!((error.code, error.by_peer), (Code::NoSpace, true));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(rig.ended()[0].as_ref().unwrap_err().code, Code::NoSpace);
    assert!(!landing.is_finished());
    assert_eq!(landing.synced() as usize, landing.writes().len(), "what was written is journaled");
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_cannot_sync_ends_the_job() {
    let rig = Rig::new();
    rig.link(Path::default()).await;
    let landing = Arc::new(MemoryLanding::new(Manners { cannot_sync: true, ..Manners::default() }));
    let error = ends(rig.pull(&random(4 * MIB), landing.clone()).run()).await.unwrap_err();
    assert_eq!((error.code, error.by_peer), (Code::WriteFailed, false));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(rig.ended()[0].as_ref().is_err_and(|e| e.by_peer));
    assert!(!landing.is_finished());
}
