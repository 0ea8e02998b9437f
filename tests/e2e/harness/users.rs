//! Users in a gateway's configuration, and certificates that they show.

use std::path::PathBuf;

use metra_core::id::Digest;

use super::Bed;

/// The table of a user with this token, and what else is in it.
pub(crate) fn user(name: &str, token: &str, rest: &str) -> String {
    format!("[users.{name}]\ntoken_hash = \"blake3:{}\"\n{rest}\n", Digest::of(token.as_bytes()))
}

/// PEM files of an authority, and of a certificate for a client that it has issued, and its key.
pub(crate) struct Issued {
    pub(crate) authority: PathBuf,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

/// A certificate with this name, of an authority of its own. `label` is what the files are called.
pub(crate) fn issue(bed: &Bed, label: &str, name: &str) -> Issued {
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::<String>::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_cert = ca.self_signed(&ca_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let cert = params.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
    Issued {
        authority: bed.write(&format!("{label}-ca.pem"), ca_cert.pem()),
        cert: bed.write(&format!("{label}.pem"), cert.pem()),
        key: bed.write(&format!("{label}.key"), key.serialize_pem()),
    }
}
