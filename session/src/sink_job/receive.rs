//! Chunks: received whole, verified, written; or copied from where the same bytes are already.

use std::sync::Arc;

use bytes::BytesMut;
use metra_core::code::Code;
use metra_core::id::{ChunkIndex, Digest};
use metra_core::sink::Arrival;
use metra_core::wire::ChunkHeader;
use metra_store::landing::{LandError, pieces};
use metra_transport::{ChunkRecv, LinkId};
use tokio::sync::oneshot;

use super::{SinkJob, State};
use crate::job::JobError;

/// What came of a chunk's stream.
enum Body {
    /// As many bytes as its header said.
    Whole(BytesMut),
    /// More or fewer, and then its end. Fault: the source.
    Wrong,
    /// The stream or its link broke.
    Broken,
}

/// A chunk that begins to arrive.
struct Accepted {
    /// What it belongs to.
    epoch: u32,
    number: u64,
    /// Resolves when nothing more is wanted of the stream.
    over: oneshot::Receiver<()>,
}

/// A stream of a chunk that is being read, until this is dropped.
pub(super) struct Arriving {
    link: LinkId,
    number: u64,
    _over: oneshot::Sender<()>,
}

impl State {
    /// Whether a chunk that arrives on another link already may be read here as well: what comes twice takes memory twice, of what is
    /// left of the window.
    fn may_arrive_twice(&mut self, header: &ChunkHeader, link: LinkId) -> bool {
        let is_whole = self.sink.ledger().chunk(header.chunk).is_some_and(|info| info.len == header.len);
        let streams = self.arriving.get(&header.chunk.0);
        let is_second = streams.is_some_and(|streams| streams.len() == 1 && streams[0].link != link);
        let twice = self.arriving.iter().filter(|(_, streams)| streams.len() > 1);
        let lens = twice.filter_map(|(chunk, _)| self.sink.ledger().chunk(ChunkIndex(*chunk)));
        let bytes: u64 = lens.map(|info| u64::from(info.len)).sum();
        is_whole && is_second && bytes + u64::from(header.len) <= self.sink.credit().available()
    }

    /// Nothing more comes on a stream of a chunk. `whole`: nor is it wanted from another one. `false`: it is not wanted from this one any
    /// more, or comes on another one.
    fn stream_ends(&mut self, chunk: ChunkIndex, number: u64, whole: bool) -> bool {
        let Some(streams) = self.arriving.get_mut(&chunk.0) else { return false };
        let Some(at) = streams.iter().position(|stream| stream.number == number) else { return false };
        streams.swap_remove(at);
        let is_last = whole || streams.is_empty();
        if is_last {
            self.arriving.remove(&chunk.0);
        }
        is_last
    }
}

/// A write to the landing that is under way, counted for those who must not overtake it.
pub(super) struct Writing(Arc<SinkJob>);

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.lock().writing -= 1;
        self.0.work.notify_waiters();
    }
}

impl SinkJob {
    /// Receives one chunk from its stream. `buffer` holds what followed the header already.
    pub(crate) async fn receive(
        self: &Arc<Self>,
        header: ChunkHeader,
        buffer: BytesMut,
        stream: &mut Box<dyn ChunkRecv>,
        link: LinkId,
    ) {
        let chunk = header.chunk;
        let Accepted { epoch, number, over } = match self.accept(&header, link) {
            Ok(accepted) => accepted,
            Err(code) => return stream.stop(code),
        };
        let body = tokio::select! {
            biased;
            body = read_body(stream, buffer, header.len as usize) => body,
            // The rest may come, but not soon: it is asked for on another link.
            () = self.left(link) => Body::Broken,
            _ = over => return stream.stop(Code::Cancelled),
            () = self.halt.said() => return stream.stop(Code::Cancelled),
        };
        if !self.lock().stream_ends(chunk, number, !matches!(body, Body::Broken)) {
            return stream.stop(Code::Cancelled);
        }
        let data = match body {
            Body::Whole(data) => data,
            Body::Wrong => {
                stream.stop(Code::Protocol);
                return self.landed(chunk, epoch, Ok(false), true);
            }
            Body::Broken => {
                let mut state = self.lock();
                if state.sink.epoch() == epoch {
                    self.putting_back(&mut state, |sink| sink.lost(chunk));
                }
                drop(state);
                return self.out.notify_waiters();
            }
        };
        let Some(writing) = self.begin_write(epoch) else { return };
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
                if Digest::of(&data) != hash {
                    return Ok(false);
                }
                landing.write(chunk, &parts, &data).map(|()| true)
            })
            .await;
        self.landed(chunk, epoch, written, true);
        drop(writing);
    }

    /// Resolves when the job has left a link.
    async fn left(&self, link: LinkId) {
        loop {
            let left = self.left.notified();
            if self.lock().links.iter().all(|l| l.id() != link) {
                return;
            }
            left.await;
        }
    }

    /// Whether a chunk that begins to arrive is wanted, or why not. A source that sends again what is late on another link does not know
    /// which will be the first: so both are read.
    fn accept(&self, header: &ChunkHeader, link: LinkId) -> Result<Accepted, Code> {
        let mut state = self.lock();
        if state.failed.is_some() {
            return Err(Code::Cancelled);
        }
        let arrival = match state.sink.accept(header.chunk, header.len) {
            Arrival::Duplicate if state.may_arrive_twice(header, link) => Arrival::Accept,
            Arrival::Accept => {
                // What began before all was planned anew.
                state.arriving.remove(&header.chunk.0);
                Arrival::Accept
            }
            arrival => arrival,
        };
        match arrival {
            Arrival::Accept => {
                state.first_byte.get_or_insert(self.rt.now());
                state.arrivals += 1;
                let (number, epoch) = (state.arrivals, state.sink.epoch());
                let (sender, over) = oneshot::channel();
                let stream = Arriving { link, number, _over: sender };
                state.arriving.entry(header.chunk.0).or_default().push(stream);
                Ok(Accepted { epoch, number, over })
            }
            Arrival::Duplicate | Arrival::Unwanted => Err(Code::Cancelled),
            Arrival::WrongLength => {
                drop(state);
                let reason = format!("chunk {} is not as long as its record says", header.chunk.0);
                self.fail(JobError::new(Code::Protocol, reason));
                Err(Code::Protocol)
            }
        }
    }

    /// Counts a write, unless it comes too late to be of use.
    pub(super) fn begin_write(self: &Arc<Self>, epoch: u32) -> Option<Writing> {
        let mut state = self.lock();
        if state.failed.is_some() || state.ended || state.sink.epoch() != epoch {
            return None;
        }
        state.writing += 1;
        Some(Writing(self.clone()))
    }

    /// A chunk was written (`Ok(true)`), did not have the right bytes, or could not be written.
    pub(super) fn landed(
        &self,
        chunk: ChunkIndex,
        epoch: u32,
        written: Result<bool, LandError>,
        received: bool,
    ) {
        let now = self.rt.now();
        let mut state = self.lock();
        let mut failed = None;
        match written {
            Err(error) => failed = Some(JobError::new(error.code(), error.to_string())),
            // Everything was planned anew meanwhile; the chunk is asked for again if it is still needed.
            Ok(_) if state.sink.epoch() != epoch => {}
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
                        let names = names(&state, chunk);
                        failed = Some(JobError::new(error.code(), format!("{error}; it is part of {names}")));
                    }
                }
            }
        }
        drop(state);
        match failed {
            Some(error) => self.fail(error),
            None => {
                self.out.notify_waiters();
                self.work.notify_waiters();
            }
        }
    }

    /// Copies chunks whose bytes are here under another index, one task at a time.
    pub(super) fn start_copies(self: &Arc<Self>) {
        let mut state = self.lock();
        if state.copying || state.failed.is_some() || state.ended {
            return;
        }
        let Some(first) = state.sink.poll_copy() else { return };
        state.copying = true;
        let epoch = state.sink.epoch();
        drop(state);
        let job = self.clone();
        self.rt.spawn(async move {
            let mut next = Some((first, epoch));
            while let Some(((from, to), epoch)) = next {
                job.copy(from, to, epoch).await;
                let mut state = job.lock();
                let stop = state.failed.is_some() || state.ended;
                next =
                    if stop { None } else { state.sink.poll_copy() }.map(|copy| (copy, state.sink.epoch()));
                state.copying = next.is_some();
            }
        });
    }

    async fn copy(self: &Arc<Self>, from: ChunkIndex, to: ChunkIndex, epoch: u32) {
        let Some(writing) = self.begin_write(epoch) else { return };
        let (source, target, hash) = {
            let state = self.lock();
            let ledger = state.sink.ledger();
            (pieces(ledger, from), pieces(ledger, to), ledger.chunk(to).map(|c| c.hash))
        };
        let landing = self.landing.clone();
        let copied = self
            .rt
            .blocking(move || match landing.read_back(from, &source) {
                Some(data) if Some(Digest::of(&data)) == hash => {
                    landing.write(to, &target, &data).map(|()| true)
                }
                _ => Ok(false),
            })
            .await;
        self.landed(to, epoch, copied, false);
        drop(writing);
    }
}

/// Reads a chunk of `len` bytes to the end of its stream.
async fn read_body(stream: &mut Box<dyn ChunkRecv>, mut buffer: BytesMut, len: usize) -> Body {
    buffer.reserve(len.saturating_sub(buffer.len()));
    while buffer.len() < len {
        let missing = len - buffer.len();
        match stream.read(&mut buffer, missing).await {
            Ok(0) => return Body::Wrong,
            Ok(_) => {}
            Err(_) => return Body::Broken,
        }
    }
    // The end must follow, or the chunk is longer than it said.
    match stream.read(&mut buffer, 1).await {
        Ok(0) if buffer.len() == len => Body::Whole(buffer),
        Ok(_) => Body::Wrong,
        Err(_) => Body::Broken,
    }
}

/// The entries that a chunk is part of, for people.
fn names(state: &State, chunk: ChunkIndex) -> String {
    let ledger = state.sink.ledger();
    let mut names: Vec<String> =
        ledger.segments(chunk).filter_map(|s| Some(ledger.entry(s.entry)?.path)).take(4).collect();
    if names.len() == 4 {
        names[3] = "others".to_owned();
    }
    names.join(", ")
}
