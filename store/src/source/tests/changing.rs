//! Files that change while they are read, and after.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use metra_core::code::Code;
use metra_core::id::EntryIndex;
use tempfile::TempDir;

use super::super::*;
use super::*;

#[test]
fn a_large_file_that_grows_is_read_again() {
    let dir = TempDir::new().unwrap();
    put(&dir, "a", &noise(1, 20_000_000));
    put(&dir, "b", b"small");
    let spec = contents_of(dir.path());
    let mut reader = Reader::new(&spec, None);
    let mut all = Read::new();
    while all.ledger.chunks() == 0 {
        all.take(reader.step(1).items);
    }
    let file = File::options().append(true).open(dir.path().join("a")).unwrap();
    (&file).write_all(b"more").unwrap();
    loop {
        let step = reader.step(1 << 20);
        all.take(step.items);
        if step.done {
            break;
        }
    }
    assert_eq!(all.paths(), ["a", "b", "a"]);
    assert!(all.ledger.is_withdrawn(EntryIndex(0)));
    assert!(!all.ledger.is_withdrawn(EntryIndex(2)));
    assert_eq!(all.problems, []);
    let mut content = noise(1, 20_000_000);
    content.extend_from_slice(b"more");
    assert!(all.contents(&spec)["a"] == content);
}

#[test]
fn a_large_file_that_keeps_changing_is_given_up() {
    for shrink in [false, true] {
        let dir = TempDir::new().unwrap();
        put(&dir, "a", &noise(1, 20_000_000));
        let mut reader = Reader::new(&contents_of(dir.path()), None);
        let mut all = Read::new();
        let file = File::options().write(true).open(dir.path().join("a")).unwrap();
        let mut size = 20_000_000;
        loop {
            let step = reader.step(1);
            all.take(step.items);
            if step.done {
                break;
            }
            if shrink {
                size -= 1000;
                file.set_len(size).unwrap();
            } else {
                file.write_all_at(b"!", 19_999_999).unwrap();
                std::thread::sleep(Duration::from_millis(12));
            }
        }
        assert_eq!(all.problem("a").code, Code::Changed);
        assert_eq!(all.ledger.withdrawn(), all.ledger.entries());
        all.root();
    }
}

#[test]
fn a_small_file_that_changes_is_read_again() {
    let dir = TempDir::new().unwrap();
    for name in ["a", "b", "c", "d", "e"] {
        put(&dir, name, name.as_bytes());
    }
    let spec = contents_of(dir.path());
    let mut reader = Reader::new(&spec, None);
    // One name at a time: the files are found, and not yet read.
    for _ in 0..6 {
        assert!(reader.step(1).items.is_empty());
    }
    put(&dir, "b", b"changed");
    put(&dir, "c", &noise(3, 400_000));
    fs::remove_file(dir.path().join("d")).unwrap();
    fs::remove_file(dir.path().join("e")).unwrap();
    put(&dir, "e/f", b"a folder now");
    let all = read_all(reader, 1 << 20);
    assert_eq!(all.paths(), ["a", "b", "c"]);
    assert_eq!(all.problems.len(), 2);
    assert!(matches!(all.problem("e").code, Code::Changed | Code::ReadFailed));
    assert_eq!(all.contents(&spec)["b"], b"changed");
    assert_eq!(all.contents(&spec)["c"], noise(3, 400_000));
    assert_eq!(all.problem("d").code, Code::NotFound);
}

#[test]
fn a_small_file_that_keeps_changing_is_given_up() {
    let dir = TempDir::new().unwrap();
    put(&dir, "a", b"1");
    let mut reader = Reader::new(&contents_of(dir.path()), None);
    let mut all = Read::new();
    for i in 0usize.. {
        let step = reader.step(1);
        all.take(step.items);
        if step.done {
            break;
        }
        put(&dir, "a", &vec![b'x'; i + 2]);
    }
    assert_eq!(all.ledger.entries(), 0);
    assert_eq!(all.problem("a").code, Code::Changed);
}

#[test]
fn a_file_that_changed_since_is_not_loaded() {
    let dir = TempDir::new().unwrap();
    put(&dir, "large", &noise(1, 400_000));
    put(&dir, "small", b"12345");
    let spec = contents_of(dir.path());
    let all = read(&spec);
    let loader = Loader::new(&spec);
    let load =
        |entry: usize, path| loader.load(&[Part { local: all.locals[entry], path, offset: 0, len: 5 }]);
    assert!(load(0, "large").is_ok());
    put(&dir, "large", &noise(2, 400_001));
    put(&dir, "small", b"123");
    assert!(matches!(load(0, "large"), Err(LoadError::Changed { .. })));
    assert!(matches!(load(1, "small"), Err(LoadError::Changed { .. })));
    fs::remove_file(dir.path().join("small")).unwrap();
    let error = load(1, "small").unwrap_err();
    assert_eq!((error.code(), error.path()), (Code::NotFound, Some("small")));
    assert_eq!(error.to_string(), "small: no such file or directory");
}
