//! The configuration of a gateway: from a TOML file and the command line to one validated [`Config`].
//!
//! ```text
//! file --load--> RawConfig --(command line sets fields)--> validate --> Config | ConfigErrors
//! ```
//!
//! Validation happens once, before a socket is opened, and reports everything that is wrong together, each with its
//! key and line. Files are only looked at for whether they are there and can be read; what is in them is checked by
//! those who use them. `docs/gateway.example.toml` shows every key.
//!
//! Non-goals: reloading (the command reads a file again and gives what may change to the gateway; policies and keys of identity providers
//! are read again by those who use them), and knowing where the state directory is by default (the command knows).

mod audit;
mod check;
mod content;
#[cfg(test)]
mod content_tests;
pub mod document;
mod error;
mod raw;
#[cfg(test)]
mod tests;
mod users;

pub use audit::{Audit, AuditFile, AuditFormat, AuditSyslog, OnFailure};
pub use content::{
    Content, RawAction, RawContent, RawContentRule, RawFailure, RawFound, RawIcap, RawTunnelAction,
    RawTunnelRule,
};
pub use error::{ConfigError, ConfigErrors};
pub use metra_policy::shape::config::{RawShaping, RawTenant, RawTenantUser, Shaping};
pub use raw::{
    OneOrMany, RawAudit, RawAuditFile, RawAuditSyslog, RawConfig, RawJwt, RawLimits, RawLog, RawPolicy,
    RawQuic, RawRates, RawTcp, RawTls, RawTunnel, RawUser,
};
pub(crate) use users::is_user_name;
pub use users::{Jwt, JwtKeys, User, Users};

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use metra_policy::{Cidr, Own, TargetRule, TunnelRules};

/// A configuration that has been checked. The documentation of each value (unit, default, consequence) is at the field
/// of [`RawConfig`] that it comes from.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen; at least one address, none twice.
    pub listen: Vec<SocketAddr>,
    /// What clients see as `/`: an existing directory, absolute, without symbolic links.
    pub root: PathBuf,
    /// Keys, journals and the development authority; may not be there yet. Never inside of `root`.
    pub state: PathBuf,
    /// Certificates.
    pub tls: Tls,
    /// Who may do what.
    pub users: Users,
    /// Identity providers whose tokens are accepted.
    pub jwt: Vec<Jwt>,
    /// Who may come without credentials.
    pub anonymous: Anonymous,
    /// What the gateway accepts at most.
    pub limits: Limits,
    /// The QUIC transport.
    pub quic: Quic,
    /// TCP.
    pub tcp: Tcp,
    /// How clients may share paths with others.
    pub rates: Rates,
    /// How jobs share what the gateway may move.
    pub shaping: Shaping,
    /// Tunnels.
    pub tunnel: Tunnel,
    /// Policies.
    pub policy: Policy,
    /// The audit trail.
    pub audit: Audit,
    /// What may be kept of what clients send.
    pub content: Content,
    /// The log.
    pub log: Log,
    /// Where metrics are served, if anywhere.
    pub metrics_listen: Option<SocketAddr>,
}

impl Config {
    /// The configuration of a file alone. `default_state` is used where the file names no state directory.
    ///
    /// # Errors
    /// All that is wrong with it. Fault: whoever wrote it.
    pub fn load(path: &Path, default_state: &Path) -> Result<Self, ConfigErrors> {
        RawConfig::load(path)?.validate(default_state)
    }
}

/// The certificates in use. The files could be read when the configuration was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The server's certificate and key; `None`: those of the development authority in the state directory.
    pub files: Option<CertificateFiles>,
    /// The authorities whose client certificates are accepted; `None`: clients are not asked for certificates.
    pub client_ca: Option<PathBuf>,
}

/// A certificate chain and its private key, both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, the server's own certificate first.
    pub cert: PathBuf,
    /// The unencrypted private key.
    pub key: PathBuf,
}

/// Who may come without credentials, to read and write everything below the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Anonymous {
    /// Processes of this machine, over a loopback address.
    Loopback,
    /// Nobody.
    Never,
}

/// What the gateway accepts at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sessions in all.
    pub sessions: usize,
    /// Sessions of one user, at most `sessions`.
    pub sessions_per_user: usize,
    /// Sessions that were opened from one network, at most `sessions`.
    pub sessions_per_address: usize,
    /// Open jobs of one session.
    pub jobs_per_session: usize,
    /// Jobs of one user over all sessions.
    pub jobs_per_user: usize,
    /// Jobs that were opened from one network, over all sessions.
    pub jobs_per_address: usize,
    /// Time for a connection to become a link.
    pub handshake: Duration,
    /// Time without a sign of life after which a link ends.
    pub idle: Duration,
    /// Links of one session.
    pub links_per_session: usize,
    /// Memory of the manifests of all jobs. Bytes.
    pub manifest_memory: u64,
    /// Memory of chunks that have arrived and are not yet written, over all jobs. Bytes.
    pub receive_memory: u64,
    /// Entries of one manifest.
    pub entries: u32,
    /// Chunks of one manifest.
    pub chunks: u32,
}

/// The QUIC transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quic {
    /// What one connection may have in flight towards the gateway. Bytes.
    pub receive_window: u64,
    /// What one connection may have in flight from the gateway. Bytes.
    pub send_window: u64,
    /// The largest datagram that is tried on a path. Bytes of UDP payload.
    pub mtu: u16,
    /// The congestion controller; `None`: the transport's own choice.
    pub congestion: Option<Congestion>,
    /// Whether paths are remembered.
    pub remember_paths: bool,
    /// Whether HTTP/3 is spoken beside MTP.
    pub http3: bool,
}

/// TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// Whether it is listened on, at the addresses of [`Config::listen`].
    pub listen: bool,
    /// Whether HTTP is spoken there.
    pub http: bool,
}

/// The rate policies that are granted, besides fair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Low.
    pub low: bool,
    /// High.
    pub high: bool,
    /// All that connections with a fixed rate have together. Bits per second; 0: there are none.
    pub fixed: u64,
}

/// Tunnels: what they may lead to, and how many there may be for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// The targets that are allowed; none: there are no tunnels.
    pub allow: Vec<TargetRule>,
    /// The special addresses that are opened on purpose.
    pub dangerous: Vec<Cidr>,
    /// Tunnels in all.
    pub tunnels: usize,
    /// Tunnels of clients at one address, at most `tunnels`.
    pub tunnels_per_address: usize,
    /// Tunnels of one user, at most `tunnels`.
    pub tunnels_per_user: usize,
    /// Time without a datagram after which a tunnel ends. Not below two minutes (RFC 9298 section 3.1).
    pub idle: Duration,
    /// Time after which a tunnel ends, whatever it carries.
    pub lifetime: Duration,
    /// What one tunnel may carry in each direction. Bits per second; 0: as much as there is.
    pub rate: u64,
    /// What all tunnels of one peer may carry in each direction. Bits per second; 0: as much as there is.
    pub peer_rate: u64,
    /// The same in datagrams per second.
    pub peer_datagrams: u64,
}

impl Tunnel {
    /// Whether there may be tunnels at all.
    pub fn is_enabled(&self) -> bool {
        !self.allow.is_empty()
    }

    /// The rules for targets, of a gateway that is at `own`.
    pub fn rules(&self, own: Own) -> TunnelRules {
        TunnelRules::new(self.allow.clone(), self.dangerous.clone(), own)
    }
}

/// Policies in force besides the flags of users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The files; none: there are no policies, and only the flags count.
    pub files: Vec<PathBuf>,
    /// Denials are logged, and nothing is denied.
    pub dry_run: bool,
}

/// A congestion controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Congestion {
    /// CUBIC (RFC 9438): backs off at every loss.
    Cubic,
    /// BBRv2: follows the measured bandwidth and delay, and bears random loss.
    Bbr2,
    /// The QUIC library's BBR: overfills queues.
    Bbr,
}

/// The log, on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// How a line looks.
    pub format: LogFormat,
    /// The least important that is written.
    pub level: LogLevel,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How important an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Something failed here that should not have.
    Error,
    /// Something is not as it should be, and was dealt with.
    Warn,
    /// Starts, stops, sessions and jobs.
    Info,
    /// Requests and links.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The name, as in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}
