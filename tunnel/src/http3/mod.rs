//! HTTP/3 (RFC 9114) with extended CONNECT (RFC 9220) and HTTP datagrams (RFC 9297), on h3 and quinn: server and client.
//!
//! ```text
//!  server      serve: one connection, the service, idle and drain      client    Client: requests and CONNECT
//!    request     what a request must be before the service sees it
//!    answer      the service's answer, sent to its end or reset
//!  body        bodies that are pulled, and counted
//!  tunnel      CONNECT: the stream after the answer, and its datagrams
//!  datagrams   one reader of QUIC DATAGRAM frames per connection, a bounded queue per tunnel
//!    sharing     what the connection sends, divided between tunnels and streams
//!      rounds      in which parts
//!  --------------------------------------------------------------------------- h3: frames, QPACK, control streams
//!  quic        h3's view of quinn's connection
//!    halves      and of its streams                                      frames    what goes past, looked at first
//! ```
//!
//! h3 0.0.8 and h3-quinn 0.0.10 have sharp edges. They are met here, and nowhere else:
//!
//! | Edge | Here |
//! |---|---|
//! | a dropped stream is a clean FIN: a truncated body looks complete | `halves::Sender` resets what was not finished |
//! | `stop_sending` and `id` panic while a read is pending | `halves::Receiver` never gives the stream away |
//! | a FIN within a DATA frame looks like the end of the body, and the trailers after it panic | `frames` sees it: H3_FRAME_ERROR |
//! | HEADERS and unknown frames are buffered whole, whatever their length | `frames` bounds them |
//! | every poll reads ahead: small DATA frames fill the memory of a slow reader | `halves::Gate`: read only when nothing is left |
//! | `accept` ends with a GOAWAY that names the last request, and takes one that GOAWAY has excluded | `server` accepts streams itself |
//! | dropping the connection closes QUIC at once, whatever is on its way | `server` waits until it was acknowledged |
//! | datagrams: one reader, the oldest evicted, the peer's settings ignored | `datagrams` |
//! | values of SETTINGS_H3_DATAGRAM and ENABLE_CONNECT_PROTOCOL above 1 are taken for 1 | `frames`: H3_SETTINGS_ERROR |
//! | few rules on fields are checked | `request` |
//! | a `:protocol` other than `connect-udp` or `webtransport` is malformed, and reset | `halves` holds the reset back: 501 |
//!
//! What cannot be mended from here: pseudo-header fields that come twice or late are not seen, the last one counts; a Host that
//! differs from `:authority` is reset with H3_MESSAGE_ERROR rather than answered with 400.
//!
//! Non-goals: endpoints and TLS (the transport's), server push, WebTransport, 1xx, what a tunnel carries.

mod answer;
mod body;
mod client;
mod datagrams;
mod error;
mod frames;
mod halves;
mod quic;
mod request;
mod rounds;
mod server;
mod sharing;
#[cfg(test)]
mod tests;
mod tunnel;

pub use body::{ReceivedBody, RequestBody, ResponseBody};
pub use client::Client;
pub use datagrams::{DatagramReceiver, DatagramSender, Datagrams, SendError};
pub use error::Http3Error;
pub use server::serve;
pub use tunnel::{Tunnelled, Verdict, upgrade};

use std::time::Duration;

/// The protocol name (ALPN, RFC 9114 section 3.1).
pub const ALPN: &[u8] = metra_transport::quic::HTTP3_ALPN;

/// What one connection may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Server: how long a connection lives without a request, an answer under way, or a tunnel
    /// ([`Busy`](metra_fallback::http::Busy)). Default 60 s.
    pub idle: Duration,
    /// Field section of a request or an answer, as RFC 9114 section 4.2.2 counts it. Larger requests are answered with
    /// 431. Bytes, default 16 KiB.
    pub head: u64,
    /// How long the head of a request may take to arrive, and the client how long it waits for the server's settings.
    /// Default 30 s.
    pub head_time: Duration,
    /// Server: requests at a time. Default 64.
    pub streams: u32,
    /// What a peer may send ahead, and what is sent ahead, of all streams. Less caps transfers: a path carries about this
    /// per round trip. Bytes, default 16 MiB.
    pub window: u64,
    /// Server: how long requests and tunnels may still run when the connection is to end. Default 10 s.
    pub grace: Duration,
    /// Datagrams of one tunnel that wait to be read; later ones are dropped. Whoever reads them holds up to as many again.
    /// Bytes, default 1 MiB: a reader that waits a millisecond for its processor loses nothing at 8 Gbit/s.
    pub datagrams: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(60),
            head: 16 << 10,
            head_time: Duration::from_secs(30),
            streams: 64,
            window: 16 << 20,
            grace: Duration::from_secs(10),
            datagrams: 1 << 20,
        }
    }
}

impl Limits {
    /// Bounds what is held of `connection`'s streams.
    fn apply(&self, connection: &quinn::Connection) {
        let number = |value: u64| quinn::VarInt::from_u64(value).unwrap_or(quinn::VarInt::MAX);
        connection.set_receive_window(number(self.window));
        connection.set_send_window(self.window);
        // The control stream, QPACK's two, and some that are ignored (RFC 9114 section 6.2).
        connection.set_max_concurrent_uni_streams(quinn::VarInt::from_u32(UNI_STREAMS));
    }
}

/// Unidirectional streams that a peer may have open.
const UNI_STREAMS: u32 = 16;
