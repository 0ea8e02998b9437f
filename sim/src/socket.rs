//! UDP sockets of the virtual network, as quinn wants them.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

use crate::clock::lock;
use crate::net::{Datagram, HostId, Net};

/// Where a socket's datagrams wait to be read.
pub(crate) struct Mailbox {
    state: Mutex<State>,
    /// Bytes that may wait; what comes then is lost, as in a kernel.
    room: usize,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Datagram>,
    bytes: usize,
    waker: Option<Waker>,
    /// A wake-up is on its way.
    waking: bool,
}

impl Mailbox {
    pub(crate) fn new(room: usize) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), room })
    }

    /// Takes a datagram in. Returns whom to wake, if somebody waits who has not been told yet.
    pub(crate) fn put(&self, datagram: Datagram) -> Option<Waker> {
        let mut state = lock(&self.state);
        if state.bytes + datagram.payload.len() > self.room {
            return None;
        }
        state.bytes += datagram.payload.len();
        state.queue.push_back(datagram);
        if state.waking {
            return None;
        }
        let waker = state.waker.take();
        state.waking = waker.is_some();
        waker
    }

    /// Datagrams that wait to be read.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        lock(&self.state).queue.len()
    }

    /// Whoever waited is awake.
    pub(crate) fn woken(&self) {
        lock(&self.state).waking = false;
    }
}

/// A socket on a host.
pub(crate) struct Socket {
    net: Net,
    host: HostId,
    mailbox: Arc<Mailbox>,
    local: SocketAddr,
}

/// Datagrams that a host hands over at a time (GSO), and gets at a time (GRO).
const SEGMENTS: usize = 44;

impl Socket {
    /// # Errors
    /// The port is taken.
    pub(crate) fn bind(net: &Net, host: HostId, port: u16, room: usize) -> io::Result<Arc<Self>> {
        let mailbox = Mailbox::new(room);
        let local = net.bind(host, port, &mailbox)?;
        Ok(Arc::new(Self { net: net.clone(), host, mailbox, local }))
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, batch: &Transmit<'_>) -> io::Result<()> {
        let contents = Bytes::copy_from_slice(batch.contents);
        let segment = batch.segment_size.unwrap_or(contents.len()).max(1);
        for start in (0..contents.len()).step_by(segment) {
            let payload = contents.slice(start..contents.len().min(start + segment));
            let (from, to) = (self.local, batch.destination);
            self.net.send(self.host, Datagram { from, to, ecn: batch.ecn, payload });
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut state = lock(&self.mailbox.state);
        let mut filled = 0;
        for (buffer, meta) in bufs.iter_mut().zip(meta) {
            let Some(joined) = state.join(buffer) else { break };
            *meta = joined;
            filled += 1;
        }
        if filled > 0 {
            return Poll::Ready(Ok(filled));
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn max_transmit_segments(&self) -> usize {
        SEGMENTS
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

impl State {
    /// Joins datagrams of one sender and one length, of which the last may be shorter.
    fn join(&mut self, buffer: &mut [u8]) -> Option<RecvMeta> {
        let first = self.queue.front()?;
        let (from, to, ecn, stride) = (first.from, first.to, first.ecn, first.payload.len());
        let mut len = 0;
        for _ in 0..SEGMENTS {
            let Some(next) = self.queue.front() else { break };
            let size = next.payload.len();
            let fits = len + size <= buffer.len() && size <= stride;
            if !fits || (next.from, next.to, next.ecn) != (from, to, ecn) {
                break;
            }
            buffer[len..len + size].copy_from_slice(&next.payload);
            len += size;
            self.bytes -= size;
            self.queue.pop_front();
            if size < stride {
                break;
            }
        }
        Some(RecvMeta { addr: from, len, stride, ecn, dst_ip: Some(to.ip()) })
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Socket({})", self.local)
    }
}

#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
