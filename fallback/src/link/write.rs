//! The writing half: what goes next onto the byte stream.
//!
//! ```text
//!   close > identity, pong, ping, stop > control > the end of the control stream > the chunk that is under way > the next chunk
//! ```

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use metra_core::code::Code;
use metra_transport::{BoxFuture, ControlSend, LinkError};
use tokio::io::{AsyncWriteExt, WriteHalf};
use tokio::sync::oneshot;

use super::io::write_all;
use super::shared::{Alive, FAREWELL, Shared};
use crate::stream::BoxStream;
use metra_core::wire::stream::{self as frame, StreamFrame};

/// Bytes of a chunk that go out at a time: what control may have to wait for.
const PIECE: usize = 64 * 1024;
/// Bytes of control that wait, before a sender of them waits.
const CONTROL_MAX: usize = 256 * 1024;
/// How long a link whose control stream was cut off waits for its reason.
const GRACE: Duration = Duration::from_millis(100);
/// What is said if there is none.
pub(super) const CUT_OFF: &str = "the control stream was given up";
/// How far behind a ceiling the writer may catch up.
const BURST: Duration = Duration::from_millis(10);

/// What waits to be written.
pub(super) struct Out {
    control: VecDeque<Bytes>,
    control_len: usize,
    finish: bool,
    /// The control stream was cut off: when the link ends, if nobody has said why by then.
    gives_up_at: Option<Instant>,
    pub(super) close: Option<(Code, String)>,
    pub(super) identity: Option<[u8; 32]>,
    pub(super) ping: Option<u64>,
    /// Only the last matters: it acknowledges the others' bytes as well.
    pub(super) pong: Option<(u64, u64)>,
    /// Only one chunk is under way, so only one can be unwanted.
    pub(super) stop: Option<(u64, Code)>,
    waiting: Vec<Chunk>,
    current: Option<Current>,
    next_id: u64,
    /// Chunks that were begun.
    begun: u64,
    /// Bits per second.
    ceiling: Option<u64>,
    /// When the next piece of a chunk may leave.
    may_leave: Instant,
}

/// What became of a chunk.
type Sent = Result<(), LinkError>;

struct Chunk {
    id: u64,
    priority: i32,
    parts: VecDeque<Bytes>,
    done: oneshot::Sender<Sent>,
}

struct Current {
    chunk: Chunk,
    number: u64,
    /// Why it ends before its end: the peer does not want it, or its sender has gone.
    given_up: Option<Option<Code>>,
}

/// What the writer does next.
enum Next {
    Write { head: Vec<u8>, body: [Bytes; 2], tail: Vec<u8>, done: Option<(oneshot::Sender<Sent>, Sent)> },
    WaitUntil(Instant),
    Idle,
    GiveUp,
    Close(Vec<u8>),
}

impl Next {
    fn small(head: Vec<u8>) -> Self {
        Next::Write { head, body: [Bytes::new(), Bytes::new()], tail: Vec::new(), done: None }
    }
}

impl Out {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            control: VecDeque::new(),
            control_len: 0,
            finish: false,
            gives_up_at: None,
            close: None,
            identity: None,
            ping: None,
            pong: None,
            stop: None,
            waiting: Vec::new(),
            current: None,
            next_id: 0,
            begun: 0,
            ceiling: None,
            may_leave: now,
        }
    }

    pub(super) fn set_ceiling(&mut self, bits: Option<u64>) {
        self.ceiling = bits;
    }

    /// Whether the control stream was cut off.
    pub(super) fn is_cut_off(&self) -> bool {
        self.gives_up_at.is_some()
    }

    /// The link is over: whoever waits for something to be sent hears of it by the dropped channel.
    pub(super) fn abandon(&mut self) {
        self.waiting.clear();
        self.current = None;
        self.control.clear();
        self.control_len = 0;
    }

    /// The peer does not want a chunk. One that has gone out whole does not mind.
    pub(super) fn stopped(&mut self, number: u64, code: Code) {
        if let Some(current) = self.current.as_mut().filter(|current| current.number == number) {
            current.given_up = Some(Some(code));
        }
    }

    fn next(&mut self, now: Instant) -> Next {
        let mut head = Vec::new();
        if let Some((code, reason)) = self.close.take() {
            StreamFrame::Close(code, reason).encode(&mut head);
            return Next::Close(head);
        }
        if self.gives_up_at.is_some_and(|at| now >= at) {
            self.gives_up_at = None;
            return Next::GiveUp;
        }
        if let Some(key) = self.identity.take() {
            StreamFrame::Identity(key).encode(&mut head);
        }
        if let Some((number, read)) = self.pong.take() {
            StreamFrame::Pong(number, read).encode(&mut head);
        }
        if let Some(number) = self.ping.take() {
            StreamFrame::Ping(number).encode(&mut head);
        }
        if let Some((number, code)) = self.stop.take() {
            StreamFrame::Stop(number, code).encode(&mut head);
        }
        if let Some(mut bytes) = self.control.pop_front() {
            let piece = bytes.split_to(bytes.len().min(frame::PAYLOAD_MAX));
            self.control_len -= piece.len();
            if !bytes.is_empty() {
                self.control.push_front(bytes);
            }
            frame::put_head(frame::CONTROL, piece.len(), &mut head);
            return Next::Write { head, body: [piece, Bytes::new()], tail: Vec::new(), done: None };
        }
        if std::mem::take(&mut self.finish) {
            StreamFrame::Finish.encode(&mut head);
        }
        if !head.is_empty() {
            return Next::small(head);
        }
        self.next_piece(now)
    }

    fn next_piece(&mut self, now: Instant) -> Next {
        if let Some(current) = self.current.take_if(|current| current.given_up.is_some()) {
            let mut head = Vec::new();
            let code = current.given_up.flatten();
            StreamFrame::Reset(code.unwrap_or(Code::Cancelled)).encode(&mut head);
            let done = code.map(|code| (current.chunk.done, Err(LinkError::StreamStopped(code))));
            return Next::Write { head, body: [Bytes::new(), Bytes::new()], tail: Vec::new(), done };
        }
        if self.current.is_none() {
            // The first of those with the highest priority: `max_by_key` would take the last.
            let first = |best: usize, at: usize| {
                if self.waiting[at].priority > self.waiting[best].priority { at } else { best }
            };
            let Some(best) = (0..self.waiting.len()).reduce(first) else { return Next::Idle };
            let chunk = self.waiting.remove(best);
            self.current = Some(Current { chunk, number: self.begun, given_up: None });
            self.begun += 1;
        }
        if self.ceiling.is_some() && now < self.may_leave {
            return Next::WaitUntil(self.may_leave);
        }
        let Some(current) = &mut self.current else { return Next::Idle };
        let parts = &mut current.chunk.parts;
        // The header of a chunk and the front of its body go together.
        let mut body = [Bytes::new(), Bytes::new()];
        let mut room = PIECE;
        for piece in &mut body {
            if let Some(front) = parts.front_mut() {
                *piece = front.split_to(room.min(front.len()));
                room -= piece.len();
                if front.is_empty() {
                    parts.pop_front();
                }
            }
        }
        let len = PIECE - room;
        let (mut head, mut tail) = (Vec::new(), Vec::new());
        frame::put_head(frame::BODY, len, &mut head);
        let mut done = None;
        if parts.is_empty() {
            StreamFrame::End.encode(&mut tail);
            done = self.current.take().map(|current| (current.chunk.done, Ok(())));
        }
        self.spend(now, head.len() + len + tail.len());
        Next::Write { head, body, tail, done }
    }

    fn spend(&mut self, now: Instant, bytes: usize) {
        if let Some(bits) = self.ceiling {
            let takes = Duration::from_secs_f64(bytes as f64 * 8.0 / bits as f64);
            let from = now.checked_sub(BURST).map_or(self.may_leave, |past| self.may_leave.max(past));
            self.may_leave = from + takes;
        }
    }
}

/// The writing task.
pub(super) async fn run(shared: Arc<Shared>, io: WriteHalf<BoxStream>) {
    let ended = shared.ended();
    let rt = shared.rt.clone();
    let over = async {
        // A peer that does not read is not told.
        ended.await;
        rt.sleep(FAREWELL).await;
    };
    tokio::select! {
        result = write(&shared, io) => {
            if let Err(error) = result {
                // What the peer has said before it went is still to be read, and says more.
                let _ = rt.timeout(FAREWELL, shared.ended()).await;
                shared.lose(error.into());
            }
        }
        () = over => {}
    }
}

async fn write(shared: &Arc<Shared>, mut io: WriteHalf<BoxStream>) -> std::io::Result<()> {
    loop {
        let next = shared.out().next(shared.rt.now());
        match next {
            Next::Write { head, body, tail, done } => {
                let written = write_all(&mut io, [&head, &body[0], &body[1], &tail]).await?;
                shared.sent.fetch_add(written as u64, Ordering::Relaxed);
                if !body[0].is_empty() {
                    shared.used.fetch_add(1, Ordering::Relaxed);
                }
                if let Some((done, result)) = done {
                    // Its sender may have gone meanwhile.
                    let _ = done.send(result);
                } else {
                    shared.moved.notify_waiters();
                }
            }
            Next::WaitUntil(at) => {
                io.flush().await?;
                tokio::select! {
                    () = shared.rt.sleep_until(at) => {}
                    () = shared.wake.notified() => {}
                }
            }
            Next::Idle => {
                if shared.is_over() {
                    return Ok(());
                }
                io.flush().await?;
                let gives_up_at = shared.out().gives_up_at;
                let given_up = async {
                    match gives_up_at {
                        Some(at) => shared.rt.sleep_until(at).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = given_up => {}
                    () = shared.wake.notified() => {}
                }
            }
            Next::GiveUp => shared.close(Code::Cancelled, CUT_OFF),
            Next::Close(head) => {
                write_all(&mut io, [&head]).await?;
                io.flush().await?;
                return io.shutdown().await;
            }
        }
    }
}

/// A chunk that is to be sent. Dropped before that, it is given up.
pub(super) struct ChunkOut {
    shared: Arc<Shared>,
    id: u64,
    done: oneshot::Receiver<Sent>,
}

impl ChunkOut {
    pub(super) fn queue(
        shared: &Arc<Shared>,
        header: Bytes,
        body: Vec<Bytes>,
        priority: i32,
    ) -> Result<Self, LinkError> {
        let (done, receiver) = oneshot::channel();
        let parts = std::iter::once(header).chain(body).filter(|part| !part.is_empty()).collect();
        let mut out = shared.out();
        // Looked at under the lock: what comes after the end is never written.
        if let Some(error) = shared.over() {
            return Err(error);
        }
        let id = out.next_id;
        out.next_id += 1;
        out.waiting.push(Chunk { id, priority, parts, done });
        drop(out);
        shared.wake.notify_one();
        Ok(Self { shared: shared.clone(), id, done: receiver })
    }

    pub(super) async fn sent(mut self) -> Result<(), LinkError> {
        match (&mut self.done).await {
            Ok(result) => result,
            Err(_) => Err(self.shared.ended().await),
        }
    }
}

impl Drop for ChunkOut {
    fn drop(&mut self) {
        let mut out = self.shared.out();
        out.waiting.retain(|chunk| chunk.id != self.id);
        if let Some(current) = out.current.as_mut().filter(|current| current.chunk.id == self.id) {
            current.given_up.get_or_insert(None);
            drop(out);
            self.shared.wake.notify_one();
        }
    }
}

/// The sending half of the control stream.
pub(super) struct ControlOut {
    alive: Arc<Alive>,
    finished: bool,
}

impl ControlOut {
    pub(super) fn new(alive: Arc<Alive>) -> Self {
        Self { alive, finished: false }
    }

    async fn write(&self, bytes: Bytes) -> Result<(), LinkError> {
        let shared = &self.alive.0;
        loop {
            let moved = shared.moved.notified();
            {
                let mut out = shared.out();
                if let Some(error) = shared.over() {
                    return Err(error);
                }
                if out.control_len < CONTROL_MAX {
                    out.control_len += bytes.len();
                    out.control.push_back(bytes);
                    break;
                }
            }
            moved.await;
        }
        shared.wake.notify_one();
        Ok(())
    }

    /// Waits until the peer has read everything that was written up to the end of the control stream.
    async fn read_by_peer(&self) -> Result<(), LinkError> {
        let shared = &self.alive.0;
        let mut end = None;
        loop {
            let moved = shared.moved.notified();
            if let Some(error) = shared.over() {
                return match error {
                    // What a peer that has read everything does.
                    LinkError::ClosedByPeer { code: Code::Ok, .. } => Ok(()),
                    other => Err(other),
                };
            }
            let written = {
                let out = shared.out();
                !out.finish && out.control.is_empty()
            };
            if written {
                let sent = *end.get_or_insert_with(|| shared.sent.load(Ordering::Relaxed));
                if shared.acked.load(Ordering::Relaxed) >= sent {
                    return Ok(());
                }
                shared.ping();
            }
            moved.await;
        }
    }
}

impl ControlSend for ControlOut {
    fn send(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), LinkError>> {
        Box::pin(async move {
            if self.finished {
                return Err(LinkError::Protocol("sent on a finished stream (fault: the caller)".into()));
            }
            if bytes.is_empty() { Ok(()) } else { self.write(bytes).await }
        })
    }

    fn finish(&mut self) -> BoxFuture<'_, Result<(), LinkError>> {
        Box::pin(async {
            if !std::mem::replace(&mut self.finished, true) {
                self.alive.0.out().finish = true;
                self.alive.0.wake.notify_one();
            }
            self.read_by_peer().await
        })
    }
}

impl Drop for ControlOut {
    fn drop(&mut self) {
        if !self.finished {
            // A control stream that is cut off must not look complete; without one a link is of no use. But whoever lets go of
            // it may be about to close the link with a reason, as a gateway that refuses, and that one counts.
            let at = self.alive.0.rt.now() + GRACE;
            self.alive.0.out().gives_up_at = Some(at);
            self.alive.0.wake.notify_one();
        }
    }
}

impl fmt::Debug for ControlOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ControlOut")
    }
}
