//! How many bytes a sink asks for ahead, and how far ahead of that its source announces.
//!
//! Credit is the amount of data that is wanted and not yet written. It bounds the sink's memory (a chunk that was
//! not asked for is not accepted), and it must cover the way of the request and of the data, or the link idles:
//! at least two bandwidth-delay products, and more where losses are repaired (transport parameters in RFC 9000, section 4, have the same purpose one
//! layer below).

use std::time::{Duration, Instant};

/// Bounds of the credit window. Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreditLimits {
    /// The window is never smaller; also what a job starts with.
    pub floor: u64,
    /// The window is never larger; a share of the memory set aside for receiving.
    pub ceiling: u64,
}

impl Default for CreditLimits {
    fn default() -> Self {
        Self { floor: 64 << 20, ceiling: 1 << 30 }
    }
}

/// Sizes the window from the rate at which data lands and the round-trip time.
#[derive(Clone, Debug)]
pub struct Credit {
    limits: CreditLimits,
    outstanding: u64,
    rate: Rate,
    rtt: Duration,
}

/// How fast something goes, averaged so that a rate that grows is seen at once, and one that falls after a while.
#[derive(Clone, Debug, Default)]
struct Rate {
    /// Bytes per second.
    now: f64,
    period_start: Option<Instant>,
    period_bytes: u64,
}

/// How far a source announces ahead of what its sink has asked for: what it announces takes a round trip until it can be
/// asked for, and must not hold the link back meanwhile.
#[derive(Clone, Debug)]
pub struct Lookahead {
    first: u64,
    most: u64,
    asked: u64,
    rate: Rate,
    window: u64,
}

/// The window covers this many bandwidth-delay products on top of the floor: two for the way of the request and of the
/// data, one or two for the repair of a loss in almost each chunk, and more so that a rate that doubles within a round trip
/// is not held back.
const BDPS: f64 = 5.0;
/// Landed bytes are averaged over at least this long.
const PERIOD: Duration = Duration::from_millis(100);
/// Weight of the newest period, where it is slower.
const GAIN: f64 = 0.5;

impl Credit {
    /// Nothing outstanding, the window at its floor.
    pub fn new(limits: CreditLimits) -> Self {
        Self { limits, outstanding: 0, rate: Rate::default(), rtt: Duration::ZERO }
    }

    /// The window now. Bytes.
    pub fn window(&self) -> u64 {
        let ahead = BDPS * self.rate.now * self.rtt.as_secs_f64();
        self.limits.floor.saturating_add(ahead as u64).min(self.limits.ceiling.max(self.limits.floor))
    }

    /// Bytes that may be asked for now.
    pub fn available(&self) -> u64 {
        self.window().saturating_sub(self.outstanding)
    }

    /// Bytes asked for and not yet written.
    pub fn outstanding(&self) -> u64 {
        self.outstanding
    }

    /// Changes the limits, as the number of jobs that share the memory changes.
    pub fn set_limits(&mut self, limits: CreditLimits) {
        self.limits = limits;
    }

    /// The smallest round-trip time of the links that carry the job.
    pub fn set_rtt(&mut self, rtt: Duration) {
        self.rtt = rtt;
    }

    /// `bytes` have been asked for.
    pub fn spend(&mut self, bytes: u64) {
        self.outstanding += bytes;
    }

    /// `bytes` that were asked for have been written.
    pub fn landed(&mut self, now: Instant, bytes: u64) {
        self.outstanding = self.outstanding.saturating_sub(bytes);
        self.rate.add(now, bytes);
    }

    /// `bytes` that were asked for will not come, or will be asked for again.
    pub fn give_back(&mut self, bytes: u64) {
        self.outstanding = self.outstanding.saturating_sub(bytes);
    }
}

impl Rate {
    fn add(&mut self, now: Instant, bytes: u64) {
        let start = *self.period_start.get_or_insert(now);
        self.period_bytes += bytes;
        let elapsed = now.saturating_duration_since(start);
        if elapsed >= PERIOD {
            let sample = self.period_bytes as f64 / elapsed.as_secs_f64();
            self.now = sample.max(self.now + GAIN * (sample - self.now));
            self.period_start = Some(now);
            self.period_bytes = 0;
        }
    }
}

impl Lookahead {
    /// `first` bytes until the sink's pace is known, `most` at most.
    pub fn new(first: u64, most: u64) -> Self {
        Self { first, most: most.max(first), asked: 0, rate: Rate::default(), window: first }
    }

    /// Bytes that may be announced and not asked for.
    pub fn window(&self) -> u64 {
        self.window
    }

    /// The sink has asked for (or has) `asked` bytes in all; `rtt` is the smallest round-trip time to it.
    pub fn asked(&mut self, now: Instant, asked: u64, rtt: Duration) {
        self.rate.add(now, asked.saturating_sub(self.asked));
        self.asked = self.asked.max(asked);
        let ahead = (BDPS / 2.0 * self.rate.now * rtt.as_secs_f64()) as u64;
        self.window = self.first.saturating_add(ahead).min(self.most);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn starts_at_the_floor_and_never_gives_more_than_the_window() {
        let mut credit = Credit::new(CreditLimits { floor: 8 * MIB, ceiling: 64 * MIB });
        assert_eq!(credit.available(), 8 * MIB);
        credit.spend(8 * MIB);
        assert_eq!(credit.available(), 0);
        credit.give_back(3 * MIB);
        assert_eq!(credit.available(), 3 * MIB);
    }

    #[test]
    fn covers_five_bandwidth_delay_products_of_a_steady_rate() {
        let mut credit = Credit::new(CreditLimits { floor: 8 * MIB, ceiling: 1024 * MIB });
        credit.set_rtt(Duration::from_millis(120));
        let start = Instant::now();
        let rate = 1_125_000_000u64; // 9 Gbit/s
        for tick in 1..=1000u64 {
            let bytes = rate / 1000;
            credit.spend(bytes);
            credit.landed(start + Duration::from_millis(tick), bytes);
        }
        let bdp = rate as f64 * 0.120;
        assert!(credit.window() as f64 >= 4.9 * bdp, "window {} for a BDP of {bdp}", credit.window());
        assert!(credit.window() as f64 <= 5.1 * bdp + 8.0 * MIB as f64);
    }

    #[test]
    fn what_is_announced_ahead_follows_the_pace_of_the_sink() {
        let mut lookahead = Lookahead::new(4 * MIB, 512 * MIB);
        assert_eq!(lookahead.window(), 4 * MIB);
        let start = Instant::now();
        for tick in 1..=1000u64 {
            lookahead.asked(
                start + Duration::from_millis(tick),
                tick * 1_000_000,
                Duration::from_millis(100),
            );
        }
        // 1 GB/s over 100 ms.
        assert!((200_000_000..260_000_000).contains(&lookahead.window()), "{}", lookahead.window());
        lookahead.asked(start + Duration::from_secs(2), 9_000_000_000, Duration::from_secs(1));
        assert_eq!(lookahead.window(), 512 * MIB);
    }

    #[test]
    fn the_ceiling_holds_whatever_the_rate() {
        let mut credit = Credit::new(CreditLimits { floor: MIB, ceiling: 4 * MIB });
        credit.set_rtt(Duration::from_secs(2));
        let start = Instant::now();
        for tick in 1..=100u64 {
            credit.spend(100 * MIB);
            credit.landed(start + Duration::from_millis(tick * 100), 100 * MIB);
        }
        assert_eq!(credit.window(), 4 * MIB);
    }
}
