//! UDP payloads as DATAGRAM capsules on a byte stream (RFC 9297 section 3).

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::poll_fn;
use futures_util::task::AtomicWaker;
use metra_fallback::BoxStream;
use metra_transport::{Rt, Task};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::Notify;

use super::{Ended, SendError};
use crate::proto::capsule::{self, CapsuleDecoder};
use crate::sync::{Waiting, lock};

/// The stream of a request.
pub(super) struct Capsules {
    outgoing: Arc<Outgoing>,
    incoming: Mutex<Incoming>,
    writer: Task<()>,
}

/// What waits to be written. One write takes all of it, so that many capsules share a frame and a record.
#[derive(Default)]
struct Outgoing {
    buffer: Mutex<BytesMut>,
    /// Bytes of it, for who only asks for room.
    held: AtomicUsize,
    /// No more comes: what is held is written, then the stream ends.
    finishing: AtomicBool,
    broken: AtomicBool,
    /// Nobody waits for the end any more.
    dropped: Notify,
    writer: AtomicWaker,
    waiting: Waiting,
}

struct Incoming {
    stream: ReadHalf<BoxStream>,
    decoder: CapsuleDecoder,
    room: BytesMut,
    /// How much is read at a time: little, until there is much. Bytes.
    step: usize,
    ended: Option<Ended>,
}

impl Capsules {
    pub(super) fn new(rt: &Rt, stream: BoxStream) -> Self {
        let (read, write) = tokio::io::split(stream);
        let outgoing = Arc::new(Outgoing::default());
        let writer = rt.spawn(outgoing.clone().run(rt.clone(), write));
        let incoming = Incoming {
            stream: read,
            decoder: CapsuleDecoder::new(),
            room: BytesMut::new(),
            step: STEP.0,
            ended: None,
        };
        Self { outgoing, incoming: Mutex::new(incoming), writer }
    }

    /// Whether `bytes` more can be held.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.outgoing.held.load(Ordering::Relaxed) + bytes <= HELD_MAX || self.is_broken()
    }

    pub(super) fn poll_room(&self, cx: &mut Context<'_>, bytes: usize) -> Poll<()> {
        self.outgoing.waiting.poll(cx, || self.has_room(bytes))
    }

    pub(super) fn send(&self, payload: &[u8]) -> Result<(), SendError> {
        if self.is_broken() || self.outgoing.finishing.load(Ordering::Relaxed) {
            return Err(SendError::Closed);
        }
        if !self.has_room(payload.len()) {
            return Err(SendError::Full);
        }
        let mut buffer = self.outgoing.buffer();
        if !capsule::put(payload, &mut *buffer) {
            return Err(SendError::TooLarge);
        }
        self.outgoing.held.store(buffer.len(), Ordering::Relaxed);
        drop(buffer);
        self.outgoing.writer.wake();
        Ok(())
    }

    /// The next payload. One task at a time.
    pub(super) fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Ended>> {
        let mut incoming = lock(&self.incoming);
        incoming.poll(cx)
    }

    /// Writes what is held, and ends the stream.
    pub(super) fn finish(&self) {
        self.outgoing.finishing.store(true, Ordering::Relaxed);
        self.outgoing.writer.wake();
    }

    fn is_broken(&self) -> bool {
        self.outgoing.broken.load(Ordering::Relaxed)
    }
}

impl Drop for Capsules {
    fn drop(&mut self) {
        if self.outgoing.finishing.load(Ordering::Relaxed) {
            self.outgoing.dropped.notify_one();
        } else {
            self.writer.abort();
        }
    }
}

impl fmt::Debug for Capsules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Capsules({} B held)", self.outgoing.held.load(Ordering::Relaxed))
    }
}

impl Outgoing {
    fn buffer(&self) -> MutexGuard<'_, BytesMut> {
        lock(&self.buffer)
    }

    async fn run(self: Arc<Self>, rt: Rt, stream: WriteHalf<BoxStream>) {
        let dropped = async {
            self.dropped.notified().await;
            rt.sleep(FAREWELL).await;
        };
        tokio::select! {
            () = self.write(stream) => {}
            () = dropped => {}
        }
        self.broken.store(true, Ordering::Relaxed);
        self.waiting.wake();
    }

    async fn write(&self, mut stream: WriteHalf<BoxStream>) {
        let mut taken = BytesMut::new();
        loop {
            taken.clear();
            let is_more = poll_fn(|cx| self.poll_take(cx, &mut taken)).await;
            // There is room from here on, however long the write takes.
            self.waiting.wake();
            if !is_more {
                // Whoever is not there any more need not be told.
                let _ = stream.shutdown().await;
                break;
            }
            if stream.write_all(&taken).await.is_err() || stream.flush().await.is_err() {
                break;
            }
            if taken.capacity() > KEPT {
                taken = BytesMut::new();
            }
        }
    }

    /// Swaps what is held for the empty `taken`. False at the end.
    fn poll_take(&self, cx: &mut Context<'_>, taken: &mut BytesMut) -> Poll<bool> {
        self.writer.register(cx.waker());
        let mut buffer = self.buffer();
        if !buffer.is_empty() {
            std::mem::swap(&mut *buffer, taken);
            self.held.store(0, Ordering::Relaxed);
            return Poll::Ready(true);
        }
        if self.finishing.load(Ordering::Relaxed) { Poll::Ready(false) } else { Poll::Pending }
    }
}

impl Incoming {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Ended>> {
        loop {
            match self.decoder.next() {
                Ok(Some(payload)) => return Poll::Ready(Ok(payload)),
                Ok(None) => {}
                Err(error) => self.ended = Some(Ended::Malformed(error.to_string())),
            }
            if let Some(ended) = &self.ended {
                return Poll::Ready(Err(ended.clone()));
            }
            match ready!(self.poll_read(cx)) {
                Ok(0) => {
                    self.ended = Some(match self.decoder.finish() {
                        Ok(()) => Ended::Finished,
                        Err(error) => Ended::Malformed(error.to_string()),
                    });
                }
                Ok(_) => self.decoder.push(self.room.split().freeze()),
                Err(error) => self.ended = Some(Ended::Lost(error.to_string())),
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.room.capacity() < self.step {
            self.room.reserve(self.step);
        }
        let spare = self.room.capacity();
        // Holds nothing but references: it may be made anew each time.
        let read = ready!(pin!(self.stream.read_buf(&mut self.room)).poll(cx))?;
        if read == spare {
            self.step = (self.step * 4).min(STEP.1);
        }
        Poll::Ready(Ok(read))
    }
}

/// What waits to be written, at most. Bytes: a few milliseconds of a fast path. What is held here is what a path that carries
/// TCP holds anyway, once more.
const HELD_MAX: usize = 352 * 1024;
/// How long what is held, and the end, may take to go out when nobody waits for it.
const FAREWELL: Duration = Duration::from_secs(1);
/// Room for what is written that is kept between writes. Bytes.
const KEPT: usize = 64 * 1024;
/// How much is read at a time: at first, and at most. Bytes.
const STEP: (usize, usize) = (2 * 1024, 64 * 1024);
