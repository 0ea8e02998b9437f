//! See `metra_core::fuzzing::receipt`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| metra_core::fuzzing::receipt(data));
