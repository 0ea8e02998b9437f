//! See `metra_tunnel_proto::fuzzing::http_datagram`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| metra_tunnel_proto::fuzzing::http_datagram(data));
