//! Startup (draft-ietf-ccwg-bbr-06 section 5.3.1), and [`FullPipe`]: whether more sending still brings more delivery.

use super::sample::Sample;
use super::{Bbr, State};

/// The search for the rate at which the pipe is full (section 5.3.1.2).
#[derive(Clone, Debug, Default)]
pub(super) struct FullPipe {
    /// Once it was full, Startup is over for good.
    pub(super) reached: bool,
    /// It is full in this probe.
    pub(super) now: bool,
    bw: f64,
    rounds: u32,
    /// It brought more in the round that goes on.
    grew: bool,
    /// And in the one that has ended.
    pub(super) brought: bool,
}

/// With a queue of this share of the path's length the pipe is more than full.
const QUEUED: f64 = 0.5;

impl FullPipe {
    /// BBRResetFullBW.
    pub(super) fn reset(&mut self, bw: f64) {
        (self.now, self.bw, self.rounds) = (false, bw, 0);
    }
}

impl Bbr {
    /// BBRCheckFullBWReached (section 5.3.1.2).
    pub(super) fn check_full_bw(&mut self, sample: &Sample) {
        let round_start = self.model.round_start;
        // What is sent while a jump is validated is not meant to bring more.
        if self.full_pipe.now || sample.app_limited || self.resuming.is_holding() {
            return;
        }
        let Some(rate) = sample.rate else { return };
        if rate >= self.full_pipe.bw * self.params.full_bw_growth {
            self.full_pipe.reset(rate);
            self.full_pipe.grew = !round_start;
            self.full_pipe.brought |= round_start;
            return;
        }
        if round_start {
            // With a queue there is no need to wait and see: the pipe is more than full.
            let grew = std::mem::take(&mut self.full_pipe.grew);
            self.full_pipe.brought = grew;
            let met_queue = self.state == State::Startup && !grew && self.last_round_met_queue();
            self.full_pipe.rounds += if met_queue { self.params.full_bw_rounds } else { 1 };
            self.full_pipe.now = self.full_pipe.rounds >= self.params.full_bw_rounds;
            self.full_pipe.reached |= self.full_pipe.now;
        }
    }

    /// Whether a queue has built up, as HyStart++ looks for one (RFC 9406): long before three rounds are over.
    pub(super) fn startup_queued(&self) -> bool {
        let (Some(rtt), Some(min)) = (self.model.recent_rtt(), self.model.min_rtt()) else { return false };
        self.params.bears_random_loss
            && rtt > min.mul_f64(1.0 + QUEUED).max(min + 4 * self.params.inflated_min)
    }

    /// BBRCheckStartupDone, with BBRCheckStartupHighLoss (section 5.3.1.3).
    pub(super) fn check_startup_done(&mut self) {
        if self.state != State::Startup || self.resuming.is_holding() {
            return;
        }
        if !self.full_pipe.reached && (self.startup_lost_too_much() || self.startup_marked()) {
            self.end_startup_for_loss();
        }
        self.full_pipe.reached |= self.startup_queued();
        if self.full_pipe.reached {
            self.enter_drain();
        }
    }

    /// The pipe is full, and held no more than what it delivers, or has just delivered.
    pub(super) fn end_startup_for_loss(&mut self) {
        self.full_pipe.reached = true;
        self.congestion.inflight_longterm = self.bdp(self.model.max_bw(), 1.0).max(self.inflight_latest());
    }
}
