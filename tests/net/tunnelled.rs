//! Networks with a MASQUE proxy as the only way out.

use std::time::Duration;

use crate::harness::data::MIB;
use crate::harness::office::{File, Office, PORT, Sent};
use crate::harness::proxies::{self, PASSWORD, PASSWORD_IN_URL, Proxy, USER};
use crate::harness::{Bed, Done};

tests![
    over_http3,
    over_tcp_where_udp_is_dropped,
    what_the_doctor_says,
    a_wrong_password,
    where_it_may_not_lead,
    nobody_there,
];

/// A gateway, and a proxy that leads to it.
fn office(bed: &Bed) -> (Office<'_>, Proxy) {
    let office = Office::new(bed);
    let proxy = proxies::masque(bed, &office.authority, PORT);
    (office, proxy)
}

/// Sends a file, twice, and fetches it, all over this rung; not over `silent`, which are better.
fn goes_by(office: &Office<'_>, proxy: &Proxy, rung: &str, silent: &[&str]) {
    let url = proxy.url();
    let options = ["--masque-proxy", &url];
    let file = File::noise(office.bed, "file", 2 * MIB);
    let first = office.send(&file, "state", &options);
    first.only(rung, true);
    for better in silent {
        first.not(better, &["failed"]);
    }
    assert!(first.first_byte() <= Duration::from_millis(1500), "{}", first.0);
    let again = office.send(&File::noise(office.bed, "again", 2 * MIB), "state", &options);
    again.only(rung, true);
    for better in silent {
        again.not(better, &["skipped"]);
    }
    assert!(again.first_byte() <= Duration::from_millis(700), "{}", again.0);
    let fetched = office.fetch(&file, "state", &options);
    fetched.only(rung, true);
    let by_force = File::noise(office.bed, "by-force", 2 * MIB);
    let forced = office.send(&by_force, "by-force", &[&options[..], &["--via", "masque"]].concat());
    forced.only(rung, true);
    for Sent(done) in [&first, &again, &fetched, &forced] {
        said_nothing_of_passwords(done);
    }
    for log in [office.gateway.log(), proxy.log()] {
        assert!(!log.contains(" ERROR ") && !log.contains(" WARN "), "{log}");
    }
}

#[track_caller]
fn said_nothing_of_passwords(done: &Done) {
    for secret in [PASSWORD, PASSWORD_IN_URL] {
        assert!(
            !done.text().contains(secret) && !done.stderr.contains(secret),
            "a password is shown\n{done}"
        );
    }
}

fn over_http3(bed: &Bed) {
    let (office, proxy) = office(bed);
    bed.firewall().only_proxy_with_udp(&bed.proxy);
    goes_by(&office, &proxy, "masque", &["quic"]);
}

fn over_tcp_where_udp_is_dropped(bed: &Bed) {
    let (office, proxy) = office(bed);
    bed.firewall().only_proxy(&bed.proxy);
    goes_by(&office, &proxy, "masque-tcp", &["quic", "masque"]);
}

fn what_the_doctor_says(bed: &Bed) {
    let (office, proxy) = office(bed);
    bed.firewall().only_proxy_with_udp(&bed.proxy);
    let doctor = office.client("state", "doctor").args(["--masque-proxy", &proxy.url()]).arg(office.url(""));
    let doctor = office.run(doctor).expect(1);
    let ways = doctor.events.iter().filter(|event| event["event"] == "way" && event["works"] == true);
    let ways: Vec<_> = ways.map(|way| way["rung"].as_str().unwrap()).collect();
    assert_eq!(ways, ["masque", "masque-tcp"], "{doctor}");
    assert_eq!(doctor.summary()["best"], "masque", "{doctor}");
    said_nothing_of_passwords(&doctor);
}

/// How a client ends whose proxy does not help it.
fn fails(office: &Office<'_>, code: i32, proxy: &str) -> Done {
    office.bed.firewall().only_proxy_with_udp(&office.bed.proxy);
    let file = File::noise(office.bed, "file", MIB);
    let run = office.impatient("send").args(["--masque-proxy", proxy]);
    let done = office.run(run.arg(&file.path).arg(office.url("file"))).expect(code);
    assert!(done.elapsed < Duration::from_secs(5), "{done}");
    said_nothing_of_passwords(&done);
    done
}

fn a_wrong_password(bed: &Bed) {
    let (office, proxy) = office(bed);
    fails(&office, 10, &proxy.url_as(&format!("{USER}:not-the-word@")));
    fails(&office, 10, &proxy.url_as(""));
}

fn where_it_may_not_lead(bed: &Bed) {
    let office = Office::new(bed);
    let proxy = proxies::masque(bed, &office.authority, PORT + 1);
    let done = fails(&office, 12, &proxy.url());
    assert!(done.text().contains("403"), "{done}");
}

fn nobody_there(bed: &Bed) {
    let (office, proxy) = office(bed);
    let url = proxy.url();
    drop(proxy);
    fails(&office, 5, &url);
}
