//! Why there is no connection.

use std::io;

use crate::dial::Target;

/// Why there is no connection. The text names the host and, where it is one, the proxy, never a password.
///
/// Two questions sort the errors for whoever decides what to try next: [`DialError::is_final`] and
/// [`DialError::is_silence`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The target is none that can be asked for. Fault: the caller, or whoever wrote the name.
    #[error("{host:?} is no host to connect to: {message}")]
    Host {
        /// The host as given.
        host: String,
        /// What is wrong.
        message: &'static str,
    },
    /// The name of the target or of the proxy has no address. Fault: the name, or the resolver.
    #[error("{host}: {source}")]
    Name {
        /// The name.
        host: String,
        /// What the resolver says; [`io::ErrorKind::TimedOut`] if it said nothing in time.
        source: io::Error,
    },
    /// TCP did not connect. Fault: nobody listens there, or something in between refuses or drops.
    #[error("{to}: {source}")]
    Connect {
        /// The address, or the proxy.
        to: String,
        /// What the system says; [`io::ErrorKind::TimedOut`] if nothing came back in time.
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
    /// The proxy accepted the connection and then said nothing, or not enough, in time. Fault: the proxy, or it is
    /// none; where it waits for the target, the path from there.
    #[error("the proxy {proxy} did not answer in time: {message}")]
    ProxySilent {
        /// The proxy, without credentials.
        proxy: String,
        /// What it was asked.
        message: String,
    },
    /// The connection to the proxy broke before there was an answer. Fault: the proxy, or something in between.
    #[error("the connection to the proxy {proxy} broke before it answered: {source}")]
    ProxyLost {
        /// The proxy, without credentials.
        proxy: String,
        /// What the system says; [`io::ErrorKind::UnexpectedEof`] if the proxy closed it.
        source: io::Error,
    },
    /// The proxy wants other credentials, or has none of the ways to show them that are known here.
    #[error("the proxy {proxy} wants credentials: {message}")]
    ProxyAuth {
        /// The proxy, without credentials.
        proxy: String,
        /// The ways it offers (RFC 9110 section 11.6.1), as it writes them. Empty for SOCKS.
        schemes: Vec<String>,
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
        /// Whether the proxy will say the same until somebody changes something: its rules forbid it, or it is no
        /// proxy. `false` where only the target was not reached this time.
        lasting: bool,
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

impl DialError {
    /// Whether trying the same again is of no use until somebody changes something: credentials, an address, the
    /// rules of a proxy.
    pub fn is_final(&self) -> bool {
        match self {
            DialError::Host { .. }
            | DialError::ProxyTls { .. }
            | DialError::ProxyAuth { .. }
            | DialError::ProxyProtocol { .. } => true,
            DialError::ProxyRefused { lasting, .. } => *lasting,
            DialError::Name { .. }
            | DialError::Connect { .. }
            | DialError::ProxySilent { .. }
            | DialError::ProxyLost { .. } => false,
        }
    }

    /// Whether nothing came back in time, as when packets are dropped on the way. Everything else is an answer: a
    /// reset, an ICMP message, the word of a proxy (also its word that the target is silent).
    pub fn is_silence(&self) -> bool {
        match self {
            DialError::Name { source, .. } | DialError::Connect { source, .. } => {
                source.kind() == io::ErrorKind::TimedOut
            }
            DialError::ProxySilent { .. } => true,
            _ => false,
        }
    }
}
