//! Which link takes the next chunk, where there are several. Sans-io.
//!
//! A link takes a chunk when it has room, so that a faster one takes more. That is not enough where a slow one has much room:
//! what waits in its transport, and what it takes last, keep everybody waiting. So, as long as there are others,
//!
//! - a link has no more under way than it carries in a while;
//! - near the end it leaves a chunk to a faster one that would have sent all that is left sooner (earliest completion first:
//!   Lim et al., ECF, CoNEXT 2017).
//!
//! How fast a link is, is seen from what the sink says to have verified.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use metra_transport::LinkId;

/// What a link may have under way before it is known how fast it is, and what it may have in any case. Bytes.
const FLOOR: u64 = 8 << 20;
/// A link may have so much more under way as it carries in this time and in so many of its round trips: a rate that doubles
/// within a round trip is not held back.
const WHILE: (Duration, u32) = (Duration::from_millis(500), 4);
/// The least time over which a rate is taken.
const PERIOD: Duration = Duration::from_millis(100);

/// How fast each link carries a job's chunks, and what is under way on it.
#[derive(Debug, Default)]
pub(super) struct Pace {
    links: HashMap<LinkId, Carried>,
    /// Where each chunk is that is under way, and its length.
    chunks: HashMap<u32, (LinkId, u64)>,
}

#[derive(Debug, Default)]
struct Carried {
    /// Bytes.
    under_way: u64,
    /// When something arrived last, and since when it is counted.
    arrived: Option<Instant>,
    since: Option<Instant>,
    /// Bytes since then.
    counted: u64,
    /// Bytes per second, once known.
    rate: Option<f64>,
}

impl Pace {
    /// A link may take chunks.
    pub(super) fn add(&mut self, link: LinkId) {
        self.links.entry(link).or_default();
    }

    /// A link takes none any more, and what is under way on it does not count.
    pub(super) fn remove(&mut self, link: LinkId) {
        self.links.remove(&link);
        self.chunks.retain(|_, (on, _)| *on != link);
    }

    /// A link takes a chunk of `len` bytes.
    pub(super) fn take(&mut self, link: LinkId, chunk: u32, len: u64) {
        self.end(chunk);
        if let Some(carried) = self.links.get_mut(&link) {
            carried.under_way += len;
            self.chunks.insert(chunk, (link, len));
        }
    }

    /// A chunk is not under way any more, and has not arrived.
    pub(super) fn give_up(&mut self, chunk: u32) {
        self.end(chunk);
    }

    fn end(&mut self, chunk: u32) -> Option<(&mut Carried, u64)> {
        let (link, len) = self.chunks.remove(&chunk)?;
        let carried = self.links.get_mut(&link)?;
        carried.under_way -= len;
        Some((carried, len))
    }

    /// A chunk has arrived, if it was under way.
    pub(super) fn arrive(&mut self, now: Instant, chunk: u32) {
        let Some((carried, len)) = self.end(chunk) else { return };
        carried.arrived = Some(now);
        let Some(since) = carried.since else {
            // What had begun before is not counted.
            carried.since = Some(now);
            return;
        };
        carried.counted += len;
        let took = now.saturating_duration_since(since);
        if took >= PERIOD {
            let rate = carried.counted as f64 / took.as_secs_f64();
            carried.rate = Some(carried.rate.map_or(rate, |before| (before + rate) / 2.0));
            carried.counted = 0;
            carried.since = Some(now);
        }
        if carried.under_way == 0 {
            // The time until it has something again is not its own.
            carried.counted = 0;
            carried.since = None;
        }
    }

    /// Whether a link with this round-trip time shall take a chunk of `len` bytes. `left`: what is to be sent as far as is
    /// known, this chunk included. Bytes. If there is more than that, a link that is so slow would have added next to nothing.
    pub(super) fn takes(&self, now: Instant, link: LinkId, rtt: Duration, len: u64, left: u64) -> bool {
        let Some(own) = self.links.get(&link).filter(|_| self.links.len() > 1) else { return true };
        let Some(rate) = own.rate else { return own.under_way < FLOOR };
        let most = FLOOR + (rate * (WHILE.0 + rtt * WHILE.1).as_secs_f64()) as u64;
        if own.under_way > most {
            return false;
        }
        let done = (own.under_way + len) as f64 / rate;
        self.links.values().all(|other| {
            let Some(faster) = other.rate.filter(|other| *other > rate) else { return true };
            // The longer nothing has arrived, the less is it what it was.
            let quiet = other.arrived.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
            done <= (other.under_way + left) as f64 / faster + quiet.as_secs_f64()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const FAST: LinkId = LinkId(1);
    const SLOW: LinkId = LinkId(2);
    const MUCH: u64 = 1 << 40;
    const RTT: Duration = Duration::from_millis(20);

    /// Two links of which one has carried 50 MiB and the other 1 MiB in each of two seconds.
    fn known() -> (Pace, Instant) {
        let (mut pace, start) = (Pace::default(), Instant::now());
        [FAST, SLOW].into_iter().for_each(|link| pace.add(link));
        let mut chunk = 0;
        let mut at = start;
        for tenth in 0..=20 {
            at = start + Duration::from_millis(100) * tenth;
            for (link, count) in [(FAST, 5), (SLOW, u32::from(tenth % 10 == 0))] {
                for _ in 0..count {
                    pace.take(link, chunk, MIB);
                    pace.take(link, chunk + 1, 1);
                    pace.arrive(at, chunk);
                    chunk += 2;
                }
            }
        }
        (pace, at)
    }

    #[test]
    fn one_link_takes_everything() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.add(SLOW);
        for chunk in 0..1000 {
            assert!(pace.takes(now, SLOW, RTT, MIB, MIB));
            pace.take(SLOW, chunk, MIB);
        }
    }

    #[test]
    fn who_is_not_known_takes_a_little() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        [FAST, SLOW].into_iter().for_each(|link| pace.add(link));
        for chunk in 0..8 {
            assert!(pace.takes(now, SLOW, RTT, MIB, MUCH));
            pace.take(SLOW, chunk, MIB);
        }
        assert!(!pace.takes(now, SLOW, RTT, MIB, MUCH));
        pace.give_up(3);
        assert!(pace.takes(now, SLOW, RTT, MIB, MUCH));
        // Alone again.
        pace.remove(FAST);
        pace.take(SLOW, 100, 100 * MIB);
        assert!(pace.takes(now, SLOW, RTT, MIB, MUCH));
    }

    #[test]
    fn nobody_has_more_under_way_than_it_carries_in_a_while() {
        let (mut pace, now) = known();
        for (link, most) in [(SLOW, 8), (FAST, 38)] {
            let mut taken = 0;
            while pace.takes(now, link, RTT, MIB, MUCH) && taken < 1000 {
                pace.take(link, 1000 + taken, MIB);
                taken += 1;
            }
            assert!((most - 2..=most + 2).contains(&taken), "{taken}");
        }
    }

    #[test]
    fn the_last_chunks_are_for_who_has_them_there_first() {
        let (mut pace, now) = known();
        // A second of the slow one is 50 MiB of the fast one.
        assert!(pace.takes(now, SLOW, RTT, MIB, 60 * MIB));
        assert!(!pace.takes(now, SLOW, RTT, MIB, 40 * MIB));
        assert!(pace.takes(now, FAST, RTT, MIB, MIB));
        // What is under way on both counts.
        pace.take(FAST, 5000, 20 * MIB);
        assert!(pace.takes(now, SLOW, RTT, MIB, 40 * MIB));
        pace.take(SLOW, 5001, MIB);
        assert!(!pace.takes(now, SLOW, RTT, MIB, 40 * MIB));
    }

    #[test]
    fn a_fast_link_that_stands_still_is_not_waited_for() {
        let (pace, now) = known();
        assert!(!pace.takes(now, SLOW, RTT, MIB, 10 * MIB));
        assert!(pace.takes(now + Duration::from_secs(2), SLOW, RTT, MIB, 10 * MIB));
    }

    #[test]
    fn what_is_taken_again_is_under_way_once() {
        let mut pace = Pace::default();
        [FAST, SLOW].into_iter().for_each(|link| pace.add(link));
        pace.take(SLOW, 1, MIB);
        pace.take(FAST, 1, MIB);
        assert_eq!((pace.links[&SLOW].under_way, pace.links[&FAST].under_way), (0, MIB));
        pace.arrive(Instant::now(), 1);
        pace.arrive(Instant::now(), 1);
        assert_eq!(pace.links[&FAST].under_way, 0);
        pace.take(LinkId(3), 2, MIB);
        assert!(pace.chunks.is_empty());
    }
}
