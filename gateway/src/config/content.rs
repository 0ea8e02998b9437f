//! `[content]` and `[icap.NAME]`: as they are written, and checked.

use std::path::PathBuf;

use metra_policy::content::{ContentRules, TunnelContent};
use serde::Deserialize;
use toml::Table;

use super::OneOrMany;

/// What may be kept of what clients send, and what is asked about it.
#[derive(Clone, Debug)]
pub struct Content {
    /// Rules for files; none: everything is kept.
    pub rules: ContentRules,
    /// Targets that are not tunnelled to, because content for them has to be scanned.
    pub tunnels: TunnelContent,
    /// Where files are put aside; may not be there yet. Never inside of `root`.
    pub quarantine: PathBuf,
    /// Files of one job that are examined at a time.
    pub at_once: usize,
    /// Services by number, as the rules name them: the name, and how it is asked.
    pub services: Vec<(String, metra_icap::Settings)>,
}

/// What may be kept of what clients send. `docs/content.md` explains it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawContent {
    /// Folder for files that are put aside, made if it is not there, for the gateway's user only. It must not be inside of
    /// `root`. Default: `quarantine` in the state directory. Nothing is ever removed from it.
    pub quarantine: Option<PathBuf>,
    /// Files of one job that are examined at a time. 1 to 64, default 4.
    pub scans_at_once: Option<u64>,
    /// Rules for files, in order: the first that matches decides, and what none matches is kept. Each is a
    /// [`RawContentRule`].
    pub rules: Vec<Table>,
    /// Rules for targets of tunnels, in order. Each is a [`RawTunnelRule`].
    pub tunnels: Vec<Table>,
}

/// A rule for files. What it does not name matches every file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawContentRule {
    /// What it is called in the audit trail, and for the client if there is no `reason`. 1 to 64 letters, digits, `-` and `_`,
    /// the first a letter; no two rules have the same. Default: its number, from 1.
    pub id: Option<String>,
    /// Patterns, one or a list, any of which matches: without `/` on the name, with one on the path below `root`; `**` matches
    /// `/`, too. Upper and lower case are the same.
    pub name: Option<OneOrMany>,
    /// Types or groups of types, one or a list, by what the first bytes say.
    #[serde(rename = "type")]
    pub kind: Option<OneOrMany>,
    /// The smallest file, in bytes. Default 0.
    pub min_bytes: Option<u64>,
    /// The largest file, in bytes. Default: no limit.
    pub max_bytes: Option<u64>,
    /// What happens. Required.
    pub action: Option<RawAction>,
    /// What the client is told if a file is not kept; 1 to 200 printable characters. Default: that it was this rule, by its id.
    pub reason: Option<String>,
    /// With `scan`, required: the NAME of an `[icap.NAME]`.
    pub service: Option<String>,
    /// With `scan`: what happens to a file in which something is found, `quarantine` (default) or `refuse`.
    pub on_found: Option<RawFound>,
    /// With `scan`: what happens to a file that could not be scanned, `refuse` (default) or `allow`.
    pub on_failure: Option<RawFailure>,
    /// With `scan`: MiB of the largest file that is scanned; a larger one could not be. 1 to 1048576, default 1024.
    pub scan_max_mib: Option<u64>,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RawAction {
    /// The file is kept.
    Allow,
    /// It is removed.
    Refuse,
    /// It is put aside.
    Quarantine,
    /// A service is asked.
    Scan,
}

/// What happens to a file in which something is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RawFound {
    /// It is put aside.
    Quarantine,
    /// It is removed.
    Refuse,
}

/// What happens to a file that could not be scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RawFailure {
    /// It is not kept.
    Refuse,
    /// It is kept, with a warning in the log.
    Allow,
}

/// A rule for targets of tunnels that `tunnel.allow` allows.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawTunnelRule {
    /// Targets, one or a list, as in `tunnel.allow`. Required.
    pub target: Option<OneOrMany>,
    /// `terminate`: no tunnel leads there, as nobody could scan what goes through it; `tunnel`: it may. Required.
    pub action: Option<RawTunnelAction>,
}

/// What is done about a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RawTunnelAction {
    /// No tunnel leads there.
    Terminate,
    /// One may.
    Tunnel,
}

/// A service that scans content (ICAP, RFC 3507).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawIcap {
    /// `icap://HOST[:PORT]/SERVICE`; port 1344 if none is named. Required. Files go there unencrypted.
    pub url: Option<String>,
    /// Seconds to connect. 1 to 60, default 5.
    pub connect_seconds: Option<u64>,
    /// Seconds in which nothing is heard of it and nothing goes to it, as while it scans. 1 to 3600, default 60.
    pub silence_seconds: Option<u64>,
    /// Seconds for one file, sent and scanned. 1 to 86400, default 600.
    pub file_seconds: Option<u64>,
    /// Connections at a time, over all jobs; fewer if the service wants it. 1 to 256, default 8.
    pub connections: Option<u64>,
}
