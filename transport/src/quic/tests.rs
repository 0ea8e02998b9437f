//! Two endpoints over loopback.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use metra_core::code::Code;
use metra_core::rate::{Policy, RatePolicy};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::*;
use crate::link::*;
use crate::rt::Rt;

const PATIENCE: Duration = Duration::from_secs(5);

struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    fn new(name: &str) -> Self {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        Self { certificate: made.cert.der().clone(), key: key.into() }
    }

    fn roots(&self) -> Arc<rustls::RootCertStore> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        Arc::new(roots)
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn server_tls(identity: &Identity, clients: Option<&Identity>) -> rustls::ServerConfig {
    let builder = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(clients) => builder.with_client_cert_verifier(
            rustls::server::WebPkiClientVerifier::builder_with_provider(clients.roots(), provider())
                .build()
                .unwrap(),
        ),
    };
    builder.with_single_cert(vec![identity.certificate.clone()], identity.key.clone_key()).unwrap()
}

fn client_tls(server: &Identity, own: Option<&Identity>) -> rustls::ClientConfig {
    let builder = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(server.roots());
    match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            builder.with_client_auth_cert(vec![own.certificate.clone()], own.key.clone_key()).unwrap()
        }
    }
}

/// The next client, for MTP.
async fn link_in(server: &QuicServer) -> Result<Arc<dyn Link>, LinkError> {
    server.accept().await.unwrap().accept().await.map(|accepted| accepted.into_link().unwrap())
}

struct Pair {
    server: QuicServer,
    client: QuicClient,
}

impl Pair {
    fn new(tuning: Tuning) -> Self {
        let identity = Identity::new("localhost");
        Self::with(server_tls(&identity, None), client_tls(&identity, None), tuning)
    }

    fn with(server: rustls::ServerConfig, client: rustls::ClientConfig, tuning: Tuning) -> Self {
        let any = "127.0.0.1:0".parse().unwrap();
        Self {
            server: QuicServer::bind(Rt::tokio(), any, Arc::new(server), tuning.clone(), None, Serves::Mtp)
                .unwrap(),
            client: QuicClient::new(Rt::tokio(), any, Arc::new(client), tuning).unwrap(),
        }
    }

    async fn knock(&self) -> Result<Arc<dyn Link>, LinkError> {
        self.client.connect(self.server.local_addr().unwrap(), "localhost").await
    }

    async fn links(&self) -> (Arc<dyn Link>, Arc<dyn Link>) {
        let (client, server) = tokio::join!(self.knock(), async { link_in(&self.server).await });
        let (client, server) = (client.unwrap(), server.unwrap());
        server.handshake_confirmed().await.unwrap();
        server.trust();
        (client, server)
    }
}

async fn linked() -> (Pair, Arc<dyn Link>, Arc<dyn Link>) {
    let pair = Pair::new(Tuning::default());
    let (client, server) = pair.links().await;
    (pair, client, server)
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    Rt::tokio().timeout(PATIENCE, future).await.expect("within the test's patience")
}

/// Reads one message of known length.
async fn expect(recv: &mut Box<dyn ControlRecv>, bytes: &[u8]) {
    let mut got = BytesMut::new();
    while got.len() < bytes.len() {
        got.extend_from_slice(&soon(recv.recv()).await.unwrap().expect("more to come"));
    }
    assert_eq!(&got[..], bytes);
}

async fn read_chunk(link: &Arc<dyn Link>) -> Result<BytesMut, LinkError> {
    let mut chunk = soon(link.accept_chunk()).await?;
    let mut got = BytesMut::new();
    while soon(chunk.read(&mut got, 1 << 20)).await? > 0 {}
    Ok(got)
}

#[tokio::test]
async fn control_runs_both_ways_and_ends() {
    let (_pair, client, server) = linked().await;
    let (mut to_server, mut from_server) = soon(client.control()).await.unwrap();
    to_server.send("hello".into()).await.unwrap();
    let (mut to_client, mut from_client) = soon(server.control()).await.unwrap();
    expect(&mut from_client, b"hello").await;
    to_client.send("welcome".into()).await.unwrap();
    expect(&mut from_server, b"welcome").await;
    let (finished, end) = tokio::join!(soon(to_server.finish()), soon(from_client.recv()));
    assert_eq!((finished, end), (Ok(()), Ok(None)));
    assert!(matches!(soon(client.control()).await, Err(LinkError::Protocol(_))));
}

#[tokio::test]
async fn a_dropped_control_stream_does_not_look_finished() {
    let (_pair, client, server) = linked().await;
    let (mut to_server, _from_server) = client.control().await.unwrap();
    to_server.send("half a me".into()).await.unwrap();
    let (_to_client, mut from_client) = soon(server.control()).await.unwrap();
    expect(&mut from_client, b"half a me").await;
    drop(to_server);
    assert_eq!(soon(from_client.recv()).await, Err(LinkError::StreamReset(Code::Cancelled)));
}

#[tokio::test]
async fn chunks_run_both_ways() {
    let (_pair, client, server) = linked().await;
    let body: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    for (from, to) in [(&client, &server), (&server, &client)] {
        let pieces: Vec<Bytes> = body.chunks(700_000).map(Bytes::copy_from_slice).collect();
        let (sent, got) = tokio::join!(soon(from.send_chunk("head".into(), pieces, 0)), read_chunk(to));
        sent.unwrap();
        let got = got.unwrap();
        assert_eq!(&got[..4], b"head");
        assert!(got[4..] == body, "the body is the same");
    }
}

#[tokio::test]
async fn a_read_gives_no_more_than_asked_for() {
    let (_pair, client, server) = linked().await;
    client.send_chunk("0123456789".into(), vec![], 0).await.unwrap();
    let mut chunk = soon(server.accept_chunk()).await.unwrap();
    let mut got = BytesMut::with_capacity(100);
    assert_eq!(soon(chunk.read(&mut got, 4)).await, Ok(4));
    assert_eq!(soon(chunk.read(&mut got, 100)).await, Ok(6));
    assert_eq!(soon(chunk.read(&mut got, 100)).await, Ok(0));
    assert_eq!(&got[..], b"0123456789");
}

#[tokio::test]
async fn a_stranger_makes_a_server_hold_but_little() {
    let pair = Pair::new(Tuning::default());
    let (client, server) = tokio::join!(pair.knock(), async { link_in(&pair.server).await });
    let (client, server) = (client.unwrap(), server.unwrap());
    server.handshake_confirmed().await.unwrap();
    const MIB: u64 = 1 << 20;
    for _ in 0..40 {
        let client = client.clone();
        let body = vec![Bytes::from(vec![7; MIB as usize])];
        Rt::tokio().spawn(async move { client.send_chunk("h".into(), body, 0).await.unwrap() });
    }
    // Nobody reads. What has come is the window, and what QUIC adds to it.
    let received = || server.stats().received_bytes;
    let arrives = |bytes: u64| async move {
        while received() < bytes {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(arrives(MIB * 9 / 10)).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(received() < MIB * 3 / 2, "{} bytes", received());
    server.trust();
    soon(arrives(40 * MIB)).await;
    for _ in 0..40 {
        assert_eq!(soon(read_chunk(&server)).await.unwrap().len() as u64, MIB + 1);
    }
}

#[tokio::test]
async fn a_cancelled_chunk_is_reset() {
    // Less credit than the chunk needs: the sender must wait for the reader.
    let pair = Pair::new(Tuning { stream_receive_window: 100_000, ..Tuning::default() });
    let (client, server) = pair.links().await;
    let body = vec![Bytes::from(vec![7; 1_000_000])];
    let sender = client.clone();
    let task = Rt::tokio().spawn(async move { sender.send_chunk("h".into(), body, 0).await }).abort_on_drop();
    let mut chunk = soon(server.accept_chunk()).await.unwrap();
    let mut got = BytesMut::new();
    assert!(soon(chunk.read(&mut got, 1000)).await.unwrap() > 0);
    drop(task);
    let end = soon(async {
        loop {
            match chunk.read(&mut got, 1 << 20).await {
                Ok(0) => panic!("a cut-off chunk looks complete"),
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    })
    .await;
    assert_eq!(end, LinkError::StreamReset(Code::Cancelled));
    // The link lives.
    client.send_chunk("next".into(), vec![], 0).await.unwrap();
    assert_eq!(&read_chunk(&server).await.unwrap()[..], b"next");
}

#[tokio::test]
async fn stopping_a_chunk_reaches_the_sender() {
    let pair = Pair::new(Tuning { stream_receive_window: 100_000, ..Tuning::default() });
    let (client, server) = pair.links().await;
    let body = vec![Bytes::from(vec![7; 1_000_000])];
    let (sent, ()) = tokio::join!(soon(client.send_chunk("h".into(), body, 0)), async {
        let mut chunk = soon(server.accept_chunk()).await.unwrap();
        chunk.stop(Code::Superseded);
    });
    assert_eq!(sent, Err(LinkError::StreamStopped(Code::Superseded)));
}

#[tokio::test]
async fn close_codes_travel() {
    let (_pair, client, server) = linked().await;
    client.close(Code::Draining, &"x".repeat(5000));
    let LinkError::ClosedByPeer { code, reason } = soon(server.closed()).await else {
        panic!("closed by the peer")
    };
    assert_eq!(code, Code::Draining);
    assert!(!reason.is_empty() && reason.len() <= 1024 && reason.bytes().all(|b| b == b'x'));
    assert_eq!(soon(client.closed()).await, LinkError::ClosedLocally);
    assert!(matches!(soon(server.accept_chunk()).await, Err(LinkError::ClosedByPeer { .. })));
    let refused = soon(server.send_chunk("h".into(), vec![], 0)).await;
    assert!(matches!(refused, Err(LinkError::ClosedByPeer { .. })));
}

#[tokio::test]
async fn a_lost_peer_is_noticed() {
    let tuning = Tuning {
        idle_timeout: Duration::from_millis(500),
        keep_alive: Duration::from_millis(100),
        ..Tuning::default()
    };
    let pair = Pair::new(tuning.clone());
    let (client, _server) = pair.links().await;
    // Keep-alives hold an idle link open.
    let early = Rt::tokio().timeout(Duration::from_millis(900), client.closed()).await;
    assert!(early.is_err(), "{early:?}");
    // Another endpoint, whose executor stops: nobody says goodbye.
    let (gone_tx, gone_rx) = std::sync::mpsc::channel::<()>();
    let (address_tx, address_rx) = tokio::sync::oneshot::channel();
    let identity = Identity::new("localhost");
    let (server, client) = (server_tls(&identity, None), client_tls(&identity, None));
    let short = tuning.clone();
    let doomed = std::thread::spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let guard = runtime.enter();
        let any = "127.0.0.1:0".parse().unwrap();
        let server =
            Arc::new(QuicServer::bind(Rt::tokio(), any, Arc::new(server), short, None, Serves::Mtp).unwrap());
        address_tx.send(server.local_addr().unwrap()).unwrap();
        let accepting = server.clone();
        Rt::tokio().spawn(async move { link_in(&accepting).await.unwrap().closed().await });
        gone_rx.recv().unwrap();
        drop(guard);
        runtime.shutdown_background();
        std::mem::forget(server);
    });
    let any = "127.0.0.1:0".parse().unwrap();
    let client = QuicClient::new(Rt::tokio(), any, Arc::new(client), tuning).unwrap();
    let link = soon(client.connect(address_rx.await.unwrap(), "localhost")).await.unwrap();
    gone_tx.send(()).unwrap();
    doomed.join().unwrap();
    let error = soon(link.closed()).await;
    assert_eq!(error, LinkError::TimedOut);
    assert!(error.is_retryable());
}

#[tokio::test]
async fn a_link_moves_to_a_new_socket() {
    let (pair, client, server) = linked().await;
    let before = server.peer();
    pair.client.rebind().unwrap();
    // A packet that was under way when the socket changed still leaves from the old one.
    let moving = async {
        while server.peer() == before {
            client.send_chunk("moved".into(), vec![], 0).await.unwrap();
            assert_eq!(&read_chunk(&server).await.unwrap()[..], b"moved");
        }
    };
    soon(moving).await;
    server.send_chunk("seen".into(), vec![], 0).await.unwrap();
    assert_eq!(&read_chunk(&client).await.unwrap()[..], b"seen");
}

/// One exchange of hello and welcome.
async fn greet(client: &Arc<dyn Link>, server: &Arc<dyn Link>) {
    let (mut to_server, mut from_server) = soon(client.control()).await.unwrap();
    soon(to_server.send("hello".into())).await.unwrap();
    let (mut to_client, mut from_client) = soon(server.control()).await.unwrap();
    expect(&mut from_client, b"hello").await;
    soon(to_client.send("welcome".into())).await.unwrap();
    expect(&mut from_server, b"welcome").await;
    soon(to_server.send("push".into())).await.unwrap();
    expect(&mut from_client, b"push").await;
}

#[tokio::test]
async fn a_second_link_says_hello_at_once() {
    let (pair, client, server) = linked().await;
    greet(&client, &server).await;

    // The server does not answer before the client has sent its first message: only early data can do that.
    let client = soon(pair.knock()).await.unwrap();
    let (mut to_server, mut from_server) = soon(client.control()).await.unwrap();
    soon(to_server.send("hello".into())).await.unwrap();
    // All that is not safe to replay waits for the handshake.
    let mut second = Box::pin(to_server.send("push".into()));
    let mut chunk = Box::pin(client.send_chunk("h".into(), vec![], 0));
    let brief = Duration::from_millis(50);
    assert!(Rt::tokio().timeout(brief, &mut second).await.is_err());
    assert!(Rt::tokio().timeout(brief, &mut chunk).await.is_err());

    let server = soon(async { link_in(&pair.server).await }).await.unwrap();
    let (mut to_client, mut from_client) = soon(server.control()).await.unwrap();
    expect(&mut from_client, b"hello").await;
    soon(to_client.send("welcome".into())).await.unwrap();
    expect(&mut from_server, b"welcome").await;
    soon(second).await.unwrap();
    soon(chunk).await.unwrap();
    soon(server.handshake_confirmed()).await.unwrap();
    expect(&mut from_client, b"push").await;
    assert_eq!(&read_chunk(&server).await.unwrap()[..], b"h");
}

#[tokio::test]
async fn rejected_early_data_is_sent_again() {
    let identity = Identity::new("localhost");
    let pair = Pair::with(server_tls(&identity, None), client_tls(&identity, None), Tuning::default());
    let (client, server) = pair.links().await;
    greet(&client, &server).await;
    for _ in 0..2 {
        // A server that has forgotten its sessions.
        pair.server.set_tls(&server_tls(&identity, None)).unwrap();
        let client = soon(pair.knock()).await.unwrap();
        let accept = async { link_in(&pair.server).await.unwrap() };
        let meet = async {
            let server = accept.await;
            let (mut to_client, mut from_client) = soon(server.control()).await.unwrap();
            expect(&mut from_client, b"hello").await;
            soon(to_client.send("welcome".into())).await.unwrap();
            expect(&mut from_client, b"push").await;
            server
        };
        let speak = async {
            let (mut to_server, mut from_server) = soon(client.control()).await.unwrap();
            soon(to_server.send("hello".into())).await.unwrap();
            expect(&mut from_server, b"welcome").await;
            soon(to_server.send("push".into())).await.unwrap();
            soon(client.handshake_confirmed()).await.unwrap();
            (to_server, from_server)
        };
        let (_server, _streams) = tokio::join!(meet, speak);
    }
}

#[tokio::test]
async fn certificates_of_both_sides_count() {
    let (server_id, client_id, other) =
        (Identity::new("localhost"), Identity::new("alice"), Identity::new("localhost"));
    let pair = Pair::with(
        server_tls(&server_id, Some(&client_id)),
        client_tls(&server_id, Some(&client_id)),
        Tuning::default(),
    );
    let (client, server) = pair.links().await;
    assert_eq!(server.peer_certificates().unwrap(), [client_id.certificate.to_vec()]);
    assert_eq!(client.peer_certificates().unwrap(), [server_id.certificate.to_vec()]);

    let stranger = Pair::with(server_tls(&other, None), client_tls(&server_id, None), Tuning::default());
    let (client, _server) = tokio::join!(stranger.knock(), async { link_in(&stranger.server).await });
    let error = client.unwrap_err();
    assert!(matches!(error, LinkError::Handshake(_)) && !error.is_retryable(), "{error}");
}

#[tokio::test]
async fn a_client_without_a_certificate_fails_the_handshake() {
    let (server_id, client_id) = (Identity::new("localhost"), Identity::new("alice"));
    let pair =
        Pair::with(server_tls(&server_id, Some(&client_id)), client_tls(&server_id, None), Tuning::default());
    let (client, server) = tokio::join!(pair.knock(), async { link_in(&pair.server).await });
    let error = soon(server.unwrap().handshake_confirmed()).await.unwrap_err();
    assert!(matches!(error, LinkError::Handshake(_)), "{error}");
    // The client has finished its part of the handshake before the server looks at it.
    let error = soon(client.unwrap().closed()).await;
    assert!(matches!(error, LinkError::Handshake(_)), "{error}");
}

#[tokio::test]
async fn a_draining_server_refuses() {
    let (pair, client, server) = linked().await;
    pair.server.set_accepting(false);
    let (refused, _) = tokio::join!(soon(pair.knock()), async {
        // Refusing happens within accept.
        let _ = Rt::tokio().timeout(Duration::from_millis(300), pair.server.accept()).await;
    });
    let error = refused.unwrap_err();
    assert_eq!(error, LinkError::Refused);
    assert!(error.is_retryable());
    client.send_chunk("old links live".into(), vec![], 0).await.unwrap();
    assert_eq!(&read_chunk(&server).await.unwrap()[..], b"old links live");
    pair.server.close(Code::Draining, "");
    assert!(soon(pair.server.accept()).await.is_none());
    assert!(matches!(soon(client.closed()).await, LinkError::ClosedByPeer { code: Code::Draining, .. }));
    soon(pair.server.wait_idle()).await;
}

#[tokio::test]
async fn a_crowded_server_wants_to_see_addresses() {
    let pair = Pair::new(Tuning { retry_above: 0, ..Tuning::default() });
    let (client, incoming) = tokio::join!(pair.knock(), async {
        let incoming = pair.server.accept().await.unwrap();
        assert!(incoming.is_validated(), "it came through a Retry");
        incoming.accept().await.map(|accepted| accepted.into_link().unwrap())
    });
    greet(&client.unwrap(), &incoming.unwrap()).await;
}

/// Whoever comes by this address is heard at `server`, and hears nothing: a handshake that never ends.
async fn deaf_way_to(server: SocketAddr) -> SocketAddr {
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut datagram = vec![0; 65_536];
        loop {
            let (len, from) = socket.recv_from(&mut datagram).await.unwrap();
            if from != server {
                socket.send_to(&datagram[..len], server).await.unwrap();
            }
        }
    });
    address
}

/// RFC 9000 section 8.1.2.
#[tokio::test]
async fn addresses_must_be_shown_only_while_many_handshakes_are_under_way() {
    let identity = Identity::new("localhost");
    let tuning = Tuning { retry_above: 3, ..Tuning::default() };
    let pair = Pair::with(server_tls(&identity, None), client_tls(&identity, None), tuning.clone());
    let address = pair.server.local_addr().unwrap();
    let deaf = deaf_way_to(address).await;
    // Dropped, they would end their handshakes.
    let (mut knocking, mut half_open) = (Vec::new(), Vec::new());
    for n in 0..3 {
        let mut knock = Box::pin(pair.client.connect(deaf, "localhost"));
        let incoming = tokio::select! {
            _ = &mut knock => panic!("it hears nothing"),
            incoming = soon(pair.server.accept()) => incoming.unwrap(),
        };
        assert!(!incoming.is_validated(), "there are but {n}, and it was made to show its address");
        half_open.push(soon(incoming.accept()).await.unwrap().into_link().unwrap());
        knocking.push(knock);
    }
    // A client that has been here brings a token, and need not be asked again.
    let comes = async || {
        let any = "127.0.0.1:0".parse().unwrap();
        let tls = Arc::new(client_tls(&identity, None));
        let client = QuicClient::new(Rt::tokio(), any, tls, tuning.clone()).unwrap();
        let (link, (incoming, has_shown)) = tokio::join!(soon(client.connect(address, "localhost")), async {
            let incoming = soon(pair.server.accept()).await.unwrap();
            let has_shown = incoming.is_validated();
            (soon(incoming.accept()).await.unwrap().into_link().unwrap(), has_shown)
        });
        greet(&link.unwrap(), &incoming).await;
        has_shown
    };
    for _ in 0..2 {
        assert!(comes().await, "it came in without a Retry");
    }
    half_open.pop().unwrap().close(Code::Ok, "");
    // Its end is noticed a moment later.
    soon(async { while comes().await {} }).await;
}

#[tokio::test]
async fn plain_sockets_work_too() {
    let pair = Pair::new(Tuning {
        socket: SocketKind::Plain,
        mtu_upper_bound_loopback: 9000,
        congestion: Congestion::Bbr,
        ack_frequency: None,
        ..Tuning::default()
    });
    let (client, server) = pair.links().await;
    let body = vec![Bytes::from(vec![7; 4_000_000])];
    let (sent, got) = tokio::join!(soon(client.send_chunk("h".into(), body, 3)), read_chunk(&server));
    sent.unwrap();
    assert_eq!(got.unwrap().len(), 4_000_001);
    let stats = client.stats();
    assert!(stats.sent_bytes > 4_000_000 && stats.sent_packets > 0 && stats.mtu > 1452, "{stats:?}");
    assert!(
        stats.sent_datagrams > 0 && stats.received_datagrams > 0 && stats.received_bytes > 0,
        "{stats:?}"
    );
    assert!(stats.acked_bytes > 1_000_000 && stats.acked_bytes <= stats.sent_bytes, "{stats:?}");
}

#[tokio::test]
async fn a_rate_is_kept_from_the_next_batch_on() {
    let (_pair, client, server) = linked().await;
    let fixed = RatePolicy::new(Policy::Fixed, Some(80_000_000)).unwrap();
    for rate in [fixed, fixed.as_fair()] {
        assert!(client.set_rate(rate));
        let start = std::time::Instant::now();
        let body = vec![Bytes::from(vec![7; 4 << 20])];
        let (sent, got) = tokio::join!(client.send_chunk("head".into(), body, 0), read_chunk(&server));
        assert_eq!((sent, got.unwrap().len()), (Ok(()), 4 + (4 << 20)));
        // 0.42 s, less what may leave at once; a loaded machine takes longer.
        let elapsed = start.elapsed();
        assert!(elapsed >= Duration::from_millis(330), "{rate:?}: {elapsed:?}");
    }
}

#[tokio::test]
async fn other_controllers_have_no_rates() {
    let pair = Pair::new(Tuning { congestion: Congestion::Cubic, ..Tuning::default() });
    let (client, server) = pair.links().await;
    let fixed = RatePolicy::new(Policy::Fixed, Some(80_000_000)).unwrap();
    assert!(!client.set_rate(fixed) && !server.set_rate(fixed));
}

#[tokio::test]
async fn the_mtu_grows_to_what_loopback_takes() {
    let (_pair, client, server) = linked().await;
    let body: Vec<u8> = (0..4_000_000u32).map(|i| (i % 251) as u8).collect();
    // The search is a few exchanges long; each of these is some.
    for (from, to) in [(&client, &server), (&server, &client)].repeat(4) {
        let pieces: Vec<Bytes> = body.chunks(1_000_000).map(Bytes::copy_from_slice).collect();
        let (sent, got) = tokio::join!(soon(from.send_chunk("head".into(), pieces, 0)), read_chunk(to));
        sent.unwrap();
        assert!(got.unwrap()[4..] == body, "the body is the same");
    }
    for link in [&client, &server] {
        let mtu = link.stats().mtu;
        assert!((9000..=16_000).contains(&mtu), "{mtu}");
    }
}

/// A server that speaks both, and a client of HTTP/3.
fn http3_pair(tuning: Tuning, serves: Serves) -> Pair {
    let identity = Identity::new("localhost");
    let any = "127.0.0.1:0".parse().unwrap();
    let (server, client) = (Arc::new(server_tls(&identity, None)), Arc::new(client_tls(&identity, None)));
    Pair {
        server: QuicServer::bind(Rt::tokio(), any, server, tuning.clone(), None, serves).unwrap(),
        client: QuicClient::http3(Rt::tokio(), any, client, tuning).unwrap(),
    }
}

#[tokio::test]
async fn one_socket_serves_mtp_and_http3() {
    let pair = http3_pair(Tuning::default(), Serves::MtpAndHttp3);
    let address = pair.server.local_addr().unwrap();
    let (client, accepted) = tokio::join!(pair.client.connect_http3(address, "localhost"), async {
        pair.server.accept().await.unwrap().accept().await
    });
    let Accepted::Http3(server) = accepted.unwrap() else { panic!("not HTTP/3") };
    let client = client.unwrap();
    assert_eq!(client.peer(), address);
    assert_eq!(server.peer(), pair.client.local_addr().unwrap());
    assert_eq!(client.peer_certificates().unwrap().len(), 1);
    let (client, server) = (client.into_inner(), server.into_inner());
    assert!(client.max_datagram_size().is_some_and(|size| size >= 1200), "{:?}", client.max_datagram_size());
    client.send_datagram("over".into()).unwrap();
    assert_eq!(&soon(server.read_datagram()).await.unwrap()[..], b"over");
    let error = pair.client.connect(address, "localhost").await.unwrap_err();
    assert!(matches!(error, LinkError::Io { .. }), "{error}");
}

#[tokio::test]
async fn a_server_of_mtp_alone_takes_no_http3() {
    let pair = http3_pair(Tuning::default(), Serves::Mtp);
    let address = pair.server.local_addr().unwrap();
    let (client, accepted) = tokio::join!(pair.client.connect_http3(address, "localhost"), async {
        pair.server.accept().await.unwrap().accept().await
    });
    assert!(matches!(client.unwrap_err(), LinkError::NoProtocol(_)));
    assert!(matches!(accepted.unwrap_err(), LinkError::NoProtocol(_)));
}
