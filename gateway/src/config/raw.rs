//! The configuration as it is written, before anything is checked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use metra_policy::shape::config::{RawShaping, RawTenant};
use serde::Deserialize;

use super::document::Origin;
use super::{
    Anonymous, AuditFormat, ConfigErrors, Congestion, LogFormat, LogLevel, OnFailure, RawContent, RawIcap,
    document,
};

/// The keys of the configuration file. Paths in a file are relative to the directory of the file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawConfig {
    /// Addresses to listen on, `IP:PORT` or `[IPv6]:PORT`, one or a list. Default `127.0.0.1:4443`: only this machine.
    /// Use `[::]:4443` for every address of the machine. Port 0: any free one.
    pub listen: Option<OneOrMany>,
    /// The directory that clients see as `/`. Required. Everything below it can be read and replaced by those who may.
    pub root: Option<PathBuf>,
    /// The directory for keys and journals, made if it is not there. Default: chosen by the command. It must not be
    /// inside of `root`, or clients could read the keys.
    pub state: Option<PathBuf>,
    /// Certificates.
    pub tls: RawTls,
    /// Users by name (letters, digits and `. _ @ -`, at most 64).
    pub users: BTreeMap<String, RawUser>,
    /// Identity providers by name, whose tokens (JWT) are accepted besides those of `users`.
    pub jwt: BTreeMap<String, RawJwt>,
    /// Who may come without credentials: `loopback` (this machine) or `never`. Default: `loopback` without users,
    /// else `never`.
    pub anonymous: Option<Anonymous>,
    /// What the gateway accepts at most.
    pub limits: RawLimits,
    /// The QUIC transport.
    pub quic: RawQuic,
    /// TCP.
    pub tcp: RawTcp,
    /// How clients may share paths with others.
    pub rates: RawRates,
    /// What all jobs together may move.
    pub shaping: RawShaping,
    /// Tenants by name: users who share rates, quotas and places for jobs.
    pub tenants: BTreeMap<String, RawTenant>,
    /// Tunnels to UDP targets.
    pub tunnel: RawTunnel,
    /// Policies: who may do what, beyond what `users` and `tunnel` say.
    pub policy: RawPolicy,
    /// The audit trail.
    pub audit: RawAudit,
    /// What may be kept of what clients send.
    pub content: RawContent,
    /// Services that scan content, by name.
    pub icap: BTreeMap<String, RawIcap>,
    /// The log.
    pub log: RawLog,
    /// Address (`IP:PORT`) on which metrics are served over plain HTTP, to anyone who can reach it. Default: nowhere.
    pub metrics_listen: Option<String>,
    /// Where this was read from, and what could not be read of it.
    #[serde(skip)]
    pub(super) origin: Origin,
}

/// Certificates of the gateway and of its clients.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawTls {
    /// PEM file of the certificate chain, the server's own first. Default: a development certificate, which clients
    /// trust only on this machine or with `--ca` or `--pin`.
    pub cert: Option<PathBuf>,
    /// PEM file of its private key, unencrypted. Goes with `cert`. It must not be inside of `root`.
    pub key: Option<PathBuf>,
    /// PEM file of the authorities of client certificates. Default: clients are not asked for any. With it, they may
    /// show one, and must have a user's name in it.
    pub client_ca: Option<PathBuf>,
}

/// A user. At least one way to be recognised is needed: one of the three for a token, or `cert_names`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawUser {
    /// Hash of the bearer token, `blake3:HEX` or `sha256:HEX`. The token should be drawn at random.
    pub token_hash: Option<String>,
    /// File that holds the bearer token (16 to 4096 visible ASCII characters) and nothing else. Read once, at the start.
    pub token_file: Option<PathBuf>,
    /// Environment variable that holds the bearer token. Read once, at the start.
    pub token_env: Option<String>,
    /// Names in client certificates that stand for this user (host names in lower case). Needs `tls.client_ca`.
    pub cert_names: Vec<String>,
    /// Whether the user may list and fetch. Default true.
    pub read: Option<bool>,
    /// Whether the user may send and remove. Default true.
    pub write: Option<bool>,
    /// Whether the user may open tunnels to what `tunnel.allow` names. Default true.
    pub tunnel: Option<bool>,
    /// Directory below `root` that this user sees as `/` instead; relative, must be there. Default: `root` itself.
    pub home: Option<PathBuf>,
    /// The groups that the user is in, for policies. Default: none.
    pub groups: Vec<String>,
    /// The tenant that the user belongs to, for policies and shares. Default: the one of `tenants` that names the user.
    pub tenant: Option<String>,
}

/// An identity provider. Who shows a token that it has signed is the user that the token names, and may read, write and open
/// tunnels as policies say; a user of `users` is not to be had that way. One of `jwks_file` and `jwks_url` is needed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawJwt {
    /// The `iss` of its tokens, to the letter. Required.
    pub issuer: Option<String>,
    /// What its tokens must be for: one of these must be in their `aud`. Required.
    pub audience: Option<OneOrMany>,
    /// File with its public keys, a JWK set (RFC 7517). Read again when it changes.
    pub jwks_file: Option<PathBuf>,
    /// `https` URL of its public keys. Read at the start, every ten minutes, and when a token is signed with a key that is not
    /// known. The server must speak TLS 1.3.
    pub jwks_url: Option<String>,
    /// PEM file of the authorities that the server of `jwks_url` is known by. Default: those of the system.
    pub jwks_ca: Option<PathBuf>,
    /// The claim that is the user's name (letters, digits and `. _ @ -`, at most 64). Default `sub`.
    pub user_claim: Option<String>,
    /// The claim that lists the user's groups. Default `groups`.
    pub groups_claim: Option<String>,
    /// The claim that is the user's tenant. Default: none.
    pub tenant_claim: Option<String>,
    /// Directory below `root` that these users see as `/` instead; relative, must be there. Default: `root` itself.
    pub home: Option<PathBuf>,
}

/// What the gateway accepts at most.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLimits {
    /// Sessions in all. 1 to 100000, default 1024. One more is told to try again later.
    pub sessions: Option<u64>,
    /// Sessions of one user. 1 to `sessions`, default 64 (or `sessions`, if that is less).
    pub sessions_per_user: Option<u64>,
    /// Sessions that were opened from one address (IPv6: one /64), whoever they belong to. 1 to `sessions`, default 256 (or
    /// `sessions`, if that is less). One more is told to try again later.
    pub sessions_per_address: Option<u64>,
    /// Open jobs of one session. 1 to 16, default 16. One more is refused.
    pub jobs_per_session: Option<u64>,
    /// Jobs of one user over all sessions, those that wait for their turn included. 1 to 1000000, default 256. One more is told to
    /// try again later.
    pub jobs_per_user: Option<u64>,
    /// The same, of jobs that were opened from one address (IPv6: one /64), whoever they belong to. 1 to 1000000, default 256.
    pub jobs_per_address: Option<u64>,
    /// Seconds that a connection has to authenticate. 1 to 300, default 10. Then it is closed.
    pub handshake_seconds: Option<u64>,
    /// Seconds without a sign of life after which a connection is given up. 5 to 3600, default 30. Jobs resume on
    /// the next one.
    pub idle_seconds: Option<u64>,
    /// Connections of one session. 1 to 64, default 16. One more is refused.
    pub links_per_session: Option<u64>,
    /// MiB for the manifests of all jobs (about 100 bytes an entry or chunk). 16 to 1048576, default 512. A job that
    /// does not fit is told to try again later.
    pub manifest_memory_mib: Option<u64>,
    /// MiB for what has arrived and is not yet written, over all jobs. 16 to 1048576, default 256. When it is used up,
    /// no more is asked for until the disk has caught up: less memory, less speed on long paths.
    pub receive_memory_mib: Option<u64>,
    /// Entries (files, directories, links) of one job. 1 to 4000000, default 4000000. A job with more is refused.
    pub entries: Option<u64>,
    /// Chunks (about 1 MiB each) of one job. 1 to 4000000, default 4000000. A job with more is refused.
    pub chunks: Option<u64>,
}

/// The QUIC transport.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawQuic {
    /// MiB that a connection may have in flight towards the gateway. 1 to 4096, default 64. Speed is at most this per
    /// round trip; each connection may use as much memory.
    pub receive_window_mib: Option<u64>,
    /// MiB that a connection may have in flight from the gateway. 1 to 4096, default 64. As above.
    pub send_window_mib: Option<u64>,
    /// Largest datagram that is tried on a path, in bytes of UDP payload. 1200 to 16000, default 8952: jumbo frames, where the
    /// interfaces of this machine have them. A smaller one where many paths have less.
    pub mtu: Option<u64>,
    /// Congestion controller: `bbr2`, `cubic` or `bbr`. Default: what the transport finds best.
    pub congestion: Option<Congestion>,
    /// Whether what is measured of the path to a client is remembered, in memory, so that its connections of the next hour
    /// start from half of that. Default true. Without it each of them starts as on an unknown path.
    pub remember_paths: Option<bool>,
    /// Whether the gateway speaks HTTP/3 on the same addresses and ports: for clients whose network lets through what looks like
    /// the web, and for tunnels. Default true.
    pub http3: Option<bool>,
}

/// TCP, for clients whose network lets no UDP through.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawTcp {
    /// Whether the gateway listens on TCP as well, on the same addresses and ports. Default true.
    pub listen: Option<bool>,
    /// Whether it speaks HTTP there, and so takes clients over WebSocket, too, whose network lets nothing but web sites
    /// through. Default true.
    pub http: Option<bool>,
}

/// The rate policies that clients may use besides `fair`, in both directions. What is not granted is `fair`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawRates {
    /// Whether clients may use `low`: they take what others leave. Default true.
    pub low: Option<bool>,
    /// Whether clients may use `high`: they take more than others do. Default false.
    pub high: Option<bool>,
    /// Mbit/s that all connections with `fixed` have together, which mind neither queues nor others: no more than the path is
    /// provisioned for. 0 to 1000000, default 0: nobody may use it.
    pub fixed_mbit: Option<u64>,
}

/// Tunnels to UDP targets (CONNECT-UDP, RFC 9298), for users who may.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawTunnel {
    /// The targets that tunnels may lead to, each `HOST:PORTS`. HOST is a name, `*.` and a name (all below it), an address
    /// or range of addresses (IPv6 in brackets), or `*`; PORTS is ports and ranges with commas between, or `*`. Default: none, so
    /// no tunnels. Names are allowed for rules that name them, whatever public address they resolve to; ranges are for
    /// targets that are asked for by address. Special addresses (this machine, private, link-local, the metadata of
    /// clouds, ...) are refused even if a rule names them or an allowed name resolves to them.
    pub allow: Vec<String>,
    /// Ranges of special addresses that `allow` may lead to all the same: users reach what is there as if they were this
    /// machine, past its firewall. Metadata of clouds is opened only by its single address. With any range, names for
    /// private use (`localhost`, `*.internal`, ...) are resolved. Default: none.
    pub dangerous_ranges: Vec<String>,
    /// Tunnels in all. 1 to 100000, default 4096. One more is refused. Each takes a socket.
    pub tunnels: Option<u64>,
    /// Tunnels of clients at one address. 1 to `tunnels`, default 256 (or `tunnels`, if that is less). One more is refused.
    pub tunnels_per_address: Option<u64>,
    /// Tunnels of one user, from wherever. 1 to `tunnels`, default 1024 (or `tunnels`, if that is less). One more is refused.
    pub tunnels_per_user: Option<u64>,
    /// Seconds without a datagram after which a tunnel is closed. 120 to 86400, default 120. RFC 9298 section 3.1 has two
    /// minutes as the least.
    pub idle_seconds: Option<u64>,
    /// Seconds after which a tunnel is closed, whatever it carries. 60 to 604800, default 86400.
    pub lifetime_seconds: Option<u64>,
    /// Mbit/s that one tunnel may carry in each direction; more is dropped. 0 to 1000000, default 0: no limit.
    pub rate_mbit: Option<u64>,
    /// Mbit/s that all tunnels of one peer may carry together in each direction; more is dropped. A peer is a user, and whoever comes
    /// without being one, the address (of IPv6 the /64). 0 to 1000000, default 0: no limit.
    pub peer_rate_mbit: Option<u64>,
    /// Datagrams a second of the same, in each direction. 0 to 100000000, default 0: no limit.
    pub peer_datagrams: Option<u64>,
}

/// Policies in the Cedar language; `docs/policy.md` says what they can speak of. They restrict: what the flags of a user and
/// `tunnel.allow` do not allow, no policy does. Without any, those alone decide; with some, what no policy permits is denied.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawPolicy {
    /// Files of policies. They are read again when one of them changes, and on SIGHUP; what is wrong then leaves the policies before in
    /// force, and is logged. Default: none.
    pub files: Vec<PathBuf>,
    /// Whether what policies deny is only logged, and done. Default false.
    pub dry_run: Option<bool>,
}

/// The audit trail: what was decided and carried, a record a line (`docs/audit.md`). Default: there is none.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawAudit {
    /// What the gateway does while it cannot be written: `continue` (default), or `refuse` what is new.
    pub on_failure: Option<OnFailure>,
    /// To a file. Default: none.
    pub file: Option<RawAuditFile>,
    /// To a syslog server over TLS (RFC 5424, RFC 5425). Default: none.
    pub syslog: Option<RawAuditSyslog>,
}

/// A file of records.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawAuditFile {
    /// The file; made with mode 0600 if it is not there, in a folder that is. Required. It must not be inside of `root`.
    pub path: Option<PathBuf>,
    /// `json` (OCSF, default) or `cef`.
    pub format: Option<AuditFormat>,
    /// MiB after which a new file is begun and the old one renamed. 1 to 1048576, default 256.
    pub max_mib: Option<u64>,
    /// Hours after which a new file is begun, when something is written. 0 to 87600, default 24. 0: whatever its age.
    pub max_hours: Option<u64>,
    /// Renamed files that are kept; the oldest is removed when there is one more. 0 to 10000, default 90.
    pub keep: Option<u64>,
    /// Seconds that what is written may stay unsynced: what a power cut can cost. 0 to 3600, default 1. 0: synced at once.
    pub sync_seconds: Option<u64>,
}

/// A syslog server.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawAuditSyslog {
    /// The server, `HOST:PORT` or `[IPv6]:PORT`; its certificate must be for this name. Required.
    pub address: Option<String>,
    /// `json` (OCSF, default) or `cef`.
    pub format: Option<AuditFormat>,
    /// PEM file of the authorities that it is known by. Default: those of the system.
    pub ca: Option<PathBuf>,
    /// PEM file of the certificate chain that it is shown if it asks. Goes with `key`. Default: none.
    pub cert: Option<PathBuf>,
    /// PEM file of its private key, unencrypted. It must not be inside of `root`.
    pub key: Option<PathBuf>,
}

/// The log, on standard error.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLog {
    /// `text` (default) or `json`.
    pub format: Option<LogFormat>,
    /// `error`, `warn`, `info` (default), `debug` or `trace`. The last two are for finding faults, and cost speed.
    pub level: Option<LogLevel>,
}

/// One value, or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "expected a text or a list of texts")]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Any number.
    Many(Vec<String>),
}

impl From<OneOrMany> for Vec<String> {
    fn from(value: OneOrMany) -> Self {
        match value {
            OneOrMany::One(one) => vec![one],
            OneOrMany::Many(many) => many,
        }
    }
}

impl RawConfig {
    /// Reads a file. Keys that are not known and values of a wrong type are no error yet: [`validate`](Self::validate)
    /// reports them with everything else.
    ///
    /// # Errors
    /// The file cannot be read, or is not TOML.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let (mut raw, origin, base): (Self, _, _) = document::read(path)?;
        raw.resolve(&base);
        raw.origin = origin;
        Ok(raw)
    }

    /// Makes the paths absolute that are relative to `base`.
    pub(super) fn resolve(&mut self, base: &Path) {
        let tls = [&mut self.tls.cert, &mut self.tls.key, &mut self.tls.client_ca];
        let audit = self.audit.file.iter_mut().map(|file| &mut file.path);
        let syslog = self.audit.syslog.iter_mut().flat_map(|s| [&mut s.ca, &mut s.cert, &mut s.key]);
        let tokens = self.users.values_mut().map(|u| &mut u.token_file);
        let keys = self.jwt.values_mut().flat_map(|jwt| [&mut jwt.jwks_file, &mut jwt.jwks_ca]);
        let state = [&mut self.root, &mut self.state, &mut self.content.quarantine].into_iter();
        let paths = state.chain(tls).chain(tokens).chain(keys).chain(audit).chain(syslog);
        for path in paths.flatten().chain(&mut self.policy.files) {
            *path = base.join(&*path);
        }
    }
}
