//! [`Deferral`]: a connection that leaves congestion control to what it carries.
//!
//! QUIC within a tunnel has a congestion controller of its own, and so has the connection that the tunnel is in. Both would look
//! for the same bandwidth, each limited by the other (`sim/plans/tunnel.toml`: 60 % of the path). Where all that a connection
//! carries is known to be controlled, its own control may be off (RFC 9298 section 6); then its packets are not to claim that
//! it answers marks of congestion: they are Not-ECT.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quinn::Connection;

use super::acked;

/// Switches a connection's congestion control off and on.
#[derive(Debug)]
pub struct Deferral {
    connection: Connection,
    unmarked: Arc<Unmarked>,
    /// Whose packets have no marks, while it is off.
    peer: Mutex<Option<SocketAddr>>,
}

impl Deferral {
    pub(super) fn new(connection: Connection, unmarked: Arc<Unmarked>) -> Self {
        Self { connection, unmarked, peer: Mutex::default() }
    }

    /// Off if `on`: what is sent leaves at once, whatever comes of it. Only while all of it is controlled elsewhere. A peer that
    /// moves to another address finds it on again, until this is called.
    pub fn set(&self, on: bool) {
        acked::defer(&self.connection, on);
        let now = on.then(|| self.connection.remote_address());
        let before = std::mem::replace(&mut *lock(&self.peer), now);
        self.unmarked.replace(before, now);
    }
}

impl Drop for Deferral {
    fn drop(&mut self) {
        self.unmarked.replace(*lock(&self.peer), None);
    }
}

/// Peers of a socket that get packets without marks of ECN.
#[derive(Debug, Default)]
pub(crate) struct Unmarked {
    peers: Mutex<HashSet<SocketAddr>>,
    /// Of them, for who only asks whether there are any.
    count: AtomicUsize,
}

impl Unmarked {
    pub(crate) fn contains(&self, peer: &SocketAddr) -> bool {
        self.count.load(Ordering::Relaxed) > 0 && lock(&self.peers).contains(peer)
    }

    fn replace(&self, before: Option<SocketAddr>, now: Option<SocketAddr>) {
        let mut peers = lock(&self.peers);
        if let Some(before) = before {
            peers.remove(&before);
        }
        peers.extend(now);
        self.count.store(peers.len(), Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in it is right after every step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_without_marks_while_they_are_listed() {
        let peers: [SocketAddr; 2] = [([192, 0, 2, 1], 1).into(), ([192, 0, 2, 2], 1).into()];
        let unmarked = Unmarked::default();
        let listed = || peers.map(|peer| unmarked.contains(&peer));
        assert_eq!(listed(), [false, false]);
        unmarked.replace(None, Some(peers[0]));
        assert_eq!(listed(), [true, false]);
        unmarked.replace(Some(peers[0]), Some(peers[1]));
        assert_eq!(listed(), [false, true]);
        unmarked.replace(Some(peers[1]), None);
        assert_eq!(listed(), [false, false]);
    }
}
