//! quinn's errors in the seam's words.

use metra_core::code::Code;
use quinn::{ConnectError, ConnectionError, ReadError, StoppedError, TransportErrorCode, VarInt, WriteError};

use crate::link::LinkError;

/// The application error code of a code of MTP.
pub(super) fn number(code: Code) -> VarInt {
    VarInt::from_u64(code.number()).expect("codes of MTP are 16 bits")
}

fn code(number: VarInt) -> Code {
    Code::from_number(number.into_inner())
}

pub(super) fn lost(error: ConnectionError) -> LinkError {
    match error {
        ConnectionError::ApplicationClosed(close) => LinkError::ClosedByPeer {
            code: code(close.error_code),
            reason: String::from_utf8_lossy(&close.reason).into_owned(),
        },
        ConnectionError::ConnectionClosed(close) => {
            transport(close.error_code, format!("aborted by the peer: {close}"))
        }
        ConnectionError::TransportError(error) => transport(error.code, error.to_string()),
        ConnectionError::VersionMismatch => {
            LinkError::Protocol("the peer does not speak QUIC version 1".into())
        }
        ConnectionError::Reset => LinkError::Reset,
        ConnectionError::TimedOut => LinkError::TimedOut,
        ConnectionError::LocallyClosed => LinkError::ClosedLocally,
        ConnectionError::CidsExhausted => {
            LinkError::Io { kind: std::io::ErrorKind::OutOfMemory, message: "no connection ids left".into() }
        }
    }
}

/// RFC 9000 section 20.1: the codes that say more than "a rule was broken".
fn transport(code: TransportErrorCode, message: String) -> LinkError {
    match u64::from(code) {
        0x00 => LinkError::Reset,
        // Also what quinn does to a stream with too many holes, on a very lossy path.
        0x01 => LinkError::Internal(message),
        0x02 => LinkError::Refused,
        // CRYPTO_ERROR: a TLS alert; 120 is no_application_protocol.
        0x0178 => LinkError::NoProtocol(message),
        0x0100..=0x01ff => LinkError::Handshake(message),
        _ => LinkError::Protocol(message),
    }
}

pub(super) fn connect(error: ConnectError) -> LinkError {
    match error {
        ConnectError::EndpointStopping => LinkError::ClosedLocally,
        other => LinkError::Io { kind: std::io::ErrorKind::InvalidInput, message: other.to_string() },
    }
}

pub(super) fn write(error: WriteError) -> LinkError {
    match error {
        WriteError::Stopped(number) => LinkError::StreamStopped(code(number)),
        WriteError::ConnectionLost(error) => lost(error),
        WriteError::ClosedStream => {
            LinkError::Protocol("sent on a finished stream (fault: the caller)".into())
        }
        WriteError::ZeroRttRejected => early_data_rejected(),
    }
}

pub(super) fn read(error: ReadError) -> LinkError {
    match error {
        ReadError::Reset(number) => LinkError::StreamReset(code(number)),
        ReadError::ConnectionLost(error) => lost(error),
        ReadError::ClosedStream | ReadError::IllegalOrderedRead => {
            LinkError::Protocol("read from a stopped stream (fault: the caller)".into())
        }
        ReadError::ZeroRttRejected => early_data_rejected(),
    }
}

pub(super) fn stopped(error: StoppedError) -> LinkError {
    match error {
        StoppedError::ConnectionLost(error) => lost(error),
        StoppedError::ZeroRttRejected => early_data_rejected(),
    }
}

/// The caller asked for what cannot be.
pub(super) fn invalid(message: &str) -> LinkError {
    LinkError::Io { kind: std::io::ErrorKind::InvalidInput, message: message.into() }
}

/// The control stream handles a rejection itself, and nothing else is sent early: this is not seen outside.
fn early_data_rejected() -> LinkError {
    LinkError::Handshake("early data was rejected".into())
}
