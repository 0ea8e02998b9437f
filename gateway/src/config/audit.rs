//! The `[audit]` table, checked.

use std::path::PathBuf;
use std::time::Duration;

/// The audit trail: where records go, and what happens if they cannot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// While it cannot be written.
    pub on_failure: OnFailure,
    /// To a file.
    pub file: Option<AuditFile>,
    /// To a syslog server.
    pub syslog: Option<AuditSyslog>,
}

/// What the gateway does while the audit trail cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// It goes on; records that have no room are lost, and counted.
    Continue,
    /// It refuses what is new. What runs goes on.
    Refuse,
}

/// How a record is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditFormat {
    /// A JSON object of OCSF.
    Json,
    /// CEF:0.
    Cef,
}

/// A file of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditFile {
    /// Where; not below the root.
    pub path: PathBuf,
    /// How a record is written.
    pub format: AuditFormat,
    /// A new file is begun before one has more. Bytes.
    pub max_size: u64,
    /// A new file is begun when one is that old; `None`: whatever its age.
    pub max_age: Option<Duration>,
    /// Older files that are kept.
    pub keep: usize,
    /// How long what is written may stay unsynced; zero: it is synced at once.
    pub sync: Duration,
}

/// A syslog server, over TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditSyslog {
    /// A name or an address, without brackets. Its certificate must be for it.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// How a record is written.
    pub format: AuditFormat,
    /// The authorities that the server is known by; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// The certificate and key that it is shown if it asks.
    pub identity: Option<super::CertificateFiles>,
}

impl Audit {
    /// Whether there is an audit trail at all.
    pub fn is_enabled(&self) -> bool {
        self.file.is_some() || self.syslog.is_some()
    }
}
