//! [`RateCell`]: the rate policy of a connection, on its way to the controller, which quinn keeps behind its own lock and
//! gives away as copies only.

use std::sync::atomic::{AtomicU64, Ordering};

use metra_core::rate::{Policy, RatePolicy};

/// A [`RatePolicy`], and a pace, that can be set from anywhere.
#[derive(Debug, Default)]
pub(super) struct RateCell {
    /// The policy in the two highest bits, and below it the rate, or 0.
    rate: AtomicU64,
    /// Bits per second, or 0.
    pace: AtomicU64,
}

const POLICY_SHIFT: u32 = 62;

impl RateCell {
    pub(super) fn set(&self, rate: RatePolicy) {
        let policy = Policy::ALL.iter().position(|policy| *policy == rate.policy()).unwrap_or(0);
        self.rate.store((policy as u64) << POLICY_SHIFT | rate.rate().unwrap_or(0), Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> RatePolicy {
        let bits = self.rate.load(Ordering::Relaxed);
        let rate = bits & RatePolicy::RATE_MAX;
        let policy = Policy::ALL[(bits >> POLICY_SHIFT) as usize];
        RatePolicy::new(policy, (rate > 0).then_some(rate)).unwrap_or_default()
    }

    pub(super) fn set_pace(&self, pace: Option<u64>) {
        self.pace.store(pace.map_or(0, |pace| pace.max(1)), Ordering::Relaxed);
    }

    /// Bits per second.
    pub(super) fn pace(&self) -> Option<u64> {
        Some(self.pace.load(Ordering::Relaxed)).filter(|pace| *pace > 0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_set_is_got() {
        let cell = RateCell::default();
        assert_eq!(cell.get(), RatePolicy::default());
        for policy in Policy::ALL {
            for rate in [None, Some(1), Some(900_000_000), Some(RatePolicy::RATE_MAX)] {
                let Some(rate) = RatePolicy::new(policy, rate) else { continue };
                cell.set(rate);
                assert_eq!(cell.get(), rate);
            }
        }
        assert_eq!(cell.pace(), None);
        for pace in [Some(1), Some(u64::MAX), None] {
            cell.set_pace(pace);
            assert_eq!(cell.pace(), pace);
        }
    }
}
