//! A session: links that come and go, jobs that stay.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use metra_core::code::Code;
use metra_core::id::JobId;
use metra_core::rate::RatePolicy;
use metra_core::wire::{ChunkHeader, Frame, FrameDecoder};
use metra_transport::{ChunkRecv, ControlRecv, ControlSend, Link, LinkError, LinkId, Rt};
use tokio::sync::{Notify, mpsc, watch};

use crate::early::Early;
use crate::job::JobError;
use crate::link::{LinkHandle, ReadError, read_frame, write_frames};
use crate::silence::{self, Silence};
use crate::sink_job::SinkJob;
use crate::source_job::SourceJob;
use crate::traffic::Traffic;
use crate::waiting::{GivenUp, Waiting};

mod begun;

pub use begun::Begun;

/// What bounds a session.
#[derive(Clone, Copy, Debug)]
pub struct SessionConfig {
    /// Jobs at a time.
    pub jobs: usize,
    /// Links at a time.
    pub links: usize,
    /// How long the header of a chunk may take after its stream was opened.
    pub chunk_header: Duration,
    /// How each link may share its path, if the other side grants it; `None`: nothing is asked for.
    pub rate: Option<RatePolicy>,
    /// The other side says how links share their paths (a client's session). Otherwise what it sends of that is a request.
    pub is_granted: bool,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            jobs: metra_core::limits::JOBS_MAX,
            links: 8,
            chunk_header: Duration::from_secs(30),
            rate: None,
            is_granted: false,
        }
    }
}

/// A frame that belongs to no running job: for the gateway to act on, or for the client that waits for it.
#[derive(Debug)]
pub struct Request {
    /// Where it came from, and where an answer goes.
    pub link: LinkHandle,
    /// `Push`, `Pull`, `List`, `Remove`, `Rate` at a gateway; `Listing`, `Result` at a client.
    pub frame: Frame,
}

/// A session; cheap to clone.
#[derive(Clone)]
pub struct Session(Arc<Inner>);

struct Inner {
    rt: Rt,
    config: SessionConfig,
    state: Mutex<State>,
    requests: mpsc::Sender<Request>,
    links_changed: Notify,
}

/// Jobs hear of their links while this is locked, so that each is told of them in the order in which they came and
/// went. A job's own lock is taken after this one, never before.
#[derive(Default)]
struct State {
    links: Vec<LinkHandle>,
    /// Of these, links that nothing is heard of.
    silent: BTreeSet<LinkId>,
    /// What links that are gone have carried.
    carried: Traffic,
    // In order: what is done for each of them is done in the same order in every run.
    jobs: BTreeMap<JobId, Job>,
    /// Of jobs that are being opened.
    early: Early,
    /// Jobs that wait to be opened.
    waiting: BTreeMap<JobId, GivenUp>,
    /// Links that there have ever been.
    attached: u64,
    /// What was granted: to all links, or to one to which it was not what was asked for.
    granted: Option<RatePolicy>,
    /// The last link was ended by the peer, who has nothing more to do.
    peer_has_ended: bool,
    closed: bool,
}

#[derive(Clone)]
enum Job {
    Source(Arc<SourceJob>),
    Sink(Arc<SinkJob>),
}

impl Job {
    fn control(&self) -> Option<LinkId> {
        match self {
            Job::Source(job) => job.control(),
            Job::Sink(job) => job.control(),
        }
    }

    fn set_control(&self, link: LinkHandle) {
        match self {
            Job::Source(job) => job.set_control(link),
            Job::Sink(job) => job.set_control(link),
        }
    }

    fn add_link(&self, link: &LinkHandle) {
        match self {
            Job::Source(job) => job.add_link(link),
            Job::Sink(job) => job.add_link(link),
        }
    }

    fn link_lost(&self, link: LinkId) {
        match self {
            Job::Source(job) => job.link_lost(link),
            Job::Sink(job) => job.link_lost(link),
        }
    }

    /// The link, which is about to be lost, was never one: if the job is controlled over it, that does not count.
    fn attached_in_vain(&self, link: LinkId) {
        match self {
            Job::Source(job) => job.attached_in_vain(link),
            Job::Sink(job) => job.attached_in_vain(link),
        }
    }

    fn link_silent(&self, link: LinkId) {
        match self {
            Job::Source(job) => job.link_silent(link),
            Job::Sink(job) => job.link_silent(link),
        }
    }

    fn is_over(&self) -> bool {
        match self {
            Job::Source(job) => job.is_over(),
            Job::Sink(job) => job.is_over(),
        }
    }

    fn cancel(&self, code: Code, reason: &str) {
        match self {
            Job::Source(job) => job.cancel(code, reason),
            Job::Sink(job) => job.cancel(code, reason),
        }
    }

    fn end(&self) {
        match self {
            Job::Source(job) => job.end(),
            Job::Sink(job) => job.end(),
        }
    }

    /// Moves a job that has no control link to this one, if it is for this side to do that; else the peer does.
    fn adopt(&self, link: &LinkHandle) {
        let opened_here = match self {
            Job::Source(job) => job.is_opened_here(),
            Job::Sink(job) => job.is_opened_here(),
        };
        if opened_here && self.control().is_none() {
            self.set_control(link.clone());
        }
    }
}

impl State {
    /// The jobs that wait are not to be opened any more.
    fn give_up(&self, error: &JobError) {
        self.waiting.values().for_each(|waiting| _ = waiting.send_replace(Some(error.clone())));
    }

    fn has(&self, link: &LinkHandle) -> bool {
        self.links.iter().any(|l| l.id() == link.id())
    }

    /// Links that something is heard of; all, if that is none.
    fn usable(&self) -> Vec<LinkHandle> {
        let heard: Vec<LinkHandle> =
            self.links.iter().filter(|link| !self.silent.contains(&link.id())).cloned().collect();
        if heard.is_empty() { self.links.clone() } else { heard }
    }

    /// Jobs leave silent links for others, if there are any, and come back to those that are silent no more.
    fn spread(&self) {
        let usable = self.usable();
        let left: Vec<LinkId> =
            self.links.iter().map(LinkHandle::id).filter(|id| usable.iter().all(|l| l.id() != *id)).collect();
        for job in self.jobs.values() {
            left.iter().for_each(|link| job.link_silent(*link));
            usable.iter().for_each(|link| job.add_link(link));
            if let Some(first) = usable.first() {
                job.adopt(first);
            }
        }
    }
}

impl Session {
    /// A session without links. Frames that belong to no job go to `requests`; whoever receives them must not wait
    /// for this session to send anything, or both would wait.
    pub fn new(rt: Rt, config: SessionConfig, requests: mpsc::Sender<Request>) -> Self {
        let state = Mutex::default();
        Self(Arc::new(Inner { rt, config, state, requests, links_changed: Notify::new() }))
    }

    /// Adds a link whose opening has been agreed on, and pumps it until it is lost.
    ///
    /// # Errors
    /// [`Code::Limit`] if there are too many links, [`Code::Draining`] if the session is closed. The link is
    /// closed then.
    pub fn attach(
        &self,
        link: Arc<dyn Link>,
        send: Box<dyn ControlSend>,
        recv: Box<dyn ControlRecv>,
        decoder: FrameDecoder,
    ) -> Result<LinkHandle, JobError> {
        Ok(self.begin(link, send)?.agreed(recv, decoder))
    }

    /// Adds a link whose opening has not been agreed on: jobs are opened over it, and what comes back waits until it
    /// [is agreed](Begun::agreed) on. So the opening of a job travels with that of the link.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    pub fn begin(&self, link: Arc<dyn Link>, send: Box<dyn ControlSend>) -> Result<Begun, JobError> {
        let (handle, queue) = {
            let mut state = self.lock();
            state.attached += 1;
            let (handle, queue) = LinkHandle::new(link, state.attached);
            let refused = if state.closed {
                Some(JobError::new(Code::Draining, "the session is closed"))
            } else if state.links.len() >= self.0.config.links {
                Some(JobError::new(Code::Limit, "too many links"))
            } else {
                None
            };
            if let Some(error) = refused {
                handle.link().close(error.code, &error.reason);
                return Err(error);
            }
            if let Some(asked) = self.0.config.rate {
                handle.send_first(&Frame::Rate(asked));
            }
            state.peer_has_ended = false;
            state.links.push(handle.clone());
            state.spread();
            (handle, queue)
        };
        if let Some(asked) = self.0.config.rate {
            handle.link().set_rate(asked.as_fair());
        }
        let writer = self.0.rt.spawn(write_control(handle.link().clone(), send, queue)).abort_on_drop();
        self.0.links_changed.notify_waiters();
        Ok(Begun { session: self.clone(), link: handle, writer: Some(writer) })
    }

    /// Waits until the session is closed.
    pub async fn closed(&self) {
        loop {
            let changed = self.0.links_changed.notified();
            if self.lock().closed {
                return;
            }
            changed.await;
        }
    }

    /// The links now.
    pub fn links(&self) -> Vec<LinkHandle> {
        self.lock().links.clone()
    }

    /// Links of which something is heard: what was sent over them has had an answer in the last second or so.
    pub fn live_links(&self) -> Vec<LinkHandle> {
        let state = self.lock();
        state.links.iter().filter(|link| !state.silent.contains(&link.id())).cloned().collect()
    }

    /// Waits until the session has fewer live links than `wanted`; at once if it has.
    pub async fn live_links_fewer_than(&self, wanted: usize) {
        loop {
            let changed = self.0.links_changed.notified();
            if self.live_links().len() < wanted {
                return;
            }
            changed.await;
        }
    }

    /// What all links of the session have carried so far, those that are gone included.
    pub fn traffic(&self) -> Traffic {
        let (mut traffic, links) = {
            let state = self.lock();
            (state.carried, state.links.clone())
        };
        traffic.add_open(links.iter().map(|link| link.link().stats()));
        traffic
    }

    /// What was granted of [`SessionConfig::rate`], and is in use: for each link, the least favourable of them. `None` until
    /// there is an answer.
    pub fn granted(&self) -> Option<RatePolicy> {
        self.lock().granted
    }

    /// Waits until the session has fewer links than `wanted`; at once if it has.
    pub async fn links_fewer_than(&self, wanted: usize) {
        loop {
            let changed = self.0.links_changed.notified();
            if self.lock().links.len() < wanted {
                return;
            }
            changed.await;
        }
    }

    /// Whether the peer has ended the last link because it has nothing more to do, and has not come back.
    pub fn peer_has_ended(&self) -> bool {
        let state = self.lock();
        state.peer_has_ended && state.links.is_empty()
    }

    /// Waits until the session has a link; at once if it has one.
    pub async fn with_links(&self) {
        loop {
            let changed = self.0.links_changed.notified();
            if !self.lock().links.is_empty() {
                return;
            }
            changed.await;
        }
    }

    /// Adds a job that sends; it is controlled over `control`, or over any link if `None`.
    ///
    /// # Errors
    /// [`Code::Limit`]: too many jobs, or the number is taken.
    pub fn add_source(&self, job: Arc<SourceJob>, control: Option<LinkHandle>) -> Result<(), JobError> {
        self.add(job.id(), Job::Source(job), control)
    }

    /// Adds a job that receives; it is controlled over `control`, or over any link if `None`.
    ///
    /// # Errors
    /// [`Code::Limit`]: too many jobs, or the number is taken.
    pub fn add_sink(&self, job: Arc<SinkJob>, control: Option<LinkHandle>) -> Result<(), JobError> {
        self.add(job.id(), Job::Sink(job), control)
    }

    fn add(&self, id: JobId, job: Job, control: Option<LinkHandle>) -> Result<(), JobError> {
        let mut state = self.lock();
        if state.closed {
            return Err(JobError::new(Code::Draining, "the session is closed"));
        }
        let running = state.jobs.values().filter(|job| !job.is_over()).count();
        if running >= self.0.config.jobs || state.jobs.contains_key(&id) {
            return Err(JobError::new(Code::Limit, "too many jobs in this session"));
        }
        let usable = state.usable();
        for link in &usable {
            job.add_link(link);
        }
        let early = state.early.take(id);
        if let Job::Sink(job) = &job
            && !early.is_empty()
        {
            job.early(early);
        }
        match &control {
            // If the link is lost already, the peer opens the job again on another one.
            Some(control) if state.has(control) => job.set_control(control.clone()),
            Some(_) => {}
            None => {
                if let Some(first) = usable.first() {
                    job.set_control(first.clone());
                }
            }
        }
        state.jobs.insert(id, job);
        Ok(())
    }

    /// The sending job with this number.
    pub fn source(&self, id: JobId) -> Option<Arc<SourceJob>> {
        match self.lock().jobs.get(&id) {
            Some(Job::Source(job)) => Some(job.clone()),
            _ => None,
        }
    }

    /// The receiving job with this number.
    pub fn sink(&self, id: JobId) -> Option<Arc<SinkJob>> {
        match self.lock().jobs.get(&id) {
            Some(Job::Sink(job)) => Some(job.clone()),
            _ => None,
        }
    }

    /// Moves the control of a job to `link`, because its opener has opened it again there. Does nothing if the link
    /// is lost already.
    pub fn reattach(&self, id: JobId, link: LinkHandle) {
        let state = self.lock();
        if let Some(job) = state.jobs.get(&id)
            && state.has(&link)
        {
            job.set_control(link);
        }
    }

    /// A job that the peer wanted to open waits. `None`: the session is closed, or such a job waits already.
    pub fn wait_with(&self, id: JobId) -> Option<Waiting> {
        let mut state = self.lock();
        if state.closed || state.waiting.contains_key(&id) {
            return None;
        }
        let (given_up, heard) = watch::channel(None);
        state.waiting.insert(id, given_up);
        Some(Waiting::new(self.clone(), id, heard))
    }

    pub(crate) fn waits_no_more(&self, id: JobId) {
        self.lock().waiting.remove(&id);
    }

    /// A job that the peer wanted to open is not opened: what came of it meanwhile is forgotten.
    pub fn refuse(&self, id: JobId) {
        self.lock().early.take(id);
    }

    /// Forgets a job that is over, and ends its tasks.
    pub fn remove(&self, id: JobId) {
        let job = self.lock().jobs.remove(&id);
        if let Some(job) = job {
            job.end();
        }
    }

    /// How many jobs there are that are not over, those that wait included.
    pub fn jobs(&self) -> usize {
        let state = self.lock();
        state.jobs.values().filter(|job| !job.is_over()).count() + state.waiting.len()
    }

    /// Ends every job; each says so to its peer and journals what it holds.
    pub fn cancel_jobs(&self, code: Code, reason: &str) {
        let jobs: Vec<Job> = {
            let state = self.lock();
            state.give_up(&JobError::new(code, reason));
            state.jobs.values().cloned().collect()
        };
        for job in jobs {
            job.cancel(code, reason);
        }
    }

    /// Takes no more links and jobs, closes the links, and ends the jobs that are left.
    pub fn close(&self, code: Code, reason: &str) {
        let (links, jobs) = {
            let mut state = self.lock();
            state.closed = true;
            state.give_up(&JobError::new(code, reason));
            let links = std::mem::take(&mut state.links);
            links.iter().for_each(|link| state.carried.add_gone(&link.link().stats()));
            (links, std::mem::take(&mut state.jobs))
        };
        for job in jobs.values() {
            if !job.is_over() {
                // That a session ends well does not say so of a job that is cut short.
                job.cancel(if code == Code::Ok { Code::Cancelled } else { code }, reason);
            }
            job.end();
        }
        for link in links {
            link.link().close(code, reason);
        }
        self.0.links_changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("no panic while held")
    }

    /// A link is gone: its jobs hear of it, and those that were controlled over it move to another one.
    fn detach(&self, link: &LinkHandle, End { why, by_peer }: End) {
        tracing::debug!(link = %link.id(), why, "link lost");
        self.forget(link, by_peer, |_| {});
    }

    /// The same; `before` sees each job first.
    fn forget(&self, link: &LinkHandle, by_peer: bool, before: impl Fn(&Job)) {
        {
            let mut state = self.lock();
            if state.has(link) {
                state.links.retain(|l| l.id() != link.id());
                state.silent.remove(&link.id());
                state.early.link_lost(link.id());
                state.carried.add_gone(&link.link().stats());
            }
            for job in state.jobs.values() {
                before(job);
                job.link_lost(link.id());
            }
            state.spread();
            state.peer_has_ended |= by_peer && state.links.is_empty();
        }
        self.0.links_changed.notify_waiters();
    }

    /// Looks at a link now and then.
    async fn watch_silence(self, link: LinkHandle) {
        let mut silence = Silence::default();
        let mut was_silent = false;
        loop {
            self.0.rt.sleep(silence::LOOK).await;
            let is_silent = silence.look(self.0.rt.now(), &link.link().stats());
            if is_silent == was_silent {
                continue;
            }
            was_silent = is_silent;
            let mut state = self.lock();
            if !state.has(&link) {
                return;
            }
            tracing::debug!(link = %link.id(), is_silent, "silence");
            if is_silent {
                state.silent.insert(link.id());
            } else {
                state.silent.remove(&link.id());
            }
            state.spread();
            drop(state);
            self.0.links_changed.notify_waiters();
        }
    }

    /// Reads a link's control stream until the link is lost or closed.
    async fn read_control(
        &self,
        link: &LinkHandle,
        mut control: Box<dyn ControlRecv>,
        mut decoder: FrameDecoder,
    ) -> End {
        let closed = link.link().closed();
        tokio::pin!(closed);
        loop {
            let frame = tokio::select! {
                frame = read_frame(&mut control, &mut decoder) => frame,
                error = &mut closed => return error.into(),
            };
            match frame {
                Ok(Some(Frame::Close { code, reason })) => {
                    link.link().close(code, &reason);
                    return End { why: reason, by_peer: is_the_end(code) };
                }
                Ok(Some(frame)) => {
                    // What waits for a job must not keep the loss of the link from being noticed.
                    let dispatched = tokio::select! {
                        biased;
                        dispatched = self.dispatch(link, frame) => dispatched,
                        error = &mut closed => return error.into(),
                    };
                    if let Err((code, reason)) = dispatched {
                        link.link().close(code, &reason);
                        return End { why: reason, by_peer: false };
                    }
                }
                Ok(None) => {
                    link.link().close(Code::Ok, "");
                    return End { why: "the peer has finished".to_owned(), by_peer: true };
                }
                Err(error) => {
                    link.link().close(error.code(), &error.to_string());
                    return match error {
                        ReadError::Link(error) => error.into(),
                        ReadError::Wire(error) => End { why: error.to_string(), by_peer: false },
                    };
                }
            }
        }
    }

    async fn dispatch(&self, link: &LinkHandle, mut frame: Frame) -> Result<(), (Code, String)> {
        let Some(id) = frame.job() else {
            return match frame {
                Frame::Hello(_) | Frame::Welcome(_) => {
                    Err((Code::Protocol, "a link is opened once".to_owned()))
                }
                Frame::Granted(granted) if self.0.config.is_granted => {
                    self.use_rate(link, granted);
                    Ok(())
                }
                frame => self.request(link, frame).await,
            };
        };
        if matches!(frame, Frame::Push(_) | Frame::Pull(_)) {
            if matches!(frame, Frame::Push(_)) {
                self.expect(id, link.id())?;
            }
            return self.request(link, frame).await;
        }
        let job = {
            let mut state = self.lock();
            match (state.jobs.get(&id).cloned(), frame) {
                (None, Frame::Fail { code, reason, .. }) => {
                    if let Some(waiting) = state.waiting.get(&id) {
                        waiting.send_replace(Some(JobError { code, reason, by_peer: true }));
                    }
                    return Ok(());
                }
                (None, Frame::Records { first, records, .. }) => {
                    return state.early.hold(id, link.id(), first, records);
                }
                (job, other) => {
                    frame = other;
                    job
                }
            }
        };
        // A job that is not known here has ended; a link that does not control it is one that it has left. What
        // was under way then is of no use.
        let Some(job) = job.filter(|job| job.control() == Some(link.id())) else { return Ok(()) };
        match job {
            Job::Source(job) => job.on_frame(frame),
            Job::Sink(job) => job.on_frame(frame).await,
        }
        Ok(())
    }

    /// A job is opened, or its control moves, if it is there.
    fn expect(&self, id: JobId, link: LinkId) -> Result<(), (Code, String)> {
        let mut state = self.lock();
        if state.jobs.contains_key(&id) { Ok(()) } else { state.early.expect(id, link) }
    }

    fn use_rate(&self, link: &LinkHandle, granted: RatePolicy) {
        let asked = self.0.config.rate.unwrap_or_default();
        let granted = asked.accept(granted);
        let used = if link.link().set_rate(granted) { granted } else { RatePolicy::default() };
        let mut state = self.lock();
        if used != asked || state.granted.is_none() {
            state.granted = Some(used);
        }
    }

    async fn request(&self, link: &LinkHandle, frame: Frame) -> Result<(), (Code, String)> {
        let request = Request { link: link.clone(), frame };
        self.0.requests.send(request).await.map_err(|_| (Code::Draining, "shutting down".to_owned()))
    }

    /// Receives the chunks of a link, each in a task of its own; how many at a time is bounded by the transport's limit
    /// of streams.
    async fn accept_chunks(self, link: LinkHandle) {
        while let Ok(stream) = link.link().accept_chunk().await {
            let session = self.clone();
            let link = link.id();
            self.0.rt.spawn(async move { session.receive_chunk(stream, link).await });
        }
    }

    async fn receive_chunk(self, mut stream: Box<dyn ChunkRecv>, link: LinkId) {
        let mut buffer = BytesMut::new();
        let rt = self.0.rt.clone();
        let header = rt.timeout(self.0.config.chunk_header, read_header(&mut stream, &mut buffer)).await;
        let Ok(Some(header)) = header else {
            stream.stop(Code::Protocol);
            return;
        };
        match self.sink(header.job) {
            Some(job) => {
                drop(self);
                job.receive(header, buffer, &mut stream, link).await;
            }
            None => stream.stop(Code::Cancelled),
        }
    }
}

/// How a link has ended.
struct End {
    /// For the log.
    why: String,
    /// The peer has said that it has nothing more to do over it.
    by_peer: bool,
}

impl From<LinkError> for End {
    fn from(error: LinkError) -> Self {
        let by_peer = matches!(&error, LinkError::ClosedByPeer { code, .. } if is_the_end(*code));
        Self { why: error.to_string(), by_peer }
    }
}

/// Whether somebody who closes a link so has nothing more to do over it.
fn is_the_end(code: Code) -> bool {
    matches!(code, Code::Ok | Code::Cancelled)
}

/// Writes a link's control stream. A link that has lost it is of no use, and is closed unless it is lost as well.
async fn write_control(link: Arc<dyn Link>, control: Box<dyn ControlSend>, queue: mpsc::Receiver<Bytes>) {
    if write_frames(control, queue).await.is_err() {
        link.close(Code::Protocol, "the control stream was stopped");
    }
}

/// Reads the header of a chunk; what follows it stays in `buffer`. `None`: the stream is not a chunk.
async fn read_header(stream: &mut Box<dyn ChunkRecv>, buffer: &mut BytesMut) -> Option<ChunkHeader> {
    loop {
        // No more than the longest header: the body is read into a buffer of its size, once it is accepted.
        let read = stream.read(buffer, ChunkHeader::MAX).await.ok()?;
        match ChunkHeader::decode(buffer) {
            Ok(Some((header, len))) => {
                buffer.advance(len);
                return Some(header);
            }
            Ok(None) if read > 0 && buffer.len() <= ChunkHeader::MAX => {}
            _ => return None,
        }
    }
}
