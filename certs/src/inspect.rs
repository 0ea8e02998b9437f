//! What a certificate says of itself. Only looks; trust is decided elsewhere.

use std::collections::BTreeSet;
use std::net::IpAddr;

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// The parsed certificate, or what is wrong with it.
pub(crate) fn parse<'a>(cert: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, String> {
    match X509Certificate::from_der(cert) {
        Ok(([], parsed)) => Ok(parsed),
        Ok(_) => Err("bytes follow the certificate".to_owned()),
        Err(e) => Err(format!("not an X.509 certificate ({e})")),
    }
}

/// The subject alternative names, none if the extension is absent; `None` if it is malformed or there twice.
pub(crate) fn alternative_names<'a>(cert: &'a X509Certificate<'a>) -> Option<&'a [GeneralName<'a>]> {
    match cert.subject_alternative_name() {
        Ok(Some(ext)) => Some(&ext.value.general_names),
        Ok(None) => Some(&[]),
        Err(_) => None,
    }
}

/// The host names (lower case) and IP addresses that a server certificate is for, as text.
pub(crate) fn host_names(cert: &X509Certificate<'_>) -> BTreeSet<String> {
    alternative_names(cert)
        .unwrap_or_default()
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            GeneralName::IPAddress(octets) => ip(octets).map(|ip| ip.to_string()),
            _ => None,
        })
        .collect()
}

/// When the certificate ends, in seconds since 1970.
pub(crate) fn not_after(cert: &X509Certificate<'_>) -> i64 {
    cert.validity().not_after.timestamp()
}

fn ip(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => <[u8; 4]>::try_from(octets).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(octets).ok().map(IpAddr::from),
        _ => None,
    }
}
