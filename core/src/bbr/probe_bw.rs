//! ProbeBW (draft-ietf-ccwg-bbr-06 section 5.3.3): DOWN, CRUISE, REFILL, UP, again and again.

use std::time::{Duration, Instant};

use super::growth::Growth;
use super::sample::Sample;
use super::{Bbr, State};

#[derive(Clone, Debug)]
pub(super) struct ProbeBw {
    /// What is acknowledged or lost now was sent while probing: it may raise or lower inflight_longterm.
    pub(super) samples: bool,
    /// A probe has ended, and its last packets are still to be acknowledged.
    stopping: bool,
    /// When the cycle, or UP, began.
    since: Instant,
    /// When the next probe is due after DOWN began.
    wait: Duration,
    /// The round in which the last probe ended.
    pub(super) ended: u64,
    /// The same, less a random one.
    round: u64,
    /// inflight_longterm grows by a packet each time so many bytes are acknowledged in UP.
    up_every: u64,
    up_acked: u64,
    up_rounds: u32,
    /// What UP brings.
    pub(super) growth: Growth,
    /// Of the generator of random choices.
    random: u64,
}

impl ProbeBw {
    pub(super) fn new(now: Instant, seed: u64) -> Self {
        Self {
            samples: false,
            stopping: false,
            since: now,
            wait: Duration::ZERO,
            ended: 0,
            round: 0,
            up_every: u64::MAX,
            up_acked: 0,
            up_rounds: 0,
            growth: Growth::new(0.0, 1.0),
            random: seed,
        }
    }

    /// SplitMix64 (Steele, Lea, Flood 2014), as a share of 1.
    fn chance(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.random;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) as f64 / u64::MAX as f64
    }
}

impl Bbr {
    /// BBRUpdateProbeBWCyclePhase (section 5.3.3.6).
    pub(super) fn update_probe_bw(&mut self, now: Instant, sample: &Sample) {
        if !self.full_pipe.reached {
            return;
        }
        self.adapt_longterm(sample);
        match self.state {
            State::ProbeDown => {
                if self.is_time_to_probe(now) {
                    self.start_probe_refill();
                } else if self.is_time_to_cruise() {
                    self.start_probe_cruise();
                }
            }
            State::ProbeCruise if self.is_time_to_probe(now) => self.start_probe_refill(),
            // A round of full flight, so that what UP meets is of its own making.
            State::ProbeRefill if self.model.round_start => {
                self.probe_bw.samples = true;
                self.start_probe_up(now, sample);
            }
            State::ProbeUp => {
                self.watch_growth(sample);
                self.leave_up_in_time(now, sample);
            }
            _ => {}
        }
    }

    /// BBRStartProbeBW_DOWN.
    pub(super) fn start_probe_down(&mut self, now: Instant) {
        self.congestion.reset_signals();
        self.company.end_cycle(self.params.emptied_cycles);
        self.probe_bw.up_every = u64::MAX;
        // BBRPickProbeWait: flows that share a path shall not probe together.
        let early = self.probe_bw.chance() < 0.5;
        self.probe_bw.ended = self.model.round;
        self.probe_bw.round = self.model.round - u64::from(early && self.model.round > 0);
        self.probe_bw.wait = self.params.probe_wait + Duration::from_secs_f64(self.probe_bw.chance());
        self.probe_bw.since = now;
        self.probe_bw.stopping = true;
        self.model.start_round(self.sampler.delivered());
        self.state = State::ProbeDown;
    }

    /// BBRStartProbeBW_CRUISE.
    pub(super) fn start_probe_cruise(&mut self) {
        self.state = State::ProbeCruise;
    }

    /// BBRStartProbeBW_REFILL.
    fn start_probe_refill(&mut self) {
        if self.gives_way() {
            // From what is left, as far as there is no queue; a bound of before would be raised too slowly.
            self.model.limit_bw(self.bandwidth());
            self.congestion.inflight_longterm = u64::MAX;
        }
        self.reset_shortterm();
        self.probe_bw.up_rounds = 0;
        self.probe_bw.up_acked = 0;
        self.model.start_round(self.sampler.delivered());
        self.state = State::ProbeRefill;
    }

    /// BBRStartProbeBW_UP.
    fn start_probe_up(&mut self, now: Instant, sample: &Sample) {
        self.probe_bw.since = now;
        self.model.start_round(self.sampler.delivered());
        let rate = sample.rate.unwrap_or(0.0);
        self.full_pipe.reset(rate);
        self.probe_bw.growth = Growth::new(rate, self.params.up_pacing_gain);
        self.state = State::ProbeUp;
        self.raise_slope();
    }

    /// BBRIsTimeToCruise (section 5.3.3.1).
    fn is_time_to_cruise(&self) -> bool {
        let in_flight = self.sampler.in_flight();
        in_flight <= self.inflight_with_headroom() && in_flight <= self.inflight(self.bandwidth(), 1.0)
    }

    /// BBRIsTimeToProbeBW, with BBRIsRenoCoexistenceProbeTime (section 5.3.3.8).
    fn is_time_to_probe(&self, now: Instant) -> bool {
        let rounds = (self.target_inflight() / self.mss).min(self.params.probe_rounds);
        // Who gives way need not keep up with Reno.
        let is_behind = !self.gives_way() && self.model.round - self.probe_bw.round >= rounds.max(1);
        now.saturating_duration_since(self.probe_bw.since) > self.probe_bw.wait || is_behind
    }

    fn watch_growth(&mut self, sample: &Sample) {
        if self.model.round_start
            && let Some(growth) = self.probe_bw.growth.end_round(&self.params)
        {
            self.company.grew(growth);
        }
        self.probe_bw.growth.take(sample.rate);
    }

    fn leave_up_in_time(&mut self, now: Instant, sample: &Sample) {
        if self.is_time_to_go_down(now, sample) {
            // It did not lose too much. If there is a bound nevertheless, it came of chance, or of others that are gone; to
            // raise it as the draft does takes a dozen rounds.
            if self.yields_to_queue() {
                self.congestion.inflight_longterm = u64::MAX;
            }
            self.start_probe_down(now);
        }
    }

    /// BBRIsTimeToGoDown. It is time as well when the pipe holds the gain's worth, as BBRv2 has it, and a queue shows that
    /// this is too much: if there is room, the estimate grows with each round, and so does what the window allows.
    fn is_time_to_go_down(&mut self, now: Instant, sample: &Sample) -> bool {
        let max_bw = self.model.max_bw();
        if self.is_cwnd_limited(sample) && self.control.cwnd >= self.congestion.inflight_longterm {
            // It is the bound that keeps the rate down, and it is being raised.
            self.full_pipe.reset(max_bw);
            return false;
        }
        let elapsed = now.saturating_duration_since(self.probe_bw.since);
        let lasted = self.model.min_rtt().is_some_and(|rtt| elapsed > rtt);
        let goes_on = self.probe_bw.growth.goes_on() && !self.gives_way();
        let queued = lasted && self.recently_met_queue() && !goes_on;
        self.full_pipe.now || (self.yields_to_queue() && queued)
    }

    /// BBRAdaptLongTermModel (section 5.3.3.6).
    fn adapt_longterm(&mut self, sample: &Sample) {
        if self.probe_bw.stopping && self.model.round_start {
            self.probe_bw.stopping = false;
            self.probe_bw.samples = false;
            if self.is_probing_bw() && !sample.app_limited {
                self.model.advance_max_bw();
            }
        }
        if self.congestion.inflight_longterm == u64::MAX || sample.newly_acked == 0 {
            return;
        }
        // Losses of this acknowledgement come after it: a bound that they lower is not raised before for long.
        self.congestion.inflight_longterm =
            self.congestion.inflight_longterm.max(match self.is_inflight_too_high(sample) {
                true => 0,
                false => sample.tx_in_flight,
            });
        if self.state == State::ProbeUp {
            self.probe_upward(sample);
        }
    }

    /// BBRProbeInflightLongTermUpward.
    fn probe_upward(&mut self, sample: &Sample) {
        if !self.is_cwnd_limited(sample) || self.control.cwnd < self.congestion.inflight_longterm {
            return;
        }
        self.probe_bw.up_acked = self.probe_bw.up_acked.saturating_add(sample.newly_acked);
        let packets = self.probe_bw.up_acked / self.probe_bw.up_every;
        self.probe_bw.up_acked -= packets * self.probe_bw.up_every;
        let grown = self.congestion.inflight_longterm.saturating_add(packets.saturating_mul(self.mss));
        self.congestion.inflight_longterm = grown;
        if self.model.round_start {
            self.raise_slope();
        }
    }

    /// BBRRaiseInflightLongTermSlope: one packet in the first round, then two, four ...
    fn raise_slope(&mut self) {
        let growth = 1u64 << self.probe_bw.up_rounds.min(30);
        self.probe_bw.up_rounds = (self.probe_bw.up_rounds + 1).min(30);
        self.probe_bw.up_every = (self.control.cwnd / growth).max(1);
    }

    /// BBRTargetInflight.
    pub(super) fn target_inflight(&self) -> u64 {
        self.bdp(self.bandwidth(), 1.0).min(self.control.cwnd)
    }
}
