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
use super::windows::{FROM_STRANGERS, START, STREAMS_OF_STRANGERS};

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
    /// Largest datagram that path MTU discovery tries. Bytes of UDP payload. Never more than the interfaces of this machine
    /// take: 1452 on Ethernet, 8952 with jumbo frames (9000 bytes less the headers of IPv6 and UDP). A size that the
    /// path does not take costs three lost probes, one after the other, which say nothing of congestion. With jumbo frames
    /// here and 1500 bytes on the way that is 12 until packets grow from 1200 bytes, and 21 in all, until 1441 bytes (IPv6)
    /// or 1470 (IPv4) are found.
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

/// DATAGRAM frames of a connection that wait to be read, and as many that wait to be sent. Bytes; 2 ms at 8 Gbit/s.
pub const DATAGRAM_BUFFER: usize = 2 << 20;

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
            mtu_upper_bound: 8952,
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
    /// As [`transport`](Self::transport), of a server: its peers are strangers at first.
    pub(super) fn server_transport(
        &self,
        path: Path,
        interface: Option<u32>,
        seed: u64,
        known: Option<Remembered>,
    ) -> TransportConfig {
        let mut config = self.transport(path, interface, seed, known);
        config
            .receive_window(varint(self.receive_window.min(FROM_STRANGERS)))
            .max_concurrent_uni_streams(self.max_chunk_streams.min(STREAMS_OF_STRANGERS).into());
        config
    }

    /// What the connections to peers at `path` use. `interface` is the longest IP packet that leaves this machine, in
    /// bytes; `seed` decides over the random choices of their controllers. With what is `known` of a path it is for a
    /// single connection.
    pub(super) fn transport(
        &self,
        path: Path,
        interface: Option<u32>,
        seed: u64,
        known: Option<Remembered>,
    ) -> TransportConfig {
        let mut config = TransportConfig::default();
        let idle = IdleTimeout::try_from(self.idle_timeout).unwrap_or(VarInt::MAX.into());
        let mut mtu = MtuDiscoveryConfig::default();
        let largest = self.largest_datagram(path, interface);
        mtu.upper_bound(largest);
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
            // For tunnels in HTTP/3 (RFC 9297), which share the socket and so these settings with MTP. All that a peer
            // can make a connection hold is this, whoever reads: when it is full the oldest are dropped.
            .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER))
            .datagram_send_buffer_size(DATAGRAM_BUFFER);
        if let Some(ack) = self.ack_frequency {
            // Of packets that turn out to be shorter, acknowledgements are asked for more often than they need be.
            let packet = u64::from(largest);
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
                    cubic.initial_window(initial_window(path, largest));
                }
                config.congestion_controller_factory(Arc::new(CountedConfig::new(cubic)))
            }
            Congestion::Bbr2 => {
                let window = initial_window(path, largest);
                let bbr = BbrFactory::new(Params::default(), window, largest, seed, known);
                config.congestion_controller_factory(Arc::new(CountedConfig::new(bbr)))
            }
            Congestion::Bbr => {
                let bbr = CountedConfig::new(BbrConfig::default());
                config.congestion_controller_factory(Arc::new(bbr))
            }
        };
        config
    }

    /// The bound of path MTU discovery. Bytes of UDP payload.
    fn largest_datagram(&self, path: Path, interface: Option<u32>) -> u16 {
        match path {
            Path::Loopback => self.mtu_upper_bound_loopback,
            Path::Network => {
                let payload = interface.unwrap_or(ETHERNET).saturating_sub(HEADERS);
                self.mtu_upper_bound.min(u16::try_from(payload).unwrap_or(u16::MAX)).max(DATAGRAM_MIN)
            }
        }
    }
}

/// What may be sent before anything is known of the path: ten packets, or two where that is more than 14,720 bytes
/// (RFC 9002 section 7.2). On loopback always ten: one probe for the MTU would fill less, and quinn lets even the close of a
/// refused link wait behind it. Bytes.
fn initial_window(path: Path, largest: u16) -> u64 {
    let largest = u64::from(largest);
    match path {
        Path::Network => (10 * largest).min((2 * largest).max(14_720)),
        Path::Loopback => 10 * largest,
    }
}

/// The longest IP packet of interfaces of which nothing is known. Bytes.
const ETHERNET: u32 = 1500;
/// Headers of IPv6 (RFC 8200 section 3) and UDP. Bytes.
const HEADERS: u32 = 48;
/// What every path of QUIC takes (RFC 9000 section 14). Bytes of UDP payload.
const DATAGRAM_MIN: u16 = 1200;

/// Anything above the largest number of QUIC means "no limit".
pub(super) fn varint(value: u64) -> VarInt {
    VarInt::from_u64(value).unwrap_or(VarInt::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_are_no_larger_than_interfaces_take() {
        let tuning = Tuning::default();
        let network = |interface| tuning.largest_datagram(Path::Network, interface);
        assert_eq!(network(None), 1452);
        assert_eq!([1500, 9000, 9001, 65_520].map(|mtu| network(Some(mtu))), [1452, 8952, 8952, 8952]);
        assert_eq!([0, 576, 1280, 1400].map(|mtu| network(Some(mtu))), [1200, 1200, 1232, 1352]);
        let careful = Tuning { mtu_upper_bound: 1300, ..Tuning::default() };
        assert_eq!(careful.largest_datagram(Path::Network, Some(9000)), 1300);
        assert_eq!(tuning.largest_datagram(Path::Loopback, Some(1500)), 16_000);
    }

    #[test]
    fn the_initial_window_is_that_of_the_rfc() {
        assert_eq!(
            [1200, 1452, 8952].map(|mtu| initial_window(Path::Network, mtu)),
            [12_000, 14_520, 17_904]
        );
        assert_eq!(initial_window(Path::Loopback, 16_000), 160_000);
    }
}
