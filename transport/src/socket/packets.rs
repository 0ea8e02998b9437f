//! [`Packets`]: datagrams that something else than UDP carries, such as a tunnel; and that as a socket for QUIC.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

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

/// What one call of [`AsyncUdpSocket::try_send`] may bring. Bytes.
pub const ROOM: usize = 64 * 1024;

/// Datagrams that are handed over at a time.
const SEGMENTS: usize = 32;

/// [`Packets`] as a socket.
#[derive(Debug)]
pub(crate) struct PacketSocket(pub(crate) Arc<dyn Packets>);

impl AsyncUdpSocket for PacketSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Poller(self.0.clone()))
    }

    fn try_send(&self, batch: &Transmit<'_>) -> io::Result<()> {
        if !self.0.has_room() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        // Marks of ECN stay here: those of the packets that carry these are the outer connection's (RFC 9298 section 6.2).
        let size = batch.segment_size.unwrap_or(batch.contents.len()).max(1);
        batch.contents.chunks(size).try_for_each(|datagram| self.0.send(datagram))
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
                match self.0.poll_recv(cx) {
                    Poll::Ready(Ok(datagram)) if datagram.len() > buf.len() => {}
                    Poll::Ready(Ok(datagram)) => break datagram,
                    // What has come is handled first; the error comes again.
                    Poll::Ready(Err(_)) | Poll::Pending if count > 0 => return Poll::Ready(Ok(count)),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => return Poll::Pending,
                }
            };
            buf[..datagram.len()].copy_from_slice(&datagram);
            let (addr, len) = (self.0.peer(), datagram.len());
            *meta = RecvMeta { addr, len, stride: len.max(1), ecn: None, dst_ip: None };
            count += 1;
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        let any: IpAddr = match self.0.peer() {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        Ok((any, 0).into())
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

    fn batch(contents: &[u8], segment_size: Option<usize>) -> Transmit<'_> {
        let destination = ([192, 0, 2, 1], 443).into();
        Transmit { destination, ecn: None, contents, segment_size, src_ip: None }
    }

    #[test]
    fn a_batch_is_sent_as_datagrams() {
        let script = Arc::new(Script::default());
        let socket = PacketSocket(script.clone());
        socket.try_send(&batch(&[1, 2, 3, 4, 5], Some(2))).unwrap();
        socket.try_send(&batch(&[6, 7], None)).unwrap();
        assert_eq!(*script.gone.lock().unwrap(), [vec![1, 2], vec![3, 4], vec![5], vec![6, 7]]);
        assert!(!socket.may_fragment());
    }

    #[test]
    fn without_room_all_of_a_batch_comes_again() {
        let script = Arc::new(Script { full: true, ..Script::default() });
        let error = PacketSocket(script.clone()).try_send(&batch(&[1, 2, 3], Some(1))).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert!(script.gone.lock().unwrap().is_empty());
    }

    #[test]
    fn what_comes_is_handed_over_and_then_the_error() {
        let script = Arc::new(Script::default());
        let come = ["one", "longer than there is room for", "", "two"]
            .map(|text| Bytes::from_static(text.as_bytes()));
        script.come.lock().unwrap().extend(come);
        let socket = PacketSocket(script);
        let mut room = [[0; 8]; 4];
        let mut bufs: Vec<_> = room.iter_mut().map(|room| IoSliceMut::new(room)).collect();
        let mut meta = [RecvMeta::default(); 4];
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(matches!(socket.poll_recv(cx, &mut bufs, &mut meta), Poll::Ready(Ok(3))));
        assert_eq!(meta[..3].iter().map(|meta| meta.len).collect::<Vec<_>>(), [3, 0, 3]);
        assert_eq!(&bufs[2][..3], b"two");
        assert!(matches!(socket.poll_recv(cx, &mut bufs, &mut meta), Poll::Ready(Err(_))));
    }
}
