//! [`Marked`]: a socket that notes which datagrams carry an ECN mark (RFC 9000 section 13.4).
//!
//! quinn marks what it sends until the peer's acknowledgements show that the marks do not arrive, and says nothing of it. So
//! a mark that is still set after data was acknowledged is one that arrives. What comes in shows its marks by itself.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

/// What was seen of ECN on a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EcnSeen {
    /// The last datagram that was sent had a mark. Once data has been acknowledged: marks of this side arrive.
    pub sends: bool,
    /// Batches of datagrams received, with and without a mark.
    pub received: u64,
    /// Of those, batches with a mark: marks of the other side arrive.
    pub marked: u64,
    /// Of those, batches that a router has marked as having met congestion.
    pub congested: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Marks {
    sends: AtomicBool,
    received: AtomicU64,
    marked: AtomicU64,
    congested: AtomicU64,
}

impl Marks {
    pub(crate) fn seen(&self) -> EcnSeen {
        EcnSeen {
            sends: self.sends.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
            marked: self.marked.load(Ordering::Relaxed),
            congested: self.congested.load(Ordering::Relaxed),
        }
    }

    fn receive(&self, ecn: Option<EcnCodepoint>) {
        self.received.fetch_add(1, Ordering::Relaxed);
        self.marked.fetch_add(u64::from(ecn.is_some()), Ordering::Relaxed);
        self.congested.fetch_add(u64::from(ecn == Some(EcnCodepoint::Ce)), Ordering::Relaxed);
    }
}

/// Any socket, watched.
#[derive(Debug)]
pub(crate) struct Marked {
    inside: Arc<dyn AsyncUdpSocket>,
    marks: Arc<Marks>,
}

impl Marked {
    pub(crate) fn new(inside: Arc<dyn AsyncUdpSocket>, marks: Arc<Marks>) -> Arc<Self> {
        Arc::new(Self { inside, marks })
    }
}

impl AsyncUdpSocket for Marked {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inside.clone().create_io_poller()
    }

    fn try_send(&self, batch: &Transmit<'_>) -> io::Result<()> {
        self.marks.sends.store(batch.ecn.is_some(), Ordering::Relaxed);
        self.inside.try_send(batch)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = ready!(self.inside.poll_recv(cx, bufs, meta))?;
        meta[..received].iter().for_each(|meta| self.marks.receive(meta.ecn));
        Poll::Ready(Ok(received))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inside.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inside.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inside.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inside.may_fragment()
    }
}
