//! What the tests stand on: a network for each, its hosts, a firewall, and proxies.

#[allow(dead_code, reason = "made for tests/e2e")]
#[path = "../../e2e/harness/data.rs"]
pub(crate) mod data;
#[allow(dead_code, reason = "made for tests/e2e")]
#[path = "../../e2e/harness/forbidden.rs"]
pub(crate) mod forbidden;
#[allow(dead_code, reason = "made for tests/e2e")]
#[path = "../../e2e/harness/gateway.rs"]
mod gateway;
#[allow(dead_code, reason = "made for tests/e2e")]
#[path = "../../e2e/harness/run.rs"]
mod run;
#[allow(dead_code, reason = "made for tests/e2e")]
#[path = "../../e2e/harness/tunnels.rs"]
pub(crate) mod tunnels;

pub(crate) mod bed;
mod cases;
pub(crate) mod certs;
mod daemon;
pub(crate) mod firewall;
mod host;
pub(crate) mod names;
pub(crate) mod office;
pub(crate) mod proxies;
pub(crate) mod squid;

pub(crate) use bed::Bed;
pub(crate) use cases::{Case, INSIDE, inside, skip, trial};
pub(crate) use daemon::{Daemon, program};
pub(crate) use firewall::Firewall;
pub(crate) use gateway::Gateway;
pub(crate) use host::Host;
pub(crate) use run::{Done, Run};

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
