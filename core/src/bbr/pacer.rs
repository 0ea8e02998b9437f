//! [`Pacer`]: when the next bytes may leave.

use std::time::{Duration, Instant};

/// How late a caller may be and still catch up: timers and schedulers are late by a millisecond or two, and what is not
/// caught up is bandwidth lost.
const LATE_MAX: Duration = Duration::from_millis(2);

/// Spaces what leaves at a rate (sans-io). What leaves is never held back longer than the rate needs, nor than the caller
/// can hold it; after a pause it starts anew.
#[derive(Clone, Debug)]
pub struct Pacer {
    /// When the next byte may leave.
    next: Instant,
    hold_max: Duration,
}

impl Pacer {
    /// Nothing has left yet. Nothing is held longer than `hold_max`: very slow rates are exceeded then.
    pub fn new(now: Instant, hold_max: Duration) -> Self {
        Self { next: now, hold_max }
    }

    /// When `bytes` may leave that are ready `now`, at `rate` bytes per second; the time after them is taken.
    pub fn leave(&mut self, now: Instant, bytes: u64, rate: f64) -> Instant {
        let earliest = now.checked_sub(LATE_MAX).unwrap_or(now);
        // What leaves before its time leaves no debt: a rate that rises would not be kept until it is paid.
        let latest = now.checked_add(self.hold_max).unwrap_or(self.next);
        let at = self.next.min(latest).max(earliest);
        // A day at most, whatever the rate.
        let takes = (bytes as f64 / rate.max(1.0)).min(86_400.0);
        self.next = at + Duration::from_secs_f64(takes);
        at
    }
}
