//! The seam: what a session needs of a connection, whatever carries it.
//!
//! Non-goals: framing (control streams carry bytes, in pieces of any size), choosing between links, and
//! recovery: a link that is lost stays lost.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use metra_core::code::Code;
use metra_core::rate::RatePolicy;

/// The futures of the seam. Boxed, so that [`Link`] is object safe; one allocation a call is small against a
/// chunk.
pub type BoxFuture<'a, T> = futures_util::future::BoxFuture<'a, T>;

/// The two halves of a control stream.
pub type ControlStream = (Box<dyn ControlSend>, Box<dyn ControlRecv>);

/// One connection that carries part of a session.
///
/// All methods may be called from several tasks at a time. When the last handle to a link, its streams
/// included, is dropped, the link closes with [`Code::Ok`].
pub trait Link: Send + Sync + fmt::Debug + 'static {
    /// What carries it.
    fn kind(&self) -> LinkKind;

    /// The peer's address now; it changes when the peer migrates.
    fn peer(&self) -> SocketAddr;

    /// Its name within this process.
    fn id(&self) -> LinkId;

    /// What has been measured so far.
    fn stats(&self) -> LinkStats;

    /// Smoothed round-trip time: [`LinkStats::rtt`], for less.
    fn rtt(&self) -> Duration {
        self.stats().rtt
    }

    /// Shares the path with others as `rate` says from now on, in what this side sends, also after a migration.
    ///
    /// `false` if this link cannot do that: it goes on as it was.
    fn set_rate(&self, rate: RatePolicy) -> bool;

    /// Sends no faster than this for the moment, bits per second of what the transport sends, because somebody divides the path
    /// among its links and this is more than this one's part; `None`: as fast as [`Link::set_rate`] says. A link whose
    /// pacing is not its own goes on as it was.
    fn set_pace(&self, pace: Option<u64>) {
        let _ = pace;
    }

    /// The control stream: the client opens it, the server waits for it.
    ///
    /// Before the handshake is confirmed (see [`Link::handshake_confirmed`]) only the first
    /// [`ControlSend::send`] goes out, as early data that an attacker may replay; so the first message must be
    /// safe to replay. All later ones wait. If the server rejects early data the first message is sent again,
    /// unseen by the caller.
    ///
    /// # Errors
    /// [`LinkError::Protocol`] on the second call (fault: the caller); else why the link is lost.
    fn control(&self) -> BoxFuture<'_, Result<ControlStream, LinkError>>;

    /// Sends one chunk, `header` and then `body`, on a stream of its own. Resolves when the transport has taken
    /// everything, which is when there is room in its send window; not when it has arrived. Of chunks that
    /// wait, those with the highest `priority` go first. Waits for the handshake, as chunks are not safe to
    /// replay.
    ///
    /// Dropping the future resets the stream: the peer sees [`LinkError::StreamReset`], never an end.
    ///
    /// # Errors
    /// [`LinkError::StreamStopped`] if the peer does not want this chunk; else why the link is lost.
    fn send_chunk(
        &self,
        header: Bytes,
        body: Vec<Bytes>,
        priority: i32,
    ) -> BoxFuture<'_, Result<(), LinkError>>;

    /// The next chunk that the peer has begun to send. Dropping the future loses nothing.
    ///
    /// # Errors
    /// Why the link is lost.
    fn accept_chunk(&self) -> BoxFuture<'_, Result<Box<dyn ChunkRecv>, LinkError>>;

    /// Resolves when the link is lost or closed, with why.
    fn closed(&self) -> BoxFuture<'_, LinkError>;

    /// Closes the link now. What the peer has not received yet may be lost: end the protocol first. `reason` is
    /// for people; it is cut at 1 KiB. Later calls do nothing.
    fn close(&self, code: Code, reason: &str);

    /// Resolves when what is read cannot be a replay any more and the peer's certificate is known; at once if
    /// that is so already. At a server nothing but the first message may be acted on before.
    ///
    /// # Errors
    /// Why the handshake failed.
    fn handshake_confirmed(&self) -> BoxFuture<'_, Result<(), LinkError>>;

    /// The peer is known, and may use what a link may use. At a server, it can make this side hold but little before;
    /// a client trusts from the start.
    fn trust(&self) {}

    /// The peer's certificates in DER, its own first; `None` if it showed none, or has not yet
    /// (see [`Link::handshake_confirmed`]).
    fn peer_certificates(&self) -> Option<Vec<Vec<u8>>>;

    /// Whether the certificate that a client was shown is another than the gateway's own, by what both sides say: then somebody
    /// in between reads along. `None` where nothing is said of it, or not yet.
    fn is_inspected(&self) -> Option<bool> {
        None
    }
}

/// The sending half of a control stream. Dropped without [`ControlSend::finish`] it is reset.
pub trait ControlSend: Send + fmt::Debug + 'static {
    /// Sends all of `bytes`; waits while the transport has no room. If the future is dropped, a part may have
    /// been sent: nothing sensible can follow.
    ///
    /// # Errors
    /// Why the stream or the link is lost.
    fn send(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), LinkError>>;

    /// Ends the stream. Resolves when the peer has received everything.
    ///
    /// # Errors
    /// Why the stream or the link is lost.
    fn finish(&mut self) -> BoxFuture<'_, Result<(), LinkError>>;
}

/// The receiving half of a control stream.
pub trait ControlRecv: Send + fmt::Debug + 'static {
    /// The next bytes, in pieces of the transport's choosing and never empty; `None` when the peer has
    /// finished. Dropping the future loses nothing.
    ///
    /// # Errors
    /// Why the stream or the link is lost.
    fn recv(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, LinkError>>;
}

/// A chunk that arrives. Dropped before its end it is stopped with [`Code::Cancelled`].
pub trait ChunkRecv: Send + fmt::Debug + 'static {
    /// Appends what has arrived to `into`, at most `max` bytes (at least 1), waiting for the first. Gives the
    /// number appended; 0 means that the peer has finished. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`LinkError::StreamReset`] if the peer gave up on this chunk; else why the link is lost.
    fn read<'a>(&'a mut self, into: &'a mut BytesMut, max: usize) -> BoxFuture<'a, Result<usize, LinkError>>;

    /// Tells the peer that the rest is not wanted.
    fn stop(&mut self, code: Code);
}

/// What carries a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LinkKind {
    /// Native QUIC.
    Quic,
    /// QUIC within HTTP: CONNECT-UDP (RFC 9298).
    Masque,
    /// TLS over TCP.
    Tls,
    /// WebSocket over TLS.
    WebSocket,
}

impl LinkKind {
    /// The name used in JSON, logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            LinkKind::Quic => "quic",
            LinkKind::Masque => "masque",
            LinkKind::Tls => "tls",
            LinkKind::WebSocket => "ws",
        }
    }

    /// Whether it is one byte stream, and not QUIC.
    pub fn is_stream(self) -> bool {
        matches!(self, LinkKind::Tls | LinkKind::WebSocket)
    }
}

impl fmt::Display for LinkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Names a link within this process; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u64);

impl LinkId {
    /// The next unused name.
    pub fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a link has measured of its path. Counters run from the start of the link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Smallest round-trip time seen.
    pub min_rtt: Duration,
    /// Congestion window. Bytes.
    pub cwnd: u64,
    /// Largest datagram that the path is known to carry. Bytes of UDP payload.
    pub mtu: u16,
    /// Sent, headers of the transport included, those of UDP and IP not. Bytes.
    pub sent_bytes: u64,
    /// Received, headers of the transport included, those of UDP and IP not. Bytes.
    pub received_bytes: u64,
    /// Of what was sent, packets that the peer has acknowledged, but for those that only acknowledge. Bytes.
    pub acked_bytes: u64,
    /// Frames sent that the peer must acknowledge (RFC 9000 section 13.2.1). 0 where only the transport itself knows.
    pub eliciting_frames: u64,
    /// Datagrams sent.
    pub sent_datagrams: u64,
    /// Datagrams received.
    pub received_datagrams: u64,
    /// Packets sent.
    pub sent_packets: u64,
    /// Packets taken for lost.
    pub lost_packets: u64,
    /// Bytes of packets taken for lost.
    pub lost_bytes: u64,
    /// Datagrams that were sent to find out whether the path takes longer ones, and were lost. They are not in
    /// [`LinkStats::lost_packets`].
    pub lost_mtu_probes: u64,
    /// How often the congestion controller was told of congestion.
    pub congestion_events: u64,
}

/// Why a link, or one stream of it, ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The peer closed the link. Fault: what the code says.
    #[error("closed by the peer: {code}: {reason}")]
    ClosedByPeer {
        /// Why.
        code: Code,
        /// For people.
        reason: String,
    },
    /// This side closed the link. Fault: nobody.
    #[error("closed by this side")]
    ClosedLocally,
    /// Nothing was heard for the idle timeout. Fault: the path, or the peer is gone.
    #[error("timed out")]
    TimedOut,
    /// The server takes no new links now. Fault: nobody.
    #[error("refused by the server")]
    Refused,
    /// The peer does not know this link any more: it was restarted. Fault: the peer.
    #[error("reset by the peer")]
    Reset,
    /// The peer gave up on this stream; the link lives. Fault: what the code says.
    #[error("stream reset by the peer: {0}")]
    StreamReset(Code),
    /// The peer does not want the rest of this stream; the link lives. Fault: what the code says.
    #[error("stream stopped by the peer: {0}")]
    StreamStopped(Code),
    /// TLS failed: certificate, version. Fault: configuration of either side, or somebody in between.
    #[error("TLS handshake failed: {0}")]
    Handshake(String),
    /// The other end does not speak MTP: it takes none of the protocol names offered (ALPN). Fault: it is no gateway, or
    /// somebody in between answers for it.
    #[error("no common protocol (ALPN): {0}")]
    NoProtocol(String),
    /// A rule of the transport was broken. Fault: the peer, or the caller where the text says so.
    #[error("protocol violation: {0}")]
    Protocol(String),
    /// The transport gave up over something that broke no rule. Fault: either side's software, or a path too
    /// lossy for it.
    #[error("the transport failed: {0}")]
    Internal(String),
    /// The operating system failed, or the address or name cannot be used. Fault: this system or its
    /// configuration.
    #[error("{message}")]
    Io {
        /// What kind of failure.
        kind: io::ErrorKind,
        /// For people.
        message: String,
    },
}

impl LinkError {
    /// Whether a new link to the same peer may succeed without anything being changed by the user. For an error
    /// of one stream: whether the same chunk may be sent again on this link.
    pub fn is_retryable(&self) -> bool {
        match self {
            LinkError::TimedOut | LinkError::Refused | LinkError::Reset | LinkError::Internal(_) => true,
            // Ok is what a peer's process says when it just goes away.
            LinkError::ClosedByPeer { code, .. } => *code == Code::Ok || code.is_retryable(),
            LinkError::StreamReset(_) => true,
            LinkError::Io { kind, .. } => *kind != io::ErrorKind::InvalidInput,
            LinkError::StreamStopped(code) => code.is_retryable(),
            LinkError::ClosedLocally
            | LinkError::Handshake(_)
            | LinkError::NoProtocol(_)
            | LinkError::Protocol(_) => false,
        }
    }

    /// Whether only one stream ended, and the link lives on.
    pub fn is_stream(&self) -> bool {
        matches!(self, LinkError::StreamReset(_) | LinkError::StreamStopped(_))
    }
}

impl From<io::Error> for LinkError {
    fn from(error: io::Error) -> Self {
        LinkError::Io { kind: error.kind(), message: error.to_string() }
    }
}
