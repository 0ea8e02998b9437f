//! The key that signs receipts: Ed25519 (RFC 8032), the gateway's own, unrelated to its certificate.
//!
//! What is signed, and the context that sets a receipt apart from anything else signed by the same key, is not known
//! here: these functions sign and verify exactly the bytes given.

use std::path::Path;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use crate::Error;
use crate::files::{self, LockedDir, PRIVATE};

/// A gateway's key for receipts.
pub struct ReceiptKey {
    pair: Ed25519KeyPair,
    public: [u8; 32],
}

/// A signature does not belong to the bytes and the key, or the key is none. Fault: whoever made or changed them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature is not that of this key over these bytes")]
pub struct SignatureError;

impl ReceiptKey {
    /// The key in `state_dir` (`receipt.key`, PKCS#8 in PEM), made when there is none.
    ///
    /// # Errors
    /// The directory cannot be written, or the file is damaged.
    pub fn load_or_create(state_dir: &Path) -> Result<Self, Error> {
        let dir = LockedDir::open(state_dir)?;
        let path = dir.path(FILE);
        let pair = match dir.read_secret(FILE)? {
            Some(pem) => {
                let der = files::private_key_in(&path, &pem)?;
                Ed25519KeyPair::from_pkcs8(der.secret_der())
                    .map_err(|_| Error::content(&path, "not an Ed25519 private key in PKCS#8"))?
            }
            None => {
                let pair = Ed25519KeyPair::generate().map_err(Error::crypto("make a key for receipts"))?;
                // Version 1 is what the openssl command can read.
                let der = pair.to_pkcs8v1().map_err(Error::crypto("encode the key for receipts"))?;
                dir.write(FILE, files::pem("PRIVATE KEY", der.as_ref()).as_bytes(), PRIVATE)?;
                pair
            }
        };
        let public = pair.public_key().as_ref().try_into().expect("an Ed25519 public key has 32 bytes");
        Ok(Self { pair, public })
    }

    /// The public key, with which anyone can [`verify`].
    pub fn public(&self) -> [u8; 32] {
        self.public
    }

    /// The signature over `bytes`.
    pub fn sign(&self, bytes: &[u8]) -> [u8; 64] {
        self.pair.sign(bytes).as_ref().try_into().expect("an Ed25519 signature has 64 bytes")
    }
}

impl std::fmt::Debug for ReceiptKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ReceiptKey(..)")
    }
}

/// That `signature` was made over `bytes` by the private key of `public`.
///
/// # Errors
/// It was not.
pub fn verify(public: &[u8; 32], bytes: &[u8], signature: &[u8; 64]) -> Result<(), SignatureError> {
    UnparsedPublicKey::new(&ED25519, public).verify(bytes, signature).map_err(|_| SignatureError)
}

const FILE: &str = "receipt.key";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;

    /// RFC 8032 section 7.1, test 2.
    #[test]
    fn a_signature_of_the_rfc_is_valid() {
        let hex = |s: &str| -> Vec<u8> {
            (0..s.len()).step_by(2).map(|i| u8::from_str_radix(&s[i..i + 2], 16).unwrap()).collect()
        };
        let public =
            hex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c").try_into().unwrap();
        let signature = hex("92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
                             085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00")
        .try_into()
        .unwrap();
        verify(&public, &[0x72], &signature).unwrap();
        assert_eq!(verify(&public, &[0x73], &signature), Err(SignatureError));
    }

    #[test]
    fn the_key_stays_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let first = ReceiptKey::load_or_create(dir.path()).unwrap();
        let again = ReceiptKey::load_or_create(dir.path()).unwrap();
        assert_eq!(first.public(), again.public());
        assert_eq!(fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode() & 0o777, 0o600);
        verify(&first.public(), b"statement", &again.sign(b"statement")).unwrap();
        let other = ReceiptKey::load_or_create(&dir.path().join("other")).unwrap();
        assert_eq!(verify(&other.public(), b"statement", &first.sign(b"statement")), Err(SignatureError));
    }

    #[test]
    fn damage_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        ReceiptKey::load_or_create(dir.path()).unwrap();
        let ec = rcgen::KeyPair::generate().unwrap().serialize_pem();
        for damage in ["", "no PEM", ec.as_str()] {
            fs::write(dir.path().join(FILE), damage).unwrap();
            let error = ReceiptKey::load_or_create(dir.path()).unwrap_err().to_string();
            assert!(error.contains("receipt.key: "), "{error}");
        }
    }

    #[test]
    fn starts_at_the_same_moment_agree() {
        let dir = tempfile::tempdir().unwrap();
        let keys: Vec<[u8; 32]> = std::thread::scope(|s| {
            let all: Vec<_> = (0..8)
                .map(|_| s.spawn(|| ReceiptKey::load_or_create(dir.path()).unwrap().public()))
                .collect();
            all.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|k| *k == keys[0]));
    }

    proptest! {
        #[test]
        fn any_change_breaks_a_signature(
            bytes in prop::collection::vec(any::<u8>(), 1..200), at: prop::sample::Index, bit in 0..8_u32,
        ) {
            let pair = Ed25519KeyPair::from_seed_unchecked(&[9; 32]).unwrap();
            let key = ReceiptKey { public: pair.public_key().as_ref().try_into().unwrap(), pair };
            let signature = key.sign(&bytes);
            prop_assert_eq!(verify(&key.public(), &bytes, &signature), Ok(()));
            let mut changed = bytes.clone();
            changed[at.index(bytes.len())] ^= 1_u8 << bit;
            prop_assert_eq!(verify(&key.public(), &changed, &signature), Err(SignatureError));
            let mut changed = signature;
            changed[at.index(64)] ^= 1_u8 << bit;
            prop_assert_eq!(verify(&key.public(), &bytes, &changed), Err(SignatureError));
        }
    }
}
