//! Measuring a transfer: full seconds of it, and percentiles of whatever is measured.
//!
//! Memory is bounded, however long a transfer takes. Non-goals: what is counted, and when it is looked at; the caller
//! passes counts and times.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A distribution of numbers. A number is kept to within 0.4 %, the smallest and the largest exactly; memory is at
/// most a few thousand counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    /// How many numbers fell into each bucket.
    counts: BTreeMap<u16, u64>,
    count: u64,
    min: u64,
    max: u64,
}

/// Numbers keep so many of their leading bits.
const PRECISION: u32 = 8;

impl Distribution {
    /// Adds a number, so many times.
    pub fn add(&mut self, number: u64, times: u64) {
        if times == 0 {
            return;
        }
        self.min = if self.count == 0 { number } else { self.min.min(number) };
        self.max = self.max.max(number);
        self.count += times;
        *self.counts.entry(bucket(number)).or_default() += times;
    }

    /// How many numbers it has.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The smallest number that at least `percent` of a hundred numbers do not exceed (the nearest rank); `None` if
    /// there are none.
    pub fn percentile(&self, percent: u8) -> Option<u64> {
        let rank = (u128::from(self.count) * u128::from(percent)).div_ceil(100).max(1);
        let mut seen = 0;
        self.iter().find_map(|(number, times)| {
            seen += u128::from(times);
            (seen >= rank).then_some(number)
        })
    }

    /// The numbers from the smallest to the largest, and how often each was added.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.counts.iter().map(|(bucket, times)| (middle(*bucket).clamp(self.min, self.max), *times))
    }

    /// The same with every number multiplied by `factor`.
    #[must_use]
    pub fn scaled(&self, factor: f64) -> Self {
        let mut scaled = Self::default();
        for (number, times) in self.iter() {
            scaled.add((number as f64 * factor).round() as u64, times);
        }
        scaled
    }
}

/// The bucket of a number: itself while it is small, then [`PRECISION`] bits of it and how many more there are.
fn bucket(number: u64) -> u16 {
    let bits = u64::BITS - number.leading_zeros();
    let shift = bits.saturating_sub(PRECISION);
    // At most 56 * 128 + 255.
    ((shift << (PRECISION - 1)) as u64 + (number >> shift)) as u16
}

/// The number in the middle of a bucket.
fn middle(bucket: u16) -> u64 {
    let bucket = u64::from(bucket);
    // The leading bit is set in all but the first 128 buckets, which need no shift, as the next 128 do not.
    let shift = (bucket >> (PRECISION - 1)).saturating_sub(1);
    let leading = bucket - (shift << (PRECISION - 1));
    (leading << shift) + ((1 << shift) >> 1)
}

/// Cuts a count that grows into full seconds, and keeps how much it grew in each of them.
///
/// Looks at the count may come at any time; between two of them it is taken to grow evenly. A second in which nothing
/// happened counts as one.
#[derive(Clone, Debug)]
pub struct Seconds {
    /// The last look.
    at: Instant,
    count: u64,
    /// Where the second that has begun began, and the count then.
    began: Instant,
    began_count: u64,
    /// The last full second, until it is known that the end does not fall into it: what it grew by.
    held: Option<u64>,
    full: Distribution,
}

const SECOND: Duration = Duration::from_secs(1);

impl Seconds {
    /// The first second begins at `now`, with a count of `count`.
    pub fn new(now: Instant, count: u64) -> Self {
        let full = Distribution::default();
        Self { at: now, count, began: now, began_count: count, held: None, full }
    }

    /// A look at the count. One that comes before the last look, or is smaller, is ignored.
    pub fn look(&mut self, now: Instant, count: u64) {
        if now <= self.at {
            return;
        }
        let count = count.max(self.count);
        while self.began + SECOND <= now {
            let end = self.began + SECOND;
            let end_count = self.count_at(end, now, count);
            if let Some(held) = self.held.replace(end_count - self.began_count) {
                self.full.add(held, 1);
            }
            self.began = end;
            self.began_count = end_count;
        }
        self.at = now;
        self.count = count;
    }

    /// All full seconds up to `end`, which may be up to a second before the last look.
    pub fn finish(&self, end: Instant) -> Distribution {
        let mut full = self.full.clone();
        if let Some(held) = self.held
            && self.began <= end
        {
            full.add(held, 1);
        }
        full
    }

    /// The count at `then`, between the last look and this one.
    fn count_at(&self, then: Instant, now: Instant, count: u64) -> u64 {
        let (part, all) = (then.saturating_duration_since(self.at), now - self.at);
        let grown = u128::from(count - self.count) * part.as_nanos() / all.as_nanos();
        self.count + u64::try_from(grown).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use proptest::prelude::*;

    use super::*;

    fn distribution(numbers: impl IntoIterator<Item = u64>) -> Distribution {
        let mut distribution = Distribution::default();
        numbers.into_iter().for_each(|number| distribution.add(number, 1));
        distribution
    }

    /// Seconds of a count that is looked at after so many milliseconds each.
    fn seconds(looks: &[(u64, u64)]) -> (Instant, Seconds) {
        let start = Instant::now();
        let mut seconds = Seconds::new(start, 0);
        for (ms, count) in looks {
            seconds.look(start + Duration::from_millis(*ms), *count);
        }
        (start, seconds)
    }

    fn grown(looks: &[(u64, u64)], end_ms: u64) -> Vec<(u64, u64)> {
        let (start, seconds) = seconds(looks);
        seconds.finish(start + Duration::from_millis(end_ms)).iter().collect()
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let of = |percent| distribution(1..=20).percentile(percent);
        assert_eq!(
            [of(0), of(5), of(6), of(50), of(95), of(96), of(100)].map(Option::unwrap),
            [1, 1, 2, 10, 19, 20, 20]
        );
        assert_eq!(distribution([]).percentile(50), None);
        assert_eq!(distribution([7]).percentile(95), Some(7));
    }

    #[test]
    fn the_same_number_over_and_over_is_exact() {
        let mut distribution = Distribution::default();
        distribution.add(123_456_789, 86_400);
        distribution.add(1, 0);
        assert_eq!(
            (distribution.percentile(1), distribution.percentile(99)),
            (Some(123_456_789), Some(123_456_789))
        );
        assert_eq!(distribution.count(), 86_400);
        assert_eq!(distribution.scaled(0.5).percentile(50), Some(61_728_395));
    }

    #[test]
    fn memory_is_bounded() {
        let mut numbers = Distribution::default();
        for bits in 0..64 {
            for step in 0..512u64 {
                numbers.add((1u64 << bits) | (step << bits >> 9), 1);
            }
        }
        assert!(numbers.counts.len() <= 7424, "{}", numbers.counts.len());
        assert_eq!((bucket(0), bucket(u64::MAX)), (0, 56 * 128 + 255));
    }

    proptest! {
        #[test]
        fn a_number_is_kept_to_within_a_little(number: u64) {
            let kept = middle(bucket(number));
            prop_assert!(kept.abs_diff(number) as f64 <= number as f64 * 0.004);
            prop_assert!(number >= 256 || kept == number);
        }

        #[test]
        fn buckets_are_in_order(a: u64, b: u64) {
            prop_assert!(bucket(a.min(b)) <= bucket(a.max(b)));
        }

        #[test]
        fn nothing_is_lost_between_seconds(looks in prop::collection::vec((1u64..5000, 0u64..200), 1..40)) {
            let mut at = (0, 0);
            let looks: Vec<(u64, u64)> = looks
                .into_iter()
                .map(|(ms, grown)| {
                    at = (at.0 + ms, at.1 + grown);
                    at
                })
                .collect();
            let full = grown(&looks, at.0);
            prop_assert_eq!(full.iter().map(|(_, times)| times).sum::<u64>(), at.0 / 1000);
            let sum: u64 = full.iter().map(|(grown, times)| grown * times).sum();
            prop_assert!(sum <= at.1, "{} of {}", sum, at.1);
        }
    }

    #[test]
    fn a_steady_count_is_the_same_in_every_second_however_it_is_looked_at() {
        let looks: Vec<(u64, u64)> = (1..=70).map(|i| (i * 130, i * 130 * 5)).collect();
        assert_eq!(grown(&looks, 9100), [(5000, 9)]);
        // One look after a long time is cut just the same.
        assert_eq!(grown(&[(9100, 45_500)], 9100), [(5000, 9)]);
    }

    #[test]
    fn what_is_not_a_full_second_does_not_count() {
        assert_eq!(grown(&[(999, 100)], 999), []);
        assert_eq!(grown(&[(1000, 100)], 1000), [(100, 1)]);
        assert_eq!(grown(&[(1000, 100), (1900, 5000)], 1900), [(100, 1)]);
    }

    #[test]
    fn standing_still_counts_and_going_back_does_not() {
        assert_eq!(grown(&[(1000, 40), (4000, 40), (3500, 90), (5000, 30)], 5000), [(0, 4), (40, 1)]);
    }

    #[test]
    fn the_end_may_be_found_out_late() {
        let looks = [(1000, 100), (2000, 200), (3100, 211)];
        assert_eq!(grown(&looks, 3100), [(10, 1), (100, 2)]);
        assert_eq!(grown(&looks, 2900), [(100, 2)]);
    }
}
