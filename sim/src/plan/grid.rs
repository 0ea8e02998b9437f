//! [`Grid`]: runs that differ in lists of values.

use serde::Deserialize;

use super::Base;
use crate::scenario::{Controller, Way};

/// The lists that are combined. Absent: the one value of `[base]`, see there for units.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Grid {
    /// Of the bottleneck, each way. Mbit/s.
    pub rate_mbit: Option<Vec<f64>>,
    /// Round-trip time without queues. ms.
    pub rtt_ms: Option<Vec<f64>>,
    /// Random loss, each way. %.
    pub loss_percent: Option<Vec<f64>>,
    /// Mean length of bursts of loss. Packets.
    pub burst_packets: Option<Vec<f64>>,
    /// Queue before the bottleneck. Bandwidth-delay products.
    pub queue_bdp: Option<Vec<f64>>,
    /// Clients.
    pub flows: Option<Vec<usize>>,
    /// Congestion controllers.
    pub controller: Option<Vec<Controller>>,
    /// Directions of the transfer.
    pub way: Option<Vec<Way>>,
    /// Whether, and with how many times its rate, the path is remembered.
    pub remembered: Option<Vec<f64>>,
    /// Whether connections are within tunnels of HTTP/3.
    pub tunnelled: Option<Vec<bool>>,
    /// Seeds: so many runs of each.
    pub seed: Option<Vec<u64>>,
}

impl Grid {
    /// Every combination over `base`; the last list changes fastest.
    pub(super) fn over(&self, base: &Base) -> Vec<Base> {
        let mut all = vec![base.clone()];
        spread(&mut all, &self.rate_mbit, |base, rate| base.rate_mbit = Some(rate));
        spread(&mut all, &self.rtt_ms, |base, rtt| base.rtt_ms = Some(rtt));
        spread(&mut all, &self.loss_percent, |base, loss| base.loss_percent = loss);
        spread(&mut all, &self.burst_packets, |base, packets| base.burst_packets = packets);
        spread(&mut all, &self.queue_bdp, |base, queue| base.queue_bdp = queue);
        spread(&mut all, &self.flows, |base, flows| base.flows = flows);
        spread(&mut all, &self.controller, |base, controller| base.controller = controller);
        spread(&mut all, &self.way, |base, way| base.way = way);
        spread(&mut all, &self.remembered, |base, times| base.remembered = times);
        spread(&mut all, &self.tunnelled, |base, tunnelled| base.tunnelled = tunnelled);
        spread(&mut all, &self.seed, |base, seed| base.seed = seed);
        all
    }
}

/// Each of `all` once with each of `values`.
fn spread<T: Copy>(all: &mut Vec<Base>, values: &Option<Vec<T>>, set: impl Fn(&mut Base, T)) {
    let Some(values) = values else { return };
    let with = |base: &Base, value: T| {
        let mut base = base.clone();
        set(&mut base, value);
        base
    };
    *all = all.iter().flat_map(|base| values.iter().map(move |value| with(base, *value))).collect();
}
