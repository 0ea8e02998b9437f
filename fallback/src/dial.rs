//! A TCP connection to a host, directly or through a proxy.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use metra_transport::Rt;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use crate::error::DialError;
use crate::proxy::{Proxy, Scheme, connect, socks};
use crate::stream::{BoxStream, Stream, prefixed};
use crate::{race, tcp};

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

impl fmt::Debug for Dialed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialed").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// How to dial.
#[derive(Clone, Debug)]
pub struct DialOptions {
    /// For everything together: names, TCP, TLS with the proxy, and its answer. Default 10 s.
    pub timeout: Duration,
    /// How an `https://` proxy is verified; without it none is connected to. Default none.
    pub proxy_tls: Option<ProxyTls>,
}

impl Default for DialOptions {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(10), proxy_tls: None }
    }
}

/// How an `https://` proxy is verified, and what certificate it is shown.
#[derive(Clone)]
pub struct ProxyTls(TlsConnector);

impl ProxyTls {
    /// As `config` says, but for its protocol names (ALPN): a proxy is offered HTTP/1.1 and nothing else, and never
    /// early data, which an attacker may replay.
    pub fn new(mut config: rustls::ClientConfig) -> Self {
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.enable_early_data = false;
        Self(TlsConnector::from(Arc::new(config)))
    }
}

impl fmt::Debug for ProxyTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProxyTls(..)")
    }
}

/// Connects to `target`, through `via` where there is one. The TCP connection is [tuned](tcp::tune).
///
/// A host with several addresses is tried at the next one as soon as one fails or has said nothing for 250 ms (RFC
/// 8305). Through a proxy the host's name is resolved by the proxy, but with `socks5://` here; then its first two
/// addresses are asked for, one after the other. Dropping the future gives up.
///
/// # Errors
/// Why there is no connection; when [`DialOptions::timeout`] is over, one that [is silence](DialError::is_silence)
/// and says what there was no answer to.
pub async fn dial(target: &Target, via: Option<&Proxy>, options: &DialOptions) -> Result<Dialed, DialError> {
    target.check()?;
    let deadline = Instant::now() + options.timeout;
    let Some(proxy) = via else {
        let addresses = resolve(target, deadline).await?;
        let (stream, peer) = reach(&addresses, &target.to_string(), deadline).await?;
        return Ok(Dialed { stream: Box::new(stream), peer });
    };
    // What the proxy is asked for, until one works.
    let mut asked = vec![target.clone()];
    if proxy.scheme() == Scheme::Socks5 {
        let addresses = resolve(target, deadline).await.map_err(advise_socks5h)?;
        let target = |a: &SocketAddr| Target { host: a.ip().to_string(), port: a.port() };
        asked = addresses.iter().take(2).map(target).collect();
    }
    let place = Target { host: proxy.host().to_owned(), port: proxy.port() };
    let addresses = resolve(&place, deadline).await?;
    let mut first = None;
    for target in asked {
        let (stream, peer) = reach(&addresses, &format!("the proxy {proxy}"), deadline).await?;
        match through(stream, proxy, &target, options.proxy_tls.as_ref(), deadline).await {
            Ok(stream) => return Ok(Dialed { stream, peer }),
            Err(refused @ DialError::ProxyRefused { .. }) => first = first.or(Some(refused)),
            Err(error) => return Err(error),
        }
    }
    Err(first.unwrap_or_else(|| no_address(&target.host)))
}

impl Target {
    /// # Errors
    /// [`DialError::Host`] if the host could not be written into a request to a proxy, or means nothing.
    fn check(&self) -> Result<(), DialError> {
        let wrong = |message| Err(DialError::Host { host: self.host.clone(), message });
        if self.host.is_empty() {
            wrong("it is empty")
        } else if self.port == 0 {
            wrong("port 0 is none")
        } else if !self.host.is_ascii() {
            wrong("write it in its ASCII form, which begins with xn--")
        } else if self.host.len() > 255 {
            wrong("it is longer than 255 characters")
        } else if !self.host.bytes().all(|b| b.is_ascii_graphic() && !b"/?#@\\[]\"<>".contains(&b)) {
            wrong("it has characters that no name has")
        } else if self.host.contains(':') && self.without_zone().parse::<IpAddr>().is_err() {
            wrong("only an IPv6 address has colons")
        } else {
            Ok(())
        }
    }

    /// Without the zone of a link-local address.
    fn without_zone(&self) -> &str {
        self.host.split_once('%').map_or(&self.host, |(address, _)| address)
    }
}

/// The addresses of a host in the order in which they are tried, at least one.
async fn resolve(target: &Target, deadline: Instant) -> Result<Vec<SocketAddr>, DialError> {
    if let Ok(address) = target.host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, target.port)]);
    }
    let host = || target.host.clone();
    let found = match timeout_at(deadline, lookup_host((target.host.as_str(), target.port))).await {
        Ok(Ok(found)) => race::order(found),
        Ok(Err(source)) => return Err(DialError::Name { host: host(), source }),
        Err(_) => {
            return Err(DialError::Name { host: host(), source: silence("the resolver did not answer") });
        }
    };
    if found.is_empty() { Err(no_address(&target.host)) } else { Ok(found) }
}

fn no_address(host: &str) -> DialError {
    let source = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    DialError::Name { host: host.to_owned(), source }
}

fn silence(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, text)
}

fn advise_socks5h(error: DialError) -> DialError {
    match error {
        DialError::Name { host, source } => {
            let text = format!("{source}; with socks5h:// the proxy looks the name up");
            DialError::Name { host, source: io::Error::new(source.kind(), text) }
        }
        other => other,
    }
}

/// A TCP connection to the first of the addresses that accepts one. `whose` they are is for people.
async fn reach(
    addresses: &[SocketAddr],
    whose: &str,
    deadline: Instant,
) -> Result<(TcpStream, SocketAddr), DialError> {
    let connect = |address| async move { Ok((TcpStream::connect(address).await?, address)) };
    let rt = Rt::tokio();
    let connected = race::connect(&rt, addresses, connect, race::is_local);
    let (whom, source) = match timeout_at(deadline, connected).await {
        Ok(Ok((stream, peer))) => {
            tcp::tune(&stream);
            return Ok((stream, peer));
        }
        Ok(Err(Some((address, error)))) => (Some(address), error),
        Ok(Err(None)) => (None, io::Error::new(io::ErrorKind::NotFound, "there is no address")),
        Err(_) => (None, silence("nothing came back in time")),
    };
    let to = match whom {
        Some(address) if !whose.contains(&address.to_string()) => format!("{whose} ({})", address.ip()),
        _ => whose.to_owned(),
    };
    Err(DialError::Connect { to, source })
}

/// Asks a proxy, to which there is a TCP connection, for one to `target`.
async fn through(
    stream: impl Stream,
    proxy: &Proxy,
    target: &Target,
    tls: Option<&ProxyTls>,
    deadline: Instant,
) -> Result<BoxStream, DialError> {
    let silent = |message| DialError::ProxySilent { proxy: proxy.to_string(), message };
    let asking = format!("it was asked for {target}");
    match proxy.scheme() {
        Scheme::Http => {
            timeout_at(deadline, http(stream, proxy, target)).await.map_err(|_| silent(asking))?
        }
        Scheme::Https => {
            let stream = match timeout_at(deadline, encrypted(stream, proxy, tls)).await {
                Ok(stream) => stream?,
                Err(_) => return Err(silent("it was asked for TLS".to_owned())),
            };
            timeout_at(deadline, http(stream, proxy, target)).await.map_err(|_| silent(asking))?
        }
        Scheme::Socks5 | Scheme::Socks5h => {
            let mut stream = stream;
            timeout_at(deadline, socks::open(&mut stream, proxy, target))
                .await
                .map_err(|_| silent(asking))??;
            Ok(Box::new(stream))
        }
    }
}

async fn http(mut stream: impl Stream, proxy: &Proxy, target: &Target) -> Result<BoxStream, DialError> {
    let first = connect::open(&mut stream, proxy, target).await?;
    Ok(prefixed(first, stream))
}

async fn encrypted(
    stream: impl Stream,
    proxy: &Proxy,
    tls: Option<&ProxyTls>,
) -> Result<impl Stream, DialError> {
    let failed = |message: String| DialError::ProxyTls { proxy: proxy.to_string(), message };
    let Some(ProxyTls(connector)) = tls else {
        return Err(failed("nothing says whose certificates to trust".to_owned()));
    };
    let name = ServerName::try_from(proxy.host().to_owned())
        .map_err(|_| failed("no certificate can be for such a host".to_owned()))?;
    connector.connect(name, stream).await.map_err(|error| {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match tls {
            Some(rustls::Error::InvalidMessage(_)) => {
                failed("its answer is not TLS: write http:// if it speaks without".to_owned())
            }
            Some(error) => failed(error.to_string()),
            None => DialError::ProxyLost { proxy: proxy.to_string(), source: error },
        }
    })
}

#[cfg(test)]
#[path = "dial_tests.rs"]
mod tests;
