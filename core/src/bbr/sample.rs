//! [`Sampler`]: how fast packets are delivered (draft-ietf-ccwg-bbr-06 section 4.5).
//!
//! For every batch of packets that leaves, what had been delivered by then is noted; when one of them is
//! acknowledged, what has been delivered since, over the time that took, is a sample of the path's bandwidth. Batches
//! are found again by the time at which they were made, which is all that QUIC tells a controller of a packet: packets
//! made at one instant share a record.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Batches in flight that are remembered. Packets of older ones still count as delivered. 65,536 batches of two
/// packets are 160 ms at 10 Gbit/s; usually a batch has ten packets or more.
const BATCHES_MAX: usize = 65_536;
/// How long a batch is remembered of which a part is not acknowledged, maybe lost: this, or four round trips.
const BATCH_AGE: Duration = Duration::from_secs(1);

/// What one acknowledgement (or one report of losses) says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    /// Bytes per second; `None` if this acknowledgement does not tell.
    pub(super) rate: Option<f64>,
    /// Bytes delivered over the time of the sample.
    pub(super) delivered: u64,
    /// Bytes that had been delivered when the newest of the acknowledged packets left.
    pub(super) prior_delivered: u64,
    /// Bytes in flight when it left, itself included.
    pub(super) tx_in_flight: u64,
    /// Bytes lost since it left.
    pub(super) lost: u64,
    /// Whether it left when there was too little to send.
    pub(super) app_limited: bool,
    /// Its round-trip time.
    pub(super) rtt: Option<Duration>,
    /// Bytes that this acknowledgement delivered.
    pub(super) newly_acked: u64,
}

/// What has been sent and what became of it.
#[derive(Debug)]
pub(super) struct Sampler {
    /// Bytes acknowledged so far.
    delivered: u64,
    /// When `delivered` last grew.
    delivered_at: Instant,
    /// When the packet left that was acknowledged last: the beginning of the send side of the next sample.
    first_sent: Instant,
    /// Bytes lost so far.
    lost: u64,
    in_flight: u64,
    /// Until so much is delivered, samples are of a time with too little to send; 0: they are not.
    app_limited_until: u64,
    batches: VecDeque<Batch>,
    /// Of the acknowledgement that is being taken in.
    newest: Option<Batch>,
    newly_acked: u64,
}

/// Packets that were made at one instant.
#[derive(Clone, Copy, Debug)]
struct Batch {
    /// When they were made: what packets are found by.
    made: Instant,
    /// When the first of them left.
    left_first: Instant,
    /// When the last of them left.
    left_last: Instant,
    /// Bytes that are neither acknowledged nor known to be lost.
    open: u64,
    /// What the sampler had when they left.
    delivered: u64,
    delivered_at: Instant,
    first_sent: Instant,
    lost: u64,
    app_limited: bool,
    tx_in_flight: u64,
}

impl Sampler {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            delivered: 0,
            delivered_at: now,
            first_sent: now,
            lost: 0,
            in_flight: 0,
            app_limited_until: 0,
            batches: VecDeque::new(),
            newest: None,
            newly_acked: 0,
        }
    }

    /// The same, without the memory of what is in flight: packets of then still count as delivered.
    pub(super) fn copy(&self) -> Self {
        let batches = VecDeque::new();
        Self { batches, newest: None, ..*self }
    }

    pub(super) fn delivered(&self) -> u64 {
        self.delivered
    }

    pub(super) fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// What is in flight and has left: the last batch may still be held, and on a slow path that is more than the path holds.
    pub(super) fn in_pipe(&self, now: Instant) -> u64 {
        let held = self.batches.back().filter(|last| last.left_last > now).map_or(0, |last| last.open);
        self.in_flight.saturating_sub(held)
    }

    /// Since when nothing was delivered.
    pub(super) fn delivered_at(&self) -> Instant {
        self.delivered_at
    }

    pub(super) fn is_app_limited(&self) -> bool {
        self.app_limited_until != 0
    }

    /// There is less to send than may be sent (section 4.5.2.4).
    pub(super) fn mark_app_limited(&mut self) {
        self.app_limited_until = self.delivered.saturating_add(self.in_flight).max(1);
    }

    /// `bytes` made at `made` leave at `leaves`, which is not before.
    pub(super) fn on_sent(&mut self, made: Instant, leaves: Instant, bytes: u64) {
        if self.in_flight == 0 {
            (self.first_sent, self.delivered_at) = (leaves, leaves);
        }
        self.in_flight = self.in_flight.saturating_add(bytes);
        if let Some(last) = self.batches.back_mut().filter(|last| last.made == made) {
            last.open = last.open.saturating_add(bytes);
            last.left_last = leaves;
            last.tx_in_flight = self.in_flight;
            return;
        }
        if self.batches.len() == BATCHES_MAX {
            self.batches.pop_front();
        }
        self.batches.push_back(Batch {
            made,
            left_first: leaves,
            left_last: leaves,
            open: bytes,
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            first_sent: self.first_sent,
            lost: self.lost,
            app_limited: self.is_app_limited(),
            tx_in_flight: self.in_flight,
        });
    }

    /// A packet that was made at `made` has arrived.
    pub(super) fn on_packet_acked(&mut self, now: Instant, made: Instant, bytes: u64) {
        self.delivered = self.delivered.saturating_add(bytes);
        self.delivered_at = now;
        self.newly_acked = self.newly_acked.saturating_add(bytes);
        self.in_flight = self.in_flight.saturating_sub(bytes);
        let Some(batch) = self.find(made) else { return };
        batch.open = batch.open.saturating_sub(bytes);
        let batch = *batch;
        if self.newest.is_none_or(|newest| newest.made <= batch.made) {
            self.newest = Some(batch);
        }
    }

    /// All packets of an acknowledgement have been told. `in_flight` is what QUIC counts; `min_rtt` the shortest
    /// round trip known: samples over less time are noise (section 4.5.3.3).
    pub(super) fn finish(&mut self, now: Instant, in_flight: u64, min_rtt: Option<Duration>) -> Sample {
        self.in_flight = in_flight;
        if self.app_limited_until != 0 && self.delivered > self.app_limited_until {
            self.app_limited_until = 0;
        }
        let newly_acked = std::mem::take(&mut self.newly_acked);
        let Some(batch) = self.newest.take() else {
            return Sample { newly_acked, ..self.blank() };
        };
        self.first_sent = batch.left_last;
        let rtt = now.saturating_duration_since(batch.left_first);
        self.prune(now, BATCH_AGE.max(rtt * 4));
        let delivered = self.delivered - batch.delivered;
        let sending = batch.left_last.saturating_duration_since(batch.first_sent);
        let acking = now.saturating_duration_since(batch.delivered_at);
        let interval = sending.max(acking);
        let tells = !interval.is_zero() && min_rtt.is_none_or(|min| interval >= min);
        Sample {
            rate: tells.then(|| delivered as f64 / interval.as_secs_f64()),
            delivered,
            prior_delivered: batch.delivered,
            tx_in_flight: batch.tx_in_flight,
            lost: self.lost - batch.lost,
            app_limited: batch.app_limited,
            rtt: Some(rtt),
            newly_acked,
        }
    }

    /// `bytes` are lost, of which the last was made at `made`. What is known of that packet's time.
    pub(super) fn on_lost(&mut self, made: Instant, bytes: u64) -> Sample {
        self.lost = self.lost.saturating_add(bytes);
        self.in_flight = self.in_flight.saturating_sub(bytes);
        let lost = self.lost;
        let blank = self.blank();
        let Some(batch) = self.find(made) else { return blank };
        Sample {
            prior_delivered: batch.delivered,
            tx_in_flight: batch.tx_in_flight,
            lost: lost - batch.lost,
            app_limited: batch.app_limited,
            ..blank
        }
    }

    /// What can be said without an acknowledgement.
    pub(super) fn blank(&self) -> Sample {
        Sample {
            rate: None,
            delivered: 0,
            prior_delivered: 0,
            tx_in_flight: self.in_flight,
            lost: 0,
            app_limited: self.is_app_limited(),
            rtt: None,
            newly_acked: 0,
        }
    }

    /// Batches that are remembered.
    #[cfg(test)]
    pub(super) fn records(&self) -> usize {
        self.batches.len()
    }

    fn find(&mut self, made: Instant) -> Option<&mut Batch> {
        let at = self.batches.partition_point(|batch| batch.made < made);
        self.batches.get_mut(at).filter(|batch| batch.made == made)
    }

    /// Forgets from the front what is done with.
    fn prune(&mut self, now: Instant, age: Duration) {
        while let Some(first) = self.batches.front() {
            if first.open > 0 && now.saturating_duration_since(first.made) < age {
                break;
            }
            self.batches.pop_front();
        }
    }
}
