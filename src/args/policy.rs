//! `metra policy`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Check policies, test them, and explain what they decide; no gateway is asked
///
/// Policies are files in the Cedar language that the configuration of a gateway names ([policy], files). See docs/policy.md.
#[derive(Args, Debug)]
pub(crate) struct PolicyArgs {
    #[command(subcommand)]
    pub(crate) command: PolicyCommand,
}

#[derive(Subcommand, Debug)]
pub(crate) enum PolicyCommand {
    Check(PolicyCheckArgs),
    Test(PolicyTestArgs),
    Explain(Box<PolicyExplainArgs>),
}

/// Say what is wrong with policies
///
/// All files together, as a gateway would read them. Exit code 0: a gateway takes them; 2: it does not.
#[derive(Args, Debug)]
pub(crate) struct PolicyCheckArgs {
    /// Files of policies
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
}

/// Ask policies a table of requests, and compare with what is expected
///
/// CASES is TOML: [[case]] with user, groups, tenant, action, path or target, source, way, time, size, ... and expect = "allow" or
/// "deny"; with policies = [...], these and no others must have decided. Exit code 0: all as expected; 1: not all; 2: the files are
/// wrong.
#[derive(Args, Debug)]
pub(crate) struct PolicyTestArgs {
    /// A file of policies; may be repeated
    #[arg(long = "policy", required = true, value_name = "FILE")]
    pub(crate) policies: Vec<PathBuf>,
    /// Tables of requests
    #[arg(required = true, value_name = "CASES")]
    pub(crate) cases: Vec<PathBuf>,
}

/// Say what policies decide on one request, and which of them
///
/// Exit code 0: allowed; 12: denied; 2: the files or the request are wrong.
#[derive(Args, Debug)]
pub(crate) struct PolicyExplainArgs {
    /// A file of policies; may be repeated
    #[arg(long = "policy", required = true, value_name = "FILE")]
    pub(crate) policies: Vec<PathBuf>,
    /// The user
    #[arg(long, value_name = "NAME")]
    pub(crate) user: String,
    /// A group that the user is in; may be repeated
    #[arg(long = "group", value_name = "NAME")]
    pub(crate) groups: Vec<String>,
    /// The tenant that the user belongs to
    #[arg(long, value_name = "NAME")]
    pub(crate) tenant: Option<String>,
    /// What: openSession, send, get, list, delete, openTunnel, useRate or administer
    #[arg(long)]
    pub(crate) action: String,
    /// A path, from the gateway's root
    #[arg(long)]
    pub(crate) path: Option<String>,
    /// A target of a tunnel
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) target: Option<String>,
    /// Where the client is [default: 127.0.0.1]
    #[arg(long, value_name = "IP")]
    pub(crate) source: Option<IpAddr>,
    /// The way in: quic, masque, tls, ws or http [default: quic]
    #[arg(long)]
    pub(crate) way: Option<String>,
    /// Somebody looks into TLS
    #[arg(long)]
    pub(crate) inspected: bool,
    /// When, as in 2026-11-28T09:00:00Z [default: now]
    #[arg(long)]
    pub(crate) time: Option<String>,
    /// Length of the file in bytes
    #[arg(long, value_name = "BYTES")]
    pub(crate) size: Option<u64>,
    /// Type of the file by content, as in zip
    #[arg(long, value_name = "TYPE")]
    pub(crate) file_type: Option<String>,
    /// What the target was resolved to
    #[arg(long, value_name = "IP")]
    pub(crate) address: Option<IpAddr>,
    /// The rate policy: fixed, high or low
    #[arg(long)]
    pub(crate) rate: Option<String>,
    /// Its rate in Mbit/s
    #[arg(long)]
    pub(crate) mbit: Option<u64>,
    /// Print a JSON object
    #[arg(long)]
    pub(crate) json: bool,
}
