//! What must hold of the controller, whatever its numbers are tuned to.
//!
//! [`script`] is a path that does what a test says, for one mechanism at a time; [`path`] is a link with a queue in
//! virtual time, for all of it together.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod ablation;
mod congestion;
mod cubic;
mod flows;
mod growth;
mod model;
mod pacer;
mod path;
mod policies;
mod property;
mod resume;
mod sample;
mod script;
mod states;

use super::*;
use crate::rate::{Policy, RatePolicy};

/// Bytes of a full packet.
const MSS: u64 = 1_500;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
