//! [`Silence`]: a link on which nothing is heard is tried again and again, so that it goes on as soon as its path is back.
//!
//! QUIC asks ever more rarely (RFC 9002 section 6.2.1: the probe timeout doubles), so after an outage of ten seconds it may
//! be as long until anybody notices that it is over. Here two packets more than the window allows go out each quarter of a
//! second. That is nothing to a path that is congested, and there is no hint of congestion in hearing nothing at all.
//!
//! Who only receives has nothing to repeat; but if its address has changed, the other side learns that from its packets alone,
//! and forgets it if the first exchange over the new path is lost (RFC 9000 section 9.3.2). So a client that hears nothing
//! more of what it fetches repeats what the other side knows, for half a minute at most.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quinn::{Connection, Side};

use super::acked::Acked;
use super::tuning::BIDI_STREAMS;
use super::windows::Windows;
use crate::rt::Rt;

/// How often a silent path is tried.
const EVERY: Duration = Duration::from_millis(250);
/// How often a client says that it is there: so many times as often as a path is tried, ...
const OFTEN: u32 = 12;
/// ... and then every so many of those times, ...
const SELDOM: u32 = 4;
/// ... until so many are over.
const LAST: u32 = 120;

/// Watches one connection: while it sends, or while a client receives over it.
#[derive(Clone, Debug, Default)]
pub(super) struct Silence(Arc<AtomicBool>);

/// What follows a look at a connection.
enum Next {
    Look,
    /// Until it is watched again.
    Rest,
    Never,
}

impl Silence {
    /// Something is being sent; when everything has arrived, it rests.
    pub(super) fn watch_sending(&self, rt: &Rt, connection: &Connection, acked: &Arc<Acked>) {
        let (acked, mut before) = (acked.clone(), None);
        self.watch(rt, connection, move |connection| {
            let look = acked.look(connection);
            // Other controllers wait for QUIC's own probes.
            let Some(probing) = look.probing else { return Next::Never };
            if probing.in_flight == 0 {
                return Next::Rest;
            }
            if before == Some(look.bytes) {
                probing.allow();
                // Changes nothing, but wakes the connection, which then asks for the window.
                connection.set_max_concurrent_bi_streams(BIDI_STREAMS);
            }
            before = Some(look.bytes);
            Next::Look
        });
    }

    /// Something is being received.
    pub(super) fn watch_receiving(&self, rt: &Rt, connection: &Connection, windows: &Arc<Windows>) {
        if connection.side() != Side::Client {
            return;
        }
        let (windows, mut before, mut silent) = (windows.clone(), 0, 0);
        self.watch(rt, connection, move |connection| {
            let heard = connection.stats().frame_rx.stream;
            silent = if heard == before { silent + 1 } else { 0 };
            before = heard;
            if is_asking(silent) {
                windows.repeat(connection);
            }
            if silent < LAST { Next::Look } else { Next::Rest }
        });
    }

    /// Looks at it now and then, unless that goes on already.
    fn watch(
        &self,
        rt: &Rt,
        connection: &Connection,
        mut look: impl FnMut(&Connection) -> Next + Send + 'static,
    ) {
        if self.0.swap(true, Ordering::Relaxed) {
            return;
        }
        let (this, sleeper, connection) = (self.clone(), rt.clone(), connection.clone());
        rt.spawn(async move {
            loop {
                sleeper.sleep(EVERY.max(connection.rtt() * 2)).await;
                if connection.close_reason().is_some() {
                    return;
                }
                match look(&connection) {
                    Next::Look => {}
                    Next::Rest => break,
                    Next::Never => return,
                }
            }
            this.0.store(false, Ordering::Relaxed);
        });
    }
}

/// Whether a client says that it is there, when it has heard nothing for so many times as long as a path is tried.
fn is_asking(silent: u32) -> bool {
    silent > 0 && (silent <= OFTEN || silent.is_multiple_of(SELDOM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_asks_often_and_then_seldom() {
        let asked: Vec<u32> = (0..LAST).filter(|silent| is_asking(*silent)).collect();
        assert_eq!(asked[..15], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16, 20, 24]);
        assert_eq!(asked.len(), 38);
    }
}
