//! Bearer tokens as a configuration keeps them: hashed, so that reading the configuration does not give access.
//!
//! The hash is a fast one. That is right for tokens drawn at random (`openssl rand -hex 32`), which cannot be
//! guessed; it does not protect a password that a person made up.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};

/// The hash of a bearer token, written `blake3:HEX` or `sha256:HEX` (64 digits, as `b3sum` and `sha256sum` print them
/// for the token without a newline).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TokenHash {
    kind: Kind,
    hash: [u8; 32],
}

/// A text is not the hash of a token. Fault: whoever wrote it. The text is not repeated: it may be the token itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the hash of a token: it should be \"blake3:\" or \"sha256:\" and 64 hexadecimal digits")]
pub struct TokenHashError;

impl TokenHash {
    /// The BLAKE3 hash of `token`.
    pub fn of(token: &str) -> Self {
        Self { kind: Kind::Blake3, hash: Kind::Blake3.hash(token) }
    }

    /// Whether this is the hash of `token`. The time that it takes does not depend on how much of it is right.
    pub fn matches(&self, token: &str) -> bool {
        verify_slices_are_equal(&self.hash, &self.kind.hash(token)).is_ok()
    }
}

impl FromStr for TokenHash {
    type Err = TokenHashError;

    fn from_str(text: &str) -> Result<Self, TokenHashError> {
        let (kind, hex) = text.split_once(':').ok_or(TokenHashError)?;
        let kind = match kind {
            "blake3" => Kind::Blake3,
            "sha256" => Kind::Sha256,
            _ => return Err(TokenHashError),
        };
        let hash = blake3::Hash::from_hex(hex).map_err(|_| TokenHashError)?;
        Ok(Self { kind, hash: *hash.as_bytes() })
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Blake3 => "blake3",
            Kind::Sha256 => "sha256",
        };
        write!(f, "{kind}:{}", blake3::Hash::from_bytes(self.hash))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(..)")
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Blake3,
    Sha256,
}

impl Kind {
    fn hash(self, token: &str) -> [u8; 32] {
        match self {
            Kind::Blake3 => *blake3::hash(token.as_bytes()).as_bytes(),
            Kind::Sha256 => {
                digest(&SHA256, token.as_bytes()).as_ref().try_into().expect("SHA-256 has 32 bytes")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_hashes() {
        // FIPS 180-2 appendix B.1 and the BLAKE3 test vectors (empty input).
        let sha = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert!(sha.parse::<TokenHash>().unwrap().matches("abc"));
        let b3 = "blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        assert!(b3.parse::<TokenHash>().unwrap().matches(""));
        assert_eq!(TokenHash::of("").to_string(), b3);
        assert_eq!(sha.parse::<TokenHash>().unwrap().to_string(), sha);
    }

    #[test]
    fn texts_that_are_no_hash_are_refused_and_not_repeated() {
        let good = TokenHash::of("t").to_string();
        for bad in [
            "",
            "secret",
            "blake3:",
            "md5:00",
            &good[7..],
            &good[..70],
            &format!("{good}0"),
            &good.replace(':', " "),
        ] {
            let error = bad.parse::<TokenHash>().unwrap_err().to_string();
            assert!(bad.len() < 8 || !error.contains(bad), "{error}");
        }
        let upper = good.replace(&good[7..], &good[7..].to_uppercase());
        assert_eq!(upper.parse::<TokenHash>().unwrap().to_string(), good);
    }

    proptest! {
        #[test]
        fn only_the_token_matches(token in ".{0,40}", other in ".{0,40}") {
            prop_assert!(TokenHash::of(&token).matches(&token));
            prop_assert_eq!(TokenHash::of(&token).matches(&other), token == other);
        }
    }
}
