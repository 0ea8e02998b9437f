//! The reading half: whose the bytes are.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use bytes::{Buf, Bytes, BytesMut};
use metra_core::code::Code;
use metra_transport::{BoxFuture, ChunkRecv, ControlRecv, LinkError};
use tokio::io::{AsyncReadExt, ReadHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::shared::{Alive, FAREWELL, Shared};
use super::take_into;
use crate::stream::BoxStream;
use metra_core::wire::stream::{self as frame, StreamError, StreamFrame};

/// Bytes that are read at a time.
const READ: usize = 256 * 1024;
/// The same, of a peer that is not trusted yet.
const READ_FIRST: usize = 8 * 1024;
/// Pieces of a chunk that wait for its receiver.
const PIECES: usize = 4;
/// Chunks that wait to be accepted.
const CHUNKS: usize = 64;
/// Bytes of control that wait to be taken. What a source announces may wait for the disk of its sink; chunks and
/// pings behind it should not.
const CONTROL_MAX: usize = 4 * 1024 * 1024;

/// What a piece of control takes in memory besides its bytes: a peer may send them one by one.
const PIECE_COST: usize = 128;

/// A part of a chunk.
enum Piece {
    Data(Bytes),
    End,
    Reset(Code),
}

/// Where the bytes of the frame that is under way go.
enum Frame {
    /// The next bytes are a head.
    None,
    Control(usize),
    Body(usize),
    /// A type that is not known here.
    Unknown(usize),
    Small(u64, usize),
}

enum Incoming {
    None,
    Going(mpsc::Sender<Piece>),
    /// Its receiver does not want it.
    Discarded,
}

struct Reader {
    shared: Arc<Shared>,
    /// Chunks hold the link; the reader does not.
    alive: Weak<Alive>,
    frame: Frame,
    control: Option<mpsc::UnboundedSender<(Bytes, OwnedSemaphorePermit)>>,
    control_room: Arc<Semaphore>,
    chunks: mpsc::Sender<ChunkIn>,
    incoming: Incoming,
    begun: u64,
    /// Bytes of the link that are done with.
    read: u64,
}

/// Starts the reading task.
pub(super) fn start(
    shared: &Arc<Shared>,
    alive: &Arc<Alive>,
    io: ReadHalf<BoxStream>,
) -> (ControlIn, mpsc::Receiver<ChunkIn>) {
    // Bounded by the semaphore, in bytes of memory.
    let (control, control_in) = mpsc::unbounded_channel();
    let (chunks, chunks_in) = mpsc::channel(CHUNKS);
    let reader = Reader {
        shared: shared.clone(),
        alive: Arc::downgrade(alive),
        frame: Frame::None,
        control: Some(control),
        control_room: Arc::new(Semaphore::new(CONTROL_MAX)),
        chunks,
        incoming: Incoming::None,
        begun: 0,
        read: 0,
    };
    shared.rt.spawn(run(reader, shared.clone(), io));
    (ControlIn { alive: alive.clone(), queue: control_in }, chunks_in)
}

/// The reading task. A link that is closed reads on for a while without looking: where bytes are left unread, the kernel
/// takes back what was written last, which says why.
async fn run(reader: Reader, shared: Arc<Shared>, mut io: ReadHalf<BoxStream>) {
    tokio::select! {
        biased;
        _ = shared.ended() => {}
        () = reader.run(&mut io) => {}
    }
    let drain = async {
        let mut buffer = BytesMut::new();
        while matches!(io.read_buf(&mut buffer).await, Ok(1..)) {
            buffer.clear();
        }
    };
    let _ = shared.rt.timeout(FAREWELL, drain).await;
}

impl Reader {
    async fn run(mut self, io: &mut ReadHalf<BoxStream>) {
        let mut buffer = BytesMut::new();
        loop {
            // What was cut off it holds its memory: a little room is used up before there is more.
            let room = if self.shared.is_trusted() { READ } else { READ_FIRST };
            if buffer.capacity() - buffer.len() < room / 4 {
                buffer.reserve(room);
            }
            match io.read_buf(&mut buffer).await {
                // A peer that ends the stream without a word has gone, or was cut off.
                Ok(0) => return self.shared.lose(LinkError::Reset),
                Ok(bytes) => self.shared.heard(bytes),
                Err(error) => return self.shared.lose(error.into()),
            }
            if self.shared.is_intrusive() {
                return self.shared.refuse(Code::Limit, "too much was sent before the welcome");
            }
            if let Err(error) = self.take(&mut buffer).await {
                return self.shared.broken(error);
            }
        }
    }

    /// Takes what can be taken off the front of `buffer`.
    async fn take(&mut self, buffer: &mut BytesMut) -> Result<(), StreamError> {
        loop {
            match self.frame {
                Frame::None => {
                    let mut input = &buffer[..];
                    let Some((kind, len)) = frame::head(&mut input)? else {
                        return Ok(());
                    };
                    let head = buffer.len() - input.len();
                    debug_assert!(head <= frame::HEAD_MAX);
                    buffer.advance(head);
                    self.read += head as u64;
                    self.frame = match kind {
                        frame::CONTROL => Frame::Control(len),
                        frame::BODY => Frame::Body(len),
                        kind if frame::is_small(kind) => Frame::Small(kind, len),
                        _ => Frame::Unknown(len),
                    };
                    if let Frame::Body(_) = self.frame {
                        if !self.shared.is_trusted() {
                            self.shared.refuse(Code::Protocol, "a chunk was sent before the welcome");
                            return Ok(());
                        }
                        self.begin().await;
                    }
                }
                Frame::Control(0) | Frame::Body(0) | Frame::Unknown(0) => self.frame = Frame::None,
                Frame::Small(kind, len) => {
                    if buffer.len() < len {
                        return Ok(());
                    }
                    let payload = buffer.split_to(len);
                    self.read += len as u64;
                    self.frame = Frame::None;
                    self.small(StreamFrame::decode(kind, &payload)?).await?;
                }
                Frame::Control(ref mut rest) | Frame::Body(ref mut rest) | Frame::Unknown(ref mut rest) => {
                    if buffer.is_empty() {
                        return Ok(());
                    }
                    let piece = buffer.split_to(buffer.len().min(*rest)).freeze();
                    *rest -= piece.len();
                    self.shared.used.fetch_add(1, Ordering::Relaxed);
                    self.read += piece.len() as u64;
                    match self.frame {
                        Frame::Control(_) => self.control(piece).await,
                        Frame::Body(_) => self.body(Piece::Data(piece)).await,
                        _ => {}
                    }
                }
            }
        }
    }

    async fn control(&mut self, bytes: Bytes) {
        let Some(control) = &self.control else { return };
        let wanted = u32::try_from(bytes.len() + PIECE_COST).unwrap_or(u32::MAX);
        let _waiting = self.shared.reader_waits();
        // Never closed.
        let Ok(room) = self.control_room.clone().acquire_many_owned(wanted).await else { return };
        let _ = control.send((bytes, room));
    }

    /// A chunk begins with the first frame of its body.
    async fn begin(&mut self) {
        if !matches!(self.incoming, Incoming::None) {
            return;
        }
        let (sender, pieces) = mpsc::channel(PIECES);
        let number = self.begun;
        self.begun += 1;
        self.incoming = Incoming::Discarded;
        let Some(alive) = self.alive.upgrade() else { return };
        let chunk = ChunkIn { alive, number, pieces, rest: Bytes::new(), ended: false };
        let _waiting = self.shared.reader_waits();
        if self.chunks.send(chunk).await.is_ok() {
            self.incoming = Incoming::Going(sender);
        }
    }

    async fn body(&mut self, piece: Piece) {
        let _waiting = self.shared.reader_waits();
        if let Incoming::Going(receiver) = &self.incoming
            && receiver.send(piece).await.is_err()
        {
            self.incoming = Incoming::Discarded;
        }
    }

    async fn small(&mut self, frame: StreamFrame) -> Result<(), StreamError> {
        match frame {
            StreamFrame::End => {
                self.body(Piece::End).await;
                self.incoming = Incoming::None;
            }
            StreamFrame::Reset(code) => {
                self.body(Piece::Reset(code)).await;
                self.incoming = Incoming::None;
            }
            StreamFrame::Stop(number, code) => {
                self.shared.out().stopped(number, code);
                self.shared.wake.notify_one();
            }
            StreamFrame::Ping(number) => {
                self.shared.out().pong = Some((number, self.read));
                self.shared.wake.notify_one();
            }
            StreamFrame::Pong(number, read) => self.shared.pong(number, read),
            StreamFrame::Finish => self.control = None,
            StreamFrame::Identity(key) => self.shared.identified(key),
            StreamFrame::Close(code, reason) => self.shared.lose(LinkError::ClosedByPeer { code, reason }),
        }
        Ok(())
    }
}

/// The receiving half of the control stream.
pub(super) struct ControlIn {
    alive: Arc<Alive>,
    queue: mpsc::UnboundedReceiver<(Bytes, OwnedSemaphorePermit)>,
}

impl ControlRecv for ControlIn {
    fn recv(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, LinkError>> {
        Box::pin(async {
            match self.queue.recv().await {
                Some((bytes, _room)) => Ok(Some(bytes)),
                // The peer has finished, or the reader has ended with the link.
                None => match self.alive.0.over() {
                    None => Ok(None),
                    Some(error) => Err(error),
                },
            }
        })
    }
}

impl fmt::Debug for ControlIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ControlIn")
    }
}

/// A chunk that arrives.
pub(super) struct ChunkIn {
    alive: Arc<Alive>,
    number: u64,
    pieces: mpsc::Receiver<Piece>,
    rest: Bytes,
    ended: bool,
}

impl ChunkRecv for ChunkIn {
    fn read<'a>(&'a mut self, into: &'a mut BytesMut, max: usize) -> BoxFuture<'a, Result<usize, LinkError>> {
        Box::pin(async move {
            while self.rest.is_empty() && !self.ended {
                match self.pieces.recv().await {
                    Some(Piece::Data(bytes)) => self.rest = bytes,
                    Some(Piece::End) => self.ended = true,
                    Some(Piece::Reset(code)) => {
                        self.ended = true;
                        return Err(LinkError::StreamReset(code));
                    }
                    None => {
                        self.ended = true;
                        return Err(self.alive.0.ended().await);
                    }
                }
            }
            let mut read = take_into(&mut self.rest, into, max);
            // What else is there already.
            while read > 0 && read < max && self.rest.is_empty() {
                match self.pieces.try_recv() {
                    Ok(Piece::Data(bytes)) => self.rest = bytes,
                    Ok(Piece::End) => {
                        self.ended = true;
                        break;
                    }
                    Ok(Piece::Reset(code)) => {
                        self.ended = true;
                        return Err(LinkError::StreamReset(code));
                    }
                    Err(_) => break,
                }
                read += take_into(&mut self.rest, into, max - read);
            }
            Ok(read)
        })
    }

    fn stop(&mut self, code: Code) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.pieces.close();
        self.alive.0.out().stop = Some((self.number, code));
        self.alive.0.wake.notify_one();
    }
}

impl Drop for ChunkIn {
    fn drop(&mut self) {
        self.stop(Code::Cancelled);
    }
}

impl fmt::Debug for ChunkIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChunkIn({})", self.number)
    }
}
