//! One connection of a client.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{Method, Request, Response};
use metra_transport::{AbortOnDrop, Rt};
use tokio::sync::{Mutex, watch};

use super::Limits;
use super::body::{Incoming, ResponseBody};
use super::datagrams::Routes;
use super::error::{Http3Error, NO_ERROR, REQUEST_CANCELLED, number};
use super::halves::{Gate, Receiver, Sender};
use super::quic::{self, Bidirectional, Maker, Opener};
use super::request;
use super::server::note;
use super::sharing::Sharing;
use super::tunnel::{Opening, Peer, Tunnelled};

/// A connection to a server. Clones are of the same connection, which is closed when they, and all bodies and tunnels of it,
/// are dropped.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    rt: Rt,
    connection: quinn::Connection,
    limits: Limits,
    maker: Maker,
    opener: Opener,
    /// Held while a stream goes from the opener to h3 and the head of a request into QUIC's buffer.
    requests: Mutex<h3::client::SendRequest<Opener, Bytes>>,
    settings: watch::Receiver<Option<Peer>>,
    routes: Arc<Routes>,
    _driver: AbortOnDrop<()>,
    _reader: AbortOnDrop<()>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.0.connection.remote_address()).finish()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.connection.close(number(NO_ERROR), b"");
    }
}

/// A request that was sent, without a body.
struct Sent {
    stream: h3::client::RequestStream<Receiver, Bytes>,
    sender: Sender,
    gate: Gate,
}

impl Client {
    /// Begins HTTP/3 on a connection that has agreed on it.
    ///
    /// # Errors
    /// Why the connection is lost.
    pub async fn start(rt: &Rt, connection: quinn::Connection, limits: &Limits) -> Result<Self, Http3Error> {
        limits.apply(&connection);
        let sharing = Arc::new(Sharing::new(connection.clone()));
        let maker = Maker {
            connection: connection.clone(),
            rt: rt.clone(),
            sharing: sharing.clone(),
            longest: limits.head,
            stop: REQUEST_CANCELLED,
            busy: None,
        };
        let opener = Opener::new(connection.clone(), rt.clone(), sharing.clone());
        let mut builder = h3::client::builder();
        // No grease: see the server.
        builder.max_field_section_size(limits.head).enable_datagram(true).send_grease(false);
        let (mut h3, requests) = builder.build(quic::Connection::new(maker.clone(), opener.clone())).await?;
        let settings = watch::Sender::new(None);
        let known = settings.subscribe();
        let driver = rt.spawn(async move {
            let ended = poll_fn(|cx| {
                let ended = h3.poll_close(cx);
                note(&settings, &h3);
                ended
            });
            let error = ended.await;
            tracing::debug!(%error, "a connection of HTTP/3 has ended");
        });
        let routes = Routes::new(limits.datagrams, None, sharing);
        let reader = rt.spawn(routes.clone().run(connection.clone()));
        Ok(Self(Arc::new(Inner {
            rt: rt.clone(),
            connection,
            limits: *limits,
            maker,
            opener,
            requests: Mutex::new(requests),
            settings: known,
            routes,
            _driver: driver.abort_on_drop(),
            _reader: reader.abort_on_drop(),
        })))
    }

    /// The connection below.
    pub fn connection(&self) -> &quinn::Connection {
        &self.0.connection
    }

    /// Sends a request without a body, and waits for the head of the answer. There is no deadline but the connection's.
    ///
    /// # Errors
    /// Why there is no answer; see [`Http3Error::is_unprocessed`].
    pub async fn request(&self, request: Request<()>) -> Result<Response<ResponseBody>, Http3Error> {
        let method = request.method().clone();
        if method == Method::CONNECT {
            return Err(Http3Error::Invalid("CONNECT is not for this"));
        }
        let (sender, stream) = self.open().await?;
        let mut sent = self.send(request, sender, stream).await?;
        sent.sender.finish();
        let response = sent.response().await?;
        let empty = method == Method::HEAD || matches!(response.status().as_u16(), 204 | 304);
        let length = request::content_length(response.headers()).map_err(malformed)?;
        let incoming = Incoming::of_client(sent.stream, sent.gate);
        let expected = if empty { Some(0) } else { length };
        let body = ResponseBody::new(incoming, expected, Some(self.0.clone()));
        Ok(response.map(|()| body))
    }

    /// Sends a CONNECT request, extended if there is a `hyper::ext::Protocol` among its extensions: that waits for the
    /// server's settings, and must be `connect-udp`. With an answer of 2xx there is a tunnel.
    ///
    /// # Errors
    /// [`Http3Error::Unsupported`] if the server does not take extended CONNECT (RFC 9220 section 3); else why there is no
    /// answer.
    pub async fn connect(
        &self,
        mut request: Request<()>,
    ) -> Result<(Response<()>, Option<Tunnelled>), Http3Error> {
        let inner = &self.0;
        if request.method() != Method::CONNECT {
            return Err(Http3Error::Invalid("not CONNECT"));
        }
        let protocol = request.extensions_mut().remove::<hyper::ext::Protocol>();
        let Some(protocol) = protocol else {
            // h3 sends `:scheme` and `:path` with every request (RFC 9114 section 4.4 forbids it).
            return Err(Http3Error::Invalid("CONNECT without :protocol"));
        };
        let known = protocol.as_str().parse::<h3::ext::Protocol>();
        let known = known.map_err(|_| Http3Error::Invalid("a :protocol other than connect-udp"))?;
        request.extensions_mut().insert(known);
        if !self.settings().await?.extended_connect {
            return Err(Http3Error::Unsupported("extended CONNECT"));
        }
        let (sender, stream) = self.open().await?;
        // Before the request is out: datagrams may come before the answer.
        let route = inner.routes.open(sender.id());
        let mut sent = self.send(request, sender, stream).await?;
        let response = sent.response().await?;
        if !response.status().is_success() {
            return Ok((response, None));
        }
        let opening = Opening {
            rt: inner.rt.clone(),
            connection: inner.connection.clone(),
            incoming: Incoming::of_client(sent.stream, sent.gate),
            route: Some(route),
            settings: inner.settings.clone(),
            keep: Some(inner.clone()),
        };
        Ok((response, Some(opening.grant(sent.sender).await)))
    }

    /// The server's settings, when they have come.
    async fn settings(&self) -> Result<Peer, Http3Error> {
        let mut settings = self.0.settings.clone();
        let time: Duration = self.0.limits.head_time;
        match self.0.rt.timeout(time, settings.wait_for(Option::is_some)).await {
            Ok(Ok(peer)) => peer.ok_or(Http3Error::TimedOut),
            Ok(Err(_)) => Err(self.lost()),
            Err(_) => Err(Http3Error::TimedOut),
        }
    }

    fn lost(&self) -> Http3Error {
        match self.0.connection.close_reason() {
            Some(reason) => reason.into(),
            None => Http3Error::Lost("the connection has ended".into()),
        }
    }

    async fn open(&self) -> Result<(Sender, Bidirectional), Http3Error> {
        let stream = self.0.maker.bidirectional(self.0.connection.open_bi().await?);
        Ok((stream.send.sender(), stream))
    }

    async fn send(
        &self,
        mut request: Request<()>,
        sender: Sender,
        stream: Bidirectional,
    ) -> Result<Sent, Http3Error> {
        // h3 takes what it cannot send for a fault of the connection.
        if request.uri().authority().is_none() {
            return Err(Http3Error::Invalid("no authority"));
        }
        request.headers_mut().remove(HOST);
        request::fields(request.headers()).map_err(Http3Error::Invalid)?;
        let gate = stream.recv.gate();
        let mut requests = self.0.requests.lock().await;
        self.0.opener.put(stream);
        let sent = requests.send_request(request).await;
        self.0.opener.take();
        drop(requests);
        // Of the sending half only the handle remains.
        let (_sending, stream) = sent?.split();
        Ok(Sent { stream, sender, gate })
    }
}

impl Sent {
    async fn response(&mut self) -> Result<Response<()>, Http3Error> {
        loop {
            let response = self.stream.recv_response().await?;
            request::fields(response.headers()).map_err(malformed)?;
            // Interim answers say nothing that is needed here (RFC 9110 section 15.2).
            if !response.status().is_informational() {
                return Ok(response);
            }
        }
    }
}

fn malformed(why: &'static str) -> Http3Error {
    Http3Error::Protocol(why.into())
}
