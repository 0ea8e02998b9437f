//! Opening a connection to a gateway by one rung of the ladder.

mod masque;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, SystemTime};

use metra_certs::{Untrusted, client_config, pin_of};
use metra_core::code::Code;
use metra_fallback::ladder::{Outcome, Place, Rung};
use metra_fallback::link::{Key, LinkTuning, Opened, StreamLink};
use metra_fallback::proxy::Proxy;
use metra_fallback::tls::{Protocol, Secured, TlsClient};
use metra_fallback::ws::{self, WsError};
use metra_fallback::{DialError, DialOptions, Dialed, ProxyTls, Target, dial, race, udp};
use metra_transport::quic::{QuicClient, Tuning};
use metra_transport::{Link, LinkError, Rt, any, source};
use metra_tunnel::client::Opened as Tunnel;

use self::masque::Chain;
use crate::connect::ConnectOptions;
use crate::error::ClientError;
use crate::probe::Trouble;

/// How long a gateway may take to answer when a link is opened.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Where a gateway takes WebSockets.
const WEBSOCKET_PATH: &str = "/mtp";
const UDP_REFUSED: &str = "UDP is refused: ";

/// How a gateway is reached.
pub(crate) struct Reach {
    rt: Rt,
    address: crate::Address,
    tls: Arc<rustls::ClientConfig>,
    secure: TlsClient,
    proxy: Option<Proxy>,
    /// For tunnels; `None` if there can be none.
    chain: Option<Chain>,
    dialling: DialOptions,
    tuning: Tuning,
    /// Whether there is anything but QUIC: then it is worth to know soon that it does not work.
    has_others: bool,
    refuse_inspection: bool,
    /// The gateway's first address.
    peer: OnceLock<IpAddr>,
}

/// How long one try to reach a gateway may take, where a user has said how long all of them may.
pub(crate) fn limit(retry_for: Duration) -> Duration {
    retry_for.clamp(Duration::from_secs(1), OPEN_TIMEOUT)
}

/// A connection that stands, and has not said hello.
pub(crate) struct Reached {
    pub(crate) link: Arc<dyn Link>,
    /// What must live as long as the link.
    pub(crate) endpoint: Option<Endpoint>,
    /// The same link, if it is one on a byte stream.
    pub(crate) stream: Option<Weak<StreamLink>>,
}

/// What a link over QUIC needs: its socket, and what that is in. Dropped in this order.
pub(crate) struct Endpoint {
    pub(crate) quic: QuicClient,
    tunnel: Option<Tunnel>,
}

impl Endpoint {
    /// Lets the gateway know that its links are closed, and proxies that their tunnels are; as far as they can be told in `patience`
    /// each.
    pub(crate) async fn close(self, rt: &Rt, patience: Duration) {
        let _ = rt.timeout(patience, self.quic.wait_idle()).await;
        drop(self.quic);
        if let Some(tunnel) = self.tunnel {
            let _ = rt.timeout(patience, tunnel.close(rt)).await;
        }
    }
}

/// Why there is no connection.
#[derive(Clone, Debug)]
pub(crate) struct Unreached {
    /// For the ladder.
    pub(crate) outcome: Outcome,
    /// For the user, if there is no other way.
    pub(crate) error: ClientError,
    /// The gateway itself has said so: it would say the same on any other way.
    pub(crate) by_gateway: bool,
    /// For whoever looks for the cause.
    pub(crate) trouble: Trouble,
}

impl Reach {
    pub(crate) fn new(rt: Rt, options: &ConnectOptions) -> Result<Self, ClientError> {
        let certificate = options.certificate.as_ref().map(|(cert, key)| (cert.as_path(), key.as_path()));
        let tls = client_config(&options.trust, certificate)?;
        // A proxy is no gateway: it is trusted as web sites are, by the same authorities, and never by a pin.
        let proxy_tls = match client_config(&options.trust.clone().without_pins(), None) {
            Ok(config) => Some(ProxyTls::new((*config).clone())),
            Err(_) => None,
        };
        let target = target(&options.address);
        Ok(Self {
            rt,
            address: options.address.clone(),
            chain: Chain::new(options, &tls)?,
            secure: TlsClient::new(&tls),
            tls,
            proxy: options.proxy.for_target(&target).cloned(),
            dialling: DialOptions { proxy_tls, timeout: limit(options.retry_for).mul_f64(0.75) },
            tuning: options.tuning.clone(),
            has_others: options.via.len() > 1,
            refuse_inspection: options.refuse_inspection,
            peer: OnceLock::new(),
        })
    }

    /// The same, for looking at one rung after the other: a step may take `patience`, and of MTUs nothing is tried beyond
    /// `mtu`, which is found sooner.
    pub(crate) fn for_probe(
        rt: Rt,
        options: &ConnectOptions,
        patience: Duration,
        mtu: u16,
    ) -> Result<Self, ClientError> {
        let mut reach = Self::new(rt, options)?;
        reach.dialling.timeout = patience;
        reach.has_others = true;
        // It is to be shown; see there for what is not sent then.
        reach.refuse_inspection = false;
        let tuning = &mut reach.tuning;
        tuning.mtu_upper_bound = tuning.mtu_upper_bound.min(mtu);
        tuning.mtu_upper_bound_loopback = tuning.mtu_upper_bound_loopback.min(mtu);
        tuning.paths = None;
        Ok(reach)
    }

    /// The round-trip time to the gateway, as far as earlier connections have found it out.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.tuning.paths.as_ref()?.min_rtt(*self.peer.get()?, SystemTime::now())
    }

    /// Whether a rung goes through a proxy.
    pub(crate) fn is_proxied(&self, rung: Rung) -> bool {
        self.proxies(rung).is_some()
    }

    /// Opens a connection. There is no deadline here.
    pub(crate) async fn open(&self, rung: Rung) -> Result<Reached, Unreached> {
        match rung {
            Rung::Quic => self.quic().await,
            Rung::Masque => self.masque().await,
            Rung::MasqueTcp => self.tunnelled(self.dialled_to_proxy().await?).await,
            Rung::Tls | Rung::WebSocket => self.secured(rung, self.dialled().await?).await,
        }
    }

    /// The first half of a rung over TCP: a connection that leads to the gateway.
    pub(crate) async fn dialled(&self) -> Result<Dialed, Unreached> {
        let dialled = dial(&target(&self.address), self.proxy.as_ref(), &self.dialling).await;
        dialled.map_err(|error| Unreached::dialling(&error))
    }

    /// The second half: what is spoken on it.
    pub(crate) async fn secured(&self, rung: Rung, dialled: Dialed) -> Result<Reached, Unreached> {
        let began = self.rt.now();
        let host = &self.address.host;
        let opened = match rung {
            Rung::WebSocket => {
                let secured = self.secure.http(dialled.stream, host).await.map_err(Unreached::link)?;
                let is_h2 = secured.protocol == Protocol::Http2;
                let authority = self.address.to_string();
                let opened = ws::connect(secured.stream, is_h2, &authority, WEBSOCKET_PATH).await;
                Secured { stream: Box::new(opened.map_err(|e| Unreached::websocket(&e))?), ..secured }
            }
            _ => self.secure.mtp(dialled.stream, host).await.map_err(Unreached::link)?,
        };
        let rtt = self.rt.now().saturating_duration_since(began);
        let about = Opened {
            kind: rung.kind(),
            peer: dialled.peer,
            key: shown(opened.certificates.as_deref()),
            certificates: opened.certificates,
            rtt: Some(rtt),
        };
        let tuning = LinkTuning {
            idle_timeout: self.tuning.idle_timeout,
            keep_alive: self.tuning.keep_alive,
            from_strangers: None,
        };
        let link = StreamLink::start(&self.rt, opened.stream, about, tuning);
        if self.refuse_inspection && link.find_out_whether_inspected().await != Some(false) {
            let message = "the TLS connection is inspected: the certificate is not the gateway's own";
            link.close(Code::Denied, "inspected");
            let error = ClientError::new(Code::Denied, message);
            return Err(Unreached {
                outcome: Outcome::Refused(message.to_owned()),
                trouble: Trouble::Tls(message.to_owned()),
                error,
                by_gateway: false,
            });
        }
        Ok(Reached { stream: Some(Arc::downgrade(&link)), link, endpoint: None })
    }

    async fn quic(&self) -> Result<Reached, Unreached> {
        let addresses = race::order(self.addresses().await?);
        let opened = race::connect(&self.rt, &addresses, |address| self.quic_at(address), |_| false).await;
        opened.map_err(|error| match error {
            Some((_, error)) => error,
            None => Unreached::refused(Code::NotFound, format!("{}: no address", self.address)),
        })
    }

    async fn quic_at(&self, address: SocketAddr) -> Result<Reached, Unreached> {
        // A socket of its own for each link: several links are several flows, and run on several cores.
        let endpoint = QuicClient::new(self.rt.clone(), any(address), self.tls.clone(), self.tuning.clone())
            .map_err(|e| Unreached::refused(Code::Internal, e.to_string()))?;
        let connected = tokio::select! {
            biased;
            link = endpoint.connect(address, &self.address.host) => link.map_err(Unreached::link),
            error = self.udp_rejected(address) => {
                Err(Unreached::refused(Code::Timeout, format!("{UDP_REFUSED}{error}")))
            }
        };
        Ok(Reached {
            link: connected?,
            endpoint: Some(Endpoint { quic: endpoint, tunnel: None }),
            stream: None,
        })
    }

    /// As [`udp::rejected`], where it is worth to know soon that UDP does not work; else never.
    async fn udp_rejected(&self, address: SocketAddr) -> std::io::Error {
        if self.has_others { udp::rejected(&self.rt, address).await } else { std::future::pending().await }
    }

    /// The gateway's addresses.
    pub(crate) async fn addresses(&self) -> Result<Vec<SocketAddr>, Unreached> {
        let host = (self.address.host.as_str(), self.address.port);
        let found = tokio::net::lookup_host(host).await;
        let found =
            found.map_err(|e| Unreached::refused(Code::NotFound, format!("{}: {e}", self.address)))?;
        Ok(found.collect())
    }

    /// Where it is reached from, for the memory of networks; `None` for this machine itself.
    pub(crate) async fn place(&self) -> Option<Place> {
        let towards = match &self.proxy {
            Some(proxy) => (proxy.host().to_owned(), proxy.port()),
            None => (self.address.host.clone(), self.address.port),
        };
        let peer = tokio::net::lookup_host(towards).await.ok()?.next()?;
        if self.proxy.is_none() {
            self.peer.get_or_init(|| peer.ip().to_canonical());
        }
        let from = local_address(peer)?;
        // Those of all rungs: what works through others is another matter.
        let proxy = self.proxies(Rung::MasqueTcp);
        Some(Place::new(&network(from), proxy.as_deref(), &self.address.to_string()))
    }
}

/// The key of the certificate that a server has shown.
fn shown(certificates: Option<&[Vec<u8>]>) -> Option<Key> {
    let own = certificates?.first()?;
    pin_of(&own.as_slice().into()).ok().map(|pin| Key::Shown(pin.bytes()))
}

/// The address from which this machine would send there; `None` if that is itself, or is not known.
fn local_address(peer: SocketAddr) -> Option<IpAddr> {
    let ip = source_address(peer)?;
    (!ip.is_loopback() && ip != peer.ip().to_canonical()).then_some(ip)
}

/// The address from which this machine would send there.
pub(crate) fn source_address(peer: SocketAddr) -> Option<IpAddr> {
    source(peer).ok().map(|ip| ip.to_canonical())
}

/// The network of an address: whoever has the same is behind the same firewall, as a rule.
fn network(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(v4) => format!("{}/24", Ipv4Addr::from_bits(v4.to_bits() & 0xffff_ff00)),
        IpAddr::V6(v6) => format!("{}/64", Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
    }
}

fn target(address: &crate::Address) -> Target {
    Target { host: address.host.clone(), port: address.port }
}

impl Unreached {
    pub(crate) fn link(error: LinkError) -> Self {
        let mut told = ClientError::link(&error);
        if let LinkError::Handshake(text) = &error
            && Untrusted::sentence_in(text).is_none()
            && !text.contains("ertificate")
        {
            // Whoever answers does not speak what was asked for, which says nothing of who it is.
            told.code = Code::Protocol;
        }
        let outcome = match error {
            LinkError::TimedOut => Outcome::Silent,
            _ => Outcome::Refused(told.message.clone()),
        };
        let trouble = Trouble::link(&error);
        Self { outcome, error: told, by_gateway: matches!(error, LinkError::ClosedByPeer { .. }), trouble }
    }

    /// What the gateway answered instead of a welcome.
    pub(crate) fn by_gateway(error: ClientError) -> Self {
        let trouble = Trouble::Answer(error.clone());
        Self { outcome: Outcome::Refused(error.message.clone()), error, by_gateway: true, trouble }
    }

    fn dialling(error: &DialError) -> Self {
        let message = error.to_string();
        let outcome = if error.is_silence() { Outcome::Silent } else { Outcome::Refused(message.clone()) };
        let code = match error {
            DialError::Name { .. } | DialError::Host { .. } => Code::NotFound,
            DialError::ProxyAuth { .. } => Code::Unauthenticated,
            DialError::ProxyRefused { lasting: true, .. } => Code::Denied,
            _ => Code::Timeout,
        };
        let trouble = Trouble::dialling(error);
        let error = ClientError { retryable: !error.is_final(), ..ClientError::new(code, message) };
        Self { outcome, error, by_gateway: false, trouble }
    }

    fn websocket(why: &WsError) -> Self {
        let message = why.to_string();
        let outcome = Outcome::Refused(message.clone());
        let error = ClientError { retryable: why.is_retryable(), ..ClientError::new(Code::Timeout, message) };
        Self { outcome, trouble: Trouble::websocket(why), error, by_gateway: false }
    }

    pub(crate) fn refused(code: Code, message: String) -> Self {
        let error = ClientError { retryable: true, ..ClientError::new(code, message.clone()) };
        let trouble = match code {
            Code::NotFound => Trouble::Name(message.clone()),
            Code::Internal => Trouble::Local(message.clone()),
            _ => Trouble::Refused(message.trim_start_matches(UDP_REFUSED).to_owned()),
        };
        Self { outcome: Outcome::Refused(message), error, by_gateway: false, trouble }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn networks_have_names() {
        assert_eq!(network("192.0.2.77".parse().unwrap()), "192.0.2.0/24");
        assert_eq!(network("2001:db8:1:2:3::4".parse().unwrap()), "2001:db8:1:2::/64");
        assert_eq!(local_address("127.0.0.1:9".parse().unwrap()), None);
    }
}
