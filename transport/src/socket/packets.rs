//! [`Packets`]: datagrams that something else than UDP carries, such as a tunnel; and that as a socket for QUIC.
//!
//! Packets end, which a socket does not, and that is no fault: quinn would report an error of `poll_recv` as one. So the
//! socket says nothing of it, and [`Ending`], which runs quinn's tasks, ends the one that has asked the socket.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use futures_util::future::{BoxFuture, poll_fn};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, UdpPoller};

use super::any;

/// Carries datagrams to one peer and back. As UDP it promises neither that they arrive nor in which order.
///
/// One task receives at a time; any number may send.
pub trait Packets: Send + Sync + fmt::Debug + 'static {
    /// Where the datagrams go, as far as this side can say: the other end of what carries them.
    fn peer(&self) -> SocketAddr;

    /// Whether there is room for [`ROOM`] more bytes. While there is none, [`Packets::poll_room`] says when.
    fn has_room(&self) -> bool;

    /// Resolves when there is room, or will never be again. Wakes every task that has asked since.
    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()>;

    /// Sends one datagram, or loses it, as a router would: because it is too long, or there is no room.
    ///
    /// # Errors
    /// Nothing will ever be sent again. Fault: what [`Packets::poll_recv`] says.
    fn send(&self, datagram: &[u8]) -> io::Result<()>;

    /// The next datagram.
    ///
    /// # Errors
    /// Why there are no more.
    fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>>;
}

/// What one call of [`AsyncUdpSocket::try_send`] may bring: the ten datagrams that quinn sends at a time, of the length that is
/// tried on loopback. What came in excess would be lost, many datagrams at once, and quinn take that for a path whose MTU has
/// become less. Bytes.
pub const ROOM: usize = 10 * 16_000;

/// Datagrams that are handed over at a time.
const SEGMENTS: usize = 32;

/// A socket for `packets`, and what runs the endpoint that uses it: `runtime`, as long as there are packets. For one endpoint.
pub(crate) fn carried(
    packets: Arc<dyn Packets>,
    runtime: Arc<dyn Runtime>,
) -> (Arc<PacketSocket>, Arc<dyn Runtime>) {
    let ended = Arc::new(AtomicBool::new(false));
    let socket = PacketSocket { packets, ended: ended.clone() };
    (Arc::new(socket), Arc::new(Ending { runtime, ended, has_driver: AtomicBool::new(false) }))
}

/// [`Packets`] as a socket.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    packets: Arc<dyn Packets>,
    /// There are no more to receive.
    ended: Arc<AtomicBool>,
}

impl AsyncUdpSocket for PacketSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Poller(self.packets.clone()))
    }

    fn try_send(&self, batch: &Transmit<'_>) -> io::Result<()> {
        if !self.packets.has_room() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        // Marks of ECN stay here: those of the packets that carry these are the outer connection's (RFC 9298 section 6.2).
        let size = batch.segment_size.unwrap_or(batch.contents.len()).max(1);
        for datagram in batch.contents.chunks(size) {
            // At the end it is lost, and `poll_recv` says the same.
            let _ = self.packets.send(datagram);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut count = 0;
        for (buf, meta) in bufs.iter_mut().zip(meta.iter_mut()) {
            let datagram = loop {
                match self.packets.poll_recv(cx) {
                    Poll::Ready(Ok(datagram)) if datagram.len() > buf.len() => {}
                    Poll::Ready(Ok(datagram)) => break datagram,
                    // What has come is handled first; the end comes again.
                    Poll::Ready(Err(_)) | Poll::Pending if count > 0 => return Poll::Ready(Ok(count)),
                    Poll::Ready(Err(error)) => {
                        tracing::debug!(%error, "no more packets");
                        self.ended.store(true, Ordering::Relaxed);
                        return Poll::Pending;
                    }
                    Poll::Pending => return Poll::Pending,
                }
            };
            buf[..datagram.len()].copy_from_slice(&datagram);
            let (addr, len) = (self.packets.peer(), datagram.len());
            *meta = RecvMeta { addr, len, stride: len.max(1), ecn: None, dst_ip: None };
            count += 1;
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(any(self.packets.peer()))
    }

    fn max_transmit_segments(&self) -> usize {
        SEGMENTS
    }

    // Else the path's MTU is not looked for.
    fn may_fragment(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct Poller(Arc<dyn Packets>);

impl UdpPoller for Poller {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_room(cx).map(Ok)
    }
}

/// Runs the tasks of one endpoint, and ends the one that receives when the packets have ended. That is what quinn does
/// after an error: the endpoint accepts nothing more, and its connections are lost at once.
#[derive(Debug)]
struct Ending {
    runtime: Arc<dyn Runtime>,
    ended: Arc<AtomicBool>,
    /// The task that receives is there: it is the first of an endpoint; those of its connections follow.
    has_driver: AtomicBool,
}

impl Runtime for Ending {
    fn new_timer(&self, deadline: Instant) -> Pin<Box<dyn AsyncTimer>> {
        self.runtime.new_timer(deadline)
    }

    fn spawn(&self, mut future: BoxFuture<'static, ()>) {
        if self.has_driver.swap(true, Ordering::Relaxed) {
            return self.runtime.spawn(future);
        }
        let ended = self.ended.clone();
        self.runtime.spawn(Box::pin(poll_fn(move |cx| match future.as_mut().poll(cx) {
            // It was this call that has asked the socket.
            Poll::Pending if ended.load(Ordering::Relaxed) => Poll::Ready(()),
            polled => polled,
        })));
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        self.runtime.wrap_udp_socket(socket)
    }

    fn now(&self) -> Instant {
        self.runtime.now()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::VecDeque;
    use std::sync::Mutex;
    use std::task::Waker;

    use super::*;

    #[derive(Debug, Default)]
    struct Script {
        come: Mutex<VecDeque<Bytes>>,
        gone: Mutex<Vec<Vec<u8>>>,
        full: bool,
    }

    impl Packets for Script {
        fn peer(&self) -> SocketAddr {
            ([192, 0, 2, 1], 443).into()
        }

        fn has_room(&self) -> bool {
            !self.full
        }

        fn poll_room(&self, _: &mut Context<'_>) -> Poll<()> {
            Poll::Ready(())
        }

        fn send(&self, datagram: &[u8]) -> io::Result<()> {
            self.gone.lock().unwrap().push(datagram.to_vec());
            Ok(())
        }

        fn poll_recv(&self, _: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
            Poll::Ready(self.come.lock().unwrap().pop_front().ok_or_else(|| io::ErrorKind::BrokenPipe.into()))
        }
    }

    fn socket(script: &Arc<Script>) -> Arc<PacketSocket> {
        carried(script.clone(), Arc::new(quinn::TokioRuntime)).0
    }

    #[tokio::test]
    async fn the_task_that_receives_ends_with_the_packets_and_no_other() {
        let script = Arc::new(Script::default());
        let (socket, runtime) = carried(script, Arc::new(quinn::TokioRuntime));
        let alive = Arc::new(());
        let held = alive.clone();
        runtime.spawn(Box::pin(poll_fn(move |cx| {
            let _held = &held;
            let mut room = [0; 8];
            let polled = socket.poll_recv(cx, &mut [IoSliceMut::new(&mut room)], &mut [RecvMeta::default()]);
            assert!(polled.is_pending());
            Poll::Pending
        })));
        while Arc::strong_count(&alive) > 1 {
            tokio::task::yield_now().await;
        }
        let (tx, rx) = tokio::sync::oneshot::channel();
        runtime.spawn(Box::pin(async move {
            tokio::task::yield_now().await;
            let _ = tx.send(());
        }));
        rx.await.unwrap();
    }

    fn batch(contents: &[u8], segment_size: Option<usize>) -> Transmit<'_> {
        let destination = ([192, 0, 2, 1], 443).into();
        Transmit { destination, ecn: None, contents, segment_size, src_ip: None }
    }

    #[test]
    fn a_batch_is_sent_as_datagrams() {
        let script = Arc::new(Script::default());
        let socket = socket(&script);
        socket.try_send(&batch(&[1, 2, 3, 4, 5], Some(2))).unwrap();
        socket.try_send(&batch(&[6, 7], None)).unwrap();
        assert_eq!(*script.gone.lock().unwrap(), [vec![1, 2], vec![3, 4], vec![5], vec![6, 7]]);
        assert!(!socket.may_fragment());
    }

    #[test]
    fn without_room_all_of_a_batch_comes_again() {
        let script = Arc::new(Script { full: true, ..Script::default() });
        let error = socket(&script).try_send(&batch(&[1, 2, 3], Some(1))).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert!(script.gone.lock().unwrap().is_empty());
    }

    #[test]
    fn what_comes_is_handed_over_and_then_the_end() {
        let script = Arc::new(Script::default());
        let come = ["one", "longer than there is room for", "", "two"]
            .map(|text| Bytes::from_static(text.as_bytes()));
        script.come.lock().unwrap().extend(come);
        let socket = socket(&script);
        let mut room = [[0; 8]; 4];
        let mut bufs: Vec<_> = room.iter_mut().map(|room| IoSliceMut::new(room)).collect();
        let mut meta = [RecvMeta::default(); 4];
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(matches!(socket.poll_recv(cx, &mut bufs, &mut meta), Poll::Ready(Ok(3))));
        assert_eq!(meta[..3].iter().map(|meta| meta.len).collect::<Vec<_>>(), [3, 0, 3]);
        assert_eq!(&bufs[2][..3], b"two");
        assert!(!socket.ended.load(Ordering::Relaxed));
        assert!(socket.poll_recv(cx, &mut bufs, &mut meta).is_pending());
        assert!(socket.ended.load(Ordering::Relaxed));
    }
}
