//! A server of UDP that sends back what it gets.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// It ends when this is dropped.
pub(crate) struct Echo {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
    got: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// What comes back as 9000 bytes.
    pub(crate) const ENLARGE: &[u8] = b"enlarge";

    /// On loopback.
    pub(crate) fn start() -> Self {
        Self::at(Ipv4Addr::LOCALHOST.into())
    }

    /// At an address of this machine.
    pub(crate) fn at(address: IpAddr) -> Self {
        let socket = UdpSocket::bind((address, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        let (ended, got) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (end, count) = (ended.clone(), got.clone());
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            loop {
                let (len, from) = socket.recv_from(&mut buffer).unwrap();
                if end.load(Ordering::Relaxed) {
                    return;
                }
                count.fetch_add(1, Ordering::Relaxed);
                let len = if buffer[..len] == *Self::ENLARGE { ENLARGED } else { len };
                // Whoever has closed the socket meanwhile does not want it.
                let _ = socket.send_to(&buffer[..len], from);
            }
        });
        Self { address, ended, got, thread: Some(thread) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many datagrams it has got.
    pub(crate) fn got(&self) -> u64 {
        self.got.load(Ordering::Relaxed)
    }
}

const ENLARGED: usize = 9000;

impl Drop for Echo {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let socket = UdpSocket::bind((self.address.ip(), 0)).unwrap();
        if socket.send_to(b"end", self.address).is_ok() {
            let _ = self.thread.take().map(JoinHandle::join);
        }
    }
}
