//! A MASQUE proxy: where it takes requests for tunnels, and what is shown to it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use metra_fallback::proxy::{Credentials, Proxy, ProxyUrlError};
use metra_tunnel::proto::{Template, TemplateError};

/// A proxy for UDP (RFC 9298), which is given the name of the gateway and resolves it.
///
/// As text it is a URI template, `https://[USER:PASSWORD@]HOST[:PORT]/...{target_host}...{target_port}...`; without a path it is
/// the default template of RFC 9298 section 2. Shown, it has no credentials, and can be printed anywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MasqueProxy {
    template: Template,
    credentials: Credentials,
    certificate: Option<(PathBuf, PathBuf)>,
}

/// Why a text is no MASQUE proxy, or credentials are none for it. Fault: whoever wrote them. Never shows what was written,
/// which may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MasqueProxyError {
    /// The template breaks a rule.
    #[error("no template of a MASQUE proxy: {0}")]
    Template(#[from] TemplateError),
    /// User, password or token cannot be sent.
    #[error(transparent)]
    Credentials(#[from] ProxyUrlError),
}

impl MasqueProxy {
    /// Where it takes requests.
    pub fn template(&self) -> &Template {
        &self.template
    }

    /// What is shown to it in requests.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// PEM files of the certificate that is shown to it if it asks for one, and of its key.
    pub fn certificate(&self) -> Option<&(PathBuf, PathBuf)> {
        self.certificate.as_ref()
    }

    /// The same proxy with this token (RFC 6750) instead of the user and password of its template.
    ///
    /// # Errors
    /// [`MasqueProxyError::Credentials`]: it cannot stand in a request.
    pub fn with_token(self, token: String) -> Result<Self, MasqueProxyError> {
        // By the rules for other proxies, which are the same.
        let checked = authority("", &self.place())?.with_credentials(Credentials::Bearer(token))?;
        Ok(Self { credentials: checked.credentials().clone(), ..self })
    }

    /// The same proxy, which is shown this certificate (PEM files of the chain and of its key) if it asks for one.
    pub fn with_certificate(self, certificate: PathBuf, key: PathBuf) -> Self {
        Self { certificate: Some((certificate, key)), ..self }
    }

    /// `HOST:PORT`, an IPv6 address in brackets.
    fn place(&self) -> String {
        match self.template.host() {
            host if host.contains(':') => format!("[{host}]:{}", self.template.port()),
            host => format!("{host}:{}", self.template.port()),
        }
    }
}

impl FromStr for MasqueProxy {
    type Err = MasqueProxyError;

    fn from_str(text: &str) -> Result<Self, MasqueProxyError> {
        let text = text.trim();
        let scheme = text.get(..HTTPS.len()).filter(|scheme| scheme.eq_ignore_ascii_case(HTTPS));
        let rest = &text[scheme.ok_or(TemplateError::Scheme)?.len()..];
        let (place, path) = rest.split_at(rest.find(['/', '?', '#', '{']).unwrap_or(rest.len()));
        // RFC 9298 section 2: a template has no user information.
        let (user, place) = place.rsplit_once('@').unwrap_or(("", place));
        let template = match path {
            "" | "/" => {
                let proxy = authority("", place)?;
                Template::default_of(proxy.host(), proxy.port())?
            }
            path => Template::parse(&format!("{HTTPS}{place}{path}"))?,
        };
        let credentials = match user {
            "" => Credentials::None,
            user => authority(user, place)?.credentials().clone(),
        };
        Ok(Self { template, credentials, certificate: None })
    }
}

/// The template, without credentials.
impl fmt::Display for MasqueProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.template.fmt(f)
    }
}

/// What is at the place of an authority, by the rules of other proxies.
fn authority(user: &str, place: &str) -> Result<Proxy, ProxyUrlError> {
    format!("{HTTPS}{user}@{place}").parse()
}

const HTTPS: &str = "https://";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parsed(text: &str) -> MasqueProxy {
        text.parse().unwrap()
    }

    #[test]
    fn templates_with_and_without_credentials() {
        let plain = "https://p.example:4443/masque{?target_host,target_port}";
        let basic = |user: &str, password: &str| Credentials::Basic {
            user: user.to_owned(),
            password: password.to_owned(),
        };
        for (text, template, credentials) in [
            (plain, plain, Credentials::None),
            ("HTTPS://me:p%40w@p.example:4443/masque{?target_host,target_port}", plain, basic("me", "p@w")),
            (
                "https://p.example",
                "https://p.example:443/.well-known/masque/udp/{target_host}/{target_port}/",
                Credentials::None,
            ),
            (
                "https://me@[2001:db8::1]:8443/",
                "https://[2001:db8::1]:8443/.well-known/masque/udp/{target_host}/{target_port}/",
                basic("me", ""),
            ),
        ] {
            let proxy = parsed(text);
            assert_eq!((proxy.to_string().as_str(), proxy.credentials()), (template, &credentials), "{text}");
        }
    }

    #[test]
    fn what_is_no_proxy_and_nothing_shows_a_password() {
        for text in [
            "",
            "http://me:secret@p/{target_host}/{target_port}",
            "me:secret@p.example:1",
            "https://me:secret@p/{target_host}",
            "https://me:secret@p/{+target_host}/{target_port}",
            "https://me:secret@/",
            "https://me:secret%zz@p",
            "https://me:secret@p:0",
        ] {
            let error = text.parse::<MasqueProxy>().unwrap_err();
            assert!(!error.to_string().contains("secret"), "{text}: {error}");
        }
        let proxy = parsed("https://me:secret@p:1/{target_host}/{target_port}");
        for text in [proxy.to_string(), format!("{proxy:?}")] {
            assert!(!text.contains("secret") && !text.contains("me:"), "{text}");
        }
    }

    #[test]
    fn tokens_are_those_of_other_proxies() {
        let proxy = parsed("https://[::1]:1/{target_host}/{target_port}");
        let with = proxy.clone().with_token("abc==".to_owned()).unwrap();
        assert_eq!(*with.credentials(), Credentials::Bearer("abc==".to_owned()));
        assert!(proxy.with_token("a b".to_owned()).is_err());
    }
}
