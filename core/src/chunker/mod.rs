//! Where chunks end.
//!
//! Two rules, both deterministic, so that the same content gives the same chunks on every machine and in every
//! attempt:
//!
//! - [`Cutter`] cuts the bytes of a large file or stream by content (FastCDC, "The Design of Fast Content-Defined
//!   Chunking for Data Deduplication Based Storage Systems", 2020), so that an insertion changes the chunks around
//!   it and no others.
//! - [`PackCut`] cuts a run of small files by name and size alone, so that it is known without reading which files
//!   share a chunk, and so that an edit of one file changes one pack.
//!
//! Not here: reading, hashing of file chunks, and the wire. Nothing here keeps data.

mod gear;

use std::sync::OnceLock;

use fastcdc::v2020::{Normalization, select_masks};

use crate::id::{ChunkHash, Digest};
use crate::limits::{CHUNK_AVG, CHUNK_MAX, CHUNK_MIN};

/// Most bytes of files in one pack, unless a single file is larger.
pub const PACK_MAX: u64 = 2 * 1024 * 1024;
/// Most files in one pack.
pub const PACK_FILES_MAX: u64 = 1024;

/// Cuts content into chunks of `CHUNK_MIN..=CHUNK_MAX` bytes, about `CHUNK_AVG` on average; only the last chunk of
/// a file may be shorter.
///
/// A cut depends on nothing before the previous cut. Cutting can therefore start again at any cut, after a crash or
/// from a manifest of which only the beginning is known.
#[derive(Clone, Copy, Debug)]
pub struct Cutter {
    /// Judges bytes before the average size: one bit stricter than the average asks for.
    strict: u64,
    /// Judges bytes after it: one bit laxer.
    lax: u64,
}

impl Default for Cutter {
    fn default() -> Self {
        Self::new()
    }
}

impl Cutter {
    /// The only cutter there is: its parameters are part of what a manifest means.
    pub fn new() -> Self {
        let (strict, lax) = select_masks(CHUNK_AVG, Normalization::Level1);
        Self { strict, lax }
    }

    /// Length of the chunk that begins at `data[0]`.
    ///
    /// `last` says that nothing follows `data`. `None`: more data is needed; this happens only with less than
    /// `CHUNK_MAX` bytes at hand and `last` not set, or with no data at all.
    pub fn cut(&self, data: &[u8], last: bool) -> Option<usize> {
        self.cut_beyond(data, 0, last)
    }

    /// As [`cut`](Self::cut), for data of which the first `searched` bytes were at hand before, and had no cut in them.
    pub fn cut_beyond(&self, data: &[u8], searched: usize, last: bool) -> Option<usize> {
        let end = data.len().min(CHUNK_MAX);
        // The algorithm looks at two bytes at a time: at the end one may be left over.
        let pairs = end - end % 2;
        let bend = pairs.min(CHUNK_AVG);
        let from = searched.min(end);
        let from = (from - from % 2).max(CHUNK_MIN);
        let look = |from: usize, to, mask| {
            (from < to).then(|| gear::find(data, CHUNK_MIN, from, to, mask)).flatten()
        };
        let found = look(from, bend, self.strict).or_else(|| look(from.max(bend), pairs, self.lax));
        // A cut that was found does not depend on what comes after it. "None found" is an answer only if there is no
        // more data, or may be none.
        found.or_else(|| (!data.is_empty() && (last || end == CHUNK_MAX)).then_some(end))
    }
}

/// The hash of `CHUNK_MAX` zero bytes: what [`Cutter`] makes of a hole. Known without reading one.
pub fn zero_chunk_hash() -> ChunkHash {
    static HASH: OnceLock<ChunkHash> = OnceLock::new();
    *HASH.get_or_init(|| Digest::of(&vec![0; CHUNK_MAX]))
}

/// Decides where a run of small files is cut into packs.
///
/// A file weighs its size, or 2 KiB if it is smaller. A pack ends after a file when it weighs at least `CHUNK_MIN`
/// and a hash of the file's path falls below a bound that is proportional to the file's weight. The expected weight
/// of a pack is thus the same (about 1 MiB) for files of any size, and the cuts after an inserted, removed or resized
/// file are soon where they were before. A pack also ends before it would hold more than [`PACK_MAX`] bytes or
/// [`PACK_FILES_MAX`] files.
#[derive(Clone, Debug, Default)]
pub struct PackCut {
    weight: u64,
}

impl PackCut {
    /// An empty pack.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the pack must end before a file of `size` bytes is added.
    pub fn ends_before(&self, size: u64) -> bool {
        self.weight > 0 && self.weight + weight(size) > PACK_MAX
    }

    /// Adds a file that is not empty. Returns whether the pack ends after it; the next file begins a new one.
    pub fn add(&mut self, path: &str, size: u64) -> bool {
        let weight = weight(size);
        self.weight += weight;
        let ends = self.weight >= PACK_MAX || (self.weight >= CHUNK_MIN as u64 && lot(path) < odds(weight));
        if ends {
            self.weight = 0;
        }
        ends
    }

    /// Ends the pack for a reason of the caller's: a large file follows, or nothing does.
    pub fn end(&mut self) {
        self.weight = 0;
    }
}

/// No file weighs less, which bounds the number of files in a pack.
const WEIGHT_MIN: u64 = PACK_MAX / PACK_FILES_MAX;

fn weight(size: u64) -> u64 {
    size.max(WEIGHT_MIN)
}

/// One cut is expected per this many bytes once a pack weighs `CHUNK_MIN`.
const PACK_SPACING: u64 = (CHUNK_AVG - CHUNK_MIN) as u64;

/// The share of all lots, as a bound below 2^32, that ends a pack after a file of this weight.
fn odds(weight: u64) -> u64 {
    (weight.min(PACK_SPACING) << 32) / PACK_SPACING
}

/// A number below 2^32, drawn by the path.
fn lot(path: &str) -> u64 {
    let hash = blake3::hash(path.as_bytes());
    let bytes = hash.as_bytes();
    u64::from(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn noise(len: usize, mut state: u64) -> Vec<u8> {
        (0..len.div_ceil(8))
            .flat_map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state ^ (state >> 29)).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()
            })
            .take(len)
            .collect()
    }

    fn cuts(data: &[u8]) -> Vec<usize> {
        let cutter = Cutter::new();
        let mut at = 0;
        let mut all = Vec::new();
        while let Some(len) = cutter.cut(&data[at..], true) {
            at += len;
            all.push(at);
        }
        all
    }

    /// Feeds the data in pieces, the way a reader gets them.
    fn cuts_piecewise(data: &[u8], piece: usize) -> Vec<usize> {
        let cutter = Cutter::new();
        let (mut at, mut have) = (0, 0);
        let mut all = Vec::new();
        while at < data.len() {
            match cutter.cut(&data[at..have], have == data.len()) {
                Some(len) => {
                    at += len;
                    all.push(at);
                }
                None => have = (have + piece).min(data.len()),
            }
        }
        all
    }

    #[test]
    fn chunks_keep_their_limits_and_average() {
        let data = noise(64 << 20, 1);
        let all = cuts(&data);
        assert_eq!(*all.last().unwrap(), data.len());
        let lengths: Vec<usize> =
            all.iter().scan(0, |from, to| Some(to - std::mem::replace(from, *to))).collect();
        let (last, others) = lengths.split_last().unwrap();
        assert!(*last <= CHUNK_MAX);
        assert!(others.iter().all(|l| (CHUNK_MIN..=CHUNK_MAX).contains(l)), "{others:?}");
        let average = data.len() / lengths.len();
        assert!((CHUNK_AVG * 2 / 3..CHUNK_AVG * 3 / 2).contains(&average), "{average}");
    }

    #[test]
    fn the_crate_cuts_the_same() {
        // Pins the parameters: an upgrade of the crate that moves cuts would make every old manifest a stranger.
        let data = noise(16 << 20, 7);
        let crates: Vec<usize> = fastcdc::v2020::FastCDC::new(&data, CHUNK_MIN, CHUNK_AVG, CHUNK_MAX)
            .map(|c| c.offset + c.length)
            .collect();
        let all = cuts(&data);
        assert_eq!(all, crates);
        assert_eq!(all[..4], PINNED, "cuts of a fixed input moved");
    }

    const PINNED: [usize; 4] = [1_080_629, 3_009_551, 4_104_506, 4_697_844];

    #[test]
    fn a_search_goes_on_where_it_stopped() {
        let data = noise(9 << 20, 11);
        let cutter = Cutter::new();
        let whole = cutter.cut(&data, true);
        for piece in [1001, 64 * 1024, 300_000] {
            let (mut searched, mut have) = (0, 0);
            let cut = loop {
                have = (have + piece).min(data.len());
                match cutter.cut_beyond(&data[..have], searched, false) {
                    None => searched = have,
                    cut => break cut,
                }
            };
            assert_eq!(cut, whole, "{piece}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn one_cut_is_the_crates(seed: u64, len in 1..CHUNK_MAX + 9, quiet in 0..CHUNK_MAX) {
            // With a stretch in which nothing can be found, so that cuts come late, too.
            let mut data = noise(len, seed);
            let quiet = quiet.min(len);
            data[..quiet].fill(0);
            let (strict, lax) = select_masks(CHUNK_AVG, Normalization::Level1);
            let (_, expected) = fastcdc::v2020::cut(
                &data, CHUNK_MIN, CHUNK_AVG, CHUNK_MAX, strict, lax, strict << 1, lax << 1,
            );
            prop_assert_eq!(Cutter::new().cut(&data, true), Some(expected));
        }
    }

    #[test]
    fn cutting_restarts_at_any_cut() {
        let data = noise(24 << 20, 2);
        let all = cuts(&data);
        for (i, at) in all.iter().enumerate() {
            let again: Vec<usize> = cuts(&data[*at..]).iter().map(|c| c + at).collect();
            assert_eq!(again, all[i + 1..]);
        }
    }

    #[test]
    fn an_insertion_moves_few_cuts() {
        let mut data = noise(24 << 20, 3);
        let before = cuts(&data);
        data.splice(5_000_000..5_000_000, *b"seven..");
        let after = cuts(&data);
        let kept = after.iter().filter(|c| before.contains(c) || before.contains(&(*c - 7))).count();
        assert!(kept + 3 >= before.len(), "{kept} of {}", before.len());
    }

    #[test]
    fn zeros_are_cut_at_the_maximum() {
        let zeros = vec![0; CHUNK_MAX + 100];
        let cutter = Cutter::new();
        assert_eq!(cutter.cut(&zeros, false), Some(CHUNK_MAX));
        assert_eq!(cutter.cut(&zeros, true), Some(CHUNK_MAX));
        assert_eq!(cutter.cut(&zeros[..CHUNK_MAX], false), Some(CHUNK_MAX));
        assert_eq!(cutter.cut(&zeros[..CHUNK_MAX - 1], false), None);
        assert_eq!(cutter.cut(&zeros[..CHUNK_MAX - 1], true), Some(CHUNK_MAX - 1));
        assert_eq!(zero_chunk_hash(), Digest::of(&zeros[..CHUNK_MAX]));
    }

    #[test]
    fn nothing_gives_no_chunk() {
        assert_eq!(Cutter::new().cut(&[], true), None);
        assert_eq!(Cutter::new().cut(&[], false), None);
        assert_eq!(Cutter::new().cut(b"x", true), Some(1));
        assert_eq!(Cutter::new().cut(&[1; CHUNK_MIN], false), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn pieces_do_not_matter(seed in any::<u64>(), len in 1usize..8_000_000, piece in 50_000usize..3_000_000) {
            let data = noise(len, seed);
            prop_assert_eq!(cuts_piecewise(&data, piece), cuts(&data));
        }
    }

    /// A path and a size.
    type Listed = (String, u64);

    /// Splits a list of files into packs.
    fn packs(files: &[Listed]) -> Vec<Vec<Listed>> {
        let mut cut = PackCut::new();
        let mut all = vec![Vec::new()];
        for (path, size) in files {
            if cut.ends_before(*size) {
                cut.end();
                all.push(Vec::new());
            }
            all.last_mut().unwrap().push((path.clone(), *size));
            if cut.add(path, *size) {
                all.push(Vec::new());
            }
        }
        all.retain(|p| !p.is_empty());
        all
    }

    fn files(count: usize, size: impl Fn(usize) -> u64) -> Vec<Listed> {
        (0..count).map(|i| (format!("dir/file-{i:06}.dat"), size(i))).collect()
    }

    #[test]
    fn packs_keep_their_limits() {
        for size in [1, 100, 2048, 10 << 10, 60 << 10, CHUNK_MIN as u64 - 1] {
            let files = files(20_000, |_| size);
            let all = packs(&files);
            assert_eq!(all.concat(), files);
            for pack in &all {
                assert!(pack.len() as u64 <= PACK_FILES_MAX);
                assert!(pack.iter().map(|f| f.1).sum::<u64>() <= PACK_MAX);
            }
        }
    }

    #[test]
    fn packs_of_small_files_are_about_a_mebibyte() {
        for size in [2 << 10, 10 << 10, 50 << 10] {
            let all = packs(&files(40_000, |_| size));
            let average = 40_000 * size / all.len() as u64;
            assert!((700 << 10..1200 << 10).contains(&average), "{size}: {average}");
        }
        let tiny = packs(&files(100_000, |_| 10));
        assert!((300..700).contains(&(100_000 / tiny.len())), "{}", tiny.len());
    }

    #[test]
    fn a_change_of_one_file_changes_few_packs() {
        for size in [10, 10 << 10] {
            let before = files(20_000, |i| size + (i as u64 * 7919) % size);
            let old = packs(&before);
            let changed = |edit: &dyn Fn(&mut Vec<Listed>)| {
                let mut after = before.clone();
                edit(&mut after);
                packs(&after).into_iter().filter(|p| !old.contains(p)).count()
            };
            assert!(changed(&|f| f.insert(5000, ("dir/file-004999a".into(), size))) <= 8);
            assert!(changed(&|f| drop(f.remove(7000))) <= 8);
            assert!(changed(&|f| f[9000].1 += 1) <= 8);
        }
    }
}
