//! End to end: the `metra` command as a user has it, gateway and clients as processes of their own, real files.
//!
//! Every test has a bed of its own (`harness/bed.rs`) and can run next to any other. What cannot be tested here, for
//! want of root for instance, is reported as ignored, with the reason.
//!
//! Not here: what one crate can test alone.

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

mod abuse;
mod audit;
mod auth;
mod concurrency;
mod content;
mod decisions;
mod disk;
mod edited;
mod forbidden;
mod harness;
mod hostile;
mod idle;
mod interrupt;
mod jwt;
mod limits;
mod measured;
mod names;
mod options;
mod policy;
mod receipts;
mod refused;
mod refused_http;
mod resume;
mod shaping;
mod source;
mod trees;
mod tunnel;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    // Those that take longest first, so that the others fill the gaps.
    let tests: Vec<Trial> = [
        resume::tests(),
        shaping::tests(),
        edited::tests(),
        disk::tests(),
        content::tests(),
        concurrency::tests(),
        measured::tests(),
        idle::tests(),
        refused::tests(),
        refused_http::tests(),
        interrupt::tests(),
        abuse::tests(),
        limits::tests(),
        audit::tests(),
        source::tests(),
        trees::tests(),
        options::tests(),
        names::tests(),
        hostile::tests(),
        auth::tests(),
        jwt::tests(),
        policy::tests(),
        decisions::tests(),
        forbidden::tests(),
        receipts::tests(),
        tunnel::tests(),
    ]
    .into_iter()
    .flatten()
    .collect();
    libtest_mimic::run(&arguments, tests).exit_code()
}
