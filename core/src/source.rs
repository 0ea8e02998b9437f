//! The source of a job: knows what there is, answers requests.
//!
//! ```text
//!  reader --push--> ledger --poll_records--> Records, ManifestEnd frames
//!                      |
//!  Want  --want()--> queue --next_chunk(link)--> in flight on a link --have()--> held --durable()--> durable
//!                      ^                                  |
//!                      +---- link_lost(link), damaged() --+
//! ```
//!
//! Call order: `push` and `finish` as the reader reads; `begin` when the job is opened for the first time; `ready` when a sink
//! has attached (again), before anything but the first records is polled; the frames of the sink in the order of arrival.

use std::collections::{HashMap, VecDeque};

use crate::code::Code;
use crate::id::{ChunkIndex, Digest};
use crate::limits;
use crate::manifest::{ChunkInfo, Ledger, LedgerError, LedgerLimits, Pushed, Record};
use crate::ranges::{IndexRange, IndexSet};

/// One link among those of a session, as the core sees it.
pub type LinkNumber = u64;

/// A request of the sink that makes no sense. Fault: the sink.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// It asked for, or confirmed, a chunk that was never announced.
    #[error("chunk {0} was never announced")]
    UnknownChunk(u32),
    /// It says that it holds more records than were sent.
    #[error("the sink claims {claimed} records of {sent}")]
    UnknownRecords {
        /// What it says.
        claimed: u64,
        /// What there is.
        sent: u64,
    },
    /// It asks in one frame for more chunks than there are.
    #[error("a request names {asked} chunks of {announced}")]
    Repeats {
        /// What it asks for.
        asked: u64,
        /// What there is.
        announced: u32,
    },
    /// It reports a chunk damaged that it never asked for.
    #[error("chunk {0} was never asked for")]
    NotAsked(u32),
    /// A chunk was reported damaged, or refused, too often.
    #[error("chunk {0} arrived damaged {max} times", max = limits::CHUNK_ATTEMPTS)]
    Damaged(u32),
}

impl SourceError {
    /// The code that tells the sink.
    pub fn code(&self) -> Code {
        match self {
            SourceError::Damaged(_) => Code::Integrity,
            _ => Code::Protocol,
        }
    }
}

/// A chunk on its way out. A chunk that is asked for again while it is under way is sent a second time; what becomes
/// of the first sending then says nothing of the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sending {
    /// Which chunk.
    pub chunk: ChunkIndex,
    /// Its length and hash.
    pub info: ChunkInfo,
    link: LinkNumber,
    number: u64,
}

/// The state machine of a source. See the module's documentation.
#[derive(Debug)]
pub struct Source {
    ledger: Ledger,
    root: Option<Digest>,
    attached: bool,
    next_record: u64,
    /// Bytes of records that may still go out before the sink is ready.
    early: usize,
    end_sent: bool,
    /// In the order to send. What is not in `queued` any more is passed over.
    queue: VecDeque<IndexRange>,
    queued: IndexSet,
    /// The latest sending of each chunk that was sent and is not held yet: its link and number.
    in_flight: HashMap<u32, (LinkNumber, u64)>,
    sendings: u64,
    damaged: HashMap<u32, u8>,
    held: IndexSet,
    durable: IndexSet,
    resolved: IndexSet,
    resolved_bytes: u64,
    held_bytes: u64,
    durable_bytes: u64,
    sent_once: IndexSet,
    stats: SourceStats,
}

/// What a source counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceStats {
    /// Chunks handed to a link, repeats included.
    pub chunks_sent: u64,
    /// Of these, the repeats.
    pub chunks_resent: u64,
    /// Bytes handed to a link, repeats included.
    pub bytes_sent: u64,
    /// Of these, the repeats.
    pub bytes_resent: u64,
}

/// Where a job stands, seen from its source. Bytes of chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceProgress {
    /// Read and announced.
    pub announced: u64,
    /// The sink has asked for them, or has them.
    pub resolved: u64,
    /// Held by the sink, verified.
    pub held: u64,
    /// Durable at the sink.
    pub durable: u64,
}

impl Source {
    /// A source that has read nothing yet.
    pub fn new(limits: LedgerLimits) -> Self {
        Self {
            ledger: Ledger::new(limits),
            root: None,
            attached: false,
            next_record: 0,
            early: 0,
            end_sent: false,
            queue: VecDeque::new(),
            queued: IndexSet::default(),
            in_flight: HashMap::new(),
            sendings: 0,
            damaged: HashMap::new(),
            held: IndexSet::default(),
            durable: IndexSet::default(),
            resolved: IndexSet::default(),
            resolved_bytes: 0,
            held_bytes: 0,
            durable_bytes: 0,
            sent_once: IndexSet::default(),
            stats: SourceStats::default(),
        }
    }

    /// The reader has produced a record.
    pub fn push(&mut self, record: &Record) -> Result<Pushed, LedgerError> {
        self.ledger.push(record)
    }

    /// The reader has come to its end. Returns the root.
    pub fn finish(&mut self) -> Result<Digest, LedgerError> {
        let root = self.ledger.finish()?;
        self.root = Some(root);
        Ok(root)
    }

    /// What has been read so far.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The root, once everything is read.
    pub fn root(&self) -> Option<Digest> {
        self.root
    }

    /// A sink has attached and holds `from_record` records of this run. What it asked for earlier is forgotten: it
    /// asks again.
    pub fn ready(&mut self, from_record: u64) -> Result<(), SourceError> {
        if from_record > self.ledger.records() {
            return Err(SourceError::UnknownRecords { claimed: from_record, sent: self.ledger.records() });
        }
        self.attached = true;
        self.early = 0;
        self.next_record = from_record;
        self.end_sent = false;
        self.queue.clear();
        self.queued = IndexSet::default();
        self.in_flight.clear();
        Ok(())
    }

    /// The job is opened for the first time, so its sink can hold nothing of this run: the first records, at most
    /// [`EARLY_MAX`](limits::EARLY_MAX) bytes of them, need not wait until it is [`ready`](Self::ready). What it says then
    /// counts all the same.
    pub fn begin(&mut self) {
        self.early = limits::EARLY_MAX;
        self.next_record = 0;
    }

    /// The sink's control link is gone; nothing is announced until it is [`ready`](Self::ready) again.
    pub fn detach(&mut self) {
        self.attached = false;
        self.early = 0;
    }

    /// The next records to send, at most about `max_bytes` of them encoded, with the number of the first. `None`:
    /// nothing to send now.
    pub fn poll_records(&mut self, max_bytes: usize) -> Option<(u64, Vec<Record>)> {
        if self.next_record >= self.ledger.records() {
            return None;
        }
        let max_bytes = if self.attached { max_bytes } else { max_bytes.min(self.early) };
        let first = self.next_record;
        let mut records = Vec::new();
        let mut bytes = 0;
        for record in self.ledger.replay(first) {
            let more = bytes + record.encoded_len();
            if more > max_bytes && (!records.is_empty() || !self.attached) {
                break;
            }
            bytes = more;
            records.push(record);
        }
        if !self.attached {
            // What does not fit does not go out in part, nor does anything after it.
            self.early = if records.is_empty() { 0 } else { self.early.saturating_sub(bytes) };
        }
        if records.is_empty() {
            return None;
        }
        self.next_record += records.len() as u64;
        Some((first, records))
    }

    /// The end of the manifest, once, after all records.
    pub fn poll_end(&mut self) -> Option<(u64, Digest)> {
        let root = self.root?;
        if !self.attached || self.end_sent || self.next_record < self.ledger.records() {
            return None;
        }
        self.end_sent = true;
        Some((self.ledger.records(), root))
    }

    /// The sink asks for chunks. What is queued already is not queued twice; what is in flight is queued again, since
    /// a sink asks twice only for what it has given up.
    pub fn want(&mut self, ranges: &[IndexRange]) -> Result<(), SourceError> {
        let announced = self.ledger.chunks();
        let asked = ranges.iter().map(|r| u64::from(r.count)).sum();
        // A frame must not cost more time than one pass over the chunks.
        if asked > u64::from(announced) {
            return Err(SourceError::Repeats { asked, announced });
        }
        for range in ranges {
            self.check(range)?;
            for index in indexes(range) {
                if !self.queued.insert(ChunkIndex(index)) {
                    continue;
                }
                self.in_flight.remove(&index);
                push_back(&mut self.queue, index);
                self.resolve(index);
            }
        }
        self.compact();
        Ok(())
    }

    /// The sink holds chunks.
    pub fn have(&mut self, ranges: &[IndexRange]) -> Result<(), SourceError> {
        for range in ranges {
            self.check(range)?;
            for index in indexes(range) {
                self.in_flight.remove(&index);
                self.queued.remove(ChunkIndex(index));
                self.resolve(index);
                if self.held.insert(ChunkIndex(index)) {
                    self.held_bytes += self.len(index);
                }
            }
        }
        Ok(())
    }

    /// The sink has made chunks durable; it holds them, too.
    pub fn durable(&mut self, ranges: &[IndexRange]) -> Result<(), SourceError> {
        self.have(ranges)?;
        for index in ranges.iter().flat_map(indexes) {
            if self.durable.insert(ChunkIndex(index)) {
                self.durable_bytes += self.len(index);
            }
        }
        Ok(())
    }

    /// The sink received a chunk damaged. The driver checks its own copy, then the chunk is sent again unless it
    /// was damaged too often.
    pub fn damaged(&mut self, chunk: ChunkIndex) -> Result<(), SourceError> {
        self.check(&IndexRange { first: chunk, count: 1 })?;
        if !self.resolved.contains(chunk) {
            return Err(SourceError::NotAsked(chunk.0));
        }
        self.count_attempt(chunk)?;
        self.in_flight.remove(&chunk.0);
        self.queue_first(chunk);
        Ok(())
    }

    /// The next chunk to send on `link`, which has room now. It is in flight there from here on.
    pub fn next_chunk(&mut self, link: LinkNumber) -> Option<Sending> {
        loop {
            let front = self.queue.front_mut()?;
            let index = front.first.0;
            if front.count > 1 {
                front.first = ChunkIndex(index + 1);
                front.count -= 1;
            } else {
                self.queue.pop_front();
            }
            if !self.queued.remove(ChunkIndex(index)) {
                continue; // confirmed meanwhile
            }
            let info = self.ledger.chunk(ChunkIndex(index)).expect("checked when it was queued");
            return Some(self.send(ChunkIndex(index), info, link));
        }
    }

    /// A chunk that is in flight is sent on `link` as well, and is in flight there from here on. `None`: it is not, or it is held.
    pub fn send_again(&mut self, chunk: ChunkIndex, link: LinkNumber) -> Option<Sending> {
        self.in_flight.contains_key(&chunk.0).then_some(())?;
        let info = self.ledger.chunk(chunk)?;
        Some(self.send(chunk, info, link))
    }

    fn send(&mut self, chunk: ChunkIndex, info: ChunkInfo, link: LinkNumber) -> Sending {
        self.sendings += 1;
        self.in_flight.insert(chunk.0, (link, self.sendings));
        Sending { chunk, info, link, number: self.sendings }
    }

    /// A chunk has been handed to its link whole.
    pub fn sent(&mut self, sending: &Sending) {
        self.stats.chunks_sent += 1;
        self.stats.bytes_sent += u64::from(sending.info.len);
        if !self.sent_once.insert(sending.chunk) {
            self.stats.chunks_resent += 1;
            self.stats.bytes_resent += u64::from(sending.info.len);
        }
    }

    /// A chunk could not be handed to its link: it waits for the next link that has room.
    pub fn send_failed(&mut self, sending: &Sending) {
        if self.abandon(sending) {
            self.queue_first(sending.chunk);
        }
    }

    /// The sink refused a chunk while it was being sent: it has it, and says so, or it will ask again.
    pub fn not_wanted(&mut self, sending: &Sending) {
        self.abandon(sending);
    }

    /// The sink stopped a chunk because it could not make sense of it. It is sent again, but not for ever.
    pub fn refused(&mut self, sending: &Sending) -> Result<(), SourceError> {
        if self.abandon(sending) {
            self.count_attempt(sending.chunk)?;
            self.queue_first(sending.chunk);
        }
        Ok(())
    }

    /// A link is gone: what was in flight on it is queued again, at the front. If no sink is attached, as the link had the
    /// control, it is left to be asked for: the next that attaches asks for all that has not begun to arrive, and what
    /// was sent before would be sent twice. Returns how many chunks.
    pub fn link_lost(&mut self, link: LinkNumber) -> usize {
        let mut lost: Vec<u32> =
            self.in_flight.iter().filter(|(_, (l, _))| *l == link).map(|(i, _)| *i).collect();
        lost.sort_unstable_by(|a, b| b.cmp(a));
        for index in &lost {
            self.in_flight.remove(index);
            if self.attached {
                self.queue_first(ChunkIndex(*index));
            }
        }
        lost.len()
    }

    /// A chunk cannot be had any more; it is not sent.
    pub fn gone(&mut self, sending: &Sending) {
        self.abandon(sending);
    }

    /// Whether chunks wait for a link.
    pub fn has_queued(&self) -> bool {
        !self.queued.is_empty()
    }

    /// How many bytes the next chunk has that waits for a link, and about how many all of them, by the mean of the manifest.
    /// `None`: none waits.
    pub fn queued_bytes(&self) -> Option<(u64, u64)> {
        let next =
            self.queue.iter().flat_map(indexes).find(|index| self.queued.contains(ChunkIndex(*index)))?;
        let mean = self.ledger.chunk_bytes() / u64::from(self.ledger.chunks().max(1));
        let next = self.len(next);
        Some((next, (u64::from(self.queued.count()) * mean).max(next)))
    }

    /// Whether the sink holds the chunk.
    pub fn is_held(&self, chunk: ChunkIndex) -> bool {
        self.held.contains(chunk)
    }

    /// Where the job stands.
    pub fn progress(&self) -> SourceProgress {
        SourceProgress {
            announced: self.ledger.chunk_bytes(),
            resolved: self.resolved_bytes,
            held: self.held_bytes,
            durable: self.durable_bytes,
        }
    }

    /// Counters.
    pub fn stats(&self) -> SourceStats {
        self.stats
    }

    /// Forgets that a sending is in flight. `false`: it was not; the chunk is confirmed, or sent again.
    fn abandon(&mut self, sending: &Sending) -> bool {
        let current = self.in_flight.get(&sending.chunk.0) == Some(&(sending.link, sending.number));
        if current {
            self.in_flight.remove(&sending.chunk.0);
        }
        current
    }

    fn count_attempt(&mut self, chunk: ChunkIndex) -> Result<(), SourceError> {
        let times = self.damaged.entry(chunk.0).or_insert(0);
        *times = times.saturating_add(1);
        if *times >= limits::CHUNK_ATTEMPTS { Err(SourceError::Damaged(chunk.0)) } else { Ok(()) }
    }

    fn queue_first(&mut self, chunk: ChunkIndex) {
        if self.queued.insert(chunk) {
            self.queue.push_front(IndexRange { first: chunk, count: 1 });
            self.compact();
        }
    }

    /// Drops what was confirmed from the queue before that makes it grow: a sink that asks and confirms in turn
    /// must not fill the memory.
    fn compact(&mut self) {
        if self.queue.len() < QUEUE_SLACK + 2 * self.queued.count() as usize {
            return;
        }
        let mut left = self.queued.clone();
        let mut queue = VecDeque::new();
        for index in self.queue.iter().flat_map(indexes) {
            if left.remove(ChunkIndex(index)) {
                push_back(&mut queue, index);
            }
        }
        self.queue = queue;
    }

    fn resolve(&mut self, index: u32) {
        if self.resolved.insert(ChunkIndex(index)) {
            self.resolved_bytes += self.len(index);
        }
    }

    fn len(&self, index: u32) -> u64 {
        self.ledger.chunk(ChunkIndex(index)).map_or(0, |c| u64::from(c.len))
    }

    fn check(&self, range: &IndexRange) -> Result<(), SourceError> {
        let last = u64::from(range.first.0) + u64::from(range.count);
        if range.count == 0 || last > u64::from(self.ledger.chunks()) {
            return Err(SourceError::UnknownChunk(
                range.first.0.saturating_add(range.count.saturating_sub(1)),
            ));
        }
        Ok(())
    }
}

/// Ranges that the queue may hold besides those that are still wanted.
const QUEUE_SLACK: usize = 1024;

fn push_back(queue: &mut VecDeque<IndexRange>, index: u32) {
    match queue.back_mut() {
        Some(last) if last.first.0 + last.count == index => last.count += 1,
        _ => queue.push_back(IndexRange { first: ChunkIndex(index), count: 1 }),
    }
}

fn indexes(range: &IndexRange) -> std::ops::Range<u32> {
    range.indexes()
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
