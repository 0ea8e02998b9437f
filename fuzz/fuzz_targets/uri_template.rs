//! See `metra_tunnel_proto::fuzzing::uri_template`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| metra_tunnel_proto::fuzzing::uri_template(data));
