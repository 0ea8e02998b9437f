//! One connection of a server, from its settings to its end.

use std::borrow::Cow;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use h3::ConnectionState;
use h3::error::{Code, ConnectionError};
use h3::quic::{RecvStream, SendStream};
use http::{Request, Response};
use hyper::body::Body;
use hyper::service::Service;
use metra_fallback::http::Activity;
use metra_transport::Rt;
use tokio::sync::watch;

use super::Limits;
use super::answer::Exchange;
use super::body::{Incoming, RequestBody};
use super::datagrams::Routes;
use super::error::{Http3Error, MESSAGE_ERROR, NO_ERROR, REQUEST_REJECTED, number};
use super::halves::{Gate, Sender};
use super::quic::{self, Bidirectional, Maker, Opener};
use super::request::{self, Refusal};
use super::sharing::Sharing;
use super::tunnel::{Opening, Peer};

type H3 = h3::server::Connection<quic::Connection, Bytes>;
type Stream = h3::server::RequestStream<Bidirectional, Bytes>;

/// Serves `service` on one connection until that ends: HTTP/3 with extended CONNECT (RFC 9220) and datagrams (RFC 9297).
/// The handshake must be over: requests in early data could be replays.
///
/// Requests look as hyper's of HTTP/2 do: `hyper::ext::Protocol` among the extensions shows an extended CONNECT, of which
/// [`upgrade`](super::upgrade) takes the stream; [`Busy`](metra_fallback::http::Busy) is among them as well, but what the
/// tunnel is made of keeps the connection busy without it. What breaks a rule or can be taken in two ways does not reach the
/// service. Only `connect-udp` and `webtransport` arrive as `:protocol`: any other is answered with 501 (RFC 9220 section 3).
///
/// When `drain` resolves, the client is told which requests have been taken (GOAWAY, RFC 9114 section 5.2), later ones are
/// rejected in the way that says they may be sent elsewhere, and after [`Limits::grace`] what runs is cut, tunnels too. The
/// same when the connection has been idle. The connection is closed at the end, and not before what was sent has arrived.
///
/// # Errors
/// Why the connection ended, if not in the ordinary way. The peer has been told as far as HTTP can say it.
pub async fn serve<S, B>(
    rt: &Rt,
    connection: quinn::Connection,
    service: S,
    limits: &Limits,
    drain: impl Future<Output = ()>,
) -> Result<(), Http3Error>
where
    S: Service<Request<RequestBody>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    limits.apply(&connection);
    connection.set_max_concurrent_bi_streams(limits.streams.into());
    let activity = Activity::new();
    let begin = activity.clone();
    let sharing = Arc::new(Sharing::new(connection.clone()));
    let maker = Maker {
        connection: connection.clone(),
        rt: rt.clone(),
        sharing: sharing.clone(),
        longest: limits.head.saturating_mul(ENCODED),
        stop: NO_ERROR,
        busy: Some(Arc::new(move || begin.begin())),
    };
    let opener = Opener::new(connection.clone(), rt.clone(), sharing.clone());
    let mut builder = h3::server::builder();
    // No grease: its numbers come from the system's randomness, also where a run is to be repeated.
    builder.max_field_section_size(limits.head).enable_extended_connect(true).enable_datagram(true);
    builder.send_grease(false);
    let h3 = builder.build(quic::Connection::new(maker, opener)).await?;
    let routes = Routes::new(limits.datagrams, Some(u64::from(limits.streams) * 2), sharing);
    let reader = rt.spawn(routes.clone().run(connection.clone())).abort_on_drop();
    let server = Server {
        rt: rt.clone(),
        connection: connection.clone(),
        settings: watch::Sender::new(None),
        routes,
        service,
        limits: *limits,
    };
    let ended = server.run(h3, &activity, drain).await;
    connection.close(number(NO_ERROR), b"");
    drop(reader);
    ended
}

struct Server<S> {
    rt: Rt,
    connection: quinn::Connection,
    settings: watch::Sender<Option<Peer>>,
    routes: Arc<Routes>,
    service: S,
    limits: Limits,
}

/// A request whose head has arrived, and the handles of its stream.
struct Head {
    request: Request<()>,
    stream: Stream,
    sender: Sender,
    gate: Gate,
}

type Heads = FuturesUnordered<BoxFuture<'static, Option<Head>>>;

impl<S, B> Server<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    async fn run(
        &self,
        mut h3: H3,
        activity: &Activity,
        drain: impl Future<Output = ()>,
    ) -> Result<(), Http3Error> {
        let (mut heads, mut drain) = (Heads::new(), pin!(drain));
        let mut idle = pin!(activity.idle(&self.rt, self.limits.idle));
        loop {
            tokio::select! {
                biased;
                () = &mut drain => break,
                () = &mut idle => break,
                accepted = poll_fn(|cx| self.poll_accept(&mut h3, cx)) => match accepted {
                    Ok(Some(stream)) => heads.push(self.head(&h3, stream)),
                    // The client has said GOAWAY, and all it asked for is answered.
                    Ok(None) => break,
                    Err(error) => return ended(error),
                },
                Some(head) = heads.next() => self.serve(head),
            }
        }
        self.end(h3, heads, activity).await
    }

    /// h3's `accept` would answer the client's GOAWAY with one that names the last request as not processed: so the
    /// streams are taken from below it.
    fn poll_accept(
        &self,
        h3: &mut H3,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bidirectional>, ConnectionError>> {
        let accepted = h3.poll_accept_request_stream(cx);
        note(&self.settings, h3);
        accepted
    }

    /// Takes nothing new, waits for what runs.
    async fn end(&self, mut h3: H3, mut heads: Heads, activity: &Activity) -> Result<(), Http3Error> {
        // The last request that was taken is the last that is processed. With 0 h3 would say that it is not, and the
        // client might send it again while it runs.
        if let Err(error) = h3.shutdown(1).await {
            return ended(error);
        }
        let mut is_done = false;
        let mut grace = pin!(self.rt.sleep(self.limits.grace));
        loop {
            let no_heads = heads.is_empty();
            let quiet = async {
                match no_heads {
                    true => activity.idle(&self.rt, Duration::ZERO).await,
                    false => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                accepted = poll_fn(|cx| self.poll_accept(&mut h3, cx)), if !is_done => match accepted {
                    // GOAWAY has excluded it, though h3 would take one more.
                    Ok(Some(mut stream)) => {
                        stream.send.reset(REQUEST_REJECTED);
                        stream.recv.stop_sending(REQUEST_REJECTED);
                    }
                    // Both sides have said GOAWAY, and every request has ended; what was sent may be on its way.
                    Ok(None) => is_done = true,
                    Err(error) => return ended(error),
                },
                () = quiet => return Ok(()),
                () = &mut grace => return Err(Http3Error::TimedOut),
                Some(head) = heads.next() => self.serve(head),
            }
        }
    }

    /// Reads the head of a request.
    fn head(&self, h3: &H3, stream: Bidirectional) -> BoxFuture<'static, Option<Head>> {
        let (sender, gate) = (stream.send.sender(), stream.recv.gate());
        let frames = h3::frame::FrameStream::new(h3::stream::BufRecvStream::new(stream));
        let resolver = h3.create_resolver(frames);
        let (rt, time) = (self.rt.clone(), self.limits.head_time);
        sender.hold(true);
        gate.head(true);
        Box::pin(async move {
            match rt.timeout(time, resolver.resolve_request()).await {
                Ok(Ok((request, stream))) => {
                    sender.hold(false);
                    gate.head(false);
                    Some(Head { request, stream, sender, gate })
                }
                // h3 has answered with 431, which is not to be reset.
                Ok(Err(h3::error::StreamError::HeaderTooBig { .. })) => {
                    sender.finish();
                    None
                }
                Ok(Err(error)) => {
                    tracing::debug!(%error, "no request");
                    if request::is_other_protocol(&error) {
                        // RFC 9220 section 3.
                        let mut answer = [Bytes::from_static(NOT_IMPLEMENTED)];
                        // Whoever has gone is not answered.
                        let _ = poll_fn(|cx| sender.poll_write(cx, &mut answer)).await;
                        sender.finish();
                    }
                    None
                }
                // Dropped, and so reset.
                Err(_) => None,
            }
        })
    }

    /// Gives a request to the service.
    fn serve(&self, head: Option<Head>) {
        let Some(Head { request, mut stream, sender, gate }) = head else { return };
        let protocol = request.extensions().get::<h3::ext::Protocol>().copied();
        let length = match request::check(&request, protocol.is_some()) {
            Ok(length) => length,
            Err(Refusal::Malformed(why)) => {
                tracing::debug!(why, "malformed request");
                stream.stop_stream(Code::from(MESSAGE_ERROR));
                stream.stop_sending(Code::from(MESSAGE_ERROR));
                return;
            }
            Err(Refusal::Status(status)) => {
                let mut response = Response::new(http_body_util::Empty::<Bytes>::new());
                *response.status_mut() = status;
                let (stream, _unread) = stream.split();
                let exchange = Exchange {
                    stream,
                    sender,
                    method: request.method().clone(),
                    tunnel: None,
                    unrouted: None,
                };
                let answer = std::future::ready(Ok::<_, Http3Error>(response));
                self.rt.spawn(async move { exchange.carry(answer).await });
                return;
            }
        };
        let (head, ()) = request.into_parts();
        let (stream, incoming) = stream.split();
        let incoming = Incoming::of_server(incoming, gate);
        let method = head.method.clone();
        let mut request = Request::from_parts(head, RequestBody::empty());
        let extensions = request.extensions_mut();
        extensions.remove::<h3::ext::Protocol>();
        if let Some(busy) = sender.busy() {
            extensions.insert(busy);
        }
        let mut tunnel = None;
        if method == http::Method::CONNECT {
            if let Some(protocol) = &protocol {
                extensions.insert(protocol_of(protocol));
            }
            let (on_upgrade, granted) = Opening::on_upgrade();
            extensions.insert(on_upgrade);
            let opening = Opening {
                rt: self.rt.clone(),
                connection: self.connection.clone(),
                incoming,
                route: protocol.map(|_| self.routes.open(sender.id())),
                settings: self.settings.subscribe(),
                keep: None,
            };
            tunnel = Some((opening, granted));
        } else {
            *request.body_mut() = RequestBody::new(incoming, length, None);
        }
        let answer = self.service.call(request);
        let unrouted = protocol.is_none().then(|| self.routes.refuse(sender.id()));
        let exchange = Exchange { stream, sender, method, tunnel, unrouted };
        self.rt.spawn(exchange.carry(answer));
    }
}

/// Notes the peer's settings when they have come.
pub(super) fn note(settings: &watch::Sender<Option<Peer>>, state: &impl ConnectionState) {
    if settings.borrow().is_some() {
        return;
    }
    // Owned: the defaults, for as long as nothing has come.
    if let Cow::Borrowed(come) = state.settings() {
        let (datagrams, extended_connect) = (come.enable_datagram(), come.enable_extended_connect());
        settings.send_replace(Some(Peer { datagrams, extended_connect }));
    }
}

fn protocol_of(protocol: &h3::ext::Protocol) -> hyper::ext::Protocol {
    match protocol.as_str() {
        "connect-udp" => hyper::ext::Protocol::from_static("connect-udp"),
        _ => hyper::ext::Protocol::from_static("webtransport"),
    }
}

/// A peer that leaves in the ordinary way is no error.
fn ended(error: ConnectionError) -> Result<(), Http3Error> {
    if error.is_h3_no_error() { Ok(()) } else { Err(error.into()) }
}

/// A field section as it is sent is rarely longer than it is counted. Up to this many times the limit h3 answers with 431;
/// beyond, the stream is reset before it is taken into memory.
const ENCODED: u64 = 4;

/// HEADERS with `:status: 501` and `content-length: 0`, by the static table of QPACK (RFC 9204, section 4.5 and appendix A).
const NOT_IMPLEMENTED: &[u8] = b"\x01\x09\0\0\x5f\x09\x03501\xc4";
