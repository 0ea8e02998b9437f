//! HTTP datagrams (RFC 9297 section 2.1) of CONNECT-UDP (RFC 9298 section 5), in QUIC DATAGRAM frames.
//!
//! ```text
//!  QUIC ──> one reader ──> by quarter stream id ──> a queue per tunnel ──> poll_recv
//!  try_send ───────────────────────────────────────────────────────────> QUIC's buffer, or Full
//! ```
//!
//! The reader takes what there is at a time and wakes each consumer once for it; the consumer takes its whole queue at a
//! time. So a lock changes hands per batch, not per datagram.

use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use metra_transport::Rt;
use quinn::{Connection, ConnectionError, SendDatagramError};
use tokio::sync::Notify;

use super::error::{self, ID_ERROR};
use super::rounds::Share;
use super::sharing::Sharing;
use crate::proto::Prefix;
use crate::proto::datagram::{self, FrameError};
use crate::sync::{Waiting, lock};

/// The datagrams of one tunnel, both ways.
#[derive(Debug)]
pub struct Datagrams {
    /// To the peer.
    pub sender: DatagramSender,
    /// From the peer.
    pub receiver: DatagramReceiver,
}

/// Sends datagrams of one tunnel. Clones are for the same tunnel.
#[derive(Clone, Debug)]
pub struct DatagramSender(Arc<Out>);

/// Receives the datagrams of one tunnel.
#[derive(Debug)]
pub struct DatagramReceiver {
    queue: Arc<Queue>,
    /// Taken from the queue, and not given out yet.
    taken: VecDeque<Bytes>,
}

/// Why a datagram was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The path does not carry as much as is sent: drop this one, or wait with [`DatagramSender::poll_ready`]. Fault: nobody.
    #[error("no room for datagrams")]
    Full,
    /// Longer than [`DatagramSender::max_payload`]. Fault: the caller, or the path has shrunk.
    #[error("the datagram is too long for the path")]
    TooLarge,
    /// The tunnel or its connection has ended.
    #[error("the tunnel has ended")]
    Closed,
}

#[derive(Debug)]
struct Out {
    rt: Rt,
    connection: Connection,
    head: Prefix,
    queue: Arc<Queue>,
    is_blocked: AtomicBool,
    waiting: Waiting,
    sharing: Arc<Sharing>,
    share: Mutex<Share>,
    /// Somebody will wake those that wait for their part.
    is_timed: AtomicBool,
}

impl Datagrams {
    pub(super) fn new(rt: Rt, connection: Connection, route: &Route) -> Self {
        let queue = route.queue.clone();
        lock(&queue.waiting).is_early = false;
        let out = Out {
            rt,
            connection,
            head: datagram::prefix(route.stream)
                .expect("invariant: requests come on streams of the client's"),
            queue: queue.clone(),
            is_blocked: AtomicBool::new(false),
            waiting: Waiting::default(),
            sharing: route.routes.sharing.clone(),
            share: Mutex::default(),
            is_timed: AtomicBool::new(false),
        };
        let receiver = DatagramReceiver { queue, taken: VecDeque::new() };
        Self { sender: DatagramSender(Arc::new(out)), receiver }
    }
}

impl DatagramSender {
    /// The longest UDP payload that goes into one datagram now. Bytes; it grows and shrinks with the MTU of the path.
    /// `None`: the connection carries none.
    pub fn max_payload(&self) -> Option<usize> {
        self.0.connection.max_datagram_size()?.checked_sub(self.0.head.len())
    }

    /// Sends one UDP payload, with context id 0 (RFC 9298 section 5). Never blocks, and never pushes out another one.
    ///
    /// # Errors
    /// Why it was not taken.
    pub fn try_send(&self, payload: &[u8]) -> Result<(), SendError> {
        let out = &self.0;
        if !out.queue.is_open.load(Ordering::Relaxed) {
            return Err(SendError::Closed);
        }
        if out.is_blocked.load(Ordering::Acquire) {
            return Err(SendError::Full);
        }
        let mut datagram = BytesMut::with_capacity(out.head.len() + payload.len());
        datagram.put_slice(&out.head);
        datagram.put_slice(payload);
        let datagram = datagram.freeze();
        // `send_datagram` would push out the oldest one. This one waits instead, if there is no room; asked once, it
        // only says so.
        let waiting = pin!(out.connection.send_datagram_wait(datagram.clone()));
        match waiting.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => Ok(()),
            Poll::Ready(Err(SendDatagramError::TooLarge)) => Err(SendError::TooLarge),
            Poll::Ready(Err(_)) => Err(SendError::Closed),
            Poll::Pending => {
                out.is_blocked.store(true, Ordering::Release);
                // One waits outside of the buffer, so that it is known when there is room again. It counts as taken.
                let (connection, out) = (out.connection.clone(), out.clone());
                let rt = out.rt.clone();
                rt.spawn(async move {
                    // Lost with the connection, or the path has shrunk: as any datagram may be.
                    let _ = connection.send_datagram_wait(datagram).await;
                    out.is_blocked.store(false, Ordering::Release);
                    out.waiting.wake();
                });
                Ok(())
            }
        }
    }

    /// As [`DatagramSender::try_send`], and leaves room for the other tunnels of the connection, and for its streams: when what
    /// waits in it grows, or streams have something to send, each has its part of what it takes. For what comes from elsewhere
    /// and does not slow down by itself.
    ///
    /// # Errors
    /// Why it was not taken; [`SendError::Full`] also if this tunnel has had its part.
    pub fn offer(&self, payload: &[u8]) -> Result<(), SendError> {
        let out = &self.0;
        if !out.sharing.admit(|| out.rt.now(), &out.share, out.head.len() + payload.len()) {
            return Err(SendError::Full);
        }
        self.try_send(payload)
    }

    /// As [`DatagramSender::try_send`], for who has asked [`DatagramSender::has_part`] before.
    ///
    /// # Errors
    /// As there.
    pub fn send(&self, payload: &[u8]) -> Result<(), SendError> {
        let out = &self.0;
        out.sharing.charge(&out.share, out.head.len() + payload.len());
        self.try_send(payload)
    }

    /// Whether this tunnel may send more, of what its connection takes.
    pub fn has_part(&self) -> bool {
        let out = &self.0;
        out.sharing.has_part(|| out.rt.now(), &out.share)
    }

    /// Resolves when there may be more of a part, in a moment.
    pub fn poll_part(&self, cx: &mut Context<'_>) -> Poll<()> {
        let out = &self.0;
        let has_part = || !out.queue.is_open.load(Ordering::Relaxed) || self.has_part();
        if out.waiting.poll(cx, has_part).is_ready() {
            return Poll::Ready(());
        }
        if !out.is_timed.swap(true, Ordering::AcqRel) {
            let out = out.clone();
            let rt = out.rt.clone();
            rt.spawn(async move {
                out.rt.sleep(PART).await;
                out.is_timed.store(false, Ordering::Release);
                out.waiting.wake();
            });
        }
        Poll::Pending
    }

    /// Resolves when [`DatagramSender::try_send`] would not say [`SendError::Full`]. Any number of tasks may wait.
    ///
    /// # Errors
    /// [`SendError::Closed`].
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let out = &self.0;
        if !out.queue.is_open.load(Ordering::Relaxed) {
            return Poll::Ready(Err(SendError::Closed));
        }
        out.waiting.poll(cx, || !out.is_blocked.load(Ordering::Acquire)).map(Ok)
    }
}

impl DatagramReceiver {
    /// The next UDP payload. `None`: the tunnel has ended. Datagrams of other contexts than 0 are not for us (RFC 9298
    /// section 4: dropped).
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.taken.is_empty() {
            let mut waiting = lock(&self.queue.waiting);
            if waiting.packets.is_empty() {
                if !self.queue.is_open.load(Ordering::Relaxed) {
                    return Poll::Ready(None);
                }
                if !waiting.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    waiting.waker = Some(cx.waker().clone());
                }
                return Poll::Pending;
            }
            waiting.bytes = 0;
            std::mem::swap(&mut self.taken, &mut waiting.packets);
        }
        Poll::Ready(self.taken.pop_front())
    }

    /// Datagrams that were dropped because they were not read as fast as they came.
    pub fn dropped(&self) -> u64 {
        self.queue.dropped.load(Ordering::Relaxed)
    }
}

/// Where the datagrams of a connection go.
#[derive(Debug)]
pub(super) struct Routes {
    table: Mutex<Table>,
    /// Of one tunnel, waiting. Bytes.
    limit: usize,
    /// Server: how many streams a peer may be ahead of the requests that were seen. Client: none, it knows before the server.
    ahead: Option<u64>,
    sharing: Arc<Sharing>,
}

#[derive(Debug, Default)]
struct Table {
    /// By quarter stream id; in order, so that they are closed in the same order in every run.
    to: BTreeMap<u64, To>,
    /// Above those of all requests that were seen.
    next: u64,
    /// UDP payloads that came before their request did, the oldest first.
    early: VecDeque<(u64, Bytes)>,
    early_bytes: usize,
}

#[derive(Debug)]
enum To {
    Tunnel(Arc<Queue>),
    /// A request that gives datagrams no meaning. It is told of the first.
    Nothing(Arc<Notify>),
}

/// A place in [`Routes`] of a request that gives datagrams no meaning, for as long as this lives.
#[derive(Debug)]
pub(super) struct Unrouted {
    routes: Arc<Routes>,
    quarter: u64,
    came: Arc<Notify>,
}

/// A tunnel's place in [`Routes`], for as long as this lives.
#[derive(Debug)]
pub(super) struct Route {
    routes: Arc<Routes>,
    stream: u64,
    queue: Arc<Queue>,
}

#[derive(Debug)]
struct Queue {
    is_open: AtomicBool,
    dropped: AtomicU64,
    waiting: Mutex<Queued>,
}

#[derive(Debug, Default)]
struct Queued {
    packets: VecDeque<Bytes>,
    /// Of the packets, and what holding them costs.
    bytes: usize,
    waker: Option<Waker>,
    /// The tunnel is not granted yet: few are kept (RFC 9298 section 5).
    is_early: bool,
}

impl Routes {
    /// `ahead`: see [`Routes`].
    pub(super) fn new(limit: usize, ahead: Option<u64>, sharing: Arc<Sharing>) -> Arc<Self> {
        Arc::new(Self { table: Mutex::default(), limit, ahead, sharing })
    }

    /// Begins to keep datagrams of the request on `stream`.
    pub(super) fn open(self: &Arc<Self>, stream: u64) -> Route {
        let quarter = stream / 4;
        let waiting = Mutex::new(Queued { is_early: true, ..Queued::default() });
        let queue = Arc::new(Queue { is_open: AtomicBool::new(true), dropped: AtomicU64::new(0), waiting });
        let early = lock(&self.table).insert(quarter, To::Tunnel(queue.clone()));
        queue.push(early.into_iter(), self.limit);
        Route { routes: self.clone(), stream, queue }
    }

    /// The request on `stream` gives datagrams no meaning.
    pub(super) fn refuse(self: &Arc<Self>, stream: u64) -> Unrouted {
        let (quarter, came) = (stream / 4, Arc::new(Notify::new()));
        if !lock(&self.table).insert(quarter, To::Nothing(came.clone())).is_empty() {
            came.notify_one();
        }
        Unrouted { routes: self.clone(), quarter, came }
    }

    /// Reads the datagrams of `connection` until that ends.
    pub(super) async fn run(self: Arc<Self>, connection: Connection) {
        let mut batch = Batch { routes: &self, to: None, payloads: Vec::new() };
        while let Ok(first) = connection.read_datagram().await {
            let mut next = Some(Ok(first));
            while let Some(Ok(datagram)) = next {
                if let Err(malformed) = batch.take(datagram) {
                    connection.close(error::number(malformed.code()), malformed.to_string().as_bytes());
                    break;
                }
                next = poll_fn(|cx| Poll::Ready(now(pin!(connection.read_datagram()).poll(cx)))).await;
            }
            batch.flush();
        }
        let table = std::mem::take(&mut *lock(&self.table));
        for to in table.to.values() {
            if let To::Tunnel(queue) = to {
                queue.close();
            }
        }
    }
}

/// What is ready.
fn now(poll: Poll<Result<Bytes, ConnectionError>>) -> Option<Result<Bytes, ConnectionError>> {
    match poll {
        Poll::Ready(read) => Some(read),
        Poll::Pending => None,
    }
}

/// Datagrams that follow one another, for one tunnel.
struct Batch<'a> {
    routes: &'a Arc<Routes>,
    /// A quarter stream id, and its queue; `None`: nobody wants them.
    to: Option<(u64, Option<Arc<Queue>>)>,
    payloads: Vec<Bytes>,
}

/// What ends the connection (RFC 9297 section 2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Malformed {
    /// "MUST be treated as an HTTP/3 connection error of type H3_DATAGRAM_ERROR".
    #[error(transparent)]
    Unparsable(#[from] FrameError),
    /// "SHOULD be treated as an HTTP/3 connection error of type H3_ID_ERROR".
    #[error("an HTTP datagram of a stream beyond the limit")]
    BeyondLimit,
}

impl Malformed {
    fn code(self) -> u64 {
        match self {
            Malformed::Unparsable(error) => error.h3_code(),
            Malformed::BeyondLimit => ID_ERROR,
        }
    }
}

impl Batch<'_> {
    fn take(&mut self, frame: Bytes) -> Result<(), Malformed> {
        let (stream, datagram) = datagram::split(frame)?;
        let quarter = stream / 4;
        // Without a context id it is for no context, and what UDP cannot carry is for nobody.
        let payload = datagram::udp_payload(datagram).ok().flatten();
        if self.to.as_ref().is_none_or(|(id, _)| *id != quarter) {
            self.flush();
            let mut table = lock(&self.routes.table);
            match table.to.get(&quarter) {
                Some(To::Tunnel(queue)) => self.to = Some((quarter, Some(queue.clone()))),
                Some(To::Nothing(came)) => came.notify_one(),
                // Of one that has ended: dropped.
                None if quarter < table.next => self.to = Some((quarter, None)),
                None => match self.routes.ahead {
                    // No more streams than these can have been opened.
                    Some(ahead) if quarter - table.next > ahead => return Err(Malformed::BeyondLimit),
                    Some(_) => payload.iter().for_each(|payload| table.keep(quarter, payload)),
                    None => {}
                },
            }
        }
        if self.to.as_ref().is_some_and(|(_, queue)| queue.is_some()) {
            self.payloads.extend(payload);
        }
        Ok(())
    }

    fn flush(&mut self) {
        if let Some((_, Some(queue))) = self.to.take() {
            queue.push(self.payloads.drain(..), self.routes.limit);
        }
        self.payloads.clear();
    }
}

impl Table {
    /// Notes where the datagrams of a request go, and gives those that have come before it.
    fn insert(&mut self, quarter: u64, to: To) -> Vec<Bytes> {
        self.next = self.next.max(quarter + 1);
        self.to.insert(quarter, to);
        let (now, later) = self.early.drain(..).partition(|(of, _)| *of == quarter);
        self.early = later;
        let now: VecDeque<(u64, Bytes)> = now;
        self.early_bytes = self.early.iter().map(|(_, payload)| payload.len()).sum();
        now.into_iter().map(|(_, payload)| payload).collect()
    }

    /// Keeps a payload whose request may be on its way (RFC 9298 section 5): few, for whichever requests.
    fn keep(&mut self, quarter: u64, payload: &[u8]) {
        while self.early.len() >= EARLY || self.early_bytes + payload.len() > EARLY_BYTES {
            let Some((_, oldest)) = self.early.pop_front() else { return };
            self.early_bytes -= oldest.len();
        }
        self.early_bytes += payload.len();
        // Not what arrived in one call of the kernel.
        self.early.push_back((quarter, Bytes::copy_from_slice(payload)));
    }
}

impl Queue {
    fn push(&self, payloads: impl Iterator<Item = Bytes>, limit: usize) {
        let mut waiting = lock(&self.waiting);
        for payload in payloads {
            let cost = payload.len() + size_of::<Bytes>();
            let is_full = waiting.bytes + cost > limit
                || waiting.is_early && waiting.packets.len() >= EARLY
                || !self.is_open.load(Ordering::Relaxed);
            if is_full {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            // quinn's datagrams hold what arrived in one call of the kernel, up to 64 KiB: not for a few bytes that wait.
            let is_small = payload.len() < SMALL && waiting.packets.len() >= FEW;
            let payload = if is_small { Bytes::copy_from_slice(&payload) } else { payload };
            waiting.bytes += cost;
            waiting.packets.push_back(payload);
        }
        let waker = if waiting.packets.is_empty() { None } else { waiting.waker.take() };
        drop(waiting);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn close(&self) {
        self.is_open.store(false, Ordering::Relaxed);
        let waker = lock(&self.waiting).waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Unrouted {
    /// Resolves when a datagram has come.
    pub(super) async fn came(&self) {
        self.came.notified().await;
    }
}

impl Drop for Unrouted {
    fn drop(&mut self) {
        lock(&self.routes.table).to.remove(&self.quarter);
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        lock(&self.routes.table).to.remove(&(self.stream / 4));
        self.queue.close();
    }
}

/// After so long it is asked again whether a tunnel has a part.
const PART: Duration = Duration::from_millis(1);
/// Datagrams kept of a tunnel that is not granted yet, and of all requests of a connection that have not come yet.
const EARLY: usize = 32;
/// Of the latter. Bytes.
const EARLY_BYTES: usize = 64 << 10;
/// Payloads that wait are copied if they are shorter than this (bytes) and more than so many wait.
const SMALL: usize = 1024;
const FEW: usize = 16;
