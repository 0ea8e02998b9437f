//! How much may be carried in a time. Sans-io.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What tunnels that share an [`Throttle`] may carry together, in each direction. What is more is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Bytes of UDP payload a second. 0: any.
    pub bytes: u64,
    /// Datagrams a second. 0: any.
    pub datagrams: u64,
}

/// What several tunnels may carry together; each direction for itself.
#[derive(Debug)]
pub struct Throttle {
    /// To the targets, and from them; none: any.
    both: Option<[Mutex<Pair>; 2]>,
}

#[derive(Debug)]
struct Pair {
    bytes: Bucket,
    datagrams: Bucket,
}

impl Throttle {
    /// So much a second, and a tenth of that at once.
    pub fn new(rates: Rates, now: Instant) -> Self {
        let pair = || {
            Mutex::new(Pair {
                bytes: Bucket::of_bytes(rates.bytes, now),
                datagrams: Bucket::new(rates.datagrams, 1.0, now),
            })
        };
        Self { both: (rates != Rates::default()).then(|| [pair(), pair()]) }
    }

    /// Whether a datagram of so many bytes may go to a target; if so, it counts.
    pub fn up(&self, now: Instant, bytes: usize) -> bool {
        self.take(0, now, bytes)
    }

    /// Whether a datagram of a target may go to the client; if so, it counts.
    pub fn down(&self, now: Instant, bytes: usize) -> bool {
        self.take(1, now, bytes)
    }

    fn take(&self, direction: usize, now: Instant, bytes: usize) -> bool {
        let Some(both) = &self.both else { return true };
        let mut pair = both[direction].lock().unwrap_or_else(PoisonError::into_inner);
        // A datagram that is refused takes nothing from either.
        pair.bytes.has(now, bytes) && pair.datagrams.take(now, 1) && pair.bytes.take(now, bytes)
    }

    /// Whether nothing of it is used up: as a new one.
    pub fn is_whole(&self, now: Instant) -> bool {
        let whole = |pair: &Mutex<Pair>| {
            let pair = pair.lock().unwrap_or_else(PoisonError::into_inner);
            pair.bytes.is_full(now) && pair.datagrams.is_full(now)
        };
        self.both.iter().flatten().all(whole)
    }
}

/// Lets through so much a second, and a tenth of a second's worth at once.
#[derive(Debug)]
pub(super) struct Bucket {
    /// A second; 0: any.
    rate: u64,
    /// What may go at once.
    burst: f64,
    /// What may go now.
    level: f64,
    at: Instant,
}

impl Bucket {
    /// `least`: what may go at once at the smallest rates.
    fn new(rate: u64, least: f64, now: Instant) -> Self {
        let burst = (rate as f64 * BURST.as_secs_f64()).max(least);
        Self { rate, burst, level: burst, at: now }
    }

    /// Of bytes a second.
    pub(super) fn of_bytes(rate: u64, now: Instant) -> Self {
        Self::new(rate, BURST_MIN, now)
    }

    fn level(&self, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        (self.level + elapsed * self.rate as f64).min(self.burst)
    }

    fn has(&self, now: Instant, amount: usize) -> bool {
        self.rate == 0 || self.level(now) >= amount as f64
    }

    fn is_full(&self, now: Instant) -> bool {
        self.has(now, self.burst as usize)
    }

    pub(super) fn take(&mut self, now: Instant, amount: usize) -> bool {
        if self.rate == 0 {
            return true;
        }
        self.level = self.level(now);
        self.at = now;
        if self.level < amount as f64 {
            return false;
        }
        self.level -= amount as f64;
        true
    }
}

/// What may go at once: that of so long.
const BURST: Duration = Duration::from_millis(100);
/// A burst of the smallest rates. Bytes: one datagram of any length.
const BURST_MIN: f64 = 65_536.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_lets_its_rate_through() {
        let began = Instant::now();
        let mut bucket = Bucket::of_bytes(1_000_000, began);
        let mut through = 0;
        for ms in 0..10_000 {
            let now = began + Duration::from_millis(ms);
            through += (0..2).filter(|_| bucket.take(now, 1000)).count() * 1000;
        }
        // Ten seconds' worth, and the burst at the start.
        assert!((10_000_000..=10_100_000).contains(&through), "{through}");
        let mut any = Bucket::of_bytes(0, began);
        assert!((0..1000).all(|_| any.take(began, 65_527)));
        let mut slow = Bucket::of_bytes(1, began);
        assert!(slow.take(began, 65_527) && !slow.take(began, 65_527));
    }

    /// Datagrams of so many bytes that go in ten seconds, when ten are tried in each millisecond, in one direction and the other.
    fn through(rates: Rates, bytes: usize) -> (usize, usize) {
        let began = Instant::now();
        let throttle = Throttle::new(rates, began);
        let at = |ms| began + Duration::from_millis(ms);
        let count = |up: bool| {
            let tries = (0..10_000).flat_map(|ms| std::iter::repeat_n(at(ms), 10));
            tries.filter(|now| if up { throttle.up(*now, bytes) } else { throttle.down(*now, bytes) }).count()
        };
        (count(true), count(false))
    }

    #[test]
    fn a_throttle_counts_bytes_and_datagrams_in_each_direction() {
        assert_eq!(through(Rates::default(), 1000), (100_000, 100_000));
        let by_bytes = through(Rates { bytes: 1_000_000, datagrams: 0 }, 1000);
        assert!((10_000..=10_100).contains(&by_bytes.0) && by_bytes.0 == by_bytes.1, "{by_bytes:?}");
        let by_datagrams = through(Rates { bytes: 0, datagrams: 500 }, 10);
        assert!(
            (5000..=5050).contains(&by_datagrams.0) && by_datagrams.0 == by_datagrams.1,
            "{by_datagrams:?}"
        );
        // The tighter of both counts, and what it refuses costs nothing of the other.
        let both = through(Rates { bytes: 1_000_000, datagrams: 2000 }, 1000);
        assert!((10_000..=10_100).contains(&both.0), "{both:?}");
        let both = through(Rates { bytes: 1_000_000, datagrams: 500 }, 1000);
        assert!((5000..=5050).contains(&both.0), "{both:?}");
    }

    #[test]
    fn a_throttle_is_whole_again_after_a_while() {
        let now = Instant::now();
        let throttle = Throttle::new(Rates { bytes: 1_000_000, datagrams: 1000 }, now);
        assert!(throttle.is_whole(now) && throttle.up(now, 1000) && !throttle.is_whole(now));
        assert!(throttle.is_whole(now + Duration::from_millis(10)));
        assert!(Throttle::new(Rates::default(), now).is_whole(now));
    }
}
