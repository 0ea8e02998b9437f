//! One manifest in memory: checked as it grows, compact, and readable in any place.
//!
//! The records are kept as they are encoded, one after the other in blocks; beside them stand eight bytes for each
//! entry and sixteen for each chunk. A million entries with paths of 60 bytes take about 100 MB. Source and sink use
//! the same ledger, so what the one may say is what the other accepts.

use std::ops::Range;

use super::arena::{Arena, Place};
use super::record::Content;
use super::{Entry, EntryKind, Record, TreeBuilder, root};
use crate::id::{ChunkHash, ChunkIndex, Digest, EntryIndex};
use crate::limits::{CHUNK_MAX, CHUNKS_MAX, ENTRIES_MAX};
use crate::ranges::Bits;
use crate::wire::varint;

/// How large a manifest may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerLimits {
    /// Entries.
    pub entries: u32,
    /// Chunks.
    pub chunks: u32,
    /// Memory for all of it, in bytes.
    pub bytes: usize,
}

impl Default for LedgerLimits {
    fn default() -> Self {
        Self { entries: ENTRIES_MAX, chunks: CHUNKS_MAX, bytes: 512 << 20 }
    }
}

/// Why a record was refused. The ledger is as it was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// The record may not stand here, or is not valid. Fault: the source.
    #[error("manifest: {0}")]
    Grammar(&'static str),
    /// More entries than allowed. Fault: whoever chose the files, or the limit.
    #[error("manifest: more entries than allowed")]
    TooManyEntries,
    /// More chunks than allowed. Fault: whoever chose the files, or the limit.
    #[error("manifest: more chunks than allowed")]
    TooManyChunks,
    /// More memory than allowed. Fault: whoever chose the files, or the limit.
    #[error("manifest: needs more memory than allowed")]
    TooMuchMemory,
}

/// What a record became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// This entry.
    Entry(EntryIndex),
    /// This chunk.
    Chunk(ChunkIndex),
    /// This stream is complete.
    StreamEnd(EntryIndex),
    /// This entry is void.
    Withdrawn(EntryIndex),
}

/// One chunk of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkInfo {
    /// Bytes.
    pub len: u32,
    /// BLAKE3 of them.
    pub hash: ChunkHash,
    /// The entry that the chunk's first byte belongs to.
    pub first_entry: EntryIndex,
    /// Where that byte is in the entry; 0 for packs.
    pub offset: u64,
    /// Whether the chunk holds whole small files rather than a part of a large one.
    pub packed: bool,
}

/// A part of a chunk that belongs to one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The entry.
    pub entry: EntryIndex,
    /// Where the part starts in the entry, in bytes.
    pub offset: u64,
    /// Bytes.
    pub len: u32,
    /// Where the part starts in the chunk, in bytes.
    pub at: u32,
}

/// A manifest that grows record by record.
#[derive(Debug)]
pub struct Ledger {
    limits: LedgerLimits,
    state: State,
    arena: Arena,
    tree: TreeBuilder,
    entries: Vec<EntryRow>,
    chunks: Vec<ChunkRow>,
    /// Sizes of the streams that ended, ascending by entry.
    streams: Vec<(EntryIndex, u64)>,
    withdrawn: Bits,
    bytes: u64,
    chunk_bytes: u64,
}

/// What is open. Every record is judged by it alone.
///
/// ```text
///            small file                  large file, stream
///   Pack <---------------- Idle -----------------------------> Large
///    | ^ small file         ^                                   | ^ chunk
///    | '-'                  |                                   | '-'
///    '--- chunk: all of it -'--- last chunk, stream end, its withdrawal
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    /// Small files from `first` on, `len` bytes in all, wait for their chunk.
    Pack {
        first: EntryIndex,
        len: u32,
    },
    /// A large file, `done` bytes of it in chunks; a stream has no size.
    Large {
        entry: EntryIndex,
        done: u64,
        size: Option<u64>,
    },
}

#[derive(Clone, Copy, Debug)]
struct EntryRow {
    record: Place,
    /// The next chunk when the entry came, which is its first chunk if it has any.
    next_chunk: u32,
}

#[derive(Clone, Copy, Debug)]
struct ChunkRow {
    offset: u64,
    record: Place,
    first_entry: EntryIndex,
}

impl Ledger {
    /// An empty manifest.
    pub fn new(limits: LedgerLimits) -> Self {
        Self {
            limits,
            state: State::Idle,
            arena: Arena::default(),
            tree: TreeBuilder::new(),
            entries: Vec::new(),
            chunks: Vec::new(),
            streams: Vec::new(),
            withdrawn: Bits::default(),
            bytes: 0,
            chunk_bytes: 0,
        }
    }

    /// Adds a record at the end, if it may stand there. On error nothing has changed.
    pub fn push(&mut self, record: &Record) -> Result<Pushed, LedgerError> {
        record.validate().map_err(|_| LedgerError::Grammar("a field of the record is out of its range"))?;
        let (pushed, state, bytes) = self.judge(record)?;
        let mut encoded = Vec::with_capacity(record.encoded_len());
        record.encode(&mut encoded);
        if self.memory() + self.growth(record, encoded.len()) > self.limits.bytes {
            return Err(LedgerError::TooMuchMemory);
        }

        let place = self.arena.push(&encoded).ok_or(LedgerError::TooMuchMemory)?;
        self.tree.push(&encoded);
        match pushed {
            Pushed::Entry(_) => self.entries.push(EntryRow { record: place, next_chunk: self.chunks() }),
            Pushed::Chunk(_) => {
                let (first_entry, offset) = match self.state {
                    State::Large { entry, done, .. } => (entry, done),
                    State::Pack { first, .. } => (first, 0),
                    State::Idle => unreachable!("invariant: `judge` lets no chunk pass here"),
                };
                self.chunks.push(ChunkRow { offset, record: place, first_entry });
                if let Record::Chunk { len, .. } = record {
                    self.chunk_bytes += u64::from(*len);
                }
            }
            Pushed::StreamEnd(entry) => self.streams.push((entry, bytes - self.bytes)),
            Pushed::Withdrawn(entry) => {
                self.withdrawn.set(entry.0);
            }
        }
        self.state = state;
        self.bytes = bytes;
        Ok(pushed)
    }

    /// Records so far.
    pub fn records(&self) -> u64 {
        self.tree.leaves()
    }

    /// Entries so far, those withdrawn among them.
    pub fn entries(&self) -> u32 {
        self.entries.len() as u32
    }

    /// Chunks so far.
    pub fn chunks(&self) -> u32 {
        self.chunks.len() as u32
    }

    /// Sum of the sizes of the entries that are not withdrawn. A stream counts when it has ended.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Sum of the lengths of all chunks, those of withdrawn entries among them.
    pub fn chunk_bytes(&self) -> u64 {
        self.chunk_bytes
    }

    /// How many entries are withdrawn.
    pub fn withdrawn(&self) -> u32 {
        self.withdrawn.ones()
    }

    /// Whether the manifest could end here: no entry and no pack waits for a chunk.
    pub fn is_complete_so_far(&self) -> bool {
        self.state == State::Idle
    }

    /// The root over all records so far.
    ///
    /// # Errors
    /// [`LedgerError::Grammar`] if an entry or pack still waits for a chunk.
    pub fn finish(&self) -> Result<Digest, LedgerError> {
        if !self.is_complete_so_far() {
            return Err(LedgerError::Grammar("it ends while a file waits for its chunks"));
        }
        let (entries, chunks) = (u64::from(self.entries()), u64::from(self.chunks()));
        Ok(root(&self.tree, self.records(), entries, chunks, self.bytes))
    }

    /// An entry, also if it is withdrawn.
    pub fn entry(&self, entry: EntryIndex) -> Option<Entry> {
        let row = self.entries.get(entry.0 as usize)?;
        let decoded = Entry::decode(&mut self.arena.from(row.record));
        Some(decoded.expect("invariant: the arena holds what was encoded"))
    }

    /// Whether the entry exists and is withdrawn.
    pub fn is_withdrawn(&self, entry: EntryIndex) -> bool {
        self.withdrawn.get(entry.0)
    }

    /// Bytes of content, 0 for what is no file. `None`: no such entry, or a stream that has not ended.
    pub fn size_of(&self, entry: EntryIndex) -> Option<u64> {
        match self.content(entry)? {
            Content::Sized(size) => Some(size),
            Content::Stream => {
                let found = self.streams.binary_search_by_key(&entry, |(entry, _)| *entry).ok()?;
                Some(self.streams[found].1)
            }
        }
    }

    /// A chunk.
    pub fn chunk(&self, chunk: ChunkIndex) -> Option<ChunkInfo> {
        let row = self.chunks.get(chunk.0 as usize)?;
        let record = Record::decode(&mut self.arena.from(row.record));
        let Ok(Record::Chunk { len, hash }) = record else {
            unreachable!("invariant: a chunk's row points to its record")
        };
        let packed = !self.content(row.first_entry).is_some_and(Content::is_large);
        Some(ChunkInfo { len, hash, first_entry: row.first_entry, offset: row.offset, packed })
    }

    /// Where the bytes of a chunk belong, in order; nothing if there is no such chunk. Parts of withdrawn entries are
    /// among them, as the bytes are in the chunk all the same.
    pub fn segments(&self, chunk: ChunkIndex) -> impl Iterator<Item = Segment> + '_ {
        let info = self.chunk(chunk);
        let mut at = 0;
        let mut entry = info.map_or(0, |i| i.first_entry.0);
        std::iter::from_fn(move || {
            let info = info?;
            while at < info.len {
                let index = EntryIndex(entry);
                entry += 1;
                let len = match self.content(index)? {
                    _ if !info.packed => info.len,
                    // A large file or stream cannot stand within a run of small files.
                    Content::Sized(size) => size as u32,
                    Content::Stream => 0,
                };
                if len > 0 {
                    at += len;
                    return Some(Segment { entry: index, offset: info.offset, len, at: at - len });
                }
            }
            None
        })
    }

    /// The chunks that hold an entry's bytes, as far as they are known. A small file shares its chunk with others.
    pub fn chunks_of(&self, entry: EntryIndex) -> Range<u32> {
        let (Some(row), Some(content)) = (self.entries.get(entry.0 as usize), self.content(entry)) else {
            return 0..0;
        };
        let first = row.next_chunk;
        let end = match content {
            Content::Sized(0) => first,
            // Nothing else gets a chunk before a large file is complete, so the next entry tells where it ends.
            large if large.is_large() => {
                self.entries.get(entry.0 as usize + 1).map_or(self.chunks(), |next| next.next_chunk)
            }
            _ => self.chunks().min(first + 1),
        };
        first..end
    }

    /// The records from number `from` on, as they were pushed.
    pub fn replay(&self, from: u64) -> impl Iterator<Item = Record> + '_ {
        self.arena.replay(from)
    }

    /// Bytes allocated for this manifest.
    pub fn memory(&self) -> usize {
        self.arena.memory()
            + self.entries.capacity() * size_of::<EntryRow>()
            + self.chunks.capacity() * size_of::<ChunkRow>()
            + self.streams.capacity() * size_of::<(EntryIndex, u64)>()
            + self.withdrawn.memory()
    }

    /// What the record becomes, and what `state` and `bytes` are after it.
    fn judge(&self, record: &Record) -> Result<(Pushed, State, u64), LedgerError> {
        let refuse = |why| Err(LedgerError::Grammar(why));
        match record {
            Record::Entry(entry) => {
                let index = EntryIndex(self.entries());
                if self.entries() >= self.limits.entries {
                    return Err(LedgerError::TooManyEntries);
                }
                let state = match self.state {
                    State::Large { .. } => return refuse("an entry starts while a large file is incomplete"),
                    State::Pack { .. } if entry.is_large() => {
                        return refuse("a large file starts while small files wait for their chunk");
                    }
                    State::Idle if entry.is_large() => {
                        let size = matches!(entry.kind, EntryKind::File { .. }).then(|| entry.size());
                        State::Large { entry: index, done: 0, size }
                    }
                    state if entry.size() == 0 => state,
                    State::Idle => State::Pack { first: index, len: entry.size() as u32 },
                    State::Pack { first, len } => {
                        let len = len + entry.size() as u32;
                        if len as usize > CHUNK_MAX {
                            return refuse("small files before a chunk are longer than a chunk");
                        }
                        State::Pack { first, len }
                    }
                };
                Ok((Pushed::Entry(index), state, self.add(entry.size())?))
            }
            Record::Chunk { len, .. } => {
                let index = ChunkIndex(self.chunks());
                if self.chunks() >= self.limits.chunks {
                    return Err(LedgerError::TooManyChunks);
                }
                let state = match self.state {
                    State::Idle => return refuse("a chunk that no entry waits for"),
                    State::Pack { len: expected, .. } if expected != *len => {
                        return refuse("a chunk is not as long as the small files in it");
                    }
                    State::Pack { .. } => State::Idle,
                    State::Large { entry, done, size } => {
                        let done = done + u64::from(*len);
                        match size {
                            Some(size) if done > size => return refuse("chunks are longer than their file"),
                            Some(size) if done == size => State::Idle,
                            None if done > varint::MAX => return refuse("a stream is longer than 2^62 - 1"),
                            _ => State::Large { entry, done, size },
                        }
                    }
                };
                Ok((Pushed::Chunk(index), state, self.bytes))
            }
            Record::StreamEnd { size } => match self.state {
                State::Large { entry, done, size: None } if done == *size => {
                    Ok((Pushed::StreamEnd(entry), State::Idle, self.add(done)?))
                }
                State::Large { size: None, .. } => refuse("a stream's size is not the sum of its chunks"),
                _ => refuse("the end of a stream, and no stream is open"),
            },
            Record::Withdraw(entry) => {
                if entry.0 >= self.entries() {
                    return refuse("the entry to be withdrawn does not exist");
                }
                if self.is_withdrawn(*entry) {
                    return refuse("the entry is withdrawn already");
                }
                // An open stream is not counted yet, and has no size.
                let bytes = self.bytes - self.size_of(*entry).unwrap_or(0);
                let state = match self.state {
                    State::Large { entry: open, .. } if open == *entry => State::Idle,
                    State::Pack { first, .. } if *entry >= first && self.size_of(*entry) != Some(0) => {
                        return refuse("a small file is withdrawn before its chunk");
                    }
                    state => state,
                };
                Ok((Pushed::Withdrawn(*entry), state, bytes))
            }
        }
    }

    fn add(&self, size: u64) -> Result<u64, LedgerError> {
        let sum = self.bytes.saturating_add(size);
        if sum > varint::MAX { Err(LedgerError::Grammar("more than 2^62 - 1 bytes in all")) } else { Ok(sum) }
    }

    /// What [`Ledger::memory`] would grow by, at least.
    fn growth(&self, record: &Record, encoded: usize) -> usize {
        let table = match record {
            Record::Entry(_) => next_growth(&self.entries),
            Record::Chunk { .. } => next_growth(&self.chunks),
            Record::StreamEnd { .. } => next_growth(&self.streams),
            Record::Withdraw(_) => 0,
        };
        self.arena.growth(encoded) + table
    }

    fn content(&self, entry: EntryIndex) -> Option<Content> {
        let row = self.entries.get(entry.0 as usize)?;
        Some(Content::of(self.arena.from(row.record)).expect("invariant: the arena holds what was encoded"))
    }
}

/// Bytes that a vector allocates for one more element.
fn next_growth<T>(table: &Vec<T>) -> usize {
    if table.len() < table.capacity() { 0 } else { table.capacity().max(4) * size_of::<T>() }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
