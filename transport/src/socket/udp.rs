//! The socket itself: tokio for readiness, quinn-udp for the system calls, [`Coalescer`] in between.
//!
//! What is held is flushed by the endpoint's driver: holding wakes the task that polls for datagrams, which
//! queues behind the connection that is sending, and looks. If the batch has grown since its last look it looks
//! again a turn later, else it sends. So a batch is held for two turns of the scheduler after its last
//! addition, and never longer than [`HOLD_MAX`] from its first one while anything happens on the socket. No
//! timer is involved.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::io::Interest;
use tracing::debug;

use super::coalesce::{BATCH_MAX, Coalescer};
use super::{DATAGRAM_MAX, machine};
use crate::quic::{SocketKind, Tuning};

/// The longest that anything is held while the socket is in use.
const HOLD_MAX: Duration = Duration::from_micros(50);

#[derive(Debug)]
pub(super) struct Socket {
    io: tokio::net::UdpSocket,
    state: UdpSocketState,
    out: Mutex<Out>,
    /// The endpoint's driver, which flushes.
    flusher: AtomicWaker,
}

#[derive(Debug)]
struct Out {
    coalescer: Coalescer,
    /// Of the coalescer's, at the flusher's last look.
    additions_seen: u64,
    /// When the first of what is held came.
    since: Option<Instant>,
    /// The size of the datagrams of the last batch. Bytes.
    segment: usize,
}

impl Socket {
    pub(super) fn bind(address: SocketAddr, tuning: &Tuning) -> io::Result<Self> {
        let socket = std::net::UdpSocket::bind(address)?;
        let state = UdpSocketState::new((&socket).into())?;
        let grants = machine::ask(&socket, &state, tuning)?;
        debug!(local = %socket.local_addr()?, ?grants, "UDP socket");
        let coalescer = Coalescer::new(tuning.socket == SocketKind::Coalesced);
        let out = Out { coalescer, additions_seen: 0, since: None, segment: 1 };
        Ok(Self {
            io: tokio::net::UdpSocket::from_std(socket)?,
            state,
            out: Mutex::new(out),
            flusher: AtomicWaker::new(),
        })
    }

    fn out(&self) -> MutexGuard<'_, Out> {
        // The coalescer is valid after every step; a panic elsewhere does not make it less so.
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, batch: &Transmit<'_>) -> io::Result<()> {
        self.io.try_io(Interest::WRITABLE, || self.state.send((&self.io).into(), batch))
    }

    fn flush(&self, out: &mut Out) -> io::Result<()> {
        out.coalescer.flush(self.state.max_gso_segments(), &mut |batch| self.send(batch))?;
        out.since = None;
        Ok(())
    }

    /// One look at what is held, by the endpoint's driver.
    fn look(&self, cx: &mut Context<'_>) {
        self.flusher.register(cx.waker());
        let mut out = self.out();
        if out.coalescer.is_empty() {
            return;
        }
        let has_grown = out.additions_seen != out.coalescer.additions();
        if has_grown && out.since.is_none_or(|since| since.elapsed() < HOLD_MAX) {
            out.additions_seen = out.coalescer.additions();
            cx.waker().wake_by_ref();
            return;
        }
        while self.flush(&mut out).is_err() {
            // The kernel's buffer is full. Ready means that it may have been emptied meanwhile.
            if self.io.poll_send_ready(cx).is_pending() {
                return;
            }
        }
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Poller { socket: self, writable: None })
    }

    fn try_send(&self, batch: &Transmit<'_>) -> io::Result<()> {
        let mut out = self.out();
        out.segment = batch.segment_size.unwrap_or(out.segment);
        let max_segments = self.state.max_gso_segments();
        let result = out.coalescer.offer(batch, max_segments, &mut |batch| self.send(batch));
        if out.coalescer.is_empty() {
            out.since = None;
        } else if out.since.is_none() {
            out.since = Some(Instant::now());
            self.flusher.wake();
        }
        result
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.look(cx);
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            let received =
                self.io.try_io(Interest::READABLE, || self.state.recv((&self.io).into(), bufs, meta));
            match received {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return Poll::Ready(other),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    fn max_transmit_segments(&self) -> usize {
        // Whole batches of large datagrams need not be split, and not be copied for that.
        let fit = (BATCH_MAX / self.out().segment).max(1);
        self.state.max_gso_segments().min(fit)
    }

    fn max_receive_segments(&self) -> usize {
        // quinn makes room for this many times the largest datagram; the kernel joins at most 64 KB.
        const { assert!(DATAGRAM_MAX as usize >= BATCH_MAX) };
        1
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = self.flush(&mut out) {
            debug!(%error, "what was held is lost with the socket");
        }
    }
}

/// Waits for room in the kernel's buffer, for one connection.
struct Poller {
    socket: Arc<Socket>,
    writable: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>>,
}

impl UdpPoller for Poller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let writable = this.writable.get_or_insert_with(|| {
            let socket = this.socket.clone();
            Box::pin(async move { socket.io.writable().await })
        });
        let ready = ready!(writable.as_mut().poll(cx));
        this.writable = None;
        Poll::Ready(ready)
    }
}

impl fmt::Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Poller")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::future::poll_fn;

    use super::*;

    const SEGMENT: usize = 1452;

    fn socket() -> Arc<Socket> {
        Arc::new(Socket::bind(([127, 0, 0, 1], 0).into(), &Tuning::default()).unwrap())
    }

    /// What comes with one call to the kernel: as the sender handed it over, where the kernel need not cut it (GRO).
    async fn received(socket: &Socket) -> RecvMeta {
        let mut buffer = vec![0; DATAGRAM_MAX as usize];
        let mut meta = [RecvMeta::default()];
        let bufs = &mut [IoSliceMut::new(&mut buffer)];
        let receiving = poll_fn(|cx| socket.poll_recv(cx, bufs, &mut meta));
        let received = tokio::time::timeout(Duration::from_secs(5), receiving).await;
        assert_eq!(received.expect("within the test's patience").unwrap(), 1);
        meta[0]
    }

    #[tokio::test]
    async fn more_than_ten_datagrams_leave_with_one_call() {
        let (from, to) = (socket(), socket());
        if from.state.max_gso_segments() < 40 || to.state.gro_segments() < 40 {
            eprintln!("this kernel has no segmentation offload");
            return;
        }
        let contents = vec![7; 10 * SEGMENT];
        let batch = Transmit {
            destination: to.local_addr().unwrap(),
            ecn: None,
            contents: &contents,
            segment_size: Some(SEGMENT),
            src_ip: None,
        };
        let mut poller = from.clone().create_io_poller();
        poll_fn(|cx| poller.as_mut().poll_writable(cx)).await.unwrap();
        // As quinn hands them over, ten at a time; the fourth fills what the kernel takes.
        for _ in 0..4 {
            from.try_send(&batch).unwrap();
        }
        let meta = received(&to).await;
        assert_eq!((meta.len, meta.stride), (40 * SEGMENT, SEGMENT));
        // What does not fill it leaves when the endpoint's driver looks twice and nothing has come.
        from.try_send(&batch).unwrap();
        from.try_send(&batch).unwrap();
        let driver = from.clone();
        let driver = tokio::spawn(async move { received(&driver).await });
        assert_eq!(received(&to).await.len, 20 * SEGMENT);
        driver.abort();
    }
}
