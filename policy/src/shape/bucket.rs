//! A bucket of tokens that may be in debt.

use super::Rate;

/// Tokens that come at a rate, up to a limit, and of which some may be spent before they are there.
///
/// It counts in bytes times nanoseconds, so nothing is ever rounded and nothing drifts. Between the top and the bottom
/// is exactly what the bucket was made for: in any window no more is taken than the rate times the window, and that.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    rate: u64,
    level: i128,
    top: i128,
    bottom: i128,
    /// When `level` was right; nanoseconds.
    at: u64,
}

/// One byte, in the unit of a level: a rate in bytes per second gives so much in a second.
const BYTE: i128 = 1_000_000_000;

impl Bucket {
    /// A bucket that holds up to `top` bytes and lends up to `bottom`, full at the time `now` (nanoseconds).
    pub(super) fn full(rate: Rate, top: u64, bottom: u64, now: u64) -> Self {
        let top = i128::from(top) * BYTE;
        Self { rate: rate.bytes(), level: top, top, bottom: -i128::from(bottom) * BYTE, at: now }
    }

    /// The same, with nothing in it.
    pub(super) fn empty(rate: Rate, top: u64, bottom: u64, now: u64) -> Self {
        Self { level: 0, ..Self::full(rate, top, bottom, now) }
    }

    /// This bucket as one of another rate and size: it keeps its level, within what the new one holds and lends.
    pub(super) fn reshaped(mut self, rate: Rate, top: u64, bottom: u64, now: u64) -> Self {
        self.fill(now);
        let new = Self::full(rate, top, bottom, now);
        Self { level: self.level.clamp(new.bottom, new.top), ..new }
    }

    /// Lets the tokens come that are due by now.
    pub(super) fn fill(&mut self, now: u64) {
        let passed = now.saturating_sub(self.at);
        self.level = self.top.min(self.level + i128::from(self.rate) * i128::from(passed));
        self.at += passed;
    }

    /// Whether anything may be taken. Filled before.
    pub(super) fn is_open(&self) -> bool {
        self.level > 0
    }

    /// When it will be open, if nothing is taken; `None`: never. Filled before.
    pub(super) fn opens_at(&self) -> Option<u64> {
        if self.is_open() {
            return Some(self.at);
        }
        let rate = u128::from(self.rate);
        let missing = (1 - self.level) as u128;
        let wait = (missing + rate.saturating_sub(1)).checked_div(rate)?;
        Some(self.at.saturating_add(u64::try_from(wait).unwrap_or(u64::MAX)))
    }

    /// How many bytes may be taken at once, loan included. Filled before.
    pub(super) fn room(&self) -> u64 {
        u64::try_from((self.level - self.bottom) / BYTE).unwrap_or(0)
    }

    /// Takes bytes; what is beyond the loan is not remembered.
    pub(super) fn take(&mut self, bytes: u64) {
        self.level = self.bottom.max(self.level - i128::from(bytes) * BYTE);
    }

    /// Puts bytes back; what is above the top is lost.
    pub(super) fn put_back(&mut self, bytes: u64) {
        self.level = self.top.min(self.level + i128::from(bytes) * BYTE);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn it_lends_and_is_closed_until_the_loan_is_back() {
        let mut bucket = Bucket::full(Rate::from_bytes(1000), 500, 500, 0);
        assert_eq!(bucket.room(), 1000);
        bucket.take(900);
        assert!(!bucket.is_open());
        let opens = bucket.opens_at().unwrap();
        assert_eq!(opens, 400_000_001, "400 bytes, and the least that is more than nothing");
        bucket.fill(opens - 1);
        assert!(!bucket.is_open());
        bucket.fill(opens);
        assert!(bucket.is_open());
        assert_eq!(bucket.room(), 500);
    }

    #[test]
    fn a_rate_of_nothing_never_opens() {
        let mut bucket = Bucket::full(Rate::ZERO, 10, 10, 0);
        bucket.take(15);
        bucket.fill(u64::MAX);
        assert_eq!(bucket.opens_at(), None);
    }

    #[test]
    fn nothing_drifts_in_a_year_of_odd_steps() {
        let mut bucket = Bucket::empty(Rate::from_bytes(333_333), u64::MAX / 2, 0, 0);
        let step = 31_536_000 * SECOND / 1_000_003;
        for n in 1..=1_000_003_u64 {
            bucket.fill(n * step);
        }
        let exact = u128::from(333_333_u64) * u128::from(1_000_003 * step) / u128::from(SECOND);
        assert_eq!(u128::from(bucket.room()), exact);
    }

    #[test]
    fn a_smaller_bucket_drops_what_it_cannot_hold() {
        let mut bucket = Bucket::full(Rate::from_bytes(1000), 5000, 5000, 0);
        bucket = bucket.reshaped(Rate::from_bytes(10), 100, 100, SECOND);
        assert_eq!(bucket.room(), 200);
        bucket.take(200);
        bucket = bucket.reshaped(Rate::from_bytes(10), 50, 50, SECOND);
        assert_eq!(bucket.opens_at(), Some(6 * SECOND + 1), "the loan is no larger than what may be lent");
    }

    #[test]
    fn time_that_goes_back_changes_nothing() {
        let mut bucket = Bucket::empty(Rate::from_bytes(1000), 5000, 0, SECOND);
        bucket.fill(0);
        assert_eq!(bucket.room(), 0);
        bucket.fill(2 * SECOND);
        assert_eq!(bucket.room(), 1000);
    }
}
