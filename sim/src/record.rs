//! What is kept of a run, as a row of a table.

use std::fmt::Write as _;
use std::time::Duration;

use metra_client::Measured;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::measure::Measures;
use crate::outcome::{FlowOutcome, NotDone, Outcome, Sample};
use crate::plan::Cell;
use crate::scenario::Flow;

/// One flow of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Name of the run.
    pub run: String,
    /// Of the bottleneck, each way. Mbit/s.
    pub rate_mbit: f64,
    /// Without queues; with the flow's access link. ms.
    pub rtt_ms: f64,
    /// Each way. %.
    pub loss_percent: f64,
    /// Mean length of bursts of loss. Packets.
    pub burst_packets: f64,
    /// Queue before the bottleneck. Bandwidth-delay products.
    pub queue_bdp: f64,
    /// Flows of the run.
    pub flows: usize,
    /// Congestion controller.
    pub controller: &'static str,
    /// Rate policy that was asked for.
    pub policy: &'static str,
    /// Push or pull.
    pub way: &'static str,
    /// The path is remembered with so many times its rate; 0: not.
    pub remembered: f64,
    /// Of the network's randomness.
    pub seed: u64,
    /// Number of the flow, from 0.
    pub flow: usize,
    /// `done`; `stopped`, as the plan says; `failed`.
    pub end: &'static str,
    /// Empty, or why the flow has failed.
    pub error: String,
    /// From the beginning of the flow to its end. s.
    pub seconds: f64,
    /// Content per time, start and end included. Mbit/s.
    pub goodput_mbit: f64,
    /// `goodput_mbit` over `rate_mbit`.
    pub of_rate: f64,
    /// See [`Steady`](crate::measure::Steady): content that arrived in the steady state, per time. Mbit/s.
    pub steady_mbit: Option<f64>,
    /// `steady_mbit` over the content that the bottleneck could carry, see [`payload::rate`](crate::payload::rate).
    pub steady_of_payload: Option<f64>,
    /// Bytes of IP packets offered to the bottleneck in the direction of the data for each byte of content, in the steady
    /// state; of all flows of that direction.
    pub steady_wire_ratio: Option<f64>,
    /// Mean wait in the bottleneck's queue in the steady state, in the direction of the data. ms.
    pub queue_delay_mean_ms: Option<f64>,
    /// 95th percentile of it. ms.
    pub queue_delay_p95_ms: Option<f64>,
    /// Packets that found that queue full in the steady state; of all flows.
    pub queue_drops_steady: Option<u64>,
    /// Jain's index of the steady rates of all flows of the run.
    pub jain: Option<f64>,
    /// See [`Start`](crate::measure::Start): from the first byte at the sink until all flows together have 90 % of the
    /// payload rate. s; empty if they never have.
    pub start_s: Option<f64>,
    /// `start_s` in round-trip times of the first flow.
    pub start_rounds: Option<f64>,
    /// Packets that found the queue full until 2 s after that, or in the first 5 s.
    pub start_drops: u64,
    /// From the end of an outage, or a change of port or address, until the flow is as fast as before, see
    /// [`Measures`]. s; empty if it never is.
    pub recovery_s: Option<f64>,
    /// See [`Bursts`](crate::bursts::Bursts): half of what the source sends leaves in bursts of at most so much, from `warm_up_s` on. Bytes.
    pub burst_p50_bytes: Option<u64>,
    /// 99th percentile of it. Bytes.
    pub burst_p99_bytes: Option<u64>,
    /// The largest burst. Bytes.
    pub burst_max_bytes: Option<u64>,
    /// Median time from a burst to the next. us.
    pub gap_p50_us: Option<f64>,
    /// 99th percentile of it. us.
    pub gap_p99_us: Option<f64>,
    /// From the beginning of the flow to its first byte. ms.
    pub ttfb_ms: Option<f64>,
    /// From the last byte to the final names. ms.
    pub verify_ms: Option<f64>,
    /// How often the job went on after its link was lost.
    pub resumes: Option<u32>,
    /// Chunks sent more than once.
    pub chunks_resent: Option<u64>,
    /// What the client measured, in the words of its `--json` summary.
    #[serde(flatten)]
    pub measured: Option<Measured>,
    /// Packets lost at random at the bottleneck, both ways; of all flows.
    pub lost: u64,
    /// Packets that found a queue full, both ways; of all flows.
    pub queue_drops: u64,
    /// Packets marked (ECN), both ways; of all flows.
    pub marked: u64,
    /// The longest that the queue in the direction of the data was. Bytes.
    pub queue_max: u64,
    /// Processor time of the whole run for each GB of content, of all flows. s.
    pub cpu_s_per_gb: f64,
}

/// The rows of a run.
pub fn rows(cell: &Cell, outcome: &Outcome) -> Vec<Row> {
    let (up, down) = (&outcome.up, &outcome.down);
    let gigabytes: f64 =
        outcome.flows.iter().map(|f| f.goodput_mbit() * f.elapsed.as_secs_f64() / 8e3).sum::<f64>().max(1e-9);
    let measures = Measures::of(cell, outcome);
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let row = |(flow, of): (usize, &FlowOutcome)| {
        let report = of.report.as_ref().ok();
        let Flow { controller, policy, way, remembered, .. } = cell.scenario.flows[flow];
        let (end, error) = match &of.report {
            Ok(_) => ("done", String::new()),
            Err(NotDone::Stopped) => ("stopped", String::new()),
            Err(NotDone::Failed(why)) => ("failed", why.clone()),
        };
        let steady = measures.steady.get(flow);
        let bursts = of.bursts.as_ref();
        let burst = |percent| bursts?.sizes.percentile(percent);
        let gap = |percent| Some(bursts?.gaps.percentile(percent)? as f64 / 1e3);
        let start_s = measures.start.time.map(|time| time.as_secs_f64());
        Row {
            run: cell.name().to_owned(),
            rate_mbit: cell.rate_mbit,
            rtt_ms: cell.rtt_of(flow),
            loss_percent: cell.loss_percent,
            burst_packets: cell.burst_packets,
            queue_bdp: cell.queue_bdp,
            flows: outcome.flows.len(),
            controller: controller.name(),
            policy: policy.name(),
            way: way.name(),
            remembered,
            seed: cell.scenario.seed,
            flow,
            end,
            error,
            seconds: of.elapsed.as_secs_f64(),
            goodput_mbit: of.goodput_mbit(),
            of_rate: of.goodput_mbit() / cell.rate_mbit,
            steady_mbit: steady.map(|s| s.mbit),
            steady_of_payload: steady.map(|s| s.of_payload),
            steady_wire_ratio: steady.and_then(|s| s.wire_ratio),
            queue_delay_mean_ms: steady.map(|s| ms(s.queue_delay_mean)),
            queue_delay_p95_ms: steady.map(|s| ms(s.queue_delay_p95)),
            queue_drops_steady: steady.map(|s| s.queue_drops),
            jain: measures.jain,
            start_s,
            start_rounds: start_s.map(|s| s * 1e3 / cell.rtt_of(0)),
            start_drops: measures.start.drops,
            recovery_s: measures.recovery[flow].map(|time| time.as_secs_f64()),
            burst_p50_bytes: burst(50),
            burst_p99_bytes: burst(99),
            burst_max_bytes: burst(100),
            gap_p50_us: gap(50),
            gap_p99_us: gap(99),
            ttfb_ms: report.and_then(|r| Some(ms(r.first_byte?))),
            verify_ms: report.map(|r| ms(r.verify)),
            resumes: report.map(|r| r.resumes),
            chunks_resent: report.map(|r| r.chunks_resent),
            measured: report.map(|r| Measured::from(&r.kpis)),
            lost: up.lost + down.lost,
            queue_drops: up.queue + down.queue,
            marked: up.marked + down.marked,
            queue_max: way.of((up.queue_max, down.queue_max)),
            cpu_s_per_gb: outcome.cpu.as_secs_f64() / gigabytes,
        }
    };
    outcome.flows.iter().enumerate().map(row).collect()
}

/// Rows as CSV, with a line of names first. The columns are those of all rows together, in the order of the first that
/// has them; what a row does not have is empty.
pub fn csv(rows: &[Row]) -> String {
    let rows: Vec<Map<String, Value>> = rows
        .iter()
        .filter_map(|row| match serde_json::to_value(row) {
            Ok(Value::Object(map)) => Some(map),
            _ => None,
        })
        .collect();
    let mut names: Vec<&String> = Vec::new();
    for name in rows.iter().flat_map(Map::keys) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let mut out = names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(",");
    out.push('\n');
    for row in &rows {
        let cells: Vec<String> = names.iter().map(|name| field(row.get(*name))).collect();
        out.push_str(&cells.join(","));
        out.push('\n');
    }
    out
}

fn field(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        // RFC 4180, section 2.
        Some(Value::String(text)) if text.contains([',', '"', '\n']) => {
            format!("\"{}\"", text.replace('"', "\"\""))
        }
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    }
}

/// Of the looks at a run, those about so far apart. ms.
pub fn course(samples: &[Sample], every_ms: f64) -> Vec<Sample> {
    let mut last = 0.0;
    let due = |sample: &&Sample| {
        // What is due at 0.3 is not missed at 0.29999.
        let at = sample.at.as_secs_f64() * 1e3 + 1e-6;
        let due = at >= last + every_ms;
        if due {
            last = at - at % every_ms;
        }
        due
    };
    samples.iter().filter(due).cloned().collect()
}

/// The time series of a run as CSV: rates between looks in Mbit/s, queues and windows in bytes.
pub fn series(samples: &[Sample]) -> String {
    let flows = samples.first().map_or(0, |sample| sample.flows.len());
    let mut out = "t_s,up_mbit,down_mbit,up_queue,down_queue".to_owned();
    for flow in 0..flows {
        let _ = write!(out, ",moved{flow},arrived{flow},rtt{flow}_ms,cwnd{flow},in_flight{flow}");
    }
    out.push('\n');
    let mut last = (0.0, (0, 0));
    for sample in samples {
        let at = sample.at.as_secs_f64();
        let rate = |now: u64, before: u64| (now - before) as f64 * 8e-6 / (at - last.0);
        let (up, down) = (rate(sample.passed.0, last.1.0), rate(sample.passed.1, last.1.1));
        let _ = write!(out, "{at:.3},{up:.3},{down:.3},{},{}", sample.queue.0, sample.queue.1);
        for flow in &sample.flows {
            let rtt = flow.rtt.as_secs_f64() * 1e3;
            let _ = write!(out, ",{},{},{rtt:.3},{},{}", flow.moved, flow.arrived, flow.cwnd, flow.in_flight);
        }
        out.push('\n');
        last = (at, sample.passed);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_course_has_looks_at_its_own_distance() {
        let sample = |ms| Sample {
            at: Duration::from_millis(ms),
            queue: (0, 0),
            passed: (0, 0),
            offered: (0, 0),
            queue_drops: (0, 0),
            flows: Vec::new(),
        };
        let course = |looks: &[u64], every| -> Vec<u128> {
            let samples: Vec<Sample> = looks.iter().copied().map(sample).collect();
            course(&samples, every).iter().map(|sample| sample.at.as_millis()).collect()
        };
        let each_three: Vec<u64> = (1..=100).map(|i| 3 * i).collect();
        assert_eq!(course(&each_three, 100.0), [102, 201, 300]);
        assert_eq!(course(&each_three, 3.0).len(), 100);
        assert_eq!(
            course(&[100, 450, 460, 500], 100.0),
            [100, 450, 500],
            "the ones in between were never looked at"
        );
    }
}
