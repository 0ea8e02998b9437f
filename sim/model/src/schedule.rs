//! The rate of a link over time: exact arithmetic on nanoseconds.

/// Nanoseconds in a second.
const SECOND: u128 = 1_000_000_000;

/// Piecewise constant rates. The first begins at 0.
#[derive(Clone, Debug)]
pub(super) struct Rates(Vec<(u64, u64)>);

impl Rates {
    /// From `(start in ns, bits per second)`, sorted; the first start is taken for 0.
    pub(super) fn new(mut steps: Vec<(u64, u64)>) -> Self {
        if let Some(first) = steps.first_mut() {
            first.0 = 0;
        }
        Self(steps)
    }

    /// When `bytes` are through that begin at `start`. Rounded up to a nanosecond.
    pub(super) fn finish(&self, start: u64, bytes: u64) -> u64 {
        // In bits times ns per second, so that nothing is rounded between steps.
        let mut left = u128::from(bytes) * 8 * SECOND;
        let mut now = start;
        let mut at = self.step(start);
        loop {
            let rate = u128::from(self.0[at].1);
            let needed = left.div_ceil(rate);
            match self.0.get(at + 1) {
                Some((next, _)) if u128::from(next - now) < needed => {
                    left -= u128::from(next - now) * rate;
                    now = *next;
                    at += 1;
                }
                _ => return now.saturating_add(u64::try_from(needed).unwrap_or(u64::MAX)),
            }
        }
    }

    /// Whole bytes that go through between two times.
    pub(super) fn bytes(&self, from: u64, to: u64) -> u64 {
        let mut bits = 0;
        let mut now = from;
        let mut at = self.step(from);
        while now < to {
            let end = self.0.get(at + 1).map_or(to, |(next, _)| to.min(*next));
            bits += u128::from(end - now) * u128::from(self.0[at].1);
            now = end;
            at += 1;
        }
        u64::try_from(bits / (8 * SECOND)).unwrap_or(u64::MAX)
    }

    fn step(&self, time: u64) -> usize {
        self.0.partition_point(|(start, _)| *start <= time) - 1
    }
}
