//! The development certificate authority: what lets a first run work without any set-up.
//!
//! It lives in the state directory and is trusted by the clients that use the same directory (the same user on the
//! same machine), or that are given `dev-ca.pem`. It signs one server certificate and nothing else.
//!
//! Non-goals: a certificate authority for production, client certificates, revocation.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use time::{Duration, OffsetDateTime};

use crate::files::{self, LockedDir, PRIVATE, PUBLIC};
use crate::{Error, ServerIdentity, inspect};

/// A certificate authority of this state directory.
pub struct DevCa {
    state_dir: PathBuf,
    cert: CertificateDer<'static>,
    key: KeyPair,
}

impl DevCa {
    /// The name of the file in the state directory that holds the certificate; clients are given it.
    pub const CERT_FILE: &'static str = "dev-ca.pem";

    /// The authority of `state_dir`, made (with the directory) when there is none. Processes that do so at once
    /// agree on one.
    ///
    /// # Errors
    /// The directory cannot be written, a file of it is damaged, or the authority has expired.
    pub fn load_or_create(state_dir: &Path) -> Result<Self, Error> {
        Self::load_or_create_at(state_dir, SystemTime::now())
    }

    /// The authority's certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.cert
    }

    /// The server's certificate and key: those in the state directory (`server.pem`, `server.key`) as long as they
    /// are good for 30 days more and for `localhost`, `127.0.0.1`, `::1`, the name of this machine and
    /// `extra_names` (host names or IP addresses). Else a new certificate for all of these, for the same key, so
    /// that pins keep their meaning.
    ///
    /// # Errors
    /// The directory cannot be written, a file of it is damaged, or one of `extra_names` is not a name.
    pub fn server_identity(&self, extra_names: &[String]) -> Result<ServerIdentity, Error> {
        self.server_identity_at(extra_names, SystemTime::now())
    }

    fn load_or_create_at(state_dir: &Path, now: SystemTime) -> Result<Self, Error> {
        let dir = LockedDir::open(state_dir)?;
        let now = OffsetDateTime::from(now);
        let (cert_path, key_path) = (dir.path(Self::CERT_FILE), dir.path(CA_KEY));
        let cert_pem = dir.read(Self::CERT_FILE)?;
        let key = match load_key(&dir, CA_KEY)? {
            Some(key) => key,
            None if cert_pem.is_some() => {
                let detail = format!("missing; put it back, or remove {} to start over", cert_path.display());
                return Err(Error::content(&key_path, detail));
            }
            None => create_key(&dir, CA_KEY)?,
        };
        let cert = match cert_pem {
            Some(pem) => files::certificates_in(&cert_path, &pem)?.remove(0),
            // A key without a certificate is what a crash between the two leaves: nobody has seen the authority.
            None => {
                let cert = ca_params(now)?
                    .self_signed(&key)
                    .map_err(Error::crypto("make the certificate of the development authority"))?;
                dir.write(Self::CERT_FILE, cert.pem().as_bytes(), PUBLIC)?;
                tracing::info!(file = %cert_path.display(), "made a certificate authority for development");
                cert.der().clone()
            }
        };
        check_ca(&cert_path, &key_path, &cert, &key, now)?;
        Ok(Self { state_dir: state_dir.to_owned(), cert, key })
    }

    fn server_identity_at(&self, extra_names: &[String], now: SystemTime) -> Result<ServerIdentity, Error> {
        let names = server_names(extra_names)?;
        let dir = LockedDir::open(&self.state_dir)?;
        let now = OffsetDateTime::from(now);
        let key = match load_key(&dir, SERVER_KEY)? {
            Some(key) => key,
            None => create_key(&dir, SERVER_KEY)?,
        };
        let path = dir.path(SERVER_CERT);
        let held = match dir.read(SERVER_CERT)? {
            Some(pem) => Some(files::certificates_in(&path, &pem)?.remove(0)),
            None => None,
        };
        let reusable = match &held {
            Some(cert) => self.is_good(&path, cert, &key, &names, now)?,
            None => false,
        };
        let cert = match held {
            Some(cert) if reusable => cert,
            _ => {
                let cert = self.issue(&names, &key, now)?;
                dir.write(SERVER_CERT, cert.pem().as_bytes(), PUBLIC)?;
                tracing::info!(file = %path.display(), ?names, "issued a server certificate");
                cert.der().clone()
            }
        };
        let key =
            PrivateKeyDer::try_from(key.serialize_der()).map_err(Error::crypto("load the server key"))?;
        ServerIdentity::new(vec![cert], key, &path)
    }

    fn is_good(
        &self,
        path: &Path,
        cert: &CertificateDer<'_>,
        key: &KeyPair,
        names: &BTreeSet<String>,
        now: OffsetDateTime,
    ) -> Result<bool, Error> {
        let cert = inspect::parse(cert).map_err(|e| Error::content(path, e))?;
        let authority = inspect::parse(&self.cert).map_err(|e| Error::content(path, e))?;
        Ok(cert.public_key().subject_public_key.data.as_ref() == key.public_key_raw()
            && cert.verify_signature(Some(authority.public_key())).is_ok()
            && inspect::not_after(&cert) >= (now + RENEW_BEFORE).unix_timestamp()
            && inspect::host_names(&cert).is_superset(names))
    }

    fn issue(
        &self,
        names: &BTreeSet<String>,
        key: &KeyPair,
        now: OffsetDateTime,
    ) -> Result<rcgen::Certificate, Error> {
        let failed = "issue a server certificate";
        let names: Vec<String> = names.iter().cloned().collect();
        let mut params = CertificateParams::new(names).map_err(Error::crypto(failed))?;
        params.distinguished_name = Default::default();
        params.distinguished_name.push(DnType::CommonName, "Metra gateway (development)");
        params.serial_number = Some(random_serial()?);
        params.not_before = now - CLOCK_SKEW;
        params.not_after = now + SERVER_LIFETIME;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let issuer = Issuer::from_ca_cert_der(&self.cert, &self.key).map_err(Error::crypto(failed))?;
        params.signed_by(key, &issuer).map_err(Error::crypto(failed))
    }
}

impl std::fmt::Debug for DevCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DevCa").field("state_dir", &self.state_dir).finish_non_exhaustive()
    }
}

/// No intermediate may stand between it and a server's certificate, and it vouches for servers only.
fn ca_params(now: OffsetDateTime) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    let name = match machine_name() {
        Some(machine) => format!("Metra development CA of {machine}"),
        None => "Metra development CA".to_owned(),
    };
    params.distinguished_name = Default::default();
    // RFC 5280, appendix A.1: ub-common-name is 64 characters.
    params.distinguished_name.push(DnType::CommonName, name.chars().take(64).collect::<String>());
    params.serial_number = Some(random_serial()?);
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + CA_LIFETIME;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

fn check_ca(
    cert_path: &Path,
    key_path: &Path,
    cert: &CertificateDer<'_>,
    key: &KeyPair,
    now: OffsetDateTime,
) -> Result<(), Error> {
    let parsed = inspect::parse(cert).map_err(|e| Error::content(cert_path, e))?;
    let start_over = format!("remove it and {} to start over", key_path.display());
    if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
        return Err(Error::content(cert_path, format!("its key is not that in {}", key_path.display())));
    }
    if !parsed.is_ca() {
        return Err(Error::content(cert_path, format!("not the certificate of an authority; {start_over}")));
    }
    if inspect::not_after(&parsed) < now.unix_timestamp() {
        return Err(Error::content(cert_path, format!("expired; {start_over}")));
    }
    Ok(())
}

/// The names that a development certificate is for: this machine as it calls itself, and what is asked for.
fn server_names(extra: &[String]) -> Result<BTreeSet<String>, Error> {
    let mut names: BTreeSet<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    names.extend(machine_name());
    for name in extra {
        names.insert(canonical_name(name).ok_or_else(|| Error::Name(name.clone()))?);
    }
    Ok(names)
}

/// The name of this machine, if it can stand in a certificate.
fn machine_name() -> Option<String> {
    canonical_name(rustix::system::uname().nodename().to_str().ok()?)
}

/// One spelling per name, so that they can be compared as text.
fn canonical_name(name: &str) -> Option<String> {
    match ServerName::try_from(name).ok()? {
        ServerName::DnsName(name) => Some(name.as_ref().to_ascii_lowercase()),
        ServerName::IpAddress(ip) => Some(std::net::IpAddr::from(ip).to_string()),
        _ => None,
    }
}

fn load_key(dir: &LockedDir, name: &str) -> Result<Option<KeyPair>, Error> {
    let Some(pem) = dir.read_secret(name)? else { return Ok(None) };
    let path = dir.path(name);
    let der = files::private_key_in(&path, &pem)?;
    // The reason of the library is left out: it may quote from the key.
    KeyPair::try_from(&der).map(Some).map_err(|_| Error::content(&path, "not a private key that can be used"))
}

fn create_key(dir: &LockedDir, name: &str) -> Result<KeyPair, Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(Error::crypto("make a key"))?;
    dir.write(name, key.serialize_pem().as_bytes(), PRIVATE)?;
    Ok(key)
}

/// RFC 5280 section 4.1.2.2: unique per authority, positive, at most 20 octets.
fn random_serial() -> Result<SerialNumber, Error> {
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(Error::crypto("draw a serial number"))?;
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&serial))
}

const CA_KEY: &str = "dev-ca.key";
const SERVER_CERT: &str = "server.pem";
const SERVER_KEY: &str = "server.key";
const CA_LIFETIME: Duration = Duration::days(3650);
const SERVER_LIFETIME: Duration = Duration::days(365);
const RENEW_BEFORE: Duration = Duration::days(30);
/// Clocks of clients may run behind by this much.
const CLOCK_SKEW: Duration = Duration::days(1);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::{Arc, Barrier};
    use std::time::Duration as StdDuration;

    use super::*;

    const DAY: StdDuration = StdDuration::from_secs(86_400);

    fn names_in(dir: &Path) -> BTreeSet<String> {
        let cert = files::certificates(&dir.join(SERVER_CERT)).unwrap().remove(0);
        inspect::host_names(&inspect::parse(&cert).unwrap())
    }

    #[test]
    fn a_second_start_finds_the_same_authority_and_server() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let first = DevCa::load_or_create(&state).unwrap();
        let server = first.server_identity(&[]).unwrap();
        let again = DevCa::load_or_create(&state).unwrap();
        assert_eq!(first.certificate(), again.certificate());
        assert_eq!(server.chain(), again.server_identity(&[]).unwrap().chain());
        let mode = |name: &str| fs::metadata(state.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(""), mode(CA_KEY), mode(SERVER_KEY)), (0o700, 0o600, 0o600));
    }

    #[test]
    fn the_authority_is_constrained() {
        let dir = tempfile::tempdir().unwrap();
        let ca = DevCa::load_or_create(dir.path()).unwrap();
        let cert = inspect::parse(ca.certificate()).unwrap();
        let basic = cert.basic_constraints().unwrap().unwrap();
        assert!(basic.critical && basic.value.ca && basic.value.path_len_constraint == Some(0));
        assert!(cert.key_usage().unwrap().unwrap().value.key_cert_sign());
        let years =
            (inspect::not_after(&cert) - OffsetDateTime::now_utc().unix_timestamp()) as f64 / 31_557_600.0;
        assert!((9.9..10.1).contains(&years), "{years}");
    }

    #[test]
    fn the_server_is_known_by_the_names_of_this_machine() {
        let dir = tempfile::tempdir().unwrap();
        let ca = DevCa::load_or_create(dir.path()).unwrap();
        ca.server_identity(&["Files.Example".to_owned(), "10.0.0.7".to_owned()]).unwrap();
        let names = names_in(dir.path());
        for name in ["localhost", "127.0.0.1", "::1", "files.example", "10.0.0.7"] {
            assert!(names.contains(name), "{name} is not in {names:?}");
        }
        assert!(machine_name().is_none_or(|name| names.contains(&name)));
    }

    #[test]
    fn a_missing_name_and_an_end_within_30_days_lead_to_a_new_certificate_for_the_same_key() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let ca = DevCa::load_or_create(dir.path()).unwrap();
        let extra = ["files.example".to_owned()];
        let first = ca.server_identity_at(&extra, now).unwrap();
        // Fewer names than it has, and 334 of 365 days gone: still good.
        assert_eq!(ca.server_identity_at(&[], now + 334 * DAY).unwrap().chain(), first.chain());
        let renewed = ca.server_identity_at(&extra, now + 336 * DAY).unwrap();
        assert_ne!(renewed.chain(), first.chain());
        let more = ca.server_identity_at(&["more.example".to_owned()], now + 336 * DAY).unwrap();
        assert_ne!(more.chain(), renewed.chain());
        assert_eq!((more.pin(), renewed.pin()), (first.pin(), first.pin()));
    }

    #[test]
    fn a_certificate_of_another_authority_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let first = DevCa::load_or_create(dir.path()).unwrap().server_identity(&[]).unwrap();
        fs::remove_file(dir.path().join(DevCa::CERT_FILE)).unwrap();
        fs::remove_file(dir.path().join(CA_KEY)).unwrap();
        let ca = DevCa::load_or_create(dir.path()).unwrap();
        assert_ne!(ca.server_identity(&[]).unwrap().chain(), first.chain());
    }

    #[test]
    fn a_name_that_is_none_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let ca = DevCa::load_or_create(dir.path()).unwrap();
        for name in ["", "a b", "https://files.example", "*"] {
            let error = ca.server_identity(&[name.to_owned()]).unwrap_err();
            assert!(error.to_string().contains(&format!("\"{name}\"")), "{error}");
        }
    }

    #[test]
    fn damage_is_an_error_that_names_the_file() {
        for name in [DevCa::CERT_FILE, CA_KEY, SERVER_CERT, SERVER_KEY] {
            for damage in ["", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
                let dir = tempfile::tempdir().unwrap();
                DevCa::load_or_create(dir.path()).unwrap().server_identity(&[]).unwrap();
                fs::write(dir.path().join(name), damage).unwrap();
                let error = DevCa::load_or_create(dir.path())
                    .and_then(|ca| ca.server_identity(&[]))
                    .unwrap_err()
                    .to_string();
                assert!(error.contains(dir.path().join(name).to_str().unwrap()), "{damage:?}: {error}");
            }
        }
    }

    #[test]
    fn files_of_two_authorities_and_a_lost_key_are_errors() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        DevCa::load_or_create(dir.path()).unwrap();
        DevCa::load_or_create(other.path()).unwrap();
        fs::copy(other.path().join(CA_KEY), dir.path().join(CA_KEY)).unwrap();
        assert!(
            DevCa::load_or_create(dir.path()).unwrap_err().to_string().contains("its key is not that in")
        );
        fs::remove_file(dir.path().join(CA_KEY)).unwrap();
        let error = DevCa::load_or_create(dir.path()).unwrap_err().to_string();
        assert!(error.contains("dev-ca.key: missing"), "{error}");
    }

    #[test]
    fn a_crash_between_key_and_certificate_is_mended() {
        let dir = tempfile::tempdir().unwrap();
        DevCa::load_or_create(dir.path()).unwrap();
        fs::remove_file(dir.path().join(DevCa::CERT_FILE)).unwrap();
        let ca = DevCa::load_or_create(dir.path()).unwrap();
        ca.server_identity(&[]).unwrap();
    }

    #[test]
    fn an_expired_authority_says_how_to_start_over() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        DevCa::load_or_create_at(dir.path(), now).unwrap();
        DevCa::load_or_create_at(dir.path(), now + 3649 * DAY).unwrap();
        let error = DevCa::load_or_create_at(dir.path(), now + 3651 * DAY).unwrap_err().to_string();
        assert!(error.contains("dev-ca.pem: expired; remove it and"), "{error}");
    }

    #[test]
    fn starts_at_the_same_moment_agree() {
        let dir = tempfile::tempdir().unwrap();
        let (path, barrier) = (Arc::new(dir.path().join("state")), Arc::new(Barrier::new(8)));
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let (path, barrier) = (path.clone(), barrier.clone());
                std::thread::spawn(move || {
                    barrier.wait();
                    let ca = DevCa::load_or_create(&path).unwrap();
                    let server = ca.server_identity(&[]).unwrap();
                    (ca.certificate().clone(), server.chain().to_vec())
                })
            })
            .collect();
        let mut results: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
        results.dedup();
        assert_eq!(results.len(), 1);
    }
}
