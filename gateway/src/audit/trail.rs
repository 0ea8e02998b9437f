//! What the call sites say: one line each, from what they have at hand.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use metra_core::code::Code;
use metra_core::rate::RatePolicy;
use metra_core::wire::Finished;
use metra_policy::audit::{Action, Event, Record, Resource, Traffic, Verdict, Way};
use metra_session::{JobError, LinkHandle};
use metra_transport::LinkKind;
use metra_tunnel::proto::Target;

use super::{Audit, ON_FAILURE, UNWRITABLE};
use crate::account::Account;
use crate::authority::policies_in;
use crate::open::{Joined, Refused};
use crate::sessions::{Live, unix_millis};

impl Audit {
    /// A connection has become a link of a session, or not. What nobody decided on is no decision: who went away, was too slow, or
    /// does not speak the protocol.
    pub(crate) fn opened(&self, kind: LinkKind, peer: SocketAddr, opened: &Result<Joined, Refused>) {
        let mut record = new(Event::Decision, Action::Session, way(kind), peer);
        match opened {
            Ok(joined) => {
                owner(&mut record, &joined.account);
                record.session = Some(joined.session.to_string());
                record.rule = Some(joined.by.clone().into_owned());
                record.verdict = Some(Verdict::Permitted);
            }
            Err(Refused { code: Code::Timeout | Code::Cancelled | Code::Protocol, .. }) => return,
            Err(refused) => {
                record.user = refused.user.clone();
                judge(&mut record, refused.code, &refused.reason);
            }
        }
        self.record(record);
    }

    /// A request of a session was answered: with `Ok`, and how many entries that was, or not; `by` the policies that permit it, if there
    /// are any.
    pub(crate) fn decided(
        &self,
        live: &Live,
        link: &LinkHandle,
        action: Action,
        path: &str,
        by: Option<String>,
        result: Result<u64, &(Code, String)>,
    ) {
        let mut record = of(live, link, Event::Decision, action);
        record.resource = Resource::Path(path.to_owned());
        match result {
            Ok(count) => {
                judge(&mut record, Code::Ok, "");
                record.files = Some(count);
            }
            Err((code, reason)) => judge(&mut record, *code, reason),
        }
        permitted_by(&mut record, by);
        self.record(record);
    }

    /// A rate policy was asked for, and this was granted; `by` the policies that decided, if any did.
    pub(crate) fn rate(
        &self,
        live: &Live,
        link: &LinkHandle,
        asked: RatePolicy,
        granted: RatePolicy,
        by: Option<String>,
    ) {
        let mut record = of(live, link, Event::Decision, Action::Rate);
        record.resource = Resource::Rate { asked: rate(asked), granted: rate(granted) };
        record.rule = Some(by.unwrap_or_else(|| "rates".to_owned()));
        let is_granted = asked.policy() == granted.policy();
        record.verdict = Some(if is_granted { Verdict::Permitted } else { Verdict::Refused });
        self.record(record);
    }

    /// A job is permitted, `by` policies if there are any, and begins.
    pub(crate) fn transfer(
        &self,
        live: &Live,
        link: &LinkHandle,
        action: Action,
        path: &str,
        by: Option<String>,
        job: u64,
    ) -> Transfer {
        let mut record = of(live, link, Event::Decision, action);
        record.resource = Resource::Path(path.to_owned());
        record.job = Some(job);
        judge(&mut record, Code::Ok, "");
        permitted_by(&mut record, by);
        self.record(record.clone());
        record.verdict = None;
        record.event = Event::TransferStart;
        self.record(record.clone());
        record.event = Event::TransferEnd;
        Transfer { audit: self.clone(), record: Some(record), began: self.0.rt.now() }
    }

    /// Somebody asks for a tunnel.
    pub(crate) fn tunnel(&self, peer: SocketAddr, target: Option<&Target>) -> TunnelTrail {
        let mut record = new(Event::Decision, Action::Tunnel, Way::Http, peer);
        if let Some(target) = target {
            record.resource =
                Resource::Target { host: target.host().to_owned(), port: target.port(), address: None };
        }
        TunnelTrail { audit: self.clone(), record }
    }
}

/// A transfer that runs. Its end is recorded once, also if the task that it runs in ends first.
pub(crate) struct Transfer {
    audit: Audit,
    record: Option<Record>,
    began: Instant,
}

impl Transfer {
    /// It has ended.
    pub(crate) fn ended(mut self, live: &Live, result: Result<&Finished, &JobError>) {
        let Some(record) = &mut self.record else { return };
        record.links = Some(links(live));
        match result {
            Ok(finished) => {
                record.bytes = Some(finished.bytes);
                record.files = Some(finished.entries);
                record.failed = Some(finished.failed);
                record.root = Some(finished.root.0);
            }
            Err(error) => {
                record.code = error.code.name();
                record.reason = error.reason.clone();
            }
        }
        self.write();
    }

    fn write(&mut self) {
        let Some(mut record) = self.record.take() else { return };
        record.time = unix_millis();
        record.duration = Some(self.audit.since(self.began));
        self.audit.record(record);
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        if let Some(record) = &mut self.record {
            (record.code, record.reason) = cut();
        }
        self.write();
    }
}

/// A tunnel that is asked for.
#[derive(Clone)]
pub(crate) struct TunnelTrail {
    audit: Audit,
    record: Record,
}

/// A tunnel that stands. Its end is recorded once, however it ends.
pub(crate) struct TunnelRun {
    trail: TunnelTrail,
    began: Instant,
}

impl TunnelTrail {
    /// Whose it is.
    pub(crate) fn user(&mut self, account: &Account) {
        owner(&mut self.record, account);
    }

    /// Which rule decides, from here on.
    pub(crate) fn rule(&mut self, rule: impl Into<String>) {
        self.record.rule = Some(rule.into());
    }

    /// What is dialled.
    pub(crate) fn dialled(&mut self, to: SocketAddr) {
        if let Resource::Target { address, .. } = &mut self.record.resource {
            *address = Some(to);
        }
    }

    /// It was granted.
    pub(crate) fn permitted(&mut self) {
        self.decided(Verdict::Permitted, Code::Ok.name(), "");
    }

    /// It was not. `code` is the outcome that the metrics have.
    pub(crate) fn refused(&mut self, code: &'static str, reason: &str) {
        match code {
            // What is no request cannot be decided on. A target that is none is somebody's.
            "malformed" if self.record.user.is_none() => return,
            "unauthenticated" => self.rule("credentials"),
            "denied" => {
                if let Some(policies) = policies_in(reason) {
                    self.record.rule = Some(policies.to_owned());
                }
            }
            _ => {}
        }
        // The rules allow it, but there is no way to it.
        let is_allowed = matches!(code, "unresolved" | "failed");
        self.decided(if is_allowed { Verdict::Permitted } else { Verdict::Refused }, code, reason);
    }

    /// It stands.
    pub(crate) fn begin(mut self) -> TunnelRun {
        self.record.time = unix_millis();
        self.record.event = Event::TunnelStart;
        self.record.verdict = None;
        self.audit.record(self.record.clone());
        self.record.event = Event::TunnelEnd;
        (self.record.code, self.record.reason) = cut();
        TunnelRun { began: self.audit.0.rt.now(), trail: self }
    }

    fn decided(&mut self, verdict: Verdict, code: &'static str, reason: &str) {
        let verdict = Some(verdict);
        self.audit.record(Record { verdict, code, reason: reason.to_owned(), ..self.record.clone() });
    }
}

impl TunnelRun {
    /// It ends in order, and this went through it.
    pub(crate) fn ended(&mut self, how: &str, traffic: Option<Traffic>) {
        let record = &mut self.trail.record;
        record.code = Code::Ok.name();
        record.reason = how.to_owned();
        record.traffic = traffic;
    }
}

impl Drop for TunnelRun {
    fn drop(&mut self) {
        let TunnelTrail { audit, record } = &self.trail;
        let duration = Some(audit.since(self.began));
        audit.record(Record { time: unix_millis(), duration, ..record.clone() });
    }
}

impl Audit {
    fn since(&self, began: Instant) -> Duration {
        self.0.rt.now().saturating_duration_since(began)
    }
}

fn new(event: Event, action: Action, way: Way, peer: SocketAddr) -> Record {
    Record::new(unix_millis(), event, action, way, peer)
}

/// A record of what a session does, which came over this link.
pub(super) fn of(live: &Live, link: &LinkHandle, event: Event, action: Action) -> Record {
    let mut record = new(event, action, way(link.link().kind()), link.link().peer());
    owner(&mut record, live.account());
    record.session = Some(live.id().to_string());
    record.links = Some(links(live));
    record
}

/// Whose it is.
fn owner(record: &mut Record, account: &Account) {
    record.user = Some(account.name.clone());
    record.groups = account.groups.clone();
    record.tenant = account.tenant.clone();
}

/// What came of a request, and by which rule.
fn judge(record: &mut Record, code: Code, reason: &str) {
    let is_refusal = matches!(
        code,
        Code::Denied
            | Code::Unauthenticated
            | Code::Busy
            | Code::Limit
            | Code::Draining
            | Code::Version
            | Code::BadName
            | Code::Protocol
    );
    record.verdict = Some(if is_refusal { Verdict::Refused } else { Verdict::Permitted });
    record.code = code.name();
    record.reason = reason.to_owned();
    let rule = match code {
        Code::Busy if reason == UNWRITABLE => Some(ON_FAILURE),
        Code::Busy | Code::Limit => Some("limits"),
        Code::Draining => Some("shutdown"),
        Code::Unauthenticated => Some("credentials"),
        Code::Version | Code::BadName | Code::Protocol => None,
        _ => match record.action {
            Action::Push | Action::Remove => Some("user.write"),
            Action::Pull | Action::List => Some("user.read"),
            _ => None,
        },
    };
    // Other reasons may hold what the peer has written.
    let policies = if code == Code::Denied { policies_in(reason) } else { None };
    record.rule = policies.or(rule).map(ToOwned::to_owned);
}

/// Where policies are asked, what is permitted is so by them.
fn permitted_by(record: &mut Record, policies: Option<String>) {
    if record.verdict == Some(Verdict::Permitted) && policies.is_some() {
        record.rule = policies;
    }
}

fn links(live: &Live) -> u32 {
    u32::try_from(live.session().links().len()).unwrap_or(u32::MAX)
}

fn way(kind: LinkKind) -> Way {
    match kind {
        LinkKind::Masque => Way::Masque,
        LinkKind::Tls => Way::Tls,
        LinkKind::WebSocket => Way::Ws,
        _ => Way::Quic,
    }
}

fn rate(policy: RatePolicy) -> String {
    match policy.rate() {
        Some(rate) => format!("{} {rate} bit/s", policy.policy().name()),
        None => policy.policy().name().to_owned(),
    }
}

/// Of what ended because its task did: a shutdown, or making way for others.
fn cut() -> (&'static str, String) {
    (Code::Cancelled.name(), "cut off".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_rule_is_what_policies_say_and_not_the_peer() {
        let rule = |code, reason: &str| {
            let mut record = new(Event::Decision, Action::Pull, Way::Quic, "192.0.2.1:1".parse().unwrap());
            judge(&mut record, code, reason);
            record.rule
        };
        let named = |name: &str| Some(name.to_owned());
        let path = "/x is denied: policy forged";
        assert_eq!(rule(Code::Denied, "get on /a is denied: policy secret"), named("secret"));
        assert_eq!(rule(Code::Denied, "get on /a is denied: no policy permits it"), named("default"));
        assert_eq!(rule(Code::Denied, &format!("get on {path} is denied: policy a, b")), named("a, b"));
        assert_eq!(rule(Code::Denied, "you may not list here"), named("user.read"));
        assert_eq!(rule(Code::NotFound, &format!("{path}: no such file")), named("user.read"));
        assert_eq!(rule(Code::BadName, path), None);
    }
}
