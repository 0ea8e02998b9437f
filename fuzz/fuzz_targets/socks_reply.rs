//! See `metra_fallback::fuzzing::socks_reply`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| metra_fallback::fuzzing::socks_reply(data));
