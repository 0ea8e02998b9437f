//! The host that a request asks for, from its text.
//!
//! ```text
//! text --has ':'--------------------------------------------------> IPv6 address | error
//!      --UTS #46 (case, width, dots; A-labels)--> last label a number --> IPv4 address | error
//!                                             +-> letters, digits, - and _ -----> name | error
//! ```
//!
//! What looks like a number never becomes a name: resolvers read `2130706433`, `0x7f.1` and `0177.0.0.1` as addresses,
//! each in its own way. Here there is one way, four decimal numbers (RFC 3986 section 3.2.2), and all others are refused
//! (RFC 3986 section 7.4; the rule "ends in a number" is that of the WHATWG URL Standard).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use thiserror::Error;

/// A host: an address, or a name that has to be resolved.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// An address; IPv4 in IPv6 (`::ffff:0:0/96`) is IPv4.
    Ip(IpAddr),
    /// A name: lower-case labels of letters, digits, `-` and `_` (A-labels for what is not ASCII), no dot at the end.
    /// The last label is no number. It is absolute: nothing should be appended to it in resolving.
    Name(String),
}

impl Host {
    /// Reads the host of a request as it comes out of the URI template's variable, percent-decoded once (RFC 9298
    /// section 3). An IPv6 address is without brackets.
    ///
    /// # Errors
    /// It is neither an address nor a name. Fault: the peer; the request is malformed.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        if text.is_empty() {
            return Err(HostError::Empty);
        }
        if text.len() > TEXT_MAX {
            return Err(HostError::Long);
        }
        // RFC 9298 section 3: zone identifiers are not allowed. Or it was encoded twice, and is decoded only once.
        if text.contains('%') {
            return Err(HostError::Percent);
        }
        if text.contains(['[', ']']) {
            return Err(HostError::Brackets);
        }
        if text.contains(':') {
            let address: Ipv6Addr = text.parse().map_err(|_| HostError::Ipv6)?;
            return Ok(Host::Ip(IpAddr::V6(address).to_canonical()));
        }
        // Characters and lengths are checked below, on what comes out: full-width digits and dots have become ASCII.
        let ascii = Uts46::new()
            .to_ascii(text.as_bytes(), AsciiDenyList::EMPTY, Hyphens::Allow, DnsLength::Ignore)
            .map_err(|_| HostError::Idn)?;
        let name = ascii.strip_suffix('.').unwrap_or(&ascii).to_ascii_lowercase();
        check_name(&name)?;
        if ends_in_number(&name) {
            // Only four decimal numbers, without zeros in front.
            let address: Ipv4Addr = name.parse().map_err(|_| HostError::Number)?;
            return Ok(Host::Ip(address.into()));
        }
        Ok(Host::Name(name))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Ip(address) => address.fmt(f),
            Host::Name(name) => f.write_str(name),
        }
    }
}

/// Why a text is no host. Fault: whoever wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HostError {
    /// Nothing, or nothing but dots and what is ignored.
    #[error("the host is empty")]
    Empty,
    /// More than 253 characters.
    #[error("the host is longer than 253 characters")]
    Long,
    /// A zone identifier, or something that is encoded still.
    #[error(
        "the host has a % in it: zone identifiers are not allowed, and what is encoded twice is not decoded twice"
    )]
    Percent,
    /// Brackets.
    #[error("the host has brackets in it: an IPv6 address is written without")]
    Brackets,
    /// A colon, and no IPv6 address.
    #[error("the host has a colon in it, and is no IPv6 address")]
    Ipv6,
    /// It ends in a number, and is no IPv4 address of four decimal numbers.
    #[error("the host ends in a number, and is no IPv4 address of four decimal numbers")]
    Number,
    /// Not valid for an internationalized name (UTS #46).
    #[error("the host is no valid internationalized name")]
    Idn,
    /// A label that is empty or longer than 63 characters.
    #[error("the host has a label that is empty or longer than 63 characters")]
    Label,
    /// Something other than letters, digits, hyphens within a label, and underscores.
    #[error("the host has characters in it that are in no name")]
    Character,
}

/// Lengths: RFC 1035 section 2.3.4. Characters: RFC 1123 section 2.1, and underscores, which names of services have.
fn check_name(name: &str) -> Result<(), HostError> {
    if name.is_empty() {
        return Err(HostError::Empty);
    }
    if name.len() > NAME_MAX {
        return Err(HostError::Long);
    }
    for label in name.split('.') {
        if label.is_empty() || label.len() > LABEL_MAX {
            return Err(HostError::Label);
        }
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
        if !label.bytes().all(good) || label.starts_with('-') || label.ends_with('-') {
            return Err(HostError::Character);
        }
    }
    Ok(())
}

/// Whether some resolver could take the name for an IPv4 address: the last label is decimal, octal or hexadecimal.
fn ends_in_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default();
    match last.strip_prefix("0x") {
        Some(digits) => digits.bytes().all(|b| b.is_ascii_hexdigit()),
        None => last.bytes().all(|b| b.is_ascii_digit()),
    }
}

/// Bytes; a name of 253 characters in UTF-8, before it is normalised, is not longer.
const TEXT_MAX: usize = 1024;
const NAME_MAX: usize = 253;
const LABEL_MAX: usize = 63;
