//! The `metra` command by itself: help, wrong use, what it prints, exit codes. Transfers are tested in `tests/e2e`.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// What a run has to say.
struct Said {
    code: i32,
    out: String,
    err: String,
}

fn metra(dir: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_metra"));
    command.args(words).current_dir(dir).env("METRA_STATE", dir.join("state")).stdin(Stdio::null());
    command.env("METRA_CONFIG", "/dev/null").env_remove("METRA_TOKEN").env_remove("METRA_LOG");
    command
}

fn said(output: &Output) -> Said {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Said { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
}

fn run(dir: &Path, words: &[&str]) -> Said {
    said(&metra(dir, words).output().unwrap())
}

/// A folder with a small tree in it.
fn folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("tree/sub/empty")).unwrap();
    fs::write(dir.path().join("tree/a.txt"), "hello").unwrap();
    fs::write(dir.path().join("tree/sub/b.tmp"), "12").unwrap();
    std::os::unix::fs::symlink("a.txt", dir.path().join("tree/link")).unwrap();
    dir
}

#[test]
fn help_is_there_for_every_command() {
    let dir = folder();
    let help = run(dir.path(), &["--help"]);
    assert_eq!(help.code, 0);
    for command in ["serve", "send", "get", "ls", "rm", "stat", "hash", "verify", "doctor", "demo"] {
        assert!(help.out.contains(&format!("\n  {command} ")), "{command}");
        for words in [[command, "--help"], ["help", command]] {
            let said = run(dir.path(), &words);
            assert_eq!((said.code, said.err.as_str()), (0, ""), "{words:?}");
            assert!(said.out.contains("Usage: metra"), "{}", said.out);
        }
    }
    let version = run(dir.path(), &["--version"]);
    assert_eq!(version.out, concat!("metra ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn exit_codes_are_explained() {
    let dir = folder();
    let help = run(dir.path(), &["help", "exit-codes"]);
    assert_eq!(help.code, 0);
    for line in [
        "    0  everything was done",
        "    9  done, but for some",
        "   11  the data is not",
        "  130  ended by ^C",
    ] {
        assert!(help.out.contains(line), "{line:?} is not in\n{}", help.out);
    }
    assert!(!help.out.contains("Usage:"), "only the table");
    assert_eq!(run(dir.path(), &["exit-codes"]).out.trim(), help.out.trim());
}

#[test]
fn wrong_use_is_exit_code_2_and_says_what_is_wrong() {
    let dir = folder();
    for (words, reason) in [
        (&["frob"][..], "unrecognized subcommand"),
        (&[], "Usage"),
        (&["send"], "required"),
        (&["send", "tree"], "begins with mtp://"),
        (&["send", "tree", "host:/x"], "mtp://"),
        (&["send", "tree", "mtp://"], "host is missing"),
        (&["send", "tree", "mtp://h:99999/x"], "port"),
        (&["send", "tree", "mtp://me:secret@h/x"], "METRA_TOKEN"),
        (&["send", "mtp://h/x", "mtp://h/y"], "metra get"),
        (&["send", "zero:1GB", "mtp://h/y"], "is not a size"),
        (&["send", "random:1:z", "mtp://h/y"], "is not a seed"),
        (&["send", "-", "mtp://h/"], "needs a name"),
        (&["send", "tree", "mtp://h/x", "--exclude", "[z"], "[z"),
        (&["send", "tree", "mtp://h/x", "--overwrite", "maybe"], "never, always, different"),
        (&["send", "tree", "mtp://h/x", "--symlinks", "maybe"], "keep, follow, skip"),
        (&["send", "tree", "mtp://h/x", "--connections", "0"], "1..=16"),
        (&["send", "tree", "mtp://h/x", "--rate", "10M"], "is not a rate"),
        (&["send", "tree", "mtp://h/x", "--rate-policy", "fixed"], "needs a rate"),
        (&["send", "tree", "mtp://h/x", "--rate-policy", "fast"], "fair, fixed, high, low"),
        (&["send", "tree", "mtp://h/x", "--rate-policy", "low", "--congestion", "cubic"], "bbr2 only"),
        (
            &["send", "tree", "mtp://h/x", "--rate", "10mbit", "--connections", "3"],
            "each of the --connections",
        ),
        (&["send", "tree", "mtp://h/x", "--pin", "sha256/x"], "not a pin"),
        (&["send", "tree", "mtp://h/x", "--cert", "tree/a.txt"], "--key"),
        (&["send", "tree", "mtp://h/x", "--ca", "tree/a.txt"], "certificate"),
        (&["send", "tree", "mtp://h/x", "--token-file", "absent"], "--token-file absent"),
        (&["get", "tree", "x"], "mtp://"),
        (&["get", "mtp://h/x", "mtp://h/y"], "metra send"),
        (&["get", "mtp://h/x", "mtp://other/y", "x"], "same gateway"),
        (&["get", "mtp://h/x", "mtp://h/y", "-"], "standard output"),
        (&["rm", "mtp://h/"], "root"),
        (&["ls", "/x"], "mtp://"),
    ] {
        let said = run(dir.path(), words);
        assert_eq!((said.code, said.out.as_str()), (2, ""), "{words:?}: {}", said.err);
        assert!(said.err.contains(reason), "{words:?} should say {reason:?}:\n{}", said.err);
    }
}

#[test]
fn a_wrong_log_filter_is_wrong_use() {
    let dir = folder();
    let said = said(&metra(dir.path(), &["hash", "tree"]).env("METRA_LOG", "metra=loudly").output().unwrap());
    assert_eq!((said.code, said.err.contains("METRA_LOG")), (2, true), "{}", said.err);
}

#[test]
fn secrets_are_not_shown() {
    let dir = folder();
    fs::write(dir.path().join("token"), "very secret\n").unwrap();
    let said = run(dir.path(), &["ls", "mtp://h/x", "--token-file", "token"]);
    assert_eq!(said.code, 2);
    assert!(!said.err.contains("secret"), "{}", said.err);
}

#[test]
fn what_is_missing_is_found_before_a_gateway_is_asked() {
    let dir = folder();
    // Nothing listens there; the answer comes at once all the same.
    let start = Instant::now();
    for (words, code) in [
        (&["send", "absent", "mtp://127.0.0.1:1/x"][..], 4),
        (&["send", "absent/", "mtp://127.0.0.1:1/x"], 3),
        (&["send", "tree/a.txt/", "mtp://127.0.0.1:1/x"], 3),
        (&["send", "tree", "absent*", "mtp://127.0.0.1:1/x"], 4),
        (&["send", "tree", "mtp://127.0.0.1:1/x", "--files-from", "absent"], 4),
        (&["get", "mtp://127.0.0.1:1/x", "absent/x"], 3),
        (&["get", "mtp://127.0.0.1:1/x", "tree/a.txt/"], 3),
        (&["hash", "absent"], 4),
        (&["verify", "absent"], 4),
    ] {
        let said = run(dir.path(), words);
        assert_eq!(said.code, code, "{words:?}: {}", said.err);
        assert!(said.err.starts_with("metra: "), "{}", said.err);
        assert!(said.err.contains("absent") || said.err.contains("a.txt"), "{}", said.err);
    }
    assert!(start.elapsed() < Duration::from_secs(8));
}

#[test]
fn a_dry_run_lists_and_needs_no_gateway() {
    let dir = folder();
    let said = run(dir.path(), &["send", "-n", "tree", "mtp://127.0.0.1:1/x", "--exclude", "*.tmp"]);
    assert_eq!((said.code, said.err.as_str()), (0, ""));
    let lines: Vec<_> = said.out.lines().map(str::trim).collect();
    assert_eq!(
        lines,
        ["-  tree/", "5  tree/a.txt", "-  tree/link -> a.txt", "-  tree/sub/", "-  tree/sub/empty/"]
    );

    let json = run(dir.path(), &["send", "--dry-run", "--json", "tree/", "mtp://127.0.0.1:1/x"]);
    let lines: Vec<serde_json::Value> = json.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(
        (&lines[0]["event"], &lines[0]["path"], &lines[0]["size"]),
        (&"entry".into(), &"a.txt".into(), &5.into())
    );
    let summary = lines.last().unwrap();
    assert_eq!(
        (&summary["event"], &summary["files"], &summary["bytes"]),
        (&"summary".into(), &5.into(), &7.into())
    );
    assert_eq!(summary["exit_code"], 0);
    assert!(json.out.starts_with("{\"event\":\"entry\","), "the kind of event comes first: {}", json.out);
}

#[test]
fn the_order_of_include_and_exclude_counts() {
    let dir = folder();
    let listed = |words: &[&str]| {
        let words = [&["send", "-n", "tree", "mtp://h/x"], words].concat();
        run(dir.path(), &words).out.contains("b.tmp")
    };
    assert!(listed(&["--include", "b.*", "--exclude", "*.tmp"]));
    assert!(!listed(&["--exclude", "*.tmp", "--include", "b.*"]));
}

#[test]
fn paths_may_come_from_a_list() {
    let dir = folder();
    let words = ["send", "-n", "tree", "mtp://h/x", "--files-from", "-"];
    let mut child = metra(dir.path(), &words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"sub/b.tmp\n").unwrap();
    let said = said(&child.wait_with_output().unwrap());
    assert_eq!((said.code, said.out.trim()), (0, "2  sub/b.tmp"));
}

#[test]
fn the_root_of_a_manifest_depends_on_content_names_and_metadata() {
    let dir = folder();
    let root = |words: &[&str]| {
        let said = run(dir.path(), &[&["hash"], words].concat());
        assert_eq!(said.code, 0, "{}", said.err);
        said.out.split("  ").next().unwrap().to_owned()
    };
    let first = root(&["tree"]);
    assert_eq!(first.len(), 64);
    assert_eq!(first, root(&["tree"]), "the same twice");
    assert_ne!(first, root(&["tree/"]), "other names");
    assert_ne!(first, root(&["tree", "--exclude", "a.txt"]));
    assert_ne!(first, root(&["tree", "--no-times"]));
    assert_eq!(root(&["zero:1M"]), root(&["zero:1024K"]));
    assert_ne!(root(&["random:1M"]), root(&["random:1M:1"]));
    let manifest = run(dir.path(), &["hash", "--manifest", "tree/a.txt", "--no-times", "--no-mode"]);
    let lines: Vec<_> = manifest.out.lines().collect();
    assert_eq!(lines[0], "file 5 - - a.txt");
    // `printf hello | b3sum`
    assert_eq!(lines[1], "  chunk 5 ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f");
    fs::write(dir.path().join("tree/a.txt"), "hallo").unwrap();
    assert_ne!(first, root(&["tree"]), "other content");
}

#[test]
fn names_cannot_write_to_the_terminal() {
    let dir = folder();
    fs::write(dir.path().join("tree/\u{1b}[31mred"), "x").unwrap();
    let said = run(dir.path(), &["send", "-n", "tree", "mtp://h/x"]);
    assert!(!said.out.contains('\u{1b}') && said.out.contains("\\u{1b}[31mred"), "{}", said.out);
}

#[test]
fn what_is_no_receipt_is_exit_code_11() {
    let dir = folder();
    let said = run(dir.path(), &["verify", "tree/a.txt"]);
    assert_eq!(said.code, 11);
    assert!(said.err.contains("no receipt"), "{}", said.err);
    let text = "-----BEGIN METRA RECEIPT-----\nAAAA\n-----END METRA RECEIPT-----\n";
    fs::write(dir.path().join("receipt"), text).unwrap();
    let said = run(dir.path(), &["verify", "receipt"]);
    assert_eq!(said.code, 11);
    assert!(said.err.contains("damaged"), "{}", said.err);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let dir = folder();
    for n in 0..5000 {
        fs::write(dir.path().join(format!("tree/file-with-a-name-that-fills-the-pipe-{n}")), "").unwrap();
    }
    let mut child = metra(dir.path(), &["send", "-n", "tree", "mtp://h/x"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let said = said(&child.wait_with_output().unwrap());
    assert_eq!((said.code, said.err.as_str()), (0, ""));
}

#[test]
fn every_mistake_in_a_configuration_is_said_at_once() {
    let dir = folder();
    let file = "listen = 'here'\nroot = 'tree'\nfrob = 1\n[limits]\nsessions = 0\n";
    fs::write(dir.path().join("gateway.toml"), file).unwrap();
    let said = run(dir.path(), &["serve", "--config", "gateway.toml"]);
    assert_eq!(said.code, 2);
    for key in ["gateway.toml:1: listen:", "gateway.toml:3: frob:", "gateway.toml:5: limits.sessions:"] {
        assert!(said.err.contains(key), "{key} is not in\n{}", said.err);
    }
    let said = run(dir.path(), &["serve", "--root", "tree", "--state", "tree/state"]);
    assert_eq!(said.code, 2);
    assert!(said.err.contains("state"), "{}", said.err);
    let said = run(dir.path(), &["serve", "--config", "absent.toml"]);
    assert_eq!((said.code, said.err.contains("absent.toml")), (2, true));
}

/// A gateway that is ended with its handle.
struct Gateway(Child);

impl Gateway {
    fn start(dir: &Path) -> (Self, String) {
        let words = ["serve", "--listen", "127.0.0.1:0", "--root", "tree", "--ready-file", "ready"];
        let mut gateway = Self(metra(dir, &words).stderr(Stdio::piped()).spawn().unwrap());
        let start = Instant::now();
        loop {
            if let Ok(text) = fs::read_to_string(dir.join("ready")) {
                return (gateway, text.lines().next().unwrap().to_owned());
            }
            assert!(gateway.0.try_wait().unwrap().is_none(), "the gateway has ended");
            assert!(start.elapsed() < Duration::from_secs(30), "the gateway does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.0), signal).unwrap();
    }

    fn end(mut self) -> (i32, String) {
        let mut text = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        (self.0.wait().unwrap().code().unwrap_or(-1), text)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_gateway_says_where_it_is_and_ends_when_asked() {
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        let dir = folder();
        let (gateway, address) = Gateway::start(dir.path());
        let said = run(dir.path(), &["ls", &format!("mtp://{address}/")]);
        assert_eq!((said.code, said.out.as_str()), (0, "a.txt\nlink\nsub/\n"), "{}", said.err);
        let said = run(dir.path(), &["stat", "--json", &format!("mtp://{address}/a.txt")]);
        assert!(said.out.starts_with("{\"path\":\"a.txt\",\"type\":\"file\",\"size\":5,"), "{}", said.out);
        gateway.signal(signal);
        let (code, log) = gateway.end();
        assert_eq!(code, 0);
        for text in [
            &format!("listens on  {address} (UDP and TCP)"),
            "serves ",
            "sha256/",
            "metra ls mtp://127.0.0.1:",
        ] {
            assert!(log.contains(text), "{text:?} is not in\n{log}");
        }
    }
}

#[test]
fn transfers_print_nothing_but_what_they_are_asked_for() {
    let dir = folder();
    let (_gateway, address) = Gateway::start(dir.path());
    let url = |path: &str| format!("mtp://{address}/{path}");
    fs::write(dir.path().join("new"), "new").unwrap();
    let said = run(dir.path(), &["send", "new", &url("in/")]);
    assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (0, "", ""), "no terminal, no progress");
    let said = run(dir.path(), &["get", &url("in/new"), "-"]);
    assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (0, "new", ""));
    let said = run(dir.path(), &["get", "--json", &url("in/new"), "-"]);
    assert_eq!((said.code, said.out.as_str()), (0, "new"), "the data is alone on standard output");
    assert!(said.err.lines().all(|line| line.starts_with("{\"event\":")), "{}", said.err);

    let said = run(dir.path(), &["get", "--json", &url("in/new"), "back"]);
    let lines: Vec<serde_json::Value> = said.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!((said.code, &lines[0]["event"]), (0, &"start".into()));
    let summary = lines.last().unwrap();
    let fields = [
        "bytes",
        "files",
        "seconds",
        "ttfb_ms",
        "verify_ms",
        "gbps",
        "cpu_s",
        "chunks",
        "chunks_sent",
        "chunks_resent",
        "chunks_reused",
        "resumes",
        "p5_gbps",
        "p50_gbps",
        "p95_gbps",
        "rtt_min_ms",
        "rtt_p50_ms",
        "rtt_p95_ms",
        "rtt_ms",
        "delivered",
        "wire_ratio",
        "reverse_bytes_per_gb",
        "wire_sent",
        "wire_received",
        "datagrams_sent",
        "datagrams_received",
        "packets_sent",
        "packets_lost",
        "root",
        "links",
        "failed",
        "unchanged",
        "exit_code",
        "receipt",
    ];
    for field in fields {
        assert!(summary.get(field).is_some(), "{field} is not in {summary}");
    }
    assert_eq!((&summary["event"], &summary["bytes"]), (&"summary".into(), &3.into()));
    assert_eq!(fs::read_to_string(dir.path().join("back")).unwrap(), "new");

    // The receipt that is kept fits what has arrived.
    let receipt = summary["receipt"].as_str().unwrap();
    assert_eq!(run(dir.path(), &["verify", receipt]).code, 0);
    assert_eq!(run(dir.path(), &["verify", receipt, "tree/a.txt"]).code, 11);

    let said = run(dir.path(), &["get", "--json", &url("absent"), "back"]);
    let summary: serde_json::Value = serde_json::from_str(said.out.lines().last().unwrap()).unwrap();
    assert_eq!((said.code, &summary["exit_code"], &summary["code"]), (4, &4.into(), &"not_found".into()));

    let said = run(dir.path(), &["get", "--json", &url("absent"), "-"]);
    assert_eq!((said.code, said.out.as_str()), (4, ""));
    assert!(said.err.lines().all(|line| line.starts_with("{\"event\":")), "{}", said.err);

    assert_eq!(run(dir.path(), &["ls", &url("absent")]).code, 4);
    assert_eq!(run(dir.path(), &["ls", &url("absent/")]).code, 3);
    assert_eq!(run(dir.path(), &["rm", &url("in")]).code, 6, "it is not empty");
    assert_eq!(run(dir.path(), &["rm", "-r", &url("in")]).out, "removed 2 entries\n");
}

#[test]
fn the_demo_shows_all_of_it_and_leaves_nothing() {
    let dir = folder();
    let temporary = dir.path().join("temporary");
    fs::create_dir(&temporary).unwrap();
    let demo = |words: &[&str]| {
        let words = [&["demo", "--size", "64M"], words].concat();
        said(&metra(dir.path(), &words).env("TMPDIR", &temporary).output().unwrap())
    };
    let good = demo(&["tree", "tree/a.txt"]);
    assert_eq!(good.code, 0, "{}\n{}", good.out, good.err);
    for text in ["way in", "send tree ", "get tree ", "get large", "8 entries are equal", "The same by hand"]
    {
        assert!(good.out.contains(text), "{text:?} is not in\n{}", good.out);
    }
    for (row, way) in [
        ("QUIC ", "quic"),
        ("MASQUE, HTTP/3 ", "masque"),
        ("MASQUE, HTTP/2 ", "masque-tcp"),
        ("WebSocket ", "ws"),
    ] {
        let start = format!("send large over {row}");
        let line = good.out.lines().find_map(|line| line.strip_prefix(&start));
        let shown = line.and_then(|line| line.split_whitespace().next());
        assert_eq!(shown, Some(way), "{row}\n{}", good.out);
    }
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);

    // What cannot be carried cannot come back: that is no success.
    let made = Command::new("mkfifo").arg(dir.path().join("tree/fifo")).status().unwrap();
    assert!(made.success());
    let bad = demo(&["tree"]);
    assert_ne!(bad.code, 0);
    assert!(bad.err.contains("fifo"), "{}", bad.err);
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
    assert_eq!(demo(&["absent"]).code, 4);
}

#[test]
fn the_doctor_says_that_nobody_is_there() {
    let dir = folder();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("mtp://127.0.0.1:{free}/");
    let text = run(dir.path(), &["doctor", "--proxy", "none", "--via", "tls", &url]);
    assert_eq!(text.code, 5, "{}", text.err);
    assert!(
        text.out.contains("! tls  no ") && text.out.contains("administrator of the network"),
        "{}",
        text.out
    );
    assert!(text.out.contains("see first whether it runs"), "{}", text.out);
    assert!(!dir.path().join("state").exists());
    assert_eq!(run(dir.path(), &["doctor", "http://127.0.0.1/"]).code, 2);
}

#[test]
fn the_doctor_says_what_there_is_and_changes_nothing() {
    let dir = folder();
    let (text, json) = (run(dir.path(), &["doctor"]), run(dir.path(), &["doctor", "--json"]));
    // 1: there is advice, as on most machines.
    assert!([0, 1].contains(&text.code) && text.code == json.code, "{}", text.err);
    for line in ["receive buffer", "gso", "open files", "mtu"] {
        assert!(text.out.contains(line), "{}", text.out);
    }
    assert_eq!(text.out.ends_with("All is well.\n"), text.code == 0);
    let objects: Vec<&str> = json.out.lines().collect();
    assert!(objects[0].starts_with(r#"{"event":"check","name":"receive_buffer","ok":"#), "{}", json.out);
    let summary = objects.last().unwrap();
    assert!(summary.starts_with(r#"{"event":"summary","#), "{summary}");
    assert!(summary.ends_with(&format!("\"exit_code\":{}}}", json.code)), "{summary}");
    assert!(!dir.path().join("state").exists());
}
