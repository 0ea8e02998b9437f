//! The real stack in virtual time: gateway, client and QUIC as they are, over a network that is arithmetic.

mod clock;
mod host;
mod identity;
mod net;
mod run;
mod scenario;
mod socket;

pub use run::{FlowOutcome, Outcome, RunError, Sample, run};
pub use scenario::{Access, Controller, Flow, HostEvent, Scenario, Way};
