//! A byte stream as a [`Link`]: the same control stream and chunks as over QUIC, one after the other.
//!
//! ```text
//!  send_chunk  control.send        accept_chunk  control.recv
//!       |           |                   ^             ^
//!       v           v                   |             |      bounded: 4 MiB of control, 4 pieces of a chunk
//!  [ write: what goes next ]       [ read: whose it is ]     one task each
//!       |                               ^
//!       +--------> byte stream ---------+                    TLS, WebSocket, or a pipe in tests
//! ```
//!
//! Control goes before chunks, in pieces small enough that it does not wait for long; of chunks one is under way at a
//! time in each direction, as a second one would only make both late. What the peer does not read is held back by the
//! byte stream itself. A third task pings: for the round-trip time, for what has arrived, and to notice that nothing does.
//!
//! Non-goals: congestion control (that is the kernel's), and several streams at a time: a session takes several links.

mod io;
mod read;
mod shared;
#[cfg(test)]
mod strangers_tests;
#[cfg(test)]
mod tests;
mod write;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use metra_core::code::Code;
use metra_core::rate::{Policy, RatePolicy};
use metra_transport::{
    BoxFuture, ChunkRecv, ControlRecv, ControlSend, ControlStream, Link, LinkError, LinkId, LinkKind,
    LinkStats, Rt,
};
use tokio::sync::{Mutex, mpsc};

use self::read::{ChunkIn, ControlIn};
use self::shared::{Alive, Shared};
use self::write::ChunkOut;
use crate::stream::BoxStream;

/// What is known of a byte stream that becomes a link.
#[derive(Debug)]
pub struct Opened {
    /// What it is.
    pub kind: LinkKind,
    /// The other end of the connection; of a proxy, if there is one.
    pub peer: SocketAddr,
    /// The peer's certificates in DER, its own first.
    pub certificates: Option<Vec<Vec<u8>>>,
    /// What a round trip has taken so far, if that is known: a guess until the first ping is answered.
    pub rtt: Option<Duration>,
    /// The SHA-256 of the public key of the certificate that was shown: by this side, at a gateway; to this side, at a client.
    /// Each tells the other, and compares. `None` where neither is of interest.
    pub key: Option<Key>,
}

/// A public key, by its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// This side is known by it.
    Own([u8; 32]),
    /// The peer has shown it.
    Shown([u8; 32]),
}

/// How a link behaves.
#[derive(Clone, Copy, Debug)]
pub struct LinkTuning {
    /// A link on which nothing is heard for this long is lost.
    pub idle_timeout: Duration,
    /// How often an idle link says something: middleboxes forget connections that say nothing.
    pub keep_alive: Duration,
    /// What a peer may send before [`Link::trust`], all in all and no chunk among it; more closes the link. Nothing of it is
    /// held back, so it is also all that a peer who is not known can make this side hold. Bytes; `None`: the peer
    /// is trusted from the start.
    pub from_strangers: Option<usize>,
}

impl Default for LinkTuning {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(10),
            from_strangers: None,
        }
    }
}

/// A link on a byte stream.
pub struct StreamLink {
    alive: Arc<Alive>,
    opened: Opened,
    id: LinkId,
    control: std::sync::Mutex<Option<ControlIn>>,
    chunks: Mutex<mpsc::Receiver<ChunkIn>>,
}

impl StreamLink {
    /// Makes a link of `stream`, whose both sides are agreed that it carries one. Its tasks run on `rt`.
    pub fn start(rt: &Rt, stream: BoxStream, opened: Opened, tuning: LinkTuning) -> Arc<Self> {
        let shared = Arc::new(Shared::new(rt.clone(), opened.rtt, tuning.from_strangers));
        if let Some(Key::Own(key) | Key::Shown(key)) = opened.key {
            shared.out().identity = Some(key);
        }
        let (reader, writer) = tokio::io::split(stream);
        let alive = Arc::new(Alive(shared.clone()));
        let (control, chunks) = read::start(&shared, &alive, reader);
        rt.spawn(write::run(shared.clone(), writer));
        rt.spawn(shared::watch(shared, tuning));
        Arc::new(Self {
            alive,
            opened,
            id: LinkId::next(),
            control: std::sync::Mutex::new(Some(control)),
            chunks: Mutex::new(chunks),
        })
    }

    /// As [`Link::is_inspected`], but waits for the other side's word; `None` when the link has ended first.
    pub async fn find_out_whether_inspected(&self) -> Option<bool> {
        self.differs(self.shared().wait_for_identity().await?)
    }

    fn differs(&self, said: [u8; 32]) -> Option<bool> {
        self.opened.key.map(|(Key::Own(key) | Key::Shown(key))| key != said)
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.alive.0
    }
}

impl fmt::Debug for StreamLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamLink({}, {}, {})", self.opened.kind, self.id, self.opened.peer)
    }
}

impl Link for StreamLink {
    fn kind(&self) -> LinkKind {
        self.opened.kind
    }

    fn peer(&self) -> SocketAddr {
        SocketAddr::new(self.opened.peer.ip().to_canonical(), self.opened.peer.port())
    }

    fn id(&self) -> LinkId {
        self.id
    }

    fn stats(&self) -> LinkStats {
        let shared = self.shared();
        let rtt = shared.rtt();
        LinkStats {
            rtt: rtt.smoothed,
            min_rtt: rtt.min,
            sent_bytes: shared.sent.load(Ordering::Relaxed),
            received_bytes: shared.received.load(Ordering::Relaxed),
            acked_bytes: shared.acked.load(Ordering::Relaxed),
            ..LinkStats::default()
        }
    }

    fn rtt(&self) -> Duration {
        self.shared().rtt().smoothed
    }

    /// A ceiling it can keep; how the kernel shares the path is not for it to say.
    fn set_rate(&self, rate: RatePolicy) -> bool {
        if rate.policy() != Policy::Fair {
            return false;
        }
        self.shared().set_ceiling(rate.rate());
        true
    }

    fn control(&self) -> BoxFuture<'_, Result<ControlStream, LinkError>> {
        let taken = self.control.lock().expect("no panic while held").take();
        Box::pin(async move {
            let Some(recv) = taken else {
                return Err(LinkError::Protocol("one control stream a link (fault: the caller)".into()));
            };
            let send = write::ControlOut::new(self.alive.clone());
            Ok((Box::new(send) as Box<dyn ControlSend>, Box::new(recv) as Box<dyn ControlRecv>))
        })
    }

    fn send_chunk(
        &self,
        header: Bytes,
        body: Vec<Bytes>,
        priority: i32,
    ) -> BoxFuture<'_, Result<(), LinkError>> {
        Box::pin(async move { ChunkOut::queue(self.shared(), header, body, priority)?.sent().await })
    }

    fn accept_chunk(&self) -> BoxFuture<'_, Result<Box<dyn ChunkRecv>, LinkError>> {
        Box::pin(async {
            match self.chunks.lock().await.recv().await {
                Some(chunk) => Ok(Box::new(chunk) as Box<dyn ChunkRecv>),
                None => Err(self.shared().ended().await),
            }
        })
    }

    fn closed(&self) -> BoxFuture<'_, LinkError> {
        Box::pin(self.shared().ended())
    }

    fn close(&self, code: Code, reason: &str) {
        self.shared().close(code, reason);
    }

    fn handshake_confirmed(&self) -> BoxFuture<'_, Result<(), LinkError>> {
        Box::pin(async { Ok(()) })
    }

    fn trust(&self) {
        self.shared().trust();
    }

    fn peer_certificates(&self) -> Option<Vec<Vec<u8>>> {
        self.opened.certificates.clone()
    }

    /// Somebody who knows MTP can hide; what is sure is a pin.
    fn is_inspected(&self) -> Option<bool> {
        self.differs(self.shared().identity()?)
    }
}

/// Appends the front of `bytes` to `into`, at most `max`; the rest stays.
fn take_into(bytes: &mut Bytes, into: &mut BytesMut, max: usize) -> usize {
    let piece = bytes.split_to(max.min(bytes.len()));
    into.extend_from_slice(&piece);
    piece.len()
}
