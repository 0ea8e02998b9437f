//! What a proxy is: `SCHEME://[USER:PASSWORD@]HOST[:PORT]`.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// How a proxy is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// HTTP CONNECT over TCP (RFC 9110 section 9.3.6).
    Http,
    /// HTTP CONNECT over TLS.
    Https,
    /// SOCKS5 (RFC 1928); names are resolved here and the proxy is given an address. This is what curl means by it.
    Socks5,
    /// SOCKS5; the proxy is given the name, and resolves it.
    Socks5h,
}

/// A proxy: how it is spoken to, where it is, and what is shown to it.
///
/// As text it is a URL without credentials, so it can be printed anywhere. Parsing one follows curl: the default
/// scheme is `http`; the default port is 443 for `https` and 1080 for all others (also for `http`); user and
/// password are percent-decoded. Unlike with curl a path is an error, as it is most often the URL of a PAC file.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Proxy {
    scheme: Scheme,
    host: String,
    port: u16,
    credentials: Credentials,
}

/// What is shown to a proxy, and to nobody else.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub enum Credentials {
    /// Nothing.
    #[default]
    None,
    /// `Proxy-Authorization: Basic` (RFC 7617), or user and password of SOCKS5 (RFC 1929).
    Basic {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// `Proxy-Authorization: Bearer` (RFC 6750). Not with SOCKS.
    Bearer(String),
}

impl Credentials {
    /// As the value of `Authorization` or `Proxy-Authorization`; `None`: nothing is shown. Not to be logged.
    pub fn header(&self) -> Option<String> {
        match self {
            Credentials::None => None,
            Credentials::Basic { user, password } => {
                Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
            }
            Credentials::Bearer(token) => Some(format!("Bearer {token}")),
        }
    }
}

/// Why a text is no proxy, or credentials are none for it. Fault: whoever wrote them. Never shows what was written,
/// which may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyUrlError {
    /// A scheme that is not known here.
    #[error("{0:?} is no kind of proxy: it begins with http://, https://, socks5:// or socks5h://")]
    Scheme(String),
    /// The older SOCKS.
    #[error("SOCKS4 is not spoken here: write socks5:// or socks5h:// if the proxy speaks SOCKS5")]
    Socks4,
    /// There is no host, or it is none.
    #[error("the proxy's host is missing or is none: http://[USER:PASSWORD@]HOST[:PORT]")]
    Host,
    /// The port is no number from 1 to 65535.
    #[error("the proxy's port must be a number from 1 to 65535")]
    Port,
    /// Something follows the port.
    #[error("a proxy's URL ends after the port: the URL of a PAC file or of a page is none")]
    Path,
    /// A `%` that is not followed by two hexadecimal digits, or bytes that are not UTF-8.
    #[error("the proxy's user or password has a % escape that cannot be decoded: write % itself as %25")]
    Escape,
    /// Credentials that cannot be sent.
    #[error("the proxy's credentials cannot be sent: {0}")]
    Credentials(&'static str),
}

impl Proxy {
    /// How it is spoken to.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// A name or an IP address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What is shown to it.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// The same proxy with these credentials instead of those of its URL.
    ///
    /// # Errors
    /// [`ProxyUrlError::Credentials`] if the proxy's protocol cannot carry them.
    pub fn with_credentials(mut self, credentials: Credentials) -> Result<Self, ProxyUrlError> {
        check(self.scheme, &credentials).map_err(ProxyUrlError::Credentials)?;
        self.credentials = credentials;
        Ok(self)
    }
}

impl Scheme {
    fn default_port(self) -> u16 {
        if self == Scheme::Https { 443 } else { 1080 }
    }

    fn name(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::Socks5 => "socks5",
            Scheme::Socks5h => "socks5h",
        }
    }

    fn is_socks(self) -> bool {
        matches!(self, Scheme::Socks5 | Scheme::Socks5h)
    }
}

impl FromStr for Proxy {
    type Err = ProxyUrlError;

    fn from_str(text: &str) -> Result<Self, ProxyUrlError> {
        let (scheme, rest) = match text.split_once("://") {
            None => (Scheme::Http, text),
            Some((scheme, rest)) => (scheme_of(scheme)?, rest),
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if !matches!(path, "" | "/") {
            return Err(ProxyUrlError::Path);
        }
        let (credentials, place) = match authority.rsplit_once('@') {
            None => (Credentials::None, authority),
            Some((user, place)) => (basic(user)?, place),
        };
        let (host, port) = host_and_port(place)?;
        let port = match port {
            None => scheme.default_port(),
            Some(port) => number(port).ok_or(ProxyUrlError::Port)?,
        };
        let proxy = Self { scheme, host: host.to_owned(), port, credentials: Credentials::None };
        proxy.with_credentials(credentials)
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "{}://[{}]:{}", self.scheme.name(), self.host, self.port)
        } else {
            write!(f, "{}://{}:{}", self.scheme.name(), self.host, self.port)
        }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self}, {:?})", self.credentials)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Credentials::None => "None",
            Credentials::Basic { .. } => "Basic(..)",
            Credentials::Bearer(_) => "Bearer(..)",
        })
    }
}

fn scheme_of(text: &str) -> Result<Scheme, ProxyUrlError> {
    match text.to_ascii_lowercase().as_str() {
        "http" => Ok(Scheme::Http),
        "https" => Ok(Scheme::Https),
        "socks5" => Ok(Scheme::Socks5),
        "socks5h" => Ok(Scheme::Socks5h),
        // curl means SOCKS4 by "socks".
        "socks" | "socks4" | "socks4a" => Err(ProxyUrlError::Socks4),
        // No scheme has other characters: what is before "://" may be the rest of something with a password.
        other if other.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) => {
            Err(ProxyUrlError::Scheme(other.to_owned()))
        }
        _ => Err(ProxyUrlError::Scheme(String::new())),
    }
}

/// `HOST[:PORT]`, an IPv6 address in brackets: both as texts, the host without brackets.
fn host_and_port(text: &str) -> Result<(&str, Option<&str>), ProxyUrlError> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or(ProxyUrlError::Host)?;
            host.parse::<Ipv6Addr>().map_err(|_| ProxyUrlError::Host)?;
            match port {
                "" => (host, None),
                port => (host, Some(port.strip_prefix(':').ok_or(ProxyUrlError::Port)?)),
            }
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let usable = |b: u8| b.is_ascii_graphic() && !b"%\\[]\"<>^`{|}@".contains(&b);
    if host.is_empty() || !host.bytes().all(usable) {
        return Err(ProxyUrlError::Host);
    }
    Ok((host, port))
}

/// A number from 1 to 65535, without a sign.
pub(super) fn number(text: &str) -> Option<u16> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten().filter(|n| *n != 0)
}

fn basic(text: &str) -> Result<Credentials, ProxyUrlError> {
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    let (user, password) = (decode(user)?, decode(password)?);
    if user.is_empty() && password.is_empty() {
        return Ok(Credentials::None);
    }
    Ok(Credentials::Basic { user, password })
}

fn decode(text: &str) -> Result<String, ProxyUrlError> {
    let mut parts = text.as_bytes().split(|b| *b == b'%');
    let mut bytes = parts.next().unwrap_or_default().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2).ok_or(ProxyUrlError::Escape)?;
        let digit = |b: u8| (b as char).to_digit(16).map(|d| d as u8);
        let (Some(high), Some(low)) = (digit(digits[0]), digit(digits[1])) else {
            return Err(ProxyUrlError::Escape);
        };
        bytes.push(high << 4 | low);
        bytes.extend_from_slice(rest);
    }
    String::from_utf8(bytes).map_err(|_| ProxyUrlError::Escape)
}

fn check(scheme: Scheme, credentials: &Credentials) -> Result<(), &'static str> {
    match credentials {
        Credentials::None => Ok(()),
        // RFC 1929 section 2: lengths of one byte, and not nothing.
        Credentials::Basic { user, password } if scheme.is_socks() => {
            let fits = |text: &str| (1..=255).contains(&text.len());
            if fits(user) && fits(password) {
                Ok(())
            } else {
                Err("SOCKS5 takes a user and a password of 1 to 255 bytes")
            }
        }
        // RFC 7617 section 2.
        Credentials::Basic { user, password } => {
            if user.contains(':') {
                Err("a user with a colon cannot be told from its password")
            } else if user.chars().chain(password.chars()).any(char::is_control) {
                Err("user and password must have no control characters")
            } else {
                Ok(())
            }
        }
        Credentials::Bearer(_) if scheme.is_socks() => Err("SOCKS5 knows no tokens"),
        Credentials::Bearer(token) => {
            // RFC 9110 section 11.2, token68.
            let body = token.trim_end_matches('=');
            let usable = |b: u8| b.is_ascii_alphanumeric() || b"-._~+/".contains(&b);
            if !body.is_empty() && body.bytes().all(usable) {
                Ok(())
            } else {
                Err("a token has letters, digits and -._~+/ only, with = at its end")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Proxy {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn urls() {
        for (text, scheme, host, port) in [
            ("http://proxy.example:3128", Scheme::Http, "proxy.example", 3128),
            ("HTTP://proxy.example:3128/", Scheme::Http, "proxy.example", 3128),
            ("proxy.example:3128", Scheme::Http, "proxy.example", 3128),
            ("proxy.example", Scheme::Http, "proxy.example", 1080),
            ("http://proxy.example", Scheme::Http, "proxy.example", 1080),
            ("https://proxy.example", Scheme::Https, "proxy.example", 443),
            ("socks5://10.0.0.1", Scheme::Socks5, "10.0.0.1", 1080),
            ("socks5h://10.0.0.1:9050", Scheme::Socks5h, "10.0.0.1", 9050),
            ("http://[2001:db8::1]", Scheme::Http, "2001:db8::1", 1080),
            ("http://me:pw@[2001:db8::1]:8080", Scheme::Http, "2001:db8::1", 8080),
        ] {
            let proxy = parsed(text);
            assert_eq!((proxy.scheme(), proxy.host(), proxy.port()), (scheme, host, port), "{text}");
            assert_eq!(parsed(&proxy.to_string()), proxy.with_credentials(Credentials::None).unwrap());
        }
    }

    #[test]
    fn credentials_of_urls() {
        let basic = |user: &str, password: &str| Credentials::Basic {
            user: user.to_owned(),
            password: password.to_owned(),
        };
        for (text, credentials) in [
            ("http://h", Credentials::None),
            ("http://@h", Credentials::None),
            ("http://:@h", Credentials::None),
            ("http://me@h", basic("me", "")),
            ("http://me:pw@h", basic("me", "pw")),
            ("http://me:p:w@h", basic("me", "p:w")),
            ("http://me:p@w@h", basic("me", "p@w")),
            ("http://CORP%5Cme:p%40%2fw%25@h", basic("CORP\\me", "p@/w%")),
            ("http://m%C3%BC:%c3%9f@h", basic("mü", "ß")),
            ("socks5://me:pw@h", basic("me", "pw")),
        ] {
            assert_eq!(*parsed(text).credentials(), credentials, "{text}");
        }
    }

    #[test]
    fn what_is_no_proxy() {
        let control = ProxyUrlError::Credentials("user and password must have no control characters");
        let socks = ProxyUrlError::Credentials("SOCKS5 takes a user and a password of 1 to 255 bytes");
        let colon = ProxyUrlError::Credentials("a user with a colon cannot be told from its password");
        for (text, error) in [
            ("", ProxyUrlError::Host),
            ("http://", ProxyUrlError::Host),
            ("http://:3128", ProxyUrlError::Host),
            ("http://me:pw@", ProxyUrlError::Host),
            ("http://a b:1", ProxyUrlError::Host),
            ("http://h\r\nX:1", ProxyUrlError::Host),
            ("http://[::1:3128", ProxyUrlError::Host),
            ("http://[h]:3128", ProxyUrlError::Host),
            ("http://::1", ProxyUrlError::Host),
            ("http://2001:db8::1", ProxyUrlError::Port),
            ("http://h:", ProxyUrlError::Port),
            ("http://h:0", ProxyUrlError::Port),
            ("http://h:+80", ProxyUrlError::Port),
            ("http://h:65536", ProxyUrlError::Port),
            ("http://[::1]3128", ProxyUrlError::Port),
            ("http://wpad/wpad.dat", ProxyUrlError::Path),
            ("http://h:1?x", ProxyUrlError::Path),
            ("http://h:1//", ProxyUrlError::Path),
            ("ftp://h", ProxyUrlError::Scheme("ftp".to_owned())),
            ("me:secret@h/://x", ProxyUrlError::Scheme(String::new())),
            ("socks4://h", ProxyUrlError::Socks4),
            ("SOCKS4A://h", ProxyUrlError::Socks4),
            ("socks://h", ProxyUrlError::Socks4),
            ("http://me:100%@h", ProxyUrlError::Escape),
            ("http://me:%zz@h", ProxyUrlError::Escape),
            ("http://me:%+1@h", ProxyUrlError::Escape),
            ("http://me:%ff@h", ProxyUrlError::Escape),
            ("http://me:a%0d%0ab@h", control),
            ("http://m%3ae:pw@h", colon),
            ("socks5://me@h", socks.clone()),
            (&format!("socks5h://me:{}@h", "x".repeat(256)), socks),
        ] {
            assert_eq!(text.parse::<Proxy>(), Err(error), "{text}");
        }
    }

    #[test]
    fn nothing_shows_a_password() {
        let proxy = parsed("http://me:secret@h:1");
        for text in [proxy.to_string(), format!("{proxy:?}"), format!("{:?}", proxy.credentials())] {
            assert!(!text.contains("secret") && !text.contains("me:"), "{text}");
        }
        let proxy = proxy.with_credentials(Credentials::Bearer("s3cret".to_owned())).unwrap();
        assert_eq!(format!("{proxy:?}"), "Proxy(http://h:1, Bearer(..))");
    }

    #[test]
    fn tokens() {
        let with = |proxy: &str, token: &str| {
            parsed(proxy).with_credentials(Credentials::Bearer(token.to_owned())).map(|_| ())
        };
        assert_eq!(with("http://h", "abc.DEF-1_~+/=="), Ok(()));
        for bad in ["", "=", "a b", "a\r\nX: y", "a=b", "ä"] {
            assert!(matches!(with("http://h", bad), Err(ProxyUrlError::Credentials(_))), "{bad:?}");
        }
        assert_eq!(with("socks5h://h", "abc"), Err(ProxyUrlError::Credentials("SOCKS5 knows no tokens")));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(http://|socks5h://)?.{0,60}") {
            if let Ok(proxy) = text.parse::<Proxy>() {
                let again = proxy.to_string().parse::<Proxy>();
                prop_assert_eq!(again, proxy.with_credentials(Credentials::None));
            }
        }
    }
}
