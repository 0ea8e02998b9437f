#![allow(clippy::unwrap_used)]

//! Trees on a disk, read into records and checked with the ledger that sinks use.

mod changing;
mod fence;
mod known;
mod reading;

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use metra_core::chunker::Cutter;
use metra_core::id::{ChunkHash, ChunkIndex, Digest, EntryIndex};
use metra_core::manifest::{Entry, Ledger, LedgerLimits, Record};
use tempfile::TempDir;

use super::generate::random;
use super::*;

/// A manifest as it was read, with everything that is needed to check it.
pub(super) struct Read {
    pub(super) ledger: Ledger,
    pub(super) records: Vec<Record>,
    pub(super) locals: Vec<LocalFile>,
    pub(super) data: Vec<Option<Bytes>>,
    pub(super) problems: Vec<Problem>,
}

impl Read {
    pub(super) fn new() -> Self {
        Self {
            ledger: Ledger::new(LedgerLimits::default()),
            records: Vec::new(),
            locals: Vec::new(),
            data: Vec::new(),
            problems: Vec::new(),
        }
    }

    pub(super) fn take(&mut self, items: Vec<Item>) {
        for item in items {
            let record = match item {
                Item::Entry { entry, local } => {
                    self.locals.push(local);
                    Record::Entry(entry)
                }
                Item::Chunk { len, hash, data } => {
                    if let Some(data) = &data {
                        assert_eq!((data.len(), Digest::of(data)), (len as usize, hash));
                    }
                    self.data.push(data);
                    Record::Chunk { len, hash }
                }
                Item::StreamEnd { size } => Record::StreamEnd { size },
                Item::Withdraw { entry } => Record::Withdraw(entry),
                Item::Problem(problem) => {
                    self.problems.push(problem);
                    continue;
                }
            };
            self.ledger.push(&record).unwrap();
            self.records.push(record);
        }
    }

    pub(super) fn root(&self) -> Digest {
        self.ledger.finish().unwrap()
    }

    pub(super) fn entries(&self) -> Vec<Entry> {
        (0..self.ledger.entries()).map(|i| self.ledger.entry(EntryIndex(i)).unwrap()).collect()
    }

    pub(super) fn paths(&self) -> Vec<String> {
        self.entries().into_iter().map(|e| e.path).collect()
    }

    pub(super) fn chunks(&self) -> Vec<(u32, ChunkHash)> {
        let chunks = self.records.iter();
        chunks
            .filter_map(|r| if let Record::Chunk { len, hash } = r { Some((*len, *hash)) } else { None })
            .collect()
    }

    pub(super) fn problem(&self, path: &str) -> &Problem {
        let found = self.problems.iter().find(|p| p.path == path);
        found.unwrap_or_else(|| panic!("no problem with {path:?} in {:?}", self.problems))
    }

    /// Loads every chunk again and puts the files together.
    pub(super) fn contents(&self, spec: &SourceSpec) -> HashMap<String, Vec<u8>> {
        let loader = Loader::new(spec);
        let mut contents: HashMap<String, Vec<u8>> = HashMap::new();
        for (index, (len, hash)) in self.chunks().into_iter().enumerate() {
            let segments: Vec<_> = self.ledger.segments(ChunkIndex(index as u32)).collect();
            if segments.iter().any(|s| self.ledger.is_withdrawn(s.entry)) {
                continue;
            }
            let entries: Vec<Entry> = segments.iter().map(|s| self.ledger.entry(s.entry).unwrap()).collect();
            let parts: Vec<Part<'_>> = segments
                .iter()
                .zip(&entries)
                .map(|(s, e)| Part {
                    local: self.locals[s.entry.0 as usize],
                    path: &e.path,
                    offset: s.offset,
                    len: s.len,
                })
                .collect();
            let data = loader.load(&parts).unwrap();
            assert_eq!((data.len(), Digest::of(&data)), (len as usize, hash));
            for (segment, entry) in segments.iter().zip(&entries) {
                let piece = &data[segment.at as usize..(segment.at + segment.len) as usize];
                contents.entry(entry.path.clone()).or_default().extend_from_slice(piece);
            }
        }
        contents
    }
}

pub(super) fn read_all(mut reader: Reader, budget: usize) -> Read {
    let mut read = Read::new();
    loop {
        let step = reader.step(budget);
        read.take(step.items);
        if step.done {
            return read;
        }
    }
}

pub(super) fn read(spec: &SourceSpec) -> Read {
    read_all(Reader::new(spec, None), 1 << 20)
}

pub(super) fn contents_of(path: &Path) -> SourceSpec {
    SourceSpec::new(vec![Root::Path { path: path.to_owned(), contents: true }])
}

pub(super) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = Vec::new();
    random(seed, 0, len, &mut out);
    out
}

pub(super) fn put(dir: &TempDir, path: &str, content: &[u8]) {
    let path = dir.path().join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// Makes a file look as if it had been written long ago, so that caches trust it at once. Only the inode's change
/// time cannot be set; it is waited for.
pub(super) fn settle() {
    std::thread::sleep(Duration::from_millis(150));
}

#[derive(Default)]
pub(super) struct MemoryCache {
    pub(super) files: Mutex<HashMap<FileIdentity, CachedFile>>,
    pub(super) packs: Mutex<HashMap<Digest, ChunkHash>>,
    pub(super) appends: Mutex<Vec<usize>>,
}

impl ManifestCache for MemoryCache {
    fn file(&self, id: &FileIdentity) -> Option<CachedFile> {
        self.files.lock().unwrap().get(id).cloned()
    }

    fn append(&self, id: &FileIdentity, first: u32, chunks: &[(u32, ChunkHash)], complete: bool) {
        let mut files = self.files.lock().unwrap();
        let file = files.entry(id.clone()).or_insert(CachedFile { chunks: Vec::new(), complete: false });
        assert_eq!(file.chunks.len(), first as usize, "no gaps, no repetition");
        file.chunks.extend_from_slice(chunks);
        file.complete = complete;
        self.appends.lock().unwrap().push(chunks.len());
    }

    fn pack(&self, key: &Digest) -> Option<ChunkHash> {
        self.packs.lock().unwrap().get(key).copied()
    }

    fn put_pack(&self, key: &Digest, hash: &ChunkHash) {
        self.packs.lock().unwrap().insert(*key, *hash);
    }
}

pub(super) fn plain_chunks(data: &[u8]) -> Vec<(u32, ChunkHash)> {
    let cutter = Cutter::new();
    let mut at = 0;
    let mut chunks = Vec::new();
    while let Some(len) = cutter.cut(&data[at..], true) {
        chunks.push((len as u32, Digest::of(&data[at..at + len])));
        at += len;
    }
    chunks
}
