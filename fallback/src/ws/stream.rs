//! A byte stream over the frames of a WebSocket.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker, ready};

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::error::WsError;
use super::frame::{self, Decoder, Role, Step};
use crate::http::Busy;
use crate::stream::BoxStream;

/// A WebSocket (RFC 6455) as a byte stream.
///
/// What is written goes out as binary messages of at most 64 KiB, each of one frame. Small ones are collected
/// until there are 64 KiB or [`poll_flush`](AsyncWrite::poll_flush), so flush when the peer shall see them.
/// Reading gives the payload of binary messages; where they end is not seen. Pings are answered while
/// somebody reads.
///
/// [`poll_shutdown`](AsyncWrite::poll_shutdown) sends a close frame. WebSocket has no half-closed state: the
/// peer answers with a close frame of its own and need not send anything before it, so end the protocol above
/// first. The end of what is read is clean only after a close frame without a code or with 1000.
///
/// At most 128 KiB are held of what was written, and 64 KiB of what arrived.
///
/// # Errors
/// Reading and writing give an [`io::Error`] that converts into the [`WsError`] behind it. After an error
/// other than of the connection below, every further read gives the same one.
pub struct WsStream {
    io: BoxStream,
    role: Role,

    decoder: Decoder,
    /// What arrived is in `start..end`; of that the first `plain` bytes are payload, the rest still has to be
    /// looked at.
    staged: Box<[u8]>,
    start: usize,
    end: usize,
    plain: usize,
    reading: Reading,

    /// Whole frames; those bytes that have been sent are still there.
    out: Vec<u8>,
    sent: usize,
    closing: bool,
    /// The last ping that has not been answered. One is enough (RFC 6455 section 5.5.3), and so a peer that
    /// sends many and reads nothing costs no memory.
    pong: Option<Vec<u8>>,
    /// Whether there is an answer to a ping or close frame that the reading side has to bring on its way.
    answering: bool,
    keys: Keys,
    wakers: Arc<Wakers>,

    /// Keeps the HTTP connection from being taken for idle.
    _busy: Option<Busy>,
}

#[derive(Debug)]
enum Reading {
    Open,
    Ended,
    Failed(WsError),
}

impl WsStream {
    /// Over `io`, at which the opening handshake is done.
    pub(super) fn new(io: BoxStream, role: Role, busy: Option<Busy>) -> Self {
        Self {
            io,
            role,
            decoder: Decoder::new(role, MESSAGE_MAX),
            staged: vec![0; STAGED].into_boxed_slice(),
            start: 0,
            end: 0,
            plain: 0,
            reading: Reading::Open,
            out: Vec::new(),
            sent: 0,
            closing: false,
            pong: None,
            answering: false,
            keys: Keys::default(),
            wakers: Arc::default(),
            _busy: busy,
        }
    }

    /// Payload into `buf`; nothing means the end.
    fn read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.answering {
                self.wakers.reader.register(cx.waker());
                // If it fails, whoever writes next sees it; what has arrived is still good.
                if self.poll_send(true).is_ready() {
                    self.answering = false;
                }
            }
            if self.plain > 0 {
                let n = self.plain.min(buf.remaining());
                buf.put_slice(&self.staged[self.start..self.start + n]);
                self.plain -= n;
                self.start += n;
                return Poll::Ready(Ok(()));
            }
            match &self.reading {
                Reading::Open => {}
                Reading::Ended => return Poll::Ready(Ok(())),
                Reading::Failed(error) => return Poll::Ready(Err(error.clone().into())),
            }
            match self.decoder.step(&mut self.staged[self.start..self.end]) {
                Ok(Step::Skip(n)) => self.start += n,
                Ok(Step::Payload(n)) => self.plain = n,
                Ok(Step::More) => {
                    if ready!(self.fill(cx))? == 0 {
                        self.fail(WsError::Truncated);
                    }
                }
                Ok(Step::Ping(n, payload)) => {
                    self.start += n;
                    if !self.closing {
                        self.pong = Some(payload);
                        self.answering = true;
                    }
                }
                Ok(Step::Close(code, reason)) => {
                    self.close(code.unwrap_or(NORMAL), "");
                    match code {
                        None | Some(NORMAL) => self.reading = Reading::Ended,
                        Some(code) => self.fail(WsError::Closed { code, reason }),
                    }
                }
                Err(error) => self.fail(error),
            }
        }
    }

    /// Reads more behind what is staged. 0 means the end.
    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.start > 0 {
            // At most a part of a control frame or a header.
            self.staged.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let mut buf = ReadBuf::new(&mut self.staged[self.end..]);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf))?;
        let n = buf.filled().len();
        self.end += n;
        Poll::Ready(Ok(n))
    }

    /// RFC 6455 section 7.1.7.
    fn fail(&mut self, error: WsError) {
        if let Some(code) = error.close_code() {
            self.close(code, &error.to_string());
        }
        self.reading = Reading::Failed(error);
    }

    /// Puts a close frame behind what is to be sent; nothing may follow (RFC 6455 section 5.5.1).
    fn close(&mut self, code: u16, reason: &str) {
        if self.closing {
            return;
        }
        let payload = frame::close_payload(code, reason);
        if self.put(frame::CLOSE, payload.len(), std::iter::once(&payload[..])).is_ok() {
            self.answering = true;
        }
        self.closing = true;
        self.pong = None;
    }

    fn put<'a>(&mut self, opcode: u8, len: usize, parts: impl Iterator<Item = &'a [u8]>) -> io::Result<()> {
        let key = match self.role {
            Role::Client => Some(self.keys.next()?),
            Role::Server => None,
        };
        self.out.drain(..self.sent);
        self.sent = 0;
        frame::put(&mut self.out, opcode, key, len, parts);
        Ok(())
    }

    /// Answers the last ping, as soon as there is room.
    fn put_pong(&mut self) -> io::Result<()> {
        if self.backlog() < WRITE_MAX
            && let Some(payload) = self.pong.take()
        {
            self.put(frame::PONG, payload.len(), std::iter::once(&payload[..]))?;
        }
        Ok(())
    }

    fn backlog(&self) -> usize {
        self.out.len() - self.sent
    }

    /// Hands everything to the stream below, and flushes that if told to. Wakes who is registered in
    /// `wakers`.
    fn poll_send(&mut self, flush: bool) -> Poll<io::Result<()>> {
        let waker = Waker::from(self.wakers.clone());
        let cx = &mut Context::from_waker(&waker);
        self.put_pong()?;
        while self.sent < self.out.len() {
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, &self.out[self.sent..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += n;
            self.put_pong()?;
        }
        self.out.clear();
        self.sent = 0;
        if flush { Pin::new(&mut self.io).poll_flush(cx) } else { Poll::Ready(Ok(())) }
    }

    fn write<'a>(
        &mut self,
        cx: &mut Context<'_>,
        len: usize,
        parts: impl Iterator<Item = &'a [u8]>,
    ) -> Poll<io::Result<usize>> {
        if self.closing {
            return Poll::Ready(Err(match &self.reading {
                Reading::Failed(error) => io::Error::new(io::ErrorKind::BrokenPipe, error.clone()),
                Reading::Open | Reading::Ended => io::ErrorKind::BrokenPipe.into(),
            }));
        }
        let len = len.min(WRITE_MAX);
        if len == 0 {
            return Poll::Ready(Ok(0));
        }
        self.wakers.writer.register(cx.waker());
        if self.backlog() >= WRITE_MAX {
            ready!(self.poll_send(false))?;
        }
        self.put_pong()?;
        self.put(frame::BINARY, len, parts)?;
        if self.backlog() >= WRITE_MAX {
            // An error comes again with the next call.
            let _ = self.poll_send(false);
        }
        Poll::Ready(Ok(len))
    }
}

impl AsyncRead for WsStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        self.get_mut().read(cx, buf)
    }
}

impl AsyncWrite for WsStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().write(cx, buf.len(), std::iter::once(buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len = bufs.iter().map(|buf| buf.len()).fold(0, usize::saturating_add);
        self.get_mut().write(cx, len, bufs.iter().map(|buf| &**buf))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wakers.writer.register(cx.waker());
        self.get_mut().poll_send(true)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.close(NORMAL, "");
        this.wakers.writer.register(cx.waker());
        ready!(this.poll_send(true))?;
        match this.reading {
            // Both have closed: now the connection below may go (RFC 6455 section 7.1.1).
            Reading::Ended | Reading::Failed(_) => Pin::new(&mut this.io).poll_shutdown(cx),
            Reading::Open => Poll::Ready(Ok(())),
        }
    }
}

impl fmt::Debug for WsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WsStream")
            .field("role", &self.role)
            .field("reading", &self.reading)
            .field("closing", &self.closing)
            .finish_non_exhaustive()
    }
}

/// The two halves may be with two tasks, and both may wait for the stream below to take something: an answer
/// to a ping, and what is written. That stream remembers one waker; this one wakes both.
#[derive(Debug, Default)]
struct Wakers {
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl Wake for Wakers {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.reader.wake();
        self.writer.wake();
    }
}

/// Masking keys: a new one for every frame, from the system's entropy (RFC 6455 section 5.3), many at a time.
#[derive(Default)]
struct Keys {
    bytes: Vec<u8>,
}

impl Keys {
    fn next(&mut self) -> io::Result<[u8; 4]> {
        if self.bytes.is_empty() {
            let mut bytes = [0; 256];
            aws_lc_rs::rand::fill(&mut bytes).map_err(|_| io::Error::other("no entropy"))?;
            self.bytes.extend_from_slice(&bytes);
        }
        match self.bytes.split_last_chunk() {
            Some((_, key)) => {
                let key = *key;
                self.bytes.truncate(self.bytes.len() - key.len());
                Ok(key)
            }
            None => Err(io::Error::other("no entropy")),
        }
    }
}

/// Longest message that is written, and how many bytes are collected before they are sent. Larger ones would
/// save nothing: below is TLS with records of 16 KiB.
const WRITE_MAX: usize = 64 << 10;

/// Longest message that is taken, over all its fragments. Bytes.
pub(super) const MESSAGE_MAX: u64 = 1 << 20;

/// Bytes that are read at a time.
const STAGED: usize = 64 << 10;

const _: () = assert!(STAGED > frame::CONTROL_FRAME_MAX);

/// Close code of a connection that has done what it was for (RFC 6455 section 7.4.1).
const NORMAL: u16 = 1000;
