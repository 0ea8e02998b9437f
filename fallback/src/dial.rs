//! A TCP connection to a host, directly or through a proxy.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use crate::stream::BoxStream;

/// Where a connection shall lead.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// A name or an IP address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A connection that leads to its target.
pub struct Dialed {
    /// What is sent here arrives at the target.
    pub stream: BoxStream,
    /// The other end of the TCP connection: the target, or the proxy.
    pub peer: SocketAddr,
}

/// Why there is no connection. The text names the host and, where it is one, the proxy, never a password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The name of the target or of the proxy has no address. Fault: the name, or the resolver.
    #[error("{host}: {source}")]
    Name {
        /// The name.
        host: String,
        /// What the resolver says.
        source: io::Error,
    },
    /// TCP did not connect. Fault: nobody listens there, or something in between refuses or drops.
    #[error("{to}: {source}")]
    Connect {
        /// The address, or the proxy.
        to: String,
        /// What the system says.
        source: io::Error,
    },
    /// TLS with an `https://` proxy failed. Fault: configuration of either.
    #[error("TLS with the proxy {proxy}: {message}")]
    ProxyTls {
        /// The proxy, without credentials.
        proxy: String,
        /// Why.
        message: String,
    },
    /// The proxy wants other credentials, or has none of the ways to show them that are known here.
    #[error("the proxy {proxy} wants credentials: {message}")]
    ProxyAuth {
        /// The proxy, without credentials.
        proxy: String,
        /// What it says, and what to do.
        message: String,
    },
    /// The proxy does not connect to the target. Fault: its rules, or the target is not there.
    #[error("the proxy {proxy} does not connect to {target}: {message}")]
    ProxyRefused {
        /// The proxy, without credentials.
        proxy: String,
        /// The target.
        target: Target,
        /// What it says.
        message: String,
    },
    /// What the proxy said is no answer. Fault: the proxy, or it is none of that kind.
    #[error("the proxy {proxy} did not answer as one: {message}")]
    ProxyProtocol {
        /// The proxy, without credentials.
        proxy: String,
        /// What is wrong.
        message: String,
    },
}
