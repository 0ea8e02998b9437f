//! Options of TCP sockets.

use tokio::net::TcpStream;

/// Sets what suits bulk transfer. What the system does not know is left out.
pub fn tune(tcp: &TcpStream) {
    let _ = tcp.set_nodelay(true);
}
