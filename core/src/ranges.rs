//! Sets of chunk indexes, as ranges and as bitmaps.

use std::ops::Range;

use crate::id::ChunkIndex;
use crate::limits::CHUNKS_MAX;

/// `count` chunks from `first` on; `count` is at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IndexRange {
    /// The first.
    pub first: ChunkIndex,
    /// How many.
    pub count: u32,
}

impl IndexRange {
    /// The indexes as plain numbers. Ends at `u32::MAX` if the range would pass it.
    pub fn indexes(self) -> Range<u32> {
        self.first.0..self.first.0.saturating_add(self.count)
    }
}

/// Appends one chunk to a list of ranges: extends the last range if the chunk follows it, else starts a new one.
pub fn push_index(ranges: &mut Vec<IndexRange>, chunk: ChunkIndex) {
    match ranges.last_mut() {
        Some(last) if last.first.0.checked_add(last.count) == Some(chunk.0) => last.count += 1,
        _ => ranges.push(IndexRange { first: chunk, count: 1 }),
    }
}

/// A set of chunk indexes below [`CHUNKS_MAX`]: one bit each, as many as the highest one in it needs (at most
/// 500 kB). An index at or above the limit is never in the set, and inserting it does nothing.
#[derive(Clone, Debug, Default)]
pub struct IndexSet {
    bits: Bits,
}

impl IndexSet {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a chunk; whether it was not in the set before.
    pub fn insert(&mut self, chunk: ChunkIndex) -> bool {
        chunk.0 < CHUNKS_MAX && self.bits.set(chunk.0)
    }

    /// Adds all chunks of a range.
    pub fn insert_range(&mut self, range: IndexRange) {
        let indexes = range.indexes();
        for index in indexes.start..indexes.end.min(CHUNKS_MAX) {
            self.bits.set(index);
        }
    }

    /// Takes a chunk out; whether it was in the set.
    pub fn remove(&mut self, chunk: ChunkIndex) -> bool {
        self.bits.clear(chunk.0)
    }

    /// Whether the chunk is in the set.
    pub fn contains(&self, chunk: ChunkIndex) -> bool {
        self.bits.get(chunk.0)
    }

    /// How many chunks are in the set.
    pub fn count(&self) -> u32 {
        self.bits.ones
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.bits.ones == 0
    }

    /// The lowest chunk at or above `from` that is not in the set; may be one that no manifest has.
    pub fn first_missing(&self, from: ChunkIndex) -> ChunkIndex {
        ChunkIndex(self.bits.next(from.0, false).unwrap_or_else(|| from.0.max(self.bits.len())))
    }

    /// The set as maximal ranges, ascending: no two of them touch.
    pub fn ranges(&self) -> impl Iterator<Item = IndexRange> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            let first = self.bits.next(at, true)?;
            let end = self.bits.next(first, false).unwrap_or_else(|| self.bits.len());
            at = end;
            Some(IndexRange { first: ChunkIndex(first), count: end - first })
        })
    }
}

impl PartialEq for IndexSet {
    fn eq(&self, other: &Self) -> bool {
        // By content: the one may have grown further and shrunk again.
        self.count() == other.count() && self.ranges().eq(other.ranges())
    }
}

impl Eq for IndexSet {}

/// A bitmap that grows. Callers bound the index.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bits {
    words: Vec<u64>,
    ones: u32,
}

impl Bits {
    /// Sets a bit; whether it was clear.
    pub(crate) fn set(&mut self, index: u32) -> bool {
        let (word, mask) = place(index);
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let fresh = self.words[word] & mask == 0;
        self.words[word] |= mask;
        self.ones += u32::from(fresh);
        fresh
    }

    /// Clears a bit; whether it was set.
    pub(crate) fn clear(&mut self, index: u32) -> bool {
        let was = self.get(index);
        if was {
            let (word, mask) = place(index);
            self.words[word] &= !mask;
            self.ones -= 1;
        }
        was
    }

    /// Whether a bit is set.
    pub(crate) fn get(&self, index: u32) -> bool {
        let (word, mask) = place(index);
        self.words.get(word).is_some_and(|w| w & mask != 0)
    }

    /// How many are set.
    pub(crate) fn ones(&self) -> u32 {
        self.ones
    }

    /// Bytes allocated.
    pub(crate) fn memory(&self) -> usize {
        self.words.capacity() * size_of::<u64>()
    }

    fn len(&self) -> u32 {
        self.words.len() as u32 * 64
    }

    /// The first bit at or after `from` with this value, within the words allocated.
    fn next(&self, from: u32, value: bool) -> Option<u32> {
        let (start, _) = place(from);
        let mut below = !0u64 << (from % 64);
        for (i, word) in self.words.iter().enumerate().skip(start) {
            let hits = (if value { *word } else { !*word }) & below;
            if hits != 0 {
                return Some(i as u32 * 64 + hits.trailing_zeros());
            }
            below = !0;
        }
        None
    }
}

fn place(index: u32) -> (usize, u64) {
    ((index / 64) as usize, 1 << (index % 64))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn range(first: u32, count: u32) -> IndexRange {
        IndexRange { first: ChunkIndex(first), count }
    }

    #[test]
    fn push_index_extends_or_starts() {
        let mut list = Vec::new();
        for i in [3, 4, 5, 7, 6, 7, u32::MAX] {
            push_index(&mut list, ChunkIndex(i));
        }
        assert_eq!(list, [range(3, 3), range(7, 1), range(6, 2), range(u32::MAX, 1)]);
    }

    #[test]
    fn limit_of_the_set() {
        let mut set = IndexSet::new();
        assert!(set.insert(ChunkIndex(CHUNKS_MAX - 1)));
        assert!(!set.insert(ChunkIndex(CHUNKS_MAX)));
        assert!(!set.insert(ChunkIndex(u32::MAX)));
        set.insert_range(range(CHUNKS_MAX - 2, u32::MAX));
        assert_eq!(set.ranges().collect::<Vec<_>>(), [range(CHUNKS_MAX - 2, 2)]);
        assert!(set.bits.memory() <= 1 << 20);
    }

    #[test]
    fn first_missing_past_the_end() {
        let mut set = IndexSet::new();
        assert_eq!(set.first_missing(ChunkIndex(5)), ChunkIndex(5));
        set.insert_range(range(0, 64));
        assert_eq!(set.first_missing(ChunkIndex(0)), ChunkIndex(64));
        assert_eq!(set.first_missing(ChunkIndex(1000)), ChunkIndex(1000));
        set.remove(ChunkIndex(10));
        assert_eq!(set.first_missing(ChunkIndex(0)), ChunkIndex(10));
        assert_eq!(set.first_missing(ChunkIndex(11)), ChunkIndex(64));
    }

    proptest! {
        #[test]
        fn behaves_as_a_set(ops in prop::collection::vec((any::<bool>(), 0u32..200, 1u32..70), 0..60)) {
            let mut set = IndexSet::new();
            let mut model = BTreeSet::new();
            for (insert, first, count) in ops {
                if insert {
                    set.insert_range(range(first, count));
                    model.extend(first..first + count);
                } else {
                    prop_assert_eq!(set.remove(ChunkIndex(first)), model.remove(&first));
                }
            }
            prop_assert_eq!(set.count() as usize, model.len());
            prop_assert!((0..300).all(|i| set.contains(ChunkIndex(i)) == model.contains(&i)));
            let mut expected = Vec::new();
            model.iter().for_each(|i| push_index(&mut expected, ChunkIndex(*i)));
            prop_assert_eq!(set.ranges().collect::<Vec<_>>(), expected.clone());
            for from in 0..300 {
                let missing = (from..).find(|i| !model.contains(i)).unwrap();
                prop_assert_eq!(set.first_missing(ChunkIndex(from)), ChunkIndex(missing));
            }
            let mut rebuilt = IndexSet::new();
            expected.into_iter().for_each(|r| rebuilt.insert_range(r));
            prop_assert_eq!(rebuilt, set);
        }
    }
}
