//! Certificates for tests.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls::pki_types::CertificateDer;
use tempfile::TempDir;

use crate::{ServerIdentity, files};

/// An authority.
pub(crate) struct TestCa(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key.
pub(crate) struct Issued {
    pub(crate) der: CertificateDer<'static>,
    pub(crate) key: KeyPair,
}

impl TestCa {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn sign(&self, params: CertificateParams) -> Issued {
        let key = KeyPair::generate().unwrap();
        let der = params.signed_by(&key, &self.0).unwrap().into();
        Issued { der, key }
    }

    pub(crate) fn server(&self, names: &[&str]) -> Issued {
        self.sign(server_params(names))
    }

    pub(crate) fn client(&self, common_name: &str) -> Issued {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }
}

impl Issued {
    pub(crate) fn cert_pem(&self) -> String {
        files::pem("CERTIFICATE", &self.der)
    }

    pub(crate) fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// The paths of certificate and key, written into `dir`.
    pub(crate) fn files(&self, dir: &TempDir, name: &str) -> (PathBuf, PathBuf) {
        (
            write(dir, &format!("{name}.pem"), &self.cert_pem()),
            write(dir, &format!("{name}.key"), &self.key_pem()),
        )
    }

    pub(crate) fn identity(&self, dir: &TempDir) -> ServerIdentity {
        let (cert, key) = self.files(dir, "identity");
        ServerIdentity::from_pem_files(&cert, &key).unwrap()
    }
}

pub(crate) fn server_params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
}

/// A file in `dir`.
pub(crate) fn write(dir: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}
