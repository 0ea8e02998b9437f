//! What the fuzz targets run, and what the test of their corpus runs on stable Rust.
//!
//! Each function takes arbitrary bytes and panics if a promise of the crate does not hold. No part of the crate's
//! interface.

use crate::{Exchange, OptionsExchange, Outcome, ServiceUrl, Subject};

/// A fuzz target: its name, which is also the name of its corpus, and its function.
pub type FuzzTarget = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [FuzzTarget; 1] = [("icap_response", icap_response)];

/// What a service says to a question, with a preview or without. The first byte says which, and how long the pieces
/// are that it arrives in.
pub fn icap_response(data: &[u8]) {
    let Some((&first, stream)) = data.split_first() else { return };
    let Ok(service) = "icap://h/s".parse::<ServiceUrl>() else { return };
    let preview = (first & 1 == 1).then_some(2);
    let whole = answer(&service, preview, stream, stream.len().max(1));
    let parts = answer(&service, preview, stream, usize::from(first >> 1) + 1);
    // Whether something was blocked does not depend on how the bytes arrive, nor does it become clean by more of them.
    assert_eq!(whole.0, parts.0, "the answer depends on how it arrives");
    let (mut options, _) = OptionsExchange::new(&service);
    if let Ok(Some(options)) = options.received(stream) {
        assert!(options.preview.is_none_or(|p| p <= 64 * 1024) && options.max_connections != Some(0));
        assert!(!options.ttl.is_zero() && options.istag.len() <= 800);
    }
}

fn answer(service: &ServiceUrl, preview: Option<usize>, stream: &[u8], piece: usize) -> (String, bool) {
    let mut exchange = Exchange::new(service, &Subject { path: "p".into(), size: 5 }, preview);
    let mut pieces = stream.chunks(piece);
    let outcome = loop {
        // The content is sent at once, as by a fast path.
        while exchange.wants() > 0 {
            exchange.content(&[0; 5][..exchange.wants()]);
        }
        exchange.transmitted(exchange.transmit().len());
        if let Some(outcome) = exchange.outcome() {
            break outcome;
        }
        match pieces.next() {
            Some(piece) => exchange.received(piece),
            None => exchange.closed(),
        }
    };
    let kind = match outcome {
        Outcome::Clean => "clean".to_owned(),
        Outcome::Blocked { what, why } => {
            assert!(!what.is_empty() && what.chars().count() <= 300 && !what.contains(char::is_control));
            format!("blocked {what} {why}")
        }
        Outcome::Modified { .. } => "modified".to_owned(),
        Outcome::Failed(_) => "failed".to_owned(),
    };
    (kind, exchange.is_reusable())
}
