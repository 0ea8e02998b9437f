//! What one job makes of the links of its session: throughput by the second, round-trip times, bytes of both ways.
//!
//! A [`Meter`] is looked at several times a second. It needs no clock and no link: the caller passes the time, where the
//! job stands and what the links have carried. Non-goals: jobs that share a session are not told apart; bytes on the wire
//! count for each of them.

use std::time::{Duration, Instant};

use metra_core::measure::{Distribution, Seconds};

use crate::progress::Progress;
use crate::traffic::Traffic;

/// Which end of a job this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Content goes out.
    Source,
    /// Content comes in.
    Sink,
}

/// Measures one job, over all its attempts.
///
/// Throughput by the second is taken from the wire, as chunks are too large for a slow path, and what a source has handed
/// to the transport may not have left yet: at a source what the peer has acknowledged, at a sink what came in. What that
/// was in a second is multiplied by the share that content has in what it was in the whole transfer.
#[derive(Clone, Debug)]
pub struct Meter {
    side: Side,
    before: Traffic,
    /// Since `before`.
    traffic: Traffic,
    /// Bytes that went forward and, as far as this side knows, arrived.
    forward: u64,
    /// From the first byte of a chunk on.
    seconds: Option<Seconds>,
    /// When the sink had everything.
    complete: Option<Instant>,
    last_look: Option<Instant>,
    /// Smoothed round-trip times while content was on its way. Nanoseconds.
    rtts: Distribution,
    /// Content moved by earlier attempts, and by this one.
    earlier: Content,
    current: Content,
    /// All content there is. Bytes of chunks.
    announced: u64,
}

/// Bytes of chunks.
#[derive(Clone, Copy, Debug, Default)]
struct Content {
    moved: u64,
    repeated: u64,
}

impl Meter {
    /// Begins, with what the links of the session have carried before.
    pub fn new(side: Side, before: Traffic) -> Self {
        Self {
            side,
            before,
            traffic: Traffic::default(),
            forward: 0,
            seconds: None,
            complete: None,
            last_look: None,
            rtts: Distribution::default(),
            earlier: Content::default(),
            current: Content::default(),
            announced: 0,
        }
    }

    /// A look at an attempt that began at `started`; `traffic` is that of the session.
    pub fn look(&mut self, now: Instant, started: Instant, progress: &Progress, traffic: &Traffic) {
        let before = self.forward;
        self.traffic = traffic.since(&self.before);
        self.forward = match self.side {
            Side::Source => self.traffic.acked_bytes,
            Side::Sink => self.traffic.received_bytes,
        };
        self.current = Content { moved: progress.moved, repeated: progress.repeated };
        self.announced = self.announced.max(progress.announced);
        self.last_look = Some(now);
        if self.seconds.is_none()
            && let Some(first_byte) = progress.first_byte
        {
            self.seconds = Some(Seconds::new(started + first_byte, before));
        }
        let Some(seconds) = &mut self.seconds else { return };
        let complete = progress.complete && progress.verified >= progress.announced;
        if complete && self.complete.is_some() {
            return;
        }
        seconds.look(now, self.forward);
        if let Some(rtt) = self.traffic.rtt {
            self.rtts.add(u64::try_from(rtt.as_nanos()).unwrap_or(u64::MAX), 1);
        }
        self.complete = complete.then(|| {
            // The source hears of it half a round trip later.
            let way = match self.side {
                Side::Source => self.traffic.rtt.unwrap_or_default() / 2,
                Side::Sink => Duration::ZERO,
            };
            now.checked_sub(way).unwrap_or(now)
        });
    }

    /// The attempt that was looked at is over; what is looked at next is another one, which counts anew.
    pub fn attempt_over(&mut self) {
        let Content { moved, repeated } = std::mem::take(&mut self.current);
        self.earlier.moved += moved;
        self.earlier.repeated += repeated;
    }

    /// What was measured so far.
    pub fn kpis(&self) -> Kpis {
        let moved = self.earlier.moved + self.current.moved;
        // What an earlier attempt has moved as well is no repeat in the count of a later one.
        let delivered = (moved - self.earlier.repeated - self.current.repeated).min(self.announced);
        let end = self.complete.or(self.last_look);
        let wire =
            self.seconds.as_ref().zip(end).map(|(seconds, end)| seconds.finish(end)).unwrap_or_default();
        let share = if self.forward > 0 { delivered as f64 / self.forward as f64 } else { 0.0 };
        let rtt = |percent| self.rtts.percentile(percent).map(Duration::from_nanos);
        let rtts = self.traffic.min_rtt.zip(self.traffic.rtt).map(|(min, last)| Rtts {
            min,
            p50: rtt(50).unwrap_or(last),
            p95: rtt(95).unwrap_or(last),
            last,
        });
        Kpis {
            side: self.side,
            moved,
            delivered,
            seconds: wire.scaled(share.min(1.0)),
            rtts,
            traffic: self.traffic,
        }
    }
}

/// What was measured of one job, over all its attempts and links.
#[derive(Clone, Debug)]
pub struct Kpis {
    /// Which end of the job measured it.
    pub side: Side,
    /// Bytes of chunks that this side gave to links, repeats included (source), or received and could use (sink).
    pub moved: u64,
    /// Bytes of chunks that went over links to the sink, each counted once; not what the sink had already.
    pub delivered: u64,
    /// How many bytes of chunks were carried in each full second from the first byte on until the sink had everything;
    /// seconds without a link included.
    pub seconds: Distribution,
    /// `None` if there was no link.
    pub rtts: Option<Rtts>,
    /// What the links of the session have carried meanwhile.
    pub traffic: Traffic,
}

/// Round-trip times of the path, both ways together: one way alone cannot be told without clocks that agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rtts {
    /// The smallest that a link of the session has seen.
    pub min: Duration,
    /// Median of the smoothed one, looked at while content was on its way.
    pub p50: Duration,
    /// 95th percentile of the same.
    pub p95: Duration,
    /// The smoothed one at the end.
    pub last: Duration,
}

impl Kpis {
    /// Bytes of chunks per second that `percent` of a hundred full seconds did not exceed: 50 is the median, 95 near the
    /// best, 5 a slow second. `None` for a transfer of less than two full seconds, or of nothing.
    pub fn throughput(&self, percent: u8) -> Option<u64> {
        let enough = self.delivered > 0 && self.seconds.count() >= 2;
        enough.then(|| self.seconds.percentile(percent)).flatten()
    }

    /// Bytes on the wire from source to sink; repeats, what was lost and all that is not content included.
    pub fn forward_bytes(&self) -> u64 {
        match self.side {
            Side::Source => self.traffic.sent_bytes,
            Side::Sink => self.traffic.received_bytes,
        }
    }

    /// Bytes on the wire from sink to source.
    pub fn reverse_bytes(&self) -> u64 {
        match self.side {
            Side::Source => self.traffic.received_bytes,
            Side::Sink => self.traffic.sent_bytes,
        }
    }

    /// Bytes from sink to source for each GB (10^9 bytes) of content delivered. `None` if nothing was.
    pub fn reverse_bytes_per_gb(&self) -> Option<f64> {
        (self.delivered > 0).then(|| self.reverse_bytes() as f64 * 1e9 / self.delivered as f64)
    }

    /// Bytes on the wire from source to sink for each byte of content delivered. `None` if nothing was.
    pub fn wire_ratio(&self) -> Option<f64> {
        (self.delivered > 0).then(|| self.forward_bytes() as f64 / self.delivered as f64)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MB: u64 = 1_000_000;

    /// A source that began at `start`, with a megabyte of control and other jobs before.
    struct Run {
        start: Instant,
        meter: Meter,
    }

    fn traffic(forward: u64) -> Traffic {
        let rtt = Some(Duration::from_millis(200));
        Traffic {
            links: 1,
            sent_bytes: MB + forward,
            acked_bytes: MB + forward,
            received_bytes: forward / 50,
            min_rtt: rtt,
            rtt,
            ..Traffic::default()
        }
    }

    impl Run {
        fn new() -> Self {
            Self { start: Instant::now(), meter: Meter::new(Side::Source, traffic(0)) }
        }

        /// A look after `ms`; the first byte went out after 100 ms.
        fn look(&mut self, ms: u64, moved: u64, verified: u64, forward: u64) {
            let progress = Progress {
                announced: 10 * MB,
                complete: true,
                moved,
                verified,
                first_byte: (ms >= 100).then_some(Duration::from_millis(100)),
                ..Progress::default()
            };
            self.meter.look(self.start + Duration::from_millis(ms), self.start, &progress, &traffic(forward));
        }
    }

    #[test]
    fn seconds_begin_at_the_first_byte_and_end_when_the_sink_has_everything() {
        let mut run = Run::new();
        run.look(50, 0, 0, 0);
        // Everything is handed over at once, and drains at 2.5 MB/s, of which 2 are content.
        for tick in 1..=50 {
            run.look(100 * tick + 100, 10 * MB, 2 * (tick - 1) * MB / 10, 250_000 * tick);
        }
        // Half a round trip before it was told, everything was there.
        run.look(5_300, 10 * MB, 10 * MB, 12_500_000);
        for tick in 60..80 {
            run.look(100 * tick, 10 * MB, 10 * MB, 12_500_000);
        }
        let kpis = run.meter.kpis();
        assert_eq!((kpis.moved, kpis.delivered, kpis.seconds.count()), (10 * MB, 10 * MB, 5));
        assert_eq!((kpis.throughput(50), kpis.throughput(95)), (Some(2 * MB), Some(2 * MB)));
        assert_eq!((kpis.wire_ratio(), kpis.reverse_bytes_per_gb()), (Some(1.25), Some(2.5e7)));
        assert_eq!(kpis.traffic.links, 0, "no link joined meanwhile");
    }

    #[test]
    fn attempts_add_up_and_repeats_are_not_delivered() {
        let mut run = Run::new();
        run.look(500, 3 * MB, MB, 3 * MB);
        run.meter.attempt_over();
        let mut later = |seconds, moved| {
            let progress = Progress { moved, repeated: 2 * MB, ..Progress::default() };
            let at = run.start + Duration::from_secs(seconds);
            run.meter.look(at, run.start, &progress, &traffic(20 * MB));
            run.meter.kpis()
        };
        assert_eq!((later(6, 5 * MB).moved, later(6, 5 * MB).delivered), (8 * MB, 6 * MB));
        let kpis = later(9, 10 * MB);
        assert_eq!((kpis.moved, kpis.delivered), (13 * MB, 10 * MB), "there is no more content than that");
        assert_eq!((kpis.wire_ratio(), kpis.seconds.count()), (Some(2.0), 8));
    }

    #[test]
    fn what_has_not_arrived_does_not_count() {
        let mut run = Run::new();
        run.look(100, 0, 0, 0);
        let progress = Progress {
            moved: 10 * MB,
            announced: 10 * MB,
            first_byte: Some(Duration::ZERO),
            ..Progress::default()
        };
        // All is sent in the first second, and a part of it again in the second: that fills a queue.
        for (second, sent, acked) in [(1, 12, 3), (2, 14, 6), (3, 14, 10)] {
            let traffic =
                Traffic { sent_bytes: (1 + sent) * MB, acked_bytes: (1 + acked) * MB, ..traffic(0) };
            let at = run.start + Duration::from_millis(100 + 1000 * second);
            run.meter.look(at, run.start, &progress, &traffic);
        }
        for (percent, rate) in [(1, 3 * MB), (50, 3 * MB), (100, 4 * MB)] {
            let measured = run.meter.kpis().throughput(percent).unwrap();
            assert!(measured.abs_diff(rate) <= rate / 250, "{measured} for {rate}");
        }
    }

    #[test]
    fn a_sink_counts_the_other_way_round() {
        let mut meter = Meter::new(Side::Sink, Traffic::default());
        let start = Instant::now();
        let traffic = Traffic { sent_bytes: 10_000, received_bytes: 1_100_000, ..Traffic::default() };
        let progress = Progress { moved: MB, announced: MB, ..Progress::default() };
        meter.look(start, start, &progress, &traffic);
        let kpis = meter.kpis();
        assert_eq!((kpis.wire_ratio(), kpis.reverse_bytes_per_gb()), (Some(1.1), Some(1e7)));
        assert_eq!((kpis.throughput(50), kpis.rtts), (None, None));
    }

    #[test]
    fn of_nothing_nothing_is_known() {
        let kpis = Meter::new(Side::Source, Traffic::default()).kpis();
        assert_eq!((kpis.throughput(50), kpis.wire_ratio(), kpis.reverse_bytes_per_gb()), (None, None, None));
    }
}
