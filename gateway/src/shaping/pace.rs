//! How fast a job may send: somewhat faster than what it is granted, and not as fast as its path is.
//!
//! A job is granted whole chunks. Sent in bursts those of several jobs meet in the queues of the path, some of it is lost, and a
//! congestion controller backs off, most where the share is largest: it has less than it was granted then. The pace also tells
//! the controller that the path is divided, so that it does not yield to the queues of those who have what it lacks.

use std::time::Duration;

/// How often it is looked at.
pub(super) const TICK: Duration = Duration::from_millis(250);
/// A job's rate is the mean of so many looks: grants are not regular.
const LOOKS: usize = 16;
/// Who waited at so many of them has what it is granted, and no more.
const WAITS: usize = 12;
/// Who does not wait may send as fast at least: he may have begun just now, and what he has been granted says nothing yet. Bytes
/// per second.
const UNKNOWN: u64 = 32 << 20;
/// No slower than this, whatever was granted. Bytes per second.
const LEAST: u64 = 64 << 10;

/// What one job was granted of late.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Since the last look. Bytes.
    granted: u64,
    /// Bytes per second, and whether the job waited for more.
    looks: [(u64, bool); LOOKS],
    looked: usize,
}

impl Pace {
    /// So many bytes were granted.
    pub(super) fn granted(&mut self, bytes: u64) {
        self.granted += bytes;
    }

    /// After `elapsed`; `waits`: the job waits for what it has asked for, `is_behind`: it has not sent what it was granted. How
    /// fast it may send until the next look, bytes per second; `None`: as fast as it can, as it has done nothing lately.
    pub(super) fn look(&mut self, elapsed: Duration, waits: bool, is_behind: bool) -> Option<u64> {
        let rate = std::mem::take(&mut self.granted) as f64 / elapsed.as_secs_f64().max(1e-3);
        self.looks[self.looked % LOOKS] = (rate as u64, waits);
        self.looked += 1;
        let mean = self.looks.iter().map(|look| look.0).sum::<u64>() / LOOKS as u64;
        let most = self.looks.iter().map(|look| look.0).max().unwrap_or_default();
        let pace = match self.looks.iter().filter(|look| look.1).count() >= WAITS {
            // If it is the pace that holds it up, this is more with each look.
            true if is_behind => 2 * mean,
            // For headers and repair, and for what it is granted next.
            true => mean + mean / 8,
            // Its path holds it up: no pace shall.
            false if most > 0 => (4 * most).max(UNKNOWN),
            false => return None,
        };
        Some(pace.max(LEAST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn somewhat_more_than_was_granted_while_more_is_waited_for() {
        let mut pace = Pace::default();
        let mut look = |granted, waits, is_behind| {
            pace.granted(granted);
            pace.look(SECOND, waits, is_behind)
        };
        assert_eq!(look(1, false, false), Some(UNKNOWN), "it is new");
        assert_eq!(look(10_000_000, false, false), Some(40_000_000), "it has what it asks for");
        for _ in 1..WAITS {
            assert_eq!(look(4_000_000, true, false), Some(40_000_000));
        }
        for _ in WAITS..LOOKS {
            look(4_000_000, true, false);
        }
        assert_eq!(look(4_000_000, true, false), Some(4_500_000), "it waits");
        assert_eq!(look(2_400_000, true, false), Some(4_387_500), "grants are not regular");
        assert_eq!(look(2_400_000, true, true), Some(7_600_000), "it sends less than it is granted");
        for _ in 0..LOOKS {
            look(0, true, false);
        }
        // What it was granted before may be on its way.
        assert_eq!(look(0, true, false), Some(LEAST));
        for _ in 0..LOOKS {
            look(0, false, false);
        }
        assert_eq!(look(0, false, false), None);
    }
}
