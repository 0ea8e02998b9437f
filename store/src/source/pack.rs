//! A run of small files that share one chunk.

use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::SystemTime;

use metra_core::chunker::PackCut;
use metra_core::id::Digest;
use metra_core::manifest::{Entry, Timestamp};
use metra_core::wire::Keep;
use rustix::io::Errno;

use super::cache::{ManifestCache, is_settled};
use super::place::{PlaceError, Places};
use super::reader::{LocalFile, NAME_COST, Out, Problem};
use super::stat::Stat;
use super::walk::Node;

/// The small files since the last chunk, and the entries without content between them. Which files they are is decided
/// by names and sizes; they are read when the pack is complete, and not at all if the cache knows it.
#[derive(Debug, Default)]
pub(super) struct Pack {
    pending: Vec<Pending>,
    cut: PackCut,
    bytes: usize,
    files: usize,
    /// Folders that the pending files keep open, at most.
    folders: usize,
    last_folder: i32,
}

#[derive(Debug)]
enum Pending {
    Plain(Entry, LocalFile),
    File(Node),
}

/// What reading a pack came to.
pub(super) struct Flushed {
    /// Files that are not in it because they have changed.
    pub(super) changed: Vec<Node>,
    /// For the budget.
    pub(super) cost: usize,
}

/// Entries without content that may wait for the files of a pack.
const PLAIN_MAX: usize = 4096;
/// Folders that a pack keeps open.
const FOLDERS_MAX: usize = 64;

impl Pack {
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Whether it must be flushed before a file of this size is added.
    pub(super) fn ends_before(&self, size: u64) -> bool {
        self.cut.ends_before(size)
    }

    /// Adds an entry without content; whether the pack must be flushed then.
    pub(super) fn push_plain(&mut self, entry: Entry, local: LocalFile) -> bool {
        self.pending.push(Pending::Plain(entry, local));
        self.pending.len() - self.files >= PLAIN_MAX
    }

    /// Adds a file; whether the pack must be flushed then.
    pub(super) fn push_file(&mut self, mut node: Node) -> bool {
        if let Some(at) = &node.at {
            let folder = at.dir.as_raw_fd();
            if self.files == 0 || folder != self.last_folder {
                self.folders += 1;
                self.last_folder = folder;
            }
            if self.folders > FOLDERS_MAX {
                // Found again by its path.
                node.at = None;
            }
        }
        self.files += 1;
        self.bytes += node.stat.size as usize;
        let ends = self.cut.add(&node.path, node.stat.size);
        self.pending.push(Pending::File(node));
        ends
    }

    /// Reads the files, gives out entries and chunk, and is empty again.
    pub(super) fn flush(
        &mut self,
        places: &Places,
        cache: Option<&dyn ManifestCache>,
        keep: Keep,
        out: &mut Out,
    ) -> Flushed {
        let Pack { pending, bytes, files, .. } = std::mem::take(self);
        if files == 0 {
            give_plain(pending, out);
            return Flushed { changed: Vec::new(), cost: 0 };
        }
        let cache = cache.map(|cache| (cache, key(&pending)));
        if let Some((cache, key)) = &cache
            && let Some(hash) = cache.pack(key)
        {
            for pending in pending {
                match pending {
                    Pending::Plain(entry, local) => drop(out.entry(entry, local)),
                    Pending::File(node) => give(&node, keep, out),
                }
            }
            out.known_chunk(bytes as u32, hash);
            return Flushed { changed: Vec::new(), cost: files * NAME_COST / 16 };
        }
        let now = SystemTime::now();
        let mut settled = true;
        let mut data = Vec::with_capacity(bytes);
        let mut changed = Vec::new();
        for pending in pending {
            let node = match pending {
                Pending::Plain(entry, local) => {
                    out.entry(entry, local);
                    continue;
                }
                Pending::File(node) => node,
            };
            settled &= is_settled(node.stat.ctime, node.stat.mtime, now);
            let start = data.len();
            match read(places, &node, &mut data) {
                Ok(true) => give(&node, keep, out),
                Ok(false) => {
                    data.truncate(start);
                    changed.push(node);
                }
                Err(e) => {
                    data.truncate(start);
                    out.problem(Problem::of(&node.path, &e));
                }
            }
        }
        if data.is_empty() {
            return Flushed { changed, cost: 0 };
        }
        let complete = data.len() == bytes;
        let cost = data.len();
        let hash = out.chunk(data.into());
        if let Some((cache, key)) = cache
            && complete
            && settled
        {
            cache.put_pack(&key, &hash);
        }
        Flushed { changed, cost }
    }
}

fn give_plain(pending: Vec<Pending>, out: &mut Out) {
    for pending in pending {
        if let Pending::Plain(entry, local) = pending {
            out.entry(entry, local);
        }
    }
}

fn give(node: &Node, keep: Keep, out: &mut Out) {
    match node.entry(keep) {
        Ok(entry) => drop(out.entry(entry, node.local())),
        Err(problem) => out.problem(problem),
    }
}

/// Appends the file's content; whether it was all the time what it was when it was found. The state when it was found
/// and the state after reading suffice for that.
fn read(places: &Places, node: &Node, data: &mut Vec<u8>) -> Result<bool, PlaceError> {
    let file = match &node.at {
        Some(at) => at.open()?,
        None => places.content(node.root, Path::new(&node.path))?.0.open()?,
    };
    let start = data.len();
    data.resize(start + node.stat.size as usize, 0);
    let mut at = start;
    while at < data.len() {
        match rustix::io::pread(&file, &mut data[at..], (at - start) as u64) {
            Ok(0) => return Ok(false),
            Ok(n) => at += n,
            Err(Errno::INTR) => {}
            Err(e) => return Err(io::Error::from(e).into()),
        }
    }
    Ok(Stat::of(&file)?.same_state(&node.stat))
}

/// Names this pack in this state.
fn key(pending: &[Pending]) -> Digest {
    let mut hasher = blake3::Hasher::new_derive_key("Metra v1 state of a pack of files");
    let mut bytes = Vec::with_capacity(128);
    for pending in pending {
        let Pending::File(Node { path, stat, .. }) = pending else { continue };
        bytes.clear();
        bytes.extend_from_slice(&(path.len() as u64).to_le_bytes());
        bytes.extend_from_slice(path.as_bytes());
        for number in [stat.size, stat.dev, stat.ino] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for Timestamp { secs, nanos } in [stat.mtime, stat.ctime] {
            bytes.extend_from_slice(&secs.to_le_bytes());
            bytes.extend_from_slice(&nanos.to_le_bytes());
        }
        hasher.update(&bytes);
    }
    Digest(*hasher.finalize().as_bytes())
}
