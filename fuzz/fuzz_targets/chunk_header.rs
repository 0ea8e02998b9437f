//! See `metra_core::fuzzing::chunk_header`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| metra_core::fuzzing::chunk_header(data));
