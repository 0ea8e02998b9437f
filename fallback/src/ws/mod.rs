//! WebSocket (RFC 6455, RFC 8441) as a byte stream, for networks that let only ordinary HTTPS through.
//!
//! ```text
//!   client     asks for a WebSocket over TLS: HTTP/1.1 upgrade, or extended CONNECT of HTTP/2
//!     h2         that stream of HTTP/2
//!   server     grants one to a request that hyper has read
//!   stream     bytes in and out of frames
//!     frame      frames                                       sans-io
//! ```
//!
//! The framing is here and not a library's because a byte stream needs neither messages nor their text:
//! payload goes on as it arrives, so nothing is collected, and it never reaches a log.
//!
//! Non-goals: text messages, extensions (compression gains nothing on what MTP carries), Origin (who a peer
//! is says MTP, no cookie), and which path leads where.

mod client;
mod error;
mod frame;
mod h2;
mod server;
mod stream;
#[cfg(test)]
pub(crate) mod tests;

pub use client::connect;
pub use error::WsError;
pub use server::{Accepted, Rejection, accept};
pub use stream::WsStream;

pub(crate) use h2::{FRAME, WINDOW};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AsHeaderName, HeaderMap};

/// What both sides name in `Sec-WebSocket-Protocol`.
pub const SUBPROTOCOL: &str = "mtp.1";

/// `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key` (RFC 6455 section 4.2.2).
fn accept_key(key: &str) -> String {
    use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
    let mut hash = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key.as_bytes());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(hash.finish())
}

/// Whether one of the comma-separated tokens of `name` is `token`, in any case; over all lines of that name.
fn has_token(headers: &HeaderMap, name: impl AsHeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case(token))
}

/// The value of `name` if there is exactly one line of it.
fn single(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}
