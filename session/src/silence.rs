//! Whether anything is heard of a link. Sans-io.
//!
//! A transport takes its time to give a link up, as the path may come back. A session with another link need not wait
//! for that: what is wanted of a silent link is asked for on the others, and when it is heard again it goes on.

use std::time::{Duration, Instant};

use metra_transport::LinkStats;

/// How often a link is looked at.
pub(crate) const LOOK: Duration = Duration::from_millis(100);
/// A link is silent when what was sent has had no answer of any kind for so long, ...
const SILENT: Duration = Duration::from_secs(1);
/// ... and for so many round trips.
const ROUND_TRIPS: u32 = 4;

/// What is known of one link.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Silence {
    /// What it had carried when something was last heard. Bytes.
    received: u64,
    sent: u64,
    /// Since when something that was sent after that has no answer.
    waits_since: Option<Instant>,
}

impl Silence {
    /// A look at what the link has carried so far: whether it is silent. A link over which nothing was sent owes no answer.
    pub(crate) fn look(&mut self, now: Instant, stats: &LinkStats) -> bool {
        if stats.received_bytes != self.received {
            *self = Self { received: stats.received_bytes, sent: stats.sent_bytes, waits_since: None };
        } else if stats.sent_bytes > self.sent {
            let since = *self.waits_since.get_or_insert(now);
            return now.saturating_duration_since(since) >= SILENT.max(stats.rtt * ROUND_TRIPS);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(sent: u64, received: u64, rtt: u64) -> LinkStats {
        let rtt = Duration::from_millis(rtt);
        LinkStats { sent_bytes: sent, received_bytes: received, rtt, ..LinkStats::default() }
    }

    #[test]
    fn who_is_asked_and_does_not_answer_is_silent() {
        let (mut silence, start) = (Silence::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert!(!silence.look(at(0), &stats(10, 10, 50)));
        assert!(!silence.look(at(60_000), &stats(10, 10, 50)), "nothing was asked");
        assert!(!silence.look(at(60_100), &stats(20, 10, 50)));
        assert!(!silence.look(at(61_099), &stats(90, 10, 50)));
        assert!(silence.look(at(61_100), &stats(90, 10, 50)));
        assert!(!silence.look(at(61_200), &stats(90, 11, 50)), "it is heard again");
        assert!(!silence.look(at(99_000), &stats(90, 11, 50)));
    }

    #[test]
    fn a_long_path_has_more_time() {
        let (mut silence, start) = (Silence::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        silence.look(at(0), &stats(1, 0, 600));
        assert!(!silence.look(at(2_399), &stats(1, 0, 600)));
        assert!(silence.look(at(2_400), &stats(1, 0, 600)));
    }
}
