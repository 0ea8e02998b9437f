//! Large packets at interfaces, small ones on the link: what network cards do for kernels (TSO, USO, GRO).
//!
//! ```text
//!  read: a frame --> Parts: packets of the MTU --> the model, one by one
//!  what is due   --> runs: what a flow can have as one --> Run::head and payloads --> write: a frame
//! ```
//!
//! A frame is a virtio header and an IP packet: what a TUN interface is read and written in. Nothing here sees a clock, an
//! interface or the model.

mod checksum;
mod coalesce;
mod segment;
mod virtio;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests;

pub(crate) use coalesce::{Run, runs};
pub(crate) use segment::Parts;
pub(crate) use virtio::{VIRTIO, finish};

/// Protocols in IP.
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Where the checksum is in TCP and in UDP. Bytes.
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;

/// Flags of TCP, RFC 9293 section 3.1.
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const CWR: u8 = 0x80;
