//! MTP where UDP does not get through: over TLS, over WebSocket, through proxies; and the ladder that finds the way.
//!
//! ```text
//!   ladder      which way to try when, what is remembered of a network           sans-io
//!   gain        how many links are worth having                                 sans-io
//!   link        a byte stream as a Link: chunks one after another, control between
//!   tls  ws     the byte streams: TLS (ALPN mtp/1), WebSocket over HTTP/1.1 and HTTP/2
//!   http        HTTP/1.1 and HTTP/2 on one connection of a server, with limits
//!   dial        a TCP connection to a host, directly or through a proxy
//!     race        the first of its addresses that answers                        RFC 8305
//!     tcp         options of sockets
//!     proxy       HTTP CONNECT, SOCKS5; which proxy is for which host
//! ```
//!
//! Non-goals: sessions and jobs (they see links only), and what a gateway serves besides MTP on the same port.

mod ahead;
mod dial;
mod error;
pub mod gain;
pub mod http;
pub mod ladder;
pub mod link;
pub mod proxy;
pub mod race;
mod stream;
pub mod tcp;
pub mod tls;
pub mod udp;
pub mod ws;

pub use dial::{DialOptions, Dialed, ProxyTls, Target, dial};
pub use error::DialError;
pub use stream::{BoxStream, Stream};
