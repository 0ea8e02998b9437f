//! The `[jwt.NAME]` tables.

use std::collections::BTreeMap;

use http::Uri;
use metra_certs::Issuer;

use super::Check;
use crate::config::document::quoted;
use crate::config::{Jwt, JwtKeys, RawJwt};

/// Letters of the longest name of a group or tenant.
const NAME_MAX: usize = 256;

impl Check {
    pub(super) fn jwt(&mut self, raw: BTreeMap<String, RawJwt>) -> Vec<Jwt> {
        let mut found: Vec<Jwt> = Vec::new();
        for (name, raw) in raw {
            let key = format!("jwt.{}", quoted(&name));
            let Some(jwt) = self.provider(&key, name, raw) else { continue };
            if let Some(other) = found.iter().find(|other| other.issuer.issuer == jwt.issuer.issuer) {
                let other = quoted(&other.name);
                self.error(&format!("{key}.issuer"), format!("is also that of jwt.{other}"));
            }
            found.push(jwt);
        }
        found
    }

    fn provider(&mut self, key: &str, name: String, raw: RawJwt) -> Option<Jwt> {
        let audiences: Vec<String> = raw.audience.map(Vec::from).unwrap_or_default();
        let issuer = raw.issuer.unwrap_or_default();
        for (part, is_missing) in [("issuer", issuer.is_empty()), ("audience", audiences.is_empty())] {
            let key = format!("{key}.{part}");
            if is_missing && !self.is_broken(&key) {
                self.error(&key, "is required: tokens for others would be accepted without it");
            }
        }
        let home = self.home(&format!("{key}.home"), raw.home);
        if let Some(path) = &raw.jwks_ca {
            self.readable(&format!("{key}.jwks_ca"), path);
        }
        let keys = match (raw.jwks_file, raw.jwks_url) {
            (Some(file), None) => {
                let key = format!("{key}.jwks_file");
                self.readable(&key, &file);
                // Whoever can replace it is whoever they want to be.
                self.outside_root(&key, &file, "clients could replace the keys by their own");
                JwtKeys::File(file)
            }
            (None, Some(url)) => {
                JwtKeys::Url { url: self.https(&format!("{key}.jwks_url"), &url)?, ca: raw.jwks_ca }
            }
            _ => {
                if !self.is_broken(key) {
                    self.error(key, "needs jwks_file or jwks_url, and not both");
                }
                return None;
            }
        };
        let issuer = Issuer {
            issuer,
            audiences,
            user: raw.user_claim.unwrap_or_else(|| "sub".to_owned()),
            groups: raw.groups_claim.unwrap_or_else(|| "groups".to_owned()),
            tenant: raw.tenant_claim,
        };
        Some(Jwt { name, issuer, keys, home })
    }

    fn https(&mut self, key: &str, text: &str) -> Option<Uri> {
        let url = text.parse::<Uri>().ok();
        let url = url.filter(|url| url.scheme_str() == Some("https") && url.host().is_some());
        if url.is_none() {
            self.error(key, format!("{text:?} is not a URL that begins with https://"));
        }
        url
    }

    /// Names of groups and tenants.
    pub(super) fn named(&mut self, key: &str, names: Vec<String>) -> Vec<String> {
        if names.iter().any(|name| name.is_empty() || name.len() > NAME_MAX) {
            self.error(key, format!("a name has 1 to {NAME_MAX} letters"));
        }
        names
    }
}
