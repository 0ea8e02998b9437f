//! Where bytes with a known hash were last seen: in files under their final names, and in what an earlier attempt staged
//! before the source changed. Everything found here is verified before it is used.

use std::collections::HashMap;
use std::fs::File;
use std::io;

use metra_core::id::{ChunkHash, Digest, EntryIndex};
use metra_core::manifest::{Entry, EntryKind, Record};
use rustix::fs::{Mode, OFlags};

use super::spool::RecordReader;
use super::staging::{FILES, OLD, Staging};
use crate::beneath::Beneath;

/// Chunks and files that can be had without the source.
#[derive(Default)]
pub(super) struct Reuse {
    chunks: HashMap<u64, Location>,
    /// What [`Location::Final`] counts.
    finals: Vec<String>,
    /// Old large files, by a digest of their entries.
    entries: HashMap<u64, EntryIndex>,
    /// Which old file is the file of which entry now.
    adopted: HashMap<u32, EntryIndex>,
}

#[derive(Clone, Copy)]
enum Location {
    /// In a file under its final name.
    Final { file: u32, offset: u64 },
    /// In an old staged file.
    Old { entry: EntryIndex, offset: u64 },
    /// All of the old small files from `entry` on, whose records begin at `record` in the old manifest.
    OldPack { entry: EntryIndex, record: u64 },
}

/// Most chunks remembered, about a terabyte; the table takes 30 MB then.
const CHUNKS_MAX: usize = 900_000;
/// The manifest of the old staged files, in their folder.
pub(super) const OLD_MANIFEST: &str = "old/manifest";

impl Reuse {
    /// Learns the chunks of a file under its final name.
    pub(super) fn learn_final(&mut self, path: String, chunks: &[(u32, ChunkHash)]) {
        let file = self.finals.len() as u32;
        self.finals.push(path);
        let mut offset = 0;
        for (len, hash) in chunks {
            self.learn(hash, Location::Final { file, offset });
            offset += u64::from(*len);
        }
    }

    fn learn(&mut self, hash: &ChunkHash, location: Location) {
        if self.chunks.len() < CHUNKS_MAX {
            self.chunks.insert(prefix(hash), location);
        }
    }

    /// Learns what an earlier attempt left under other numbers, if there is such.
    pub(super) fn learn_old(&mut self, staging: &Staging) -> io::Result<()> {
        self.chunks.retain(|_, location| matches!(location, Location::Final { .. }));
        self.entries.clear();
        self.adopted.clear();
        let Some(mut reader) = old_manifest(staging, 0)? else { return Ok(()) };
        let mut index = 0;
        let mut open: Option<(EntryIndex, u64, u64)> = None;
        let mut pack = None;
        let mut record = 0;
        while let Some(found) = reader.next()? {
            match found {
                Record::Entry(entry) => {
                    let number = EntryIndex(index);
                    index += 1;
                    if entry.is_large() {
                        let size = if entry.kind == EntryKind::Stream { u64::MAX } else { entry.size() };
                        open = Some((number, 0, size));
                        if self.entries.len() < CHUNKS_MAX {
                            self.entries.insert(identity(entry), number);
                        }
                    } else if entry.size() > 0 {
                        pack.get_or_insert((number, record));
                    }
                }
                Record::Chunk { len, hash } => match &mut open {
                    Some((entry, offset, size)) => {
                        let location = Location::Old { entry: *entry, offset: *offset };
                        *offset += u64::from(len);
                        if *offset >= *size {
                            open = None;
                        }
                        self.learn(&hash, location);
                    }
                    None => {
                        if let Some((entry, record)) = pack.take() {
                            self.learn(&hash, Location::OldPack { entry, record });
                        }
                    }
                },
                Record::StreamEnd { .. } | Record::Withdraw(_) => {
                    if !matches!(found, Record::Withdraw(entry) if open.is_none_or(|o| o.0 != entry)) {
                        open = None;
                    }
                }
            }
            record = reader.position();
        }
        Ok(())
    }

    /// If an old file was staged for the very same entry, it becomes the staged file of `entry`: its chunks will be
    /// found in their places.
    pub(super) fn adopt(&mut self, staging: &Staging, index: EntryIndex, entry: &Entry) -> io::Result<()> {
        // Two streams of one name need not have one content.
        if self.entries.is_empty() || entry.kind == EntryKind::Stream {
            return Ok(());
        }
        if let Some(old) = self.entries.remove(&identity(entry.clone()))
            && staging.adopt(old, index)?
        {
            self.adopted.insert(old.0, index);
        }
        Ok(())
    }

    /// The bytes of a chunk, verified.
    pub(super) fn find(
        &self,
        root: &Beneath,
        staging: &Staging,
        len: u32,
        hash: &ChunkHash,
    ) -> Option<Vec<u8>> {
        let data = match *self.chunks.get(&prefix(hash))? {
            Location::Final { file, offset } => {
                let path = self.finals.get(file as usize)?;
                read_at(root, path, offset, len)?
            }
            Location::Old { entry, offset } => match self.adopted.get(&entry.0) {
                Some(entry) => staging.read_part(FILES, *entry, offset, len)?,
                None => staging.read_part(OLD, entry, offset, len)?,
            },
            Location::OldPack { entry, record } => old_pack(staging, entry, record, len)?,
        };
        (Digest::of(&data) == *hash).then_some(data)
    }
}

/// Reads a part of a file under its final name.
pub(super) fn read_at(root: &Beneath, path: &str, offset: u64, len: u32) -> Option<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    // Whatever stands there by now: opening must not wait for it.
    let file = File::from(root.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).ok()?);
    let mut data = vec![0; len as usize];
    file.read_exact_at(&mut data, offset).ok()?;
    Some(data)
}

fn old_pack(staging: &Staging, first: EntryIndex, record: u64, len: u32) -> Option<Vec<u8>> {
    let mut reader = old_manifest(staging, record).ok()??;
    let mut data = vec![0; len as usize];
    let mut at = 0;
    let mut index = first.0;
    while at < data.len() {
        let Some(Record::Entry(entry)) = reader.next().ok()? else { return None };
        let size = usize::try_from(entry.size()).ok()?;
        if size > 0 {
            let out = data.get_mut(at..at.checked_add(size)?)?;
            if !staging.read_whole(OLD, EntryIndex(index), out) {
                return None;
            }
            at += size;
        }
        index += 1;
    }
    Some(data)
}

fn old_manifest(staging: &Staging, position: u64) -> io::Result<Option<RecordReader>> {
    match staging.dir.open_at(OLD_MANIFEST, OFlags::RDONLY, Mode::empty()) {
        Ok(fd) => Ok(Some(RecordReader::new(File::from(fd), position)?)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Two entries with one identity have, in all likelihood, one content.
fn identity(entry: Entry) -> u64 {
    let mut encoded = Vec::new();
    Record::Entry(entry).encode(&mut encoded);
    prefix(&Digest::of(&encoded))
}

/// Enough of a digest to find it in a table; what is found is compared as a whole, or does no harm.
pub(super) fn prefix(hash: &Digest) -> u64 {
    u64::from_le_bytes(hash.0[..8].try_into().expect("a digest has 32 bytes"))
}
