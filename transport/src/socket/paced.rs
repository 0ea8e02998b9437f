//! [`Paced`]: a socket whose connections send when their controllers say so.
//!
//! quinn tells a controller of each batch in `on_sent`, and next, on the same thread and with nothing in between, asks the
//! connection's poller whether the socket takes it. So a thread-local carries the time from one to the other
//! ([`hold_until`]), and the poller waits. This knows nothing of addresses: it holds over rebinding and migration, for any
//! number of connections on a socket.
//!
//! Peers of a connection without congestion control get what is sent without marks of ECN ([`Unmarked`]).
//!
//! A batch that is held waits for a timer, not for the kernel. Timers cost work: one that fires waits a little longer than
//! it must ([`QUANTUM`]), and what is then late leaves at once. So what leaves together is that time's worth, or one batch
//! where that is more.

use std::cell::Cell;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncTimer, AsyncUdpSocket, UdpPoller};

use crate::quic::Unmarked;
use crate::rt::Rt;

/// What is held is held at least so long.
const QUANTUM: Duration = Duration::from_micros(250);
/// And at most so long: acknowledgements and the end of a connection wait behind it.
pub(crate) const HOLD_MAX: Duration = Duration::from_millis(50);

thread_local! {
    static HOLD: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Says when the batch may leave that quinn is making on this thread; `None`: now.
pub(crate) fn hold_until(leaves: Option<Instant>) {
    HOLD.set(leaves);
}

/// Any socket, paced.
pub(crate) struct Paced {
    inside: Arc<dyn AsyncUdpSocket>,
    rt: Rt,
    unmarked: Arc<Unmarked>,
}

impl Paced {
    pub(crate) fn new(inside: Arc<dyn AsyncUdpSocket>, rt: Rt, unmarked: Arc<Unmarked>) -> Arc<Self> {
        Arc::new(Self { inside, rt, unmarked })
    }
}

impl AsyncUdpSocket for Paced {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Poller {
            inside: self.inside.clone().create_io_poller(),
            rt: self.rt.clone(),
            until: None,
            timer: None,
        })
    }

    fn try_send(&self, batch: &Transmit<'_>) -> io::Result<()> {
        if batch.ecn.is_some() && self.unmarked.contains(&batch.destination) {
            let Transmit { destination, contents, segment_size, src_ip, .. } = *batch;
            return self.inside.try_send(&Transmit {
                destination,
                ecn: None,
                contents,
                segment_size,
                src_ip,
            });
        }
        self.inside.try_send(batch)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inside.poll_recv(cx, bufs, meta)
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

impl fmt::Debug for Paced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Paced({:?})", self.inside)
    }
}

/// Holds the batches of one connection.
struct Poller {
    inside: Pin<Box<dyn UdpPoller>>,
    rt: Rt,
    /// When the batch that is held may leave.
    until: Option<Instant>,
    /// Behind a lock because a poller must be `Sync`; it is never taken.
    timer: Option<Mutex<Pin<Box<dyn AsyncTimer>>>>,
}

impl UdpPoller for Poller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let now = this.rt.now();
        if let Some(leaves) = HOLD.take() {
            let until = leaves.max(now + QUANTUM).min(now + HOLD_MAX);
            this.until = Some(until);
            match &mut this.timer {
                Some(timer) => unlocked(timer).as_mut().reset(until),
                None => this.timer = Some(Mutex::new(this.rt.precise_timer(until))),
            }
        }
        if let (Some(until), Some(timer)) = (this.until, &mut this.timer) {
            if until > now {
                ready!(unlocked(timer).as_mut().poll(cx));
            }
            this.until = None;
        }
        this.inside.as_mut().poll_writable(cx)
    }
}

fn unlocked<T>(mutex: &mut Mutex<T>) -> &mut T {
    mutex.get_mut().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Poller(until {:?})", self.until)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use std::task::Waker;

    use futures_util::future::BoxFuture;

    use super::*;
    use crate::quic::Tuning;
    use crate::rt::Executor;

    /// Time that moves when a test says so.
    #[derive(Clone, Debug)]
    struct Clock(Arc<Mutex<Instant>>);

    impl Clock {
        fn time(&self) -> Instant {
            *self.0.lock().unwrap()
        }

        fn advance(&self, micros: u64) {
            *self.0.lock().unwrap() += Duration::from_micros(micros);
        }
    }

    impl Executor for Clock {
        fn now(&self) -> Instant {
            self.time()
        }

        fn sleep_until(&self, _: Instant) -> BoxFuture<'static, ()> {
            unreachable!("a socket does not sleep")
        }

        fn spawn(&self, _: BoxFuture<'static, ()>) {
            unreachable!("a socket has no tasks")
        }

        fn blocking(&self, _: Box<dyn FnOnce() + Send>) {
            unreachable!("a socket does not block")
        }

        fn quinn_runtime(&self) -> Arc<dyn quinn::Runtime> {
            unreachable!("the timers are of this clock")
        }

        fn precise_timer(&self, deadline: Instant) -> Pin<Box<dyn AsyncTimer>> {
            Box::pin(Timer { clock: self.clone(), deadline })
        }

        fn bind(&self, _: SocketAddr, _: &Tuning) -> io::Result<Arc<dyn AsyncUdpSocket>> {
            unreachable!("the socket is there")
        }

        fn interface_mtu(&self) -> Option<u32> {
            None
        }
    }

    #[derive(Debug)]
    struct Timer {
        clock: Clock,
        deadline: Instant,
    }

    impl AsyncTimer for Timer {
        fn reset(mut self: Pin<&mut Self>, deadline: Instant) {
            self.deadline = deadline;
        }

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
            if self.clock.time() >= self.deadline { Poll::Ready(()) } else { Poll::Pending }
        }
    }

    /// A socket that takes everything.
    #[derive(Debug)]
    struct Sink;

    impl AsyncUdpSocket for Sink {
        fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
            Box::pin(Writable)
        }

        fn try_send(&self, _: &Transmit<'_>) -> io::Result<()> {
            Ok(())
        }

        fn poll_recv(
            &self,
            _: &mut Context<'_>,
            _: &mut [IoSliceMut<'_>],
            _: &mut [RecvMeta],
        ) -> Poll<io::Result<usize>> {
            Poll::Pending
        }

        fn local_addr(&self) -> io::Result<SocketAddr> {
            Ok(([127, 0, 0, 1], 1).into())
        }
    }

    #[derive(Debug)]
    struct Writable;

    impl UdpPoller for Writable {
        fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn socket() -> (Clock, Arc<Paced>) {
        let clock = Clock(Arc::new(Mutex::new(Instant::now())));
        let rt = Rt::new(Arc::new(clock.clone()));
        (clock, Paced::new(Arc::new(Sink), rt, Arc::default()))
    }

    fn passes(connection: &mut Pin<Box<dyn UdpPoller>>) -> bool {
        connection.as_mut().poll_writable(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    /// As a controller says it of a batch, and quinn asks next.
    fn batch(connection: &mut Pin<Box<dyn UdpPoller>>, leaves: Option<Instant>) -> bool {
        hold_until(leaves);
        passes(connection)
    }

    #[test]
    fn a_batch_that_is_not_held_passes_at_once() {
        let (_, socket) = socket();
        let mut connection = socket.create_io_poller();
        assert!(passes(&mut connection));
        assert!(batch(&mut connection, None));
    }

    #[test]
    fn a_batch_is_held_until_its_time() {
        let (clock, socket) = socket();
        let mut connection = socket.create_io_poller();
        // More than once: the timer is used again.
        for _ in 0..3 {
            assert!(!batch(&mut connection, Some(clock.time() + Duration::from_millis(3))));
            clock.advance(2_999);
            assert!(!passes(&mut connection));
            clock.advance(1);
            assert!(passes(&mut connection));
            // And the next, if it is not held, is not.
            assert!(batch(&mut connection, None));
        }
    }

    #[test]
    fn a_batch_that_is_late_passes_when_it_is_asked_for() {
        let (clock, socket) = socket();
        let mut connection = socket.create_io_poller();
        assert!(!batch(&mut connection, Some(clock.time() + Duration::from_millis(3))));
        clock.advance(20_000);
        assert!(passes(&mut connection));
    }

    #[test]
    fn a_hold_is_a_quantum_at_least_and_has_an_end() {
        let (clock, socket) = socket();
        let mut connection = socket.create_io_poller();
        let quantum = QUANTUM.as_micros() as u64;
        assert!(!batch(&mut connection, Some(clock.time() + Duration::from_nanos(1))));
        clock.advance(quantum - 1);
        assert!(!passes(&mut connection));
        clock.advance(1);
        assert!(passes(&mut connection));

        assert!(!batch(&mut connection, Some(clock.time() + Duration::from_secs(3600))));
        let most = HOLD_MAX.as_micros() as u64;
        clock.advance(most - 1);
        assert!(!passes(&mut connection));
        clock.advance(1);
        assert!(passes(&mut connection));
    }

    #[test]
    fn connections_on_one_socket_do_not_hold_each_other() {
        let (clock, socket) = socket();
        let mut slow = socket.clone().create_io_poller();
        let mut fast = socket.clone().create_io_poller();
        let mut free = socket.create_io_poller();
        assert!(!batch(&mut slow, Some(clock.time() + Duration::from_millis(10))));
        assert!(!batch(&mut fast, Some(clock.time() + Duration::from_millis(2))));
        // The hold of the one is not what the other finds.
        assert!(passes(&mut free));
        assert!(batch(&mut free, None));
        clock.advance(2_000);
        assert!(!passes(&mut slow));
        assert!(passes(&mut fast));
        assert!(!batch(&mut fast, Some(clock.time() + Duration::from_millis(2))));
        clock.advance(8_000);
        assert!(passes(&mut slow));
        assert!(passes(&mut fast));
    }

    #[test]
    fn another_thread_says_nothing_of_this_ones_batches() {
        let (clock, socket) = socket();
        let mut connection = socket.create_io_poller();
        let leaves = clock.time() + Duration::from_secs(1);
        std::thread::spawn(move || hold_until(Some(leaves))).join().unwrap();
        assert!(passes(&mut connection));
    }
}
