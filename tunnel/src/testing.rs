//! A proxy in this process, for tests: HTTP/3 over loopback, HTTP/2 and HTTP/1.1 over pipes or TLS.

#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::future::{Future, pending, poll_fn};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use metra_fallback::http::serve_http;
use metra_fallback::proxy::Credentials;
use metra_fallback::tls::{Protocol, Secured, TlsServer};
use metra_fallback::{BoxStream, http as fallback_http};
use metra_policy::{Host, Own, Permit, TunnelRules};
use metra_transport::quic::{Accepted, QuicServer, Serves, Tuning};
use metra_transport::{AbortOnDrop, Rt};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use crate::carrier::{Carrier, Ended};
use crate::client::{self, Hop, Opened, TunnelError};
use crate::http3;
use crate::proto::{ErrorType, Target, Template};
use crate::server::{Bounds, Rates, Refusal, Throttle, Tunnel, asked, dial, grant};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    Rt::tokio().timeout(PATIENCE, future).await.expect("in time")
}

/// A target that sends back what comes.
pub(crate) async fn echo() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut room = vec![0; 65_536];
        while let Ok((length, from)) = socket.recv_from(&mut room).await {
            let _ = socket.send_to(&room[..length], from).await;
        }
    });
    address
}

/// How a tunnel is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Http3,
    Http2,
    Http1,
}

impl Way {
    pub(crate) const ALL: [Way; 3] = [Way::Http3, Way::Http2, Way::Http1];
}

/// What becomes of tunnels: the first of these.
type Granted = mpsc::UnboundedSender<(Target, Tunnel)>;

/// Grants what leads to any host but `refused.example`, which is prohibited, `unknown.example`, which is not in the DNS, and
/// `login.example`, for which one has to say who one is.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    pub(crate) tls: Arc<rustls::ClientConfig>,
    pub(crate) quic: Arc<QuicServer>,
    granted: mpsc::UnboundedReceiver<(Target, Tunnel)>,
    to: Granted,
    connections: Connections,
    tasks: Vec<AbortOnDrop<()>>,
}

type Connections = Arc<std::sync::Mutex<Vec<quinn::Connection>>>;

/// Self-signed, for `localhost`.
pub(crate) fn tls() -> (Arc<rustls::ServerConfig>, Arc<rustls::ClientConfig>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key: PrivateKeyDer<'static> = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()).into();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (server.into(), client.into())
}

async fn answer<B: Send + 'static>(
    request: Request<B>,
    peer: SocketAddr,
    to: Granted,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let target = match asked(&request) {
        None => {
            let mut response = Response::new(Full::from("here is something else"));
            *response.status_mut() = StatusCode::NOT_FOUND;
            return Ok(response);
        }
        Some(Err(refusal)) => return Ok(refusal.into_response()),
        Some(Ok(target)) => target,
    };
    let refusal = match target.host() {
        "refused.example" => Refusal::of(ErrorType::DestinationIpProhibited, "not there"),
        "unknown.example" => Refusal::of(ErrorType::DnsError, "not in the DNS"),
        "login.example" => Refusal::unauthenticated("who are you?"),
        _ => {
            let rt = Rt::tokio();
            let (response, opened) = grant(&rt, request, peer);
            rt.spawn(async move {
                if let Some(tunnel) = opened.await {
                    let _ = to.send((target, tunnel));
                }
            });
            return Ok(response);
        }
    };
    Ok(refusal.into_response())
}

impl Proxy {
    /// At a port of UDP for HTTP/3 and the same of TCP for the others.
    pub(crate) async fn start() -> Self {
        let rt = Rt::tokio();
        let (server, client) = tls();
        let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let tuning = Tuning::default();
        let quic =
            QuicServer::bind(rt.clone(), address, server.clone(), tuning, None, Serves::MtpAndHttp3).unwrap();
        let quic = Arc::new(quic);
        let (to, granted) = mpsc::unbounded_channel();
        let mut proxy = Self {
            address,
            tls: client,
            quic: quic.clone(),
            granted,
            to,
            connections: Default::default(),
            tasks: Vec::new(),
        };
        let (to, connections) = (proxy.to.clone(), proxy.connections.clone());
        proxy.run(async move {
            while let Some(incoming) = quic.accept().await {
                let (to, connections) = (to.clone(), connections.clone());
                Rt::tokio().spawn(async move {
                    let Ok(Accepted::Http3(connection)) = incoming.accept().await else { return };
                    let peer = connection.peer();
                    let service = service_fn(move |request| answer(request, peer, to.clone()));
                    let limits = http3::Limits::default();
                    let connection = connection.into_inner();
                    connections.lock().unwrap().push(connection.clone());
                    let _ = http3::serve(&Rt::tokio(), connection, service, &limits, pending()).await;
                });
            }
        });
        let (secure, to) = (TlsServer::new(&server, true), proxy.to.clone());
        proxy.run(async move {
            while let Ok((tcp, peer)) = tcp.accept().await {
                let (secure, to) = (secure.clone(), to.clone());
                Rt::tokio().spawn(async move {
                    let Ok(secured) = secure.accept(tcp).await else { return };
                    serve(secured.stream, secured.protocol == Protocol::Http2, peer, to).await;
                });
            }
        });
        proxy
    }

    /// Closes all connections of HTTP/3.
    pub(crate) fn cut(&self) {
        self.connections.lock().unwrap().drain(..).for_each(|connection| connection.close(0u32.into(), b""));
    }

    fn run(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.push(Rt::tokio().spawn(task).abort_on_drop());
    }

    /// A connection to it, of HTTP/2 or HTTP/1.1, that holds little.
    pub(crate) fn pipe(&mut self, is_h2: bool) -> BoxStream {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let (peer, to) = (([192, 0, 2, 7], 7).into(), self.to.clone());
        self.run(serve(Box::new(far), is_h2, peer, to));
        Box::new(near)
    }

    pub(crate) fn hop(&self) -> Hop {
        let template = Template::default_of("localhost", self.address.port()).unwrap();
        Hop { template, tls: self.tls.clone(), credentials: Credentials::None }
    }

    /// Asks for a tunnel.
    pub(crate) async fn ask(&mut self, way: Way, target: &Target) -> Result<Opened, TunnelError> {
        let (rt, hop, tuning) = (Rt::tokio(), self.hop(), Tuning::default());
        if way == Way::Http3 {
            return soon(client::over_http3(&rt, &hop, self.address, target, &tuning)).await;
        }
        let protocol = if way == Way::Http2 { Protocol::Http2 } else { Protocol::Http1 };
        let secured = Secured { stream: self.pipe(way == Way::Http2), protocol, certificates: None };
        soon(client::over_stream(&rt, &hop, secured, self.address, target)).await
    }

    /// A tunnel, as the client and the proxy see it.
    pub(crate) async fn tunnel(&mut self, way: Way) -> (Opened, Tunnel) {
        let near = self.ask(way, &target("target.example", 443)).await.unwrap();
        let (_, far) = self.granted().await;
        (near, far)
    }

    /// The next tunnel that was granted.
    pub(crate) async fn granted(&mut self) -> (Target, Tunnel) {
        soon(self.granted.recv()).await.unwrap()
    }

    /// Relays every tunnel to its target, an address of loopback.
    pub(crate) fn relaying(mut self) -> Self {
        let (_, nothing) = mpsc::unbounded_channel();
        let mut granted = std::mem::replace(&mut self.granted, nothing);
        self.run(async move {
            while let Some((target, tunnel)) = granted.recv().await {
                let rt = Rt::tokio();
                rt.clone().spawn(async move {
                    let address = (target.host().parse::<std::net::IpAddr>().unwrap(), target.port()).into();
                    let dialled = dial(&permit(address)).unwrap();
                    let any = Throttle::new(Rates::default(), rt.now());
                    let _ = dialled.relay(&rt, &tunnel.carrier, BOUNDS, &any).await;
                });
            }
        });
        self
    }
}

pub(crate) const BOUNDS: Bounds =
    Bounds { idle: Duration::from_secs(120), lifetime: Duration::from_secs(3600), rate: 0 };

async fn serve(stream: BoxStream, is_h2: bool, peer: SocketAddr, to: Granted) {
    let service = service_fn(move |request| answer(request, peer, to.clone()));
    let limits = fallback_http::Limits::default();
    let _ = serve_http(stream, is_h2, service, &limits, pending()).await;
}

pub(crate) fn target(host: &str, port: u16) -> Target {
    Target::new(host, port).unwrap()
}

/// That of the policy for an address that is opened.
pub(crate) fn permit(address: SocketAddr) -> Permit<SocketAddr> {
    let rules =
        TunnelRules::new(vec!["*:*".parse().unwrap()], vec!["127.0.0.0/8".parse().unwrap()], Own::default());
    let host = Host::parse(&address.ip().to_string()).unwrap();
    rules.name(&host, address.port()).unwrap().address(address).unwrap()
}

pub(crate) async fn recv(carrier: &Carrier) -> Result<Bytes, Ended> {
    soon(poll_fn(|cx| carrier.poll_payload(cx))).await
}
