//! A certificate whose handshakes are as long in every run.
//!
//! Signatures of ECDSA, which development certificates use, are of 70 to 72 bytes as chance has it. Those of Ed25519 are
//! of 64.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, KeyPair, PKCS_ED25519, SerialNumber, date_time_ymd};

/// Files of a certificate for `address`, which is its own authority, and of its key.
pub(crate) fn write(dir: &Path, address: IpAddr) -> io::Result<(PathBuf, PathBuf)> {
    let key = KeyPair::generate_for(&PKCS_ED25519).map_err(io::Error::other)?;
    let mut params = CertificateParams::new(vec![address.to_string()]).map_err(io::Error::other)?;
    params.serial_number = Some(SerialNumber::from(1u64));
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2120, 1, 1));
    let certificate = params.self_signed(&key).map_err(io::Error::other)?;
    let files = (dir.join("cert.pem"), dir.join("key.pem"));
    std::fs::write(&files.0, certificate.pem())?;
    std::fs::write(&files.1, key.serialize_pem())?;
    Ok(files)
}
