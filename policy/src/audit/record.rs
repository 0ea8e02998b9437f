//! [`Record`]: one line of the audit trail, before it is written.

use std::net::SocketAddr;
use std::time::Duration;

/// One record. Texts may come from peers as they are: encoding bounds and escapes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// When. Milliseconds since the epoch.
    pub time: u64,
    /// Counts the records of one run of the gateway, from 0; what is missing was lost.
    pub sequence: u64,
    /// What kind of record this is.
    pub event: Event,
    /// What somebody wanted.
    pub action: Action,
    /// Who; `None`: not known (yet).
    pub user: Option<String>,
    /// The groups that decided for them.
    pub groups: Vec<String>,
    /// The tenant that they belong to, if there are tenants.
    pub tenant: Option<String>,
    /// Which rule decided.
    pub rule: Option<String>,
    /// By which way they came.
    pub way: Way,
    /// From where: the other end of the connection.
    pub peer: SocketAddr,
    /// What it was about.
    pub resource: Resource,
    /// Of a [`Event::Decision`], what was decided.
    pub verdict: Option<Verdict>,
    /// How it went: `ok`, or the name of a code of the protocol.
    pub code: &'static str,
    /// The same for people; empty if nothing is wrong.
    pub reason: String,
    /// Content of a transfer, as in its receipt. Bytes.
    pub bytes: Option<u64>,
    /// What went through a tunnel.
    pub traffic: Option<Traffic>,
    /// Entries that have their final names; of a listing or removal, those that were listed or removed.
    pub files: Option<u64>,
    /// Entries that were refused, withdrawn or skipped.
    pub failed: Option<u64>,
    /// The root of the manifest (BLAKE3), as in the receipt.
    pub root: Option<[u8; 32]>,
    /// The session, as the log names it.
    pub session: Option<String>,
    /// The job's number within the session.
    pub job: Option<u64>,
    /// The links of the session at that time.
    pub links: Option<u32>,
    /// How long it took.
    pub duration: Option<Duration>,
}

/// What kind of record it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// Something was permitted or refused.
    Decision,
    /// A job began.
    TransferStart,
    /// A job ended, well or not.
    TransferEnd,
    /// A tunnel stands.
    TunnelStart,
    /// A tunnel has ended.
    TunnelEnd,
}

/// What somebody wanted to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// To open a session, or to join it with another link.
    Session,
    /// To send.
    Push,
    /// To fetch.
    Pull,
    /// To list.
    List,
    /// To remove.
    Remove,
    /// To share a path in another way than fairly.
    Rate,
    /// To open a tunnel.
    Tunnel,
}

/// By which way somebody came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// QUIC.
    Quic,
    /// QUIC within a tunnel.
    Masque,
    /// TLS over TCP.
    Tls,
    /// WebSocket.
    Ws,
    /// A request over HTTP/1.1, HTTP/2 or HTTP/3.
    Http,
}

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It may be.
    Permitted,
    /// It may not.
    Refused,
}

/// What it was about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Nothing but the gateway itself.
    Gateway,
    /// A path, as the user sees it.
    Path(String),
    /// The target of a tunnel.
    Target {
        /// A name or address, as it was asked for.
        host: String,
        /// UDP port.
        port: u16,
        /// What is dialled, once that is decided.
        address: Option<SocketAddr>,
    },
    /// A rate policy.
    Rate {
        /// What was asked for.
        asked: String,
        /// What was granted.
        granted: String,
    },
}

/// What went through a tunnel. Bytes of payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// From the client.
    pub received: u64,
    /// To the client.
    pub sent: u64,
}

impl Record {
    /// A record of a decision on something that nobody is known to have asked for. The other fields are set where they are
    /// known.
    pub fn new(time: u64, event: Event, action: Action, way: Way, peer: SocketAddr) -> Self {
        Self {
            time,
            sequence: 0,
            event,
            action,
            user: None,
            groups: Vec::new(),
            tenant: None,
            rule: None,
            way,
            peer,
            resource: Resource::Gateway,
            verdict: None,
            code: OK,
            reason: String::new(),
            bytes: None,
            traffic: None,
            files: None,
            failed: None,
            root: None,
            session: None,
            job: None,
            links: None,
            duration: None,
        }
    }

    /// Whether all is well.
    pub fn is_ok(&self) -> bool {
        self.code == OK
    }

    /// Whether somebody was refused something.
    pub fn is_refusal(&self) -> bool {
        self.verdict == Some(Verdict::Refused)
    }

    /// The root in hexadecimal.
    pub(super) fn root_hex(&self) -> Option<String> {
        let root = self.root?;
        Some(root.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Milliseconds that it took.
    pub(super) fn millis(&self) -> Option<u64> {
        self.duration.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
    }

    /// What it says, in a few words.
    pub(super) fn message(&self) -> String {
        let how = match (self.event, self.verdict) {
            (Event::TransferStart | Event::TunnelStart, _) => "begins",
            (Event::TransferEnd | Event::TunnelEnd, _) if self.is_ok() => "ended",
            (Event::TransferEnd | Event::TunnelEnd, _) => "failed",
            (Event::Decision, Some(Verdict::Refused)) => "refused",
            (Event::Decision, _) => "permitted",
        };
        format!("{} {how}", self.action.name())
    }
}

impl Event {
    /// As records have it.
    pub fn name(self) -> &'static str {
        match self {
            Event::Decision => "decision",
            Event::TransferStart => "transfer-start",
            Event::TransferEnd => "transfer-end",
            Event::TunnelStart => "tunnel-start",
            Event::TunnelEnd => "tunnel-end",
        }
    }
}

impl Action {
    /// As records have it.
    pub fn name(self) -> &'static str {
        match self {
            Action::Session => "session",
            Action::Push => "push",
            Action::Pull => "pull",
            Action::List => "list",
            Action::Remove => "remove",
            Action::Rate => "rate",
            Action::Tunnel => "tunnel",
        }
    }
}

impl Way {
    /// As records have it.
    pub fn name(self) -> &'static str {
        match self {
            Way::Quic => "quic",
            Way::Masque => "masque",
            Way::Tls => "tls",
            Way::Ws => "ws",
            Way::Http => "http",
        }
    }
}

impl Verdict {
    /// As records have it.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Permitted => "permitted",
            Verdict::Refused => "refused",
        }
    }
}

/// The code of what went well.
const OK: &str = "ok";
