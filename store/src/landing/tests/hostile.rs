//! Manifests that mean harm, and trees that were prepared for them.

use std::fs;
use std::os::unix::fs::symlink;

use super::*;

#[test]
fn names_that_are_refused() {
    let ground = Ground::new();
    let bad = [
        "../f",
        "/f",
        "a/../../f",
        "a//f",
        "a/.",
        ".metra",
        ".metra/jobs/x",
        ".METRA/f",
        ".Metra",
        "",
        "a\\b",
        "a\0b",
    ];
    let mut source = Source::default();
    for name in bad {
        source = source.small(name, b"1").dir(&format!("{name}/d"), 0o755);
    }
    let long = "n".repeat(256);
    source = source.small(&long, b"1").small("good", b"2").small("deep/.metra/f", b"3");
    let (report, told) = ground.land(&source);
    for name in bad {
        assert_eq!(told.of(name), Some(Code::BadName), "{name:?}");
    }
    assert_eq!((report.entries, told.of(&long)), (2, Some(Code::BadName)));
    assert_eq!((ground.read("good"), ground.read("deep/.metra/f")), (b"2".to_vec(), b"3".to_vec()));
    assert_eq!(fs::read_dir(ground.dir.path()).unwrap().count(), 2);
}

#[test]
fn two_entries_of_one_name() {
    let ground = Ground::new();
    let source = Source::default()
        .small("f", b"first")
        .small("f", b"second")
        .small("e\u{301}", b"decomposed")
        .small("\u{e9}", b"composed")
        .dir("d", 0o755)
        .dir("d", 0o000);
    let (report, told) = ground.land(&source);
    assert_eq!((report.entries, report.failed), (3, 3));
    assert_eq!(told.of("\u{e9}"), Some(Code::BadName));
    assert_eq!((ground.read("f"), ground.read("e\u{301}")), (b"first".to_vec(), b"decomposed".to_vec()));
}

#[test]
fn a_withdrawn_name_may_be_used_again() {
    use metra_core::id::EntryIndex;
    for len in [5, 300_000] {
        let (old, new) = (noise(1, len), noise(2, len));
        let source = Source::default()
            .file("f", len as u64)
            .chunk(&old)
            .record(Record::Withdraw(EntryIndex(0)))
            .file("f", len as u64)
            .chunk(&new);
        let ground = Ground::new();
        let (report, _) = ground.land(&source);
        assert_eq!((report.entries, report.failed), (1, 1));
        assert!(ground.read("f") == new);
    }
}

#[test]
fn entries_below_entries_that_are_no_directories() {
    let ground = Ground::new();
    fs::create_dir(ground.dir.path().join("real")).unwrap();
    let source = Source::default()
        .small("f", b"file")
        .small("f/below", b"1")
        .small("g/below", b"2")
        .small("g", b"not a file")
        .link("l", "real")
        .small("l/below", b"3")
        .dir("l/d", 0o755)
        .small("m/below", b"4")
        .link("m", "real");
    let (report, told) = ground.land(&source);
    assert_eq!((report.entries, report.failed), (4, 5), "{:?}", told.statuses);
    for path in ["f/below", "g", "l/below", "l/d", "m"] {
        assert_eq!(told.of(path), Some(Code::Conflict), "{path}");
    }
    assert_eq!(ground.read("f"), b"file");
    assert_eq!(ground.read("g/below"), b"2");
    assert_eq!(fs::read_dir(ground.dir.path().join("real")).unwrap().count(), 0, "written through the link");
    // What failed at the end is staged still; a job that fails for its manifest fails the same way again.
    let (again, _) = ground.land(&source);
    assert_eq!((again.entries, again.failed), (4, 5));
}

#[test]
fn links_in_the_tree_are_not_followed() {
    let outside = temp();
    fs::write(outside.path().join("victim"), b"untouched").unwrap();
    let ground = Ground::new();
    let root = ground.dir.path();
    symlink(outside.path(), root.join("out")).unwrap();
    symlink(".", root.join("here")).unwrap();
    symlink(outside.path().join("victim"), root.join("file")).unwrap();
    ground.put("d/f", b"0");
    symlink("d", root.join("to-d")).unwrap();
    let source = Source::default()
        .small("out/victim", b"harm")
        .small("here/.metra/jobs/x", b"harm")
        .dir("here/.metra", 0o777)
        .dir("to-d", 0o000)
        .small("to-d/f", b"harm")
        .small("file", b"replaced");
    let (report, told) = ground.land(&source);
    assert_eq!((report.entries, report.failed), (1, 5), "{:?}", told.statuses);
    assert_eq!(told.of("to-d"), Some(Code::Conflict));
    assert_eq!(fs::read(outside.path().join("victim")).unwrap(), b"untouched");
    assert_eq!((ground.read("d/f"), ground.read("file")), (b"0".to_vec(), b"replaced".to_vec()));
    assert!(
        fs::symlink_metadata(root.join("file")).unwrap().is_file(),
        "the link is replaced, not written through"
    );
    assert!(!ground.has(".metra"));
}

#[test]
fn links_that_would_lead_out_are_not_made() {
    let ground = Ground::new();
    let source = Source::default()
        .link("absolute", "/etc/passwd")
        .link("d/up", "../../x")
        .link("d/fine", "../x")
        .small("x", b"1");
    let (report, told) = ground.land(&source);
    assert_eq!((report.entries, report.failed), (2, 2));
    assert_eq!((told.of("absolute"), told.of("d/up")), (Some(Code::LinkEscapes), Some(Code::LinkEscapes)));
    assert_eq!(ground.read("d/fine"), b"1");
}

#[test]
fn a_staging_folder_that_is_a_link_is_refused() {
    let outside = temp();
    let ground = Ground::new();
    symlink(outside.path(), ground.dir.path().join(".metra")).unwrap();
    assert!(ground.open().is_err());
    fs::remove_file(ground.dir.path().join(".metra")).unwrap();
    fs::create_dir(ground.dir.path().join("inside")).unwrap();
    symlink("inside", ground.dir.path().join(".metra")).unwrap();
    assert!(ground.open().is_err());
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn a_tree_that_changes_between_planning_and_the_end() {
    let outside = temp();
    let ground = Ground::new();
    let root = ground.dir.path();
    let source = Source::default().dir("d", 0o700).small("d/f", b"1").small("g", b"2").small("h", b"3");
    let landing = ground.receive(&source);
    symlink(outside.path(), root.join("d")).unwrap();
    symlink(outside.path().join("x"), root.join("g")).unwrap();
    fs::create_dir(root.join("h")).unwrap();
    let mut ledger = Ledger::new(LedgerLimits::default());
    source.records.iter().for_each(|r| assert!(ledger.push(r).is_ok()));
    let mode = fs::metadata(outside.path()).unwrap().permissions();
    let report = landing.finish(&ledger, &[]).unwrap();
    assert_eq!((report.entries, report.failed), (1, 3));
    assert!(report.statuses.iter().all(|s| s.2 == Code::Conflict), "{:?}", report.statuses);
    assert_eq!(ground.read("g"), b"2");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    assert_eq!(fs::metadata(outside.path()).unwrap().permissions(), mode);
}

#[test]
fn directories_stand_in_the_way_and_things_that_are_no_files() {
    let ground = Ground::new();
    fs::create_dir(ground.dir.path().join("d")).unwrap();
    ground.put("f", b"0");
    let _socket = std::os::unix::net::UnixListener::bind(ground.dir.path().join("s")).unwrap();
    let source = Source::default().small("d", b"1").dir("f", 0o755).small("s", b"1").link("d", "x");
    let (report, told) = ground.land(&source);
    assert_eq!((report.entries, report.failed), (0, 4));
    for path in ["f", "s"] {
        assert_eq!(told.of(path), Some(Code::Conflict), "{path}");
    }
    assert_eq!(ground.read("f"), b"0");
}

#[test]
fn an_entry_whose_bytes_never_came_gets_no_name() {
    let ground = Ground::new();
    let source = Source::default().small("a", b"1").file("large", 600_000);
    let source = source.chunk(&noise(1, 300_000)).chunk(&noise(2, 300_000)).small("b", b"2");
    let landing = ground.open().unwrap();
    landing.plan(&source.records).unwrap();
    let mut ledger = Ledger::new(LedgerLimits::default());
    source.records.iter().for_each(|r| assert!(ledger.push(r).is_ok()));
    for (chunk, data) in [(0, &b"1"[..]), (1, &noise(1, 300_000)), (3, b"2")] {
        landing.write(ChunkIndex(chunk), &pieces(&ledger, ChunkIndex(chunk)), data).unwrap();
    }
    let report = landing.finish(&ledger, &[2]).unwrap();
    assert_eq!((report.entries, report.failed, report.statuses[0].2), (2, 1, Code::Changed));
    assert!(ground.has("a") && ground.has("b") && !ground.has("large"));
}
