//! A job seen from its sink: plans what to ask for, receives, verifies, writes, syncs, finishes.
//!
//! Tasks: the *planner* ([`plan`]) takes records from a bounded queue and asks the disk what of them is here; the
//! *outbox* ([`outbox`]) writes control frames; each arriving chunk is received ([`receive`]) by a task of its own (the
//! session's), which verifies and writes it where blocking is allowed; the *keeper* ([`keep`], in [`SinkJob::run`])
//! syncs from time to time and finishes the job. Memory is bounded by the credit: a chunk that was not asked for is not
//! received.
//!
//! Whoever changes the state wakes those whom it may concern: `out` the outbox, `work` the planner and the keeper,
//! `over` those outside who wait for the end, `left` those who
//! receive over a link that the job leaves, `halt` those who move data, for good.

mod keep;
mod outbox;
mod plan;
mod receive;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use metra_core::code::Code;
use metra_core::credit::CreditLimits;
use metra_core::id::{ChunkIndex, Incarnation, JobId};
use metra_core::manifest::{LedgerLimits, Record};
use metra_core::sink::{Sink, SinkOptions, SinkStats};
use metra_core::wire::{EntryStatus, Finished, Frame};
use metra_store::landing::Landing;
use metra_transport::{LinkId, Rt};
use tokio::sync::{Notify, mpsc};

use self::plan::Planning;
use self::receive::Arriving;
use crate::allowance::Allowance;
use crate::budget::{Budget, Reservation};
use crate::job::{EntryReport, JobError, Reports, Statuses, Stop};
use crate::link::LinkHandle;
use crate::progress::{Binding, Progress};

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
    /// What it may move; `None`: as much as the links carry.
    pub allowance: Option<Arc<Allowance>>,
}

impl Default for SinkConfig {
    fn default() -> Self {
        Self {
            ledger: LedgerLimits::default(),
            credit: CreditLimits::default(),
            sync: (256 << 20, Duration::from_millis(500)),
            budget: None,
            allowance: None,
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
    /// A link was lost, or left.
    left: Notify,
    /// No more data is moved: the job has failed, or the session has forgotten it.
    halt: Stop,
}

/// The planner's end of the queue of records; given to [`SinkJob::run`].
pub struct Planner(mpsc::Receiver<Planning>);

struct State {
    sink: Sink,
    memory: Reservation,
    control: Option<LinkHandle>,
    links: Vec<LinkHandle>,
    open: Option<Frame>,
    /// The run of the source whose records are here, as said in `Push` or `Opened`.
    incarnation: Option<Incarnation>,
    greet: bool,
    /// Where the job stands in the gateway's queue, if it waits there.
    queued: Option<u64>,
    /// The source is there and waits for `Ready`.
    ready: bool,
    /// `Ready` has been sent on this control link: what is said now is heard.
    attached: bool,
    /// The source is another run than the one whose records are here: what it announces before it is told so is not for
    /// this job.
    stranger: bool,
    damaged: VecDeque<ChunkIndex>,
    /// The streams of chunks that are being read, one or two of each, and how many there have been.
    arriving: HashMap<u32, Vec<Arriving>>,
    arrivals: u64,
    /// Statuses to send.
    statuses: Statuses,
    /// Failures that were sent on this control link; sent again on the next, as they may have been lost with it.
    told: Statuses,
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
    /// Writes to the landing that are under way.
    writing: usize,
    /// A sync of the landing is under way; it is being asked for a plan.
    syncing: bool,
    planning: bool,
    copying: bool,
    attachments: u32,
    /// Of these, to links that were not agreed on.
    in_vain: u32,
    entries: u64,
    files: Files,
}

/// Files and links of the manifest, where they are counted.
#[derive(Default)]
struct Files {
    seen: u64,
    counted: u64,
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
            queued: None,
            ready: false,
            attached: false,
            stranger: false,
            damaged: VecDeque::new(),
            arriving: HashMap::new(),
            arrivals: 0,
            statuses: Statuses::default(),
            told: Statuses::default(),
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
            writing: 0,
            syncing: false,
            planning: false,
            copying: false,
            attachments: 0,
            in_vain: 0,
            entries: 0,
            files: Files::default(),
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
            left: Notify::new(),
            halt: Stop::default(),
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

    /// Files and links that were not the same already, and did not fail; only where files are counted.
    pub fn files_moved(&self) -> u64 {
        let state = self.lock();
        state.files.seen.saturating_sub(state.reports.failed + state.reports.unchanged)
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
        } else if let Some(position) = state.queued {
            Some(Binding::Queue(position))
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
            repeated: 0,
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
        let state = self.lock();
        state.attachments - state.in_vain
    }

    /// Changes how much may be asked for ahead, as the number of jobs that share the memory changes.
    pub fn set_credit(&self, limits: CreditLimits) {
        self.lock().sink.credit().set_limits(limits);
        self.out.notify_waiters();
    }

    /// Does something after which chunks that were asked for may have to be asked for again, and puts back what was spent on them.
    fn putting_back(&self, state: &mut State, change: impl FnOnce(&mut Sink)) {
        let before = state.sink.credit().outstanding();
        change(&mut state.sink);
        let back = before.saturating_sub(state.sink.credit().outstanding());
        if let Some(allowance) = self.config.allowance.as_ref().filter(|_| back > 0) {
            allowance.put_back(back);
        }
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
        let before = state.control.replace(link.clone()).filter(|before| before.id() != link.id());
        // Nobody moves the control from a link that works.
        if let Some(before) = before {
            state.links.retain(|l| l.id() != before.id());
            self.left.notify_waiters();
        }
        state.attachments += 1;
        state.greet = state.open.is_some();
        state.ready = state.open.is_none();
        state.attached = false;
        state.finished_sent = false;
        state.receipt_sent = false;
        state.fail_sent = false;
        let State { statuses, told, .. } = &mut *state;
        statuses.prepend(told);
        self.putting_back(&mut state, Sink::reattached);
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
        state.links.retain(|l| l.id() != link);
        self.left.notify_waiters();
        if state.control.as_ref().is_some_and(|c| c.id() == link) {
            state.control = None;
            state.ready = false;
            state.attached = false;
        }
        drop(state);
        self.out.notify_waiters();
        self.over.notify_waiters();
    }

    /// Nothing is heard of a link, but of others. The side that has opened the job moves its control.
    pub(crate) fn link_silent(&self, link: LinkId) {
        let opened_here = self.is_opened_here();
        let mut state = self.lock();
        state.links.retain(|l| l.id() != link);
        self.left.notify_waiters();
        if opened_here && state.control.as_ref().is_some_and(|c| c.id() == link) {
            state.control = None;
            state.ready = false;
            state.attached = false;
        }
        drop(state);
        self.out.notify_waiters();
    }

    /// Records that came while the job was being opened; from 0. Only before the job runs.
    pub(crate) fn early(&self, records: Vec<Record>) {
        // The queue of a new job is empty.
        let _ = self.records.try_send(Planning::Records { first: 0, records });
    }

    /// A frame of the source. Waits while the planner's queue is full; dropped meanwhile, the frame is lost as if with
    /// its link.
    pub(crate) async fn on_frame(&self, frame: Frame) {
        match frame {
            Frame::Records { .. } if self.lock().stranger => return,
            Frame::Records { first, records, .. } => {
                // The planner is gone when the job is over: nothing waits for these records then.
                let _ = self.records.send(Planning::Records { first, records }).await;
                return;
            }
            Frame::ManifestEnd(end) => {
                let _ = self.records.send(Planning::End { records: end.records, root: end.root }).await;
                return;
            }
            Frame::Opened { incarnation, .. } if self.is_opened_here() => self.opened(incarnation),
            Frame::Queued { position, .. } if self.is_opened_here() => self.lock().queued = Some(position),
            Frame::Gone { chunk, .. } => {
                let needed = self.lock().sink.gone(chunk);
                if needed && self.landing.abilities().in_sequence {
                    self.fail(JobError::new(Code::Changed, "the source no longer has all of its bytes"));
                }
            }
            Frame::EntryStatus(EntryStatus { path, code, reason, .. }) => {
                self.lock().reports.push(EntryReport { entry: None, path, code, reason });
            }
            Frame::Receipt { bytes, .. } if self.is_opened_here() => self.lock().receipt = Some(bytes),
            Frame::Fail { code, reason, .. } => self.fail(JobError { code, reason, by_peer: true }),
            _ => self.fail(JobError::new(Code::Protocol, "the source sent a frame that is not a source's")),
        }
        self.out.notify_waiters();
        self.work.notify_waiters();
        self.over.notify_waiters();
    }

    /// The source says which run of it answers.
    fn opened(&self, incarnation: Incarnation) {
        let mut state = self.lock();
        let same = *state.incarnation.get_or_insert(incarnation) == incarnation;
        state.ready = same;
        state.stranger = !same;
        state.queued = None;
        let over = state.finished.is_some();
        drop(state);
        // One that is finished here has nothing to ask of a new run.
        if !same && !over {
            // Its manifest may differ from what is half received here. The next attempt compares.
            let reason = "the source was restarted; the job goes on with a new attempt";
            self.fail(JobError::new(Code::Superseded, reason));
        }
    }

    /// The session forgets the job: its tasks end.
    pub(crate) fn end(&self) {
        self.lock().ended = true;
        self.halt.say();
        self.out.notify_waiters();
        self.work.notify_waiters();
        self.over.notify_waiters();
    }

    fn fail(&self, error: JobError) {
        self.lock().failed.get_or_insert(error);
        self.landing.cancel();
        self.halt.say();
        self.out.notify_waiters();
        self.work.notify_waiters();
        self.over.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }
}
