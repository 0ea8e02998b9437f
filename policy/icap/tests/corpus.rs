//! The corpus of the fuzzers, on stable Rust.
#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, reason = "the files under test are read here, not by the crate")]

#[path = "../../../fuzz/replay.rs"]
mod replay;

#[test]
fn every_file_of_the_corpus() {
    replay::replay("metra_icap", &metra_icap::fuzzing::TARGETS);
}
