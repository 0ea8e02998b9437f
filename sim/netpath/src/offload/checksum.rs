//! The Internet checksum, RFC 1071.

/// The one's complement sum of the bytes, from a sum of words: 0xffff where a right checksum is among them.
pub(super) fn sum(bytes: &[u8], from: u64) -> u16 {
    // Sums can be made in any byte order and of wider words (section 2).
    let words = bytes.chunks_exact(4);
    let mut rest = [0; 4];
    rest[..words.remainder().len()].copy_from_slice(words.remainder());
    let word = |word: &[u8]| u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    let sum = words.map(word).sum::<u64>() + word(&rest);
    fold(u64::from(u16::from_be(fold(sum))) + from)
}

/// The sum of the pseudo header of TCP or UDP: addresses, protocol, and the length of TCP or UDP (RFC 9293 section 3.1,
/// RFC 768).
pub(super) fn pseudo(addresses: &[u8], protocol: u8, len: usize) -> u16 {
    sum(addresses, u64::from(protocol) + len as u64)
}

/// Puts the checksum into an IPv4 header.
pub(super) fn set_ip(header: &mut [u8]) {
    header[10..12].fill(0);
    let checksum = !sum(header, 0);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
