//! What is measured on the way: in the summary of a transfer, and in the gateway's metrics.

use std::net::Ipv4Addr;

use crate::harness::data::{self, MIB};
use crate::harness::ways::{Way, Ways};
use crate::harness::{Bed, Done, Metrics, Relay, wait_until};

tests![
    the_summary_says_what_the_path_was_like,
    metrics_of_the_gateway,
    what_is_not_moved_is_not_measured,
    a_welcome_over_tcp_fills_a_packet,
];

const SIZE: u64 = 24 * MIB;
/// Bytes per second; slow enough for some full seconds.
const RATE: u64 = 6 * MIB;

fn float(done: &Done, key: &str) -> f64 {
    let value = &done.summary()[key];
    value.as_f64().unwrap_or_else(|| panic!("{key} in the summary is {value}\n{done}"))
}

/// Fails unless the summary fits what the relay carried from source to sink and back.
fn must_fit(done: &Done, relay: &Relay, forward: (&str, u64), reverse: (&str, u64)) {
    assert_eq!(done.number("delivered"), SIZE, "{done}");
    let limit = RATE as f64 * 8e-9;
    let [p5, p50, p95] = ["p5_gbps", "p50_gbps", "p95_gbps"].map(|key| float(done, key));
    // A loaded machine may be slower than its path, but never faster for long.
    assert!(
        p5 <= p50 && p50 <= p95 && p50 > 0.1 * limit && p50 < 1.1 * limit,
        "{p5} {p50} {p95} {limit}\n{done}"
    );
    let [min, median, high, last] =
        ["rtt_min_ms", "rtt_p50_ms", "rtt_p95_ms", "rtt_ms"].map(|key| float(done, key));
    assert!(0.0 < min && min <= median && median <= high && high < 10_000.0, "{min} {median} {high}\n{done}");
    assert!(last >= min, "{last} {min}\n{done}");
    let ratio = float(done, "wire_ratio");
    assert!((1.0..2.0).contains(&ratio), "{ratio}\n{done}");

    // What went forward was counted on both sides, but for the handshake and what the relay has dropped.
    let (key, carried) = forward;
    let counted = done.number(key);
    assert!(
        counted as f64 > 0.95 * carried as f64 && (counted as f64) < 2.0 * carried as f64,
        "{carried}\n{done}"
    );
    let (key, carried) = reverse;
    let counted = done.number(key);
    // The search for the MTU alone takes some 100 KB, partly before the job and after it.
    assert!(counted > carried / 4 && counted < 2 * carried, "{carried}\n{done}");
    let per_gb = float(done, "reverse_bytes_per_gb");
    assert!((per_gb - counted as f64 * 1e9 / SIZE as f64).abs() < 1.0, "{per_gb}\n{done}");
    assert!(
        done.number("packets_sent") > 0 && done.number("packets_lost") < done.number("packets_sent"),
        "{done}"
    );
    assert!(done.number("datagrams_sent") > 0 && done.number("datagrams_received") > 0, "{done}");
    assert!(relay.up() > 0);
}

fn the_summary_says_what_the_path_was_like(bed: &Bed) {
    let gateway = bed.gateway();
    let file = data::noise_file(&bed.path("file"), 3, SIZE);
    let relay = bed.relay(&gateway, RATE);
    let sent = bed.client(&gateway, ["send"]).arg(&file).arg(relay.url("there")).expect(0);
    let (up, down) = (relay.up(), relay.down());
    must_fit(&sent, &relay, ("wire_sent", up), ("wire_received", down));

    let got = bed.client(&gateway, ["get"]).arg(relay.url("there")).arg(bed.path("back")).expect(0);
    must_fit(&got, &relay, ("wire_received", relay.down() - down), ("wire_sent", relay.up() - up));
}

fn what_is_not_moved_is_not_measured(bed: &Bed) {
    let gateway = bed.gateway();
    let file = data::noise_file(&bed.path("file"), 4, MIB);
    let send = || bed.client(&gateway, ["send"]).arg(&file).arg(gateway.url("there")).expect(0);
    let first = send();
    // Far less than a second: a rate by the second would be a guess.
    assert_eq!((first.number("delivered"), first.summary()["p50_gbps"].is_null()), (MIB, true), "{first}");
    assert!(float(&first, "wire_ratio") >= 1.0);
    let second = send();
    assert_eq!(second.number("delivered"), 0, "{second}");
    for key in ["p50_gbps", "wire_ratio", "reverse_bytes_per_gb"] {
        assert!(second.summary()[key].is_null(), "{key}\n{second}");
    }
    for key in ["rtt_min_ms", "rtt_p50_ms", "rtt_p95_ms", "rtt_ms"] {
        assert!(float(&second, key) > 0.0, "{key}\n{second}");
    }
}

fn metrics_of_the_gateway(bed: &Bed) {
    let served = Metrics::new();
    let gateway = bed.gateway_with(&served.config());
    let file = data::noise_file(&bed.path("file"), 5, SIZE);
    let relay = bed.relay(&gateway, RATE);
    bed.client(&gateway, ["send"]).arg(&file).arg(relay.url("there")).expect(0);
    bed.client(&gateway, ["get"]).arg(relay.url("there")).arg(bed.path("back")).expect(0);

    // Links are looked at each second, and when their session ends.
    wait_until("both sessions to be counted", || {
        let metrics = served.all();
        let carried = |name: &str| metrics.get(name).copied().unwrap_or_default();
        carried("metra_wire_received_bytes_total") > SIZE as f64
            && carried("metra_wire_sent_bytes_total") > SIZE as f64
    });
    let metrics = served.all();
    let number = |name: &str| {
        *metrics
            .get(name)
            .unwrap_or_else(|| panic!("no {name} among {:#?}", metrics.keys().collect::<Vec<_>>()))
    };
    for direction in ["push", "pull"] {
        let of = |name: &str| number(&format!("{name}{{direction=\"{direction}\"}}"));
        assert_eq!(of("metra_job_first_byte_seconds_count"), 1.0);
        assert_eq!(of("metra_job_verify_seconds_count"), 1.0);
        assert!(of("metra_job_first_byte_seconds_sum") < 30.0);
        assert_eq!(of("metra_job_delivered_bytes_total"), SIZE as f64);
        assert!(of("metra_job_forward_bytes_total") > SIZE as f64);
        let reverse = of("metra_job_reverse_bytes_total");
        assert!(reverse > 0.0 && reverse < SIZE as f64 / 4.0, "{reverse}");
        let (seconds, sum) = (
            of("metra_job_throughput_bytes_per_second_count"),
            of("metra_job_throughput_bytes_per_second_sum"),
        );
        assert!(
            seconds >= 2.0 && sum <= SIZE as f64 * 1.01 && sum / seconds < 1.1 * RATE as f64,
            "{sum} {seconds}"
        );
        assert_eq!(of("metra_job_resumes_total"), 0.0);
    }
    let (times, sum) = (number("metra_link_rtt_seconds_count"), number("metra_link_rtt_seconds_sum"));
    assert!(times >= 2.0 && sum > 0.0 && sum / times < 10.0, "{sum} {times}");
    let (sent, lost) = (number("metra_packets_sent_total"), number("metra_packets_lost_total"));
    assert!(sent > 0.0 && lost < sent);
    for name in ["metra_wire_sent_datagrams_total", "metra_wire_received_datagrams_total"] {
        assert!(number(name) > 1000.0, "{name}");
    }
    // Histograms that can be added up.
    assert!(metrics.keys().any(|name| name.starts_with("metra_opening_seconds_bucket")));
}

/// QUIC pads its handshake itself.
fn a_welcome_over_tcp_fills_a_packet(bed: &Bed) {
    let gateway = bed.gateway();
    let ways = Ways::new(&gateway);
    for way in [Way::Tls, Way::Ws] {
        let mut opening = ways.connect(way, Ipv4Addr::LOCALHOST, false);
        opening.greet("").expect("a welcome");
        assert!(opening.raw.received() >= 1500, "{way:?}: {}", opening.raw.received());
    }
}
