//! See `metra_tunnel_proto::fuzzing::proxy_status`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| metra_tunnel_proto::fuzzing::proxy_status(data));
