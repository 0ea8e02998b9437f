//! A session: links that come and go, jobs that stay.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use metra_core::code::Code;
use metra_core::id::JobId;
use metra_core::rate::RatePolicy;
use metra_core::wire::{Frame, FrameDecoder};
use metra_transport::{ControlRecv, ControlSend, Link, LinkId, Rt};
use tokio::sync::{Notify, mpsc, watch};

use crate::early::Early;
use crate::job::JobError;
use crate::link::LinkHandle;
use crate::sink_job::SinkJob;
use crate::source_job::SourceJob;
use crate::traffic::Traffic;
use crate::waiting::{GivenUp, Waiting};

mod begun;
mod pump;

pub use begun::Begun;
use pump::write_control;

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
        let writer = self
            .0
            .rt
            .spawn(write_control(self.0.rt.clone(), handle.link().clone(), send, queue))
            .abort_on_drop();
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
}
