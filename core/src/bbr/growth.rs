//! [`Growth`]: what a probe for bandwidth brings, and what share of the path that shows.
//!
//! A flow with the share `s` of a full path that sends `g` times as much gets `g / (1 + (g - 1) s)` times as much, as
//! long as the others go on as before: one with all of it gets no more, one with little of it gets nearly `g` times as
//! much. So each flow learns its share from its own probe. One with little goes on, and asks for the same step of the
//! path as any other, not the same multiple of what it has: shares become equal in a few probes (additive increase, Chiu
//! and Jain 1989).

use super::Params;

/// No share is taken to be smaller than this.
const SHARE_MIN: f64 = 0.02;

#[derive(Clone, Debug)]
pub(super) struct Growth {
    /// Rounds of UP that have ended.
    rounds: u32,
    /// Largest delivery rates of the rounds before and of this one. Bytes per second.
    before: f64,
    rate: f64,
    /// Pacing gain of this round, and of the one before, whose packets are acknowledged in this one.
    gain: f64,
    sent_gain: f64,
    /// The share of the path that this flow has is small, or not known yet.
    goes_on: bool,
}

impl Growth {
    /// UP begins, at a delivery rate of `rate` bytes per second.
    pub(super) fn new(rate: f64, gain: f64) -> Self {
        Self { rounds: 0, before: rate, rate: 0.0, gain, sent_gain: gain, goes_on: true }
    }

    /// A delivery rate was seen.
    pub(super) fn take(&mut self, rate: Option<f64>) {
        self.rate = self.rate.max(rate.unwrap_or(0.0));
    }

    /// A round has ended. What the probe has brought in it, as a multiple of what there was before, once that is known.
    pub(super) fn end_round(&mut self, params: &Params) -> Option<f64> {
        self.rounds += 1;
        let growth = (self.rounds >= 2).then(|| self.rate / self.before.max(1.0));
        if let Some(growth) = growth {
            let gain = self.sent_gain;
            let share = ((gain - growth) / ((gain - 1.0) * growth)).clamp(SHARE_MIN, 1.0);
            self.goes_on = share < params.up_share && self.rounds < params.up_rounds;
            self.sent_gain = self.gain;
            let least = params.up_pacing_gain;
            self.gain = (1.0 + params.up_step / share).clamp(least, params.up_pacing_gain_most.max(least));
        }
        self.before = self.before.max(self.rate);
        self.rate = 0.0;
        growth
    }

    /// Whether a queue is no reason to stop yet.
    pub(super) fn goes_on(&self) -> bool {
        self.goes_on
    }

    /// Whether this round sends faster than a usual one.
    pub(super) fn is_steep(&self, params: &Params) -> bool {
        self.gain > params.up_pacing_gain
    }

    /// The pacing gain of this round.
    pub(super) fn gain(&self) -> f64 {
        self.gain
    }
}
