//! Drain (draft-ietf-ccwg-bbr-06 section 5.3.2): the queue that Startup built is emptied.

use std::time::Instant;

use super::{Bbr, State};

impl Bbr {
    pub(super) fn enter_drain(&mut self) {
        self.state = State::Drain;
        self.model.start_round(self.sampler.delivered());
    }

    /// BBRCheckDrainDone.
    pub(super) fn check_drain_done(&mut self, now: Instant) {
        if self.state == State::Drain && self.sampler.in_pipe(now) <= self.inflight(self.bandwidth(), 1.0) {
            self.start_probe_down(now);
        }
    }
}
