//! What can be said of one direction, as it is written in a plan.

use serde::{Deserialize, Serialize};

/// One direction of a link. Absent values mean "none": no rate is infinitely fast, no queue limit is endless.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Direction {
    /// Mbit/s, of whole IP packets.
    pub rate_mbit: Option<f64>,
    /// Propagation delay. ms.
    pub delay_ms: f64,
    /// Each packet is late by up to this much more, evenly distributed. ms.
    pub jitter_ms: f64,
    /// Whether jitter may change the order of packets. Otherwise a late packet holds up those behind it.
    pub reorder: bool,
    /// Packets lost at random. %.
    pub loss_percent: f64,
    /// Loss in bursts, besides `loss_percent`.
    pub burst: Option<Burst>,
    /// Bytes that wait for the link before packets are dropped (tail drop).
    pub queue_bytes: Option<u64>,
    /// Packets that find more bytes than this before them are marked, if their sender can do with that (ECN, RFC 3168).
    pub mark_above_bytes: Option<u64>,
    /// Packets that arrive twice. %.
    pub duplicate_percent: f64,
    /// Packets that arrive with a wrong bit. %.
    pub corrupt_percent: f64,
    /// Longer IP packets vanish without a word. Bytes.
    pub mtu: Option<u32>,
    /// A token bucket that drops what is too fast.
    pub police: Option<Police>,
    /// What changes in the course of time; in the order of `at_s`.
    pub events: Vec<Event>,
}

/// Loss in bursts: the Gilbert-Elliott model (Elliott 1963), with no loss in its good state.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Burst {
    /// Chance that a packet begins a bad time. %.
    pub enter_percent: f64,
    /// Chance that a packet ends one; the mean length of a burst is 100 / `leave_percent` packets. %.
    pub leave_percent: f64,
    /// Packets lost in a bad time. %.
    pub loss_percent: f64,
}

/// A policer: packets are dropped, not delayed, when the bucket is empty.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Police {
    /// At which the bucket fills. Mbit/s.
    pub rate_mbit: f64,
    /// Size of the bucket. Bytes.
    pub burst_bytes: u64,
}

/// Something happens. What is not named stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Event {
    /// After the start. s.
    pub at_s: f64,
    /// The rate from now on. Mbit/s.
    pub rate_mbit: Option<f64>,
    /// The propagation delay from now on. ms.
    pub delay_ms: Option<f64>,
    /// Random loss from now on. %.
    pub loss_percent: Option<f64>,
    /// Longer IP packets vanish from now on. Bytes.
    pub mtu: Option<u32>,
    /// Nothing gets through for so long. ms.
    pub outage_ms: Option<f64>,
    /// Whether UDP is dropped from now on.
    pub block_udp: Option<bool>,
}

/// A value that makes no sense. Fault: the plan.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{key}: {value} is not {expected}")]
pub struct SpecError {
    /// Where it stands.
    pub key: &'static str,
    /// What stands there.
    pub value: f64,
    /// What could stand there.
    pub expected: &'static str,
}

impl Burst {
    /// Everything lost in bursts of `packets` on average, and `loss_percent` of all packets in the long run. `None` if
    /// there is no such thing: bursts shorter than a packet, or so much loss that they would have to touch.
    ///
    /// In the long run `enter / (enter + leave)` of all packets find a bad time.
    pub fn of_mean(loss_percent: f64, packets: f64) -> Option<Self> {
        let loss = loss_percent / 100.0;
        let leave = 1.0 / packets;
        let enter = leave * loss / (1.0 - loss);
        let possible = (0.0..1.0).contains(&loss) && packets >= 1.0 && enter <= 1.0;
        possible.then_some(Self {
            enter_percent: enter * 100.0,
            leave_percent: leave * 100.0,
            loss_percent: 100.0,
        })
    }
}

impl Direction {
    /// Whether every value makes sense.
    ///
    /// # Errors
    /// The first that does not.
    pub fn check(&self) -> Result<(), SpecError> {
        let percent = |key, value| within(key, value, 0.0, 100.0, "a percentage (0 to 100)");
        let time = |key, value| within(key, value, 0.0, 1e9, "a time (0 or more)");
        let rate = |key, value| within(key, value, 1e-3, 1e6, "a rate (0.001 to 1000000 Mbit/s)");
        self.rate_mbit.map_or(Ok(()), |value| rate("rate_mbit", value))?;
        time("delay_ms", self.delay_ms)?;
        time("jitter_ms", self.jitter_ms)?;
        percent("loss_percent", self.loss_percent)?;
        percent("duplicate_percent", self.duplicate_percent)?;
        percent("corrupt_percent", self.corrupt_percent)?;
        if let Some(burst) = self.burst {
            percent("burst.enter_percent", burst.enter_percent)?;
            percent("burst.leave_percent", burst.leave_percent)?;
            percent("burst.loss_percent", burst.loss_percent)?;
        }
        if let Some(police) = self.police {
            rate("police.rate_mbit", police.rate_mbit)?;
        }
        let mut last = 0.0;
        for event in &self.events {
            within("events.at_s", event.at_s, last, 1e9, "a time after that of the event before it")?;
            last = event.at_s;
            event.rate_mbit.map_or(Ok(()), |value| rate("events.rate_mbit", value))?;
            event.delay_ms.map_or(Ok(()), |value| time("events.delay_ms", value))?;
            event.loss_percent.map_or(Ok(()), |value| percent("events.loss_percent", value))?;
            event.outage_ms.map_or(Ok(()), |value| time("events.outage_ms", value))?;
            if event.rate_mbit.is_some() && self.rate_mbit.is_none() {
                return Err(SpecError {
                    key: "events.rate_mbit",
                    value: event.at_s,
                    expected: "possible on a link without a rate_mbit of its own",
                });
            }
        }
        Ok(())
    }

    /// The bandwidth-delay product of this direction's rate over a round trip of `rtt_ms`. Bytes.
    pub fn bdp_bytes(&self, rtt_ms: f64) -> Option<u64> {
        self.rate_mbit.map(|rate| (rate * 1e6 / 8.0 * rtt_ms / 1e3) as u64)
    }
}

fn within(
    key: &'static str,
    value: f64,
    min: f64,
    max: f64,
    expected: &'static str,
) -> Result<(), SpecError> {
    // A NaN is within nothing.
    if (min..=max).contains(&value) { Ok(()) } else { Err(SpecError { key, value, expected }) }
}
