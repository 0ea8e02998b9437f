//! Ten thousand connections over TCP on which nothing happens, and many that open links slowly: others are served all the same.

use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::harness::data::{self, KIB, MIB};
use crate::harness::run::Run;
use crate::harness::tcp::{self, Tls, TlsStream};
use crate::harness::{Bed, Gateway, Metrics, skip, wait_until};
use crate::refused::in_time;

tests![ten_thousand_idle_connections, those_who_open_slowly_keep_nobody_out, one_address_has_its_part];

/// Connections, if the machine has files for so many.
const MANY: usize = 10_000;
/// As many as one address may have.
const EACH: usize = 256;
/// As many as there may be.
const ALL: usize = 2048;
/// What a connection may cost on which there is nothing, or a TLS handshake and nothing after it: 23 to 33 KiB are seen, of the memory
/// of the whole process. Bytes.
const COST: u64 = 36 * KIB;
const DROPPED: &str = "metra_connections_dropped_total";
const HANDSHAKES: &str = "metra_handshakes_failed_total";

fn send(bed: &Bed, gateway: &Gateway, via: &str, name: &str, rate: &str) -> Run {
    let run = bed.client(gateway, ["send", "--timeout", "10", "--via", via, "--rate", rate]);
    run.arg(bed.path("file")).arg(gateway.url(name))
}

/// The address of which an abuser has some, by its number.
fn abuser(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, n as u8 + 1)
}

/// Opens connections with four threads: `open` for each number.
fn open_all<T: Send + 'static>(count: usize, open: impl Fn(usize) -> T + Send + Sync + 'static) -> Vec<T> {
    let open = Arc::new(open);
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let open = open.clone();
            thread::spawn(move || (thread..count).step_by(4).map(|n| open(n)).collect::<Vec<T>>())
        })
        .collect();
    threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
}

fn ten_thousand_idle_connections(bed: &Bed) {
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files }).unwrap();
    let most = usize::try_from(files.maximum.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    if most < 4 * ALL {
        skip(format!("a process may have {most} files open here"));
    }
    let many = MANY.min(most - 1000);
    let metrics = Metrics::new();
    let mut gateway = bed.gateway_with(&(metrics.config() + "[limits]\nhandshake_seconds = 3\n"));
    data::noise_file(&bed.path("file"), 41, 4 * MIB);
    let before = ["quic", "tls"].map(|via| send(bed, &gateway, via, via, "10mbit").start());
    metrics.wait_for(2.0, "metra_sessions", &[]);

    let empty = gateway.memory();
    let address = gateway.address();
    let began = Instant::now();
    let idle: Vec<TcpStream> =
        open_all(many, move |n| tcp::tcp_from(address, abuser(n / EACH)).expect("a connection"));
    let opened = began.elapsed();
    // Those over the limit were turned away, or made others end.
    wait_until("all to be taken", || {
        metrics.sum(DROPPED, &[]) + metrics.sum(HANDSHAKES, &[]) >= (many - ALL) as f64
    });
    let cost = gateway.memory().saturating_sub(empty);
    println!("{many} connections in {opened:?}; {} KiB, {} B each of {ALL}", cost / KIB, cost / ALL as u64);
    assert!(cost < COST * ALL as u64, "{} KiB for {ALL} connections", cost / KIB);

    for via in ["tls", "quic"] {
        let done = send(bed, &gateway, via, &format!("{via}-meanwhile"), "1gbit").expect(0);
        in_time(via, done.elapsed, Duration::from_secs(1));
        assert!(data::same_bytes(&bed.path("file"), &gateway.at(&format!("{via}-meanwhile"))));
    }
    for (via, sender) in ["quic", "tls"].into_iter().zip(before) {
        let done = sender.finish().expect(0);
        assert_eq!(done.number("resumes"), 0, "the honest client noticed\n{done}");
        assert!(data::same_bytes(&bed.path("file"), &gateway.at(via)));
    }
    // All are ended and counted, though nobody on the other side does anything: the last one, too, whose time
    // begins when it is taken and not when the first one's does.
    wait_until("all to be ended", || {
        metrics.sum(DROPPED, &[]) + metrics.sum(HANDSHAKES, &["kind=\"tls\""]) >= many as f64
    });
    let in_time = metrics.sum(HANDSHAKES, &["kind=\"tls\"", "reason=\"timeout\""]);
    assert!(in_time >= 0.9 * ALL as f64, "{in_time} ended by their deadline");
    drop(idle);
    assert!(gateway.is_running(), "{}", gateway.log());
}

fn those_who_open_slowly_keep_nobody_out(bed: &Bed) {
    let metrics = Metrics::new();
    let gateway = bed.gateway_with(&(metrics.config() + "[limits]\nhandshake_seconds = 8\n"));
    data::noise_file(&bed.path("file"), 43, MIB);
    let empty = gateway.memory();
    // More than may open at a time, of few addresses.
    let (address, mtp) = (gateway.address(), Tls::new(&gateway, "mtp/1"));
    let slow: Vec<TlsStream> = open_all(5 * 60, move |n| {
        mtp.over(tcp::tcp_from(address, abuser(n / 60)).unwrap()).expect("a handshake")
    });
    let done = send(bed, &gateway, "tls", "tls", "1gbit").expect(0);
    in_time("TLS", done.elapsed, Duration::from_secs(1));
    let cost = gateway.memory().saturating_sub(empty) / slow.len() as u64;
    println!("{cost} B for each of {} links that are not opened", slow.len());
    let done = send(bed, &gateway, "quic", "quic", "1gbit").expect(0);
    in_time("QUIC", done.elapsed, Duration::from_secs(1));
    metrics.wait_for(44.0, "metra_openings_total", &["kind=\"tls\"", "outcome=\"busy\""]);
    assert_eq!(metrics.sum("metra_openings_total", &["kind=\"tls\"", "outcome=\"timeout\""]), 0.0);
}

fn one_address_has_its_part(bed: &Bed) {
    let metrics = Metrics::new();
    let gateway = bed.gateway_with(&metrics.config());
    data::noise_file(&bed.path("file"), 47, MIB);
    let address = gateway.address();
    let mut idle: Vec<TcpStream> = open_all(EACH + 50, move |_| tcp::tcp_from(address, abuser(0)).unwrap());
    metrics.wait_for(50.0, DROPPED, &["reason=\"address\""]);
    send(bed, &gateway, "tls", "there", "1gbit").expect(0);
    // Who leaves makes room.
    idle.clear();
    metrics.wait_for(EACH as f64, HANDSHAKES, &["kind=\"tls\"", "reason=\"refused\""]);
    let link = Tls::new(&gateway, "mtp/1").over(tcp::tcp_from(address, abuser(0)).unwrap());
    assert!(link.is_ok());
    assert_eq!(metrics.sum(DROPPED, &[]), 50.0);
}
