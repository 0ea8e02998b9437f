//! Links in tunnels: to the gateway itself, through a proxy, and through two; over HTTP/3 and over TCP.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use metra_certs::{DevCa, TrustAnchors};
use metra_client::{
    Address, Client, ClientError, ConnectOptions, GetRequest, GetTo, JobReport, MasqueProxy, Outcome,
    Priority, Rules, Rung, SendRequest, Trouble, Tuning, Watch, probe,
};
use metra_core::code::Code;
use metra_core::wire::{Keep, Overwrite, Placement, Symlinks};
use metra_gateway::Gateway;
use metra_gateway::config::{Anonymous, OneOrMany, RawConfig, RawUser};
use metra_store::source::{Root, SourceSpec};
use metra_transport::Rt;
use tempfile::TempDir;

const MIB: usize = 1 << 20;
const BOTH: [Rung; 2] = [Rung::Masque, Rung::MasqueTcp];
const TOKEN: &str = "let-me-through-please";

/// A gateway, which may be a proxy for others.
struct Place {
    dir: TempDir,
    gateway: Gateway,
}

impl Place {
    /// Without tunnels to others.
    async fn gateway() -> Self {
        Self::new(|_| {}).await
    }

    /// Whose user alone, who has [`TOKEN`], may open tunnels, to `allowed`.
    async fn proxy(allowed: &str) -> Self {
        let allowed = vec![allowed.to_owned()];
        Self::new(|raw| {
            raw.tunnel.allow = allowed;
            raw.tunnel.dangerous_ranges = vec!["127.0.0.0/8".to_owned()];
            raw.anonymous = Some(Anonymous::Never);
            let token = raw.state.clone().unwrap().join("../token");
            std::fs::write(&token, TOKEN).unwrap();
            let user = RawUser { token_file: Some(token), ..RawUser::default() };
            raw.users.insert("alice".to_owned(), user);
        })
        .await
    }

    async fn new(change: impl FnOnce(&mut RawConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["root", "state"] {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        let mut raw = RawConfig::default();
        raw.listen = Some(OneOrMany::One("127.0.0.1:0".to_owned()));
        raw.root = Some(dir.path().join("root"));
        raw.state = Some(dir.path().join("state"));
        change(&mut raw);
        let config = raw.validate(&dir.path().join("state")).unwrap();
        let gateway = Gateway::start(Rt::tokio(), config).await.unwrap();
        Self { dir, gateway }
    }

    fn port(&self) -> u16 {
        self.gateway.local_addrs()[0].port()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn as_proxy(&self) -> MasqueProxy {
        format!("https://127.0.0.1:{}", self.port()).parse().unwrap()
    }

    /// To this one, by these rungs, through these proxies.
    fn options(&self, via: &[Rung], proxies: &[(&Place, Option<&str>)]) -> ConnectOptions {
        let trust = proxies.iter().fold(TrustAnchors::new(), |trust, (proxy, _)| {
            trust.ca_file(proxy.path("state").join(DevCa::CERT_FILE))
        });
        let shown = |(proxy, token): &(&Place, Option<&str>)| match token {
            Some(token) => proxy.as_proxy().with_token((*token).to_owned()).unwrap(),
            None => proxy.as_proxy(),
        };
        ConnectOptions {
            address: Address { host: "127.0.0.1".into(), port: self.port() },
            trust: trust.ca_file(self.path("state").join(DevCa::CERT_FILE)),
            certificate: None,
            token: None,
            state: self.path("client"),
            links: 1,
            links_max: 1,
            retry_for: Duration::from_secs(10),
            remember_paths: false,
            via: via.to_vec(),
            proxy: Rules::direct(),
            masque: proxies.iter().map(shown).collect(),
            refuse_inspection: true,
            tuning: Tuning::default(),
            rate: None,
            agent: "test".into(),
        }
    }
}

fn push(path: &Path, dest: &str) -> SendRequest {
    SendRequest {
        spec: SourceSpec::new(vec![Root::path(path)]),
        dest: dest.into(),
        placement: Placement::Auto,
        overwrite: Overwrite::Different,
        delete_source: false,
        priority: Priority::NORMAL,
    }
}

fn pull(path: &str, to: &Path) -> GetRequest {
    GetRequest {
        paths: vec![path.into()],
        filters: vec![],
        symlinks: Symlinks::Keep,
        keep: Keep { mode: true, times: true },
        to: GetTo::Path { path: to.into(), into: false },
        overwrite: Overwrite::Different,
        priority: Priority::NORMAL,
    }
}

/// Bytes that neither repeat nor compress.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// Sends a file and fetches it back.
async fn there_and_back(place: &Place, options: ConnectOptions, name: &str) -> [JobReport; 2] {
    let (source, back) = (place.path(name), place.path(&format!("{name}-back")));
    std::fs::write(&source, noise(16 * MIB, 5)).unwrap();
    let client = Client::connect(Rt::tokio(), options).await.unwrap();
    let sent = client.send(push(&source, name), Watch::default()).await.unwrap();
    let got = client.get(pull(name, &back), Watch::default()).await.unwrap();
    client.close().await;
    assert!(std::fs::read(&source).unwrap() == std::fs::read(&back).unwrap());
    [sent, got]
}

fn used(report: &JobReport, rung: Rung, via_proxy: bool) {
    assert!(report.links.iter().all(|kind| kind == "masque"), "{:?}", report.links);
    let (tried, proxied) = report.ladder.iter().find(|(tried, _)| tried.rung == rung).unwrap();
    assert_eq!((&tried.outcome, *proxied), (&Outcome::Used, via_proxy), "{:?}", report.ladder);
}

async fn refused(options: ConnectOptions) -> ClientError {
    match Client::connect(Rt::tokio(), options).await {
        Ok(_) => panic!("there is a link"),
        Err(error) => error,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn through_the_gateway_itself() {
    let gateway = Place::gateway().await;
    for rung in BOTH {
        for report in there_and_back(&gateway, gateway.options(&[rung], &[]), rung.name()).await {
            used(&report, rung, false);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn through_a_proxy_and_through_two() {
    let gateway = Place::gateway().await;
    let (near, far) = (Place::proxy("127.0.0.0/8:*").await, Place::proxy("127.0.0.0/8:*").await);
    for rung in BOTH {
        let one = gateway.options(&[rung], &[(&near, Some(TOKEN))]);
        for report in there_and_back(&gateway, one, &format!("one-{rung}")).await {
            used(&report, rung, true);
        }
        let two = gateway.options(&[rung], &[(&near, Some(TOKEN)), (&far, Some(TOKEN))]);
        for report in there_and_back(&gateway, two, &format!("two-{rung}")).await {
            used(&report, rung, true);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn user_and_password_are_shown() {
    let gateway = Place::gateway().await;
    let proxy = Place::proxy("127.0.0.0/8:*").await;
    for rung in BOTH {
        let mut options = gateway.options(&[rung], &[(&proxy, None)]);
        let url = format!("https://alice:{TOKEN}@127.0.0.1:{}", proxy.port());
        options.masque = vec![url.parse().unwrap()];
        Client::connect(Rt::tokio(), options).await.unwrap().close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_proxy_refuses_is_told() {
    let gateway = Place::gateway().await;
    let (proxy, narrow) = (Place::proxy("127.0.0.0/8:*").await, Place::proxy("127.0.0.0/8:9").await);
    for rung in BOTH {
        for token in [None, Some("wrong-and-long-enough")] {
            let error = refused(gateway.options(&[rung], &[(&proxy, token)])).await;
            assert_eq!((error.code, error.retryable), (Code::Unauthenticated, false), "{rung}: {error}");
            assert!(error.message.contains("401") || error.message.contains("407"), "{error}");
        }
        let error = refused(gateway.options(&[rung], &[(&narrow, Some(TOKEN))])).await;
        assert_eq!((error.code, error.retryable), (Code::Denied, false), "{rung}: {error}");
        // RFC 9209 section 2.3.
        assert!(error.message.contains("403") && error.message.contains("http_request_denied"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_trusted_by_its_own_authority_and_never_by_a_pin() {
    let gateway = Place::gateway().await;
    let proxy = Place::proxy("127.0.0.0/8:*").await;
    for rung in BOTH {
        let mut options = gateway.options(&[rung], &[(&proxy, Some(TOKEN))]);
        options.trust = TrustAnchors::new().ca_file(gateway.path("state").join(DevCa::CERT_FILE));
        let error = refused(options).await;
        assert_eq!(error.code, Code::Unauthenticated, "{rung}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_works_is_measured() {
    let gateway = Place::gateway().await;
    for rung in BOTH {
        let seen = probe(&Rt::tokio(), &gateway.options(&[rung], &[]), rung).await.unwrap();
        assert_eq!((&seen.trouble, &seen.proxy, seen.ecn), (&None, &None, None), "{rung}");
        assert!(matches!(&seen.answer, Some(Ok(_))), "{:?}", seen.answer);
        assert!(seen.pin.is_some() && seen.rtt.is_some() && seen.moved.0 >= 256 * 1024);
        let (mtu, _) = seen.mtu.unwrap();
        assert!((1200..=1452).contains(&mtu), "{mtu}");
        println!("{rung}: {seen:?}");
    }
    let proxy = Place::proxy("127.0.0.0/8:9").await;
    let options = gateway.options(&[Rung::Masque], &[(&proxy, Some(TOKEN))]);
    let seen = probe(&Rt::tokio(), &options, Rung::Masque).await.unwrap();
    assert!(matches!(&seen.trouble, Some(Trouble::ProxyRefused(_))), "{:?}", seen.trouble);
    assert_eq!(seen.proxy, Some(proxy.as_proxy().to_string()));
}
