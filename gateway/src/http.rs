//! What the gateway says over HTTP: that it is there, and a WebSocket to those who ask for one.
//!
//! | Request | Answer |
//! |---|---|
//! | `GET /` | what this is |
//! | `GET /healthz` | `ok`, or 503 while it shuts down |
//! | a WebSocket at `/mtp` | a link |
//!
//! To whatever looks on, this is a small web site.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::Service;
use metra_fallback::link::{Key, Opened, StreamLink};
use metra_fallback::ws;
use metra_transport::{LinkKind, Rt};

use crate::open::{Arrival, Opener, admit};
use crate::tcp::{Place, TcpSettings};

/// Where a WebSocket is a link.
pub(crate) const PATH: &str = "/mtp";
const ABOUT: &str =
    "This is a Metra gateway: files are sent to it and fetched from it with the command metra.\n";

/// Answers the requests of one connection.
#[derive(Clone)]
pub(crate) struct Site {
    rt: Rt,
    settings: TcpSettings,
    opener: Opener,
    about: Arc<Connection>,
    draining: Arc<AtomicBool>,
}

/// The connection that requests come over.
struct Connection {
    peer: SocketAddr,
    certificates: Option<Vec<Vec<u8>>>,
    rtt: Duration,
    /// Held as long as requests may come: a connection that is not a link yet.
    _place: Place,
}

impl Site {
    pub(crate) fn new(
        rt: Rt,
        settings: TcpSettings,
        opener: Opener,
        draining: Arc<AtomicBool>,
        (peer, certificates, rtt, place): (SocketAddr, Option<Vec<Vec<u8>>>, Duration, Place),
    ) -> Self {
        let about = Arc::new(Connection { peer, certificates, rtt, _place: place });
        Self { rt, settings, opener, about, draining }
    }

    fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.uri().path() == PATH {
            return self.websocket(request);
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refused;
        }
        match request.uri().path() {
            "/" => text(StatusCode::OK, ABOUT),
            "/healthz" if self.draining.load(Ordering::Relaxed) => {
                text(StatusCode::SERVICE_UNAVAILABLE, "shutting down\n")
            }
            "/healthz" => text(StatusCode::OK, "ok\n"),
            _ => text(StatusCode::NOT_FOUND, "there is nothing here\n"),
        }
    }

    fn websocket(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (answer, opened) = match ws::accept(request) {
            Ok(accepted) => accepted,
            Err(rejection) => return rejection.into_response(),
        };
        let this = self.clone();
        self.rt.spawn(async move {
            let Ok(stream) = opened.await else { return };
            let (peer, kind) = (this.about.peer, LinkKind::WebSocket);
            let opened = Opened {
                kind,
                peer,
                certificates: this.about.certificates.clone(),
                rtt: Some(this.about.rtt),
                key: Some(Key::Own(this.settings.pin.bytes())),
            };
            let link = StreamLink::start(&this.rt, Box::new(stream), opened, this.settings.link);
            admit(this.opener.clone(), Arrival { link, peer, kind }).await;
        });
        answer.map(|_| Full::default())
    }
}

impl Service<Request<Incoming>> for Site {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let answer = self.answer(request);
        let outcome = answer.status().as_u16() / 100;
        metrics::counter!("metra_http_requests_total", "status" => CLASSES[usize::from(outcome.min(5))])
            .increment(1);
        Box::pin(async { Ok(answer) })
    }
}

/// Classes of status codes: a label comes from a closed set.
const CLASSES: [&str; 6] = ["0xx", "1xx", "2xx", "3xx", "4xx", "5xx"];

fn text(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
