#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::Barrier;
use std::time::Instant;

use metra_core::id::{ChunkHash, ChunkIndex, Digest, JobKey};
use metra_core::manifest::Timestamp;
use metra_core::ranges::IndexRange;
use tempfile::TempDir;

use super::*;
use crate::source::{CachedFile, FileIdentity, ManifestCache};

fn at(secs: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(secs)
}

fn key(n: u8) -> JobKey {
    JobKey(Digest([n; 32]))
}

fn range(first: u32, count: u32) -> IndexRange {
    IndexRange { first: ChunkIndex(first), count }
}

fn file_in(dir: &TempDir) -> PathBuf {
    dir.path().join("state/catalogue.db")
}

fn open(dir: &TempDir) -> Catalogue {
    Catalogue::open(&file_in(dir), at(5000)).unwrap()
}

fn identity(path: &str, size: u64) -> FileIdentity {
    let time = Timestamp { secs: -3, nanos: 999_999_999 };
    FileIdentity { path: path.into(), size, mtime: time, ctime: time, dev: u64::MAX, ino: 1 << 63 }
}

fn chunks(range: std::ops::Range<u32>) -> Vec<(u32, ChunkHash)> {
    range.map(|i| (i + 1, Digest::of(&i.to_le_bytes()))).collect()
}

// ---- the journal

#[test]
fn jobs_are_found_again() {
    let dir = TempDir::new().unwrap();
    let catalogue = open(&dir);
    let made = catalogue.job_open("ann", &key(1), "/staging/1".as_ref(), at(10)).unwrap();
    assert!(made.is_new);
    assert_eq!((made.phase, made.created, made.used), (Phase::Receiving, at(10), at(10)));
    let other_user = catalogue.job_open("bob", &key(1), "/staging/2".as_ref(), at(11)).unwrap();
    assert_ne!(other_user.id, made.id);
    catalogue.job_set_phase(made.id, Phase::Finishing, at(12)).unwrap();
    catalogue
        .commit_durable(&[(made.id, vec![range(0, 3), range(9, 1)]), (other_user.id, vec![range(5, 1)])])
        .unwrap();
    // As after a kill: nothing is closed in order.
    std::mem::forget(catalogue);
    let catalogue = open(&dir);
    let found = catalogue.job_open("ann", &key(1), "/elsewhere".as_ref(), at(20)).unwrap();
    assert!(!found.is_new);
    assert_eq!((found.id, found.phase, found.dir), (made.id, Phase::Finishing, PathBuf::from("/staging/1")));
    assert_eq!((found.created, found.used), (at(10), at(20)));
    assert_eq!(catalogue.jobs().unwrap().len(), 2);
    assert_eq!(catalogue.job(made.id).unwrap().unwrap().used, at(20));
    let set = catalogue.job_durable_set(made.id).unwrap();
    assert_eq!(set.ranges().collect::<Vec<_>>(), [range(0, 3), range(9, 1)]);
}

#[test]
fn durable_ranges_may_overlap() {
    let catalogue = Catalogue::open_in_memory().unwrap();
    let id = catalogue.job_open("u", &key(1), "d".as_ref(), at(0)).unwrap().id;
    for ranges in [[range(4, 4), range(0, 1)], [range(4, 2), range(6, 6)], [range(0, 1), range(1, 3)]] {
        catalogue.job_durable(id, &ranges).unwrap();
    }
    let set = catalogue.job_durable_set(id).unwrap();
    assert_eq!(set.ranges().collect::<Vec<_>>(), [range(0, 12)]);
    catalogue.job_clear_durable(id).unwrap();
    assert!(catalogue.job_durable_set(id).unwrap().is_empty());
}

#[test]
fn a_forgotten_job_is_gone_and_its_number_too() {
    let catalogue = Catalogue::open_in_memory().unwrap();
    let first = catalogue.job_open("u", &key(1), "d".as_ref(), at(0)).unwrap().id;
    catalogue.job_durable(first, &[range(0, 5)]).unwrap();
    assert!(catalogue.job_forget(first).unwrap());
    assert!(!catalogue.job_forget(first).unwrap());
    let second = catalogue.job_open("u", &key(1), "d".as_ref(), at(0)).unwrap();
    assert!(second.is_new && second.id != first);
    // Chunks that were still on their way to a forgotten job harm nobody.
    catalogue.commit_durable(&[(first, vec![range(0, 1)]), (second.id, vec![range(1, 1)])]).unwrap();
    assert!(catalogue.job_durable_set(first).unwrap().is_empty());
    assert_eq!(catalogue.job_durable_set(second.id).unwrap().count(), 1);
    assert_eq!(catalogue.job(first).unwrap(), None);
}

/// The worst case: no two chunks are neighbours when they arrive.
fn scattered(per_batch: u32) -> Duration {
    let dir = TempDir::new().unwrap();
    let catalogue = open(&dir);
    let id = catalogue.job_open("u", &key(1), "d".as_ref(), at(0)).unwrap().id;
    let started = Instant::now();
    for batch in 0..100u32 {
        let ranges = (0..per_batch).map(|i| range(i * 100 + batch * 37 % 100, 1)).collect();
        catalogue.commit_durable(&[(id, ranges)]).unwrap();
    }
    let written = started.elapsed();
    let set = catalogue.job_durable_set(id).unwrap();
    assert_eq!(set.ranges().collect::<Vec<_>>(), [range(0, per_batch * 100)]);
    println!("{} durable chunks: written in {written:?}, all in {:?}", per_batch * 100, started.elapsed());
    started.elapsed()
}

#[test]
fn many_scattered_chunks_become_one_range() {
    scattered(500);
}

#[test]
#[ignore = "takes seconds: `tests/run --long` runs it"]
fn a_million_durable_chunks_take_seconds() {
    let took = scattered(10_000);
    assert!(took < Duration::from_secs(30), "{took:?}");
}

// ---- several processes

#[test]
fn many_may_open_at_once_and_write() {
    let dir = TempDir::new().unwrap();
    let barrier = Barrier::new(8);
    std::thread::scope(|scope| {
        for n in 0..8 {
            let (dir, barrier) = (&dir, &barrier);
            scope.spawn(move || {
                barrier.wait();
                let catalogue = open(dir);
                let id = catalogue.job_open("u", &key(n), "d".as_ref(), at(0)).unwrap().id;
                for i in 0..20 {
                    catalogue.job_durable(id, &[range(i * 2, 1)]).unwrap();
                    catalogue.append(&identity(&format!("/{n}"), 1), i, &chunks(i..i + 1), i == 19);
                }
            });
        }
    });
    let catalogue = open(&dir);
    let jobs = catalogue.jobs().unwrap();
    assert_eq!(jobs.len(), 8);
    assert!(jobs.iter().all(|j| catalogue.job_durable_set(j.id).unwrap().count() == 20));
    for n in 0..8 {
        assert_eq!(catalogue.file(&identity(&format!("/{n}"), 1)).unwrap().chunks, chunks(0..20));
    }
}

#[test]
fn two_see_what_the_other_wrote() {
    let dir = TempDir::new().unwrap();
    let (one, two) = (open(&dir), open(&dir));
    let id = one.job_open("u", &key(1), "d".as_ref(), at(0)).unwrap().id;
    two.job_durable(id, &[range(0, 1)]).unwrap();
    assert_eq!(one.job_durable_set(id).unwrap().count(), 1);
    one.put_pack(&Digest([1; 32]), &Digest([2; 32]));
    one.flush_hashes();
    assert_eq!(two.pack(&Digest([1; 32])), Some(Digest([2; 32])));
}

// ---- damage

#[test]
fn a_damaged_file_is_moved_aside() {
    for damage in
        [&b"this is not a database, whatever its name says........................"[..], &[0xff; 9000]]
    {
        let dir = TempDir::new().unwrap();
        let catalogue = open(&dir);
        catalogue.job_open("u", &key(1), "d".as_ref(), at(0)).unwrap();
        drop(catalogue);
        std::fs::write(file_in(&dir), damage).unwrap();
        let catalogue = open(&dir);
        let aside = catalogue.moved_aside().unwrap();
        assert_eq!(aside.file_name().unwrap(), "catalogue.db.corrupt-5000");
        assert_eq!(std::fs::read(aside).unwrap(), damage);
        assert!(catalogue.jobs().unwrap().is_empty());
        catalogue.job_open("u", &key(1), "d".as_ref(), at(0)).unwrap();
        drop(catalogue);
        assert_eq!(open(&dir).moved_aside(), None);
    }
}

#[test]
fn damage_inside_of_the_file_is_found() {
    let dir = TempDir::new().unwrap();
    let catalogue = open(&dir);
    let id = catalogue.job_open("u", &key(1), "d".as_ref(), at(0)).unwrap().id;
    let many = (0..20_000).map(|i| range(i * 2, 1)).collect();
    catalogue.commit_durable(&[(id, many)]).unwrap();
    drop(catalogue);
    let file = std::fs::File::options().write(true).open(file_in(&dir)).unwrap();
    let middle = file.metadata().unwrap().len() / 2;
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xa5; 8192], middle).unwrap();
    drop(file);
    assert!(open(&dir).moved_aside().is_some());
}

#[test]
fn errors_name_the_file() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("not-a-folder");
    std::fs::write(&path, "x").unwrap();
    let error = Catalogue::open(&path.join("c.db"), at(0)).unwrap_err();
    assert!(error.to_string().contains("not-a-folder"), "{error}");
    let error = Catalogue::open(dir.path(), at(0)).unwrap_err();
    assert!(error.to_string().contains(dir.path().to_str().unwrap()), "{error}");
    assert!(!error.is_damaged());
}

#[test]
fn a_newer_file_is_left_alone() {
    let dir = TempDir::new().unwrap();
    drop(open(&dir));
    let connection = Connection::open(file_in(&dir)).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let error = Catalogue::open(&file_in(&dir), at(0)).unwrap_err();
    assert!(matches!(error, CatalogueError::Newer { found: 99, .. }), "{error}");
    assert!(file_in(&dir).exists());
}

#[test]
fn a_torn_log_loses_only_what_was_not_committed() {
    let dir = TempDir::new().unwrap();
    let catalogue = open(&dir);
    let id = catalogue.job_open("u", &key(1), "d".as_ref(), at(0)).unwrap().id;
    catalogue.job_durable(id, &[range(0, 7)]).unwrap();
    // What a crash leaves: the file, and a log whose end is torn.
    let copy = TempDir::new().unwrap();
    std::fs::create_dir(copy.path().join("state")).unwrap();
    for suffix in ["", "-wal"] {
        let name = format!("state/catalogue.db{suffix}");
        std::fs::copy(dir.path().join(&name), copy.path().join(&name)).unwrap();
    }
    let log = copy.path().join("state/catalogue.db-wal");
    let mut bytes = std::fs::read(&log).unwrap();
    bytes.extend_from_slice(&[0x11; 5000]);
    std::fs::write(&log, bytes).unwrap();
    let after = open(&copy);
    assert_eq!(after.moved_aside(), None);
    assert_eq!(after.job_durable_set(id).unwrap().count(), 7);
}

// ---- receipts

#[test]
fn receipts_are_kept() {
    let catalogue = Catalogue::open_in_memory().unwrap();
    let root = Digest([7; 32]);
    assert_eq!(catalogue.receipt(&root).unwrap(), None);
    for n in 1..=3 {
        catalogue.put_receipt(&key(n), &root, &[n; 10], at(n.into())).unwrap();
    }
    let newest = catalogue.receipt(&root).unwrap().unwrap();
    assert_eq!((newest.key, newest.root, newest.at, newest.bytes), (key(3), root, at(3), vec![3; 10]));
    let two = catalogue.receipts(2).unwrap();
    assert_eq!(two.iter().map(|r| r.key).collect::<Vec<_>>(), [key(3), key(2)]);
}

// ---- hashes of files

#[test]
fn hashes_are_found_in_the_same_state_only() {
    let dir = TempDir::new().unwrap();
    let catalogue = open(&dir);
    let id = identity("/a", 100);
    assert_eq!(catalogue.file(&id), None);
    catalogue.append(&id, 0, &chunks(0..64), false);
    catalogue.append(&id, 64, &chunks(64..100), false);
    let beginning = CachedFile { chunks: chunks(0..100), complete: false };
    assert_eq!(catalogue.file(&id), Some(beginning.clone()));
    drop(catalogue);
    let catalogue = open(&dir);
    assert_eq!(catalogue.file(&id), Some(beginning));
    catalogue.append(&id, 100, &chunks(100..101), true);
    assert_eq!(catalogue.file(&id), Some(CachedFile { chunks: chunks(0..101), complete: true }));
    let other = Timestamp { secs: -3, nanos: 0 };
    for changed in [
        FileIdentity { size: 101, ..id.clone() },
        FileIdentity { mtime: other, ..id.clone() },
        FileIdentity { ctime: other, ..id.clone() },
        FileIdentity { dev: 0, ..id.clone() },
        FileIdentity { ino: 0, ..id.clone() },
        FileIdentity { path: "/b".into(), ..id.clone() },
    ] {
        assert_eq!(catalogue.file(&changed), None);
    }
    // A new state takes the place of the old one.
    let new = FileIdentity { size: 7, ..id.clone() };
    catalogue.append(&new, 0, &chunks(5..6), true);
    assert_eq!(catalogue.file(&new), Some(CachedFile { chunks: chunks(5..6), complete: true }));
    assert_eq!(catalogue.file(&id), None);
}

#[test]
fn a_gap_ends_what_is_known() {
    let catalogue = Catalogue::open_in_memory().unwrap();
    let id = identity("/a", 100);
    catalogue.append(&id, 0, &chunks(0..2), false);
    catalogue.append(&id, 3, &chunks(3..5), true);
    assert_eq!(catalogue.file(&id), Some(CachedFile { chunks: chunks(0..2), complete: false }));
    catalogue.append(&id, 2, &chunks(2..3), false);
    assert_eq!(catalogue.file(&id), Some(CachedFile { chunks: chunks(0..5), complete: true }));
}

#[test]
fn an_empty_end_completes_a_file() {
    let catalogue = Catalogue::open_in_memory().unwrap();
    let id = identity("/a", 100);
    catalogue.append(&id, 0, &chunks(0..64), false);
    catalogue.append(&id, 64, &[], true);
    assert_eq!(catalogue.file(&id), Some(CachedFile { chunks: chunks(0..64), complete: true }));
}

#[test]
fn packs_are_found_before_and_after_they_are_written() {
    let dir = TempDir::new().unwrap();
    let catalogue = open(&dir);
    let digest = |i: u32| Digest::of(&i.to_le_bytes());
    for i in 0..10_000 {
        catalogue.put_pack(&digest(i), &digest(i + 1));
        assert_eq!(catalogue.pack(&digest(i / 2)), Some(digest(i / 2 + 1)));
    }
    assert_eq!(catalogue.pack(&digest(10_000)), None);
    drop(catalogue);
    assert_eq!(open(&dir).pack(&digest(9_999)), Some(digest(10_000)));
}

#[test]
fn what_is_of_no_use_is_pruned() {
    let dir = TempDir::new().unwrap();
    let catalogue = open(&dir);
    let now = SystemTime::now();
    let days = |n: u64| now + Duration::from_secs(n * 24 * 60 * 60);
    let id = identity("/a", 100);
    catalogue.append(&id, 0, &chunks(0..5), true);
    catalogue.put_pack(&Digest([1; 32]), &Digest([2; 32]));
    assert_eq!(catalogue.prune(30, days(29)).unwrap(), 0);
    assert_eq!(catalogue.prune(30, days(31)).unwrap(), 2);
    assert_eq!(catalogue.file(&id), None);
    let connection = Connection::open(file_in(&dir)).unwrap();
    let left: i64 = connection.query_row("SELECT count(*) FROM file_chunks", [], |r| r.get(0)).unwrap();
    assert_eq!(left, 0);
}

#[test]
fn use_keeps_hashes() {
    let dir = TempDir::new().unwrap();
    let catalogue = open(&dir);
    let id = identity("/a", 100);
    catalogue.append(&id, 0, &chunks(0..5), true);
    catalogue.put_pack(&Digest([1; 32]), &Digest([2; 32]));
    catalogue.flush_hashes();
    let connection = Connection::open(file_in(&dir)).unwrap();
    for table in ["files", "packs"] {
        connection.execute(&format!("UPDATE {table} SET used = used - 50 * 24 * 60 * 60"), []).unwrap();
    }
    assert!(catalogue.file(&id).is_some());
    assert!(catalogue.pack(&Digest([1; 32])).is_some());
    assert_eq!(catalogue.prune(30, SystemTime::now()).unwrap(), 0);
}

#[test]
fn quotas_are_kept_and_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let pair = |name: &str, state: &str| (name.to_owned(), state.to_owned());
    let catalogue = open(&dir);
    catalogue.put_quotas(&[pair("b", "1"), pair("a", "2")]).unwrap();
    catalogue.put_quotas(&[pair("b", "3")]).unwrap();
    drop(catalogue);
    assert_eq!(open(&dir).quotas().unwrap(), [pair("a", "2"), pair("b", "3")]);
}

#[test]
fn a_file_of_the_first_version_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let catalogue = open(&dir);
    catalogue.put_receipt(&key(1), &Digest([7; 32]), b"kept", at(5)).unwrap();
    catalogue.journal().execute_batch("DROP TABLE quotas; PRAGMA user_version = 1").unwrap();
    drop(catalogue);
    let catalogue = open(&dir);
    assert_eq!((catalogue.quotas().unwrap().len(), catalogue.receipts(9).unwrap().len()), (0, 1));
}
