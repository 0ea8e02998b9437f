//! Names that cannot be used: refused by name, and the rest of the job goes on.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use metra_core::code::Code;
use metra_core::id::JobId;
use metra_core::manifest::EntryKind;
use metra_core::priority::Priority;
use metra_core::wire::{Frame, Pull, Push};
use metra_core::wire::{Keep, Overwrite, Placement, Symlinks};

use crate::harness::raw::{Manifest, Raw};
use crate::harness::{Bed, Tree};

tests![
    names_of_a_hostile_client,
    links_of_a_hostile_client,
    a_link_that_is_there_does_not_lead_out,
    destinations_and_requests_that_lead_out,
    names_of_a_real_file_system,
    links_of_a_real_file_system,
    the_gateways_own_folder,
];

const JOB: JobId = JobId(7);

fn names_of_a_hostile_client(bed: &Bed) {
    let gateway = bed.gateway();
    let long_name = "n".repeat(256);
    let long_path = vec!["p".repeat(200); 21].join("/");
    let bad = [
        "../evil",
        "a/../../evil",
        "..",
        "/evil",
        "a//b",
        "./a",
        "a/.",
        "",
        "nul\0l",
        "back\\slash",
        "C:evil",
        "z:/evil",
        ".metra/evil",
        ".METRA/evil",
        &long_name,
        &long_path,
        // Equal after normalisation to what comes before them.
        "twin/e\u{301}",
        "same",
    ];
    let mut manifest =
        Manifest::default().file("good/first", b"one").file("twin/\u{e9}", b"two").file("same", b"3");
    for (i, path) in bad.iter().enumerate() {
        manifest = manifest.file(path, format!("evil {i}").as_bytes());
    }
    let manifest = manifest.file("good/last", b"last");

    let mut raw = Raw::welcomed(&gateway);
    let outcome = raw.push(JOB, "in", &manifest, manifest.honest());
    for (i, path) in bad.iter().enumerate() {
        assert_eq!(outcome.code_of(3 + i), Some(Code::BadName), "{path:.300?} in {:?}", outcome.statuses);
    }
    let finished = outcome.finished.expect("the rest goes on");
    assert_eq!((finished.failed, finished.entries), (bad.len() as u64, 4), "{outcome:?}");
    // What is refused is not asked for.
    let mut wanted = outcome.wanted.clone();
    wanted.sort_unstable();
    assert_eq!(wanted, [0, 1, 2, 3 + bad.len() as u32]);

    let there = Tree::of(gateway.root());
    let files: Vec<_> = there.paths().into_iter().filter(|p| gateway.at(p).is_file()).collect();
    assert_eq!(files, ["in/good/first", "in/good/last", "in/same", "in/twin/\u{e9}"]);
    assert_eq!(fs::read(gateway.at("in/same")).unwrap(), b"3");
    assert!(!bed.path("evil").exists());
}

fn links_of_a_hostile_client(bed: &Bed) {
    let gateway = bed.gateway();
    let bad =
        ["/etc/passwd", "../outside", "../../outside", "sub/../../outside", "..\\outside", "C:\\outside"];
    let mut manifest = Manifest::default().entry("fine", EntryKind::Symlink { target: "sub/target".into() });
    for (i, target) in bad.iter().enumerate() {
        manifest = manifest.entry(&format!("link{i}"), EntryKind::Symlink { target: (*target).into() });
    }
    // A link that is fine, and an entry that uses it to get somewhere else.
    let manifest = manifest
        .entry("hop", EntryKind::Symlink { target: "sub".into() })
        .file("sub/target", b"content")
        .file("hop/through", b"through a link");

    let mut raw = Raw::welcomed(&gateway);
    let outcome = raw.push(JOB, "in", &manifest, manifest.honest());
    for (i, target) in bad.iter().enumerate() {
        let path = format!("link{i}");
        assert_eq!(outcome.code_of(1 + i), Some(Code::LinkEscapes), "{target:?} in {outcome:?}");
        assert!(!gateway.at("in").join(&path).is_symlink());
    }
    assert!(outcome.finished.is_some(), "{outcome:?}");
    assert_eq!(fs::read_link(gateway.at("in/fine")).unwrap().to_str(), Some("sub/target"));
    assert_eq!(fs::read(gateway.at("in/fine")).unwrap(), b"content");
    assert!(!gateway.at("in/sub/through").exists(), "nothing is written through a link");
}

fn a_link_that_is_there_does_not_lead_out(bed: &Bed) {
    let gateway = bed.gateway();
    let outside = bed.folder("outside");
    fs::write(outside.join("secret"), "secret").unwrap();
    symlink(&outside, gateway.at("out")).unwrap();
    symlink(outside.join("secret"), gateway.at("file")).unwrap();
    let before = Tree::of(&outside);

    let mut raw = Raw::welcomed(&gateway);
    let manifest =
        Manifest::default().file("out/evil", b"evil").file("out/secret", b"evil").file("good", b"good");
    let outcome = raw.push(JOB, "", &manifest, manifest.honest());
    before.must_equal(&Tree::of(&outside));
    match outcome.finished {
        Some(finished) => {
            assert_eq!(finished.failed, 2, "{outcome:?}");
            assert_eq!(fs::read(gateway.at("good")).unwrap(), b"good");
        }
        None => panic!("the rest goes on: {outcome:?}"),
    }

    // A destination that leads out, and reading what is outside.
    let file = bed.write("evil", "evil");
    let done = bed.client(&gateway, ["send"]).arg(&file).arg(gateway.url("out/")).run();
    assert_ne!(done.code(), 0, "{done}");
    before.must_equal(&Tree::of(&outside));
    for path in ["out/secret", "out/"] {
        let done = bed.client(&gateway, ["get"]).arg(gateway.url(path)).arg(bed.path("got")).run();
        assert_ne!(done.code(), 0, "{done}");
    }
    let done = bed
        .client(&gateway, ["get", "--symlinks", "follow"])
        .arg(gateway.url("file"))
        .arg(bed.path("got"))
        .run();
    assert_ne!(done.code(), 0, "{done}");
    assert!(!bed.path("got/secret").exists() && !bed.path("got").is_file());
    for verb in ["ls", "rm"] {
        let run = bed.metra([verb, "--ca"]).arg(gateway.ca()).arg(gateway.url("out/secret")).run();
        assert_ne!(run.code(), 0, "{run}");
    }
    before.must_equal(&Tree::of(&outside));
}

fn destinations_and_requests_that_lead_out(bed: &Bed) {
    let gateway = bed.gateway();
    bed.write("secret", "secret");
    let mut raw = Raw::welcomed(&gateway);
    let key = |n: u64| metra_core::id::JobKey(metra_core::id::Digest::of(&n.to_le_bytes()));
    for (number, path) in ["../secret", "..", "a/../../secret", ".metra", ".metra/x"].into_iter().enumerate()
    {
        let number = number as u64;
        raw.say(&Frame::Push(Push {
            job: JobId(100 + number),
            key: key(number),
            incarnation: metra_core::id::Incarnation(1),
            dest: path.into(),
            placement: Placement::Into,
            overwrite: Overwrite::Always,
            priority: Priority::NORMAL,
        }));
        match raw.next() {
            Ok(Frame::Fail { job, code, .. }) => {
                assert_eq!((job, code), (JobId(100 + number), Code::BadName), "{path}")
            }
            other => panic!("{path:?} as a destination: {other:?}"),
        }
        raw.say(&Frame::Pull(Pull {
            job: JobId(200 + number),
            key: key(200 + number),
            paths: vec![path.into()],
            filters: Vec::new(),
            symlinks: Symlinks::Follow,
            keep: Keep { mode: true, times: true },
            priority: Priority::NORMAL,
        }));
        let failed = loop {
            match raw.next() {
                Ok(Frame::Fail { code, .. }) => break code,
                Ok(Frame::Opened { .. }) => {
                    raw.say(&Frame::Ready { job: JobId(200 + number), from_record: 0 })
                }
                Ok(Frame::EntryStatus(status)) => break status.code,
                other => panic!("{path:?} as a source: {other:?}"),
            }
        };
        assert!([Code::BadName, Code::NotFound, Code::Denied].contains(&failed), "{path:?}: {failed}");
        for frame in [
            Frame::List { request: number, path: path.into(), depth: 5 },
            Frame::Remove { request: 100 + number, path: path.into(), recursive: true },
        ] {
            raw.say(&frame);
            match raw.next() {
                Ok(Frame::Result { code, count, .. }) => {
                    assert!(
                        [Code::BadName, Code::NotFound, Code::Denied].contains(&code),
                        "{path:?}: {code}"
                    );
                    assert_eq!(count, 0);
                }
                other => panic!("{frame:?}: {other:?}"),
            }
        }
    }
    assert_eq!(fs::read(bed.path("secret")).unwrap(), b"secret");

    // The command does not even ask.
    for path in ["../secret", "a/%2e%2e/%2e%2e/secret"] {
        let done = bed.client(&gateway, ["get"]).arg(gateway.url(path)).arg(bed.path("got")).run();
        assert_ne!(done.code(), 0, "{done}");
        assert!(!bed.path("got").exists());
    }
}

fn names_of_a_real_file_system(bed: &Bed) {
    let gateway = bed.gateway();
    let tree = bed.folder("tree");
    fs::write(tree.join("good"), "good").unwrap();
    fs::write(tree.join("back\\slash"), "x").unwrap();
    fs::write(tree.join("e\u{301}"), "decomposed").unwrap();
    fs::write(tree.join("\u{e9}"), "composed").unwrap();
    fs::write(tree.join(OsStr::from_bytes(b"latin-\xe9")), "x").unwrap();
    let done = bed.client(&gateway, ["send"]).arg(&tree).arg(gateway.url("t")).expect(9);
    assert_eq!(done.number("failed"), 3, "{done}");
    assert!(done.entries().iter().all(|(_, code)| code == "bad_name"), "{done}");
    assert!(done.entries().iter().any(|(path, _)| path.contains("back")), "{done}");
    assert!(done.entries().iter().any(|(path, _)| path.contains("latin")), "{done}");
    assert_eq!(fs::read(gateway.at("t/good")).unwrap(), b"good");
    // One of the twins is there, whole, under its own name.
    let there = Tree::of(&gateway.at("t"));
    assert_eq!(there.paths().len(), 2, "{there:?}");
    // It says so to people as well.
    let people = bed.metra(["send", "--ca"]).arg(gateway.ca()).arg(&tree).arg(gateway.url("u")).expect(9);
    assert!(people.stderr.contains("slash") && people.stderr.contains("latin"), "{people}");

    // And the other way: the gateway has such names, the client refuses them.
    fs::rename(&tree, gateway.at("bad")).unwrap();
    let done = bed.client(&gateway, ["get"]).arg(gateway.url("bad")).arg(bed.path("back")).expect(9);
    assert_eq!(done.number("failed"), 3, "{done}");
    assert_eq!(fs::read(bed.path("back/good")).unwrap(), b"good");
}

fn links_of_a_real_file_system(bed: &Bed) {
    let gateway = bed.gateway();
    let tree = bed.folder("tree");
    fs::write(tree.join("good"), "good").unwrap();
    symlink("/etc/passwd", tree.join("absolute")).unwrap();
    symlink("../../up", tree.join("up")).unwrap();
    symlink("good", tree.join("fine")).unwrap();
    let done = bed.client(&gateway, ["send"]).arg(&tree).arg(gateway.url("t")).expect(9);
    assert_eq!(done.number("failed"), 2, "{done}");
    assert!(done.entries().iter().all(|(_, code)| code == "link_escapes"), "{done}");
    assert_eq!(Tree::of(&gateway.at("t")).paths(), ["fine", "good"]);
}

fn the_gateways_own_folder(bed: &Bed) {
    let gateway = bed.gateway();
    let tree = bed.folder("tree/.metra");
    fs::write(tree.join("x"), "x").unwrap();
    fs::write(bed.path("tree/good"), "good").unwrap();
    let contents = format!("{}/", bed.path("tree").display());
    let done = bed.client(&gateway, ["send", &contents]).arg(gateway.url("")).expect(9);
    assert!(done.number("failed") >= 1, "{done}");
    assert_eq!(fs::read(gateway.at("good")).unwrap(), b"good");
    assert!(!gateway.at(".metra/x").exists());
    // A folder of that name further down is like any other.
    bed.client(&gateway, ["send", &contents]).arg(gateway.url("deeper")).run();
    for done in [
        bed.metra(["rm", "-r", "--ca"]).arg(gateway.ca()).arg(gateway.url(".metra")).run(),
        bed.metra(["ls", "--ca"]).arg(gateway.ca()).arg(gateway.url(".metra")).run(),
    ] {
        assert_ne!(done.code(), 0, "{done}");
    }
}
