//! What a job has to say, while it runs and at its end.

use std::time::{Duration, Instant};

use metra_core::code::Code;
use metra_core::id::Digest;
use metra_core::rate::RatePolicy;
use metra_core::receipt::SignedReceipt;
use metra_core::wire::Finished;
use metra_fallback::ladder::Tried;
use metra_session::{EntryReport, Kpis, Meter, Progress, Traffic};
use serde::Serialize;

/// Called while a job runs.
pub struct Watch {
    /// About ten times a second.
    pub progress: Box<dyn FnMut(&Progress) + Send>,
    /// For every entry that was not simply transferred.
    pub report: Box<dyn FnMut(&EntryReport) + Send>,
    /// Once, if the gateway grants something else than was asked for: with what was asked for, and what is used.
    pub rate: Box<dyn FnMut(RatePolicy, RatePolicy) + Send>,
}

impl Default for Watch {
    fn default() -> Self {
        Self { progress: Box::new(|_| {}), report: Box::new(|_| {}), rate: Box::new(|_, _| {}) }
    }
}

/// How a job went. Complete unless `failed` is more than 0.
#[derive(Clone, Debug)]
pub struct JobReport {
    /// Bytes of the entries that are in their places now.
    pub bytes: u64,
    /// These entries, unchanged ones included.
    pub entries: u64,
    /// Entries that were the same already.
    pub unchanged: u64,
    /// Entries that were refused, could not be read, or changed.
    pub failed: u64,
    /// From the call to the end; from the first link on, if it was not there yet.
    pub elapsed: Duration,
    /// From the same time to the first byte of a chunk on a link.
    pub first_byte: Option<Duration>,
    /// From the last byte to the final names.
    pub verify: Duration,
    /// Chunks of the manifest.
    pub chunks: u64,
    /// Chunks sent (or received, by `get`).
    pub chunks_sent: u64,
    /// Of these, chunks sent more than once (or received in vain).
    pub chunks_resent: u64,
    /// Chunks that the sink had already.
    pub chunks_reused: u64,
    /// How often the job went on after its link was lost or the gateway was restarted.
    pub resumes: u32,
    /// Throughput by the second, round-trip times, bytes on the wire. [`Measured`] has the usual figures of it.
    pub kpis: Kpis,
    /// How the path was shared: what the gateway has granted.
    pub rate: RatePolicy,
    /// The identity of what was transferred.
    pub root: Digest,
    /// Kinds of the links that were in use.
    pub links: Vec<String>,
    /// What came of each way to the gateway, the best first; and whether it leads through a proxy.
    pub ladder: Vec<(Tried, bool)>,
    /// Whether somebody in between read along, whom the client had been told to trust.
    pub inspected: bool,
    /// From the begin of the first try to reach the gateway to the first link.
    pub connect: Duration,
    /// Signed by the gateway.
    pub receipt: Option<SignedReceipt>,
    /// Entries that were not simply transferred; the first 10,000.
    pub reports: Vec<EntryReport>,
}

/// What was measured on the way, with the names and units of the summary (`--json`).
///
/// Bytes on the wire are UDP payload of all links of the session while the job ran; headers of UDP and IP come on top,
/// 28 bytes a datagram with IPv4, 48 with IPv6.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// Content in a slow second: 5 % of the full seconds of the transfer were no faster. Gbit/s; `None` if there were
    /// fewer than two.
    pub p5_gbps: Option<f64>,
    /// Content in the median second. Gbit/s.
    pub p50_gbps: Option<f64>,
    /// Content in a fast second: 95 % of the seconds were no faster. Gbit/s.
    pub p95_gbps: Option<f64>,
    /// Smallest round-trip time that a link has seen. Milliseconds.
    pub rtt_min_ms: Option<f64>,
    /// Median of the smoothed round-trip time while content was on its way. Milliseconds.
    pub rtt_p50_ms: Option<f64>,
    /// 95th percentile of the same. Milliseconds.
    pub rtt_p95_ms: Option<f64>,
    /// Smoothed round-trip time at the end. Milliseconds.
    pub rtt_ms: Option<f64>,
    /// Content that went over links, each byte counted once. Bytes.
    pub delivered: u64,
    /// Bytes on the wire from source to sink for each byte delivered; `None` if nothing was.
    pub wire_ratio: Option<f64>,
    /// Bytes on the wire from sink to source for each GB (10^9 bytes) delivered; `None` if nothing was.
    pub reverse_bytes_per_gb: Option<f64>,
    /// Sent by this side, on the wire. Bytes.
    pub wire_sent: u64,
    /// Received by this side, on the wire. Bytes.
    pub wire_received: u64,
    /// Datagrams sent by this side.
    pub datagrams_sent: u64,
    /// Datagrams received by this side.
    pub datagrams_received: u64,
    /// QUIC packets sent by this side.
    pub packets_sent: u64,
    /// Of these, packets taken for lost.
    pub packets_lost: u64,
}

impl From<&Kpis> for Measured {
    fn from(kpis: &Kpis) -> Self {
        let gbps = |percent| kpis.throughput(percent).map(|bytes| rounded(bytes as f64 * 8e-9));
        let ms = |time: Option<Duration>| time.map(|time| rounded(time.as_secs_f64() * 1e3));
        let Traffic {
            sent_bytes: wire_sent,
            received_bytes: wire_received,
            sent_datagrams: datagrams_sent,
            received_datagrams: datagrams_received,
            sent_packets: packets_sent,
            lost_packets: packets_lost,
            ..
        } = kpis.traffic;
        Self {
            p5_gbps: gbps(5),
            p50_gbps: gbps(50),
            p95_gbps: gbps(95),
            rtt_min_ms: ms(kpis.rtts.map(|rtts| rtts.min)),
            rtt_p50_ms: ms(kpis.rtts.map(|rtts| rtts.p50)),
            rtt_p95_ms: ms(kpis.rtts.map(|rtts| rtts.p95)),
            rtt_ms: ms(kpis.rtts.map(|rtts| rtts.last)),
            delivered: kpis.delivered,
            wire_ratio: kpis.wire_ratio().map(rounded),
            reverse_bytes_per_gb: kpis.reverse_bytes_per_gb().map(f64::round),
            wire_sent,
            wire_received,
            datagrams_sent,
            datagrams_received,
            packets_sent,
            packets_lost,
        }
    }
}

/// To the sixth digit after the point: a slow path is some kbit/s, a short one some microseconds.
fn rounded(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

/// Collects over all attempts at a job.
pub(crate) struct Collected {
    watch: Watch,
    pub(crate) meter: Meter,
    pub(crate) started: Instant,
    pub(crate) first_byte: Option<Duration>,
    pub(crate) reports: Vec<EntryReport>,
    pub(crate) chunks_sent: u64,
    pub(crate) chunks_resent: u64,
    pub(crate) resumes: u32,
    rate_told: bool,
}

const REPORTS_MAX: usize = 10_000;

impl Collected {
    pub(crate) fn new(watch: Watch, started: Instant, meter: Meter) -> Self {
        Self {
            watch,
            meter,
            started,
            first_byte: None,
            reports: Vec::new(),
            chunks_sent: 0,
            chunks_resent: 0,
            resumes: 0,
            rate_told: false,
        }
    }

    /// The first link stands since `at`. What was done before is a part of connecting.
    pub(crate) fn connected(&mut self, at: Option<Instant>) {
        self.started = at.map_or(self.started, |at| self.started.max(at));
    }

    /// Tells of a grant that is not what was asked for.
    pub(crate) fn rate(&mut self, asked: Option<RatePolicy>, used: Option<RatePolicy>) {
        let asked = asked.unwrap_or_default();
        if let Some(used) = used
            && asked != used
            && !std::mem::replace(&mut self.rate_told, true)
        {
            (self.watch.rate)(asked, used);
        }
    }

    /// Chunks that never had to be moved in this call. After a restart the sink counts as reused what an earlier attempt of
    /// the same call has moved.
    pub(crate) fn reused(&self, finished: &Finished, chunks: u64) -> u64 {
        let moved = self.chunks_sent.saturating_sub(self.chunks_resent);
        finished.reused.min(chunks.saturating_sub(moved))
    }

    /// A look at the running attempt, which began at `began`, and at what the links have carried.
    pub(crate) fn look(
        &mut self,
        now: Instant,
        began: Instant,
        mut progress: Progress,
        traffic: &Traffic,
        reports: Vec<EntryReport>,
    ) {
        self.meter.look(now, began, &progress, traffic);
        if let Some(first_byte) = progress.first_byte {
            self.first_byte.get_or_insert((began + first_byte).saturating_duration_since(self.started));
        }
        progress.first_byte = self.first_byte;
        (self.watch.progress)(&progress);
        for report in reports {
            // A second attempt says again what the first has said.
            let said = |r: &EntryReport| r.path == report.path && r.code == report.code;
            if self.resumes > 0 && report.code != Code::Ok && self.reports.iter().any(said) {
                continue;
            }
            (self.watch.report)(&report);
            if self.reports.len() < REPORTS_MAX {
                self.reports.push(report);
            }
        }
    }
}
