//! What the gateway measures of jobs and links, for Prometheus. The names are in `docs/operations.md`.
//!
//! Labels come from closed sets: the direction of a job, as seen by the client; why a connection did not become a link.

use std::sync::Arc;
use std::time::Duration;

use metra_core::receipt::Direction;
use metra_fallback::http::HttpError;
use metra_session::{Kpis, Meter, Progress, Session, Side};
use metra_transport::{LinkError, LinkKind, Rt};
use metra_tunnel::http3::Http3Error;
use metra_tunnel::server::Traffic;
use metrics::{
    Counter, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder};

use crate::places::NoPlace;
use crate::sessions::Live;

/// How often a running job is looked at. Full seconds are cut from what grew between two looks.
const LOOK: Duration = Duration::from_millis(250);
/// How often the links of a session are looked at.
const LINKS: Duration = Duration::from_secs(1);

/// From a local disk to a day at a slow one. Seconds.
const SECONDS: [f64; 18] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0,
    7200.0,
];
/// From one machine to geostationary satellites and full queues. Seconds.
const RTT_SECONDS: [f64; 16] =
    [0.0001, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0];
/// 0, and 1 Mbit/s to 100 Gbit/s. Bytes per second.
const RATES: [f64; 17] = [
    0.0, 125e3, 250e3, 625e3, 1.25e6, 2.5e6, 6.25e6, 12.5e6, 25e6, 62.5e6, 125e6, 250e6, 625e6, 1.25e9,
    2.5e9, 5e9, 12.5e9,
];

const FIRST_BYTE: &str = "metra_job_first_byte_seconds";
const VERIFY: &str = "metra_job_verify_seconds";
const THROUGHPUT: &str = "metra_job_throughput_bytes_per_second";
const DELIVERED: &str = "metra_job_delivered_bytes_total";
const FORWARD: &str = "metra_job_forward_bytes_total";
const REVERSE: &str = "metra_job_reverse_bytes_total";
const RESUMES: &str = "metra_job_resumes_total";
const RTT: &str = "metra_link_rtt_seconds";
const SENT: &str = "metra_wire_sent_bytes_total";
const RECEIVED: &str = "metra_wire_received_bytes_total";
const SENT_DATAGRAMS: &str = "metra_wire_sent_datagrams_total";
const RECEIVED_DATAGRAMS: &str = "metra_wire_received_datagrams_total";
const SENT_PACKETS: &str = "metra_packets_sent_total";
const LOST_PACKETS: &str = "metra_packets_lost_total";
const CONGESTION: &str = "metra_congestion_events_total";
const GRANTED: &str = "metra_tenant_granted_bytes_total";
const JOBS_RUNNING: &str = "metra_tenant_jobs_running";
const JOBS_WAITING: &str = "metra_tenant_jobs_waiting";
const DENIED: &str = "metra_denied_total";
const POLICIES_REFUSED: &str = "metra_policies_refused_total";
const PUT_OFF: &str = "metra_attempts_put_off_total";
const DROPPED: &str = "metra_connections_dropped_total";
const HANDSHAKES_FAILED: &str = "metra_handshakes_failed_total";
const HTTP_FAILED: &str = "metra_http_failed_total";
const TUNNELS: &str = "metra_tunnels_total";
const TUNNELS_RUNNING: &str = "metra_tunnels";
const TUNNEL_BYTES: &str = "metra_tunnel_bytes_total";
const TUNNEL_DATAGRAMS: &str = "metra_tunnel_datagrams_total";
const TUNNEL_LOST: &str = "metra_tunnel_lost_datagrams_total";
const CONTENT: &str = "metra_content_files_total";
const SCANS: &str = "metra_content_scans_total";
const SCAN_SECONDS: &str = "metra_content_scan_seconds";
pub(crate) const HTTP_REQUESTS: &str = "metra_http_requests_total";

/// Why a connection over TCP was ended before it could say anything, or while it had time left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// Its address has as many connections as one may have.
    Address,
    /// There are as many as there may be.
    Full,
    /// There were, and its address had most of them when another came.
    Displaced,
    /// The gateway shuts down.
    Draining,
    /// The system had no file or memory for it. It may be taken later.
    System,
}

impl From<NoPlace> for Dropped {
    fn from(why: NoPlace) -> Self {
        match why {
            NoPlace::Address => Dropped::Address,
            NoPlace::Full => Dropped::Full,
        }
    }
}

/// Counts a connection that was dropped.
pub(crate) fn connection_dropped(why: Dropped) {
    let reason = match why {
        Dropped::Address => "address",
        Dropped::Full => "full",
        Dropped::Displaced => "displaced",
        Dropped::Draining => "draining",
        Dropped::System => "system",
    };
    counter!(DROPPED, "reason" => reason).increment(1);
}

/// Counts what policies denied; `dry_run`: it was done all the same.
pub(crate) fn denied(action: &'static str, dry_run: bool) {
    let dry_run = if dry_run { "true" } else { "false" };
    counter!(DENIED, "action" => action, "dry_run" => dry_run).increment(1);
}

/// Counts policies that were not taken.
pub(crate) fn policies_refused() {
    counter!(POLICIES_REFUSED).increment(1);
}

/// Counts credentials that were not looked at, as too many had failed at that address.
pub(crate) fn attempt_put_off() {
    counter!(PUT_OFF).increment(1);
}

/// Counts a handshake that failed.
pub(crate) fn handshake_failed(kind: LinkKind, error: &LinkError) {
    let reason = match error {
        LinkError::TimedOut => "timeout",
        LinkError::NoProtocol(_) => "protocol",
        LinkError::Handshake(_) => "refused",
        _ => "lost",
    };
    counter!(HANDSHAKES_FAILED, "kind" => kind.name(), "reason" => reason).increment(1);
}

/// Counts a connection of HTTP that did not end in the ordinary way.
pub(crate) fn http_failed(error: &HttpError) {
    let reason = match error {
        HttpError::TimedOut => "timeout",
        HttpError::Protocol(_) => "protocol",
        HttpError::Lost(_) => "lost",
        _ => "service",
    };
    counter!(HTTP_FAILED, "reason" => reason).increment(1);
}

/// The same of HTTP/3.
pub(crate) fn http3_failed(error: &Http3Error) {
    let reason = match error {
        Http3Error::TimedOut => "timeout",
        Http3Error::Protocol(_) => "protocol",
        Http3Error::Lost(_) | Http3Error::Reset(_) => "lost",
        _ => "service",
    };
    counter!(HTTP_FAILED, "reason" => reason).increment(1);
}

/// What came of a request for a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TunnelOpened {
    /// It leads to this gateway's MTP.
    Own,
    /// It leads to a target.
    Target,
    /// It is no request for a tunnel.
    Malformed,
    /// There are too many.
    Busy,
    /// Nobody is known by these credentials.
    Unauthenticated,
    /// Not allowed.
    Denied,
    /// The name has no address.
    Unresolved,
    /// There is no way to the target.
    Failed,
}

impl TunnelOpened {
    /// The label; also the code in the audit trail of what was not opened.
    pub(crate) fn name(self) -> &'static str {
        match self {
            TunnelOpened::Own => "own",
            TunnelOpened::Target => "target",
            TunnelOpened::Malformed => "malformed",
            TunnelOpened::Busy => "busy",
            TunnelOpened::Unauthenticated => "unauthenticated",
            TunnelOpened::Denied => "denied",
            TunnelOpened::Unresolved => "unresolved",
            TunnelOpened::Failed => "failed",
        }
    }
}

/// Counts an answer to a request for a tunnel.
pub(crate) fn tunnel_opened(outcome: TunnelOpened) {
    counter!(TUNNELS, "outcome" => outcome.name()).increment(1);
}

/// What became of a file that the rules for content were asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Examined {
    /// It is kept.
    Kept,
    /// It is kept although it could not be scanned.
    Unscanned,
    /// It is not.
    Refused,
    /// It is put aside.
    Quarantined,
}

/// Counts a file that the rules for content were asked about.
pub(crate) fn content(examined: Examined) {
    let outcome = match examined {
        Examined::Kept => "kept",
        Examined::Unscanned => "unscanned",
        Examined::Refused => "refused",
        Examined::Quarantined => "quarantined",
    };
    counter!(CONTENT, "outcome" => outcome).increment(1);
}

/// What came of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scanned {
    /// Nothing was found.
    Clean,
    /// Something was.
    Found,
    /// The service would pass on another file.
    Modified,
    /// There was no answer.
    Failed,
    /// The file was not shown.
    TooLarge,
}

/// Counts a scan, and how long it took if there was one.
pub(crate) fn scanned(scanned: Scanned, took: Option<Duration>) {
    let outcome = match scanned {
        Scanned::Clean => "clean",
        Scanned::Found => "found",
        Scanned::Modified => "modified",
        Scanned::Failed => "failed",
        Scanned::TooLarge => "too_large",
    };
    counter!(SCANS, "outcome" => outcome).increment(1);
    if let Some(took) = took {
        histogram!(SCAN_SECONDS).record(took);
    }
}

/// Counts a tunnel for as long as the value lives.
pub(crate) fn tunnel_running() -> impl Drop {
    struct Running;
    impl Drop for Running {
        fn drop(&mut self) {
            gauge!(TUNNELS_RUNNING).decrement(1.0);
        }
    }
    gauge!(TUNNELS_RUNNING).increment(1.0);
    Running
}

/// Counts what went through a tunnel that has ended.
pub(crate) fn tunnel_ended(traffic: &Traffic) {
    counter!(TUNNEL_BYTES, "direction" => "up").increment(traffic.up_bytes);
    counter!(TUNNEL_BYTES, "direction" => "down").increment(traffic.down_bytes);
    counter!(TUNNEL_DATAGRAMS, "direction" => "up").increment(traffic.up);
    counter!(TUNNEL_DATAGRAMS, "direction" => "down").increment(traffic.down);
    counter!(TUNNEL_LOST).increment(traffic.lost);
}

/// Histograms with buckets, which may be added up over gateways.
///
/// # Errors
/// None but the exporter's, for buckets that are not as it wants them.
pub(crate) fn buckets(builder: PrometheusBuilder) -> Result<PrometheusBuilder, BuildError> {
    builder
        .set_buckets_for_metric(Matcher::Full(RTT.to_owned()), &RTT_SECONDS)?
        .set_buckets_for_metric(Matcher::Full(THROUGHPUT.to_owned()), &RATES)?
        .set_buckets_for_metric(Matcher::Full(FIRST_BYTE.to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Full(VERIFY.to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Full(SCAN_SECONDS.to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Full("metra_opening_seconds".to_owned()), &SECONDS)
}

/// Says what the numbers are, for whoever reads the endpoint.
pub(crate) fn describe() {
    describe_counter!(GRANTED, Unit::Bytes, "What jobs of a tenant were granted");
    describe_gauge!(JOBS_RUNNING, "Jobs of a tenant that run");
    describe_gauge!(JOBS_WAITING, "Jobs of a tenant that wait for their turn");
    describe_counter!(DENIED, "What policies denied, or would have");
    describe_counter!(
        POLICIES_REFUSED,
        "Policies that were read again, and wrong: those before stayed in force"
    );
    describe_counter!(PUT_OFF, "Attempts to show credentials that came too soon after failed ones");
    describe_counter!("metra_audit_records_total", "Records of the audit trail that were written");
    describe_counter!("metra_audit_lost_total", "Records of the audit trail that found no room");
    describe_gauge!("metra_audit_failing", "1 while the audit trail cannot be written");
    describe_counter!("metra_audit_refused_total", "What was refused because of that");
    describe_counter!(DROPPED, "Connections over TCP that were ended because there was no place for them");
    describe_counter!(HANDSHAKES_FAILED, "Handshakes of QUIC and TLS that did not end well");
    describe_counter!(HTTP_FAILED, "Connections of HTTP that ended in time-outs, errors and refusals");
    describe_counter!(HTTP_REQUESTS, "Requests over HTTP that were answered");
    describe_counter!(TUNNELS, "Requests for tunnels, by what came of them");
    describe_gauge!(TUNNELS_RUNNING, "Tunnels that stand");
    describe_counter!(TUNNEL_BYTES, Unit::Bytes, "UDP payload of tunnels to targets that have ended");
    describe_counter!(TUNNEL_DATAGRAMS, "Datagrams of tunnels to targets that have ended");
    describe_counter!(
        TUNNEL_LOST,
        "Datagrams that were lost in tunnels to targets: over the rate, without room, or too large"
    );
    describe_counter!(CONTENT, "Files that the rules for content were asked about");
    describe_counter!(SCANS, "Files that services were to scan");
    describe_histogram!(SCAN_SECONDS, Unit::Seconds, "From the wish to have a file scanned to the answer");
    describe_histogram!(
        FIRST_BYTE,
        Unit::Seconds,
        "From the begin of a job here to the first byte of a chunk"
    );
    describe_histogram!(VERIFY, Unit::Seconds, "From the last chunk on a link to the final names");
    describe_histogram!(THROUGHPUT, "Content in each full second of each job");
    describe_counter!(DELIVERED, Unit::Bytes, "Content that went over links, each byte once");
    describe_counter!(FORWARD, Unit::Bytes, "On the wire from source to sink while jobs ran");
    describe_counter!(REVERSE, Unit::Bytes, "On the wire from sink to source while jobs ran");
    describe_counter!(RESUMES, "Jobs that were attached to another link and went on");
    describe_histogram!(RTT, Unit::Seconds, "Smoothed round-trip time of links in use, each second");
    describe_counter!(SENT, Unit::Bytes, "UDP payload sent");
    describe_counter!(RECEIVED, Unit::Bytes, "UDP payload received");
    describe_counter!(SENT_DATAGRAMS, "Datagrams sent");
    describe_counter!(RECEIVED_DATAGRAMS, "Datagrams received");
    describe_counter!(SENT_PACKETS, "QUIC packets sent");
    describe_counter!(LOST_PACKETS, "QUIC packets sent and taken for lost");
    describe_counter!(CONGESTION, "How often congestion controllers were told of congestion");
}

/// Runs a job and looks at it meanwhile.
pub(crate) async fn watched<T>(
    rt: &Rt,
    session: &Session,
    direction: Direction,
    progress: impl Fn() -> Progress,
    run: impl Future<Output = T>,
) -> (T, Kpis) {
    let side = match direction {
        Direction::Push => Side::Sink,
        Direction::Pull => Side::Source,
    };
    let started = rt.now();
    let mut meter = Meter::new(side, session.traffic());
    let look = |meter: &mut Meter| meter.look(rt.now(), started, &progress(), &session.traffic());
    tokio::pin!(run);
    loop {
        tokio::select! {
            result = &mut run => {
                look(&mut meter);
                return (result, meter.kpis());
            }
            () = rt.sleep(LOOK) => look(&mut meter),
        }
    }
}

/// A job has ended, well or not: `verify` is known only of one that ended well.
pub(crate) fn job_ended(
    direction: Direction,
    kpis: &Kpis,
    first_byte: Option<Duration>,
    verify: Option<Duration>,
    attachments: u32,
) {
    let direction = name(direction);
    if let Some(first_byte) = first_byte {
        histogram!(FIRST_BYTE, "direction" => direction).record(first_byte);
    }
    if let Some(verify) = verify {
        histogram!(VERIFY, "direction" => direction).record(verify);
    }
    let throughput = histogram!(THROUGHPUT, "direction" => direction);
    if kpis.delivered > 0 {
        for (bytes, times) in kpis.seconds.iter() {
            throughput.record_many(bytes as f64, usize::try_from(times).unwrap_or(usize::MAX));
        }
    }
    counter!(DELIVERED, "direction" => direction).increment(kpis.delivered);
    counter!(FORWARD, "direction" => direction).increment(kpis.forward_bytes());
    counter!(REVERSE, "direction" => direction).increment(kpis.reverse_bytes());
    counter!(RESUMES, "direction" => direction).increment(u64::from(attachments.saturating_sub(1)));
}

fn name(direction: Direction) -> &'static str {
    match direction {
        Direction::Push => "push",
        Direction::Pull => "pull",
    }
}

/// Counts what the links of a session carry until it is closed.
pub(crate) async fn links(rt: Rt, live: Arc<Live>) {
    let session = live.session();
    let mut before = metra_session::Traffic::default();
    let mut sampled = false;
    loop {
        let closed = rt.timeout(LINKS, session.closed()).await.is_ok();
        let traffic = session.traffic();
        let since = traffic.since(&before);
        // The time of a link on which nothing arrives is an old one.
        if since.received_bytes > 0 {
            let links = session.links();
            for link in &links {
                histogram!(RTT).record(link.link().rtt());
            }
            sampled |= !links.is_empty();
        }
        // A session that was shorter than that has a time as well.
        if closed
            && !sampled
            && let Some(rtt) = traffic.rtt
        {
            histogram!(RTT).record(rtt);
        }
        counter!(SENT).increment(since.sent_bytes);
        counter!(RECEIVED).increment(since.received_bytes);
        counter!(SENT_DATAGRAMS).increment(since.sent_datagrams);
        counter!(RECEIVED_DATAGRAMS).increment(since.received_datagrams);
        counter!(SENT_PACKETS).increment(since.sent_packets);
        counter!(LOST_PACKETS).increment(since.lost_packets);
        counter!(CONGESTION).increment(since.congestion_events);
        before = traffic;
        if closed {
            return;
        }
    }
}

/// What jobs are granted. Tenants are those of the configuration.
pub(crate) fn granted(tenant: &str, direction: Direction) -> Counter {
    let direction = if direction == Direction::Push { "push" } else { "pull" };
    counter!(GRANTED, "tenant" => tenant.to_owned(), "direction" => direction)
}

/// How many jobs of a tenant run and wait.
pub(crate) fn turns(tenant: &str, running: usize, waiting: usize) {
    gauge!(JOBS_RUNNING, "tenant" => tenant.to_owned()).set(running as f64);
    gauge!(JOBS_WAITING, "tenant" => tenant.to_owned()).set(waiting as f64);
}
