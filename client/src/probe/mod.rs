//! One rung of the ladder, tried by itself and looked at closely.
//!
//! ```text
//! open --> handshake --> 256 KiB that mean nothing, until they are known to have arrived
//!                        QUIC: and until the MTU is found
//!                    --> Hello --> Welcome: 64 listings of the root, for what comes back
//!                             `--> refused: that is an answer, too, and the way works
//! ```
//!
//! What means nothing is in frames of a type that never has a meaning (`docs/protocol.md`, section 14), which may come before
//! `Hello`. So the larger part needs no credentials. Of QUIC its acknowledgements say what has arrived, of TCP the other
//! end's answers to pings.
//!
//! Non-goal: what to make of it. That is for whoever asked.

mod trial;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use metra_certs::{Pin, Untrusted, pin_of};
use metra_core::code::Code;
use metra_fallback::DialError;
use metra_fallback::ladder::Rung;
use metra_fallback::ws::WsError;
use metra_transport::{EcnSeen, Link, LinkError, Rt};

use self::trial::Trial;

use crate::connect::ConnectOptions;
use crate::error::ClientError;
use crate::reach::{Endpoint, Reach, Reached, Unreached, source_address};

/// What a rung has shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// Which.
    pub rung: Rung,
    /// The proxy through which it leads, without credentials.
    pub proxy: Option<String>,
    /// From where packets go to where: to the gateway, or to the proxy. `None`: not known.
    pub from: Option<IpAddr>,
    /// See [`Probe::from`].
    pub to: Option<SocketAddr>,
    /// From the begin until the connection stood, names included; `None` if it did not.
    pub handshake: Option<Duration>,
    /// The pin of the key that the other end has shown, trusted or not.
    pub pin: Option<Pin>,
    /// Whether the key is not the one that the gateway calls its own; `None`: it did not say.
    pub inspected: Option<bool>,
    /// Round-trip time: smoothed, and the smallest.
    pub rtt: Option<(Duration, Duration)>,
    /// Packets lost, and sent; where the transport tells.
    pub loss: Option<(u64, u64)>,
    /// The longest datagram that is known to get through, and how many longer ones were lost. Bytes of UDP payload. Nothing
    /// longer than 1452 bytes is tried.
    pub mtu: Option<(u16, u64)>,
    /// Which marks of congestion get through; where the transport tells.
    pub ecn: Option<Ecn>,
    /// Of what was sent, what has arrived; and what has come back. Bytes.
    pub moved: (u64, u64),
    /// What the gateway says to the credentials: the user that it knows, or why it refuses.
    pub answer: Option<Result<String, ClientError>>,
    /// Why it does not work; `None`: it does.
    pub trouble: Option<Trouble>,
}

/// Where marks of congestion (ECN) get through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ecn {
    /// Both ways.
    Both,
    /// To the gateway only.
    Out,
    /// From the gateway only.
    In,
    /// Neither way.
    Neither,
}

/// How far a rung got before nothing more was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Nothing at all has come back.
    Connect,
    /// TCP connects; nothing comes back of TLS.
    Secure,
}

/// Why a rung does not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The host has no address, or none can be found out.
    Name(String),
    /// Nothing is heard.
    Silent(Stage),
    /// The network or the other end says no: ICMP, a reset.
    Refused(String),
    /// The proxy does not connect to the gateway.
    ProxyRefused(String),
    /// The proxy wants other credentials.
    ProxyCredentials(String),
    /// The proxy cannot be used: it is silent, or is none.
    Proxy(String),
    /// The handshake passes, and then nothing more does, or next to nothing.
    Stalled {
        /// Of what was sent, what has arrived. Bytes.
        arrived: u64,
        /// Of how much. Bytes.
        of: u64,
    },
    /// The other end, or somebody in between, speaks TLS but not MTP (ALPN).
    NoProtocol(String),
    /// The certificate is not trusted.
    Untrusted {
        /// The pin of its key.
        pin: Option<Pin>,
        /// What is wrong, and what to do.
        message: String,
    },
    /// TLS fails for another reason.
    Tls(String),
    /// The connection was lost after it stood.
    Lost(String),
    /// The gateway has said something that is no welcome before it was asked for one.
    Answer(ClientError),
    /// This machine cannot do it.
    Local(String),
}

/// How long a step may take: a first packet is repeated twice in that time.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest datagram that is tried: that of Ethernet, with IPv6. Bytes of UDP payload.
const MTU: u16 = 1452;

impl Probe {
    /// Of a rung of which nothing is known yet.
    pub fn new(rung: Rung) -> Self {
        Self {
            rung,
            proxy: None,
            from: None,
            to: None,
            handshake: None,
            pin: None,
            inspected: None,
            rtt: None,
            loss: None,
            mtu: None,
            ecn: None,
            moved: (0, 0),
            answer: None,
            trouble: None,
        }
    }

    /// Whether a transfer could go by this rung, as far as the network is asked.
    pub fn works(&self) -> bool {
        self.trouble.is_none()
    }
}

/// Tries one rung, whatever [`ConnectOptions::via`] says. Nothing is written, here or at the gateway. Takes some 20 s at
/// most.
///
/// # Errors
/// Only what is wrong with `options`; all else is in [`Probe::trouble`].
pub async fn probe(rt: &Rt, options: &ConnectOptions, rung: Rung) -> Result<Probe, ClientError> {
    let reach = Reach::for_probe(rt.clone(), options, PATIENCE, MTU)?;
    let mut probe = Probe::new(rung);
    probe.proxy = reach.proxies(rung);
    probe.to = towards(rt, &reach, rung).await;
    probe.from = probe.to.and_then(source_address);
    let began = rt.now();
    match open(rt, &reach, rung).await {
        Err(trouble) => probe.fail(trouble),
        Ok(reached) => {
            probe.handshake = Some(rt.now().saturating_duration_since(began));
            let link = reached.link.clone();
            let result = Trial { rt, options, reached: &reached }.run(&mut probe).await;
            probe.measure(&link, reached.endpoint.as_ref());
            if let Err(trouble) = result {
                probe.fail(trouble);
            }
            link.close(Code::Ok, "");
            if let Some(endpoint) = reached.endpoint {
                endpoint.close(rt, Duration::from_millis(300)).await;
            }
        }
    }
    Ok(probe)
}

/// Where packets go.
async fn towards(rt: &Rt, reach: &Reach, rung: Rung) -> Option<SocketAddr> {
    let look = async {
        let first = reach.first_host(rung);
        tokio::net::lookup_host((first.host.as_str(), first.port)).await.ok()?.next()
    };
    rt.timeout(PATIENCE, look).await.ok()?
}

async fn open(rt: &Rt, reach: &Reach, rung: Rung) -> Result<Reached, Trouble> {
    let why = |unreached: Unreached| unreached.trouble;
    let opened = async {
        if rung.is_udp() {
            return rt.timeout(PATIENCE, reach.open(rung)).await.map_err(|_| Trouble::Silent(Stage::Connect));
        }
        // Has a deadline of its own.
        let dialled = match rung {
            Rung::MasqueTcp => reach.dialled_to_proxy().await,
            _ => reach.dialled().await,
        };
        let dialled = dialled.map_err(|unreached| match unreached.trouble {
            // It is the proxy to which there is no connection.
            Trouble::Silent(_) | Trouble::Refused(_) if reach.is_proxied(rung) => {
                Trouble::Proxy(unreached.error.message)
            }
            other => other,
        })?;
        let secured = async {
            match rung {
                Rung::MasqueTcp => reach.tunnelled(dialled).await,
                _ => reach.secured(rung, dialled).await,
            }
        };
        rt.timeout(PATIENCE, secured).await.map_err(|_| Trouble::Silent(Stage::Secure))
    };
    let reached = opened.await?.map_err(why)?;
    let confirmed = rt.timeout(PATIENCE, reached.link.handshake_confirmed()).await;
    confirmed.map_err(|_| Trouble::Silent(Stage::Secure))?.map_err(|error| Trouble::link(&error))?;
    Ok(reached)
}

impl Probe {
    fn fail(&mut self, trouble: Trouble) {
        match trouble {
            // The way works; what is said on it is another matter.
            Trouble::Answer(error) => self.answer = Some(Err(error)),
            trouble => {
                if let Trouble::Untrusted { pin, .. } = &trouble {
                    self.pin = *pin;
                }
                self.trouble = Some(trouble);
            }
        }
    }

    fn measure(&mut self, link: &Arc<dyn Link>, endpoint: Option<&Endpoint>) {
        let stats = link.stats();
        let certificates = link.peer_certificates().unwrap_or_default();
        self.pin = certificates.first().and_then(|der| pin_of(&der.as_slice().into()).ok());
        self.to = Some(link.peer());
        self.from = source_address(link.peer());
        self.rtt = Some((stats.rtt, stats.min_rtt.min(stats.rtt)));
        self.moved = (stats.acked_bytes, stats.received_bytes);
        if let Some(endpoint) = endpoint {
            self.loss = Some((stats.lost_packets, stats.sent_packets));
            self.mtu = Some((stats.mtu, stats.lost_mtu_probes));
            // RFC 9298 section 6.2: tunnels carry no marks.
            self.ecn = (self.rung == Rung::Quic).then(|| Ecn::of(endpoint.quic.ecn()));
        }
    }
}

impl Ecn {
    fn of(seen: EcnSeen) -> Self {
        match (seen.sends, seen.marked > 0) {
            (true, true) => Ecn::Both,
            (true, false) => Ecn::Out,
            (false, true) => Ecn::In,
            (false, false) => Ecn::Neither,
        }
    }

    /// The word in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Ecn::Both => "both",
            Ecn::Out => "out",
            Ecn::In => "in",
            Ecn::Neither => "neither",
        }
    }
}

impl Trouble {
    pub(crate) fn link(error: &LinkError) -> Self {
        let told = || ClientError::link(error).message;
        match error {
            LinkError::ClosedByPeer { .. } => Trouble::Answer(ClientError::link(error)),
            LinkError::TimedOut => Trouble::Silent(Stage::Connect),
            LinkError::Handshake(text) if Untrusted::sentence_in(text).is_some() => {
                Trouble::Untrusted { pin: Untrusted::pin_in(text), message: told() }
            }
            LinkError::Handshake(_) => Trouble::Tls(told()),
            LinkError::NoProtocol(text) => Trouble::NoProtocol(text.clone()),
            LinkError::Refused | LinkError::Reset | LinkError::Io { .. } => Trouble::Refused(told()),
            _ => Trouble::Lost(told()),
        }
    }

    pub(crate) fn dialling(error: &DialError) -> Self {
        let told = error.to_string();
        match error {
            DialError::Name { source, .. } => Trouble::Name(source.to_string()),
            DialError::Host { .. } => Trouble::Name(told),
            DialError::Connect { .. } if error.is_silence() => Trouble::Silent(Stage::Connect),
            DialError::Connect { source, .. } => Trouble::Refused(source.to_string()),
            DialError::ProxyAuth { .. } => Trouble::ProxyCredentials(told),
            DialError::ProxyRefused { .. } => Trouble::ProxyRefused(told),
            _ => Trouble::Proxy(told),
        }
    }

    pub(crate) fn websocket(error: &WsError) -> Self {
        let told = error.to_string();
        match error {
            WsError::NotHttp(_) | WsError::NoExtendedConnect | WsError::Handshake(_) => {
                Trouble::NoProtocol(told)
            }
            _ => Trouble::Refused(told),
        }
    }

    /// Of a connection that stood.
    fn later(error: &LinkError) -> Self {
        match Self::link(error) {
            answer @ Trouble::Answer(_) => answer,
            other => Trouble::Lost(match other {
                Trouble::Silent(_) => "nothing more was heard".to_owned(),
                _ => ClientError::link(error).message,
            }),
        }
    }

    /// The word in JSON; never changes.
    pub fn name(&self) -> &'static str {
        match self {
            Trouble::Name(_) => "name",
            Trouble::Silent(_) => "silent",
            Trouble::Refused(_) => "refused",
            Trouble::ProxyRefused(_) => "proxy_refused",
            Trouble::ProxyCredentials(_) => "proxy_credentials",
            Trouble::Proxy(_) => "proxy",
            Trouble::Stalled { .. } => "stalled",
            Trouble::NoProtocol(_) => "no_protocol",
            Trouble::Untrusted { .. } => "untrusted",
            Trouble::Tls(_) => "tls",
            Trouble::Lost(_) => "lost",
            Trouble::Answer(_) => "answer",
            Trouble::Local(_) => "local",
        }
    }
}
