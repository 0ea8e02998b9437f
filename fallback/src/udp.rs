//! Whether the network says no to UDP.
//!
//! A QUIC endpoint does not hear of ICMP messages: its socket is not connected to one peer. This asks the same question with a
//! socket that is, so that a refusal is known after a round trip and not by silence.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use metra_transport::{Rt, any};
use tokio::net::UdpSocket;

/// How long a connection has before the question is asked: on most paths it stands by then.
const PATIENCE: Duration = Duration::from_millis(40);
/// When a question is repeated: it, or the answer, may be lost.
const AGAIN: [Duration; 4] =
    [Duration::from_millis(60), Duration::from_millis(250), Duration::from_secs(1), Duration::from_secs(3)];
/// RFC 9000 section 14.1: a server answers no smaller one.
const SIZE: usize = 1200;
/// A version of the form 0x?a?a?a?a, which is never one (RFC 9000 section 15): a server says which it knows.
const VERSION: [u8; 4] = [0x4a, 0x6a, 0x0a, 0x8a];

/// Resolves when the network, or the host, refuses UDP to `peer`, with what it says; never, if it is let through or
/// dropped.
pub async fn rejected(rt: &Rt, peer: SocketAddr) -> io::Error {
    let asked = async {
        rt.sleep(PATIENCE).await;
        let socket = UdpSocket::bind(any(peer)).await?;
        socket.connect(peer).await?;
        let mut answer = [0; 64];
        for wait in AGAIN {
            socket.send(&question()).await?;
            if let Ok(heard) = rt.timeout(wait, socket.recv(&mut answer)).await {
                heard?;
                // Somebody is there.
                return Ok(());
            }
        }
        Ok(())
    };
    match asked.await {
        Ok(()) => std::future::pending().await,
        Err(error) => error,
    }
}

/// A long header of QUIC (RFC 8999 section 5.1).
fn question() -> [u8; SIZE] {
    let mut packet = [0; SIZE];
    packet[0] = 0xc0;
    packet[1..5].copy_from_slice(&VERSION);
    // Connection ids of eight bytes, both zero: the answer is not looked at.
    packet[5] = 8;
    packet[14] = 8;
    packet
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_closed_port_refuses_and_an_open_one_does_not() {
        let rt = Rt::tokio();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let peer = socket.local_addr().unwrap();
        assert!(rt.timeout(Duration::from_millis(500), rejected(&rt, peer)).await.is_err());
        drop(socket);
        let error = rt.timeout(Duration::from_secs(5), rejected(&rt, peer)).await.unwrap();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
