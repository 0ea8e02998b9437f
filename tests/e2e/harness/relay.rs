//! A UDP relay between client and gateway: a path that is as slow as a test needs it, counts, and can be cut.
//!
//! With it a test interrupts a transfer after so many bytes, not after so many seconds, on any machine.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::wait_until;

/// A relay. It ends when this is dropped.
pub(crate) struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Bytes per second each way; 0 is as fast as it goes.
    rate: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
    clients: Mutex<HashMap<SocketAddr, u64>>,
    cut: AtomicBool,
    over: AtomicBool,
}

impl Relay {
    pub(super) fn start(gateway: SocketAddr, rate: u64) -> Self {
        let front = socket();
        let address = front.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        shared.rate.store(rate, Ordering::Relaxed);
        let owned = shared.clone();
        std::thread::spawn(move || owned.carry_up(&front, gateway));
        Self { address, shared }
    }

    /// A URL on the gateway by this path.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("mtp://{}/{path}", self.address)
    }

    /// Bytes per second from now on; 0 is as fast as it goes.
    pub(crate) fn set_rate(&self, rate: u64) {
        self.shared.rate.store(rate, Ordering::Relaxed);
    }

    /// From now on nothing gets through, or everything again.
    pub(crate) fn cut(&self, cut: bool) {
        self.shared.cut.store(cut, Ordering::Relaxed);
    }

    /// Bytes carried so far to the gateway.
    pub(crate) fn up(&self) -> u64 {
        self.shared.up.load(Ordering::Relaxed)
    }

    /// Bytes carried so far to the client.
    pub(crate) fn down(&self) -> u64 {
        self.shared.down.load(Ordering::Relaxed)
    }

    /// How many sockets of clients have sent at least so many bytes each.
    pub(crate) fn busy(&self, bytes: u64) -> usize {
        let clients = self.shared.clients.lock().unwrap();
        clients.values().filter(|sent| **sent >= bytes).count()
    }

    /// Waits until so many bytes have gone to the gateway.
    pub(crate) fn wait_up(&self, bytes: u64) {
        wait_until("bytes on their way up", || self.up() >= bytes);
    }

    /// Waits until so many bytes have gone to the client.
    pub(crate) fn wait_down(&self, bytes: u64) {
        wait_until("bytes on their way down", || self.down() >= bytes);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn carry_up(self: Arc<Self>, front: &UdpSocket, gateway: SocketAddr) {
        let mut backs: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
        let mut pace = Pace::new();
        let mut buffer = vec![0; 65_536];
        while !self.over.load(Ordering::Relaxed) {
            let Ok((len, client)) = front.recv_from(&mut buffer) else { continue };
            let back = backs.entry(client).or_insert_with(|| {
                let back = socket();
                back.connect(gateway).unwrap();
                let back = Arc::new(back);
                let (shared, from) = (self.clone(), back.clone());
                let to = front.try_clone().unwrap();
                std::thread::spawn(move || shared.carry_down(&from, &to, client));
                back
            });
            self.pass(&mut pace, &self.up, len, || back.send(&buffer[..len]));
            *self.clients.lock().unwrap().entry(client).or_default() += len as u64;
        }
    }

    fn carry_down(&self, back: &UdpSocket, front: &UdpSocket, client: SocketAddr) {
        let mut pace = Pace::new();
        let mut buffer = vec![0; 65_536];
        while !self.over.load(Ordering::Relaxed) {
            let Ok(len) = back.recv(&mut buffer) else { continue };
            self.pass(&mut pace, &self.down, len, || front.send_to(&buffer[..len], client));
        }
    }

    fn pass<T>(&self, pace: &mut Pace, count: &AtomicU64, len: usize, send: impl FnOnce() -> T) {
        if !self.cut.load(Ordering::Relaxed) {
            send();
            count.fetch_add(len as u64, Ordering::Relaxed);
            pace.after(len, self.rate.load(Ordering::Relaxed));
        }
    }
}

/// Keeps a rate. While it waits, packets queue up in the socket and are dropped at its end, as in a router.
struct Pace {
    next: Instant,
}

impl Pace {
    fn new() -> Self {
        Self { next: Instant::now() }
    }

    fn after(&mut self, len: usize, rate: u64) {
        if rate == 0 {
            return;
        }
        let now = Instant::now();
        // What was not used in the last 2 ms is lost: no bursts.
        let floor = now.checked_sub(Duration::from_millis(2)).unwrap_or(now);
        self.next = self.next.max(floor) + Duration::from_secs_f64(len as f64 / rate as f64);
        if self.next > now + Duration::from_millis(1) {
            std::thread::sleep(self.next - now);
        }
    }
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    // So that the thread sees that it is over.
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    // As deep as we may.
    let deep = 4 << 20;
    if rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, deep).is_err() {
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, deep);
    }
    socket
}
