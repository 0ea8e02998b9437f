//! Bodies that arrive: pulled when they are polled, and counted.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h3::error::Code;
use hyper::body::{Body, Frame, SizeHint};

use super::error::{Http3Error, MESSAGE_ERROR};
use super::halves::{Gate, Receiver};

/// What arrives on a stream of a request, after the head.
pub(super) struct Incoming {
    side: Side,
    gate: Gate,
}

enum Side {
    Server(h3::server::RequestStream<Receiver, Bytes>),
    Client(h3::client::RequestStream<Receiver, Bytes>),
}

impl Incoming {
    pub(super) fn of_server(stream: h3::server::RequestStream<Receiver, Bytes>, gate: Gate) -> Self {
        Self { side: Side::Server(stream), gate }
    }

    pub(super) fn of_client(stream: h3::client::RequestStream<Receiver, Bytes>, gate: Gate) -> Self {
        Self { side: Side::Client(stream), gate }
    }

    /// The next payload of DATA frames; `None`: no more come.
    pub(super) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Http3Error>> {
        let side = &mut self.side;
        let read = ready!(self.gate.poll(|| match side {
            Side::Server(stream) => stream.poll_recv_data(cx).map_ok(|data| data.map(whole)),
            Side::Client(stream) => stream.poll_recv_data(cx).map_ok(|data| data.map(whole)),
        }));
        Poll::Ready(read.map_err(Http3Error::from))
    }

    fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<http::HeaderMap>, Http3Error>> {
        let side = &mut self.side;
        let read = ready!(self.gate.poll(|| match side {
            Side::Server(stream) => stream.poll_recv_trailers(cx),
            Side::Client(stream) => stream.poll_recv_trailers(cx),
        }));
        Poll::Ready(read.map_err(Http3Error::from))
    }

    /// It is a tunnel from here on.
    pub(super) fn tunnel(&self) {
        self.gate.tunnel();
    }

    /// Tells the peer that no more is wanted, and why.
    pub(super) fn stop(&mut self, code: u64) {
        match &mut self.side {
            Side::Server(stream) => stream.stop_sending(Code::from(code)),
            Side::Client(stream) => stream.stop_sending(Code::from(code)),
        }
    }
}

/// h3 hides that it is `Bytes`, of which this is no copy.
fn whole(mut data: impl Buf) -> Bytes {
    data.copy_to_bytes(data.remaining())
}

/// The body of a request or an answer. Read from the peer when it is polled, and only then: a slow reader is waited for by
/// QUIC's flow control. Dropped, it tells the peer that no more is wanted.
///
/// It fails if it is not as long as its Content-Length says (RFC 9114 section 4.1.2).
pub struct ReceivedBody {
    incoming: Option<Incoming>,
    at: At,
    expected: Option<u64>,
    seen: u64,
    /// What must live for as long as this.
    _keep: Option<Arc<dyn Send + Sync + std::any::Any>>,
}

/// The body of a request.
pub type RequestBody = ReceivedBody;
/// The body of an answer.
pub type ResponseBody = ReceivedBody;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Data,
    Trailers,
    End,
}

impl std::fmt::Debug for ReceivedBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ReceivedBody({:?} after {} bytes)", self.at, self.seen)
    }
}

impl ReceivedBody {
    /// Nothing.
    pub(super) fn empty() -> Self {
        Self { incoming: None, at: At::End, expected: None, seen: 0, _keep: None }
    }

    /// What comes, which must be `expected` bytes.
    pub(super) fn new(
        incoming: Incoming,
        expected: Option<u64>,
        keep: Option<Arc<dyn Send + Sync + std::any::Any>>,
    ) -> Self {
        Self { incoming: Some(incoming), at: At::Data, expected, seen: 0, _keep: keep }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, Http3Error>> {
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(Ok(None)) };
        while self.at == At::Data {
            match ready!(incoming.poll_data(cx))? {
                // An empty DATA frame is no end.
                Some(data) if data.is_empty() => {}
                Some(data) => {
                    self.seen += data.len() as u64;
                    if self.expected.is_some_and(|expected| self.seen > expected) {
                        return Poll::Ready(Err(wrong_length()));
                    }
                    return Poll::Ready(Ok(Some(Frame::data(data))));
                }
                None if self.expected.is_some_and(|expected| self.seen != expected) => {
                    return Poll::Ready(Err(wrong_length()));
                }
                None => self.at = At::Trailers,
            }
        }
        let trailers = match self.at {
            At::Trailers => ready!(incoming.poll_trailers(cx))?,
            _ => None,
        };
        self.at = At::End;
        Poll::Ready(Ok(trailers.map(Frame::trailers)))
    }
}

fn wrong_length() -> Http3Error {
    Http3Error::Protocol("a body that is not as long as its Content-Length says".into())
}

impl Body for ReceivedBody {
    type Data = Bytes;
    type Error = Http3Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Http3Error>>> {
        let this = self.get_mut();
        if this.at == At::End {
            return Poll::Ready(None);
        }
        let next = ready!(this.poll_next(cx));
        if let (Err(Http3Error::Protocol(_)), Some(incoming)) = (&next, &mut this.incoming) {
            incoming.stop(MESSAGE_ERROR);
        }
        if next.is_err() {
            // h3 is not asked again: after some errors it panics.
            this.at = At::End;
        }
        Poll::Ready(next.transpose())
    }

    fn is_end_stream(&self) -> bool {
        self.at == At::End
    }

    fn size_hint(&self) -> SizeHint {
        match self.expected {
            Some(expected) => SizeHint::with_exact(expected.saturating_sub(self.seen)),
            None if self.at == At::End => SizeHint::with_exact(0),
            None => SizeHint::default(),
        }
    }
}
