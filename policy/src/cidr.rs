//! Ranges of addresses (RFC 4632, RFC 4291 section 2.3).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use thiserror::Error;

/// All addresses that begin with the same bits. IPv4 and IPv6 are apart: `::/0` has no IPv4 address in it. IPv4 in IPv6
/// (`::ffff:0:0/96`) is IPv4 here, in ranges as in addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr {
    /// The first one.
    address: IpAddr,
    /// Bits that are the same: 0 to 32 or 128.
    prefix: u8,
}

impl Cidr {
    /// For tables; the bits after the prefix must be zero.
    pub(crate) const fn v4(octets: [u8; 4], prefix: u8) -> Self {
        let [a, b, c, d] = octets;
        Self { address: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix }
    }

    /// For tables, as [`v4`](Self::v4).
    pub(crate) const fn v6(groups: [u16; 8], prefix: u8) -> Self {
        let [a, b, c, d, e, f, g, h] = groups;
        Self { address: IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h)), prefix }
    }

    /// Whether the address is in the range.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits()) & mask_v4(self.prefix) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits()) & mask_v6(self.prefix) == 0
            }
            _ => false,
        }
    }

    /// Whether it is one address only.
    pub fn is_single(&self) -> bool {
        self.prefix == width(self.address)
    }

    /// The lowest address.
    pub fn first(&self) -> IpAddr {
        self.address
    }

    /// The highest address.
    pub fn last(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(a) => IpAddr::V4(Ipv4Addr::from_bits(a.to_bits() | !mask_v4(self.prefix))),
            IpAddr::V6(a) => IpAddr::V6(Ipv6Addr::from_bits(a.to_bits() | !mask_v6(self.prefix))),
        }
    }
}

impl From<IpAddr> for Cidr {
    fn from(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self { address, prefix: width(address) }
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    /// `ADDRESS/PREFIX`, or an address alone.
    ///
    /// # Errors
    /// It is neither. Fault: whoever wrote it.
    fn from_str(text: &str) -> Result<Self, CidrError> {
        let form = || CidrError::Form(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let written: IpAddr = address.parse().map_err(|_| form())?;
        let most = width(written);
        let prefix = match prefix {
            None => most,
            // No sign and no zeros in front, of which readers differ.
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) && !has_leading_zero(digits) => {
                digits.parse().map_err(|_| CidrError::Prefix { text: text.to_owned(), most })?
            }
            Some(_) => return Err(form()),
        };
        if prefix > most {
            return Err(CidrError::Prefix { text: text.to_owned(), most });
        }
        let address = written.to_canonical();
        // An IPv4 range that is written in IPv6.
        let prefix = match (written, address) {
            (IpAddr::V6(_), IpAddr::V4(_)) if prefix < 96 => return Err(form()),
            (IpAddr::V6(_), IpAddr::V4(_)) => prefix - 96,
            _ => prefix,
        };
        let first = match address {
            IpAddr::V4(a) => IpAddr::V4(Ipv4Addr::from_bits(a.to_bits() & mask_v4(prefix))),
            IpAddr::V6(a) => IpAddr::V6(Ipv6Addr::from_bits(a.to_bits() & mask_v6(prefix))),
        };
        let range = Self { address: first, prefix };
        if first == address { Ok(range) } else { Err(CidrError::Bits { text: text.to_owned(), range }) }
    }
}

impl fmt::Display for Cidr {
    /// `ADDRESS/PREFIX`, always with the prefix.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// Why a text is no range. Fault: whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CidrError {
    /// Something else.
    #[error("{0:?} is not ADDRESS/PREFIX, as in \"192.0.2.0/24\" or \"2001:db8::/32\"")]
    Form(String),
    /// The prefix is longer than the address.
    #[error("the prefix of {text:?} is more than {most}")]
    Prefix {
        /// What was written.
        text: String,
        /// Bits of the address.
        most: u8,
    },
    /// The address is not the first one, so that one of both is a mistake.
    #[error("{text:?} has bits after its prefix; the range that it is in is {range}")]
    Bits {
        /// What was written.
        text: String,
        /// The range with this prefix that has the address in it.
        range: Cidr,
    },
}

fn has_leading_zero(digits: &str) -> bool {
    digits.is_empty() || digits.len() > 1 && digits.starts_with('0')
}

fn width(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn mask_v4(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

fn mask_v6(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_written_is_what_is_shown() {
        for text in ["0.0.0.0/0", "192.0.2.0/24", "192.0.2.1/32", "::/0", "2001:db8::/32", "::1/128"] {
            assert_eq!(cidr(text).to_string(), text);
        }
        assert_eq!(cidr("192.0.2.1").to_string(), "192.0.2.1/32");
        assert_eq!(cidr("2001:db8::1").to_string(), "2001:db8::1/128");
        assert_eq!(cidr("::ffff:10.0.0.0/104").to_string(), "10.0.0.0/8");
    }

    #[test]
    fn both_ends_and_beyond() {
        for (text, inside, outside) in [
            ("10.0.0.0/8", ["10.0.0.0", "10.255.255.255"], ["9.255.255.255", "11.0.0.0"]),
            ("192.0.2.128/25", ["192.0.2.128", "192.0.2.255"], ["192.0.2.127", "192.0.3.0"]),
            ("0.0.0.0/0", ["0.0.0.0", "::ffff:255.255.255.255"], ["::", "2001:db8::"]),
            ("::/0", ["::", "ffff::"], ["10.0.0.0", "::ffff:10.0.0.0"]),
            ("2001:db8::/32", ["2001:db8::", "2001:db8:ffff::"], ["2001:db7:ffff::", "2001:db9::"]),
        ] {
            let range = cidr(text);
            for address in inside.map(|a| a.parse().unwrap()) {
                assert!(range.contains(address), "{text} {address}");
            }
            for address in outside.map(|a| a.parse().unwrap()) {
                assert!(!range.contains(address), "{text} {address}");
            }
            assert!(range.contains(range.first()) && range.contains(range.last()) && !range.is_single());
        }
        assert!(cidr("192.0.2.1").is_single() && cidr("::1").is_single());
    }

    #[test]
    fn errors_say_what_would_be_right() {
        for (text, message) in [
            ("", "\"\" is not ADDRESS/PREFIX"),
            ("example.org/8", "\"example.org/8\" is not ADDRESS/PREFIX"),
            ("10/8", "\"10/8\" is not"),
            ("10.0.0.0/", "\"10.0.0.0/\" is not"),
            ("10.0.0.0/08", "\"10.0.0.0/08\" is not"),
            ("10.0.0.0/+8", "\"10.0.0.0/+8\" is not"),
            ("10.0.0.0/8/8", "\"10.0.0.0/8/8\" is not"),
            ("fe80::%1/64", "\"fe80::%1/64\" is not"),
            ("::ffff:0.0.0.0/95", "\"::ffff:0.0.0.0/95\" is not"),
            ("10.0.0.0/33", "the prefix of \"10.0.0.0/33\" is more than 32"),
            ("10.0.0.0/999", "the prefix of \"10.0.0.0/999\" is more than 32"),
            ("::/129", "the prefix of \"::/129\" is more than 128"),
            ("10.1.2.3/8", "\"10.1.2.3/8\" has bits after its prefix; the range that it is in is 10.0.0.0/8"),
            ("::1/127", "\"::1/127\" has bits after its prefix; the range that it is in is ::/127"),
        ] {
            let error = text.parse::<Cidr>().unwrap_err().to_string();
            assert!(error.starts_with(message), "{error:?} should start with {message:?}");
        }
    }
}
