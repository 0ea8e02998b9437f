//! [`Bbr`]: congestion control by a model of the path, as BBRv2 and its successor do it (sans-io).
//!
//! Source: draft-ietf-ccwg-bbr-06, whose names and sections are used here, with the ECN response of Linux' BBRv2. What
//! the path carries (the largest delivery rate seen) and how long it is (the smallest round-trip time) decide how fast
//! to send and how much may be in flight; loss and CE marks bound both.
//!
//! ```text
//!  Startup -> Drain -> ProbeBW: DOWN -> CRUISE -> REFILL -> UP -> DOWN ...
//!                         any of them <-> ProbeRTT
//!  Fixed: a rate policy, and no state of the draft
//! ```
//!
//! One file a state; `sample` measures, `model` remembers, `congestion` judges the path, `growth` a probe, `company` who
//! else is there, and `control` decides. `resume` shortens Startup on a path that is known (RFC 9959).
//!
//! Deviations from the draft, each with a switch or a number in [`Params`]:
//! - **Random loss is borne.** At 10 Gbit/s half a percent of loss means losses in each round, and the draft lowers its
//!   bounds in each of them. Here a round counts as congested if it met a queue (its smallest round-trip time is above
//!   the path's) or lost more than the path loses anyway. See `congestion`.
//! - What the path loses anyway is sent on top of what it delivers: the pacing rate is over (1 - loss).
//! - Startup ends as soon as a queue of half the path's length stands, or with the first round that brings no more and
//!   meets a queue; without a queue after three rounds, as in the draft.
//! - UP keeps no more in flight than its gain's worth, and ends as soon as that meets a queue, instead of after three rounds
//!   without growth: less queue. But what it brings shows how much of the path the flow has, and one with a small share
//!   goes on: shares become equal sooner. See `growth`.
//! - Outside probes a queue is drained as soon as it is seen, the longer it is the faster: estimates are the largest of many
//!   samples, so a little too high, and those of several flows add up to more than there is. But not if it stands
//!   nevertheless: then others fill it, and UP goes on as in the draft. See `company`.
//! - ProbeRTT begins as well when the smallest round-trip time falls: another flow is in ProbeRTT, and the queue is empty
//!   only if all are. It leaves the bounds of the short term as they were.
//! - A sample close to the smallest round-trip time confirms it while there are no signs of others, so a lone flow that keeps
//!   its queue empty is not made to drain it every five seconds.
//! - After a silence of the whole path (an outage), what was lost in it says nothing of congestion.
//! - No packet conservation in recovery: losses are repaired within the model's bounds.
//!
//! How the path is shared is a [`RatePolicy`]: `high` and `low` are other numbers for the same algorithm
//! ([`Params::of`]), `fixed` is a state in which what is known of the path is not obeyed, a ceiling bounds the pacing rate.

mod company;
mod congestion;
mod control;
mod drain;
mod fixed;
mod growth;
mod model;
mod pacer;
mod params;
mod probe_bw;
mod probe_rtt;
mod resume;
mod sample;
mod startup;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use company::Company;
use congestion::Congestion;
use control::{CWND_MAX, Control, RATE_MIN};
use fixed::Fixed;
use model::Model;
pub use pacer::Pacer;
pub use params::Params;
use probe_bw::ProbeBw;
use probe_rtt::ProbeRtt;
use resume::Resuming;
pub use resume::{Remembered, Resume};
use sample::{Sample, Sampler};
use startup::FullPipe;

use crate::rate::{Policy, RatePolicy};

/// No packet is larger. Bytes of UDP payload.
const MSS_MAX: u64 = 65_535;

/// The congestion controller of one path.
///
/// The caller tells of every packet that leaves, arrives or is lost, in the order of a QUIC stack: all packets of an
/// acknowledgement, its end, then what is lost by it. Nothing that it is told makes it panic, stop, or allow an
/// unbounded amount.
///
/// A clone goes on from the same model, but knows nothing of the packets in flight; it costs little.
#[derive(Debug)]
pub struct Bbr {
    params: Params,
    /// `params` of the policy [`Policy::Fair`].
    fair: Params,
    rate: RatePolicy,
    /// Bytes per second.
    pace: Option<f64>,
    state: State,
    /// Bytes of a full packet.
    mss: u64,
    sampler: Sampler,
    model: Model,
    congestion: Congestion,
    company: Company,
    full_pipe: FullPipe,
    probe_bw: ProbeBw,
    probe_rtt: ProbeRtt,
    control: Control,
    resuming: Resuming,
    fixed: Fixed,
    /// Sending after a pause: nothing was in flight, and there had been too little to send.
    idle_restart: bool,
}

/// What it is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Doubling, until the pipe is full (section 5.3.1).
    Startup,
    /// Draining the queue that Startup built (section 5.3.2).
    Drain,
    /// Slower than the path, to empty the queue (section 5.3.3).
    ProbeDown,
    /// As fast as the path.
    ProbeCruise,
    /// As fast as the path, with all bounds of the short term lifted.
    ProbeRefill,
    /// Faster than the path, to find more.
    ProbeUp,
    /// Half a pipe, to see the round-trip time without a queue (section 5.3.4).
    ProbeRtt,
    /// At the rate that is set ([`Policy::Fixed`]).
    Fixed,
}

/// A look at the model, for reports.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Look {
    /// What it is doing.
    pub state: State,
    /// Estimated bandwidth. Bytes per second.
    pub bandwidth: f64,
    /// Smallest round-trip time, if any was seen.
    pub min_rtt: Option<Duration>,
    /// The share of packets that the path loses whatever is sent, as estimated. 0 to 1.
    pub random_loss: f64,
    /// At most so much in flight for the long term. Bytes; `u64::MAX` if there is no bound.
    pub inflight_longterm: u64,
    /// How far a careful resume is.
    pub resume: Resume,
    /// What was remembered of the path has proved too much.
    pub retreated: bool,
}

impl Clone for Bbr {
    fn clone(&self) -> Self {
        Self {
            params: self.params.clone(),
            fair: self.fair.clone(),
            sampler: self.sampler.copy(),
            model: self.model.clone(),
            congestion: self.congestion.clone(),
            company: self.company.clone(),
            full_pipe: self.full_pipe.clone(),
            probe_bw: self.probe_bw.clone(),
            probe_rtt: self.probe_rtt.clone(),
            control: self.control.clone(),
            resuming: self.resuming.clone(),
            fixed: self.fixed.clone(),
            ..*self
        }
    }
}

impl Bbr {
    /// A controller that knows nothing of its path. `mss` is the size of a full packet, `initial_window` what may be
    /// in flight at first, in bytes (RFC 9002 section 7.2); `seed` decides over its random choices.
    pub fn new(params: Params, now: Instant, mss: u64, initial_window: u64, seed: u64) -> Self {
        let mss = mss.clamp(1, MSS_MAX);
        let initial_window = initial_window.clamp(4 * mss, CWND_MAX);
        Self {
            state: State::Startup,
            mss,
            sampler: Sampler::new(now),
            model: Model::new(now),
            congestion: Congestion::new(now),
            company: Company::new(),
            full_pipe: FullPipe::default(),
            probe_bw: ProbeBw::new(now, seed),
            probe_rtt: ProbeRtt::default(),
            control: Control::new(initial_window, params.startup_pacing_gain),
            fixed: Fixed::default(),
            rate: RatePolicy::default(),
            pace: None,
            fair: params.clone(),
            params,
            resuming: Resuming::default(),
            idle_restart: false,
        }
    }

    /// Shares the path as `rate` says, from now on. What is known of the path stays.
    pub fn set_rate(&mut self, now: Instant, rate: RatePolicy) {
        if rate == self.rate {
            return;
        }
        self.rate = rate;
        self.params = self.fair.clone().of(rate.policy());
        if rate.policy() == Policy::Fixed {
            self.enter_fixed();
        } else if self.state == State::Fixed {
            self.leave_fixed(now);
        }
    }

    /// Sends no faster than this from now on, bits per second, because somebody divides the path among flows, and this is more than
    /// the part of this one; `None`: nobody does. Meanwhile what arrives does not lower what is known of the path, and a
    /// queue is no reason to send less: others that were not held back would have that for good. Loss is.
    pub fn set_pace(&mut self, pace: Option<u64>) {
        self.pace = pace.map(|pace| (pace as f64 / 8.0).max(RATE_MIN));
    }

    /// `bytes` made at `made` leave at `leaves`; packets that do not count against the window are told as well.
    pub fn on_sent(&mut self, made: Instant, leaves: Instant, bytes: u64) {
        if self.sampler.in_flight() == 0 && self.sampler.is_app_limited() {
            self.restart_from_idle(made);
        }
        self.sampler.on_sent(made, leaves, bytes);
    }

    /// A packet of `bytes`, made at `made`, has arrived.
    pub fn on_packet_acked(&mut self, now: Instant, made: Instant, bytes: u64) {
        if self.sampler.in_flight() > 0 && self.was_silent(now) {
            self.congestion.forgive(now);
            self.reset_shortterm();
        }
        self.sampler.on_packet_acked(now, made, bytes);
    }

    /// The end of an acknowledgement. `in_flight` is what is still under way by QUIC's count; `app_limited`: there was
    /// less to send than was allowed.
    pub fn on_acked(&mut self, now: Instant, in_flight: u64, app_limited: bool) {
        let min_rtt = self.model.min_rtt();
        let sample = self.sampler.finish(now, in_flight, min_rtt);
        if (app_limited && in_flight < self.cwnd()) || self.is_held_back() {
            self.sampler.mark_app_limited();
        }
        self.update_model(now, &sample);
        self.update_resume(now, &sample, app_limited);
        self.congestion.advance(&sample);
        self.update_control(&sample);
        self.idle_restart = false;
    }

    /// `bytes` are lost, of which the last packet was made at `made`. `persistent`: everything was, for several round
    /// trips (RFC 9002 section 7.6).
    pub fn on_lost(&mut self, now: Instant, made: Instant, bytes: u64, persistent: bool) {
        let sample = self.sampler.on_lost(made, bytes);
        if persistent || !self.congestion.is_forgiven(made) {
            self.resume_lost(made, bytes, persistent);
        }
        if persistent {
            self.congestion.forgive(now);
            self.control.save_cwnd(self.state);
            self.limit_cwnd(self.sampler.in_flight().saturating_add(self.mss));
            return;
        }
        if self.congestion.is_forgiven(made) {
            return;
        }
        self.congestion.lost(bytes);
        if self.probe_bw.samples && self.is_inflight_too_high(&sample) {
            self.handle_inflight_too_high(now, &sample);
        }
    }

    /// Packets of the acknowledgement that has just ended carried CE marks; how many, QUIC stacks do not tell.
    pub fn on_ecn(&mut self, now: Instant) {
        self.congestion.marked();
        self.resume_marked();
        if self.probe_bw.samples && self.congestion.marks_in_round() > self.params.ecn_threshold {
            let sample = Sample { tx_in_flight: self.sampler.in_flight(), ..self.sampler.blank() };
            self.handle_inflight_too_high(now, &sample);
        }
    }

    /// Full packets have another size now. Bytes.
    pub fn on_mss(&mut self, mss: u64) {
        self.mss = mss.clamp(1, MSS_MAX);
        self.limit_cwnd(self.control.cwnd);
    }

    /// What may be sent per second, now. Bytes; never 0.
    pub fn pacing_rate(&self) -> f64 {
        // What the path loses comes on top of a target, but not of a ceiling.
        let ceiling = self.rate.rate().filter(|_| self.state != State::Fixed);
        let ceiling = ceiling.map(|ceiling| (ceiling as f64 / 8.0).max(RATE_MIN));
        [ceiling, self.pace].into_iter().flatten().fold(self.control.pacing_rate, f64::min)
    }

    /// Whether the pace holds back what the path would take: then what arrives says no more of the path than where there is little
    /// to send. While it is still being found out what the path takes, it is an answer.
    fn is_held_back(&self) -> bool {
        self.is_probing_bw() && self.pace.is_some_and(|pace| pace < self.control.pacing_rate)
    }

    /// What may be in flight. Bytes.
    pub fn cwnd(&self) -> u64 {
        self.control.cwnd
    }

    /// What is in flight, as far as is known between two acknowledgements. Bytes.
    pub fn in_flight(&self) -> u64 {
        self.sampler.in_flight()
    }

    /// The size of a full packet. Bytes.
    pub fn mss(&self) -> u64 {
        self.mss
    }

    /// A look at the model.
    pub fn look(&self) -> Look {
        Look {
            state: self.state,
            bandwidth: self.bandwidth(),
            min_rtt: self.model.min_rtt(),
            random_loss: self.random_loss(),
            inflight_longterm: self.congestion.inflight_longterm,
            resume: self.resuming.phase,
            retreated: self.resuming.retreated,
        }
    }

    /// BBRUpdateModelAndState (section 5.2.3).
    fn update_model(&mut self, now: Instant, sample: &Sample) {
        self.model.update_round(sample, self.sampler.delivered());
        self.congestion.take(sample, self.sampler.delivered());
        self.model.update_max_bw(sample);
        self.model.update_recent_rtt(sample);
        self.watch_queue();
        self.adapt_lower_bounds(now);
        self.update_fixed(now);
        self.update_extra_acked(now, sample);
        self.check_full_bw(sample);
        self.check_startup_done();
        self.check_drain_done(now);
        self.update_probe_bw(now, sample);
        self.update_min_rtt(now, sample);
        self.check_probe_rtt(now, sample);
    }

    /// BBRHandleRestartFromIdle (section 5.4.1).
    fn restart_from_idle(&mut self, now: Instant) {
        self.idle_restart = true;
        self.model.restart_extra_acked(now);
        if self.is_probing_bw() {
            self.set_pacing_rate_with(1.0);
        } else if self.state == State::ProbeRtt {
            self.check_probe_rtt_done(now);
        }
    }

    /// Whether the path had been silent for long, though something was in flight.
    fn was_silent(&self, now: Instant) -> bool {
        let Some(min_rtt) = self.model.min_rtt() else { return false };
        let silence = now.saturating_duration_since(self.sampler.delivered_at());
        silence > 3 * min_rtt + Duration::from_millis(100)
    }

    fn is_probing_bw(&self) -> bool {
        matches!(self.state, State::ProbeDown | State::ProbeCruise | State::ProbeRefill | State::ProbeUp)
    }

    fn pacing_gain(&self) -> f64 {
        match self.state {
            State::Startup => self.params.startup_pacing_gain,
            State::Drain => self.params.drain_pacing_gain,
            State::ProbeDown => self.down_pacing_gain(),
            State::ProbeUp => self.probe_bw.growth.gain(),
            State::ProbeCruise | State::ProbeRefill | State::ProbeRtt | State::Fixed => 1.0,
        }
    }

    fn cwnd_gain(&self) -> f64 {
        match self.state {
            State::Startup | State::Drain => self.params.startup_cwnd_gain,
            State::ProbeUp if self.yields_to_queue() && !self.probe_bw.growth.is_steep(&self.params) => {
                self.params.up_cwnd_gain
            }
            State::ProbeUp => self.params.up_cwnd_gain_competing,
            State::ProbeRtt => self.params.probe_rtt_cwnd_gain,
            State::ProbeDown | State::ProbeCruise | State::ProbeRefill | State::Fixed => {
                self.params.cwnd_gain
            }
        }
    }
}
