//! Tokens that an identity provider has signed: JWT (RFC 7519) with keys from a JWK set (RFC 7517). Sans-io.
//!
//! Only signatures with a public key count: RS*, PS*, ES256, ES384 and EdDSA. `none` and the HS* algorithms are refused whatever the
//! set says, and a key of the set serves the algorithm that it names, or those of its own kind (RFC 8725 sections 2.1, 3.1).

use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Map, Value};

/// Longest token that is looked at. Bytes; what fits into a `Hello`.
const TOKEN_MAX: usize = 4096;
/// Most keys of a set.
const KEYS_MAX: usize = 100;
/// Clocks may differ by this. Seconds.
const LEEWAY: u64 = 60;
/// Groups of one token that count, and the longest name of one or of a tenant; those beyond are an error.
const GROUPS_MAX: usize = 200;
const NAME_MAX: usize = 256;

/// What a token must say, and where it says who somebody is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// Its `iss`, to the letter.
    pub issuer: String,
    /// Of its `aud` at least one must be among these; at least one.
    pub audiences: Vec<String>,
    /// The claim that is the user's name, as in `sub` or `email`.
    pub user: String,
    /// The claim that has the user's groups: a list of texts, or one text.
    pub groups: String,
    /// The claim that is the tenant's name, if tokens have one.
    pub tenant: Option<String>,
}

/// Who a token stands for. The names are what the issuer says; whoever uses them must check their form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user. Not empty.
    pub user: String,
    /// Its groups, in the token's order.
    pub groups: Vec<String>,
    /// Its tenant.
    pub tenant: Option<String>,
    /// When the token ends. Seconds since the epoch.
    pub expires: u64,
}

/// The public keys of an issuer.
#[derive(Clone)]
pub struct KeySet(Vec<Key>);

#[derive(Clone)]
struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// A text is not a set of keys. Fault: the issuer, or who has configured it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// It is not a JWK set.
    #[error("not a JWK set: {0}")]
    Format(String),
    /// None of its keys can check a signature here.
    #[error("no key in it can check a signature (RSA, P-256, P-384 or Ed25519, not for encryption)")]
    NoKey,
    /// It has too many.
    #[error("more than {KEYS_MAX} keys")]
    TooMany,
}

/// Why a token does not count. Fault: who shows it, or its issuer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// It is not a JWT at all, or one without a signature of a public key.
    #[error("not a signed JWT")]
    Format,
    /// It is not signed by a key of the set that is known now; a newer set may have it.
    #[error("signed with a key that is not known")]
    UnknownKey,
    /// The signature is wrong.
    #[error("the signature is wrong")]
    Signature,
    /// It is from somebody else.
    #[error("from another issuer")]
    Issuer,
    /// It is for somebody else.
    #[error("for another audience")]
    Audience,
    /// It is no longer good, or says no end.
    #[error("expired")]
    Expired,
    /// It is not good yet.
    #[error("not good yet")]
    Early,
    /// A claim that says who it is is missing, or of another form.
    #[error("it does not say who it is for")]
    Claims,
}

impl KeySet {
    /// Reads a JWK set (RFC 7517 section 5). Keys of kinds that are not used here are passed over.
    ///
    /// # Errors
    /// It is none, or has no key that can be used.
    pub fn parse(json: &str) -> Result<Self, KeySetError> {
        let set: JwkSet = serde_json::from_str(json).map_err(|e| KeySetError::Format(e.to_string()))?;
        if set.keys.len() > KEYS_MAX {
            return Err(KeySetError::TooMany);
        }
        let keys: Vec<Key> = set.keys.iter().filter_map(Key::new).collect();
        if keys.is_empty() { Err(KeySetError::NoKey) } else { Ok(Self(keys)) }
    }

    /// Who `token` stands for, at `now` (seconds since the epoch), if `issuer` has signed it with one of these keys.
    ///
    /// # Errors
    /// Why it does not count.
    pub fn verify(&self, token: &str, issuer: &Issuer, now: u64) -> Result<Identity, JwtError> {
        if token.len() > TOKEN_MAX {
            return Err(JwtError::Format);
        }
        let header = decode_header(token).map_err(|_| JwtError::Format)?;
        let mut tried = false;
        let serve = |key: &&Key| {
            key.algorithms.contains(&header.alg)
                && header.kid.as_ref().is_none_or(|id| key.id.as_ref().is_none_or(|own| own == id))
        };
        for key in self.0.iter().filter(serve) {
            tried = true;
            if let Ok(token) = decode::<Map<String, Value>>(token, &key.key, &signature_only(header.alg)) {
                return identity(&token.claims, issuer, now);
            }
        }
        Err(if tried { JwtError::Signature } else { JwtError::UnknownKey })
    }
}

impl Key {
    fn new(jwk: &Jwk) -> Option<Self> {
        use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
        if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
            return None;
        }
        let of_kind: &[Algorithm] = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => &[RS256, RS384, RS512, PS256, PS384, PS512],
            AlgorithmParameters::EllipticCurve(_) => &[ES256, ES384],
            AlgorithmParameters::OctetKeyPair(_) => &[EdDSA],
            _ => return None,
        };
        let algorithms: Vec<Algorithm> = match &jwk.common.key_algorithm {
            Some(named) => {
                let named = named.to_string().parse().ok().filter(|named| of_kind.contains(named))?;
                vec![named]
            }
            None => of_kind.to_vec(),
        };
        let key = DecodingKey::from_jwk(jwk).ok()?;
        Some(Self { id: jwk.common.key_id.clone(), algorithms, key })
    }
}

/// What the token says is checked here, with the time that is given.
fn signature_only(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.set_required_spec_claims::<&str>(&[]);
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation
}

fn identity(claims: &Map<String, Value>, issuer: &Issuer, now: u64) -> Result<Identity, JwtError> {
    if claims.get("iss").and_then(Value::as_str) != Some(&issuer.issuer) {
        return Err(JwtError::Issuer);
    }
    let audience = claims.get("aud").and_then(texts).ok_or(JwtError::Audience)?;
    if !audience.iter().any(|one| issuer.audiences.contains(one)) {
        return Err(JwtError::Audience);
    }
    let expires = claims.get("exp").and_then(seconds).ok_or(JwtError::Expired)?;
    if now >= expires.saturating_add(LEEWAY) {
        return Err(JwtError::Expired);
    }
    match claims.get("nbf").map(seconds) {
        Some(None) => return Err(JwtError::Claims),
        Some(Some(from)) if now.saturating_add(LEEWAY) < from => return Err(JwtError::Early),
        _ => {}
    }
    let name = |claim: &str| match claims.get(claim) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if !text.is_empty() && text.len() <= NAME_MAX => Ok(Some(text.clone())),
        Some(_) => Err(JwtError::Claims),
    };
    let user = name(&issuer.user)?.ok_or(JwtError::Claims)?;
    let tenant = issuer.tenant.as_deref().map(name).transpose()?.flatten();
    let groups = match claims.get(&issuer.groups) {
        None | Some(Value::Null) => Vec::new(),
        Some(value) => texts(value).ok_or(JwtError::Claims)?,
    };
    // Leaving some out could leave out the one that somebody is denied for.
    if groups.len() > GROUPS_MAX || groups.iter().any(|group| group.is_empty() || group.len() > NAME_MAX) {
        return Err(JwtError::Claims);
    }
    Ok(Identity { user, groups, tenant, expires })
}

/// A text, or a list of nothing but texts.
fn texts(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(list) => list.iter().map(|one| one.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

/// NumericDate (RFC 7519 section 2): fractions are allowed.
fn seconds(value: &Value) -> Option<u64> {
    let fraction = || value.as_f64().filter(|s| *s >= 0.0).map(|s| s as u64);
    value.as_u64().or_else(fraction)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::OnceLock;

    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use jsonwebtoken::{EncodingKey, Header, encode};
    use proptest::prelude::*;
    use rcgen::KeyPair;
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    struct Provider {
        algorithm: Algorithm,
        key: EncodingKey,
        jwk: Jwk,
    }

    impl Provider {
        fn new(kind: &'static rcgen::SignatureAlgorithm, algorithm: Algorithm, id: &str) -> Self {
            let pair = KeyPair::generate_for(kind).unwrap();
            let der = pair.serialize_der();
            let key = match algorithm {
                Algorithm::EdDSA => EncodingKey::from_ed_der(&der),
                _ => EncodingKey::from_ec_der(&der),
            };
            let raw = pair.public_key_raw();
            let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
            let jwk = match algorithm {
                Algorithm::EdDSA => json!({ "kty": "OKP", "crv": "Ed25519", "x": text(raw) }),
                // SEC 1: 4, and both coordinates.
                _ => {
                    json!({ "kty": "EC", "crv": "P-256", "alg": "ES256", "x": text(&raw[1..33]), "y": text(&raw[33..]) })
                }
            };
            let mut jwk: Jwk = serde_json::from_value(jwk).unwrap();
            jwk.common.key_id = Some(id.to_owned());
            Self { algorithm, key, jwk }
        }

        fn token(&self, id: Option<&str>, claims: &Value) -> String {
            let header = Header { kid: id.map(str::to_owned), ..Header::new(self.algorithm) };
            encode(&header, claims, &self.key).unwrap()
        }
    }

    fn elliptic() -> &'static Provider {
        static ONE: OnceLock<Provider> = OnceLock::new();
        ONE.get_or_init(|| Provider::new(&rcgen::PKCS_ECDSA_P256_SHA256, Algorithm::ES256, "one"))
    }

    fn edwards() -> &'static Provider {
        static ONE: OnceLock<Provider> = OnceLock::new();
        ONE.get_or_init(|| Provider::new(&rcgen::PKCS_ED25519, Algorithm::EdDSA, "two"))
    }

    fn set(keys: &[&Jwk]) -> KeySet {
        KeySet::parse(&json!({ "keys": keys }).to_string()).unwrap()
    }

    fn issuer() -> Issuer {
        Issuer {
            issuer: "https://id.example".into(),
            audiences: vec!["metra".into(), "files".into()],
            user: "sub".into(),
            groups: "groups".into(),
            tenant: Some("org".into()),
        }
    }

    fn claims() -> Value {
        json!({ "iss": "https://id.example", "aud": "metra", "sub": "alice", "exp": NOW + 300, "groups": ["staff", "ops"], "org": "acme" })
    }

    fn with(changes: Value) -> Value {
        let mut all = claims();
        for (name, value) in changes.as_object().unwrap() {
            all[name] = value.clone();
        }
        all
    }

    #[test]
    fn who_a_token_stands_for() {
        let keys = set(&[&elliptic().jwk, &edwards().jwk]);
        let expected = Identity {
            user: "alice".into(),
            groups: vec!["staff".into(), "ops".into()],
            tenant: Some("acme".into()),
            expires: NOW + 300,
        };
        for token in [elliptic().token(Some("one"), &claims()), edwards().token(None, &claims())] {
            assert_eq!(keys.verify(&token, &issuer(), NOW), Ok(expected.clone()));
        }
    }

    #[test]
    fn what_most_providers_sign_with() {
        use aws_lc_rs::rsa::KeySize;
        use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaKeyPair};

        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let public = pair.public_key();
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let (n, e) = (public.modulus().big_endian_without_leading_zero(), public.exponent());
        let jwk = json!({ "kty": "RSA", "use": "sig", "kid": "r", "n": text(n), "e": text(e.big_endian_without_leading_zero()) });
        let keys = KeySet::parse(&json!({ "keys": [jwk] }).to_string()).unwrap();
        let random = aws_lc_rs::rand::SystemRandom::new();
        for (name, padding) in [
            ("RS256", &RSA_PKCS1_SHA256 as &'static dyn aws_lc_rs::signature::RsaEncoding),
            ("PS256", &RSA_PSS_SHA256),
        ] {
            let header = json!({ "alg": name, "kid": "r" }).to_string();
            let signed = format!("{}.{}", text(header.as_bytes()), text(claims().to_string().as_bytes()));
            let mut signature = vec![0; pair.public_modulus_len()];
            pair.sign(padding, &random, signed.as_bytes(), &mut signature).unwrap();
            let token = format!("{signed}.{}", text(&signature));
            assert_eq!(
                keys.verify(&token, &issuer(), NOW).map(|who| who.user),
                Ok("alice".to_owned()),
                "{name}"
            );
            signature[9] ^= 1;
            let forged = format!("{signed}.{}", text(&signature));
            assert_eq!(keys.verify(&forged, &issuer(), NOW), Err(JwtError::Signature));
        }
    }

    #[test]
    fn what_does_not_count() {
        let keys = set(&[&elliptic().jwk]);
        let cases = [
            (json!({ "iss": "https://id.example/" }), JwtError::Issuer),
            (json!({ "iss": null }), JwtError::Issuer),
            (json!({ "aud": "metr" }), JwtError::Audience),
            (json!({ "aud": ["other", "third"] }), JwtError::Audience),
            (json!({ "aud": null }), JwtError::Audience),
            (json!({ "aud": ["metra", 5] }), JwtError::Audience),
            (json!({ "exp": NOW - 60 }), JwtError::Expired),
            (json!({ "exp": null }), JwtError::Expired),
            (json!({ "exp": "2099-01-01" }), JwtError::Expired),
            (json!({ "nbf": NOW + 61 }), JwtError::Early),
            (json!({ "nbf": "now" }), JwtError::Claims),
            (json!({ "sub": null }), JwtError::Claims),
            (json!({ "sub": "" }), JwtError::Claims),
            (json!({ "sub": 7 }), JwtError::Claims),
            (json!({ "sub": "x".repeat(257) }), JwtError::Claims),
            (json!({ "org": ["acme"] }), JwtError::Claims),
            (json!({ "groups": { "staff": true } }), JwtError::Claims),
            (json!({ "groups": ["staff", 1] }), JwtError::Claims),
            (json!({ "groups": (0..201).map(|n| n.to_string()).collect::<Vec<_>>() }), JwtError::Claims),
        ];
        for (change, error) in cases {
            let token = elliptic().token(Some("one"), &with(change.clone()));
            assert_eq!(keys.verify(&token, &issuer(), NOW), Err(error), "{change}");
        }
        let good = [
            json!({ "aud": ["other", "files"] }),
            json!({ "exp": NOW - 59 }),
            json!({ "exp": NOW as f64 + 0.5 }),
            json!({ "nbf": NOW + 60 }),
            json!({ "groups": "staff" }),
            json!({ "groups": null, "org": null }),
        ];
        for change in good {
            let token = elliptic().token(Some("one"), &with(change.clone()));
            assert!(keys.verify(&token, &issuer(), NOW).is_ok(), "{change}");
        }
    }

    #[test]
    fn signatures_are_checked() {
        let keys = set(&[&elliptic().jwk]);
        let token = elliptic().token(Some("one"), &claims());
        let (rest, signature) = token.rsplit_once('.').unwrap();
        let (header, _) = rest.split_once('.').unwrap();
        let other = URL_SAFE_NO_PAD.encode(with(json!({ "sub": "root" })).to_string());
        let verify = |token: &str| keys.verify(token, &issuer(), NOW);
        assert_eq!(verify(&format!("{header}.{other}.{signature}")), Err(JwtError::Signature));
        assert_eq!(verify(&format!("{rest}.")), Err(JwtError::Signature));
        assert_eq!(verify(rest), Err(JwtError::Format));
        let stranger = Provider::new(&rcgen::PKCS_ECDSA_P256_SHA256, Algorithm::ES256, "one");
        assert_eq!(verify(&stranger.token(Some("one"), &claims())), Err(JwtError::Signature));
        assert_eq!(verify(&elliptic().token(Some("two"), &claims())), Err(JwtError::UnknownKey));
        assert_eq!(verify(&edwards().token(None, &claims())), Err(JwtError::UnknownKey));
        assert_eq!(verify(&"x".repeat(TOKEN_MAX + 1)), Err(JwtError::Format));
    }

    #[test]
    fn an_algorithm_is_not_the_tokens_to_choose() {
        // RFC 8725 section 2.1: without a signature, and with the public key as a secret.
        let keys = set(&[&elliptic().jwk]);
        let body = URL_SAFE_NO_PAD.encode(claims().to_string());
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        assert_eq!(keys.verify(&format!("{none}.{body}."), &issuer(), NOW), Err(JwtError::Format));
        let public = serde_json::to_string(&elliptic().jwk).unwrap();
        let secret = EncodingKey::from_secret(public.as_bytes()).unwrap();
        let confused = encode(&Header::new(Algorithm::HS256), &claims(), &secret).unwrap();
        assert_eq!(keys.verify(&confused, &issuer(), NOW), Err(JwtError::UnknownKey));
        // A set that has a secret in it does not make it count.
        let shared = URL_SAFE_NO_PAD.encode("a secret that everybody knows....");
        let with_secret =
            json!({ "keys": [{ "kty": "oct", "k": shared, "alg": "HS256" }, elliptic().jwk] }).to_string();
        let secret = EncodingKey::from_secret(b"a secret that everybody knows....").unwrap();
        let token = encode(&Header::new(Algorithm::HS256), &claims(), &secret).unwrap();
        let keys = KeySet::parse(&with_secret).unwrap();
        assert_eq!(keys.verify(&token, &issuer(), NOW), Err(JwtError::UnknownKey));
    }

    #[test]
    fn sets_that_are_none() {
        assert!(matches!(KeySet::parse("{"), Err(KeySetError::Format(_))));
        assert!(matches!(KeySet::parse("{}"), Err(KeySetError::Format(_))));
        assert_eq!(KeySet::parse(r#"{"keys":[]}"#).err(), Some(KeySetError::NoKey));
        let mut encrypts = elliptic().jwk.clone();
        encrypts.common.public_key_use = Some(PublicKeyUse::Encryption);
        let text = json!({ "keys": [encrypts] }).to_string();
        assert_eq!(KeySet::parse(&text).err(), Some(KeySetError::NoKey));
        let many = json!({ "keys": vec![&elliptic().jwk; 101] }).to_string();
        assert_eq!(KeySet::parse(&many).err(), Some(KeySetError::TooMany));
    }

    proptest! {
        #[test]
        fn no_text_does_harm(text in "\\PC{0,200}", claims in "\\PC{0,100}") {
            let keys = set(&[&elliptic().jwk]);
            prop_assert!(keys.verify(&text, &issuer(), NOW).is_err());
            let parts = format!("{}.{}.{}", URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256"}"#), URL_SAFE_NO_PAD.encode(claims), "AAAA");
            prop_assert!(keys.verify(&parts, &issuer(), NOW).is_err());
            let _ = KeySet::parse(&text);
        }
    }
}
