//! What goes wrong for a user of the client.

use metra_core::code::Code;
use metra_fallback::ladder::Tried;
use metra_session::JobError;
use metra_transport::LinkError;

/// Why something could not be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ClientError {
    /// Why, for programs.
    pub code: Code,
    /// Why, for people.
    pub message: String,
    /// Whether the same call may succeed later without anything being changed.
    pub retryable: bool,
    /// Where the gateway could not be reached: what came of each way to it, and whether that leads through a proxy.
    pub ladder: Vec<(Tried, bool)>,
}

impl ClientError {
    /// An error with this code.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retryable: code.is_retryable(), ladder: Vec::new() }
    }

    pub(crate) fn link(error: &LinkError) -> Self {
        let code = match error {
            LinkError::ClosedByPeer { code, .. } => *code,
            LinkError::TimedOut => Code::Timeout,
            LinkError::Handshake(_) => Code::Unauthenticated,
            LinkError::Protocol(_) | LinkError::NoProtocol(_) => Code::Protocol,
            _ => Code::Internal,
        };
        let message = match error {
            LinkError::ClosedByPeer { code, reason } if reason.is_empty() => {
                format!("the gateway says: {code}")
            }
            LinkError::ClosedByPeer { reason, .. } => format!("the gateway says: {reason}"),
            LinkError::TimedOut => "the gateway does not answer".to_owned(),
            LinkError::Handshake(text) => {
                metra_certs::Untrusted::sentence_in(text).unwrap_or(text).to_owned()
            }
            LinkError::NoProtocol(text) => format!("the other end does not speak MTP (ALPN): {text}"),
            other => other.to_string(),
        };
        Self { retryable: error.is_retryable(), ..Self::new(code, message) }
    }
}

impl From<JobError> for ClientError {
    fn from(error: JobError) -> Self {
        let message =
            if error.by_peer { format!("the gateway says: {}", error.reason) } else { error.reason };
        Self::new(error.code, message)
    }
}

impl From<metra_certs::Error> for ClientError {
    fn from(error: metra_certs::Error) -> Self {
        Self { retryable: false, ..Self::new(Code::Internal, error.to_string()) }
    }
}
