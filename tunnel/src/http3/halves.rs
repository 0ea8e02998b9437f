//! The halves of a stream, each with a handle outside of h3.
//!
//! [`Sender`] writes DATA frames without a copy and resets what was not finished; [`Gate`] holds reading back for as long as h3
//! has something left. h3 itself writes and reads HEADERS.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h3::quic::{StreamErrorIncoming, StreamId, WriteBuf};
use metra_core::wire::varint;
use metra_fallback::http::Busy;
use metra_transport::Rt;
use quinn::{RecvStream, SendStream, StoppedError, WriteError};

use super::error::{self, REQUEST_CANCELLED};
use super::frames::{DATA, Frames, Violation};
use super::quic::lost;
use super::sharing::Sharing;
use crate::sync::lock;

/// The sending half, shared between h3 and who writes DATA frames. When nobody holds it any more and it was not finished,
/// it is reset: quinn would finish it, and a truncated body would look complete.
#[derive(Clone)]
pub(super) struct Sender(Arc<Mutex<Half>>);

struct Half {
    stream: SendStream,
    is_finished: bool,
    /// What a reset says.
    code: u64,
    /// h3 reads the head of a request: when it resets, the code is noted, and the answer may be another.
    is_held: bool,
    rt: Rt,
    busy: Option<Busy>,
    sharing: Arc<Sharing>,
}

impl Sender {
    /// `sharing` is told of what is written.
    pub(super) fn new(stream: SendStream, rt: Rt, busy: Option<Busy>, sharing: Arc<Sharing>) -> Self {
        let half =
            Half { stream, is_finished: false, code: REQUEST_CANCELLED, is_held: false, rt, busy, sharing };
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
            let written = ready!(pin!(half.stream.write_chunks(&mut pieces[first..])).poll(cx))?;
            half.sharing.wrote(written.bytes);
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

    /// Keeps h3 from resetting it, or lets it again. Dropped meanwhile, it is reset as h3 wanted.
    pub(super) fn hold(&self, on: bool) {
        lock(&self.0).is_held = on;
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
    pub(super) fn new(sender: Sender) -> Self {
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
                let written = ready!(written).map_err(unsent)?;
                half.sharing.wrote(written);
                data.advance(written);
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
        let mut half = lock(&self.sender.0);
        if half.is_held {
            half.code = code;
            return;
        }
        drop(half);
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
pub(super) struct Gate(Arc<Flags>);

struct Flags {
    is_open: AtomicBool,
    is_tunnel: AtomicBool,
    is_head: AtomicBool,
}

impl Gate {
    fn new() -> Self {
        let [is_tunnel, is_head] = [(); 2].map(|()| AtomicBool::new(false));
        Self(Arc::new(Flags { is_open: AtomicBool::new(true), is_tunnel, is_head }))
    }

    /// What is read is the head of a request, or is not any more. Meanwhile h3 does not say why no more is wanted: what is said on
    /// the other half does.
    pub(super) fn head(&self, on: bool) {
        self.0.is_head.store(on, Ordering::Relaxed);
    }

    /// What is read from now on is that of a tunnel.
    pub(super) fn tunnel(&self) {
        self.0.is_tunnel.store(true, Ordering::Relaxed);
    }

    /// Polls `what` in this way.
    pub(super) fn poll<T>(&self, mut what: impl FnMut() -> Poll<T>) -> Poll<T> {
        self.0.is_open.store(false, Ordering::Relaxed);
        let held = what();
        self.0.is_open.store(true, Ordering::Relaxed);
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
    /// `stop` is what the peer is told if it is dropped before its end.
    pub(super) fn new(
        stream: RecvStream,
        connection: quinn::Connection,
        frames: Frames,
        is_critical: bool,
        stop: u64,
    ) -> Self {
        let gate = Gate::new();
        Self { stream, connection, frames, gate, is_critical, stop }
    }

    pub(super) fn gate(&self) -> Gate {
        self.gate.clone()
    }

    fn refuse(&mut self, violation: Violation) -> StreamErrorIncoming {
        if self.is_critical || violation.is_of_connection() {
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
        if !self.gate.0.is_open.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        if self.gate.0.is_tunnel.load(Ordering::Relaxed) {
            self.frames.tunnel();
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
        let code = if self.gate.0.is_head.load(Ordering::Relaxed) { self.stop } else { code };
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

fn id(number: u64) -> StreamId {
    number.try_into().expect("ids of quinn are below 2^62")
}

/// Read from a stream at a time, at most. Bytes.
const READ: usize = 64 << 10;
