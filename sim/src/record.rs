//! What is kept of a run, as a row of a table.

use std::fmt::Write as _;

use metra_client::Measured;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::outcome::{Outcome, Sample};
use crate::plan::Cell;

/// One flow of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Of the bottleneck, each way. Mbit/s.
    pub rate_mbit: f64,
    /// Without queues. ms.
    pub rtt_ms: f64,
    /// Each way. %.
    pub loss_percent: f64,
    /// Congestion controller.
    pub controller: &'static str,
    /// Push or pull.
    pub way: &'static str,
    /// Of the network's randomness.
    pub seed: u64,
    /// Number of the flow, from 0.
    pub flow: usize,
    /// Empty, or why the flow was not done.
    pub error: String,
    /// From the beginning of the flow to its end. s.
    pub seconds: f64,
    /// Content per time. Mbit/s.
    pub goodput_mbit: f64,
    /// `goodput_mbit` over `rate_mbit`.
    pub of_rate: f64,
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
    let row = |(flow, of): (usize, &crate::outcome::FlowOutcome)| {
        let report = of.report.as_ref().ok();
        Row {
            rate_mbit: cell.rate_mbit,
            rtt_ms: cell.rtt_ms,
            loss_percent: cell.loss_percent,
            controller: cell.controller.name(),
            way: cell.way.name(),
            seed: cell.scenario.seed,
            flow,
            error: of.report.as_ref().err().map(ToString::to_string).unwrap_or_default(),
            seconds: of.elapsed.as_secs_f64(),
            goodput_mbit: of.goodput_mbit(),
            of_rate: of.goodput_mbit() / cell.rate_mbit,
            ttfb_ms: report.and_then(|r| Some(r.first_byte?.as_secs_f64() * 1e3)),
            verify_ms: report.map(|r| r.verify.as_secs_f64() * 1e3),
            resumes: report.map(|r| r.resumes),
            chunks_resent: report.map(|r| r.chunks_resent),
            measured: report.map(|r| Measured::from(&r.kpis)),
            lost: up.lost + down.lost,
            queue_drops: up.queue + down.queue,
            marked: up.marked + down.marked,
            queue_max: if cell.way == crate::Way::Push { up.queue_max } else { down.queue_max },
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
