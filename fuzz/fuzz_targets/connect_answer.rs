//! See `metra_fallback::fuzzing::connect_answer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| metra_fallback::fuzzing::connect_answer(data));
