//! Variable-length integers of RFC 9000, section 16.
//!
//! The two highest bits of the first byte say how many bytes there are (1, 2, 4 or 8), the rest is the number in
//! network byte order. The encoder uses the shortest form. [`take`] accepts every form, as section 16 allows;
//! [`take_shortest`] accepts only the shortest, where the bytes themselves are hashed or signed.

/// The largest number that can be encoded: 2^62 - 1.
pub const MAX: u64 = (1 << 62) - 1;

/// Bytes that `value` needs: 1, 2, 4 or 8.
pub const fn len(value: u64) -> usize {
    match value {
        0..=0x3f => 1,
        0x40..=0x3fff => 2,
        0x4000..=0x3fff_ffff => 4,
        _ => 8,
    }
}

/// Appends `value` in its shortest form.
///
/// # Panics
/// If `value` is larger than [`MAX`]. Numbers that a peer may choose freely never come here unchecked.
pub fn put(value: u64, out: &mut Vec<u8>) {
    assert!(value <= MAX, "invariant: numbers on the wire are below 2^62");
    let bytes = value.to_be_bytes();
    let size = len(value);
    let at = out.len();
    out.extend_from_slice(&bytes[8 - size..]);
    out[at] |= (size.trailing_zeros() as u8) << 6;
}

/// Takes a number off the front of `input`; `None`, and `input` as it was, if there are not enough bytes.
pub fn take(input: &mut &[u8]) -> Option<u64> {
    let first = *input.first()?;
    let size = 1usize << (first >> 6);
    let (bytes, rest) = input.split_at_checked(size)?;
    let value = bytes[1..].iter().fold(u64::from(first & 0x3f), |v, b| v << 8 | u64::from(*b));
    *input = rest;
    Some(value)
}

/// As [`take`], and `None` as well if the form is not the shortest one.
pub fn take_shortest(input: &mut &[u8]) -> Option<u64> {
    let mut rest = *input;
    let value = take(&mut rest)?;
    if input.len() - rest.len() != len(value) {
        return None;
    }
    *input = rest;
    Some(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_sides_of_each_length() {
        for (value, size) in [
            (0, 1),
            (0x3f, 1),
            (0x40, 2),
            (0x3fff, 2),
            (0x4000, 4),
            (0x3fff_ffff, 4),
            (0x4000_0000, 8),
            (MAX, 8),
        ] {
            let mut out = Vec::new();
            put(value, &mut out);
            assert_eq!((out.len(), len(value)), (size, size), "{value:#x}");
            assert_eq!(take(&mut out.as_slice()), Some(value));
        }
    }

    #[test]
    #[should_panic(expected = "below 2^62")]
    fn too_large_a_number_is_a_bug_here() {
        put(MAX + 1, &mut Vec::new());
    }

    #[test]
    fn longer_forms_are_read_but_not_as_shortest() {
        // RFC 9000, A.1: "the two-byte sequence 0x4025 also decodes to 37".
        assert_eq!(take(&mut &[0x40, 0x25][..]), Some(37));
        assert_eq!(take_shortest(&mut &[0x40, 0x25][..]), None);
        assert_eq!(take_shortest(&mut &[0x25][..]), Some(37));
    }

    proptest! {
        #[test]
        fn round_trip(value in 0..=MAX, tail in any::<[u8; 3]>()) {
            let mut out = Vec::new();
            put(value, &mut out);
            for cut in 0..out.len() {
                prop_assert_eq!(take(&mut &out[..cut]), None);
            }
            out.extend(tail);
            let mut input = out.as_slice();
            prop_assert_eq!(take_shortest(&mut input), Some(value));
            prop_assert_eq!(input, &tail[..]);
        }
    }
}
