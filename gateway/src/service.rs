//! The service: what is opened at the start, what runs, and how it ends.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use metra_certs::{DevCa, Pin, ReceiptKey, ResetKey, ServerIdentity, TicketKey, server_config};
use metra_core::code::Code;
use metra_fallback::link::LinkTuning;
use metra_fallback::tls::TlsServer;
use metra_store::{Beneath, Catalogue};
use metra_transport::quic::{Accepted, Congestion, Paths, QuicServer, Serves, Tuning};
use metra_transport::{AbortOnDrop, LinkKind, Rt};
use metrics_exporter_prometheus::PrometheusBuilder;

use crate::audit::{Audit, AuditError};
use crate::authority::Authority;
use crate::config::{self, Config};
use crate::content::Content;
use crate::drain::Drain;
use crate::http::Sites;
use crate::http3::http3;
use crate::identities::Identities;
use crate::measure;
use crate::open::{Arrival, admit, stack};
use crate::sessions::{Deciders, Keys, Sessions};
use crate::shaping::Shaping;
use crate::tcp::{self, TcpServer, TcpSettings};
use crate::tunnels::Tunnels;

/// The catalogue within the state directory.
const CATALOGUE: &str = "catalogue.sqlite";
/// Ports that are tried until one is free for UDP and TCP.
const PORTS_TRIED: usize = 16;
/// Bytes that a link takes of a peer that is not known yet. `Hello` has five thousand at most, but `metra doctor` tries a path with
/// 256 KiB before it shows credentials.
const FROM_STRANGERS: usize = 512 * 1024;
/// What a shutdown waits for the last records to be written.
const LAST_RECORDS: Duration = Duration::from_secs(2);
/// Hashes of files that were not looked at for so long are forgotten.
const KEEP_DAYS: u32 = 90;

/// Why a gateway could not start. Nothing is left open.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A certificate or key. Fault: the configuration, or the disk.
    #[error(transparent)]
    Certificates(#[from] metra_certs::Error),
    /// The catalogue. Fault: the disk.
    #[error(transparent)]
    Catalogue(#[from] metra_store::CatalogueError),
    /// An address to listen on. Fault: the configuration, or somebody else listens there.
    #[error("listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The metrics. Fault: the configuration, or somebody else listens there.
    #[error("metrics_listen: {0}")]
    Metrics(String),
    /// The policies, a line for each thing that is wrong. Fault: whoever wrote them.
    #[error("{0}")]
    Policies(String),
    /// The keys of an identity provider. Fault: the configuration.
    #[error("jwt.{name}: {reason}")]
    Identities {
        /// The provider.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The audit trail. Fault: the configuration, or the disk.
    #[error("audit: {0}")]
    Audit(#[from] AuditError),
    /// The root, a home, or the folder for what is put aside. Fault: the configuration, or the disk.
    #[error("{path}: {source}")]
    Root {
        /// The directory.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
}

/// A running gateway.
pub struct Gateway {
    rt: Rt,
    sessions: Arc<Sessions>,
    servers: Vec<Arc<QuicServer>>,
    drain: Drain,
    _listeners: Vec<AbortOnDrop<()>>,
    pin: Pin,
    paths: Option<Paths>,
}

impl Gateway {
    /// Opens everything that `config` names, and serves.
    ///
    /// # Errors
    /// The first thing that could not be opened.
    pub async fn start(rt: Rt, config: Config) -> Result<Self, StartError> {
        let identity = identity(&config)?;
        let tls = server_config(&identity, config.tls.client_ca.as_deref())?;
        for home in std::iter::once(&config.root).chain(config.users.iter().map(|u| &u.home)) {
            let named = |source| StartError::Root { path: home.display().to_string(), source };
            Beneath::open(home).map_err(named)?;
        }
        let catalogue = Arc::new(Catalogue::open(&config.state.join(CATALOGUE), SystemTime::now())?);
        let receipts = ReceiptKey::load_or_create(&config.state)?;
        let tickets = TicketKey::load_or_create(&config.state)?;
        let reset = ResetKey::load_or_create(&config.state)?;
        let identities = Identities::start(&rt, &config)?;
        let (authority, follow) = Authority::start(&rt, &config.policy).map_err(StartError::Policies)?;
        let tuning = tuning(&config);
        let (mut servers, mut tcp) = (Vec::new(), Vec::new());
        let serves = if config.quic.http3 { Serves::MtpAndHttp3 } else { Serves::Mtp };
        let udp = |address| {
            // All listen with the same tuning, and so share what is known of paths.
            QuicServer::bind(rt.clone(), address, tls.clone(), tuning.clone(), Some(reset.secret()), serves)
        };
        let settings = TcpSettings {
            tls: TlsServer::new(&tls, config.tcp.http),
            handshake: config.limits.handshake,
            pending: tcp::pending(),
            http3: config.quic.http3,
        };
        let link = LinkTuning {
            idle_timeout: tuning.idle_timeout,
            keep_alive: tuning.keep_alive,
            from_strangers: Some(FROM_STRANGERS),
        };
        let stream = |address| TcpServer::bind(rt.clone(), address, settings.clone());
        for address in &config.listen {
            let named = |source| StartError::Listen { address: *address, source };
            if config.tcp.listen {
                let (server, same) = bind_both(*address, udp, stream).map_err(named)?;
                servers.push(Arc::new(server));
                tcp.push(Arc::new(same));
            } else {
                servers.push(Arc::new(udp(*address).map_err(named)?));
            }
        }
        if let Some(address) = config.metrics_listen {
            measure::buckets(PrometheusBuilder::new())
                .and_then(|builder| builder.with_http_listener(address).install())
                .map_err(|e| StartError::Metrics(format!("{address}: {e}")))?;
            measure::describe();
        }
        let wall = Arc::new(SystemTime::now);
        let (shaping, shaper) = Shaping::start(&rt, config.shaping.clone(), catalogue.clone(), wall)?;
        // After the metrics: it says at once how it is.
        let audit = Audit::start(&rt, &config.audit)?;
        let content = Content::open(&config).map_err(|source| StartError::Root {
            path: config.content.quarantine.display().to_string(),
            source,
        })?;
        let sessions = Sessions::new(
            rt.clone(),
            config,
            catalogue.clone(),
            Keys { receipts, tickets, pin: identity.pin().to_string() },
            Deciders { identities, authority, content, shaping },
            audit,
        );
        let (opener, drain) = (stack(sessions.clone()), Drain::new());
        let sockets = servers.iter().filter_map(|server| server.local_addr().ok()).collect();
        let native = servers.first().expect("invariant: a configuration has an address").clone();
        let tunnels =
            Tunnels::new(rt.clone(), sessions.clone(), opener.clone(), drain.clone(), sockets, native);
        let sites = Arc::new(Sites {
            rt: rt.clone(),
            pin: identity.pin(),
            link,
            opener,
            tunnels: Arc::new(tunnels),
            drain: drain.clone(),
        });
        let listen = |server: &Arc<QuicServer>| {
            rt.spawn(accept(server.clone(), sites.clone(), settings.clone())).abort_on_drop()
        };
        let listen_tcp =
            |server: &Arc<TcpServer>| rt.spawn(server.clone().run(sites.clone())).abort_on_drop();
        let listeners = servers
            .iter()
            .map(listen)
            .chain(tcp.iter().map(listen_tcp))
            .chain(follow)
            .chain([shaper])
            .collect();
        // The disk work of a prune is nobody's concern at the start.
        rt.spawn(rt.blocking(move || {
            if let Err(error) = catalogue.prune(KEEP_DAYS, SystemTime::now()) {
                tracing::warn!(%error, "old hashes could not be removed");
            }
        }));
        let paths = tuning.paths;
        Ok(Self { rt, sessions, servers, drain, _listeners: listeners, pin: identity.pin(), paths })
    }

    /// Where it listens; ports that were 0 are the real ones here.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.servers.iter().filter_map(|server| server.local_addr().ok()).collect()
    }

    /// The pin of its certificate.
    pub fn pin(&self) -> Pin {
        self.pin
    }

    /// What is known of paths to clients, if that is remembered.
    pub fn paths(&self) -> Option<&Paths> {
        self.paths.as_ref()
    }

    /// Reads the policies again, as when one of their files has changed.
    pub fn reload(&self) {
        self.sessions.authority().reload();
    }

    /// Rates, quotas and tenants are others from now on, for what runs, too.
    pub fn shape(&self, shaping: config::Shaping) {
        self.sessions.shape(shaping);
    }

    /// Lets nobody in any more, journals what is in flight, tells the clients, and ends; within about `grace`.
    pub async fn shutdown(self, grace: Duration) {
        for server in &self.servers {
            server.set_accepting(false);
        }
        self.drain.begin();
        let began = self.rt.now();
        self.sessions.drain(grace).await;
        // HTTP says that it goes, and its tunnels may end.
        let left = grace.saturating_sub(self.rt.now().saturating_duration_since(began));
        let _ = self.rt.timeout(left, self.drain.ended(&self.rt)).await;
        for server in &self.servers {
            server.close(Code::Draining, "the gateway is shutting down");
            let _ = self.rt.timeout(Duration::from_secs(1), server.wait_idle()).await;
        }
        self.sessions.shaping().keep().await;
        self.sessions.audit().flush(LAST_RECORDS).await;
    }
}

/// UDP and TCP on the same port. Where any port will do, the first that is free for both.
fn bind_both(
    address: SocketAddr,
    udp: impl Fn(SocketAddr) -> io::Result<QuicServer>,
    tcp: impl Fn(SocketAddr) -> io::Result<TcpServer>,
) -> io::Result<(QuicServer, TcpServer)> {
    let mut tries = if address.port() == 0 { PORTS_TRIED } else { 1 };
    loop {
        tries -= 1;
        let udp = udp(address)?;
        match tcp(udp.local_addr()?) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
            tcp => return Ok((udp, tcp?)),
        }
    }
}

fn identity(config: &Config) -> Result<ServerIdentity, metra_certs::Error> {
    match &config.tls.files {
        Some(files) => ServerIdentity::from_pem_files(&files.cert, &files.key),
        None => DevCa::load_or_create(&config.state)?.server_identity(&names(config)),
    }
}

/// The addresses that the development certificate is for, besides those of this machine.
fn names(config: &Config) -> Vec<String> {
    let named = config.listen.iter().map(|a| a.ip()).filter(|ip| !ip.is_unspecified() && !ip.is_loopback());
    named.map(|ip| ip.to_string()).collect()
}

fn tuning(config: &Config) -> Tuning {
    let default = Tuning::default();
    Tuning {
        idle_timeout: config.limits.idle,
        keep_alive: default.keep_alive.min(config.limits.idle / 3),
        receive_window: config.quic.receive_window,
        send_window: config.quic.send_window,
        mtu_upper_bound: config.quic.mtu,
        congestion: match config.quic.congestion {
            Some(config::Congestion::Cubic) => Congestion::Cubic,
            Some(config::Congestion::Bbr2) => Congestion::Bbr2,
            Some(config::Congestion::Bbr) => Congestion::Bbr,
            None => default.congestion,
        },
        paths: config.quic.remember_paths.then(Paths::default),
        ..default
    }
}

/// Lets connections in: links go through the stack, the others are HTTP.
async fn accept(server: Arc<QuicServer>, sites: Arc<Sites>, settings: TcpSettings) {
    while let Some(incoming) = server.accept().await {
        let (sites, settings) = (sites.clone(), settings.clone());
        let peer = incoming.peer();
        sites.rt.clone().spawn(async move {
            match incoming.accept().await {
                Ok(Accepted::Link(link)) => {
                    admit(sites.opener.clone(), Arrival { peer: link.peer(), kind: link.kind(), link }).await;
                }
                Ok(Accepted::Http3(connection)) => {
                    http3(sites, settings.pending, connection, settings.handshake).await;
                }
                Err(error) => {
                    tracing::debug!(%peer, %error, "handshake failed");
                    measure::handshake_failed(LinkKind::Quic, &error);
                }
            }
        });
    }
}
