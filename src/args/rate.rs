//! Rates as people write them.

/// Bits per second: digits and one of `kbit`, `mbit`, `gbit` (powers of 1000).
///
/// # Errors
/// What is wrong, for people.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a rate: use digits and kbit, mbit or gbit, as in 500mbit");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit.to_ascii_lowercase().as_str() {
        "kbit" => 1_000,
        "mbit" => 1_000_000,
        "gbit" => 1_000_000_000,
        _ => return Err(wrong()),
    };
    if number.is_empty() {
        return Err(wrong());
    }
    let rate = number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor));
    let rate = rate.filter(|rate| (MIN..=MAX).contains(rate));
    rate.ok_or_else(|| format!("{text:?}: a rate is 5mbit to 1000gbit"))
}

/// A batch of packets, ten or 64 KB, is held for 50 ms at most: a lower rate of a connection would not be kept. Where packets
/// are larger than Ethernet's, this one is not, either.
pub(super) const MIN: u64 = 5_000_000;
/// Larger than any link.
const MAX: u64 = 1_000_000_000_000;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rates_are_understood() {
        for (text, bits) in [
            ("5mbit", MIN),
            ("5000kbit", MIN),
            ("500Mbit", 500_000_000),
            ("10gbit", 10_000_000_000),
            ("1000gbit", MAX),
        ] {
            assert_eq!(parse(text).unwrap(), bits, "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "5", "mbit", "5 mbit", "1.5gbit", "-5mbit", "+5mbit", "5mb", "5M", "5mbit/s"] {
            assert!(parse(text).unwrap_err().contains("is not a rate"), "{text}");
        }
        for text in ["0mbit", "4999kbit", "1001gbit", "99999999999999999999gbit", "18446744074gbit"] {
            assert!(parse(text).unwrap_err().contains("a rate is 5mbit to"), "{text}");
        }
    }
}
