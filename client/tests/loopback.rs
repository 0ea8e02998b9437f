//! Client and gateway in one process, over loopback.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metra_certs::TrustAnchors;
use metra_client::{
    Address, Client, ConnectOptions, GetRequest, GetTo, JobReport, Policy, Priority, RatePolicy, Rules, Rung,
    SendRequest, Watch,
};
use metra_core::wire::{Keep, Overwrite, Placement, Symlinks};
use metra_gateway::Gateway;
use metra_gateway::config::{RawConfig, RawRates};
use metra_store::source::{Root, SourceSpec};
use metra_transport::Rt;
use metra_transport::quic::Tuning;
use tempfile::TempDir;

struct World {
    dir: TempDir,
    gateway: Option<Gateway>,
    port: u16,
    rates: RawRates,
}

impl World {
    async fn new() -> Self {
        Self::granting(RawRates::default()).await
    }

    async fn granting(rates: RawRates) -> Self {
        let _ = tracing_subscriber::fmt().with_env_filter("info").with_test_writer().try_init();
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("root")).unwrap();
        let mut world = Self { dir, gateway: None, port: 0, rates };
        world.start().await;
        world
    }

    async fn start(&mut self) {
        let mut raw = RawConfig::default();
        raw.listen = Some(metra_gateway::config::OneOrMany::One(format!("127.0.0.1:{}", self.port)));
        raw.root = Some(self.path("root"));
        raw.state = Some(self.path("state"));
        raw.rates = self.rates.clone();
        let config = raw.validate(&self.path("state")).unwrap();
        // The socket of a gateway that was shut down is closed by a task of its own, a moment later.
        let mut tries = 0;
        let gateway = loop {
            match Gateway::start(Rt::tokio(), config.clone()).await {
                Ok(gateway) => break gateway,
                Err(error) if tries == 100 => panic!("{error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
            tries += 1;
        };
        self.port = gateway.local_addrs()[0].port();
        self.gateway = Some(gateway);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn client(&self) -> Client {
        self.client_at(None, 1).await
    }

    async fn client_at(&self, rate: Option<RatePolicy>, links: usize) -> Client {
        let options = ConnectOptions {
            address: Address { host: "127.0.0.1".into(), port: self.port },
            trust: TrustAnchors::new().local(self.path("state")),
            certificate: None,
            token: None,
            state: self.path("client"),
            links,
            links_max: links,
            retry_for: Duration::from_secs(20),
            remember_paths: true,
            via: Rung::ALL.to_vec(),
            proxy: Rules::direct(),
            masque: Vec::new(),
            refuse_inspection: false,
            tuning: Tuning::default(),
            rate,
            agent: "test".into(),
        };
        Client::connect(Rt::tokio(), options).await.unwrap()
    }

    async fn send(&self, path: &Path, dest: &str) -> JobReport {
        let client = self.client().await;
        let report = client.send(push(path, dest), Watch::default()).await.unwrap();
        client.close().await;
        report
    }

    async fn get(&self, path: &str, to: &Path) -> JobReport {
        let client = self.client().await;
        let to = GetTo::Path { path: to.into(), into: false };
        let report = client.get(pull(path, to), Watch::default()).await.unwrap();
        client.close().await;
        report
    }
}

fn pull(path: &str, to: GetTo) -> GetRequest {
    GetRequest {
        paths: vec![path.into()],
        filters: vec![],
        symlinks: Symlinks::Keep,
        keep: Keep { mode: true, times: true },
        to,
        overwrite: Overwrite::Different,
        priority: Priority::NORMAL,
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

/// Bytes that neither repeat nor compress.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

fn tree(at: &Path) {
    std::fs::create_dir_all(at.join("deep/er")).unwrap();
    std::fs::create_dir_all(at.join("empty")).unwrap();
    for i in 0..300 {
        std::fs::write(at.join(format!("deep/f{i}")), noise(i * 37, i as u64)).unwrap();
    }
    std::fs::write(at.join("deep/er/large"), noise(9_000_000, 7)).unwrap();
    std::fs::write(at.join("nothing"), b"").unwrap();
    std::os::unix::fs::symlink("deep/er/large", at.join("link")).unwrap();
}

fn same(a: &Path, b: &Path) {
    let list = |at: &Path| {
        let mut names: Vec<_> =
            walk(at).into_iter().map(|p| p.strip_prefix(at).unwrap().to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(list(a), list(b));
    for name in list(a) {
        let (x, y) = (a.join(&name), b.join(&name));
        let (mx, my) = (x.symlink_metadata().unwrap(), y.symlink_metadata().unwrap());
        assert_eq!(mx.file_type(), my.file_type(), "{name:?}");
        assert_eq!(mx.modified().unwrap(), my.modified().unwrap(), "{name:?}");
        assert_eq!(mx.permissions(), my.permissions(), "{name:?}");
        if mx.is_file() {
            assert!(std::fs::read(&x).unwrap() == std::fs::read(&y).unwrap(), "{name:?}");
        } else if mx.is_symlink() {
            assert_eq!(std::fs::read_link(&x).unwrap(), std::fs::read_link(&y).unwrap());
        }
    }
}

fn walk(at: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(at).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            all.extend(walk(&path));
        }
        all.push(path);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_goes_there_and_back() {
    let world = World::new().await;
    let source = world.path("tree");
    tree(&source);
    let sent = world.send(&source, "in").await;
    assert_eq!((sent.failed, sent.unchanged), (0, 0));
    same(&source, &world.path("root/in"));
    assert!(!world.path("root/.metra").exists(), "nothing is left of the staging");
    let got = world.get("in", &world.path("back")).await;
    same(&source, &world.path("back"));
    assert!(got.receipt.is_some() && sent.receipt.is_some());

    let again = world.send(&source, "in2").await;
    assert_eq!(again.root, sent.root);
    // `in` is a directory now, so that the tree goes into it.
    world.send(&source, "in").await;
    same(&source, &world.path("root/in/tree"));
    let unchanged = world.send(&source, "in").await;
    assert_eq!(unchanged.chunks_sent, 0);
    // 300 small files, one large, one empty, one link.
    assert_eq!(unchanged.unchanged, 303);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_restarts_is_waited_for() {
    let mut world = World::new().await;
    let source = world.path("big");
    std::fs::write(&source, noise(200_000_000, 1)).unwrap();
    let client = world.client().await;
    let sending = tokio::spawn(async move {
        let report = client.send(push(&source, "big"), Watch::default()).await;
        client.close().await;
        report
    });
    tokio::time::sleep(Duration::from_millis(250)).await;
    world.gateway.take().unwrap().shutdown(Duration::from_secs(5)).await;
    world.start().await;
    let report = sending.await.unwrap().unwrap();
    assert!(std::fs::read(world.path("big")).unwrap() == std::fs::read(world.path("root/big")).unwrap());
    assert!(report.resumes > 0);
    assert!(report.chunks_resent * 4 < report.chunks, "{report:?}");
}

const MBIT: u64 = 1_000_000;

/// Sends and fetches 10 MB at a rate that is asked for: what the reports say was used, and what the watch was told.
async fn there_and_back(
    world: &World,
    asked: RatePolicy,
    links: usize,
) -> ([JobReport; 2], Vec<(RatePolicy, RatePolicy)>) {
    for at in ["data", "root/data"] {
        std::fs::write(world.path(at), noise(10_000_000, 3)).unwrap();
    }
    let told: Arc<Mutex<Vec<_>>> = Arc::default();
    let watch = || {
        let told = told.clone();
        let rate = Box::new(move |asked, used| told.lock().unwrap().push((asked, used)));
        Watch { rate, ..Watch::default() }
    };
    let client = world.client_at(Some(asked), links).await;
    let sent = client.send(push(&world.path("data"), "null:"), watch()).await.unwrap();
    let got = client.get(pull("data", GetTo::Null), watch()).await.unwrap();
    client.close().await;
    let told = told.lock().unwrap().clone();
    ([sent, got], told)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_that_is_granted_is_kept_both_ways() {
    let rates = RawRates { fixed_mbit: Some(1000), ..RawRates::default() };
    let world = World::granting(rates).await;
    let fixed = RatePolicy::new(Policy::Fixed, Some(80 * MBIT)).unwrap();
    for links in [1, 2] {
        let (reports, told) = there_and_back(&world, fixed, links).await;
        assert_eq!(told, []);
        for report in reports {
            assert_eq!(report.rate, fixed);
            // A second, if nothing else slows it down; on a loaded machine it may take longer, but never much less.
            assert!(report.elapsed >= Duration::from_millis(850), "{:?}", report.elapsed);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_granted_is_fair_and_below_the_rate_all_the_same() {
    let world = World::new().await;
    for policy in [Policy::Fixed, Policy::High] {
        let asked = RatePolicy::new(policy, Some(80 * MBIT)).unwrap();
        let fair = asked.as_fair();
        let (reports, told) = there_and_back(&world, asked, 1).await;
        assert_eq!(told, [(asked, fair); 2]);
        for report in reports {
            assert_eq!(report.rate, fair);
            assert!(report.elapsed >= Duration::from_millis(850), "{:?}", report.elapsed);
        }
    }
    let low = RatePolicy::new(Policy::Low, None).unwrap();
    let (reports, told) = there_and_back(&world, low, 1).await;
    assert_eq!((told, reports.map(|report| report.rate)), (vec![], [low; 2]));
}
