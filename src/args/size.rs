//! Sizes as people write them.

/// Bytes: digits and one of `K`, `M`, `G`, `T` (powers of 1024), with or without `iB` after it; or digits alone.
///
/// # Errors
/// What is wrong, for people.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("{text:?} is not a size: use digits and K, M, G or T (powers of 1024), as in 500M");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.strip_suffix("iB").filter(|unit| !unit.is_empty()).unwrap_or(unit);
    let shift = match unit {
        "" => 0,
        "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        "T" | "t" => 40,
        _ => return Err(wrong()),
    };
    if number.is_empty() {
        return Err(wrong());
    }
    let bytes = number.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift));
    bytes.filter(|bytes| *bytes <= MAX).ok_or_else(|| format!("{text:?} is more than any file can have"))
}

/// The largest size that a manifest can say (2^62 - 1).
const MAX: u64 = (1 << 62) - 1;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sizes_are_understood() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("1K", 1024),
            ("2k", 2048),
            ("3KiB", 3072),
            ("500M", 500 << 20),
            ("10G", 10 << 30),
            ("1TiB", 1 << 40),
            ("4611686018427387903", MAX),
        ] {
            assert_eq!(parse(text).unwrap(), bytes, "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "K", "iB", "1iB", "1 G", "1.5G", "-1", "+1", "1GB", "1KB", "1P", "G1", "1Gi", "0x10"]
        {
            assert!(parse(text).unwrap_err().contains("is not a size"), "{text}");
        }
        for text in ["4611686018427387904", "4194304T", "99999999999999999999"] {
            assert!(parse(text).unwrap_err().contains("more than any file"), "{text}");
        }
    }
}
