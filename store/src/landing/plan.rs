//! Planning: for each record as it comes, what of it is here already.
//!
//! For an entry: may its name be used, does something stand there, may that be replaced ([`judge`](super::judge)). For
//! a chunk, in this order:
//!
//! 1. void, if every entry in it is refused;
//! 2. durable, if an earlier attempt at this very manifest journaled it and the staged file is there;
//! 3. kept, if the file under the final name is the same throughout (decided when the entry ends);
//! 4. found, if the staged file has these bytes all the same (hashed, never trusted by name);
//! 5. a hole, if it is zeros;
//! 6. copied, if an earlier version of the file, or an attempt that was set aside, has a chunk with this hash;
//! 7. missing.
//!
//! A job that was interrupted while names were given needs nothing else: what has its name already is found there in
//! step 3, by its bytes.

use std::fs::File;
use std::io;

use metra_core::chunker::zero_chunk_hash;
use metra_core::code::Code;
use metra_core::id::{ChunkHash, ChunkIndex, Digest, EntryIndex};
use metra_core::limits::CHUNK_MAX;
use metra_core::manifest::{Entry, EntryKind, Record};
use metra_core::sink::Resolution;
use rustix::fs::{Mode, OFlags};

use super::gate;
use super::judge::{Found, Names};
use super::reuse::{OLD_MANIFEST, Reuse};
use super::spool::Noted;
use super::staging::{FILES, read_whole};
use super::tree::TreeLanding;
use super::{LandError, Meta, Planned};
use crate::existing;

/// What happens to an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Fate {
    /// It is written and gets its final name.
    Write,
    /// It is the same already.
    Kept,
    /// It is the same already, but for its mode.
    KeptButMode,
    /// It is not transferred; a status says why.
    Refused,
    /// The source has withdrawn it.
    Withdrawn,
    /// It could not be written at the end; a status says why.
    Failed,
}

/// The state of planning. Records come in order.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) fates: Vec<Fate>,
    chunks: u32,
    names: Names,
    /// An earlier attempt may have left staged files.
    resumed: bool,
    /// A large entry whose chunks are coming.
    open: Option<Open>,
    /// Small files whose pack has not come yet.
    run: Vec<Member>,
    reuse: Reuse,
}

/// A large entry in the middle of its chunks.
struct Open {
    index: EntryIndex,
    entry: Entry,
    offset: u64,
    /// Bytes of the file that an earlier attempt staged.
    staged: u64,
    there: There,
}

/// What stands under the final name of a large entry.
enum There {
    /// Nothing of use.
    Nothing,
    /// A file that has not been looked at.
    Unread(Found),
    /// A file that has the chunks of the entry so far.
    Same(Same),
}

struct Same {
    found: Found,
    chunks: Vec<(u32, ChunkHash)>,
    /// How many of them are those of the entry; the first of these is chunk `first`.
    matched: usize,
    first: ChunkIndex,
}

/// A small file of a pack.
struct Member {
    index: EntryIndex,
    entry: Entry,
    found: Option<Found>,
}

impl Plan {
    pub(super) fn new(to: &super::staging::Staging, resumed: bool) -> io::Result<Self> {
        let mut reuse = Reuse::default();
        if resumed {
            reuse.learn_old(to)?;
        }
        Ok(Self { resumed, reuse, ..Self::default() })
    }

    pub(super) fn records(&mut self, to: &TreeLanding, records: &[Record]) -> Result<Planned, LandError> {
        let mut planned = Planned::default();
        self.names.look_again();
        for record in records {
            let known = self.note(to, record)? == Noted::Same;
            match record {
                Record::Entry(entry) => self.entry(to, entry, &mut planned)?,
                Record::Chunk { len, hash } => self.chunk(to, known, *len, hash, &mut planned)?,
                Record::StreamEnd { .. } => self.close(to, &mut planned)?,
                Record::Withdraw(entry) => self.withdraw(*entry, &mut planned),
            }
        }
        Ok(planned)
    }

    /// The manifest is complete.
    pub(super) fn end(&mut self, to: &TreeLanding) -> Result<(), LandError> {
        if to.spool.lock().expect("no panic while held").has_more() {
            self.set_aside(to)?;
        }
        Ok(())
    }

    /// Writes the record down unless it stands there from an earlier attempt.
    fn note(&mut self, to: &TreeLanding, record: &Record) -> Result<Noted, LandError> {
        let note = || {
            let mut spool = to.spool.lock().expect("no panic while held");
            spool.note(record).map_err(|e| LandError::new("manifest", e))
        };
        match note()? {
            Noted::Other => {
                self.set_aside(to)?;
                note()
            }
            noted => Ok(noted),
        }
    }

    /// From here on the source is not what it was in the earlier attempt. What that had up to here stays; the rest is
    /// set aside, to be reused by hash.
    fn set_aside(&mut self, to: &TreeLanding) -> Result<(), LandError> {
        let named = |e: io::Error| LandError::new("staging", e);
        // In this order: the journal must never speak of chunks that are not in their places, and numbers that the new
        // manifest gives anew must not be found in the old one.
        to.journal.cut(ChunkIndex(self.chunks))?;
        to.staging.set_aside(EntryIndex(self.fates.len() as u32)).map_err(named)?;
        let dir = &to.staging.dir;
        std::fs::copy(dir.join("manifest"), dir.join(OLD_MANIFEST)).map_err(named)?;
        to.spool.lock().expect("no panic while held").cut().map_err(named)?;
        self.reuse.learn_old(&to.staging).map_err(named)
    }

    fn withdraw(&mut self, entry: EntryIndex, planned: &mut Planned) {
        if let Some(fate) = self.fates.get_mut(entry.0 as usize) {
            *fate = Fate::Withdrawn;
        }
        self.names.give_back(entry);
        if let Some(open) = self.open.take_if(|open| open.index == entry)
            && let There::Same(same) = open.there
        {
            planned.resolutions.extend(same.indexes().map(|index| (index, Resolution::Void)));
        }
    }

    fn entry(&mut self, to: &TreeLanding, entry: &Entry, planned: &mut Planned) -> Result<(), LandError> {
        self.close(to, planned)?;
        let index = EntryIndex(self.fates.len() as u32);
        let verdict = self.names.judge(to, entry);
        if let Err((code, reason)) = verdict.refused.and_then(|()| gate::announced(to, entry)) {
            planned.statuses.push((index, entry.path.clone(), code, reason));
            self.fates.push(Fate::Refused);
        } else {
            self.fates.push(Fate::Write);
        }
        let writes = self.fates.last() == Some(&Fate::Write);
        if entry.is_large() {
            let mut staged = 0;
            if writes && self.resumed {
                self.reuse.adopt(&to.staging, index, entry).map_err(|e| LandError::new("staging", e))?;
                staged = to.staging.len(FILES, index).unwrap_or(0);
            }
            let there = verdict.found.filter(|_| writes).map_or(There::Nothing, There::Unread);
            self.open = Some(Open { index, entry: entry.clone(), offset: 0, staged, there });
        } else if entry.size() > 0 {
            self.run.push(Member { index, entry: entry.clone(), found: verdict.found });
        } else if let Some(found) = verdict.found.filter(|found| found.may_be_same && writes) {
            // Nothing to compare: links were by their text, empty files by their size.
            self.keep(index, &entry.path, found, planned);
        }
        Ok(())
    }

    fn chunk(
        &mut self,
        to: &TreeLanding,
        known: bool,
        len: u32,
        hash: &ChunkHash,
        planned: &mut Planned,
    ) -> Result<(), LandError> {
        let index = ChunkIndex(self.chunks);
        self.chunks += 1;
        // Only the journal of this very manifest counts.
        let journaled = known && to.journal.contains(index);
        if self.open.is_some() {
            self.large_chunk(to, index, journaled, len, hash, planned)
        } else {
            self.pack(to, index, journaled, hash, planned)
        }
    }

    fn large_chunk(
        &mut self,
        to: &TreeLanding,
        index: ChunkIndex,
        journaled: bool,
        len: u32,
        hash: &ChunkHash,
        planned: &mut Planned,
    ) -> Result<(), LandError> {
        let open = self.open.as_mut().expect("the caller checked");
        let (entry, offset) = (open.index, open.offset);
        let staged = open.staged;
        open.offset += u64::from(len);
        let ends = matches!(open.entry.kind, EntryKind::File { size } if open.offset >= size);
        let resolution = if self.fates[entry.0 as usize] != Fate::Write {
            Some(Resolution::Void)
        } else if journaled && staged >= offset + u64::from(len) {
            self.break_same(to, planned)?;
            Some(Resolution::Durable)
        } else if self.matches_existing(to, index, offset, len, hash) {
            None
        } else {
            self.break_same(to, planned)?;
            Some(self.resolve_part(to, entry, offset, index, len, hash)?)
        };
        planned.resolutions.extend(resolution.map(|r| (index, r)));
        if ends { self.close(to, planned) } else { Ok(()) }
    }

    /// Whether the chunk is, in its place, in the file that stands under the final name.
    fn matches_existing(
        &mut self,
        to: &TreeLanding,
        index: ChunkIndex,
        offset: u64,
        len: u32,
        hash: &ChunkHash,
    ) -> bool {
        let Some(open) = self.open.as_mut() else { return false };
        if let There::Unread(found) = open.there {
            open.there = There::Nothing;
            // A file that cannot be read is not reused; it will be replaced.
            if let Some((path, chunks)) = read_existing(to, &open.entry) {
                self.reuse.learn_final(path, &chunks);
                if found.may_be_same && offset == 0 {
                    open.there = There::Same(Same { found, chunks, matched: 0, first: index });
                }
            }
        }
        let There::Same(same) = &mut open.there else { return false };
        let equal = same.chunks.get(same.matched) == Some(&(len, *hash));
        same.matched += usize::from(equal);
        equal
    }

    /// The file that stands there is not the same after all: what matched so far is copied from it.
    fn break_same(&mut self, to: &TreeLanding, planned: &mut Planned) -> Result<(), LandError> {
        let Some(open) = self.open.as_mut() else { return Ok(()) };
        let entry = open.index;
        let There::Same(same) = std::mem::replace(&mut open.there, There::Nothing) else { return Ok(()) };
        let mut offset = 0;
        for (index, (len, hash)) in same.indexes().zip(&same.chunks) {
            let resolution = self.resolve_part(to, entry, offset, index, *len, hash)?;
            planned.resolutions.push((index, resolution));
            offset += u64::from(*len);
        }
        Ok(())
    }

    /// The large entry has all its chunks.
    fn close(&mut self, to: &TreeLanding, planned: &mut Planned) -> Result<(), LandError> {
        let Some(open) = &self.open else { return Ok(()) };
        let whole = match &open.there {
            There::Same(same) => same.matched == same.chunks.len() && open.offset == open.entry.size(),
            There::Nothing | There::Unread(_) => false,
        };
        if !whole {
            self.break_same(to, planned)?;
            self.open = None;
        } else if let Some(open) = self.open.take()
            && let There::Same(same) = open.there
        {
            planned.resolutions.extend(same.indexes().map(|index| (index, Resolution::Kept)));
            self.keep(open.index, &open.entry.path, same.found, planned);
        }
        Ok(())
    }

    fn keep(&mut self, index: EntryIndex, path: &str, found: Found, planned: &mut Planned) {
        let (fate, reason) = match found.same_mode {
            true => (Fate::Kept, "unchanged"),
            false => (Fate::KeptButMode, "unchanged but for its mode"),
        };
        self.fates[index.0 as usize] = fate;
        planned.statuses.push((index, path.to_owned(), Code::Ok, reason.to_owned()));
    }

    fn pack(
        &mut self,
        to: &TreeLanding,
        index: ChunkIndex,
        journaled: bool,
        hash: &ChunkHash,
        planned: &mut Planned,
    ) -> Result<(), LandError> {
        let run = std::mem::take(&mut self.run);
        let writes = |m: &Member| self.fates[m.index.0 as usize] == Fate::Write;
        let staged = |m: &Member| to.staging.len(FILES, m.index) == Some(m.entry.size());
        let resolution = if !run.iter().any(writes) {
            Resolution::Void
        } else if journaled && run.iter().all(|m| !writes(m) || staged(m)) {
            Resolution::Durable
        } else if let Some(pack) = self.assemble(to, &run, hash) {
            to.journal.distrust(index)?;
            self.take(to, &run, &pack, planned)?
        } else {
            to.journal.distrust(index)?;
            self.copy_pack(to, &run, hash)?
        };
        planned.resolutions.push((index, resolution));
        Ok(())
    }

    /// Puts a pack together from the staged files and those under the final names, if these are its bytes.
    fn assemble(&self, to: &TreeLanding, run: &[Member], hash: &ChunkHash) -> Option<Pack> {
        let is_there = |m: &Member| m.found.is_some_and(|f| f.size == m.entry.size());
        // Most packs that are not here are found out without a look at the disk.
        if !self.resumed && !run.iter().all(is_there) {
            return None;
        }
        let mut data = vec![0; run.iter().map(|m| m.entry.size() as usize).sum()];
        let mut from_staging = Vec::with_capacity(run.len());
        let mut at = 0;
        for member in run {
            let out = &mut data[at..][..member.entry.size() as usize];
            at += out.len();
            let staged = self.resumed && to.staging.read_whole(FILES, member.index, out);
            from_staging.push(staged);
            let last = staged || read_whole(&to.root, &to.place.path(&member.entry.path), out);
            if !last {
                return None;
            }
        }
        (Digest::of(&data) == *hash).then_some(Pack { data, from_staging })
    }

    /// Takes a pack that was put together: keeps, stages or leaves each of its files.
    fn take(
        &mut self,
        to: &TreeLanding,
        run: &[Member],
        pack: &Pack,
        planned: &mut Planned,
    ) -> Result<Resolution, LandError> {
        let mut at = 0;
        let mut resolution = Resolution::Kept;
        for (member, from_staging) in run.iter().zip(&pack.from_staging) {
            let data = &pack.data[at..][..member.entry.size() as usize];
            at += data.len();
            if self.fates[member.index.0 as usize] != Fate::Write {
                continue;
            }
            match member.found {
                // The bytes are right; the attempt may have been interrupted before it set mode and time.
                _ if *from_staging => {
                    let dressed = to.staging.dress(member.index, meta_of(&member.entry));
                    dressed.map_err(|e| LandError::new(&member.entry.path, e))?;
                }
                Some(found) if found.may_be_same => {
                    self.keep(member.index, &member.entry.path, found, planned);
                    continue;
                }
                _ => stage(to, member, data)?,
            }
            resolution = Resolution::Written;
        }
        Ok(resolution)
    }

    /// Steps 6 and 7 for a pack.
    fn copy_pack(&self, to: &TreeLanding, run: &[Member], hash: &ChunkHash) -> Result<Resolution, LandError> {
        let len = run.iter().map(|m| m.entry.size() as u32).sum();
        let Some(data) = self.reuse.find(&to.root, &to.staging, len, hash) else {
            return Ok(Resolution::Missing);
        };
        let mut at = 0;
        for member in run {
            let size = member.entry.size() as usize;
            stage(to, member, &data[at..][..size])?;
            at += size;
        }
        Ok(Resolution::Written)
    }

    /// Steps 4 to 7 for a part of a large entry.
    fn resolve_part(
        &self,
        to: &TreeLanding,
        entry: EntryIndex,
        offset: u64,
        index: ChunkIndex,
        len: u32,
        hash: &ChunkHash,
    ) -> Result<Resolution, LandError> {
        let named = |e: io::Error| {
            let path = self.open.as_ref().map_or("staging", |open| open.entry.path.as_str());
            LandError::new(path, e)
        };
        to.journal.distrust(index)?;
        if self.resumed
            && to.staging.read_part(FILES, entry, offset, len).is_some_and(|data| Digest::of(&data) == *hash)
        {
            // It may have got no further than memory.
            to.staging.mark(entry);
            return Ok(Resolution::Written);
        }
        if len as usize == CHUNK_MAX && *hash == zero_chunk_hash() {
            to.staging.punch(entry, offset, u64::from(len)).map_err(named)?;
            return Ok(Resolution::Written);
        }
        if let Some(data) = self.reuse.find(&to.root, &to.staging, len, hash) {
            to.staging.write_part(entry, offset, &data).map_err(named)?;
            return Ok(Resolution::Written);
        }
        Ok(Resolution::Missing)
    }
}

/// The bytes of a pack, and which of its files are staged already.
struct Pack {
    data: Vec<u8>,
    from_staging: Vec<bool>,
}

impl Same {
    /// The chunks of the entry that matched.
    fn indexes(&self) -> impl Iterator<Item = ChunkIndex> + use<> {
        (self.first.0..).take(self.matched).map(ChunkIndex)
    }
}

fn meta_of(entry: &Entry) -> Meta {
    Meta { mode: entry.mode, mtime: entry.mtime }
}

fn stage(to: &TreeLanding, member: &Member, data: &[u8]) -> Result<(), LandError> {
    let staged = to.staging.write_whole(member.index, data, meta_of(&member.entry));
    staged.map_err(|e| LandError::new(&member.entry.path, e))
}

/// The chunks of the file that stands under an entry's final name.
fn read_existing(to: &TreeLanding, entry: &Entry) -> Option<(String, Vec<(u32, ChunkHash)>)> {
    let path = to.place.path(&entry.path);
    let flags = OFlags::RDONLY | OFlags::NONBLOCK;
    let file = File::from(to.root.open_at(&path, flags, Mode::empty()).ok()?);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let chunks = existing::chunks(&file, &to.root.join(&path), to.catalogue.as_ref()).ok()?;
    Some((path, chunks))
}
