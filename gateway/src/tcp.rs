//! The TCP side of an address: connections with TLS, each of which becomes a link or is answered as HTTP.
//!
//! ```text
//! TCP --limits--> TLS handshake (deadline) --ALPN--> mtp/1: StreamLink --Arrival--> open::stack
//!                                            `-----> h2, http/1.1: crate::http
//! ```
//!
//! What has not become a link yet is held for a bounded time, and there is a bounded number of it: in all, and from one address,
//! so that one that opens thousands keeps nobody else out.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metra_certs::Pin;
use metra_fallback::http::{Limits, serve_http};
use metra_fallback::link::{Key, LinkTuning, Opened, StreamLink};
use metra_fallback::tls::{Protocol, TlsServer};
use metra_transport::{LinkError, LinkKind, Rt};
use tokio::net::{TcpListener, TcpStream};

use crate::http::Site;
use crate::open::{Arrival, Opener, admit};

/// Connections that are no links yet: in all, and from one address.
const PENDING: (usize, usize) = (2048, 256);
/// Connections that the kernel holds for us.
const BACKLOG: u32 = 1024;
/// Pause after the system has refused to give us a connection, which is for want of files or memory.
const EXHAUSTED: Duration = Duration::from_millis(50);

/// A TCP socket that takes links in.
pub(crate) struct TcpServer {
    rt: Rt,
    listener: TcpListener,
    settings: TcpSettings,
    draining: Arc<AtomicBool>,
}

/// What all TCP sockets of a gateway have in common.
#[derive(Clone)]
pub(crate) struct TcpSettings {
    /// Certificates and protocols.
    pub tls: TlsServer,
    /// The pin of the certificate.
    pub pin: Pin,
    /// How links behave.
    pub link: LinkTuning,
    /// How long a TLS handshake may take.
    pub handshake: Duration,
    /// Those that are no links yet.
    pub pending: Arc<Pending>,
}

impl TcpServer {
    /// Listens on `address`.
    ///
    /// # Errors
    /// What the system says of the address.
    pub(crate) fn bind(rt: Rt, address: SocketAddr, settings: TcpSettings) -> io::Result<Self> {
        let socket = match address {
            SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
            SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
        };
        // A gateway that is restarted does not wait for what its predecessor has closed.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        Ok(Self { rt, listener, settings, draining: Arc::default() })
    }

    /// Lets no new connections in any more.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Lets connections in, and sends each on its way.
    pub(crate) async fn run(self: Arc<Self>, opener: Opener) {
        loop {
            let (tcp, peer) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Of one connection, mostly; where it is of the process, others must end first.
                    tracing::debug!(%error, "no connection could be taken");
                    self.rt.sleep(EXHAUSTED).await;
                    continue;
                }
            };
            let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
            if self.draining.load(Ordering::Relaxed) {
                continue;
            }
            let Some(place) = self.settings.pending.take(peer.ip()) else {
                metrics::counter!("metra_connections_dropped_total").increment(1);
                continue;
            };
            let (this, opener) = (self.clone(), opener.clone());
            self.rt.spawn(async move { this.serve(tcp, peer, opener, place).await });
        }
    }

    async fn serve(&self, tcp: TcpStream, peer: SocketAddr, opener: Opener, place: Place) {
        let failed = |error: &dyn std::fmt::Display| {
            tracing::debug!(%peer, %error, "TLS handshake failed");
            metrics::counter!("metra_handshakes_failed_total", "kind" => "tls").increment(1);
        };
        metra_fallback::tcp::tune(&tcp);
        let began = self.rt.now();
        let secured = match self.rt.timeout(self.settings.handshake, self.settings.tls.accept(tcp)).await {
            Ok(Ok(secured)) => secured,
            Ok(Err(error)) => return failed(&error),
            Err(_) => return failed(&LinkError::TimedOut),
        };
        // The client's side of a handshake of TLS 1.3 is half of this.
        let rtt = self.rt.now().saturating_duration_since(began) / 2;
        match secured.protocol {
            Protocol::Mtp => {
                let opened = Opened {
                    kind: LinkKind::Tls,
                    peer,
                    certificates: secured.certificates,
                    rtt: Some(rtt),
                    key: Some(Key::Own(self.settings.pin.bytes())),
                };
                let link = StreamLink::start(&self.rt, secured.stream, opened, self.settings.link);
                admit(opener, Arrival { link, peer, kind: LinkKind::Tls }).await;
            }
            http => {
                let is_h2 = http == Protocol::Http2;
                let about = (peer, secured.certificates, rtt, place);
                let draining = self.draining.clone();
                let site = Site::new(self.rt.clone(), self.settings.clone(), opener, draining, about);
                let limits = Limits { header_read: self.settings.handshake, ..Limits::default() };
                // Links have an end of their own; a connection is cut when the process ends.
                let drain = std::future::pending();
                if let Err(error) = serve_http(secured.stream, is_h2, site, &limits, drain).await {
                    tracing::debug!(%peer, %error, "HTTP ended");
                    metrics::counter!("metra_http_failed_total").increment(1);
                }
            }
        }
    }
}

/// Counts connections that are no links yet.
#[derive(Debug, Default)]
pub(crate) struct Pending(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// A place among those that are no links yet.
#[derive(Debug)]
pub(crate) struct Place {
    pending: Arc<Pending>,
    address: IpAddr,
}

impl Pending {
    /// A place for a connection from `peer`, if there is one.
    pub(crate) fn take(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        let address = network_of(peer);
        let mut counts = self.0.lock().expect("no panic while held");
        let here = counts.by_address.get(&address).copied().unwrap_or(0);
        if counts.all >= PENDING.0 || here >= PENDING.1 {
            return None;
        }
        counts.all += 1;
        counts.by_address.insert(address, here + 1);
        Some(Place { pending: self.clone(), address })
    }
}

/// What one owner has: an address of IPv4, 2^64 of IPv6 (RFC 6177 section 2).
fn network_of(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V4(_) => peer,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.pending.0.lock().expect("no panic while held");
        counts.all -= 1;
        if let Some(here) = counts.by_address.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                counts.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn one_address_takes_its_part_and_no_more() {
        let pending = Arc::new(Pending::default());
        let [a, b]: [IpAddr; 2] = ["192.0.2.1", "192.0.2.2"].map(|ip| ip.parse().unwrap());
        let mut held: Vec<_> = (0..PENDING.1).map(|_| pending.take(a).unwrap()).collect();
        assert!(pending.take(a).is_none());
        assert!(pending.take(b).is_some(), "others are let in");
        held.pop();
        assert!(pending.take(a).is_some());
    }

    #[test]
    fn a_network_of_ipv6_is_one_owner() {
        let pending = Arc::new(Pending::default());
        let at = |n: usize| format!("2001:db8:0:1::{n:x}").parse::<IpAddr>().unwrap();
        let held: Vec<_> = (0..PENDING.1).map(|n| pending.take(at(n)).unwrap()).collect();
        assert!(pending.take(at(PENDING.1)).is_none());
        assert!(pending.take("2001:db8:0:2::1".parse().unwrap()).is_some());
        drop(held);
        assert!(pending.0.lock().unwrap().by_address.is_empty(), "nothing is remembered of who has gone");
    }

    #[test]
    fn there_are_so_many_in_all() {
        let pending = Arc::new(Pending::default());
        let at = |n: usize| IpAddr::from([10, 0, (n >> 8) as u8, n as u8]);
        let held: Vec<_> = (0..PENDING.0).map(|n| pending.take(at(n)).unwrap()).collect();
        assert!(pending.take(at(PENDING.0)).is_none());
        drop(held);
        assert!(pending.take(at(0)).is_some());
    }
}
