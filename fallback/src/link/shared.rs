//! What the tasks and handles of a link share: how it ended, what it has carried, its clock.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use metra_core::code::Code;
use metra_transport::{LinkError, Rt};
use tokio::sync::{Notify, watch};

use super::LinkTuning;
use super::write::{CUT_OFF, Out};
use metra_core::wire::stream::StreamError;

/// How long a closed link tries to tell the peer.
pub(super) const FAREWELL: Duration = Duration::from_secs(1);
/// How often a link in use is pinged.
const PING: Duration = Duration::from_millis(250);
/// How often a link that is not in use is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Taken for the round-trip time before it is measured, where nothing better is known.
const INITIAL_RTT: Duration = Duration::from_millis(100);

/// Shared by the tasks and handles of a link.
pub(super) struct Shared {
    pub(super) rt: Rt,
    out: Mutex<Out>,
    /// There is something to write.
    pub(super) wake: Notify,
    /// The control queue has room again; or the peer has read more.
    pub(super) moved: Notify,
    end: watch::Sender<Option<LinkError>>,
    /// The key by which the peer says that it is known.
    identity: watch::Sender<Option<[u8; 32]>>,
    /// Bytes written and read.
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
    /// How often control or chunks were written or read.
    pub(super) used: AtomicU64,
    /// Of those written, what the peer has read as far as is known.
    pub(super) acked: AtomicU64,
    clock: Mutex<Clock>,
    /// What was read waits for its receiver, and nothing more is read meanwhile.
    reader_waits: AtomicBool,
    /// What a peer may send that is not trusted, until it is: then `u64::MAX`.
    may_send: AtomicU64,
}

/// Held by the link and its streams: when the last is gone, the link closes.
pub(super) struct Alive(pub(super) Arc<Shared>);

impl Drop for Alive {
    fn drop(&mut self) {
        let cut_off = self.0.out().is_cut_off();
        let (code, reason) = if cut_off { (Code::Cancelled, CUT_OFF) } else { (Code::Ok, "") };
        self.0.close(code, reason);
    }
}

/// The reader waits for as long as this lives.
pub(super) struct ReaderWaits<'a>(&'a Shared);

impl Drop for ReaderWaits<'_> {
    fn drop(&mut self) {
        self.0.reader_waits.store(false, Ordering::Relaxed);
        self.0.clock().heard = self.0.rt.now();
    }
}

/// Round-trip times of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rtt {
    pub(super) smoothed: Duration,
    pub(super) min: Duration,
    measured: bool,
}

#[derive(Debug)]
struct Clock {
    heard: Instant,
    rtt: Rtt,
    /// The ping that has no answer yet, and when it was queued.
    ping: Option<(u64, Instant)>,
    next_ping: u64,
    pinged: Instant,
    /// [`Shared::used`] when it was pinged.
    used: u64,
}

impl Rtt {
    fn new(hint: Option<Duration>) -> Self {
        let guess = hint.unwrap_or(INITIAL_RTT);
        Self { smoothed: guess, min: guess, measured: false }
    }

    /// RFC 6298 section 2: an eighth of each new sample.
    fn sample(&mut self, sample: Duration) {
        if std::mem::replace(&mut self.measured, true) {
            self.smoothed = (self.smoothed * 7 + sample) / 8;
            self.min = self.min.min(sample);
        } else {
            (self.smoothed, self.min) = (sample, sample);
        }
    }
}

impl Shared {
    pub(super) fn new(rt: Rt, rtt: Option<Duration>, from_strangers: Option<usize>) -> Self {
        let now = rt.now();
        Self {
            out: Mutex::new(Out::new(now)),
            wake: Notify::new(),
            moved: Notify::new(),
            end: watch::Sender::new(None),
            identity: watch::Sender::new(None),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            used: AtomicU64::new(0),
            acked: AtomicU64::new(0),
            clock: Mutex::new(Clock {
                heard: now,
                rtt: Rtt::new(rtt),
                ping: None,
                next_ping: 0,
                pinged: now,
                used: 0,
            }),
            reader_waits: AtomicBool::new(false),
            may_send: AtomicU64::new(from_strangers.map_or(u64::MAX, |bytes| bytes as u64)),
            rt,
        }
    }

    /// That nothing is heard while the reader waits is not the peer's fault.
    pub(super) fn reader_waits(&self) -> ReaderWaits<'_> {
        self.reader_waits.store(true, Ordering::Relaxed);
        ReaderWaits(self)
    }

    pub(super) fn out(&self) -> MutexGuard<'_, Out> {
        self.out.lock().expect("no panic while held")
    }

    fn clock(&self) -> MutexGuard<'_, Clock> {
        self.clock.lock().expect("no panic while held")
    }

    pub(super) fn rtt(&self) -> Rtt {
        self.clock().rtt
    }

    pub(super) fn set_ceiling(&self, bits: Option<u64>) {
        self.out().set_ceiling(bits);
        self.wake.notify_one();
    }

    /// The peer is known.
    pub(super) fn trust(&self) {
        self.may_send.store(u64::MAX, Ordering::Release);
    }

    pub(super) fn is_trusted(&self) -> bool {
        self.may_send.load(Ordering::Acquire) == u64::MAX
    }

    /// Whether the peer has sent more than it may.
    pub(super) fn is_intrusive(&self) -> bool {
        self.received.load(Ordering::Relaxed) > self.may_send.load(Ordering::Acquire)
    }

    /// The peer says by which key it is known. The first word counts.
    pub(super) fn identified(&self, key: [u8; 32]) {
        self.identity.send_if_modified(|identity| identity.is_none() && identity.replace(key).is_none());
    }

    /// What the peer has said so far.
    pub(super) fn identity(&self) -> Option<[u8; 32]> {
        *self.identity.borrow()
    }

    /// Waits for it, as long as the link lives.
    pub(super) async fn wait_for_identity(&self) -> Option<[u8; 32]> {
        let mut identity = self.identity.subscribe();
        let ended = self.ended();
        tokio::select! {
            biased;
            found = identity.wait_for(Option::is_some) => found.ok().and_then(|found| *found),
            _ = ended => None,
        }
    }

    /// Something was read.
    pub(super) fn heard(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
        self.clock().heard = self.rt.now();
    }

    /// A ping is answered. An answer that was not asked for says nothing.
    pub(super) fn pong(&self, number: u64, read: u64) {
        let now = self.rt.now();
        let mut clock = self.clock();
        let Some((_, at)) = clock.ping.take_if(|(asked, _)| *asked == number) else { return };
        clock.rtt.sample(now.saturating_duration_since(at));
        drop(clock);
        let read = read.min(self.sent.load(Ordering::Relaxed));
        self.acked.fetch_max(read, Ordering::Relaxed);
        self.moved.notify_waiters();
    }

    /// Pings, unless a ping is under way already.
    pub(super) fn ping(&self) {
        let mut clock = self.clock();
        if clock.ping.is_some() {
            return;
        }
        let (number, now) = (clock.next_ping, self.rt.now());
        clock.next_ping += 1;
        clock.ping = Some((number, now));
        clock.pinged = now;
        clock.used = self.used.load(Ordering::Relaxed);
        drop(clock);
        self.out().ping = Some(number);
        self.wake.notify_one();
    }

    /// The link is lost, and nothing more is written. Only the first end counts.
    pub(super) fn lose(&self, error: LinkError) {
        self.finish(error);
    }

    /// The peer broke the format.
    pub(super) fn broken(&self, error: StreamError) {
        self.refuse(Code::Protocol, &error.to_string());
    }

    /// The peer did what it must not.
    pub(super) fn refuse(&self, code: Code, reason: &str) {
        self.out().close = Some((code, reason.to_owned()));
        self.finish(LinkError::Protocol(reason.to_owned()));
    }

    /// Closes the link from this side: the peer is told, if it listens.
    pub(super) fn close(&self, code: Code, reason: &str) {
        let mut out = self.out();
        if self.is_over() {
            return;
        }
        out.close = Some((code, reason.to_owned()));
        drop(out);
        self.finish(LinkError::ClosedLocally);
    }

    fn finish(&self, error: LinkError) {
        let first = self.end.send_if_modified(|end| {
            let first = end.is_none();
            if first {
                *end = Some(error);
            }
            first
        });
        if first {
            self.out().abandon();
        }
        self.wake.notify_one();
        self.moved.notify_waiters();
    }

    pub(super) fn is_over(&self) -> bool {
        self.end.borrow().is_some()
    }

    /// Why it ended, if it has.
    pub(super) fn over(&self) -> Option<LinkError> {
        self.end.borrow().clone()
    }

    /// Waits for the end.
    pub(super) fn ended(&self) -> impl Future<Output = LinkError> + Send + use<> {
        let mut end = self.end.subscribe();
        async move {
            match end.wait_for(Option::is_some).await.as_deref() {
                Ok(Some(error)) => error.clone(),
                // The sender is gone: so is everything.
                _ => LinkError::ClosedLocally,
            }
        }
    }
}

/// The task that pings, and notices that nothing is heard.
pub(super) async fn watch(shared: Arc<Shared>, tuning: LinkTuning) {
    let ended = shared.ended();
    tokio::pin!(ended);
    shared.ping();
    loop {
        let now = shared.rt.now();
        let (heard, pinged, used) = {
            let clock = shared.clock();
            (clock.heard, clock.pinged, clock.used != shared.used.load(Ordering::Relaxed))
        };
        let silent = !shared.reader_waits.load(Ordering::Relaxed);
        if silent && now.saturating_duration_since(heard) >= tuning.idle_timeout {
            shared.lose(LinkError::TimedOut);
            return;
        }
        let due = if used { PING } else { tuning.keep_alive };
        if now.saturating_duration_since(pinged) >= due {
            shared.ping();
        }
        let pause = shared.rt.sleep(if used { PING } else { LOOK.min(tuning.keep_alive) });
        tokio::select! {
            _ = &mut ended => return,
            () = pause => {}
        }
    }
}
