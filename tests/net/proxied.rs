//! Networks with a proxy as the only way out.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use crate::harness::bed::{OUTSIDE_SERVER, PROXY};
use crate::harness::data::MIB;
use crate::harness::office::{File, Office, PORT};
use crate::harness::proxies::{self, Auth, PLAIN_PASSWORD, Proxy, USER};
use crate::harness::squid::Squid;
use crate::harness::{Bed, Done};

tests![
    squid,
    squid_with_a_password,
    squid_over_tls,
    squid_for_https_alone,
    tinyproxy,
    tinyproxy_with_a_password,
    dante,
    dante_with_a_password,
    websockets_through_all_of_them,
    names_are_the_proxys_business,
    from_the_environment,
    from_the_configuration,
    not_for_this_gateway,
    udp_is_open_beside_it,
    a_wrong_password,
    no_password,
    a_wrong_password_for_dante,
    a_port_that_it_refuses,
    no_proxy_there,
    a_proxy_that_says_nothing,
];

/// That a transfer goes through the proxy, both ways, and through nothing else.
fn goes_through(bed: &Bed, proxy: &Proxy) {
    let office = Office::new(bed);
    bed.firewall().only_proxy(&bed.proxy);
    let file = File::noise(bed, "file", 2 * MIB);
    let sent = office.send(&file, "state", &["--proxy", &proxy.url()]);
    sent.only("tls", true).not("quic", &["failed"]);
    assert!(sent.first_byte() <= Duration::from_millis(1500), "{}", sent.0);
    office.fetch(&file, "state", &["--proxy", &proxy.url()]).only("tls", true);
    said_nothing_of_passwords(&sent.0);
}

#[track_caller]
fn said_nothing_of_passwords(done: &Done) {
    for secret in [proxies::PASSWORD, proxies::PASSWORD_IN_URL, PLAIN_PASSWORD, WRONG] {
        assert!(
            !done.text().contains(secret) && !done.stderr.contains(secret),
            "a password is shown\n{done}"
        );
    }
}

fn squid(bed: &Bed) {
    goes_through(bed, &Squid::new(bed, Auth::Anyone, PORT).start());
}

fn squid_with_a_password(bed: &Bed) {
    goes_through(bed, &Squid::new(bed, Auth::Password, PORT).start());
}

fn squid_over_tls(bed: &Bed) {
    let office = Office::new(bed);
    // Of an authority that the client trusts.
    let cert = office.authority.issue(bed, &[PROXY]);
    let proxy = Squid::new(bed, Auth::Password, PORT).over_tls(&cert).start();
    bed.firewall().only_proxy(&bed.proxy);
    let file = File::noise(bed, "file", 2 * MIB);
    office.send(&file, "state", &["--proxy", &proxy.url()]).only("tls", true);
}

fn squid_for_https_alone(bed: &Bed) {
    let office = Office::on(bed, 443);
    let proxy = Squid::new(bed, Auth::Anyone, 443).start();
    bed.firewall().only_proxy(&bed.proxy);
    let file = File::noise(bed, "file", 2 * MIB);
    office.send(&file, "state", &["--proxy", &proxy.url()]).only("tls", true);
}

fn tinyproxy(bed: &Bed) {
    goes_through(bed, &proxies::tinyproxy(bed, Auth::Anyone, &[PORT]));
}

fn tinyproxy_with_a_password(bed: &Bed) {
    goes_through(bed, &proxies::tinyproxy(bed, Auth::Password, &[PORT]));
}

fn dante(bed: &Bed) {
    goes_through(bed, &proxies::dante(bed, Auth::Anyone));
}

fn dante_with_a_password(bed: &Bed) {
    goes_through(bed, &proxies::dante(bed, Auth::Password));
}

fn websockets_through_all_of_them(bed: &Bed) {
    let office = Office::new(bed);
    bed.firewall().only_proxy(&bed.proxy);
    let through = |proxy: &Proxy, name: &str| {
        let file = File::noise(bed, name, MIB);
        office.send(&file, "state", &["--proxy", &proxy.url(), "--via", "ws"]).only("ws", true);
    };
    through(&Squid::new(bed, Auth::Password, PORT).start(), "squid");
    through(&proxies::tinyproxy(bed, Auth::Password, &[PORT]), "tinyproxy");
    through(&proxies::dante(bed, Auth::Password), "dante");
}

fn names_are_the_proxys_business(bed: &Bed) {
    let office = Office::new(bed);
    bed.firewall().only_proxy(&bed.proxy);
    let url = format!("mtp://{OUTSIDE_SERVER}:{PORT}/");
    let through = |proxy: &str, name: &str| {
        let file = File::noise(bed, name, MIB);
        let run = office.client("state", "send").args(["--proxy", proxy]).arg(&file.path);
        office.arrived(&file, office.run(run.arg(format!("{url}{name}")))).only("tls", true);
    };
    let squid = Squid::new(bed, Auth::Anyone, PORT).start();
    through(&squid.url(), "squid");
    let dante = proxies::dante(bed, Auth::Anyone);
    through(&dante.url().replace("socks5:", "socks5h:"), "dante");
}

fn from_the_environment(bed: &Bed) {
    let office = Office::new(bed);
    bed.firewall().only_proxy(&bed.proxy);
    let squid = Squid::new(bed, Auth::Password, PORT).start();
    let dante = proxies::dante(bed, Auth::Anyone);
    let variables = [
        ("HTTPS_PROXY", squid.url()),
        ("https_proxy", squid.url()),
        ("ALL_PROXY", dante.url()),
        ("all_proxy", dante.url()),
    ];
    for (name, proxy) in variables {
        let file = File::noise(bed, name, MIB);
        let run = office.client(name, "send").env(name, &proxy).arg(&file.path).arg(office.url(name));
        let sent = office.arrived(&file, office.run(run));
        sent.only("tls", true);
        said_nothing_of_passwords(&sent.0);
    }
}

fn from_the_configuration(bed: &Bed) {
    let office = Office::new(bed);
    bed.firewall().only_proxy(&bed.proxy);
    let squid = Squid::new(bed, Auth::Password, PORT).start();
    let config = bed.write("client.toml", format!("proxy = {:?}\n", squid.url()));
    let readable_by = |mode| fs::set_permissions(&config, fs::Permissions::from_mode(mode)).unwrap();
    readable_by(0o600);
    let file = File::noise(bed, "file", MIB);
    // What the environment says does not count.
    let run = |verb| {
        let run = office.client("state", verb).env("METRA_CONFIG", &config);
        run.env("HTTPS_PROXY", format!("http://{PROXY}:9"))
    };
    let send = || office.arrived(&file, office.run(run("send").arg(&file.path).arg(office.url("file"))));
    let sent = send();
    sent.only("tls", true);
    assert_eq!(sent.0.stderr, "", "{}", sent.0);
    readable_by(0o644);
    let sent = send();
    assert!(sent.0.stderr.contains("others can read it"), "{}", sent.0);
    said_nothing_of_passwords(&sent.0);
    // QUIC is a finding, and the other ways work through the proxy.
    let doctor = office.run(run("doctor").arg(office.url(""))).expect(1);
    let works = |event: &&serde_json::Value| event["event"] == "way" && event["works"] == true;
    assert_eq!(doctor.events.iter().filter(works).count(), 2, "{doctor}");
    said_nothing_of_passwords(&doctor);
}

fn not_for_this_gateway(bed: &Bed) {
    let office = Office::new(bed);
    bed.firewall().drop_udp();
    // A proxy that is not there, and is not missed.
    let nowhere = format!("http://{PROXY}:9");
    let direct = |state: &str, more: &[&str], no_proxy: &str| {
        let file = File::noise(bed, state, MIB);
        let run = office.client(state, "send").env("HTTPS_PROXY", &nowhere).env("NO_PROXY", no_proxy);
        let run = run.args(more).arg(&file.path).arg(office.url(state));
        office.arrived(&file, office.run(run)).only("tls", false);
    };
    direct("none", &["--proxy", "none"], "");
    direct("host", &[], "localhost,server.example");
    direct("domain", &[], "other.example, .example");
    direct("all", &[], "*");
}

fn udp_is_open_beside_it(bed: &Bed) {
    let office = Office::new(bed);
    let proxy = Squid::new(bed, Auth::Anyone, PORT).start();
    let sent = office.send(&File::noise(bed, "file", 2 * MIB), "state", &["--proxy", &proxy.url()]);
    assert_eq!(sent.rung("quic").outcome, "used", "{}", sent.0);
}

/// How a client ends whose proxy does not help it.
fn fails(office: &Office<'_>, codes: &[i32], proxy: &str) -> Done {
    office.bed.firewall().only_proxy(&office.bed.proxy);
    let file = File::noise(office.bed, "file", MIB);
    let run = office.impatient("send").args(["--proxy", proxy]);
    let done = office.run(run.arg(&file.path).arg(office.url("file")));
    assert!(codes.contains(&done.code()) && done.elapsed < SOON, "{done}");
    assert!(
        done.stderr.contains(PROXY) || done.text().contains(PROXY),
        "it does not say which proxy\n{done}"
    );
    said_nothing_of_passwords(&done);
    done
}

fn a_wrong_password(bed: &Bed) {
    let office = Office::new(bed);
    for proxy in
        [Squid::new(bed, Auth::Password, PORT).start(), proxies::tinyproxy(bed, Auth::Password, &[PORT])]
    {
        fails(&office, &[UNKNOWN], &proxy.url_as(&format!("{USER}:{WRONG}@")));
    }
}

fn no_password(bed: &Bed) {
    let office = Office::new(bed);
    let proxy = Squid::new(bed, Auth::Password, PORT).start();
    fails(&office, &[UNKNOWN], &proxy.url_as(""));
}

fn a_wrong_password_for_dante(bed: &Bed) {
    let office = Office::new(bed);
    let proxy = proxies::dante(bed, Auth::Password);
    fails(&office, &[UNKNOWN], &proxy.url_as(&format!("{USER}:{WRONG}@")));
    fails(&office, &[UNKNOWN], &proxy.url_as(""));
}

fn a_port_that_it_refuses(bed: &Bed) {
    let office = Office::new(bed);
    let proxy = Squid::new(bed, Auth::Anyone, 443).start();
    let done = fails(&office, &[FORBIDDEN], &proxy.url());
    assert!(done.stderr.contains("403") || done.text().contains("403"), "{done}");
}

fn no_proxy_there(bed: &Bed) {
    let office = Office::new(bed);
    fails(&office, &[AWAY], &format!("http://{PROXY}:9"));
    fails(&office, &[AWAY], &format!("socks5://{PROXY}:9"));
}

fn a_proxy_that_says_nothing(bed: &Bed) {
    let office = Office::new(bed);
    let listener = bed.proxy.enter(|| TcpListener::bind((bed.proxy.address, 8080)).unwrap());
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            std::thread::spawn(move || connection.unwrap().read_to_end(&mut Vec::new()));
        }
    });
    fails(&office, &[AWAY], &format!("http://{PROXY}:8080"));
    fails(&office, &[AWAY], &format!("socks5://{PROXY}:8080"));
}

const WRONG: &str = "not-the-word";

/// With a timeout of two seconds, and UDP that says nothing.
const SOON: Duration = Duration::from_secs(5);

/// Exit codes: credentials, what is not allowed, nobody there.
const UNKNOWN: i32 = 10;
const FORBIDDEN: i32 = 12;
const AWAY: i32 = 5;
