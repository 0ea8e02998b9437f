//! Opening tunnels, through one proxy or through several.
//!
//! ```text
//!  Connection    QUIC to the proxy, or to one behind a tunnel: any number of tunnels, each CONNECT-UDP over HTTP/3
//!  over_http3, over_tunnel                          one tunnel of such a connection
//!  over_stream   TLS over TCP to the proxy          CONNECT-UDP over HTTP/2, or the upgrade of HTTP/1.1
//! ```
//!
//! Non-goals: names (the caller resolves that of the first proxy; all others are resolved by the proxy before them), deadlines
//! (dropping the future gives up), and which way is tried first.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHORIZATION,
    SERVER, TRANSFER_ENCODING, VIA,
};
use http::{Method, Request, StatusCode, Uri};
use hyper::ext::Protocol;
use metra_core::code::Code;
use metra_fallback::http::{OpenError, open};
use metra_fallback::proxy::Credentials;
use metra_fallback::tls::{Protocol as Alpn, Secured};
use metra_transport::quic::{Deferral, Http3Connection, QuicClient, Tuning};
use metra_transport::{LinkError, Packets, Rt, any};

use crate::carrier::{Carrier, Side};
use crate::http3::{Client, Http3Error, Limits};
use crate::proto::{Target, Template, capsule_protocol, proxy_status};
use crate::server::CONNECT_UDP;

/// A proxy.
#[derive(Clone, Debug)]
pub struct Hop {
    /// Where it takes requests for tunnels.
    pub template: Template,
    /// Its authorities, and the certificate that is shown to it.
    pub tls: Arc<rustls::ClientConfig>,
    /// What else is shown to it.
    pub credentials: Credentials,
}

/// A tunnel that stands. Dropped, it ends in order, whoever holds its carrier.
#[derive(Debug)]
pub struct Opened {
    /// What goes through it.
    pub carrier: Arc<Carrier>,
    _end: End,
    /// The connection that it is in, if that is one of HTTP/3. Dropped after the carrier.
    keep: Option<Arc<Connection>>,
}

/// Ends a tunnel when it is dropped: the proxy closes its socket at once.
#[derive(Debug)]
struct End(Arc<Carrier>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.finish();
    }
}

/// A connection to a proxy by HTTP/3. Ends when it and all tunnels of it are dropped.
#[derive(Debug)]
pub struct Connection {
    rt: Rt,
    hop: Hop,
    peer: SocketAddr,
    client: Client,
    deferral: Deferral,
    endpoint: QuicClient,
    /// What leads to the proxy.
    outer: Option<Opened>,
}

impl Opened {
    fn new(carrier: Carrier, keep: Option<Arc<Connection>>) -> Self {
        let carrier = Arc::new(carrier);
        Self { _end: End(carrier.clone()), carrier, keep }
    }

    /// Ends the tunnel, and connections in which nothing else is, and resolves when their proxies have been told. Whatever used
    /// the carrier is to be dropped before. There is no deadline.
    pub async fn close(self, rt: &Rt) {
        let mut tunnel = Some(self);
        while let Some(Opened { carrier, keep, .. }) = tunnel {
            carrier.finish();
            let ended = poll_fn(|cx| {
                while let Poll::Ready(received) = carrier.poll_payload(cx) {
                    if received.is_err() {
                        return Poll::Ready(());
                    }
                }
                Poll::Pending
            });
            // The proxy ends its side, too; or it does not.
            let _ = rt.timeout(FAREWELL, ended).await;
            drop(carrier);
            let Some(connection) = keep.and_then(Arc::into_inner) else { return };
            let Connection { client, endpoint, outer, .. } = connection;
            drop(client);
            endpoint.close(Code::Ok, "");
            endpoint.wait_idle().await;
            tunnel = outer;
        }
    }

    /// One more tunnel over the innermost connection.
    ///
    /// # Errors
    /// Why there is none; [`TunnelError::Request`] if it is not over HTTP/3 (fault: the caller).
    pub async fn another(&self, target: &Target) -> Result<Opened, TunnelError> {
        let no_more = || TunnelError::Request("there is one tunnel over TCP".to_owned());
        self.keep.as_ref().ok_or_else(no_more)?.open(target).await
    }

    /// All that this side will ever send through this tunnel, and through others of its connections, has a congestion controller
    /// of its own: theirs are switched off (RFC 9298 section 6).
    pub fn defer(&self) {
        let mut connection = self.keep.as_ref();
        while let Some(deferring) = connection {
            deferring.deferral.set(true);
            connection = deferring.outer.as_ref().and_then(|outer| outer.keep.as_ref());
        }
    }
}

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TunnelError {
    /// There is no connection to the proxy.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The proxy says no. Fault: what it says.
    #[error("the proxy answers {status}{cause}")]
    Refused {
        /// The status.
        status: StatusCode,
        /// What it says of the cause, with a blank before; empty if it says nothing.
        cause: String,
    },
    /// The proxy ended TLS over the certificate that it was shown, or because there was none. Fault: who chose that, or the proxy.
    #[error("the proxy {}: {said}", if *shown { "does not accept the client certificate" } else { "wants a client certificate" })]
    Certificate {
        /// Whether there is one.
        shown: bool,
        /// What the proxy, or TLS, says.
        said: String,
    },
    /// The proxy has no tunnels, over HTTP/3. Fault: it is another server, or not configured for them.
    #[error(transparent)]
    Http3(#[from] Http3Error),
    /// The same, over HTTP/2 or HTTP/1.1.
    #[error(transparent)]
    Stream(OpenError),
    /// The proxy grants it in a way that RFC 9297 forbids. Fault: the proxy.
    #[error("the proxy's answer is malformed: {0} in an answer that opens a tunnel")]
    Malformed(&'static str),
    /// What is asked for cannot stand in a request. Fault: the caller.
    #[error("not usable in a request: {0}")]
    Request(String),
}

impl TunnelError {
    /// Whether the same again may succeed without anything being changed.
    pub fn is_retryable(&self) -> bool {
        match self {
            TunnelError::Link(error) => error.is_retryable(),
            TunnelError::Refused { status, .. } => matches!(status.as_u16(), 429 | 502 | 503 | 504),
            TunnelError::Http3(_) | TunnelError::Stream(OpenError::Unanswered | OpenError::Io { .. }) => true,
            TunnelError::Certificate { .. }
            | TunnelError::Stream(_)
            | TunnelError::Malformed(_)
            | TunnelError::Request(_) => false,
        }
    }
}

impl Connection {
    /// Connects to `hop`, which is at `address`.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn connect(
        rt: &Rt,
        hop: &Hop,
        address: SocketAddr,
        tuning: &Tuning,
    ) -> Result<Arc<Self>, TunnelError> {
        let endpoint = QuicClient::http3(rt.clone(), any(address), hop.tls.clone(), tuning.clone())
            .map_err(LinkError::from)?;
        let connection = endpoint.connect_http3(address, hop.template.host()).await?;
        Self::start(rt, hop, connection, endpoint, None).await
    }

    /// The same through a tunnel that leads to `hop`.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn connect_through(
        rt: &Rt,
        hop: &Hop,
        outer: Opened,
        tuning: &Tuning,
    ) -> Result<Arc<Self>, TunnelError> {
        let peer = outer.carrier.peer();
        let carrier = outer.carrier.clone();
        let endpoint = QuicClient::http3_over(rt.clone(), carrier, hop.tls.clone(), tuning.clone())
            .map_err(LinkError::from)?;
        let connection = endpoint.connect_http3(peer, hop.template.host()).await?;
        Self::start(rt, hop, connection, endpoint, Some(outer)).await
    }

    async fn start(
        rt: &Rt,
        hop: &Hop,
        connection: Http3Connection,
        endpoint: QuicClient,
        outer: Option<Opened>,
    ) -> Result<Arc<Self>, TunnelError> {
        let (peer, deferral) = (connection.peer(), connection.deferral());
        let connection = connection.into_inner();
        let client = Client::start(rt, connection.clone(), &Limits::default()).await;
        let client = client.map_err(|error| of_http3(hop, &connection, error))?;
        let (rt, hop) = (rt.clone(), hop.clone());
        Ok(Arc::new(Self { rt, hop, peer, client, deferral, endpoint, outer }))
    }

    /// Opens a tunnel to `target`.
    ///
    /// # Errors
    /// Why there is none. The connection may be lost then; see [`Connection::is_lost`].
    pub async fn open(self: &Arc<Self>, target: &Target) -> Result<Opened, TunnelError> {
        let mut request = Request::builder()
            .method(Method::CONNECT)
            .uri(uri(&self.hop, target)?)
            .extension(Protocol::from_static(CONNECT_UDP))
            .body(())
            .map_err(|e| TunnelError::Request(e.to_string()))?;
        *request.headers_mut() = fields(&self.hop)?;
        let answered = self.client.connect(request).await;
        let (answer, tunnelled) =
            answered.map_err(|error| of_http3(&self.hop, self.client.connection(), error))?;
        let Some(tunnelled) = tunnelled else { return Err(refused(answer.status(), answer.headers())) };
        granted(answer.status(), answer.headers())?;
        let carrier = Carrier::http3(&self.rt, tunnelled, self.peer, Side::Client);
        Ok(Opened::new(carrier, Some(self.clone())))
    }

    /// Whether it has ended: no tunnel will ever be opened.
    pub fn is_lost(&self) -> bool {
        self.client.connection().close_reason().is_some()
    }
}

/// Opens a tunnel to `target` by HTTP/3 through `hop`, which is at `address`.
///
/// # Errors
/// Why there is none.
pub async fn over_http3(
    rt: &Rt,
    hop: &Hop,
    address: SocketAddr,
    target: &Target,
    tuning: &Tuning,
) -> Result<Opened, TunnelError> {
    Connection::connect(rt, hop, address, tuning).await?.open(target).await
}

/// The same through a tunnel that leads to `hop`.
///
/// # Errors
/// Why there is none.
pub async fn over_tunnel(
    rt: &Rt,
    hop: &Hop,
    outer: Opened,
    target: &Target,
    tuning: &Tuning,
) -> Result<Opened, TunnelError> {
    Connection::connect_through(rt, hop, outer, tuning).await?.open(target).await
}

/// Opens a tunnel to `target` through `hop`, to which `secured` leads; `peer` is the other end of its connection.
///
/// # Errors
/// Why there is none.
pub async fn over_stream(
    rt: &Rt,
    hop: &Hop,
    secured: Secured,
    peer: SocketAddr,
    target: &Target,
) -> Result<Opened, TunnelError> {
    let is_h2 = secured.protocol == Alpn::Http2;
    let opened = open(secured.stream, is_h2, CONNECT_UDP, uri(hop, target)?, fields(hop)?).await;
    let (answer, stream) = opened.map_err(|error| match error {
        OpenError::Refused { status, headers } => refused(status, &headers),
        // With TLS 1.3 the client is done before the proxy has seen its certificate.
        OpenError::Io { kind: ErrorKind::InvalidData, message } if message.starts_with(ALERT) => {
            TunnelError::Certificate { shown: shows_certificate(hop), said: message }
        }
        error => TunnelError::Stream(error),
    })?;
    granted(answer.status(), answer.headers())?;
    Ok(Opened::new(Carrier::stream(rt, stream, peer), None))
}

fn uri(hop: &Hop, target: &Target) -> Result<Uri, TunnelError> {
    hop.template
        .expand(target)
        .parse()
        .map_err(|e: http::uri::InvalidUri| TunnelError::Request(e.to_string()))
}

/// RFC 9297 section 3.4, and the credentials. Proxies differ on whether the resource of a template is one of a proxy's or of an
/// origin's: they get both.
fn fields(hop: &Hop) -> Result<HeaderMap, TunnelError> {
    let mut fields = HeaderMap::new();
    let name = HeaderName::from_static(capsule_protocol::NAME);
    fields.insert(name, HeaderValue::from_static(capsule_protocol::ON));
    let Some(shown) = hop.credentials.header() else { return Ok(fields) };
    let mut shown = HeaderValue::try_from(shown)
        .map_err(|_| TunnelError::Request("the credentials for the proxy".to_owned()))?;
    shown.set_sensitive(true);
    fields.insert(AUTHORIZATION, shown.clone());
    fields.insert(PROXY_AUTHORIZATION, shown);
    Ok(fields)
}

/// A connection that TLS ends (RFC 9001 section 4.8: CRYPTO_ERROR) after this side's part of the handshake: as above.
fn of_http3(hop: &Hop, connection: &quinn::Connection, error: Http3Error) -> TunnelError {
    match connection.close_reason() {
        Some(quinn::ConnectionError::ConnectionClosed(close))
            if (0x100..=0x1ff).contains(&u64::from(close.error_code)) =>
        {
            let said = String::from_utf8_lossy(&close.reason);
            let said = match said.is_empty() {
                true => close.error_code.to_string(),
                false => said.chars().take(SAID_MAX).collect(),
            };
            TunnelError::Certificate { shown: shows_certificate(hop), said }
        }
        _ => error.into(),
    }
}

fn shows_certificate(hop: &Hop) -> bool {
    hop.tls.client_auth_cert_resolver.has_certs()
}

/// RFC 9297 section 3.2: what no answer has that is followed by capsules.
fn granted(status: StatusCode, headers: &HeaderMap) -> Result<(), TunnelError> {
    if matches!(status.as_u16(), 204..=206) {
        return Err(TunnelError::Malformed("status 204, 205 or 206"));
    }
    if headers.contains_key(CONTENT_LENGTH) {
        return Err(TunnelError::Malformed("Content-Length"));
    }
    if headers.contains_key(CONTENT_TYPE) {
        return Err(TunnelError::Malformed("Content-Type"));
    }
    if headers.contains_key(TRANSFER_ENCODING) {
        return Err(TunnelError::Malformed("Transfer-Encoding"));
    }
    Ok(())
}

/// An answer that opens nothing.
fn refused(status: StatusCode, headers: &HeaderMap) -> TunnelError {
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let cause = text(&HeaderName::from_static(proxy_status::NAME)).and_then(proxy_status::cause);
    let cause = match (cause, [VIA, SERVER].iter().find_map(text)) {
        (Some(cause), _) => format!(": {cause}"),
        (None, Some(by)) => format!(" (by {:?})", by.chars().take(NAME_MAX).collect::<String>()),
        (None, None) => String::new(),
    };
    TunnelError::Refused { status, cause }
}

/// How long a proxy may take to end its side of a tunnel.
const FAREWELL: Duration = Duration::from_millis(250);
/// How the text of rustls for an alert of the peer begins.
const ALERT: &str = "received fatal alert";
/// Of what a proxy says at the end of a connection. Characters.
const SAID_MAX: usize = 128;
/// Of the name of a server, in an error. Characters.
const NAME_MAX: usize = 64;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rfc9297_3_2_answers_that_open_no_tunnel() {
        let answer = |status: u16, field: Option<&'static str>| {
            let mut fields = HeaderMap::new();
            if let Some(name) = field {
                fields.insert(HeaderName::from_static(name), HeaderValue::from_static("0"));
            }
            granted(StatusCode::from_u16(status).unwrap(), &fields)
        };
        for status in [101, 200, 201, 202, 203, 207, 299] {
            assert!(answer(status, Some("capsule-protocol")).is_ok(), "{status}");
        }
        for status in [204, 205, 206] {
            assert!(matches!(answer(status, None), Err(TunnelError::Malformed(_))), "{status}");
        }
        for field in ["content-length", "content-type", "transfer-encoding"] {
            let error = answer(200, Some(field)).unwrap_err();
            assert!(!error.is_retryable() && error.to_string().to_lowercase().contains(field), "{error}");
        }
    }
}
