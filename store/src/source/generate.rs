//! Content without a disk: zeros, and bytes that do not compress.

use std::sync::OnceLock;

use bytes::Bytes;
use metra_core::limits::CHUNK_MAX;

/// Scrambles 64 bits, one to one (the finalizer of SplitMix64, Steele, Lea and Flood 2014).
pub(super) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Appends `len` bytes of the sequence that `seed` chooses, from `offset` on. Any part of the sequence can be had
/// without what comes before it.
pub(super) fn random(seed: u64, offset: u64, len: usize, out: &mut Vec<u8>) {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let seed = mix(seed.wrapping_add(STEP));
    let word = |i: u64| mix(seed.wrapping_add(i.wrapping_mul(STEP))).to_le_bytes();
    let start = out.len();
    out.resize(start + len, 0);
    let (head, words) = out[start..].split_at_mut(len.min((offset.wrapping_neg() % 8) as usize));
    let first = word(offset / 8);
    let skip = (offset % 8) as usize;
    head.copy_from_slice(&first[skip..][..head.len()]);
    let mut at = offset.div_ceil(8);
    let mut words = words.chunks_exact_mut(8);
    for slot in &mut words {
        slot.copy_from_slice(&word(at));
        at += 1;
    }
    let tail = words.into_remainder();
    let last = word(at);
    tail.copy_from_slice(&last[..tail.len()]);
}

/// `len` zero bytes, at most `CHUNK_MAX`, shared by all callers.
pub(super) fn zeros(len: usize) -> Bytes {
    static ZEROS: OnceLock<Bytes> = OnceLock::new();
    ZEROS.get_or_init(|| Bytes::from(vec![0; CHUNK_MAX])).slice(..len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_part_is_the_same_as_in_the_whole() {
        let mut whole = Vec::new();
        random(5, 0, 1000, &mut whole);
        assert_eq!(whole.len(), 1000);
        for (offset, len) in [(0, 1), (3, 2), (3, 5), (3, 20), (8, 8), (17, 100), (999, 1), (7, 0)] {
            let mut part = vec![0xee];
            random(5, offset as u64, len, &mut part);
            assert_eq!(part[1..], whole[offset..offset + len], "{offset} {len}");
        }
        let mut other = Vec::new();
        random(6, 0, 1000, &mut other);
        assert_ne!(whole, other);
    }

    #[test]
    fn every_byte_value_is_about_as_frequent() {
        let mut bytes = Vec::new();
        random(1, 0, 256 * 1000, &mut bytes);
        let mut counts = [0u32; 256];
        bytes.iter().for_each(|b| counts[*b as usize] += 1);
        assert!(counts.iter().all(|c| (800..1200).contains(c)));
    }
}
