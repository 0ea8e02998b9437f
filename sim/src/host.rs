//! What the code of gateway and client runs on, on one host.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use metra_transport::quic::Tuning;
use metra_transport::{Executor, Rt};
use quinn::{AsyncTimer, AsyncUdpSocket};

use crate::net::{HostId, Net};
use crate::socket::Socket;

/// The executor of a host: the clock of all, the sockets of one.
#[derive(Debug)]
pub(crate) struct Host {
    net: Net,
    id: HostId,
    seed: AtomicU64,
    /// How finely the timer for pacing fires.
    pacing: Duration,
}

impl Host {
    /// What code on the host is given. The timer that paces what it sends fires each `pacing`.
    pub(crate) fn rt(net: &Net, id: HostId, seed: u64, pacing: Duration) -> Rt {
        Rt::new(Arc::new(Self { net: net.clone(), id, seed: AtomicU64::new(seed), pacing }))
    }
}

impl Executor for Host {
    fn now(&self) -> Instant {
        self.net.clock().now()
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        Box::pin(self.net.clock().timer(deadline))
    }

    fn spawn(&self, future: BoxFuture<'static, ()>) {
        self.net.clock().spawn(future);
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send>) {
        // In no time, but not within the call: the caller may hold what the work needs.
        self.net.clock().spawn(Box::pin(async move { work() }));
    }

    fn quinn_runtime(&self) -> Arc<dyn quinn::Runtime> {
        Arc::new(Quinn(self.net.clone()))
    }

    fn precise_timer(&self, deadline: Instant) -> Pin<Box<dyn AsyncTimer>> {
        Box::pin(self.net.clock().timer_of(deadline, self.pacing))
    }

    fn bind(&self, address: SocketAddr, tuning: &Tuning) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let mine = address.ip().is_unspecified() || address.ip() == self.net.address(self.id);
        if !mine {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        let socket = Socket::bind(&self.net, self.id, address.port(), tuning.socket_receive_buffer)?;
        Ok(socket)
    }

    fn interface_mtu(&self) -> Option<u32> {
        Some(self.net.interface_mtu(self.id))
    }

    fn seed(&self) -> Option<u64> {
        Some(self.seed.fetch_add(1, Ordering::Relaxed))
    }
}

#[derive(Debug)]
struct Quinn(Net);

impl quinn::Runtime for Quinn {
    fn new_timer(&self, deadline: Instant) -> Pin<Box<dyn AsyncTimer>> {
        Box::pin(self.0.clock().timer(deadline))
    }

    fn spawn(&self, future: BoxFuture<'static, ()>) {
        self.0.clock().spawn(future);
    }

    fn wrap_udp_socket(&self, _: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Err(io::Error::other("there are no real sockets in virtual time"))
    }

    fn now(&self) -> Instant {
        self.0.clock().now()
    }
}
