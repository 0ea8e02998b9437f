//! [`Bbr`](metra_core::bbr::Bbr) as quinn wants a controller, and its pacing.
//!
//! quinn has a pacer of its own, which knows nothing of a controller's rate. It is off for windows above `u32::MAX`; so
//! while less is in flight than the window, that is what quinn is told. When each batch may leave is decided as
//! quinn tells of it; the socket obeys ([`socket::hold_until`]).

use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use metra_core::bbr::{Bbr, Pacer, Params, Remembered};
use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics};
use quinn_proto::RttEstimator;

use super::rate::RateCell;
use crate::socket;

/// Any window above this turns quinn's pacer off.
const UNPACED: u64 = 1 << 40;

/// Makes controllers.
#[derive(Debug)]
pub(super) struct BbrFactory {
    params: Params,
    initial_window: u64,
    /// Of the next controller's random choices.
    seed: AtomicU64,
    /// For the first controller: one that is made later, after the peer has moved, is for another path.
    path: Mutex<Option<Remembered>>,
}

impl BbrFactory {
    /// `initial_window` in bytes; `path` is what is remembered of the path of the only connection that this is for.
    pub(super) fn new(params: Params, initial_window: u64, seed: u64, path: Option<Remembered>) -> Self {
        Self { params, initial_window, seed: AtomicU64::new(seed), path: Mutex::new(path) }
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
    initial_window: u64,
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

    /// How the path is shared is set here; the controller looks at it with each batch.
    pub(super) fn rate(&self) -> &RateCell {
        &self.rate
    }
}

impl Controller for PacedBbr {
    fn on_sent(&mut self, now: Instant, bytes: u64, _: u64) {
        if !self.asked.swap(false, Ordering::Relaxed) {
            return socket::hold_until(None);
        }
        self.probe.store(false, Ordering::Relaxed);
        self.bbr.set_rate(now, self.rate.get());
        let leaves = self.pacer.leave(now, bytes, self.bbr.pacing_rate());
        socket::hold_until((leaves > now).then_some(leaves));
        self.bbr.on_sent(now, leaves.max(now), bytes);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, _: bool, _: &RttEstimator) {
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
    }

    fn window(&self) -> u64 {
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
