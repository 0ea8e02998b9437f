//! Options of TCP sockets, for both ends.

use std::io;
use std::time::Duration;

use rustix::net::sockopt;
use socket2::SockRef;
use tokio::net::TcpStream;

/// Sets the options that connections of MTP want, whoever opened them: those that are dialled have them already, a
/// listener calls this for each that it accepts.
///
/// No delay for small writes; a connection whose peer is gone fails within [`USER_TIMEOUT`], also while nothing is
/// sent; at most [`NOT_SENT`] bytes wait in the kernel behind what is under way, so that what is urgent is not
/// behind megabytes; and congestion control `bbr` where the kernel has it and lets this process choose it. What a
/// system does not offer is left as it is: none of it is needed for being right.
pub fn tune(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    set("TCP_NODELAY", sockopt::set_tcp_nodelay(stream, true));
    set("SO_KEEPALIVE", sockopt::set_socket_keepalive(stream, true));
    set("TCP_KEEPIDLE", sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE));
    set("TCP_KEEPINTVL", sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL));
    set("TCP_USER_TIMEOUT", sockopt::set_tcp_user_timeout(stream, USER_TIMEOUT.as_millis() as u32));
    // rustix has no safe call for this one; socket2 has.
    set("TCP_NOTSENT_LOWAT", socket.set_tcp_notsent_lowat(NOT_SENT));
    // Refused where the module is not there, or is not in net.ipv4.tcp_allowed_congestion_control.
    let _ = sockopt::set_tcp_congestion(stream, CONGESTION_CONTROL);
}

/// How long sent data, or a keep-alive, may stay unacknowledged before the connection fails (RFC 5482).
pub const USER_TIMEOUT: Duration = Duration::from_secs(30);
/// Most bytes in the kernel that are not yet sent. Bytes.
pub const NOT_SENT: u32 = 256 * 1024;

/// Middleboxes forget connections over which nothing moves, some of them within a minute.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const CONGESTION_CONTROL: &str = "bbr";

fn set<E: Into<io::Error>>(option: &str, result: Result<(), E>) {
    if let Err(error) = result {
        let error: io::Error = error.into();
        tracing::debug!(option, %error, "a socket option is not to be had");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn options_are_set() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        tune(&stream);
        assert!(sockopt::tcp_nodelay(&stream).unwrap());
        assert!(sockopt::socket_keepalive(&stream).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), KEEPALIVE_IDLE);
        assert_eq!(u128::from(sockopt::tcp_user_timeout(&stream).unwrap()), USER_TIMEOUT.as_millis());
        assert_eq!(SockRef::from(&stream).tcp_notsent_lowat().unwrap(), NOT_SENT);
    }
}
