//! What the fuzz targets run, and what the test of their corpus runs on stable Rust.
//!
//! Each function takes arbitrary bytes and panics if a promise of the crate does not hold. No part of the crate's
//! interface.

use crate::proxy::connect;
use crate::proxy::socks::{self, Parsed};

/// A fuzz target: its name, which is also the name of its corpus, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 2] = [("connect_answer", connect_answer), ("socks_reply", socks_reply)];

/// A proxy's answer to CONNECT, and what is behind it.
pub fn connect_answer(data: &[u8]) {
    let Ok(Some((answer, used))) = connect::parse(data) else { return };
    assert!(used <= data.len());
    assert_eq!(
        connect::parse(&data[..used]),
        Ok(Some((answer, used))),
        "what is behind the head does not matter"
    );
    // Quadratic, so not all of a long one.
    for cut in (0..used).rev().take(64) {
        assert_eq!(connect::parse(&data[..cut]), Ok(None), "a head that has not ended is not taken for one");
    }
}

/// A SOCKS proxy's choice of a method, its word on credentials, and its reply, each from the front of `data`.
pub fn socks_reply(data: &[u8]) {
    step_by_step(data, socks::method);
    step_by_step(data, socks::accepted);
    step_by_step(data, socks::reply);
}

/// Feeds a parser what it asks for. It must come to an end, and see the same however much is behind.
fn step_by_step<T: PartialEq + std::fmt::Debug>(data: &[u8], parser: fn(&[u8]) -> Result<Parsed<T>, String>) {
    let mut at = 0;
    while let Some(front) = data.get(..at) {
        match parser(front) {
            Ok(Parsed::More(missing)) => {
                assert!(missing > 0);
                at += missing;
            }
            outcome => {
                assert!(at <= LONGEST_REPLY);
                assert_eq!(parser(data), outcome);
                return;
            }
        }
    }
}

/// Four bytes, a name with its length, a port (RFC 1928 section 6).
const LONGEST_REPLY: usize = 4 + 1 + 255 + 2;
