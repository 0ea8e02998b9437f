//! [`Model`]: what is known of the path: its bandwidth, its length, and how acknowledgements come in bursts
//! (draft-ietf-ccwg-bbr-06 section 5.5).

use std::time::{Duration, Instant};

use super::sample::Sample;
use super::{Bbr, State};

/// A sample below the smallest round-trip time by more than this share, and by more than this, shows that others drain a
/// queue that was never seen empty.
const FALLS: f64 = 0.03;
const FALLS_MIN: Duration = Duration::from_millis(1);
/// A sample above the smallest round-trip time by less than this share confirms it.
const CONFIRMS: f64 = 1.0 / 32.0;
/// Or by less than this, which timers and the delay of acknowledgements may bring about.
const CONFIRMS_MIN: Duration = Duration::from_micros(200);

#[derive(Clone, Debug)]
pub(super) struct Model {
    /// Largest delivery rates of this probing cycle and the one before. Bytes per second (section 5.5.3).
    bw: [f64; 2],
    /// Rounds so far, counted by what was delivered (section 5.5.1).
    pub(super) round: u64,
    /// Whether this acknowledgement began a round.
    pub(super) round_start: bool,
    next_round_delivered: u64,
    /// Over the last ten seconds, and when it was seen.
    min_rtt: Option<(Duration, Instant)>,
    /// Since ProbeRTT, or for five seconds, and when it was last seen.
    pub(super) probe_rtt_min: Option<(Duration, Instant)>,
    /// Largest excess of acknowledged data in this window of rounds, and in the one before. Bytes.
    extra_acked: [u64; 2],
    extra_acked_round: u64,
    /// When the interval of which the excess is measured began, and what was acknowledged in it.
    excess_since: Instant,
    excess_acked: u64,
    /// The smallest of the last full group of round-trip times; of the group that is being filled, and its size.
    recent_rtt: Option<Duration>,
    group: Option<(Duration, u32)>,
}

/// So many round-trip times in a row are looked at for the smallest (RFC 9406 section 4.2 has 8 a round).
const GROUP: u32 = 8;

impl Model {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            bw: [0.0; 2],
            round: 0,
            round_start: false,
            next_round_delivered: 0,
            min_rtt: None,
            probe_rtt_min: None,
            extra_acked: [0; 2],
            extra_acked_round: 0,
            excess_since: now,
            excess_acked: 0,
            recent_rtt: None,
            group: None,
        }
    }

    /// The smallest of some recent round-trip times: one alone may be jitter.
    pub(super) fn recent_rtt(&self) -> Option<Duration> {
        self.recent_rtt
    }

    pub(super) fn update_recent_rtt(&mut self, sample: &Sample) {
        let Some(rtt) = sample.rtt else { return };
        let (smallest, count) = self.group.map_or((rtt, 1), |(seen, n)| (rtt.min(seen), n + 1));
        self.group = Some((smallest, count));
        if count >= GROUP {
            (self.recent_rtt, self.group) = (Some(smallest), None);
        }
    }

    /// BBR.max_bw. Bytes per second; 0 until there is a sample.
    pub(super) fn max_bw(&self) -> f64 {
        self.bw[0].max(self.bw[1])
    }

    pub(super) fn min_rtt(&self) -> Option<Duration> {
        self.min_rtt.map(|(rtt, _)| rtt)
    }

    pub(super) fn extra_acked(&self) -> u64 {
        self.extra_acked[0].max(self.extra_acked[1])
    }

    /// BBRUpdateRound (section 5.5.1).
    pub(super) fn update_round(&mut self, sample: &Sample, delivered: u64) {
        self.round_start = sample.newly_acked > 0 && sample.prior_delivered >= self.next_round_delivered;
        if self.round_start {
            self.start_round(delivered);
            self.round += 1;
        }
    }

    /// BBRStartRound.
    pub(super) fn start_round(&mut self, delivered: u64) {
        self.next_round_delivered = delivered;
    }

    /// BBRUpdateMaxBw (section 5.5.4).
    pub(super) fn update_max_bw(&mut self, sample: &Sample) {
        let counts = |rate: &f64| !sample.app_limited || *rate >= self.max_bw();
        if let Some(rate) = sample.rate.filter(counts) {
            self.bw[0] = self.bw[0].max(rate);
        }
    }

    /// BBRAdvanceMaxBwFilter (section 5.5.5).
    pub(super) fn advance_max_bw(&mut self) {
        // A cycle without a sample does not push out one that has some.
        if self.bw[0] > 0.0 {
            self.bw = [0.0, self.bw[0]];
        }
    }

    /// No more than `most` is believed until a probe shows it.
    pub(super) fn limit_bw(&mut self, most: f64) {
        self.bw = self.bw.map(|bw| bw.min(most));
    }

    pub(super) fn restart_extra_acked(&mut self, now: Instant) {
        (self.excess_since, self.excess_acked) = (now, 0);
    }
}

impl Bbr {
    /// BBR.bw: what is used. Bytes per second.
    pub(super) fn bandwidth(&self) -> f64 {
        self.model.max_bw().min(self.congestion.bw_shortterm)
    }

    /// Bytes in flight that fill the path `gain` times at `bw` (section 5.6.4.2).
    pub(super) fn bdp(&self, bw: f64, gain: f64) -> u64 {
        match self.model.min_rtt() {
            Some(rtt) => (bw * rtt.as_secs_f64() * gain) as u64,
            None => self.control.initial_cwnd,
        }
    }

    /// BBRInflight: the same, with room for what pacing and acknowledgements do in bursts (section 5.6.4.2).
    pub(super) fn inflight(&self, bw: f64, gain: f64) -> u64 {
        let bytes = self.bdp(bw, gain).max(3 * self.send_quantum()).max(self.cwnd_min());
        if self.state == State::ProbeUp { bytes.saturating_add(2 * self.mss) } else { bytes }
    }

    /// BBRUpdateACKAggregation (section 5.5.9): how much more comes at once than the bandwidth explains.
    pub(super) fn update_extra_acked(&mut self, now: Instant, sample: &Sample) {
        let window = if self.full_pipe.reached { self.params.extra_acked_rounds } else { 1 };
        let bw = self.bandwidth();
        let model = &mut self.model;
        if model.round_start && model.round - model.extra_acked_round >= window {
            model.extra_acked = [0, model.extra_acked[0]];
            model.extra_acked_round = model.round;
        }
        let interval = now.saturating_duration_since(model.excess_since);
        let mut expected = bw * interval.as_secs_f64();
        if model.excess_acked as f64 <= expected {
            (model.excess_since, model.excess_acked) = (now, 0);
            expected = 0.0;
        }
        model.excess_acked = model.excess_acked.saturating_add(sample.newly_acked);
        let excess = (model.excess_acked as f64 - expected).max(0.0) as u64;
        model.extra_acked[0] = model.extra_acked[0].max(excess.min(self.control.cwnd));
    }

    /// BBRUpdateMinRTT (section 5.3.4.3).
    pub(super) fn update_min_rtt(&mut self, now: Instant, sample: &Sample) {
        let model = &mut self.model;
        // Nothing makes a flow of a fixed rate drain a queue, so what it meets is never the path alone for certain.
        let ages = self.state != State::Fixed;
        let older = |at: Instant, age: Duration| ages && now.saturating_duration_since(at) > age;
        self.probe_rtt.expired =
            model.probe_rtt_min.is_some_and(|(_, at)| older(at, self.params.probe_rtt_interval));
        if let Some(rtt) = sample.rtt {
            let fell = |min: Duration| rtt + FALLS_MIN < min.mul_f64(1.0 - FALLS);
            self.probe_rtt.expired |=
                self.full_pipe.reached && model.probe_rtt_min.is_some_and(|(min, _)| fell(min));
            match &mut model.probe_rtt_min {
                Some((min, at)) if rtt >= *min && !self.probe_rtt.expired => {
                    if !self.company.seen && rtt <= min.mul_f64(1.0 + CONFIRMS).max(*min + CONFIRMS_MIN) {
                        *at = now;
                    }
                }
                min => *min = Some((rtt, now)),
            }
        }
        let Some((rtt, at)) = model.probe_rtt_min else { return };
        if model.min_rtt.is_none_or(|(min, since)| rtt <= min || older(since, self.params.min_rtt_window)) {
            model.min_rtt = Some((rtt, at));
        }
    }
}
