//! The TLS side of a client: which gateways it trusts, and what it says when it does not.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, OtherError, RootCertStore,
    SignatureScheme,
};

use crate::server::roots_in;
use crate::{DevCa, Error, Pin, files, identity, pin_of, provider};

/// By what a client knows a gateway.
///
/// | given | a gateway is trusted if its certificate |
/// |---|---|
/// | neither `ca_file` nor `pin` | leads to an authority of the system or to the local development authority, and is for its name |
/// | `ca_file` | leads to an authority in these files (no other counts), and is for its name |
/// | `pin` | has a pinned key; issuer, name and expiry do not count, the key is the identity |
/// | both | meets both |
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustAnchors {
    local_state: Option<PathBuf>,
    ca_files: Vec<PathBuf>,
    pins: Vec<Pin>,
    system: bool,
}

impl TrustAnchors {
    /// Trusts nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the development authority of a state directory, if there is one in it when the configuration is made.
    #[must_use]
    pub fn local(mut self, state_dir: impl Into<PathBuf>) -> Self {
        self.local_state = Some(state_dir.into());
        self
    }

    /// Trusts the authorities that the operating system trusts.
    #[must_use]
    pub fn system(mut self) -> Self {
        self.system = true;
        self
    }

    /// Trusts the authorities in a PEM file, instead of those of the system and of the local state directory.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_files.push(path.into());
        self
    }

    /// Trusts a server with this key, or with that of another pin given.
    #[must_use]
    pub fn pin(mut self, pin: Pin) -> Self {
        self.pins.push(pin);
        self
    }

    /// The pins given so far.
    pub fn pins(&self) -> &[Pin] {
        &self.pins
    }

    /// The same without pins: what a server is trusted by that is no gateway.
    #[must_use]
    pub fn without_pins(mut self) -> Self {
        self.pins.clear();
        self
    }

    /// `None`: authorities do not count. An empty store: no authority is trusted.
    fn roots(&self) -> Result<Option<RootCertStore>, Error> {
        let mut roots = RootCertStore::empty();
        if !self.ca_files.is_empty() {
            for path in &self.ca_files {
                roots.roots.extend(roots_in(path)?.roots);
            }
            return Ok(Some(roots));
        }
        if !self.pins.is_empty() {
            return Ok(None);
        }
        if let Some(path) = self.local_state.as_ref().map(|dir| dir.join(DevCa::CERT_FILE))
            && path.exists()
        {
            roots.roots.extend(roots_in(&path)?.roots);
        }
        if self.system {
            let found = rustls_native_certs::load_native_certs();
            for error in found.errors {
                tracing::debug!(%error, "some authorities of the system cannot be read");
            }
            roots.add_parsable_certificates(found.certs);
        }
        Ok(Some(roots))
    }
}

/// TLS 1.3 with `trust`; post-quantum key exchange preferred; 0-RTT offered to gateways that this configuration has
/// talked to before (the sessions are kept in memory). ALPN is left empty: the transport sets it.
///
/// `client_identity`: PEM files of the client's certificate chain and private key, shown to gateways that ask.
///
/// The error of a handshake with a gateway that is not trusted is an [`Untrusted`] ([`Untrusted::of`] finds it).
///
/// # Errors
/// A file cannot be read or does not hold what it should, or the key is not the certificate's. Trusting nobody is no
/// error here: the handshake then says which key was seen.
pub fn client_config(
    trust: &TrustAnchors,
    client_identity: Option<(&Path, &Path)>,
) -> Result<Arc<ClientConfig>, Error> {
    let failed = "set up TLS for the client";
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(Error::crypto(failed))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier::new(trust)?));
    let mut config = match client_identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = files::certificates(cert)?;
            let private = files::private_key_in(key, &files::read(key)?)?;
            identity::check_key(&chain, private.clone_key(), cert, key)?;
            builder.with_client_auth_cert(chain, private).map_err(Error::crypto(failed))?
        }
    };
    config.enable_early_data = true;
    Ok(Arc::new(config))
}

/// A gateway's certificate is not trusted. Its text is one sentence that says what to do. Fault: the configuration of
/// one of the sides, or somebody in between; a retry without a change gives the same.
#[derive(Clone, PartialEq, Eq)]
pub struct Untrusted {
    /// The gateway, as it was addressed.
    pub host: String,
    /// The pin of the key that was seen; `None` if what was shown is no certificate.
    pub pin: Option<Pin>,
    /// What is wrong.
    pub reason: String,
    advice: &'static str,
}

impl Untrusted {
    /// The reason in an error of a handshake, if it is this one.
    pub fn of(error: &TlsError) -> Option<&Self> {
        match error {
            TlsError::InvalidCertificate(CertificateError::Other(OtherError(inner))) => inner.downcast_ref(),
            _ => None,
        }
    }

    /// The sentence in the text of such an error, for where only the text is left: the reason of a QUIC transport error
    /// that this side has raised. (The text of a peer proves nothing.)
    pub fn sentence_in(text: &str) -> Option<&str> {
        let start = text.find(SENTENCE_START)?;
        let sentence = &text[start..];
        Some(sentence.strip_suffix("))").unwrap_or(sentence))
    }

    /// The pin of the key that was seen, if such a text names one.
    pub fn pin_in(text: &str) -> Option<Pin> {
        let mut words = Self::sentence_in(text)?.split_whitespace();
        words.find(|word| *word == "--pin")?;
        words.next()?.parse().ok()
    }
}

impl fmt::Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SENTENCE_START}{} is not trusted: {}", self.host, self.reason)?;
        match self.pin {
            Some(pin) => {
                write!(f, "; {} --pin {pin} if the owner of the gateway confirms this key", self.advice)
            }
            None => Ok(()),
        }
    }
}

/// The sentence: it is the debug form that rustls puts into the text of its own error.
impl fmt::Debug for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Untrusted {}

#[derive(Debug)]
struct Verifier {
    /// Whether the certificate must lead to an authority.
    authority: Authority,
    /// If not empty, one of them must be the key's.
    pins: Vec<Pin>,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
enum Authority {
    Any,
    NoneKnown,
    OneOf(Arc<WebPkiServerVerifier>),
}

impl Verifier {
    fn new(trust: &TrustAnchors) -> Result<Self, Error> {
        let provider = provider();
        let algorithms = provider.signature_verification_algorithms;
        let authority = match trust.roots()? {
            None => Authority::Any,
            Some(roots) if roots.is_empty() => Authority::NoneKnown,
            Some(roots) => Authority::OneOf(
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .map_err(Error::crypto("use the trusted authorities"))?,
            ),
        };
        Ok(Self { authority, pins: trust.pins.clone(), algorithms })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let seen = pin_of(end_entity);
        let refuse = |reason: String, advice| {
            let host = server_name.to_str().into_owned();
            let untrusted = Untrusted { host, pin: seen.clone().ok(), reason, advice };
            TlsError::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(untrusted))))
        };
        // Only the key of the end entity counts: the handshake proves that the server has it, and nothing of the kind
        // is known of the other certificates that it sent.
        match &seen {
            Err(e) => return Err(refuse(e.to_string(), "")),
            Ok(pin) if !self.pins.is_empty() && !self.pins.contains(pin) => {
                return Err(refuse("its key is not the one pinned".to_owned(), "use"));
            }
            Ok(_) => {}
        }
        match &self.authority {
            Authority::Any => Ok(ServerCertVerified::assertion()),
            Authority::NoneKnown => {
                Err(refuse("no certificate authority is known here".to_owned(), USE_CA_OR))
            }
            Authority::OneOf(webpki) => webpki
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
                .map_err(|e| match e {
                    TlsError::InvalidCertificate(CertificateError::UnknownIssuer) => {
                        refuse("none of the trusted authorities has issued it".to_owned(), USE_CA_OR)
                    }
                    TlsError::InvalidCertificate(other) => refuse(other.to_string(), "mend that, or use"),
                    other => other,
                }),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

const SENTENCE_START: &str = "the certificate of ";
const USE_CA_OR: &str = "use --ca FILE with the certificate of its issuer, or";
