//! The TCP side of an address: connections with TLS, each of which becomes a link or is answered as HTTP.
//!
//! ```text
//! TCP --place--> TLS handshake (deadline) --ALPN--> mtp/1: StreamLink --Arrival--> open::stack (deadline)
//!                                           `-----> h2, http/1.1: crate::http (deadline)
//! ```
//!
//! What is not a link holds a place ([`Places`]), and every state of it has an end: the handshake and the opening after
//! `limits.handshake_seconds` each, HTTP after [`STAY`] times that.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use metra_fallback::http::{Limits, serve_http};
use metra_fallback::link::{Key, Opened, StreamLink};
use metra_fallback::tls::{Protocol, Secured, TlsServer};
use metra_transport::{LinkError, LinkKind, Rt};
use rustix::process::{Resource, getrlimit};
use tokio::net::{TcpListener, TcpStream};

use crate::http::{Connection, Site, Sites};
use crate::measure::{Dropped, connection_dropped, handshake_failed, http_failed};
use crate::open::{Arrival, admit};
use crate::places::{Place, Places};

/// Connections that are no links: in all, and from one address.
const PENDING: (usize, usize) = (2048, 256);
/// They have this part of the files that the process may open; the others are for links and what these read and write.
const FILES: u64 = 4;
/// How long HTTP may go on without becoming a link, in times of a handshake: enough for those who look whether we are here,
/// and they may come again.
const STAY: u32 = 3;
/// HTTP/2: requests at a time. A link needs one; tunnels are counted elsewhere.
const STREAMS: u32 = 256;
/// Connections that the kernel holds for us.
const BACKLOG: u32 = 1024;
/// Pause after the system has refused to give us a connection, which is for want of files or memory.
const EXHAUSTED: Duration = Duration::from_millis(50);

/// A TCP socket that takes links in.
pub(crate) struct TcpServer {
    rt: Rt,
    listener: TcpListener,
    settings: TcpSettings,
    /// What is said of HTTP/3 at the same port, if it is there.
    alternative: Option<HeaderValue>,
}

/// What all TCP sockets of a gateway have in common.
#[derive(Clone)]
pub(crate) struct TcpSettings {
    /// Certificates and protocols.
    pub tls: TlsServer,
    /// How long a TLS handshake may take.
    pub handshake: Duration,
    /// Of those that are no links.
    pub pending: Arc<Places>,
    /// Whether there is HTTP/3 at the same port.
    pub http3: bool,
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
        let port = listener.local_addr()?.port();
        let alternative =
            settings.http3.then(|| HeaderValue::try_from(format!("h3=\":{port}\"; ma=86400")).ok());
        Ok(Self { rt, listener, settings, alternative: alternative.flatten() })
    }

    /// Lets connections in, until the gateway shuts down, and sends each on its way.
    pub(crate) async fn run(self: Arc<Self>, sites: Arc<Sites>) {
        let mut exhausted = false;
        loop {
            let accepted = self.listener.accept().await;
            if let Err(error) = &accepted
                && !std::mem::replace(&mut exhausted, true)
            {
                tracing::warn!(%error, "connections cannot be taken");
            }
            let Ok((tcp, peer)) = accepted else {
                // Of one connection, or of the process: then others must end first. The kernel keeps those that wait.
                connection_dropped(Dropped::System);
                self.rt.sleep(EXHAUSTED).await;
                continue;
            };
            exhausted = false;
            let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
            if sites.drain.is_on() {
                connection_dropped(Dropped::Draining);
                continue;
            }
            let place = match self.settings.pending.take(peer.ip()) {
                Ok(place) => place,
                Err(why) => {
                    connection_dropped(why.into());
                    continue;
                }
            };
            let (this, sites) = (self.clone(), sites.clone());
            let displaced = place.displaced();
            self.rt.spawn(async move {
                tokio::select! {
                    () = displaced => connection_dropped(Dropped::Displaced),
                    () = this.serve(tcp, peer, sites, place) => {}
                }
            });
        }
    }

    async fn serve(&self, tcp: TcpStream, peer: SocketAddr, sites: Arc<Sites>, place: Place) {
        metra_fallback::tcp::tune(&tcp);
        let began = self.rt.now();
        let accepted = self.rt.timeout(self.settings.handshake, self.settings.tls.accept(tcp)).await;
        let secured = match accepted.unwrap_or(Err(LinkError::TimedOut)) {
            Ok(secured) => secured,
            Err(error) => {
                tracing::debug!(%peer, %error, "TLS handshake failed");
                return handshake_failed(LinkKind::Tls, &error);
            }
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
                    key: Some(Key::Own(sites.pin.bytes())),
                };
                let link = StreamLink::start(&self.rt, secured.stream, opened, sites.link);
                // The place is held until then.
                admit(sites.opener.clone(), Arrival { link, peer, kind: LinkKind::Tls }).await;
            }
            Protocol::Http2 | Protocol::Http1 => self.http(secured, peer, rtt, sites, place).await,
        }
    }

    async fn http(&self, secured: Secured, peer: SocketAddr, rtt: Duration, sites: Arc<Sites>, place: Place) {
        let _held = sites.drain.hold();
        let is_h2 = secured.protocol == Protocol::Http2;
        let about =
            Arc::new(Connection::new(peer, secured.certificates, rtt, place, self.alternative.clone()));
        let site = Site::new(sites.clone(), about.clone());
        let limits = limits(self.settings.handshake);
        let stay = async {
            let stay = self.rt.timeout(self.settings.handshake * STAY, sites.drain.begun());
            if stay.await.is_err() && about.is_free() {
                // Links and tunnels have an end of their own.
                sites.drain.begun().await;
            }
        };
        if let Err(error) = serve_http(secured.stream, is_h2, site, &limits, stay).await {
            tracing::debug!(%peer, %error, "HTTP ended");
            http_failed(&error);
        }
    }
}

/// Places for connections that are no links, as many as the process has files for.
pub(crate) fn pending() -> Arc<Places> {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX) / FILES;
    let all = usize::try_from(files).unwrap_or(usize::MAX).clamp(1, PENDING.0);
    Places::new(all, PENDING.1.min(all.div_ceil(2)))
}

/// Of a connection of HTTP whose peer has the time of a handshake for whatever is its turn.
fn limits(handshake: Duration) -> Limits {
    Limits {
        header_read: handshake,
        idle: handshake,
        grace: handshake,
        streams: STREAMS,
        ..Limits::default()
    }
}
