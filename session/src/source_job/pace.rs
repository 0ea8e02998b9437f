//! Which link takes the next chunk, where there are several. Sans-io.
//!
//! A link takes a chunk when it has room, so that a faster one takes more. That is not enough where a slow one has much room:
//! what waits in its transport, and what it takes last, keep everybody waiting. So, as long as there are others,
//!
//! - a link has no more under way than it carries in a while;
//! - near the end it leaves a chunk to a faster one that would have sent all that is left sooner (earliest completion first:
//!   Lim et al., ECF, CoNEXT 2017); one that is not known yet leaves it to those that are.
//!
//! When nothing is left to be sent, a link that would have a chunk there long before the one that it is on sends it again; the sink
//! takes what is there first.
//!
//! How fast a link is, is seen from what the sink says to have verified.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use metra_transport::LinkId;

/// What a link may have under way before it is known how fast it is: enough to find out, and soon there also over one that finds
/// its path full. Bytes.
const UNKNOWN: u64 = 2 << 20;
/// And nothing when others have all that is left there within so many of its round trips: it would need as many for its first chunk.
const SLOW_START: u32 = 8;
/// What it may have in any case, once that is known. Bytes.
const FLOOR: u64 = 8 << 20;
/// A link may have so much more under way as it carries in this time and in so many of its round trips: a rate that doubles
/// within a round trip is not held back.
const WHILE: (Duration, u32) = (Duration::from_millis(500), 4);
/// A chunk is late on a link that is so many times slower, or that stands still, ...
const SLOWER: f64 = 4.0;
/// ... and needs so much longer: less is not worth sending it twice. ...
const LATE: Duration = Duration::from_millis(250);
/// ... So long has one that is not slower to stand still.
const STILL: Duration = Duration::from_secs(1);
/// The least time over which a rate is taken.
const PERIOD: Duration = Duration::from_millis(100);

/// How fast each link carries a job's chunks, and what is under way on it.
#[derive(Debug, Default)]
pub(super) struct Pace {
    links: HashMap<LinkId, Carried>,
    chunks: HashMap<u32, UnderWay>,
}

/// What is to be sent, a chunk that somebody may take included.
#[derive(Clone, Copy, Debug)]
pub(super) struct Left {
    /// As far as is known. If there is more, a link that is too slow for this much would have added next to nothing.
    pub(super) bytes: u64,
    /// There is no more.
    pub(super) is_all: bool,
}

/// A chunk that is under way.
#[derive(Debug)]
struct UnderWay {
    on: LinkId,
    /// Bytes.
    len: u64,
    since: Instant,
    /// It was under way on another link before.
    again: bool,
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
        self.chunks.retain(|_, chunk| chunk.on != link);
    }

    /// A link takes a chunk of `len` bytes.
    pub(super) fn take(&mut self, now: Instant, link: LinkId, chunk: u32, len: u64) {
        let again = self.end(chunk).is_some();
        if let Some(carried) = self.links.get_mut(&link) {
            carried.under_way += len;
            self.chunks.insert(chunk, UnderWay { on: link, len, since: now, again });
        }
    }

    /// A chunk is not under way any more, and has not arrived.
    pub(super) fn give_up(&mut self, chunk: u32) {
        self.end(chunk);
    }

    /// The same, if it is under way on this link and not, by now, on another one.
    pub(super) fn give_up_on(&mut self, link: LinkId, chunk: u32) {
        if self.chunks.get(&chunk).is_some_and(|chunk| chunk.on == link) {
            self.end(chunk);
        }
    }

    fn end(&mut self, chunk: u32) -> Option<(&mut Carried, u64)> {
        let UnderWay { on, len, .. } = self.chunks.remove(&chunk)?;
        let carried = self.links.get_mut(&on)?;
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

    /// Whether a link with this round-trip time shall take a chunk of `len` bytes.
    pub(super) fn takes(&self, now: Instant, link: LinkId, rtt: Duration, len: u64, left: Left) -> bool {
        let Some(own) = self.links.get(&link).filter(|_| self.links.len() > 1) else { return true };
        let Some(rate) = own.rate else {
            let is_soon = left.is_all && self.done_within(now, rtt * SLOW_START, left.bytes);
            return own.under_way < UNKNOWN && !is_soon;
        };
        let most = FLOOR + (rate * (WHILE.0 + rtt * WHILE.1).as_secs_f64()) as u64;
        if own.under_way > most {
            return false;
        }
        let done = (own.under_way + len) as f64 / rate;
        self.links.values().all(|other| {
            let Some(faster) = other.rate.filter(|other| *other > rate) else { return true };
            done <= (other.under_way + left.bytes) as f64 / faster + other.quiet(now)
        })
    }

    /// Whether the links that are known, and that bring something, would have so many bytes more there in `time`.
    fn done_within(&self, now: Instant, time: Duration, bytes: u64) -> bool {
        let works = |link: &&Carried| link.rate.is_some() && link.quiet(now) <= time.as_secs_f64();
        let working = || self.links.values().filter(works);
        let under_way: u64 = working().map(|link| link.under_way).sum();
        let rate: f64 = working().filter_map(|link| link.rate).sum();
        (under_way + bytes) as f64 <= rate * time.as_secs_f64()
    }

    /// What is under way over all links. Bytes.
    pub(super) fn under_way(&self) -> u64 {
        self.links.values().map(|link| link.under_way).sum()
    }

    /// Whether something is under way on other links than this one.
    pub(super) fn is_elsewhere(&self, link: LinkId) -> bool {
        self.chunks.values().any(|chunk| chunk.on != link)
    }

    /// A chunk that a link with this round-trip time would have there in less than half of the time that the link needs that
    /// has it, which is a slow one or stands still: of several that are alike each brings to an end what it has. Nothing is left to
    /// be sent but what is under way.
    pub(super) fn straggler(&self, now: Instant, link: LinkId, rtt: Duration) -> Option<u32> {
        let own = self.links.get(&link)?;
        let rate = own.rate?;
        let (straggler, _) = self
            .chunks
            .iter()
            .filter(|(_, chunk)| chunk.on != link && !chunk.again)
            .filter(|(_, chunk)| {
                let here = rtt.as_secs_f64() + (own.under_way + chunk.len) as f64 / rate;
                let age = now.saturating_duration_since(chunk.since).as_secs_f64();
                let (there, least) = match self.links.get(&chunk.on) {
                    Some(other) => match other.rate {
                        Some(slow) if slow * SLOWER <= rate => (other.under_way as f64 / slow, LATE),
                        Some(_) => (other.quiet(now).min(age), STILL),
                        // As much again as it has taken already.
                        None => (age, LATE),
                    },
                    None => return false,
                };
                age >= here && there >= (2.0 * here).max(least.as_secs_f64())
            })
            .min_by_key(|(_, chunk)| chunk.since)?;
        Some(*straggler)
    }
}

impl Carried {
    /// The longer nothing has arrived, the less is a link what it was. Seconds.
    fn quiet(&self, now: Instant) -> f64 {
        self.arrived.map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64())
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
                    pace.take(at, link, chunk, MIB);
                    pace.take(at, link, chunk + 1, 1);
                    pace.arrive(at, chunk);
                    chunk += 2;
                }
            }
        }
        (pace, at)
    }

    fn all(bytes: u64) -> Left {
        Left { bytes, is_all: true }
    }

    /// The same, and nothing is under way.
    fn idle() -> (Pace, Instant) {
        let (mut pace, now) = known();
        let left: Vec<u32> = pace.chunks.keys().copied().collect();
        left.into_iter().for_each(|chunk| pace.give_up(chunk));
        (pace, now)
    }

    #[test]
    fn one_link_takes_everything() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.add(SLOW);
        for chunk in 0..1000 {
            assert!(pace.takes(now, SLOW, RTT, MIB, all(MIB)));
            pace.take(now, SLOW, chunk, MIB);
        }
    }

    #[test]
    fn who_is_not_known_takes_a_little() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        [FAST, SLOW].into_iter().for_each(|link| pace.add(link));
        for chunk in 0..2 {
            assert!(pace.takes(now, SLOW, RTT, MIB, all(MUCH)));
            pace.take(now, SLOW, chunk, MIB);
        }
        assert!(!pace.takes(now, SLOW, RTT, MIB, all(MUCH)));
        pace.give_up(1);
        assert!(pace.takes(now, SLOW, RTT, MIB, all(MUCH)));
        // Alone again.
        pace.remove(FAST);
        pace.take(now, SLOW, 100, 100 * MIB);
        assert!(pace.takes(now, SLOW, RTT, MIB, all(MUCH)));
    }

    #[test]
    fn who_is_not_known_takes_nothing_that_is_there_soon() {
        let (mut pace, now) = idle();
        let new = LinkId(3);
        pace.add(new);
        // FAST carries 50 MiB in a second, SLOW one: 8 MiB in 8 round trips.
        assert!(pace.takes(now, new, RTT, MIB, all(10 * MIB)));
        assert!(!pace.takes(now, new, RTT, MIB, all(6 * MIB)));
        pace.take(now, FAST, 1000, 6 * MIB);
        assert!(pace.takes(now, new, RTT, MIB, all(6 * MIB)), "they have more to do before");
        pace.give_up(1000);
        assert!(pace.takes(now, new, RTT, MIB, Left { bytes: MIB, is_all: false }), "more may come");
        let later = now + Duration::from_millis(200);
        assert!(pace.takes(later, new, RTT, MIB, all(6 * MIB)), "they bring nothing");
    }

    #[test]
    fn nobody_has_more_under_way_than_it_carries_in_a_while() {
        let (mut pace, now) = known();
        for (link, most) in [(SLOW, 8), (FAST, 38)] {
            let mut taken = 0;
            while pace.takes(now, link, RTT, MIB, all(MUCH)) && taken < 1000 {
                pace.take(now, link, 1000 + taken, MIB);
                taken += 1;
            }
            assert!((most - 2..=most + 2).contains(&taken), "{taken}");
        }
    }

    #[test]
    fn the_last_chunks_are_for_who_has_them_there_first() {
        let (mut pace, now) = known();
        // A second of the slow one is 50 MiB of the fast one.
        assert!(pace.takes(now, SLOW, RTT, MIB, all(60 * MIB)));
        assert!(!pace.takes(now, SLOW, RTT, MIB, all(40 * MIB)));
        assert!(pace.takes(now, FAST, RTT, MIB, all(MIB)));
        // What is under way on both counts.
        pace.take(now, FAST, 5000, 20 * MIB);
        assert!(pace.takes(now, SLOW, RTT, MIB, all(40 * MIB)));
        pace.take(now, SLOW, 5001, MIB);
        assert!(!pace.takes(now, SLOW, RTT, MIB, all(40 * MIB)));
    }

    #[test]
    fn a_fast_link_that_stands_still_is_not_waited_for() {
        let (pace, now) = known();
        assert!(!pace.takes(now, SLOW, RTT, MIB, all(10 * MIB)));
        assert!(pace.takes(now + Duration::from_secs(2), SLOW, RTT, MIB, all(10 * MIB)));
    }

    #[test]
    fn what_is_taken_again_is_under_way_once() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        [FAST, SLOW].into_iter().for_each(|link| pace.add(link));
        pace.take(now, SLOW, 1, MIB);
        pace.take(now, FAST, 1, MIB);
        assert_eq!((pace.links[&SLOW].under_way, pace.links[&FAST].under_way), (0, MIB));
        pace.arrive(now, 1);
        pace.arrive(now, 1);
        assert_eq!(pace.links[&FAST].under_way, 0);
        pace.take(now, LinkId(3), 2, MIB);
        assert!(pace.chunks.is_empty());
    }

    #[test]
    fn what_is_late_elsewhere_is_sent_again_once_by_who_is_faster() {
        let (mut pace, now) = idle();
        let later = |ms| now + Duration::from_millis(ms);
        for chunk in [6000, 6002] {
            pace.take(now, SLOW, chunk, MIB);
        }
        assert!(pace.is_elsewhere(FAST) && pace.straggler(now, FAST, RTT).is_none(), "it has just begun");
        // The slow one needs two seconds, the fast one a fiftieth and its round trip.
        let straggler = pace.straggler(later(100), FAST, RTT);
        assert!(matches!(straggler, Some(6000 | 6002)));
        pace.take(later(100), FAST, straggler.unwrap_or_default(), MIB);
        pace.give_up_on(SLOW, straggler.unwrap_or_default());
        assert_eq!((pace.links[&SLOW].under_way, pace.links[&FAST].under_way), (MIB, MIB));
        assert_eq!(pace.straggler(later(9000), SLOW, RTT), None);
        // Much is under way on the fast one, so that it is not the faster one.
        let (mut pace, now) = idle();
        pace.take(now, SLOW, 6000, MIB);
        pace.take(now, FAST, 6001, 50 * MIB);
        assert_eq!(pace.straggler(now + Duration::from_millis(900), FAST, RTT), None);
    }

    #[test]
    fn of_two_that_are_alike_each_brings_to_an_end_what_it_has() {
        let (mut pace, now) = idle();
        let alike = LinkId(3);
        pace.add(alike);
        for (chunk, tenth) in (7000..).zip(0..=10) {
            let at = now + Duration::from_millis(100) * tenth;
            for (link, chunk) in [(FAST, chunk), (alike, chunk + 1000)] {
                pace.take(at, link, chunk, 4 * MIB);
                pace.arrive(at, chunk);
            }
            // Never nothing, or it is not counted.
            pace.take(now, FAST, 1, MIB);
            pace.take(now, alike, 2, MIB);
        }
        pace.arrive(now + Duration::from_millis(1000), 1);
        let later = |ms: u64| now + Duration::from_millis(1000 + ms);
        for chunk in 9000..9020 {
            pace.take(later(0), alike, chunk, MIB);
        }
        // Half a second of what it has, but it is at work.
        pace.arrive(later(400), 9000);
        assert_eq!(pace.straggler(later(500), FAST, RTT), None);
        assert_eq!(pace.straggler(later(1300), FAST, RTT), None);
        // Then it stands still.
        assert!(pace.straggler(later(1400), FAST, RTT).is_some());
    }

    #[test]
    fn of_who_is_not_known_as_much_is_expected_as_it_has_taken() {
        let (mut pace, now) = idle();
        let new = LinkId(3);
        pace.add(new);
        pace.take(now, new, 6000, MIB);
        assert_eq!(pace.straggler(now + Duration::from_millis(70), FAST, RTT), None);
        assert_eq!(
            pace.straggler(now + Duration::from_millis(100), FAST, RTT),
            None,
            "it is not worth it yet"
        );
        assert_eq!(pace.straggler(now + LATE, FAST, RTT), Some(6000));
        // Nor does one that is not known itself take anything over.
        assert_eq!(pace.straggler(now + Duration::from_secs(9), new, RTT), None);
    }
}
