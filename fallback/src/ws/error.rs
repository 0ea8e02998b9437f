//! Why there is no WebSocket, or none any more.

use std::io;

/// Why a WebSocket was not opened, or ended other than by a close frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WsError {
    /// The answer has a status of HTTP that opens no WebSocket. Fault: a proxy or filter in between, the path
    /// is not the gateway's, or the gateway takes nothing now (429, 502, 503, 504).
    #[error("answered with status {status}{by}: WebSocket is not let through, or this is no gateway")]
    Refused {
        /// The status.
        status: u16,
        /// Who says so, as in ` by "squid"`; empty if the answer does not tell.
        by: String,
    },
    /// The answer is not HTTP, or not the version that TLS agreed on. Fault: something in between, or the
    /// host serves something else.
    #[error("the answer is not HTTP: {0}")]
    NotHttp(String),
    /// The server speaks HTTP/2 without WebSocket (RFC 8441 section 3). Fault: nobody; over HTTP/1.1 it may
    /// go.
    #[error("the server offers no WebSocket over HTTP/2; try HTTP/1.1")]
    NoExtendedConnect,
    /// A WebSocket was opened, but not the one asked for (RFC 6455 section 4.1). Fault: the server, or a
    /// cache or filter in between.
    #[error("the answer opens another WebSocket than asked for: {0}")]
    Handshake(&'static str),
    /// The connection ended before there was a WebSocket. Fault: something in between that drops what it does
    /// not know, or the path.
    #[error("the connection ended before the WebSocket was open")]
    Unanswered,
    /// Host or path cannot stand in a request. Fault: the caller.
    #[error("not usable in a request: {0}")]
    Request(String),
    /// A rule of framing was broken (RFC 6455 section 5). Fault: the peer, or something in between that
    /// changes what passes.
    #[error("WebSocket protocol violation: {0}")]
    Protocol(&'static str),
    /// A text message arrived; MTP is binary. Fault: the peer.
    #[error("a text message, where only binary ones are known")]
    Text,
    /// A message is longer than allowed. Fault: the peer.
    #[error("a message of more than {limit} bytes")]
    TooLong {
        /// What is allowed. Bytes.
        limit: u64,
    },
    /// The connection ended without a close frame. Fault: the path, or the peer is gone.
    #[error("the connection ended without a close frame")]
    Truncated,
    /// The peer closed for another reason than being done. Fault: what the code says (RFC 6455 section
    /// 7.4.1).
    #[error("closed by the peer: {code}: {reason}")]
    Closed {
        /// Status code of the close frame.
        code: u16,
        /// For people.
        reason: String,
    },
    /// The connection below failed. Fault: the path, or this system.
    #[error("{message}")]
    Io {
        /// What kind of failure.
        kind: io::ErrorKind,
        /// For people.
        message: String,
    },
}

impl WsError {
    /// Whether the same again may succeed without anything being changed.
    pub fn is_retryable(&self) -> bool {
        match self {
            WsError::Refused { status, .. } => matches!(status, 429 | 502 | 503 | 504),
            // Service restart, try again later, and what a process says that goes away (RFC 6455 section
            // 7.4.1 and the registry it founds).
            WsError::Closed { code, .. } => matches!(code, 1001 | 1011..=1014),
            WsError::Unanswered | WsError::Truncated => true,
            WsError::Io { kind, .. } => *kind != io::ErrorKind::InvalidInput,
            WsError::NotHttp(_)
            | WsError::NoExtendedConnect
            | WsError::Handshake(_)
            | WsError::Request(_)
            | WsError::Protocol(_)
            | WsError::Text
            | WsError::TooLong { .. } => false,
        }
    }

    /// Whether this way does not lead to the gateway (blocked, filtered, or nobody there), so that another is
    /// to be tried.
    pub fn is_not_let_through(&self) -> bool {
        matches!(
            self,
            WsError::Refused { .. }
                | WsError::NotHttp(_)
                | WsError::NoExtendedConnect
                | WsError::Handshake(_)
                | WsError::Unanswered
        )
    }

    /// The status that a close frame gives for this error, where RFC 6455 section 7.4.1 has one.
    pub(super) fn close_code(&self) -> Option<u16> {
        match self {
            WsError::Protocol(_) => Some(1002),
            WsError::Text => Some(1003),
            WsError::TooLong { .. } => Some(1009),
            _ => None,
        }
    }

    fn kind(&self) -> io::ErrorKind {
        match self {
            WsError::Truncated | WsError::Unanswered => io::ErrorKind::UnexpectedEof,
            WsError::Closed { .. } => io::ErrorKind::ConnectionAborted,
            WsError::Refused { .. } | WsError::NoExtendedConnect => io::ErrorKind::ConnectionRefused,
            WsError::Request(_) => io::ErrorKind::InvalidInput,
            WsError::Io { kind, .. } => *kind,
            WsError::NotHttp(_)
            | WsError::Handshake(_)
            | WsError::Protocol(_)
            | WsError::Text
            | WsError::TooLong { .. } => io::ErrorKind::InvalidData,
        }
    }
}

impl From<WsError> for io::Error {
    fn from(error: WsError) -> Self {
        io::Error::new(error.kind(), error)
    }
}

impl From<io::Error> for WsError {
    fn from(error: io::Error) -> Self {
        match error.get_ref().and_then(|e| e.downcast_ref::<WsError>()) {
            Some(own) => own.clone(),
            None => WsError::Io { kind: error.kind(), message: error.to_string() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_comes_back_out_of_io() {
        for error in [WsError::Text, WsError::Truncated, WsError::TooLong { limit: 7 }] {
            assert_eq!(WsError::from(io::Error::from(error.clone())), error);
        }
        let io = io::Error::new(io::ErrorKind::ConnectionReset, "gone");
        assert!(WsError::from(io).is_retryable());
    }

    #[test]
    fn what_is_not_let_through_and_what_is_worth_another_try() {
        let refused = |status| WsError::Refused { status, by: String::new() };
        assert!(refused(403).is_not_let_through() && !refused(403).is_retryable());
        assert!(refused(503).is_not_let_through() && refused(503).is_retryable());
        assert!(!WsError::Truncated.is_not_let_through() && WsError::Truncated.is_retryable());
        assert!(!WsError::Text.is_not_let_through() && !WsError::Text.is_retryable());
    }
}
