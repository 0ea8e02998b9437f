//! What a gateway keeps of what clients send: rules by name, type and size, and a real scanner.
//!
//! Not here: what the rules mean (`policy/src/content`), what services may answer (`policy/icap`), and crashes at every
//! step (`store/src/landing/tests/gated.rs`).

use std::fs;
use std::io::Cursor;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use metra_icap::{Client, IcapError, Outcome, Settings, Subject};

use crate::harness::data::{self, MIB};
use crate::harness::scanner::{NAME, PATTERN, Scanner};
use crate::harness::service::Service;
use crate::harness::{Bed, Done, Gateway, Metrics, wait_until};
use crate::{audit, tunnel};

tests![
    what_is_infected_is_put_aside,
    without_the_scanner,
    by_name_size_and_type,
    what_the_client_is_told,
    decisions_are_in_the_audit_trail,
    refusals_do_not_flood_the_audit_trail,
    what_is_too_large_or_would_be_changed,
    a_gateway_that_is_killed_while_it_scans,
    a_client_that_is_killed_while_it_scans,
    a_scan_that_does_not_end_is_left,
    a_slow_scan_holds_nobody_else_up,
    targets_that_are_not_tunnelled_to,
    the_scanner_itself,
];

const TOKEN: &str = "alices-token-0123456789";
const SCANS: &str = "metra_content_scans_total";
const FILES: &str = "metra_content_files_total";

fn rules(url: &str, more: &str) -> String {
    format!(
        "[[content.rules]]\naction = \"scan\"\nservice = \"av\"\n{more}\n[icap.av]\nurl = \"{url}\"\nconnect_seconds = 1\n"
    )
}

/// Small files, a large one, and two with the pattern: a small one among the others, and one with it behind 2 MiB.
fn tree(bed: &Bed) -> PathBuf {
    for n in 0..20 {
        bed.write(&format!("tree/small/{n}"), data::noise(n, 3000 + n));
    }
    bed.write("tree/small/bad.txt", [b"some text, then ", PATTERN].concat());
    bed.write("tree/empty", "");
    data::noise_file(&bed.path("tree/large"), 77, 5 * MIB);
    let mut large = data::noise(78, 5 << 20);
    large[3 << 20..][..PATTERN.len()].copy_from_slice(PATTERN);
    bed.write("tree/large-bad", large);
    bed.path("tree")
}

const BAD: [&str; 2] = ["tree/small/bad.txt", "tree/large-bad"];

/// All but the infected ones are there, equal, and these are not.
fn clean_ones_arrived(bed: &Bed, gateway: &Gateway) {
    let mut names: Vec<String> = (0..20).map(|n| format!("tree/small/{n}")).collect();
    names.extend(["tree/empty", "tree/large"].map(str::to_owned));
    for name in names {
        assert!(data::same_bytes(&bed.path(&name), &gateway.at(&name)), "{name}");
    }
    for name in BAD {
        assert!(!gateway.at(name).exists(), "{name} has its name");
    }
    assert!(!gateway.at(".metra/jobs").exists(), "something stays staged");
}

/// What was said of an entry.
fn reason(done: &Done, path: &str) -> String {
    let of = |event: &&serde_json::Value| event["event"] == "entry" && event["path"] == path;
    let event = done.events.iter().find(of).unwrap_or_else(|| panic!("nothing of {path}\n{done}"));
    event["reason"].as_str().unwrap_or_default().to_owned()
}

/// The files of the quarantine, with their notes.
fn quarantined(gateway: &Gateway) -> Vec<(PathBuf, String)> {
    let folder = gateway.state().join("quarantine");
    assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = paths.filter(|path| path.extension().is_none());
    files.map(|path| (path.clone(), fs::read_to_string(path.with_extension("txt")).unwrap())).collect()
}

fn what_is_infected_is_put_aside(bed: &Bed) {
    let (scanner, metrics) = (Scanner::start(), Metrics::new());
    let gateway = bed.gateway_with(&(metrics.config() + &rules(&scanner.url(), "")));
    let tree = tree(bed);
    let send = || bed.client(&gateway, ["send"]).arg(&tree).arg(gateway.url("")).expect(9);
    let done = send();
    assert_eq!((done.number("failed"), done.number("exit_code")), (2, 9), "{done}");
    for name in BAD {
        done.entry(name, "denied");
        let reason = reason(&done, name);
        assert!(
            reason.starts_with("quarantined: content rule 1: av found") && reason.contains(NAME),
            "{reason}"
        );
    }
    clean_ones_arrived(bed, &gateway);
    let aside = quarantined(&gateway);
    assert_eq!(aside.len(), 2);
    for name in BAD {
        let content = fs::read(bed.path(name)).unwrap();
        let (path, note) = aside.iter().find(|(path, _)| fs::read(path).unwrap() == content).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o400);
        let lines =
            ["user: anonymous", &format!("path: {name:?}"), &format!("size: {}", content.len()), NAME];
        assert!(lines.iter().all(|line| note.contains(line)), "{note}");
    }
    let scans = |outcome: &str| metrics.sum(SCANS, &[&format!("outcome=\"{outcome}\"")]);
    assert_eq!((scans("clean"), scans("found"), scans("failed")), (21.0, 2.0, 0.0));
    // What is there and the same is not scanned again, but for what is in a pack with the infected one.
    send();
    assert_eq!((scans("found"), quarantined(&gateway).len()), (4.0, 4));
    fs::remove_file(bed.path(BAD[0])).unwrap();
    fs::remove_file(bed.path(BAD[1])).unwrap();
    let send = || bed.client(&gateway, ["send"]).arg(&tree).arg(gateway.url("")).expect(0);
    send();
    let before = metrics.sum(SCANS, &[]);
    assert_eq!((send().number("unchanged"), metrics.sum(SCANS, &[])), (22, before));
}

fn without_the_scanner(bed: &Bed) {
    let (mut scanner, metrics) = (Scanner::start(), Metrics::new());
    let open =
        "[[content.rules]]\nname = \"*.open\"\naction = \"scan\"\nservice = \"av\"\non_failure = \"allow\"\n";
    let config = metrics.config() + open + &rules(&scanner.url(), "reason = \"scan first\"");
    let gateway = bed.gateway_with(&config);
    bed.write("d/a.open", "text");
    bed.write("d/b.closed", "text");
    bed.write("d/large.closed", data::noise(1, 2 << 20));
    bed.write("d/bad.open", PATTERN);
    let send = |code| bed.client(&gateway, ["send"]).arg(bed.path("d")).arg(gateway.url("")).expect(code);
    scanner.stop();
    let done = send(9);
    for name in ["d/b.closed", "d/large.closed"] {
        done.entry(name, "busy");
        assert!(reason(&done, name).starts_with("scan first: it could not be scanned, av "), "{done}");
        assert!(!gateway.at(name).exists());
    }
    assert_eq!((done.number("failed"), quarantined(&gateway).len()), (2, 0));
    // Open is open: also for what would have been found.
    assert!(gateway.at("d/a.open").exists() && gateway.at("d/bad.open").exists());
    assert_eq!(metrics.sum(FILES, &["outcome=\"unscanned\""]), 2.0);
    assert_eq!(metrics.sum(SCANS, &["outcome=\"failed\""]), 4.0);
    assert!(gateway.log().contains("kept without a scan"), "{}", gateway.log());
    // What was refused for that is not sent again, only scanned.
    scanner.restart();
    std::thread::sleep(Duration::from_secs(2));
    let done = send(0);
    assert_eq!(done.number("chunks_sent"), 0, "{done}");
    assert!(data::same_bytes(&bed.path("d/large.closed"), &gateway.at("d/large.closed")));
}

fn by_name_size_and_type(bed: &Bed) {
    let metrics = Metrics::new();
    let config = format!(
        "
        [[content.rules]]
        name = '*.EXE'
        action = 'refuse'
        reason = 'no programs'
        [[content.rules]]
        name = 'home/keep/**'
        action = 'allow'
        [[content.rules]]
        type = 'executable'
        action = 'quarantine'
        [[content.rules]]
        min_bytes = 1000
        action = 'refuse'
        [users.alice]
        token_hash = 'blake3:{}'
        home = 'home'
        ",
        metra_core::id::Digest::of(TOKEN.as_bytes())
    );
    fs::create_dir_all(bed.folder("root").join("home")).unwrap();
    let gateway = bed.gateway_with(&(metrics.config() + &config));
    bed.write("d/Setup.exe", data::noise(3, 3 << 20));
    bed.write("d/hidden.txt", "#!/bin/sh\n");
    bed.write("d/plain.txt", "text");
    bed.write("d/long.txt", data::noise(4, 2000));
    bed.write("keep/tool", "#!/bin/sh\n");
    let send = bed.client(&gateway, ["send"]).arg(bed.path("d")).arg(bed.path("keep")).arg(gateway.url(""));
    let done = send.env("METRA_TOKEN", TOKEN).expect(9);
    // Rules are for paths below the gateway's root, whatever a user sees as /.
    let at = |name: &str| gateway.at("home").join(name);
    for name in ["d/Setup.exe", "d/hidden.txt", "d/long.txt"] {
        done.entry(name, "denied");
        assert!(!at(name).exists(), "{name}");
    }
    assert!(at("d/plain.txt").exists() && at("keep/tool").exists());
    assert_eq!(reason(&done, "d/Setup.exe"), "no programs");
    assert_eq!(reason(&done, "d/hidden.txt"), "quarantined: content rule 3");
    // Refused by its name before it was asked for: what went over the link is less than the file.
    assert!(metrics.sum("metra_bytes_received_total", &[]) < 100_000.0);
    assert_eq!(quarantined(&gateway).len(), 1);
    assert_eq!(metrics.sum(FILES, &["outcome=\"refused\""]), 2.0);
}

/// Without `--json`: text for people, on standard error.
fn what_the_client_is_told(bed: &Bed) {
    let scanner = Scanner::start();
    let config = "[[content.rules]]\nid = \"no-programs\"\nname = \"*.exe\"\naction = \"refuse\"\n\
                  [[content.rules]]\ntype = \"script\"\naction = \"refuse\"\nreason = \"no scripts, please\"\n";
    let gateway = bed.gateway_with(&(config.to_owned() + &rules(&scanner.url(), "")));
    bed.write("d/good", "text");
    bed.write("d/Setup.exe", "MZ");
    bed.write("d/run", "#!/bin/sh\n");
    bed.write("d/bad", PATTERN);
    let send =
        |path: &str| bed.metra(["send", "--ca"]).arg(gateway.ca()).arg(bed.path(path)).arg(gateway.url(""));
    let done = send("d").expect(9);
    for line in [
        "metra: d/Setup.exe: refused by content rule no-programs\n".to_owned(),
        "metra: d/run: no scripts, please\n".to_owned(),
        format!("d/bad: quarantined: content rule 3: av found {NAME}"),
    ] {
        assert!(done.stderr.contains(&line), "{line:?} is not in\n{done}");
    }
    assert!(gateway.at("d/good").exists());
    // Also where it is all there is.
    for (path, reason) in [("d/Setup.exe", "refused by content rule no-programs"), ("d/bad", "quarantined: ")]
    {
        let done = send(path).expect(9);
        assert!(done.stderr.contains(reason), "{done}");
    }
}

fn decisions_are_in_the_audit_trail(bed: &Bed) {
    let mut scanner = Scanner::start();
    let trail = bed.folder("trail").join("audit.log");
    let config = format!(
        "[audit.file]\npath = {trail:?}\nsync_seconds = 0\n\
         [users.alice]\ntoken_hash = \"blake3:{}\"\ntenant = \"acme\"\n\
         [[content.rules]]\nid = \"no-programs\"\nname = \"*.exe\"\naction = \"refuse\"\n\
         [[content.rules]]\ntype = \"script\"\naction = \"quarantine\"\n\
         [[content.rules]]\nid = \"open\"\nname = \"*.open\"\naction = \"scan\"\nservice = \"av\"\non_failure = \"allow\"\n",
        metra_core::id::Digest::of(TOKEN.as_bytes())
    );
    let closed = "id = \"viruses\"";
    let gateway = bed.gateway_with(&(config + &rules(&scanner.url(), closed)));
    let send = |folder: &str| {
        let send = bed.client(&gateway, ["send"]).arg(bed.path(folder)).arg(gateway.url(""));
        send.env("METRA_TOKEN", TOKEN).expect(9)
    };
    bed.write("d/Setup.exe", "some secret payload");
    bed.write("d/run", "#!/bin/sh\n# some secret payload\n");
    bed.write("d/bad", [b"some secret payload ", PATTERN].concat());
    bed.write("d/good", "some secret payload");
    send("d");
    scanner.stop();
    bed.write("e/a.open", "some secret payload");
    bed.write("e/closed", "some secret payload");
    send("e");
    for (path, size, rule, code, reason) in [
        ("d/Setup.exe", 19, "content.no-programs", "denied", "refused by content rule no-programs"),
        ("d/run", 32, "content.2", "denied", "quarantined: content rule 2"),
        ("d/bad", 45, "content.viruses", "denied", NAME),
        ("e/a.open", 19, "content.open", "ok", "it could not be scanned"),
        ("e/closed", 19, "content.viruses", "busy", "it could not be scanned"),
    ] {
        let record = audit::find(&trail, "decision", "push", |record| record["file"]["path"] == path);
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        assert_eq!(text(&record["policy"]["name"]), rule, "{record}");
        assert_eq!((text(&record["status_code"]).as_str(), &record["file"]["size"]), (code, &size.into()));
        assert_eq!(record["action_id"], if code == "ok" { 1 } else { 2 }, "{record}");
        assert!(text(&record["status_detail"]).contains(reason), "{record}");
        assert_eq!(text(&record["actor"]["user"]["name"]), "alice");
        assert_eq!(text(&record["metadata"]["tenant_uid"]), "acme");
        // The job that it was in.
        let of_job = |other: &serde_json::Value| {
            other["actor"]["session"] == record["actor"]["session"]
                && other["unmapped"]["job"] == record["unmapped"]["job"]
        };
        let end = audit::find(&trail, "transfer-end", "push", of_job);
        assert_eq!(end["unmapped"]["failed"], if path.starts_with('d') { 3 } else { 1 }, "{end}");
    }
    // What cannot be put aside gets no name either.
    fs::remove_dir_all(gateway.state().join("quarantine")).unwrap();
    fs::write(gateway.state().join("quarantine"), "").unwrap();
    bed.write("f/run", "#!/bin/sh\n# some secret payload\n");
    send("f");
    let record = audit::find(&trail, "decision", "push", |record| record["file"]["path"] == "f/run");
    assert_eq!(
        (&record["policy"]["name"], &record["status_code"]),
        (&"content.2".into(), &"write_failed".into())
    );
    assert!(record["status_detail"].as_str().unwrap().contains("it cannot be put aside"), "{record}");
    assert!(!gateway.at("f/run").exists());
    let all = fs::read_to_string(&trail).unwrap();
    assert!(!all.contains("payload") && !all.contains("METRA-TEST") && !all.contains(TOKEN), "{all}");
    assert!(!all.contains("d/good"), "what passes has no record of its own");
}

/// Files that are refused by their names cost whoever announces them nothing.
fn refusals_do_not_flood_the_audit_trail(bed: &Bed) {
    let trail = bed.folder("trail").join("audit.log");
    let config = format!(
        "[audit.file]\npath = {trail:?}\n[[content.rules]]\nname = \"*.no\"\naction = \"refuse\"\n\
         [[content.rules]]\ntype = \"script\"\naction = \"quarantine\"\n"
    );
    let gateway = bed.gateway_with(&config);
    for n in 0..1100 {
        bed.write(&format!("d/{n}.no"), "");
    }
    bed.write("d/run", "#!/bin/sh\n");
    bed.client(&gateway, ["send"]).arg(bed.path("d")).arg(gateway.url("")).expect(9);
    let end = audit::find(&trail, "transfer-end", "push", |_| true);
    assert_eq!(end["unmapped"]["failed"], 1101);
    let by = |rule: &str| audit::records(&trail).iter().filter(|r| r["policy"]["name"] == rule).count();
    assert_eq!((by("content.1"), by("content.2")), (1000, 1));
}

fn what_is_too_large_or_would_be_changed(bed: &Bed) {
    let (service, metrics) = (Service::start(), Metrics::new());
    service.hangs.store(false, Ordering::SeqCst);
    let open = "name = \"open*\"\non_failure = \"allow\"\nscan_max_mib = 1\n";
    let closed =
        "[[content.rules]]\naction = \"scan\"\nservice = \"av\"\non_found = \"refuse\"\nscan_max_mib = 1";
    let gateway = bed.gateway_with(&(metrics.config() + &rules(&service.url(), &(open.to_owned() + closed))));
    bed.write("d/changed", "please CHANGE me");
    bed.write("d/fine", "text");
    for name in ["d/open-large", "d/large"] {
        data::noise_file(&bed.path(name), 3, MIB + 1);
    }
    let done = bed.client(&gateway, ["send"]).arg(bed.path("d")).arg(gateway.url("")).expect(9);
    for name in ["d/changed", "d/large"] {
        done.entry(name, "denied");
        assert!(!gateway.at(name).exists());
    }
    assert!(reason(&done, "d/changed").contains("does not pass it on as it is"), "{done}");
    assert!(reason(&done, "d/large").contains("larger than the 1048576 bytes"), "{done}");
    assert!(gateway.at("d/fine").exists() && gateway.at("d/open-large").exists());
    assert!(quarantined(&gateway).is_empty());
    // Of standard input the size is known at the end only.
    let stream = |bytes: Vec<u8>, name: &str, code| {
        bed.client(&gateway, ["send", "-"]).arg(gateway.url(name)).input(bytes).expect(code)
    };
    stream(b"text".to_vec(), "in-fine", 0);
    stream(b"CHANGE".to_vec(), "in-changed", 9);
    stream(data::noise(4, (1 << 20) + 1), "in-large", 9);
    assert!(
        gateway.at("in-fine").exists()
            && !gateway.at("in-changed").exists()
            && !gateway.at("in-large").exists()
    );
    let scans = |outcome: &str| metrics.sum(SCANS, &[&format!("outcome=\"{outcome}\"")]);
    // The large one that is not allowed did not even come.
    assert_eq!(
        (scans("clean"), scans("modified"), scans("too_large"), scans("failed")),
        (2.0, 2.0, 2.0, 0.0)
    );
}

fn a_gateway_that_is_killed_while_it_scans(bed: &Bed) {
    let service = Service::start();
    let mut gateway = bed.gateway_with(&rules(&service.url(), ""));
    bed.write("d/small", "text");
    data::noise_file(&bed.path("d/large"), 5, 3 * MIB);
    let send = bed
        .client(&gateway, ["send", "--timeout", "60", "--via", "tls"])
        .arg(bed.path("d"))
        .arg(gateway.url(""))
        .start();
    for round in 1..=2 {
        wait_until("the service to be asked", || service.asked.load(Ordering::SeqCst) >= 2 * round);
        gateway.kill();
        let names: Vec<_> = fs::read_dir(gateway.root()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, [".metra"], "something has a name that nobody has looked into");
        gateway.restart();
    }
    wait_until("the service to be asked again", || service.asked.load(Ordering::SeqCst) >= 6);
    assert!(!gateway.at("d").exists());
    service.hangs.store(false, Ordering::SeqCst);
    send.finish().expect(0);
    assert!(data::same_bytes(&bed.path("d/large"), &gateway.at("d/large")));
}

fn a_client_that_is_killed_while_it_scans(bed: &Bed) {
    let service = Service::start();
    let gateway = bed.gateway_with(&rules(&service.url(), ""));
    bed.write("d/small", "text");
    data::noise_file(&bed.path("d/large"), 5, 3 * MIB);
    let send = || bed.client(&gateway, ["send"]).arg(bed.path("d")).arg(gateway.url(""));
    let first = send().start();
    wait_until("the service to be asked", || service.asked.load(Ordering::SeqCst) == 2);
    assert_eq!(first.kill().code(), 128 + 9);
    assert!(!gateway.at("d").exists());
    let second = send().start();
    wait_until("the service to be asked again", || service.asked.load(Ordering::SeqCst) == 4);
    assert!(!gateway.at("d").exists());
    service.hangs.store(false, Ordering::SeqCst);
    let done = second.finish().expect(0);
    assert_eq!(done.number("chunks_sent"), 0, "{done}");
    assert!(data::same_bytes(&bed.path("d/large"), &gateway.at("d/large")));
}

/// Neither the same command once more nor a shutdown waits for a service that says nothing.
fn a_scan_that_does_not_end_is_left(bed: &Bed) {
    let service = Service::start();
    let mut gateway = bed.gateway_with(&rules(&service.url(), ""));
    bed.write("d/small", "text");
    let send = || bed.client(&gateway, ["send"]).arg(bed.path("d")).arg(gateway.url("")).start();
    let first = send();
    wait_until("the service to be asked", || service.asked.load(Ordering::SeqCst) == 1);
    let second = send();
    wait_until("the service to be asked again", || service.asked.load(Ordering::SeqCst) == 2);
    first.finish().expect(5);
    let began = Instant::now();
    assert!(gateway.terminate().success());
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert!(!gateway.at("d").exists());
    service.hangs.store(false, Ordering::SeqCst);
    gateway.restart();
    second.finish().expect(0);
    assert!(gateway.at("d/small").exists());
}

fn a_slow_scan_holds_nobody_else_up(bed: &Bed) {
    let service = Service::start();
    let more = "name = \"slow/**\"";
    let gateway = bed.gateway_with(&rules(&service.url(), more));
    for n in 0..6 {
        bed.write(&format!("slow/{n}"), format!("text {n}"));
    }
    let large = data::noise_file(&bed.path("large"), 6, 20 * MIB);
    let slow = bed.client(&gateway, ["send"]).arg(bed.path("slow")).arg(gateway.url("")).start();
    // As many as are examined at a time.
    wait_until("the service to be asked", || service.asked.load(Ordering::SeqCst) == 4);
    bed.metra(["send", "--json"]).arg("--ca").arg(gateway.ca()).arg(&large).arg(gateway.url("")).expect(0);
    assert!(data::same_bytes(&large, &gateway.at("large")));
    assert_eq!(service.asked.load(Ordering::SeqCst), 4);
    service.hangs.store(false, Ordering::SeqCst);
    slow.finish().expect(0);
    assert_eq!(service.asked.load(Ordering::SeqCst), 6);
}

/// The first rule that matches decides: to one port a tunnel may lead, to others of the same host none does.
fn targets_that_are_not_tunnelled_to(bed: &Bed) {
    let echo = UdpSocket::bind("127.0.0.1:0").unwrap();
    let open = echo.local_addr().unwrap();
    let shut = UdpSocket::bind("127.0.0.1:0").unwrap();
    std::thread::spawn(move || {
        let mut room = [0; 2048];
        while let Ok((length, from)) = echo.recv_from(&mut room) {
            let _ = echo.send_to(&room[..length], from);
        }
    });
    let trail = bed.folder("trail").join("audit.log");
    let gateway = bed.gateway_with(&format!(
        "[audit.file]\npath = {trail:?}\n\
         [users.alice]\ntoken_hash = \"blake3:{}\"\ntunnel = true\n\
         [tunnel]\nallow = [\"127.0.0.1:*\"]\ndangerous_ranges = [\"127.0.0.1/32\"]\n\
         [[content.tunnels]]\ntarget = \"{open}\"\naction = \"tunnel\"\n\
         [[content.tunnels]]\ntarget = \"127.0.0.1:*\"\naction = \"terminate\"\n",
        metra_core::id::Digest::of(TOKEN.as_bytes())
    ));
    let token = bed.write("token", TOKEN);
    let tunnel = |listen, target, over: &str| {
        tunnel::command(bed, &gateway, listen, target, over).arg("--proxy-token-file").arg(&token)
    };
    let port = shut.local_addr().unwrap();
    for over in ["h3", "tcp"] {
        let done = tunnel(tunnel::ANY, port, over).expect(12);
        assert!(done.stderr.contains("403") && done.stderr.contains("has to be scanned"), "{done}");
    }
    let record = audit::find(&trail, "decision", "tunnel", |r| r["dst_endpoint"]["port"] == port.port());
    assert_eq!((&record["policy"]["name"], &record["action_id"]), (&"content.tunnels".into(), &2.into()));
    shut.set_nonblocking(true).unwrap();
    assert!(shut.recv_from(&mut [0; 1]).is_err(), "something got there");
    let listen = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let _running = tunnel(listen, open, "h3").start();
    let program = UdpSocket::bind("127.0.0.1:0").unwrap();
    program.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    wait_until("an answer through the tunnel", || {
        let _ = program.send_to(b"hello", listen);
        matches!(program.recv(&mut [0; 16]), Ok(5))
    });
}

fn the_scanner_itself(_: &Bed) {
    let mut scanner = Scanner::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let settings = Settings {
        url: scanner.url().parse().unwrap(),
        connect: Duration::from_secs(5),
        silence: Duration::from_secs(60),
        total: Duration::from_secs(90),
        connections: 4,
    };
    let client = Client::new(settings.clone());
    let scan = |client: &Client, content: &[u8]| {
        let subject = Subject { path: "a folder/ünd\r\nX: y".into(), size: content.len() as u64 };
        let began = Instant::now();
        let outcome = runtime.block_on(client.scan(&subject, &mut Cursor::new(content)));
        println!("{} bytes: {:?} {outcome:?}", content.len(), began.elapsed());
        outcome
    };
    let options = runtime.block_on(client.options()).unwrap();
    assert_eq!((options.preview, options.allows_204), (Some(1024), true));
    assert!(options.istag.contains("CI0001"), "{options:?}");
    // Both sides of the preview, of what c-icap keeps in memory, and of where it begins to answer early.
    let sizes = [0_u64, 1, 1023, 1024, 1025, 131_072, 131_073, 3 << 20, 60 << 20];
    for size in sizes {
        assert!(matches!(scan(&client, &data::noise(9, size)), Outcome::Clean), "{size}");
    }
    for size in sizes.into_iter().filter(|size| *size > PATTERN.len() as u64) {
        let mut content = data::noise(9, size);
        // Behind everything else.
        let at = content.len() - PATTERN.len();
        content[at..].copy_from_slice(PATTERN);
        let outcome = scan(&client, &content);
        assert!(matches!(&outcome, Outcome::Blocked { what, .. } if what == NAME), "{size}: {outcome:?}");
    }
    let other = Settings { url: scanner.url().replace("/scan", "/nothing").parse().unwrap(), ..settings };
    let outcome = scan(&Client::new(other), b"x");
    assert!(matches!(outcome, Outcome::Failed(IcapError::Status { status: 404, .. })), "{outcome:?}");
    // c-icap answers 500 if it is told to (PassOnError off).
    scanner.stop_engine();
    let outcome = scan(&client, b"x");
    assert!(matches!(outcome, Outcome::Failed(IcapError::Status { status: 500, .. })), "{outcome:?}");
    scanner.stop();
    assert!(matches!(scan(&client, b"x"), Outcome::Failed(_)));
}
