//! [`Params`]: the numbers of the algorithm, in one place.

use std::time::Duration;

use super::fixed::LOSS_MAX;
use crate::rate::Policy;

/// The numbers of BBR. The defaults are those of the draft, but for what [`super`] names as deviations.
///
/// Gains multiply an estimated bandwidth or bandwidth-delay product (BDP). Sections are those of
/// draft-ietf-ccwg-bbr-06.
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    /// Pacing gain in Startup: doubles the rate each round (section 5.3.1.1).
    pub startup_pacing_gain: f64,
    /// Window gain in Startup (section 5.3.1.1).
    pub startup_cwnd_gain: f64,
    /// Startup on a remembered path jumps to this share of what was delivered in a round trip; no more than a half
    /// (RFC 9959).
    pub jump: f64,
    /// Startup goes on while a round brings at least so much more bandwidth (section 5.3.1.2).
    pub full_bw_growth: f64,
    /// Rounds without that growth after which the pipe counts as full (section 5.3.1.2).
    pub full_bw_rounds: u32,
    /// Separate losses in one round that Startup needs to see before it ends for loss (section 5.3.1.3).
    pub startup_loss_events: u32,
    /// Pacing gain in Drain (section 5.3.2).
    pub drain_pacing_gain: f64,
    /// Pacing gain in ProbeBW DOWN (section 5.6.1).
    pub down_pacing_gain: f64,
    /// Deviation: the least pacing gain in ProbeBW DOWN, for long queues, and where others fill the queue and UP lasts
    /// longer; that of BBRv2.
    pub down_pacing_gain_least: f64,
    /// Deviation: rounds in which DOWN drains a queue, within its gains.
    pub drain_rounds: f64,
    /// Pacing gain in ProbeBW UP (section 5.6.1).
    pub up_pacing_gain: f64,
    /// Deviation: UP goes on, queue or not, as long as what it brought shows a smaller share of the path than this.
    pub up_share: f64,
    /// Deviation: but no more rounds than this.
    pub up_rounds: u32,
    /// Deviation: the share of the path that a further round of UP asks for.
    pub up_step: f64,
    /// Deviation: the largest pacing gain in ProbeBW UP.
    pub up_pacing_gain_most: f64,
    /// Window gain outside Startup, UP and ProbeRTT (section 5.6.1).
    pub cwnd_gain: f64,
    /// Deviation: window gain in ProbeBW UP where no others fill the queue.
    pub up_cwnd_gain: f64,
    /// Window gain in ProbeBW UP where others do, and where UP goes on because its share is small (section 5.6.1).
    pub up_cwnd_gain_competing: f64,
    /// Deviation: a queue that stands through so many rounds of DOWN is held by others, which do not yield.
    pub held_rounds: u32,
    /// Deviation: until it was empty at some time in each of so many probing cycles in a row, or ProbeRTT.
    pub emptied_cycles: u32,
    /// Time between two probes for bandwidth: this, and up to a second more by chance (section 5.3.3.8.2).
    pub probe_wait: Duration,
    /// Rounds between two probes for bandwidth at most (section 5.3.3.8.2).
    pub probe_rounds: u64,
    /// More loss than this in a round is too much in flight (section 5.5.10.2).
    pub loss_threshold: f64,
    /// What a lower bound is multiplied with in a round of congestion (section 2.8).
    pub beta: f64,
    /// Share of `inflight_longterm` that is left to others outside probes (section 2.8).
    pub headroom: f64,
    /// Share of the bandwidth that is not used, so that queues drain (section 5.6.2).
    pub pacing_margin: f64,
    /// How long a smallest round-trip time is believed (section 5.5.7.2).
    pub min_rtt_window: Duration,
    /// How long without a sample at the smallest round-trip time until ProbeRTT (section 5.3.4).
    pub probe_rtt_interval: Duration,
    /// How long ProbeRTT holds the pipe half empty (section 5.3.4).
    pub probe_rtt_time: Duration,
    /// Window gain in ProbeRTT (section 5.3.4).
    pub probe_rtt_cwnd_gain: f64,
    /// Rounds over which the excess of acknowledgements is remembered (section 5.5.9).
    pub extra_acked_rounds: u64,
    /// Gain of the average of rounds' shares of CE marks, as Linux' BBRv2 has it: the draft says nothing of ECN.
    pub ecn_alpha_gain: f64,
    /// What is cut from the lower bounds in a round with nothing but CE marks; from Linux' BBRv2.
    pub ecn_factor: f64,
    /// More CE marks than this in a round of a probe is too much in flight; from Linux' BBRv2.
    pub ecn_threshold: f64,
    /// Deviation: whether loss that does not depend on what is sent is taken for the path's own, and borne.
    pub bears_random_loss: bool,
    /// Deviation: more loss than this is never taken for the path's own.
    pub random_loss_max: f64,
    /// Deviation: a round whose smallest round-trip time is above the path's by this share has met a queue.
    pub inflated: f64,
    /// Deviation: and by this much at least, which timers and jitter may bring about.
    pub inflated_min: Duration,
    /// What is kept of the bandwidth after a round outside a probe that met a queue, for good; 1: all of it.
    pub queue_beta: f64,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            startup_pacing_gain: 2.77,
            startup_cwnd_gain: 2.0,
            jump: 0.5,
            full_bw_growth: 1.25,
            full_bw_rounds: 3,
            startup_loss_events: 6,
            drain_pacing_gain: 0.5,
            down_pacing_gain: 0.9,
            down_pacing_gain_least: 0.75,
            drain_rounds: 2.0,
            up_pacing_gain: 1.25,
            up_share: 0.45,
            up_rounds: 3,
            up_step: 0.08,
            up_pacing_gain_most: 2.0,
            cwnd_gain: 2.0,
            up_cwnd_gain: 1.3,
            up_cwnd_gain_competing: 2.25,
            held_rounds: 6,
            emptied_cycles: 3,
            probe_wait: Duration::from_secs(2),
            probe_rounds: 63,
            loss_threshold: 0.02,
            beta: 0.7,
            headroom: 0.15,
            pacing_margin: 0.01,
            min_rtt_window: Duration::from_secs(10),
            probe_rtt_interval: Duration::from_secs(5),
            probe_rtt_time: Duration::from_millis(200),
            probe_rtt_cwnd_gain: 0.5,
            extra_acked_rounds: 10,
            ecn_alpha_gain: 1.0 / 16.0,
            ecn_factor: 1.0 / 3.0,
            ecn_threshold: 0.5,
            bears_random_loss: true,
            random_loss_max: 0.15,
            inflated: 0.1,
            inflated_min: Duration::from_millis(1),
            queue_beta: 1.0,
        }
    }
}

impl Params {
    /// These numbers, which are those of [`Policy::Fair`], as another policy has them.
    pub fn of(self, policy: Policy) -> Self {
        match policy {
            Policy::Fair => self,
            Policy::Fixed => Self { random_loss_max: LOSS_MAX, ..self },
            // Probes more often, asks for more in each probe and until it has more; leaves less.
            Policy::High => Self {
                down_pacing_gain: 0.93,
                down_pacing_gain_least: 0.9,
                up_share: 0.7,
                up_step: 2.0 * self.up_step,
                probe_wait: self.probe_wait / 2,
                probe_rounds: 30,
                beta: 0.85,
                headroom: 0.0,
                ..self
            },
            // Sees a queue before others do, makes none of its own outside probes, and leaves a part of what it has to
            // whoever makes one.
            Policy::Low => Self {
                down_pacing_gain: 0.6,
                down_pacing_gain_least: 0.6,
                up_pacing_gain_most: self.up_pacing_gain,
                pacing_margin: 0.05,
                probe_wait: self.probe_wait.mul_f64(1.5),
                beta: 0.5,
                inflated: 0.05,
                queue_beta: 0.7,
                ..self
            },
        }
    }
}
