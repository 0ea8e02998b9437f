//! The table of decisions, `tests/vectors/decisions.toml`: asked of one gateway over every way in, and looked up in its audit trail.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use metra_core::code::Code;
use metra_core::id::{Digest, JobId, JobKey};
use metra_core::priority::Priority;
use metra_core::rate::{Policy, RatePolicy};
use metra_core::wire::{Frame, Keep, Placement, Pull, Symlinks};
use metra_policy::Host;
use metra_policy::engine::{Action, Context, Engine, Principal, Request, Resource};
use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;

use crate::harness::echo::Echo;
use crate::harness::raw::{Manifest, runtime};
use crate::harness::tunnels::{Over, Tunnels};
use crate::harness::ways::{Opening, Way, Ways};
use crate::harness::{Bed, Gateway, PATIENCE};

tests![every_way_decides_the_same];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    users: BTreeMap<String, User>,
    decision: Vec<Rows>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rows {
    rows: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct User {
    #[serde(default)]
    groups: Vec<String>,
    tenant: Option<String>,
    home: Option<String>,
    read: Option<bool>,
    write: Option<bool>,
    tunnel: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    who: String,
    #[serde(rename = "do")]
    what: What,
    #[serde(default)]
    on: String,
    by: Option<String>,
    from: Option<Ipv4Addr>,
    size: Option<usize>,
    #[serde(default)]
    inspected: bool,
    may: May,
    because: Vec<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum What {
    Open,
    Send,
    Get,
    List,
    Delete,
    Rate,
    Tunnel,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum May {
    Is(bool),
    /// The job, but not the file in it.
    Entry(Entry),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Entry {
    Entry,
}

impl Row {
    /// Whether the names in `because` are those of policies.
    fn is_by_policies(&self) -> bool {
        !self.because.iter().any(|name| name.contains('.') || ["credentials", "rates"].contains(&&**name))
    }

    fn is_allowed(&self) -> bool {
        matches!(self.may, May::Is(true))
    }

    fn from(&self) -> Ipv4Addr {
        self.from.unwrap_or(Ipv4Addr::LOCALHOST)
    }

    /// The ways by name, as far as these are all.
    fn by<T: Copy>(&self, all: &[T], name: impl Fn(T) -> &'static str) -> Vec<T> {
        let Some(by) = &self.by else { return all.to_vec() };
        let way = |word| *all.iter().find(|way| name(**way) == word).unwrap_or_else(|| panic!("{word}"));
        by.split(' ').map(way).collect()
    }

    /// Asked, as a client would hear it: nothing if it is allowed, else why not.
    fn check(&self, way: &str, answer: Result<(), String>) {
        match (&self.may, answer) {
            (May::Is(true), Ok(())) => {}
            (May::Is(false) | May::Entry(_), Err(reason)) => {
                // A client is told which policies it was, or that it was none. Others have words of their own.
                let said = match self.because.join(", ") {
                    _ if !self.is_by_policies() => return,
                    by if by == "default" => "no policy permits it".to_owned(),
                    by => format!("policy {by}"),
                };
                assert!(reason.ends_with(&said), "{way} {self:?}: {reason}");
            }
            (_, answer) => panic!("{way} {self:?}: {answer:?}"),
        }
    }
}

/// A decision, as the audit trail has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Fact {
    action: String,
    way: String,
    user: String,
    /// Path, target, or rate policy that was asked for.
    of: String,
    permitted: bool,
    rule: String,
}

fn every_way_decides_the_same(bed: &Bed) {
    let table: Table = toml::from_str(include_str!("../vectors/decisions.toml")).unwrap();
    let mut place = Place::new(bed, &table.users);
    let (mut decisions, mut distinct) = (0, 0);
    for row in table.decision.iter().flat_map(|rows| &rows.rows) {
        distinct += 1;
        decisions += place.ask(row);
    }
    let Place { expected, trail, .. } = &mut place;
    expected.sort();
    // It is written soon.
    let enough = || facts(trail).len() >= expected.len();
    let began = std::time::Instant::now();
    while !enough() && began.elapsed() < PATIENCE / 6 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let recorded = facts(trail);
    let mut counts: BTreeMap<&Fact, (usize, usize)> = BTreeMap::new();
    expected.iter().for_each(|fact| counts.entry(fact).or_default().0 += 1);
    recorded.iter().for_each(|fact| counts.entry(fact).or_default().1 += 1);
    counts.retain(|_, (expected, recorded)| expected != recorded);
    assert!(counts.is_empty(), "how often it is expected, and recorded: {counts:#?}");
    println!("{decisions} decisions of {distinct} rows, {} records", recorded.len());
    assert!(decisions >= 200 && distinct >= 60);
}

/// All decisions in the trail, sorted.
fn facts(trail: &Path) -> Vec<Fact> {
    let text = fs::read_to_string(trail).unwrap_or_default();
    let records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    // Refusals with a job are of what it leaves out of a tree.
    let of_rows = |record: &Value| {
        let is_permitted = record["action_id"] == 1;
        record["unmapped"]["event"] == "decision" && (is_permitted || record["unmapped"]["job"].is_null())
    };
    let decisions = records.filter(of_rows);
    let mut facts: Vec<Fact> = decisions
        .map(|record| {
            let target = &record["dst_endpoint"];
            let of = [&record["file"]["path"], &record["unmapped"]["asked"]].map(text).concat();
            Fact {
                action: text(&record["unmapped"]["action"]),
                way: text(&record["unmapped"]["way"]),
                user: text(&record["actor"]["user"]["name"]),
                of: match target["port"].as_u64() {
                    Some(port) => format!("{}:{port}", text(&target["hostname"]) + &text(&target["ip"])),
                    None => of,
                },
                permitted: record["action_id"] == 1,
                rule: text(&record["policy"]["name"]),
            }
        })
        .collect();
    facts.sort();
    facts
}

/// A gateway with the policies of the table, and sessions that are used again.
struct Place<'t> {
    users: &'t BTreeMap<String, User>,
    gateway: Gateway,
    engine: Engine,
    ways: Ways,
    tunnels: Tunnels,
    echo: Echo,
    sessions: HashMap<(String, Way, Ipv4Addr, bool), (Opening, u64)>,
    opened: Vec<Opening>,
    trail: PathBuf,
    expected: Vec<Fact>,
}

impl<'t> Place<'t> {
    fn new(bed: &Bed, users: &'t BTreeMap<String, User>) -> Self {
        let policies = bed.write("decisions.cedar", policies());
        let text = fs::read_to_string(&policies).unwrap();
        let engine = Engine::parse(&[("decisions.cedar", text)]).unwrap();
        let trail = bed.path("audit.log");
        let mut config = format!(
            "[policy]\nfiles = [{policies:?}]\n[audit.file]\npath = {trail:?}\nsync_seconds = 0\n[limits]\nsessions_per_user = 1000\nsessions_per_address = 1000\n\
             [rates]\nhigh = true\nfixed_mbit = 1000\n[tunnel]\nallow = [\"*:*\"]\ndangerous_ranges = [\"127.0.0.1/32\"]\n"
        );
        for (name, user) in users {
            let hash = Digest::of(token(name).as_bytes());
            config +=
                &format!("[users.{name}]\ntoken_hash = \"blake3:{hash}\"\ngroups = {:?}\n", user.groups);
            let texts = [("tenant", &user.tenant), ("home", &user.home)];
            for (key, value) in texts.into_iter().filter_map(|(key, value)| Some((key, value.as_ref()?))) {
                config += &format!("{key} = {value:?}\n");
            }
            let flags = [("read", user.read), ("write", user.write), ("tunnel", user.tunnel)];
            for (key, flag) in flags.into_iter().filter_map(|(key, flag)| Some((key, flag?))) {
                config += &format!("{key} = {flag}\n");
            }
        }
        for path in FILES {
            bed.write(&format!("root/{path}"), "there");
        }
        let gateway = bed.gateway_with(&config);
        Self {
            users,
            engine,
            ways: Ways::new(&gateway),
            tunnels: Tunnels::new(&runtime(), &gateway),
            gateway,
            echo: Echo::start(),
            sessions: HashMap::new(),
            opened: Vec::new(),
            trail,
            expected: Vec::new(),
        }
    }

    /// Asks a row over all its ways; how many those are.
    fn ask(&mut self, row: &Row) -> usize {
        if row.what == What::Tunnel {
            let all = row.by(&Over::ALL, Over::name);
            for over in &all {
                self.explain(row, "http");
                self.tunnel(row, *over);
            }
            return all.len();
        }
        let all = row.by(&Way::ALL, Way::name);
        for way in &all {
            self.explain(row, way.name());
            match row.what {
                What::Open => self.open(row, *way),
                _ => self.within(row, *way),
            }
        }
        all.len()
    }

    /// Which policies `metra policy explain` names for what is allowed.
    fn explain(&self, row: &Row, way: &'static str) {
        if row.is_allowed() {
            assert_eq!(self.permits(row, row.what, way), row.because.join(", "), "{way} {row:?}");
        }
    }

    /// The policies that permit `what` to the user of a row.
    fn permits(&self, row: &Row, what: What, way: &'static str) -> String {
        let user = &self.users[&row.who];
        let (groups, tenant) = (user.groups.clone(), user.tenant.clone());
        let mut context = Context::new(row.from().into(), way, now());
        context.inspected = row.inspected;
        let (action, resource) = match what {
            What::Open => (Action::OpenSession, Resource::Gateway),
            What::Rate => {
                let (name, mbit) = row.on.split_once(' ').unwrap_or((&row.on, ""));
                context.rate = ["fixed", "high", "low"].into_iter().find(|one| *one == name);
                context.mbit = mbit.parse().ok();
                (Action::UseRate, Resource::Gateway)
            }
            What::Tunnel => {
                let (host, port) = self.target(row);
                (Action::OpenTunnel, Resource::Target { host: Host::parse(&host).unwrap(), port })
            }
            What::Send => (Action::Send, self.path(row)),
            What::Get => (Action::Get, self.path(row)),
            What::List => (Action::List, self.path(row)),
            What::Delete => (Action::Delete, self.path(row)),
        };
        let principal = Principal { user: row.who.clone(), groups, tenant };
        let decision = self.engine.decide(&Request { principal, action, resource, context });
        assert!(decision.allowed, "{way} {row:?}");
        let by: Vec<String> = decision.policies.into_iter().map(|policy| policy.id).collect();
        by.join(", ")
    }

    fn open(&mut self, row: &Row, way: Way) {
        let mut link = self.ways.connect(way, row.from(), row.inspected);
        let answer = link.greet(&token(&row.who));
        if let Err((code, _)) = &answer {
            let is_known = self.users.contains_key(&row.who);
            assert_eq!(*code, if is_known { Code::Denied } else { Code::Unauthenticated }, "{row:?}");
        }
        row.check(way.name(), answer.map_err(|(_, reason)| reason));
        self.below(way);
        self.note(row, "session", way.name(), String::new());
        // Who leaves before the handshake is confirmed has not come in.
        self.opened.push(link);
    }

    /// What a session may do.
    fn within(&mut self, row: &Row, way: Way) {
        let key = (row.who.clone(), way, row.from(), row.inspected);
        // A session has 16 jobs at most, those among them that it remembers.
        let kept = self.sessions.remove(&key).filter(|(_, jobs)| *jobs < 12);
        let (mut session, jobs) = kept.unwrap_or_else(|| {
            let mut session = self.ways.connect(way, row.from(), row.inspected);
            session.greet(&token(&row.who)).unwrap();
            self.below(way);
            let (user, by) = (row.who.clone(), self.permits(row, What::Open, way.name()));
            self.fact("session", way.name(), user, String::new(), true, &by);
            (session, 0)
        });
        let number = jobs + 1;
        let file = self.file(row);
        match row.what {
            What::Send => {
                let _ = fs::remove_file(&file);
                let content = vec![b'x'; row.size.unwrap_or(5)];
                let manifest = Manifest::default().file("f", &content);
                let raw = &mut session.raw;
                let outcome =
                    raw.push_at(JobId(number), &row.on, Placement::As, &manifest, manifest.honest());
                let entry = outcome.statuses.iter().find(|status| status.code != Code::Ok);
                let answer = match (outcome.failed, entry) {
                    (Some((code, reason)), _) => {
                        assert_eq!(code, Code::Denied, "{row:?} {reason}");
                        assert!(matches!(row.may, May::Is(false)), "{row:?} {reason}");
                        Err(reason)
                    }
                    (None, Some(status)) => {
                        assert!(matches!(row.may, May::Entry(_)), "{row:?} {status:?}");
                        Err(status.reason.clone())
                    }
                    (None, None) => Ok(()),
                };
                row.check(way.name(), answer);
                let arrived = fs::read(&file).ok();
                assert_eq!(arrived, row.is_allowed().then_some(content), "{row:?}");
                self.note(row, "push", way.name(), row.on.clone());
            }
            What::Get => {
                row.check(way.name(), get(&mut session, JobId(number), &row.on));
                self.note(row, "pull", way.name(), row.on.clone());
            }
            What::List => {
                let frame = Frame::List { request: number, path: row.on.clone(), depth: 1 };
                row.check(way.name(), result(&mut session, &frame));
                self.note(row, "list", way.name(), row.on.clone());
            }
            What::Delete => {
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(&file, "there").unwrap();
                let frame = Frame::Remove { request: number, path: row.on.clone(), recursive: false };
                row.check(way.name(), result(&mut session, &frame));
                assert_eq!(file.exists(), !row.is_allowed(), "{row:?}");
                self.note(row, "remove", way.name(), row.on.clone());
            }
            What::Rate => {
                let asked = rate(&row.on);
                session.raw.say(&Frame::Rate(asked));
                let granted = loop {
                    if let Frame::Granted(granted) = session.raw.next().unwrap() {
                        break granted;
                    }
                };
                let due = if row.is_allowed() { asked.policy() } else { Policy::Fair };
                assert_eq!(granted.policy(), due, "{way:?} {row:?}");
                let of = match asked.rate() {
                    Some(rate) => format!("{} {rate} bit/s", asked.policy().name()),
                    None => row.on.clone(),
                };
                self.note(row, "rate", way.name(), of);
            }
            What::Open | What::Tunnel => unreachable!("not within a session"),
        }
        self.sessions.insert(key, (session, number));
    }

    fn tunnel(&mut self, row: &Row, over: Over) {
        let (host, port) = self.target(row);
        let before = self.echo.got();
        let answer = self.tunnels.ask(over, &token(&row.who), row.from(), &format!("{host}/{port}"));
        assert_eq!(answer.tunnel.is_some(), row.is_allowed(), "{over:?} {row:?}: {}", answer.error);
        let status = match (&*row.because[0], over) {
            ("credentials", _) => 407,
            ("tunnel.target", _) => 400,
            ("tunnel.dangerous_ranges" | "guests-not-inside", _) => 502,
            (_, Over::H1) if row.is_allowed() => 101,
            _ if row.is_allowed() => 200,
            _ => 403,
        };
        assert_eq!(answer.status, status, "{over:?} {row:?}: {}", answer.error);
        if let Some(tunnel) = &answer.tunnel {
            assert!(self.tunnels.echoes(tunnel), "{over:?} {row:?}");
        }
        assert_eq!(self.echo.got() > before, row.is_allowed(), "{over:?} {row:?}");
        let mut of = format!("{host}:{port}");
        if row.is_allowed() {
            // What was dialled.
            of = format!("{host}{host}:{port}");
        }
        self.note(row, "tunnel", "http", of);
    }

    /// What the trail must have of a row.
    fn note(&mut self, row: &Row, action: &str, way: &'static str, of: String) {
        let permitted = !matches!(row.may, May::Is(false));
        let by = if permitted { self.permits(row, row.what, way) } else { row.because.join(", ") };
        let user = if self.users.contains_key(&row.who) { &row.who } else { "unknown" };
        self.fact(action, way, user.to_owned(), of, permitted, &by);
    }

    /// A link in a tunnel: the tunnel to the gateway itself is decided on, too.
    fn below(&mut self, way: Way) {
        if way == Way::Masque {
            let of = self.gateway.address().to_string();
            self.fact("tunnel", "http", "unknown".to_owned(), of, true, "tunnel.own");
        }
    }

    fn fact(&mut self, action: &str, way: &str, user: String, of: String, permitted: bool, rule: &str) {
        let (action, way, rule) = (action.to_owned(), way.to_owned(), rule.to_owned());
        self.expected.push(Fact { action, way, user, of, permitted, rule });
    }

    fn home(&self, row: &Row) -> &str {
        self.users.get(&row.who).and_then(|user| user.home.as_deref()).unwrap_or_default()
    }

    fn path(&self, row: &Row) -> Resource {
        Resource::path(&format!("{}/{}", self.home(row), row.on))
    }

    fn file(&self, row: &Row) -> PathBuf {
        self.gateway.root().join(self.home(row)).join(row.on.trim_start_matches('/'))
    }

    fn target(&self, row: &Row) -> (String, u16) {
        let (host, port) = row.on.rsplit_once(':').unwrap();
        let own = self.echo.address().port();
        (host.to_owned(), if port == "PORT" { own } else { port.parse().unwrap() })
    }
}

/// Fetches something, until the first of it is announced.
fn get(session: &mut Opening, job: JobId, path: &str) -> Result<(), String> {
    let raw = &mut session.raw;
    let key = JobKey(Digest::of(format!("{job:?} {path}").as_bytes()));
    let keep = Keep { mode: false, times: false };
    let (paths, filters, symlinks) = (vec![path.to_owned()], Vec::new(), Symlinks::Keep);
    let priority = Priority::NORMAL;
    raw.say(&Frame::Pull(Pull { job, key, paths, filters, symlinks, keep, priority }));
    loop {
        let frame = raw.next().unwrap();
        if frame.job() != Some(job) {
            continue;
        }
        match frame {
            Frame::Fail { code, reason, .. } => {
                assert_eq!(code, Code::Denied, "{reason}");
                return Err(reason);
            }
            Frame::Opened { .. } => raw.say(&Frame::Ready { job, from_record: 0 }),
            Frame::Records { records, .. } => {
                assert!(!records.is_empty());
                raw.say(&Frame::Fail { job, code: Code::Cancelled, reason: "enough".to_owned() });
                return Ok(());
            }
            _ => {}
        }
    }
}

/// Asks for something that is answered with a result.
fn result(session: &mut Opening, frame: &Frame) -> Result<(), String> {
    session.raw.say(frame);
    loop {
        match session.raw.next().unwrap() {
            Frame::Result { code: Code::Ok, .. } => return Ok(()),
            Frame::Result { code, reason, .. } => {
                assert_eq!(code, Code::Denied, "{reason}");
                return Err(reason);
            }
            _ => {}
        }
    }
}

fn rate(text: &str) -> RatePolicy {
    let (name, mbit) = text.split_once(' ').unwrap_or((text, ""));
    let policy = Policy::ALL.into_iter().find(|policy| policy.name() == name).unwrap();
    RatePolicy::new(policy, mbit.parse::<u64>().ok().map(|mbit| mbit * 1_000_000)).unwrap()
}

fn token(user: &str) -> String {
    format!("{user}-token-0123456789")
}

/// The policies, with times around now.
fn policies() -> String {
    let moment = |seconds: u64| {
        let at = OffsetDateTime::from_unix_timestamp(seconds.cast_signed()).unwrap();
        let (date, (hour, minute, second)) = (at.date(), at.to_hms());
        format!("{date}T{hour:02}:{minute:02}:{second:02}Z")
    };
    let other = OffsetDateTime::from_unix_timestamp((now() + 3 * DAY).cast_signed()).unwrap();
    include_str!("../vectors/decisions.cedar")
        .replace("\"SOON\"", &format!("{:?}", moment(now() + HOUR)))
        .replace("\"LATELY\"", &format!("{:?}", moment(now() - HOUR)))
        .replace("== OTHERDAY", &format!("== {}", other.weekday().number_from_monday()))
}

/// Seconds since the epoch.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// What there is to fetch, list and remove.
const FILES: [&str; 10] = [
    "public/a",
    "public/.hidden",
    "projects/plan",
    "projects/closed/old",
    "projects/secret/key",
    "incoming/there",
    "incoming/keep",
    "tenants/acme/books",
    "tenants/bank/books",
    "homes/grace/note",
];
