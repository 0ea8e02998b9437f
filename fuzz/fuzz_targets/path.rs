//! See `metra_core::fuzzing::path`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| metra_core::fuzzing::path(data));
