//! Who a gateway is (its certificate and key) and who a client certificate speaks for.

use std::fmt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;

use crate::{Error, Pin, files, inspect, pin_of, provider};

/// The certificate chain of a gateway (its own certificate first) with the private key.
pub struct ServerIdentity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    pin: Pin,
}

impl ServerIdentity {
    /// From two PEM files: the chain, the server's own certificate first, and its unencrypted private key (PKCS#8,
    /// PKCS#1 or SEC1). Both may be the same file. An expired certificate is taken, with a warning in the log:
    /// it is the clients who refuse it, and this machine's clock may be what is wrong.
    ///
    /// # Errors
    /// A file cannot be read or does not hold what it should, or the key is not the certificate's.
    pub fn from_pem_files(cert: &Path, key: &Path) -> Result<Self, Error> {
        let chain = files::certificates(cert)?;
        let private = files::private_key_in(key, &files::read(key)?)?;
        let identity = Self::new(chain, private, cert)?;
        identity.check_key(cert, key)?;
        Ok(identity)
    }

    /// `path` names the certificate's file in errors.
    pub(crate) fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        path: &Path,
    ) -> Result<Self, Error> {
        let leaf = chain.first().ok_or_else(|| Error::content(path, "holds no certificate"))?;
        let pin = pin_of(leaf).map_err(|e| Error::content(path, e.to_string()))?;
        let parsed = inspect::parse(leaf).map_err(|e| Error::content(path, e))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        if i64::try_from(now).is_ok_and(|now| inspect::not_after(&parsed) < now) {
            tracing::warn!(file = %path.display(), "the server's certificate has expired; clients will refuse it");
        }
        Ok(Self { chain, key, pin })
    }

    /// The certificates, the server's own first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The pin of the server's key, for `--pin` at a client.
    pub fn pin(&self) -> Pin {
        self.pin
    }

    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }

    fn check_key(&self, cert_path: &Path, key_path: &Path) -> Result<(), Error> {
        check_key(&self.chain, self.key(), cert_path, key_path)
    }
}

impl fmt::Debug for ServerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerIdentity").field("pin", &self.pin).finish_non_exhaustive()
    }
}

/// That `key` can be used and is the one that the first certificate of `chain` speaks of.
pub(crate) fn check_key(
    chain: &[CertificateDer<'static>],
    key: PrivateKeyDer<'static>,
    cert_path: &Path,
    key_path: &Path,
) -> Result<(), Error> {
    use rustls::{Error as Tls, InconsistentKeys};
    match rustls::sign::CertifiedKey::from_der(chain.to_vec(), key, &provider()) {
        Ok(_) | Err(Tls::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(()),
        Err(Tls::InconsistentKeys(_)) => Err(Error::content(
            key_path,
            format!("not the key of the certificate in {}", cert_path.display()),
        )),
        Err(Tls::InvalidCertificate(e)) => Err(Error::content(cert_path, e.to_string())),
        // The reason of the library is left out: it may quote from the key.
        Err(_) => Err(Error::content(key_path, "not a private key that can be used")),
    }
}

/// A name that a client certificate gives its holder: what a gateway's configuration lists for a user. Host names
/// are in lower case; other names are as they stand in the certificate.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientName(String);

impl ClientName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// All names of the first certificate of a client's chain, which the handshake has verified: the subject
/// alternative names of the types DNS, e-mail and URI, in this order, or else the common name (RFC 6125 section
/// 6.4.4: the common name counts only where there is no alternative name).
pub fn client_names(chain: &[CertificateDer<'_>]) -> Vec<ClientName> {
    let Some(Ok(cert)) = chain.first().map(inspect::parse) else { return Vec::new() };
    let Some(alternatives) = inspect::alternative_names(&cert) else { return Vec::new() };
    let mut ranked: Vec<(u8, String)> = alternatives
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((0, name.to_ascii_lowercase())),
            GeneralName::RFC822Name(name) => Some((1, (*name).to_owned())),
            GeneralName::URI(name) => Some((2, (*name).to_owned())),
            _ => None,
        })
        .collect();
    // Stable: names of one type keep the order of the certificate.
    ranked.sort_by_key(|(rank, _)| *rank);
    if ranked.is_empty() {
        ranked.extend(
            cert.subject().iter_common_name().filter_map(|cn| Some((3, cn.as_str().ok()?.to_owned()))),
        );
    }
    ranked
        .into_iter()
        .map(|(_, name)| name)
        // A name that would be read as another one in a log or a terminal names nobody.
        .filter(|name| !name.is_empty() && !name.chars().any(char::is_control))
        .map(ClientName)
        .collect()
}

/// The first of [`client_names`]: the one that stands for the client where a single name is wanted.
pub fn client_identity(chain: &[CertificateDer<'_>]) -> Option<ClientName> {
    client_names(chain).into_iter().next()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rcgen::{CertificateParams, DnType, SanType};

    use super::*;
    use crate::testing::{TestCa, write};

    fn names(common_name: &str, alternatives: Vec<SanType>) -> Vec<String> {
        let mut params = CertificateParams::default();
        params.distinguished_name = Default::default();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.subject_alt_names = alternatives;
        let cert = TestCa::new("CA").sign(params);
        client_names(&[cert.der]).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn alternative_names_come_before_and_instead_of_the_common_name() {
        let dns = SanType::DnsName("Host.Example".try_into().unwrap());
        let dns2 = SanType::DnsName("b.example".try_into().unwrap());
        let mail = SanType::Rfc822Name("Alice@example.org".try_into().unwrap());
        let uri = SanType::URI("spiffe://example.org/alice".try_into().unwrap());
        assert_eq!(
            names("alice", vec![uri.clone(), mail, dns, dns2]),
            ["host.example", "b.example", "Alice@example.org", "spiffe://example.org/alice"]
        );
        assert_eq!(names("alice", vec![uri]), ["spiffe://example.org/alice"]);
        assert_eq!(names("alice", vec![]), ["alice"]);
        // An address is no name of a user, and does not silence the common name.
        assert_eq!(names("alice", vec![SanType::IpAddress([10, 0, 0, 1].into())]), ["alice"]);
    }

    #[test]
    fn no_name_where_there_is_none_to_trust() {
        assert!(names("ali\0ce", vec![]).is_empty());
        assert!(names("", vec![]).is_empty());
        assert_eq!(client_identity(&[]), None);
        assert_eq!(client_identity(&[CertificateDer::from(vec![1, 2, 3])]), None);
    }

    #[test]
    fn a_malformed_extension_does_not_fall_back_to_the_common_name() {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "alice");
        params.custom_extensions =
            vec![rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 17], vec![0x02, 0x01, 0x00])];
        assert!(client_names(&[TestCa::new("CA").sign(params).der]).is_empty());
    }

    #[test]
    fn identity_from_files() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (TestCa::new("A").server(&["a.example"]), TestCa::new("B").server(&["b.example"]));
        let cert = write(&dir, "a.pem", &a.cert_pem());
        let key = write(&dir, "a.key", &a.key_pem());
        let identity = ServerIdentity::from_pem_files(&cert, &key).unwrap();
        assert_eq!(identity.chain(), std::slice::from_ref(&a.der));
        assert_eq!(identity.pin(), pin_of(&a.der).unwrap());
        let both = write(&dir, "both.pem", &format!("{}{}", a.key_pem(), a.cert_pem()));
        ServerIdentity::from_pem_files(&both, &both).unwrap();

        let other = write(&dir, "b.key", &b.key_pem());
        let error = ServerIdentity::from_pem_files(&cert, &other).unwrap_err().to_string();
        assert!(
            error.contains("b.key: not the key of the certificate in") && error.contains("a.pem"),
            "{error}"
        );
        let error = ServerIdentity::from_pem_files(&key, &key).unwrap_err().to_string();
        assert!(error.contains("a.key: holds no certificate"), "{error}");
        let error = ServerIdentity::from_pem_files(&cert, &cert).unwrap_err().to_string();
        assert!(error.contains("a.pem: holds no unencrypted private key"), "{error}");
        let error = ServerIdentity::from_pem_files(&dir.path().join("absent"), &key).unwrap_err().to_string();
        assert!(error.starts_with("cannot read ") && error.contains("absent"), "{error}");
    }

    #[test]
    fn nothing_of_a_key_is_in_errors_or_debug_output() {
        let dir = tempfile::tempdir().unwrap();
        let a = TestCa::new("A").server(&["a.example"]);
        let cert = write(&dir, "a.pem", &a.cert_pem());
        // Half a key, as an interrupted copy leaves it.
        let pem = a.key_pem();
        let key = write(&dir, "a.key", &pem[..pem.len() / 2]);
        let error = format!("{0} {0:?}", ServerIdentity::from_pem_files(&cert, &key).unwrap_err());
        assert!(!error.contains(&pem[40..60]), "{error}");
        let key = write(&dir, "a.key", &pem);
        let debug = format!("{:?}", ServerIdentity::from_pem_files(&cert, &key).unwrap());
        assert!(debug.contains("sha256/") && !debug.contains("chain"), "{debug}");
    }
}
