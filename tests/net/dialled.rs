//! `fallback::dial` and its TLS by themselves, through real proxies to a real gateway: what they ask for is understood, and
//! they understand what they are told.

use std::time::{Duration, Instant};

use metra_certs::{TrustAnchors, client_config};
use metra_fallback::proxy::Proxy;
use metra_fallback::tls::{Protocol, Secured, TlsClient};
use metra_fallback::{DialError, DialOptions, ProxyTls, Target, dial};
use metra_transport::LinkError;

use crate::harness::Bed;
use crate::harness::bed::{OUTSIDE_SERVER, PROXY, SERVER};
use crate::harness::certs::Authority;
use crate::harness::office::{Office, PORT};
use crate::harness::proxies::{self, Auth, PASSWORD, PASSWORD_IN_URL, PLAIN_PASSWORD, USER};
use crate::harness::squid::{DIVERTED, Squid};

tests![
    through_all_of_them,
    who_does_not_know_the_password,
    what_the_rules_forbid,
    where_nobody_listens,
    where_nothing_comes_back,
    inspected,
    inspected_unasked,
];

/// A client that trusts these authorities, by itself: no session, no job.
struct Dialler<'a> {
    bed: &'a Bed,
    trust: TrustAnchors,
}

impl<'a> Dialler<'a> {
    fn new(office: &Office<'a>) -> Self {
        Self { bed: office.bed, trust: TrustAnchors::new().ca_file(&office.authority.cert) }
    }

    /// Connects by way of a proxy, if there is a URL of one.
    fn dial(&self, proxy: &str, host: &str, port: u16) -> Result<(), DialError> {
        self.with(proxy, host, port, async |_, _| ())
    }

    /// Connects to the gateway and asks it for MTP, or for HTTP. What the connection then is for.
    fn tls(&self, proxy: &str, host: &str, mtp: bool) -> Result<Protocol, LinkError> {
        let secured = self.with(proxy, host, PORT, async |tls: TlsClient, stream| {
            if mtp { tls.mtp(stream, host).await } else { tls.http(stream, host).await }
        });
        secured.unwrap().map(|Secured { protocol, .. }| protocol)
    }

    fn with<T: Send>(
        &self,
        proxy: &str,
        host: &str,
        port: u16,
        next: impl AsyncFnOnce(TlsClient, metra_fallback::BoxStream) -> T + Send,
    ) -> Result<T, DialError> {
        let tls = client_config(&self.trust, None).unwrap();
        let proxy_tls = Some(ProxyTls::new((*tls).clone()));
        let options = DialOptions { timeout: Duration::from_secs(2), proxy_tls };
        let proxy = (!proxy.is_empty()).then(|| proxy.parse::<Proxy>().unwrap());
        let target = Target { host: host.to_owned(), port };
        self.bed.client.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let dialled = dial(&target, proxy.as_ref(), &options).await?;
                Ok(next(TlsClient::new(&tls), dialled.stream).await)
            })
        })
    }
}

fn through_all_of_them(bed: &Bed) {
    let office = Office::new(bed);
    let dialler = Dialler::new(&office);
    assert_eq!(dialler.tls("", SERVER, true), Ok(Protocol::Mtp));
    bed.firewall().only_proxy(&bed.proxy);
    assert!(dialler.dial("", SERVER, PORT).unwrap_err().is_silence());
    let through = |proxy: &proxies::Proxy| {
        assert_eq!(dialler.tls(&proxy.url(), SERVER, true), Ok(Protocol::Mtp), "{}", proxy.log());
        let by_name = proxy.url().replace("socks5:", "socks5h:");
        assert_eq!(dialler.tls(&by_name, OUTSIDE_SERVER, true), Ok(Protocol::Mtp), "{}", proxy.log());
    };
    for auth in [Auth::Anyone, Auth::Password] {
        through(&Squid::new(bed, auth, PORT).start());
        let cert = office.authority.issue(bed, &[PROXY]);
        through(&Squid::new(bed, auth, PORT).over_tls(&cert).start());
        through(&proxies::tinyproxy(bed, auth, &[PORT]));
        through(&proxies::dante(bed, auth));
    }
}

/// An error that will be the same again, names the proxy, and shows no password.
#[track_caller]
fn lasting(error: &DialError) {
    let text = error.to_string();
    assert!(error.is_final() && !error.is_silence() && text.contains(PROXY), "{text}");
    for secret in [WRONG, PASSWORD, PASSWORD_IN_URL, PLAIN_PASSWORD] {
        assert!(!text.contains(secret), "{text}");
    }
}

fn who_does_not_know_the_password(bed: &Bed) {
    let office = Office::new(bed);
    let dialler = Dialler::new(&office);
    bed.firewall().only_proxy(&bed.proxy);
    for proxy in [
        Squid::new(bed, Auth::Password, PORT).start(),
        proxies::tinyproxy(bed, Auth::Password, &[PORT]),
        proxies::dante(bed, Auth::Password),
    ] {
        for who in [String::new(), format!("{USER}:{WRONG}@"), format!("bob:{WRONG}@")] {
            let error = dialler.dial(&proxy.url_as(&who), SERVER, PORT).unwrap_err();
            assert!(matches!(error, DialError::ProxyAuth { .. }), "{error}\n{}", proxy.log());
            lasting(&error);
        }
    }
}

fn what_the_rules_forbid(bed: &Bed) {
    let office = Office::new(bed);
    let dialler = Dialler::new(&office);
    bed.firewall().only_proxy(&bed.proxy);
    for proxy in [
        Squid::new(bed, Auth::Anyone, 443).start(),
        proxies::tinyproxy(bed, Auth::Anyone, &[443]),
        proxies::dante_without(bed, SERVER),
    ] {
        let error = dialler.dial(&proxy.url(), SERVER, PORT).unwrap_err();
        assert!(matches!(error, DialError::ProxyRefused { .. }), "{error}\n{}", proxy.log());
        lasting(&error);
    }
}

fn where_nobody_listens(bed: &Bed) {
    let office = Office::new(bed);
    let dialler = Dialler::new(&office);
    bed.firewall().only_proxy(&bed.proxy);
    let nobody = PORT + 1;
    for proxy in [
        Squid::new(bed, Auth::Anyone, nobody).start(),
        proxies::tinyproxy(bed, Auth::Anyone, &[nobody]),
        proxies::dante(bed, Auth::Anyone),
    ] {
        let error = dialler.dial(&proxy.url(), SERVER, nobody).unwrap_err();
        let refused = matches!(error, DialError::ProxyRefused { .. });
        // It may be there the next time.
        assert!(refused && !error.is_final() && !error.is_silence(), "{error}\n{}", proxy.log());
    }
    let error = dialler.dial(&format!("http://{PROXY}:9"), SERVER, PORT).unwrap_err();
    assert!(matches!(error, DialError::Connect { .. }) && !error.is_silence(), "{error}");
}

fn where_nothing_comes_back(bed: &Bed) {
    let office = Office::new(bed);
    let dialler = Dialler::new(&office);
    let proxies = [
        Squid::new(bed, Auth::Anyone, PORT).start(),
        proxies::tinyproxy(bed, Auth::Anyone, &[PORT]),
        proxies::dante(bed, Auth::Anyone),
    ];
    bed.firewall().cut_server();
    for proxy in &proxies {
        let start = Instant::now();
        let error = dialler.dial(&proxy.url(), SERVER, PORT).unwrap_err();
        assert!(error.is_silence() && !error.is_final(), "{error}\n{}", proxy.log());
        assert!(start.elapsed() < Duration::from_secs(3), "{error}");
    }
}

fn inspected(bed: &Bed) {
    let office = Office::new(bed);
    let own = Authority::new(bed, "office");
    let squid = Squid::new(bed, Auth::Anyone, PORT).inspecting(&own, &office.authority.cert);
    let squid = squid.with_websockets().start();
    bed.firewall().only_proxy(&bed.proxy);
    looked_into(&office, &own, &squid.url());
}

fn inspected_unasked(bed: &Bed) {
    let office = Office::new(bed);
    let own = Authority::new(bed, "office");
    let squid = Squid::new(bed, Auth::Anyone, PORT).inspecting(&own, &office.authority.cert);
    let _squid = squid.with_websockets().in_the_way().start();
    bed.firewall().divert(PORT, DIVERTED);
    looked_into(&office, &own, "");
}

/// Who knows the gateway alone is warned. Who knows the office's authority gets HTTP, but no MTP.
fn looked_into(office: &Office<'_>, own: &Authority, proxy: &str) {
    let stranger = Dialler::new(office);
    for mtp in [true, false] {
        let error = stranger.tls(proxy, SERVER, mtp).unwrap_err();
        assert!(matches!(&error, LinkError::Handshake(text) if text.contains("certificate")), "{error:?}");
    }
    let insider = Dialler { trust: TrustAnchors::new().ca_file(&own.cert), ..stranger };
    let error = insider.tls(proxy, SERVER, true).unwrap_err();
    assert!(matches!(&error, LinkError::NoProtocol(_)), "{error:?}");
    assert_eq!(insider.tls(proxy, SERVER, false), Ok(Protocol::Http1));
}

const WRONG: &str = "not-the-word";
