//! What came of a run.

use std::io;
use std::time::Duration;

use metra_client::JobReport;
use metra_gateway::StartError;
use metra_sim_model::{Counts, SpecError};

use crate::bursts::Bursts;
use crate::payload;

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
    /// When it began. Since the start of the run.
    pub began: Duration,
    /// From the beginning of the flow to its end.
    pub elapsed: Duration,
    /// What the other side is known to have got (or what this side received) when the flow was stopped, with all that QUIC
    /// adds; 0 if the flow ended by itself. Bytes.
    pub arrived: u64,
    /// The largest datagram that the path was known to carry then. Bytes of UDP payload.
    pub mtu: u16,
    /// When the first byte of content left its source (push) or came to its sink (pull). Since the start of the run.
    pub first_byte: Option<Duration>,
    /// How the source spaces what it sends, from the scenario's `bursts_from_s` on.
    pub bursts: Option<Bursts>,
    /// The client's report, or why there is none.
    pub report: Result<JobReport, NotDone>,
}

/// Why a flow has no report.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDone {
    /// The run ended at its `stop_s`.
    #[error("stopped, as the plan says")]
    Stopped,
    /// The client gave up, or the run reached its limit.
    #[error("{0}")]
    Failed(String),
}

impl FlowOutcome {
    /// Content per time, from the beginning of the flow to its end. Mbit/s.
    pub fn goodput_mbit(&self) -> f64 {
        let arrived = self.arrived as f64 * payload::share(self.mtu);
        let bytes = self.report.as_ref().map_or(arrived, |report| report.bytes as f64);
        bytes * 8e-6 / self.elapsed.as_secs_f64().max(1e-9)
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
    /// Bytes that were offered to the bottleneck, to the gateway and from it.
    pub offered: (u64, u64),
    /// Packets that found its queue full, to the gateway and from it.
    pub queue_drops: (u64, u64),
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
    /// What has reached the host of the sink, at the moment when it does, repeats and all that QUIC adds included. Bytes.
    pub landed: u64,
    /// The largest datagram that the path is known to carry. Bytes of UDP payload.
    pub mtu: u16,
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
