//! Dialling over loopback, and proxies that say nothing in virtual time.
#![allow(clippy::unwrap_used)]

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn target(host: &str, port: u16) -> Target {
    Target { host: host.to_owned(), port }
}

fn proxy(text: &str) -> Proxy {
    text.parse().unwrap()
}

/// Plays a proxy of one HTTP connection: reads a request, answers, and then echoes.
async fn serve_http(mut stream: impl Stream, answer: &str) -> String {
    let mut asked = Vec::new();
    while !asked.ends_with(b"\r\n\r\n") {
        asked.push(stream.read_u8().await.unwrap());
    }
    stream.write_all(answer.as_bytes()).await.unwrap();
    echo(stream).await;
    String::from_utf8(asked).unwrap()
}

async fn echo(mut stream: impl Stream) {
    let mut four = [0; 4];
    if stream.read_exact(&mut four).await.is_ok() {
        stream.write_all(&four).await.unwrap();
        stream.flush().await.unwrap();
        let _ = stream.read(&mut four).await;
    }
}

async fn ping(dialed: &mut Dialed) {
    dialed.stream.write_all(b"ping").await.unwrap();
    dialed.stream.flush().await.unwrap();
    let mut four = [0; 4];
    dialed.stream.read_exact(&mut four).await.unwrap();
    assert_eq!(&four, b"ping");
}

#[tokio::test]
async fn direct() {
    let (listener, port) = listen().await;
    let far = tokio::spawn(async move { echo(listener.accept().await.unwrap().0).await });
    let mut dialed = dial(&target("127.0.0.1", port), None, &DialOptions::default()).await.unwrap();
    assert_eq!(dialed.peer, SocketAddr::from(([127, 0, 0, 1], port)));
    ping(&mut dialed).await;
    drop(dialed);
    far.await.unwrap();
}

#[tokio::test]
async fn nobody_listens() {
    let (listener, port) = listen().await;
    drop(listener);
    let error = dial(&target("127.0.0.1", port), None, &DialOptions::default()).await.unwrap_err();
    let DialError::Connect { to, source } = &error else { panic!("{error}") };
    assert_eq!(
        (to.as_str(), source.kind()),
        (&*format!("127.0.0.1:{port}"), io::ErrorKind::ConnectionRefused)
    );
    assert!(!error.is_final() && !error.is_silence());
    let via = proxy(&format!("http://me:secret@127.0.0.1:{port}"));
    let error = dial(&target("gw.example", 443), Some(&via), &DialOptions::default()).await.unwrap_err();
    assert!(error.to_string().starts_with(&format!("the proxy http://127.0.0.1:{port}: ")), "{error}");
}

#[tokio::test]
async fn hosts_that_are_none() {
    for (host, port) in [
        ("", 1),
        ("h", 0),
        ("a b", 1),
        ("h\r\nX: y", 1),
        ("[::1]", 1),
        ("a:b", 1),
        ("mü.example", 1),
        (&*"x".repeat(256), 1),
    ] {
        // Nothing is dialled for them: the proxy is not there.
        let via = proxy("http://proxy.invalid");
        let error = dial(&target(host, port), Some(&via), &DialOptions::default()).await.unwrap_err();
        assert!(matches!(error, DialError::Host { .. }) && error.is_final(), "{error}");
    }
    target("fe80::1%eth0", 1).check().unwrap();
    target("sub_domain.example.", 1).check().unwrap();
}

#[tokio::test]
async fn http_proxy() {
    let (listener, port) = listen().await;
    let answer = "HTTP/1.1 200 OK\r\n\r\n";
    let far = tokio::spawn(async move { serve_http(listener.accept().await.unwrap().0, answer).await });
    let via = proxy(&format!("http://me:pw@127.0.0.1:{port}"));
    let mut dialed = dial(&target("::1", 4443), Some(&via), &DialOptions::default()).await.unwrap();
    assert_eq!(dialed.peer.port(), port);
    ping(&mut dialed).await;
    drop(dialed);
    let asked = far.await.unwrap();
    assert!(asked.starts_with("CONNECT [::1]:4443 HTTP/1.1\r\nHost: [::1]:4443\r\n"), "{asked}");
    assert!(asked.contains("Proxy-Authorization: Basic bWU6cHc="), "{asked}");
}

#[tokio::test]
async fn bytes_behind_the_answer_come_first() {
    let (listener, port) = listen().await;
    let answer = "HTTP/1.1 200 OK\r\n\r\nhello";
    let far = tokio::spawn(async move { serve_http(listener.accept().await.unwrap().0, answer).await });
    let via = proxy(&format!("http://127.0.0.1:{port}"));
    let mut dialed = dial(&target("h", 1), Some(&via), &DialOptions::default()).await.unwrap();
    let mut five = [0; 5];
    dialed.stream.read_exact(&mut five).await.unwrap();
    assert_eq!(&five, b"hello");
    ping(&mut dialed).await;
    drop(dialed);
    far.await.unwrap();
}

fn tls_pair() -> (TlsAcceptor, ProxyTls) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let mut client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"mtp/1".to_vec()];
    (TlsAcceptor::from(Arc::new(server)), ProxyTls::new(client))
}

#[tokio::test]
async fn https_proxy() {
    let (listener, port) = listen().await;
    let (acceptor, tls) = tls_pair();
    let far = tokio::spawn(async move {
        let stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
        let alpn = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        serve_http(stream, "HTTP/1.1 200 OK\r\n\r\n").await;
        alpn
    });
    let via = proxy(&format!("https://localhost:{port}"));
    let options = DialOptions { proxy_tls: Some(tls), ..DialOptions::default() };
    let mut dialed = dial(&target("h", 1), Some(&via), &options).await.unwrap();
    ping(&mut dialed).await;
    drop(dialed);
    assert_eq!(far.await.unwrap().as_deref(), Some(&b"http/1.1"[..]));
}

#[tokio::test]
async fn https_proxies_that_are_not_trusted() {
    let (acceptor, _) = tls_pair();
    let (_, other) = tls_pair();
    let via = proxy("https://localhost");
    let soon = Instant::now() + Duration::from_secs(60);
    let (near, far) = duplex(4096);
    let h = target("h", 1);
    let (error, _) = tokio::join!(through(near, &via, &h, Some(&other), soon), acceptor.accept(far));
    let error = error.err().unwrap();
    assert!(matches!(error, DialError::ProxyTls { .. }) && error.is_final(), "{error}");

    let error = through(duplex(1).0, &via, &target("h", 1), None, soon).await.err().unwrap();
    assert!(error.to_string().contains("whose certificates to trust"), "{error}");

    let (near, mut far) = duplex(4096);
    far.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    let error = through(near, &via, &target("h", 1), Some(&other), soon).await.err().unwrap();
    assert!(error.to_string().contains("write http://"), "{error}");

    let (near, far) = duplex(4096);
    drop(far);
    let error = through(near, &via, &target("h", 1), Some(&other), soon).await.err().unwrap();
    assert!(matches!(error, DialError::ProxyLost { .. }) && !error.is_final(), "{error}");
}

/// Plays a SOCKS proxy that answers the n-th connection with the n-th code. The kinds of the addresses asked for.
async fn serve_socks(listener: TcpListener, codes: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    for code in codes {
        let mut stream = listener.accept().await.unwrap().0;
        stream.read_exact(&mut [0; 3]).await.unwrap();
        stream.write_all(&[5, 0]).await.unwrap();
        let mut head = [0; 5];
        stream.read_exact(&mut head).await.unwrap();
        kinds.push(head[3]);
        let rest = match head[3] {
            1 => 5,
            4 => 17,
            _ => usize::from(head[4]) + 2,
        };
        stream.read_exact(&mut vec![0; rest]).await.unwrap();
        stream.write_all(&[5, *code, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
        if *code == 0 {
            echo(stream).await;
        }
    }
    kinds
}

#[tokio::test]
async fn socks_by_name() {
    let (listener, port) = listen().await;
    let far = tokio::spawn(async move { serve_socks(listener, &[0]).await });
    let via = proxy(&format!("socks5h://127.0.0.1:{port}"));
    let mut dialed = dial(&target("gw.invalid", 1), Some(&via), &DialOptions::default()).await.unwrap();
    ping(&mut dialed).await;
    drop(dialed);
    assert_eq!(far.await.unwrap(), [3]);
}

#[tokio::test]
async fn socks_by_address() {
    let (listener, port) = listen().await;
    let far = tokio::spawn(async move { serve_socks(listener, &[0]).await });
    let via = proxy(&format!("socks5://127.0.0.1:{port}"));
    let mut dialed = dial(&target("localhost", 1), Some(&via), &DialOptions::default()).await.unwrap();
    ping(&mut dialed).await;
    drop(dialed);
    assert_ne!(far.await.unwrap(), [3], "the name was resolved here");
}

#[tokio::test]
async fn a_refusal_names_the_target() {
    let (listener, port) = listen().await;
    let far = tokio::spawn(async move { serve_socks(listener, &[5]).await });
    let via = proxy(&format!("socks5://127.0.0.1:{port}"));
    let error = dial(&target("::1", 7), Some(&via), &DialOptions::default()).await.unwrap_err();
    assert!(error.to_string().ends_with("does not connect to [::1]:7: the host refused the connection"));
    assert_eq!(far.await.unwrap(), [4]);
}

#[test]
fn a_name_that_is_not_known_here_may_be_there() {
    let error = advise_socks5h(no_address("gw.corp"));
    assert_eq!(
        error.to_string(),
        "gw.corp: the name has no address; with socks5h:// the proxy looks the name up"
    );
}

#[tokio::test(start_paused = true)]
async fn silence_is_told_from_refusal() {
    let (_, tls) = tls_pair();
    for url in ["http://p", "https://p", "socks5h://p"] {
        // Accepts everything, says nothing; or stops in the middle of its answer.
        for said in ["", "HTTP/1.1 200 OK\r\nX: y"].into_iter().take(if url == "http://p" { 2 } else { 1 }) {
            let (near, mut far) = duplex(64 * 1024);
            far.write_all(said.as_bytes()).await.unwrap();
            let deadline = Instant::now() + Duration::from_secs(3);
            let error =
                through(near, &proxy(url), &target("h", 1), Some(&tls), deadline).await.err().unwrap();
            assert_eq!(Instant::now(), deadline);
            assert!(matches!(error, DialError::ProxySilent { .. }), "{error}");
            assert!(error.is_silence() && !error.is_final());
        }
    }
    let error = DialError::Connect { to: "h".to_owned(), source: silence("nothing came back in time") };
    assert!(error.is_silence() && !error.is_final());
}
