//! Endpoints: a socket that takes links in, and a socket that opens them.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::hmac;
use metra_core::code::Code;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Endpoint, EndpointConfig};
use quinn_proto::{ConnectionId, ConnectionIdGenerator, HashedConnectionIdGenerator};

use super::deferral::Unmarked;
use super::error;
use super::http3::{self, Accepted, HTTP3_ALPN, Http3Connection, Serves};
use super::link::{About, QuicLink};
use super::paths::Use;
use super::tuning::{Path, Tuning, varint};
use super::windows::HTTP3;
use crate::link::{Link, LinkError, LinkKind};
use crate::rt::{Carried, Rt};
use crate::socket::{self, EcnSeen, Marked, Marks, Packets};

/// The protocol name of MTP over QUIC, version 1 (ALPN, RFC 7301).
pub const ALPN: &[u8] = b"mtp/1";

/// Handshakes that may wait for [`QuicServer::accept`].
const INCOMING_MAX: usize = 1024;
/// Early data kept for one of them. Bytes; a client sends one small message early.
const INCOMING_BUFFER: u64 = 64 * 1024;
/// Early data kept for all of them. Bytes.
const INCOMING_BUFFER_ALL: u64 = 8 * 1024 * 1024;

/// The largest datagram that comes in as packets. Bytes; what a path over loopback takes is not much more.
const PACKET_MAX: u16 = 16_384;

/// A socket that takes links in.
#[derive(Debug)]
pub struct QuicServer {
    rt: Rt,
    endpoint: Endpoint,
    tuning: Tuning,
    serves: Serves,
    configs: Mutex<ServerConfigs>,
    accepting: AtomicBool,
    half_open: Arc<AtomicUsize>,
    kind: LinkKind,
    /// Peers without congestion control here.
    unmarked: Arc<Unmarked>,
}

/// What connections use.
#[derive(Clone, Debug)]
struct ServerConfigs {
    /// For clients elsewhere; the endpoint has it as well.
    network: Arc<quinn::ServerConfig>,
    /// For clients on this host.
    loopback: Arc<quinn::ServerConfig>,
    /// The longest IP packet of this machine's interfaces. Bytes.
    interface: Option<u32>,
}

/// A client that knocks. Dropped, it is refused.
#[derive(Debug)]
pub struct Incoming {
    rt: Rt,
    incoming: quinn::Incoming,
    configs: ServerConfigs,
    half_open: Arc<AtomicUsize>,
    tuning: Tuning,
    kind: LinkKind,
    unmarked: Arc<Unmarked>,
}

/// A socket that opens links.
#[derive(Debug)]
pub struct QuicClient {
    rt: Rt,
    endpoint: Endpoint,
    network: quinn::ClientConfig,
    loopback: quinn::ClientConfig,
    /// `None` over packets.
    bind: Option<SocketAddr>,
    tuning: Tuning,
    marks: Arc<Marks>,
    kind: LinkKind,
    is_http3: bool,
    unmarked: Arc<Unmarked>,
}

impl QuicServer {
    /// Listens on `address`. Must be called where [`Rt`]'s executor is current.
    ///
    /// Of `tls` the certificates, the verifier of clients and the session store are used; ALPN and early data
    /// are set here. Early data works with rustls's stateful session store only: leave its `ticketer` as it is.
    ///
    /// # Errors
    /// `InvalidInput` if `tls` cannot do TLS 1.3 (fault: the configuration); else what the system says of the
    /// address.
    pub fn bind(
        rt: Rt,
        address: SocketAddr,
        tls: Arc<rustls::ServerConfig>,
        tuning: Tuning,
        reset_secret: Option<&[u8; 32]>,
        serves: Serves,
    ) -> io::Result<Self> {
        let configs = server_configs(&tls, &tuning, &rt, serves)?;
        let unmarked = Arc::default();
        let socket = rt.bind(address, &tuning, &unmarked)?;
        let endpoint = Endpoint::new_with_abstract_socket(
            endpoint_config(reset_secret, rt.seed()),
            Some((*configs.network).clone()),
            socket,
            rt.quinn_runtime(),
        )?;
        Ok(Self {
            rt,
            endpoint,
            tuning,
            serves,
            configs: Mutex::new(configs),
            accepting: AtomicBool::new(true),
            half_open: Arc::default(),
            kind: LinkKind::Quic,
            unmarked,
        })
    }

    /// A server for the links that come as `packets`, of kind [`LinkKind::Masque`]: with the certificates of this one, and as
    /// one with it where handshakes are counted. It has no memory of paths. Close it by itself; it ends with its packets.
    ///
    /// # Errors
    /// Of [`QuicServer::bind`], those that are not of the address.
    pub fn beside(&self, packets: Arc<dyn Packets>) -> io::Result<Self> {
        let tuning = Tuning { paths: None, ..self.tuning.clone() };
        let configs = self.configs().clone();
        let (socket, runtime) = self.rt.carried(packets);
        let endpoint = Endpoint::new_with_abstract_socket(
            packet_config(self.rt.seed()),
            Some((*configs.network).clone()),
            socket,
            runtime,
        )?;
        Ok(Self {
            rt: self.rt.clone(),
            endpoint,
            tuning,
            configs: Mutex::new(configs),
            accepting: AtomicBool::new(true),
            half_open: self.half_open.clone(),
            serves: self.serves,
            kind: LinkKind::Masque,
            unmarked: Arc::default(),
        })
    }

    /// The next client; `None` after [`QuicServer::close`]. Dropping the future loses nothing.
    ///
    /// While the server does not accept, clients are refused here; while there are too many unfinished
    /// handshakes, they are made to show their address here. So this must be awaited all the time.
    pub async fn accept(&self) -> Option<Incoming> {
        loop {
            let incoming = self.endpoint.accept().await?;
            if !self.accepting.load(Ordering::Relaxed) {
                incoming.refuse();
                continue;
            }
            let (rt, half_open, tuning) = (self.rt.clone(), self.half_open.clone(), self.tuning.clone());
            let (configs, kind, unmarked) = (self.configs().clone(), self.kind, self.unmarked.clone());
            let incoming = Incoming { rt, incoming, configs, half_open, tuning, kind, unmarked };
            let crowded = self.half_open.load(Ordering::Relaxed) >= self.tuning.retry_above;
            if crowded && !incoming.is_validated() {
                incoming.retry();
                continue;
            }
            return Some(incoming);
        }
    }

    /// Whether new clients are let in; links that exist are not touched. For a drain.
    pub fn set_accepting(&self, accepting: bool) {
        self.accepting.store(accepting, Ordering::Relaxed);
    }

    /// Uses other certificates for links from now on.
    ///
    /// # Errors
    /// As [`QuicServer::bind`]; the old ones stay in use then.
    pub fn set_tls(&self, tls: &rustls::ServerConfig) -> io::Result<()> {
        let configs = server_configs(tls, &self.tuning, &self.rt, self.serves)?;
        self.endpoint.set_server_config(Some((*configs.network).clone()));
        *self.configs() = configs;
        Ok(())
    }

    /// The address in use.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Links that are open or have been closed less than three probe timeouts ago.
    pub fn open_links(&self) -> usize {
        self.endpoint.open_connections()
    }

    /// Closes all links, and takes no more.
    pub fn close(&self, code: Code, reason: &str) {
        self.endpoint.close(error::number(code), reason.as_bytes());
    }

    /// Resolves when no link is left, and the peers of closed ones have been told.
    pub async fn wait_idle(&self) {
        self.endpoint.wait_idle().await;
    }

    fn configs(&self) -> MutexGuard<'_, ServerConfigs> {
        // One assignment is all that happens under the lock.
        self.configs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Incoming {
    /// Where it comes from; forgeable unless [`Incoming::is_validated`].
    pub fn peer(&self) -> SocketAddr {
        let address = self.incoming.remote_address();
        SocketAddr::new(address.ip().to_canonical(), address.port())
    }

    /// Whether the client has shown that it receives what is sent to its address.
    pub fn is_validated(&self) -> bool {
        self.incoming.remote_address_validated()
    }

    /// Turns it away: the client sees [`LinkError::Refused`].
    pub fn refuse(self) {
        self.incoming.refuse();
    }

    /// Makes the client show its address; it comes again as a new `Incoming`. One that has done so already is
    /// refused.
    pub fn retry(self) {
        // The error carries the incoming handshake, which is refused as it is dropped.
        let _ = self.incoming.retry();
    }

    /// Lets it in. For MTP it resolves when the client's first message of the handshake has been understood; the rest
    /// of the handshake goes on while the link is in use already, see [`Link::handshake_confirmed`]. For HTTP/3 it
    /// resolves when the handshake is over: requests in early data may be replays (RFC 8470 section 3), and are read
    /// when it is sure that they are not.
    ///
    /// # Errors
    /// [`LinkError::NoProtocol`] if there is no common protocol; else why the client is lost.
    pub async fn accept(self) -> Result<Accepted, LinkError> {
        let half_open = HalfOpen::new(self.half_open);
        let peer = self.incoming.remote_address();
        let path = path_to(peer, &self.rt, &self.tuning);
        let config = match (Path::to(peer), path.known()) {
            (Path::Loopback, _) => self.configs.loopback,
            (Path::Network, None) => self.configs.network,
            (Path::Network, known) => {
                let mut config = (*self.configs.network).clone();
                let (interface, seed) = (self.configs.interface, choices(&self.rt));
                let transport = self.tuning.server_transport(Path::Network, interface, seed, known);
                config.transport_config(Arc::new(transport));
                Arc::new(config)
            }
        };
        let about = About { kind: self.kind, path };
        let mut connecting = self.incoming.accept_with(config).map_err(error::lost)?;
        if http3::is_http3(connecting.handshake_data().await.map_err(error::lost)?) {
            let connection = connecting.await.map_err(error::lost)?;
            connection.set_receive_window(varint(self.tuning.receive_window.min(HTTP3)));
            return Ok(Accepted::Http3(Http3Connection::new(connection, self.unmarked)));
        }
        // RFC 8446 section 2.3: a server may always send before it has heard the client's Finished.
        Ok(Accepted::Link(match connecting.into_0rtt() {
            Ok((connection, accepted)) => {
                QuicLink::handshaking(self.rt, connection, accepted, half_open, about, &self.tuning)
            }
            Err(connecting) => {
                let connection = connecting.await.map_err(error::lost)?;
                QuicLink::confirmed(self.rt, connection, about, &self.tuning)
            }
        }))
    }
}

impl QuicClient {
    /// Opens a socket on `bind`, usually `[::]:0` (IPv6 and IPv4) or `0.0.0.0:0`. Must be called where
    /// [`Rt`]'s executor is current.
    ///
    /// Of `tls` the roots, the client's certificate and the store of sessions are used; ALPN and early data are
    /// set here. Clients that share the `Arc` share the store.
    ///
    /// # Errors
    /// `InvalidInput` if `tls` cannot do TLS 1.3 (fault: the configuration); else what the system says of the
    /// address.
    pub fn new(rt: Rt, bind: SocketAddr, tls: Arc<rustls::ClientConfig>, tuning: Tuning) -> io::Result<Self> {
        Self::bound(rt, bind, false, tls, tuning)
    }

    /// Opens links that travel as `packets`, of kind [`LinkKind::Masque`]; connect to [`Packets::peer`]. There is no memory of
    /// paths.
    ///
    /// # Errors
    /// As [`QuicClient::new`], those that are not of the address.
    pub fn over(
        rt: Rt,
        packets: Arc<dyn Packets>,
        tls: Arc<rustls::ClientConfig>,
        tuning: Tuning,
    ) -> io::Result<Self> {
        Self::carried(rt, packets, false, tls, tuning)
    }

    /// As [`QuicClient::new`], for HTTP/3: see [`QuicClient::connect_http3`].
    ///
    /// # Errors
    /// As [`QuicClient::new`].
    pub fn http3(
        rt: Rt,
        bind: SocketAddr,
        tls: Arc<rustls::ClientConfig>,
        tuning: Tuning,
    ) -> io::Result<Self> {
        Self::bound(rt, bind, true, tls, tuning)
    }

    /// As [`QuicClient::over`], for HTTP/3.
    ///
    /// # Errors
    /// As [`QuicClient::over`].
    pub fn http3_over(
        rt: Rt,
        packets: Arc<dyn Packets>,
        tls: Arc<rustls::ClientConfig>,
        tuning: Tuning,
    ) -> io::Result<Self> {
        Self::carried(rt, packets, true, tls, tuning)
    }

    fn bound(
        rt: Rt,
        bind: SocketAddr,
        is_http3: bool,
        tls: Arc<rustls::ClientConfig>,
        tuning: Tuning,
    ) -> io::Result<Self> {
        let unmarked = Arc::default();
        let socket = rt.bind(bind, &tuning, &unmarked)?;
        let socket = (socket, rt.quinn_runtime());
        Self::start(rt, socket, unmarked, Some(bind), is_http3, tls, tuning)
    }

    fn carried(
        rt: Rt,
        packets: Arc<dyn Packets>,
        is_http3: bool,
        tls: Arc<rustls::ClientConfig>,
        tuning: Tuning,
    ) -> io::Result<Self> {
        let carried = rt.carried(packets);
        Self::start(rt, carried, Arc::default(), None, is_http3, tls, Tuning { paths: None, ..tuning })
    }

    fn start(
        rt: Rt,
        (socket, runtime): Carried,
        unmarked: Arc<Unmarked>,
        bind: Option<SocketAddr>,
        is_http3: bool,
        tls: Arc<rustls::ClientConfig>,
        tuning: Tuning,
    ) -> io::Result<Self> {
        let (mut network, mut loopback) = client_configs(&tls, &tuning, &rt, is_http3)?;
        let seed = rt.seed();
        if let Some(seed) = seed {
            let first_id: Arc<dyn Fn() -> ConnectionId + Send + Sync> =
                Arc::new(move || SeededIds { seed: !seed, next: 0 }.generate_cid());
            network.initial_dst_cid_provider(first_id.clone());
            loopback.initial_dst_cid_provider(first_id);
        }
        let marks = Arc::new(Marks::default());
        let socket = Marked::new(socket, marks.clone());
        let (config, kind) = match bind {
            Some(_) => (endpoint_config(None, seed), LinkKind::Quic),
            None => (packet_config(seed), LinkKind::Masque),
        };
        let endpoint = Endpoint::new_with_abstract_socket(config, None, socket, runtime)?;
        Ok(Self { rt, endpoint, network, loopback, bind, tuning, marks, kind, is_http3, unmarked })
    }

    /// Opens a link to `address`, whose certificate must be for `server_name`.
    ///
    /// With a ticket of an earlier link it resolves at once, and the first control message goes out as early
    /// data; without, it resolves when the handshake is confirmed. There is no deadline but the idle timeout.
    ///
    /// # Errors
    /// Why there is no link. A server that is not there shows as [`LinkError::TimedOut`]; a client for HTTP/3 opens none.
    pub async fn connect(&self, address: SocketAddr, server_name: &str) -> Result<Arc<dyn Link>, LinkError> {
        if self.is_http3 {
            return Err(http3::wrong_kind());
        }
        let path = path_to(address, &self.rt, &self.tuning);
        let mut config = match Path::to(address) {
            Path::Network => self.network.clone(),
            Path::Loopback => self.loopback.clone(),
        };
        if path.known().is_some() {
            let (interface, seed) = (self.rt.interface_mtu(), choices(&self.rt));
            let transport = self.tuning.transport(Path::Network, interface, seed, path.known());
            config.transport_config(Arc::new(transport));
        }
        let about = About { kind: self.kind, path };
        let connecting = self.endpoint.connect_with(config, address, server_name).map_err(error::connect)?;
        match connecting.into_0rtt() {
            Ok((connection, accepted)) => {
                Ok(QuicLink::handshaking(self.rt.clone(), connection, accepted, (), about, &self.tuning))
            }
            Err(connecting) => {
                let connection = connecting.await.map_err(error::lost)?;
                Ok(QuicLink::confirmed(self.rt.clone(), connection, about, &self.tuning))
            }
        }
    }

    /// Opens a connection for HTTP/3 to `address`, whose certificate must be for `server_name`. Nothing goes out early.
    ///
    /// # Errors
    /// As [`QuicClient::connect`]; the client must be one of [`QuicClient::http3`].
    pub async fn connect_http3(
        &self,
        address: SocketAddr,
        server_name: &str,
    ) -> Result<Http3Connection, LinkError> {
        if !self.is_http3 {
            return Err(http3::wrong_kind());
        }
        let config = match Path::to(address) {
            Path::Network => self.network.clone(),
            Path::Loopback => self.loopback.clone(),
        };
        let connecting = self.endpoint.connect_with(config, address, server_name).map_err(error::connect)?;
        Ok(Http3Connection::new(connecting.await.map_err(error::lost)?, self.unmarked.clone()))
    }

    /// Moves all links to a new socket: after the network has changed. The server sees the new address and
    /// carries on (connection migration, RFC 9000 section 9).
    ///
    /// # Errors
    /// What the system says; the old socket stays in use then. `Unsupported` over packets.
    pub fn rebind(&self) -> io::Result<()> {
        let bind = self.bind.ok_or(io::ErrorKind::Unsupported)?;
        let socket = self.rt.bind(bind, &self.tuning, &self.unmarked)?;
        self.endpoint.rebind_abstract(Marked::new(socket, self.marks.clone()))
    }

    /// What was seen of ECN on its socket.
    pub fn ecn(&self) -> EcnSeen {
        self.marks.seen()
    }

    /// The address in use.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Links that are open or have been closed less than three probe timeouts ago.
    pub fn open_links(&self) -> usize {
        self.endpoint.open_connections()
    }

    /// Closes all links.
    pub fn close(&self, code: Code, reason: &str) {
        self.endpoint.close(error::number(code), reason.as_bytes());
    }

    /// Resolves when no link is left, and the peers of closed ones have been told.
    pub async fn wait_idle(&self) {
        self.endpoint.wait_idle().await;
    }
}

/// Counts a handshake for as long as it is not finished.
struct HalfOpen(Arc<AtomicUsize>);

impl HalfOpen {
    fn new(count: Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for HalfOpen {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// With a secret, connection ids and reset tokens (RFC 9000 section 10.3) are those of every endpoint with the same
/// secret, so that a restarted server can disown what its predecessor had.
/// With a seed, every run makes the same choices: then nobody can disown anything.
fn endpoint_config(secret: Option<&[u8; 32]>, seed: Option<u64>) -> EndpointConfig {
    let mut config = EndpointConfig::default();
    if let Some(secret) = secret {
        let derive = |label: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), label);
        let (token, id) = (derive(b"metra quic reset token"), derive(b"metra quic connection id"));
        let id = u64::from_le_bytes(id.as_ref()[..8].try_into().expect("a tag of 32 bytes"));
        config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, token.as_ref())));
        config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(id)));
    }
    if let Some(seed) = seed {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        config.rng_seed(Some(bytes)).cid_generator(move || Box::new(SeededIds { seed, next: 0 }));
    }
    config.max_udp_payload_size(socket::DATAGRAM_MAX).expect("within the range of RFC 9000 section 18.2");
    config
}

/// Where connections travel as packets: nobody but this process has ever known of them. Larger packets than such a path takes
/// would need memory for nothing.
fn packet_config(seed: Option<u64>) -> EndpointConfig {
    let mut config = endpoint_config(None, seed);
    config.max_udp_payload_size(PACKET_MAX).expect("within the range of RFC 9000 section 18.2");
    config
}

/// Connection ids of a run that is to be repeated.
#[derive(Debug)]
struct SeededIds {
    seed: u64,
    next: u64,
}

impl ConnectionIdGenerator for SeededIds {
    fn generate_cid(&mut self) -> ConnectionId {
        self.next += 1;
        // SplitMix64 (Steele, Lea, Flood 2014): neighbours look unrelated.
        let mut id = self.seed.wrapping_add(self.next.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        id = (id ^ (id >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        id = (id ^ (id >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ConnectionId::new(&(id ^ (id >> 31)).to_be_bytes())
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// The use of the path to `peer`. Nothing is remembered of this host.
fn path_to(peer: SocketAddr, rt: &Rt, tuning: &Tuning) -> Use {
    let paths = tuning.paths.as_ref().filter(|_| Path::to(peer) == Path::Network);
    Use::begin(paths, rt, peer.ip())
}

fn server_configs(
    tls: &rustls::ServerConfig,
    tuning: &Tuning,
    rt: &Rt,
    serves: Serves,
) -> io::Result<ServerConfigs> {
    let (seed, interface) = (choices(rt), rt.interface_mtu());
    let mut tls = tls.clone();
    tls.alpn_protocols = serves.alpn();
    // RFC 9001 section 4.6.1: QUIC knows this value and 0 only.
    tls.max_early_data_size = u32::MAX;
    let crypto = QuicServerConfig::try_from(tls).map_err(invalid)?;
    let mut network = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    network
        .transport_config(Arc::new(tuning.server_transport(Path::Network, interface, seed, None)))
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BUFFER)
        .incoming_buffer_size_total(INCOMING_BUFFER_ALL);
    let mut loopback = network.clone();
    loopback.transport_config(Arc::new(tuning.server_transport(Path::Loopback, interface, !seed, None)));
    Ok(ServerConfigs { network: Arc::new(network), loopback: Arc::new(loopback), interface })
}

/// For servers elsewhere, and for servers on this host.
fn client_configs(
    tls: &rustls::ClientConfig,
    tuning: &Tuning,
    rt: &Rt,
    is_http3: bool,
) -> io::Result<(quinn::ClientConfig, quinn::ClientConfig)> {
    let (seed, interface) = (choices(rt), rt.interface_mtu());
    let transport = |path, seed| match is_http3 {
        true => Arc::new(http3::client_transport(tuning, path, interface, seed)),
        false => Arc::new(tuning.transport(path, interface, seed, None)),
    };
    let mut tls = tls.clone();
    tls.alpn_protocols = vec![if is_http3 { HTTP3_ALPN } else { ALPN }.to_vec()];
    tls.enable_early_data = !is_http3;
    let crypto = QuicClientConfig::try_from(tls).map_err(invalid)?;
    let mut network = quinn::ClientConfig::new(Arc::new(crypto));
    network.transport_config(transport(Path::Network, seed));
    let mut loopback = network.clone();
    loopback.transport_config(transport(Path::Loopback, !seed));
    Ok((network, loopback))
}

/// What controllers' random choices are made from.
fn choices(rt: &Rt) -> u64 {
    rt.seed().unwrap_or_else(|| {
        let mut bytes = [0; 8];
        // Without randomness flows may probe at the same time; nothing else depends on it.
        let _ = aws_lc_rs::rand::fill(&mut bytes);
        u64::from_le_bytes(bytes)
    })
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}
