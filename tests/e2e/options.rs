//! Which entries, whether to replace, what to leave behind; and `ls`, `stat`, `rm`.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::harness::data::{self, MIB};
use crate::harness::{Bed, Done, Tree};

tests![
    include_and_exclude,
    files_from_a_list,
    globs_at_the_gateway,
    dry_run,
    what_is_the_same_is_not_sent,
    never_always_different,
    delete_source,
    listing_and_removing,
    no_such_file,
    quiet_says_nothing,
    rate_policies,
    a_configuration_file,
    the_doctor_tries_every_way,
    tunnels,
    no_proxy_for_tunnels,
];

fn forest(bed: &Bed) -> std::path::PathBuf {
    for name in ["a.txt", "b.log", "sub/c.txt", "sub/d.log", "sub/deep/e.txt", "build/f.txt"] {
        bed.write(&format!("tree/{name}"), name);
    }
    bed.path("tree")
}

fn include_and_exclude(bed: &Bed) {
    let gateway = bed.gateway();
    let tree = forest(bed);
    let send = |dest: &str, flags: &[&str]| {
        bed.client(&gateway, ["send"]).args(flags).arg(&tree).arg(gateway.url(dest)).expect(0);
        let files = Tree::of(&gateway.at(dest));
        files.paths().into_iter().filter(|p| p.contains('.')).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(send("1", &["--exclude", "*.log"]), ["a.txt", "build/f.txt", "sub/c.txt", "sub/deep/e.txt"]);
    // The first that matches decides.
    assert_eq!(send("2", &["--include", "a.txt", "--exclude", "*.txt"]), ["a.txt", "b.log", "sub/d.log"]);
    assert_eq!(send("3", &["--exclude", "*.txt", "--include", "a.txt"]), ["b.log", "sub/d.log"]);

    // The same from the gateway.
    bed.client(&gateway, ["send"]).arg(&tree).arg(gateway.url("all")).expect(0);
    bed.client(&gateway, ["get", "--exclude", "*.log"])
        .arg(gateway.url("all"))
        .arg(bed.path("back"))
        .expect(0);
    let back = Tree::of(&bed.path("back"));
    assert!(
        back.paths().contains(&"sub/deep/e.txt") && !back.paths().iter().any(|p| p.ends_with(".log")),
        "{back:?}"
    );
}

fn files_from_a_list(bed: &Bed) {
    let gateway = bed.gateway();
    let tree = forest(bed);
    let list = bed.write("list", "a.txt\nsub/deep/e.txt\n");
    let send =
        bed.client(&gateway, ["send", "--files-from"]).arg(&list).arg(&tree).arg(gateway.url("listed"));
    send.expect(0);
    let there = Tree::of(&gateway.at("listed"));
    let files: Vec<_> = there.paths().into_iter().filter(|p| p.ends_with(".txt")).collect();
    assert_eq!(files, ["a.txt", "sub/deep/e.txt"]);

    // From standard input, and one that is not there: the rest goes on, and the exit code says so.
    let run = bed.client(&gateway, ["send", "--files-from", "-"]).arg(&tree).arg(gateway.url("partial"));
    let done = run.input("a.txt\nmissing.txt\n").expect(9);
    assert!(
        done.entries().iter().any(|(path, code)| path.contains("missing.txt") && code == "not_found"),
        "{done}"
    );
    assert!(gateway.at("partial/a.txt").exists());
}

fn globs_at_the_gateway(bed: &Bed) {
    let gateway = bed.gateway();
    let tree = forest(bed);
    bed.client(&gateway, ["send"]).arg(&tree).arg(gateway.url("t")).expect(0);
    bed.client(&gateway, ["get"]).arg(gateway.url("t/*.txt")).arg(bed.path("one/")).expect(0);
    assert_eq!(Tree::of(&bed.path("one")).paths(), ["a.txt"]);
    bed.client(&gateway, ["get"]).arg(gateway.url("t/**/*.log")).arg(bed.path("two/")).expect(0);
    let two = Tree::of(&bed.path("two"));
    assert_eq!(two.paths().iter().filter(|p| p.ends_with(".log")).count(), 2, "{two:?}");
    assert!(!two.paths().iter().any(|p| p.ends_with(".txt")), "{two:?}");
    // Nothing matches: no such file.
    let done = bed.client(&gateway, ["get"]).arg(gateway.url("t/*.nothing")).arg(bed.path("three/")).run();
    assert!([3, 4].contains(&done.code()), "{done}");
}

fn dry_run(bed: &Bed) {
    let gateway = bed.gateway();
    let tree = forest(bed);
    let done =
        bed.metra(["send", "--dry-run", "--ca"]).arg(gateway.ca()).arg(&tree).arg(gateway.url("t")).expect(0);
    assert!(done.text().contains("sub/deep/e.txt"), "{done}");
    assert_eq!(Tree::of(gateway.root()).paths(), Vec::<&str>::new());

    bed.client(&gateway, ["send"]).arg(&tree).arg(gateway.url("t")).expect(0);
    let done = bed
        .metra(["get", "-n", "--ca"])
        .arg(gateway.ca())
        .arg(gateway.url("t"))
        .arg(bed.path("back"))
        .expect(0);
    assert!(done.text().contains("sub/deep/e.txt"), "{done}");
    assert!(!bed.path("back").exists());
}

fn what_is_the_same_is_not_sent(bed: &Bed) {
    let gateway = bed.gateway();
    let tree = forest(bed);
    data::noise_file(&tree.join("large"), 5, 6 * MIB);
    let contents = format!("{}/", tree.display());
    let send = || bed.client(&gateway, ["send", &contents]).arg(gateway.url("t")).expect(0);
    let first = send();
    assert!(first.number("chunks_sent") > 0);
    let inode = fs::metadata(gateway.at("t/large")).unwrap().ino();
    let second = send();
    assert_eq!(second.number("chunks_sent"), 0, "{second}");
    assert_eq!(second.root(), first.root());
    assert_eq!(fs::metadata(gateway.at("t/large")).unwrap().ino(), inode, "it was not touched");

    // One changed file: that one.
    fs::write(tree.join("a.txt"), "changed").unwrap();
    let third = send();
    assert_eq!(fs::read(gateway.at("t/a.txt")).unwrap(), b"changed");
    assert_eq!(fs::metadata(gateway.at("t/large")).unwrap().ino(), inode);
    assert!(third.number("chunks_sent") <= 2, "{third}");

    // Both directions.
    let get = || bed.client(&gateway, ["get"]).arg(gateway.url("t/")).arg(bed.path("back/")).expect(0);
    assert!(get().number("chunks_sent") > 0);
    let again = get();
    assert_eq!(again.number("chunks_sent"), 0, "{again}");
}

fn never_always_different(bed: &Bed) {
    let gateway = bed.gateway();
    let file = bed.write("file", "new");
    fs::write(gateway.at("file"), "old").unwrap();
    let send =
        |how: &str| bed.client(&gateway, ["send", "--overwrite", how]).arg(&file).arg(gateway.url("file"));
    let kept = send("never").run();
    assert!([0, 9].contains(&kept.code()), "{kept}");
    assert_eq!(fs::read(gateway.at("file")).unwrap(), b"old");
    send("different").expect(0);
    assert_eq!(fs::read(gateway.at("file")).unwrap(), b"new");
    let inode = fs::metadata(gateway.at("file")).unwrap().ino();
    send("different").expect(0);
    assert_eq!(fs::metadata(gateway.at("file")).unwrap().ino(), inode);
    send("always").expect(0);
    assert_ne!(
        fs::metadata(gateway.at("file")).unwrap().ino(),
        inode,
        "it is another file of the same content"
    );
    assert_eq!(fs::read(gateway.at("file")).unwrap(), b"new");

    // A file where a directory must be is a conflict of that entry, whatever is asked for.
    fs::create_dir(gateway.at("folder")).unwrap();
    fs::write(gateway.at("folder/x"), "x").unwrap();
    let tree = bed.folder("tree");
    fs::write(tree.join("folder"), "a file").unwrap();
    fs::write(tree.join("other"), "goes on").unwrap();
    let slash = format!("{}/", tree.display());
    let done = bed.client(&gateway, ["send", "--overwrite", "always", &slash]).arg(gateway.url("")).expect(9);
    done.entry("folder", "conflict");
    assert_eq!(fs::read(gateway.at("folder/x")).unwrap(), b"x");
    assert_eq!(fs::read(gateway.at("other")).unwrap(), b"goes on");
}

fn delete_source(bed: &Bed) {
    let gateway = bed.gateway();
    let tree = forest(bed);
    let before = Tree::of(&tree).bare();
    bed.client(&gateway, ["send", "--delete-source"]).arg(&tree).arg(gateway.url("t")).expect(0);
    before.must_equal(&Tree::of(&gateway.at("t")).bare());
    let left: Vec<_> =
        if tree.exists() { Tree::of(&tree).paths().iter().map(|p| p.to_string()).collect() } else { vec![] };
    assert!(!left.iter().any(|p| p.ends_with(".txt") || p.ends_with(".log")), "{left:?}");

    // What did not arrive is not deleted.
    let tree = bed.folder("second");
    fs::write(tree.join("good"), "x").unwrap();
    fs::write(tree.join("back\\slash"), "x").unwrap();
    bed.client(&gateway, ["send", "--delete-source"]).arg(&tree).arg(gateway.url("u")).expect(9);
    assert!(tree.join("back\\slash").exists() && !tree.join("good").exists());
}

fn listing_and_removing(bed: &Bed) {
    let gateway = bed.gateway();
    let tree = forest(bed);
    bed.client(&gateway, ["send"]).arg(&tree).arg(gateway.url("t")).expect(0);
    let ca = gateway.ca();
    let metra = |args: &[&str], path: &str| bed.metra(args).arg("--ca").arg(&ca).arg(gateway.url(path));

    let flat = metra(&["ls"], "t").expect(0).text();
    assert!(flat.contains("a.txt") && flat.contains("sub") && !flat.contains("c.txt"), "{flat}");
    let deep = metra(&["ls", "-R"], "t").expect(0).text();
    assert!(deep.contains("sub/deep/e.txt"), "{deep}");
    let long = metra(&["ls", "-l"], "t").expect(0).text();
    assert!(long.lines().any(|line| line.contains("a.txt") && line.contains('5')), "{long}");
    let stat = metra(&["stat"], "t/a.txt").expect(0).text();
    assert!(stat.contains("a.txt") && stat.contains('5'), "{stat}");
    // The gateway's own folder is not shown.
    let top = metra(&["ls"], "").expect(0).text();
    assert!(top.contains('t') && !top.contains(".metra"), "{top}");

    metra(&["rm"], "t/a.txt").expect(0);
    assert!(!gateway.at("t/a.txt").exists());
    let refused = metra(&["rm"], "t").run();
    assert_ne!(refused.code(), 0, "{refused}");
    assert!(gateway.at("t/b.log").exists(), "a directory that is not empty stays");
    metra(&["rm", "-r"], "t").expect(0);
    assert!(!gateway.at("t").exists());
    let refused = metra(&["rm", "-r"], "").run();
    assert_ne!(refused.code(), 0, "the root cannot be removed");
    assert!(gateway.root().exists());
    for verb in ["ls", "stat", "rm"] {
        let missing = metra(&[verb], "not/there").run();
        assert!([3, 4].contains(&missing.code()), "{missing}");
    }
}

fn no_such_file(bed: &Bed) {
    let gateway = bed.gateway();
    let done = bed.client(&gateway, ["send"]).arg(bed.path("missing")).arg(gateway.url("x")).run();
    assert!([3, 4].contains(&done.code()), "{done}");
    assert!(done.stderr.contains("missing"), "{done}");
    let done = bed.client(&gateway, ["get"]).arg(gateway.url("missing")).arg(bed.path("back")).run();
    assert!([3, 4].contains(&done.code()), "{done}");
    assert!(done.stderr.contains("missing"), "{done}");
    assert!(!bed.path("back").exists());
}

fn quiet_says_nothing(bed: &Bed) {
    let gateway = bed.gateway();
    let file = bed.write("file", "content");
    for flags in [&[][..], &["--quiet"]] {
        let run = bed.metra(["send", "--overwrite", "always", "--ca"]).arg(gateway.ca()).args(flags);
        let done = run.arg(&file).arg(gateway.url("x")).expect(0);
        // Standard error is no terminal here, so there is nothing to say either way.
        assert_eq!((done.text().as_str(), done.stderr.as_str()), ("", ""), "{flags:?}");
    }
}

fn rate_policies(bed: &Bed) {
    let file = data::noise_file(&bed.path("file"), 5, 4 * MIB);
    let gateway = bed.gateway_with("[rates]\nlow = false\nfixed_mbit = 100\n");
    let send = |flags: &[&str]| {
        bed.client(&gateway, ["send"]).args(flags).arg(&file).arg(gateway.url("null:")).expect(0)
    };
    let used = |done: &Done| {
        let summary = done.summary();
        (summary["rate_policy"].as_str().unwrap().to_owned(), summary["rate_mbit"].as_f64())
    };
    assert_eq!(used(&send(&[])), ("fair".to_owned(), None));

    let granted = send(&["--rate-policy", "fixed", "--rate", "60mbit"]);
    assert_eq!(
        (used(&granted), granted.stderr.as_str()),
        (("fixed".to_owned(), Some(60.0)), ""),
        "{granted}"
    );
    // 4 MiB at 60 Mbit/s.
    assert!(granted.elapsed.as_secs_f64() >= 0.45, "{granted}");

    let less = send(&["--rate-policy", "fixed", "--rate", "1gbit"]);
    assert_eq!(used(&less), ("fixed".to_owned(), Some(100.0)), "{less}");
    assert!(less.stderr.contains("fixed at 100 Mbit/s, not at 1.00 Gbit/s"), "{less}");

    let refused = send(&["--rate-policy", "low", "--rate", "60mbit"]);
    assert_eq!(used(&refused), ("fair".to_owned(), Some(60.0)), "{refused}");
    assert!(
        refused.stderr.contains("does not grant the rate policy low: it is fair, at most 60"),
        "{refused}"
    );
    assert!(refused.elapsed.as_secs_f64() >= 0.45, "{refused}");

    // What the gateway sends as well.
    fs::copy(&file, gateway.at("x")).unwrap();
    let got = bed
        .client(&gateway, ["get", "--rate-policy", "fixed", "--rate", "60mbit"])
        .arg(gateway.url("x"))
        .arg(bed.path("back"))
        .expect(0);
    assert_eq!(used(&got), ("fixed".to_owned(), Some(60.0)), "{got}");
    assert!(got.elapsed.as_secs_f64() >= 0.45, "{got}");
}

fn a_configuration_file(bed: &Bed) {
    let token = "alices-token-0123456789";
    let hash = metra_core::id::Digest::of(token.as_bytes());
    let gateway = bed.gateway_with(&format!("[users.alice]\ntoken_hash = \"blake3:{hash}\"\n"));
    let file = bed.write("file", "content");
    bed.write("config/alice.token", token);
    let address = gateway.address();
    let pin = gateway.pin();
    // Whom to trust, what to show, and which way; another gateway's table says nothing here.
    bed.write(
        "config/client.toml",
        format!(
            "proxy = \"none\"\n[gateway.\"{address}\"]\npin = \"{pin}\"\ntoken_file = \"alice.token\"\nvia = \"tls\"\n\
             [gateway.\"gw.example\"]\nca = \"absent.pem\"\n"
        ),
    );
    let send = |name: &str, flags: &[&str]| {
        let run = bed.metra(["send", "--json"]).env("METRA_CONFIG", bed.path("config/client.toml"));
        run.args(flags).arg(&file).arg(gateway.url(name)).run()
    };
    let sent = send("by-file", &[]).expect(0);
    assert_eq!((sent.summary()["links"][0].as_str(), sent.stderr.as_str()), (Some("tls"), ""), "{sent}");
    assert_eq!(fs::read(gateway.at("by-file")).unwrap(), b"content");
    // An option comes first.
    let sent = send("by-option", &["--via", "quic"]).expect(0);
    assert_eq!(sent.summary()["links"][0].as_str(), Some("quic"), "{sent}");
    let other = format!("sha256/{}=", "A".repeat(43));
    assert_ne!(send("other", &["--pin", &other]).code(), 0);
    // And the configuration before the environment.
    let run = bed.metra(["ls"]).env("METRA_CONFIG", bed.path("config/client.toml"));
    run.env("METRA_TOKEN", "no-such-token-0123456789").arg(gateway.url("")).expect(0);
    // In one of the usual places.
    bed.folder("config/metra");
    fs::rename(bed.path("config/client.toml"), bed.path("config/metra/client.toml")).unwrap();
    fs::rename(bed.path("config/alice.token"), bed.path("config/metra/alice.token")).unwrap();
    let usual = bed.metra(["ls"]).env("METRA_CONFIG", "").env("XDG_CONFIG_HOME", bed.path("config"));
    assert!(usual.arg(gateway.url("")).expect(0).text().contains("by-file"));
    // Nothing there: nothing is known of the gateway. Named, and not there: that is said.
    let nowhere = bed.metra(["ls"]).env("METRA_CONFIG", "").env("XDG_CONFIG_HOME", bed.path("nowhere"));
    assert!(![0, 2].contains(&nowhere.arg(gateway.url("")).run().code()));
    let absent =
        bed.metra(["ls"]).env("METRA_CONFIG", bed.path("absent.toml")).arg(gateway.url("")).expect(2);
    assert!(absent.stderr.contains("absent.toml: cannot be read"), "{absent}");
    // All that is wrong, with its line.
    let wrong = bed.write("wrong.toml", "via = \"pigeon\"\nproxi = 1\n");
    let done = bed.metra(["ls"]).env("METRA_CONFIG", &wrong).arg(gateway.url("")).expect(2);
    assert!(
        done.stderr.contains("wrong.toml:1: via: ") && done.stderr.contains("wrong.toml:2: proxi: "),
        "{done}"
    );
}

/// Through the gateway itself, with nothing but `--via`.
fn tunnels(bed: &Bed) {
    let gateway = bed.gateway();
    let file = bed.write("file", "through a tunnel");
    let sent =
        bed.client(&gateway, ["send", "--via", "masque"]).arg(&file).arg(gateway.url("file")).expect(0);
    assert_eq!(sent.summary()["links"], serde_json::json!(["masque"]), "{sent}");
    let got = bed
        .client(&gateway, ["get", "--via", "masque"])
        .arg(gateway.url("file"))
        .arg(bed.path("back"))
        .expect(0);
    assert_eq!(got.summary()["links"], serde_json::json!(["masque"]), "{got}");
    assert!(data::same_bytes(&file, &bed.path("back")));
}

/// What is no proxy, or no credentials for one, is wrong use.
fn no_proxy_for_tunnels(bed: &Bed) {
    let gateway = bed.gateway();
    let token = bed.write("token", "secret").display().to_string();
    let proxy = "https://me:secret@p.example";
    let wrong: [(&[&str], &str); 5] = [
        (&["--masque-proxy", "https://me:secret@p.example/{target_host}"], "target_port"),
        (&["--masque-proxy", "http://p.example"], "https://"),
        (&["--masque-proxy", proxy, "--masque-token-file", &token], "has a user in it"),
        (&["--masque-token-file", &token], "no MASQUE proxy"),
        (&["--masque-proxy", proxy, "--masque-proxy", proxy, "--masque-proxy", proxy], "two proxies"),
    ];
    for (options, told) in wrong {
        let done = bed.client(&gateway, ["ls"]).args(options).arg(gateway.url("")).expect(2);
        assert!(done.stderr.contains(told) && !done.stderr.contains("secret"), "{done}");
    }
}

fn the_doctor_tries_every_way(bed: &Bed) {
    let gateway = bed.gateway();
    let done = bed.client(&gateway, ["doctor", "--proxy", "none"]).arg(gateway.url("")).expect(0);
    let ways: Vec<_> = done.events.iter().filter(|event| event["event"] == "way").collect();
    let words: Vec<_> = ways.iter().map(|way| way["rung"].as_str().unwrap_or_default()).collect();
    assert_eq!(words, ["quic", "masque", "tls", "ws"], "{done}");
    for way in ways {
        assert!(way["works"] == true && way["inspected"] == false && way["user"] == "anonymous", "{done}");
        assert!(way["bytes_arrived"].as_u64() >= Some(256 * 1024), "{done}");
    }
    assert_eq!(done.summary()["best"], "quic");

    // Of no authority that the client knows: nothing works, and it is not the network.
    let stranger = bed.metra(["doctor", "--json", "--proxy", "none"]).arg(gateway.url("")).expect(5);
    let found: Vec<_> = stranger.events.iter().filter(|event| event["event"] == "finding").collect();
    assert!(found.len() == 4 && found.iter().all(|finding| finding["name"] == "untrusted"), "{stranger}");
}
