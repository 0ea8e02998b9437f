//! [`Company`]: whether others share the path, whether they yield to a queue as this flow does, and how it yields.
//!
//! Flows of this kind empty a queue together as soon as they see it, so each of them keeps what it has. Beside flows that
//! fill the queue until it overflows (CUBIC, Reno) that would leave all to them. The difference shows when this flow sends
//! less than it gets: a queue that stands nevertheless is held by others. A flow of the policy low does not ask: every queue
//! that it has not made itself is theirs.

use std::time::{Duration, Instant};

use super::{Bbr, State};

/// A path that delivers less than this share of what is sent has become slower, or is shared; samples differ by less.
const SLOWER: f64 = 0.95;
/// A probe that brings more than this, though the path is full, takes it from others.
const TAKES: f64 = 1.06;
/// A queue that shrinks by less than this share of the path's length while it is being drained is held by others.
const HELD: f64 = 0.05;

#[derive(Clone, Debug)]
pub(super) struct Company {
    /// There were signs of others since ProbeRTT.
    pub(super) seen: bool,
    /// They do not yield to a queue, so this flow does not either.
    competing: bool,
    /// The queue was empty at some time since the last probe ended.
    emptied: bool,
    /// Probing cycles in a row in which it was.
    emptied_cycles: u32,
    /// Rounds of DOWN with a queue, and the smallest round-trip time of the first of them.
    draining: Option<(u32, Duration)>,
}

impl Company {
    pub(super) fn new() -> Self {
        Self { seen: false, competing: false, emptied: true, emptied_cycles: 0, draining: None }
    }

    /// A probe of a full path has brought `growth` times what there was before.
    pub(super) fn grew(&mut self, growth: f64) {
        self.seen |= growth > TAKES;
    }

    /// A probe for bandwidth has ended.
    pub(super) fn end_cycle(&mut self, cycles: u32) {
        self.emptied_cycles =
            if std::mem::take(&mut self.emptied) { self.emptied_cycles.saturating_add(1) } else { 0 };
        self.competing &= self.emptied_cycles < cycles;
    }

    /// ProbeRTT has ended: what is believed of others must show again.
    pub(super) fn end_probe_rtt(&mut self) {
        (self.seen, self.competing) = (false, false);
    }
}

impl Bbr {
    /// Whether a queue is emptied as soon as it is seen.
    pub(super) fn yields_to_queue(&self) -> bool {
        self.params.bears_random_loss
            && (self.gives_way() || (self.pace.is_none() && !self.company.competing))
    }

    /// Whether others go first.
    pub(super) fn gives_way(&self) -> bool {
        self.params.queue_beta < 1.0
    }

    /// There is a queue that is not of this flow's last probe: others are there. They get a part of what it had, for good:
    /// the next probe starts from there.
    pub(super) fn give_way(&mut self, now: Instant) {
        let left = self.params.queue_beta * self.bandwidth();
        let rtt = self.model.min_rtt().map_or(1.0, |rtt| rtt.as_secs_f64());
        self.start_probe_down(now);
        // The smallest window, each round trip.
        self.congestion.bw_shortterm = left.max(self.cwnd_min() as f64 / rtt.max(1e-6));
        self.congestion.inflight_shortterm = u64::MAX;
    }

    /// Sees whether the queue is empty now and then.
    pub(super) fn watch_queue(&mut self) {
        self.company.emptied |= !self.recently_met_queue();
    }

    /// A round has ended: does the queue stand though this flow drains it?
    pub(super) fn watch_others(&mut self) {
        let (Some(rtt), Some(min)) = (self.congestion.last_min_rtt(), self.model.min_rtt()) else { return };
        if self.state != State::ProbeDown || !self.last_round_met_queue() {
            self.company.draining = None;
            return;
        }
        let (rounds, first) = self.company.draining.map_or((0, rtt), |(rounds, first)| (rounds + 1, first));
        self.company.draining = Some((rounds, first));
        if rounds >= self.params.held_rounds {
            self.company.competing |= rtt + min.mul_f64(HELD) > first;
            self.company.draining = None;
        }
    }

    /// Outside a probe there is a queue: what is used of the bandwidth was too much, or the shares of several flows add up
    /// to more than the path has. What was delivered does not.
    pub(super) fn drain_queue(&mut self, delivered: f64) {
        let used = self.bandwidth();
        // All that share the path give way by the same share of theirs, and for good: who needs more probes for it.
        let kept = delivered.max(self.params.down_pacing_gain * used);
        match self.state {
            State::ProbeCruise => {
                self.company.seen |= delivered < SLOWER * used;
                self.model.limit_bw(kept);
                self.congestion.bw_shortterm = kept;
                self.state = State::ProbeDown;
            }
            // Even what is sent to drain it is more than the path has for this flow.
            State::ProbeDown if delivered < SLOWER * self.params.down_pacing_gain * used => {
                self.model.limit_bw(kept);
            }
            _ => {}
        }
    }

    /// The pacing gain of DOWN: a queue is drained in some rounds, whatever its length.
    pub(super) fn down_pacing_gain(&self) -> f64 {
        let (least, most) = (self.params.down_pacing_gain_least, self.params.down_pacing_gain);
        if !self.yields_to_queue() {
            return least;
        }
        let (Some(rtt), Some(min)) = (self.model.recent_rtt(), self.model.min_rtt()) else { return most };
        let queue = rtt.saturating_sub(min).as_secs_f64() / min.as_secs_f64().max(1e-6);
        (1.0 - queue / self.params.drain_rounds).clamp(least, most)
    }
}
