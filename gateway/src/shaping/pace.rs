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
/// Who waited at so many of them, or had more on its way than it delivers, has what it is granted, and no more.
const WAITS: usize = 12;
/// Who does not wait may send as fast at least: he may have begun just now, and what he has been granted says nothing yet. Bytes
/// per second.
const UNKNOWN: u64 = 32 << 20;
/// No slower than this, whatever was granted. Bytes per second.
const LEAST: u64 = 64 << 10;

/// What QUIC sends for so much content, headers and some repair included.
const ADDED: f64 = 1.05;

/// How fast a job may send for the moment. Bytes per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speed {
    /// It has done nothing lately.
    Idle,
    /// It has what it asks for: as fast as it can, nearly, and about so much is what it uses.
    Open { pace: u64, uses: u64 },
    /// It waits for what it is granted.
    Granted(u64),
}

impl Speed {
    /// What it is told; `None`: nothing.
    pub(super) fn pace(self) -> Option<u64> {
        match self {
            Speed::Idle => None,
            Speed::Open { pace, .. } | Speed::Granted(pace) => Some(pace),
        }
    }
}

/// What one job was granted of late.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Since the last look. Bytes.
    granted: u64,
    /// Bytes per second, and whether the job waited for more, or was behind.
    looks: [(u64, bool); LOOKS],
    looked: usize,
}

impl Pace {
    /// So many bytes were granted.
    pub(super) fn granted(&mut self, bytes: u64) {
        self.granted += bytes;
    }

    /// After `elapsed`; `waits`: the job waits for what it has asked for, `is_behind`: it has not sent what it was granted. How
    /// fast it may send until the next look.
    pub(super) fn look(&mut self, elapsed: Duration, waits: bool, is_behind: bool) -> Speed {
        let rate = std::mem::take(&mut self.granted) as f64 / elapsed.as_secs_f64().max(1e-3);
        self.looks[self.looked % LOOKS] = (rate as u64, waits || is_behind);
        self.looked += 1;
        let mean = self.looks.iter().map(|look| look.0).sum::<u64>() / LOOKS as u64;
        let most = self.looks.iter().map(|look| look.0).max().unwrap_or_default();
        match self.looks.iter().filter(|look| look.1).count() >= WAITS {
            // If it is the pace that holds it up, this is more with each look; if it is its path, it is no bound.
            true if is_behind => Speed::Granted((2 * mean).max(LEAST)),
            // For headers and repair, and for what it is granted next.
            true => Speed::Granted((mean + mean / 8).max(LEAST)),
            // It does not use more, or has just begun: no pace shall hold it up.
            false if most > 0 => Speed::Open { pace: (4 * most).max(UNKNOWN), uses: mean + mean / 8 },
            false => Speed::Idle,
        }
    }
}

/// Divides what the line carries among those who would fill it together. `ceiling` and the answers in bytes per second.
///
/// Each may send somewhat more than it is granted, and all of them together more than the line has room for: whoever has fallen behind
/// catches up, so that what is lost is not lost to all of them for good, and a queue that never ends costs those most whose share is
/// largest. So what is said to those who wait is cut down to what is left by those who do not.
pub(super) fn divide(ceiling: Option<u64>, speeds: &mut [Speed]) {
    let Some(ceiling) = ceiling else { return };
    let sum = |of: fn(&Speed) -> u64| speeds.iter().map(of).fold(0, u64::saturating_add);
    let granted = sum(|speed| if let Speed::Granted(pace) = speed { *pace } else { 0 });
    let used = sum(|speed| if let Speed::Open { uses, .. } = speed { *uses } else { 0 });
    let line = ceiling as f64 * ADDED;
    let left = (line - used as f64).max(line / 8.0);
    let part = left / granted.max(1) as f64;
    if part >= 1.0 {
        return;
    }
    for speed in speeds {
        if let Speed::Granted(pace) = speed {
            *pace = (*pace as f64 * part) as u64;
        }
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
            pace.look(SECOND, waits, is_behind).pace()
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

    #[test]
    fn together_they_fill_the_line_and_no_more() {
        let open = Speed::Open { pace: 900, uses: 200 };
        let mut speeds = [Speed::Granted(600), Speed::Idle, open, Speed::Granted(300)];
        divide(None, &mut speeds);
        divide(Some(2000), &mut speeds);
        assert_eq!(speeds, [Speed::Granted(600), Speed::Idle, open, Speed::Granted(300)]);
        // 1050 with what QUIC adds, of which the second uses 200.
        divide(Some(1000), &mut speeds);
        assert_eq!(speeds, [Speed::Granted(566), Speed::Idle, open, Speed::Granted(283)]);
        // Something is left for everybody.
        let mut speeds = [Speed::Granted(1000), Speed::Open { pace: 9000, uses: 9000 }];
        divide(Some(1000), &mut speeds);
        assert_eq!(speeds[0], Speed::Granted(131));
    }
}
