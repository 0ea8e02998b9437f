//! UDP sockets of the other side of a tunnel: many datagrams with one call of the system, both ways.

use std::cell::RefCell;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::task::{Context, Poll, ready};

use futures_util::future::poll_fn;
use metra_transport::any;
use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use tokio::io::Interest;

/// A UDP socket. "Do not fragment" is set on what it sends (RFC 9298 section 3.1).
#[derive(Debug)]
pub struct Udp {
    io: tokio::net::UdpSocket,
    state: UdpSocketState,
}

impl Udp {
    /// A socket that sends to `target` and hears nobody else; ICMP errors are errors of it.
    ///
    /// # Errors
    /// What the system says.
    pub fn connected(target: SocketAddr) -> io::Result<Self> {
        let socket = std::net::UdpSocket::bind(any(target))?;
        socket.connect(target)?;
        Self::new(socket)
    }

    /// A socket that takes what comes to `address`.
    ///
    /// # Errors
    /// What the system says.
    pub fn bound(address: SocketAddr) -> io::Result<Self> {
        Self::new(std::net::UdpSocket::bind(address)?)
    }

    fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        for set in [UdpSocketState::set_send_buffer_size, UdpSocketState::set_recv_buffer_size] {
            // What the system grants is enough to go on with.
            let _ = set(&state, (&socket).into(), BUFFER);
        }
        Ok(Self { io: tokio::net::UdpSocket::from_std(socket)?, state })
    }

    /// The address in use.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    /// Sends a batch, all of it or nothing. Datagrams that the path's first link does not take are lost.
    ///
    /// # Errors
    /// What the system says, of this batch or, if the socket is connected, of an earlier one.
    pub fn poll_send(&self, cx: &mut Context<'_>, batch: &Batch, to: SocketAddr) -> Poll<io::Result<()>> {
        let transmit = Transmit {
            destination: to,
            // RFC 9298 section 6.2: Not-ECT.
            ecn: None,
            contents: &batch.bytes,
            segment_size: (batch.count > 1).then_some(batch.segment),
            src_ip: None,
        };
        loop {
            ready!(self.io.poll_send_ready(cx))?;
            let sent =
                self.io.try_io(Interest::WRITABLE, || self.state.try_send((&self.io).into(), &transmit));
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if is_too_long(&error) || batch.is_unsupported(&error) => {
                    return Poll::Ready(Ok(()));
                }
                sent => return Poll::Ready(sent),
            }
        }
    }

    /// Receives what one call of the system gives, and hands it to `take`, datagram by datagram. Gives their number.
    ///
    /// # Errors
    /// What the system says.
    pub fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        mut take: impl FnMut(SocketAddr, &[u8]),
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            let received = RECEIVED.with_borrow_mut(|room| {
                let room = room.get_or_insert_with(|| vec![0; CALLS * CALL].into_boxed_slice());
                let mut bufs = room.chunks_mut(CALL).map(IoSliceMut::new);
                let mut bufs: [_; CALLS] =
                    std::array::from_fn(|_| bufs.next().expect("as many as were made"));
                let mut meta = [RecvMeta::default(); CALLS];
                let calls = self.io.try_io(Interest::READABLE, || {
                    self.state.recv((&self.io).into(), &mut bufs, &mut meta)
                })?;
                let mut count = 0;
                for (buf, meta) in bufs.iter().zip(&meta[..calls]) {
                    if meta.len == 0 {
                        take(meta.addr, &[]);
                        count += 1;
                    }
                    for datagram in buf[..meta.len].chunks(meta.stride.max(1)) {
                        take(meta.addr, datagram);
                        count += 1;
                    }
                }
                Ok::<usize, io::Error>(count)
            });
            match received {
                // Of what was sent: as there.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock || is_too_long(&error) => {}
                other => return Poll::Ready(other),
            }
        }
    }

    /// Sends a batch as [`Udp::poll_send`] does; any number of tasks may.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn send(&self, batch: &Batch, to: SocketAddr) -> io::Result<()> {
        loop {
            match poll_fn(|cx| Poll::Ready(self.poll_send(cx, batch, to))).await {
                Poll::Ready(sent) => return sent,
                // Of tasks that poll only one is woken.
                Poll::Pending => self.io.writable().await?,
            }
        }
    }

    /// Resolves when the system has an error of a connected socket: of receiving, tokio wakes nobody for these.
    pub(crate) async fn failed(&self) -> io::Error {
        let error = || match self.io.take_error() {
            Ok(Some(error)) if !is_too_long(&error) => Ok(error),
            Ok(_) => Err(io::ErrorKind::WouldBlock.into()),
            Err(error) => Ok(error),
        };
        self.io.async_io(Interest::ERROR, error).await.unwrap_or_else(|error| error)
    }

    /// Datagrams that one call can send.
    pub fn segments(&self) -> usize {
        self.state.max_gso_segments()
    }
}

/// Datagrams of one size, of which the last may be shorter, for one call of the system.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    segment: usize,
    count: usize,
    is_closed: bool,
}

impl Batch {
    /// Adds a datagram, if it fits behind the others.
    pub fn add(&mut self, datagram: &[u8], segments: usize) -> bool {
        if self.count == 0 {
            self.segment = datagram.len();
        } else if self.is_closed
            || self.count >= segments
            || datagram.len() > self.segment
            || datagram.is_empty()
            || self.bytes.len() + datagram.len() > BATCH
        {
            return false;
        }
        self.bytes.extend_from_slice(datagram);
        self.count += 1;
        self.is_closed = datagram.len() < self.segment || datagram.is_empty();
        true
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The interface cannot cut batches: this one is lost, and the next has one datagram only.
    fn is_unsupported(&self, error: &io::Error) -> bool {
        self.count > 1 && matches!(error.raw_os_error(), Some(EIO | EINVAL))
    }

    /// Makes it empty.
    pub fn clear(&mut self) {
        self.bytes.clear();
        (self.segment, self.count, self.is_closed) = (0, 0, false);
    }
}

/// `EMSGSIZE`: longer than the path's first link takes, and not to be fragmented. RFC 9298 section 3.1 lets it be lost.
fn is_too_long(error: &io::Error) -> bool {
    error.raw_os_error() == Some(EMSGSIZE)
}

thread_local! {
    /// Room for what is received: one of a thread, as nothing stays in it.
    static RECEIVED: RefCell<Option<Box<[u8]>>> = const { RefCell::new(None) };
}

/// Buffers for one call of the system, and the size of each: what the kernel joins at most. Bytes.
const CALLS: usize = 8;
const CALL: usize = 64 * 1024;
/// A batch, at most: what UDP carries over IPv4. Bytes.
const BATCH: usize = 65_507;
/// Of the kernel, asked for. Bytes.
const BUFFER: usize = 1024 * 1024;
const EIO: i32 = 5;
const EINVAL: i32 = 22;
const EMSGSIZE: i32 = 90;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_batch_is_of_one_size_and_ends_with_a_shorter_one() {
        let mut batch = Batch::default();
        assert!(batch.is_empty());
        assert!(batch.add(&[1; 100], 4) && batch.add(&[2; 100], 4));
        assert!(!batch.add(&[3; 101], 4), "longer");
        assert!(batch.add(&[3; 40], 4));
        assert!(!batch.add(&[4; 40], 4), "something follows the shorter one");
        batch.clear();
        assert!(batch.add(&[], 4) && !batch.add(&[1], 4), "an empty one is alone");
        batch.clear();
        assert!(batch.add(&[1], 2) && batch.add(&[1], 2) && !batch.add(&[1], 2), "too many");
        batch.clear();
        assert!(batch.add(&[1; 40_000], 64) && !batch.add(&[1; 40_000], 64), "too much");
    }

    #[tokio::test]
    async fn datagrams_of_all_sizes_go_there_and_back() {
        let far = Udp::bound(([127, 0, 0, 1], 0).into()).unwrap();
        let target = far.local_addr().unwrap();
        let near = Udp::connected(target).unwrap();
        let sizes = [1200, 1200, 1200, 7, 0, 1, 60_000];
        let mut batch = Batch::default();
        let flush = async |batch: &mut Batch| {
            poll_fn(|cx| near.poll_send(cx, batch, target)).await.unwrap();
            batch.clear();
        };
        for (n, size) in sizes.into_iter().enumerate() {
            let datagram = vec![n as u8; size];
            if !batch.add(&datagram, near.segments()) {
                flush(&mut batch).await;
                assert!(batch.add(&datagram, near.segments()));
            }
        }
        flush(&mut batch).await;
        let mut seen = Vec::new();
        let mut from = None;
        while seen.len() < sizes.len() {
            poll_fn(|cx| {
                far.poll_recv(cx, |peer, datagram| {
                    from = Some(peer);
                    seen.push(datagram.len());
                })
            })
            .await
            .unwrap();
        }
        assert_eq!(seen, sizes);
        batch.add(b"back", 1);
        poll_fn(|cx| far.poll_send(cx, &batch, from.unwrap())).await.unwrap();
        let mut text = Vec::new();
        poll_fn(|cx| near.poll_recv(cx, |_, datagram| text.extend_from_slice(datagram))).await.unwrap();
        assert_eq!(text, b"back");
    }

    #[tokio::test]
    async fn rfc9298_3_1_packets_are_not_fragmented() {
        use rustix::net::sockopt::{Ipv4PathMtuDiscovery, ip_mtu_discover};
        let udp = Udp::connected(([127, 0, 0, 1], 9).into()).unwrap();
        let set = ip_mtu_discover(&udp.io).unwrap();
        assert!([Ipv4PathMtuDiscovery::PROBE, Ipv4PathMtuDiscovery::DO].contains(&set), "{set:?}");
    }

    #[tokio::test]
    async fn nobody_there_is_an_error() {
        let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let udp = Udp::connected(free).unwrap();
        let mut batch = Batch::default();
        batch.add(b"hello", 1);
        poll_fn(|cx| udp.poll_send(cx, &batch, free)).await.unwrap();
        let error = udp.failed().await;
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn rfc9298_6_2_what_goes_to_the_target_is_not_ect() {
        let far = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let state = UdpSocketState::new((&far).into()).unwrap();
        let target = far.local_addr().unwrap();
        let udp = Udp::connected(target).unwrap();
        let mut batch = Batch::default();
        batch.add(b"hello", 1);
        poll_fn(|cx| udp.poll_send(cx, &batch, target)).await.unwrap();
        let far = tokio::net::UdpSocket::from_std(far).unwrap();
        let (mut room, mut meta) = ([0; 16], [RecvMeta::default()]);
        far.async_io(Interest::READABLE, || {
            state.recv((&far).into(), &mut [IoSliceMut::new(&mut room)], &mut meta)
        })
        .await
        .unwrap();
        assert_eq!((meta[0].len, meta[0].ecn), (5, None));
    }
}
