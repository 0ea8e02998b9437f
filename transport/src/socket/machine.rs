//! What this machine gives to sockets: asked, never changed.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;

use quinn::udp::UdpSocketState;

use crate::quic::Tuning;

/// What the system grants a UDP socket of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grants {
    /// For what has come and is not read yet. Bytes; what [`Tuning::socket_receive_buffer`] asked for, or less.
    pub receive_buffer: usize,
    /// For what has not left the machine yet. Bytes.
    pub send_buffer: usize,
    /// Datagrams that the kernel takes with one call (GSO); 1: one at a time.
    pub gso_segments: usize,
    /// Datagrams that it may give with one (GRO); 1: one at a time.
    pub gro_segments: usize,
}

/// What a socket with this tuning is granted; it is closed again.
///
/// # Errors
/// What the system says: there is neither IPv4 nor IPv6, or too many files are open.
pub fn grants(tuning: &Tuning) -> io::Result<Grants> {
    let any = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), SocketAddr::from((Ipv6Addr::LOCALHOST, 0))];
    let socket = UdpSocket::bind(&any[..])?;
    ask(&socket, &UdpSocketState::new((&socket).into())?, tuning)
}

/// Asks for the buffers of `tuning`. A smaller grant is no error: slow is better than not at all.
pub(super) fn ask(socket: &UdpSocket, state: &UdpSocketState, tuning: &Tuning) -> io::Result<Grants> {
    let _ = state.set_recv_buffer_size(socket.into(), tuning.socket_receive_buffer);
    let _ = state.set_send_buffer_size(socket.into(), tuning.socket_send_buffer);
    // Linux says twice what it grants (socket(7)).
    let twice = if cfg!(target_os = "linux") { 2 } else { 1 };
    Ok(Grants {
        receive_buffer: state.recv_buffer_size(socket.into())? / twice,
        send_buffer: state.send_buffer_size(socket.into())? / twice,
        gso_segments: state.max_gso_segments(),
        gro_segments: state.gro_segments(),
    })
}

/// The longest IP packet that any network interface of this machine takes, loopback apart. Bytes; `None` if the system
/// does not say.
pub fn interface_mtu() -> Option<u32> {
    longest(Path::new("/sys/class/net"))
}

/// See [`interface_mtu`]. `dir` has a folder for each interface.
fn longest(dir: &Path) -> Option<u32> {
    let number = |file: &Path| std::fs::read_to_string(file).ok()?.trim().parse::<u32>().ok();
    let mtu = |interface: &Path| {
        let is_loopback = number(&interface.join("type")) == Some(ARPHRD_LOOPBACK);
        if is_loopback { None } else { number(&interface.join("mtu")) }
    };
    std::fs::read_dir(dir).ok()?.filter_map(|entry| mtu(&entry.ok()?.path())).max()
}

/// The type of loopback interfaces (netdevice(7), `if_arp.h`).
const ARPHRD_LOOPBACK: u32 = 772;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_small_buffer_is_granted_and_a_huge_one_is_not() {
        let with = |bytes| {
            let tuning =
                Tuning { socket_receive_buffer: bytes, socket_send_buffer: bytes, ..Tuning::default() };
            grants(&tuning).unwrap()
        };
        let small = with(64 * 1024);
        assert_eq!((small.receive_buffer, small.send_buffer), (64 * 1024, 64 * 1024));
        assert!(small.gso_segments >= 1 && small.gro_segments >= 1);
        // No kernel's limit is so high.
        assert!(with(1 << 30).receive_buffer < 1 << 30);
    }

    #[test]
    fn the_longest_packet_is_not_that_of_loopback() {
        let dir = std::env::temp_dir().join(format!("metra-interfaces-{}", std::process::id()));
        let interface = |name: &str, kind: &str, mtu: &str| {
            std::fs::create_dir_all(dir.join(name)).unwrap();
            std::fs::write(dir.join(name).join("type"), kind).unwrap();
            std::fs::write(dir.join(name).join("mtu"), mtu).unwrap();
        };
        assert_eq!(longest(&dir), None);
        interface("lo", "772\n", "65536\n");
        assert_eq!(longest(&dir), None);
        interface("eth0", "1\n", "1500\n");
        interface("eth1", "1\n", "9001\n");
        interface("odd", "1\n", "many\n");
        assert_eq!(longest(&dir), Some(9001));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
