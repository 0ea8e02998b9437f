//! See `metra_icap::fuzzing::icap_response`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| metra_icap::fuzzing::icap_response(data));
