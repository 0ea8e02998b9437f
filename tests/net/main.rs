//! `metra` in networks whose owners have views: firewalls of nftables, proxies as Debian has them, links that change.
//!
//! ```text
//!  cargo test                     this program: runs each test as
//!    netpath (sim/netpath)        a network of its own, gone with this program
//!      this program, --inside     the test itself: in private mounts, starts everything in the hosts of `office.toml`
//!        nft, squid, ..., metra   each in the network namespace of its host
//! ```
//!
//! `parts` shows with curl, and without `metra`, that the parts do what the others rely on. What cannot be tested here, for
//! want of root or of a program, is reported as ignored, with the reason. `METRA_E2E_KEEP` keeps what tests have written.
//!
//! Not here: what two processes on one machine can show (`tests/e2e`).

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, which is meant")]
#![allow(missing_docs, reason = "a program")]

use std::process::ExitCode;

use libtest_mimic::Arguments;

/// Makes `tests()`: the named functions of the module as cases.
macro_rules! tests {
    ($($test:ident),+ $(,)?) => {
        pub(crate) fn tests() -> Vec<$crate::harness::Case> {
            let module = module_path!().rsplit("::").next().expect("a name");
            vec![$($crate::harness::Case { name: format!("{module}::{}", stringify!($test)), test: $test }),+]
        }
    };
}

mod blocked;
mod changing;
mod diagnosed;
mod dialled;
mod harness;
mod inspected;
mod ipv6;
mod parts;
mod proxied;
mod resolved;
mod several;
mod tunnelled;

fn main() -> ExitCode {
    let cases = [
        changing::tests(),
        several::tests(),
        diagnosed::tests(),
        ipv6::tests(),
        blocked::tests(),
        proxied::tests(),
        tunnelled::tests(),
        inspected::tests(),
        dialled::tests(),
        resolved::tests(),
        parts::tests(),
    ]
    .into_iter()
    .flatten()
    .collect();
    let mut words = std::env::args();
    // Both that makes the network, and what runs in it.
    if words.next().as_deref() == Some("netpath") {
        return metra_netpath::main();
    }
    if words.next().as_deref() == Some(harness::INSIDE) {
        return harness::inside(
            cases,
            &words.next().expect("a test"),
            words.next().expect("a directory").as_ref(),
        );
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(TEST_THREADS);
    libtest_mimic::run(&arguments, cases.into_iter().map(harness::trial).collect()).exit_code()
}

/// Networks at a time, where nobody asks for another number: they wait for deadlines, mostly, and not for processors.
const TEST_THREADS: usize = 5;
