//! A link in memory, with latency, a rate and faults.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::{BoxFuture, FutureExt};
use metra_core::code::Code;
use metra_core::rate::RatePolicy;
use metra_core::wire::ChunkHeader;
use metra_transport::{
    ChunkRecv, ControlRecv, ControlSend, ControlStream, Link, LinkError, LinkId, LinkKind, LinkStats,
};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// What happens to one chunk on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It arrives.
    None,
    /// One bit of its body is another.
    Flip,
    /// Its stream is reset after this many bytes.
    Reset(usize),
    /// The receiver stops it before it has seen a byte.
    Refuse(Code),
    /// Its stream ends early.
    Short,
    /// Its stream goes on after its end.
    Long,
    /// It says that it is longer than it is.
    WrongLength,
    /// The transport has taken it, and it does not arrive while the link lives.
    Swallow,
}

/// Decides on faults: the chunk, and how many chunks this link has carried before it.
pub(crate) type Faults = Arc<dyn Fn(&ChunkHeader, u64) -> Fault + Send + Sync>;

/// What a link is like.
#[derive(Clone)]
pub(crate) struct Path {
    pub(crate) latency: Duration,
    /// Bytes a second and stream; 0 means no limit.
    pub(crate) rate: u64,
    /// One chunk after the other: the rate is that of all of one direction.
    pub(crate) in_line: bool,
    pub(crate) faults: Faults,
    /// Pieces of control streams that wait before a sender of them waits.
    pub(crate) control_room: usize,
}

impl Default for Path {
    fn default() -> Self {
        let latency = Duration::from_millis(20);
        Self { latency, rate: 0, in_line: false, faults: Arc::new(|_, _| Fault::None), control_room: 64 }
    }
}

impl Path {
    pub(crate) fn with(faults: impl Fn(&ChunkHeader, u64) -> Fault + Send + Sync + 'static) -> Self {
        Self { faults: Arc::new(faults), ..Self::default() }
    }

    pub(crate) fn slow(rate: u64) -> Self {
        Self { rate, ..Self::default() }
    }

    /// Chunks go one after the other, so many bytes a second.
    pub(crate) fn line(rate: u64) -> Self {
        Self { rate, in_line: true, ..Self::default() }
    }
}

#[derive(Clone, Debug)]
enum End {
    Cut,
    Closed { side: usize, code: Code, reason: String },
}

/// What one side has counted.
#[derive(Default)]
struct Wire {
    sent: (AtomicU64, AtomicU64),
    received: (AtomicU64, AtomicU64),
}

/// What both ends of a link share; a test's handle to it.
pub(crate) struct Cable {
    path: Path,
    began: Instant,
    end: watch::Sender<Option<End>>,
    /// What was on the way when the link was lost stays here.
    swallowed: Mutex<Vec<Stream>>,
    carried: AtomicU64,
    /// What each side has sent, and what was on the way to it.
    wire: [Wire; 2],
    /// Every chunk that was sent, in order.
    pub(crate) sent: Mutex<Vec<ChunkHeader>>,
    rates: Mutex<[Vec<RatePolicy>; 2]>,
    paces: Mutex<[Vec<Option<u64>>; 2]>,
    lines: [tokio::sync::Mutex<()>; 2],
    ends: Mutex<Vec<Weak<FakeLink>>>,
}

impl Cable {
    /// Loses the link: both ends find out at once, and nothing that was on the way arrives.
    pub(crate) fn cut(&self) {
        self.end(End::Cut);
    }

    /// A piece goes out at `side`, and arrives or not.
    fn count(&self, side: usize, bytes: usize, arrives: bool) {
        let add = |counters: &(AtomicU64, AtomicU64)| {
            counters.0.fetch_add(bytes as u64, Ordering::Relaxed);
            counters.1.fetch_add(1, Ordering::Relaxed);
        };
        add(&self.wire[side].sent);
        if arrives {
            add(&self.wire[1 - side].received);
        }
    }

    /// What a side of it has measured. Each piece that arrives is acknowledged, with one byte.
    pub(crate) fn stats(&self, side: usize) -> LinkStats {
        let (Wire { sent, received }, other) = (&self.wire[side], &self.wire[1 - side]);
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        // What has no acknowledgement is sent again and again, a byte at a time.
        let waits = !self.swallowed.lock().unwrap().is_empty();
        let again = if waits { self.began.elapsed().as_millis() as u64 / 200 } else { 0 };
        LinkStats {
            rtt: 2 * self.path.latency,
            min_rtt: 2 * self.path.latency,
            sent_bytes: get(&sent.0) + get(&received.1) + again,
            received_bytes: get(&received.0) + get(&other.received.1),
            acked_bytes: get(&other.received.0),
            sent_datagrams: get(&sent.1),
            received_datagrams: get(&received.1),
            sent_packets: get(&sent.1),
            ..LinkStats::default()
        }
    }

    /// The paces that the two sides were given, in order.
    pub(crate) fn paces(&self) -> [Vec<Option<u64>>; 2] {
        self.paces.lock().unwrap().clone()
    }

    /// The rates that the two sides were given, in order.
    pub(crate) fn rates(&self) -> [Vec<RatePolicy>; 2] {
        self.rates.lock().unwrap().clone()
    }

    /// Bytes of chunks sent so far.
    pub(crate) fn chunks(&self) -> usize {
        self.sent.lock().unwrap().len()
    }

    /// Resolves when so many chunks were sent.
    pub(crate) async fn carried(&self, chunks: usize) {
        while self.chunks() < chunks {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// How the link was closed, if it was.
    pub(crate) fn close_code(&self) -> Option<Code> {
        match &*self.end.borrow() {
            Some(End::Closed { code, .. }) => Some(*code),
            _ => None,
        }
    }

    /// Whether anybody still holds an end of it.
    pub(crate) fn is_held(&self) -> bool {
        self.ends.lock().unwrap().iter().any(|end| end.strong_count() > 0)
    }

    fn end(&self, end: End) {
        self.end.send_if_modified(|now| {
            let first = now.is_none();
            if first {
                *now = Some(end);
            }
            first
        });
    }

    async fn ended(&self, side: usize) -> LinkError {
        let mut end = self.end.subscribe();
        let end = end.wait_for(Option::is_some).await.expect("the cable lives").clone();
        match end.expect("waited for") {
            End::Cut => LinkError::TimedOut,
            End::Closed { side: by, .. } if by == side => LinkError::ClosedLocally,
            End::Closed { code, reason, .. } => LinkError::ClosedByPeer { code, reason },
        }
    }
}

/// One end.
pub(crate) struct FakeLink {
    id: LinkId,
    side: usize,
    cable: Arc<Cable>,
    control: Mutex<Option<ControlStream>>,
    streams_out: mpsc::Sender<Stream>,
    streams_in: tokio::sync::Mutex<mpsc::Receiver<Stream>>,
}

/// Streams that a peer may have open at a time.
const STREAMS: usize = 16;
/// Bytes that go into a stream at a time, and how many times before its sender waits.
const PIECE: (usize, usize) = (64 * 1024, 4);

/// The two ends of a new link: the client's and the gateway's.
pub(crate) fn connect(path: Path) -> (Arc<FakeLink>, Arc<FakeLink>, Arc<Cable>) {
    let cable = Arc::new(Cable {
        path: path.clone(),
        began: Instant::now(),
        end: watch::channel(None).0,
        swallowed: Mutex::default(),
        carried: AtomicU64::new(0),
        wire: Default::default(),
        sent: Mutex::default(),
        rates: Mutex::default(),
        paces: Mutex::default(),
        lines: Default::default(),
        ends: Mutex::default(),
    });
    let (control_a, control_b) = (mpsc::channel(path.control_room), mpsc::channel(path.control_room));
    let (streams_a, streams_b) = (mpsc::channel(STREAMS), mpsc::channel(STREAMS));
    let end = |side, send, recv, streams_out, streams_in| {
        let cable = cable.clone();
        let send = Box::new(Control { cable: cable.clone(), side, stream: send });
        let recv = Box::new(Control { cable: cable.clone(), side, stream: Incoming { recv, next: None } });
        Arc::new(FakeLink {
            id: LinkId::next(),
            side,
            cable,
            control: Mutex::new(Some((send as Box<dyn ControlSend>, recv as Box<dyn ControlRecv>))),
            streams_out,
            streams_in: tokio::sync::Mutex::new(streams_in),
        })
    };
    let a = end(0, control_a.0, control_b.1, streams_a.0, streams_b.1);
    let b = end(1, control_b.0, control_a.1, streams_b.0, streams_a.1);
    cable.ends.lock().unwrap().extend([Arc::downgrade(&a), Arc::downgrade(&b)]);
    (a, b, cable)
}

impl fmt::Debug for FakeLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FakeLink({}, side {})", self.id, self.side)
    }
}

impl Drop for FakeLink {
    fn drop(&mut self) {
        self.cable.end(End::Closed { side: self.side, code: Code::Ok, reason: String::new() });
    }
}

impl Link for FakeLink {
    fn kind(&self) -> LinkKind {
        LinkKind::Quic
    }

    fn peer(&self) -> SocketAddr {
        ([192, 0, 2, 1], 443).into()
    }

    fn id(&self) -> LinkId {
        self.id
    }

    fn stats(&self) -> LinkStats {
        self.cable.stats(self.side)
    }

    fn set_rate(&self, rate: RatePolicy) -> bool {
        self.cable.rates.lock().unwrap()[self.side].push(rate);
        true
    }

    fn set_pace(&self, pace: Option<u64>) {
        self.cable.paces.lock().unwrap()[self.side].push(pace);
    }

    fn control(&self) -> BoxFuture<'_, Result<ControlStream, LinkError>> {
        async { self.control.lock().unwrap().take().ok_or(LinkError::Protocol("twice".into())) }.boxed()
    }

    fn send_chunk(&self, header: Bytes, body: Vec<Bytes>, _: i32) -> BoxFuture<'_, Result<(), LinkError>> {
        async move {
            tokio::select! {
                biased;
                why = self.cable.ended(self.side) => Err(why),
                sent = self.send(header, body) => sent,
            }
        }
        .boxed()
    }

    fn accept_chunk(&self) -> BoxFuture<'_, Result<Box<dyn ChunkRecv>, LinkError>> {
        async {
            let accept = async { self.streams_in.lock().await.recv().await };
            let stream = tokio::select! {
                biased;
                why = self.cable.ended(self.side) => return Err(why),
                stream = accept => stream,
            };
            match stream {
                Some(mut stream) => {
                    stream.cable = Some((self.cable.clone(), self.side));
                    Ok(Box::new(stream) as Box<dyn ChunkRecv>)
                }
                None => Err(self.cable.ended(self.side).await),
            }
        }
        .boxed()
    }

    fn closed(&self) -> BoxFuture<'_, LinkError> {
        self.cable.ended(self.side).boxed()
    }

    fn close(&self, code: Code, reason: &str) {
        self.cable.end(End::Closed { side: self.side, code, reason: reason.to_owned() });
    }

    fn handshake_confirmed(&self) -> BoxFuture<'_, Result<(), LinkError>> {
        async { Ok(()) }.boxed()
    }

    fn peer_certificates(&self) -> Option<Vec<Vec<u8>>> {
        None
    }
}

impl FakeLink {
    async fn send(&self, header: Bytes, body: Vec<Bytes>) -> Result<(), LinkError> {
        let parsed = ChunkHeader::decode(&header).expect("a header").expect("all of it").0;
        let number = self.cable.carried.fetch_add(1, Ordering::Relaxed);
        let fault = (self.cable.path.faults)(&parsed, number);
        self.cable.sent.lock().unwrap().push(parsed);
        let mut bytes = header.to_vec();
        if fault == Fault::WrongLength {
            bytes = ChunkHeader { len: parsed.len + 1, ..parsed }.encode();
        }
        let head = bytes.len();
        body.iter().for_each(|part| bytes.extend_from_slice(part));
        match fault {
            Fault::Refuse(code) => return Err(LinkError::StreamStopped(code)),
            Fault::Flip => bytes[head + (number as usize * 7919) % (parsed.len as usize)] ^= 0x10,
            Fault::Short => bytes.truncate(head + parsed.len as usize / 2),
            Fault::Long | Fault::WrongLength => bytes.push(0),
            _ => {}
        }
        let (tx, pieces) = mpsc::channel(PIECE.1);
        let (stop, mut stopped) = watch::channel(None);
        let at = Instant::now() + self.cable.path.latency;
        let stream = Stream { at, pieces, rest: Bytes::new(), ended: false, stop, cable: None };
        if fault == Fault::Swallow {
            self.cable.count(self.side, bytes.len(), false);
            self.cable.swallowed.lock().unwrap().push(stream);
            return Ok(());
        }
        if self.streams_out.send(stream).await.is_err() {
            return Err(self.cable.ended(self.side).await);
        }
        let mut sent = 0;
        let _turn =
            if self.cable.path.in_line { Some(self.cable.lines[self.side].lock().await) } else { None };
        for piece in bytes.chunks(PIECE.0) {
            if let Fault::Reset(after) = fault
                && sent >= after
            {
                // The receiver sees that the sender is gone without an end.
                return Err(LinkError::StreamStopped(Code::Cancelled));
            }
            if self.cable.path.rate > 0 {
                let time = Duration::from_secs_f64(piece.len() as f64 / self.cable.path.rate as f64);
                tokio::time::sleep(time).await;
            }
            tokio::select! {
                biased;
                code = stopped.wait_for(Option::is_some) => {
                    let code = code.ok().and_then(|code| *code);
                    return Err(LinkError::StreamStopped(code.unwrap_or(Code::Cancelled)));
                }
                _ = tx.send(Piece::Data(Bytes::copy_from_slice(piece))) => {}
            }
            self.cable.count(self.side, piece.len(), true);
            sent += piece.len();
        }
        let _ = tx.send(Piece::End).await;
        Ok(())
    }
}

enum Piece {
    Data(Bytes),
    End,
}

struct Stream {
    at: Instant,
    pieces: mpsc::Receiver<Piece>,
    rest: Bytes,
    ended: bool,
    stop: watch::Sender<Option<Code>>,
    cable: Option<(Arc<Cable>, usize)>,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stream")
    }
}

impl ChunkRecv for Stream {
    fn read<'a>(&'a mut self, into: &'a mut BytesMut, max: usize) -> BoxFuture<'a, Result<usize, LinkError>> {
        async move {
            let (cable, side) = self.cable.clone().expect("set when it was accepted");
            if self.ended {
                return Ok(0);
            }
            let next = async {
                tokio::time::sleep_until(self.at).await;
                if self.rest.is_empty() {
                    match self.pieces.recv().await {
                        Some(Piece::Data(data)) => self.rest = data,
                        Some(Piece::End) => {
                            self.ended = true;
                            return Ok(0);
                        }
                        None => return Err(LinkError::StreamReset(Code::Cancelled)),
                    }
                }
                let part = self.rest.split_to(max.min(self.rest.len()));
                into.extend_from_slice(&part);
                Ok(part.len())
            };
            tokio::select! {
                biased;
                why = cable.ended(side) => Err(why),
                read = next => read,
            }
        }
        .boxed()
    }

    fn stop(&mut self, code: Code) {
        self.stop.send_replace(Some(code));
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.send_if_modified(|code| code.is_none() && code.replace(Code::Cancelled).is_none());
    }
}

struct Control<S> {
    cable: Arc<Cable>,
    side: usize,
    stream: S,
}

impl<S> fmt::Debug for Control<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Control")
    }
}

impl ControlSend for Control<mpsc::Sender<(Instant, Bytes)>> {
    fn send(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), LinkError>> {
        async move {
            let at = Instant::now() + self.cable.path.latency;
            self.cable.count(self.side, bytes.len(), true);
            tokio::select! {
                biased;
                why = self.cable.ended(self.side) => Err(why),
                sent = self.stream.send((at, bytes)) => {
                    sent.map_err(|_| LinkError::StreamStopped(Code::Cancelled))
                }
            }
        }
        .boxed()
    }

    fn finish(&mut self) -> BoxFuture<'_, Result<(), LinkError>> {
        async { Ok(()) }.boxed()
    }
}

struct Incoming {
    recv: mpsc::Receiver<(Instant, Bytes)>,
    /// Taken from the channel, and not due yet.
    next: Option<(Instant, Bytes)>,
}

impl ControlRecv for Control<Incoming> {
    fn recv(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, LinkError>> {
        async move {
            let next = async {
                if self.stream.next.is_none() {
                    self.stream.next = self.stream.recv.recv().await;
                }
                let at = self.stream.next.as_ref()?.0;
                tokio::time::sleep_until(at).await;
                self.stream.next.take().map(|(_, bytes)| bytes)
            };
            tokio::select! {
                biased;
                why = self.cable.ended(self.side) => Err(why),
                bytes = next => Ok(bytes),
            }
        }
        .boxed()
    }
}
