//! CONNECT: what becomes of a stream after the answer (RFC 9114 section 4.4, RFC 9220).

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::Request;
use metra_fallback::BoxStream;
use metra_transport::Rt;
use quinn::Connection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{oneshot, watch};

use super::body::Incoming;
use super::datagrams::{Datagrams, Route};
use super::error::{CONNECT_ERROR, Http3Error, MESSAGE_ERROR};
use super::halves::{Sender, data_head};

/// A stream that was granted to a CONNECT request.
pub struct Tunnelled {
    /// The payloads of DATA frames, both ways. Its end is a FIN: [`shutdown`](tokio::io::AsyncWriteExt::shutdown) sends one.
    /// Dropped without that, it is reset with H3_CONNECT_ERROR. Its datagrams end with it.
    pub stream: BoxStream,
    /// The datagrams that belong to it; `None`: the peer has not said SETTINGS_H3_DATAGRAM = 1 (RFC 9297 section 2.1.1), or
    /// takes no QUIC DATAGRAM frames (RFC 9221 section 3), or the request was a CONNECT without `:protocol`.
    pub datagrams: Option<Datagrams>,
    /// What a reset says instead of H3_CONNECT_ERROR.
    pub verdict: Verdict,
}

/// What the peer is told when its tunnel's stream is dropped without [`shutdown`](tokio::io::AsyncWriteExt::shutdown).
#[derive(Clone, Debug, Default)]
pub struct Verdict(Arc<AtomicBool>);

impl Verdict {
    /// That what it sent was malformed: H3_MESSAGE_ERROR, both ways (RFC 9297 section 3.3, RFC 9114 section 4.1.2).
    pub fn malformed(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl fmt::Debug for Tunnelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnelled").field("datagrams", &self.datagrams.is_some()).finish_non_exhaustive()
    }
}

/// What the peer has said in its SETTINGS.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    pub(super) datagrams: bool,
    pub(super) extended_connect: bool,
}

/// Among the extensions of a CONNECT request.
#[derive(Clone)]
pub(super) struct OnUpgrade(Arc<Mutex<Option<oneshot::Receiver<Tunnelled>>>>);

/// Takes the stream of a CONNECT request, as `hyper::upgrade::on` does. Resolves when the service has answered with 2xx and
/// the head of the answer was sent. `None`: not such a request, or it was taken.
///
/// # Errors
/// The future's: [`Http3Error::Lost`] if there is no tunnel, because of the answer or the connection.
pub fn upgrade<B>(
    request: &mut Request<B>,
) -> Option<impl Future<Output = Result<Tunnelled, Http3Error>> + Send + use<B>> {
    let on = request.extensions_mut().remove::<OnUpgrade>()?;
    let granted = on.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
    Some(async move { granted.await.map_err(|_| Http3Error::Lost("the tunnel was not granted".into())) })
}

/// The parts of a stream that may become a tunnel.
pub(super) struct Opening {
    pub(super) rt: Rt,
    pub(super) connection: Connection,
    pub(super) incoming: Incoming,
    /// Of an extended CONNECT.
    pub(super) route: Option<Route>,
    pub(super) settings: watch::Receiver<Option<Peer>>,
    pub(super) keep: Option<Arc<dyn Any + Send + Sync>>,
}

impl Opening {
    /// For the extensions of the request, and what resolves it.
    pub(super) fn on_upgrade() -> (OnUpgrade, oneshot::Sender<Tunnelled>) {
        let (tx, rx) = oneshot::channel();
        (OnUpgrade(Arc::new(Mutex::new(Some(rx)))), tx)
    }

    /// The tunnel. The head of the answer has been sent, or has arrived.
    pub(super) async fn grant(mut self, sender: Sender) -> Tunnelled {
        sender.set_code(CONNECT_ERROR);
        self.incoming.tunnel();
        let known = self.settings.wait_for(Option::is_some);
        // They are the first thing that a peer sends: a peer that has not sent them by now may do without datagrams.
        let peer = match self.rt.timeout(SETTINGS_TIME, known).await {
            Ok(Ok(peer)) => *peer,
            _ => None,
        };
        let carried =
            peer.is_some_and(|peer| peer.datagrams) && self.connection.max_datagram_size().is_some();
        let datagrams = match &self.route {
            Some(route) if carried => Some(Datagrams::new(self.rt, self.connection, route)),
            _ => None,
        };
        let verdict = Verdict::default();
        let stream = TunnelStream {
            incoming: self.incoming,
            is_ended: false,
            left: Bytes::new(),
            sender,
            sending: [const { Bytes::new() }; 2],
            verdict: verdict.clone(),
            _route: self.route,
            _keep: self.keep,
        };
        Tunnelled { stream: Box::new(stream), datagrams, verdict }
    }
}

struct TunnelStream {
    incoming: Incoming,
    /// h3 is not asked again: after some errors it panics.
    is_ended: bool,
    left: Bytes,
    sender: Sender,
    /// A DATA frame on its way: the head, and the payload.
    sending: [Bytes; 2],
    verdict: Verdict,
    _route: Option<Route>,
    _keep: Option<Arc<dyn Any + Send + Sync>>,
}

impl AsyncRead for TunnelStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.left.is_empty() && !this.is_ended {
            match ready!(this.incoming.poll_data(cx)) {
                Ok(Some(data)) => this.left = data,
                Ok(None) => this.is_ended = true,
                Err(error) => {
                    this.is_ended = true;
                    return Poll::Ready(Err(error.into()));
                }
            }
        }
        let now = this.left.len().min(buf.remaining());
        buf.put_slice(&this.left[..now]);
        this.left.advance(now);
        Poll::Ready(Ok(()))
    }
}

impl Drop for TunnelStream {
    fn drop(&mut self) {
        if self.verdict.0.load(Ordering::Relaxed) {
            self.sender.reset(MESSAGE_ERROR);
            self.incoming.stop(MESSAGE_ERROR);
        }
    }
}

impl TunnelStream {
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = ready!(self.sender.poll_write(cx, &mut self.sending));
        Poll::Ready(sent.map_err(|error| Http3Error::from(error).into()))
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_sent(cx))?;
        let now = buf.len().min(FRAME);
        if now > 0 {
            this.sending = [data_head(now), Bytes::copy_from_slice(&buf[..now])];
            if let Poll::Ready(Err(error)) = this.poll_sent(cx) {
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(now))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_sent(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_sent(cx))?;
        this.sender.finish();
        Poll::Ready(Ok(()))
    }
}

/// Longest DATA frame that is sent. Bytes; as much waits to be sent, too.
const FRAME: usize = 16 << 10;

/// How long the peer's settings are waited for when a tunnel begins.
const SETTINGS_TIME: Duration = Duration::from_secs(1);
