//! What cannot or must not be read: odd files, links, the fence.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use metra_core::code::Code;
use metra_core::manifest::EntryKind;
use metra_core::wire::Symlinks;
use tempfile::TempDir;

use super::super::*;
use super::*;

#[test]
fn odd_things_are_reported_and_the_rest_is_read() {
    let dir = TempDir::new().unwrap();
    put(&dir, "good", b"x");
    fs::write(dir.path().join(OsStr::from_bytes(b"bad\xff")), b"x").unwrap();
    symlink(OsStr::from_bytes(b"to\xfe"), dir.path().join("bad-link")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.path().join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    let mut spec = contents_of(dir.path());
    spec.roots.push(Root::path("/dev/null"));
    let all = read(&spec);
    assert_eq!(all.paths(), ["good"]);
    assert_eq!(all.problem("bad\u{fffd}").code, Code::BadName);
    assert_eq!(all.problem("bad-link").code, Code::BadName);
    for path in ["fifo", "socket", "/dev/null"] {
        assert_eq!(all.problem(path).code, Code::Unsupported, "{path}");
    }
    assert_eq!(all.problem("fifo").reason, "it is a FIFO");
    assert_eq!(all.problems.len(), 5);
}

#[test]
fn what_may_not_be_read_is_reported() {
    let dir = TempDir::new().unwrap();
    put(&dir, "small", b"x");
    put(&dir, "large", &noise(1, 300_000));
    put(&dir, "folder/inner", b"x");
    put(&dir, "z", b"x");
    for path in ["small", "large", "folder"] {
        fs::set_permissions(dir.path().join(path), fs::Permissions::from_mode(0o000)).unwrap();
    }
    if File::open(dir.path().join("small")).is_ok() {
        eprintln!("SKIP what_may_not_be_read_is_reported: this user may read everything");
        return;
    }
    let all = read(&contents_of(dir.path()));
    fs::set_permissions(dir.path().join("folder"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(all.paths(), ["z"]);
    for path in ["small", "large", "folder"] {
        let problem = all.problem(path);
        assert_eq!((problem.code, problem.reason.as_str()), (Code::ReadFailed, "permission denied"));
    }
}

#[test]
fn a_folder_that_is_gone_does_not_end_the_job() {
    let dir = TempDir::new().unwrap();
    for i in 0..20 {
        put(&dir, &format!("{i:02}/f"), &noise(i, 300_000));
    }
    let mut reader = Reader::new(&contents_of(dir.path()), None);
    let mut all = Read::new();
    all.take(reader.step(1).items);
    fs::remove_dir_all(dir.path().join("10")).unwrap();
    loop {
        let step = reader.step(1 << 20);
        all.take(step.items);
        if step.done {
            break;
        }
    }
    assert_eq!(all.problem("10").code, Code::NotFound);
    assert_eq!(all.ledger.entries(), 38);
}

#[test]
fn links_are_followed_kept_or_skipped() {
    let dir = TempDir::new().unwrap();
    put(&dir, "real/f", b"content");
    symlink("f", dir.path().join("real/g")).unwrap();
    symlink("real", dir.path().join("to-folder")).unwrap();
    symlink("nowhere", dir.path().join("dangling")).unwrap();
    symlink("loop-b", dir.path().join("loop-a")).unwrap();
    symlink("loop-a", dir.path().join("loop-b")).unwrap();
    symlink("..", dir.path().join("real/up")).unwrap();
    let mut spec = contents_of(dir.path());
    let kept = read(&spec);
    assert_eq!(kept.problems, []);
    assert_eq!(kept.entries().iter().filter(|e| matches!(e.kind, EntryKind::Symlink { .. })).count(), 6);
    spec.symlinks = Symlinks::Skip;
    assert_eq!(read(&spec).paths(), ["real", "real/f"]);
    spec.symlinks = Symlinks::Follow;
    let followed = read(&spec);
    assert_eq!(followed.paths(), ["real", "real/f", "real/g", "to-folder", "to-folder/f", "to-folder/g"]);
    let contents = followed.contents(&spec);
    for path in ["real/f", "real/g", "to-folder/f", "to-folder/g"] {
        assert_eq!(contents[path], b"content");
    }
    assert_eq!(followed.problem("dangling").code, Code::NotFound);
    for path in ["loop-a", "loop-b", "real/up", "to-folder/up"] {
        assert_eq!(followed.problem(path).code, Code::ReadFailed, "{path}");
    }
}

#[test]
fn a_root_that_is_a_link_is_a_link_unless_its_contents_are_meant() {
    let dir = TempDir::new().unwrap();
    put(&dir, "real/f", b"x");
    symlink("real", dir.path().join("link")).unwrap();
    let link = dir.path().join("link");
    let mut spec = SourceSpec::new(vec![Root::path(&link)]);
    assert_eq!(read(&spec).entries()[0].kind, EntryKind::Symlink { target: "real".into() });
    spec.symlinks = Symlinks::Follow;
    assert_eq!(read(&spec).paths(), ["link", "link/f"]);
    assert_eq!(read(&contents_of(&link)).paths(), ["f"]);
}

#[test]
fn nothing_outside_of_the_fence_is_read() {
    let dir = TempDir::new().unwrap();
    put(&dir, "secret/key", b"secret");
    put(&dir, "served/a/f", b"public");
    let served = dir.path().join("served");
    symlink("../secret", served.join("out")).unwrap();
    symlink("../../secret/key", served.join("a/key")).unwrap();
    symlink("a/f", served.join("in")).unwrap();
    symlink(served.join("a"), served.join("in-absolute")).unwrap();
    let mut spec = SourceSpec::new(vec![
        Root::path("out"),
        Root::path("a"),
        Root::path("in"),
        Root::path("in-absolute"),
    ]);
    spec.confine = Some(served.clone());
    // Kept: only the text of the link is read.
    let kept = read(&spec);
    assert_eq!(kept.paths(), ["out", "a", "a/f", "a/key", "in", "in-absolute"]);
    assert_eq!(kept.problems, []);
    spec.symlinks = Symlinks::Follow;
    let followed = read(&spec);
    assert_eq!(followed.paths(), ["a", "a/f", "in", "in-absolute", "in-absolute/f"]);
    assert_eq!(followed.problem("out").code, Code::LinkEscapes);
    assert_eq!(followed.problem("a/key").code, Code::LinkEscapes);
    assert_eq!(followed.contents(&spec)["in"], b"public");
    for (path, contents, code) in [
        ("out/key", false, Code::Denied),
        ("out", true, Code::Denied),
        ("a/../../secret", false, Code::BadName),
        ("../secret", true, Code::BadName),
        ("/etc/passwd", false, Code::Denied),
        ("/etc", true, Code::Denied),
        ("none", false, Code::NotFound),
    ] {
        for symlinks in [Symlinks::Keep, Symlinks::Follow] {
            spec.symlinks = symlinks;
            spec.roots = vec![Root::Path { path: path.into(), contents }];
            let all = read(&spec);
            assert_eq!((all.ledger.entries(), all.problem(path).code), (0, code), "{path}");
        }
    }
    spec.roots = vec![Root::Path { path: PathBuf::new(), contents: true }];
    spec.symlinks = Symlinks::Skip;
    assert_eq!(read(&spec).paths(), ["a", "a/f"]);
    spec.roots = vec![Root::Listed { base: "".into(), paths: vec!["out/key".into(), "a/f".into()] }];
    let all = read(&spec);
    assert_eq!((all.paths(), all.problem("out/key").code), (vec!["a/f".to_owned()], Code::Denied));
}

#[test]
fn a_folder_that_becomes_a_link_out_is_not_loaded_from() {
    let dir = TempDir::new().unwrap();
    put(&dir, "served/a/f", b"12345");
    put(&dir, "secret/f", b"abcde");
    let mut spec = SourceSpec::new(vec![Root::path("a")]);
    spec.confine = Some(dir.path().join("served"));
    let all = read(&spec);
    let part = Part { local: all.locals[1], path: "a/f", offset: 0, len: 5 };
    let load = || Loader::new(&spec).load(&[part]);
    assert_eq!(&load().unwrap()[..], b"12345");
    fs::rename(dir.path().join("served/a"), dir.path().join("served/b")).unwrap();
    symlink("../secret", dir.path().join("served/a")).unwrap();
    assert_eq!(load().unwrap_err().code(), Code::Denied);
    fs::remove_file(dir.path().join("served/a")).unwrap();
    fs::create_dir(dir.path().join("served/a")).unwrap();
    symlink("../../secret/f", dir.path().join("served/a/f")).unwrap();
    assert_eq!(load().unwrap_err().code(), Code::ReadFailed);
}

#[test]
fn the_fence_itself_may_be_given_in_any_way() {
    let dir = TempDir::new().unwrap();
    put(&dir, "served/a/f", b"x");
    fs::create_dir(dir.path().join("other")).unwrap();
    symlink("served", dir.path().join("link")).unwrap();
    for fence in ["other/../served", "link", "served/", "./served/."] {
        let mut spec = SourceSpec::new(vec![Root::path("a"), Root::path("../other")]);
        spec.confine = Some(dir.path().join(fence));
        let all = read(&spec);
        assert_eq!(all.paths(), ["a", "a/f"], "{fence}");
        assert_eq!(all.problem("../other").code, Code::BadName);
    }
}

#[test]
fn more_roots_than_can_be_numbered_are_refused_aloud() {
    let root = Root::Zero { size: 0, name: "z".into() };
    let all = read(&SourceSpec::new(vec![root; 65_540]));
    assert_eq!(all.ledger.entries(), 65_536);
    assert_eq!(all.problem("4 more").code, Code::Limit);
}

#[test]
fn a_guard_sees_real_paths_and_what_it_refuses_is_not_entered() {
    let dir = TempDir::new().unwrap();
    for path in ["a/open", "a/shut", "secret/key", "b"] {
        put(&dir, path, b"x");
    }
    // By the name of a link, and through a directory that is one.
    symlink("../secret/key", dir.path().join("a/by-link")).unwrap();
    symlink("secret", dir.path().join("also")).unwrap();
    let real = dir.path().canonicalize().unwrap();
    let (shut, secret) = (real.join("a/shut"), real.join("secret"));
    let guard = crate::Guard::new(move |path: &std::path::Path, size: Option<u64>| {
        assert_eq!(size.is_some(), path.is_file(), "{}", path.display());
        if path == shut || path.starts_with(&secret) {
            Err(format!("no: {}", path.display()))
        } else {
            Ok(())
        }
    });
    let follow = SourceSpec {
        symlinks: Symlinks::Follow,
        confine: Some(real.clone()),
        guard: Some(guard),
        ..contents_of(dir.path())
    };
    let all = read(&follow);
    assert_eq!(all.paths(), ["a", "a/open", "b"]);
    for path in ["a/shut", "a/by-link", "also", "secret"] {
        let problem = all.problem(path);
        assert_eq!(problem.code, Code::Denied, "{path}");
        assert!(problem.reason.starts_with("no: "), "{path}: {}", problem.reason);
    }
    assert_eq!(all.problems.len(), 4, "nothing below them is looked at");
    // What is asked for by name, through a link.
    let root = Root::Path { path: "also/key".into(), contents: false };
    let named = read(&SourceSpec { roots: vec![root], ..follow });
    assert!(named.paths().is_empty() && named.problems.len() == 1, "{:?}", named.problems);
}
