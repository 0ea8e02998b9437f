//! Percent-encoding (RFC 3986, section 2.1), as URI templates use it.

/// Appends `value` with every byte encoded that is not unreserved (RFC 6570, section 3.2.2).
pub(crate) fn encode(value: &str, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in value.bytes() {
        if is_unreserved(byte) {
            out.push(byte.into());
        } else {
            out.push('%');
            out.push(HEX[usize::from(byte >> 4)].into());
            out.push(HEX[usize::from(byte & 15)].into());
        }
    }
}

/// Decodes `text` once: what comes out is never decoded again. `None` if a `%` is not followed by two hexadecimal
/// digits, or the result is not UTF-8.
pub(crate) fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let (high, low) = (digit(*rest.first()?)?, digit(*rest.get(1)?)?);
            out.push(high << 4 | low);
            rest = &rest[2..];
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

/// Whether every `%` of `text` begins an encoded byte.
pub(crate) fn is_encoded(text: &str) -> bool {
    text.split('%').skip(1).all(|after| {
        let mut digits = after.bytes().map(digit);
        matches!((digits.next(), digits.next()), (Some(Some(_)), Some(Some(_))))
    })
}

/// Letters, digits and four more (RFC 3986, section 2.3).
pub(crate) fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// Characters that delimit parts within a component (RFC 3986, section 2.2).
pub(crate) fn is_sub_delim(byte: u8) -> bool {
    b"!$&'()*+,;=".contains(&byte)
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn decodes_once_and_refuses_what_is_cut_off() {
        assert_eq!(decode("2001%3Adb8%3a%3A1").as_deref(), Some("2001:db8::1"));
        assert_eq!(decode("%2541").as_deref(), Some("%41"), "not a second time");
        for bad in ["%", "%4", "a%", "%4g", "%+1", "%%41", "%ff", "%e4%"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
        assert!(is_encoded("a%20b%3A") && !is_encoded("a%2") && !is_encoded("%zz"));
    }

    proptest! {
        #[test]
        fn round_trip(text in any::<String>()) {
            let mut encoded = String::new();
            encode(&text, &mut encoded);
            prop_assert!(is_encoded(&encoded) && encoded.bytes().all(|b| is_unreserved(b) || b == b'%'));
            prop_assert_eq!(decode(&encoded).unwrap(), text);
        }
    }
}
