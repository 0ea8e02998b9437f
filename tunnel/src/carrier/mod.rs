//! One tunnel's UDP payloads, both ways, whatever carries them.
//!
//! ```text
//!  HTTP/3     QUIC DATAGRAM frames; capsules on the request's stream from and to those who want it so
//!  HTTP/2, 1  capsules on the stream
//! ```
//!
//! Nothing waits here for long: what has no room is lost, as on any path of UDP, and it is the newest that is lost.

mod capsules;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::future::poll_fn;
use metra_fallback::BoxStream;
use metra_transport::{Packets, ROOM, Rt};

use crate::http3::{DatagramReceiver, DatagramSender, Datagrams, Tunnelled, Verdict};
use crate::sync::lock;

pub(crate) use crate::http3::SendError;
use capsules::Capsules;

/// One tunnel, from the answer to its request to the end of the request's stream.
pub struct Carrier {
    peer: SocketAddr,
    datagrams: Option<ByDatagram>,
    capsules: Capsules,
    side: Side,
    /// What the client has sent last were capsules, though it could have sent datagrams: it gets capsules, too.
    wants_capsules: AtomicBool,
    lost: Lost,
    /// For what breaks a rule; HTTP/3 only.
    verdict: Option<Verdict>,
}

/// Which end of a tunnel this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Whoever asked for it. It says by what it sends how it wants to be sent to.
    Client,
    /// Whoever granted it. It follows. If both did, a moment of capsules, such as before the path's MTU is known, would last.
    Proxy,
}

/// QUIC DATAGRAM frames.
struct ByDatagram {
    rt: Rt,
    receiver: Mutex<DatagramReceiver>,
    out: Arc<Out>,
}

struct Out {
    sender: DatagramSender,
    /// What is left of a batch that QUIC had no room for: sent before anything else.
    left: Mutex<VecDeque<Bytes>>,
}

/// Payloads that were not sent.
#[derive(Debug, Default)]
struct Lost {
    no_room: AtomicU64,
    too_large: AtomicU64,
}

/// How a tunnel ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// The peer has ended its stream.
    #[error("ended by the peer")]
    Finished,
    /// What the peer sent breaks a rule. Fault: the peer.
    #[error("malformed: {0}")]
    Malformed(String),
    /// The stream or the connection is lost. Fault: the peer or the path.
    #[error("lost: {0}")]
    Lost(String),
}

impl Carrier {
    /// Over HTTP/3. `peer` is the other end of the connection.
    pub(crate) fn http3(rt: &Rt, tunnelled: Tunnelled, peer: SocketAddr, side: Side) -> Self {
        let datagrams = tunnelled.datagrams.map(|datagrams| {
            let Datagrams { sender, receiver } = datagrams;
            let out = Arc::new(Out { sender, left: Mutex::default() });
            ByDatagram { rt: rt.clone(), receiver: Mutex::new(receiver), out }
        });
        let verdict = Some(tunnelled.verdict);
        Self { datagrams, side, verdict, ..Self::stream(rt, tunnelled.stream, peer) }
    }

    /// Over a stream of capsules. `peer` is the other end of its connection.
    pub fn stream(rt: &Rt, stream: BoxStream, peer: SocketAddr) -> Self {
        Self {
            peer,
            datagrams: None,
            side: Side::Client,
            capsules: Capsules::new(rt, stream),
            wants_capsules: AtomicBool::new(false),
            lost: Lost::default(),
            verdict: None,
        }
    }

    /// Sends one payload. What is not sent is counted.
    ///
    /// # Errors
    /// Why it is lost.
    pub fn try_send(&self, payload: &[u8]) -> Result<(), SendError> {
        let sent = match self.by_datagram() {
            Some(datagrams) => datagrams.try_send(payload),
            None => self.capsules.send(payload),
        };
        match sent {
            Err(SendError::Full) => self.lost.no_room.fetch_add(1, Ordering::Relaxed),
            Err(SendError::TooLarge) => self.lost.too_large.fetch_add(1, Ordering::Relaxed),
            Ok(()) | Err(SendError::Closed) => 0,
        };
        sent
    }

    /// The next payload. One task at a time.
    ///
    /// # Errors
    /// How the tunnel ended. It comes again.
    pub fn poll_payload(&self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Ended>> {
        if let Some(datagrams) = &self.datagrams
            && let Poll::Ready(Some(payload)) = lock(&datagrams.receiver).poll_recv(cx)
        {
            self.wants_capsules.store(false, Ordering::Relaxed);
            return Poll::Ready(Ok(payload));
        }
        let received = self.capsules.poll_recv(cx);
        if let (Poll::Ready(Err(Ended::Malformed(_))), Some(verdict)) = (&received, &self.verdict) {
            verdict.malformed();
        }
        if self.side == Side::Proxy && matches!(received, Poll::Ready(Ok(_))) {
            self.wants_capsules.store(true, Ordering::Relaxed);
        }
        received
    }

    /// Whether QUIC DATAGRAM frames carry what is sent now.
    pub fn is_by_datagram(&self) -> bool {
        self.by_datagram().is_some()
    }

    /// Payloads that were lost here: for want of room, and because they were too large.
    pub fn lost(&self) -> (u64, u64) {
        (self.lost.no_room.load(Ordering::Relaxed), self.lost.too_large.load(Ordering::Relaxed))
    }

    /// Ends the tunnel in order: what is held goes out before, also if the carrier is dropped. Dropping one without this breaks it off: over HTTP/3 its stream is reset,
    /// with H3_MESSAGE_ERROR if what came was malformed; over HTTP/2 hyper ends it, and has no way to say why; over HTTP/1.1 the
    /// connection ends.
    pub fn finish(&self) {
        self.capsules.finish();
    }

    /// The way of datagrams, where it is open and as wide as QUIC needs it, and unless the client wants capsules.
    fn by_datagram(&self) -> Option<&ByDatagram> {
        let datagrams = self.datagrams.as_ref()?;
        let is_wide = datagrams.out.sender.max_payload().is_some_and(|max| max >= PAYLOAD_MIN);
        (is_wide && !self.wants_capsules.load(Ordering::Relaxed)).then_some(datagrams)
    }
}

impl Packets for Carrier {
    fn peer(&self) -> SocketAddr {
        self.peer
    }

    fn has_room(&self) -> bool {
        match self.by_datagram() {
            Some(datagrams) => datagrams.out.send_left() && datagrams.out.sender.has_part(),
            None => self.capsules.has_room(ROOM + HEADS),
        }
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self.by_datagram() {
            Some(datagrams) => datagrams.out.poll_room(cx),
            None => self.capsules.poll_room(cx, ROOM + HEADS),
        }
    }

    fn send(&self, datagram: &[u8]) -> io::Result<()> {
        let sent = match self.by_datagram() {
            Some(datagrams) => datagrams.send(datagram),
            None => self.try_send(datagram),
        };
        match sent {
            Err(SendError::Closed) => Err(io::ErrorKind::BrokenPipe.into()),
            Ok(()) | Err(SendError::Full | SendError::TooLarge) => Ok(()),
        }
    }

    fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        self.poll_payload(cx).map_err(|ended| io::Error::new(io::ErrorKind::ConnectionAborted, ended))
    }
}

impl ByDatagram {
    /// Sends one payload, or not: behind what is left.
    fn try_send(&self, payload: &[u8]) -> Result<(), SendError> {
        if !self.out.send_left() {
            return Err(SendError::Full);
        }
        self.out.sender.offer(payload)
    }

    /// Sends one of a batch, for all of which there was room when [`Out::send_left`] was asked: what QUIC does not take now it
    /// takes later.
    fn send(&self, payload: &[u8]) -> Result<(), SendError> {
        let mut left = lock(&self.out.left);
        if left.is_empty() {
            match self.out.sender.send(payload) {
                Err(SendError::Full) => {}
                sent => return sent,
            }
            // Whoever has sent this may have nothing else to send for long, and does not ask for room then.
            let out = self.out.clone();
            self.rt.spawn(async move { poll_fn(|cx| out.poll_left(cx)).await });
        }
        left.push_back(Bytes::copy_from_slice(payload));
        Ok(())
    }
}

impl Out {
    /// Whether nothing is left.
    fn send_left(&self) -> bool {
        let mut left = lock(&self.left);
        while let Some(payload) = left.front() {
            match self.sender.try_send(payload) {
                Err(SendError::Full) => return false,
                Ok(()) | Err(SendError::TooLarge) => drop(left.pop_front()),
                // Nobody waits for what will never be sent.
                Err(SendError::Closed) => left.clear(),
            }
        }
        true
    }

    fn poll_left(&self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.send_left() {
            if self.sender.poll_ready(cx).is_pending() {
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.poll_left(cx));
        self.sender.poll_part(cx)
    }
}

impl fmt::Debug for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = if self.is_by_datagram() { "datagrams" } else { "capsules" };
        write!(f, "Carrier({}, {way})", self.peer)
    }
}

/// Heads of capsules for as many bytes as [`ROOM`] says, of the packets that QUIC sends. Bytes.
const HEADS: usize = 1024;
/// What QUIC needs of a path (RFC 9000 section 14). Bytes of UDP payload.
const PAYLOAD_MIN: usize = 1200;
