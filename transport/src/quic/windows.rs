//! [`Windows`]: how much a connection may have in flight follows what it carries.
//!
//! A window that is smaller than what is on its way, waits for repair, or is not read yet, holds the link back; one that is
//! larger than ever needed is memory that a peer can make us hold. So both windows begin moderate, and grow with the
//! rate that is seen, up to what the configuration allows. At a server they begin small: who has not said who it is gets
//! little ([`Link::trust`](crate::Link::trust)).

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use quinn::Connection;

use super::tuning::varint;

/// What both windows begin with, if they may. Bytes; 1 Gbit/s over 100 ms with room for repair.
pub(super) const START: u64 = 64 << 20;
/// What a server receives on a connection of somebody who is not known yet. Bytes; control only, and above what MTP lets be
/// sent before the welcome.
pub(super) const FROM_STRANGERS: u64 = 1 << 20;
/// Unidirectional streams that such a peer may have: HTTP/3 needs three (RFC 9114 section 6.2), MTP none.
pub(super) const STREAMS_OF_STRANGERS: u32 = 16;
/// What a server receives on a connection for HTTP/3, where each request says anew who it is. Bytes.
pub(super) const HTTP3: u64 = 8 << 20;
/// Windows cover so many bandwidth-delay products: one is on its way, a lost packet takes up to two and a half more until
/// it is repaired, and a rate that doubles within a round trip must not be held back.
const BDPS: f64 = 6.0;
/// Longer round trips do not make windows larger: a peer can feign any, by acknowledging late.
const RTT_MAX: Duration = Duration::from_secs(1);
/// How often a rate is looked at, at most.
const PERIOD: Duration = Duration::from_millis(25);

#[derive(Debug)]
pub(super) struct Windows {
    /// At most. Bytes, to receive and to send.
    most: (u64, u64),
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    at: Instant,
    /// Received and sent until then. Bytes.
    bytes: (u64, u64),
    /// The windows now. Bytes.
    windows: (u64, u64),
    is_trusted: bool,
}

impl Windows {
    /// Of a connection whose peer `is_trusted` from the start, as servers are, or not.
    pub(super) fn new(now: Instant, receive: u64, send: u64, is_trusted: bool) -> Self {
        let first = if is_trusted { START } else { FROM_STRANGERS };
        let windows = (receive.min(first), send.min(START));
        Self { most: (receive, send), seen: Mutex::new(Seen { at: now, bytes: (0, 0), windows, is_trusted }) }
    }

    /// The peer is known now: it may send as much, and open as many `streams`, as a client may.
    pub(super) fn trust(&self, connection: &Connection, streams: u32) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut seen.is_trusted, true) {
            return;
        }
        seen.windows.0 = self.most.0.min(START);
        connection.set_receive_window(varint(seen.windows.0));
        connection.set_max_concurrent_uni_streams(streams.into());
    }

    /// Says the receive window once more. That changes nothing, but it is a packet, and the peer answers it.
    pub(super) fn repeat(&self, connection: &Connection) {
        let Ok(seen) = self.seen.try_lock() else { return };
        // What is taken away is given again; quinn tells of what is given.
        connection.set_receive_window(varint(seen.windows.0.saturating_sub(1)));
        connection.set_receive_window(varint(seen.windows.0));
    }

    /// Looks at what `connection` has carried since the last look, if that was long enough ago. Called whenever a
    /// chunk begins; an idle connection costs nothing.
    pub(super) fn follow(&self, now: Instant, connection: &Connection) {
        // Somebody else looks already.
        let Ok(mut seen) = self.seen.try_lock() else { return };
        let elapsed = now.saturating_duration_since(seen.at);
        if !seen.is_trusted || seen.windows == self.most || elapsed < PERIOD {
            return;
        }
        let stats = connection.stats();
        let bytes = (stats.udp_rx.bytes, stats.udp_tx.bytes);
        let needed = |before: u64, after: u64| {
            let rate = (after - before) as f64 / elapsed.as_secs_f64();
            (BDPS * rate * stats.path.rtt.min(RTT_MAX).as_secs_f64()) as u64
        };
        let receive = needed(seen.bytes.0, bytes.0).min(self.most.0);
        let send = needed(seen.bytes.1, bytes.1).min(self.most.1);
        (seen.at, seen.bytes) = (now, bytes);
        if receive > seen.windows.0 {
            seen.windows.0 = receive;
            connection.set_receive_window(varint(receive));
        }
        if send > seen.windows.1 {
            seen.windows.1 = send;
            connection.set_send_window(send);
        }
    }
}
