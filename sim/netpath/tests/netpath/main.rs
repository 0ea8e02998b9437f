//! The `netpath` command with real processes: ping and iperf3 must find what was asked for, and nothing may be left over.
//!
//! One after the other, for they measure. What cannot be tested here, for want of root for instance, is reported as
//! ignored, with the reason. Bounds hold on a busy machine: of delays the least counts, and of work the CPU time.

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

mod harness;
mod life;
mod link;
mod probe;
mod topologies;

fn main() -> ExitCode {
    // This program is also what the tests run in the hosts.
    if let Some(code) = probe::main() {
        return code;
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(1);
    let tests: Vec<Trial> =
        [life::tests(), link::tests(), topologies::tests()].into_iter().flatten().collect();
    libtest_mimic::run(&arguments, tests).exit_code()
}
