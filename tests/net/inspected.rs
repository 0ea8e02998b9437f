//! Networks whose proxy looks into TLS: it answers in the gateway's place, with a certificate of its own authority.

use std::fs;
use std::time::Duration;

use crate::harness::certs::Authority;
use crate::harness::data::MIB;
use crate::harness::office::{File, Office, PORT, text};
use crate::harness::proxies::{Auth, Proxy};
use crate::harness::squid::{DIVERTED, Squid};
use crate::harness::{Bed, Run, wait_until};

tests![
    its_authority_is_trusted,
    its_authority_is_trusted_but_nobody_shall_look,
    its_authority_is_trusted_but_policies_refuse,
    its_authority_is_not_known,
    the_gateway_is_pinned,
    websockets_do_not_pass,
    it_knows_no_tls_1_3,
    without_a_proxy_that_one_knows,
    nobody_looks,
];

/// An office where everybody but UDP goes through such a proxy.
fn inspected(bed: &Bed, websockets: bool) -> (Office<'_>, Proxy, Authority) {
    behind_one(Office::new(bed), websockets)
}

fn behind_one(office: Office<'_>, websockets: bool) -> (Office<'_>, Proxy, Authority) {
    let bed = office.bed;
    let own = Authority::new(bed, "office");
    let squid = Squid::new(bed, Auth::Anyone, PORT).inspecting(&own, &office.authority.cert);
    let proxy = if websockets { squid.with_websockets() } else { squid }.start();
    bed.firewall().only_proxy(&bed.proxy);
    (office, proxy, own)
}

fn its_authority_is_trusted(bed: &Bed) {
    let (office, proxy, own) = inspected(bed, true);
    let options = ["--proxy", &proxy.url(), "--ca", text(&own.cert)];
    let file = File::noise(bed, "file", 2 * MIB);
    let sent = office.send(&file, "state", &options);
    sent.only("ws", true).not("tls", &["failed"]).not("quic", &["failed"]);
    assert!(sent.inspected(), "{}", sent.0);
    assert!(sent.first_byte() <= Duration::from_millis(2500), "{}", sent.0);
    let fetched = office.fetch(&file, "state", &options);
    assert!(fetched.inspected(), "{}", fetched.0);
}

fn its_authority_is_trusted_but_nobody_shall_look(bed: &Bed) {
    let (office, proxy, own) = inspected(bed, true);
    let file = File::noise(bed, "secret", MIB);
    let log = office.gateway.log().len();
    let run = office.impatient("send").args(["--inspection", "refuse", "--proxy", &proxy.url()]);
    let done = office.run(run.arg("--ca").arg(&own.cert).arg(&file.path).arg(office.url("secret")));
    assert!([6, 10, 12].contains(&done.code()) && done.elapsed < Duration::from_secs(5), "{done}");
    assert!(done.stderr.contains("inspected"), "{done}");
    assert!(!office.gateway.log()[log..].contains("alice"), "the token was shown\n{}", office.gateway.log());
    assert!(!office.gateway.at("secret").exists());
    // Where nobody looks, it makes no difference.
    bed.firewall().drop_udp();
    office.send(&file, "state", &["--inspection", "refuse"]).only("tls", false);
    office.send(&file, "state", &["--inspection", "refuse", "--via", "ws"]).only("ws", false);
}

fn its_authority_is_trusted_but_policies_refuse(bed: &Bed) {
    let policies = bed.write(
        "office.cedar",
        "permit(principal, action, resource);\n@id(\"not-looked-into\") forbid(principal, action == Metra::Action::\"openSession\", \
         resource) when { context.inspected };",
    );
    let trail = bed.path("audit.log");
    let config =
        format!("[policy]\nfiles = [{policies:?}]\n[audit.file]\npath = {trail:?}\nsync_seconds = 0\n");
    let (office, proxy, own) = behind_one(Office::configured(bed, PORT, &config), true);
    let file = File::noise(bed, "secret", MIB);
    let run = office.impatient("send").args(["--proxy", &proxy.url()]).arg("--ca").arg(&own.cert);
    let done = office.run(run.arg(&file.path).arg(office.url("secret"))).expect(12);
    assert!(done.stderr.contains("policy not-looked-into"), "{done}");
    assert!(!office.gateway.at("secret").exists());
    let recorded = || {
        let text = fs::read_to_string(&trail).unwrap_or_default();
        text.lines()
            .any(|line| ["\"not-looked-into\"", "\"ws\"", "\"alice\""].iter().all(|part| line.contains(part)))
    };
    wait_until("the record of it", recorded);
    // Where nobody looks, they let everybody in.
    bed.firewall().drop_udp();
    office.send(&file, "state", &[]).only("tls", false);
    office.send(&file, "state", &["--via", "ws"]).only("ws", false);
}

fn its_authority_is_not_known(bed: &Bed) {
    let (office, proxy, _own) = inspected(bed, true);
    refused(&office, &proxy, &[]);
}

fn the_gateway_is_pinned(bed: &Bed) {
    let (office, proxy, own) = inspected(bed, true);
    let pin = office.gateway.pin();
    // With a pin, no authority counts.
    refused(&office, &proxy, &["--pin", &pin]);
    refused(&office, &proxy, &["--pin", &pin, "--ca", text(&own.cert)]);
}

/// The command says what is wrong, and sends nothing.
fn refused(office: &Office<'_>, proxy: &Proxy, options: &[&str]) {
    let file = File::noise(office.bed, "secret", MIB);
    let run = match options {
        [] => office.impatient("send"),
        _ => office.stranger("state", "send", 2).args(options),
    };
    let run = run.args(["--proxy", &proxy.url()]);
    let done = office.run(run.arg(&file.path).arg(office.url("secret"))).expect(REFUSED);
    assert!(done.elapsed < Duration::from_secs(5), "{done}");
    assert!(done.stderr.contains("certificate") || done.text().contains("certificate"), "{done}");
    assert!(!proxy.log().contains("GET https"), "the proxy was spoken to\n{}", proxy.log());
    assert!(!office.gateway.at("secret").exists());
}

fn websockets_do_not_pass(bed: &Bed) {
    let (office, proxy, own) = inspected(bed, false);
    let file = File::noise(bed, "file", MIB);
    let run = office.impatient("send").args(["--proxy", &proxy.url()]);
    let run = run.arg("--ca").arg(&own.cert).arg(&file.path).arg(office.url("file"));
    let done = office.run(run);
    assert!([5, 6, 10].contains(&done.code()), "{done}");
    assert!(done.elapsed < Duration::from_secs(6), "{done}");
    assert!(done.stderr.contains("WebSocket") || done.text().contains("WebSocket"), "{done}");
}

fn it_knows_no_tls_1_3(bed: &Bed) {
    let office = Office::new(bed);
    let own = Authority::new(bed, "office");
    let squid = Squid::new(bed, Auth::Anyone, PORT).inspecting(&own, &office.authority.cert);
    let proxy = squid.without_tls13().start();
    bed.firewall().only_proxy(&bed.proxy);
    let file = File::noise(bed, "file", MIB);
    let with = |run: Run| run.args(["--proxy", &proxy.url(), "--ca", text(&own.cert)]);
    let done = office.run(with(office.impatient("send")).arg(&file.path).arg(office.url("file")));
    assert!([5, 6].contains(&done.code()) && done.elapsed < Duration::from_secs(6), "{done}");
    assert!(done.stderr.contains("no TLS 1.3") || done.text().contains("no TLS 1.3"), "{done}");
    let doctor = office.run(with(office.client("doctor", "doctor")).arg(office.url(""))).expect(5);
    for rung in ["tls", "ws"] {
        let found = doctor.events.iter().find(|event| event["event"] == "finding" && event["rung"] == rung);
        let found = found.unwrap_or_else(|| panic!("nothing is said of {rung}\n{doctor}"));
        let words = found["administrator"].as_str().unwrap_or_default();
        assert!(found["name"] == "tls" && words.contains("exempt"), "{doctor}");
    }
}

fn without_a_proxy_that_one_knows(bed: &Bed) {
    let office = Office::new(bed);
    let own = Authority::new(bed, "office");
    let squid = Squid::new(bed, Auth::Anyone, PORT).inspecting(&own, &office.authority.cert);
    let squid = squid.with_websockets().in_the_way().start();
    bed.firewall().divert(PORT, DIVERTED);
    let file = File::noise(bed, "file", 2 * MIB);
    let sent = office.send(&file, "state", &["--ca", text(&own.cert)]);
    sent.only("ws", false).not("tls", &["failed"]);
    assert!(sent.inspected(), "{}", sent.0);
    assert!(squid.log().contains("/"), "{}", squid.log());
}

fn nobody_looks(bed: &Bed) {
    let office = Office::new(bed);
    bed.firewall().drop_udp();
    let file = File::noise(bed, "file", MIB);
    for kind in ["tls", "ws"] {
        assert!(!office.send(&file, "state", &["--via", kind]).inspected());
        let pin = office.gateway.pin();
        let run = office.stranger("state", "send", 6).args(["--pin", &pin, "--via", kind]);
        let done = office.run(run.arg(&file.path).arg(office.url("file")));
        assert!(!office.arrived(&file, done).inspected());
    }
}

/// The exit code of who cannot show that it is the gateway.
const REFUSED: i32 = 10;
