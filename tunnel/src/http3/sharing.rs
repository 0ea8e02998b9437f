//! What one connection sends, divided: between tunnels, and between them and streams.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use metra_transport::quic::DATAGRAM_BUFFER;
use quinn::Connection;

use super::rounds::{Rounds, Seen, Share};
use crate::sync::lock;

/// The rounds of a connection.
#[derive(Debug)]
pub(super) struct Sharing {
    connection: Connection,
    rounds: Mutex<Rounds>,
    /// For who only asks.
    has_streams: AtomicBool,
}

impl Sharing {
    pub(super) fn new(connection: Connection) -> Self {
        Self { connection, rounds: Mutex::default(), has_streams: AtomicBool::new(false) }
    }

    /// QUIC has taken so much of a stream. Bytes.
    pub(super) fn wrote(&self, length: usize) {
        lock(&self.rounds).wrote(length as u64);
        self.has_streams.store(true, Ordering::Relaxed);
    }

    /// Whether a tunnel may send so much, which then counts. Bytes.
    pub(super) fn admit(&self, now: impl FnOnce() -> Instant, share: &Mutex<Share>, length: usize) -> bool {
        !self.is_shared(now) || lock(&self.rounds).admit(&mut lock(share), length as u64)
    }

    /// Whether a tunnel may send more.
    pub(super) fn has_part(&self, now: impl FnOnce() -> Instant, share: &Mutex<Share>) -> bool {
        !self.is_shared(now) || lock(&self.rounds).has_part(&lock(share))
    }

    /// A tunnel that has asked sends so much. Bytes.
    pub(super) fn charge(&self, share: &Mutex<Share>, length: usize) {
        if self.has_streams.load(Ordering::Relaxed) || self.waits() > CROWDED {
            lock(&self.rounds).charge(&mut lock(share), length as u64);
        }
    }

    /// Whether there is somebody to share with.
    fn is_shared(&self, now: impl FnOnce() -> Instant) -> bool {
        let waits = self.waits();
        if !self.has_streams.load(Ordering::Relaxed) {
            return waits > CROWDED;
        }
        let sent = self.connection.stats().udp_tx.bytes;
        let seen = Seen { now: now(), waits, sent, rtt: self.connection.rtt() };
        let mut rounds = lock(&self.rounds);
        rounds.see(&seen);
        let has_streams = rounds.has_streams();
        self.has_streams.store(has_streams, Ordering::Relaxed);
        has_streams || waits > CROWDED
    }

    /// Datagrams in QUIC's hands. Bytes.
    fn waits(&self) -> usize {
        // An empty buffer has room for all but what one costs.
        let room = self.connection.datagram_send_buffer_space();
        (DATAGRAM_BUFFER - EMPTY).saturating_sub(room)
    }
}

/// What may wait to be sent before tunnels have to share. Bytes.
const CROWDED: usize = DATAGRAM_BUFFER / 4;
/// What quinn counts for one datagram besides its bytes.
const EMPTY: usize = size_of::<bytes::Bytes>();
