//! WebSocket (RFC 6455, RFC 8441) as a byte stream, for networks that let only ordinary HTTPS through.
//!
//! ```text
//!   client     asks for a WebSocket over TLS (`crate::http::open`)
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
mod server;
mod stream;
#[cfg(test)]
pub(crate) mod tests;

pub use client::connect;
pub use error::WsError;
pub use server::{Accepted, Rejection, accept};
pub use stream::WsStream;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

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
