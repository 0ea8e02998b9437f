//! ProbeRTT (draft-ietf-ccwg-bbr-06 section 5.3.4): half a pipe for a moment, so that the path shows its length.

use std::time::Instant;

use super::sample::Sample;
use super::{Bbr, State};

#[derive(Clone, Debug, Default)]
pub(super) struct ProbeRtt {
    /// The smallest round-trip time was not seen for too long.
    pub(super) expired: bool,
    /// When it may end; set when little enough is in flight.
    done_at: Option<Instant>,
    round_done: bool,
}

impl Bbr {
    /// BBRCheckProbeRTT.
    pub(super) fn check_probe_rtt(&mut self, now: Instant, sample: &Sample) {
        let may_begin = !self.idle_restart
            && !self.resuming.is_holding()
            && !matches!(self.state, State::ProbeRtt | State::Fixed);
        if self.probe_rtt.expired && may_begin {
            self.control.save_cwnd(self.state);
            self.state = State::ProbeRtt;
            self.probe_rtt.done_at = None;
            self.model.start_round(self.sampler.delivered());
        }
        if self.state == State::ProbeRtt {
            self.handle_probe_rtt(now);
        }
        if sample.newly_acked > 0 {
            self.idle_restart = false;
        }
    }

    /// BBRHandleProbeRTT.
    fn handle_probe_rtt(&mut self, now: Instant) {
        // Samples of this time are low because little is sent.
        self.sampler.mark_app_limited();
        if self.probe_rtt.done_at.is_none() {
            if self.sampler.in_pipe(now) <= self.probe_rtt_cwnd() {
                self.probe_rtt.done_at = Some(now + self.params.probe_rtt_time);
                self.probe_rtt.round_done = false;
                self.model.start_round(self.sampler.delivered());
            }
        } else {
            self.probe_rtt.round_done |= self.model.round_start;
            if self.probe_rtt.round_done {
                self.check_probe_rtt_done(now);
            }
        }
    }

    /// BBRCheckProbeRTTDone, BBRExitProbeRTT.
    pub(super) fn check_probe_rtt_done(&mut self, now: Instant) {
        if self.probe_rtt.done_at.is_none_or(|at| now <= at) {
            return;
        }
        // It is known again: the next one is a whole interval away.
        if let Some((_, at)) = &mut self.model.probe_rtt_min {
            *at = now;
        }
        self.probe_rtt.expired = false;
        if !self.yields_to_queue() {
            self.reset_shortterm();
        }
        self.company.end_probe_rtt();
        if self.full_pipe.reached {
            self.start_probe_down(now);
            self.start_probe_cruise();
        } else {
            self.state = State::Startup;
        }
    }

    /// BBRProbeRTTCwnd.
    pub(super) fn probe_rtt_cwnd(&self) -> u64 {
        self.bdp(self.bandwidth(), self.params.probe_rtt_cwnd_gain).max(self.cwnd_min())
    }
}
