//! Two endpoints over loopback.

#![allow(clippy::unwrap_used)]

mod bodies;
mod edges;
mod raw;
mod shares;
mod tunnels;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Future, pending, poll_fn};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::service::service_fn;
use metra_transport::quic::{Accepted, QuicClient, QuicServer, Serves, Tuning};
use metra_transport::{Rt, Task};
use tokio::sync::{Mutex, mpsc, oneshot};

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

async fn soon<F: Future>(future: F) -> F::Output {
    Rt::tokio().timeout(PATIENCE, future).await.expect("in time")
}

/// Two QUIC connections that have agreed on HTTP/3: the client's and the server's, and their endpoints.
struct Wire {
    client: quinn::Connection,
    server: quinn::Connection,
    /// By which the server is known.
    tls: Arc<rustls::ClientConfig>,
    endpoints: (QuicServer, QuicClient),
}

async fn wire() -> Wire {
    wired(&Tuning::default(), |server| server).await
}

/// The same over what `path` makes of the server's address.
async fn wired(tuning: &Tuning, path: impl FnOnce(SocketAddr) -> SocketAddr) -> Wire {
    let (tls, trust) = crate::testing::tls();
    let any = "127.0.0.1:0".parse().unwrap();
    let server = QuicServer::bind(Rt::tokio(), any, tls, tuning.clone(), None, Serves::MtpAndHttp3).unwrap();
    let client = QuicClient::http3(Rt::tokio(), any, trust.clone(), tuning.clone()).unwrap();
    let address = path(server.local_addr().unwrap());
    let (near, far) = tokio::join!(client.connect_http3(address, "localhost"), async {
        server.accept().await.unwrap().accept().await.unwrap()
    });
    let Accepted::Http3(far) = far else { panic!("not HTTP/3") };
    Wire {
        client: near.unwrap().into_inner(),
        server: far.into_inner(),
        tls: trust,
        endpoints: (server, client),
    }
}

/// A server of everything that the tests ask for.
struct Site {
    wire: Wire,
    /// Tunnels of the server.
    tunnels: Mutex<mpsc::UnboundedReceiver<Tunnelled>>,
    /// Requests that have reached the service.
    served: Arc<AtomicU32>,
    drain: Option<oneshot::Sender<()>>,
    ended: Task<Result<(), Http3Error>>,
}

type Body = http_body_util::combinators::BoxBody<Bytes, Http3Error>;

fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never: Infallible| match never {}).boxed()
}

fn pieces(mut pieces: VecDeque<Result<Frame<Bytes>, Http3Error>>) -> Body {
    StreamBody::new(futures_util::stream::poll_fn(move |_| std::task::Poll::Ready(pieces.pop_front())))
        .boxed()
}

async fn answer(
    mut request: Request<RequestBody>,
    tunnels: mpsc::UnboundedSender<Tunnelled>,
) -> Result<Response<Body>, &'static str> {
    if request.method() == Method::CONNECT {
        if request.uri().path() == "/no" {
            return Ok(Response::builder().status(403).body(full("no")).unwrap());
        }
        assert_eq!(request.extensions().get::<hyper::ext::Protocol>().unwrap().as_str(), "connect-udp");
        let tunnel = upgrade(&mut request).unwrap();
        Rt::tokio().spawn(async move {
            if let Ok(tunnel) = tunnel.await {
                let _ = tunnels.send(tunnel);
            }
        });
        return Ok(Response::new(full("")));
    }
    assert_eq!(request.version(), http::Version::HTTP_3);
    assert!(request.extensions().get::<metra_fallback::http::Busy>().is_some());
    let data = |text: &'static str| Ok(Frame::data(Bytes::from(text)));
    let (head, body) = request.into_parts();
    match head.uri.path() {
        "/echo" => Ok(Response::new(body.boxed())),
        "/size" => {
            let status = body.collect().await.map(|body| body.to_bytes().len());
            Ok(match status {
                Ok(size) => Response::new(full(size.to_string())),
                Err(error) => Response::builder().status(400).body(full(error.to_string())).unwrap(),
            })
        }
        "/fails" => Err("on purpose"),
        "/cut" => Ok(Response::new(pieces([data("half"), Err(Http3Error::Draining)].into()))),
        "/short" => {
            Ok(Response::builder().header("content-length", 9).body(pieces([data("half")].into())).unwrap())
        }
        "/trailers" => {
            let mut trailers = http::HeaderMap::new();
            trailers.insert("x", http::HeaderValue::from_static("y"));
            Ok(Response::new(pieces([data("body"), Ok(Frame::trailers(trailers))].into())))
        }
        "/connection" => Ok(Response::builder()
            .header("connection", "close")
            .header("transfer-encoding", "chunked")
            .header("kept", "yes")
            .body(full("ok"))
            .unwrap()),
        "/slow" => {
            Rt::tokio().sleep(Duration::from_millis(500)).await;
            Ok(Response::new(full("at last")))
        }
        "/never" => pending().await,
        "/stuck" => {
            Rt::tokio().sleep(PATIENCE).await;
            drop(body);
            Ok(Response::new(full("")))
        }
        "/endless" => {
            let piece = Bytes::from(vec![7; 64 << 10]);
            let pieces = std::iter::repeat_with(move || Ok(Frame::data(piece.clone())));
            Ok(Response::new(StreamBody::new(futures_util::stream::iter(pieces)).boxed()))
        }
        "/large" => Ok(Response::new(full(vec![7; 3_000_000]))),
        _ => Ok(Response::new(full("hello"))),
    }
}

impl Site {
    async fn start(limits: Limits) -> Self {
        Self::at(wire().await, limits)
    }

    fn at(wire: Wire, limits: Limits) -> Self {
        let (tunnels_tx, tunnels) = mpsc::unbounded_channel();
        let (drain, draining) = oneshot::channel::<()>();
        let served = Arc::new(AtomicU32::new(0));
        let (connection, count) = (wire.server.clone(), served.clone());
        let ended = Rt::tokio().spawn(async move {
            let service = service_fn(move |request: Request<RequestBody>| {
                count.fetch_add(1, Ordering::Relaxed);
                answer(request, tunnels_tx.clone())
            });
            let drain = async move {
                if draining.await.is_err() {
                    pending().await
                }
            };
            serve(&Rt::tokio(), connection, service, &limits, drain).await
        });
        Self { wire, tunnels: Mutex::new(tunnels), served, drain: Some(drain), ended }
    }

    async fn client(&self) -> Client {
        Client::start(&Rt::tokio(), self.wire.client.clone(), &Limits::default()).await.unwrap()
    }

    /// The next tunnel of the server.
    async fn tunnel(&self) -> Tunnelled {
        soon(async { self.tunnels.lock().await.recv().await.unwrap() }).await
    }

    fn served(&self) -> u32 {
        self.served.load(Ordering::Relaxed)
    }
}

fn get(path: &str) -> Request<()> {
    Request::get(format!("https://localhost{path}")).body(()).unwrap()
}

fn connect_udp(path: &str) -> Request<()> {
    let protocol = hyper::ext::Protocol::from_static("connect-udp");
    Request::connect(format!("https://localhost{path}")).extension(protocol).body(()).unwrap()
}

async fn recv(datagrams: &mut Datagrams) -> Option<Bytes> {
    soon(poll_fn(|cx| datagrams.receiver.poll_recv(cx))).await
}
