//! Counts what the peer has acknowledged, which quinn's statistics do not have.
//!
//! quinn tells its congestion controller of every packet that was acknowledged. A [`Counted`] controller counts them and is
//! the one inside it in everything else. Of what a sender knows this comes closest to what has arrived: what was
//! sent may stand in a queue, or be lost.

use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use metra_core::bbr::Remembered;
use metra_core::rate::RatePolicy;
use quinn::Connection;
use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics};
use quinn_proto::RttEstimator;

use super::bbr::{PacedBbr, Probing};
use super::rate::RateCell;

/// Makes controllers that count.
pub(super) struct CountedConfig<F>(Arc<F>);

impl<F> CountedConfig<F> {
    pub(super) fn new(inside: F) -> Self {
        Self(Arc::new(inside))
    }
}

impl<F: ControllerFactory + Send + Sync + 'static> ControllerFactory for CountedConfig<F> {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        Box::new(Counted {
            inside: self.0.clone().build(now, mtu),
            acked: Arc::default(),
            deferred: Arc::default(),
        })
    }
}

struct Counted {
    inside: Box<dyn Controller>,
    /// Bytes. One counter with all copies of the controller: quinn gives away copies only.
    acked: Arc<AtomicU64>,
    /// Congestion control is off; of all copies, too.
    deferred: Arc<AtomicBool>,
}

/// Any window that is never full.
const OPEN: u64 = 1 << 40;

/// Switches a connection's congestion control off, or on again; see [`super::deferral`].
pub(super) fn defer(connection: &Connection, on: bool) {
    if let Ok(counted) = connection.congestion_state().into_any().downcast::<Counted>() {
        counted.deferred.store(on, Ordering::Relaxed);
    }
}

impl Controller for Counted {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.inside.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.acked.fetch_add(bytes, Ordering::Relaxed);
        self.inside.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest_acked: Option<u64>) {
        self.inside.on_end_acks(now, in_flight, app_limited, largest_acked);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent: bool, lost_bytes: u64) {
        self.inside.on_congestion_event(now, sent, is_persistent, lost_bytes);
    }

    fn on_mtu_update(&mut self, mtu: u16) {
        self.inside.on_mtu_update(mtu);
    }

    fn window(&self) -> u64 {
        // The controller inside is not asked, and so does not pace either.
        if self.deferred.load(Ordering::Relaxed) { OPEN } else { self.inside.window() }
    }

    fn metrics(&self) -> ControllerMetrics {
        self.inside.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        let (acked, deferred) = (self.acked.clone(), self.deferred.clone());
        Box::new(Self { inside: self.inside.clone_box(), acked, deferred })
    }

    fn initial_window(&self) -> u64 {
        self.inside.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// A look at a connection's controller.
#[derive(Default)]
pub(super) struct Look {
    /// Acknowledged so far. Bytes.
    pub(super) bytes: u64,
    /// The congestion window. Bytes; quinn's own figure is what it was last told, see [`super::bbr`].
    pub(super) window: u64,
    /// How to try a silent path, if the controller can.
    pub(super) probing: Option<Probing>,
    /// What was measured of the path, if the controller can tell and knows enough.
    pub(super) path: Option<Remembered>,
    /// What was remembered of the path has proved too much.
    pub(super) retreated: bool,
}

/// What was acknowledged on a connection, over all paths that it has used, and how each of them is to be shared.
#[derive(Default)]
pub(super) struct Acked {
    paths: Mutex<Paths>,
    rate: RateCell,
}

#[derive(Default)]
struct Paths {
    /// Bytes on the paths before.
    before: u64,
    /// The counter of the path now; a peer that moves to another address gets a new controller.
    now: Option<Arc<AtomicU64>>,
}

impl Acked {
    /// Shares the path as `rate` says, and every path that the connection moves to. `false` if its controller cannot.
    pub(super) fn set_rate(&self, connection: &Connection, rate: RatePolicy) -> bool {
        self.rate.set(rate);
        self.look(connection).probing.is_some()
    }

    /// Sends no faster than this for the moment, bits per second; also on every path that the connection moves to.
    pub(super) fn set_pace(&self, connection: &Connection, pace: Option<u64>) {
        self.rate.set_pace(pace);
        self.look(connection);
    }

    /// A look at the connection's controller.
    pub(super) fn look(&self, connection: &Connection) -> Look {
        let Ok(counted) = connection.congestion_state().into_any().downcast::<Counted>() else {
            return Look::default();
        };
        let window = counted.inside.metrics().congestion_window;
        let paced = counted.inside.into_any().downcast::<PacedBbr>().ok();
        let mut paths = self.paths.lock().expect("no panic while held");
        paths.follow(Some(counted.acked));
        // The path may be a new one.
        if let Some(paced) = &paced {
            paced.rate().set(self.rate.get());
            paced.rate().set_pace(self.rate.pace());
        }
        Look {
            bytes: paths.before + paths.current(),
            window,
            path: paced.as_ref().and_then(|paced| paced.remember()),
            retreated: paced.as_ref().is_some_and(|paced| paced.retreated()),
            probing: paced.map(|paced| paced.probing()),
        }
    }
}

impl Paths {
    fn current(&self) -> u64 {
        self.now.as_ref().map_or(0, |now| now.load(Ordering::Relaxed))
    }

    fn follow(&mut self, counter: Option<Arc<AtomicU64>>) {
        let same = matches!((&self.now, &counter), (Some(a), Some(b)) if Arc::ptr_eq(a, b));
        if !same {
            self.before += self.current();
            self.now = counter;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_were_left_are_not_forgotten() {
        let counter = |bytes| Some(Arc::new(AtomicU64::new(bytes)));
        let mut paths = Paths::default();
        let (first, second) = (counter(5), counter(7));
        paths.follow(first.clone());
        paths.follow(first);
        assert_eq!((paths.before, paths.current()), (0, 5));
        paths.follow(second.clone());
        assert_eq!((paths.before, paths.current()), (5, 7));
        paths.follow(second);
        assert_eq!(paths.before + paths.current(), 12);
    }
}
