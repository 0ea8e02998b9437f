//! What the tunnels say on the wire, sans-io: UDP through HTTP (RFC 9298) in HTTP datagrams (RFC 9297).
//!
//! Bytes in, meaning out, and the other way round. Nothing here opens a socket, reads a clock or knows quinn, h2 or
//! hyper; who may reach which target is decided in `metra-policy`.
//!
//! ```text
//!  one UDP payload   in a QUIC DATAGRAM frame   quarter stream id | context id 0 | payload          datagram
//!                    on the request's stream    type 0 | length   | context id 0 | payload          capsule
//!  the request       template: what a client is configured with    target: what it asks for    capsule_protocol
//!  the response      proxy_status: why it is refused               capsule_protocol
//! ```

pub mod capsule;
pub mod capsule_protocol;
pub mod datagram;
mod fields;
#[doc(hidden)]
pub mod fuzzing;
mod percent;
mod prefix;
pub mod proxy_status;
pub mod target;
pub mod template;

pub use prefix::Prefix;
pub use proxy_status::{ErrorType, ProxyStatus};
pub use target::Target;
pub use template::{Template, TemplateError};

/// Longest payload of a UDP datagram that context 0 may carry: 65535 less the UDP header (RFC 9298, section 5). Bytes.
pub const UDP_PAYLOAD_MAX: usize = 65_527;

/// How a stream is aborted whose message is malformed, over HTTP/3 (RFC 9114, section 4.1.2).
pub const H3_MESSAGE_ERROR: u64 = 0x010e;
/// How a stream is aborted whose message is malformed, over HTTP/2: PROTOCOL_ERROR (RFC 9113, section 8.1.1).
pub const H2_PROTOCOL_ERROR: u32 = 0x1;
