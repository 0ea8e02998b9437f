//! Authorities and certificates.

use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use super::Bed;

/// An authority with its PEM files: for the servers of a test, or for a proxy that looks into TLS.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

/// PEM files.
pub(crate) struct Issued {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    pub(crate) fn new(bed: &Bed, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let cert = bed.write(&format!("{name}-ca.pem"), params.self_signed(&key).unwrap().pem());
        let key_file = bed.write(&format!("{name}-ca.key"), key.serialize_pem());
        Self { issuer: Issuer::new(params, key), cert, key: key_file }
    }

    /// A server's certificate for names.
    pub(crate) fn issue(&self, bed: &Bed, names: &[&str]) -> Issued {
        let name = names[0];
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names =
            names.iter().map(|&name| SanType::DnsName(name.try_into().unwrap())).collect();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Issued {
            cert: bed.write(&format!("{name}.pem"), cert.pem()),
            key: bed.write(&format!("{name}.key"), key.serialize_pem()),
        }
    }
}
