//! Rules for targets: `HOST:PORTS`.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::{Cidr, CidrError, Host, HostError};

/// Targets that tunnels may lead to, as the operator writes them: `HOST:PORTS`.
///
/// | HOST | What it matches |
/// |---|---|
/// | `example.org` | this name |
/// | `*.example.org` | every name below it, at any depth; not the name itself |
/// | `192.0.2.7`, `192.0.2.0/24`, `[2001:db8::/32]` | requests for these addresses; no names, whatever they resolve to |
/// | `*` | every name and every address |
///
/// PORTS is `*` or a list of ports and ranges: `443`, `53,443,8000-8999`.
///
/// A rule never opens an address that is special (see [`classify`](crate::classify)) or the gateway's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetRule {
    hosts: Hosts,
    ports: Ports,
}

impl TargetRule {
    /// Whether the rule allows the host, at this port.
    pub(crate) fn matches(&self, host: &Host, port: u16) -> bool {
        let host = match (&self.hosts, host) {
            (Hosts::All, _) => true,
            (Hosts::Name(own), Host::Name(name)) => own == name,
            (Hosts::Below(own), Host::Name(name)) => {
                name.strip_suffix(own.as_str()).is_some_and(|rest| rest.ends_with('.'))
            }
            (Hosts::Range(range), Host::Ip(address)) => range.contains(*address),
            (Hosts::Name(_) | Hosts::Below(_), Host::Ip(_)) | (Hosts::Range(_), Host::Name(_)) => false,
        };
        host && self.ports.contains(port)
    }

    /// The range of addresses that the rule is for, if it is for one.
    pub fn range(&self) -> Option<Cidr> {
        match self.hosts {
            Hosts::Range(range) => Some(range),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Hosts {
    All,
    /// Normalised, as in [`Host::Name`].
    Name(String),
    /// What follows `*.`; normalised.
    Below(String),
    Range(Cidr),
}

impl FromStr for TargetRule {
    type Err = RuleError;

    /// # Errors
    /// It is not `HOST:PORTS`. Fault: whoever wrote it.
    fn from_str(text: &str) -> Result<Self, RuleError> {
        let form = || RuleError::Form(text.to_owned());
        let (hosts, ports) = if let Some(rest) = text.strip_prefix('[') {
            let (range, ports) = rest.split_once("]:").ok_or_else(form)?;
            // In brackets is IPv6 only.
            if !range.contains(':') {
                return Err(form());
            }
            (Hosts::Range(range.parse()?), ports)
        } else {
            let (host, ports) = text.split_once(':').ok_or_else(form)?;
            // More of an IPv6 address than of a list of ports.
            if ports.contains(':') {
                return Err(form());
            }
            (parse_hosts(host, text)?, ports)
        };
        Ok(Self { hosts, ports: ports.parse()? })
    }
}

fn parse_hosts(host: &str, text: &str) -> Result<Hosts, RuleError> {
    let wrong = |why| RuleError::Host { text: text.to_owned(), why };
    if host == "*" {
        return Ok(Hosts::All);
    }
    if host.contains('/') {
        return Ok(Hosts::Range(host.parse()?));
    }
    let below = host.strip_prefix("*.");
    match (Host::parse(below.unwrap_or(host)).map_err(wrong)?, below) {
        (Host::Name(name), None) => Ok(Hosts::Name(name)),
        (Host::Name(name), Some(_)) => Ok(Hosts::Below(name)),
        (Host::Ip(address), None) => Ok(Hosts::Range(address.into())),
        (Host::Ip(_), Some(_)) => Err(RuleError::Form(text.to_owned())),
    }
}

impl fmt::Display for TargetRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.hosts {
            Hosts::All => f.write_str("*")?,
            Hosts::Name(name) => f.write_str(name)?,
            Hosts::Below(name) => write!(f, "*.{name}")?,
            Hosts::Range(range) if range.first().is_ipv6() => write!(f, "[{range}]")?,
            Hosts::Range(range) => range.fmt(f)?,
        }
        write!(f, ":{}", self.ports)
    }
}

/// Some of the ports 1 to 65535.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports(Vec<(u16, u16)>);

impl Ports {
    /// Whether the port is one of them. Port 0 never is.
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&port))
    }
}

impl FromStr for Ports {
    type Err = RuleError;

    /// `*`, or ports and ranges with commas between them.
    ///
    /// # Errors
    /// It is neither. Fault: whoever wrote it.
    fn from_str(text: &str) -> Result<Self, RuleError> {
        if text == "*" {
            return Ok(Self(vec![(1, u16::MAX)]));
        }
        let port = |digits: &str| {
            let port =
                digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<u16>().ok()).flatten();
            port.filter(|p| *p > 0)
        };
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (port(first)?, port(last)?);
            (first <= last).then_some((first, last))
        };
        let ranges = text.split(',').map(|part| range(part.trim())).collect::<Option<Vec<_>>>();
        ranges.map(Self).ok_or_else(|| RuleError::Ports(text.to_owned()))
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == [(1, u16::MAX)] {
            return f.write_str("*");
        }
        for (i, (first, last)) in self.0.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

/// Why a text is no rule. Fault: whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RuleError {
    /// Something else.
    #[error(
        "{0:?} is not HOST:PORTS, as in \"example.org:443\", \"*.example.org:*\", \"192.0.2.0/24:53,443\" or \
         \"[2001:db8::/32]:8000-8999\""
    )]
    Form(String),
    /// The host is none.
    #[error("{text:?}: {why}")]
    Host {
        /// What was written.
        text: String,
        /// What is wrong with the host.
        why: HostError,
    },
    /// The range is none.
    #[error(transparent)]
    Range(#[from] CidrError),
    /// The ports are none.
    #[error("{0:?} is not *, or ports (1 to 65535) and ranges, as in \"53,443,8000-8999\"")]
    Ports(String),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_what_is_shown() {
        for text in [
            "example.org:443",
            "*.example.org:53,443,8000-8999",
            "*:*",
            "192.0.2.0/24:1-65534",
            "[2001:db8::/32]:*",
            "xn--mnchen-3ya.example:65535",
        ] {
            assert_eq!(text.parse::<TargetRule>().unwrap().to_string(), text);
        }
        for (text, shown) in [
            ("EXAMPLE.org.:443", "example.org:443"),
            ("*.München.example:443-443", "*.xn--mnchen-3ya.example:443"),
            ("192.0.2.7:53, 443", "192.0.2.7/32:53,443"),
            ("[2001:db8::7]:1-65535", "[2001:db8::7/128]:*"),
            ("[::ffff:192.0.2.7]:1", "192.0.2.7/32:1"),
        ] {
            assert_eq!(text.parse::<TargetRule>().unwrap().to_string(), shown);
        }
        let range = |text: &str| text.parse::<TargetRule>().unwrap().range().map(|r| r.to_string());
        assert_eq!(range("192.0.2.0/24:*").as_deref(), Some("192.0.2.0/24"));
        assert_eq!((range("*:*"), range("a.example:1"), range("*.example:1")), (None, None, None));
    }

    #[test]
    fn ports_have_two_sides() {
        let ports: Ports = "53,443,8000-8999".parse().unwrap();
        for port in [53, 443, 8000, 8500, 8999] {
            assert!(ports.contains(port));
        }
        for port in [0, 1, 52, 54, 442, 444, 7999, 9000, 65535] {
            assert!(!ports.contains(port));
        }
        let all: Ports = "*".parse().unwrap();
        assert!(!all.contains(0) && all.contains(1) && all.contains(65535));
    }

    #[test]
    fn errors_say_what_would_be_right() {
        for (text, message) in [
            ("", "\"\" is not HOST:PORTS, as in \"example.org:443\""),
            ("example.org", "\"example.org\" is not HOST:PORTS"),
            ("2001:db8::1:443", "\"2001:db8::1:443\" is not HOST:PORTS"),
            ("[2001:db8::1]", "\"[2001:db8::1]\" is not HOST:PORTS"),
            ("[192.0.2.1]:443", "\"[192.0.2.1]:443\" is not HOST:PORTS"),
            ("*.192.0.2.1:443", "\"*.192.0.2.1:443\" is not HOST:PORTS"),
            (":443", "\":443\": the host is empty"),
            ("*.:443", "\"*.:443\": the host is empty"),
            ("127.1:443", "\"127.1:443\": the host ends in a number"),
            ("a.*.example:443", "\"a.*.example:443\": the host has characters in it"),
            ("*example.org:443", "\"*example.org:443\": the host has characters in it"),
            ("10.0.0.1/8:443", "\"10.0.0.1/8\" has bits after its prefix"),
            ("10.0.0.0/33:443", "the prefix of \"10.0.0.0/33\" is more than 32"),
            ("example.org/24:443", "\"example.org/24\" is not ADDRESS/PREFIX"),
            ("[fe80::1%eth0]:443", "\"fe80::1%eth0\" is not ADDRESS/PREFIX"),
            ("example.org:", "\"\" is not *, or ports (1 to 65535)"),
            ("example.org:0", "\"0\" is not *, or ports"),
            ("example.org:65536", "\"65536\" is not *, or ports"),
            ("example.org:+1", "\"+1\" is not *, or ports"),
            ("example.org:2-1", "\"2-1\" is not *, or ports"),
            ("example.org:0-1", "\"0-1\" is not *, or ports"),
            ("example.org:1-", "\"1-\" is not *, or ports"),
            ("example.org:1,", "\"1,\" is not *, or ports"),
            ("example.org:1,*", "\"1,*\" is not *, or ports"),
            ("example.org:https", "\"https\" is not *, or ports"),
        ] {
            let error = text.parse::<TargetRule>().unwrap_err().to_string();
            assert!(error.starts_with(message), "{error:?} should start with {message:?}");
        }
    }

    proptest! {
        /// No text makes the reader panic, and what it reads is shown as something that means the same.
        #[test]
        fn rules_are_read_back(text in "\\PC{0,30}|(\\*|(\\*\\.)?[a-z]{1,4}|[0-9]{1,3}\\.0\\.0\\.0/[0-9]{1,2}|\\[[0-9a-f]{1,4}::/[0-9]{2}\\]):(\\*|[0-9]{1,5}(-[0-9]{1,5})?(,[0-9]{1,5})?)") {
            if let Ok(rule) = text.parse::<TargetRule>() {
                prop_assert_eq!(rule.to_string().parse(), Ok(rule));
            }
        }
    }
}
