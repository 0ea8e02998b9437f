//! The header field `Capsule-Protocol` (RFC 9297, section 3.4): says that the stream carries capsules.

use crate::fields::{Bare, Reader};

/// Name of the field.
pub const NAME: &str = "capsule-protocol";
/// What is sent, with a request and with a successful response; never with another one (RFC 9297, section 3.4).
pub const ON: &str = "?1";

/// Whether the field says that capsules are used. `lines` are the values of all its lines. Parameters are ignored; what
/// is no Boolean, or comes more than once, counts as absent.
pub fn is_on<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> bool {
    let mut lines = lines.into_iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return false };
    let mut reader = Reader::new(line);
    reader.bare() == Some(Bare::Boolean(true)) && reader.parameters(|_, _| ()).is_some() && reader.is_done()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(line: &str) -> bool {
        is_on([line.as_bytes()])
    }

    #[test]
    fn rfc9297_3_4_a_true_value_with_or_without_parameters() {
        assert!(on(ON) && on(" ?1 ") && on("?1;a") && on("?1; a=1;b=\"x, y\";c=?0"));
    }

    #[test]
    fn rfc9297_3_4_anything_but_a_true_value_counts_as_absent() {
        for line in [
            "", "?0", "1", "true", "\"?1\"", "?1,", "?1, ?1", "?1;", "?1;A=1", "?1 x", "(?1)", "?", "?1;a=",
            "\u{1}",
        ] {
            assert!(!on(line), "{line}");
        }
        assert!(!is_on([]));
        assert!(!is_on([b"?1".as_slice(), b"?1"]), "more than one line is a List");
    }
}
