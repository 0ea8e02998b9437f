//! quinn's streams as h3 sees them, in the place of h3-quinn.
//!
//! Each half of a stream has a second handle outside of h3: [`Sender`] writes DATA frames without a copy and resets what was
//! not finished, [`Gate`] holds reading back for as long as h3 has something left. h3 itself writes and reads HEADERS.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::future::BoxFuture;
use h3::quic::{ConnectionErrorIncoming, StreamErrorIncoming, StreamId, WriteBuf};
use metra_core::wire::varint;
use metra_fallback::http::Busy;
use metra_transport::Rt;
use quinn::{RecvStream, SendStream, StoppedError, WriteError};

use super::error::{self, REQUEST_CANCELLED};
use super::frames::{DATA, Frames, Violation};

type Accepting<T> = BoxFuture<'static, Result<T, quinn::ConnectionError>>;

/// What streams of a connection are made with.
#[derive(Clone)]
pub(super) struct Maker {
    pub(super) connection: quinn::Connection,
    pub(super) rt: Rt,
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
            send: Sending::new(Sender::new(send, self.rt.clone(), busy)),
            recv: self.receiver(recv, Frames::of_request(self.longest), false),
        }
    }

    fn receiver(&self, stream: RecvStream, frames: Frames, is_critical: bool) -> Receiver {
        let gate = Gate(Arc::new(AtomicBool::new(true)));
        let connection = self.connection.clone();
        Receiver { stream, connection, frames, gate, is_critical, stop: self.stop }
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
    next: Arc<Mutex<Option<Bidirectional>>>,
    unidirectional: Arc<Mutex<Option<Accepting<SendStream>>>>,
}

impl Opener {
    pub(super) fn new(connection: quinn::Connection, rt: Rt) -> Self {
        Self { connection, rt, next: Arc::default(), unidirectional: Arc::default() }
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
        Poll::Ready(
            opened.map_err(lost).map(|stream| Sending::new(Sender::new(stream, self.rt.clone(), None))),
        )
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

/// The sending half, shared between h3 and who writes DATA frames. When nobody holds it any more and it was not finished,
/// it is reset: quinn would finish it, and a truncated body would look complete.
#[derive(Clone)]
pub(super) struct Sender(Arc<Mutex<Half>>);

struct Half {
    stream: SendStream,
    is_finished: bool,
    /// What a reset says.
    code: u64,
    rt: Rt,
    busy: Option<Busy>,
}

impl Sender {
    fn new(stream: SendStream, rt: Rt, busy: Option<Busy>) -> Self {
        let half = Half { stream, is_finished: false, code: REQUEST_CANCELLED, rt, busy };
        Self(Arc::new(Mutex::new(half)))
    }

    /// Writes all of `pieces`, which become empty one by one.
    pub(super) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        pieces: &mut [Bytes],
    ) -> Poll<Result<(), WriteError>> {
        let mut half = lock(&self.0);
        while let Some(first) = pieces.iter().position(|piece| !piece.is_empty()) {
            ready!(pin!(half.stream.write_chunks(&mut pieces[first..])).poll(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// All was sent.
    pub(super) fn finish(&self) {
        let mut half = lock(&self.0);
        // Fails if it is over already, one way or the other.
        half.is_finished |= half.stream.finish().is_ok();
    }

    /// Not all will be sent.
    pub(super) fn reset(&self, code: u64) {
        // As above.
        let _ = lock(&self.0).stream.reset(error::number(code));
    }

    /// What a reset says that nobody asks for.
    pub(super) fn set_code(&self, code: u64) {
        lock(&self.0).code = code;
    }

    /// Keeps the connection busy.
    pub(super) fn busy(&self) -> Option<Busy> {
        lock(&self.0).busy.clone()
    }

    pub(super) fn id(&self) -> u64 {
        lock(&self.0).stream.id().into()
    }

    /// Resolves when the peer wants no more, or has everything.
    pub(super) fn stopped(
        &self,
    ) -> impl Future<Output = Result<Option<quinn::VarInt>, StoppedError>> + Send + 'static {
        lock(&self.0).stream.stopped()
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        if !self.is_finished {
            let _ = self.stream.reset(error::number(self.code));
        } else if let Some(busy) = self.busy.take() {
            // What is on its way is lost when the connection is closed: until it has arrived, the request runs.
            let arrived = self.stream.stopped();
            self.rt.spawn(async move {
                let _ = arrived.await;
                drop(busy);
            });
        }
    }
}

/// The head of a DATA frame (RFC 9114 section 7.2.1).
pub(super) fn data_head(length: usize) -> Bytes {
    let mut head = Vec::with_capacity(9);
    varint::put(DATA, &mut head);
    varint::put(length as u64, &mut head);
    head.into()
}

/// The sending half in h3's hands.
pub(super) struct Sending {
    sender: Sender,
    writing: Option<WriteBuf<Bytes>>,
}

impl Sending {
    fn new(sender: Sender) -> Self {
        Self { sender, writing: None }
    }

    pub(super) fn sender(&self) -> Sender {
        self.sender.clone()
    }
}

impl h3::quic::SendStream<Bytes> for Sending {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        if let Some(data) = &mut self.writing {
            let mut half = lock(&self.sender.0);
            while data.has_remaining() {
                let written = Pin::new(&mut half.stream).poll_write(cx, data.chunk());
                data.advance(ready!(written).map_err(unsent)?);
            }
        }
        self.writing = None;
        Poll::Ready(Ok(()))
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        if self.writing.is_some() {
            return Err(StreamErrorIncoming::Unknown("not ready".into()));
        }
        self.writing = Some(data.into());
        Ok(())
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.sender.finish();
        Poll::Ready(Ok(()))
    }

    fn reset(&mut self, code: u64) {
        self.sender.reset(code);
    }

    fn send_id(&self) -> StreamId {
        id(self.sender.id())
    }
}

/// Whether h3 may read from its stream.
///
/// h3 reads a piece of the stream at every poll, and gives out what it has found before: a peer that sends small frames
/// makes it read faster than it gives out, whatever the windows. So it is polled with the gate closed first, and with
/// the gate open if it has nothing left.
#[derive(Clone)]
pub(super) struct Gate(Arc<AtomicBool>);

impl Gate {
    /// Polls `what` in this way.
    pub(super) fn poll<T>(&self, mut what: impl FnMut() -> Poll<T>) -> Poll<T> {
        self.0.store(false, Ordering::Relaxed);
        let held = what();
        self.0.store(true, Ordering::Relaxed);
        if held.is_ready() { held } else { what() }
    }
}

/// The receiving half in h3's hands.
pub(super) struct Receiver {
    stream: RecvStream,
    connection: quinn::Connection,
    frames: Frames,
    gate: Gate,
    /// Whether it is not of a request.
    is_critical: bool,
    stop: u64,
}

impl Receiver {
    pub(super) fn gate(&self) -> Gate {
        self.gate.clone()
    }

    fn refuse(&mut self, violation: Violation) -> StreamErrorIncoming {
        if self.is_critical || violation == Violation::Truncated {
            // RFC 9114 section 7.1: "MUST be treated as a connection error of type H3_FRAME_ERROR".
            self.connection.close(error::number(violation.code()), violation.to_string().as_bytes());
        } else {
            let _ = self.stream.stop(error::number(violation.code()));
        }
        StreamErrorIncoming::Unknown(Box::new(violation))
    }
}

impl h3::quic::RecvStream for Receiver {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        if !self.gate.0.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        let read = ready!(pin!(self.stream.read_chunk(READ, true)).poll(cx));
        Poll::Ready(match read {
            Ok(Some(chunk)) => match self.frames.pass(&chunk.bytes) {
                Ok(()) => Ok(Some(chunk.bytes)),
                Err(violation) => Err(self.refuse(violation)),
            },
            Ok(None) => match self.frames.end() {
                Ok(()) => Ok(None),
                Err(violation) => Err(self.refuse(violation)),
            },
            Err(quinn::ReadError::Reset(code)) => {
                Err(StreamErrorIncoming::StreamTerminated { error_code: code.into_inner() })
            }
            Err(quinn::ReadError::ConnectionLost(error)) => {
                Err(StreamErrorIncoming::ConnectionErrorIncoming { connection_error: lost(error) })
            }
            Err(other) => Err(StreamErrorIncoming::Unknown(Box::new(other))),
        })
    }

    fn stop_sending(&mut self, code: u64) {
        // Fails if it has been read to its end.
        let _ = self.stream.stop(error::number(code));
    }

    fn recv_id(&self) -> StreamId {
        id(self.stream.id().into())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // quinn would say 0, which is no code of HTTP/3. It fails if all was read.
        let _ = self.stream.stop(error::number(self.stop));
    }
}

fn unsent(error: WriteError) -> StreamErrorIncoming {
    match error {
        WriteError::Stopped(code) => StreamErrorIncoming::StreamTerminated { error_code: code.into_inner() },
        WriteError::ConnectionLost(error) => {
            StreamErrorIncoming::ConnectionErrorIncoming { connection_error: lost(error) }
        }
        other => StreamErrorIncoming::Unknown(Box::new(other)),
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

fn id(number: u64) -> StreamId {
    number.try_into().expect("ids of quinn are below 2^62")
}

/// Nothing that can panic happens under these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Read from a stream at a time, at most. Bytes.
const READ: usize = 64 << 10;
