//! What came of a run.

use std::io;
use std::time::Duration;

use metra_client::JobReport;
use metra_gateway::StartError;
use metra_sim_model::{Counts, SpecError};

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Of each flow, in the order of the scenario.
    pub flows: Vec<FlowOutcome>,
    /// From clients to the gateway, at the bottleneck.
    pub up: Counts,
    /// From the gateway to clients, at the bottleneck.
    pub down: Counts,
    /// Virtual time from the start until the last client is gone.
    pub elapsed: Duration,
    /// Processor time that the run really took.
    pub cpu: Duration,
    /// The state of links and flows, each `sample_ms`.
    pub samples: Vec<Sample>,
}

/// What came of a flow.
#[derive(Clone, Debug)]
pub struct FlowOutcome {
    /// From the beginning of the flow to its end.
    pub elapsed: Duration,
    /// Of a flow that was stopped: what the other side is known to have got, with all that QUIC adds. Bytes.
    pub arrived: u64,
    /// The client's report, or why there is none.
    pub report: Result<JobReport, String>,
}

impl FlowOutcome {
    /// Content per time, from the beginning of the flow to its end. Mbit/s.
    pub fn goodput_mbit(&self) -> f64 {
        let bytes = self.report.as_ref().map_or(self.arrived, |report| report.bytes);
        bytes as f64 * 8e-6 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// A look at a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Since the start.
    pub at: Duration,
    /// Bytes that wait at the bottleneck, to the gateway and from it.
    pub queue: (u64, u64),
    /// Bytes that the bottleneck has let through, to the gateway and from it.
    pub passed: (u64, u64),
    /// Of each flow.
    pub flows: Vec<FlowSample>,
}

/// A look at a flow, from its client's side. What only a sender knows is 0 at a client that fetches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowSample {
    /// Content handed to QUIC (or received from it) so far; looked at ten times a second. Bytes.
    pub moved: u64,
    /// What the other side is known to have (or what this side received), with all that QUIC adds. Bytes.
    pub arrived: u64,
    /// Smoothed round-trip time of the first link.
    pub rtt: Duration,
    /// Congestion windows of all links. Bytes.
    pub cwnd: u64,
    /// Sent, and neither acknowledged nor taken for lost. Bytes.
    pub in_flight: u64,
}

/// Why there is no outcome.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The scenario makes no sense. Fault: the plan.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The gateway did not start.
    #[error(transparent)]
    Gateway(#[from] StartError),
    /// The run did not end. Fault: the stack, or a limit that is too low.
    #[error("{0}")]
    Stuck(String),
    /// The disk, which the gateway's state is on.
    #[error("{0}")]
    Disk(#[from] io::Error),
}
