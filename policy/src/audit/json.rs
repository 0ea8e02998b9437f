//! A record as one JSON object with the classes and attributes of OCSF.
//!
//! | Action | Class | Activity |
//! |---|---|---|
//! | session | 3002 Authentication | 1 Logon |
//! | rate | 3003 Authorize Session | 1 Assign Privileges |
//! | push, pull | 6006 File Hosting Activity | decision 17 Access Check; start 99; end 1 Upload or 2 Download |
//! | list, remove | 6006 File Hosting Activity | 99, 4 Delete |
//! | tunnel | 4001 Network Activity | decision 99 or 5 Refuse; start 1 Open; end 2 Close |
//!
//! What the classes have no attribute for is in `unmapped`. Profiles: `security_control` (what was decided, by which policy) and,
//! for the actor of a tunnel, `host`.

use std::borrow::Cow;
use std::net::SocketAddr;

use serde::Serialize;

use super::text::{GROUP, GROUPS, HOST, LAST, NAME, PATH, REASON, WORD, clip, is_unsafe};
use super::{Action, Event, OCSF_VERSION, Record, Resource, Verdict};

impl Record {
    /// One line without its end: an OCSF event as JSON. At most [`LINE_MAX`](super::LINE_MAX) bytes of printable Unicode.
    pub fn json(&self) -> String {
        // Maps with keys that are no texts are all that can fail; there are none.
        let json = serde_json::to_string(&self.ocsf()).unwrap_or_default();
        if !json.contains(is_unsafe) {
            return json;
        }
        // These can only be within texts, where JSON lets any character be escaped.
        json.chars().fold(String::with_capacity(json.len() + 64), |mut out, c| {
            if is_unsafe(c) {
                out.push_str(&format!("\\u{:04x}", u32::from(c)))
            } else {
                out.push(c)
            }
            out
        })
    }

    fn ocsf(&self) -> Ocsf<'_> {
        let (category_uid, class_uid, class_name) = class(self.action);
        let (activity_id, activity_name) = self.activity();
        let user = User {
            name: clip(self.user.as_deref().unwrap_or("unknown"), NAME),
            type_id: u8::from(self.user.is_some()),
            groups: self.groups.iter().take(GROUPS).map(|name| Named { name: clip(name, GROUP) }).collect(),
        };
        let session = self.session.as_deref().map(|uid| Session { uid: clip(uid, WORD) });
        let is_iam = category_uid == IAM;
        let (file, dst_endpoint, rate) = match &self.resource {
            Resource::Gateway => (None, None, None),
            Resource::Path(path) => (Some(self.file(path)), None, None),
            Resource::Target { host, port, address } => (None, Some(target(host, *port, *address)), None),
            Resource::Rate { asked, granted } => (None, None, Some((asked, granted))),
        };
        // Of both attributes: 1 Allowed; 2 Denied, and Blocked.
        let decided = self.verdict.map(|verdict| match verdict {
            Verdict::Permitted => 1,
            Verdict::Refused => 2,
        });
        let mut profiles = vec!["security_control"];
        if class_uid == NETWORK_ACTIVITY {
            profiles.push("host");
        }
        Ocsf {
            time: self.time,
            category_uid,
            class_uid,
            class_name,
            activity_id,
            activity_name,
            type_uid: class_uid * 100 + activity_id,
            severity_id: self.severity(),
            status_id: if self.is_ok() { 1 } else { 2 },
            status_code: self.code,
            status_detail: clip(&self.reason, REASON),
            message: self.message(),
            action_id: decided,
            disposition_id: decided,
            policy: self.rule.as_deref().map(|rule| Policy { name: clip(rule, WORD), is_applied: true }),
            metadata: Metadata {
                version: OCSF_VERSION,
                product: Product { name: PRODUCT, vendor_name: VENDOR, version: env!("CARGO_PKG_VERSION") },
                log_name: "audit",
                profiles,
                sequence: self.sequence,
                tenant_uid: self.tenant.as_deref().map(|tenant| clip(tenant, NAME)),
            },
            actor: Actor { user: user.clone(), session: session.clone().filter(|_| !is_iam) },
            user: is_iam.then_some(user),
            session: session.filter(|_| is_iam),
            service: (self.action == Action::Session).then_some(Service { name: PRODUCT }),
            privileges: rate.map(|(_, granted)| [clip(granted, WORD)]),
            src_endpoint: endpoint(self.peer),
            dst_endpoint,
            file,
            traffic: self.traffic.map(|traffic| Traffic {
                bytes_in: traffic.received,
                bytes_out: traffic.sent,
                bytes: traffic.received.saturating_add(traffic.sent),
            }),
            duration: self.millis(),
            unmapped: Unmapped {
                event: self.event.name(),
                action: self.action.name(),
                way: self.way.name(),
                job: self.job,
                links: self.links,
                files: self.files,
                failed: self.failed,
                asked: rate.map(|(asked, _)| clip(asked, WORD)),
            },
        }
    }

    fn activity(&self) -> (u32, &'static str) {
        match (self.action, self.event) {
            (Action::Session, _) => (1, "Logon"),
            (Action::Rate, _) => (1, "Assign Privileges"),
            (Action::List, _) => (99, "List"),
            (Action::Remove, _) => (4, "Delete"),
            (Action::Push | Action::Pull, Event::Decision) => (17, "Access Check"),
            (Action::Push, Event::TransferEnd) => (1, "Upload"),
            (Action::Pull, Event::TransferEnd) => (2, "Download"),
            (Action::Push, _) => (99, "Upload Start"),
            (Action::Pull, _) => (99, "Download Start"),
            (Action::Tunnel, Event::TunnelStart) => (1, "Open"),
            (Action::Tunnel, Event::TunnelEnd) => (2, "Close"),
            (Action::Tunnel, _) if self.is_refusal() => (5, "Refuse"),
            (Action::Tunnel, _) => (99, "Permit"),
        }
    }

    /// How much it matters: 1 Informational, 2 Low (a failure), 3 Medium (credentials, rights, damaged data).
    pub fn severity(&self) -> u8 {
        match self.code {
            _ if self.is_ok() && !self.is_refusal() => 1,
            "unauthenticated" | "denied" | "integrity" => 3,
            _ => 2,
        }
    }

    fn file<'a>(&self, path: &'a str) -> File<'a> {
        let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        File {
            name: clip(if name.is_empty() { "/" } else { name }, LAST),
            path: clip(path, PATH),
            type_id: 0,
            size: self.bytes,
            // 99 Other: the schema has no number for BLAKE3.
            hashes: self.root_hex().map(|value| [Hash { algorithm_id: 99, algorithm: "BLAKE3", value }]),
        }
    }
}

fn class(action: Action) -> (u32, u32, &'static str) {
    match action {
        Action::Session => (IAM, 3002, "Authentication"),
        Action::Rate => (IAM, 3003, "Authorize Session"),
        Action::Push | Action::Pull | Action::List | Action::Remove => (6, 6006, "File Hosting Activity"),
        Action::Tunnel => (4, NETWORK_ACTIVITY, "Network Activity"),
    }
}

fn endpoint(address: SocketAddr) -> Endpoint<'static> {
    Endpoint { hostname: None, ip: Some(address.ip().to_canonical().to_string()), port: address.port() }
}

fn target(host: &str, port: u16, address: Option<SocketAddr>) -> Endpoint<'_> {
    Endpoint {
        hostname: Some(clip(host, HOST)),
        ip: address.map(|address| address.ip().to_canonical().to_string()),
        port,
    }
}

#[derive(Serialize)]
struct Ocsf<'a> {
    time: u64,
    category_uid: u32,
    class_uid: u32,
    class_name: &'static str,
    activity_id: u32,
    activity_name: &'static str,
    type_uid: u32,
    severity_id: u8,
    status_id: u8,
    status_code: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    status_detail: Cow<'a, str>,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    action_id: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disposition_id: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<Policy<'a>>,
    actor: Actor<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<User<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<Session<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<Service>,
    #[serde(skip_serializing_if = "Option::is_none")]
    privileges: Option<[Cow<'a, str>; 1]>,
    src_endpoint: Endpoint<'static>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dst_endpoint: Option<Endpoint<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<File<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traffic: Option<Traffic>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration: Option<u64>,
    unmapped: Unmapped<'a>,
    metadata: Metadata<'a>,
}

#[derive(Serialize)]
struct Metadata<'a> {
    version: &'static str,
    product: Product,
    log_name: &'static str,
    profiles: Vec<&'static str>,
    sequence: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant_uid: Option<Cow<'a, str>>,
}

#[derive(Serialize)]
struct Product {
    name: &'static str,
    vendor_name: &'static str,
    version: &'static str,
}

#[derive(Serialize)]
struct Policy<'a> {
    name: Cow<'a, str>,
    is_applied: bool,
}

#[derive(Serialize)]
struct Actor<'a> {
    user: User<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<Session<'a>>,
}

/// `type_id`: 0 Unknown, 1 User.
#[derive(Clone, Serialize)]
struct User<'a> {
    name: Cow<'a, str>,
    type_id: u8,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<Named<'a>>,
}

#[derive(Clone, Serialize)]
struct Named<'a> {
    name: Cow<'a, str>,
}

#[derive(Clone, Serialize)]
struct Session<'a> {
    uid: Cow<'a, str>,
}

#[derive(Serialize)]
struct Service {
    name: &'static str,
}

#[derive(Serialize)]
struct Endpoint<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    hostname: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip: Option<String>,
    port: u16,
}

#[derive(Serialize)]
struct File<'a> {
    name: Cow<'a, str>,
    path: Cow<'a, str>,
    type_id: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hashes: Option<[Hash; 1]>,
}

#[derive(Serialize)]
struct Hash {
    algorithm_id: u8,
    algorithm: &'static str,
    value: String,
}

#[derive(Serialize)]
struct Traffic {
    bytes: u64,
    bytes_in: u64,
    bytes_out: u64,
}

#[derive(Serialize)]
struct Unmapped<'a> {
    event: &'static str,
    action: &'static str,
    way: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    links: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    asked: Option<Cow<'a, str>>,
}

pub(super) const PRODUCT: &str = "Metra gateway";
pub(super) const VENDOR: &str = "Metra";
/// The category Identity and Access Management.
const IAM: u32 = 3;
const NETWORK_ACTIVITY: u32 = 4001;
