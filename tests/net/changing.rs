//! Networks that change while a transfer runs: it goes on, over what there is, and sends nothing twice that need not be.

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::harness::data::MIB;
use crate::harness::firewall::Icmp;
use crate::harness::office::{File, Office, Sent};
use crate::harness::{Bed, Done, Run, wait_until};

tests![
    udp_is_dropped,
    udp_is_dropped_while_fetching,
    udp_is_rejected,
    udp_opens,
    udp_goes_and_comes_back,
    tcp_is_cut_for_a_while,
    the_first_line_is_taken_away,
];

/// A transfer that runs, and what happens to its line.
struct Watch<'a> {
    bed: &'a Bed,
    /// The longest time that almost nothing went over the line.
    pause: Duration,
}

impl<'a> Watch<'a> {
    fn over(bed: &'a Bed) -> Self {
        Self { bed, pause: Duration::ZERO }
    }

    fn carried(&self) -> u64 {
        self.bed.edge.carried(2)
    }

    /// Waits until so many bytes have gone over the line from now on.
    fn bytes(&self, bytes: u64) {
        let before = self.carried();
        wait_until("bytes on the line", || self.carried() >= before + bytes);
    }

    /// Looks on for a time, and notes pauses.
    fn look(&mut self, time: Duration) {
        let (start, mut seen, mut since) = (Instant::now(), self.carried(), Instant::now());
        while start.elapsed() < time {
            sleep(Duration::from_millis(10));
            // More than those who ask whether anybody is there.
            if self.carried() > seen + ENOUGH {
                (seen, since) = (self.carried(), Instant::now());
            }
            self.pause = self.pause.max(since.elapsed());
        }
    }
}

/// Runs a transfer of so many bytes at the client, while something else happens.
fn during(office: &Office<'_>, run: Run, happens: impl FnOnce()) -> Done {
    let running = office.bed.client.enter(|| run.start());
    happens();
    running.finish()
}

fn sending(office: &Office<'_>, file: &File, options: &[&str], happens: impl FnOnce()) -> Sent {
    let run = office.client("state", "send").args(options).arg(&file.path).arg(office.url(&file.name));
    let done = during(office, run, happens);
    office.arrived(file, done)
}

/// That next to nothing was sent twice, and that nothing failed.
#[track_caller]
fn went_on(sent: &Sent, links: &[&str]) {
    for link in links {
        assert!(sent.links().contains(link), "{}", sent.0);
    }
    assert!(sent.0.number("chunks_resent") <= IN_FLIGHT, "{}", sent.0);
}

fn udp_is_dropped(bed: &Bed) {
    let office = Office::new(bed);
    let file = File::noise(bed, "file", 24 * MIB);
    let mut watch = Watch::over(bed);
    let sent = sending(&office, &file, &[], || {
        watch.bytes(6 * MIB);
        bed.firewall().drop_udp();
        watch.look(Duration::from_secs(3));
    });
    went_on(&sent, &["quic", "tls"]);
    assert!(watch.pause <= SILENCE, "{:?}\n{}", watch.pause, sent.0);
}

fn udp_is_dropped_while_fetching(bed: &Bed) {
    let office = Office::new(bed);
    let file = File::noise(bed, "file", 24 * MIB);
    std::fs::copy(&file.path, office.gateway.at("file")).unwrap();
    let copy = bed.path("copy");
    let mut watch = Watch::over(bed);
    let run = office.client("state", "get").arg(office.url("file")).arg(&copy);
    let done = during(&office, run, || {
        watch.bytes(6 * MIB);
        bed.firewall().drop_udp();
        watch.look(Duration::from_secs(3));
    });
    let sent = Sent(done.expect(0));
    assert!(crate::harness::data::same_bytes(&file.path, &copy));
    went_on(&sent, &["quic", "tls"]);
    assert!(watch.pause <= SILENCE, "{:?}\n{}", watch.pause, sent.0);
}

fn udp_is_rejected(bed: &Bed) {
    let office = Office::new(bed);
    let file = File::noise(bed, "file", 24 * MIB);
    let mut watch = Watch::over(bed);
    let sent = sending(&office, &file, &[], || {
        watch.bytes(6 * MIB);
        bed.firewall().reject_udp(Icmp::AdminProhibited);
        watch.look(Duration::from_secs(3));
    });
    went_on(&sent, &["quic", "tls"]);
    assert!(watch.pause <= SILENCE, "{:?}\n{}", watch.pause, sent.0);
}

fn udp_opens(bed: &Bed) {
    let office = Office::new(bed);
    let file = File::noise(bed, "file", 48 * MIB);
    bed.firewall().drop_udp();
    let watch = Watch::over(bed);
    let sent = sending(&office, &file, &[], || {
        watch.bytes(4 * MIB);
        bed.firewall().open();
    });
    went_on(&sent, &["quic", "tls"]);
}

fn udp_goes_and_comes_back(bed: &Bed) {
    let office = Office::new(bed);
    let file = File::noise(bed, "file", 56 * MIB);
    let watch = Watch::over(bed);
    let mut udp = 0;
    let sent = sending(&office, &file, &[], || {
        watch.bytes(6 * MIB);
        bed.firewall().drop_udp();
        watch.bytes(6 * MIB);
        bed.firewall().count_udp();
        watch.bytes(30 * MIB);
        udp = bed.firewall().counted();
    });
    went_on(&sent, &["quic", "tls"]);
    assert!(udp > MIB, "{udp} bytes of UDP when it was open again\n{}", sent.0);
}

fn tcp_is_cut_for_a_while(bed: &Bed) {
    let office = Office::new(bed);
    let file = File::noise(bed, "file", 24 * MIB);
    let mut watch = Watch::over(bed);
    let sent = sending(&office, &file, &["--via", "tls"], || {
        watch.bytes(6 * MIB);
        bed.firewall().only_tcp("80");
        sleep(Duration::from_secs(3));
        bed.firewall().open();
        watch.look(Duration::from_secs(3));
    });
    went_on(&sent, &["tls"]);
    assert!(watch.pause <= SILENCE, "{:?}\n{}", watch.pause, sent.0);
}

fn the_first_line_is_taken_away(bed: &Bed) {
    let office = Office::new(bed);
    let file = File::noise(bed, "file", 24 * MIB);
    // There is another way, which nobody takes while the first is there.
    let (server, edge) = (bed.server.address.to_string(), "10.77.3.2");
    let ip = |words: &[&str]| bed.client.run(Command::new("ip").args(words));
    ip(&["route", "add", &server, "via", edge, "dev", "link3", "metric", "100"]);
    let mut watch = Watch::over(bed);
    let sent = sending(&office, &file, &[], || {
        watch.bytes(6 * MIB);
        ip(&["link", "set", "link0", "down"]);
        watch.look(Duration::from_secs(4));
    });
    went_on(&sent, &[]);
    assert!(watch.pause <= SILENCE, "{:?}\n{}", watch.pause, sent.0);
}

/// What a connection does to show that it lives, in some milliseconds.
const ENOUGH: u64 = 30_000;

/// Two seconds without an answer, and what it takes to go on after that.
const SILENCE: Duration = Duration::from_millis(3200);

/// Chunks that may have been on their way.
const IN_FLIGHT: u64 = 16;
