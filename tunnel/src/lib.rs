//! UDP through HTTP: CONNECT-UDP (RFC 9298, MASQUE) over HTTP/3, HTTP/2 and HTTP/1.1, as proxy and as client.
//!
//! ```text
//!  proto       the crate metra-tunnel-proto, sans-io: capsules, HTTP datagrams, URI templates, targets, Proxy-Status
//!  http3       HTTP/3 on h3 and quinn, with its sharp edges wrapped: server, client, datagrams by stream
//!  carrier     one tunnel's datagrams, over QUIC DATAGRAM frames or capsules
//!  server      the proxy: grants a request, relays to a UDP socket or to this gateway's own MTP
//!  client      opens a tunnel; a UDP socket for quinn over it
//!  forward     a UDP port of this machine that leads through tunnels, for any program
//! ```

mod carrier;
pub mod client;
pub mod forward;
pub mod http3;
pub mod server;
mod sync;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod through;
pub mod udp;

pub use carrier::{Carrier, Ended};
pub use http3::SendError;
pub use metra_tunnel_proto as proto;
