//! [`Bbr`](metra_core::bbr::Bbr) as quinn wants a controller, and its pacing.
//!
//! quinn has a pacer of its own, which knows nothing of a controller's rate. It is off for windows above `u32::MAX`; so
//! while less is in flight than the window, that is what quinn is told. When each batch may leave is decided as
//! quinn tells of it; the socket obeys ([`socket::hold_until`]).

use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use metra_core::bbr::{Bbr, Pacer, Params, Remembered};
use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics};
use quinn_proto::RttEstimator;

use super::rate::RateCell;
use crate::socket;

/// quinn sends probes for the path's MTU only when it has nothing else to send, or may not. A sender that is paced always has,
/// and always may: so while the MTU may be more than is known, it may not, for one moment, again and again. What it costs is
/// the wait for the next acknowledgement, a few milliseconds at most, while so many packets are in flight that there is one
/// soon. Packets.
const IN_FLIGHT: u64 = 32;
/// First after so many round-trip times each: a probe is found lost after 9/8.
const OFTEN: f64 = 1.5;
/// So many times since the MTU has changed; a search is over after 30 probes.
const LOOKS: u32 = 48;
/// Then so often: searches begin anew after some minutes.
const SELDOM: Duration = Duration::from_secs(10);

/// A batch of less than so many packets is not held, only counted. Who sends a file fills its batches. Who receives one says
/// something short now and then, at a rate that it never had to find out; held, it would hold all acknowledgements that
/// are made after it. They name 64 ranges at most, so what they say late they never say of the oldest packets: at 10 Gbit/s
/// and half a percent of loss, or 1 Gbit/s and 5 %, of what came 15 ms ago. Those would count as lost, many at a time.
const HELD: u64 = 2;

/// Any window above this turns quinn's pacer off.
const UNPACED: u64 = 1 << 40;

/// Makes controllers.
#[derive(Debug)]
pub(super) struct BbrFactory {
    params: Params,
    initial_window: u64,
    /// What path MTU discovery tries at most. Bytes of UDP payload.
    largest: u16,
    /// Of the next controller's random choices.
    seed: AtomicU64,
    /// For the first controller: one that is made later, after the peer has moved, is for another path.
    path: Mutex<Option<Remembered>>,
}

impl BbrFactory {
    /// `initial_window` in bytes. Path MTU discovery is over when datagrams are of `largest` bytes, or nearly. `path` is what
    /// is remembered of the path of the only connection that this is for.
    pub(super) fn new(
        params: Params,
        initial_window: u64,
        largest: u16,
        seed: u64,
        path: Option<Remembered>,
    ) -> Self {
        Self { params, initial_window, largest, seed: AtomicU64::new(seed), path: Mutex::new(path) }
    }
}

impl ControllerFactory for BbrFactory {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        let seed = self.seed.fetch_add(1, Ordering::Relaxed);
        let mut bbr = Bbr::new(self.params.clone(), now, mtu.into(), self.initial_window, seed);
        if let Some(path) = self.path.lock().unwrap_or_else(PoisonError::into_inner).take() {
            bbr = bbr.remembering(path);
        }
        Box::new(PacedBbr {
            bbr,
            // No later than the socket lets it: a round-trip time from a moment after that would be too short.
            pacer: Pacer::new(now, socket::HOLD_MAX),
            asked: AtomicBool::new(false),
            probe: Arc::default(),
            rate: Arc::default(),
            pause: Pause::new(now, mtu, self.largest),
            initial_window: self.initial_window,
        })
    }
}

/// A controller with its pacing.
pub(super) struct PacedBbr {
    bbr: Bbr,
    pacer: Pacer,
    /// Whether the window was asked for since the last batch left: it is for what counts against it, so not for
    /// acknowledgements alone, nor for probes. Those are not held back, and say nothing of the path: who receives would
    /// else pace its acknowledgements at a rate that it never had to find out.
    asked: AtomicBool,
    /// Two packets may go out, whatever the window says. One for all copies: quinn gives away copies only.
    probe: Arc<AtomicBool>,
    /// How the path is to be shared; one for all copies as well.
    rate: Arc<RateCell>,
    pause: Pause,
    initial_window: u64,
}

/// When nothing may be sent for a moment but a probe for the MTU, see [`IN_FLIGHT`].
#[derive(Debug)]
struct Pause {
    /// It is now: until the window is looked at.
    now: AtomicBool,
    next: Instant,
    /// What path MTU discovery tries at most. Bytes.
    largest: u16,
    /// Whether it may still find more than there is.
    searches: bool,
    /// Since the MTU has changed.
    past: u32,
    rtt: Duration,
}

/// A way to try a path on which nothing is heard.
pub(super) struct Probing {
    /// What was in flight. Bytes.
    pub(super) in_flight: u64,
    probe: Arc<AtomicBool>,
}

impl Probing {
    /// Two packets may go out, as soon as the connection looks.
    pub(super) fn allow(&self) {
        self.probe.store(true, Ordering::Relaxed);
    }
}

impl PacedBbr {
    pub(super) fn probing(&self) -> Probing {
        Probing { in_flight: self.bbr.in_flight(), probe: self.probe.clone() }
    }

    /// See [`Bbr::remember`].
    pub(super) fn remember(&self) -> Option<Remembered> {
        self.bbr.remember()
    }

    pub(super) fn retreated(&self) -> bool {
        self.bbr.look().retreated
    }

    /// When a batch leaves that counts against the window: now, or later.
    fn leaves(&mut self, now: Instant, bytes: u64) -> Instant {
        let leaves = self.pacer.leave(now, bytes, self.bbr.pacing_rate());
        if bytes < HELD * self.bbr.mss() { now } else { leaves.max(now) }
    }

    /// How the path is shared is set here; the controller looks at it with each batch.
    pub(super) fn rate(&self) -> &RateCell {
        &self.rate
    }
}

impl Pause {
    /// Not before the round-trip time is known.
    fn new(now: Instant, mtu: u16, largest: u16) -> Self {
        let searches = Self::may_find_more(mtu, largest);
        Self { now: AtomicBool::new(false), next: now, largest, searches, past: 0, rtt: Duration::ZERO }
    }

    /// quinn searches to within 20 bytes.
    fn may_find_more(mtu: u16, largest: u16) -> bool {
        largest.saturating_sub(mtu) >= 20
    }

    /// A batch has been sent, and so much is in flight.
    fn on_sent(&mut self, now: Instant, packets: u64) {
        if !self.searches || now < self.next || self.rtt.is_zero() || packets < IN_FLIGHT {
            return;
        }
        self.past = self.past.saturating_add(1);
        let wait = if self.past < LOOKS { self.rtt.mul_f64(OFTEN) } else { SELDOM };
        self.next = now + wait;
        self.now.store(true, Ordering::Relaxed);
    }

    fn on_mtu_update(&mut self, mtu: u16) {
        self.past = 0;
        self.searches = Self::may_find_more(mtu, self.largest);
    }

    /// Whether this look at the window is the one.
    fn take(&self) -> bool {
        self.now.swap(false, Ordering::Relaxed)
    }
}

impl Controller for PacedBbr {
    fn on_sent(&mut self, now: Instant, bytes: u64, _: u64) {
        if !self.asked.swap(false, Ordering::Relaxed) {
            return socket::hold_until(None);
        }
        self.probe.store(false, Ordering::Relaxed);
        self.bbr.set_rate(now, self.rate.get());
        self.bbr.set_pace(self.rate.pace());
        let leaves = self.leaves(now, bytes);
        socket::hold_until((leaves > now).then_some(leaves));
        self.bbr.on_sent(now, leaves, bytes);
        self.pause.on_sent(now, self.bbr.in_flight() / self.bbr.mss());
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, _: bool, rtt: &RttEstimator) {
        self.pause.rtt = rtt.get();
        self.bbr.on_packet_acked(now, sent, bytes);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, _: Option<u64>) {
        self.bbr.on_acked(now, in_flight, app_limited);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent: bool, lost_bytes: u64) {
        // quinn tells of CE marks as of a loss of nothing.
        match lost_bytes {
            0 => self.bbr.on_ecn(now),
            _ => self.bbr.on_lost(now, sent, lost_bytes, is_persistent),
        }
    }

    fn on_mtu_update(&mut self, mtu: u16) {
        self.bbr.on_mss(mtu.into());
        self.pause.on_mtu_update(mtu);
    }

    fn window(&self) -> u64 {
        if self.pause.take() {
            return 0;
        }
        self.asked.store(true, Ordering::Relaxed);
        let (window, in_flight) = (self.bbr.cwnd(), self.bbr.in_flight());
        if in_flight < window {
            UNPACED
        } else if self.probe.load(Ordering::Relaxed) {
            // quinn wants room for more than it sends.
            in_flight + 3 * self.bbr.mss()
        } else {
            window
        }
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.bbr.cwnd();
        metrics.pacing_rate = Some((self.bbr.pacing_rate() * 8.0) as u64);
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            bbr: self.bbr.clone(),
            pacer: self.pacer.clone(),
            asked: AtomicBool::new(false),
            probe: self.probe.clone(),
            rate: self.rate.clone(),
            pause: Pause { now: AtomicBool::new(false), ..self.pause },
            initial_window: self.initial_window,
        })
    }

    fn initial_window(&self) -> u64 {
        self.initial_window
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;

    const RTT: Duration = Duration::from_millis(20);

    /// As quinn has it made.
    fn made(now: Instant) -> PacedBbr {
        let factory = BbrFactory::new(Params::default(), 14_720, 1452, 1, None);
        *Arc::new(factory).build(now, 1452).into_any().downcast().unwrap()
    }

    #[test]
    fn a_short_batch_is_counted_but_not_held() {
        let now = Instant::now();
        let mut paced = made(now);
        // At 14,720 bytes in a round-trip time, as one of 200 ms has it at first.
        for _ in 0..12 {
            paced.bbr.on_sent(now, now, 1452);
        }
        paced.bbr.on_packet_acked(now + 10 * RTT, now, 1452);
        paced.bbr.on_acked(now + 10 * RTT, 11 * 1452, false);
        let mut now = now + 10 * RTT;
        assert_eq!(paced.leaves(now, 10 * 1452), now, "nothing has left before");
        let held = paced.leaves(now, 10 * 1452) - now;
        assert!(held > RTT, "{held:?}");
        // Acknowledgements are made as soon as it has left.
        assert_eq!(paced.leaves(now, 300), now);
        assert_eq!(paced.leaves(now, 2 * 1452 - 1), now);
        now += socket::HOLD_MAX;
        assert_eq!(paced.leaves(now, 300), now);
        // What it takes of the rate is taken.
        assert!(paced.leaves(now, 10 * 1452) > now);
    }

    /// How often a sender is paused that sends a batch each millisecond from `from` on, until `until`. Milliseconds.
    fn pauses(pause: &mut Pause, start: Instant, from: u64, until: u64, packets: u64) -> usize {
        (from..until)
            .filter(|ms| {
                pause.on_sent(start + Duration::from_millis(*ms), packets);
                let (first, second) = (pause.take(), pause.take());
                assert!(!second, "for one look only");
                first
            })
            .count()
    }

    #[test]
    fn pauses_come_often_after_a_new_mtu_and_then_seldom() {
        let start = Instant::now();
        let mut pause = Pause::new(start, 1200, 8952);
        assert_eq!(pauses(&mut pause, start, 0, 1000, 100), 0, "the round-trip time is not known");
        pause.rtt = RTT;
        assert_eq!(pauses(&mut pause, start, 1000, 2000, IN_FLIGHT - 1), 0, "no acknowledgement comes soon");
        // One each 30 ms; the last of them is followed by a long wait.
        assert_eq!(pauses(&mut pause, start, 2000, 2300, IN_FLIGHT), 10);
        assert_eq!(pauses(&mut pause, start, 2300, 12_000, 100), LOOKS as usize - 10);
        assert_eq!(pauses(&mut pause, start, 12_000, 32_000, 100), 2);
        pause.on_mtu_update(1441);
        assert_eq!(pauses(&mut pause, start, 32_000, 53_000, 100), LOOKS as usize + 1);
        pause.on_mtu_update(8940);
        assert_eq!(pauses(&mut pause, start, 53_000, 99_000, 100), 0, "there is no more to be found");
    }
}
