//! What came of asking.

use std::io;

use crate::head::{Head, printable};

/// What a service says of a file.
#[derive(Debug)]
pub enum Outcome {
    /// It has nothing against it.
    Clean,
    /// It does not let it pass.
    Blocked {
        /// The name of what was found if the service gave it, else the status of its answer.
        what: String,
        /// How the service said so.
        why: String,
    },
    /// It would let another file pass in its place, which is not done here: to be taken as blocked.
    Modified {
        /// How the service said so.
        why: String,
    },
    /// There is no answer.
    Failed(IcapError),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum IcapError {
    /// The service cannot be reached. Fault: its machine, or the configuration.
    #[error("cannot be reached: {0}")]
    Connect(#[source] io::Error),
    /// The service could not be reached a moment ago, and was not tried again; why. Fault: as [`Connect`](Self::Connect).
    #[error("{0} (a moment ago)")]
    Down(String),
    /// The connection broke. Fault: the service or the path.
    #[error("the connection broke: {0}")]
    Broken(#[source] io::Error),
    /// The service closed the connection before it had answered. Fault: the service.
    #[error("closed the connection without an answer")]
    Closed,
    /// It took too long; what did. Fault: the service or the path.
    #[error("took too long: {0}")]
    Timeout(&'static str),
    /// It does not speak ICAP as it should. Fault: the service.
    #[error("does not follow the protocol: {0}")]
    Protocol(&'static str),
    /// It refused with this status. Fault: the service, or the configuration (404: no such service).
    #[error("answered {status} {reason}")]
    Status {
        /// 3 digits.
        status: u16,
        /// Printable, possibly empty.
        reason: String,
    },
    /// The service does not look at what is sent (no REQMOD among its methods). Fault: the configuration.
    #[error("does not offer REQMOD")]
    NoReqmod,
    /// The file could not be read. Fault: this system.
    #[error("the file could not be read: {0}")]
    Content(#[source] io::Error),
}

/// What a service says to have found, in the headers that are in use for it: `X-Infection-Found` (draft-stecher-icap-
/// subid), `X-Virus-ID`, `X-Violations-Found`.
pub(crate) fn infection(head: &Head) -> Option<String> {
    if let Some(value) = head.header("x-infection-found") {
        let threat = value.split(';').find_map(|part| part.trim().strip_prefix("Threat="));
        return Some(or(printable(threat.unwrap_or(value)), "an infection"));
    }
    if let Some(value) = head.header("x-virus-id").or_else(|| head.header("x-virus-name")) {
        return Some(or(printable(value), "an infection"));
    }
    head.header("x-violations-found").map(|value| or(printable(value), "a violation"))
}

fn or(text: String, default: &str) -> String {
    if text.is_empty() { default.to_owned() } else { text }
}
