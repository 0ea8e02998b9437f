//! [`Control`]: what the model allows: a pacing rate and a window (draft-ietf-ccwg-bbr-06 section 5.6).

use super::congestion::BATCH;
use super::sample::Sample;
use super::{Bbr, State};

/// A round trip until there is one: Startup's rate is the initial window over this (section 5.6.2).
const NOMINAL_RTT: f64 = 0.001;
/// Never slower than this, whatever happens. Bytes per second.
pub(super) const RATE_MIN: f64 = 5_000.0;
/// Never more than this in flight, whatever happens. Bytes; 10 Gbit/s over 3 s.
pub(super) const CWND_MAX: u64 = 4 << 30;

#[derive(Clone, Debug)]
pub(super) struct Control {
    /// Bytes per second.
    pub(super) pacing_rate: f64,
    /// The rate is that of the nominal round trip.
    is_nominal: bool,
    /// Bytes.
    pub(super) cwnd: u64,
    pub(super) initial_cwnd: u64,
    /// What is restored after ProbeRTT or an outage. Bytes.
    prior_cwnd: u64,
}

impl Control {
    pub(super) fn new(initial_cwnd: u64, startup_gain: f64) -> Self {
        let pacing_rate = startup_gain * initial_cwnd as f64 / NOMINAL_RTT;
        Self { pacing_rate, is_nominal: true, cwnd: initial_cwnd, initial_cwnd, prior_cwnd: 0 }
    }

    /// BBRSaveCwnd (section 5.6.4.4).
    pub(super) fn save_cwnd(&mut self, state: State) {
        // In ProbeRTT the window is small already, and a good one is kept.
        self.prior_cwnd = if state == State::ProbeRtt { self.prior_cwnd.max(self.cwnd) } else { self.cwnd };
    }

    /// BBRRestoreCwnd.
    pub(super) fn restore_cwnd(&mut self) {
        self.cwnd = self.cwnd.max(self.prior_cwnd);
        self.prior_cwnd = 0;
    }
}

impl Bbr {
    /// BBRUpdateControlParameters.
    pub(super) fn update_control(&mut self, sample: &Sample) {
        if let Some((rate, cwnd)) = self.resuming.held() {
            (self.control.pacing_rate, self.control.is_nominal) = (rate.max(RATE_MIN), false);
            return self.limit_cwnd(cwnd);
        }
        self.set_pacing_rate_with(self.pacing_gain());
        self.set_cwnd(sample);
    }

    /// BBRSetPacingRateWithGain (section 5.6.2), over what the path loses anyway.
    pub(super) fn set_pacing_rate_with(&mut self, gain: f64) {
        if self.state == State::Fixed {
            self.control.pacing_rate = self.fixed_rate();
            self.control.is_nominal = false;
            return;
        }
        if self.control.is_nominal
            && let Some(rtt) = self.model.min_rtt().filter(|rtt| !rtt.is_zero())
        {
            // The first round trip is better than the nominal one. Startup lowers no rate, so without this it would send
            // each window as one burst.
            let rate = gain * self.control.initial_cwnd as f64 / rtt.as_secs_f64();
            self.control.pacing_rate = rate.max(RATE_MIN);
            self.control.is_nominal = false;
        }
        let bw = self.bandwidth();
        if bw <= 0.0 {
            return;
        }
        let rate = gain * bw * (1.0 - self.params.pacing_margin) / (1.0 - self.random_loss());
        if self.full_pipe.reached || rate > self.control.pacing_rate {
            self.control.pacing_rate = rate.max(RATE_MIN);
        }
    }

    /// Startup goes on from `window`, in bytes: by itself it lowers neither rate nor window.
    pub(super) fn restart_startup(&mut self, window: u64) {
        self.limit_cwnd(window);
        if let Some(rtt) = self.model.min_rtt().filter(|rtt| !rtt.is_zero()) {
            let rate = self.params.startup_pacing_gain * self.control.cwnd as f64 / rtt.as_secs_f64();
            self.control.pacing_rate = rate.clamp(RATE_MIN, self.control.pacing_rate.max(RATE_MIN));
        }
    }

    /// What leaves at once: a millisecond's worth, between 2 packets and 64 KB (section 5.6.3). Bytes.
    pub(super) fn send_quantum(&self) -> u64 {
        ((self.pacing_rate() / 1000.0) as u64).min(64 * 1024).max(2 * self.mss)
    }

    /// The least that keeps a path going: BBRMinPipeCwnd.
    pub(super) fn cwnd_min(&self) -> u64 {
        4 * self.mss
    }

    /// Whether more would have been in flight before this acknowledgement, had the window allowed it.
    pub(super) fn is_cwnd_limited(&self, sample: &Sample) -> bool {
        // An acknowledgement of many packets makes more room than what leaves at once fills.
        let more = (self.send_quantum() + BATCH * self.mss).saturating_add(sample.newly_acked);
        self.sampler.in_flight().saturating_add(more) >= self.control.cwnd
    }

    /// BBRSetCwnd (section 5.6.4.6).
    fn set_cwnd(&mut self, sample: &Sample) {
        if self.state == State::Fixed {
            return self.limit_cwnd(self.fixed_window());
        }
        let mut max =
            self.inflight(self.bandwidth(), self.cwnd_gain()).saturating_add(self.model.extra_acked());
        // Lost packets are in flight until they are found to be.
        max = (max as f64 / (1.0 - self.random_loss())) as u64;
        let control = &mut self.control;
        if sample.newly_acked > 0 && control.prior_cwnd > 0 && self.state != State::ProbeRtt {
            // ProbeRTT has ended, or the path is back after an outage.
            control.restore_cwnd();
        }
        if self.full_pipe.reached {
            control.cwnd = control.cwnd.saturating_add(sample.newly_acked).min(max);
        } else if control.cwnd < max || self.sampler.delivered() < control.initial_cwnd {
            control.cwnd = control.cwnd.saturating_add(sample.newly_acked);
        }
        self.limit_cwnd(self.control.cwnd.min(self.cwnd_bounds()));
    }

    /// The window is `cwnd` from now on, within what it may ever be.
    pub(super) fn limit_cwnd(&mut self, cwnd: u64) {
        self.control.cwnd = cwnd.clamp(self.cwnd_min(), CWND_MAX);
    }

    /// BBRBoundCwndForProbeRTT, BBRBoundCwndForModel (sections 5.6.4.5 and 5.6.4.7).
    fn cwnd_bounds(&self) -> u64 {
        let longterm = match self.state {
            State::ProbeCruise => self.inflight_with_headroom(),
            State::ProbeRtt => self.inflight_with_headroom().min(self.probe_rtt_cwnd()),
            State::ProbeDown | State::ProbeRefill | State::ProbeUp => self.congestion.inflight_longterm,
            State::Startup | State::Drain | State::Fixed => u64::MAX,
        };
        longterm.min(self.congestion.inflight_shortterm)
    }
}
