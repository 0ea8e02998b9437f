//! TLS over TCP: connections that carry MTP (ALPN `mtp/1`) or HTTP (`h2`, `http/1.1`), on one port.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use metra_transport::LinkError;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::server::ServerSessionMemoryCache;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::ahead::Ahead;
use crate::stream::BoxStream;

/// The protocol name of MTP on a byte stream, version 1 (ALPN, RFC 7301): the same as over QUIC.
pub const ALPN: &[u8] = b"mtp/1";
const H2: &[u8] = b"h2";
const HTTP11: &[u8] = b"http/1.1";

/// Read from the kernel at a time. TLS takes a few kilobytes of it at a time.
const READ: usize = 128 * 1024;
/// Sessions that a client keeps for resumption, and a server.
const SESSIONS: (usize, usize) = (8, 4096);
/// Several round trips.
const LINGER: Duration = Duration::from_secs(1);

/// What a connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// MTP.
    Mtp,
    /// HTTP/2.
    Http2,
    /// HTTP/1.1; also where the client has said nothing, as programs without ALPN do.
    Http1,
}

/// A connection with TLS.
pub struct Secured {
    /// What is inside of it.
    pub stream: BoxStream,
    /// What it carries.
    pub protocol: Protocol,
    /// The peer's certificates in DER, its own first.
    pub certificates: Option<Vec<Vec<u8>>>,
}

/// Opens TLS connections.
#[derive(Clone)]
pub struct TlsClient {
    mtp: TlsConnector,
    http: TlsConnector,
    plain: TlsConnector,
}

impl TlsClient {
    /// Of `tls` the roots and the client's certificate are used; ALPN is set here. Nothing is sent as early data: its first
    /// round trip would be saved, but TCP's would not.
    pub fn new(tls: &rustls::ClientConfig) -> Self {
        let with = |protocols: &[&[u8]]| {
            let mut tls = tls.clone();
            tls.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
            tls.enable_early_data = false;
            // Its own: a ticket is used once, and is of no use to another transport.
            tls.resumption = Resumption::in_memory_sessions(SESSIONS.0);
            TlsConnector::from(Arc::new(tls))
        };
        Self { mtp: with(&[ALPN]), http: with(&[H2, HTTP11]), plain: with(&[]) }
    }

    /// The same for what has no protocol name, such as syslog (RFC 5425).
    ///
    /// # Errors
    /// As [`TlsClient::http`].
    pub async fn plain(&self, stream: BoxStream, server_name: &str) -> Result<BoxStream, LinkError> {
        Ok(connect(&self.plain, stream, server_name).await?.stream)
    }

    /// Opens a connection for MTP on `stream`, to a server whose certificate must be for `server_name`.
    ///
    /// # Errors
    /// As [`TlsClient::http`].
    pub async fn mtp(&self, stream: BoxStream, server_name: &str) -> Result<Secured, LinkError> {
        let secured = connect(&self.mtp, stream, server_name).await?;
        if secured.protocol != Protocol::Mtp {
            // What answered knows nothing of protocol names, and so nothing of MTP.
            return Err(LinkError::NoProtocol("the other end knows nothing of it".to_owned()));
        }
        Ok(secured)
    }

    /// The same for HTTP.
    ///
    /// # Errors
    /// [`LinkError::Handshake`] where certificate or version do not suit, [`LinkError::NoProtocol`] where the other end speaks
    /// something else; else what became of `stream`.
    pub async fn http(&self, stream: BoxStream, server_name: &str) -> Result<Secured, LinkError> {
        connect(&self.http, stream, server_name).await
    }
}

async fn connect(tls: &TlsConnector, stream: BoxStream, server_name: &str) -> Result<Secured, LinkError> {
    let name = ServerName::try_from(server_name.to_owned()).map_err(|e| LinkError::Io {
        kind: io::ErrorKind::InvalidInput,
        message: format!("{server_name}: {e}"),
    })?;
    let mut stream = tls.connect(name, Ahead::new(stream)).await.map_err(failed)?;
    stream.get_mut().0.allow(READ);
    let (protocol, certificates) = known(stream.get_ref().1);
    Ok(Secured { stream: Box::new(stream), protocol, certificates })
}

/// Accepts TLS connections.
#[derive(Clone)]
pub struct TlsServer {
    acceptor: TlsAcceptor,
    http: bool,
}

impl TlsServer {
    /// Of `tls` the certificates and the verifier of clients are used; ALPN is set here: MTP, and HTTP if `http`.
    pub fn new(tls: &rustls::ServerConfig, http: bool) -> Self {
        let mut tls = tls.clone();
        tls.alpn_protocols = vec![ALPN.to_vec()];
        if http {
            tls.alpn_protocols.extend([H2.to_vec(), HTTP11.to_vec()]);
        }
        tls.max_early_data_size = 0;
        tls.session_storage = ServerSessionMemoryCache::new(SESSIONS.1);
        Self { acceptor: TlsAcceptor::from(Arc::new(tls)), http }
    }

    /// The server's side of a handshake. There is no deadline here. One that failed is told to the client, which has a second
    /// to hear it.
    ///
    /// # Errors
    /// [`LinkError::NoProtocol`] if there is no common protocol, [`LinkError::Handshake`] if what came is not TLS; else what
    /// became of `tcp`.
    pub async fn accept(&self, tcp: TcpStream) -> Result<Secured, LinkError> {
        let mut stream = match self.acceptor.accept(Ahead::new(tcp)).into_fallible().await {
            Ok(stream) => stream,
            Err((error, mut tcp)) => {
                linger(&mut tcp).await;
                return Err(failed(error));
            }
        };
        stream.get_mut().0.allow(READ);
        let (protocol, certificates) = known(stream.get_ref().1);
        if protocol != Protocol::Mtp && !self.http {
            return Err(LinkError::NoProtocol("the other end names none".to_owned()));
        }
        Ok(Secured { stream: Box::new(stream), protocol, certificates })
    }
}

/// Closes this end, and reads until the client has closed its own. A socket that is closed with something unread resets the
/// connection, and a client may lose the alert before it has read it: one with a certificate that is refused is
/// done with the handshake of TLS 1.3 before the server is, and sends on.
async fn linger(tcp: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    let _ = tokio::time::timeout(LINGER, async {
        if tcp.shutdown().await.is_ok() {
            let _ = tokio::io::copy(tcp, &mut tokio::io::sink()).await;
        }
    })
    .await;
}

fn known(tls: &rustls::CommonState) -> (Protocol, Option<Vec<Vec<u8>>>) {
    let protocol = match tls.alpn_protocol() {
        Some(ALPN) => Protocol::Mtp,
        Some(H2) => Protocol::Http2,
        _ => Protocol::Http1,
    };
    let certificates =
        tls.peer_certificates().map(|chain| chain.iter().map(|der| der.as_ref().to_vec()).collect());
    (protocol, certificates)
}

/// What an inner error of TLS says is for people; whether it is one is for programs.
fn failed(error: io::Error) -> LinkError {
    use rustls::{AlertDescription, Error, PeerIncompatible};
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(
            tls @ (Error::AlertReceived(AlertDescription::NoApplicationProtocol)
            | Error::NoApplicationProtocol),
        ) => LinkError::NoProtocol(tls.to_string()),
        Some(
            tls @ (Error::AlertReceived(AlertDescription::ProtocolVersion)
            | Error::PeerIncompatible(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig)
            | Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13)),
        ) => LinkError::Handshake(format!(
            "the other end, or whoever looks into TLS on the way to it, speaks no TLS 1.3: {tls}"
        )),
        Some(tls) => LinkError::Handshake(tls.to_string()),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            LinkError::Handshake("the other end closed the connection during the TLS handshake".to_owned())
        }
        None => error.into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_client_hears_why_although_it_sends_on() {
        let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(issued.signing_key.serialize_der().into());
        let config =
            rustls::ServerConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![issued.cert.der().clone()], key)
                .unwrap();
        let server = TlsServer::new(&config, true);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        // More than is read before the first of it is refused.
        client.write_all(&[b'x'; 64 << 10]).await.unwrap();
        let accepting = tokio::spawn(async move {
            let (tcp, _) = listener.accept().await.unwrap();
            server.accept(tcp).await.err().unwrap()
        });
        let mut said = Vec::new();
        client.read_to_end(&mut said).await.unwrap();
        // RFC 8446 section 5.1: an alert.
        assert_eq!(said.first(), Some(&21), "{said:?}");
        drop(client);
        assert!(matches!(accepting.await.unwrap(), LinkError::Handshake(_)));
    }
}
