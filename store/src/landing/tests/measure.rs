//! What landing costs. Not run with the others:
//! `cargo test --release -p metra-store measure -- --ignored --nocapture --test-threads 1`, with `METRA_MEASURE` as the
//! folder to land in (default: that of temporary files).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metra_core::manifest::Timestamp;
use metra_core::ranges::push_index;
use metra_core::sink::Resolution;

use super::*;

/// Files of the many-files run.
const FILES: u32 = 1_000_000;
/// Bytes of each.
const SMALL: usize = 100;
/// Files in a directory.
const FOLDER: u32 = 1000;
/// Files in a pack.
const PACK: u32 = 512;

fn ground() -> (tempfile::TempDir, TreeTarget, Arc<Catalogue>) {
    let base = std::env::var_os("METRA_MEASURE").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(base).unwrap();
    let root = dir.path().join("root");
    std::fs::create_dir(&root).unwrap();
    let catalogue = Catalogue::open(&dir.path().join("catalogue.db"), std::time::SystemTime::now()).unwrap();
    let target = TreeTarget { root, ..Ground::new().target() };
    (dir, target, Arc::new(catalogue))
}

fn rss() -> (usize, usize) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let of = |key: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(key)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() / 1024
    };
    (of("VmRSS:"), of("VmHWM:"))
}

fn folder(number: u32) -> Record {
    let path = format!("some/where/folder-{number:05}");
    let mtime = Some(Timestamp { secs: 1_700_000_000, nanos: 5 });
    Record::Entry(Entry { path, kind: EntryKind::Directory, mode: Some(0o755), mtime })
}

fn file(number: u32) -> Record {
    let path = format!("some/where/folder-{:05}/file-with-a-name-{number:08}.txt", number / FOLDER);
    let mtime = Some(Timestamp { secs: 1_700_000_000, nanos: 5 });
    Record::Entry(Entry { path, kind: EntryKind::File { size: SMALL as u64 }, mode: Some(0o644), mtime })
}

fn pack(first: u32, end: u32) -> Vec<u8> {
    let mut data = Vec::with_capacity((end - first) as usize * SMALL);
    for number in first..end {
        data.extend((0..SMALL as u32).map(|i| (number.wrapping_mul(2_654_435_761) >> (i % 24)) as u8));
    }
    data
}

/// The records of the many files, a pack at a time, and the bytes of the pack.
fn batches() -> impl Iterator<Item = (Vec<Record>, Vec<u8>)> {
    (0..FILES).step_by(PACK as usize).map(|first| {
        let end = (first + PACK).min(FILES);
        let mut records = Vec::new();
        for number in first..end {
            if number % FOLDER == 0 {
                records.push(folder(number / FOLDER));
            }
            records.push(file(number));
        }
        let data = pack(first, end);
        records.push(Record::Chunk { len: data.len() as u32, hash: Digest::of(&data) });
        (records, data)
    })
}

#[derive(Default)]
struct Times {
    plan: Duration,
    write: Duration,
    sync: Duration,
    finish: Duration,
}

fn timed<T>(total: &mut Duration, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let value = work();
    *total += start.elapsed();
    value
}

fn land_many(target: &TreeTarget, catalogue: &Arc<Catalogue>, finish: bool) -> u32 {
    let before = rss().0;
    let mut times = Times::default();
    let start = Instant::now();
    let landing = TreeLanding::open(target.clone(), catalogue.clone()).unwrap();
    let opened = start.elapsed();
    let mut ledger = Ledger::new(LedgerLimits::default());
    let mut unsynced = Vec::new();
    let mut last = Instant::now();
    let mut missing = 0;
    for (records, data) in batches() {
        for record in &records {
            ledger.push(record).unwrap();
        }
        let planned = timed(&mut times.plan, || landing.plan(&records).unwrap());
        assert!(!planned.restart);
        for (chunk, resolution) in planned.resolutions {
            match resolution {
                Resolution::Missing => {
                    missing += 1;
                    let pieces = pieces(&ledger, chunk);
                    timed(&mut times.write, || landing.write(chunk, &pieces, &data).unwrap());
                    push_index(&mut unsynced, chunk);
                }
                Resolution::Written => push_index(&mut unsynced, chunk),
                _ => {}
            }
        }
        if last.elapsed() > Duration::from_millis(500) && !unsynced.is_empty() {
            timed(&mut times.sync, || landing.sync(&std::mem::take(&mut unsynced)).unwrap());
            last = Instant::now();
        }
    }
    timed(&mut times.plan, || landing.plan_end().unwrap());
    if !unsynced.is_empty() {
        timed(&mut times.sync, || landing.sync(&unsynced).unwrap());
    }
    let planned = rss();
    if finish {
        let report = timed(&mut times.finish, || landing.finish(&ledger, &[]).unwrap());
        assert_eq!((report.entries, report.failed), (u64::from(FILES + FILES / FOLDER), 0));
    }
    let all = times.plan + times.write + times.sync + times.finish + opened;
    println!(
        "\n{FILES} files, {missing} packs written: open {opened:.2?} plan {:.2?} write {:.2?} sync {:.2?} finish {:.2?} = {all:.2?}, {:.0} files/s",
        times.plan,
        times.write,
        times.sync,
        times.finish,
        f64::from(FILES) / all.as_secs_f64()
    );
    println!(
        "MiB: before {before}, planned {} peak {}, ledger {}, peak above both {}",
        planned.0,
        rss().1,
        ledger.memory() >> 20,
        rss().1 as isize - before as isize - (ledger.memory() >> 20) as isize
    );
    missing
}

#[test]
#[ignore = "a measurement: `tests/run --long` runs it, or the command at the top of this file"]
fn measure_many_files() {
    let (_dir, target, catalogue) = ground();
    assert!(land_many(&target, &catalogue, true) > 0);
}

#[test]
#[ignore = "a measurement: `tests/run --long` runs it, or the command at the top of this file"]
fn measure_many_files_resumed() {
    let (_dir, target, catalogue) = ground();
    land_many(&target, &catalogue, false);
    println!("resumed:");
    assert_eq!(land_many(&target, &catalogue, true), 0);
}

#[test]
#[ignore = "a measurement: `tests/run --long` runs it, or the command at the top of this file"]
fn measure_many_files_unchanged() {
    let (_dir, target, catalogue) = ground();
    land_many(&target, &catalogue, true);
    println!("again:");
    assert_eq!(land_many(&target, &catalogue, true), 0);
}

#[test]
#[ignore = "a measurement: `tests/run --long` runs it, or the command at the top of this file"]
fn measure_large() {
    const CHUNKS: u32 = 4096;
    let (_dir, target, catalogue) = ground();
    let landing = TreeLanding::open(target, catalogue).unwrap();
    let mut data = noise(1, 1 << 20);
    let mut ledger = Ledger::new(LedgerLimits::default());
    let kind = EntryKind::File { size: u64::from(CHUNKS) << 20 };
    let mut records = vec![Record::Entry(Entry { path: "large".into(), kind, mode: None, mtime: None })];
    for number in 0..CHUNKS {
        // The hash is not looked at again.
        records.push(Record::Chunk { len: 1 << 20, hash: Digest::of(&number.to_le_bytes()) });
    }
    let start = Instant::now();
    for batch in records.chunks(256) {
        for record in batch {
            ledger.push(record).unwrap();
        }
        landing.plan(batch).unwrap();
    }
    let planned = start.elapsed();
    let mut times = Times::default();
    let mut unsynced = Vec::new();
    for chunk in (0..CHUNKS).map(ChunkIndex) {
        data[..4].copy_from_slice(&chunk.0.to_le_bytes());
        let pieces = pieces(&ledger, chunk);
        timed(&mut times.write, || landing.write(chunk, &pieces, &data).unwrap());
        push_index(&mut unsynced, chunk);
        if chunk.0 % 256 == 255 {
            timed(&mut times.sync, || landing.sync(&std::mem::take(&mut unsynced)).unwrap());
        }
    }
    let report = timed(&mut times.finish, || landing.finish(&ledger, &[]).unwrap());
    assert_eq!(report.entries, 1);
    let all = times.write + times.sync + times.finish;
    println!(
        "\n{CHUNKS} MiB: plan {planned:.2?} write {:.2?} sync {:.2?} finish {:.2?}, {:.2} GB/s written, {:.2} GB/s in all",
        times.write,
        times.sync,
        times.finish,
        f64::from(CHUNKS) * 1.048_576e-3 / times.write.as_secs_f64(),
        f64::from(CHUNKS) * 1.048_576e-3 / all.as_secs_f64()
    );
}

#[test]
#[ignore = "a measurement: `tests/run --long` runs it, or the command at the top of this file"]
fn measure_sync_of_nothing() {
    const TIMES: u32 = 200;
    let (_dir, target, catalogue) = ground();
    let landing = TreeLanding::open(target, catalogue).unwrap();
    let start = Instant::now();
    for chunk in 0..TIMES {
        let mut ranges = Vec::new();
        push_index(&mut ranges, ChunkIndex(chunk * 2));
        landing.sync(&ranges).unwrap();
    }
    println!("\nsync without dirty files (manifest, journal): {:.2?} each", start.elapsed() / TIMES);
}
