//! Planning: for each record as it comes, what of it is here already.
//!
//! For an entry: may its name be used, does something stand there, may that be replaced. For a chunk, in this
//! order:
//!
//! 1. void, if every entry in it is refused;
//! 2. durable, if an earlier attempt at this very manifest journaled it;
//! 3. found, if the journal is lost and the staged file has these bytes (hashed, never trusted by name);
//! 4. kept, if the file under the final name is the same throughout (decided when the entry ends);
//! 5. copied, if an earlier version of the file, or an attempt that was set aside, has a chunk with this hash;
//! 6. a hole, if it is zeros;
//! 7. missing.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use metra_core::code::Code;
use metra_core::id::{ChunkHash, ChunkIndex, Digest, EntryIndex};
use metra_core::manifest::{Entry, EntryKind, Ledger, LedgerLimits, Record, Timestamp};
use metra_core::path::{check, link_escapes, normal_form};
use metra_core::ranges::IndexSet;
use metra_core::sink::Resolution;
use metra_core::wire::Overwrite;
use rustix::fs::{FileType, Mode, OFlags, Stat};

use super::tree::{TreeLanding, is_hole, kind_of, punch};
use super::{LandError, Landing, Meta, Piece, Planned, pieces};
use crate::existing;

/// What happens to an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Fate {
    /// It is written and gets its final name.
    Write,
    /// It is the same already.
    Kept,
    /// It is not transferred; a status says why.
    Refused,
    /// The source has withdrawn it.
    Withdrawn,
}

/// The state of planning. Records come in order.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) fates: Vec<Fate>,
    chunks: u32,
    records: u64,
    names: HashSet<u64>,
    /// The names of large entries, which may be withdrawn and offered again.
    large_names: HashMap<u32, u64>,
    /// The manifest of an earlier attempt, and how far ours has been the same.
    previous: Option<Ledger>,
    durable: IndexSet,
    /// The journal is lost but staged files are there: look at them.
    rescan: bool,
    /// A large entry whose chunks are coming.
    open: Option<Open>,
    /// Small files whose pack has not come yet.
    run: Vec<(EntryIndex, Entry)>,
    reuse: HashMap<u64, Location>,
    /// What `Location::Old` refers to.
    old: Option<Arc<Ledger>>,
}

/// A large entry in the middle of its chunks.
struct Open {
    index: EntryIndex,
    entry: Entry,
    offset: u64,
    /// The chunks of the file under the final name, if that may turn out to be the same.
    same: Option<Same>,
}

struct Same {
    existing: Vec<(u32, ChunkHash)>,
    matched: Vec<(ChunkIndex, u64, u32, ChunkHash)>,
}

/// Where bytes with a known hash were last seen.
#[derive(Clone)]
enum Location {
    /// In a file under its final name.
    Final { path: Arc<str>, offset: u64 },
    /// In the staged files of an attempt that was set aside.
    Old(ChunkIndex),
}

/// Most chunks remembered for reuse: bounds the memory at about 400 MiB for 4 TiB of old data.
const REUSE_MAX: usize = 4_000_000;

impl Plan {
    pub(super) fn new(previous: Ledger, durable: IndexSet, rescan: bool) -> Self {
        let previous = (previous.records() > 0).then_some(previous);
        Self { previous, durable, rescan, ..Self::default() }
    }

    pub(super) fn records(&mut self, to: &TreeLanding, records: &[Record]) -> Result<Planned, LandError> {
        if self.diverges(records) {
            return self.set_aside(to);
        }
        let mut planned = Planned::default();
        for record in records {
            self.note(to, record)?;
            match record {
                Record::Entry(entry) => self.entry(to, entry, &mut planned)?,
                Record::Chunk { len, hash } => self.chunk(to, *len, hash, &mut planned)?,
                Record::StreamEnd { .. } => self.close(to, &mut planned)?,
                Record::Withdraw(entry) => {
                    if let Some(fate) = self.fates.get_mut(entry.0 as usize) {
                        *fate = Fate::Withdrawn;
                    }
                    if let Some(name) = self.large_names.remove(&entry.0) {
                        self.names.remove(&name);
                    }
                    if let Some(open) = self.open.take_if(|open| open.index == *entry) {
                        let void = |m: &(ChunkIndex, u64, u32, ChunkHash)| (m.0, Resolution::Void);
                        planned.resolutions.extend(open.same.iter().flat_map(|s| s.matched.iter().map(void)));
                    }
                }
            }
        }
        Ok(planned)
    }

    pub(super) fn end(&mut self, to: &TreeLanding) -> Result<Planned, LandError> {
        if self.previous.as_ref().is_some_and(|p| p.records() > self.records) {
            return self.set_aside(to);
        }
        Ok(Planned::default())
    }

    /// Whether these records are not the ones that the earlier attempt had in their place.
    fn diverges(&self, records: &[Record]) -> bool {
        let Some(previous) = &self.previous else { return false };
        let there = previous.records().saturating_sub(self.records).min(records.len() as u64) as usize;
        there > 0 && !previous.replay(self.records).take(there).eq(records[..there].iter().cloned())
    }

    /// Writes the record down unless it stands there from the earlier attempt.
    fn note(&mut self, to: &TreeLanding, record: &Record) -> Result<(), LandError> {
        let known = self.previous.as_ref().map_or(0, Ledger::records);
        if self.records >= known {
            let mut spool = to.spool.lock().expect("no panic while held");
            spool.append(record).map_err(|e| LandError::new("manifest", e))?;
        }
        self.records += 1;
        Ok(())
    }

    /// The source has changed since the earlier attempt. What that left is set aside, to be reused by hash, and
    /// planning starts again.
    fn set_aside(&mut self, to: &TreeLanding) -> Result<Planned, LandError> {
        let named = |e: io::Error| LandError::new("staging", e);
        to.close_files();
        // First the journal: it must never speak of files that are not in their places.
        to.catalogue
            .job_clear_durable(to.job)
            .map_err(|e| LandError::new("catalogue", io::Error::other(e)))?;
        let path = |name: &str| format!("{}/{name}", to.staging);
        if to.root.stat(&path("old")).map_err(named)?.is_some() {
            to.root.remove(&path("old"), true).map_err(named)?;
        }
        std::fs::rename(to.root.join(&path("files")), to.root.join(&path("old"))).map_err(named)?;
        to.root.make_dir(&path("files")).map_err(named)?;
        to.spool.lock().expect("no panic while held").clear().map_err(named)?;
        let old = Arc::new(self.previous.take().unwrap_or_else(|| Ledger::new(LedgerLimits::default())));
        let durable = std::mem::take(&mut self.durable);
        *self = Self { old: Some(old.clone()), ..Self::default() };
        for range in durable.ranges() {
            for index in range.indexes().map(ChunkIndex) {
                if let Some(info) = old.chunk(index) {
                    self.remember(&info.hash, Location::Old(index));
                }
            }
        }
        Ok(Planned { restart: true, ..Planned::default() })
    }

    fn remember(&mut self, hash: &Digest, location: Location) {
        if self.reuse.len() < REUSE_MAX {
            self.reuse.insert(prefix(hash), location);
        }
    }

    fn entry(&mut self, to: &TreeLanding, entry: &Entry, planned: &mut Planned) -> Result<(), LandError> {
        self.close(to, planned)?;
        let index = EntryIndex(self.fates.len() as u32);
        let verdict = self.judge(to, entry);
        let (fate, same, existing) = match verdict {
            Ok(Some(stat)) => (Fate::Write, self.may_be_same(to, entry, &stat), true),
            Ok(None) => (Fate::Write, false, false),
            Err((code, reason)) => {
                planned.statuses.push((index, entry.path.clone(), code, reason));
                (Fate::Refused, false, false)
            }
        };
        self.fates.push(fate);
        if entry.is_large() {
            let existing =
                if existing && fate == Fate::Write { self.index_existing(to, entry) } else { None };
            let same = existing.filter(|_| same).map(|existing| Same { existing, matched: Vec::new() });
            self.open = Some(Open { index, entry: entry.clone(), offset: 0, same });
        } else if entry.size() > 0 {
            self.run.push((index, entry.clone()));
        } else if same && matches!(entry.kind, EntryKind::File { .. }) {
            self.keep(index, &entry.path, planned);
        }
        Ok(())
    }

    /// Whether an entry may be written, and what stands under its final name if that is a file.
    fn judge(&mut self, to: &TreeLanding, entry: &Entry) -> Result<Option<Stat>, (Code, String)> {
        check(&entry.path).map_err(|e| (Code::BadName, e.to_string()))?;
        let name = prefix(&Digest::of(normal_form(&entry.path).as_bytes()));
        if !self.names.insert(name) {
            return Err((Code::BadName, "another entry has the same name after normalisation".to_owned()));
        }
        if entry.is_large() {
            self.large_names.insert(self.fates.len() as u32, name);
        }
        if let EntryKind::Symlink { target } = &entry.kind
            && link_escapes(&entry.path, target)
        {
            return Err((Code::LinkEscapes, format!("the link points out of the tree, to {target}")));
        }
        let path = to.final_path(&entry.path);
        let found = kind_of(&to.root, &path).map_err(|e| refusal(&e))?;
        let Some((kind, stat)) = found else { return Ok(None) };
        match (&entry.kind, kind) {
            (EntryKind::Directory, FileType::Directory) => Ok(None),
            (EntryKind::Directory, _) => {
                Err((Code::Conflict, "a file stands where a directory must be".into()))
            }
            (_, FileType::Directory) => {
                Err((Code::Conflict, "a directory stands where a file must be".into()))
            }
            _ if to.target.overwrite == Overwrite::Never => {
                Err((Code::Exists, "exists, and --overwrite never was asked for".to_owned()))
            }
            (EntryKind::File { .. } | EntryKind::Stream, FileType::RegularFile) => Ok(Some(stat)),
            _ => Ok(None),
        }
    }

    /// Whether the file that stands there may be kept if its bytes are the same.
    fn may_be_same(&self, to: &TreeLanding, entry: &Entry, stat: &Stat) -> bool {
        let mtime = Timestamp { secs: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 };
        to.target.overwrite == Overwrite::Different
            && matches!(entry.kind, EntryKind::File { size } if size == stat.st_size as u64)
            && entry.mtime.is_none_or(|wanted| wanted == mtime)
    }

    /// Learns the chunks of the file that stands under an entry's final name.
    fn index_existing(&mut self, to: &TreeLanding, entry: &Entry) -> Option<Vec<(u32, ChunkHash)>> {
        let path = to.final_path(&entry.path);
        let file = File::from(to.root.open_at(&path, OFlags::RDONLY, Mode::empty()).ok()?);
        // A file that cannot be read is not reused; it will be replaced.
        let chunks = existing::chunks(&file, &to.root.join(&path), to.catalogue.as_ref()).ok()?;
        let shared: Arc<str> = path.into();
        let mut offset = 0;
        for (len, hash) in &chunks {
            self.remember(hash, Location::Final { path: shared.clone(), offset });
            offset += u64::from(*len);
        }
        Some(chunks)
    }

    fn chunk(
        &mut self,
        to: &TreeLanding,
        len: u32,
        hash: &ChunkHash,
        planned: &mut Planned,
    ) -> Result<(), LandError> {
        let index = ChunkIndex(self.chunks);
        self.chunks += 1;
        if self.open.is_some() {
            self.large_chunk(to, index, len, hash, planned)
        } else {
            self.pack(to, index, len, hash, planned)
        }
    }

    fn large_chunk(
        &mut self,
        to: &TreeLanding,
        index: ChunkIndex,
        len: u32,
        hash: &ChunkHash,
        planned: &mut Planned,
    ) -> Result<(), LandError> {
        let open = self.open.as_mut().expect("the caller checked");
        let (entry, offset) = (open.index, open.offset);
        let path = open.entry.path.clone();
        open.offset += u64::from(len);
        let ends = matches!(open.entry.kind, EntryKind::File { size } if open.offset >= size);
        let resolution = if self.fates[entry.0 as usize] != Fate::Write {
            Some(Resolution::Void)
        } else if self.was_durable(index) {
            self.break_same(to, planned)?;
            Some(Resolution::Durable)
        } else if self.matches_existing(index, offset, len, hash) {
            None
        } else {
            self.break_same(to, planned)?;
            let piece = Piece { entry, path, offset, at: 0, len, meta: None };
            Some(self.resolve_missing(to, index, len, hash, &[piece])?)
        };
        planned.resolutions.extend(resolution.map(|r| (index, r)));
        if ends { self.close(to, planned) } else { Ok(()) }
    }

    /// Whether an earlier attempt at this very manifest journaled the chunk.
    fn was_durable(&self, index: ChunkIndex) -> bool {
        self.durable.contains(index) && self.previous.as_ref().is_some_and(|p| index.0 < p.chunks())
    }

    /// Whether the chunk is, in its place, in the file that stands under the final name.
    fn matches_existing(&mut self, index: ChunkIndex, offset: u64, len: u32, hash: &ChunkHash) -> bool {
        let Some(same) = self.open.as_mut().and_then(|o| o.same.as_mut()) else { return false };
        let next = same.matched.len();
        let equal = same.existing.get(next) == Some(&(len, *hash));
        if equal {
            same.matched.push((index, offset, len, *hash));
        }
        equal
    }

    /// The file that stands there is not the same after all: what matched so far is copied from it.
    fn break_same(&mut self, to: &TreeLanding, planned: &mut Planned) -> Result<(), LandError> {
        let Some(open) = self.open.as_mut() else { return Ok(()) };
        let (entry, path) = (open.index, open.entry.path.clone());
        let Some(same) = open.same.take() else { return Ok(()) };
        for (index, offset, len, hash) in same.matched {
            let piece = Piece { entry, path: path.clone(), offset, at: 0, len, meta: None };
            let resolution = self.resolve_missing(to, index, len, &hash, &[piece])?;
            planned.resolutions.push((index, resolution));
        }
        Ok(())
    }

    /// The large entry has all its chunks.
    fn close(&mut self, to: &TreeLanding, planned: &mut Planned) -> Result<(), LandError> {
        let whole = |open: &Open| {
            let Some(same) = &open.same else { return false };
            same.matched.len() == same.existing.len() && open.offset == open.entry.size()
        };
        match &self.open {
            Some(open) if whole(open) => {}
            Some(_) => {
                self.break_same(to, planned)?;
                self.open = None;
                return Ok(());
            }
            None => return Ok(()),
        }
        if let Some(open) = self.open.take() {
            let matched = open.same.map(|s| s.matched).unwrap_or_default();
            planned.resolutions.extend(matched.iter().map(|m| (m.0, Resolution::Kept)));
            self.keep(open.index, &open.entry.path, planned);
        }
        Ok(())
    }

    fn keep(&mut self, index: EntryIndex, path: &str, planned: &mut Planned) {
        self.fates[index.0 as usize] = Fate::Kept;
        planned.statuses.push((index, path.to_owned(), Code::Ok, "unchanged".to_owned()));
    }

    fn pack(
        &mut self,
        to: &TreeLanding,
        index: ChunkIndex,
        len: u32,
        hash: &ChunkHash,
        planned: &mut Planned,
    ) -> Result<(), LandError> {
        let run = std::mem::take(&mut self.run);
        if run.iter().all(|(i, _)| self.fates[i.0 as usize] != Fate::Write) {
            planned.resolutions.push((index, Resolution::Void));
            return Ok(());
        }
        let pieces = run_pieces(&run);
        let resolution = if self.was_durable(index) {
            Resolution::Durable
        } else if let Some((data, same)) = self.read_final_pack(to, &run, &pieces, hash) {
            if same {
                run.iter().for_each(|(i, e)| self.keep(*i, &e.path, planned));
                Resolution::Kept
            } else {
                to.write(index, &pieces, &data)?;
                Resolution::Written
            }
        } else {
            self.resolve_missing(to, index, len, hash, &pieces)?
        };
        planned.resolutions.push((index, resolution));
        Ok(())
    }

    /// The bytes of a pack, if the files under the final names have them, and whether these files may be kept.
    fn read_final_pack(
        &self,
        to: &TreeLanding,
        run: &[(EntryIndex, Entry)],
        pieces: &[Piece],
        hash: &ChunkHash,
    ) -> Option<(Vec<u8>, bool)> {
        let mut keep = true;
        // Sizes first: most packs that are not here are found out by the first name.
        for (index, entry) in run {
            let (kind, stat) = kind_of(&to.root, &to.final_path(&entry.path)).ok()??;
            if kind != FileType::RegularFile || stat.st_size as u64 != entry.size() {
                return None;
            }
            keep &= self.fates[index.0 as usize] == Fate::Write && self.may_be_same(to, entry, &stat);
        }
        let mut data = vec![0; pieces.iter().map(|p| p.len as usize).sum()];
        for piece in pieces {
            let out = &mut data[piece.at as usize..][..piece.len as usize];
            to.read_piece(&to.final_path(&piece.path), 0, out).ok()?;
        }
        (Digest::of(&data) == *hash).then_some((data, keep))
    }

    /// Steps 3, 5, 6 and 7 of the module's list.
    fn resolve_missing(
        &mut self,
        to: &TreeLanding,
        index: ChunkIndex,
        len: u32,
        hash: &ChunkHash,
        pieces: &[Piece],
    ) -> Result<Resolution, LandError> {
        if self.rescan && staged(to, "files", pieces).is_some_and(|data| Digest::of(&data) == *hash) {
            return Ok(Resolution::Written);
        }
        if is_hole(len, hash)
            && let [piece] = pieces
            && piece.meta.is_none()
        {
            let file = to.large(piece.entry).map_err(|e| LandError::new(&piece.path, e))?;
            punch(&file, piece.offset, u64::from(len)).map_err(|e| LandError::new(&piece.path, e))?;
            return Ok(Resolution::Written);
        }
        if let Some(data) = self.reused(to, len, hash) {
            to.write(index, pieces, &data)?;
            return Ok(Resolution::Written);
        }
        Ok(Resolution::Missing)
    }

    /// The bytes of a chunk from an earlier version or attempt, verified.
    fn reused(&self, to: &TreeLanding, len: u32, hash: &ChunkHash) -> Option<Vec<u8>> {
        let data = match self.reuse.get(&prefix(hash))? {
            Location::Final { path, offset } => {
                let mut data = vec![0; len as usize];
                to.read_piece(path, *offset, &mut data).ok()?;
                data
            }
            Location::Old(chunk) => staged(to, "old", &pieces(self.old.as_ref()?, *chunk))?,
        };
        (Digest::of(&data) == *hash).then_some(data)
    }
}

/// The bytes of a chunk in the staged files of `folder`, whatever they are.
fn staged(to: &TreeLanding, folder: &str, pieces: &[Piece]) -> Option<Vec<u8>> {
    let mut data = vec![0; pieces.iter().map(|p| p.len as usize).sum()];
    for piece in pieces {
        let path = to.staged_path(folder, piece.entry);
        let file = File::from(to.root.open_at(&path, OFlags::RDONLY, Mode::empty()).ok()?);
        file.read_exact_at(&mut data[piece.at as usize..][..piece.len as usize], piece.offset).ok()?;
    }
    Some(data)
}

fn run_pieces(run: &[(EntryIndex, Entry)]) -> Vec<Piece> {
    let mut at = 0;
    let mut pieces = Vec::with_capacity(run.len());
    for (index, entry) in run {
        let len = entry.size() as u32;
        let meta = Some(Meta { mode: entry.mode, mtime: entry.mtime });
        pieces.push(Piece { entry: *index, path: entry.path.clone(), offset: 0, at, len, meta });
        at += len;
    }
    pieces
}

fn refusal(e: &io::Error) -> (Code, String) {
    match rustix::io::Errno::from_io_error(e) {
        Some(rustix::io::Errno::XDEV | rustix::io::Errno::LOOP) => {
            (Code::BadName, "a symbolic link on the way leads out of the root".to_owned())
        }
        _ => (Code::WriteFailed, e.to_string()),
    }
}

fn prefix(hash: &Digest) -> u64 {
    u64::from_le_bytes(hash.0[..8].try_into().expect("a digest has 32 bytes"))
}
