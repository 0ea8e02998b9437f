//! How fast.

use std::fmt;

use thiserror::Error;

/// A rate, in whole bytes per second; at most 10^12. In texts it is in bits per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(u64);

impl Rate {
    /// Nothing at all.
    pub const ZERO: Self = Self(0);
    /// The highest, 8 Tbit/s. What is above it becomes this.
    pub const MAX: Self = Self(1_000_000_000_000);

    /// From bytes per second.
    pub const fn from_bytes(bytes: u64) -> Self {
        if bytes > Self::MAX.0 { Self::MAX } else { Self(bytes) }
    }

    /// From bits per second; a part of a byte is left out.
    pub const fn from_bits(bits: u64) -> Self {
        Self::from_bytes(bits / 8)
    }

    /// From megabits per second, of 1,000,000 bits.
    pub const fn from_mbit(mbit: u64) -> Self {
        Self::from_bytes(mbit.saturating_mul(125_000))
    }

    /// Bytes per second.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Bits per second.
    pub const fn bits(self) -> u64 {
        self.0 * 8
    }

    /// Reads `200M`: a number, with a point if need be, and `K`, `M`, `G` or `T` for powers of 1000. Bits per second.
    ///
    /// # Errors
    /// It is no such text, or more than [`Rate::MAX`]. Fault: whoever wrote it.
    pub fn parse(text: &str) -> Result<Self, RateError> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit: u64 = match &text[digits.len()..] {
            "" => 1,
            "k" | "K" => 1_000,
            "M" => 1_000_000,
            "G" => 1_000_000_000,
            "T" => 1_000_000_000_000,
            _ => return Err(RateError::Form),
        };
        let (whole, part) = digits.split_once('.').unwrap_or((digits, "0"));
        let number = |s: &str| match s.bytes().all(|b| b.is_ascii_digit()) && !s.is_empty() {
            true => s.parse::<u64>().map_err(|_| RateError::TooHigh),
            false => Err(RateError::Form),
        };
        let whole = number(whole)?.checked_mul(unit).ok_or(RateError::TooHigh)?;
        // Nine digits after the point are more than a byte of a terabit.
        let part = part.get(..9).unwrap_or(part);
        let scale = 10_u128.pow(part.len() as u32);
        let part = u128::from(number(part)?) * u128::from(unit) / scale;
        let bits = whole.checked_add(part as u64).ok_or(RateError::TooHigh)?;
        if bits > Self::MAX.bits() { Err(RateError::TooHigh) } else { Ok(Self::from_bits(bits)) }
    }
}

impl fmt::Display for Rate {
    /// As [`Rate::parse`] reads it, with the largest unit that leaves whole numbers: `200M`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.bits();
        let units = [(1_000_000_000_000, "T"), (1_000_000_000, "G"), (1_000_000, "M"), (1_000, "K")];
        match units.into_iter().find(|(unit, _)| bits > 0 && bits.is_multiple_of(*unit)) {
            Some((unit, name)) => write!(f, "{}{name}", bits / unit),
            None => write!(f, "{bits}"),
        }
    }
}

/// Why a text is no rate. Fault: whoever wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RateError {
    /// Not a number with a unit.
    #[error("is no rate; write bits per second as in 200M, 1.5G, 64K or 9600")]
    Form,
    /// Above [`Rate::MAX`].
    #[error("is too high; 8T is the most")]
    TooHigh,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn texts() {
        for (text, bits) in [
            ("200M", 200_000_000),
            ("1.5G", 1_500_000_000),
            ("64K", 64_000),
            ("64k", 64_000),
            ("9600", 9_600),
            ("0", 0),
            ("0.0000011T", 1_100_000),
            ("8T", 8_000_000_000_000),
        ] {
            assert_eq!(Rate::parse(text).unwrap().bits(), bits, "{text}");
        }
        for text in ["", "M", "1.M", ".5M", "-1M", "1 M", "1MB", "1m", "1e3", "1.2.3M", "+1M", "1,5M"] {
            assert_eq!(Rate::parse(text), Err(RateError::Form), "{text}");
        }
        for text in ["9T", "8.1T", "99999999999999999999", "99999999999G"] {
            assert_eq!(Rate::parse(text), Err(RateError::TooHigh), "{text}");
        }
    }

    #[test]
    fn what_is_shown_can_be_read() {
        for rate in [Rate::ZERO, Rate::from_bytes(1), Rate::from_mbit(250), Rate::from_mbit(2500), Rate::MAX]
        {
            assert_eq!(Rate::parse(&rate.to_string()), Ok(rate));
        }
        assert_eq!(Rate::from_mbit(250).to_string(), "250M");
        assert_eq!(Rate::from_mbit(u64::MAX), Rate::MAX);
    }
}
