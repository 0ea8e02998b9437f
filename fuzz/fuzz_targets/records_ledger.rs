//! See `metra_core::fuzzing::records_ledger`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| metra_core::fuzzing::records_ledger(data));
