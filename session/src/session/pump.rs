//! What the tasks of a link do: they read its control stream, receive its chunks, look whether it is heard, and say that it is gone.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use metra_core::code::Code;
use metra_core::id::JobId;
use metra_core::rate::RatePolicy;
use metra_core::wire::{ChunkHeader, Frame, FrameDecoder};
use metra_transport::{ChunkRecv, ControlRecv, ControlSend, Link, LinkError, LinkId, Rt};
use tokio::sync::mpsc;

use super::{Job, Request, Session};
use crate::job::JobError;
use crate::link::{LinkHandle, ReadError, read_frame, write_frames};
use crate::silence::{self, Silence};

/// How long a peer that has stopped the control stream may take to say why.
const REASON: Duration = Duration::from_secs(1);

impl Session {
    /// A link is gone: its jobs hear of it, and those that were controlled over it move to another one.
    pub(super) fn detach(&self, link: &LinkHandle, End { why, by_peer }: End) {
        tracing::debug!(link = %link.id(), why, "link lost");
        self.forget(link, by_peer, |_| {});
    }

    /// The same; `before` sees each job first.
    pub(super) fn forget(&self, link: &LinkHandle, by_peer: bool, before: impl Fn(&Job)) {
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
    pub(super) async fn watch_silence(self, link: LinkHandle) {
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
    pub(super) async fn read_control(
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
                Frame::Pace(pace) if self.0.config.is_granted => {
                    link.link().set_pace(pace);
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
    pub(super) async fn accept_chunks(self, link: LinkHandle) {
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
pub(super) struct End {
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
pub(super) async fn write_control(
    rt: Rt,
    link: Arc<dyn Link>,
    control: Box<dyn ControlSend>,
    queue: mpsc::Receiver<Bytes>,
) {
    if write_frames(control, queue).await.is_err() {
        // A peer that ends the link stops its streams, and why comes right behind: closed from here, nobody would hear it.
        let _ = rt.timeout(REASON, link.closed()).await;
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
