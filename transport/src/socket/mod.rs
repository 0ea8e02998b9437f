//! UDP sockets as quinn sees them: batches to and from the kernel.
//!
//! Segmentation offload (GSO) sends many datagrams to one destination with one call; it is most of what
//! separates 2 Gbit/s from 10. Non-goal: knowing what is in a datagram.

mod coalesce;
mod paced;
mod udp;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use quinn::AsyncUdpSocket;

use crate::quic::Tuning;

pub(crate) use paced::{HOLD_MAX, Paced, hold_until};

/// The largest datagram that is taken in. Bytes of UDP payload: the most of IPv6.
pub(crate) const DATAGRAM_MAX: u16 = 65_527;

/// Binds a UDP socket; an unspecified IPv6 address serves IPv4 as well.
pub(crate) fn bind(address: SocketAddr, tuning: &Tuning) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    Ok(Arc::new(udp::Socket::bind(address, tuning)?))
}
