//! The peers, each a process of its own or a thread, and what they need.

mod clients;
mod dns;

pub(crate) mod envoy;
mod server;

#[allow(dead_code, reason = "made for tests/net")]
#[path = "../../net/harness/certs.rs"]
pub(crate) mod certs;

pub(crate) use crate::harness::echo::Echo;
pub(crate) use clients::{Client, Over, Seen, hex, unhex};
pub(crate) use dns::Resolver;
pub(crate) use envoy::Envoy;
pub(crate) use server::Server;

// Bed: what `certs` is written for.
use crate::harness::{Bed, skip};

use std::path::PathBuf;

/// A path in what `tests/run` installs from PyPI, or a skip if it is not there.
fn installed(path: &str) -> PathBuf {
    let venv = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/venv"));
    if !venv.join("installed.txt").exists() {
        skip("Envoy and aioquic are not installed (tests/run test installs them)");
    }
    venv.join(path)
}
