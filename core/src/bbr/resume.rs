//! Careful resume (RFC 9959): a path that is remembered is not searched from the first packets on.
//!
//! ```text
//!  Reconnaissance --first window arrived--> Unvalidated --first of the jump--> Validating --all of it--> Normal
//!        |                                       |                                 |
//!        | loss, marks, another path             +------- loss, marks, queue ------+
//!        v                                                       v
//!      Normal                                               Safe Retreat --a round trip later--> Normal
//! ```
//!
//! All of it happens within Startup, whose rate and window are replaced from the jump until the end of validation; what
//! was delivered meanwhile is in the model, and Startup goes on from there. After a retreat from a full pipe it is over: what
//! was in flight has shown what the path delivers.
//!
//! Deviation: as everywhere in this controller, loss that the path is remembered to have, and a few packets more, are not
//! congestion. By the letter of the RFC a path that loses one packet in a thousand would retreat from every jump.

use std::time::{Duration, Instant};

use super::control::CWND_MAX;
use super::sample::Sample;
use super::{Bbr, State};

/// What an earlier connection has measured of the same path. How long ago that may be is for the caller to judge.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Remembered {
    /// What it delivered. Bytes per second.
    pub bandwidth: f64,
    /// Its smallest round-trip time.
    pub min_rtt: Duration,
    /// The share of packets that it lost whatever was sent. 0 to 1.
    pub random_loss: f64,
}

/// How far a careful resume is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resume {
    /// None goes on.
    #[default]
    Normal,
    /// The path is looked at: is it the one that is remembered?
    Reconnaissance,
    /// The jump leaves.
    Unvalidated,
    /// The jump arrives.
    Validating,
    /// The jump was too much: it drains.
    SafeRetreat,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Resuming {
    pub(super) phase: Resume,
    path: Option<Remembered>,
    /// When the first acknowledgement came.
    heard: Option<Instant>,
    /// Once a jump was too much, what was remembered is wrong.
    pub(super) retreated: bool,
    /// A queue or marks have shown that the pipe was full.
    was_full: bool,
    /// While the phase lasts. Bytes per second, and bytes.
    rate: f64,
    window: u64,
    /// Bytes that had been delivered when the phase began: later packets have at least so many before them.
    since: u64,
    /// What was in flight when the jump began, and what had been delivered by then. Bytes.
    pipe: u64,
    jumped: u64,
    /// Bytes lost since then.
    lost: u64,
}

/// A path with a round trip of this share or less of the remembered one is another (RFC 9959), ...
const SHORTER: f64 = 0.5;
/// ... and so is one with more than so many times as much.
const LONGER: f64 = 10.0;

impl Resuming {
    /// What takes the place of Startup's rate and window, in bytes per second and bytes.
    pub(super) fn held(&self) -> Option<(f64, u64)> {
        self.is_holding().then_some((self.rate, self.window))
    }

    pub(super) fn is_holding(&self) -> bool {
        !matches!(self.phase, Resume::Normal | Resume::Reconnaissance)
    }

    fn is_jumping(&self) -> bool {
        matches!(self.phase, Resume::Unvalidated | Resume::Validating)
    }
}

impl Bbr {
    /// With the memory of an earlier connection over the same path; one that makes no sense is none. To be called before
    /// anything is sent.
    pub fn remembering(mut self, path: Remembered) -> Self {
        let is_sound = path.bandwidth.is_finite() && path.bandwidth > 0.0 && !path.min_rtt.is_zero();
        if is_sound && (0.0..1.0).contains(&path.random_loss) {
            let random_loss = path.random_loss.min(self.params.random_loss_max);
            self.resuming.path = Some(Remembered { random_loss, ..path });
            self.resuming.phase = Resume::Reconnaissance;
        }
        self
    }

    /// What the next connection should know of this path: `None` until Startup has found what it carries. What was sent
    /// when there was too little to send does not lower it.
    pub fn remember(&self) -> Option<Remembered> {
        let min_rtt = self.model.min_rtt().filter(|rtt| !rtt.is_zero())?;
        let bandwidth = self.bandwidth();
        let is_measured = self.full_pipe.reached && self.is_probing_bw() && bandwidth > 0.0;
        is_measured.then(|| Remembered { bandwidth, min_rtt, random_loss: self.random_loss() })
    }

    /// Goes from phase to phase; at the end of each acknowledgement.
    pub(super) fn update_resume(&mut self, now: Instant, sample: &Sample, app_limited: bool) {
        self.resuming.heard.get_or_insert(now);
        let arrived = sample.newly_acked > 0 && sample.prior_delivered >= self.resuming.since;
        match self.resuming.phase {
            Resume::Normal => {}
            _ if self.state != State::Startup => self.resuming.phase = Resume::Normal,
            Resume::Reconnaissance => {
                // Who has too little to send needs no jump yet.
                if self.sampler.delivered() >= self.control.initial_cwnd && !app_limited {
                    self.jump(sample);
                }
            }
            Resume::Unvalidated | Resume::Validating if self.startup_queued() => self.retreat(true),
            Resume::Unvalidated if arrived => self.validate(sample),
            Resume::Validating if arrived => self.resuming.phase = Resume::Normal,
            Resume::SafeRetreat if arrived => {
                self.resuming.phase = Resume::Normal;
                if self.resuming.was_full {
                    self.end_startup_for_loss();
                    self.enter_drain();
                }
            }
            Resume::Unvalidated | Resume::Validating | Resume::SafeRetreat => {}
        }
    }

    /// Packets are lost; as in [`Bbr::on_lost`].
    pub(super) fn resume_lost(&mut self, made: Instant, bytes: u64, persistent: bool) {
        if self.resuming.phase == Resume::Reconnaissance {
            // Until something is heard, a path that is out loses what opens the connection again and again.
            if self.resuming.heard.is_some_and(|heard| made >= heard) {
                self.resuming.phase = Resume::Normal;
            }
        } else if self.resuming.is_jumping() {
            self.resuming.lost = self.resuming.lost.saturating_add(bytes);
            let lost = self.resuming.lost;
            let is_too_much = match self.params.bears_random_loss {
                true => self.is_too_much(lost, lost.saturating_add(self.arrived_since_jump())),
                false => true,
            };
            if persistent || is_too_much {
                let met_queue = self.recently_met_queue() || self.last_round_met_queue();
                self.retreat(met_queue || !self.params.bears_random_loss);
            }
        }
    }

    /// There are CE marks.
    pub(super) fn resume_marked(&mut self) {
        if self.resuming.is_jumping() {
            self.retreat(true);
        } else if self.resuming.phase == Resume::Reconnaissance {
            self.resuming.phase = Resume::Normal;
        }
    }

    /// Half of what is remembered, over a round trip; none if this is another path, or if Startup is there already.
    fn jump(&mut self, sample: &Sample) {
        self.resuming.phase = Resume::Normal;
        let (Some(path), Some(min_rtt)) = (self.resuming.path.take(), self.model.min_rtt()) else { return };
        let rtt = sample.rtt.unwrap_or(min_rtt).max(min_rtt);
        if min_rtt <= path.min_rtt.mul_f64(SHORTER) || rtt.as_secs_f64() > LONGER * path.min_rtt.as_secs_f64()
        {
            return;
        }
        let length = min_rtt.min(path.min_rtt).as_secs_f64();
        let window = ((self.params.jump * path.bandwidth * length) as u64).min(CWND_MAX);
        if window <= self.control.cwnd {
            return;
        }
        let delivered = self.sampler.delivered();
        self.resuming = Resuming {
            phase: Resume::Unvalidated,
            rate: window as f64 / rtt.as_secs_f64(),
            window,
            since: delivered,
            pipe: self.sampler.in_flight(),
            jumped: delivered,
            ..Resuming::default()
        };
        self.congestion.expect_loss(path.random_loss);
    }

    /// The first packet of the jump has arrived: no more than is in flight until all of it has.
    fn validate(&mut self, sample: &Sample) {
        let in_flight = self.sampler.in_flight().saturating_add(sample.newly_acked);
        let pipe = self.pipe_size();
        if in_flight > pipe {
            self.resuming.phase = Resume::Validating;
            self.resuming.window = self.resuming.window.min(in_flight.max(self.control.initial_cwnd));
            self.resuming.since = self.sampler.delivered();
        } else {
            // With so little to send nothing was risked, and nothing is known.
            self.resuming.phase = Resume::Normal;
            self.restart_startup(pipe.max(self.control.initial_cwnd));
        }
    }

    /// The jump was too much; `was_full` as in [`Resuming`].
    fn retreat(&mut self, was_full: bool) {
        let window = (self.pipe_size() / 2).max(self.control.initial_cwnd);
        let length = self.model.min_rtt().map_or(1.0, |rtt| rtt.as_secs_f64().max(1e-6));
        self.resuming.phase = Resume::SafeRetreat;
        self.resuming.retreated = true;
        self.resuming.was_full = was_full;
        self.resuming.window = window;
        self.resuming.rate = window as f64 / length;
        self.resuming.since = self.sampler.delivered();
        self.congestion.forget_loss();
        self.limit_cwnd(window);
    }

    /// The RFC's PipeSize: what the path is known to have held. Bytes.
    fn pipe_size(&self) -> u64 {
        self.resuming.pipe.saturating_add(self.arrived_since_jump())
    }

    fn arrived_since_jump(&self) -> u64 {
        self.sampler.delivered().saturating_sub(self.resuming.jumped)
    }
}
