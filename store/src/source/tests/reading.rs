//! What is read, from trees and from elsewhere.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use metra_core::chunker::zero_chunk_hash;
use metra_core::code::Code;
use metra_core::id::{ChunkIndex, EntryIndex};
use metra_core::limits::{CHUNK_MAX, PACK_BELOW};
use metra_core::manifest::EntryKind;
use metra_core::wire::Keep;
use tempfile::TempDir;

use super::super::*;
use super::*;

#[test]
fn a_tree_is_read_in_order_and_loads_again() {
    let dir = TempDir::new().unwrap();
    let files: Vec<(&str, Vec<u8>)> = vec![
        ("a/1", noise(1, 10)),
        ("a/2", noise(2, 300_000)),
        ("a/3", noise(3, 5_000_000)),
        ("a.b", noise(4, 100)),
        ("b/c/d/deep", noise(5, 77)),
        ("empty", vec![]),
        ("exact", noise(6, PACK_BELOW as usize)),
        ("just-below", noise(7, PACK_BELOW as usize - 1)),
        ("ünï\ncode \"name\"", noise(8, 9)),
    ];
    for (path, content) in &files {
        put(&dir, path, content);
    }
    fs::create_dir(dir.path().join("z-empty")).unwrap();
    symlink("../a/1", dir.path().join("b/link")).unwrap();
    let spec = contents_of(dir.path());
    let all = read(&spec);
    assert_eq!(all.problems, []);
    let order = [
        "a",
        "a/1",
        "a/2",
        "a/3",
        "a.b",
        "b",
        "b/c",
        "b/c/d",
        "b/c/d/deep",
        "b/link",
        "empty",
        "exact",
        "just-below",
        "z-empty",
        "ünï\ncode \"name\"",
    ];
    assert_eq!(all.paths(), order);
    let contents = all.contents(&spec);
    for (path, content) in &files {
        assert!(contents.get(*path).unwrap_or(&Vec::new()) == content, "{path}");
    }
    // Exactly at the limit: chunks of its own. One byte less: packed.
    let index = |path| EntryIndex(order.iter().position(|p| *p == path).unwrap() as u32);
    let packed = |path| all.ledger.chunk(ChunkIndex(all.ledger.chunks_of(index(path)).start)).unwrap().packed;
    assert!(!packed("exact"));
    assert!(packed("just-below"));
    let link = all.ledger.entry(index("b/link")).unwrap();
    assert_eq!(link.kind, EntryKind::Symlink { target: "../a/1".into() });
    // Once more, in small steps: the same.
    assert_eq!(read_all(Reader::new(&spec, None), 1).records, all.records);
    assert_eq!(read_all(Reader::new(&spec, None), usize::MAX).records, all.records);
}

#[test]
fn metadata_is_carried_if_kept() {
    let dir = TempDir::new().unwrap();
    put(&dir, "f", b"x");
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    let file = File::open(dir.path().join("f")).unwrap();
    file.set_permissions(fs::Permissions::from_mode(0o640)).unwrap();
    file.set_modified(time).unwrap();
    let mut spec = contents_of(dir.path());
    let entry = read(&spec).entries().remove(0);
    assert_eq!(entry.mode, Some(0o640));
    let mtime = entry.mtime.unwrap();
    assert_eq!((mtime.secs, mtime.nanos), (1_000_000_000, 123_456_789));
    spec.keep = Keep { mode: false, times: false };
    let entry = read(&spec).entries().remove(0);
    assert_eq!((entry.mode, entry.mtime), (None, None));
}

#[test]
fn roots_come_in_the_order_given_under_their_names() {
    let dir = TempDir::new().unwrap();
    for path in ["one/x", "one/y", "two/z", "file"] {
        put(&dir, path, path.as_bytes());
    }
    let at = |p: &str| dir.path().join(p);
    let spec = SourceSpec::new(vec![
        Root::path(at("two")),
        Root::path(at("file")),
        Root::Path { path: at("one"), contents: true },
        Root::path(at("one/.")),
        Root::path(format!("{}/", at("two").display())),
        Root::path(at("nothing")),
        Root::Path { path: at("file"), contents: true },
    ]);
    let all = read(&spec);
    assert_eq!(all.paths(), ["two", "two/z", "file", "x", "y", "x", "y", "z"]);
    assert_eq!(all.contents(&spec)["two/z"], b"two/z");
    let missing = all.problem(at("nothing").to_str().unwrap());
    assert_eq!((missing.code, missing.reason.as_str()), (Code::NotFound, "no such file or directory"));
    assert_eq!(all.problem(at("file").to_str().unwrap()).code, Code::ReadFailed);
    assert_eq!(resolve(&spec, all.locals[1], "two/z"), Some(at("two/z")));
}

#[test]
fn listed_paths_are_read_as_listed() {
    let dir = TempDir::new().unwrap();
    for path in ["a/1", "a/2", "b/c/3", "b/c/4", "5"] {
        put(&dir, path, path.as_bytes());
    }
    let paths = ["5", "b/c", "./a//1", "/a/2", "a/none", "../5", ""].map(PathBuf::from).to_vec();
    let spec = SourceSpec::new(vec![Root::Listed { base: dir.path().to_owned(), paths }]);
    let all = read(&spec);
    assert_eq!(all.paths(), ["5", "b/c", "b/c/3", "b/c/4", "a/1", "a/2"]);
    assert_eq!(all.contents(&spec)["b/c/4"], b"b/c/4");
    assert_eq!(all.problem("a/none").code, Code::NotFound);
    assert_eq!(all.problem("../5").code, Code::BadName);
}

#[test]
fn filters_decide_below_the_root() {
    let dir = TempDir::new().unwrap();
    for path in ["p/keep.txt", "p/skip.tmp", "p/cache/x.txt", "p/raw/1.dng", "p/sub/raw/2.dng"] {
        put(&dir, path, b"x");
    }
    let mut spec = SourceSpec::new(vec![Root::path(dir.path().join("p"))]);
    spec.filters = Filters::new([(false, "*.tmp"), (false, "cache/"), (false, "/raw/*")]).unwrap();
    assert_eq!(read(&spec).paths(), ["p", "p/keep.txt", "p/raw", "p/sub", "p/sub/raw", "p/sub/raw/2.dng"]);
}

#[test]
fn twenty_thousand_small_files_fill_about_as_many_packs_as_bytes() {
    let dir = TempDir::new().unwrap();
    for i in 0..20_000u32 {
        if i % 500 == 0 {
            fs::create_dir(dir.path().join(format!("{}", i / 500))).unwrap();
        }
        fs::write(dir.path().join(format!("{}/{i}", i / 500)), [i as u8; 700]).unwrap();
    }
    let spec = contents_of(dir.path());
    let all = read(&spec);
    assert_eq!(all.ledger.entries(), 20_040);
    assert!((20..100).contains(&all.ledger.chunks()), "{}", all.ledger.chunks());
    assert_eq!(all.contents(&spec).len(), 20_000);
    // An edit changes one pack.
    fs::write(dir.path().join("17/8700"), [9; 701]).unwrap();
    let after = read(&spec).chunks();
    let before = all.chunks();
    assert_eq!(after.iter().filter(|c| !before.contains(c)).count(), 1);
}

#[test]
fn a_pack_spans_more_folders_than_are_kept_open() {
    let dir = TempDir::new().unwrap();
    for i in 0..120 {
        put(&dir, &format!("{i:03}/f"), &[i; 10]);
    }
    let spec = contents_of(dir.path());
    let all = read(&spec);
    assert_eq!(all.problems, []);
    assert_eq!(all.ledger.chunks(), 1);
    assert_eq!(all.contents(&spec)["119/f"], [119; 10]);
}

#[test]
fn a_tree_may_be_deeper_than_folders_are_kept_open() {
    let dir = TempDir::new().unwrap();
    let deep = vec!["d"; 200];
    put(&dir, &format!("{}/f", deep.join("/")), b"down here");
    for level in [5, 100, 150] {
        put(&dir, &format!("{}/z", deep[..level].join("/")), b"z");
    }
    let spec = contents_of(dir.path());
    let all = read(&spec);
    assert_eq!(all.problems, []);
    assert_eq!(all.ledger.entries(), 204);
    assert_eq!(all.contents(&spec).len(), 4);
}

#[test]
fn generated_files_and_streams() {
    let stream = noise(9, 6_000_001);
    let spec = SourceSpec::new(vec![
        Root::Zero { size: 2 * CHUNK_MAX as u64 + 5, name: "zero".into() },
        Root::Random { size: 9_000_000, seed: 4, name: "random".into() },
        Root::Stdin { name: "stdin".into() },
        Root::Zero { size: 7, name: "small-zero".into() },
        Root::Random { size: 9, seed: 4, name: "small-random".into() },
        Root::Zero { size: 0, name: "nothing".into() },
        Root::Stdin { name: "again".into() },
    ]);
    let all = read_all(Reader::new(&spec, None).with_stdin(Trickle(stream.clone().into(), 1)), 1 << 20);
    assert_eq!(all.paths(), ["zero", "random", "stdin", "small-zero", "small-random", "nothing"]);
    assert_eq!(all.problem("again").code, Code::ReadFailed);
    assert_eq!(all.ledger.size_of(EntryIndex(2)), Some(stream.len() as u64));
    // The stream's chunks are those that a file with the same content has.
    let range = all.ledger.chunks_of(EntryIndex(2));
    let chunks = &all.chunks()[range.start as usize..range.end as usize];
    assert_eq!(chunks, plain_chunks(&stream));
    assert!(all.data[range.start as usize..range.end as usize].iter().all(Option::is_some));
    assert_eq!(&all.chunks()[..2], [(CHUNK_MAX as u32, zero_chunk_hash()); 2]);
    let loader = Loader::new(&spec);
    let load = |entry: usize, path, offset, len| {
        loader.load(&[Part { local: all.locals[entry], path, offset, len }])
    };
    assert_eq!(&load(0, "zero", 5, 10).unwrap()[..], [0; 10]);
    assert_eq!(&load(1, "random", 1_000_001, 100).unwrap()[..], &noise(4, 9_000_000)[1_000_001..1_000_101]);
    assert!(matches!(load(2, "stdin", 0, 1), Err(LoadError::Stream { .. })));
    assert!(matches!(load(0, "zero", 0, CHUNK_MAX as u32 + 1), Err(LoadError::TooLong)));
}

/// Gives what it has in pieces of odd sizes.
struct Trickle(std::collections::VecDeque<u8>, usize);

impl std::io::Read for Trickle {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.1 = self.1 * 7 % 65_521 + 1;
        let len = self.1.min(buffer.len());
        self.0.read(&mut buffer[..len])
    }
}

#[test]
fn an_empty_stream_is_a_stream() {
    let spec = SourceSpec::new(vec![Root::Stdin { name: "s".into() }]);
    let all = read_all(Reader::new(&spec, None).with_stdin(std::io::empty()), 1);
    assert_eq!((all.ledger.size_of(EntryIndex(0)), all.ledger.chunks()), (Some(0), 0));
}

#[test]
fn a_stream_that_breaks_is_withdrawn() {
    struct Broken(usize);
    impl std::io::Read for Broken {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.0 += 1;
            if self.0 > 50 { Err(std::io::Error::other("torn")) } else { Ok(buffer.len()) }
        }
    }
    let spec = SourceSpec::new(vec![Root::Stdin { name: "s".into() }]);
    let all = read_all(Reader::new(&spec, None).with_stdin(Broken(0)), 1);
    assert!(all.ledger.is_withdrawn(EntryIndex(0)));
    assert_eq!((all.problem("s").code, all.problem("s").reason.as_str()), (Code::ReadFailed, "torn"));
}

#[test]
fn holes_are_cut_as_if_they_were_read() {
    let dir = TempDir::new().unwrap();
    let mib = 1 << 20;
    // Stretches of data at these offsets, in a file of that size.
    for (i, (data, size)) in [
        (vec![(0, 100), (11 * mib, 3 * mib), (31 * mib + 4096, 10)], 40 * mib),
        (vec![], 12 * mib),
        (vec![], 12 * mib + 1),
        (vec![(12 * mib, 1)], 12 * mib + 1),
        (vec![(0, 5 * mib)], 20 * mib),
        (vec![(4 * mib - 1, 2)], 9 * mib),
    ]
    .into_iter()
    .enumerate()
    {
        let path = dir.path().join(format!("sparse-{i}"));
        let mut sparse = File::create(&path).unwrap();
        sparse.set_len(size as u64).unwrap();
        for (at, len) in data {
            sparse.seek(SeekFrom::Start(at as u64)).unwrap();
            sparse.write_all(&noise(at as u64, len)).unwrap();
        }
        let spec = SourceSpec::new(vec![Root::path(&path)]);
        let all = read(&spec);
        let content = fs::read(&path).unwrap();
        assert_eq!(all.chunks(), plain_chunks(&content), "file {i}");
        assert_eq!(all.contents(&spec)[&format!("sparse-{i}")], content);
        if i == 1 && all.data.iter().any(Option::is_some) {
            eprintln!("SKIP: this file system does not tell where its holes are");
        }
    }
}
