//! Tenants: how fast their jobs are, whose begins, and how much there is in a day.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::data::{self, MIB};
use crate::harness::run::{Run, Running};
use crate::harness::users::user;
use crate::harness::{Bed, Gateway, Metrics, wait_until};

tests![
    both_directions_keep_to_a_ceiling,
    all_ways_and_links_are_one,
    a_lower_ceiling_acts_while_a_transfer_runs,
    a_wrong_configuration_changes_nothing,
    jobs_wait_and_say_where_they_stand,
    whoever_waits_can_stop_or_be_cut_off,
    a_newer_attempt_takes_the_place_of_one_that_waits,
    quotas_end_with_the_day_and_not_with_the_gateway,
];

const ALICE: &str = "alices-token-0123456789";
const BOB: &str = "bobs-token-0123456789ab";

/// Two users, and what the rest says of them.
fn config(rest: &str) -> String {
    user("alice", ALICE, "") + &user("bob", BOB, "") + rest
}

fn client(bed: &Bed, gateway: &Gateway, token: &str, words: &[&str]) -> Run {
    bed.client(gateway, words).env("METRA_TOKEN", token)
}

/// Other rules, in force when this returns.
fn reload(gateway: &Gateway, config: &str) {
    let read = || gateway.log().matches("tenants and rates read again").count();
    let before = read();
    gateway.configure(config);
    gateway.hang_up();
    wait_until("the configuration to be read again", || read() > before);
}

fn both_directions_keep_to_a_ceiling(bed: &Bed) {
    let gateway = bed.gateway_with(&config(
        "[tenants.studio]\nceiling_mbit = 40\nburst_mib = 1\n[tenants.studio.users.alice]\n",
    ));
    let file = data::noise_file(&bed.path("file"), 1, 12 * MIB);
    let up = client(bed, &gateway, ALICE, &["send"]).arg(&file).arg(gateway.url("a")).expect(0);
    // 11 MiB of it at 5 MB/s.
    let least = Duration::from_millis(2300);
    assert!(up.elapsed > least && up.elapsed < 2 * least, "{up}");
    let down = client(bed, &gateway, ALICE, &["get"]).arg(gateway.url("a")).arg(bed.path("b")).expect(0);
    assert!(down.elapsed > least && down.elapsed < 2 * least, "{down}");
    assert!(data::same_bytes(&file, &bed.path("b")));
    let free = client(bed, &gateway, BOB, &["send"]).arg(&file).arg(gateway.url("c")).expect(0);
    assert!(free.elapsed < least, "{free}");
}

fn all_ways_and_links_are_one(bed: &Bed) {
    let gateway = bed.gateway_with(&config("[tenants.default]\nceiling_mbit = 40\nburst_mib = 1\n"));
    let file = data::noise_file(&bed.path("file"), 1, 8 * MIB);
    let start = Instant::now();
    let send = |token, name, options: &[&str]| {
        let run = client(bed, &gateway, token, &["send"]).args(options);
        run.env("METRA_STATE", bed.path(name)).arg(&file).arg(gateway.url(name)).start()
    };
    let first = send(ALICE, "quic", &["--via", "quic", "--connections", "3"]);
    let second = send(BOB, "tls", &["--via", "tls", "--connections", "2"]);
    first.finish().expect(0);
    second.finish().expect(0);
    // 15 MiB at 5 MB/s, however many connections they are.
    assert!(start.elapsed() > Duration::from_millis(3100), "{:?}", start.elapsed());
}

fn a_lower_ceiling_acts_while_a_transfer_runs(bed: &Bed) {
    let rules = |mbit: u32| format!("[shaping]\nceiling_mbit = {mbit}\nburst_mib = 1\n");
    for (way, first) in [("send", 80), ("get", 80)] {
        let metrics = Metrics::new();
        let of = |mbit| format!("{}{}", metrics.config(), config(&rules(mbit)));
        let gateway = bed.gateway_with(&of(first));
        let file = data::noise_file(&gateway.at("big"), 1, 200 * MIB);
        let run = match way {
            "send" => client(bed, &gateway, ALICE, &["send"]).arg(&file).arg(gateway.url("copy")),
            _ => client(bed, &gateway, ALICE, &["get"]).arg(gateway.url("big")).arg(bed.path("copy")),
        };
        let run = run.start();
        let granted = || metrics.sum("metra_tenant_granted_bytes_total", &[]);
        metrics.wait_for(12e6, "metra_tenant_granted_bytes_total", &[]);
        reload(&gateway, &of(8));
        std::thread::sleep(Duration::from_secs(1));
        // From the first second on: 1 MB/s, beside pieces that were cut to begin with.
        let (before, at) = (granted(), Instant::now());
        std::thread::sleep(Duration::from_secs(3));
        let rate = (granted() - before) / at.elapsed().as_secs_f64();
        assert!(rate < 1.5e6 && rate > 0.4e6, "{way}: {rate} bytes/s after the change");
        reload(&gateway, &of(4000));
        run.finish().expect(0);
        fs::remove_dir_all(gateway.root()).unwrap();
        let _ = fs::remove_file(bed.path("copy"));
    }
}

fn a_wrong_configuration_changes_nothing(bed: &Bed) {
    let good = config("[tenants.studio]\nceiling_mbit = 40\nburst_mib = 1\n[tenants.studio.users.alice]\n");
    let gateway = bed.gateway_with(&good);
    gateway.configure(&config("[tenants.studio]\nceiling_mbit = 0\n[tenants.studio.users.nobody]\n"));
    gateway.hang_up();
    wait_until("the complaint", || gateway.log().contains("what was there before stays in force"));
    let log = gateway.log();
    assert!(
        log.contains("tenants.studio.ceiling_mbit") && log.contains("is no user of the gateway"),
        "{log}"
    );
    let file = data::noise_file(&bed.path("file"), 1, 6 * MIB);
    let run = client(bed, &gateway, ALICE, &["send"]).arg(&file).arg(gateway.url("a")).expect(0);
    assert!(run.elapsed > Duration::from_millis(1000), "{run}");
}

/// A transfer that takes some minutes, and has begun.
fn slow(bed: &Bed, gateway: &Gateway, name: &str) -> Running {
    let (file, at) = (data::noise_file(&bed.path(name), 1, 64 * MIB), gateway.url(name));
    let mut run = client(bed, gateway, ALICE, &["send", "--json-interval", "100"])
        .env("METRA_STATE", bed.path("slow-state"))
        .arg(file)
        .arg(at)
        .start();
    run.wait_for("bytes on their way", |event| event["sent"].as_u64().is_some_and(|sent| sent > 0));
    run
}

/// Ends it as ^C does; the gateway keeps its place for a while, unless it is told at once that it is over.
fn stop(run: Running) {
    run.signal(Signal::INT);
    run.finish().expect(130);
}

const ONE_AT_A_TIME: &str = "[tenants.default]\njobs = 1\nqueue = 2\nceiling_mbit = 8\nburst_mib = 1\n";

fn waiting(bed: &Bed, gateway: &Gateway, token: &str, words: &[&str], name: &str) -> Running {
    let at = gateway.url(name);
    client(bed, gateway, token, words)
        .args(["--json-interval", "100"])
        .env("METRA_STATE", bed.path(&format!("{name}-state")))
        .arg(bed.write(name, name))
        .arg(at)
        .start()
}

fn at_position(run: &mut Running, position: u64) {
    run.wait_for(&format!("position {position}"), |event| {
        event["limit"] == "queue" && event["position"].as_u64() == Some(position)
    });
}

fn jobs_wait_and_say_where_they_stand(bed: &Bed) {
    let metrics = Metrics::new();
    let gateway = bed.gateway_with(&format!("{}{}", metrics.config(), config(ONE_AT_A_TIME)));
    let first = slow(bed, &gateway, "first");
    let mut second = waiting(bed, &gateway, BOB, &["send"], "second");
    at_position(&mut second, 1);
    let mut urgent = waiting(bed, &gateway, BOB, &["send", "--priority", "1"], "urgent");
    at_position(&mut urgent, 1);
    at_position(&mut second, 2);
    assert_eq!(metrics.sum("metra_tenant_jobs_waiting", &["tenant=\"default\""]), 2.0);
    // The queue is full: tried again, as with any gateway that is busy, and no longer than it may take.
    let full = client(bed, &gateway, BOB, &["send", "--timeout", "1"])
        .arg(bed.write("no", "no"))
        .arg(gateway.url("no"));
    let full = full.expect(5);
    assert!(full.stderr.contains("too many jobs of the tenant are waiting"), "{full}");
    stop(first);
    let (urgent, second) = (urgent.finish().expect(0), second.finish().expect(0));
    assert!(urgent.summary()["seconds"].as_f64() < second.summary()["seconds"].as_f64(), "{urgent}{second}");
    assert_eq!(fs::read(gateway.at("second")).unwrap(), b"second");
}

fn whoever_waits_can_stop_or_be_cut_off(bed: &Bed) {
    let metrics = Metrics::new();
    let rules = config(&format!("{ONE_AT_A_TIME}[limits]\nidle_seconds = 5\n"));
    let gateway = bed.gateway_with(&format!("{}{rules}", metrics.config()));
    let first = slow(bed, &gateway, "first");
    let mut second = waiting(bed, &gateway, BOB, &["send"], "second");
    at_position(&mut second, 1);
    let relay = bed.relay(&gateway, 0);
    let mut third = client(bed, &gateway, BOB, &["get", "--json-interval", "100", "--via", "quic"])
        .arg(relay.url("there"))
        .arg(bed.path("copy"))
        .start();
    fs::write(gateway.at("there"), "there").unwrap();
    at_position(&mut third, 2);
    // ^C gives the place to the next.
    second.signal(Signal::INT);
    second.finish().expect(130);
    at_position(&mut third, 1);
    // A connection that is lost does not.
    relay.cut(true);
    third.wait_for("the loss", |event| event["limit"] == "no link");
    let mut fourth = waiting(bed, &gateway, BOB, &["send"], "fourth");
    at_position(&mut fourth, 2);
    relay.cut(false);
    at_position(&mut third, 1);
    stop(first);
    third.finish().expect(0);
    fourth.finish().expect(0);
    assert_eq!(fs::read(bed.path("copy")).unwrap(), b"there");
    wait_until("nobody to wait", || metrics.sum("metra_tenant_jobs_waiting", &[]) == 0.0);
}

fn a_newer_attempt_takes_the_place_of_one_that_waits(bed: &Bed) {
    let gateway = bed.gateway_with(&config(ONE_AT_A_TIME));
    let first = slow(bed, &gateway, "first");
    let mut old = waiting(bed, &gateway, BOB, &["send"], "second");
    at_position(&mut old, 1);
    old.kill();
    let mut new = waiting(bed, &gateway, BOB, &["send"], "second");
    at_position(&mut new, 1);
    stop(first);
    new.finish().expect(0);
}

fn quotas_end_with_the_day_and_not_with_the_gateway(bed: &Bed) {
    let mut gateway = bed.gateway_with(&config("[tenants.default]\nquota_day_files = 4\n"));
    let folder = bed.folder("three");
    // Too large for packs: of a file in one that has changed it is known late that it is the same.
    let file = |n: u8| data::noise_file(&folder.join(char::from(b'a' + n).to_string()), n.into(), MIB);
    (0..3).for_each(|n| _ = file(n));
    let send = |gateway: &Gateway, token, from: &std::path::Path, to: &str| {
        client(bed, gateway, token, &["send"]).arg(from).arg(gateway.url(to)).run()
    };
    send(&gateway, ALICE, &folder, "").expect(0);
    // What is the same already does not count, and what is not does.
    send(&gateway, ALICE, &folder, "").expect(0);
    reload(&gateway, &config("[tenants.default]\nquota_day_files = 5\n"));
    (3..5).for_each(|n| _ = file(n));
    send(&gateway, ALICE, &folder, "").expect(0);
    let refused = send(&gateway, ALICE, &bed.write("f", "f"), "f").expect(8);
    assert!(refused.stderr.contains("files of the day"), "{refused}");
    reload(&gateway, &config("[tenants.default]\nquota_day_files = 6\n"));
    std::thread::sleep(Duration::from_millis(1500));
    gateway.kill();
    gateway.restart();
    let refused = send(&gateway, BOB, &folder, "again/").expect(8);
    assert!(
        refused.stderr.contains("the quota of files of the day is used up; it begins anew at 20"),
        "{refused}"
    );
    assert!(!gateway.at("again/three").exists());
    // One is left, in either direction.
    client(bed, &gateway, BOB, &["get"]).arg(gateway.url("three/a")).arg(bed.path("a")).expect(0);
    let refused =
        client(bed, &gateway, BOB, &["get"]).arg(gateway.url("three/b")).arg(bed.path("b")).expect(8);
    assert!(refused.stderr.contains("files of the day"), "{refused}");
    let limits = "[tenants.default]\nquota_day_files = 7\n";
    reload(&gateway, &config(limits));
    client(bed, &gateway, BOB, &["get"]).arg(gateway.url("three/b")).arg(bed.path("b")).expect(0);
}
