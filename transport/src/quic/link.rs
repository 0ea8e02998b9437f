//! A QUIC connection as a [`Link`].

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use metra_core::code::Code;
use metra_core::rate::RatePolicy;
use quinn::{Connection, ConnectionStats, RecvStream, SendStream, Side, ZeroRttAccepted};
use rustls::pki_types::CertificateDer;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;

use super::acked::Acked;
use super::control::{self, QuicControlRecv, QuicControlSend};
use super::error;
use super::paths::Use;
use super::silence::Silence;
use super::tuning::Tuning;
use super::windows::Windows;
use crate::link::{
    BoxFuture, ChunkRecv, ControlRecv, ControlSend, ControlStream, Link, LinkError, LinkId, LinkKind,
    LinkStats,
};
use crate::rt::Rt;

/// Longest reason of a close that goes out. Bytes.
const REASON_MAX: usize = 1024;
/// A chunk that arrives is given room in steps of this, if the caller has made none. Bytes.
const READ_STEP: usize = 64 * 1024;

pub(super) struct QuicLink {
    id: LinkId,
    rt: Rt,
    connection: Connection,
    handshake: Handshake,
    control_taken: AtomicBool,
    min_rtt: MinRtt,
    acked: Arc<Acked>,
    windows: Arc<Windows>,
    /// Of a peer that is known.
    max_chunk_streams: u32,
    /// Of what is sent, and of what is received.
    silence: Silence,
    silence_received: Silence,
    about: About,
}

/// What a link is told of itself.
pub(super) struct About {
    pub(super) kind: LinkKind,
    pub(super) path: Use,
}

/// The smallest smoothed round-trip time that was looked at. Nanoseconds.
struct MinRtt(AtomicU64);

/// What quinn takes for the round-trip time before it has measured it (RFC 9002 section 6.2.2).
const INITIAL_RTT: Duration = Duration::from_millis(333);

/// How far the handshake is, as everybody who waits for it sees it.
#[derive(Clone)]
pub(super) struct Handshake(Progress);

#[derive(Clone)]
enum Progress {
    /// Was confirmed before the link came to be.
    Done,
    Watched(watch::Receiver<State>),
}

#[derive(Clone, Debug)]
enum State {
    Running,
    Confirmed { early_data_rejected: bool },
    Failed(LinkError),
}

impl QuicLink {
    /// A link whose handshake is over.
    pub(super) fn confirmed(rt: Rt, connection: Connection, about: About, tuning: &Tuning) -> Arc<dyn Link> {
        Self::start(rt, connection, Handshake(Progress::Done), about, tuning)
    }

    /// A link whose handshake goes on. `until_confirmed` is dropped when it is over, either way.
    pub(super) fn handshaking(
        rt: Rt,
        connection: Connection,
        accepted: ZeroRttAccepted,
        until_confirmed: impl Send + 'static,
        about: About,
        tuning: &Tuning,
    ) -> Arc<dyn Link> {
        let (tx, rx) = watch::channel(State::Running);
        let watched = connection.clone();
        rt.spawn(async move {
            let accepted = accepted.await;
            drop(until_confirmed);
            tx.send_replace(match watched.close_reason() {
                Some(reason) => State::Failed(error::lost(reason)),
                // What quinn says of acceptance has no meaning at a server.
                None => State::Confirmed { early_data_rejected: watched.side() == Side::Client && !accepted },
            });
        });
        Self::start(rt, connection, Handshake(Progress::Watched(rx)), about, tuning)
    }

    fn start(
        rt: Rt,
        connection: Connection,
        handshake: Handshake,
        about: About,
        tuning: &Tuning,
    ) -> Arc<dyn Link> {
        let is_trusted = connection.side() == Side::Client;
        let windows = Windows::new(rt.now(), tuning.receive_window, tuning.send_window, is_trusted);
        Arc::new(Self {
            id: LinkId::next(),
            rt,
            connection,
            handshake,
            control_taken: AtomicBool::new(false),
            min_rtt: MinRtt::new(),
            acked: Arc::default(),
            windows: Arc::new(windows),
            max_chunk_streams: tuning.max_chunk_streams,
            silence: Silence::default(),
            silence_received: Silence::default(),
            about,
        })
    }
}

impl Drop for QuicLink {
    fn drop(&mut self) {
        self.about.path.end(&self.rt, &self.connection, &self.acked);
    }
}

impl MinRtt {
    fn new() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }

    /// The smallest round-trip time: quinn's, where that can be. quinn's begins with its first guess and only goes down,
    /// so that on a longer path it stays there; and it is 0 when an acknowledgement is handled with the time at which
    /// its batch was begun, before the packet was sent. Then it is the smallest of the smoothed ones.
    fn update(&self, smoothed: Duration, quinns: Duration) -> Duration {
        if smoothed == INITIAL_RTT {
            return quinns;
        }
        let nanos = u64::try_from(smoothed.as_nanos()).unwrap_or(u64::MAX);
        let seen = self.0.fetch_min(nanos, Ordering::Relaxed).min(nanos);
        if quinns.is_zero() || quinns >= INITIAL_RTT { Duration::from_nanos(seen) } else { quinns }
    }
}

/// Frames that ask for an acknowledgement: all but ACK, PADDING and CONNECTION_CLOSE, and but for those that a link sends once
/// or never. Probes of the path's MTU are left out, as they are sent to be lost.
fn eliciting(stats: &ConnectionStats) -> u64 {
    let sent = &stats.frame_tx;
    let pings = sent.ping.saturating_sub(stats.path.sent_plpmtud_probes);
    let credit = sent.max_data + sent.max_stream_data + sent.max_streams_bidi + sent.max_streams_uni;
    let blocked = sent.data_blocked + sent.stream_data_blocked;
    let ends = sent.reset_stream + sent.stop_sending;
    sent.stream + sent.datagram + sent.crypto + pings + credit + blocked + ends
}

impl fmt::Debug for QuicLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QuicLink({}, {}, {:?})", self.id, self.peer(), self.handshake)
    }
}

impl Link for QuicLink {
    fn kind(&self) -> LinkKind {
        self.about.kind
    }

    fn peer(&self) -> SocketAddr {
        let address = self.connection.remote_address();
        // A dual-stack socket shows IPv4 peers as mapped addresses; rules are written for the real ones.
        SocketAddr::new(address.ip().to_canonical(), address.port())
    }

    fn id(&self) -> LinkId {
        self.id
    }

    fn stats(&self) -> LinkStats {
        let stats = self.connection.stats();
        let look = self.acked.look(&self.connection);
        LinkStats {
            rtt: stats.path.rtt,
            min_rtt: self.min_rtt.update(stats.path.rtt, stats.path.min_rtt),
            cwnd: look.window,
            mtu: stats.path.current_mtu,
            sent_bytes: stats.udp_tx.bytes,
            received_bytes: stats.udp_rx.bytes,
            acked_bytes: look.bytes,
            eliciting_frames: eliciting(&stats),
            sent_datagrams: stats.udp_tx.datagrams,
            received_datagrams: stats.udp_rx.datagrams,
            sent_packets: stats.path.sent_packets,
            lost_packets: stats.path.lost_packets,
            lost_bytes: stats.path.lost_bytes,
            lost_mtu_probes: stats.path.lost_plpmtud_probes,
            congestion_events: stats.path.congestion_events,
        }
    }

    fn rtt(&self) -> Duration {
        self.connection.rtt()
    }

    fn set_rate(&self, rate: RatePolicy) -> bool {
        self.acked.set_rate(&self.connection, rate)
    }

    fn set_pace(&self, pace: Option<u64>) {
        self.acked.set_pace(&self.connection, pace);
    }

    fn control(&self) -> BoxFuture<'_, Result<ControlStream, LinkError>> {
        Box::pin(async {
            if self.control_taken.swap(true, Ordering::Relaxed) {
                return Err(LinkError::Protocol("one control stream a link (fault: the caller)".into()));
            }
            let (send, recv) = match self.connection.side() {
                Side::Client => control::open(&self.rt, &self.connection, self.handshake.clone()).await?,
                Side::Server => {
                    let (send, recv) = self.connection.accept_bi().await.map_err(error::lost)?;
                    (QuicControlSend::new(send), QuicControlRecv::new(recv))
                }
            };
            Ok((Box::new(send) as Box<dyn ControlSend>, Box::new(recv) as Box<dyn ControlRecv>))
        })
    }

    fn send_chunk(
        &self,
        header: Bytes,
        mut body: Vec<Bytes>,
        priority: i32,
    ) -> BoxFuture<'_, Result<(), LinkError>> {
        Box::pin(async move {
            self.handshake.clone().confirmed().await?;
            let stream = self.connection.open_uni().await.map_err(error::lost)?;
            self.silence.watch_sending(&self.rt, &self.connection, &self.acked);
            self.windows.follow(self.rt.now(), &self.connection);
            self.about.path.follow(&self.rt, &self.connection, &self.acked);
            let mut chunk = ChunkSend { stream, finished: false };
            if priority != 0 {
                // Fails only on a stream that is closed, which this one is not.
                let _ = chunk.stream.set_priority(priority);
            }
            body.insert(0, header);
            chunk.stream.write_all_chunks(&mut body).await.map_err(error::write)?;
            chunk.stream.finish().map_err(|closed| error::write(closed.into()))?;
            chunk.finished = true;
            Ok(())
        })
    }

    fn accept_chunk(&self) -> BoxFuture<'_, Result<Box<dyn ChunkRecv>, LinkError>> {
        Box::pin(async {
            let stream = self.connection.accept_uni().await.map_err(error::lost)?;
            self.silence_received.watch_receiving(&self.rt, &self.connection, &self.windows);
            self.windows.follow(self.rt.now(), &self.connection);
            Ok(Box::new(QuicChunkRecv { stream, ended: false }) as Box<dyn ChunkRecv>)
        })
    }

    fn closed(&self) -> BoxFuture<'_, LinkError> {
        Box::pin(async {
            let reason = self.connection.closed().await;
            // The next link may start from what this one has found, even if somebody still holds this one.
            self.about.path.end(&self.rt, &self.connection, &self.acked);
            error::lost(reason)
        })
    }

    fn close(&self, code: Code, reason: &str) {
        let end = (0..=REASON_MAX.min(reason.len())).rev().find(|end| reason.is_char_boundary(*end));
        self.connection.close(error::number(code), &reason.as_bytes()[..end.unwrap_or(0)]);
    }

    fn handshake_confirmed(&self) -> BoxFuture<'_, Result<(), LinkError>> {
        Box::pin(async { self.handshake.clone().confirmed().await })
    }

    fn trust(&self) {
        self.windows.trust(&self.connection, self.max_chunk_streams);
    }

    fn peer_certificates(&self) -> Option<Vec<Vec<u8>>> {
        let chain = self.connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
        Some(chain.iter().map(|der| der.to_vec()).collect())
    }
}

impl Handshake {
    pub(super) fn is_confirmed(&self) -> bool {
        match &self.0 {
            Progress::Done => true,
            Progress::Watched(state) => matches!(*state.borrow(), State::Confirmed { .. }),
        }
    }

    pub(super) async fn confirmed(&mut self) -> Result<(), LinkError> {
        self.outcome().await.map(|_| ())
    }

    /// Waits for the end of the handshake. False if it failed.
    pub(super) async fn early_data_rejected(&mut self) -> bool {
        self.outcome().await.unwrap_or(false)
    }

    async fn outcome(&mut self) -> Result<bool, LinkError> {
        let Progress::Watched(watched) = &mut self.0 else { return Ok(false) };
        match watched.wait_for(|state| !matches!(state, State::Running)).await.as_deref() {
            Ok(State::Confirmed { early_data_rejected }) => Ok(*early_data_rejected),
            Ok(State::Failed(error)) => Err(error.clone()),
            // The watching task ends without a word only when the executor shuts down.
            Ok(State::Running) | Err(_) => Err(LinkError::ClosedLocally),
        }
    }
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Progress::Done => f.write_str("Confirmed"),
            Progress::Watched(state) => state.borrow().fmt(f),
        }
    }
}

/// A chunk on its way out: reset on drop unless finished, as quinn would finish it.
struct ChunkSend {
    stream: SendStream,
    finished: bool,
}

impl Drop for ChunkSend {
    fn drop(&mut self) {
        if !self.finished {
            let _ = self.stream.reset(error::number(Code::Cancelled));
        }
    }
}

#[derive(Debug)]
struct QuicChunkRecv {
    stream: RecvStream,
    ended: bool,
}

impl ChunkRecv for QuicChunkRecv {
    fn read<'a>(&'a mut self, into: &'a mut BytesMut, max: usize) -> BoxFuture<'a, Result<usize, LinkError>> {
        Box::pin(async move {
            if into.capacity() == into.len() {
                into.reserve(max.min(READ_STEP));
            }
            // One call takes all packets that have arrived, up to the room there is.
            let read = self.stream.read_buf(&mut into.limit(max)).await;
            let read = read.map_err(|error| match error.downcast::<quinn::ReadError>() {
                Ok(error) => error::read(error),
                Err(other) => other.into(),
            });
            self.ended = !matches!(read, Ok(1..));
            read
        })
    }

    fn stop(&mut self, code: Code) {
        self.ended = true;
        // Fails only if the stream has ended by itself.
        let _ = self.stream.stop(error::number(code));
    }
}

impl Drop for QuicChunkRecv {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.stream.stop(error::number(Code::Cancelled));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_round_trip_is_one_that_can_be() {
        let ms = Duration::from_millis;
        let short = MinRtt::new();
        assert_eq!(short.update(INITIAL_RTT, INITIAL_RTT), INITIAL_RTT);
        assert_eq!(short.update(ms(50), ms(40)), ms(40));
        assert_eq!(short.update(ms(60), Duration::ZERO), ms(50), "no path takes no time");
        let long = MinRtt::new();
        assert_eq!(long.update(INITIAL_RTT, INITIAL_RTT), INITIAL_RTT, "nothing is measured yet");
        assert_eq!(long.update(ms(650), INITIAL_RTT), ms(650));
        assert_eq!(long.update(ms(600), INITIAL_RTT), ms(600));
        assert_eq!(long.update(ms(900), INITIAL_RTT), ms(600));
    }
}
