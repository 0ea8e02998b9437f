//! Addresses of gateways and of what is on them: `mtp://HOST[:PORT]/PATH`.

use std::fmt;
use std::str::FromStr;

/// The port of MTP where a URL names none; the same number for UDP and TCP.
pub const DEFAULT_PORT: u16 = 4443;

/// Where a gateway is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// A name or an IP address, without brackets.
    pub host: String,
    /// UDP port.
    pub port: u16,
}

/// A path on a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Url {
    /// The gateway.
    pub address: Address,
    /// Percent-decoded, without a leading `/`; may end in `/`; may be empty.
    pub path: String,
}

/// Why a text is no URL of MTP. Fault: whoever wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It does not begin with `mtp://`.
    #[error("a URL begins with mtp://")]
    Scheme,
    /// There is no host.
    #[error("the host is missing: mtp://HOST[:PORT]/PATH")]
    Host,
    /// The port is no number from 1 to 65535.
    #[error("the port must be a number from 1 to 65535")]
    Port,
    /// A user name or password: credentials do not belong in a URL.
    #[error("credentials do not belong in a URL: use --token-file or METRA_TOKEN")]
    Credentials,
    /// A `%` that is not followed by two hexadecimal digits, or bytes that are not UTF-8.
    #[error("the path has a % escape that cannot be decoded")]
    Escape,
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let rest = text.strip_prefix("mtp://").ok_or(UrlError::Scheme)?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        Ok(Self { address: authority.parse()?, path: decode(path.trim_start_matches('/'))? })
    }
}

impl FromStr for Address {
    type Err = UrlError;

    /// Parses `HOST[:PORT]`, an IPv6 address in brackets.
    fn from_str(text: &str) -> Result<Self, UrlError> {
        if text.contains('@') {
            return Err(UrlError::Credentials);
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or(UrlError::Host)?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| UrlError::Host)?;
                let port = match port {
                    "" => None,
                    port => Some(port.strip_prefix(':').ok_or(UrlError::Port)?),
                };
                (host, port)
            }
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        if host.is_empty() || host.chars().any(|c| c.is_whitespace() || "/?#%\\".contains(c)) {
            return Err(UrlError::Host);
        }
        let port = match port {
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or(UrlError::Port)?,
            None => DEFAULT_PORT,
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

fn decode(path: &str) -> Result<String, UrlError> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, tail) = rest.split_at_checked(2).ok_or(UrlError::Escape)?;
        let digits = std::str::from_utf8(digits).map_err(|_| UrlError::Escape)?;
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(UrlError::Escape);
        }
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| UrlError::Escape)?);
        rest = tail;
    }
    String::from_utf8(bytes).map_err(|_| UrlError::Escape)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn urls() {
        let url: Url = "mtp://gw.example:9000/in/a%20b/".parse().unwrap();
        assert_eq!((url.address.host.as_str(), url.address.port), ("gw.example", 9000));
        assert_eq!(url.path, "in/a b/");
        let url: Url = "mtp://[::1]".parse().unwrap();
        assert_eq!((url.address.to_string().as_str(), url.path.as_str()), ("[::1]:4443", ""));
        assert_eq!("mtp://h//x".parse::<Url>().unwrap().path, "x");
    }

    #[test]
    fn what_is_no_url() {
        for (text, error) in [
            ("http://h/x", UrlError::Scheme),
            ("mtp:///x", UrlError::Host),
            ("mtp://h:0/x", UrlError::Port),
            ("mtp://h:65536/x", UrlError::Port),
            ("mtp://h:/x", UrlError::Port),
            ("mtp://[::1/x", UrlError::Host),
            ("mtp://[::1]x/x", UrlError::Port),
            ("mtp://[h]/x", UrlError::Host),
            ("mtp://me:pw@h/x", UrlError::Credentials),
            ("mtp://h/%zz", UrlError::Escape),
            ("mtp://h/%f", UrlError::Escape),
            ("mtp://h/%+1", UrlError::Escape),
            ("mtp://h/%ff", UrlError::Escape),
        ] {
            assert_eq!(text.parse::<Url>(), Err(error), "{text}");
        }
    }
}
