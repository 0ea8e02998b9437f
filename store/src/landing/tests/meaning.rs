//! What options mean: destinations, what is overwritten, modes and times, holes.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use metra_core::manifest::Timestamp;
use metra_core::ranges::IndexRange;

use super::*;

fn mode(ground: &Ground, path: &str) -> u32 {
    fs::symlink_metadata(ground.dir.path().join(path)).unwrap().permissions().mode() & 0o7777
}

fn set_mode(ground: &Ground, path: &str, mode: u32) {
    fs::set_permissions(ground.dir.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
}

fn umask() -> u32 {
    let probe = temp();
    fs::create_dir(probe.path().join("d")).unwrap();
    !fs::metadata(probe.path().join("d")).unwrap().permissions().mode() & 0o777
}

fn at(secs: i64) -> Option<Timestamp> {
    Some(Timestamp { secs, nanos: 7 })
}

fn timed(path: &str, data: &[u8], mode: u32, secs: i64) -> Source {
    let kind = EntryKind::File { size: data.len() as u64 };
    Source::default().entry(Entry { path: path.into(), kind, mode: Some(mode), mtime: at(secs) }).chunk(data)
}

#[test]
fn destinations() {
    let tree = || Source::default().dir("src", 0o755).small("src/f", b"1");
    let file = || Source::default().small("f", b"1");
    use Placement::{As, Auto, Into};
    for (there, placement, dest, source, expected) in [
        (None, Auto, "", tree(), "src/f"),
        (None, As, "", tree(), "src/f"),
        (None, Auto, "d", tree(), "d/f"),
        (None, Auto, "d/e", tree(), "d/e/f"),
        (Some("d/"), Auto, "d", tree(), "d/src/f"),
        (Some("d/"), Auto, "/d/", tree(), "d/src/f"),
        (Some("d/"), As, "d", tree(), "d/f"),
        (None, Into, "d", tree(), "d/src/f"),
        (None, Auto, "x", file(), "x"),
        (Some("x"), Auto, "x", file(), "x"),
        (Some("d/"), Auto, "d", file(), "d/f"),
        (None, Into, "d/e", file(), "d/e/f"),
    ] {
        let mut ground = Ground::new();
        match there {
            Some(dir) if dir.ends_with('/') => fs::create_dir(ground.dir.path().join(dir)).unwrap(),
            Some(file) => ground.put(file, b"0"),
            None => {}
        }
        (ground.placement, ground.dest) = (placement, dest.to_owned());
        // Interrupted, so that the second attempt finds what the first one made.
        let landing = ground.receive(&source);
        landing.root.make_dir(crate::beneath::split(expected).0).unwrap();
        drop(landing);
        let (report, told) = ground.land(&source);
        assert_eq!(report.failed, 0, "{placement:?} {dest} {:?}", told.statuses);
        assert_eq!(ground.read(expected), b"1");
    }
}

#[test]
fn another_destination_for_the_same_job_is_heeded() {
    let mut ground = Ground::new();
    let source = Source::default().small("f", b"1");
    ground.dest = "first".into();
    drop(ground.receive(&source));
    ground.dest = "second".into();
    ground.land(&source);
    assert!(ground.has("second/f") && !ground.has("first"));
}

#[test]
fn links_in_the_destination_are_resolved_once_and_lead_to_no_forbidden_place() {
    let mut ground = Ground::new();
    let root = ground.dir.path().to_owned();
    fs::create_dir_all(root.join("releases/5")).unwrap();
    symlink("releases/5", root.join("current")).unwrap();
    symlink("..", root.join("up")).unwrap();
    symlink(".metra", root.join("own")).unwrap();
    let source = Source::default().small("f", b"1");
    ground.dest = "current".into();
    ground.land(&source);
    assert_eq!(ground.read("releases/5/f"), b"1");
    for bad in ["up", "up/x", "own", "own/jobs", ".metra", ".METRA/x", "a/../../x", "a/../.metra"] {
        ground.dest = bad.into();
        assert!(ground.open().is_err(), "{bad}");
        assert!(!ground.has(".metra"), "{bad}");
    }
}

#[test]
fn one_name_is_not_given_to_several_things() {
    let mut ground = Ground::new();
    (ground.placement, ground.dest) = (Placement::As, "d".into());
    let source = Source::default().dir("a", 0o755).small("a/x", b"a").dir("b", 0o755).small("b/x", b"b");
    let (report, told) = ground.land(&source);
    assert_eq!((report.entries, report.failed), (2, 2));
    assert_eq!((told.of("b"), told.of("b/x")), (Some(Code::Conflict), Some(Code::Conflict)));
    assert_eq!(ground.read("d/x"), b"a");
}

#[test]
fn never_keeps_what_is_there_even_if_it_came_late() {
    let mut ground = Ground::new();
    ground.overwrite = Overwrite::Never;
    ground.put("there", b"old");
    symlink("x", ground.dir.path().join("link")).unwrap();
    let source = Source::default()
        .small("there", b"new")
        .small("late", b"new")
        .small("free", b"new")
        .file("empty", 0)
        .link("link", "y")
        .dir("d", 0o755);
    let landing = ground.receive(&source);
    ground.put("late", b"somebody else's");
    fs::create_dir(ground.dir.path().join("d")).unwrap();
    set_mode(&ground, "d", 0o711);
    drop(landing);
    let landing = ground.open().unwrap();
    let mut attempt = Attempt::new(&landing, &source);
    attempt.without_finish = false;
    let (end, told) = attempt.run(&mut Dice::new(1), usize::MAX);
    assert_eq!(end.finished().failed, 3);
    for path in ["there", "late", "link"] {
        assert_eq!(told.of(path), Some(Code::Exists), "{path}");
    }
    assert_eq!((ground.read("there"), ground.read("late")), (b"old".to_vec(), b"somebody else's".to_vec()));
    assert_eq!((ground.read("free"), ground.read("empty")), (b"new".to_vec(), vec![]));
    assert_eq!(mode(&ground, "d"), 0o711);
}

#[test]
fn never_also_between_planning_and_the_end() {
    let mut ground = Ground::new();
    ground.overwrite = Overwrite::Never;
    let source = Source::default().small("f", b"new").file("large", 300_000).chunk(&noise(1, 300_000));
    let landing = ground.receive(&source);
    ground.put("f", b"late");
    let mut ledger = Ledger::new(LedgerLimits::default());
    source.records.iter().for_each(|r| assert!(ledger.push(r).is_ok()));
    let report = landing.finish(&ledger, &[]).unwrap();
    assert_eq!((report.entries, report.failed, report.statuses[0].2), (1, 1, Code::Exists));
    assert_eq!(ground.read("f"), b"late");
    assert!(!ground.has(".metra"));
}

#[test]
fn always_replaces_and_different_looks_at_the_bytes() {
    for overwrite in [Overwrite::Always, Overwrite::Different] {
        let mut ground = Ground::new();
        ground.overwrite = overwrite;
        let large = noise(4, 700_000);
        let source = || {
            timed("f", b"same", 0o644, 1000).entry(Entry {
                path: "large".into(),
                kind: EntryKind::File { size: 700_000 },
                mode: Some(0o644),
                mtime: at(1000),
            })
        };
        let source = Source { records: source().records, ..source() }.chunk(&large);
        ground.land(&source);
        let inode = |path: &str| fs::metadata(ground.dir.path().join(path)).unwrap().ino();
        let before = (inode("f"), inode("large"));
        let (report, told) = ground.land(&source);
        assert_eq!((report.entries, report.failed, told.stats.received), (2, 0, 0), "the bytes are there");
        let kept = overwrite == Overwrite::Different;
        assert_eq!((inode("f"), inode("large")) == before, kept);
        assert_eq!(told.of("large"), kept.then_some(Code::Ok));
        // The same size and time, other bytes.
        for path in ["f", "large"] {
            let file = File::options().write(true).open(ground.dir.path().join(path)).unwrap();
            let time = file.metadata().unwrap().modified().unwrap();
            file.write_all_at(b"?", 1).unwrap();
            file.set_modified(time).unwrap();
        }
        let (_, told) = ground.land(&source);
        assert_eq!(told.stats.received, 2);
        assert!(ground.read("f") == b"same" && ground.read("large") == large);
    }
}

#[test]
fn a_changed_mode_or_time_of_a_file_that_is_the_same_otherwise() {
    let ground = Ground::new();
    let large = noise(4, 700_000);
    let of = |mode, secs| {
        let entry = |path: &str, size| Entry {
            path: path.into(),
            kind: EntryKind::File { size },
            mode: Some(mode),
            mtime: at(secs),
        };
        Source::default().entry(entry("f", 4)).chunk(b"same").entry(entry("large", 700_000)).chunk(&large)
    };
    ground.land(&of(0o600, 1000));
    for (m, secs) in [(0o644, 1000), (0o644, 2000), (0o400, 3000)] {
        let (report, told) = ground.land(&of(m, secs));
        assert_eq!((report.failed, told.stats.received), (0, 0));
        for path in ["f", "large"] {
            let meta = fs::metadata(ground.dir.path().join(path)).unwrap();
            assert_eq!((meta.mode() & 0o7777, meta.mtime(), meta.mtime_nsec()), (m, secs, 7), "{path}");
        }
    }
}

#[test]
fn only_permission_bits_are_applied() {
    let ground = Ground::new();
    fs::create_dir(ground.dir.path().join("sticky")).unwrap();
    set_mode(&ground, "sticky", 0o1777);
    let mut source = Source::default().dir("sticky", 0o755).dir("new", 0o7755).file("empty", 0);
    for (number, record) in timed("small", b"x", 0o6755, 5).records.into_iter().enumerate() {
        source = if number == 0 { source.record(record) } else { source.chunk(b"x") };
    }
    let large = Entry {
        mode: Some(0o4711),
        path: "large".into(),
        kind: EntryKind::File { size: 300_000 },
        mtime: None,
    };
    source = source.entry(large).chunk(&noise(1, 300_000));
    ground.land(&source);
    assert_eq!(mode(&ground, "small"), 0o755);
    assert_eq!(mode(&ground, "large"), 0o711);
    assert_eq!(mode(&ground, "new"), 0o755);
    assert_eq!(mode(&ground, "sticky"), 0o1755, "what is there keeps what is not carried");
}

#[test]
fn without_modes_and_times_the_system_decides() {
    let mut ground = Ground::new();
    ground.keep = Keep { mode: false, times: false };
    let kind = EntryKind::File { size: 300_000 };
    let source = timed("small", b"x", 0o400, 5)
        .entry(Entry { path: "large".into(), kind, mode: Some(0o400), mtime: at(5) })
        .chunk(&noise(1, 300_000))
        .dir("d", 0o500)
        .file("empty", 0);
    ground.land(&source);
    let recent = SystemTime::now() - Duration::from_secs(600);
    for path in ["small", "large", "d", "empty"] {
        let meta = fs::metadata(ground.dir.path().join(path)).unwrap();
        let full = if meta.is_dir() { 0o777 } else { 0o666 };
        assert_eq!(mode(&ground, path), full & !umask(), "{path}");
        assert!(meta.modified().unwrap() > recent, "{path}");
    }
    let (_, told) = ground.land(&source);
    assert_eq!(told.of("small"), Some(Code::Ok), "times that are not kept are not compared");
}

/// As root nothing is forbidden; run as another user, this is about more.
#[test]
fn modes_that_forbid_what_the_job_has_to_do() {
    let ground = Ground::new();
    let secs = 1_000_000;
    let large = noise(1, 300_000);
    let of = |text: &[u8]| {
        let entry =
            |path: &str, kind, mode| Entry { path: path.into(), kind, mode: Some(mode), mtime: at(secs) };
        Source::default()
            .entry(entry("d", EntryKind::Directory, 0o555))
            .entry(entry("d/e", EntryKind::Directory, 0o111))
            .entry(entry("d/e/none", EntryKind::File { size: text.len() as u64 }, 0o000))
            .entry(entry("d/e/read", EntryKind::File { size: text.len() as u64 }, 0o444))
            .chunk(&[text, text].concat())
            .entry(entry("d/e/large", EntryKind::File { size: 300_000 }, 0o000))
            .chunk(&large)
    };
    for text in [&b"first"[..], b"second"] {
        // Interrupted once when all is staged, so that the second attempt meets the modes there as well.
        let landing = ground.receive(&of(text));
        let index = EntryIndex(4);
        let file = landing.staging.existing(index).unwrap();
        file.inspect(|file| file.set_permissions(fs::Permissions::from_mode(0o0)).unwrap());
        drop(landing);
        let (report, told) = ground.land(&of(text));
        assert_eq!(report.failed, 0, "{:?}", told.statuses);
        let time = |path: &str| fs::metadata(ground.dir.path().join(path)).unwrap().mtime();
        assert_eq!((mode(&ground, "d"), time("d")), (0o555, secs));
        set_mode(&ground, "d", 0o755);
        assert_eq!((mode(&ground, "d/e"), time("d/e")), (0o111, secs));
        for (path, expected) in [("none", 0), ("read", 0o444), ("large", 0)] {
            let path = format!("d/e/{path}");
            assert_eq!((mode(&ground, &path), time(&path)), (expected, secs), "{path}");
            set_mode(&ground, &path, 0o644);
        }
        assert_eq!(ground.read("d/e/none"), text);
        set_mode(&ground, "d/e", 0o000);
        set_mode(&ground, "d", 0o500);
    }
    set_mode(&ground, "d", 0o755);
    set_mode(&ground, "d/e", 0o755);
}

#[test]
fn staged_files_are_closed_to_others() {
    let ground = Ground::new();
    let landing = ground.receive(&Source::default().small("f", b"1"));
    let staging = ground.staging();
    assert_eq!(fs::metadata(staging).unwrap().permissions().mode() & 0o077, 0);
    drop(landing);
}

#[test]
fn holes_stay_holes_and_hide_no_older_bytes() {
    let (source, ground) = (temp(), Ground::new());
    let path = source.path().join("sparse");
    let file = File::create(&path).unwrap();
    file.set_len(64 << 20).unwrap();
    file.write_all_at(&noise(1, 100_000), 30 << 20).unwrap();
    let sent = Source::contents(source.path());
    let (_, told) = ground.land(&sent);
    assert!(told.stats.received < 8, "{:?}", told.stats);
    let landed = ground.dir.path().join("sparse");
    assert!(ground.read("sparse") == fs::read(&path).unwrap());
    assert!(fs::metadata(&landed).unwrap().blocks() * 512 < 10 << 20);

    // The staged file has other bytes where holes must be.
    fs::remove_file(landed).unwrap();
    drop(ground.receive(&sent));
    let staged = ground.staging().join("files/0/0");
    fs::write(&staged, noise(2, 66 << 20)).unwrap();
    let landing = ground.open().unwrap();
    landing.journal.cut(ChunkIndex(0)).unwrap();
    drop(landing);
    ground.land(&sent);
    assert!(ground.read("sparse") == fs::read(&path).unwrap());
}

#[test]
fn what_is_written_or_kept_can_be_read_back() {
    let ground = Ground::new();
    let large = noise(1, 700_000);
    let kept = timed("kept", b"kept bytes", 0o644, 5);
    ground.land(&kept);
    let source = Source { records: kept.records.clone(), data: kept.data.clone() };
    let source = source.file("a", 2).file("b", 3).chunk(b"aabbb").file("large", 700_000).chunk(&large);
    let landing = ground.open().unwrap();
    landing.plan(&source.records).unwrap();
    let mut ledger = Ledger::new(LedgerLimits::default());
    source.records.iter().for_each(|r| assert!(ledger.push(r).is_ok()));
    let parts = |n| pieces(&ledger, ChunkIndex(n));
    assert_eq!(landing.read_back(ChunkIndex(1), &parts(1)), None);
    landing.write(ChunkIndex(1), &parts(1), b"aabbb").unwrap();
    landing.write(ChunkIndex(2), &parts(2), &large).unwrap();
    assert_eq!(landing.read_back(ChunkIndex(0), &parts(0)).unwrap(), b"kept bytes");
    assert_eq!(landing.read_back(ChunkIndex(1), &parts(1)).unwrap(), b"aabbb");
    assert!(landing.read_back(ChunkIndex(2), &parts(2)).unwrap() == large);
}

#[test]
fn after_a_failed_sync_nothing_is_called_durable() {
    let ground = Ground::new();
    let source = Source::default().small("f", b"1").small("g", b"2");
    let landing = ground.open().unwrap();
    landing.plan(&source.records).unwrap();
    let mut ledger = Ledger::new(LedgerLimits::default());
    source.records.iter().for_each(|r| assert!(ledger.push(r).is_ok()));
    landing.write(ChunkIndex(0), &pieces(&ledger, ChunkIndex(0)), b"1").unwrap();
    let staged = ground.staging().join("files/0/0");
    fs::remove_file(&staged).unwrap();
    let range = |first| [IndexRange { first: ChunkIndex(first), count: 1 }];
    assert!(landing.sync(&range(0)).is_err());
    landing.write(ChunkIndex(1), &pieces(&ledger, ChunkIndex(1)), b"2").unwrap();
    assert!(landing.sync(&range(1)).is_err(), "fsync tells of lost pages only once");
    let row = ground.catalogue.jobs().unwrap().remove(0);
    assert!(ground.catalogue.job_durable_set(row.id).unwrap().is_empty());
}

#[test]
fn abandoned_jobs_are_removed_and_others_left_alone() {
    let ground = Ground::new();
    let root = ground.dir.path();
    let source = Source::default().small("f", b"1");
    let landing = ground.receive(&source);
    let soon = SystemTime::now() + Duration::from_secs(60);
    let remove = |since| remove_abandoned(root, &ground.catalogue, since).unwrap();
    assert_eq!(remove(soon), 0, "at work");
    drop(landing);
    assert_eq!(remove(SystemTime::now() - Duration::from_secs(60)), 0, "used since");
    assert_eq!(remove(soon), 1);
    assert!(!ground.has(".metra") && ground.catalogue.jobs().unwrap().is_empty());
    assert_eq!(remove(soon), 0);
    // One that the catalogue does not know.
    drop(ground.receive(&source));
    let other = Catalogue::open_in_memory().unwrap();
    assert_eq!(remove_abandoned(root, &other, soon).unwrap(), 1);
    assert!(!Path::new(&root.join(".metra")).exists());
}

#[test]
fn a_newer_attempt_takes_the_job_over() {
    let ground = Ground::new();
    let source = Source::default().small("f", b"1");
    let older = ground.open().unwrap();
    older.plan(&source.records).unwrap();
    let newer = ground.open().unwrap();
    assert_eq!(older.plan(&[]).unwrap_err().code(), Code::Busy);
    let (end, _) = Attempt::new(&newer, &source).run(&mut Dice::new(1), usize::MAX);
    end.finished();
    let mut ledger = Ledger::new(LedgerLimits::default());
    source.records.iter().for_each(|r| assert!(ledger.push(r).is_ok()));
    assert!(older.write(ChunkIndex(0), &pieces(&ledger, ChunkIndex(0)), b"1").is_err());
    assert!(older.finish(&ledger, &[]).is_err());
    assert_eq!(ground.read("f"), b"1");
}
