//! The sink of a job: knows what is missing, asks for it.
//!
//! ```text
//!                    +--> Kept (final already)
//!                    +--> Durable (journal of an earlier attempt)
//!  Announced --plan--+--> Written (found on disk, or copied) --+
//!                    +--> Follows(another chunk) --------------+ when that one is written: copied
//!                    +--> Void (nobody needs it)               |
//!                    +--> Missing --poll_want--> Wanted --accept--> Landing --written--> Written --sync--> Durable
//!                           ^                      |                   |
//!                           +-- reattached, lost --+--- damaged -------+
//! ```
//!
//! The driver plans each batch of records with the disk ([`Resolution`]), hands arriving chunks to
//! [`accept`](Sink::accept), verifies and writes them, and syncs from time to time. The sink decides what to ask for,
//! how far ahead, and when the job is complete. Chunks are asked for in the order of the manifest.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use crate::code::Code;
use crate::credit::{Credit, CreditLimits};
use crate::id::{ChunkIndex, Digest};
use crate::limits;
use crate::manifest::{Ledger, LedgerError, LedgerLimits, Pushed, Record};
use crate::ranges::{IndexRange, push_index};

/// What the disk says of a chunk that was announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Not here.
    Missing,
    /// All entries in it were refused or withdrawn: it is not asked for.
    Void,
    /// Its entries have their final names and these bytes already.
    Kept,
    /// In its place and journaled by an earlier attempt.
    Durable,
    /// In its place now, verified by its hash, not yet synced.
    Written,
}

/// What becomes of a chunk that arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It was asked for: receive, verify and write it.
    Accept,
    /// It is here already, or is being received on another link: drop it.
    Duplicate,
    /// It was never asked for: the source breaks the protocol, or speaks to an earlier attachment. Drop it.
    Unwanted,
    /// It was asked for, and is not as long as its record says. Fault: the source; it would never come.
    WrongLength,
}

/// Why a job cannot go on. Fault: the source, or the path for [`SinkError::Damaged`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    /// Records do not continue where the last ones ended.
    #[error("records from {got} on, expected {expected}")]
    Gap {
        /// The next record expected.
        expected: u64,
        /// The one that came.
        got: u64,
    },
    /// The manifest breaks its grammar or a limit.
    #[error("manifest: {0}")]
    Ledger(#[from] LedgerError),
    /// The manifest is complete here and the root is another one.
    #[error("the root of the manifest is {ours}, the source says {theirs}")]
    Root {
        /// Computed here.
        ours: Digest,
        /// Sent.
        theirs: Digest,
    },
    /// The manifest has ended, and more records came, or the count of records is wrong.
    #[error("records after the end of the manifest")]
    AfterEnd,
    /// A chunk failed its hash on every attempt.
    #[error("chunk {0} arrived damaged {max} times", max = limits::CHUNK_ATTEMPTS)]
    Damaged(u32),
}

impl SinkError {
    /// The code that tells the source.
    pub fn code(&self) -> Code {
        match self {
            SinkError::Ledger(LedgerError::Grammar(_)) | SinkError::Gap { .. } | SinkError::AfterEnd => {
                Code::Protocol
            }
            SinkError::Ledger(_) => Code::Limit,
            SinkError::Root { .. } | SinkError::Damaged(_) => Code::Integrity,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum State {
    Announced,
    Missing,
    Follows,
    Wanted,
    Landing,
    Written,
    Syncing,
    Durable,
    Kept,
    Void,
}

/// What a sink asks for now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// In the order wanted.
    pub ranges: Vec<IndexRange>,
    /// Bytes of these chunks.
    pub bytes: u64,
    /// Bytes of the next chunk, if nothing but the allowance holds it up; else 0.
    pub held_up: u64,
    /// The credit holds up the next chunk: as much as may be is on its way.
    pub is_full: bool,
}

/// What the landing of a sink can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// What is written can be read back, so that a chunk whose bytes are here already is copied, not asked for.
    pub reads_back: bool,
    /// It holds in memory what comes early. What was asked for and what came early together then stay within the
    /// credit window.
    pub in_sequence: bool,
}

impl Default for Abilities {
    fn default() -> Self {
        Self { reads_back: true, in_sequence: false }
    }
}

/// What shapes a sink.
#[derive(Clone, Copy, Debug, Default)]
pub struct SinkOptions {
    /// Limits of the manifest.
    pub ledger: LedgerLimits,
    /// Limits of the credit window.
    pub credit: CreditLimits,
    /// What the landing can do.
    pub abilities: Abilities,
}

/// What a sink counts. Chunks unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SinkStats {
    /// Arrived, verified and written.
    pub received: u64,
    /// Bytes of these.
    pub received_bytes: u64,
    /// Failed their hash.
    pub damaged: u64,
    /// Arrived though they were here already.
    pub duplicates: u64,
    /// Did not have to be sent: found, kept, copied.
    pub reused: u64,
}

/// Where a job stands, seen from its sink. Bytes of chunks; each includes the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SinkProgress {
    /// Announced by the source.
    pub announced: u64,
    /// Verified and written, or not needed.
    pub verified: u64,
    /// Durable, kept or not needed.
    pub durable: u64,
}

/// The state machine of a sink. See the module's documentation.
#[derive(Debug)]
pub struct Sink {
    ledger: Ledger,
    states: Vec<State>,
    end: Option<Digest>,
    /// Records of the manifest that was given away for the finish.
    taken: Option<u64>,
    /// How many chunks are missing, and where the first of them may be.
    missing: u32,
    missing_from: u32,
    /// Chunks that the disk has been asked about.
    planned: u32,
    /// How often planning was started again.
    epoch: u32,
    credit: Credit,
    abilities: Abilities,
    /// Every chunk below is verified.
    low: u32,
    /// Bytes of the chunks below `low`.
    low_bytes: u64,
    attempts: HashMap<u32, u8>,
    by_hash: HashMap<u64, u32>,
    followers: HashMap<u32, Vec<u32>>,
    copies: VecDeque<(u32, u32)>,
    gone: Vec<u32>,
    have: Vec<IndexRange>,
    durable: Vec<IndexRange>,
    progress: SinkProgress,
    unsynced_bytes: u64,
    unfinished: u32,
    stats: SinkStats,
}

impl Sink {
    /// A sink that knows nothing yet.
    pub fn new(options: SinkOptions) -> Self {
        Self {
            ledger: Ledger::new(options.ledger),
            states: Vec::new(),
            end: None,
            taken: None,
            missing: 0,
            missing_from: 0,
            planned: 0,
            epoch: 0,
            credit: Credit::new(options.credit),
            abilities: options.abilities,
            low: 0,
            low_bytes: 0,
            attempts: HashMap::new(),
            by_hash: HashMap::new(),
            followers: HashMap::new(),
            copies: VecDeque::new(),
            gone: Vec::new(),
            have: Vec::new(),
            durable: Vec::new(),
            progress: SinkProgress::default(),
            unsynced_bytes: 0,
            unfinished: 0,
            stats: SinkStats::default(),
        }
    }

    /// What is known of the manifest.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Records known so far.
    pub fn records(&self) -> u64 {
        self.taken.unwrap_or_else(|| self.ledger.records())
    }

    /// The credit window, to be told the round-trip time and the limits.
    pub fn credit(&mut self) -> &mut Credit {
        &mut self.credit
    }

    /// Records have arrived; the first has the number `first`. Records that are known already (sent again after a
    /// link was lost) are skipped. Returns how many were skipped.
    pub fn on_records(&mut self, first: u64, records: &[Record]) -> Result<usize, SinkError> {
        let expected = self.records();
        if first > expected {
            return Err(SinkError::Gap { expected, got: first });
        }
        let known = ((expected - first) as usize).min(records.len());
        for record in &records[known..] {
            if self.end.is_some() {
                return Err(SinkError::AfterEnd);
            }
            match self.ledger.push(record)? {
                Pushed::Chunk(chunk) => {
                    debug_assert_eq!(chunk.0 as usize, self.states.len());
                    self.states.push(State::Announced);
                    self.unfinished += 1;
                    self.progress.announced += self.len(chunk.0);
                }
                Pushed::Withdrawn(entry) => {
                    // The chunks of a large file serve nobody else; a pack may still serve its other entries.
                    for index in self.ledger.chunks_of(entry) {
                        if self.ledger.chunk(ChunkIndex(index)).is_some_and(|c| !c.packed) {
                            self.void(index);
                        }
                    }
                }
                Pushed::Entry(_) | Pushed::StreamEnd(_) => {}
            }
        }
        Ok(known)
    }

    /// The source has come to the end of the manifest.
    pub fn on_end(&mut self, records: u64, root: Digest) -> Result<(), SinkError> {
        if records != self.records() {
            return Err(SinkError::Gap { expected: self.records(), got: records });
        }
        let ours = match self.end {
            Some(root) => root,
            None => self.ledger.finish()?,
        };
        if ours != root {
            return Err(SinkError::Root { ours, theirs: root });
        }
        self.end = Some(root);
        Ok(())
    }

    /// The root, once the manifest is complete and checked.
    pub fn root(&self) -> Option<Digest> {
        self.end
    }

    /// Gives the manifest away, for the finish; nothing is planned or asked for after that. A source that attaches
    /// again is told that all of it is known.
    pub fn take_ledger(&mut self) -> Ledger {
        self.taken = Some(self.records());
        std::mem::replace(&mut self.ledger, Ledger::new(LedgerLimits::default()))
    }

    /// Forgets what was planned: every chunk is announced and waits for a plan again. For a sink that finds that
    /// what an earlier attempt left is not of this manifest.
    pub fn replan(&mut self) {
        self.epoch += 1;
        self.states.fill(State::Announced);
        self.unfinished = self.states.len() as u32;
        (self.missing, self.missing_from, self.planned) = (0, 0, 0);
        (self.low, self.low_bytes) = (0, 0);
        self.by_hash.clear();
        self.followers.clear();
        self.copies.clear();
        // What was not reported yet is not true any more, and would take back what is asked for from here on.
        self.have.clear();
        self.durable.clear();
        self.gone.clear();
        self.progress.verified = 0;
        self.progress.durable = 0;
        self.unsynced_bytes = 0;
        self.credit.give_back(u64::MAX);
        self.stats.reused = 0;
    }

    /// How often planning was started again. What an arrival that was accepted in an earlier epoch came to is of no
    /// use, and must not be reported here.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The disk has spoken on a chunk that was announced.
    pub fn resolve(&mut self, chunk: ChunkIndex, resolution: Resolution) {
        let index = chunk.0;
        if self.state(index) != Some(State::Announced) {
            return;
        }
        match resolution {
            Resolution::Missing if self.is_withdrawn(index) => self.settle(index, State::Void),
            Resolution::Missing => {
                if !self.follow_twin(index) {
                    self.set_missing(index);
                }
            }
            Resolution::Void => self.settle(index, State::Void),
            Resolution::Kept => self.found(index, State::Kept),
            Resolution::Durable => self.found(index, State::Durable),
            Resolution::Written => {
                self.remember(index);
                self.stats.reused += 1;
                self.write_done(index);
            }
        }
    }

    /// The disk has been asked about `chunks` more chunks. Those of them that it has not spoken on wait for it, not for
    /// the source (whether a file is the same throughout is known at its end): they are reported as held, so that the
    /// source goes on. Should they turn out to be missing they are asked for all the same.
    pub fn planned(&mut self, chunks: u32) {
        let end = self.planned.saturating_add(chunks).min(self.states.len() as u32);
        for index in self.planned..end {
            if self.state(index) == Some(State::Announced) {
                push_index(&mut self.have, ChunkIndex(index));
            }
        }
        self.planned = end;
    }

    /// A chunk whose bytes are here under another index, to be copied by the driver: (from, to). After the copy:
    /// [`written`](Self::written) or [`copy_failed`](Self::copy_failed).
    pub fn poll_copy(&mut self) -> Option<(ChunkIndex, ChunkIndex)> {
        loop {
            let (from, to) = self.copies.pop_front()?;
            if self.state(to) == Some(State::Follows) {
                self.set(to, State::Landing);
                self.credit.spend(self.len(to));
                return Some((ChunkIndex(from), ChunkIndex(to)));
            }
        }
    }

    /// A copy did not give the right bytes: the chunk is asked for.
    pub fn copy_failed(&mut self, chunk: ChunkIndex) {
        if matches!(self.state(chunk.0), Some(State::Landing | State::Wanted)) {
            self.credit.give_back(self.len(chunk.0));
            self.set_missing(chunk.0);
        }
    }

    /// Chunks to ask for now, as far as the credit reaches. What is to be reported as held must be reported before.
    pub fn poll_want(&mut self) -> Vec<IndexRange> {
        self.poll_want_within(u64::MAX).ranges
    }

    /// The same, of at most `allowed` bytes: for a job that must not have more for the moment, whatever its credit.
    pub fn poll_want_within(&mut self, allowed: u64) -> Wants {
        let mut wants = Wants::default();
        let early = self.early_bytes();
        let mut available = self.credit.available().saturating_sub(early);
        while self.missing > 0 && wants.ranges.len() < limits::RANGES_MAX {
            let index = self.missing_from;
            if self.state(index) != Some(State::Missing) {
                self.missing_from += 1;
                continue;
            }
            let len = self.len(index);
            // A window smaller than a chunk must not stop the job; nor must what came early hold up what it waits for.
            let must = self.credit.outstanding() + early == 0 || (early > 0 && index == self.low);
            if len > available && !must {
                wants.is_full = true;
                break;
            }
            if wants.bytes + len > allowed {
                wants.held_up = len;
                break;
            }
            self.missing -= 1;
            self.missing_from += 1;
            self.set(index, State::Wanted);
            self.credit.spend(len);
            available = available.saturating_sub(len);
            wants.bytes += len;
            push_index(&mut wants.ranges, ChunkIndex(index));
        }
        wants
    }

    /// A chunk of `len` bytes begins to arrive.
    pub fn accept(&mut self, chunk: ChunkIndex, len: u32) -> Arrival {
        match self.state(chunk.0) {
            Some(State::Wanted) if u64::from(len) == self.len(chunk.0) => {
                self.set(chunk.0, State::Landing);
                Arrival::Accept
            }
            Some(State::Wanted) => Arrival::WrongLength,
            Some(State::Landing | State::Written | State::Syncing | State::Durable | State::Kept) => {
                self.stats.duplicates += 1;
                Arrival::Duplicate
            }
            _ => Arrival::Unwanted,
        }
    }

    /// An accepted chunk did not arrive whole (its stream or link broke): it is missing again.
    pub fn lost(&mut self, chunk: ChunkIndex) {
        self.copy_failed(chunk);
    }

    /// An accepted chunk is verified and written; `received`, or copied.
    pub fn written(&mut self, now: Instant, chunk: ChunkIndex, received: bool) {
        if self.state(chunk.0) != Some(State::Landing) {
            return;
        }
        let len = self.len(chunk.0);
        if received {
            self.credit.landed(now, len);
            self.stats.received += 1;
            self.stats.received_bytes += len;
        } else {
            // Copying says nothing of the rate of the links.
            self.credit.give_back(len);
            self.stats.reused += 1;
        }
        self.write_done(chunk.0);
    }

    /// An accepted chunk failed its hash. It is sent again, unless that was the last attempt.
    pub fn damaged(&mut self, chunk: ChunkIndex) -> Result<(), SinkError> {
        if self.state(chunk.0) != Some(State::Landing) {
            return Ok(());
        }
        self.stats.damaged += 1;
        let times = self.attempts.entry(chunk.0).or_insert(0);
        *times += 1;
        if *times >= limits::CHUNK_ATTEMPTS {
            return Err(SinkError::Damaged(chunk.0));
        }
        // The source sends it again when it hears `Damaged`; it stays wanted, its credit stays spent.
        self.set(chunk.0, State::Wanted);
        Ok(())
    }

    /// The source no longer has a chunk: it is not waited for. Entries in it that the source does not withdraw must
    /// not get their final names: see [`gone_chunks`](Self::gone_chunks). Returns whether it was still needed.
    pub fn gone(&mut self, chunk: ChunkIndex) -> bool {
        let needed = self.void(chunk.0);
        if needed {
            self.gone.push(chunk.0);
        }
        needed
    }

    /// Chunks that the source could not deliver.
    pub fn gone_chunks(&self) -> &[u32] {
        &self.gone
    }

    /// The link that carried the requests is gone and another has taken over: what was asked for and has not begun
    /// to arrive is missing again.
    pub fn reattached(&mut self) {
        let wanted: Vec<u32> = self.indexes_in(State::Wanted).collect();
        for index in wanted {
            self.copy_failed(ChunkIndex(index));
        }
    }

    /// Chunks written since the last sync began; they are durable when the driver says [`synced`](Self::synced).
    pub fn begin_sync(&mut self) -> Vec<IndexRange> {
        let mut ranges = Vec::new();
        let written: Vec<u32> = self.indexes_in(State::Written).collect();
        for index in written {
            self.states[index as usize] = State::Syncing;
            push_index(&mut ranges, ChunkIndex(index));
        }
        self.unsynced_bytes = 0;
        ranges
    }

    /// The disk has synced and the journal has committed these.
    pub fn synced(&mut self, ranges: &[IndexRange]) {
        for range in ranges {
            for index in range.first.0..range.first.0 + range.count {
                if self.state(index) == Some(State::Syncing) {
                    self.states[index as usize] = State::Durable;
                    self.progress.durable += self.len(index);
                    self.unfinished -= 1;
                    push_index(&mut self.durable, ChunkIndex(index));
                }
            }
        }
    }

    /// Bytes written and not yet given to a sync.
    pub fn unsynced_bytes(&self) -> u64 {
        self.unsynced_bytes
    }

    /// Chunks newly held, to be reported with `Have`; at most a frame's worth.
    pub fn poll_have(&mut self) -> Vec<IndexRange> {
        drain(&mut self.have)
    }

    /// Chunks newly durable, to be reported with `Durable`; at most a frame's worth.
    pub fn poll_durable(&mut self) -> Vec<IndexRange> {
        drain(&mut self.durable)
    }

    /// Everything to report again to a source that has attached anew: (held, durable).
    pub fn report_all(&mut self) {
        self.have.clear();
        self.durable.clear();
        for (index, state) in self.states.iter().enumerate() {
            let index = ChunkIndex(index as u32);
            match state {
                State::Written | State::Syncing => push_index(&mut self.have, index),
                State::Durable | State::Kept | State::Void => push_index(&mut self.durable, index),
                State::Announced if index.0 < self.planned => push_index(&mut self.have, index),
                _ => {}
            }
        }
    }

    /// Whether every chunk is written (durable or not) or not needed, and the manifest is complete.
    pub fn is_verified(&self) -> bool {
        self.end.is_some() && self.progress.verified == self.progress.announced
    }

    /// Whether every chunk is durable or not needed, and the manifest is complete.
    pub fn is_complete(&self) -> bool {
        self.end.is_some() && self.unfinished == 0
    }

    /// Where the job stands.
    pub fn progress(&self) -> SinkProgress {
        self.progress
    }

    /// Counters.
    pub fn stats(&self) -> SinkStats {
        self.stats
    }

    /// Bytes that a landing in sequence holds in memory because something before them is missing.
    fn early_bytes(&mut self) -> u64 {
        if !self.abilities.in_sequence {
            return 0;
        }
        let verified = |s: Option<State>| {
            matches!(s, Some(State::Written | State::Syncing | State::Durable | State::Kept | State::Void))
        };
        while verified(self.state(self.low)) {
            self.low_bytes += self.len(self.low);
            self.low += 1;
        }
        self.progress.verified.saturating_sub(self.low_bytes)
    }

    fn state(&self, index: u32) -> Option<State> {
        self.states.get(index as usize).copied()
    }

    fn set(&mut self, index: u32, state: State) {
        self.states[index as usize] = state;
    }

    fn set_missing(&mut self, index: u32) {
        self.set(index, State::Missing);
        self.missing += 1;
        self.missing_from = self.missing_from.min(index);
    }

    /// Whether the chunk is part of a large entry that the source has withdrawn.
    fn is_withdrawn(&self, index: u32) -> bool {
        let chunk = self.ledger.chunk(ChunkIndex(index));
        chunk.is_some_and(|c| !c.packed && self.ledger.is_withdrawn(c.first_entry))
    }

    fn len(&self, index: u32) -> u64 {
        self.ledger.chunk(ChunkIndex(index)).map_or(0, |c| u64::from(c.len))
    }

    fn indexes_in(&self, state: State) -> impl Iterator<Item = u32> + '_ {
        self.states.iter().enumerate().filter(move |(_, s)| **s == state).map(|(i, _)| i as u32)
    }

    /// Ends a chunk's life without a sync.
    fn settle(&mut self, index: u32, state: State) {
        let len = self.len(index);
        self.set(index, state);
        self.progress.verified += len;
        self.progress.durable += len;
        self.unfinished -= 1;
        push_index(&mut self.durable, ChunkIndex(index));
        if state == State::Void {
            self.abandon_followers(index);
        } else {
            self.release_followers(index);
        }
    }

    fn found(&mut self, index: u32, state: State) {
        self.remember(index);
        self.stats.reused += 1;
        self.settle(index, state);
    }

    /// A chunk that is not here yet is not needed any more. Returns whether that changed anything.
    fn void(&mut self, index: u32) -> bool {
        match self.state(index) {
            Some(State::Wanted) => self.credit.give_back(self.len(index)),
            Some(State::Missing) => self.missing -= 1,
            Some(State::Announced | State::Follows) => {}
            _ => return false,
        }
        self.settle(index, State::Void);
        true
    }

    fn write_done(&mut self, index: u32) {
        let len = self.len(index);
        self.set(index, State::Written);
        self.progress.verified += len;
        self.unsynced_bytes += len;
        push_index(&mut self.have, ChunkIndex(index));
        self.release_followers(index);
    }

    fn is_readable(&self, index: u32) -> bool {
        matches!(self.state(index), Some(State::Written | State::Syncing | State::Durable | State::Kept))
    }

    /// Remembers a chunk as the first with its hash.
    fn remember(&mut self, index: u32) {
        if self.abilities.reads_back
            && let Some(info) = self.ledger.chunk(ChunkIndex(index))
        {
            self.by_hash.entry(prefix(&info.hash)).or_insert(index);
        }
    }

    /// If an earlier chunk has the same bytes and is here or will come, `index` follows it.
    fn follow_twin(&mut self, index: u32) -> bool {
        if !self.abilities.reads_back {
            return false;
        }
        let Some(info) = self.ledger.chunk(ChunkIndex(index)) else { return false };
        let first = *self.by_hash.entry(prefix(&info.hash)).or_insert(index);
        if first == index || self.ledger.chunk(ChunkIndex(first)).is_none_or(|twin| twin.hash != info.hash) {
            return false;
        }
        if matches!(self.state(first), Some(State::Void | State::Announced)) {
            self.by_hash.insert(prefix(&info.hash), index);
            return false;
        }
        self.set(index, State::Follows);
        if self.is_readable(first) {
            self.copies.push_back((first, index));
        } else {
            self.followers.entry(first).or_default().push(index);
        }
        true
    }

    /// The chunk that others wait for is here: they are copied from it.
    fn release_followers(&mut self, index: u32) {
        for follower in self.followers.remove(&index).unwrap_or_default() {
            self.copies.push_back((index, follower));
        }
    }

    /// The chunk that others wait for will not come: one of them is asked for, and the others wait for that.
    fn abandon_followers(&mut self, index: u32) {
        let mut left = self.followers.remove(&index).unwrap_or_default();
        left.retain(|follower| self.state(*follower) == Some(State::Follows));
        if left.is_empty() {
            return;
        }
        let next = left.remove(0);
        if let Some(info) = self.ledger.chunk(ChunkIndex(next)) {
            self.by_hash.insert(prefix(&info.hash), next);
        }
        self.set_missing(next);
        if !left.is_empty() {
            self.followers.insert(next, left);
        }
    }
}

fn prefix(hash: &Digest) -> u64 {
    u64::from_le_bytes(hash.0[..8].try_into().expect("a digest has 32 bytes"))
}

fn drain(ranges: &mut Vec<IndexRange>) -> Vec<IndexRange> {
    let count = ranges.len().min(limits::RANGES_MAX);
    ranges.drain(..count).collect()
}

#[cfg(test)]
#[path = "sink_tests.rs"]
mod tests;
