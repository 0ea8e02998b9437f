//! What is asked: who, what, of what, and how things stand.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::Host;
use crate::content::Kind;

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Principal {
    /// The user's name.
    pub user: String,
    /// The groups that the user is in.
    pub groups: Vec<String>,
    /// The tenant that the user belongs to.
    pub tenant: Option<String>,
}

/// What somebody wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// To come in, with a link.
    OpenSession,
    /// To put something there.
    Send,
    /// To fetch what is there.
    Get,
    /// To see that it is there.
    List,
    /// To remove it.
    Delete,
    /// To have a tunnel to a target.
    OpenTunnel,
    /// To share paths with others otherwise than fairly.
    UseRate,
    /// To look at, and to change, what concerns others.
    Administer,
}

impl Action {
    /// All of them.
    pub const ALL: [Action; 8] = [
        Action::OpenSession,
        Action::Send,
        Action::Get,
        Action::List,
        Action::Delete,
        Action::OpenTunnel,
        Action::UseRate,
        Action::Administer,
    ];

    /// The name, as in policies.
    pub fn name(self) -> &'static str {
        match self {
            Action::OpenSession => "openSession",
            Action::Send => "send",
            Action::Get => "get",
            Action::List => "list",
            Action::Delete => "delete",
            Action::OpenTunnel => "openTunnel",
            Action::UseRate => "useRate",
            Action::Administer => "administer",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Action {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Action::ALL.into_iter().find(|action| action.name() == text);
        found.ok_or_else(|| format!("{text:?} is none of {}", Action::ALL.map(Action::name).join(", ")))
    }
}

/// What it is wanted of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// A path from the gateway's root on, without slashes at its ends; empty: the root itself.
    Path(String),
    /// Where a tunnel leads.
    Target {
        /// The host, as it was asked for.
        host: Host,
        /// The port.
        port: u16,
    },
    /// The gateway as a whole.
    Gateway,
}

impl Resource {
    /// A path however it is written.
    pub fn path(text: &str) -> Self {
        Resource::Path(text.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/"))
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Resource::Path(path) => write!(f, "/{path}"),
            Resource::Target { host: Host::Ip(IpAddr::V6(v6)), port } => write!(f, "[{v6}]:{port}"),
            Resource::Target { host, port } => write!(f, "{host}:{port}"),
            Resource::Gateway => f.write_str("the gateway"),
        }
    }
}

/// How things stand when it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// Where the client comes from.
    pub source: IpAddr,
    /// By which way: `quic`, `masque`, `tls`, `ws` or `http`.
    pub way: &'static str,
    /// Whether somebody on the way looks into TLS.
    pub inspected: bool,
    /// Seconds since the epoch.
    pub time: u64,
    /// Of a file: its length in bytes.
    pub size: Option<u64>,
    /// Of a file that is whole: its type by content.
    pub file_type: Option<Kind>,
    /// Of a target: what it was resolved to.
    pub address: Option<IpAddr>,
    /// Of a rate policy: `fixed`, `high` or `low`.
    pub rate: Option<&'static str>,
    /// Of a rate policy: Mbit/s.
    pub mbit: Option<u64>,
}

impl Context {
    /// Of somebody who comes from there, by this way, at this time.
    pub fn new(source: IpAddr, way: &'static str, time: u64) -> Self {
        Self {
            source,
            way,
            inspected: false,
            time,
            size: None,
            file_type: None,
            address: None,
            rate: None,
            mbit: None,
        }
    }
}

/// The ways in.
pub const WAYS: [&str; 5] = ["quic", "masque", "tls", "ws", "http"];

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who.
    pub principal: Principal,
    /// What.
    pub action: Action,
    /// Of what. One that does not go with the action is denied.
    pub resource: Resource,
    /// How things stand.
    pub context: Context,
}
