//! A job seen from its sink: plans what to ask for, receives, verifies, writes, syncs, finishes.
//!
//! Tasks: the *planner* takes records from a bounded queue and asks the disk what of them is here; the *outbox* writes
//! control frames; each arriving chunk is received by a task of its own (the session's), which verifies and writes it where blocking is
//! allowed; the *keeper* ([`SinkJob::run`]) syncs from time to time and finishes the job. Memory is bounded by the
//! credit: a chunk that was not asked for is not received.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use metra_core::code::Code;
use metra_core::credit::CreditLimits;
use metra_core::id::{ChunkIndex, Digest, Incarnation, JobId};
use metra_core::manifest::{Ledger, LedgerLimits, Record};
use metra_core::sink::{Arrival, Sink, SinkOptions, SinkStats};
use metra_core::wire::{ChunkHeader, EntryStatus, Finished, Frame};
use metra_store::landing::{LandError, Landing, Planned, pieces};
use metra_transport::{ChunkRecv, LinkId, Rt};
use tokio::sync::{Notify, mpsc};

use crate::budget::{Budget, Reservation};
use crate::job::{EntryReport, JobError, Reports};
use crate::link::LinkHandle;
use crate::progress::{Binding, Progress};
use crate::source_job::clip;

/// What shapes a sink job.
#[derive(Clone, Debug)]
pub struct SinkConfig {
    /// Limits of the manifest.
    pub ledger: LedgerLimits,
    /// Limits of the credit window.
    pub credit: CreditLimits,
    /// What is written is synced when it is this much, in bytes, or this old.
    pub sync: (u64, Duration),
    /// Memory for manifests, shared with other jobs.
    pub budget: Option<Arc<Budget>>,
}

impl Default for SinkConfig {
    fn default() -> Self {
        Self {
            ledger: LedgerLimits::default(),
            credit: CreditLimits::default(),
            sync: (256 << 20, Duration::from_millis(500)),
            budget: None,
        }
    }
}

/// How a sink job ended well.
#[derive(Clone, Copy, Debug)]
pub struct SinkOutcome {
    /// What is said to the source.
    pub finished: Finished,
    /// Records of the manifest.
    pub records: u64,
    /// Entries of the manifest.
    pub entries: u64,
    /// Chunks of the manifest.
    pub chunks: u64,
    /// Entries withdrawn by the source.
    pub withdrawn: u64,
    /// What was received.
    pub stats: SinkStats,
    /// From the last byte received to the final names.
    pub verify: Duration,
}

/// Batches of records that wait for the planner.
const RECORD_QUEUE: usize = 8;
/// Records planned between two looks at the state: bounds how long reused data is copied before wants go out.
const PLAN_BATCH: usize = 256;
/// Statuses that wait for the outbox before the planner waits.
const STATUS_QUEUE: usize = 4096;

/// A job that receives. See the module's documentation.
pub struct SinkJob {
    id: JobId,
    rt: Rt,
    config: SinkConfig,
    landing: Arc<dyn Landing>,
    started: Instant,
    state: Mutex<State>,
    records: mpsc::Sender<Planning>,
    out: Notify,
    work: Notify,
    over: Notify,
}

enum Planning {
    Records { first: u64, records: Vec<Record> },
    End { records: u64, root: Digest },
}

struct State {
    sink: Sink,
    memory: Reservation,
    control: Option<LinkHandle>,
    links: Vec<LinkHandle>,
    open: Option<Frame>,
    /// The run of the source whose records are here, as said in `Push` or `Opened`.
    incarnation: Option<Incarnation>,
    greet: bool,
    /// The source is there and waits for `Ready`.
    ready: bool,
    /// `Ready` has been sent on this control link: what is said now is heard.
    attached: bool,
    damaged: VecDeque<ChunkIndex>,
    statuses: VecDeque<EntryReport>,
    reports: Reports,
    finished: Option<Finished>,
    finished_sent: bool,
    receipt: Option<Vec<u8>>,
    receipt_out: Option<Vec<u8>>,
    receipt_sent: bool,
    failed: Option<JobError>,
    fail_sent: bool,
    /// Nothing more is said: the session has forgotten the job.
    ended: bool,
    first_byte: Option<Instant>,
    last_byte: Option<Instant>,
    unsynced_since: Option<Instant>,
    copying: bool,
    attachments: u32,
    entries: u64,
}

impl SinkJob {
    /// A job that lands in `landing`. `open` is sent first on every control link (`Pull` at a client; nothing at a
    /// gateway). `incarnation`: the source's, if it is known (`Push`).
    pub fn new(
        rt: Rt,
        id: JobId,
        incarnation: Option<Incarnation>,
        open: Option<Frame>,
        landing: Arc<dyn Landing>,
        config: SinkConfig,
    ) -> (Arc<Self>, Planner) {
        let options =
            SinkOptions { ledger: config.ledger, credit: config.credit, abilities: landing.abilities() };
        let state = State {
            sink: Sink::new(options),
            memory: Reservation::new(config.budget.clone()),
            control: None,
            links: Vec::new(),
            open,
            incarnation,
            greet: false,
            ready: false,
            attached: false,
            damaged: VecDeque::new(),
            statuses: VecDeque::new(),
            reports: Reports::default(),
            finished: None,
            finished_sent: false,
            receipt: None,
            receipt_out: None,
            receipt_sent: false,
            failed: None,
            fail_sent: false,
            ended: false,
            first_byte: None,
            last_byte: None,
            unsynced_since: None,
            copying: false,
            attachments: 0,
            entries: 0,
        };
        let (records, queue) = mpsc::channel(RECORD_QUEUE);
        let job = Arc::new(Self {
            id,
            started: rt.now(),
            rt,
            config,
            landing,
            state: Mutex::new(state),
            records,
            out: Notify::new(),
            work: Notify::new(),
            over: Notify::new(),
        });
        (job, Planner(queue))
    }

    /// The job.
    pub fn id(&self) -> JobId {
        self.id
    }

    /// The run of the source that this job receives, once known.
    pub fn incarnation(&self) -> Option<Incarnation> {
        self.lock().incarnation
    }

    /// Runs the job until its entries have their final names. `Finished` is sent with [`conclude`](Self::conclude).
    ///
    /// # Errors
    /// Why the job cannot go on, found here or said by the source. What was written is synced and journaled first.
    /// A lost link is no error: the job waits.
    pub async fn run(self: &Arc<Self>, planner: Planner) -> Result<SinkOutcome, JobError> {
        let _planner = self.rt.spawn(self.clone().plan(planner.0)).abort_on_drop();
        self.rt.spawn(self.clone().write_control());
        let kept = match self.keep().await {
            Ok(()) => self.finish().await,
            Err(error) => Err(error),
        };
        match kept {
            Ok(outcome) => Ok(outcome),
            Err(error) => {
                // What has arrived is kept for the next attempt, whatever ended this one.
                let ranges = self.lock().sink.begin_sync();
                if !ranges.is_empty() {
                    let job = self.clone();
                    let _ = self.rt.blocking(move || job.landing.sync(&ranges)).await;
                }
                self.wait_until_told().await;
                Err(error)
            }
        }
    }

    /// Says that the job is finished, with the receipt if this side signs it.
    pub fn conclude(&self, receipt: Option<Vec<u8>>, outcome: &SinkOutcome) {
        let mut state = self.lock();
        state.receipt_out = receipt;
        state.finished = Some(outcome.finished);
        drop(state);
        self.out.notify_waiters();
    }

    /// Whether the job has finished or failed.
    pub fn is_over(&self) -> bool {
        let state = self.lock();
        state.finished.is_some() || state.failed.is_some()
    }

    /// Waits until what there is to say has been handed to a link, or there is no link.
    pub async fn wait_until_told(&self) {
        loop {
            let over = self.over.notified();
            {
                let state = self.lock();
                let receipt = state.receipt_out.is_none() || state.receipt_sent;
                let told =
                    if state.failed.is_some() { state.fail_sent } else { state.finished_sent && receipt };
                let by_peer = state.failed.as_ref().is_some_and(|e| e.by_peer);
                if told || by_peer || state.ended || state.control.is_none() {
                    return;
                }
            }
            over.await;
        }
    }

    /// Waits for the gateway's receipt.
    pub async fn receipt(&self) -> Vec<u8> {
        loop {
            let over = self.over.notified();
            if let Some(receipt) = self.lock().receipt.clone() {
                return receipt;
            }
            over.await;
        }
    }

    /// Ends the job from this side; the source is told.
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

    /// Where the job stands.
    pub fn progress(&self) -> Progress {
        let state = self.lock();
        let core = state.sink.progress();
        let stats = state.sink.stats();
        let binding = if state.finished.is_some() {
            None
        } else if state.control.is_none() {
            Some(Binding::Link)
        } else if state.sink.is_verified() || state.sink.unsynced_bytes() > 4 * self.config.sync.0 {
            Some(Binding::Disk)
        } else if core.announced > core.verified {
            Some(Binding::Network)
        } else {
            Some(Binding::Reading)
        };
        Progress {
            entries: u64::from(state.sink.ledger().entries()).max(state.entries),
            announced: core.announced,
            complete: state.sink.root().is_some(),
            moved: stats.received_bytes,
            verified: core.verified,
            durable: core.durable,
            first_byte: state.first_byte.map(|at| at - self.started),
            binding,
        }
    }

    /// What was received so far.
    pub fn stats(&self) -> SinkStats {
        self.lock().sink.stats()
    }

    /// How often the job was attached to a control link.
    pub fn attachments(&self) -> u32 {
        self.lock().attachments
    }

    /// Changes how much may be asked for ahead, as the number of jobs that share the memory changes.
    pub fn set_credit(&self, limits: CreditLimits) {
        self.lock().sink.credit().set_limits(limits);
        self.out.notify_waiters();
    }

    pub(crate) fn add_link(&self, link: &LinkHandle) {
        let mut state = self.lock();
        if state.links.iter().all(|l| l.id() != link.id()) {
            state.links.push(link.clone());
        }
    }

    /// The job is controlled over `link` from now on. At a gateway the source has just said `Push`.
    pub(crate) fn set_control(&self, link: LinkHandle) {
        let mut state = self.lock();
        state.control = Some(link);
        state.attachments += 1;
        state.greet = state.open.is_some();
        state.ready = state.open.is_none();
        state.attached = false;
        state.finished_sent = false;
        state.receipt_sent = false;
        state.sink.reattached();
        state.sink.report_all();
        drop(state);
        self.out.notify_waiters();
    }

    /// Whether this side opened the job (a pull at a client), and opens it again on a new link.
    pub(crate) fn is_opened_here(&self) -> bool {
        self.lock().open.is_some()
    }

    pub(crate) fn control(&self) -> Option<LinkId> {
        self.lock().control.as_ref().map(LinkHandle::id)
    }

    pub(crate) fn link_lost(&self, link: LinkId) {
        let mut state = self.lock();
        state.links.retain(|l| l.id() != link);
        if state.control.as_ref().is_some_and(|c| c.id() == link) {
            state.control = None;
            state.ready = false;
            state.attached = false;
        }
        drop(state);
        self.over.notify_waiters();
    }

    /// A frame of the source. Waits while the planner's queue is full.
    pub(crate) async fn on_frame(&self, frame: Frame) {
        match frame {
            Frame::Records { first, records, .. } => {
                // The planner is gone when the job is over: nothing waits for these records then.
                let _ = self.records.send(Planning::Records { first, records }).await;
                return;
            }
            Frame::ManifestEnd(end) => {
                let _ = self.records.send(Planning::End { records: end.records, root: end.root }).await;
                return;
            }
            Frame::Opened { incarnation, .. } => self.opened(incarnation),
            Frame::Gone { chunk, .. } => {
                let mut state = self.lock();
                state.sink.gone(chunk);
                if self.landing.abilities().in_sequence {
                    let reason = "the source no longer has all of its bytes";
                    state.failed.get_or_insert(JobError::new(Code::Changed, reason));
                }
            }
            Frame::EntryStatus(EntryStatus { path, code, reason, .. }) => {
                self.lock().reports.push(EntryReport { entry: None, path, code, reason });
            }
            Frame::Receipt { bytes, .. } => self.lock().receipt = Some(bytes),
            Frame::Fail { code, reason, .. } => {
                self.lock().failed.get_or_insert(JobError { code, reason, by_peer: true });
            }
            _ => {}
        }
        self.out.notify_waiters();
        self.work.notify_waiters();
        self.over.notify_waiters();
    }

    /// The source says which run of it answers.
    fn opened(&self, incarnation: Incarnation) {
        let mut state = self.lock();
        if *state.incarnation.get_or_insert(incarnation) == incarnation {
            state.ready = true;
        } else {
            // Its manifest may differ from what is half received here. The next attempt compares.
            let reason = "the source was restarted; the job goes on with a new attempt";
            state.failed.get_or_insert(JobError::new(Code::Superseded, reason));
        }
    }

    /// The session forgets the job: its tasks end.
    pub(crate) fn end(&self) {
        self.lock().ended = true;
        self.out.notify_waiters();
        self.over.notify_waiters();
    }

    fn fail(&self, error: JobError) {
        self.lock().failed.get_or_insert(error);
        self.out.notify_waiters();
        self.work.notify_waiters();
        self.over.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    /// Receives one chunk from its stream. `buffer` holds what followed the header already.
    pub(crate) async fn receive(
        self: &Arc<Self>,
        header: ChunkHeader,
        mut buffer: BytesMut,
        stream: &mut Box<dyn ChunkRecv>,
    ) {
        let chunk = header.chunk;
        {
            let mut state = self.lock();
            if state.failed.is_some() || state.sink.accept(chunk, header.len) != Arrival::Accept {
                drop(state);
                stream.stop(Code::Cancelled);
                return;
            }
            state.first_byte.get_or_insert(self.rt.now());
        }
        let len = header.len as usize;
        buffer.reserve(len.saturating_sub(buffer.len()));
        while buffer.len() < len {
            let missing = len - buffer.len();
            match stream.read(&mut buffer, missing).await {
                Ok(0) | Err(_) => {
                    self.lock().sink.lost(chunk);
                    self.out.notify_waiters();
                    return;
                }
                Ok(_) => {}
            }
        }
        // The end must follow, or the chunk is longer than it said.
        if !matches!(stream.read(&mut buffer, 1).await, Ok(0)) {
            stream.stop(Code::Protocol);
            self.lock().sink.lost(chunk);
            self.out.notify_waiters();
            return;
        }
        let (parts, hash) = {
            let mut state = self.lock();
            state.last_byte = Some(self.rt.now());
            let ledger = state.sink.ledger();
            let Some(info) = ledger.chunk(chunk) else { return };
            (pieces(ledger, chunk), info.hash)
        };
        let landing = self.landing.clone();
        let written = self
            .rt
            .blocking(move || {
                let good = buffer.len() == len && Digest::of(&buffer) == hash;
                if good { landing.write(chunk, &parts, &buffer).map(|()| true) } else { Ok(false) }
            })
            .await;
        self.landed(chunk, written, true);
    }

    fn landed(&self, chunk: ChunkIndex, written: Result<bool, LandError>, received: bool) {
        let now = self.rt.now();
        let mut state = self.lock();
        match written {
            Ok(true) => {
                state.sink.written(now, chunk, received);
                state.unsynced_since.get_or_insert(now);
            }
            Ok(false) if !received => state.sink.copy_failed(chunk),
            Ok(false) => {
                tracing::warn!(job = self.id.0, chunk = chunk.0, "a chunk failed its hash");
                match state.sink.damaged(chunk) {
                    Ok(()) => state.damaged.push_back(chunk),
                    Err(error) => {
                        let names = self.names(&state, chunk);
                        let error = JobError::new(error.code(), format!("{error}; it is part of {names}"));
                        state.failed.get_or_insert(error);
                    }
                }
            }
            Err(error) => {
                state.failed.get_or_insert(JobError::new(error.code(), error.to_string()));
            }
        }
        drop(state);
        self.out.notify_waiters();
        self.work.notify_waiters();
    }

    fn names(&self, state: &State, chunk: ChunkIndex) -> String {
        let ledger = state.sink.ledger();
        let mut names: Vec<String> =
            ledger.segments(chunk).filter_map(|s| Some(ledger.entry(s.entry)?.path)).take(4).collect();
        if names.len() == 4 {
            names[3] = "others".to_owned();
        }
        names.join(", ")
    }

    /// The planner task.
    async fn plan(self: Arc<Self>, mut queue: mpsc::Receiver<Planning>) {
        while let Some(planning) = queue.recv().await {
            let result = match planning {
                Planning::Records { first, records } => self.plan_records(first, records).await,
                Planning::End { records, root } => self.plan_end(records, root).await,
            };
            if let Err(error) = result {
                self.fail(error);
                return;
            }
            self.out.notify_waiters();
            self.work.notify_waiters();
        }
    }

    async fn plan_records(self: &Arc<Self>, first: u64, records: Vec<Record>) -> Result<(), JobError> {
        let known = {
            let mut state = self.lock();
            let known = state.sink.on_records(first, &records);
            let memory = (state.sink.ledger().memory() as u64).saturating_mul(3) / 2;
            if !state.memory.grow(memory) {
                return Err(JobError::new(Code::Busy, "the memory set aside for manifests is used up"));
            }
            known.map_err(|e| JobError::new(e.code(), e.to_string()))?
        };
        let mut records = records;
        records.drain(..known);
        while !records.is_empty() {
            let rest = records.split_off(records.len().min(PLAN_BATCH));
            self.plan_batch(records).await?;
            records = rest;
        }
        Ok(())
    }

    async fn plan_batch(self: &Arc<Self>, batch: Vec<Record>) -> Result<(), JobError> {
        let landing = self.landing.clone();
        let planned = self.rt.blocking(move || landing.plan(&batch)).await;
        if self.planned(planned).await? {
            self.plan_again().await?;
        }
        Ok(())
    }

    /// What an earlier attempt left was set aside: everything known so far is planned anew.
    async fn plan_again(self: &Arc<Self>) -> Result<(), JobError> {
        tracing::info!(
            job = self.id.0,
            "the source differs from the earlier attempt; its chunks are reused by hash"
        );
        self.lock().sink.replan();
        let mut from = 0;
        loop {
            let batch: Vec<Record> = self.lock().sink.ledger().replay(from).take(PLAN_BATCH).collect();
            if batch.is_empty() {
                return Ok(());
            }
            from += batch.len() as u64;
            let landing = self.landing.clone();
            let planned = self.rt.blocking(move || landing.plan(&batch)).await;
            self.planned(planned).await?;
        }
    }

    async fn plan_end(self: &Arc<Self>, records: u64, root: Digest) -> Result<(), JobError> {
        let landing = self.landing.clone();
        let planned = self.rt.blocking(move || landing.plan_end()).await;
        if self.planned(planned).await? {
            self.plan_again().await?;
        }
        let result = self.lock().sink.on_end(records, root);
        result.map_err(|e| JobError::new(e.code(), e.to_string()))
    }

    /// Takes a plan in; waits while too many statuses wait. Returns whether to plan again.
    async fn planned(&self, planned: Result<Planned, LandError>) -> Result<bool, JobError> {
        let planned = planned.map_err(|e| JobError::new(e.code(), e.to_string()))?;
        {
            let mut state = self.lock();
            for (chunk, resolution) in planned.resolutions {
                state.sink.resolve(chunk, resolution);
            }
            for (entry, path, code, reason) in planned.statuses {
                let report = EntryReport { entry: Some(entry), path, code, reason };
                state.statuses.push_back(report.clone());
                state.reports.push(report);
            }
            if state.sink.unsynced_bytes() > 0 {
                state.unsynced_since.get_or_insert(self.rt.now());
            }
        }
        self.out.notify_waiters();
        loop {
            let work = self.work.notified();
            {
                let state = self.lock();
                if state.statuses.len() < STATUS_QUEUE || state.failed.is_some() {
                    return Ok(planned.restart);
                }
            }
            work.await;
        }
    }

    /// Syncs from time to time until everything is durable.
    async fn keep(self: &Arc<Self>) -> Result<(), JobError> {
        loop {
            let work = self.work.notified();
            self.start_copies();
            let (sync, wait) = {
                let mut state = self.lock();
                if let Some(error) = &state.failed {
                    return Err(error.clone());
                }
                if state.sink.is_complete() {
                    return Ok(());
                }
                let age = state.unsynced_since.map(|since| self.rt.now().saturating_duration_since(since));
                let due = state.sink.unsynced_bytes() >= self.config.sync.0
                    || age.is_some_and(|age| age >= self.config.sync.1)
                    || state.sink.is_verified();
                let sync = if due && age.is_some() {
                    state.unsynced_since = None;
                    state.sink.begin_sync()
                } else {
                    Vec::new()
                };
                (sync, age.map(|age| self.config.sync.1.saturating_sub(age)))
            };
            if sync.is_empty() {
                match wait {
                    Some(wait) => {
                        let _ = self.rt.timeout(wait.max(Duration::from_millis(1)), work).await;
                    }
                    None => work.await,
                }
                continue;
            }
            let job = self.clone();
            let ranges = sync.clone();
            let result = self.rt.blocking(move || job.landing.sync(&ranges)).await;
            result
                .map_err(|e| JobError::new(e.code(), e.to_string()))
                .inspect_err(|e| self.fail(e.clone()))?;
            self.lock().sink.synced(&sync);
            self.out.notify_waiters();
        }
    }

    /// Copies chunks whose bytes are here under another index, one task at a time.
    fn start_copies(self: &Arc<Self>) {
        let mut state = self.lock();
        if state.copying {
            return;
        }
        let Some(first) = state.sink.poll_copy() else { return };
        state.copying = true;
        drop(state);
        let job = self.clone();
        self.rt.spawn(async move {
            let mut next = Some(first);
            while let Some((from, to)) = next {
                let (source, target, hash) = {
                    let state = job.lock();
                    let ledger = state.sink.ledger();
                    let hash = ledger.chunk(to).map(|c| c.hash);
                    (pieces(ledger, from), pieces(ledger, to), hash)
                };
                let landing = job.landing.clone();
                let copied = job
                    .rt
                    .blocking(move || match landing.read_back(from, &source) {
                        Some(data) if Some(Digest::of(&data)) == hash => {
                            landing.write(to, &target, &data).map(|()| true)
                        }
                        _ => Ok(false),
                    })
                    .await;
                job.landed(to, copied, false);
                let mut state = job.lock();
                next = state.sink.poll_copy();
                state.copying = next.is_some();
            }
        });
    }

    async fn finish(self: &Arc<Self>) -> Result<SinkOutcome, JobError> {
        let (ledger, gone, root, stats, last) = {
            let mut state = self.lock();
            let root = state.sink.root().unwrap_or_default();
            let gone = state.sink.gone_chunks().to_vec();
            state.entries = u64::from(state.sink.ledger().entries());
            (state.sink.take_ledger(), gone, root, state.sink.stats(), state.last_byte)
        };
        let landing = self.landing.clone();
        let (report, ledger): (Result<_, LandError>, Ledger) =
            self.rt.blocking(move || (landing.finish(&ledger, &gone), ledger)).await;
        let report = report
            .map_err(|e| JobError::new(e.code(), e.to_string()))
            .inspect_err(|e| self.fail(e.clone()))?;
        let mut state = self.lock();
        for (entry, path, code, reason) in report.statuses {
            let report = EntryReport { entry: Some(entry), path, code, reason };
            state.statuses.push_back(report.clone());
            state.reports.push(report);
        }
        let now = self.rt.now();
        Ok(SinkOutcome {
            finished: Finished {
                job: self.id,
                root,
                entries: report.entries,
                bytes: report.bytes,
                failed: report.failed,
                reused: stats.reused,
            },
            records: ledger.records(),
            entries: u64::from(ledger.entries()),
            chunks: u64::from(ledger.chunks()),
            withdrawn: u64::from(ledger.withdrawn()),
            stats,
            verify: now.saturating_duration_since(last.unwrap_or(now)),
        })
    }

    /// The outbox task.
    async fn write_control(self: Arc<Self>) {
        loop {
            let out = self.out.notified();
            if self.lock().ended {
                return;
            }
            match self.next_frame() {
                Some((link, frame)) => {
                    let sent = link.send(&frame).await;
                    self.told(&frame);
                    if !sent {
                        // The session learns of it from the link's reader, and gives another control link.
                        out.await;
                    }
                }
                None => out.await,
            }
        }
    }

    fn told(&self, frame: &Frame) {
        let mut state = self.lock();
        match frame {
            Frame::Fail { .. } => state.fail_sent = true,
            Frame::Finished(_) => state.finished_sent = true,
            Frame::Receipt { .. } => state.receipt_sent = true,
            Frame::EntryStatus(_) => self.work.notify_waiters(),
            _ => return,
        }
        drop(state);
        self.over.notify_waiters();
    }

    fn next_frame(&self) -> Option<(LinkHandle, Frame)> {
        let job = self.id;
        let mut state = self.lock();
        let link = state.control.clone()?;
        if state.greet {
            state.greet = false;
            let open = state.open.clone()?;
            return Some((link, open));
        }
        if let Some(error) = &state.failed {
            if error.by_peer || state.fail_sent {
                return None;
            }
            let frame = Frame::Fail { job, code: error.code, reason: clip(&error.reason) };
            return Some((link, frame));
        }
        if state.ready {
            state.ready = false;
            state.attached = true;
            let from_record = state.sink.ledger().records();
            return Some((link, Frame::Ready { job, from_record }));
        }
        if !state.attached {
            return None;
        }
        if let Some(chunk) = state.damaged.pop_front() {
            return Some((link, Frame::Damaged { job, chunk }));
        }
        let rtt = state.links.iter().map(|l| l.link().stats().rtt).min();
        state.sink.credit().set_rtt(rtt.unwrap_or_default());
        let want = state.sink.poll_want();
        if !want.is_empty() {
            return Some((link, Frame::Want { job, ranges: want }));
        }
        let durable = state.sink.poll_durable();
        if !durable.is_empty() {
            return Some((link, Frame::Durable { job, ranges: durable }));
        }
        let have = state.sink.poll_have();
        if !have.is_empty() {
            return Some((link, Frame::Have { job, ranges: have }));
        }
        // A pull's statuses are the client's own affair; they are sent all the same, for the gateway's audit.
        if let Some(EntryReport { entry, path, code, reason }) = state.statuses.pop_front() {
            let status = EntryStatus { job, entry, path: clip(&path), code, reason: clip(&reason) };
            return Some((link, Frame::EntryStatus(status)));
        }
        if let Some(finished) = state.finished.filter(|_| !state.finished_sent) {
            return Some((link, Frame::Finished(finished)));
        }
        let receipt = state.receipt_out.clone().filter(|_| state.finished_sent && !state.receipt_sent);
        receipt.map(|bytes| (link, Frame::Receipt { job, bytes }))
    }
}

/// The planner's end of the queue of records; given to [`SinkJob::run`].
pub struct Planner(mpsc::Receiver<Planning>);
