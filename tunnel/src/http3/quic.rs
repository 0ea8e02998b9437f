//! quinn's streams as h3 sees them, in the place of h3-quinn.
//!
//! The streams themselves are in [`halves`](super::halves).

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use h3::quic::{ConnectionErrorIncoming, StreamErrorIncoming, StreamId, WriteBuf};
use metra_fallback::http::Busy;
use metra_transport::Rt;
use quinn::{RecvStream, SendStream};

use super::error;
use super::frames::Frames;
use super::halves::{Receiver, Sender, Sending};
use super::sharing::Sharing;
use crate::sync::lock;

type Accepting<T> = BoxFuture<'static, Result<T, quinn::ConnectionError>>;

/// What streams of a connection are made with.
#[derive(Clone)]
pub(super) struct Maker {
    pub(super) connection: quinn::Connection,
    pub(super) rt: Rt,
    /// Between what is sent on streams and what tunnels send.
    pub(super) sharing: Arc<Sharing>,
    /// Longest frame but DATA. Bytes.
    pub(super) longest: u64,
    /// What a peer is told of a receiving half that is dropped before its end.
    pub(super) stop: u64,
    /// Makes what keeps the connection busy while a stream of a request lives.
    pub(super) busy: Option<Arc<dyn Fn() -> Busy + Send + Sync>>,
}

impl Maker {
    pub(super) fn bidirectional(&self, (send, recv): (SendStream, RecvStream)) -> Bidirectional {
        let busy = self.busy.as_ref().map(|begin| begin());
        Bidirectional {
            send: Sending::new(Sender::new(send, self.rt.clone(), busy, self.sharing.clone())),
            recv: self.receiver(recv, Frames::of_request(self.longest), false),
        }
    }

    fn receiver(&self, stream: RecvStream, frames: Frames, is_critical: bool) -> Receiver {
        Receiver::new(stream, self.connection.clone(), frames, is_critical, self.stop)
    }
}

/// The connection.
pub(super) struct Connection {
    maker: Maker,
    opener: Opener,
    bidirectional: Option<Accepting<(SendStream, RecvStream)>>,
    unidirectional: Option<Accepting<RecvStream>>,
}

impl Connection {
    pub(super) fn new(maker: Maker, opener: Opener) -> Self {
        Self { maker, opener, bidirectional: None, unidirectional: None }
    }
}

/// Waits for `slot`, filled by `make` if it is empty.
fn poll_slot<T>(
    slot: &mut Option<BoxFuture<'static, T>>,
    make: impl FnOnce() -> BoxFuture<'static, T>,
    cx: &mut Context<'_>,
) -> Poll<T> {
    let output = ready!(slot.get_or_insert_with(make).as_mut().poll(cx));
    *slot = None;
    Poll::Ready(output)
}

impl h3::quic::Connection<Bytes> for Connection {
    type RecvStream = Receiver;
    type OpenStreams = Opener;

    fn poll_accept_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Receiver, ConnectionErrorIncoming>> {
        let connection = &self.maker.connection;
        let accept = || -> Accepting<RecvStream> {
            let connection = connection.clone();
            Box::pin(async move { connection.accept_uni().await })
        };
        let accepted = ready!(poll_slot(&mut self.unidirectional, accept, cx));
        let receiver = |stream| self.maker.receiver(stream, Frames::of_unidirectional(), true);
        Poll::Ready(accepted.map_err(lost).map(receiver))
    }

    fn poll_accept_bidi(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Bidirectional, ConnectionErrorIncoming>> {
        let connection = &self.maker.connection;
        let accept = || -> Accepting<(SendStream, RecvStream)> {
            let connection = connection.clone();
            Box::pin(async move { connection.accept_bi().await })
        };
        let accepted = ready!(poll_slot(&mut self.bidirectional, accept, cx));
        Poll::Ready(accepted.map_err(lost).map(|streams| self.maker.bidirectional(streams)))
    }

    fn opener(&self) -> Opener {
        self.opener.clone()
    }
}

/// Gives h3 the streams that it opens. That of a request was opened before: so its handles are known.
#[derive(Clone)]
pub(super) struct Opener {
    connection: quinn::Connection,
    rt: Rt,
    sharing: Arc<Sharing>,
    next: Arc<Mutex<Option<Bidirectional>>>,
    unidirectional: Arc<Mutex<Option<Accepting<SendStream>>>>,
}

impl Opener {
    pub(super) fn new(connection: quinn::Connection, rt: Rt, sharing: Arc<Sharing>) -> Self {
        Self { connection, rt, sharing, next: Arc::default(), unidirectional: Arc::default() }
    }

    /// `stream` is the next that h3 opens.
    pub(super) fn put(&self, stream: Bidirectional) {
        *lock(&self.next) = Some(stream);
    }

    /// h3 has not taken it.
    pub(super) fn take(&self) {
        drop(lock(&self.next).take());
    }
}

impl h3::quic::OpenStreams<Bytes> for Opener {
    type BidiStream = Bidirectional;
    type SendStream = Sending;

    fn poll_open_bidi(&mut self, _: &mut Context<'_>) -> Poll<Result<Bidirectional, StreamErrorIncoming>> {
        Poll::Ready(lock(&self.next).take().ok_or_else(|| StreamErrorIncoming::Unknown("no stream".into())))
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<Sending, StreamErrorIncoming>> {
        let connection = &self.connection;
        let open = || -> Accepting<SendStream> {
            let connection = connection.clone();
            Box::pin(async move { connection.open_uni().await })
        };
        let opened = ready!(poll_slot(&mut lock(&self.unidirectional), open, cx));
        let lost = |error| StreamErrorIncoming::ConnectionErrorIncoming { connection_error: lost(error) };
        let sender = |stream| Sender::new(stream, self.rt.clone(), None, self.sharing.clone());
        Poll::Ready(opened.map_err(lost).map(|stream| Sending::new(sender(stream))))
    }

    fn close(&mut self, code: h3::error::Code, reason: &[u8]) {
        self.connection.close(error::number(code.value()), reason);
    }
}

impl h3::quic::OpenStreams<Bytes> for Connection {
    type BidiStream = Bidirectional;
    type SendStream = Sending;

    fn poll_open_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bidirectional, StreamErrorIncoming>> {
        self.opener.poll_open_bidi(cx)
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<Sending, StreamErrorIncoming>> {
        self.opener.poll_open_send(cx)
    }

    fn close(&mut self, code: h3::error::Code, reason: &[u8]) {
        self.opener.close(code, reason);
    }
}

/// A stream of a request.
pub(super) struct Bidirectional {
    pub(super) send: Sending,
    pub(super) recv: Receiver,
}

impl h3::quic::BidiStream<Bytes> for Bidirectional {
    type SendStream = Sending;
    type RecvStream = Receiver;

    fn split(self) -> (Sending, Receiver) {
        (self.send, self.recv)
    }
}

impl h3::quic::RecvStream for Bidirectional {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        self.recv.poll_data(cx)
    }

    fn stop_sending(&mut self, code: u64) {
        self.recv.stop_sending(code);
    }

    fn recv_id(&self) -> StreamId {
        self.recv.recv_id()
    }
}

impl h3::quic::SendStream<Bytes> for Bidirectional {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_ready(cx)
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.send.send_data(data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_finish(cx)
    }

    fn reset(&mut self, code: u64) {
        self.send.reset(code);
    }

    fn send_id(&self) -> StreamId {
        self.send.send_id()
    }
}

pub(super) fn lost(error: quinn::ConnectionError) -> ConnectionErrorIncoming {
    match error {
        quinn::ConnectionError::ApplicationClosed(close) => {
            ConnectionErrorIncoming::ApplicationClose { error_code: close.error_code.into_inner() }
        }
        quinn::ConnectionError::TimedOut => ConnectionErrorIncoming::Timeout,
        other => ConnectionErrorIncoming::Undefined(Arc::new(other)),
    }
}
