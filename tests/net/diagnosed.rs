//! What `metra doctor` says of networks, where all goes through a proxy: each thing that can stand in the way has its name, and
//! words for whoever can change it.

use std::time::Duration;

use crate::harness::certs::Authority;
use crate::harness::office::{Office, PORT, text};
use crate::harness::proxies::{Auth, Proxy};
use crate::harness::squid::Squid;
use crate::harness::{Bed, Done};

tests![
    all_is_well,
    nothing_comes_back,
    it_is_refused,
    it_stalls_after_the_handshake,
    another_protocol_is_spoken,
    another_certificate_is_shown,
    large_packets_are_dropped,
];

/// What the doctor has to say of the gateway through a proxy, with UDP dropped.
fn doctor(office: &Office<'_>, proxy: &Proxy, more: &[&str]) -> Done {
    let run = office.client("state", "doctor").args(["--proxy", &proxy.url()]);
    let done = office.run(run.args(more).arg(office.url("")));
    assert!(done.elapsed < Duration::from_secs(60), "{done}");
    let ways = done.events.iter().filter(|event| event["event"] == "way");
    let ways: Vec<_> = ways.map(|way| (way["rung"].as_str(), way["proxy"].is_string())).collect();
    // UDP goes by itself.
    for way in [(Some("quic"), false), (Some("tls"), true), (Some("ws"), true)] {
        assert!(ways.contains(&way), "{done}");
    }
    finds(&done, "quic", &["silent"]);
    done
}

/// The same of one rung, which does not work.
fn by(office: &Office<'_>, proxy: &Proxy, rung: &str) -> Done {
    let run = office.client("state", "doctor").args(["--proxy", &proxy.url(), "--via", rung]);
    office.run(run.arg(office.url(""))).expect(5)
}

/// That a rung has a finding with one of these names, and words for both.
#[track_caller]
fn finds(done: &Done, rung: &str, names: &[&str]) {
    let found = done.events.iter().find(|event| event["event"] == "finding" && event["rung"] == rung);
    let found = found.unwrap_or_else(|| panic!("nothing is said of {rung}\n{done}"));
    let word = |key: &str| found[key].as_str().unwrap_or_default();
    assert!(names.contains(&word("name")), "{names:?} of {rung}\n{done}");
    assert!(!word("user").is_empty() && word("administrator").contains("lease "), "{done}");
}

fn squid(bed: &Bed) -> (Office<'_>, Proxy) {
    let (office, proxy) = (Office::new(bed), Squid::new(bed, Auth::Anyone, PORT).start());
    bed.firewall().only_proxy(&bed.proxy);
    (office, proxy)
}

fn all_is_well(bed: &Bed) {
    let (office, proxy) = squid(bed);
    let done = doctor(&office, &proxy, &[]).expect(1);
    assert_eq!(done.summary()["best"], "tls", "{done}");
    let found = done.events.iter().filter(|event| event["event"] == "finding");
    let found: Vec<_> = found.map(|event| event["rung"].as_str().unwrap_or_default()).collect();
    assert_eq!(found, ["quic", "masque"], "{done}");
}

fn nothing_comes_back(bed: &Bed) {
    let (office, proxy) = squid(bed);
    bed.firewall().cut_server();
    let done = doctor(&office, &proxy, &[]).expect(5);
    for rung in ["tls", "ws"] {
        finds(&done, rung, &["proxy", "silent"]);
    }
}

fn it_is_refused(bed: &Bed) {
    let (office, proxy) = squid(bed);
    bed.firewall().reject_server();
    for rung in ["tls", "ws"] {
        finds(&by(&office, &proxy, rung), rung, &["proxy_refused"]);
    }
}

fn it_stalls_after_the_handshake(bed: &Bed) {
    let (office, proxy) = squid(bed);
    for rung in ["tls", "ws"] {
        bed.firewall().stall_tcp_after(40);
        finds(&by(&office, &proxy, rung), rung, &["stalled"]);
    }
}

fn another_protocol_is_spoken(bed: &Bed) {
    let office = Office::new(bed);
    let own = Authority::new(bed, "office");
    let squid = Squid::new(bed, Auth::Anyone, PORT).inspecting(&own, &office.authority.cert);
    let proxy = squid.with_websockets().start();
    bed.firewall().only_proxy(&bed.proxy);
    let done = doctor(&office, &proxy, &["--ca", text(&own.cert)]).expect(1);
    finds(&done, "tls", &["no_protocol"]);
    // That way works, and is opened on it.
    finds(&done, "ws", &["inspected"]);
    assert_eq!(done.summary()["best"], "ws", "{done}");
}

fn another_certificate_is_shown(bed: &Bed) {
    let office = Office::new(bed);
    let own = Authority::new(bed, "office");
    let squid = Squid::new(bed, Auth::Anyone, PORT).inspecting(&own, &office.authority.cert);
    let proxy = squid.with_websockets().start();
    bed.firewall().only_proxy(&bed.proxy);
    let done = doctor(&office, &proxy, &[]).expect(5);
    for rung in ["tls", "ws"] {
        finds(&done, rung, &["untrusted", "inspected"]);
    }
}

fn large_packets_are_dropped(bed: &Bed) {
    let (office, proxy) = squid(bed);
    bed.firewall().drop_large_tcp(1240);
    finds(&by(&office, &proxy, "tls"), "tls", &["silent", "stalled", "lost"]);
}
