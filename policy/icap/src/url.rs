//! Where a service is: `icap://HOST[:PORT]/SERVICE`.

use std::fmt;
use std::str::FromStr;

/// The port of ICAP (RFC 3507 section 4.2).
const PORT: u16 = 1344;
/// Bytes of a URL.
const URL_MAX: usize = 2048;

/// The URL of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceUrl {
    /// A name or address; an IPv6 address without its brackets.
    host: String,
    port: u16,
    /// With the leading `/`, and the query if there is one.
    path: String,
}

/// A URL that cannot be used. Fault: whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// ICAP over TLS is not spoken.
    #[error("icaps is not supported: reach the service over loopback or a network of its own with icap://")]
    Tls,
    /// Not of this form.
    #[error("{0:?} is not icap://HOST[:PORT]/SERVICE")]
    Form(String),
}

impl ServiceUrl {
    /// The host, as a socket wants it.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port; 1344 if none was given.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The value of the header `Host`.
    pub(crate) fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl FromStr for ServiceUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let form = || UrlError::Form(text.chars().take(200).collect());
        if text.starts_with("icaps://") {
            return Err(UrlError::Tls);
        }
        let rest = text.strip_prefix("icap://").ok_or_else(form)?;
        // Only what stands in a request line as it is: no spaces, no control characters, nothing to be escaped.
        if text.len() > URL_MAX || !text.bytes().all(|b| b.is_ascii_graphic()) || text.contains(['#', '@']) {
            return Err(form());
        }
        let (authority, service) = rest.split_once('/').ok_or_else(form)?;
        if service.is_empty() {
            return Err(form());
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(v6) => {
                let (host, port) = v6.split_once(']').ok_or_else(form)?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| form())?;
                (host, port)
            }
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(digits) => digits.parse().ok().filter(|port| *port != 0).ok_or_else(form)?,
            None if port.is_empty() => PORT,
            None => return Err(form()),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
        if host.is_empty() || !host.chars().all(plain) {
            return Err(form());
        }
        Ok(Self { host: host.to_owned(), port, path: format!("/{service}") })
    }
}

impl fmt::Display for ServiceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "icap://{}{}", self.authority(), self.path)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn urls() {
        for (text, shown) in [
            ("icap://127.0.0.1:1344/virus_scan", "icap://127.0.0.1:1344/virus_scan"),
            ("icap://scanner/av?allow204=on", "icap://scanner:1344/av?allow204=on"),
            ("icap://[::1]:99/a/b", "icap://[::1]:99/a/b"),
            ("icap://[::1]/a", "icap://[::1]:1344/a"),
        ] {
            assert_eq!(text.parse::<ServiceUrl>().unwrap().to_string(), shown);
        }
        for text in [
            "",
            "http://h/a",
            "icap://",
            "icap://h",
            "icap://h/",
            "icap:///a",
            "icap://h:0/a",
            "icap://h:x/a",
            "icap://h:70000/a",
            "icap://h/a b",
            "icap://h/a\r\nX: y",
            "icap://u@h/a",
            "icap://[::1/a",
            "icap://[::1]x/a",
            "icap://[x]/a",
            "icap://hé/a",
        ] {
            assert!(matches!(text.parse::<ServiceUrl>(), Err(UrlError::Form(_))), "{text:?}");
        }
        assert_eq!("icaps://h/a".parse::<ServiceUrl>(), Err(UrlError::Tls));
    }
}
