//! [`Congestion`]: whether loss and marks mean that too much is sent, and the bounds that follow from it
//! (draft-ietf-ccwg-bbr-06 section 5.5.10).
//!
//! Loss on a long path is mostly not congestion, and costs most where rates are high: each round has some. Two things
//! tell them apart. Congestion builds a queue before it drops, so the smallest round-trip time of a congested round is
//! above that of the path. And loss of the path's own does not depend on how much is sent: it is there in rounds that
//! send no more than the path carries and meet no queue. Their mean share of loss, and how much it varies, are kept as in
//! an RTT estimator (RFC 6298): what exceeds mean + 4 deviations (and the draft's 2 %) is too much, queue or not: so short
//! queues, which show in no round-trip time, are found as well.

use std::time::{Duration, Instant};

use super::sample::Sample;
use super::{Bbr, State};

/// Gains of the mean and of the deviation of random loss.
const LOSS_GAIN: f64 = 1.0 / 8.0;
const DEVIATION_GAIN: f64 = 1.0 / 4.0;

/// Packets that QUIC stacks hand over at once.
pub(super) const BATCH: u64 = 10;

/// Fewer packets in a round say nothing of the path's loss.
const FEW: u64 = 20;

/// Packets that a round may lose on top: in a flight of a few dozen, two or three more than the mean are chance, and there are
/// many such rounds in a second.
const LOST_BY_CHANCE: u64 = 3;

/// Rounds after which the queue of a probe is drained and known to be.
const PROBE_SEEN: u64 = 4;

#[derive(Clone, Debug)]
pub(super) struct Congestion {
    /// At most so much in flight, for the long term (the draft's inflight_longterm, earlier inflight_hi). Bytes.
    pub(super) inflight_longterm: u64,
    /// At most so much in flight until the next probe (inflight_lo). Bytes.
    pub(super) inflight_shortterm: u64,
    /// At most so fast until the next probe (bw_lo). Bytes per second; infinite if there is no bound.
    pub(super) bw_shortterm: f64,
    /// Largest delivery rate and delivered volume of this round.
    bw_latest: f64,
    inflight_latest: u64,
    /// Rounds of loss, which restart when bounds are reset.
    round_delivered: u64,
    round_start: bool,
    this: Round,
    /// The round that ended with this acknowledgement.
    last: Round,
    /// Share of loss that is the path's own, and how much it varies from round to round.
    random: Option<(f64, f64)>,
    /// Average share of acknowledgements with CE marks.
    ecn_alpha: f64,
    /// Losses of packets made until then say nothing: the path was out.
    forgiven_until: Instant,
}

/// What happened in a round.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    /// Bytes.
    delivered: u64,
    /// Bytes.
    lost: u64,
    /// Separate reports of loss.
    losses: u32,
    acks: u32,
    marks: u32,
    min_rtt: Option<Duration>,
}

impl Round {
    fn loss(&self) -> f64 {
        self.lost as f64 / self.lost.saturating_add(self.delivered).max(1) as f64
    }

    fn marked(&self) -> f64 {
        f64::from(self.marks) / f64::from(self.acks.max(1))
    }
}

impl Congestion {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            inflight_longterm: u64::MAX,
            inflight_shortterm: u64::MAX,
            bw_shortterm: f64::INFINITY,
            bw_latest: 0.0,
            inflight_latest: 0,
            round_delivered: 0,
            round_start: false,
            this: Round::default(),
            last: Round::default(),
            random: None,
            ecn_alpha: 1.0,
            forgiven_until: now,
        }
    }

    /// BBRUpdateLatestDeliverySignals (section 5.5.10.3).
    pub(super) fn take(&mut self, sample: &Sample, delivered: u64) {
        self.bw_latest = self.bw_latest.max(sample.rate.unwrap_or(0.0));
        self.inflight_latest = self.inflight_latest.max(sample.delivered);
        self.this.acks += 1;
        self.this.delivered = self.this.delivered.saturating_add(sample.newly_acked);
        self.this.min_rtt = [self.this.min_rtt, sample.rtt].into_iter().flatten().min();
        self.round_start = sample.newly_acked > 0 && sample.prior_delivered >= self.round_delivered;
        if self.round_start {
            self.round_delivered = delivered;
            self.last = std::mem::take(&mut self.this);
        }
    }

    /// BBRAdvanceLatestDeliverySignals: the new round begins with what this acknowledgement said.
    pub(super) fn advance(&mut self, sample: &Sample) {
        if self.round_start {
            self.bw_latest = sample.rate.unwrap_or(0.0);
            self.inflight_latest = sample.delivered;
        }
    }

    pub(super) fn lost(&mut self, bytes: u64) {
        self.this.lost = self.this.lost.saturating_add(bytes);
        self.this.losses += 1;
    }

    pub(super) fn marked(&mut self) {
        self.this.marks += 1;
    }

    /// Share of acknowledgements with CE marks in the round that goes on.
    pub(super) fn marks_in_round(&self) -> f64 {
        if self.this.acks < 8 { 0.0 } else { self.this.marked() }
    }

    /// What was made until now and is lost says nothing of congestion.
    pub(super) fn forgive(&mut self, now: Instant) {
        self.forgiven_until = now;
        self.this = Round::default();
    }

    pub(super) fn is_forgiven(&self, made: Instant) -> bool {
        made < self.forgiven_until
    }

    /// The smallest round-trip time of the round that has ended.
    pub(super) fn last_min_rtt(&self) -> Option<Duration> {
        self.last.min_rtt
    }

    /// The path is remembered to lose this share of packets whatever is sent. As uncertain as after one round.
    pub(super) fn expect_loss(&mut self, share: f64) {
        if share > 0.0 {
            self.random.get_or_insert((share, share / 2.0));
        }
    }

    /// What the path loses anyway is not known.
    pub(super) fn forget_loss(&mut self) {
        self.random = None;
    }

    /// The share of what was lost in the round that has ended just now. `None` if a round goes on, or it was too short to say
    /// anything.
    pub(super) fn loss_of_round(&self, mss: u64) -> Option<f64> {
        let enough = self.last.delivered.saturating_add(self.last.lost) >= FEW * mss;
        (self.round_start && enough).then(|| self.last.loss())
    }

    /// Largest delivery rate of this round, or of the one that this acknowledgement has ended. Bytes per second.
    pub(super) fn bw_latest(&self) -> f64 {
        self.bw_latest
    }

    /// BBRResetCongestionSignals.
    pub(super) fn reset_signals(&mut self) {
        self.this = Round::default();
        (self.bw_latest, self.inflight_latest) = (0.0, 0);
    }
}

impl Bbr {
    /// The share of packets that the path loses whatever is sent.
    pub(super) fn random_loss(&self) -> f64 {
        match self.congestion.random {
            Some((mean, _)) if self.params.bears_random_loss => mean,
            _ => 0.0,
        }
    }

    /// The share of loss above which too much is sent, queue or not.
    fn loss_bound(&self) -> f64 {
        match self.congestion.random {
            Some((mean, deviation)) if self.params.bears_random_loss => {
                mean + self.params.loss_threshold.max(4.0 * deviation)
            }
            _ => self.params.loss_threshold,
        }
    }

    /// Bytes that a round may lose whatever is expected of it.
    fn lost_by_chance(&self) -> f64 {
        if self.params.bears_random_loss { (LOST_BY_CHANCE * self.mss) as f64 } else { 0.0 }
    }

    /// Whether `lost` of `sent` bytes is more than the path's own loss explains.
    pub(super) fn is_too_much(&self, lost: u64, sent: u64) -> bool {
        lost as f64 > self.loss_bound() * sent as f64 + self.lost_by_chance()
    }

    /// Whether the shortest round trip of a round is longer than the path explains.
    fn is_inflated(&self, rtt: Option<Duration>) -> bool {
        let (Some(rtt), Some(min)) = (rtt, self.model.min_rtt()) else { return false };
        // A batch leaves at once: its last packet waits for the others.
        let batch = (BATCH * self.mss) as f64 / self.model.max_bw().max(1.0);
        let batch = Duration::from_secs_f64(batch.min(min.as_secs_f64() / 2.0));
        rtt > min.mul_f64(1.0 + self.params.inflated).max(min + self.params.inflated_min) + batch
    }

    /// Whether the round that has ended met a queue.
    pub(super) fn last_round_met_queue(&self) -> bool {
        self.params.bears_random_loss && self.is_inflated(self.congestion.last.min_rtt)
    }

    /// Whether the latest packets have met a queue.
    pub(super) fn recently_met_queue(&self) -> bool {
        self.is_inflated(self.model.recent_rtt())
    }

    /// Whether the round that has ended was congested.
    fn was_congested(&self) -> bool {
        let round = &self.congestion.last;
        if round.lost == 0 {
            return false;
        }
        if !self.params.bears_random_loss {
            return true;
        }
        let sent = round.lost.saturating_add(round.delivered);
        // What Startup has borne is not congestion as soon as it is over: what it is shows in a few rounds.
        let is_unknown = self.congestion.random.is_none() && round.loss() <= self.params.random_loss_max;
        if is_unknown && !self.is_inflated(round.min_rtt) {
            return false;
        }
        let more = round.lost as f64 > 1.5 * self.random_loss() * sent as f64 + self.lost_by_chance();
        (more && self.is_inflated(round.min_rtt)) || self.is_too_much(round.lost, sent)
    }

    /// Startup ends for loss: much of it, in several places, and with a queue (section 5.3.1.3). Or with more loss than is ever
    /// borne; of a round that brought more, twice as much: where losses come in bursts, a round of a few dozen packets may lose
    /// a quarter of them by chance, long before the path is full.
    pub(super) fn startup_lost_too_much(&self) -> bool {
        let round = &self.congestion.last;
        let much =
            round.loss() > self.params.loss_threshold && round.losses >= self.params.startup_loss_events;
        let most = self.params.random_loss_max * if self.full_pipe.brought { 2.0 } else { 1.0 };
        let bears = self.params.bears_random_loss && round.loss() < most;
        self.congestion.round_start && much && (!bears || self.is_inflated(round.min_rtt))
    }

    /// Whether Startup ends for CE marks.
    pub(super) fn startup_marked(&self) -> bool {
        self.congestion.round_start && self.congestion.last.marked() > self.params.ecn_threshold
    }

    pub(super) fn inflight_latest(&self) -> u64 {
        self.congestion.inflight_latest
    }

    /// BBRUpdateCongestionSignals and BBRAdaptLowerBoundsFromCongestion (section 5.5.10.3).
    pub(super) fn adapt_lower_bounds(&mut self, now: Instant) {
        if !self.congestion.round_start {
            return;
        }
        // Judged by what was known before: what is learnt from a round explains it.
        let was_congested = self.was_congested();
        self.learn_random_loss();
        self.watch_others();
        let marked = self.congestion.last.marked();
        let alpha = &mut self.congestion.ecn_alpha;
        *alpha += self.params.ecn_alpha_gain * (marked - *alpha);
        let probing = matches!(self.state, State::Startup | State::ProbeRefill | State::ProbeUp);
        if probing || self.state == State::Fixed {
            return;
        }
        let mut keeps = 1.0;
        if was_congested {
            keeps = self.params.beta;
        } else if self.gives_way() && self.last_round_met_queue() {
            if self.is_over(PROBE_SEEN) {
                self.give_way(now);
            }
        } else if self.yields_to_queue() && self.last_round_met_queue() {
            self.drain_queue(self.congestion.bw_latest);
        } else if marked > 0.0 {
            keeps = 1.0 - self.params.ecn_factor * self.congestion.ecn_alpha;
        }
        if keeps == 1.0 {
            return;
        }
        let (max_bw, cwnd) = (self.model.max_bw(), self.control.cwnd);
        let congestion = &mut self.congestion;
        // BBRInitLowerBounds.
        if congestion.bw_shortterm.is_infinite() {
            congestion.bw_shortterm = max_bw;
        }
        if congestion.inflight_shortterm == u64::MAX {
            congestion.inflight_shortterm = cwnd;
        }
        congestion.bw_shortterm = congestion.bw_latest.max(keeps * congestion.bw_shortterm);
        congestion.inflight_shortterm =
            congestion.inflight_latest.max((keeps * congestion.inflight_shortterm as f64) as u64);
    }

    /// Whether the last probe has ended so many rounds ago.
    pub(super) fn is_over(&self, rounds: u64) -> bool {
        self.model.round >= self.probe_bw.ended + rounds
    }

    /// A round that sent no more than the path carries, and met no queue, shows what the path loses anyway. One that
    /// met a queue can only show that it is less than believed.
    fn learn_random_loss(&mut self) {
        let round = self.congestion.last;
        if round.delivered < FEW * self.mss {
            return;
        }
        let share = round.loss();
        let may_rise = matches!(self.state, State::ProbeDown | State::ProbeCruise | State::ProbeRefill | State::Fixed)
            // What the probe itself lost is known by then.
            && self.is_over(3)
            && !self.is_inflated(round.min_rtt)
            && share <= self.params.random_loss_max;
        match &mut self.congestion.random {
            None if may_rise => self.congestion.random = Some((share, share / 2.0)),
            Some((mean, deviation)) if may_rise || share < *mean => {
                *deviation += DEVIATION_GAIN * ((share - *mean).abs() - *deviation);
                *mean += LOSS_GAIN * (share - *mean);
            }
            _ => {}
        }
    }

    /// BBRResetShortTermModel.
    pub(super) fn reset_shortterm(&mut self) {
        self.congestion.bw_shortterm = f64::INFINITY;
        self.congestion.inflight_shortterm = u64::MAX;
    }

    /// IsInflightTooHigh (section 5.5.10.2).
    pub(super) fn is_inflight_too_high(&self, sample: &Sample) -> bool {
        self.is_too_much(sample.lost, sample.tx_in_flight)
    }

    /// BBRHandleInflightTooHigh (section 5.5.10.2).
    pub(super) fn handle_inflight_too_high(&mut self, now: Instant, sample: &Sample) {
        self.probe_bw.samples = false;
        if !sample.app_limited {
            let target = (self.target_inflight() as f64 * self.params.beta) as u64;
            self.congestion.inflight_longterm = sample.tx_in_flight.max(target);
        }
        if self.state == State::ProbeUp {
            self.start_probe_down(now);
        }
    }

    /// inflight_longterm less the headroom (section 5.5.10.1).
    pub(super) fn inflight_with_headroom(&self) -> u64 {
        let bound = self.congestion.inflight_longterm;
        if bound == u64::MAX {
            return bound;
        }
        let headroom = ((self.params.headroom * bound as f64) as u64).max(self.mss);
        bound.saturating_sub(headroom).max(self.cwnd_min())
    }
}
