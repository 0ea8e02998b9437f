//! Finds the way to a proxy, and opens tunnels there.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metra_fallback::proxy::Credentials;
use metra_fallback::tls::TlsClient;
use metra_fallback::{DialError, DialOptions, dial, race, udp};
use metra_transport::Rt;
use metra_transport::quic::Tuning;
use tokio::sync::Mutex;

use crate::client::{Connection, Hop, Opened, TunnelError, over_stream};
use crate::proto::Target;

/// How a proxy is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Over {
    /// HTTP/3, or TCP where that does not work.
    #[default]
    Auto,
    /// HTTP/3: one connection for all tunnels.
    Http3,
    /// HTTP/2 or HTTP/1.1 over TLS and TCP: a connection for each tunnel.
    Tcp,
}

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The name of the proxy has no address. Fault: the name, or the resolver.
    #[error("the proxy's name: {0}")]
    Name(io::Error),
    /// The proxy is not reached over TCP.
    #[error("the proxy is not reached: {0}")]
    Dial(#[from] DialError),
    /// The network, or the proxy's host, refuses UDP.
    #[error("the proxy is not reached over HTTP/3: UDP is refused: {0}")]
    Refused(io::Error),
    /// The proxy is not reached, or opens no tunnel.
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    /// There was no answer in time.
    #[error("the proxy does not answer")]
    Silence,
}

impl OpenError {
    /// Whether the same again may succeed without anything being changed.
    pub fn is_retryable(&self) -> bool {
        match self {
            OpenError::Tunnel(error) => error.is_retryable(),
            OpenError::Dial(error) => !error.is_final(),
            OpenError::Name(_) | OpenError::Refused(_) | OpenError::Silence => true,
        }
    }

    /// What the proxy has answered, if it has.
    pub fn status(&self) -> Option<u16> {
        match self {
            OpenError::Tunnel(TunnelError::Refused { status, .. }) => Some(status.as_u16()),
            _ => None,
        }
    }

    /// Whether it is about the certificate that the proxy was shown, or wants to be.
    pub fn is_of_certificate(&self) -> bool {
        matches!(self, OpenError::Tunnel(TunnelError::Certificate { .. }))
    }

    /// Another way may lead to the proxy: it has not answered itself.
    fn is_of_the_way(&self) -> bool {
        let answers = |error: &TunnelError| {
            matches!(
                error,
                TunnelError::Refused { .. } | TunnelError::Certificate { .. } | TunnelError::Request(_)
            )
        };
        !matches!(self, OpenError::Tunnel(error) if answers(error))
    }
}

/// Opens tunnels through one proxy.
pub struct Opener {
    rt: Rt,
    hop: Hop,
    over: Over,
    tuning: Tuning,
    secure: TlsClient,
    known: Mutex<Known>,
}

/// What is known of the ways.
#[derive(Default)]
struct Known {
    /// The one that all tunnels share.
    connection: Option<Arc<Connection>>,
    /// Until then HTTP/3 is not tried: it did not work, and TCP did.
    without_http3: Option<Instant>,
}

impl Opener {
    /// Through `hop`, whose name is resolved here.
    pub fn new(rt: &Rt, hop: Hop, over: Over, tuning: Tuning) -> Self {
        let secure = TlsClient::new(&hop.tls);
        Self { rt: rt.clone(), hop, over, tuning, secure, known: Mutex::default() }
    }

    /// Opens a tunnel.
    ///
    /// # Errors
    /// Why there is none; after ten seconds at the latest.
    pub async fn open(&self, target: &Target) -> Result<Opened, OpenError> {
        let opened = self.rt.timeout(PATIENCE, self.by_any_way(target)).await;
        opened.unwrap_or(Err(OpenError::Silence))
    }

    async fn by_any_way(&self, target: &Target) -> Result<Opened, OpenError> {
        match self.over {
            Over::Tcp => return self.tcp(target).await,
            Over::Http3 => return self.http3(target).await,
            Over::Auto => {}
        }
        let now = self.rt.now();
        if self.known.lock().await.without_http3.is_some_and(|until| now < until) {
            return self.tcp(target).await;
        }
        let by_http3 = self.rt.timeout(HTTP3_PATIENCE, self.http3(target)).await;
        let error = match by_http3.unwrap_or(Err(OpenError::Silence)) {
            Err(error) if error.is_of_the_way() => error,
            opened => return opened,
        };
        tracing::debug!(%error, "HTTP/3 does not work");
        let opened = self.tcp(target).await?;
        self.known.lock().await.without_http3 = Some(self.rt.now() + HTTP3_AGAIN);
        Ok(opened)
    }

    async fn http3(&self, target: &Target) -> Result<Opened, OpenError> {
        let connection = {
            // Whoever comes meanwhile waits for the same connection.
            let mut known = self.known.lock().await;
            match known.connection.take().filter(|connection| !connection.is_lost()) {
                Some(connection) => known.connection.insert(connection).clone(),
                None => known.connection.insert(self.connect().await?).clone(),
            }
        };
        Ok(connection.open(target).await?)
    }

    async fn connect(&self) -> Result<Arc<Connection>, OpenError> {
        let host = (self.hop.template.host(), self.hop.template.port());
        let addresses = race::order(tokio::net::lookup_host(host).await.map_err(OpenError::Name)?);
        let one = async |address| {
            tokio::select! {
                biased;
                connected = Connection::connect(&self.rt, &self.hop, address, &self.tuning) => {
                    connected.map_err(OpenError::from)
                }
                error = udp::rejected(&self.rt, address) => Err(OpenError::Refused(error)),
            }
        };
        race::connect(&self.rt, &addresses, one, |_| false).await.map_err(|error| match error {
            Some((_, error)) => error,
            None => OpenError::Name(io::ErrorKind::NotFound.into()),
        })
    }

    async fn tcp(&self, target: &Target) -> Result<Opened, OpenError> {
        let (host, port) = (self.hop.template.host().to_owned(), self.hop.template.port());
        let place = metra_fallback::Target { host, port };
        let dialled = dial(&place, None, &DialOptions::default()).await?;
        let secured =
            self.secure.http(dialled.stream, self.hop.template.host()).await.map_err(TunnelError::from)?;
        Ok(over_stream(&self.rt, &self.hop, secured, dialled.peer, target).await?)
    }
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = !matches!(self.hop.credentials, Credentials::None);
        write!(f, "Opener({}, {:?}, credentials: {shown})", self.hop.template.authority(), self.over)
    }
}

/// For one tunnel, whatever has to be opened below it.
const PATIENCE: Duration = Duration::from_secs(10);
/// For one by HTTP/3, where there is another way.
const HTTP3_PATIENCE: Duration = Duration::from_secs(3);
/// After so long it is tried again where it did not work.
const HTTP3_AGAIN: Duration = Duration::from_secs(300);
