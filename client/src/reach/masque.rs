//! QUIC in a tunnel (CONNECT-UDP, RFC 9298): through MASQUE proxies, or to the gateway itself, which is one.
//!
//! ```text
//!  masque       UDP --HTTP/3--> proxy [--in the tunnel, HTTP/3--> second proxy] --> gateway
//!  masque-tcp   TCP, through a proxy for TCP if there is one --TLS, HTTP/2 or 1.1--> proxy [likewise] --> gateway
//! ```

use std::sync::Arc;

use metra_certs::{Untrusted, client_config};
use metra_core::code::Code;
use metra_fallback::ladder::{Outcome, Rung};
use metra_fallback::proxy::Credentials;
use metra_fallback::tls::TlsClient;
use metra_fallback::{Dialed, Target as Place, dial, race};
use metra_transport::quic::QuicClient;
use metra_transport::{LinkError, Packets};
use metra_tunnel::client::{Hop, Opened, TunnelError, over_http3, over_stream, over_tunnel};
use metra_tunnel::proto::{Target, Template};
use rustls::client::Resumption;

use super::{Endpoint, Reach, Reached, UDP_REFUSED, Unreached};
use crate::connect::ConnectOptions;
use crate::error::ClientError;
use crate::probe::Trouble;

/// The proxies of a gateway, the nearest first; at least one.
pub(super) struct Chain {
    hops: Vec<Hop>,
    secure: TlsClient,
    /// No proxy was named: the gateway itself takes what leads to it.
    is_gateway: bool,
}

impl Chain {
    /// # Errors
    /// The certificate for a proxy, or what is trusted, cannot be used. Fault: the configuration.
    pub(super) fn new(
        options: &ConnectOptions,
        tls: &Arc<rustls::ClientConfig>,
    ) -> Result<Option<Self>, ClientError> {
        let mut hops = Vec::new();
        for proxy in &options.masque {
            let certificate = proxy.certificate().map(|(cert, key)| (cert.as_path(), key.as_path()));
            let template = proxy.template().clone();
            let is_gateway = template.host().eq_ignore_ascii_case(&options.address.host)
                && template.port() == options.address.port;
            // A proxy is no gateway: see `Reach::new`.
            let tls = match (is_gateway, certificate) {
                (true, None) => tls.clone(),
                (true, certificate) => client_config(&options.trust, certificate)?,
                (false, certificate) => client_config(&options.trust.clone().without_pins(), certificate)?,
            };
            hops.push(Hop { template, tls: apart(&tls), credentials: proxy.credentials().clone() });
        }
        let is_gateway = hops.is_empty();
        if is_gateway {
            // A host that cannot stand in a template cannot be reached so.
            let Ok(template) = Template::default_of(&options.address.host, options.address.port) else {
                return Ok(None);
            };
            // Who the client is, it says within the tunnel.
            hops.push(Hop { template, tls: apart(tls), credentials: Credentials::None });
        }
        Ok(hops.first().map(|hop| TlsClient::new(&hop.tls)).map(|secure| Self { hops, secure, is_gateway }))
    }

    /// The proxies in words, without credentials; `None`: it is the gateway itself.
    pub(super) fn name(&self) -> Option<String> {
        let names: Vec<String> = self.hops.iter().map(|hop| hop.template.to_string()).collect();
        (!self.is_gateway).then(|| names.join(" and "))
    }

    /// Whether no proxy was named.
    pub(super) fn is_gateway(&self) -> bool {
        self.is_gateway
    }

    /// The first of them.
    pub(super) fn nearest(&self) -> Option<Place> {
        let template = &self.hops.first()?.template;
        Some(Place { host: template.host().to_owned(), port: template.port() })
    }
}

/// Tickets of one connection are of no use to those who speak something else.
fn apart(tls: &rustls::ClientConfig) -> Arc<rustls::ClientConfig> {
    let mut tls = tls.clone();
    tls.resumption = Resumption::in_memory_sessions(SESSIONS);
    Arc::new(tls)
}

impl Reach {
    /// A link over HTTP/3.
    pub(super) async fn masque(&self) -> Result<Reached, Unreached> {
        let chain = self.chain()?;
        let (hop, target) = chain.hop(0, self)?;
        let place = (hop.template.host(), hop.template.port());
        let found = tokio::net::lookup_host(place).await.map_err(|e| {
            let message = format!("{}: {e}", hop.template.authority());
            chain.unreached(Code::NotFound, message)
        })?;
        let addresses = race::order(found);
        let at = |address| {
            let (rt, tuning, target) = (self.rt.clone(), self.tuning.clone(), &target);
            async move {
                tokio::select! {
                    biased;
                    opened = over_http3(&rt, hop, address, target, &tuning) => {
                        opened.map_err(|error| chain.failed(&error))
                    }
                    error = self.udp_rejected(address) => {
                        Err(chain.unreached(Code::Timeout, format!("{UDP_REFUSED}{error}")))
                    }
                }
            }
        };
        let opened = race::connect(&self.rt, &addresses, at, |_| false).await;
        let opened = opened.map_err(|error| match error {
            Some((_, error)) => error,
            None => chain.unreached(Code::NotFound, format!("{}: no address", hop.template.authority())),
        })?;
        self.within(chain, opened).await
    }

    /// The first half of a link over TCP: a connection that leads to the nearest proxy.
    pub(crate) async fn dialled_to_proxy(&self) -> Result<Dialed, Unreached> {
        let nearest = self.chain()?.nearest().ok_or(Unusable)?;
        let dialled = dial(&nearest, self.proxy.as_ref(), &self.dialling).await;
        dialled.map_err(|error| Unreached::dialling(&error))
    }

    /// The second half: HTTP, and the tunnel in it.
    pub(crate) async fn tunnelled(&self, dialled: Dialed) -> Result<Reached, Unreached> {
        let chain = self.chain()?;
        let (hop, target) = chain.hop(0, self)?;
        let secured = chain.secure.http(dialled.stream, hop.template.host()).await;
        let secured = secured.map_err(|error| chain.failed(&TunnelError::Link(error)))?;
        let opened = over_stream(&self.rt, hop, secured, dialled.peer, &target).await;
        self.within(chain, opened.map_err(|error| chain.failed(&error))?).await
    }

    /// The link in a tunnel to the second proxy or, if there is none, to the gateway.
    async fn within(&self, chain: &Chain, mut opened: Opened) -> Result<Reached, Unreached> {
        for at in 1..chain.hops.len() {
            let (hop, target) = chain.hop(at, self)?;
            let further = over_tunnel(&self.rt, hop, opened, &target, &self.tuning).await;
            opened = further.map_err(|error| chain.failed(&error))?;
        }
        let carrier = opened.carrier.clone();
        let peer = carrier.peer();
        // Nothing but QUIC goes through it.
        opened.defer();
        let quic = QuicClient::over(self.rt.clone(), carrier, self.tls.clone(), self.tuning.clone())
            .map_err(|e| Unreached::refused(Code::Internal, e.to_string()))?;
        let link = quic.connect(peer, &self.address.host).await.map_err(Unreached::link)?;
        Ok(Reached { link, endpoint: Some(Endpoint { quic, tunnel: Some(opened) }), stream: None })
    }

    fn chain(&self) -> Result<&Chain, Unusable> {
        self.chain.as_ref().ok_or(Unusable)
    }
}

impl Chain {
    /// A proxy, and where a tunnel through it leads: to the next one, or to the gateway.
    fn hop(&self, at: usize, reach: &Reach) -> Result<(&Hop, Target), Unusable> {
        let hop = self.hops.get(at).ok_or(Unusable)?;
        let (host, port) = match self.hops.get(at + 1) {
            Some(next) => (next.template.host(), next.template.port()),
            None => (reach.address.host.as_str(), reach.address.port),
        };
        Ok((hop, Target::new(host, port).map_err(|_| Unusable)?))
    }

    fn unreached(&self, code: Code, message: String) -> Unreached {
        let unreached = Unreached::refused(code, message);
        match (self.is_gateway, &unreached.trouble) {
            // It is the proxy to which there is no connection.
            (false, Trouble::Name(why) | Trouble::Refused(why)) => {
                Unreached { trouble: Trouble::Proxy(why.clone()), ..unreached }
            }
            _ => unreached,
        }
    }

    /// Why there is no tunnel. What a proxy says is not the gateway's word.
    fn failed(&self, error: &TunnelError) -> Unreached {
        let whose = if self.is_gateway { String::new() } else { "MASQUE: ".to_owned() };
        let message = match error {
            TunnelError::Link(LinkError::Handshake(text)) => {
                format!("{whose}{}", Untrusted::sentence_in(text).unwrap_or(text))
            }
            TunnelError::Link(LinkError::TimedOut) if self.is_gateway => {
                "the gateway does not answer".to_owned()
            }
            TunnelError::Link(LinkError::TimedOut) => "the MASQUE proxy does not answer".to_owned(),
            TunnelError::Refused { status, cause } if self.is_gateway => {
                format!("the gateway opens no tunnel: {status}{cause}")
            }
            error => format!("{whose}{error}"),
        };
        let status = match error {
            TunnelError::Refused { status, .. } => Some(status.as_u16()),
            _ => None,
        };
        let code = match (error, status) {
            // What a gateway refuses here it may allow by another way.
            (_, Some(401 | 407)) if !self.is_gateway => Code::Unauthenticated,
            (_, Some(403)) if !self.is_gateway => Code::Denied,
            (TunnelError::Certificate { .. }, _) => Code::Unauthenticated,
            (TunnelError::Link(error), _) => ClientError::link(error).code,
            (TunnelError::Http3(_) | TunnelError::Stream(_), _) => Code::Protocol,
            (TunnelError::Request(_), _) => Code::Internal,
            _ => Code::Timeout,
        };
        let trouble = match (error, status) {
            (TunnelError::Request(_), _) => Trouble::Local(message.clone()),
            (_, Some(401 | 407)) if !self.is_gateway => Trouble::ProxyCredentials(message.clone()),
            (TunnelError::Certificate { .. }, _) if !self.is_gateway => {
                Trouble::ProxyCredentials(message.clone())
            }
            (TunnelError::Certificate { .. }, _) => Trouble::Tls(message.clone()),
            (_, Some(_)) if !self.is_gateway => Trouble::ProxyRefused(message.clone()),
            (TunnelError::Link(error), _) if self.is_gateway => match Trouble::link(error) {
                Trouble::Answer(_) => Trouble::Refused(message.clone()),
                trouble => trouble,
            },
            (_, _) if !self.is_gateway => Trouble::Proxy(message.clone()),
            (_, Some(_)) => Trouble::Refused(message.clone()),
            _ => Trouble::NoProtocol(message.clone()),
        };
        let outcome = match error {
            TunnelError::Link(LinkError::TimedOut) => Outcome::Silent,
            _ => Outcome::Refused(message.clone()),
        };
        let error = ClientError { retryable: error.is_retryable(), ..ClientError::new(code, message) };
        Unreached { outcome, error, by_gateway: false, trouble }
    }
}

impl Reach {
    /// The proxies that a rung goes through, in words and without credentials.
    pub(crate) fn proxies(&self, rung: Rung) -> Option<String> {
        let tcp = self.proxy.as_ref().filter(|_| !rung.is_udp()).map(ToString::to_string);
        let tunnel = match rung {
            Rung::Masque | Rung::MasqueTcp => self.chain.as_ref().and_then(Chain::name),
            _ => None,
        };
        match (tcp, tunnel) {
            (Some(tcp), Some(tunnel)) => Some(format!("{tcp} and {tunnel}")),
            (tcp, tunnel) => tcp.or(tunnel),
        }
    }

    /// Whether tunnels lead to where native QUIC does: to the gateway's own port.
    pub(crate) fn is_own_proxy(&self) -> bool {
        self.chain.as_ref().is_none_or(Chain::is_gateway)
    }

    /// The host to which packets of a rung go first.
    pub(crate) fn first_host(&self, rung: Rung) -> Place {
        let chain = || self.chain.as_ref().and_then(Chain::nearest);
        let tunnel = match rung {
            Rung::Masque | Rung::MasqueTcp => chain(),
            _ => None,
        };
        match self.proxy.as_ref().filter(|_| !rung.is_udp()) {
            Some(proxy) => Place { host: proxy.host().to_owned(), port: proxy.port() },
            None => {
                tunnel.unwrap_or_else(|| Place { host: self.address.host.clone(), port: self.address.port })
            }
        }
    }
}

/// The gateway's host cannot stand in a template, or be a target.
struct Unusable;

impl From<Unusable> for Unreached {
    fn from(_: Unusable) -> Self {
        Unreached::refused(Code::Internal, "the gateway's host cannot be named to a MASQUE proxy".to_owned())
    }
}

/// Sessions that are kept for resumption.
const SESSIONS: usize = 8;
