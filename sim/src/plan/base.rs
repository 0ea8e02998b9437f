//! [`Base`]: what can be said of a run.

use metra_sim_model::{Burst, Direction, Event, Police};
use serde::Deserialize;

use crate::scenario::{Access, Controller, HostEvent, Policy, Way};

/// What is said of a run; in `[base]` of all of them. The link is the same each way.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Base {
    /// Of the bottleneck. Must be said somewhere. Mbit/s.
    pub rate_mbit: Option<f64>,
    /// Round-trip time without queues. Must be said somewhere. ms.
    pub rtt_ms: Option<f64>,
    /// Random loss. %.
    pub loss_percent: f64,
    /// Mean length of bursts of loss; 1: each packet is lost or not by itself. `loss_percent` is the mean loss all the same.
    /// Packets.
    pub burst_packets: f64,
    /// Queue before the bottleneck, in bandwidth-delay products; never less than 64 kB.
    pub queue_bdp: f64,
    /// Clients, which begin one after the other at a distance of `stagger_s`.
    pub flows: usize,
    /// Congestion controller.
    pub controller: Controller,
    /// Rate policy, of which the gateway grants any. With `bbr2` only.
    pub policy: Policy,
    /// The rate of the policy `fixed`, and a ceiling with the others. Mbit/s.
    pub target_mbit: Option<f64>,
    /// Direction of the transfer.
    pub way: Way,
    /// Who sends remembers the path, with so many times the rate that it has; 0: it is unknown.
    pub remembered: f64,
    /// Decides over all randomness.
    pub seed: u64,
    /// Content of each flow: what the bottleneck carries in this time. s.
    pub seconds: f64,
    /// Content at least, and at most. MB.
    pub megabytes: (f64, f64),
    /// See `flows`. s.
    pub stagger_s: f64,
    /// Connections of each client.
    pub links: usize,
    /// These are within tunnels of HTTP/3.
    pub tunnelled: bool,
    /// See [`Direction`].
    pub jitter_ms: f64,
    /// See [`Direction`].
    pub reorder: bool,
    /// See [`Direction`]; besides `loss_percent`.
    pub burst: Option<Burst>,
    /// ECN marks above this part of the queue. %.
    pub mark_above_percent: Option<f64>,
    /// See [`Direction`].
    pub duplicate_percent: f64,
    /// See [`Direction`].
    pub corrupt_percent: f64,
    /// See [`Direction`].
    pub mtu: Option<u32>,
    /// See [`Direction`].
    pub police: Option<Police>,
    /// See [`Direction`].
    pub events: Vec<Event>,
    /// What happens to each client.
    pub client_events: Vec<HostEvent>,
    /// See [`Scenario`](crate::Scenario).
    pub wake_delay_us: f64,
    /// See [`Scenario`](crate::Scenario). The kernel's timers, which real hosts use, are late by some 50 us.
    pub pacing_timer_us: f64,
    /// The course of the run is kept, with a look so often. ms.
    pub sample_ms: Option<f64>,
    /// From this time on, since the start of the run, it is in its steady state; absent: there are no figures of that. s.
    pub warm_up_s: Option<f64>,
    /// The run ends at this time on purpose. Flows that are not done by then count as stopped, not as failed; give them
    /// content enough. s.
    pub stop_s: Option<f64>,
    /// A run without `stop_s` that is not done after this time has failed; what has arrived by then counts. s.
    pub limit_s: f64,
}

/// A flow of a scenario. What is absent is as the base has it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FlowSpec {
    /// Congestion controller. The gateway, which sends in a pull, has that of the first flow.
    pub controller: Option<Controller>,
    /// Rate policy.
    pub policy: Option<Policy>,
    /// As in the base. Mbit/s.
    pub target_mbit: Option<f64>,
    /// Direction of the transfer.
    pub way: Option<Way>,
    /// As in the base.
    pub remembered: Option<f64>,
    /// When it begins. s.
    pub start_s: Option<f64>,
    /// Content. Bytes.
    pub bytes: Option<u64>,
    /// Content, as in the base, `megabytes` included. s.
    pub seconds: Option<f64>,
    /// Connections.
    pub links: Option<usize>,
    /// A link of its own before the one that is shared.
    pub access: Option<Access>,
    /// What happens to the client.
    pub events: Option<Vec<HostEvent>>,
}

impl Default for Base {
    fn default() -> Self {
        Self {
            rate_mbit: None,
            rtt_ms: None,
            loss_percent: 0.0,
            burst_packets: 1.0,
            queue_bdp: 1.0,
            flows: 1,
            controller: Controller::Cubic,
            policy: Policy::Fair,
            target_mbit: None,
            way: Way::Push,
            remembered: 0.0,
            seed: 1,
            seconds: 10.0,
            megabytes: (1.0, 2000.0),
            stagger_s: 0.0,
            links: 1,
            tunnelled: false,
            jitter_ms: 0.0,
            reorder: false,
            burst: None,
            mark_above_percent: None,
            duplicate_percent: 0.0,
            corrupt_percent: 0.0,
            mtu: None,
            police: None,
            events: Vec::new(),
            client_events: Vec::new(),
            wake_delay_us: 100.0,
            pacing_timer_us: 1000.0,
            sample_ms: None,
            warm_up_s: None,
            stop_s: None,
            limit_s: 60.0,
        }
    }
}

impl Base {
    /// Whether every value makes sense that [`Direction::check`] and [`FlowSpec::check`] do not look at.
    ///
    /// # Errors
    /// What does not.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.flows == 0 || self.links == 0 {
            return Err("flows and links are 1 or more".to_owned());
        }
        let (least, most) = self.megabytes;
        for (key, value) in [
            ("remembered", self.remembered),
            ("queue_bdp", self.queue_bdp),
            ("seconds", self.seconds),
            ("megabytes", least),
            ("megabytes", most),
            ("stagger_s", self.stagger_s),
            ("wake_delay_us", self.wake_delay_us),
            ("warm_up_s", self.warm_up_s.unwrap_or(0.0)),
        ] {
            within(key, value, 0.0)?;
        }
        within("pacing_timer_us", self.pacing_timer_us, 0.001)?;
        within("sample_ms", self.sample_ms.unwrap_or(1.0), 0.001)?;
        within("stop_s", self.stop_s.unwrap_or(1.0), 0.001)?;
        within("limit_s", self.limit_s, 0.001)?;
        check_events("client_events", &self.client_events)?;
        if self.warm_up_s.zip(self.stop_s).is_some_and(|(warm_up, stop)| warm_up >= stop) {
            return Err("warm_up_s must be before stop_s".to_owned());
        }
        if self.burst.is_some() && self.burst_packets != 1.0 {
            return Err("burst and burst_packets exclude each other".to_owned());
        }
        Ok(())
    }

    /// The link, each way.
    ///
    /// # Errors
    /// What is missing, or makes no sense.
    pub(super) fn direction(&self) -> Result<Direction, String> {
        let rate_mbit = self.rate_mbit.ok_or("rate_mbit is missing")?;
        let rtt_ms = self.rtt_ms.ok_or("rtt_ms is missing")?;
        let queue = ((rate_mbit * 125.0 * rtt_ms * self.queue_bdp) as u64).max(64_000);
        let mut direction = Direction {
            rate_mbit: Some(rate_mbit),
            delay_ms: rtt_ms / 2.0,
            jitter_ms: self.jitter_ms,
            reorder: self.reorder,
            loss_percent: self.loss_percent,
            burst: self.burst,
            queue_bytes: Some(queue),
            mark_above_bytes: self.mark_above_percent.map(|percent| (queue as f64 * percent / 100.0) as u64),
            duplicate_percent: self.duplicate_percent,
            corrupt_percent: self.corrupt_percent,
            mtu: self.mtu,
            police: self.police,
            events: self.events.clone(),
        };
        direction.check().map_err(|e| e.to_string())?;
        if self.burst_packets != 1.0 {
            let Base { loss_percent, burst_packets, .. } = *self;
            let burst = Burst::of_mean(loss_percent, burst_packets);
            let impossible =
                || format!("{loss_percent} % cannot be lost in bursts of {burst_packets} packets");
            (direction.loss_percent, direction.burst) = (0.0, Some(burst.ok_or_else(impossible)?));
        }
        Ok(direction)
    }

    /// What the bottleneck carries in this time, within `megabytes`. Bytes.
    pub(super) fn content(&self, seconds: f64) -> u64 {
        let (least, most) = self.megabytes;
        let megabytes = self.rate_mbit.unwrap_or(0.0) / 8.0 * seconds;
        (megabytes.max(least).min(most) * 1e6) as u64
    }
}

impl FlowSpec {
    pub(super) fn check(&self) -> Result<(), String> {
        within("remembered", self.remembered.unwrap_or(0.0), 0.0)?;
        within("start_s", self.start_s.unwrap_or(0.0), 0.0)?;
        within("seconds", self.seconds.unwrap_or(0.0), 0.0)?;
        check_events("events", self.events.as_deref().unwrap_or_default())?;
        if self.links == Some(0) {
            return Err("links is 1 or more".to_owned());
        }
        if self.bytes.is_some() && self.seconds.is_some() {
            return Err("bytes and seconds exclude each other".to_owned());
        }
        let Some(access) = &self.access else { return Ok(()) };
        access.up.check().and_then(|()| access.down.check()).map_err(|e| format!("access: {e}"))
    }
}

fn check_events(key: &str, events: &[HostEvent]) -> Result<(), String> {
    events.iter().try_for_each(|event| within(&format!("{key}.at_s"), event.at_s, 0.0))
}

fn within(key: &str, value: f64, least: f64) -> Result<(), String> {
    // A NaN is within nothing.
    match (least..=1e9).contains(&value) {
        true => Ok(()),
        false => Err(format!("{key}: {value} is not {least} or more")),
    }
}
