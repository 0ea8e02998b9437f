//! Networks that let something through, and something not.

use std::time::{Duration, Instant};

use crate::harness::data::MIB;
use crate::harness::firewall::Icmp;
use crate::harness::office::{File, Office, rung};
use crate::harness::{Bed, Done};

tests![
    an_open_network,
    every_rung_by_force,
    udp_is_dropped,
    udp_is_rejected,
    udp_is_rejected_by_policy,
    udp_stalls_after_the_handshake,
    large_datagrams_are_dropped,
    large_packets_of_tcp_are_dropped,
    only_https_is_let_through,
    nothing_is_let_through,
    by_force_what_is_not_let_through,
    listings_too,
];

fn an_open_network(bed: &Bed) {
    let office = Office::new(bed);
    let file = File::noise(bed, "file", 2 * MIB);
    let sent = office.send(&file, "state", &[]);
    assert!(sent.links().contains(&"quic"), "{}", sent.0);
    assert_eq!(sent.rung("quic").outcome, "used", "{}", sent.0);
    assert!(sent.first_byte() < SOON, "{}", sent.0);
    assert!(office.fetch(&file, "state", &[]).links().contains(&"quic"));
}

fn every_rung_by_force(bed: &Bed) {
    let office = Office::new(bed);
    for kind in ["quic", "masque", "masque-tcp", "tls", "ws"] {
        let file = File::noise(bed, kind, 2 * MIB);
        office.send(&file, kind, &["--via", kind]).only(kind, false);
        office.fetch(&file, kind, &["--via", kind]).only(kind, false);
    }
    // That a tunnel ends is nothing to complain of.
    let log = office.gateway.log();
    assert!(!log.contains(" ERROR ") && !log.contains(" WARN "), "{log}");
}

fn udp_is_dropped(bed: &Bed) {
    let office = Office::new(bed);
    bed.firewall().drop_udp();
    let best = office.send(&File::noise(bed, "best", MIB), "other", &["--via", "tls"]);
    let best = best.only("tls", false).first_byte();
    let first = office.send(&File::noise(bed, "first", MIB), "state", &[]);
    // A tunnel to the gateway is as silent, and holds nothing up.
    first.only("tls", false).not("quic", &["failed"]).not("masque", &["failed"]);
    assert!(first.first_byte() <= Duration::from_millis(1500), "{}", first.0);
    let again = office.send(&File::noise(bed, "again", MIB), "state", &[]);
    again.only("tls", false).not("quic", &["skipped"]).not("masque", &["skipped"]);
    assert!(again.first_byte() <= best + Duration::from_millis(500), "best {best:?}\n{}", again.0);
    office.fetch(&File::noise(bed, "again", MIB), "state", &[]).only("tls", false);
}

fn udp_is_rejected(bed: &Bed) {
    rejected(bed, Icmp::PortUnreachable);
}

fn udp_is_rejected_by_policy(bed: &Bed) {
    rejected(bed, Icmp::AdminProhibited);
}

/// What is refused is not waited for.
fn rejected(bed: &Bed, with: Icmp) {
    let office = Office::new(bed);
    bed.firewall().drop_udp();
    let slow = office.send(&File::noise(bed, "slow", MIB), "slow", &[]).first_byte();
    bed.firewall().reject_udp(with);
    let sent = office.send(&File::noise(bed, "file", MIB), "state", &[]);
    sent.only("tls", false).not("quic", &["failed"]);
    assert!(sent.first_byte() < slow, "dropped: {slow:?}\n{}", sent.0);
}

fn udp_stalls_after_the_handshake(bed: &Bed) {
    let office = Office::new(bed);
    // Two datagrams of a handshake each way, and not much more.
    bed.firewall().stall_udp_after(40);
    let file = File::noise(bed, "file", 4 * MIB);
    let start = Instant::now();
    let sent = office.send(&file, "state", &[]);
    assert!(sent.links().contains(&"tls"), "{}", sent.0);
    assert!(start.elapsed() < Duration::from_secs(6), "{}", sent.0);
}

fn large_datagrams_are_dropped(bed: &Bed) {
    let office = Office::new(bed);
    bed.firewall().drop_large_udp(1200);
    let start = Instant::now();
    let sent = office.send(&File::noise(bed, "file", 4 * MIB), "state", &[]);
    assert!(start.elapsed() < Duration::from_secs(6), "{}", sent.0);
}

/// A connection over which only small packets get through is no way. Today TLS's handshake is as large itself, by its key shares.
fn large_packets_of_tcp_are_dropped(bed: &Bed) {
    let office = Office::new(bed);
    bed.firewall().drop_udp();
    office.send(&File::noise(bed, "first", MIB), "state", &[]).only("tls", false);
    bed.firewall().drop_large_tcp(1490);
    let file = File::noise(bed, "file", MIB);
    let sent = office.send(&file, "state", &[]);
    sent.only("quic", false).not("tls", &["failed"]);
    assert!(sent.first_byte() <= Duration::from_secs(1), "{}", sent.0);
}

fn only_https_is_let_through(bed: &Bed) {
    let office = Office::on(bed, 443);
    bed.firewall().only_tcp("443");
    office.send(&File::noise(bed, "file", 2 * MIB), "state", &[]).only("tls", false);
}

/// A client that cannot get there says so in time, and what it has tried.
fn gives_up(office: &Office<'_>, options: &[&str]) -> Done {
    let file = File::noise(office.bed, "file", MIB);
    let run = office.impatient("send").args(options);
    let done = office.run(run.arg(&file.path).arg(office.url("file"))).expect(5);
    assert!(done.elapsed < Duration::from_secs(5), "{done}");
    assert!(!office.gateway.at("file").exists());
    done
}

fn nothing_is_let_through(bed: &Bed) {
    let office = Office::new(bed);
    bed.firewall().only_tcp("80");
    let done = gives_up(&office, &[]);
    for name in ["quic", "masque", "tls"] {
        let tried = rung(&done, name);
        assert!(tried.outcome == "failed" && !tried.reason.is_empty(), "{done}");
    }
}

fn by_force_what_is_not_let_through(bed: &Bed) {
    let office = Office::new(bed);
    bed.firewall().drop_udp();
    gives_up(&office, &["--via", "quic"]);
    // Not its other half, over TCP.
    let sent = office.send(&File::noise(bed, "tunnel", MIB), "tunnel", &["--via", "masque"]);
    sent.only("masque-tcp", false).not("masque", &["failed"]);
    bed.firewall().only_tcp("80");
    gives_up(&office, &["--via", "masque"]);
    gives_up(&office, &["--via", "tls"]);
    gives_up(&office, &["--via", "ws"]);
}

fn listings_too(bed: &Bed) {
    let office = Office::new(bed);
    office.send(&File::noise(bed, "file", 1000), "state", &[]);
    bed.firewall().drop_udp();
    for options in [&[][..], &["--via", "tls"], &["--via", "ws"]] {
        let done = office.run(office.client("state", "ls").args(options).arg(office.url(""))).expect(0);
        assert!(done.text().contains("file") && done.elapsed < Duration::from_secs(3), "{done}");
    }
}

/// On a line of 20 ms, with nothing in the way.
const SOON: Duration = Duration::from_millis(500);
