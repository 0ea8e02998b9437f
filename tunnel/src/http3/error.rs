//! Why something of HTTP/3 failed, and the codes that peers are told.

use h3::error::{ConnectionError, LocalError, StreamError};
use h3::quic::ConnectionErrorIncoming;
use quinn::VarInt;

/// Why a connection or a request ended before its time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Http3Error {
    /// Something did not arrive in time, or ran longer than the drain allows. Fault: the peer or the path.
    #[error("the peer was too slow")]
    TimedOut,
    /// What the peer sent breaks a rule of HTTP/3. Fault: the peer.
    #[error("not HTTP/3: {0}")]
    Protocol(String),
    /// The connection ended. Fault: the peer or the path.
    #[error("the connection ended: {0}")]
    Lost(String),
    /// The peer gave up on this request or answer; the connection goes on. The number is an error code of RFC 9114 section
    /// 8.1. Fault: who knows.
    #[error("the peer reset the stream with code {0:#x}")]
    Reset(u64),
    /// The peer is about to end the connection, and did not take the request: it may be sent over another connection.
    /// Fault: nobody.
    #[error("the peer takes no more requests")]
    Draining,
    /// The peer does not do what the request needs: extended CONNECT. Fault: nobody.
    #[error("not supported by the peer: {0}")]
    Unsupported(&'static str),
    /// What was asked for cannot be sent. Fault: the caller.
    #[error("invalid request: {0}")]
    Invalid(&'static str),
}

impl Http3Error {
    /// Whether the request was not processed for certain, so that sending it again over another connection is safe.
    pub fn is_unprocessed(&self) -> bool {
        // RFC 9114 section 4.1.1.
        matches!(self, Self::Draining | Self::Unsupported(_) | Self::Invalid(_))
            || *self == Self::Reset(REQUEST_REJECTED)
    }
}

impl From<ConnectionError> for Http3Error {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::Timeout => Self::TimedOut,
            ConnectionError::Local { error: LocalError::Application { code, reason, .. } } => {
                Self::Protocol(format!("{reason} ({code})"))
            }
            ConnectionError::Remote(ConnectionErrorIncoming::Timeout) => Self::TimedOut,
            other => Self::Lost(other.to_string()),
        }
    }
}

impl From<StreamError> for Http3Error {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::ConnectionError(error) => error.into(),
            StreamError::RemoteTerminate { code } => Self::Reset(code.value()),
            StreamError::RemoteClosing => Self::Draining,
            StreamError::HeaderTooBig { .. } => Self::Protocol("a field section is too large".into()),
            other => Self::Protocol(other.to_string()),
        }
    }
}

impl From<quinn::ConnectionError> for Http3Error {
    fn from(error: quinn::ConnectionError) -> Self {
        match error {
            quinn::ConnectionError::TimedOut => Self::TimedOut,
            other => Self::Lost(other.to_string()),
        }
    }
}

impl From<quinn::WriteError> for Http3Error {
    fn from(error: quinn::WriteError) -> Self {
        match error {
            quinn::WriteError::Stopped(code) => Self::Reset(code.into_inner()),
            quinn::WriteError::ConnectionLost(error) => error.into(),
            other => Self::Lost(other.to_string()),
        }
    }
}

impl From<Http3Error> for std::io::Error {
    fn from(error: Http3Error) -> Self {
        use std::io::ErrorKind;
        let kind = match error {
            Http3Error::TimedOut => ErrorKind::TimedOut,
            Http3Error::Protocol(_) => ErrorKind::InvalidData,
            Http3Error::Reset(_) => ErrorKind::ConnectionReset,
            Http3Error::Lost(_) | Http3Error::Draining => ErrorKind::ConnectionAborted,
            Http3Error::Unsupported(_) => ErrorKind::Unsupported,
            Http3Error::Invalid(_) => ErrorKind::InvalidInput,
        };
        std::io::Error::new(kind, error)
    }
}

/// A code, as QUIC wants it.
pub(super) fn number(code: u64) -> VarInt {
    VarInt::from_u64(code).unwrap_or(VarInt::MAX)
}

// RFC 9297 section 5.2, RFC 9114 section 8.1.
pub(super) use crate::proto::H3_MESSAGE_ERROR as MESSAGE_ERROR;
pub(super) use crate::proto::datagram::H3_DATAGRAM_ERROR as DATAGRAM_ERROR;
pub(super) const NO_ERROR: u64 = 0x100;
pub(super) const INTERNAL_ERROR: u64 = 0x102;
pub(super) const FRAME_UNEXPECTED: u64 = 0x105;
pub(super) const FRAME_ERROR: u64 = 0x106;
pub(super) const EXCESSIVE_LOAD: u64 = 0x107;
pub(super) const ID_ERROR: u64 = 0x108;
pub(super) const SETTINGS_ERROR: u64 = 0x109;
pub(super) const REQUEST_REJECTED: u64 = 0x10b;
pub(super) const REQUEST_CANCELLED: u64 = 0x10c;
pub(super) const CONNECT_ERROR: u64 = 0x10f;
