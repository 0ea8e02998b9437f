//! Networks that change while a transfer runs: it goes on, over what there is, and sends nothing twice that need not be.

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::harness::data::{MIB, same_bytes};
use crate::harness::firewall::Icmp;
use crate::harness::office::{File, Office, PORT, Sent};
use crate::harness::proxies;
use crate::harness::{Bed, Done, Run, wait_until};

tests![
    // First, as it waits longest.
    udp_is_dropped_after_half_a_minute,
    udp_is_dropped,
    udp_is_dropped_while_fetching,
    udp_is_rejected,
    udp_opens,
    udp_goes_and_comes_back,
    a_masque_proxy_can_be_reached,
    udp_to_a_masque_proxy_is_dropped,
    tcp_is_cut_for_a_while,
    the_first_line_is_taken_away,
];

/// The line of a transfer that runs.
struct Line<'a>(&'a Bed);

impl Line<'_> {
    /// Bytes that have gone over it, both ways.
    fn carried(&self) -> u64 {
        self.0.edge.carried(2)
    }

    /// Waits until so many more bytes have gone over it.
    fn wait(&self, bytes: u64) {
        let before = self.carried();
        wait_until("bytes on the line", || self.carried() >= before + bytes);
    }
}

/// Runs a transfer at the client's host while something happens. How it went, and the longest time after that in which
/// almost nothing was on the line.
fn during(office: &Office<'_>, run: Run, happens: impl FnOnce(Line<'_>)) -> (Done, Duration) {
    let mut running = office.bed.client.enter(|| run.start());
    happens(Line(office.bed));
    let line = Line(office.bed);
    let (mut seen, mut since, mut pause) = (line.carried(), Instant::now(), Duration::ZERO);
    while running.is_running() {
        sleep(Duration::from_millis(10));
        // More than those who ask whether anybody is there.
        if line.carried() > seen + ENOUGH {
            (seen, since) = (line.carried(), Instant::now());
        }
        pause = pause.max(since.elapsed());
    }
    (running.finish(), pause)
}

/// Sends so many MiB while something happens; nothing fails, and next to nothing is sent twice.
fn goes_on(office: &Office<'_>, mib: u64, options: &[&str], happens: impl FnOnce(Line<'_>)) -> Sent {
    let file = File::noise(office.bed, "file", mib * MIB);
    let run = office.client("state", "send").args(options).arg(&file.path).arg(office.url(&file.name));
    let (done, pause) = during(office, run, happens);
    went_on(office.arrived(&file, done), pause)
}

#[track_caller]
fn went_on(sent: Sent, pause: Duration) -> Sent {
    assert!(pause <= SILENCE, "a pause of {pause:?}\n{}", sent.0);
    // Not chunks that were sent again: those had perhaps not left.
    let on_the_wire = sent.0.summary()["wire_ratio"].as_f64();
    assert!(on_the_wire.is_some_and(|ratio| ratio <= REPEATS), "{}", sent.0);
    sent
}

fn udp_is_dropped(bed: &Bed) {
    let office = Office::new(bed);
    let sent = goes_on(&office, 24, &[], |line| {
        line.wait(6 * MIB);
        bed.firewall().drop_udp();
    });
    sent.over(&["quic", "tls"]);
}

/// Firewalls take their time to find out what they do not like: by then nothing is new about the connection.
fn udp_is_dropped_after_half_a_minute(bed: &Bed) {
    let office = Office::new(bed);
    // 40 s, if nothing happens.
    let sent = goes_on(&office, 24, &["--rate", "5mbit"], |line| {
        line.wait(MIB);
        sleep(Duration::from_secs(30));
        bed.firewall().drop_udp();
    });
    sent.over(&["quic", "tls"]);
}

fn udp_is_dropped_while_fetching(bed: &Bed) {
    let office = Office::new(bed);
    let file = File::noise(bed, "file", 24 * MIB);
    std::fs::copy(&file.path, office.gateway.at("file")).unwrap();
    let copy = bed.path("copy");
    let run = office.client("state", "get").arg(office.url("file")).arg(&copy);
    let (done, pause) = during(&office, run, |line| {
        line.wait(6 * MIB);
        bed.firewall().drop_udp();
    });
    let sent = Sent(done.expect(0));
    assert!(same_bytes(&file.path, &copy), "not what was sent\n{}", sent.0);
    went_on(sent, pause).over(&["quic", "tls"]);
}

fn udp_is_rejected(bed: &Bed) {
    let office = Office::new(bed);
    let sent = goes_on(&office, 24, &[], |line| {
        line.wait(6 * MIB);
        bed.firewall().reject_udp(Icmp::AdminProhibited);
    });
    sent.over(&["quic", "tls"]);
}

fn udp_opens(bed: &Bed) {
    let office = Office::new(bed);
    bed.firewall().drop_udp();
    let sent = goes_on(&office, 48, &[], |line| {
        line.wait(4 * MIB);
        bed.firewall().open();
    });
    sent.over(&["quic", "tls"]);
}

fn udp_goes_and_comes_back(bed: &Bed) {
    let office = Office::new(bed);
    let sent = goes_on(&office, 64, &[], |line| {
        line.wait(6 * MIB);
        bed.firewall().drop_udp();
        line.wait(6 * MIB);
        bed.firewall().count_udp();
        wait_until("UDP when it was open again", || bed.firewall().counted() > MIB);
    });
    sent.over(&["quic", "tls"]);
}

fn a_masque_proxy_can_be_reached(bed: &Bed) {
    let office = Office::new(bed);
    let proxy = proxies::masque(bed, &office.authority, PORT);
    bed.firewall().only_tcp(&PORT.to_string());
    let sent = goes_on(&office, 48, &["--masque-proxy", &proxy.url()], |line| {
        line.wait(4 * MIB);
        bed.firewall().only_tcp_and_proxy(&PORT.to_string(), &bed.proxy);
    });
    sent.over(&["masque", "tls"]);
    assert_eq!(sent.rung("masque").outcome, "used", "{}", sent.0);
}

fn udp_to_a_masque_proxy_is_dropped(bed: &Bed) {
    let office = Office::new(bed);
    let proxy = proxies::masque(bed, &office.authority, PORT);
    bed.firewall().only_proxy_with_udp(&bed.proxy);
    let file = File::noise(bed, "file", 24 * MIB);
    let run = office.client("state", "send").args(["--masque-proxy", &proxy.url()]);
    let (done, pause) = during(&office, run.arg(&file.path).arg(office.url("file")), |line| {
        line.wait(6 * MIB);
        bed.firewall().only_proxy(&bed.proxy);
    });
    // Two better rungs are tried before, each alone for a while.
    let sent = went_on(office.arrived(&file, done), pause.saturating_sub(2 * STAGGER));
    assert_eq!(sent.links(), ["masque"], "{}", sent.0);
    assert_eq!(sent.rung("masque-tcp").outcome, "used", "{}", sent.0);
}

fn tcp_is_cut_for_a_while(bed: &Bed) {
    let office = Office::new(bed);
    let sent = goes_on(&office, 24, &["--via", "tls"], |line| {
        line.wait(6 * MIB);
        bed.firewall().only_tcp("80");
        sleep(Duration::from_secs(3));
        bed.firewall().open();
    });
    sent.over(&["tls"]);
}

fn the_first_line_is_taken_away(bed: &Bed) {
    let office = Office::new(bed);
    // There is another way, which nobody takes while the first is there.
    let (server, edge) = (bed.server.address.to_string(), "10.77.3.2");
    let ip = |words: &[&str]| bed.client.run(Command::new("ip").args(words));
    ip(&["route", "add", &server, "via", edge, "dev", "link3", "metric", "100"]);
    goes_on(&office, 24, &[], |line| {
        line.wait(6 * MIB);
        ip(&["link", "set", "link0", "down"]);
    });
}

/// What a connection does to show that it lives, in some milliseconds.
const ENOUGH: u64 = 30_000;

/// Two seconds without an answer, and what it takes to go on after that.
const SILENCE: Duration = Duration::from_millis(3200);

/// How long a rung is alone in the race.
const STAGGER: Duration = Duration::from_millis(250);

/// Bytes on the wire for each of the file: what was on its way is sent again, and headers.
const REPEATS: f64 = 1.35;
