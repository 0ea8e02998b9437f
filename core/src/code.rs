//! Codes that travel: why a connection, a job, a request or an entry was refused or ended.

use std::fmt;

/// A code of MTP. The numbers are on the wire (`docs/protocol.md`, section "Codes") and never change meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u16)]
pub enum Code {
    /// Nothing is wrong.
    Ok = 0x00,
    /// The peer broke the protocol: a frame that does not parse, or is not allowed now. Fault: the peer.
    Protocol = 0x01,
    /// Something failed here that should not have. Fault: the sender of the code.
    Internal = 0x02,
    /// No common version. Fault: neither.
    Version = 0x03,
    /// The credentials are wrong or missing. Fault: the client.
    Unauthenticated = 0x04,
    /// The credentials are right, the request is not allowed. Fault: the client.
    Denied = 0x05,
    /// Too many sessions, jobs or bytes at the moment; try later. Fault: neither.
    Busy = 0x06,
    /// A limit of the protocol or of the peer's configuration would be exceeded. Fault: the peer.
    Limit = 0x07,
    /// The peer shuts down; what is in flight is journaled; try again. Fault: neither.
    Draining = 0x08,
    /// The user ended it. Fault: neither.
    Cancelled = 0x09,
    /// A newer attempt at the same job has taken over. Fault: neither.
    Superseded = 0x0a,
    /// A deadline passed: handshake, idle. Fault: the peer or the path.
    Timeout = 0x0b,
    /// No such file or directory. Fault: the requester.
    NotFound = 0x10,
    /// The name cannot be used at the sink: `..`, absolute, NUL, too long, collides. Fault: the source.
    BadName = 0x11,
    /// It exists, and may not be overwritten. Fault: the requester.
    Exists = 0x12,
    /// Reading failed. Fault: the source's system.
    ReadFailed = 0x13,
    /// Writing failed. Fault: the sink's system.
    WriteFailed = 0x14,
    /// No space left at the sink; the job resumes after space is made. Fault: the sink's system.
    NoSpace = 0x15,
    /// The file changed while it was read, twice. Fault: whoever writes to it.
    Changed = 0x16,
    /// A chunk failed its hash on every attempt, or the root differs. Fault: the source or the path.
    Integrity = 0x17,
    /// This type of file is not carried (device, socket, FIFO). Fault: the requester.
    Unsupported = 0x18,
    /// A symbolic link that would leave the root. Fault: the source.
    LinkEscapes = 0x19,
    /// A directory is not empty, or a file is where a directory must be. Fault: the requester.
    Conflict = 0x1a,
}

impl Code {
    const ALL: [Code; 23] = [
        Code::Ok,
        Code::Protocol,
        Code::Internal,
        Code::Version,
        Code::Unauthenticated,
        Code::Denied,
        Code::Busy,
        Code::Limit,
        Code::Draining,
        Code::Cancelled,
        Code::Superseded,
        Code::Timeout,
        Code::NotFound,
        Code::BadName,
        Code::Exists,
        Code::ReadFailed,
        Code::WriteFailed,
        Code::NoSpace,
        Code::Changed,
        Code::Integrity,
        Code::Unsupported,
        Code::LinkEscapes,
        Code::Conflict,
    ];

    /// All codes, in the order of their numbers.
    pub fn all() -> &'static [Code] {
        &Self::ALL
    }

    /// The number on the wire.
    pub fn number(self) -> u64 {
        self as u64
    }

    /// The code of a number; a number that is not known is [`Code::Internal`], so that newer peers are understood.
    pub fn from_number(number: u64) -> Self {
        Self::ALL.into_iter().find(|c| c.number() == number).unwrap_or(Code::Internal)
    }

    /// Whether the same request may succeed later without anything being changed by the user.
    pub fn is_retryable(self) -> bool {
        matches!(self, Code::Busy | Code::Draining | Code::Timeout | Code::Superseded)
    }

    /// The name used in JSON, logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Code::Ok => "ok",
            Code::Protocol => "protocol",
            Code::Internal => "internal",
            Code::Version => "version",
            Code::Unauthenticated => "unauthenticated",
            Code::Denied => "denied",
            Code::Busy => "busy",
            Code::Limit => "limit",
            Code::Draining => "draining",
            Code::Cancelled => "cancelled",
            Code::Superseded => "superseded",
            Code::Timeout => "timeout",
            Code::NotFound => "not_found",
            Code::BadName => "bad_name",
            Code::Exists => "exists",
            Code::ReadFailed => "read_failed",
            Code::WriteFailed => "write_failed",
            Code::NoSpace => "no_space",
            Code::Changed => "changed",
            Code::Integrity => "integrity",
            Code::Unsupported => "unsupported",
            Code::LinkEscapes => "link_escapes",
            Code::Conflict => "conflict",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
