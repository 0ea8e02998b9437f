//! The keys of an identity provider, over HTTPS.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, HOST, USER_AGENT};
use http::{Request, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use metra_certs::{TrustAnchors, client_config};
use metra_transport::Rt;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// What one reading may take.
const LIMIT: Duration = Duration::from_secs(10);
const HTTPS: u16 = 443;

/// Reads one URL.
pub(super) struct Fetcher {
    url: Uri,
    tls: Arc<ClientConfig>,
}

impl Fetcher {
    /// `ca`: the authorities that the server is known by; `None`: those of the system.
    pub(super) fn new(url: Uri, ca: Option<&Path>) -> Result<Self, String> {
        let trust = match ca {
            Some(ca) => TrustAnchors::new().ca_file(ca),
            None => TrustAnchors::new().system(),
        };
        let mut tls = ClientConfig::clone(&*client_config(&trust, None).map_err(|e| e.to_string())?);
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        tls.enable_early_data = false;
        Ok(Self { url, tls: Arc::new(tls) })
    }

    /// Its text, of at most `max` bytes. Redirections are not followed: they would lead where nobody has decided on.
    pub(super) async fn fetch(&self, rt: &Rt, max: usize) -> Result<String, String> {
        let about = |what: &dyn std::fmt::Display| format!("{}: {what}", self.url);
        match rt.timeout(LIMIT, self.get(rt, max)).await {
            Ok(Ok(text)) => Ok(text),
            Ok(Err(error)) => Err(about(&error)),
            Err(_) => Err(about(&"no answer in time")),
        }
    }

    async fn get(&self, rt: &Rt, max: usize) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
        let host = self.url.host().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let tcp = TcpStream::connect((bare, self.url.port_u16().unwrap_or(HTTPS))).await?;
        let name = ServerName::try_from(bare.to_owned())?;
        let tls = TlsConnector::from(self.tls.clone()).connect(name, tcp).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(tls)).await?;
        let _running = rt
            .spawn(async move {
                let _ = connection.await;
            })
            .abort_on_drop();
        let path = self.url.path_and_query().map_or("/", |path| path.as_str());
        let authority = self.url.authority().map_or(host, |authority| authority.as_str());
        let request = Request::get(path)
            .header(HOST, authority)
            .header(ACCEPT, "application/jwk-set+json, application/json")
            .header(USER_AGENT, concat!("metra/", env!("CARGO_PKG_VERSION")))
            .body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        if !response.status().is_success() {
            return Err(format!("the server answers {}", response.status()).into());
        }
        let body = Limited::new(response.into_body(), max).collect().await?;
        Ok(String::from_utf8(body.to_bytes().to_vec())?)
    }
}
