//! A job seen from its source: reads ahead, announces, sends what is asked for.
//!
//! Tasks: the *reader* ([`read`]) steps the disk as long as the sink keeps up; the *outbox* ([`outbox`]) writes control
//! frames; each link has a few *senders* ([`send`]), which take the next wanted chunk when their link has room, so that
//! a faster link takes more ([`pace`]: and a slow one not too much). Frames of the sink change the state at once and wake them.

mod outbox;
mod pace;
mod read;
mod send;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use metra_core::code::Code;
use metra_core::credit::Lookahead;
use metra_core::id::{EntryIndex, Incarnation, JobId};
use metra_core::manifest::{Entry, EntryKind, LedgerLimits};
use metra_core::ranges::IndexRange;
use metra_core::source::{Source, SourceError, SourceStats};
use metra_core::wire::{EntryStatus, Finished, Frame};
use metra_store::source::{Loader, LocalFile, Reader};
use metra_transport::{LinkId, Rt};
use tokio::sync::Notify;

use self::pace::Pace;
use self::read::Ring;
use crate::allowance::Allowance;
use crate::budget::{Budget, Reservation};
use crate::job::{EntryReport, JobError, Reports, Statuses, Stop, TELL};
use crate::link::LinkHandle;
use crate::progress::{Binding, Progress};

/// What shapes a source job.
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// Chunk data kept in memory after reading, until it is sent, at most. Bytes; what does not fit is read again.
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
    /// What it may move; `None`: as much as the links carry.
    pub allowance: Option<Arc<Allowance>>,
}

impl Default for SourceConfig {
    fn default() -> Self {
        Self {
            ring: 256 << 20,
            lookahead: (48 << 20, 512 << 20),
            step: 4 << 20,
            senders: 4,
            ledger: LedgerLimits::default(),
            retain: false,
            budget: None,
            allowance: None,
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
    /// Which sender asks to be allowed a chunk.
    turn: tokio::sync::Mutex<()>,
    /// The job may be over.
    over: Notify,
    /// No more data is moved: the job has failed, or the session has forgotten it.
    halt: Stop,
}

/// How long a sink that has finished may take to send the receipt. Without it the job has succeeded all the same.
const RECEIPT: Duration = Duration::from_secs(30);

struct State {
    source: Source,
    memory: Reservation,
    control: Option<LinkHandle>,
    links: HashSet<LinkId>,
    /// Tasks that send over each link; some may still be busy with one that they have left.
    senders: HashMap<LinkId, usize>,
    pace: Pace,
    /// Of what is under way: what senders wait to be allowed. Bytes.
    held_up: u64,
    /// Sent first on a new control link: opens the job at the gateway, or answers that.
    open: Frame,
    greet: bool,
    /// Where the job stands in the gateway's queue, if it waits there.
    queued: Option<u64>,
    ring: Ring,
    /// Files and links that were read.
    files: u64,
    locals: Vec<LocalFile>,
    lookahead: Lookahead,
    /// The last step of the reader found all its chunks in the cache.
    from_cache: bool,
    suspect: HashSet<u32>,
    /// Chunks that the sink is to be told are gone.
    gone: BTreeSet<u32>,
    /// Entries with such chunks, and why. Whether that is the end for the file is known when all is over: the reader
    /// may still notice the change, withdraw the entry and offer the file again.
    given_up: BTreeMap<EntryIndex, (Code, String)>,
    statuses: Statuses,
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
    /// Of these, to links that were not agreed on.
    in_vain: u32,
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
            senders: HashMap::new(),
            pace: Pace::default(),
            held_up: 0,
            open,
            greet: false,
            queued: None,
            ring: Ring::default(),
            files: 0,
            locals: Vec::new(),
            lookahead: Lookahead::new(config.lookahead.0, config.lookahead.1),
            from_cache: false,
            suspect: HashSet::new(),
            gone: BTreeSet::new(),
            given_up: BTreeMap::new(),
            statuses: Statuses::default(),
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
            in_vain: 0,
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
            turn: tokio::sync::Mutex::default(),
            over: Notify::new(),
            halt: Stop::default(),
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
        let mut told = None;
        loop {
            let over = self.over.notified();
            let wait = {
                let mut state = self.lock();
                let now = self.rt.now();
                if let Some(error) = state.failed.clone() {
                    // A sink that does not listen must not keep the job.
                    let left = (*told.get_or_insert(now) + TELL).saturating_duration_since(now);
                    let said = state.fail_sent || error.by_peer || state.control.is_none() || state.ended;
                    if said || left.is_zero() {
                        state.report_given_up();
                        return Err(error);
                    }
                    Some(left)
                } else if let Some(finished) = state.finished {
                    let since = state.finished_at.unwrap_or(now);
                    let left = (since + RECEIPT).saturating_duration_since(now);
                    if !receipt || state.receipt.is_some() || left.is_zero() {
                        state.report_given_up();
                        return Ok(self.outcome(&state, finished));
                    }
                    Some(left)
                } else {
                    None
                }
            };
            match wait {
                None => over.await,
                Some(wait) => {
                    let _ = self.rt.timeout(wait, over).await;
                }
            }
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

    /// Waits until the receipt has been handed to a link, or there is no link; not for long, as a sink that does not
    /// listen must not keep the job.
    pub async fn wait_until_told(&self) {
        let _ = self.rt.timeout(TELL, self.told_all()).await;
    }

    async fn told_all(&self) {
        loop {
            let over = self.over.notified();
            {
                let state = self.lock();
                let told = state.receipt_out.is_none() || state.receipt_sent;
                if told || state.control.is_none() || state.ended {
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
        // What was withdrawn was offered again, or has a report of its own that names no entry.
        let ledger = state.source.ledger();
        let withdrawn =
            state.reports.failed_entries().filter(|entry| ledger.is_withdrawn(*entry)).count() as u64;
        (state.reports.failed.saturating_sub(withdrawn), state.reports.unchanged)
    }

    /// Files and links that were read, as far as the sink has not said that they failed or were the same.
    pub fn files_moved(&self) -> u64 {
        let (failed, unchanged) = self.report_counts();
        self.lock().files.saturating_sub(failed + unchanged)
    }

    /// Calls `visit` for every file and link that arrived, as far as the sink has not said anything else. For none, and
    /// `false`, if the sink has failed entries that it has not named.
    pub fn for_each_sent(&self, mut visit: impl FnMut(LocalFile, &Entry)) -> bool {
        let state = self.lock();
        let ledger = state.source.ledger();
        let failed = state.reports.failed_entries().filter(|entry| !ledger.is_withdrawn(*entry)).count();
        let named = failed as u64 + u64::from(ledger.withdrawn());
        if state.finished.is_none_or(|finished| finished.failed > named) {
            return false;
        }
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
        true
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
        } else if let Some(position) = state.queued {
            Some(Binding::Queue(position))
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
            repeated: stats.bytes_resent,
            verified: core.held,
            durable: core.durable,
            first_byte: state.first_byte.map(|at| at - self.started),
            binding,
        }
    }

    /// How often the job was attached to a control link.
    pub fn attachments(&self) -> u32 {
        let state = self.lock();
        state.attachments - state.in_vain
    }

    /// A link has joined the session: chunks may go out on it.
    pub(crate) fn add_link(self: &Arc<Self>, link: &LinkHandle) {
        let mut state = self.lock();
        if !state.links.insert(link.id()) {
            return;
        }
        state.pace.add(link.id());
        let there = state.senders.insert(link.id(), self.config.senders).unwrap_or(0);
        drop(state);
        for _ in there..self.config.senders {
            self.rt.spawn(self.clone().send_chunks(link.clone()));
        }
    }

    /// The job is controlled over `link` from now on.
    pub(crate) fn set_control(&self, link: LinkHandle) {
        let mut state = self.lock();
        state.source.detach();
        // Nobody moves the control from a link that works.
        if let Some(before) = state.control.replace(link.clone()).filter(|before| before.id() != link.id()) {
            state.links.remove(&before.id());
            state.pace.remove(before.id());
            state.source.link_lost(before.id().0);
        }
        state.greet = true;
        state.receipt_sent = false;
        state.fail_sent = false;
        if state.attachments == state.in_vain {
            state.source.begin();
        }
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

    /// The job may be controlled over a link that was not agreed on, and is about to be lost: that does not count.
    pub(crate) fn attached_in_vain(&self, link: LinkId) {
        let mut state = self.lock();
        if state.control.as_ref().is_some_and(|c| c.id() == link) {
            state.in_vain += 1;
        }
    }

    /// A link is gone.
    pub(crate) fn link_lost(&self, link: LinkId) {
        let mut state = self.lock();
        state.links.remove(&link);
        if state.control.as_ref().is_some_and(|c| c.id() == link) {
            state.control = None;
            state.source.detach();
        }
        state.pace.remove(link);
        state.source.link_lost(link.0);
        drop(state);
        self.out.notify_waiters();
        self.send.notify_waiters();
        self.over.notify_waiters();
    }

    /// Nothing is heard of a link, but of others: nothing more is sent over it, and what was is sent again. The side that
    /// has opened the job moves its control.
    pub(crate) fn link_silent(&self, link: LinkId) {
        let mut state = self.lock();
        let opened_here = matches!(state.open, Frame::Push(_));
        if !state.links.remove(&link) {
            return;
        }
        if opened_here && state.control.as_ref().is_some_and(|c| c.id() == link) {
            state.control = None;
            state.source.detach();
        }
        state.pace.remove(link);
        state.source.link_lost(link.0);
        drop(state);
        self.out.notify_waiters();
        self.send.notify_waiters();
    }

    /// A frame of the sink.
    pub(crate) fn on_frame(&self, frame: Frame) {
        let mut state = self.lock();
        let result = match frame {
            Frame::Ready { from_record, .. } => {
                state.queued = None;
                state.source.ready(from_record).map_err(refused)
            }
            Frame::Queued { position, .. } if matches!(state.open, Frame::Push(_)) => {
                state.queued = Some(position);
                Ok(())
            }
            Frame::Want { ranges, .. } => {
                let result = state.source.want(&ranges).map_err(refused);
                if result.is_ok() {
                    // What is asked for again has been given up where it was.
                    ranges.iter().flat_map(|r| r.indexes()).for_each(|chunk| state.pace.give_up(chunk));
                }
                let rtt = state.control.as_ref().map_or(Duration::ZERO, |link| link.link().rtt());
                let asked = state.source.progress().resolved;
                state.lookahead.asked(self.rt.now(), asked, rtt);
                result
            }
            Frame::Have { ranges, .. } => state.confirmed(self.rt.now(), &ranges, false).map_err(refused),
            Frame::Durable { ranges, .. } => state.confirmed(self.rt.now(), &ranges, true).map_err(refused),
            Frame::Damaged { chunk, .. } => {
                state.suspect.insert(chunk.0);
                state.pace.give_up(chunk.0);
                state.source.damaged(chunk).map_err(refused)
            }
            Frame::EntryStatus(EntryStatus { entry, path, code, reason, .. }) => {
                let entry = entry.filter(|e| e.0 < state.source.ledger().entries());
                state.reports.push(EntryReport { entry, path, code, reason });
                Ok(())
            }
            Frame::Finished(finished) if state.source.root() == Some(finished.root) => {
                state.finished_at.get_or_insert(self.rt.now());
                state.finished = Some(finished);
                Ok(())
            }
            Frame::Finished(_) => {
                let reason = "the sink has finished another manifest than this one";
                Err(JobError::new(Code::Integrity, reason))
            }
            Frame::Receipt { bytes, .. } if matches!(state.open, Frame::Push(_)) => {
                state.receipt = Some(bytes);
                Ok(())
            }
            Frame::Fail { code, reason, .. } => Err(JobError { code, reason, by_peer: true }),
            _ => Err(JobError::new(Code::Protocol, "the sink sent a frame that is not a sink's")),
        };
        drop(state);
        if let Err(error) = result {
            self.fail(error);
        }
        self.read.notify_waiters();
        self.out.notify_waiters();
        self.send.notify_waiters();
        self.over.notify_waiters();
    }

    /// The session forgets the job: its tasks end.
    pub(crate) fn end(&self) {
        self.lock().ended = true;
        self.halt.say();
        self.out.notify_waiters();
        self.send.notify_waiters();
        self.over.notify_waiters();
    }

    fn fail(&self, error: JobError) {
        self.lock().failed.get_or_insert(error);
        self.halt.say();
        self.out.notify_waiters();
        self.send.notify_waiters();
        self.over.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }
}

/// What the sink asked for makes no sense.
fn refused(error: SourceError) -> JobError {
    JobError::new(error.code(), error.to_string())
}

impl State {
    fn confirmed(&mut self, now: Instant, ranges: &[IndexRange], durable: bool) -> Result<(), SourceError> {
        if durable {
            self.source.durable(ranges)?;
        } else {
            self.source.have(ranges)?;
        }
        for chunk in ranges.iter().flat_map(|r| r.indexes()) {
            self.ring.remove(chunk);
            self.pace.arrive(now, chunk);
        }
        self.ring.shrink(usize::MAX);
        Ok(())
    }
}
