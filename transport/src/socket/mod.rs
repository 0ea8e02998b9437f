//! UDP sockets as quinn sees them: batches to and from the kernel.
//!
//! Segmentation offload (GSO) sends many datagrams to one destination with one call; it is most of what
//! separates 2 Gbit/s from 10. Non-goal: knowing what is in a datagram.

mod coalesce;
mod machine;
mod marks;
mod paced;
mod packets;
mod udp;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use quinn::AsyncUdpSocket;

use crate::quic::Tuning;

pub use machine::{Grants, grants, interface_mtu};
pub use marks::EcnSeen;
pub(crate) use marks::{Marked, Marks};
pub(crate) use paced::{HOLD_MAX, Paced, hold_until};
pub(crate) use packets::carried;
pub use packets::{Packets, ROOM};

/// The largest datagram that is taken in. Bytes of UDP payload: the most of IPv6. Larger datagrams take no more memory: quinn
/// has room for 32 of this size for each socket, 2 MiB, as the kernel may join what it received up to 64 KB.
pub(crate) const DATAGRAM_MAX: u16 = 65_527;

/// Binds a UDP socket; an unspecified IPv6 address serves IPv4 as well.
pub(crate) fn bind(address: SocketAddr, tuning: &Tuning) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    Ok(Arc::new(udp::Socket::bind(address, tuning)?))
}

/// Where to bind a socket that sends to `peer`, and that may be any: the unspecified address of the same family, port 0.
pub fn any(peer: SocketAddr) -> SocketAddr {
    match peer {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

/// The address from which the system would send to `peer`, whose port may be any but 0. Nothing is sent to find out.
///
/// # Errors
/// What the system says: there is no route, mostly.
pub fn source(peer: SocketAddr) -> io::Result<IpAddr> {
    let socket = UdpSocket::bind(any(peer))?;
    socket.connect(peer)?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn this_host_is_reached_from_itself() {
        let here = IpAddr::from(Ipv4Addr::LOCALHOST);
        assert_eq!(source((here, 9).into()).unwrap(), here);
    }
}
