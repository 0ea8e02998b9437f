//! Trees and streams there and back.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::harness::data::{self, MIB};
use crate::harness::{Bed, Tree};

tests![
    everything_there_and_back,
    one_large_file,
    contents_of_a_directory,
    several_sources_into_a_directory,
    standard_input_and_output,
    an_empty_stream,
    generated_sources_and_null_sinks,
    nothing_but_empty_things,
    links_are_followed_or_skipped,
    modes_and_times_are_left_out,
    a_development_gateway_needs_no_flags,
    a_destination_beneath_a_link,
];

fn everything_there_and_back(bed: &Bed) {
    let gateway = bed.gateway();
    let tree = bed.path("tree");
    data::sample(&tree);

    let sent = bed.client(&gateway, ["send"]).arg(&tree).arg(gateway.url("in")).expect(0);
    Tree::of(&tree).must_equal(&Tree::of(&gateway.at("in")));
    // Nothing is staged any more.
    assert_eq!(data::bytes_below(&gateway.at(".metra")), 0);
    // Holes stay holes, in units of chunks.
    for name in ["sparse", "hole"] {
        let (before, after) =
            (data::allocated(&tree.join(name)), data::allocated(&gateway.at("in").join(name)));
        assert!(after <= before + 8 * MIB, "{name}: {before} bytes on disk became {after}");
    }

    let got = bed.client(&gateway, ["get"]).arg(gateway.url("in")).arg(bed.path("back")).expect(0);
    Tree::of(&tree).must_equal(&Tree::of(&bed.path("back")));
    assert_eq!(got.number("failed"), 0);

    // The root is that of the manifest, which anybody can compute.
    let hash = bed.metra(["hash"]).arg(&tree).expect(0).text();
    assert!(hash.contains(&sent.root()), "{} is not in {hash}", sent.root());
    // A summary says what was moved.
    let bytes: u64 = walk_sizes(&tree);
    assert_eq!((sent.number("bytes"), got.number("bytes")), (bytes, bytes));
    for done in [&sent, &got] {
        let keys = "bytes files seconds ttfb_ms verify_ms gbps cpu_s chunks chunks_sent chunks_resent chunks_reused \
                    resumes root links";
        for key in keys.split(' ') {
            assert!(!done.summary()[key].is_null(), "{key} is not in the summary\n{done}");
        }
    }
}

fn walk_sizes(dir: &std::path::Path) -> u64 {
    let size = |entry: fs::DirEntry| match fs::symlink_metadata(entry.path()).unwrap() {
        meta if meta.is_dir() => walk_sizes(&entry.path()),
        meta if meta.is_file() => meta.len(),
        _ => 0,
    };
    fs::read_dir(dir).unwrap().map(|entry| size(entry.unwrap())).sum()
}

fn one_large_file(bed: &Bed) {
    let gateway = bed.gateway();
    let file = data::noise_file(&bed.path("large"), 1, 80 * MIB + 12_345);
    let sent = bed.client(&gateway, ["send"]).arg(&file).arg(gateway.url("there")).expect(0);
    assert!(data::same_bytes(&file, &gateway.at("there")));
    assert_eq!(sent.number("chunks_sent"), sent.number("chunks"));
    assert_eq!(sent.number("chunks_resent"), 0);

    bed.client(&gateway, ["get"]).arg(gateway.url("there")).arg(bed.path("back")).expect(0);
    assert!(data::same_bytes(&file, &bed.path("back")));
}

fn contents_of_a_directory(bed: &Bed) {
    let gateway = bed.gateway();
    let tree = bed.folder("tree");
    fs::create_dir(tree.join("sub")).unwrap();
    fs::write(tree.join("sub/file"), "x").unwrap();
    data::age(&tree);
    let slash = format!("{}/", tree.display());

    // rsync's slash: the contents and not the directory.
    bed.client(&gateway, ["send", &slash]).arg(gateway.url("plain")).expect(0);
    Tree::of(&tree).must_equal(&Tree::of(&gateway.at("plain")));
    // Without it, and into a directory that is there: the directory.
    bed.client(&gateway, ["send"]).arg(&tree).arg(gateway.url("plain")).expect(0);
    Tree::of(&tree).must_equal(&Tree::of(&gateway.at("plain/tree")));
    // The root of the gateway is a directory that is there.
    bed.client(&gateway, ["send"]).arg(&tree).arg(gateway.url("")).expect(0);
    Tree::of(&tree).must_equal(&Tree::of(&gateway.at("tree")));

    // And back, the same.
    bed.client(&gateway, ["get"]).arg(gateway.url("tree/")).arg(bed.path("contents")).expect(0);
    Tree::of(&tree).must_equal(&Tree::of(&bed.path("contents")));
    bed.folder("there");
    bed.client(&gateway, ["get"]).arg(gateway.url("tree")).arg(bed.path("there")).expect(0);
    Tree::of(&tree).must_equal(&Tree::of(&bed.path("there/tree")));
}

fn several_sources_into_a_directory(bed: &Bed) {
    let gateway = bed.gateway();
    let (a, b) = (bed.write("one/a", "first"), bed.write("two/b", "second"));
    bed.client(&gateway, ["send"]).arg(&a).arg(&b).arg(gateway.url("new/directory")).expect(0);
    assert_eq!(fs::read(gateway.at("new/directory/a")).unwrap(), b"first");
    assert_eq!(fs::read(gateway.at("new/directory/b")).unwrap(), b"second");

    let urls = [gateway.url("new/directory/a"), gateway.url("new/directory/b")];
    bed.client(&gateway, ["get"]).args(urls).arg(bed.path("back")).expect(0);
    assert_eq!(fs::read(bed.path("back/a")).unwrap(), b"first");
    assert_eq!(fs::read(bed.path("back/b")).unwrap(), b"second");
}

fn standard_input_and_output(bed: &Bed) {
    let gateway = bed.gateway();
    let content = data::noise(3, 9 * MIB + 77);
    let sent =
        bed.client(&gateway, ["send", "-"]).arg(gateway.url("dir/stream")).input(content.clone()).expect(0);
    assert_eq!(sent.number("bytes"), content.len() as u64);
    assert!(fs::read(gateway.at("dir/stream")).unwrap() == content);

    // The data is all that there is on standard output.
    let got = bed.client(&gateway, ["get"]).arg(gateway.url("dir/stream")).arg("-").expect(0);
    assert!(got.stdout == content, "{} bytes came, {} were sent", got.stdout.len(), content.len());
}

fn an_empty_stream(bed: &Bed) {
    let gateway = bed.gateway();
    bed.client(&gateway, ["send", "-"]).arg(gateway.url("nothing")).expect(0);
    assert_eq!(fs::metadata(gateway.at("nothing")).unwrap().len(), 0);
    let got = bed.client(&gateway, ["get"]).arg(gateway.url("nothing")).arg("-").expect(0);
    assert_eq!(got.stdout.len(), 0);
}

fn generated_sources_and_null_sinks(bed: &Bed) {
    let gateway = bed.gateway();
    let before = Tree::of(gateway.root());
    let done = bed.client(&gateway, ["send", "zero:32M"]).arg(gateway.url("null:")).expect(0);
    assert_eq!(done.number("bytes"), 32 * MIB);
    let done = bed.client(&gateway, ["send", "random:32M"]).arg(gateway.url("null:")).expect(0);
    assert_eq!(done.number("bytes"), 32 * MIB);
    before.must_equal(&Tree::of(gateway.root()));

    // The same seed gives the same bytes, and zeros are zeros.
    bed.client(&gateway, ["send", "random:3M:7"]).arg(gateway.url("a")).expect(0);
    bed.client(&gateway, ["send", "random:3M:7"]).arg(gateway.url("b")).expect(0);
    bed.client(&gateway, ["send", "zero:3M"]).arg(gateway.url("c")).expect(0);
    assert!(data::same_bytes(&gateway.at("a"), &gateway.at("b")));
    assert!(fs::read(gateway.at("c")).unwrap() == vec![0; 3 << 20]);

    let got = bed.client(&gateway, ["get"]).arg(gateway.url("a")).arg("null:").expect(0);
    assert_eq!(got.number("bytes"), 3 * MIB);
}

fn nothing_but_empty_things(bed: &Bed) {
    let gateway = bed.gateway();
    let tree = bed.folder("tree");
    fs::create_dir_all(tree.join("a/b/c")).unwrap();
    fs::write(tree.join("a/empty"), "").unwrap();
    data::age(&tree);
    let sent = bed.client(&gateway, ["send"]).arg(&tree).arg(gateway.url("x")).expect(0);
    assert_eq!((sent.number("bytes"), sent.number("chunks")), (0, 0));
    Tree::of(&tree).must_equal(&Tree::of(&gateway.at("x")));

    // A directory without anything, and a file alone.
    fs::create_dir(bed.path("hollow")).unwrap();
    bed.client(&gateway, ["send"]).arg(bed.path("hollow")).arg(gateway.url("hollow")).expect(0);
    assert!(gateway.at("hollow").is_dir());
    bed.client(&gateway, ["send"]).arg(tree.join("a/empty")).arg(gateway.url("empty")).expect(0);
    assert_eq!(fs::metadata(gateway.at("empty")).unwrap().len(), 0);
}

fn links_are_followed_or_skipped(bed: &Bed) {
    let gateway = bed.gateway();
    let tree = bed.folder("tree");
    fs::create_dir(tree.join("folder")).unwrap();
    fs::write(tree.join("folder/file"), "content").unwrap();
    std::os::unix::fs::symlink("folder/file", tree.join("to-file")).unwrap();
    std::os::unix::fs::symlink("folder", tree.join("to-folder")).unwrap();

    let send = |how: &str| {
        let url = gateway.url(how);
        bed.client(&gateway, ["send", "--symlinks", how]).arg(&tree).arg(url).expect(0);
        gateway.at(how)
    };
    let kept = send("keep");
    assert!(kept.join("to-file").is_symlink() && kept.join("to-folder").is_symlink());
    let followed = send("follow");
    assert!(!followed.join("to-file").is_symlink() && !followed.join("to-folder").is_symlink());
    assert_eq!(fs::read(followed.join("to-file")).unwrap(), b"content");
    assert_eq!(fs::read(followed.join("to-folder/file")).unwrap(), b"content");
    let skipped = send("skip");
    assert_eq!(Tree::of(&skipped).paths(), ["folder", "folder/file"]);

    // And the other way.
    bed.client(&gateway, ["get", "--symlinks", "follow"])
        .arg(gateway.url("keep"))
        .arg(bed.path("back"))
        .expect(0);
    assert_eq!(fs::read(bed.path("back/to-folder/file")).unwrap(), b"content");
    assert!(!bed.path("back/to-folder").is_symlink());
}

fn modes_and_times_are_left_out(bed: &Bed) {
    let gateway = bed.gateway();
    let file = bed.write("file", "content");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o741)).unwrap();
    data::set_mtime(&file, 1_000_000_000, 5);
    let send = |flags: &[&str], name: &str| {
        bed.client(&gateway, ["send"]).args(flags).arg(&file).arg(gateway.url(name)).expect(0);
        fs::metadata(gateway.at(name)).unwrap()
    };
    let meta = send(&[], "both");
    assert_eq!((meta.mode() & 0o7777, meta.mtime(), meta.mtime_nsec()), (0o741, 1_000_000_000, 5));
    let meta = send(&["--no-mode"], "times");
    assert_ne!(meta.mode() & 0o7777, 0o741);
    assert_eq!(meta.mtime(), 1_000_000_000);
    let meta = send(&["--no-times"], "mode");
    assert_eq!(meta.mode() & 0o7777, 0o741);
    assert!(meta.mtime() as u64 > data::now() - 600);
}

fn a_development_gateway_needs_no_flags(bed: &Bed) {
    let gateway = bed.gateway();
    let file = bed.write("file", "content");
    // The state folder of the gateway is that of the user: so it is when both are started without flags.
    bed.metra(["send"])
        .env("METRA_STATE", gateway.state().parent().unwrap())
        .arg(&file)
        .arg(gateway.url("a"))
        .expect(0);
    assert_eq!(fs::read(gateway.at("a")).unwrap(), b"content");
    // Somebody else does not trust it, and is told what to do.
    let refused = bed.metra(["send"]).arg(&file).arg(gateway.url("b")).run();
    assert_ne!(refused.code(), 0);
    assert!(refused.stderr.contains("--ca") && refused.stderr.contains("--pin sha256/"), "{refused}");
    assert!(!gateway.at("b").exists());
}

fn a_destination_beneath_a_link(bed: &Bed) {
    let gateway = bed.gateway();
    fs::create_dir(gateway.at("version 2")).unwrap();
    std::os::unix::fs::symlink("version 2", gateway.at("current")).unwrap();
    let file = bed.write("file", "content");
    // A link of the gateway's owner that stays beneath the root is as good as what it points to.
    bed.client(&gateway, ["send"]).arg(&file).arg(gateway.url("current/")).expect(0);
    assert_eq!(fs::read(gateway.at("version 2/file")).unwrap(), b"content");
    assert!(gateway.at("current").is_symlink());
    bed.client(&gateway, ["get"]).arg(gateway.url("current/file")).arg(bed.path("back")).expect(0);
    assert_eq!(fs::read(bed.path("back")).unwrap(), b"content");
}
