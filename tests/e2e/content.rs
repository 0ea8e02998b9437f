//! What a gateway keeps of what clients send: rules by name, type and size, and a real scanner.
//!
//! Not here: what the rules mean (`policy/src/content`), what services may answer (`policy/icap`), and crashes at every
//! step (`store/src/landing/tests/gated.rs`).

use std::fs;
use std::io::{BufReader, Cursor, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use metra_icap::{Client, IcapError, Outcome, Settings, Subject};

use crate::harness::data::{self, MIB};
use crate::harness::scanner::{NAME, PATTERN, Scanner};
use crate::harness::{Bed, Done, Gateway, Metrics, wait_until};

tests![
    what_is_infected_is_put_aside,
    without_the_scanner,
    by_name_size_and_type,
    what_is_too_large_or_would_be_changed,
    a_gateway_that_is_killed_while_it_scans,
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

/// A service that can be told to say nothing, and that passes on something else for what has `CHANGE` in it.
struct Service {
    address: SocketAddr,
    hangs: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

impl Service {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (hangs, asked) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let service =
            Self { address: listener.local_addr().unwrap(), hangs: hangs.clone(), asked: asked.clone() };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (hangs, asked) = (hangs.clone(), asked.clone());
                std::thread::spawn(move || serve(stream, &hangs, &asked));
            }
        });
        service
    }

    fn url(&self) -> String {
        format!("icap://{}/s", self.address)
    }
}

/// Answers until the connection ends: without a preview, everything is clean once the whole file is there.
fn serve(mut stream: TcpStream, hangs: &AtomicBool, asked: &AtomicUsize) -> Option<()> {
    let mut from = BufReader::new(stream.try_clone().ok()?);
    let mut data = Vec::new();
    let mut until = |data: &mut Vec<u8>, end: &[u8]| {
        data.clear();
        while !data.ends_with(end) {
            let byte = (&mut from).bytes().next()?.ok()?;
            data.push(byte);
        }
        Some(data.starts_with(b"OPTIONS"))
    };
    loop {
        if until(&mut data, b"\r\n\r\n")? {
            stream
                .write_all(
                    b"ICAP/1.0 200 OK\r\nMethods: REQMOD\r\nAllow: 204\r\nEncapsulated: null-body=0\r\n\r\n",
                )
                .ok()?;
            continue;
        }
        until(&mut data, b"\r\n0\r\n\r\n")?;
        asked.fetch_add(1, Ordering::SeqCst);
        while hangs.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let answer: &[u8] = match data.windows(6).any(|six| six == b"CHANGE") {
            true => b"ICAP/1.0 200 OK\r\nEncapsulated: req-hdr=0, null-body=18\r\n\r\nPUT / HTTP/1.1\r\n\r\n",
            false => b"ICAP/1.0 204 Unmodified\r\n\r\n",
        };
        stream.write_all(answer).ok()?;
    }
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

fn targets_that_are_not_tunnelled_to(bed: &Bed) {
    let gateway = bed.gateway_with(
        "[tunnel]\nallow = [\"127.0.0.1:*\"]\ndangerous_ranges = [\"127.0.0.1/32\"]\n\
         [[content.tunnels]]\ntarget = \"127.0.0.1:9\"\naction = \"terminate\"\n",
    );
    let proxy =
        format!("https://{}/.well-known/masque/udp/{{target_host}}/{{target_port}}/", gateway.address());
    let args = ["tunnel", "--listen", "127.0.0.1:0", "--over", "tcp", "--target", "127.0.0.1:9", "--proxy"];
    let done = bed.metra(args).arg(proxy).arg("--ca").arg(gateway.ca()).expect(12);
    assert!(done.stderr.contains("has to be scanned"), "{done}");
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
