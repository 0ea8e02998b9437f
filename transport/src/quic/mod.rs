//! Native QUIC (RFC 9000), on quinn.
//!
//! One endpoint is one socket; one connection is one link. The control stream is the first bidirectional
//! stream, a chunk is one unidirectional stream, codes of MTP are the application error codes. TLS 1.3 only,
//! ALPN [`ALPN`]; a server may offer HTTP/3 on the same socket ([`Serves`]), whose connections are handed out as they are. To use more than one core for one session, open several clients; a connection is driven by
//! one task.
//!
//! Non-goals: where certificates come from; reconnecting; DATAGRAM frames of MTP (it has none).
//!
//! What a connection has measured of its path can be kept for the next one ([`Paths`]): it starts from half of that (RFC 9959),
//! and asks for acknowledgements as rarely as the path allows.
//!
//! Early data (0-RTT, RFC 9001 section 4.6): a client that has a ticket sends the first control message with
//! its first packet. Nothing else goes out early, so what may be replayed is known to be that message. A server
//! that rejects early data gets it again, unseen by the caller.

mod acked;
mod acks;
mod bbr;
mod control;
mod deferral;
mod endpoint;
mod error;
mod http3;
mod link;
mod paths;
mod rate;
mod silence;
mod tuning;
mod windows;

pub use deferral::Deferral;
pub(crate) use deferral::Unmarked;
pub use endpoint::{ALPN, Incoming, QuicClient, QuicServer};
pub use http3::{Accepted, HTTP3_ALPN, Http3Connection, Serves};
pub use paths::{Paths, PathsError};
pub use tuning::{AckFrequency, Congestion, DATAGRAM_BUFFER, SocketKind, Tuning};

#[cfg(test)]
mod tests;
