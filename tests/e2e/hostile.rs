//! Gateways that mean harm: what a client does not let them do.

use std::fs;

use metra_core::id::Digest;
use metra_core::manifest::EntryKind;
use metra_core::wire::{ManifestEnd, varint};

use crate::harness::data;
use crate::harness::hostile::{Behaviour, Hostile};
use crate::harness::raw::Manifest;
use crate::harness::{Bed, Tree};

tests![names_that_lead_out, links_that_lead_out, chunks_that_are_wrong, a_root_that_is_wrong, garbage];

fn honest(manifest: &Manifest, chunk: u32) -> Vec<u8> {
    manifest.chunks[chunk as usize].clone()
}

fn serves(manifest: Manifest) -> Behaviour {
    Behaviour::Serves { manifest, serve: honest, end: |end| end }
}

fn names_that_lead_out(bed: &Bed) {
    let manifest = Manifest::default()
        .file("t/good", b"good")
        .file("t/../../evil", b"evil")
        .file("/evil", b"evil")
        .file("t/back\\slash", b"evil")
        .file("t/nul\0l", b"evil")
        .file("../evil", b"evil")
        .file("t/last", b"last");
    let hostile = Hostile::start(bed, serves(manifest));
    let done = hostile.get(bed).expect(9);
    assert_eq!(done.number("failed"), 5, "{done}");
    assert!(done.entries().iter().all(|(_, code)| code == "bad_name"), "{done}");
    assert_eq!(Tree::of(&bed.path("back")).paths(), ["good", "last"]);
    assert!(!bed.path("evil").exists() && !fs::exists("/evil").unwrap());
    // What is printed for people cannot move their cursor.
    assert!(!done.stderr.contains('\0'), "{done}");
}

fn links_that_lead_out(bed: &Bed) {
    let outside = bed.folder("outside");
    let manifest = Manifest::default()
        .entry("t", EntryKind::Directory)
        .entry("t/absolute", EntryKind::Symlink { target: outside.display().to_string() })
        .entry("t/up", EntryKind::Symlink { target: "../outside".into() })
        .entry("t/inside", EntryKind::Symlink { target: "sub".into() })
        .file("t/absolute/evil", b"evil")
        .file("t/up/evil", b"evil")
        .file("t/inside/evil", b"evil")
        .file("t/sub/good", b"good");
    let hostile = Hostile::start(bed, serves(manifest));
    let done = hostile.get(bed).run();
    assert_eq!(Tree::of(&outside).paths(), Vec::<&str>::new());
    assert_ne!(done.code(), 0, "{done}");
    if done.code() == 9 {
        done.entry("t/absolute", "link_escapes").entry("t/up", "link_escapes");
        assert_eq!(fs::read(bed.path("back/sub/good")).unwrap(), b"good");
    }
}

fn chunks_that_are_wrong(bed: &Bed) {
    let chunks: Vec<Vec<u8>> = (1..4).map(|seed| data::noise(seed, data::MIB)).collect();
    let manifest = Manifest::default().large("t", &chunks);
    let lies = |manifest: &Manifest, chunk: u32| {
        let mut body = honest(manifest, chunk);
        body[5] ^= u8::from(chunk == 1);
        body
    };
    let hostile = Hostile::start(bed, Behaviour::Serves { manifest, serve: lies, end: |end| end });
    let done = hostile.get(bed).expect(11);
    assert!(done.stderr.contains("chunk 1"), "the chunk is named\n{done}");
    assert!(!bed.path("back").exists());
}

fn a_root_that_is_wrong(bed: &Bed) {
    let manifest = Manifest::default().file("t", b"content");
    let end = |end: ManifestEnd| ManifestEnd { root: Digest::of(b"another"), ..end };
    let hostile = Hostile::start(bed, Behaviour::Serves { manifest, serve: honest, end });
    hostile.get(bed).expect(11);
    assert!(!bed.path("back").exists());
}

fn garbage(bed: &Bed) {
    let mut absurd = Vec::new();
    varint::put(0x13, &mut absurd);
    varint::put(1 << 40, &mut absurd);
    let mut broken = vec![0x13, 0x40, 0x80];
    broken.extend(data::noise(3, 128));
    for bytes in [absurd, broken] {
        let hostile = Hostile::start(bed, Behaviour::Says(bytes));
        let done = hostile.get(bed).run();
        assert!(![0, 9, 101].contains(&done.code()), "{done}");
        assert!(done.elapsed.as_secs() < 20, "{done}");
        assert!(!bed.path("back").exists());
    }
}
