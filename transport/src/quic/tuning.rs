//! [`Tuning`]: the knobs of an endpoint and of the connections on it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use metra_core::bbr::{Params, Remembered};
use metra_core::limits::CHUNK_MAX;
use quinn::congestion::{BbrConfig, CubicConfig};
use quinn::{AckFrequencyConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

use super::acked::CountedConfig;
use super::acks;
use super::bbr::BbrFactory;
use super::paths::Paths;
use super::windows::START;

/// How an endpoint and its connections behave. The defaults are for bulk transfer on Internet paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// A link on which nothing is heard for this long is lost ([`crate::LinkError::TimedOut`]). The smaller of
    /// both sides' values counts.
    pub idle_timeout: Duration,
    /// How often an idle link says something. NATs forget UDP flows after 15 to 60 s; keep it at 15 s or less.
    pub keep_alive: Duration,
    /// Credit of one stream. Bytes. At least one chunk and its header, so that a chunk never waits for credit.
    pub stream_receive_window: u64,
    /// Credit of a connection at most: what may be in flight and unread. Bytes; the most memory that a peer can make one
    /// connection hold. It begins with 64 MiB and grows with the rate; 4 x bandwidth x RTT is full speed with some loss.
    pub receive_window: u64,
    /// What may be sent and not acknowledged, at most. Bytes; memory of the sender. Grows in the same way.
    pub send_window: u64,
    /// Chunks that a peer may have under way at a time.
    pub max_chunk_streams: u32,
    /// Largest datagram that path MTU discovery tries. Bytes of UDP payload. 1452 fits Ethernet with IPv6 or
    /// PPPoE headers. More (8952 on jumbo frames) is worth it only where the path is known: every size that
    /// does not fit costs up to three lost probes, and meanwhile packets stay small.
    pub mtu_upper_bound: u16,
    /// The same for peers on a loopback address. Packets of 9 to 16 KB take less than half the work of 1452
    /// bytes; beyond that it gets worse again, as segmentation offload then has nothing to join.
    pub mtu_upper_bound_loopback: u16,
    /// `SO_RCVBUF` asked for. Bytes; the system may grant less (`net.core.rmem_max`). What it grants is logged.
    pub socket_receive_buffer: usize,
    /// `SO_SNDBUF` asked for. Bytes.
    pub socket_send_buffer: usize,
    /// How rarely the peer is asked to acknowledge where the path is not known ([`Tuning::paths`]; where it is, as often as
    /// its rate and length ask for); `None` leaves it to RFC 9000 (every second packet).
    pub ack_frequency: Option<AckFrequency>,
    /// A packet is lost when this many later ones have been acknowledged. High, so that reordering is not taken
    /// for loss; a loss is still found after 9/8 of a round trip (RFC 9002 section 6.1.2).
    pub packet_threshold: u32,
    /// What decides how much may be in flight.
    pub congestion: Congestion,
    /// Where connections keep what they measure of their paths, and find what earlier ones have: then they do not start
    /// over. `None`: all start over. Paths within this host are not kept. Only [`Congestion::Bbr2`] knows how.
    pub paths: Option<Paths>,
    /// How datagrams reach the kernel.
    pub socket: SocketKind,
    /// A server with this many unfinished handshakes makes new clients show that they own their address (Retry,
    /// RFC 9000 section 8.1.2).
    pub retry_above: usize,
}

/// What the ACK Frequency extension asks of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AckFrequency {
    /// Packets that may arrive unacknowledged.
    pub threshold: u32,
    /// The longest that an acknowledgement may be held back.
    pub max_delay: Duration,
}

/// A congestion controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Congestion {
    /// CUBIC (RFC 9438). Backs off at every loss.
    Cubic,
    /// BBRv2 with pacing ([`metra_core::bbr`]).
    Bbr2,
    /// quinn's BBR. Withstands random loss, at the price of overfilling queues.
    Bbr,
}

/// How datagrams reach the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SocketKind {
    /// As the QUIC library hands them over, at most 10 datagrams a call; only oversized batches are split.
    Plain,
    /// Batches that follow one another are joined, up to what the kernel takes in one call. A quarter less work
    /// for the sender at 1452 bytes a datagram; `examples/loopback.rs` measures it.
    Coalesced,
}

/// The control stream, and room for one more.
pub(super) const BIDI_STREAMS: VarInt = VarInt::from_u32(2);

/// What is known of a path before it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Path {
    Network,
    Loopback,
}

impl Path {
    pub(super) fn to(peer: SocketAddr) -> Self {
        if peer.ip().to_canonical().is_loopback() { Path::Loopback } else { Path::Network }
    }
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(10),
            stream_receive_window: CHUNK_MAX as u64 + 64 * 1024,
            receive_window: 512 * 1024 * 1024,
            send_window: 512 * 1024 * 1024,
            max_chunk_streams: 1024,
            mtu_upper_bound: 1452,
            mtu_upper_bound_loopback: 16_000,
            socket_receive_buffer: 8 * 1024 * 1024,
            socket_send_buffer: 8 * 1024 * 1024,
            ack_frequency: Some(AckFrequency { threshold: 31, max_delay: Duration::from_millis(5) }),
            packet_threshold: 64,
            congestion: Congestion::Bbr2,
            paths: None,
            socket: SocketKind::Coalesced,
            retry_above: 64,
        }
    }
}

impl Tuning {
    /// What the connections to peers at `path` use.
    /// `seed` decides over the random choices of their controllers. With what is `known` of a path it is for a single
    /// connection.
    pub(super) fn transport(&self, path: Path, seed: u64, known: Option<Remembered>) -> TransportConfig {
        let mut config = TransportConfig::default();
        let idle = IdleTimeout::try_from(self.idle_timeout).unwrap_or(VarInt::MAX.into());
        let mut mtu = MtuDiscoveryConfig::default();
        mtu.upper_bound(match path {
            Path::Network => self.mtu_upper_bound,
            Path::Loopback => self.mtu_upper_bound_loopback,
        });
        config
            .max_idle_timeout(Some(idle))
            .keep_alive_interval(Some(self.keep_alive))
            .stream_receive_window(varint(self.stream_receive_window))
            .receive_window(varint(self.receive_window.min(START)))
            .send_window(self.send_window.min(START))
            // Chunks in order, each as early as possible, rather than all at the same pace.
            .send_fairness(false)
            .max_concurrent_uni_streams(self.max_chunk_streams.into())
            .max_concurrent_bidi_streams(BIDI_STREAMS)
            .mtu_discovery_config(Some(mtu))
            .packet_threshold(self.packet_threshold)
            // Not used: a peer may not make us buffer any.
            .datagram_receive_buffer_size(None);
        if let Some(ack) = self.ack_frequency {
            let packet = u64::from(self.mtu_upper_bound);
            let threshold = known.map_or(ack.threshold, |path| acks::threshold(&path, packet, ack.threshold));
            let mut frequency = AckFrequencyConfig::default();
            frequency
                .ack_eliciting_threshold(threshold.into())
                .max_ack_delay(Some(ack.max_delay))
                .reordering_threshold((self.packet_threshold.saturating_sub(1)).into());
            config.ack_frequency_config(Some(frequency));
        }
        match self.congestion {
            Congestion::Cubic => {
                let mut cubic = CubicConfig::default();
                if path == Path::Loopback {
                    // Ten packets, as RFC 9002 section 7.2 has it; the default is ten of 1200 bytes. One probe for
                    // the MTU would fill that, and quinn lets even the close of a refused link wait behind it.
                    cubic.initial_window(10 * u64::from(self.mtu_upper_bound_loopback));
                }
                config.congestion_controller_factory(Arc::new(CountedConfig::new(cubic)))
            }
            Congestion::Bbr2 => {
                // Ten packets, as below.
                let packet = match path {
                    Path::Network => u64::from(self.mtu_upper_bound),
                    Path::Loopback => u64::from(self.mtu_upper_bound_loopback),
                };
                let bbr = BbrFactory::new(Params::default(), 10 * packet, seed, known);
                config.congestion_controller_factory(Arc::new(CountedConfig::new(bbr)))
            }
            Congestion::Bbr => {
                let bbr = CountedConfig::new(BbrConfig::default());
                config.congestion_controller_factory(Arc::new(bbr))
            }
        };
        config
    }
}

/// Anything above the largest number of QUIC means "no limit".
pub(super) fn varint(value: u64) -> VarInt {
    VarInt::from_u64(value).unwrap_or(VarInt::MAX)
}
