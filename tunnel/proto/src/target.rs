//! What a tunnel leads to, and the path of the default template that names it (RFC 9298, sections 2 and 3).

use std::fmt;
use std::net::Ipv6Addr;

use crate::percent;

/// Where the default template has its variables: after this, `{target_host}/{target_port}/` (RFC 9298, section 2).
pub const DEFAULT_PREFIX: &str = "/.well-known/masque/udp/";
/// Longest host of a target, as in the DNS. Bytes of UTF-8.
pub const HOST_MAX: usize = 255;

/// Host and port that UDP goes to, of the form that RFC 9298, section 3 asks for: the host is an IPv6 address without
/// brackets and zone, or an IPv4 address, or a name. What the name means, which spellings of an address count and which
/// addresses are special is not looked at here. A name may have characters outside ASCII.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    host: String,
    port: u16,
}

/// What is no target. The fault of whoever wrote it; as a proxy, answer 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// The path begins like the default template, but is no expansion of it.
    #[error("the path is not {DEFAULT_PREFIX}{{target_host}}/{{target_port}}/")]
    Path,
    /// A `%` that encodes nothing, or bytes that are not UTF-8.
    #[error("the percent-encoding is broken")]
    Percent,
    /// The host is empty.
    #[error("the target's host is empty")]
    HostEmpty,
    /// The host is longer than [`HOST_MAX`].
    #[error("the target's host is longer than {HOST_MAX} bytes")]
    HostTooLong,
    /// The host is neither an address nor a name.
    #[error("the target's host is no IPv6 address, IPv4 address or name")]
    Host,
    /// The host has a `%`: an IPv6 zone, which no proxy could know the meaning of, or something encoded twice.
    #[error("the target's host has a zone, or is encoded twice")]
    Zone,
    /// The port is not a number from 1 to 65535.
    #[error("the target's port is not a number from 1 to 65535")]
    Port,
}

impl Target {
    /// A target, not percent-encoded.
    ///
    /// # Errors
    /// Not of the form of a target: any error but [`TargetError::Path`] and [`TargetError::Percent`].
    pub fn new(host: impl Into<String>, port: u16) -> Result<Self, TargetError> {
        let host = host.into();
        check(&host)?;
        if port == 0 {
            return Err(TargetError::Port);
        }
        Ok(Self { host, port })
    }

    /// The host, decoded; IPv6 without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, never 0.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Target of a request, if its path begins like the default template; `None` if it does not. `path` is the request
    /// target in origin form, with its query, which this template has not.
    ///
    /// # Errors
    /// Inside: the path begins like the template but does not name a target, so the request is malformed.
    pub fn match_default(path: &str) -> Option<Result<Self, TargetError>> {
        path.strip_prefix(DEFAULT_PREFIX).map(Self::from_variables)
    }

    /// `{target_host}/{target_port}/`, each percent-encoded.
    fn from_variables(text: &str) -> Result<Self, TargetError> {
        let (host, rest) = text.split_once('/').ok_or(TargetError::Path)?;
        let port = rest.strip_suffix('/').ok_or(TargetError::Path)?;
        let segment = |b: u8| percent::is_unreserved(b) || percent::is_sub_delim(b) || b"%:@".contains(&b);
        if !host.bytes().all(segment) || !port.bytes().all(segment) {
            return Err(TargetError::Path);
        }
        // RFC 9298, section 3: "the colons MUST be percent-encoded".
        if host.contains(':') {
            return Err(TargetError::Host);
        }
        let decode = |text| percent::decode(text).ok_or(TargetError::Percent);
        let (host, port) = (decode(host)?, decode(port)?);
        // Only digits (RFC 3986, section 3.2.3): no sign, which `parse` would take.
        if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(TargetError::Port);
        }
        Self::new(host, port.parse().map_err(|_| TargetError::Port)?)
    }
}

/// Host and port, IPv6 in brackets.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

fn check(host: &str) -> Result<(), TargetError> {
    // What separates parts of a name, as letters, digits and sub-delims do not (RFC 3986, section 3.2.2).
    let in_name = |c: char| match u8::try_from(c) {
        Ok(byte) if byte.is_ascii() => percent::is_unreserved(byte) || percent::is_sub_delim(byte),
        _ => !c.is_control() && !c.is_whitespace(),
    };
    // Path segments of dots are taken away by whoever normalises a URI (RFC 3986, section 6.2.2.3).
    let dots = || host.bytes().all(|b| b == b'.');
    match host {
        "" => Err(TargetError::HostEmpty),
        _ if host.len() > HOST_MAX => Err(TargetError::HostTooLong),
        _ if host.contains('%') => Err(TargetError::Zone),
        _ if host.contains(':') => host.parse::<Ipv6Addr>().map(drop).map_err(|_| TargetError::Host),
        _ if dots() || !host.chars().all(in_name) => Err(TargetError::Host),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn of(variables: &str) -> Result<(String, u16), TargetError> {
        let target = Target::match_default(&format!("{DEFAULT_PREFIX}{variables}")).unwrap()?;
        Ok((target.host, target.port))
    }

    fn is(host: &str, port: u16) -> Result<(String, u16), TargetError> {
        Ok((host.into(), port))
    }

    #[test]
    fn rfc9298_2_the_default_template_is_served() {
        assert_eq!(of("192.0.2.6/443/"), is("192.0.2.6", 443));
        assert_eq!(of("target.example/53/"), is("target.example", 53));
        for other in ["", "/", "/index.html", "/.well-known/masque/udp", "/.well-known/masque/ip/a/1/"] {
            assert_eq!(Target::match_default(other), None, "{other}");
        }
        for other in
            ["", "a", "a/1", "a/1/?", "a/1/?x=y", "a/1/#x", "//a/1/", "a/1//", "a/1/2/", "a b/1/", "ü/1/"]
        {
            assert!(
                matches!(of(other), Err(TargetError::Path | TargetError::Port | TargetError::HostEmpty)),
                "{other}"
            );
        }
    }

    #[test]
    fn rfc9298_3_neither_variable_may_be_empty() {
        assert_eq!(of("/443/"), Err(TargetError::HostEmpty));
        assert_eq!(of("a//"), Err(TargetError::Port));
    }

    #[test]
    fn rfc9298_3_both_sides_of_the_ports() {
        assert_eq!(of("a/0/"), Err(TargetError::Port));
        assert_eq!(of("a/1/"), is("a", 1));
        assert_eq!(of("a/65535/"), is("a", 65_535));
        assert_eq!(of("a/00443/"), is("a", 443));
        for port in
            ["65536", "-1", "+1", "1.0", "0x1", "%201", "1%20", "%2B1", "99999999999999999999", "%D9%A1"]
        {
            assert_eq!(of(&format!("a/{port}/")), Err(TargetError::Port), "{port}");
        }
        assert_eq!(Target::new("a", 0), Err(TargetError::Port));
    }

    #[test]
    fn rfc9298_3_colons_of_ipv6_are_percent_encoded() {
        assert_eq!(of("2001%3Adb8%3A%3A42/443/"), is("2001:db8::42", 443));
        assert_eq!(of("%3a%3Affff%3A192.0.2.1/1/"), is("::ffff:192.0.2.1", 1));
        assert_eq!(of("2001:db8::42/443/"), Err(TargetError::Host));
    }

    #[test]
    fn rfc9298_3_no_zone_ids_and_no_brackets() {
        assert_eq!(of("fe80%3A%3A1%25eth0/1/"), Err(TargetError::Zone));
        assert_eq!(of("fe80%3A%3A1%2525eth0/1/"), Err(TargetError::Zone));
        assert_eq!(of("%5B%3A%3A1%5D/1/"), Err(TargetError::Host));
        assert_eq!(of("%3A%3A1%3A%3A/1/"), Err(TargetError::Host));
        assert_eq!(of("a.example%3A80/1/"), Err(TargetError::Host));
    }

    #[test]
    fn rfc9298_3_1_percent_encoding_is_decoded_once() {
        assert_eq!(of("%61.example/%34%34%33/"), is("a.example", 443));
        assert_eq!(of("%2561.example/1/"), Err(TargetError::Zone));
        assert_eq!(of("b%C3%BCcher.example/1/"), is("bücher.example", 1));
        for bad in ["%", "a%4", "%zz", "%ff", "%C3"] {
            assert_eq!(of(&format!("{bad}/1/")), Err(TargetError::Percent), "{bad}");
        }
    }

    #[test]
    fn rfc9298_3_a_name_has_nothing_in_it_that_separates() {
        for bad in [
            "a%2Fb", "a%5Cb", "a%00", "a%0D%0A", "a%20b", "a%40b", "a%3Fb", "a%23b", "%22a%22", "a%7F",
            "%C2%A0",
        ] {
            assert_eq!(of(&format!("{bad}/1/")), Err(TargetError::Host), "{bad}");
        }
        assert_eq!(of("../1/"), Err(TargetError::Host));
        assert_eq!(of("%2E/1/"), Err(TargetError::Host));
        assert!(of(&format!("{}/1/", "a".repeat(HOST_MAX))).is_ok());
        assert_eq!(of(&format!("{}/1/", "a".repeat(HOST_MAX + 1))), Err(TargetError::HostTooLong));
    }

    #[test]
    fn a_target_is_shown_with_its_port() {
        assert_eq!(Target::new("::1", 1).unwrap().to_string(), "[::1]:1");
        assert_eq!(Target::new("a.example", 443).unwrap().to_string(), "a.example:443");
    }

    proptest! {
        #[test]
        fn arbitrary_paths_never_panic_and_what_is_taken_is_a_target(rest in "[a:./%0-9A-F?ü]{0,30}") {
            if let Some(Ok(target)) = Target::match_default(&format!("{DEFAULT_PREFIX}{rest}")) {
                prop_assert_eq!(Target::new(target.host(), target.port()), Ok(target.clone()));
            }
        }
    }
}
