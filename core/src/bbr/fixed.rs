//! Fixed: a rate that is set, for paths that are provisioned for it. No state of the draft.
//!
//! The target is what shall arrive, so what the path loses anyway is sent on top (see `congestion`), and what a queue drops
//! is not: that would only drop more. Neither queues nor marks nor loss lower the rate, until a third of all is lost.
//! Then the path cannot carry it; what it delivers is sent, and the target is tried again after a while.
//!
//! This is not fair to anybody else on the path, and is meant for those who have a path, or a part of one, to themselves.

use std::time::{Duration, Instant};

use super::control::RATE_MIN;
use super::{Bbr, Resume, State};

/// The target is held as long as no more than this is lost. Share.
pub(super) const LOSS_MAX: f64 = 0.3;
/// Gain of the mean of loss over rounds.
const LOSS_GAIN: f64 = 1.0 / 4.0;
/// How long what the path delivers is sent before the target is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// What may be in flight, in products of rate and round-trip time with the queue: half of it may be lost, and not known to be.
const WINDOW: f64 = 2.0;
/// What may be in flight on the shortest path: an acknowledgement is for 31 packets. Packets.
const WINDOW_MIN: u64 = 64;

#[derive(Clone, Debug, Default)]
pub(super) struct Fixed {
    /// Mean share of loss, of whatever kind.
    loss: f64,
    /// Too much was lost: this is sent instead, in bytes per second, and until when.
    fallen: Option<(f64, Instant)>,
}

impl Bbr {
    pub(super) fn enter_fixed(&mut self) {
        self.state = State::Fixed;
        self.fixed = Fixed::default();
        self.resuming.phase = Resume::Normal;
        self.probe_bw.samples = false;
        self.reset_shortterm();
        self.congestion.inflight_longterm = u64::MAX;
        self.set_pacing_rate_with(1.0);
    }

    /// Goes on from what was measured meanwhile.
    pub(super) fn leave_fixed(&mut self, now: Instant) {
        if self.model.max_bw() > 0.0 {
            self.full_pipe.reached = true;
            self.start_probe_down(now);
        } else {
            self.state = State::Startup;
        }
    }

    /// Looks at what the round that has ended has lost.
    pub(super) fn update_fixed(&mut self, now: Instant) {
        if self.state != State::Fixed {
            return;
        }
        if self.fixed.fallen.is_some_and(|(_, until)| now >= until) {
            self.fixed = Fixed::default();
        }
        let Some(loss) = self.congestion.loss_of_round(self.mss) else { return };
        self.fixed.loss += LOSS_GAIN * (loss - self.fixed.loss);
        if self.fixed.loss > LOSS_MAX {
            let delivered = self.congestion.bw_latest();
            self.fixed = Fixed { loss: 0.0, fallen: Some((delivered, now + AGAIN)) };
        }
    }

    /// What is sent. Bytes per second.
    pub(super) fn fixed_rate(&self) -> f64 {
        let target = self.rate.rate().map_or(RATE_MIN, |rate| rate as f64 / 8.0);
        let rate = match self.fixed.fallen {
            Some((delivered, _)) => delivered.min(target),
            None => target / (1.0 - self.random_loss().min(LOSS_MAX)),
        };
        rate.max(RATE_MIN)
    }

    /// What may be in flight. Bytes.
    pub(super) fn fixed_window(&self) -> u64 {
        let rtt = [self.model.recent_rtt(), self.model.min_rtt()].into_iter().flatten().max();
        let Some(rtt) = rtt else { return self.control.initial_cwnd };
        let bytes = WINDOW * self.fixed_rate() * rtt.as_secs_f64();
        (bytes as u64).max(WINDOW_MIN * self.mss).saturating_add(self.model.extra_acked())
    }
}
