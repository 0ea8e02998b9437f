//! Asks a gateway for tunnels, over every version of HTTP, with whatever path.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue, PROXY_AUTHORIZATION};
use http::{Method, Request, StatusCode, Uri};
use hyper::ext::Protocol;
use metra_certs::{TrustAnchors, client_config};
use metra_fallback::BoxStream;
use metra_fallback::http::{OpenError, open};
use metra_fallback::tls::TlsClient;
use metra_transport::Rt;
use metra_transport::quic::{QuicClient, Tuning};
use metra_tunnel::Carrier;
use metra_tunnel::http3::{Client, Limits};
use metra_tunnel::server::CONNECT_UDP;
use tokio::net::TcpSocket;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::{Gateway, PATIENCE};

/// A version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Over {
    H3,
    H2,
    H1,
}

impl Over {
    pub(crate) const ALL: [Self; 3] = [Self::H3, Self::H2, Self::H1];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::H3 => "h3",
            Self::H2 => "h2",
            Self::H1 => "h1",
        }
    }
}

/// A client of a gateway's proxy. It keeps one connection of HTTP/3, from 127.0.0.1; the others are new for each request.
pub(crate) struct Tunnels {
    runtime: Arc<Runtime>,
    gateway: SocketAddr,
    secure: TlsClient,
    h3: (QuicClient, Client),
}

/// What came of a request.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// What Proxy-Status says of the error: its type (RFC 9209 section 2.3) and the details.
    pub(crate) error: String,
    /// The tunnel, if there is one.
    pub(crate) tunnel: Option<Carrier>,
}

impl Tunnels {
    /// Of this gateway; the tasks run on `runtime`.
    pub(crate) fn new(runtime: &Arc<Runtime>, gateway: &Gateway) -> Self {
        let tls = client_config(&TrustAnchors::new().ca_file(gateway.ca()), None).unwrap();
        let (secure, address) = (TlsClient::new(&tls), gateway.address());
        let h3 = runtime.block_on(async {
            let from = (Ipv4Addr::LOCALHOST, 0).into();
            let endpoint = QuicClient::http3(Rt::tokio(), from, tls, Tuning::default()).unwrap();
            let connection = endpoint.connect_http3(address, NAME).await.unwrap();
            let client = Client::start(&Rt::tokio(), connection.into_inner(), &Limits::default()).await;
            (endpoint, client.unwrap())
        });
        Self { runtime: runtime.clone(), gateway: address, secure, h3 }
    }

    /// Asks for a tunnel to `target`: `HOST/PORT`, encoded as it shall stand in the path. From 127.0.0.1 over HTTP/3.
    pub(crate) fn ask(&self, over: Over, token: &str, from: Ipv4Addr, target: &str) -> Answer {
        let path = format!("/.well-known/masque/udp/{target}/");
        let uri = Uri::builder().scheme("https").authority(self.gateway.to_string()).path_and_query(path);
        let uri = uri.build().unwrap_or_else(|error| panic!("{target}: {error}"));
        let mut fields = HeaderMap::new();
        fields.insert(HeaderName::from_static("capsule-protocol"), HeaderValue::from_static("?1"));
        if !token.is_empty() {
            let token = HeaderValue::try_from(format!("Bearer {token}")).unwrap();
            fields.insert(PROXY_AUTHORIZATION, token);
        }
        self.runtime.block_on(async {
            let asked = async {
                match over {
                    Over::H3 => self.over_h3(uri, fields).await,
                    Over::H2 => self.over_tcp(true, from, uri, fields).await,
                    Over::H1 => self.over_tcp(false, from, uri, fields).await,
                }
            };
            timeout(PATIENCE, asked).await.expect("an answer in time")
        })
    }

    async fn over_h3(&self, uri: Uri, fields: HeaderMap) -> Answer {
        let mut request = Request::builder()
            .method(Method::CONNECT)
            .uri(uri)
            .extension(Protocol::from_static(CONNECT_UDP))
            .body(())
            .unwrap();
        *request.headers_mut() = fields;
        let (answer, tunnelled) = self.h3.1.connect(request).await.unwrap();
        // Over capsules, as with the others.
        let stream = tunnelled.map(|tunnelled| tunnelled.stream);
        self.answered(answer.status(), answer.headers(), stream)
    }

    async fn over_tcp(&self, is_h2: bool, from: Ipv4Addr, uri: Uri, fields: HeaderMap) -> Answer {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        let tcp: BoxStream = Box::new(socket.connect(self.gateway).await.unwrap());
        let stream = match is_h2 {
            true => self.secure.http(tcp, NAME).await.unwrap().stream,
            // Without ALPN there is nothing but HTTP/1.1.
            false => self.secure.plain(tcp, NAME).await.unwrap(),
        };
        match open(stream, is_h2, CONNECT_UDP, uri, fields).await {
            Ok((answer, stream)) => self.answered(answer.status(), answer.headers(), Some(stream)),
            Err(OpenError::Refused { status, headers }) => self.answered(status, &headers, None),
            Err(error) => panic!("{error}"),
        }
    }

    fn answered(&self, status: StatusCode, headers: &HeaderMap, stream: Option<BoxStream>) -> Answer {
        let field = headers.get("proxy-status").map(|field| String::from_utf8_lossy(field.as_bytes()));
        let error = field.as_deref().and_then(|field| field.split_once("error=")).map(|(_, rest)| rest);
        let tunnel = stream.map(|stream| Carrier::stream(&Rt::tokio(), stream, self.gateway));
        Answer { status: status.as_u16(), error: error.unwrap_or_default().to_owned(), tunnel }
    }

    /// Whether a payload goes through the tunnel, there and back.
    pub(crate) fn echoes(&self, tunnel: &Carrier) -> bool {
        self.runtime.block_on(async {
            tunnel.try_send(b"there and back").unwrap();
            let back = std::future::poll_fn(|cx| tunnel.poll_payload(cx));
            matches!(timeout(Duration::from_secs(5), back).await, Ok(Ok(back)) if back == b"there and back"[..])
        })
    }

    /// Sends a payload, and does not wait for anything.
    pub(crate) fn send(&self, tunnel: &Carrier) {
        let _entered = self.runtime.enter();
        let _ = tunnel.try_send(b"there");
    }
}

/// The gateway's name in its certificate.
const NAME: &str = "127.0.0.1";
