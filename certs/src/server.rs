//! The TLS side of a gateway.

use std::path::Path;
use std::sync::Arc;

use rustls::server::{
    NoClientAuth, ServerSessionMemoryCache, WebPkiClientVerifier, danger::ClientCertVerifier,
};
use rustls::version::TLS13;
use rustls::{RootCertStore, ServerConfig};

use crate::{Error, ServerIdentity, files, provider};

/// TLS 1.3 with `identity`; post-quantum key exchange preferred; 0-RTT accepted. ALPN is left empty: the transport
/// sets it.
///
/// With `client_ca` (a PEM file of authorities) clients are asked for a certificate. One that does not lead to
/// these authorities, or has expired, ends the handshake; none at all is allowed, since a client may also
/// authenticate with a token. [`client_names`](crate::client_names) tells who it is.
///
/// 0-RTT data is limited by `u32::MAX`, the only value that QUIC allows (RFC 9001 section 4.6.1); there it is
/// bounded by flow control. TLS over TCP has no such bound and buffers it: on TCP use a copy of the configuration with
/// `max_early_data_size` set to what one request needs.
///
/// # Errors
/// `client_ca` cannot be read or holds no authority, or the identity's key cannot be used.
pub fn server_config(
    identity: &ServerIdentity,
    client_ca: Option<&Path>,
) -> Result<Arc<ServerConfig>, Error> {
    let failed = "set up TLS for the gateway";
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(Error::crypto(failed))?
        .with_client_cert_verifier(client_verifier(client_ca)?)
        .with_single_cert(identity.chain().to_vec(), identity.key())
        .map_err(Error::crypto(failed))?;
    config.max_early_data_size = u32::MAX;
    config.session_storage = ServerSessionMemoryCache::new(SESSIONS_REMEMBERED);
    Ok(Arc::new(config))
}

fn client_verifier(client_ca: Option<&Path>) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let Some(path) = client_ca else { return Ok(Arc::new(NoClientAuth)) };
    let roots = Arc::new(roots_in(path)?);
    WebPkiClientVerifier::builder_with_provider(roots, provider())
        .allow_unauthenticated()
        .build()
        .map_err(|e| Error::content(path, e.to_string()))
}

/// The authorities in a PEM file, each of which must be usable.
pub(crate) fn roots_in(path: &Path) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for cert in files::certificates(path)? {
        roots
            .add(cert)
            .map_err(|e| Error::content(path, format!("not usable as a certificate authority: {e}")))?;
    }
    Ok(roots)
}

/// TLS sessions that can be resumed (with 0-RTT, each once). A client holds up to four; one is some kilobytes.
const SESSIONS_REMEMBERED: usize = 4096;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rustls::NamedGroup;

    use super::*;
    use crate::testing::{TestCa, write};

    #[test]
    fn tls_13_with_post_quantum_first() {
        let dir = tempfile::tempdir().unwrap();
        let identity = TestCa::new("CA").server(&["localhost"]).identity(&dir);
        let config = server_config(&identity, None).unwrap();
        assert_eq!(config.crypto_provider().kx_groups[0].name(), NamedGroup::X25519MLKEM768);
        assert_eq!(config.max_early_data_size, u32::MAX);
        assert!(config.alpn_protocols.is_empty());
    }

    #[test]
    fn a_damaged_client_ca_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let identity = TestCa::new("CA").server(&["localhost"]).identity(&dir);
        for damage in ["", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            let path = write(&dir, "clients.pem", damage);
            let error = server_config(&identity, Some(&path)).unwrap_err().to_string();
            assert!(error.contains("clients.pem: "), "{damage:?}: {error}");
        }
    }
}
