//! The gate of one job: policies, then rules, then services.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use metra_core::code::Code;
use metra_core::id::JobKey;
use metra_icap::{IcapError, Outcome, Subject};
use metra_policy::content::{Action, HEAD, Kind, Otherwise, Scan};
use metra_store::landing::{Gate, Verdict, Whole};
use tokio::sync::watch;

use super::Content;
use super::quarantine::Note;
use super::reader::Reader;
use crate::audit::{FileTrail, Judged};
use crate::authority::{Asker, Authority, policies_in};
use crate::measure::{self, Examined, Scanned};

pub(super) struct JobGate {
    /// `None`: there are no rules.
    pub(super) content: Option<Arc<Content>>,
    pub(super) authority: Arc<Authority>,
    pub(super) asker: Asker,
    pub(super) trail: FileTrail,
    pub(super) user: String,
    pub(super) key: JobKey,
    /// From the gateway's root to the user's; empty, or with a `/` at its end.
    pub(super) prefix: String,
    pub(super) cancelled: watch::Sender<bool>,
}

/// A file that is looked at.
struct Looked<'a> {
    file: &'a Whole<'a>,
    /// Below the gateway's root.
    path: String,
}

impl Gate for JobGate {
    /// Policies were asked already, by the guard of the landing.
    fn announced(&self, path: &str, size: Option<u64>) -> Result<(), (Code, String)> {
        let Some(content) = &self.content else { return Ok(()) };
        let within = format!("{}{path}", self.prefix);
        let Some(decision) = content.rules.announced(&within, size) else { return Ok(()) };
        // A manifest may have millions of them, at no cost to whoever sends it.
        tracing::debug!(
            user = self.user,
            path = within,
            reason = decision.reason,
            "a file was refused by its name or size"
        );
        measure::content(Examined::Refused);
        let rule = decision.rule.map(|rule| named(&rule));
        let rule = rule.as_deref();
        let reason = &decision.reason;
        self.trail.judged(&Judged { path, size, rule, code: Code::Denied, reason, looked: false });
        Err((Code::Denied, decision.reason))
    }

    fn examines(&self) -> bool {
        self.content.is_some() || self.authority.looks_at_whole_files()
    }

    fn examine(&self, file: &Whole<'_>) -> io::Result<Verdict> {
        let looked = Looked { file, path: format!("{}{}", self.prefix, file.path) };
        let head = head(file)?;
        let allowed = self.authority.may_keep(&self.asker, &looked.path, file.size, Kind::of(&head));
        if let Err(reason) = allowed {
            self.tell("refused", &looked.path, &reason);
            self.record(&looked, policies_in(&reason), Code::Denied, &reason, false);
            return Ok(Verdict::Refuse(Code::Denied, reason));
        }
        let Some(content) = &self.content else { return Ok(Verdict::Keep) };
        let decision = content.rules.decide(&looked.path, file.size, &head);
        let Some(rule) = decision.rule.map(|rule| named(&rule)) else { return Ok(self.keep()) };
        match decision.action {
            Action::Allow => Ok(self.keep()),
            Action::Refuse => Ok(self.refuse(&looked, &rule, Code::Denied, decision.reason, false)),
            Action::Quarantine => self.put_aside(content, &looked, &rule, decision.reason),
            // There is nothing to be found in it.
            Action::Scan(_) if file.size == 0 => Ok(self.keep()),
            Action::Scan(scan) => self.scan(content, &looked, scan, &rule, &decision.reason),
        }
    }

    fn cancel(&self) {
        self.cancelled.send_replace(true);
    }

    fn at_once(&self) -> usize {
        self.content.as_ref().map_or(1, |content| content.at_once)
    }
}

impl JobGate {
    fn scan(
        &self,
        content: &Content,
        looked: &Looked<'_>,
        scan: Scan,
        rule: &str,
        said: &str,
    ) -> io::Result<Verdict> {
        let (name, client) = &content.services[scan.service];
        if looked.file.size > scan.limit {
            measure::scanned(Scanned::TooLarge, None);
            // It will be as large the next time.
            let reason = format!("{said}: {}", scan.too_large());
            return Ok(self.unscanned(looked, scan, rule, Code::Denied, reason));
        }
        let began = Instant::now();
        let subject = Subject { path: looked.path.clone(), size: looked.file.size };
        let mut reader = Reader(&looked.file.content);
        let outcome = content.runtime.block_on(async {
            let mut cancelled = self.cancelled.subscribe();
            tokio::select! {
                biased;
                _ = cancelled.wait_for(|cancelled| *cancelled) => Err(io::Error::from(io::ErrorKind::Interrupted)),
                outcome = client.scan(&subject, &mut reader) => Ok(outcome),
            }
        })?;
        let took = Some(began.elapsed());
        match outcome {
            Outcome::Clean => {
                measure::scanned(Scanned::Clean, took);
                Ok(self.keep())
            }
            Outcome::Blocked { what, why } => {
                measure::scanned(Scanned::Found, took);
                self.found(content, looked, scan, rule, format!("{said}: {name} found {what} ({why})"))
            }
            Outcome::Modified { why } => {
                measure::scanned(Scanned::Modified, took);
                let reason = format!("{said}: {name} does not pass it on as it is ({why})");
                self.found(content, looked, scan, rule, reason)
            }
            // That is no answer of the service, whatever its failure would mean.
            Outcome::Failed(IcapError::Content(error)) => Err(error),
            Outcome::Failed(error) => {
                measure::scanned(Scanned::Failed, took);
                let reason = format!("{said}: it could not be scanned, {name} {error}; send it again later");
                Ok(self.unscanned(looked, scan, rule, Code::Busy, reason))
            }
        }
    }

    fn found(
        &self,
        content: &Content,
        looked: &Looked<'_>,
        scan: Scan,
        rule: &str,
        reason: String,
    ) -> io::Result<Verdict> {
        match scan.found {
            Otherwise::Refuse => Ok(self.refuse(looked, rule, Code::Denied, reason, true)),
            Otherwise::Quarantine => self.put_aside(content, looked, rule, reason),
        }
    }

    /// What happens to a file that nobody has looked into.
    fn unscanned(&self, looked: &Looked<'_>, scan: Scan, rule: &str, code: Code, reason: String) -> Verdict {
        let (what, code, examined) = match scan.allow_on_failure {
            true => ("kept without a scan", Code::Ok, Examined::Unscanned),
            false => ("refused", code, Examined::Refused),
        };
        self.tell(what, &looked.path, &reason);
        self.record(looked, Some(rule), code, &reason, true);
        measure::content(examined);
        if code == Code::Ok { Verdict::Keep } else { Verdict::Refuse(code, reason) }
    }

    fn keep(&self) -> Verdict {
        measure::content(Examined::Kept);
        Verdict::Keep
    }

    fn refuse(&self, looked: &Looked<'_>, rule: &str, code: Code, reason: String, scanned: bool) -> Verdict {
        self.tell("refused", &looked.path, &reason);
        self.record(looked, Some(rule), code, &reason, scanned);
        measure::content(Examined::Refused);
        Verdict::Refuse(code, reason)
    }

    fn put_aside(
        &self,
        content: &Content,
        looked: &Looked<'_>,
        rule: &str,
        reason: String,
    ) -> io::Result<Verdict> {
        let Looked { file, path } = looked;
        let note = Note { user: &self.user, key: self.key, path, size: file.size, reason: &reason };
        let placed = content.quarantine.place(&note, &mut Reader(&file.content), SystemTime::now());
        let to = placed.inspect_err(|error| {
            // It gets no name all the same.
            let reason = format!("{reason}, and it cannot be put aside: {error}");
            self.refuse(looked, rule, Code::WriteFailed, reason, true);
        })?;
        self.tell("put aside", path, &reason);
        measure::content(Examined::Quarantined);
        let reason = format!("quarantined: {reason}");
        self.record(looked, Some(rule), Code::Denied, &reason, true);
        Ok(Verdict::Quarantine(to, Code::Denied, reason))
    }

    fn tell(&self, what: &str, path: &str, reason: &str) {
        tracing::warn!(user = self.user, key = %self.key, path, reason, "a file was {what}");
    }

    fn record(&self, looked: &Looked<'_>, rule: Option<&str>, code: Code, reason: &str, scanned: bool) {
        let Looked { file, .. } = looked;
        let (path, size) = (file.path, Some(file.size));
        self.trail.judged(&Judged { path, size, rule, code, reason, looked: scanned });
    }
}

/// A rule, as the audit trail has it.
fn named(id: &str) -> String {
    format!("content.{id}")
}

/// The first bytes of a file.
fn head(file: &Whole<'_>) -> io::Result<Vec<u8>> {
    let mut head = vec![0; usize::try_from(file.size).unwrap_or(HEAD).min(HEAD)];
    file.content.read_exact_at(&mut head, 0)?;
    Ok(head)
}
