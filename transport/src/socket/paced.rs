//! [`Paced`]: a socket whose connections send when their controllers say so.
//!
//! quinn tells a controller of each batch in `on_sent`, and next, on the same thread and with nothing in between, asks the
//! connection's poller whether the socket takes it. So a thread-local carries the time from one to the other
//! ([`hold_until`]), and the poller waits. This knows nothing of addresses: it holds over rebinding and migration, for any
//! number of connections on a socket.
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

use crate::rt::Rt;

/// What is held is held at least so long.
const QUANTUM: Duration = Duration::from_micros(250);
/// And at most so long: acknowledgements and the end of a connection wait behind it.
const HOLD_MAX: Duration = Duration::from_millis(50);

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
}

impl Paced {
    pub(crate) fn new(inside: Arc<dyn AsyncUdpSocket>, rt: Rt) -> Arc<Self> {
        Arc::new(Self { inside, rt })
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
