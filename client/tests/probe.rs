//! One rung after the other, against a gateway and against what stands in its way.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use metra_certs::{DevCa, TrustAnchors, server_config};
use metra_client::{Address, ConnectOptions, Ecn, Probe, Rules, Rung, Stage, Trouble, Tuning, probe};
use metra_gateway::Gateway;
use metra_gateway::config::{OneOrMany, RawConfig};
use metra_transport::Rt;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, UdpSocket};
use tokio_rustls::TlsAcceptor;

const LOCALHOST: &str = "127.0.0.1";

struct World {
    dir: TempDir,
    gateway: Gateway,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("root/in")).unwrap();
        let mut raw = RawConfig::default();
        raw.listen = Some(OneOrMany::One(format!("{LOCALHOST}:0")));
        raw.root = Some(dir.path().join("root"));
        raw.state = Some(dir.path().join("state"));
        let config = raw.validate(&dir.path().join("state")).unwrap();
        let gateway = Gateway::start(Rt::tokio(), config).await.unwrap();
        Self { dir, gateway }
    }

    fn address(&self) -> SocketAddr {
        self.gateway.local_addrs()[0]
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    async fn try_at(&self, port: u16, rung: Rung) -> Probe {
        tried(&self.state(), port, rung, None).await
    }
}

async fn tried(trusted: &Path, port: u16, rung: Rung, token: Option<&str>) -> Probe {
    let options = ConnectOptions {
        address: Address { host: LOCALHOST.into(), port },
        trust: TrustAnchors::new().local(trusted),
        certificate: None,
        token: token.map(str::to_owned),
        state: trusted.join("is/not/made"),
        links: 1,
        links_max: 1,
        retry_for: Duration::from_secs(1),
        remember_paths: true,
        via: vec![rung],
        proxy: Rules::direct(),
        masque: Vec::new(),
        refuse_inspection: false,
        tuning: Tuning::default(),
        rate: None,
        agent: "test".into(),
    };
    let probe = probe(&Rt::tokio(), &options, rung).await.unwrap();
    assert!(!options.state.exists());
    probe
}

/// Ports at which nothing listens, or nobody answers.
async fn closed_port() -> u16 {
    let tcp = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    tcp.local_addr().unwrap().port()
}

/// A TLS server that the client trusts, and that speaks `protocol`; then it reads so many bytes and no more.
async fn tls_server(dir: &Path, protocol: &[u8], reads: usize) -> u16 {
    let identity = DevCa::load_or_create(dir).unwrap().server_identity(&[]).unwrap();
    let mut config = (*server_config(&identity, None).unwrap()).clone();
    config.alpn_protocols = vec![protocol.to_vec()];
    let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (tcp, _) = listener.accept().await.unwrap();
        if let Ok(mut tls) = acceptor.accept(tcp).await {
            let mut read = 0;
            while read < reads {
                read += tls.read(&mut [0; 1024]).await.unwrap();
            }
            std::future::pending::<()>().await;
        }
    });
    port
}

/// A way to `peer` that passes on what `lets_through` says, of each datagram its length and how many there were.
async fn relay(peer: SocketAddr, lets_through: fn(usize, usize) -> bool) -> u16 {
    let (front, back) =
        (UdpSocket::bind((LOCALHOST, 0)).await.unwrap(), UdpSocket::bind((LOCALHOST, 0)).await.unwrap());
    let port = front.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (client, count) = (std::sync::OnceLock::new(), AtomicUsize::new(0));
        let pass = |len| lets_through(len, count.fetch_add(1, Ordering::Relaxed));
        let out = async {
            let mut datagram = [0; 65_536];
            loop {
                let (len, from) = front.recv_from(&mut datagram).await.unwrap();
                client.get_or_init(|| from);
                if pass(len) {
                    back.send_to(&datagram[..len], peer).await.unwrap();
                }
            }
        };
        let home = async {
            let mut datagram = [0; 65_536];
            loop {
                let (len, _) = back.recv_from(&mut datagram).await.unwrap();
                if pass(len) {
                    front.send_to(&datagram[..len], client.get().unwrap()).await.unwrap();
                }
            }
        };
        tokio::join!(out, home)
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn what_works_is_measured() {
    let world = World::new().await;
    let port = world.address().port();
    let quic = world.try_at(port, Rung::Quic).await;
    assert_eq!(quic.trouble, None);
    assert!(quic.handshake.is_some() && quic.pin.is_some() && quic.rtt.unwrap().1 > Duration::ZERO);
    assert_eq!((quic.mtu, quic.ecn), (Some((1452, 0)), Some(Ecn::Both)));
    assert!(quic.moved.0 >= 256 * 1024 && quic.moved.1 > 2 * 1024, "{:?}", quic.moved);
    assert!(quic.loss.unwrap().1 > 100);
    assert!(matches!(&quic.answer, Some(Ok(_))), "{:?}", quic.answer);
    assert_eq!(quic.to, Some(world.address()));

    for rung in [Rung::Tls, Rung::WebSocket] {
        let tcp = world.try_at(port, rung).await;
        assert_eq!((&tcp.trouble, tcp.pin, tcp.inspected), (&None, quic.pin, Some(false)), "{rung}");
        assert!(tcp.moved.0 >= 256 * 1024 && tcp.rtt.is_some());
        assert_eq!((tcp.mtu, tcp.loss, tcp.ecn), (None, None, None), "the kernel is not asked");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_an_answer_and_the_way_works() {
    let world = World::new().await;
    for rung in Rung::ALL {
        let probe = tried(&world.state(), world.address().port(), rung, Some("wrong")).await;
        assert_eq!(probe.trouble, None, "{rung}");
        let error = probe.answer.unwrap().unwrap_err();
        assert_eq!(error.code, metra_core::code::Code::Unauthenticated, "{error}");
        assert!(probe.moved.0 >= 256 * 1024);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_ports_refuse() {
    let dir = tempfile::tempdir().unwrap();
    for rung in [Rung::Quic, Rung::Tls] {
        let probe = tried(dir.path(), closed_port().await, rung, None).await;
        assert!(matches!(probe.trouble, Some(Trouble::Refused(_))), "{rung}: {:?}", probe.trouble);
        assert_eq!(probe.from, Some(LOCALHOST.parse().unwrap()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn black_holes_are_silent() {
    let dir = tempfile::tempdir().unwrap();
    let udp = UdpSocket::bind((LOCALHOST, 0)).await.unwrap();
    let port = udp.local_addr().unwrap().port();
    let quic = tried(dir.path(), port, Rung::Quic, None).await;
    assert_eq!(quic.trouble, Some(Trouble::Silent(Stage::Connect)));
    // The kernel accepts, and nobody reads.
    let tcp = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    let tls = tried(dir.path(), tcp.local_addr().unwrap().port(), Rung::Tls, None).await;
    assert_eq!(tls.trouble, Some(Trouble::Silent(Stage::Secure)));
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_not_trusted_and_their_key_is_told() {
    let (world, elsewhere) = (World::new().await, tempfile::tempdir().unwrap());
    let port = world.address().port();
    let known = world.try_at(port, Rung::Quic).await.pin;
    for rung in [Rung::Quic, Rung::Tls] {
        let probe = tried(elsewhere.path(), port, rung, None).await;
        assert!(matches!(&probe.trouble, Some(Trouble::Untrusted { pin, .. }) if *pin == known));
        assert_eq!(probe.pin, known);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_speaks_something_else_is_told_from_who_is_not_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let port = tls_server(dir.path(), b"h2", 0).await;
    let probe = tried(dir.path(), port, Rung::Tls, None).await;
    assert!(matches!(probe.trouble, Some(Trouble::NoProtocol(_))), "{:?}", probe.trouble);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stalls_after_the_handshake_is_noticed() {
    let (world, dir) = (World::new().await, tempfile::tempdir().unwrap());
    let port = tls_server(dir.path(), b"mtp/1", 2000).await;
    let tls = tried(dir.path(), port, Rung::Tls, None).await;
    assert_eq!(tls.trouble, Some(Trouble::Stalled { arrived: 0, of: 256 * 1024 }));
    // A firewall that looks at the first packets of a flow.
    let port = relay(world.address(), |_, count| count < 20).await;
    let quic = world.try_at(port, Rung::Quic).await;
    assert!(matches!(quic.trouble, Some(Trouble::Stalled { arrived: ..100_000, .. })), "{:?}", quic.trouble);
    assert!(quic.handshake.is_some() && quic.pin.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn long_packets_that_are_dropped_are_noticed() {
    let world = World::new().await;
    let port = relay(world.address(), |len, _| len <= 1200).await;
    let quic = world.try_at(port, Rung::Quic).await;
    assert_eq!(quic.trouble, None);
    assert!(matches!(quic.mtu, Some((1200, 2..))), "{:?}", quic.mtu);
}
