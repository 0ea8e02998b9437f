//! See `metra_core::fuzzing::stream_frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| metra_core::fuzzing::stream_frame(data));
