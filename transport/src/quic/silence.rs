//! [`Silence`]: a link on which nothing is heard is tried again and again, so that it goes on as soon as its path is back.
//!
//! QUIC asks ever more rarely (RFC 9002 section 6.2.1: the probe timeout doubles), so after an outage of ten seconds it may
//! be as long until anybody notices that it is over. Here two packets more than the window allows go out each quarter of a
//! second. That is nothing to a path that is congested, and there is no hint of congestion in hearing nothing at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quinn::Connection;

use super::acked::Acked;
use super::tuning::BIDI_STREAMS;
use crate::rt::Rt;

/// How often a silent path is tried.
const EVERY: Duration = Duration::from_millis(250);

/// Watches one connection while it sends; when everything has arrived, it stops.
#[derive(Clone, Debug, Default)]
pub(super) struct Silence(Arc<AtomicBool>);

impl Silence {
    /// Something is being sent.
    pub(super) fn watch(&self, rt: &Rt, connection: &Connection, acked: &Arc<Acked>) {
        if self.0.swap(true, Ordering::Relaxed) {
            return;
        }
        let (this, sleeper) = (self.clone(), rt.clone());
        let (connection, acked) = (connection.clone(), acked.clone());
        rt.spawn(async move {
            let mut before = None;
            loop {
                let rtt = connection.rtt();
                sleeper.sleep(EVERY.max(rtt * 2)).await;
                if connection.close_reason().is_some() {
                    return;
                }
                let look = acked.look(&connection);
                // Other controllers wait for QUIC's own probes.
                let Some(probing) = look.probing else { return };
                if probing.in_flight == 0 {
                    break;
                }
                if before == Some(look.bytes) {
                    probing.allow();
                    // Changes nothing, but wakes the connection, which then asks for the window.
                    connection.set_max_concurrent_bi_streams(BIDI_STREAMS);
                }
                before = Some(look.bytes);
            }
            this.0.store(false, Ordering::Relaxed);
        });
    }
}
