//! Links by every way in, from an address of this machine.

use std::any::Any;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use metra_certs::{TrustAnchors, client_config, pin_of};
use metra_core::code::Code;
use metra_core::wire::{Auth, Frame, Hello};
use metra_fallback::link::{Key, LinkTuning, Opened, StreamLink};
use metra_fallback::proxy::Credentials;
use metra_fallback::tls::{Protocol, TlsClient};
use metra_fallback::{BoxStream, ws};
use metra_transport::quic::{QuicClient, Tuning};
use metra_transport::{Link, LinkError, LinkKind, Rt};
use metra_tunnel::client::{Hop, over_stream};
use metra_tunnel::proto::{Target, Template};
use tokio::net::TcpSocket;
use tokio::runtime::Runtime;

use super::raw::{Raw, runtime};
use super::{Gateway, PATIENCE};

/// A way in, by the name that policies have for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Way {
    Quic,
    Masque,
    Tls,
    Ws,
}

impl Way {
    pub(crate) const ALL: [Self; 4] = [Self::Quic, Self::Masque, Self::Tls, Self::Ws];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Masque => "masque",
            Self::Tls => "tls",
            Self::Ws => "ws",
        }
    }
}

/// Opens links to a gateway.
pub(crate) struct Ways {
    runtime: Arc<Runtime>,
    gateway: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
    secure: TlsClient,
}

/// A link that is open, and what it stands on.
pub(crate) struct Opening {
    pub(crate) raw: Raw,
    _below: Vec<Box<dyn Any>>,
}

impl Ways {
    pub(crate) fn new(gateway: &Gateway) -> Self {
        let tls = client_config(&TrustAnchors::new().ca_file(gateway.ca()), None).unwrap();
        let secure = TlsClient::new(&tls);
        Self { runtime: runtime(), gateway: gateway.address(), tls, secure }
    }

    /// A link on which nothing has been said yet, from this address; if `inspected`, it says that it was shown another
    /// certificate than the gateway's.
    pub(crate) fn connect(&self, way: Way, from: Ipv4Addr, inspected: bool) -> Opening {
        let _entered = self.runtime.enter();
        let opened = self.runtime.block_on(async {
            tokio::time::timeout(PATIENCE, self.open(way, from, inspected)).await.expect("a link in time")
        });
        let (link, below) = opened.expect("a link");
        Opening { raw: Raw::over(&self.runtime, link), _below: below }
    }

    async fn open(
        &self,
        way: Way,
        from: Ipv4Addr,
        inspected: bool,
    ) -> Result<(Arc<dyn Link>, Vec<Box<dyn Any>>), LinkError> {
        let (rt, tuning) = (Rt::tokio(), Tuning::default());
        match way {
            Way::Quic => {
                let client = QuicClient::new(rt, (from, 0).into(), self.tls.clone(), tuning)?;
                let link = client.connect(self.gateway, NAME).await?;
                Ok((link, vec![Box::new(client)]))
            }
            Way::Masque => {
                // Over TCP, whose sockets can be bound to where they are to come from.
                let secured = self.secure.http(self.tcp(from).await, NAME).await?;
                let template = Template::default_of(NAME, self.gateway.port()).unwrap();
                let hop = Hop { template, tls: self.tls.clone(), credentials: Credentials::None };
                let target = Target::new(NAME, self.gateway.port()).unwrap();
                let tunnel = over_stream(&rt, &hop, secured, self.gateway, &target).await.unwrap();
                let carrier = tunnel.carrier.clone();
                let peer = metra_transport::Packets::peer(&*carrier);
                let client = QuicClient::over(rt, carrier, self.tls.clone(), tuning)?;
                let link = client.connect(peer, NAME).await?;
                Ok((link, vec![Box::new(client), Box::new(tunnel)]))
            }
            Way::Tls => {
                let secured = self.secure.mtp(self.tcp(from).await, NAME).await?;
                Ok((self.on(LinkKind::Tls, secured.stream, secured.certificates, inspected), vec![]))
            }
            Way::Ws => {
                let secured = self.secure.http(self.tcp(from).await, NAME).await?;
                let is_h2 = secured.protocol == Protocol::Http2;
                let authority = self.gateway.to_string();
                let stream = ws::connect(secured.stream, is_h2, &authority, "/mtp").await.unwrap();
                let link = self.on(LinkKind::WebSocket, Box::new(stream), secured.certificates, inspected);
                Ok((link, vec![]))
            }
        }
    }

    async fn tcp(&self, from: Ipv4Addr) -> BoxStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        let stream = socket.connect(self.gateway).await.unwrap();
        metra_fallback::tcp::tune(&stream);
        Box::new(stream)
    }

    fn on(
        &self,
        kind: LinkKind,
        stream: BoxStream,
        certificates: Option<Vec<Vec<u8>>>,
        inspected: bool,
    ) -> Arc<dyn Link> {
        let own = certificates.as_ref().expect("a certificate")[0].as_slice();
        let mut key = pin_of(&own.into()).unwrap().bytes();
        key[0] ^= u8::from(inspected);
        let (peer, rtt) = (self.gateway, Some(Duration::from_millis(1)));
        let opened = Opened { kind, peer, certificates, rtt, key: Some(Key::Shown(key)) };
        StreamLink::start(&Rt::tokio(), stream, opened, LinkTuning::default())
    }
}

impl Opening {
    /// Says hello, and hears whether it is welcome: else with which code and reason the link was closed.
    pub(crate) fn greet(&mut self, token: &str) -> Result<(), (Code, String)> {
        let auth = if token.is_empty() { Auth::None } else { Auth::Bearer(token.to_owned()) };
        self.raw.say(&Frame::Hello(Hello { version: 1, auth, agent: "end to end test".into() }));
        match self.raw.next_or_end(PATIENCE).expect("an answer") {
            Ok(Frame::Welcome(_)) => Ok(()),
            Ok(frame) => panic!("a welcome was expected, not {frame:?}"),
            Err(LinkError::ClosedByPeer { code, reason }) => Err((code, reason)),
            Err(error) => panic!("the link is lost: {error}"),
        }
    }
}

/// The gateway's name in its certificate.
const NAME: &str = "127.0.0.1";
