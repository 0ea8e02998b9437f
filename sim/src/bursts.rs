//! [`Bursts`]: how what a host sends is spaced when it leaves its socket, before any queue.

use std::time::Duration;

use metra_core::measure::Distribution;

/// How one host spaces what it sends to another. What leaves less than [`APART`] after the packet before it is of the same
/// burst.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bursts {
    /// Sizes, each counted once for each of its bytes: half of the bytes leave in bursts that are no larger than the median.
    /// Bytes of IP packets.
    pub sizes: Distribution,
    /// From the last packet of a burst to the first of the next. ns.
    pub gaps: Distribution,
}

/// A queue that packets reach faster than it empties holds what comes within this time: it is the time of a packet at
/// 600 Mbit/s. A host that sends without a pause takes less for each.
pub const APART: Duration = Duration::from_micros(20);

/// Looks at each packet.
#[derive(Debug)]
pub(crate) struct Watch {
    /// What leaves before is not looked at.
    from: Duration,
    /// The last packet, and the bytes of its burst so far.
    last: Option<(Duration, u64)>,
    bursts: Bursts,
}

impl Watch {
    /// Looks at what leaves from this time on.
    pub(crate) fn new(from: Duration) -> Self {
        Self { from, last: None, bursts: Bursts::default() }
    }

    /// A packet leaves. Times never go back.
    pub(crate) fn leaves(&mut self, now: Duration, bytes: u64) {
        if now < self.from {
            return;
        }
        let before = match self.last {
            Some((last, burst)) if now - last < APART => burst,
            Some((last, burst)) => {
                self.bursts.sizes.add(burst, burst);
                self.bursts.gaps.add((now - last).as_nanos() as u64, 1);
                0
            }
            None => 0,
        };
        self.last = Some((now, before + bytes));
    }

    /// The bursts that have ended: the one that goes on may be a part of one.
    pub(crate) fn bursts(&self) -> Bursts {
        self.bursts.clone()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn bursts_end_where_there_is_a_gap() {
        let mut watch = Watch::new(Duration::from_millis(1));
        // Before it looks; then three, of which the last is nearly too late; two; one that may go on.
        for (micros, bytes) in
            [(999, 5), (1000, 100), (1000, 100), (1019, 50), (1519, 90), (1519, 10), (1539, 1)]
        {
            watch.leaves(Duration::from_micros(micros), bytes);
        }
        let Bursts { sizes, gaps } = watch.bursts();
        assert_eq!(sizes.iter().collect::<Vec<_>>(), [(100, 100), (250, 250)]);
        assert_eq!((gaps.count(), gaps.percentile(100)), (2, Some(500_000)));
        assert!(gaps.percentile(50).unwrap().abs_diff(20_000) < 80, "to within 0.4 %");
    }

    #[test]
    fn nothing_is_no_burst() {
        assert_eq!(Watch::new(Duration::ZERO).bursts(), Bursts::default());
    }
}
