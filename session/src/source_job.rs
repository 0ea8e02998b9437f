//! A job seen from its source: reads ahead, announces, sends what is asked for.
//!
//! Tasks: the *reader* steps the disk as long as the sink keeps up; the *outbox* writes control frames; each link has
//! a few *senders*, which take the next wanted chunk when their link has room, so that a faster link takes more.
//! Frames of the sink change the state at once and wake them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use metra_core::code::Code;
use metra_core::id::{ChunkIndex, Digest, EntryIndex, Incarnation, JobId};
use metra_core::manifest::{ChunkInfo, Entry, EntryKind, LedgerLimits, Record, Segment};
use metra_core::source::{Sending, Source, SourceStats};
use metra_core::wire::{ChunkHeader, EntryStatus, Finished, Frame, ManifestEnd};
use metra_store::source::{Item, Loader, LocalFile, Part, Reader};
use metra_transport::{LinkId, Rt};
use tokio::sync::Notify;

use crate::budget::{Budget, Reservation};
use crate::job::{EntryReport, JobError, Reports};
use crate::link::LinkHandle;
use crate::progress::{Binding, Progress};

/// What shapes a source job.
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// Chunk data kept in memory after reading, until the sink has it. Bytes.
    pub ring: usize,
    /// How far the reader runs ahead of what the sink has asked for or confirmed, at first and at most. Bytes.
    pub lookahead: (u64, u64),
    /// What is read between two looks at the state. Bytes.
    pub step: usize,
    /// Chunks on their way to one link's transport at a time.
    pub senders: usize,
    /// Limits of the manifest.
    pub ledger: LedgerLimits,
    /// What is read cannot be read again (standard input): it is kept in memory until the sink has it, and reading
    /// waits for that.
    pub retain: bool,
    /// Memory for manifests, shared with other jobs.
    pub budget: Option<Arc<Budget>>,
}

impl Default for SourceConfig {
    fn default() -> Self {
        Self {
            ring: 64 << 20,
            lookahead: (48 << 20, 512 << 20),
            step: 4 << 20,
            senders: 4,
            ledger: LedgerLimits::default(),
            retain: false,
            budget: None,
        }
    }
}

/// How a source job ended well.
#[derive(Clone, Debug)]
pub struct SourceOutcome {
    /// What the sink said.
    pub finished: Finished,
    /// Records, entries, chunks and bytes of the manifest.
    pub records: u64,
    /// Entries of the manifest.
    pub entries: u64,
    /// Chunks of the manifest.
    pub chunks: u64,
    /// Entries withdrawn.
    pub withdrawn: u64,
    /// What was sent.
    pub stats: SourceStats,
    /// From the last chunk sent to the word that everything is verified and final.
    pub verify: Duration,
}

/// A job that sends. See the module's documentation.
pub struct SourceJob {
    id: JobId,
    rt: Rt,
    config: SourceConfig,
    incarnation: Incarnation,
    started: Instant,
    state: Mutex<State>,
    loader: Loader,
    /// The reader may go on.
    read: Notify,
    /// There may be something to send on the control stream.
    out: Notify,
    /// There may be chunks to send.
    send: Notify,
    /// The job may be over.
    over: Notify,
}

struct State {
    source: Source,
    memory: Reservation,
    control: Option<LinkHandle>,
    links: HashSet<LinkId>,
    /// Sent first on a new control link: opens the job at the gateway, or answers that.
    open: Frame,
    greet: bool,
    ring: Ring,
    locals: Vec<LocalFile>,
    lookahead: u64,
    /// The last step of the reader found all its chunks in the cache.
    from_cache: bool,
    suspect: HashSet<u32>,
    gone: VecDeque<ChunkIndex>,
    statuses: VecDeque<EntryReport>,
    reports: Reports,
    receipt_out: Option<Vec<u8>>,
    receipt_sent: bool,
    receipt: Option<Vec<u8>>,
    finished: Option<Finished>,
    failed: Option<JobError>,
    fail_sent: bool,
    /// Nothing more is said: the session has forgotten the job.
    ended: bool,
    reading_done: bool,
    first_byte: Option<Instant>,
    last_byte: Option<Instant>,
    finished_at: Option<Instant>,
    attachments: u32,
}

/// Data of chunks that were read and may be wanted soon.
#[derive(Default)]
struct Ring {
    data: HashMap<u32, Bytes>,
    order: VecDeque<u32>,
    bytes: usize,
}

impl Ring {
    fn insert(&mut self, chunk: u32, data: Bytes) {
        self.bytes += data.len();
        self.order.push_back(chunk);
        self.data.insert(chunk, data);
    }

    fn remove(&mut self, chunk: u32) {
        if let Some(data) = self.data.remove(&chunk) {
            self.bytes -= data.len();
        }
    }

    /// Drops the oldest until `limit` holds.
    fn shrink(&mut self, limit: usize) {
        while self.bytes > limit {
            let Some(oldest) = self.order.pop_front() else { break };
            self.remove(oldest);
        }
        while self.order.front().is_some_and(|chunk| !self.data.contains_key(chunk)) {
            self.order.pop_front();
        }
    }
}

impl SourceJob {
    /// A job that will read with `reader` and load again with `loader`. `open` is sent first on every control link: `Push` at a client, `Opened` at a
    /// gateway. `incarnation` is the one in `open`.
    pub fn new(
        rt: Rt,
        id: JobId,
        incarnation: Incarnation,
        open: Frame,
        loader: Loader,
        config: SourceConfig,
    ) -> Arc<Self> {
        let state = State {
            source: Source::new(config.ledger),
            memory: Reservation::new(config.budget.clone()),
            control: None,
            links: HashSet::new(),
            open,
            greet: false,
            ring: Ring::default(),
            locals: Vec::new(),
            lookahead: config.lookahead.0,
            from_cache: false,
            suspect: HashSet::new(),
            gone: VecDeque::new(),
            statuses: VecDeque::new(),
            reports: Reports::default(),
            receipt_out: None,
            receipt_sent: false,
            receipt: None,
            finished: None,
            failed: None,
            fail_sent: false,
            ended: false,
            reading_done: false,
            first_byte: None,
            last_byte: None,
            finished_at: None,
            attachments: 0,
        };
        Arc::new(Self {
            id,
            started: rt.now(),
            rt,
            config,
            incarnation,
            state: Mutex::new(state),
            loader,
            read: Notify::new(),
            out: Notify::new(),
            send: Notify::new(),
            over: Notify::new(),
        })
    }

    /// The job.
    pub fn id(&self) -> JobId {
        self.id
    }

    /// This run of the source.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Runs the job to its end. With `receipt` it waits for the gateway's receipt, too, but not for long.
    ///
    /// # Errors
    /// Why the job cannot go on, found here or said by the sink. A lost link is no error: the job waits.
    pub async fn run(self: &Arc<Self>, reader: Reader, receipt: bool) -> Result<SourceOutcome, JobError> {
        let _reader = self.rt.spawn(self.clone().read_ahead(reader)).abort_on_drop();
        self.rt.spawn(self.clone().write_control());
        loop {
            let over = self.over.notified();
            {
                let state = self.lock();
                if let Some(error) = &state.failed
                    && (state.fail_sent || error.by_peer || state.control.is_none())
                {
                    return Err(error.clone());
                }
                if let Some(finished) = state.finished
                    && (!receipt || state.receipt.is_some())
                {
                    return Ok(self.outcome(&state, finished));
                }
            }
            over.await;
        }
    }

    fn outcome(&self, state: &State, finished: Finished) -> SourceOutcome {
        let ledger = state.source.ledger();
        let last = state.last_byte.unwrap_or(self.started);
        SourceOutcome {
            finished,
            records: ledger.records(),
            entries: u64::from(ledger.entries()),
            chunks: u64::from(ledger.chunks()),
            withdrawn: u64::from(ledger.withdrawn()),
            stats: state.source.stats(),
            verify: state.finished_at.unwrap_or(last).saturating_duration_since(last),
        }
    }

    /// The receipt that the gateway sent.
    pub fn receipt(&self) -> Option<Vec<u8>> {
        self.lock().receipt.clone()
    }

    /// Sends the receipt of a job that a client's sink has finished.
    pub fn send_receipt(&self, bytes: Vec<u8>) {
        self.lock().receipt_out = Some(bytes);
        self.out.notify_waiters();
    }

    /// Whether the job has finished or failed.
    pub fn is_over(&self) -> bool {
        let state = self.lock();
        state.finished.is_some() || state.failed.is_some()
    }

    /// Waits until the receipt has been handed to a link, or there is no link.
    pub async fn wait_until_told(&self) {
        loop {
            let over = self.over.notified();
            {
                let state = self.lock();
                if state.receipt_out.is_none() || state.receipt_sent || state.control.is_none() {
                    return;
                }
            }
            over.await;
        }
    }

    /// Ends the job from this side; the sink is told.
    pub fn cancel(&self, code: Code, reason: &str) {
        self.fail(JobError::new(code, reason));
    }

    /// Entries that did not go the usual way, since the last call.
    pub fn take_reports(&self) -> Vec<EntryReport> {
        self.lock().reports.take()
    }

    /// Entries that failed, and entries that were the same already.
    pub fn report_counts(&self) -> (u64, u64) {
        let state = self.lock();
        (state.reports.failed, state.reports.unchanged)
    }

    /// Calls `visit` for every file and link that arrived, as far as the sink has not said anything else.
    pub fn for_each_sent(&self, mut visit: impl FnMut(LocalFile, &Entry)) {
        let state = self.lock();
        let ledger = state.source.ledger();
        for index in (0..ledger.entries()).map(EntryIndex) {
            if ledger.is_withdrawn(index) || state.reports.has_failed(index) {
                continue;
            }
            let local = state.locals.get(index.0 as usize);
            if let (Some(entry), Some(local)) = (ledger.entry(index), local)
                && entry.kind != EntryKind::Directory
            {
                visit(*local, &entry);
            }
        }
    }

    /// What was sent so far.
    pub fn stats(&self) -> SourceStats {
        self.lock().source.stats()
    }

    /// Where the job stands.
    pub fn progress(&self) -> Progress {
        let state = self.lock();
        let core = state.source.progress();
        let stats = state.source.stats();
        let binding = if state.finished.is_some() {
            None
        } else if state.control.is_none() {
            Some(Binding::Link)
        } else if core.resolved < core.announced {
            Some(Binding::Receiver)
        } else if state.source.has_queued() || core.held + (1 << 20) < core.resolved {
            Some(Binding::Network)
        } else if !state.reading_done {
            Some(Binding::Reading)
        } else {
            Some(Binding::Disk)
        };
        Progress {
            entries: u64::from(state.source.ledger().entries()),
            announced: core.announced,
            complete: state.source.root().is_some(),
            moved: stats.bytes_sent,
            verified: core.held,
            durable: core.durable,
            first_byte: state.first_byte.map(|at| at - self.started),
            binding,
        }
    }

    /// How often the job was attached to a control link.
    pub fn attachments(&self) -> u32 {
        self.lock().attachments
    }

    /// A link has joined the session: chunks may go out on it.
    pub(crate) fn add_link(self: &Arc<Self>, link: &LinkHandle) {
        if !self.lock().links.insert(link.id()) {
            return;
        }
        for _ in 0..self.config.senders {
            self.rt.spawn(self.clone().send_chunks(link.clone()));
        }
    }

    /// The job is controlled over `link` from now on.
    pub(crate) fn set_control(&self, link: LinkHandle) {
        let mut state = self.lock();
        state.source.detach();
        state.control = Some(link);
        state.greet = true;
        state.receipt_sent = false;
        state.attachments += 1;
        drop(state);
        self.out.notify_waiters();
    }

    /// Whether this side opened the job (a push at a client), and opens it again on a new link.
    pub(crate) fn is_opened_here(&self) -> bool {
        matches!(self.lock().open, Frame::Push(_))
    }

    pub(crate) fn control(&self) -> Option<LinkId> {
        self.lock().control.as_ref().map(LinkHandle::id)
    }

    /// A link is gone.
    pub(crate) fn link_lost(&self, link: LinkId) {
        let mut state = self.lock();
        state.links.remove(&link);
        state.source.link_lost(link.0);
        if state.control.as_ref().is_some_and(|c| c.id() == link) {
            state.control = None;
            state.source.detach();
        }
        drop(state);
        self.send.notify_waiters();
        self.over.notify_waiters();
    }

    /// A frame of the sink.
    pub(crate) fn on_frame(&self, frame: Frame) {
        let mut state = self.lock();
        let result = match frame {
            Frame::Ready { from_record, .. } => state.source.ready(from_record),
            Frame::Want { ranges, .. } => {
                let result = state.source.want(&ranges);
                state.widen(self.config.lookahead.1);
                result
            }
            Frame::Have { ranges, .. } => state.confirmed(&ranges, false),
            Frame::Durable { ranges, .. } => state.confirmed(&ranges, true),
            Frame::Damaged { chunk, .. } => {
                state.ring.remove(chunk.0);
                state.suspect.insert(chunk.0);
                state.source.damaged(chunk)
            }
            Frame::EntryStatus(EntryStatus { entry, path, code, reason, .. }) => {
                let entry = entry.filter(|e| e.0 < state.source.ledger().entries());
                state.reports.push(EntryReport { entry, path, code, reason });
                Ok(())
            }
            Frame::Finished(finished) => {
                state.finished_at = Some(self.rt.now());
                if state.source.root() == Some(finished.root) {
                    state.finished = Some(finished);
                } else {
                    let reason = "the sink has finished another manifest than this one";
                    state.failed = Some(JobError::new(Code::Integrity, reason));
                }
                Ok(())
            }
            Frame::Receipt { bytes, .. } => {
                state.receipt = Some(bytes);
                Ok(())
            }
            Frame::Fail { code, reason, .. } => {
                state.failed.get_or_insert(JobError { code, reason, by_peer: true });
                Ok(())
            }
            _ => Ok(()),
        };
        drop(state);
        if let Err(error) = result {
            self.fail(JobError::new(error.code(), error.to_string()));
        }
        self.read.notify_waiters();
        self.out.notify_waiters();
        self.send.notify_waiters();
        self.over.notify_waiters();
    }

    /// The session forgets the job: its tasks end.
    pub(crate) fn end(&self) {
        self.lock().ended = true;
        self.out.notify_waiters();
        self.send.notify_waiters();
    }

    fn fail(&self, error: JobError) {
        self.lock().failed.get_or_insert(error);
        self.out.notify_waiters();
        self.send.notify_waiters();
        self.over.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    /// The reader task.
    async fn read_ahead(self: Arc<Self>, mut reader: Reader) {
        loop {
            loop {
                let read = self.read.notified();
                if self.may_read() {
                    break;
                }
                read.await;
            }
            let budget = self.config.step;
            let (back, step) = self
                .rt
                .blocking(move || {
                    let step = reader.step(budget);
                    (reader, step)
                })
                .await;
            reader = back;
            if let Err(error) = self.take_step(step.items, step.done) {
                self.fail(error);
                return;
            }
            self.out.notify_waiters();
            if step.done {
                self.over.notify_waiters();
                return;
            }
        }
    }

    fn may_read(&self) -> bool {
        let state = self.lock();
        let progress = state.source.progress();
        if self.config.retain {
            state.ring.bytes < self.config.ring
        } else {
            // What is known without reading is announced at once: after an interruption the sink has most of it.
            state.from_cache || progress.announced - progress.resolved < state.lookahead
        }
    }

    fn take_step(&self, items: Vec<Item>, done: bool) -> Result<(), JobError> {
        let mut state = self.lock();
        state.from_cache = items.iter().all(|item| !matches!(item, Item::Chunk { data: Some(_), .. }))
            && items.iter().any(|item| matches!(item, Item::Chunk { .. }));
        for item in items {
            let (record, data) = match item {
                Item::Entry { entry, local } => {
                    state.locals.push(local);
                    (Record::Entry(entry), None)
                }
                Item::Chunk { len, hash, data } => (Record::Chunk { len, hash }, data),
                Item::StreamEnd { size } => (Record::StreamEnd { size }, None),
                Item::Withdraw { entry } => (Record::Withdraw(entry), None),
                Item::Problem(problem) => {
                    let report = EntryReport {
                        entry: None,
                        path: problem.path,
                        code: problem.code,
                        reason: problem.reason,
                    };
                    state.statuses.push_back(report.clone());
                    state.reports.push(report);
                    continue;
                }
            };
            let chunk = state.source.ledger().chunks();
            state.source.push(&record).map_err(|e| JobError::new(Code::Limit, format!("manifest: {e}")))?;
            if let Some(data) = data {
                state.ring.insert(chunk, data);
            }
        }
        let memory = state.source.ledger().memory() as u64 + 8 * state.locals.len() as u64;
        if !state.memory.grow(memory) {
            return Err(JobError::new(Code::Busy, "the memory set aside for manifests is used up"));
        }
        if !self.config.retain {
            state.ring.shrink(self.config.ring);
        }
        if done {
            state.reading_done = true;
            state.source.finish().map_err(|e| JobError::new(Code::Internal, format!("manifest: {e}")))?;
        }
        Ok(())
    }

    /// The outbox task.
    async fn write_control(self: Arc<Self>) {
        loop {
            let out = self.out.notified();
            if self.lock().ended {
                return;
            }
            match self.next_frame() {
                Some((link, frame, is_fail)) => {
                    let sent = link.send(&frame).await;
                    if is_fail {
                        self.lock().fail_sent = true;
                    }
                    if is_fail || matches!(frame, Frame::Receipt { .. }) {
                        self.over.notify_waiters();
                    }
                    if !sent {
                        // The session learns of it from the link's reader, and gives another control link.
                        out.await;
                    }
                }
                None => out.await,
            }
        }
    }

    fn next_frame(&self) -> Option<(LinkHandle, Frame, bool)> {
        let job = self.id;
        let mut state = self.lock();
        let link = state.control.clone()?;
        if let Some(error) = &state.failed {
            if error.by_peer || state.fail_sent {
                return None;
            }
            let frame = Frame::Fail { job, code: error.code, reason: clip(&error.reason) };
            return Some((link, frame, true));
        }
        let frame = if state.greet {
            state.greet = false;
            state.open.clone()
        } else if let Some((first, records)) = state.source.poll_records(RECORDS_BYTES) {
            Frame::Records { job, first, records }
        } else if let Some(chunk) = state.gone.pop_front() {
            Frame::Gone { job, chunk }
        } else if let Some(EntryReport { entry, path, code, reason }) = state.statuses.pop_front() {
            Frame::EntryStatus(EntryStatus { job, entry, path: clip(&path), code, reason: clip(&reason) })
        } else if let Some((records, root)) = state.source.poll_end() {
            Frame::ManifestEnd(ManifestEnd { job, records, root })
        } else if let Some(bytes) = state.receipt_out.clone().filter(|_| !state.receipt_sent) {
            state.receipt_sent = true;
            Frame::Receipt { job, bytes }
        } else {
            return None;
        };
        Some((link, frame, false))
    }

    /// A sender task of one link.
    async fn send_chunks(self: Arc<Self>, link: LinkHandle) {
        loop {
            let send = self.send.notified();
            let next = {
                let mut state = self.lock();
                if !state.links.contains(&link.id()) || state.failed.is_some() || state.ended {
                    return;
                }
                state.source.next_chunk(link.id().0)
            };
            let Some(sending) = next else {
                send.await;
                continue;
            };
            let (chunk, info) = (sending.chunk, sending.info);
            let data = match self.data_of(chunk, &info).await {
                Ok(data) => data,
                Err(reason) => {
                    self.give_up(&sending, &reason);
                    continue;
                }
            };
            let header = ChunkHeader { job: self.id, chunk, len: info.len }.encode();
            self.lock().first_byte.get_or_insert(self.rt.now());
            let sent = link.link().send_chunk(header.into(), vec![data], 0).await;
            let mut state = self.lock();
            match sent {
                Ok(()) => {
                    state.source.sent(&sending);
                    state.last_byte = Some(self.rt.now());
                }
                // Not wanted: the sink has it from elsewhere, and says so, or will ask again.
                Err(e) if e.is_stream() => state.source.not_wanted(&sending),
                Err(_) => {
                    state.source.send_failed(&sending);
                    drop(state);
                    self.send.notify_waiters();
                    return;
                }
            }
        }
    }

    /// The bytes of a chunk, from memory or from the disk again.
    async fn data_of(self: &Arc<Self>, chunk: ChunkIndex, info: &ChunkInfo) -> Result<Bytes, String> {
        let (parts, suspect) = {
            let state = self.lock();
            if let Some(data) = state.ring.data.get(&chunk.0) {
                return Ok(data.clone());
            }
            (state.parts(chunk), state.suspect.contains(&chunk.0))
        };
        let job = self.clone();
        let hash = info.hash;
        self.rt
            .blocking(move || {
                let parts: Vec<Part<'_>> = parts
                    .iter()
                    .map(|(local, path, offset, len)| Part {
                        local: *local,
                        path,
                        offset: *offset,
                        len: *len,
                    })
                    .collect();
                let data = job.loader.load(&parts).map_err(|e| e.to_string())?;
                if suspect && Digest::of(&data) != hash {
                    return Err("the file changed after it was read".to_owned());
                }
                Ok(data)
            })
            .await
    }

    /// A chunk cannot be had any more: the sink is told. It reports the entries that miss it.
    fn give_up(&self, sending: &Sending, reason: &str) {
        let chunk = sending.chunk;
        tracing::warn!(job = self.id.0, chunk = chunk.0, reason, "a chunk cannot be loaded again");
        let mut state = self.lock();
        state.source.gone(sending);
        state.gone.push_back(chunk);
        drop(state);
        self.out.notify_waiters();
    }
}

/// Encoded size of one frame of records.
const RECORDS_BYTES: usize = 64 * 1024;

impl State {
    fn confirmed(
        &mut self,
        ranges: &[metra_core::ranges::IndexRange],
        durable: bool,
    ) -> Result<(), metra_core::source::SourceError> {
        if durable {
            self.source.durable(ranges)?;
        } else {
            self.source.have(ranges)?;
        }
        for chunk in ranges.iter().flat_map(|r| r.indexes()) {
            self.ring.remove(chunk);
        }
        self.ring.shrink(usize::MAX);
        Ok(())
    }

    /// The sink has asked for all there is: reading further ahead may keep it busy.
    fn widen(&mut self, max: u64) {
        let progress = self.source.progress();
        if progress.resolved == progress.announced && !self.reading_done {
            self.lookahead = (self.lookahead * 2).min(max);
        }
    }

    fn parts(&self, chunk: ChunkIndex) -> Vec<(LocalFile, String, u64, u32)> {
        let ledger = self.source.ledger();
        let part = |s: Segment| {
            let entry = ledger.entry(s.entry)?;
            let local = self.locals.get(s.entry.0 as usize)?;
            Some((*local, entry.path, s.offset, s.len))
        };
        ledger.segments(chunk).filter_map(part).collect()
    }
}

/// Cuts a text to what a frame may carry, at a character.
pub(crate) fn clip(text: &str) -> String {
    let mut end = text.len().min(metra_core::limits::TEXT_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
