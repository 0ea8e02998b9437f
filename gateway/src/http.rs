//! What the gateway says over HTTP/1.1, HTTP/2 and HTTP/3: that it is there; a WebSocket or a tunnel to those who ask for one.
//!
//! | Request | Answer |
//! |---|---|
//! | `GET /` | what this is |
//! | `GET /healthz` | `ok`, or 503 while it shuts down |
//! | a WebSocket at `/mtp` | a link |
//! | a tunnel at `/.well-known/masque/udp/HOST/PORT/` | see [`Tunnels`] |
//!
//! To whatever looks on, this is a small web site.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin as Pinned;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, ALT_SVC, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::service::Service;
use metra_certs::Pin;
use metra_fallback::link::{Key, LinkTuning, Opened, StreamLink};
use metra_fallback::ws;
use metra_transport::quic::Deferral;
use metra_transport::{LinkKind, Rt};
use metra_tunnel::server::asked;

use crate::drain::Drain;
use crate::measure::{Dropped, HTTP_REQUESTS, connection_dropped};
use crate::open::{Arrival, Opener, admit};
use crate::places::Place;
use crate::tunnels::Tunnels;

/// Where a WebSocket is a link.
pub(crate) const PATH: &str = "/mtp";
const ABOUT: &str =
    "This is a Metra gateway: files are sent to it and fetched from it with the command metra.\n";

/// Answers the requests of one connection.
#[derive(Clone)]
pub(crate) struct Site {
    all: Arc<Sites>,
    about: Arc<Connection>,
}

/// What all connections have in common.
pub(crate) struct Sites {
    pub(crate) rt: Rt,
    /// The pin of the certificate.
    pub(crate) pin: Pin,
    /// How links behave.
    pub(crate) link: LinkTuning,
    pub(crate) opener: Opener,
    pub(crate) tunnels: Arc<Tunnels>,
    pub(crate) drain: Drain,
}

/// The connection that requests come over.
pub(crate) struct Connection {
    peer: SocketAddr,
    certificates: Option<Vec<Vec<u8>>>,
    rtt: Duration,
    /// Held until it carries a link or a tunnel, which are counted elsewhere.
    place: Mutex<Option<Place>>,
    /// Over HTTP/3: its congestion control, and what it carries.
    carries: Mutex<Carries>,
    /// What Alt-Svc says (RFC 7838): that there is HTTP/3, where this is another one.
    alternative: Option<HeaderValue>,
}

impl Connection {
    pub(crate) fn new(
        peer: SocketAddr,
        certificates: Option<Vec<Vec<u8>>>,
        rtt: Duration,
        place: Place,
        alternative: Option<HeaderValue>,
    ) -> Self {
        Self {
            peer,
            certificates,
            rtt,
            place: Mutex::new(Some(place)),
            carries: Mutex::default(),
            alternative,
        }
    }

    /// The other end.
    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The certificates that the other end has shown, its own first; DER.
    pub(crate) fn certificates(&self) -> Option<&[Vec<u8>]> {
        self.certificates.as_deref()
    }

    /// The same over HTTP/3, where congestion control can be left to what is carried.
    pub(crate) fn deferring(self, deferral: Deferral) -> Self {
        self.carries.lock().expect("no panic while held").deferral = Some(deferral);
        self
    }

    /// A tunnel begins, and ends when the value is dropped. All that is sent back through it is `controlled`, or not.
    pub(crate) fn carry(self: &Arc<Self>, controlled: bool) -> Carried {
        self.carries.lock().expect("no panic while held").change(controlled, 1);
        Carried { connection: self.clone(), controlled }
    }

    /// It carries something that is counted elsewhere.
    pub(crate) fn free(&self) {
        drop(self.place().take());
    }

    /// Whether it does.
    pub(crate) fn is_free(&self) -> bool {
        self.place().is_none()
    }

    fn place(&self) -> MutexGuard<'_, Option<Place>> {
        self.place.lock().expect("no panic while held")
    }
}

/// The tunnels of a connection.
#[derive(Default)]
struct Carries {
    deferral: Option<Deferral>,
    /// Of which all that is sent has a congestion controller of its own.
    controlled: isize,
    others: isize,
}

impl Carries {
    fn change(&mut self, controlled: bool, by: isize) {
        let was = self.defers();
        *(if controlled { &mut self.controlled } else { &mut self.others }) += by;
        let defers = self.defers();
        if let Some(deferral) = self.deferral.as_ref().filter(|_| defers != was) {
            deferral.set(defers);
        }
    }

    /// RFC 9298 section 6: congestion control is on unless all that is carried is known to be controlled.
    fn defers(&self) -> bool {
        self.controlled > 0 && self.others == 0
    }
}

/// A tunnel of a connection, for as long as it lives.
pub(crate) struct Carried {
    connection: Arc<Connection>,
    controlled: bool,
}

impl Drop for Carried {
    fn drop(&mut self) {
        self.connection.carries.lock().expect("no panic while held").change(self.controlled, -1);
    }
}

impl Site {
    pub(crate) fn new(all: Arc<Sites>, about: Arc<Connection>) -> Self {
        Self { all, about }
    }

    async fn answer<B: Send + 'static>(&self, request: Request<B>) -> Response<Full<Bytes>> {
        if let Some(asked) = asked(&request) {
            return self.all.tunnels.answer(request, asked, &self.about).await;
        }
        if request.uri().path() == PATH {
            return self.websocket(request);
        }
        page(request.method(), request.uri().path(), self.all.drain.is_on())
    }

    fn websocket<B: 'static>(&self, request: Request<B>) -> Response<Full<Bytes>> {
        let (answer, opened) = match ws::accept(request) {
            Ok(accepted) => accepted,
            Err(rejection) => return rejection.into_response(),
        };
        let this = self.clone();
        // Over HTTP/1.1 nothing but this task has the connection from now on; over HTTP/2 it is one of several.
        let is_all = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
        let displaced = self.about.place().as_ref().map(Place::displaced);
        self.all.rt.spawn(async move {
            let displaced = async {
                match displaced {
                    Some(displaced) => displaced.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = displaced => {
                    if is_all {
                        connection_dropped(Dropped::Displaced);
                    }
                }
                () = this.open(opened) => {}
            }
        });
        answer.map(|_| Full::default())
    }

    async fn open(&self, opened: impl Future<Output = Result<ws::WsStream, ws::WsError>>) {
        let Ok(stream) = opened.await else { return };
        let (peer, kind) = (self.about.peer, LinkKind::WebSocket);
        let opened = Opened {
            kind,
            peer,
            certificates: self.about.certificates.clone(),
            rtt: Some(self.about.rtt),
            key: Some(Key::Own(self.all.pin.bytes())),
        };
        let link = StreamLink::start(&self.all.rt, Box::new(stream), opened, self.all.link);
        if admit(self.all.opener.clone(), Arrival { link, peer, kind }).await {
            self.about.free();
        }
    }
}

/// What is not a WebSocket.
fn page(method: &Method, path: &str, draining: bool) -> Response<Full<Bytes>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match path {
        "/" => text(StatusCode::OK, ABOUT),
        "/healthz" if draining => text(StatusCode::SERVICE_UNAVAILABLE, "shutting down\n"),
        "/healthz" => text(StatusCode::OK, "ok\n"),
        _ => text(StatusCode::NOT_FOUND, "there is nothing here\n"),
    }
}

impl<B: Send + 'static> Service<Request<B>> for Site {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Pinned<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<B>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let mut answer = this.answer(request).await;
            let outcome = answer.status().as_u16() / 100;
            metrics::counter!(HTTP_REQUESTS, "status" => CLASSES[usize::from(outcome.min(5))]).increment(1);
            if let Some(alternative) = &this.about.alternative {
                answer.headers_mut().insert(ALT_SVC, alternative.clone());
            }
            Ok(answer)
        })
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http_body_util::BodyExt;

    use super::*;
    use crate::places::Places;

    fn status(method: &Method, path: &str) -> u16 {
        page(method, path, false).status().as_u16()
    }

    #[tokio::test]
    async fn there_are_two_pages() {
        for (path, content) in [("/", ABOUT), ("/healthz", "ok\n")] {
            let response = page(&Method::GET, path, false);
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
            assert_eq!(response.headers()[CONTENT_TYPE], "text/plain; charset=utf-8");
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), content);
            // hyper leaves the content out of the answer.
            assert_eq!(status(&Method::HEAD, path), 200);
        }
        for path in ["/index.html", "//", "/healthz/", "/mtp/", "/%2e%2e/", "*", ""] {
            assert_eq!(status(&Method::GET, path), 404, "{path:?}");
        }
    }

    #[test]
    fn other_methods_are_told_which_ones_there_are() {
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS, Method::TRACE] {
            let response = page(&method, "/", false);
            assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{method}");
            // RFC 9110 section 15.5.6.
            assert_eq!(response.headers()[ALLOW], "GET, HEAD");
        }
    }

    #[test]
    fn while_it_shuts_down_it_is_not_healthy_and_says_what_it_is_all_the_same() {
        assert_eq!(page(&Method::GET, "/healthz", true).status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(page(&Method::HEAD, "/healthz", true).status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(page(&Method::GET, "/", true).status(), StatusCode::OK);
    }

    #[test]
    fn a_connection_has_its_place_until_it_is_a_link() {
        let (places, peer) = (Places::new(1, 1), SocketAddr::from(([192, 0, 2, 1], 4)));
        let about = Connection::new(peer, None, Duration::ZERO, places.take(peer.ip()).unwrap(), None);
        assert!(!about.is_free() && places.take(peer.ip()).is_err());
        about.free();
        assert!(about.is_free() && places.take(peer.ip()).is_ok());
    }

    #[test]
    fn rfc9298_6_congestion_control_is_left_to_others_only_while_nothing_else_is_carried() {
        let (places, peer) = (Places::new(1, 1), SocketAddr::from(([192, 0, 2, 1], 4)));
        let place = places.take(peer.ip()).unwrap();
        let about = Arc::new(Connection::new(peer, None, Duration::ZERO, place, None));
        let defers = || about.carries.lock().unwrap().defers();
        assert!(!defers(), "requests only");
        let links = [about.carry(true), about.carry(true)];
        assert!(defers());
        let target = about.carry(false);
        assert!(!defers(), "what comes from a target may know no control");
        drop(target);
        assert!(defers());
        drop(links);
        assert!(!defers());
    }
}
