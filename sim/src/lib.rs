//! The real stack in virtual time: gateway, client and QUIC as they are, over a network that is arithmetic.
//!
//! [`run()`] runs one [`Scenario`]; a [`Plan`] is many of them. The same scenario gives the same [`Outcome`], but for the
//! processor time. What makes that so: one thread; a clock that moves only when nothing can run; quinn's own random
//! choices from the seed; a certificate whose signatures are of one length. Keys and nonces are random as ever, and
//! decide over nothing.
//!
//! What is not as in reality: hosts compute in no time, and a host's own queue never holds a sender up. What a machine
//! can carry is measured on machines.

pub mod bursts;
mod client;
mod clock;
mod host;
mod identity;
pub mod measure;
mod net;
mod outcome;
pub mod payload;
mod plan;
pub mod plot;
pub mod record;
mod run;
mod scenario;
mod socket;

pub use outcome::{FlowOutcome, FlowSample, NotDone, Outcome, RunError, Sample};
pub use plan::{Base, Cell, FlowSpec, Grid, Plan, PlanError};
pub use record::Row;
pub use run::run;
pub use scenario::{Access, Controller, Flow, HostEvent, Policy, Scenario, Way};
