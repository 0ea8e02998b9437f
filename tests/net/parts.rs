//! The parts do what the other tests rely on: shown with curl and a server of openssl, without `metra`.

use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use crate::harness::bed::{OUTSIDE_SERVER, PROXY, SERVER};
use crate::harness::certs::Authority;
use crate::harness::firewall::Icmp;
use crate::harness::proxies::{self, Auth, Proxy};
use crate::harness::squid::{DIVERTED, Squid};
use crate::harness::{Bed, Daemon, program};

tests![
    the_line,
    firewalls_for_tcp,
    firewalls_for_udp,
    squid,
    squid_with_a_password,
    squid_over_tls,
    tinyproxy,
    tinyproxy_with_a_password,
    dante,
    dante_with_a_password,
    a_proxy_that_looks_into_tls,
    websockets_through_it,
    somebody_in_the_way_who_looks_into_tls,
];

/// An HTTPS server, and curl for it.
struct Site<'a> {
    bed: &'a Bed,
    authority: Authority,
    _server: Daemon,
}

impl<'a> Site<'a> {
    fn new(bed: &'a Bed) -> Self {
        Self::that(bed, "-www")
    }

    /// A server that answers as this option of `openssl s_server` says.
    fn that(bed: &'a Bed, answers: &str) -> Self {
        let authority = Authority::new(bed, "public");
        let cert = authority.issue(bed, &[SERVER, OUTSIDE_SERVER]);
        let mut server = program("openssl");
        server.args(["s_server", "-quiet", answers, "-accept", &format!("{}:{PORT}", bed.server.address)]);
        server.current_dir(bed.folder("site")).arg("-cert").arg(cert.cert).arg("-key").arg(cert.key);
        Self { bed, authority, _server: Daemon::start(bed, &bed.server, &mut server, PORT) }
    }

    /// What curl says of it: its exit code, and "HTTP-code issuer".
    fn curl(&self, trust: &Path, more: &[&str]) -> (Option<i32>, String) {
        let mut curl = program("curl");
        curl.args(["--silent", "--show-error", "--max-time", "4", "--output", "/dev/null", "--cacert"]);
        curl.arg(trust).args(["--write-out", "%{http_code} %{http_connect} %{certs}"]).args(more);
        curl.arg(format!("https://{SERVER}:{PORT}/file"));
        let Output { status, stdout, stderr } = self.bed.client.enter(|| curl.output()).unwrap();
        (status.code(), String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr))
    }

    /// That curl gets through, or does not, with these options.
    #[track_caller]
    fn expect(&self, code: i32, more: &[&str]) -> String {
        let (found, said) = self.curl(&self.authority.cert, more);
        assert_eq!(found, Some(code), "{said}");
        said
    }

    /// That a proxy is the way out, and does not let in those whom it does not know.
    #[track_caller]
    fn expect_through(&self, proxy: &Proxy, auth: Auth, refused: i32) {
        self.bed.firewall().only_proxy(&self.bed.proxy);
        self.expect(TIMEOUT, &["--max-time", "0.5"]);
        let said = self.expect(0, &["--proxy", &proxy.url()]);
        assert!(said.starts_with("200 "), "{said}");
        if auth == Auth::Password {
            for who in ["", "alice:wrong@", "bob:se%20cret@"] {
                self.expect(refused, &["--proxy", &proxy.url_as(who)]);
            }
        }
        // Names are its business, if the client likes.
        let by_name = proxy.url().replace("socks5:", "socks5h:");
        self.expect(0, &["--proxy", &by_name, "--connect-to", &format!("::{OUTSIDE_SERVER}:{PORT}")]);
        let told = [SERVER.to_owned(), self.bed.server.address.to_string()];
        assert!(told.iter().any(|server| proxy.log().contains(server)), "{}", proxy.log());
    }
}

fn the_line(bed: &Bed) {
    let site = Site::new(bed);
    let start = Instant::now();
    site.expect(0, &[]);
    // TCP, TLS 1.3 and HTTP: three round trips of 20 ms.
    assert!(start.elapsed() >= Duration::from_millis(60), "{:?}", start.elapsed());
}

fn firewalls_for_tcp(bed: &Bed) {
    let site = Site::new(bed);
    let firewall = bed.firewall();
    firewall.open();
    site.expect(0, &[]);
    firewall.only_tcp("80, 8443");
    site.expect(TIMEOUT, &["--max-time", "0.5"]);
    firewall.only_tcp(&PORT.to_string());
    site.expect(0, &[]);
    firewall.drop_udp();
    site.expect(0, &[]);
    firewall.cut_first_line();
    site.expect(TIMEOUT, &["--max-time", "0.5"]);
    site.expect(0, &["--interface", "link3"]);
}

fn firewalls_for_udp(bed: &Bed) {
    use std::io::ErrorKind::{ConnectionRefused, HostUnreachable, WouldBlock};
    use std::net::UdpSocket;

    let echo = bed.server.enter(|| UdpSocket::bind((bed.server.address, PORT)).unwrap());
    let echo = std::thread::spawn(move || {
        let mut buffer = [0; 2000];
        while let Ok((len, from)) = echo.recv_from(&mut buffer) {
            echo.send_to(&buffer[..len], from).unwrap();
        }
    });
    let ask = bed.client.enter(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    ask.connect((bed.server.address, PORT)).unwrap();
    ask.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    // How long the answer is, or why there is none.
    let probe = |len: usize| {
        ask.send(&vec![7; len]).map_err(|e| e.kind())?;
        ask.recv(&mut [0; 2000]).map_err(|e| e.kind())
    };
    let firewall = bed.firewall();
    assert_eq!(probe(1200), Ok(1200));
    firewall.drop_udp();
    assert_eq!(probe(1200), Err(WouldBlock));
    firewall.reject_udp(Icmp::PortUnreachable);
    assert_eq!(probe(1200), Err(ConnectionRefused));
    firewall.reject_udp(Icmp::AdminProhibited);
    assert_eq!(probe(1200), Err(HostUnreachable));
    firewall.drop_large_udp(1200);
    assert_eq!((probe(1200), probe(1201)), (Ok(1200), Err(WouldBlock)));
    firewall.stall_udp_after(5);
    assert_eq!((probe(1200), probe(1200), probe(1200)), (Ok(1200), Ok(1200), Err(WouldBlock)));
    firewall.open();
    assert_eq!(probe(1200), Ok(1200));
    assert!(!echo.is_finished());
}

fn squid(bed: &Bed) {
    let site = Site::new(bed);
    let proxy = Squid::new(bed, Auth::Anyone, PORT).start();
    site.expect_through(&proxy, Auth::Anyone, PROXY_REFUSES);
    drop(proxy);
    let other = Squid::new(bed, Auth::Anyone, 443).start();
    site.expect(PROXY_REFUSES, &["--proxy", &other.url()]);
}

fn squid_with_a_password(bed: &Bed) {
    let proxy = Squid::new(bed, Auth::Password, PORT).start();
    Site::new(bed).expect_through(&proxy, Auth::Password, PROXY_REFUSES);
}

fn squid_over_tls(bed: &Bed) {
    let site = Site::new(bed);
    let cert = site.authority.issue(bed, &[PROXY]);
    let proxy = Squid::new(bed, Auth::Password, PORT).over_tls(&cert).start();
    bed.firewall().only_proxy(&bed.proxy);
    let trust = site.authority.cert.to_str().unwrap();
    let said = site.expect(0, &["--proxy", &proxy.url(), "--proxy-cacert", trust]);
    assert!(said.starts_with("200 "), "{said}");
    site.expect(NOT_TRUSTED, &["--proxy", &proxy.url()]);
}

fn tinyproxy(bed: &Bed) {
    let site = Site::new(bed);
    let proxy = proxies::tinyproxy(bed, Auth::Anyone, &[PORT]);
    site.expect_through(&proxy, Auth::Anyone, PROXY_REFUSES);
    drop(proxy);
    let other = proxies::tinyproxy(bed, Auth::Anyone, &[443]);
    site.expect(PROXY_REFUSES, &["--proxy", &other.url()]);
}

fn tinyproxy_with_a_password(bed: &Bed) {
    let proxy = proxies::tinyproxy(bed, Auth::Password, &[PORT]);
    Site::new(bed).expect_through(&proxy, Auth::Password, PROXY_REFUSES);
}

fn dante(bed: &Bed) {
    let site = Site::new(bed);
    let proxy = proxies::dante(bed, Auth::Anyone);
    site.expect_through(&proxy, Auth::Anyone, SOCKS_REFUSES);
}

fn dante_with_a_password(bed: &Bed) {
    let proxy = proxies::dante(bed, Auth::Password);
    Site::new(bed).expect_through(&proxy, Auth::Password, SOCKS_REFUSES);
}

fn a_proxy_that_looks_into_tls(bed: &Bed) {
    let site = Site::new(bed);
    let own = Authority::new(bed, "office");
    let proxy = Squid::new(bed, Auth::Anyone, PORT).inspecting(&own, &site.authority.cert).start();
    bed.firewall().only_proxy(&bed.proxy);
    let through = ["--proxy", &proxy.url()];
    // Who does not know its authority sees that something is wrong, though the server's is known.
    site.expect(NOT_TRUSTED, &through);
    let (code, said) = site.curl(&own.cert, &through);
    assert!(code == Some(0) && said.starts_with("200 ") && said.contains("CN = office"), "{said}");
    // A server that it does not know itself is none that it speaks for.
    drop(proxy);
    let proxy = Squid::new(bed, Auth::Anyone, PORT).inspecting(&own, &own.cert).start();
    let (_, said) = site.curl(&own.cert, &["--proxy", &proxy.url()]);
    assert!(said.starts_with("503 "), "{said}");
}

fn websockets_through_it(bed: &Bed) {
    // It answers with what is in the file, whatever it is asked.
    let site = Site::that(bed, "-HTTP");
    let accept = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                  Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    bed.write("site/file", accept);
    let own = Authority::new(bed, "office");
    let upgrade = ["--http1.1", "-H", "Connection: Upgrade", "-H", "Upgrade: websocket"];
    let key = ["-H", "Sec-WebSocket-Version: 13", "-H", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="];
    let squid = || Squid::new(bed, Auth::Anyone, PORT).inspecting(&own, &site.authority.cert);
    let ask = |proxy: &Proxy| {
        let (_, said) = site.curl(&own.cert, &[&upgrade[..], &key, &["--proxy", &proxy.url()]].concat());
        said
    };
    let said = ask(&squid().with_websockets().start());
    assert!(said.starts_with("101 "), "{said}");
    let said = ask(&squid().start());
    assert!(said.starts_with("502 "), "{said}");
}

fn somebody_in_the_way_who_looks_into_tls(bed: &Bed) {
    let site = Site::new(bed);
    let own = Authority::new(bed, "office");
    let squid = Squid::new(bed, Auth::Anyone, PORT).inspecting(&own, &site.authority.cert);
    let squid = squid.in_the_way().start();
    bed.firewall().divert(PORT, DIVERTED);
    site.expect(NOT_TRUSTED, &[]);
    let (code, said) = site.curl(&own.cert, &[]);
    assert!(
        code == Some(0) && said.starts_with("200 ") && said.contains("CN = office"),
        "{said}\n{}",
        squid.log()
    );
    // Who comes by the other line is let alone.
    site.expect(0, &["--interface", "link3"]);
}

/// Where the server listens.
const PORT: u16 = 4443;

/// Exit codes of curl.
const TIMEOUT: i32 = 28;
const PROXY_REFUSES: i32 = 56;
const NOT_TRUSTED: i32 = 60;
const SOCKS_REFUSES: i32 = 97;
