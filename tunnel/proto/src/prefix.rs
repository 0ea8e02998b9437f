//! The few bytes that go before a UDP payload.

use std::ops::Deref;

use metra_core::wire::varint;

/// What goes on the wire before a UDP payload. Kept apart from it, so that the payload is not copied to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    bytes: [u8; Prefix::MAX],
    len: u8,
}

impl Prefix {
    /// Longest prefix there is: a quarter stream id of 8 bytes and the context id. Bytes.
    pub const MAX: usize = 9;

    pub(crate) fn new() -> Self {
        Self { bytes: [0; Self::MAX], len: 0 }
    }

    /// Appends a varint in its shortest form. Callers know that the value is below 2^62 and that there is room.
    pub(crate) fn and(mut self, value: u64) -> Self {
        let size = varint::len(value);
        let at = usize::from(self.len);
        self.bytes[at..at + size].copy_from_slice(&value.to_be_bytes()[8 - size..]);
        self.bytes[at] |= (size.trailing_zeros() as u8) << 6;
        self.len += size as u8;
        self
    }
}

impl Deref for Prefix {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl AsRef<[u8]> for Prefix {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_are_those_of_the_core() {
        for value in [0, 0x3f, 0x40, 0x3fff, 0x4000, 0x3fff_ffff, 0x4000_0000, varint::MAX] {
            let mut expected = Vec::new();
            varint::put(value, &mut expected);
            assert_eq!(&*Prefix::new().and(value), expected);
        }
    }
}
