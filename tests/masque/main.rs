//! UDP through HTTP, against programs that none of us wrote: Envoy as a proxy, aioquic and hyper-h2 as clients, dnsmasq
//! as a server behind the tunnel. All on loopback, as processes of their own.
//!
//! ```text
//!  parts      what the peers do with each other, without `metra`
//!  proxy      clients of aioquic and hyper-h2 at our gateway: what RFC 9298 and 9297 want done, rows of a table
//!  upgrade    HTTP/1.1 at our gateway, as bytes
//!  granted    who gets a tunnel of our gateway, to where, how many, and how they end
//!  many       a thousand tunnels of our gateway, and some that misbehave
//!  ours       `metra` through our gateway: certificates, IPv6, and how tunnels end
//!  through    `metra` through Envoy
//! ```
//!
//! `tests/run` installs the peers (`tests/interop/requirements.txt`). What is missing is reported as ignored, with the
//! reason. The harness is that of `tests/e2e`.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, which is meant")]
#![allow(missing_docs, reason = "a program")]

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

/// Makes `tests()`: the named functions of the module as trials.
macro_rules! tests {
    ($($test:ident),+ $(,)?) => {
        pub(crate) fn tests() -> Vec<libtest_mimic::Trial> {
            let module = module_path!().rsplit("::").next().expect("a name");
            vec![$($crate::harness::test_as(format!("{module}::{}", stringify!($test)), $test)),+]
        }
    };
}

mod granted;
#[allow(dead_code, unused_imports, reason = "made for tests/e2e")]
#[path = "../e2e/harness/mod.rs"]
mod harness;
mod many;
mod ours;
mod parts;
mod peers;
mod proxy;
mod through;
mod upgrade;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let tests: Vec<Trial> = [
        parts::tests(),
        proxy::tests(),
        upgrade::tests(),
        granted::tests(),
        many::tests(),
        ours::tests(),
        through::tests(),
    ]
    .into_iter()
    .flatten()
    .collect();
    libtest_mimic::run(&arguments, tests).exit_code()
}
