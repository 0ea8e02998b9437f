//! Reads one large file or stream: blocks in, chunks out.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::Arc;

use bytes::Bytes;
use metra_core::chunker::{Cutter, zero_chunk_hash};
use metra_core::id::{ChunkHash, EntryIndex};
use metra_core::limits::{CHUNK_MAX, CHUNK_MIN};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::cache::{FileIdentity, ManifestCache};
use super::generate;
use super::reader::{NAME_COST, Out};
use super::stat::Stat;
use super::walk::Node;

/// Where the bytes come from.
pub(super) enum Feed {
    File { file: File, node: Node },
    Stream { stream: Box<dyn Read + Send>, name: String },
    Zero,
    Random(u64),
}

/// What became of an attempt to get on.
pub(super) enum Advance {
    More {
        /// Counts against the budget of the step. Bytes.
        cost: usize,
    },
    End,
}

/// Why the file cannot be read to its end.
#[derive(Debug)]
pub(super) enum Broken {
    Changed,
    Failed(io::Error),
}

impl From<Errno> for Broken {
    fn from(e: Errno) -> Self {
        Broken::Failed(e.into())
    }
}

/// A large file or stream that is being read.
pub(super) struct Large {
    pub(super) entry: EntryIndex,
    pub(super) feed: Feed,
    /// `None`: a stream.
    size: Option<u64>,
    cutter: Cutter,
    /// Offset of the chunk that is to be cut next.
    cut_at: u64,
    /// The bytes from there on that have been read.
    tail: Vec<u8>,
    /// Bytes of `tail` in which there is no cut.
    searched: usize,
    ended: bool,
    /// Chunks that are known and still to be given out.
    known: std::vec::IntoIter<(u32, ChunkHash)>,
    /// A stretch without data: from, to. Nothing is known of what is after it.
    hole: (u64, u64),
    memo: Option<Memo>,
}

/// What is read at once. Chunks are slices of a block, so that this is also how much one chunk can keep in memory.
const BLOCK: usize = CHUNK_MAX;
const STREAM_READ: usize = 128 * 1024;
/// Chunks given out at once where nothing has to be read.
const KNOWN_AT_ONCE: usize = 1024;

impl Large {
    /// At the beginning of a file of `size` bytes, or of a stream.
    pub(super) fn new(entry: EntryIndex, feed: Feed, size: Option<u64>, mut memo: Option<Memo>) -> Self {
        let known = match (&mut memo, size) {
            (Some(memo), Some(size)) => memo.recall(size),
            _ => Vec::new(),
        };
        let hole = match (&feed, size) {
            (Feed::Zero, Some(size)) => (0, size),
            (Feed::File { node, .. }, _) if node.stat.sparse => (0, 0),
            _ => (u64::MAX, u64::MAX),
        };
        Self {
            entry,
            feed,
            size,
            cutter: Cutter::new(),
            cut_at: 0,
            tail: Vec::new(),
            searched: 0,
            ended: false,
            known: known.into_iter(),
            hole,
            memo,
        }
    }

    /// Gives out what is known, or reads a block and cuts it.
    pub(super) fn advance(&mut self, out: &mut Out) -> Result<Advance, Broken> {
        let mut given = 0;
        for (len, hash) in self.known.by_ref().take(KNOWN_AT_ONCE) {
            out.known_chunk(len, hash);
            self.cut_at += u64::from(len);
            given += 1;
        }
        while given < KNOWN_AT_ONCE && self.at_hole()? {
            out.known_chunk(CHUNK_MAX as u32, zero_chunk_hash());
            self.remember((CHUNK_MAX as u32, zero_chunk_hash()));
            self.cut_at += CHUNK_MAX as u64;
            self.tail.drain(..CHUNK_MAX.min(self.tail.len()));
            self.searched = 0;
            given += 1;
        }
        if given > 0 {
            return Ok(Advance::More { cost: given * NAME_COST / 16 });
        }
        if self.size == Some(self.cut_at) || (self.ended && self.tail.is_empty()) {
            self.end(out)?;
            return Ok(Advance::End);
        }
        let before = self.tail.len();
        self.read()?;
        let cost = self.tail.len() - before;
        self.cut(out)?;
        Ok(Advance::More { cost })
    }

    /// Reads a block behind the tail.
    fn read(&mut self) -> Result<(), Broken> {
        let at = self.cut_at + self.tail.len() as u64;
        let want = self.size.map_or(BLOCK, |size| (size - at).min(BLOCK as u64) as usize);
        match &mut self.feed {
            Feed::File { file, node } => {
                // An exact capacity, so that the read is not longer than wanted.
                let mut block = Vec::with_capacity(self.tail.len() + want);
                block.append(&mut self.tail);
                self.tail = block;
                read_at(&*file, &mut self.tail, at, want)?;
                let now = Stat::of(&*file).map_err(Broken::Failed)?;
                if !now.same_state(&node.stat) || at + want as u64 != self.cut_at + self.tail.len() as u64 {
                    return Err(Broken::Changed);
                }
            }
            Feed::Stream { stream, .. } => {
                let len = self.tail.len();
                self.tail.resize(len + STREAM_READ, 0);
                let n = loop {
                    match stream.read(&mut self.tail[len..]) {
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                        result => break result.map_err(Broken::Failed)?,
                    }
                };
                self.tail.truncate(len + n);
                self.ended = n == 0;
            }
            Feed::Zero => self.tail.resize(self.tail.len() + want, 0),
            Feed::Random(seed) => generate::random(*seed, at, want, &mut self.tail),
        }
        if let Some(size) = self.size {
            self.ended = self.cut_at + self.tail.len() as u64 == size;
        }
        Ok(())
    }

    /// Cuts what can be cut from the tail.
    fn cut(&mut self, out: &mut Out) -> Result<(), Broken> {
        let Some(mut len) = self.cutter.cut_beyond(&self.tail, self.searched, self.ended) else {
            self.searched = self.tail.len();
            return Ok(());
        };
        let block = Bytes::from(std::mem::take(&mut self.tail));
        let mut at = 0;
        loop {
            let hash = out.chunk(block.slice(at..at + len));
            self.remember((len as u32, hash));
            at += len;
            self.cut_at += len as u64;
            self.searched = 0;
            if self.at_hole()? {
                break;
            }
            match self.cutter.cut(&block[at..], self.ended) {
                Some(next) => len = next,
                None => {
                    self.searched = block.len() - at;
                    break;
                }
            }
        }
        self.tail.extend_from_slice(&block[at..]);
        Ok(())
    }

    /// Whether the next chunk is all hole, and is therefore known to be `CHUNK_MAX` zeros: the cut that reading them
    /// would give.
    fn at_hole(&mut self) -> Result<bool, Broken> {
        let Some(size) = self.size else { return Ok(false) };
        let far = self.cut_at.saturating_add(CHUNK_MAX as u64);
        if far > size || self.hole.0 == u64::MAX {
            return Ok(false);
        }
        if let (Feed::File { file, .. }, true) = (&self.feed, self.cut_at >= self.hole.1) {
            self.hole = next_hole(file, self.cut_at, size)?;
        }
        Ok(self.hole.0 <= self.cut_at && far <= self.hole.1)
    }

    fn remember(&mut self, chunk: (u32, ChunkHash)) {
        if let Some(memo) = &mut self.memo {
            memo.push(chunk);
        }
    }

    fn end(&mut self, out: &mut Out) -> Result<(), Broken> {
        if let Feed::File { file, node } = &self.feed
            && !Stat::of(file).map_err(Broken::Failed)?.same_state(&node.stat)
        {
            return Err(Broken::Changed);
        }
        if let Some(memo) = &mut self.memo {
            memo.save(true);
        }
        if self.size.is_none() {
            out.stream_end(self.cut_at);
        }
        Ok(())
    }
}

/// Appends `len` bytes from `offset` on, fewer only at the end of the file. As many bytes are read at a time as
/// `buffer` has capacity left, which should therefore be `len`.
pub(super) fn read_at(file: impl AsFd, buffer: &mut Vec<u8>, offset: u64, len: usize) -> Result<(), Errno> {
    let start = buffer.len();
    while buffer.len() < start + len {
        let at = offset + (buffer.len() - start) as u64;
        match rustix::io::pread(&file, rustix::buffer::spare_capacity(buffer), at) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    buffer.truncate(start + len);
    Ok(())
}

/// The first hole that ends after `at`, cut off at `size`. A system that cannot tell has none.
fn next_hole(file: &File, at: u64, size: u64) -> Result<(u64, u64), Errno> {
    let start = match rustix::fs::seek(file, SeekFrom::Hole(at)) {
        Ok(start) if start < size => start,
        Ok(_) | Err(Errno::NXIO | Errno::INVAL | Errno::OPNOTSUPP) => return Ok((u64::MAX, u64::MAX)),
        Err(e) => return Err(e),
    };
    match rustix::fs::seek(file, SeekFrom::Data(start)) {
        Ok(end) => Ok((start, end.min(size))),
        Err(Errno::NXIO) => Ok((start, size)),
        Err(e) => Err(e),
    }
}

/// What the cache knows, and will know, of one file.
pub(super) struct Memo {
    cache: Arc<dyn ManifestCache>,
    id: FileIdentity,
    /// Number of the first chunk in `fresh`.
    next: u32,
    fresh: Vec<(u32, ChunkHash)>,
    /// Whether the cache has all of it already.
    complete: bool,
}

/// Chunks are handed to the cache in portions of this many.
const PORTION: usize = 64;

impl Memo {
    pub(super) fn new(cache: Arc<dyn ManifestCache>, id: FileIdentity) -> Self {
        Self { cache, id, next: 0, fresh: Vec::new(), complete: false }
    }

    /// The chunks that are known, from the beginning on. What does not fit a file of `size` bytes is not believed.
    fn recall(&mut self, size: u64) -> Vec<(u32, ChunkHash)> {
        let Some(file) = self.cache.file(&self.id) else { return Vec::new() };
        let total: u64 = file.chunks.iter().map(|c| u64::from(c.0)).sum();
        let short_end = usize::from(total == size);
        let fits = file.chunks.iter().all(|c| (1..=CHUNK_MAX as u32).contains(&c.0))
            && file.chunks.iter().rev().skip(short_end).all(|c| c.0 >= CHUNK_MIN as u32)
            && total <= size
            && (!file.complete || total == size);
        let Some(next) = u32::try_from(file.chunks.len()).ok().filter(|_| fits) else { return Vec::new() };
        self.next = next;
        self.complete = file.complete;
        file.chunks
    }

    fn push(&mut self, chunk: (u32, ChunkHash)) {
        self.fresh.push(chunk);
        if self.fresh.len() >= PORTION {
            self.save(false);
        }
    }

    fn save(&mut self, complete: bool) {
        if self.complete {
            return;
        }
        self.cache.append(&self.id, self.next, &self.fresh, complete);
        self.next = self.next.saturating_add(self.fresh.len() as u32);
        self.fresh.clear();
    }
}
