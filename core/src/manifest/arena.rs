//! Encoded records, one after the other, in blocks, so that a large manifest is never copied to grow. No record lies
//! in two blocks.

use super::Record;

/// Where a record starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(u32);

/// Append-only store of encoded records.
#[derive(Debug, Default)]
pub(super) struct Arena {
    blocks: Vec<Vec<u8>>,
    /// Bytes allocated in all blocks.
    allocated: usize,
    records: u64,
    /// Where every [`STRIDE`]th record starts.
    marks: Vec<Place>,
}

impl Arena {
    /// Appends one encoded record of at most [`Record::ENCODED_MAX`] bytes; `None` if there are too many blocks.
    pub(super) fn push(&mut self, record: &[u8]) -> Option<Place> {
        let growth = self.growth(record.len());
        if !self.fits(record.len()) {
            if self.blocks.len() == BLOCKS_MAX {
                return None;
            }
            self.blocks.push(Vec::new());
        }
        let number = self.blocks.len() - 1;
        let block = &mut self.blocks[number];
        block.reserve_exact(block.capacity() + growth - block.len());
        self.allocated += growth;
        let place = Place((number * BLOCK + block.len()) as u32);
        block.extend_from_slice(record);
        if self.records.is_multiple_of(STRIDE) {
            self.marks.push(place);
        }
        self.records += 1;
        Some(place)
    }

    /// The bytes from a record's start to the end of its block.
    pub(super) fn from(&self, place: Place) -> &[u8] {
        let place = place.0 as usize;
        &self.blocks[place / BLOCK][place % BLOCK..]
    }

    /// The records from number `from` on.
    pub(super) fn replay(&self, from: u64) -> impl Iterator<Item = Record> + '_ {
        let mark = usize::try_from(from / STRIDE).ok().and_then(|i| self.marks.get(i));
        let mut block = mark.map_or(self.blocks.len(), |place| place.0 as usize / BLOCK);
        let mut rest = mark.map_or(&[][..], |place| self.from(*place));
        let records = std::iter::from_fn(move || {
            while rest.is_empty() {
                block += 1;
                rest = self.blocks.get(block)?;
            }
            Some(Record::decode(&mut rest).expect("invariant: the arena holds what was encoded"))
        });
        records.skip((from % STRIDE) as usize)
    }

    /// Bytes allocated.
    pub(super) fn memory(&self) -> usize {
        self.allocated + self.marks.capacity() * size_of::<Place>()
    }

    /// Bytes that blocks would take more, were a record of this length pushed.
    pub(super) fn growth(&self, len: usize) -> usize {
        let (used, capacity) = match self.blocks.last() {
            Some(block) if self.fits(len) => (block.len(), block.capacity()),
            _ => (0, 0),
        };
        if used + len <= capacity {
            return 0;
        }
        (capacity * 2).max(used + len).clamp(BLOCK_FIRST, BLOCK) - capacity
    }

    fn fits(&self, len: usize) -> bool {
        self.blocks.last().is_some_and(|block| block.len() + len <= BLOCK)
    }
}

/// Most bytes in a block.
const BLOCK: usize = 1 << 18;

/// What a block starts with.
const BLOCK_FIRST: usize = 1 << 12;

/// Most blocks that a [`Place`] can name.
const BLOCKS_MAX: usize = (1 << 32) / BLOCK;

/// Records between two marks.
const STRIDE: u64 = 64;
