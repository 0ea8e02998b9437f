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
    /// Whether anything comes.
    heard: Answer,
    /// Whether what goes out arrives: a path may carry one direction only, and a peer that hears nothing goes on asking.
    acknowledged: Answer,
}

impl Silence {
    /// A look at what the link has carried so far: whether it is silent. A link over which nothing was sent owes no answer.
    pub(crate) fn look(&mut self, now: Instant, stats: &LinkStats) -> bool {
        let patience = SILENT.max(stats.rtt * ROUND_TRIPS);
        let unheard = self.heard.waited(now, stats.sent_bytes, stats.received_bytes);
        let unacknowledged = self.acknowledged.waited(now, stats.eliciting_frames, stats.acked_bytes);
        unheard >= patience || unacknowledged >= patience
    }
}

/// What is asked, and what comes back for it.
#[derive(Clone, Copy, Debug, Default)]
struct Answer {
    /// How much there was when an answer last came.
    answered: u64,
    asked: u64,
    /// Since when something that was asked after that has no answer.
    waits_since: Option<Instant>,
}

impl Answer {
    /// For how long an answer is overdue, as far as looks can tell.
    fn waited(&mut self, now: Instant, asked: u64, answered: u64) -> Duration {
        if answered != self.answered {
            *self = Self { answered, asked, waits_since: None };
        } else if asked > self.asked {
            return now.saturating_duration_since(*self.waits_since.get_or_insert(now));
        }
        Duration::ZERO
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
    fn a_path_that_carries_one_direction_only_is_silent() {
        let (mut silence, start) = (Silence::default(), Instant::now());
        let mut look = |ms: u64, eliciting_frames, acked_bytes| {
            let stats = LinkStats { eliciting_frames, acked_bytes, ..stats(ms, ms, 50) };
            silence.look(start + Duration::from_millis(ms), &stats)
        };
        assert!(!look(1, 5, 500));
        assert!(!look(60_000, 5, 500), "acknowledgements are not acknowledged");
        assert!(!look(60_100, 6, 500));
        assert!(!look(61_099, 9, 500));
        assert!(look(61_100, 9, 500), "the peer sends, and says nothing of what was sent");
        assert!(!look(61_200, 9, 501));
        assert!(!look(99_000, 9, 501));
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
