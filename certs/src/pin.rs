//! Pins: a server known by its key instead of by who vouches for it (as in RFC 7469).

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::server::ParsedCertificate;

/// The SHA-256 digest of a certificate's SubjectPublicKeyInfo (RFC 7469 section 2.4), written `sha256/BASE64`. It
/// stays the same when a certificate is renewed for the same key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pin([u8; 32]);

/// A text is not a pin, or a certificate has none. Fault: whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// The text does not have the form of a pin.
    #[error("\"{0}\" is not a pin: it should be \"sha256/\" and 44 characters of base64")]
    Syntax(String),
    /// The certificate cannot be parsed.
    #[error("not a certificate with a public key: {0}")]
    Certificate(String),
}

impl Pin {
    /// The digest.
    pub fn bytes(self) -> [u8; 32] {
        self.0
    }
}

/// The pin of a certificate (DER).
///
/// # Errors
/// [`PinError::Certificate`] if it is not an X.509 version 3 certificate.
pub fn pin_of(cert: &CertificateDer<'_>) -> Result<Pin, PinError> {
    let parsed = ParsedCertificate::try_from(cert).map_err(|e| PinError::Certificate(e.to_string()))?;
    let hash = digest(&SHA256, &parsed.subject_public_key_info());
    Ok(Pin(hash.as_ref().try_into().expect("SHA-256 has 32 bytes")))
}

impl FromStr for Pin {
    type Err = PinError;

    fn from_str(text: &str) -> Result<Self, PinError> {
        let wrong = || PinError::Syntax(text.to_owned());
        let base64 = text.strip_prefix("sha256/").ok_or_else(wrong)?;
        let bytes = STANDARD.decode(base64).map_err(|_| wrong())?;
        bytes.try_into().map(Pin).map_err(|_| wrong())
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256/{}", STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use rustls::pki_types::pem::PemObject;

    use super::*;

    /// Made with `openssl req -x509 -newkey ed25519 -nodes -subj /CN=pin`.
    const CERT: &str = include_str!("testdata/pin.pem");
    /// From `openssl x509 -pubkey -noout | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64`.
    const PIN: &str = include_str!("testdata/pin.txt");

    #[test]
    fn agrees_with_openssl() {
        let cert = CertificateDer::from_pem_slice(CERT.as_bytes()).unwrap();
        assert_eq!(pin_of(&cert).unwrap().to_string(), format!("sha256/{}", PIN.trim()));
    }

    #[test]
    fn bytes_that_are_no_certificate_have_no_pin() {
        assert!(matches!(pin_of(&CertificateDer::from(vec![0x30, 0])), Err(PinError::Certificate(_))));
    }

    #[test]
    fn texts_that_are_no_pin() {
        let good = Pin([7; 32]).to_string();
        for bad in [
            "",
            "sha256/",
            "sha1/AAAA",
            &good[7..],
            &good[..good.len() - 1],
            &format!("{good}="),
            &format!("{good} "),
            &Pin([7; 32]).to_string().replace("sha256/", "sha256//"),
            &format!("sha256/{}", STANDARD.encode([7; 31])),
            &format!("sha256/{}", STANDARD.encode([7; 33])),
        ] {
            assert_eq!(bad.parse::<Pin>(), Err(PinError::Syntax(bad.to_owned())));
        }
    }

    proptest! {
        #[test]
        fn text_and_back(bytes: [u8; 32]) {
            prop_assert_eq!(Pin(bytes).to_string().parse::<Pin>().unwrap(), Pin(bytes));
        }

        #[test]
        fn no_text_panics(text in ".{0,80}") {
            let _ = text.parse::<Pin>();
        }
    }
}
