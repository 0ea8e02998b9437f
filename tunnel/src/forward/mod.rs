//! A UDP port of this machine whose datagrams go through tunnels, for programs that know nothing of them.
//!
//! ```text
//!  program ──> port ──> by source address: a flow ──> its tunnel ──> target
//!  program <── port <──────────────── a task per flow <── its tunnel
//! ```
//!
//! Each source address has a tunnel of its own, as it would have a port of its own behind a NAT. What comes while a tunnel is
//! being opened waits, as far as a few packets go; what comes while there is none to be had is lost.
//!
//! Non-goals: signals, words for the user; which proxy.

mod opener;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::poll_fn;
use metra_transport::{AbortOnDrop, Rt};

use crate::carrier::Carrier;
use crate::proto::Target;
use crate::sync::lock;
use crate::udp::{Batch, Udp};

pub use crate::carrier::Ended;
pub use opener::{OpenError, Opener, Over};

/// What a forwarded port may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Tunnels at a time; datagrams of further sources are lost. Default 64.
    pub flows: usize,
    /// A tunnel without a datagram for so long is ended. Default 120 s.
    pub idle: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { flows: 64, idle: Duration::from_secs(120) }
    }
}

/// What happens, for who looks on.
#[derive(Debug)]
pub enum Event {
    /// A tunnel stands, for the program at this address.
    Opened(SocketAddr),
    /// None is to be had: nothing is tried for a while, and what comes meanwhile is lost.
    Failed(OpenError, Duration),
    /// The proxy has ended one, or it is lost. The next datagram opens another.
    Ended(SocketAddr, Ended),
    /// There are as many as there may be; said once.
    Full,
}

/// A forwarded port.
#[derive(Debug)]
pub struct Forward {
    shared: Arc<Shared>,
}

struct Shared {
    rt: Rt,
    socket: Udp,
    opener: Opener,
    target: Target,
    bounds: Bounds,
    flows: Mutex<HashMap<SocketAddr, Entry>>,
    pause: Mutex<Pause>,
    tell: Box<dyn Fn(Event) + Send + Sync>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} to {:?}", self.socket.local_addr(), self.target)
    }
}

struct Entry {
    flow: Arc<Flow>,
    _task: AbortOnDrop<()>,
}

/// What one source sends.
struct Flow {
    state: Mutex<State>,
    /// When the last datagram came, from either side.
    last: Mutex<Instant>,
}

enum State {
    /// Datagrams that wait for the tunnel.
    Opening(VecDeque<Bytes>),
    Open(Arc<Carrier>),
}

/// After a failure.
#[derive(Default)]
struct Pause {
    until: Option<Instant>,
    length: Duration,
    /// [`Event::Full`] was said.
    is_full: bool,
}

impl Forward {
    /// Takes what comes to `listen` for tunnels to `target`. Must be called where [`Rt`]'s executor is current.
    ///
    /// # Errors
    /// What the system says of the address.
    pub fn bind(
        rt: &Rt,
        listen: SocketAddr,
        opener: Opener,
        target: Target,
        bounds: Bounds,
        tell: impl Fn(Event) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let shared = Shared {
            rt: rt.clone(),
            socket: Udp::bound(listen)?,
            opener,
            target,
            bounds,
            flows: Mutex::default(),
            pause: Mutex::default(),
            tell: Box::new(tell),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The address that it listens on.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.shared.socket.local_addr()
    }

    /// Opens a tunnel and ends it: whether there is any to be had.
    ///
    /// # Errors
    /// Why not.
    pub async fn check(&self) -> Result<(), OpenError> {
        let opened = self.shared.opener.open(&self.shared.target).await?;
        opened.carrier.finish();
        Ok(())
    }

    /// Forwards until the future is dropped.
    ///
    /// # Errors
    /// The port is lost.
    pub async fn run(&self) -> io::Error {
        loop {
            let received = poll_fn(|cx| {
                self.shared.socket.poll_recv(cx, |from, datagram| self.shared.clone().take(from, datagram))
            });
            if let Err(error) = received.await {
                return error;
            }
        }
    }

    /// Tunnels that stand or are being opened.
    pub fn flows(&self) -> usize {
        lock(&self.shared.flows).len()
    }

    /// Ends all tunnels in order, and waits for as long as that may take.
    pub async fn finish(&self) {
        let mut any = false;
        for entry in lock(&self.shared.flows).values() {
            if let State::Open(carrier) = &*lock(&entry.flow.state) {
                carrier.finish();
                any = true;
            }
        }
        if any {
            self.shared.rt.sleep(FAREWELL).await;
        }
        lock(&self.shared.flows).clear();
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        // Their tasks refer to what is shared.
        lock(&self.shared.flows).clear();
    }
}

impl Shared {
    fn take(self: Arc<Self>, from: SocketAddr, datagram: &[u8]) {
        let now = self.rt.now();
        let mut flows = lock(&self.flows);
        if let Some(entry) = flows.get(&from) {
            return entry.flow.take(now, datagram);
        }
        let mut pause = lock(&self.pause);
        if pause.until.is_some_and(|until| now < until) {
            return;
        }
        if flows.len() >= self.bounds.flows {
            if !std::mem::replace(&mut pause.is_full, true) {
                (self.tell)(Event::Full);
            }
            return;
        }
        drop(pause);
        let flow =
            Arc::new(Flow { state: Mutex::new(State::Opening(VecDeque::new())), last: Mutex::new(now) });
        flow.take(now, datagram);
        let task = self.rt.spawn(self.clone().carry(from, flow.clone())).abort_on_drop();
        flows.insert(from, Entry { flow, _task: task });
    }

    /// The life of a flow.
    async fn carry(self: Arc<Self>, from: SocketAddr, flow: Arc<Flow>) {
        match self.opener.open(&self.target).await {
            Err(error) => {
                // Of all that were being opened only the first makes the next ones wait longer.
                if let Some(pause) = self.pause_now() {
                    (self.tell)(Event::Failed(error, pause));
                }
            }
            Ok(opened) => {
                let began = self.rt.now();
                (self.tell)(Event::Opened(from));
                flow.open(&opened.carrier);
                let ended = self.down(from, &flow, &opened.carrier).await;
                opened.carrier.finish();
                if self.rt.now() < began + SHORT && ended.is_some() {
                    self.pause_now();
                } else {
                    *lock(&self.pause) = Pause::default();
                }
                if let Some(ended) = ended {
                    (self.tell)(Event::Ended(from, ended));
                }
            }
        }
        lock(&self.flows).remove(&from);
    }

    /// Begins a pause, if there is none, and says how long it is.
    fn pause_now(&self) -> Option<Duration> {
        let now = self.rt.now();
        let mut pause = lock(&self.pause);
        if pause.until.is_some_and(|until| now < until) {
            return None;
        }
        pause.length = (pause.length * 2).clamp(PAUSE.0, PAUSE.1);
        pause.until = Some(now + pause.length);
        Some(pause.length)
    }

    /// What comes through the tunnel, until that ends, or is idle: `None`.
    async fn down(&self, from: SocketAddr, flow: &Flow, carrier: &Carrier) -> Option<Ended> {
        let (mut batch, mut held) = (Batch::default(), None);
        loop {
            let first = match held.take() {
                Some(payload) => payload,
                None => {
                    let idle = *lock(&flow.last) + self.bounds.idle;
                    tokio::select! {
                        biased;
                        payload = poll_fn(|cx| carrier.poll_payload(cx)) => match payload {
                            Ok(payload) => payload,
                            Err(ended) => return Some(ended),
                        },
                        () = self.rt.sleep_until(idle) => {
                            if self.rt.now() >= *lock(&flow.last) + self.bounds.idle {
                                return None;
                            }
                            continue;
                        }
                    }
                }
            };
            *lock(&flow.last) = self.rt.now();
            batch.clear();
            batch.add(&first, self.socket.segments());
            // What else is there. An end comes again.
            while let Poll::Ready(Ok(payload)) = poll_fn(|cx| Poll::Ready(carrier.poll_payload(cx))).await {
                if !batch.add(&payload, self.socket.segments()) {
                    held = Some(payload);
                    break;
                }
            }
            // A program that is gone, or a moment without memory: lost, as on any path.
            let _ = self.socket.send(&batch, from).await;
        }
    }
}

impl Flow {
    fn take(&self, now: Instant, datagram: &[u8]) {
        *lock(&self.last) = now;
        match &mut *lock(&self.state) {
            State::Open(carrier) => {
                // Without room it is lost, and counted there.
                let _ = carrier.try_send(datagram);
            }
            State::Opening(waiting) if waiting.len() < EARLY => {
                waiting.push_back(Bytes::copy_from_slice(datagram));
            }
            State::Opening(_) => {}
        }
    }

    fn open(&self, carrier: &Arc<Carrier>) {
        let mut state = lock(&self.state);
        if let State::Opening(waiting) = &*state {
            for datagram in waiting {
                // Without room it is lost, and counted there.
                let _ = carrier.try_send(datagram);
            }
        }
        *state = State::Open(carrier.clone());
    }
}

/// Datagrams of one source that wait for its tunnel: a few, such as the first flight of a handshake.
const EARLY: usize = 16;
/// After a failure: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// A tunnel that has lived no longer has failed.
const SHORT: Duration = Duration::from_secs(1);
/// How long the ends of tunnels may take to be sent.
const FAREWELL: Duration = Duration::from_millis(100);
