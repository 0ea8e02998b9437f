//! HTTP/3 (RFC 9114) beside MTP: which of the two a connection is for, and what is handed to who speaks HTTP.
//!
//! The seam to HTTP/3 is the QUIC connection itself: streams and DATAGRAM frames are all that it needs. Non-goal: HTTP.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use quinn::Connection;
use quinn::crypto::rustls::HandshakeData;
use rustls::pki_types::CertificateDer;

use super::deferral::{Deferral, Unmarked};
use super::endpoint::ALPN;
use super::error;
use super::tuning::{Path, Tuning};
use crate::link::{Link, LinkError};

/// The protocol name of HTTP/3 (RFC 9114 section 3.1).
pub const HTTP3_ALPN: &[u8] = b"h3";

/// What a socket speaks, and lets clients choose from (ALPN, RFC 7301).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Serves {
    /// MTP only.
    #[default]
    Mtp,
    /// MTP and HTTP/3. A client that offers both gets MTP.
    MtpAndHttp3,
}

impl Serves {
    pub(super) fn alpn(self) -> Vec<Vec<u8>> {
        match self {
            Serves::Mtp => vec![ALPN.to_vec()],
            Serves::MtpAndHttp3 => vec![ALPN.to_vec(), HTTP3_ALPN.to_vec()],
        }
    }
}

/// A client that was let in.
pub enum Accepted {
    /// For MTP. The handshake may still go on.
    Link(Arc<dyn Link>),
    /// For HTTP/3. The handshake is over.
    Http3(Http3Connection),
}

impl fmt::Debug for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Accepted::Link(link) => write!(f, "Link({})", link.peer()),
            Accepted::Http3(connection) => connection.fmt(f),
        }
    }
}

impl Accepted {
    /// The link, if it is one. A connection for HTTP/3 is closed then.
    pub fn into_link(self) -> Option<Arc<dyn Link>> {
        match self {
            Accepted::Link(link) => Some(link),
            Accepted::Http3(connection) => {
                connection.close();
                None
            }
        }
    }
}

/// A QUIC connection that agreed on HTTP/3, whose handshake is over: nothing that is read from it was replayed.
#[derive(Debug)]
pub struct Http3Connection(Connection, Arc<Unmarked>);

impl Http3Connection {
    pub(super) fn new(connection: Connection, unmarked: Arc<Unmarked>) -> Self {
        Self(connection, unmarked)
    }

    /// What can switch its congestion control off.
    pub fn deferral(&self) -> Deferral {
        Deferral::new(self.0.clone(), self.1.clone())
    }

    /// The connection, for who speaks HTTP/3 on it.
    pub fn into_inner(self) -> Connection {
        self.0
    }

    /// The address of the peer.
    pub fn peer(&self) -> SocketAddr {
        let address = self.0.remote_address();
        SocketAddr::new(address.ip().to_canonical(), address.port())
    }

    /// The certificates that the peer has shown, its own first; DER. `None`: none.
    pub fn peer_certificates(&self) -> Option<Vec<Vec<u8>>> {
        let chain = self.0.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
        Some(chain.iter().map(|der| der.to_vec()).collect())
    }

    /// Ends it with `H3_NO_ERROR` (RFC 9114 section 8.1): for who does not want it.
    pub fn close(self) {
        self.0.close(quinn::VarInt::from_u32(0x100), b"");
    }
}

/// Whether TLS agreed on HTTP/3. The client's hello must have been read.
pub(super) fn is_http3(data: Box<dyn std::any::Any>) -> bool {
    data.downcast::<HandshakeData>()
        .is_ok_and(|data| data.protocol.as_deref().is_some_and(|name| name == HTTP3_ALPN))
}

/// What a client of HTTP/3 uses towards `path`.
pub(super) fn client_transport(
    tuning: &Tuning,
    path: Path,
    interface: Option<u32>,
    seed: u64,
) -> quinn::TransportConfig {
    let mut config = tuning.transport(path, interface, seed, None);
    // Datagrams of QUIC within a tunnel are 1200 bytes at least (RFC 9000 section 14), which packets of 1200 do not
    // carry: their tunnel would wait for the MTU to be found. A path that takes less than this is not for such tunnels.
    config.initial_mtu(INITIAL_MTU).min_mtu(MIN_MTU);
    config
}

/// The error of a method that is not for this kind of client.
pub(super) fn wrong_kind() -> LinkError {
    error::invalid("this client was made for the other protocol")
}

/// Size of the first packets. Bytes of UDP payload.
const INITIAL_MTU: u16 = 1350;
/// What is used when larger packets vanish. Bytes of UDP payload.
const MIN_MTU: u16 = 1200;
