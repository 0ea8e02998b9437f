//! What the looks at a run say of it: its steady state, its start, and how it recovers.
//!
//! ```text
//!  0 ......... first byte ....... full rate .......... warm_up_s ........................ the first flow is done, or stopped
//!              |<--- start_s ----->|<- 2 s: drops ->|  |<------------- steady ------------->|
//! ```
//!
//! Two counters tell what has got through. *Arrived* is what the client knows of: in a push what was acknowledged, in a pull
//! what was received. A packet is acknowledged once, so in a push nothing counts twice, which makes it good for steady
//! rates; but after an outage acknowledgements come in heaps. *Landed* is what has reached the sink's host, at the moment
//! when it does, which makes it good for when something happens. Both become content by [`payload::share`].

use std::time::Duration;

use crate::outcome::{Outcome, Sample};
use crate::payload;
use crate::plan::Cell;
use crate::scenario::Way;

/// What was measured of one run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measures {
    /// Of each flow; empty if the plan does not say when the steady state begins, or if there is none.
    pub steady: Vec<Steady>,
    /// Jain's index of the steady rates of all flows: 1 if all are the same, 1/n if one of n has everything. `None` of a
    /// single flow.
    pub jain: Option<f64>,
    /// How the run starts, all flows together.
    pub start: Start,
    /// Of each flow: from the end of an outage, a change of port or of address until the flow is as fast as before; of
    /// several, the longest. `None` if there was no such thing, or it was not as fast again before the next one.
    pub recovery: Vec<Option<Duration>>,
}

/// A flow, and the bottleneck in its direction, while all flows are active and the run is in its steady state: from
/// `warm_up_s` or the beginning of the last flow on until the first has 99 % of its content, ends, or is stopped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Steady {
    /// Content that arrived, per time. Mbit/s.
    pub mbit: f64,
    /// The same as a part of the bottleneck's [`payload::rate`].
    pub of_payload: f64,
    /// Bytes of IP packets that were offered to the bottleneck, for each byte of content that arrived; all flows of this
    /// direction together. `None` if nothing arrived. What is on its way at either end is counted on one side only: of
    /// little content it can be a part.
    pub wire_ratio: Option<f64>,
    /// Mean time that a packet had to wait for those before it.
    pub queue_delay_mean: Duration,
    /// 95th percentile of it.
    pub queue_delay_p95: Duration,
    /// Packets that found the queue full.
    pub queue_drops: u64,
}

/// The start, in the direction of the first flow.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Start {
    /// From the arrival of the first byte at the sink until content lands at 90 % of the payload rate: the beginning of the
    /// first window of a round-trip time (50 ms at least) in which it does.
    pub time: Option<Duration>,
    /// Packets that found the queue full until 2 s after that; in the first 5 s if it was never reached.
    pub drops: u64,
}

/// What counts as fast again, and as full rate.
const MOST: f64 = 0.9;
/// A flow with so much of its content is about to end.
const NEARLY_ALL: f64 = 0.99;

impl Measures {
    /// Of the run of `cell`.
    pub fn of(cell: &Cell, outcome: &Outcome) -> Self {
        let run = Run { cell, outcome, samples: &outcome.samples };
        let steady = run.steady();
        let rates: Vec<f64> = steady.iter().map(|steady| steady.mbit).collect();
        let recovery = (0..outcome.flows.len()).map(|flow| run.recovery(flow)).collect();
        Self { jain: jain(&rates), steady, start: run.start(), recovery }
    }
}

struct Run<'a> {
    cell: &'a Cell,
    outcome: &'a Outcome,
    samples: &'a [Sample],
}

impl Run<'_> {
    fn steady(&self) -> Vec<Steady> {
        let Some(span) = self.steady_span() else { return Vec::new() };
        let (first, last) = (&span[0], &span[span.len() - 1]);
        let seconds = (last.at - first.at).as_secs_f64();
        let arrived: Vec<f64> = (0..last.flows.len()).map(|flow| arrived(span, flow)).collect();
        let flow = |(number, bytes): (usize, &f64)| {
            let way = self.way(number);
            let together: f64 =
                (0..arrived.len()).filter(|of| self.way(*of) == way).map(|of| arrived[of]).sum();
            let offered = way.of(last.offered) - way.of(first.offered);
            let mut delays: Vec<Duration> = span.iter().map(|sample| self.queue_delay(sample, way)).collect();
            delays.sort_unstable();
            let mbit = bytes * 8e-6 / seconds;
            Steady {
                mbit,
                of_payload: mbit / payload::rate(self.cell.rate_mbit, last.flows[number].mtu),
                wire_ratio: (together > 0.0).then(|| offered as f64 / together),
                queue_delay_mean: delays.iter().sum::<Duration>() / delays.len() as u32,
                queue_delay_p95: delays[(delays.len() * 95).div_ceil(100) - 1],
                queue_drops: way.of(last.queue_drops) - way.of(first.queue_drops),
            }
        };
        arrived.iter().enumerate().map(flow).collect()
    }

    /// The looks of the steady state, which lasts for a window at least.
    fn steady_span(&self) -> Option<&[Sample]> {
        let warm_up = Duration::from_secs_f64(self.cell.warm_up_s?);
        let flows = &self.outcome.flows;
        let from = flows.iter().map(|flow| flow.began).fold(warm_up, Duration::max);
        let until = flows.iter().map(|flow| flow.began + flow.elapsed).min()?;
        let nearly_done = |sample: &Sample| {
            let all = self.cell.scenario.flows.iter().zip(&sample.flows);
            all.into_iter().any(|(flow, seen)| {
                seen.arrived as f64 * payload::share(seen.mtu) >= flow.bytes as f64 * NEARLY_ALL
            })
        };
        let begin = self.samples.partition_point(|sample| sample.at < from);
        let end = self.samples.partition_point(|sample| sample.at <= until);
        let span = self.samples.get(begin..end)?;
        let end = span.iter().position(nearly_done).unwrap_or(span.len());
        let span = &span[..end];
        let long = span.last()?.at - span.first()?.at >= self.window(None);
        long.then_some(span)
    }

    fn start(&self) -> Start {
        let way = self.way(0);
        let flows = 0..self.outcome.flows.len();
        let flows: Vec<usize> = flows.filter(|flow| self.way(*flow) == way).collect();
        let first = flows.iter().filter_map(|flow| self.first_arrival(*flow)).min();
        let time = first.and_then(|first| {
            let mtu = self.samples.iter().flat_map(|sample| &sample.flows).map(|flow| flow.mtu).max()?;
            let full = payload::rate(self.cell.rate_mbit, mtu) / payload::share(mtu) / 8e-6;
            let landed = |sample: &Sample| flows.iter().map(|flow| sample.flows[*flow].landed).sum();
            let fast = first_fast(self.samples, landed, first, self.window(None), MOST * full)?;
            Some(fast - first)
        });
        let first = first.unwrap_or_default();
        let until = first + time.map_or(Duration::from_secs(5), |time| time + Duration::from_secs(2));
        let seen = self.samples.iter().find(|sample| sample.at >= until).or(self.samples.last());
        Start { time, drops: seen.map_or(0, |sample| way.of(sample.queue_drops)) }
    }

    /// When the first content of a flow came to its sink.
    fn first_arrival(&self, flow: usize) -> Option<Duration> {
        let one_way = match self.way(flow) {
            Way::Push => Duration::from_secs_f64(self.cell.rtt_of(flow) / 2e3),
            Way::Pull => Duration::ZERO,
        };
        Some(self.outcome.flows.get(flow)?.first_byte? + one_way)
    }

    fn recovery(&self, flow: usize) -> Option<Duration> {
        let events = self.interruptions(flow);
        let next = events.iter().skip(1).map(|(from, _)| *from).chain([Duration::MAX]);
        let recovered = |((from, until), next): (&(Duration, Duration), Duration)| {
            let landed = |sample: &Sample| sample.flows[flow].landed;
            let before = from.saturating_sub(Duration::from_secs(2));
            let [first, last] = [before, *from].map(|at| self.samples.partition_point(|s| s.at < at));
            let (first, last) = (self.samples.get(first)?, self.samples.get(last)?);
            let mean = (landed(last) - landed(first)) as f64 / (last.at - first.at).as_secs_f64();
            let fast = first_fast(self.samples, landed, *until, self.window(Some(flow)), MOST * mean)?;
            (fast < next).then(|| fast - *until)
        };
        let all: Option<Vec<Duration>> = events.iter().zip(next).map(recovered).collect();
        all?.into_iter().max()
    }

    /// When something interrupts a flow, and when its path is back; in order.
    fn interruptions(&self, flow: usize) -> Vec<(Duration, Duration)> {
        let scenario = &self.cell.scenario;
        let at = Duration::from_secs_f64;
        let links = scenario.up.events.iter().chain(&scenario.down.events);
        let outages =
            links.filter_map(|event| Some((at(event.at_s), at(event.at_s + event.outage_ms? / 1e3))));
        let moves = scenario.flows.get(flow).into_iter().flat_map(|flow| &flow.events);
        let moves = moves.map(|event| (at(event.at_s), at(event.at_s)));
        let mut all: Vec<_> = outages.chain(moves).collect();
        all.sort_unstable();
        // One that begins within another, such as the same one of the other direction, is a part of it.
        all.dedup_by(|next, last| {
            let within = next.0 <= last.1;
            if within {
                last.1 = last.1.max(next.1);
            }
            within
        });
        all
    }

    /// Over which rates are taken: a round-trip time, of one flow or of the longest, and 50 ms at least.
    fn window(&self, flow: Option<usize>) -> Duration {
        let longest = || (0..self.outcome.flows.len()).map(|flow| self.cell.rtt_of(flow)).fold(0.0, f64::max);
        let rtt = flow.map_or_else(longest, |flow| self.cell.rtt_of(flow));
        Duration::from_secs_f64(rtt.max(50.0) / 1e3)
    }

    fn queue_delay(&self, sample: &Sample, way: Way) -> Duration {
        let scenario = &self.cell.scenario;
        let link = way.of((&scenario.up, &scenario.down));
        let past = link.events.iter().filter(|event| event.at_s <= sample.at.as_secs_f64());
        let mbit = past.filter_map(|event| event.rate_mbit).next_back().unwrap_or(self.cell.rate_mbit);
        Duration::from_secs_f64(way.of(sample.queue) as f64 * 8e-6 / mbit)
    }

    fn way(&self, flow: usize) -> Way {
        self.cell.scenario.flows[flow].way
    }
}

impl Way {
    /// Of what there is to the gateway and from it: the one in the direction of the data.
    pub(crate) fn of<T>(self, (up, down): (T, T)) -> T {
        match self {
            Way::Push => up,
            Way::Pull => down,
        }
    }
}

/// Content of a flow that arrived between the first look and the last. Bytes.
fn arrived(span: &[Sample], flow: usize) -> f64 {
    let step = |pair: &[Sample]| {
        let [before, after] = [&pair[0].flows[flow], &pair[1].flows[flow]];
        // A link that was lost takes its counters with it.
        after.arrived.saturating_sub(before.arrived) as f64 * payload::share(after.mtu)
    };
    span.windows(2).map(step).sum()
}

/// The first look, not before `from`, after which so many bytes per second come within a window.
fn first_fast(
    samples: &[Sample],
    bytes: impl Fn(&Sample) -> u64,
    from: Duration,
    window: Duration,
    per_second: f64,
) -> Option<Duration> {
    let begin = samples.partition_point(|sample| sample.at < from);
    let mut end = begin;
    for first in &samples[begin..] {
        while samples.get(end)?.at < first.at + window {
            end += 1;
        }
        let last = &samples[end];
        let rate = (bytes(last) - bytes(first)) as f64 / (last.at - first.at).as_secs_f64();
        if rate >= per_second {
            return Some(first.at);
        }
    }
    None
}

/// Jain, Chiu, Hawe 1984: the square of the sum over n times the sum of squares.
fn jain(rates: &[f64]) -> Option<f64> {
    let (sum, squares) = rates.iter().fold((0.0, 0.0), |(sum, squares), x| (sum + x, squares + x * x));
    (rates.len() > 1 && squares > 0.0).then(|| sum * sum / (rates.len() as f64 * squares))
}

#[cfg(test)]
#[path = "measure_tests.rs"]
mod tests;
