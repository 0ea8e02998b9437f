//! What the tests stand on: a bed of their own, a gateway and clients as child processes, a path that can be made slow
//! or cut, and a peer that speaks MTP without manners.

pub(crate) mod bed;
pub(crate) mod data;
pub(crate) mod echo;
pub(crate) mod forbidden;
pub(crate) mod gateway;
pub(crate) mod hostile;
pub(crate) mod metrics;
pub(crate) mod raw;
pub(crate) mod relay;
pub(crate) mod run;
pub(crate) mod scanner;
pub(crate) mod service;
pub(crate) mod tcp;
pub(crate) mod tunnels;
pub(crate) mod users;
pub(crate) mod ways;

pub(crate) use bed::{Bed, Mount, skip, test_as};
pub(crate) use data::Tree;
pub(crate) use gateway::Gateway;
pub(crate) use metrics::Metrics;
pub(crate) use relay::Relay;
pub(crate) use run::Done;

use std::time::{Duration, Instant};

/// How long anything that is waited for may take before the test fails. Long, because the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for `condition`, and fails with `what` if it does not come true in time.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
