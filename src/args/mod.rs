//! The command line, parsed; nothing is done here.
// The comments here are help texts: brackets in them mean "optional".
#![allow(rustdoc::broken_intra_doc_links)]

mod connect;
mod filters;
mod output;
mod policy;
mod rate;
mod size;
mod source;
mod tree;
mod tunnel;

use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use metra_client::Url;

pub(crate) use connect::{Asked, ConnectArgs, Inspection, MASQUE_MAX, Way};
pub(crate) use output::OutputArgs;
pub(crate) use policy::{PolicyArgs, PolicyCheckArgs, PolicyCommand, PolicyExplainArgs, PolicyTestArgs};
pub(crate) use source::{Source, Target};
pub(crate) use tree::{ShapeArgs, TreeArgs};
pub(crate) use tunnel::TunnelArgs;

/// Moves large files and trees, fast, verified and resumable.
///
/// `metra serve` is the gateway, `metra send` and `metra get` move data to it and from it. A transfer that was
/// interrupted goes on where it was when the same command is given again.
///
/// How gateways are reached can also stand in a file: METRA_CONFIG, else metra/client.toml in $XDG_CONFIG_HOME or ~/.config
/// (see docs/client.example.toml). Options come before it, and it before the environment.
#[derive(Parser, Debug)]
#[command(name = "metra", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    Serve(ServeArgs),
    Send(SendArgs),
    Get(GetArgs),
    Ls(LsArgs),
    Rm(RmArgs),
    Stat(StatArgs),
    Hash(HashArgs),
    Verify(VerifyArgs),
    Tunnel(TunnelArgs),
    Policy(PolicyArgs),
    Doctor(DoctorArgs),
    Demo(DemoArgs),
    /// Say what the exit codes mean
    #[command(long_about = crate::exit::table(), help_template = "{about}")]
    ExitCodes,
}

/// Run a gateway
///
/// Serves one directory over MTP (QUIC, one UDP port). Without a configuration it listens on this machine only, and
/// makes a development certificate once that clients on this machine trust. SIGTERM or ^C ends it after what is in
/// flight is journaled; a second one ends it at once. SIGHUP reads policies, tenants and rates again. The log is on standard
/// error; METRA_LOG filters it.
#[derive(Args, Clone, Debug)]
pub(crate) struct ServeArgs {
    /// Address to listen on, IP:PORT or [IPv6]:PORT; may be repeated [default: 127.0.0.1:4443]
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Vec<String>,
    /// Directory that clients see as / [default: the current directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Folder for keys and journals [default: the "gateway" folder in $METRA_STATE, $XDG_STATE_HOME/metra or
    /// ~/.local/state/metra]
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Configuration (TOML, see docs/gateway.example.toml); the other options override it
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Write the addresses to this file, one a line, once connections are accepted
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) ready_file: Option<PathBuf>,
}

/// Send files and directories to a gateway
///
/// A SRC that ends in / stands for what is in the directory. Other sources are - (standard input), zero:SIZE and
/// random:SIZE[:SEED] (generated, for measuring). PATH names a directory if it ends in / or there are several sources;
/// else the source gets that very name, unless it is a directory there. The path null: takes everything and keeps
/// nothing.
#[derive(Args, Debug)]
pub(crate) struct SendArgs {
    /// What to send
    #[arg(required = true, value_name = "SRC", value_parser = OsStringValueParser::new().try_map(|s| Source::parse(&s)))]
    pub(crate) sources: Vec<Source>,
    /// Where to: mtp://HOST[:PORT]/PATH
    #[arg(value_name = "URL")]
    pub(crate) dest: Url,
    #[command(flatten)]
    pub(crate) tree: TreeArgs,
    /// Remove the files that were sent, when they are durable at the gateway
    #[arg(long)]
    pub(crate) delete_source: bool,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Fetch files and directories from a gateway
///
/// The path of a URL may be a glob (*, ?, [..], {..}, **); one that ends in / stands for what is in the directory. DEST
/// is a directory if it ends in / or there are several sources; - is standard output, null: takes everything and keeps
/// nothing.
#[derive(Args, Debug)]
pub(crate) struct GetArgs {
    /// What to fetch: mtp://HOST[:PORT]/PATH
    #[arg(required = true, value_name = "URL")]
    pub(crate) sources: Vec<Url>,
    /// Where to
    #[arg(value_name = "DEST", value_parser = OsStringValueParser::new().try_map(Target::parse))]
    pub(crate) dest: Target,
    #[command(flatten)]
    pub(crate) tree: TreeArgs,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// List a directory of a gateway
#[derive(Args, Debug)]
pub(crate) struct LsArgs {
    /// mtp://HOST[:PORT]/PATH
    #[arg(value_name = "URL")]
    pub(crate) url: Url,
    /// Show mode, size and time as well
    #[arg(short)]
    pub(crate) long: bool,
    /// List what is in its directories as well
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
    /// Print one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

/// Remove a file or directory at a gateway
#[derive(Args, Debug)]
pub(crate) struct RmArgs {
    /// mtp://HOST[:PORT]/PATH
    #[arg(value_name = "URL")]
    pub(crate) url: Url,
    /// Remove a directory with everything in it
    #[arg(short, long)]
    pub(crate) recursive: bool,
    /// Print nothing but errors
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

/// Show what a gateway knows of one file or directory
#[derive(Args, Debug)]
pub(crate) struct StatArgs {
    /// mtp://HOST[:PORT]/PATH
    #[arg(value_name = "URL")]
    pub(crate) url: Url,
    /// Print a JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

/// Compute the manifest of a file or directory, and its root; nothing is sent
///
/// The root is the one that a transfer of the same PATH with the same options reports.
#[derive(Args, Debug)]
pub(crate) struct HashArgs {
    /// A file or directory; one that ends in / stands for what is in it. Also -, zero:SIZE, random:SIZE[:SEED]
    #[arg(value_name = "PATH", value_parser = OsStringValueParser::new().try_map(|s| Source::parse(&s)))]
    pub(crate) path: Source,
    /// Print the records of the manifest as well
    #[arg(long)]
    pub(crate) manifest: bool,
    /// Print one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) shape: ShapeArgs,
}

/// Check a receipt, and that a tree is what it was given for; nothing is sent
#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    /// The receipt, as text; - is standard input
    #[arg(value_name = "RECEIPT")]
    pub(crate) receipt: PathBuf,
    /// What was transferred: its root must be that of the receipt
    #[arg(value_name = "PATH")]
    pub(crate) path: Option<PathBuf>,
    /// Print a JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// See whether this machine, or the network to a gateway, lets transfers be as fast as they can be
///
/// Nothing is changed. Without URL it looks at the machine: at the kernel's limits for sockets, at offload, files, timers and interfaces, and says what to raise, with the
/// command. What sysctl sets lasts until the next start; keep it in a file in /etc/sysctl.d.
///
/// With URL it looks at the network: every way to the gateway that --via allows (QUIC, TLS, WebSocket) is tried by itself,
/// with some hundred kilobytes in each direction, and what is wrong is said twice: for you, and in words that can be sent
/// to the administrator of the network. Credentials are not needed for most of it. The other options count only then.
///
/// The exit code is 0 if all is well, 1 if there is advice, and 5 if no way to the gateway works.
#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {
    /// The gateway: mtp://HOST[:PORT]/
    #[arg(value_name = "URL")]
    pub(crate) url: Option<Url>,
    /// Print one JSON object a line; the last one is the summary
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

/// See all of it work on this machine: a gateway, transfers both ways, interruptions, comparison
///
/// Nothing outside of a temporary folder is written, and nothing is left behind.
#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// Files and directories to send [default: the directory of the Rust toolchain]
    #[arg(value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// Size of the one large file
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = size::parse)]
    pub(crate) size: u64,
    /// Keep the temporary folder
    #[arg(long)]
    pub(crate) keep: bool,
}
