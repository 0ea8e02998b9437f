//! Between a tunnel and the UDP socket of its target.

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::future::poll_fn;
use metra_policy::Permit;
use metra_transport::Rt;

use super::throttle::{Bucket, Throttle};
use crate::carrier::{Carrier, Ended, SendError};
use crate::udp::{Batch, Udp};

/// What one tunnel may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Without a datagram for so long, it ends. RFC 9298 section 3.1: not less than two minutes.
    pub idle: Duration,
    /// After so long it ends in any case.
    pub lifetime: Duration,
    /// Bytes of UDP payload a second, in each direction; what is more is lost. 0: any.
    pub rate: u64,
}

/// What went through a tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Datagrams to the target.
    pub up: u64,
    /// Their payload. Bytes.
    pub up_bytes: u64,
    /// Datagrams from the target.
    pub down: u64,
    /// Their payload. Bytes.
    pub down_bytes: u64,
    /// Datagrams that were lost here, in both directions: over a rate, or without room.
    pub lost: u64,
}

/// Why a relay ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RelayEnd {
    /// The client's side has ended.
    #[error("{0}")]
    Client(#[from] Ended),
    /// The target is not there, or not any more (ICMP).
    #[error("the target: {0}")]
    Target(String),
    /// Nothing was sent for [`Bounds::idle`].
    #[error("idle")]
    Idle,
    /// [`Bounds::lifetime`] is over.
    #[error("too old")]
    Old,
}

/// A socket for a target that may be reached.
#[derive(Debug)]
pub struct Dialled {
    socket: Udp,
    target: SocketAddr,
}

/// Opens a socket for `target`: for nothing that was not permitted.
///
/// # Errors
/// What the system says: there is no route, or there are no files left.
pub fn dial(target: &Permit<SocketAddr>) -> io::Result<Dialled> {
    let target = *target.permitted();
    Ok(Dialled { socket: Udp::connected(target)?, target })
}

impl Dialled {
    /// Carries datagrams both ways until either side ends. What it carries is taken from `throttle`, too.
    pub async fn relay(
        self,
        rt: &Rt,
        carrier: &Carrier,
        bounds: Bounds,
        throttle: &Throttle,
    ) -> (RelayEnd, Traffic) {
        let now = rt.now();
        let mut relay = Relay {
            carrier,
            socket: &self.socket,
            target: self.target,
            traffic: Traffic::default(),
            last: now,
            waiting: Batch::default(),
            held: None,
            up: Bucket::of_bytes(bounds.rate, now),
            down: Bucket::of_bytes(bounds.rate, now),
            throttle,
        };
        let old = now + bounds.lifetime;
        let end = loop {
            let until = old.min(relay.last + bounds.idle);
            let sleep = rt.sleep_until(until);
            tokio::select! {
                end = poll_fn(|cx| relay.poll(cx, rt)) => break end,
                error = self.socket.failed() => break RelayEnd::Target(error.to_string()),
                () = sleep => {
                    let now = rt.now();
                    if now >= old {
                        break RelayEnd::Old;
                    }
                    if now >= relay.last + bounds.idle {
                        break RelayEnd::Idle;
                    }
                }
            }
        };
        relay.traffic.lost += carrier.lost().0 + carrier.lost().1;
        (end, relay.traffic)
    }
}

struct Relay<'a> {
    carrier: &'a Carrier,
    socket: &'a Udp,
    target: SocketAddr,
    traffic: Traffic,
    /// When the last datagram came, from either side.
    last: Instant,
    /// What goes to the target with the next call of the system.
    waiting: Batch,
    /// What did not fit behind it.
    held: Option<bytes::Bytes>,
    up: Bucket,
    down: Bucket,
    throttle: &'a Throttle,
}

impl Relay<'_> {
    fn poll(&mut self, cx: &mut Context<'_>, rt: &Rt) -> Poll<RelayEnd> {
        let now = rt.now();
        for _ in 0..ROUNDS {
            let mut is_idle = true;
            match self.poll_up(cx, now) {
                Poll::Ready(Ok(())) => is_idle = false,
                Poll::Ready(Err(end)) => return Poll::Ready(end),
                Poll::Pending => {}
            }
            match self.poll_down(cx, now) {
                Poll::Ready(Ok(())) => is_idle = false,
                Poll::Ready(Err(end)) => return Poll::Ready(end),
                Poll::Pending => {}
            }
            if is_idle {
                return Poll::Pending;
            }
        }
        // Others want to run.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// One batch to the target. Where the system has no room it waits, and what comes meanwhile is lost before it gets here.
    fn poll_up(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<Result<(), RelayEnd>> {
        let segments = self.socket.segments();
        let ended = loop {
            let payload = match self.held.take() {
                Some(payload) => payload,
                None => match self.carrier.poll_payload(cx) {
                    Poll::Ready(Ok(payload)) => {
                        self.last = now;
                        if !(self.up.take(now, payload.len()) && self.throttle.up(now, payload.len())) {
                            self.traffic.lost += 1;
                            continue;
                        }
                        self.traffic.up += 1;
                        self.traffic.up_bytes += payload.len() as u64;
                        payload
                    }
                    Poll::Ready(Err(ended)) => break Some(ended),
                    Poll::Pending => break None,
                },
            };
            if !self.waiting.add(&payload, segments) {
                self.held = Some(payload);
                break None;
            }
        };
        if !self.waiting.is_empty() {
            match self.socket.poll_send(cx, &self.waiting, self.target) {
                Poll::Pending if ended.is_none() => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(RelayEnd::Target(error.to_string()))),
                Poll::Ready(Ok(())) | Poll::Pending => self.waiting.clear(),
            }
            if ended.is_none() {
                return Poll::Ready(Ok(()));
            }
        }
        match ended {
            Some(ended) => Poll::Ready(Err(ended.into())),
            None => Poll::Pending,
        }
    }

    /// What one call of the system brings.
    fn poll_down(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<Result<(), RelayEnd>> {
        let (carrier, traffic, down) = (self.carrier, &mut self.traffic, &mut self.down);
        let throttle = self.throttle;
        let mut closed = false;
        let received = self.socket.poll_recv(cx, |_, datagram| {
            if !(down.take(now, datagram.len()) && throttle.down(now, datagram.len())) {
                traffic.lost += 1;
                return;
            }
            let sent = carrier.try_send(datagram);
            match sent {
                Ok(()) => {
                    traffic.down += 1;
                    traffic.down_bytes += datagram.len() as u64;
                }
                Err(SendError::Closed) => closed = true,
                Err(SendError::Full | SendError::TooLarge) => {}
            }
        });
        match received {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Err(RelayEnd::Target(error.to_string()))),
            Poll::Ready(Ok(_)) if closed => {
                Poll::Ready(Err(Ended::Lost("the stream is closed".to_owned()).into()))
            }
            Poll::Ready(Ok(_)) => {
                self.last = now;
                Poll::Ready(Ok(()))
            }
        }
    }
}

/// Batches in each direction before others run.
const ROUNDS: usize = 8;
