//! What is kept of what clients send: the rules of the policy, asked by the store, with services that scan.
//!
//! ```text
//! store landing::gate --announced--> rules: by name and size, before a byte is asked for
//!                     --examine----> rules: by name, size and first bytes --scan--> metra_icap::Client
//!                                       `--> keep | refuse | quarantine (a note beside the file)
//! ```
//!
//! The store asks on threads that may block, several files of a job at a time; the connections to a service are shared by
//! all jobs. What was kept once is not looked at again, whatever the rules are later.

mod quarantine;
mod reader;

use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use metra_core::code::Code;
use metra_core::id::JobKey;
use metra_icap::{Client, IcapError, Outcome, Subject};
use metra_policy::content::{Action, ContentRules, HEAD, Otherwise, Scan};
use metra_store::landing::{Gate, Verdict, Whole};
use tokio::runtime::Handle;
use tokio::sync::watch;

use self::quarantine::{Note, Quarantine};
use self::reader::Reader;
use crate::account::Account;
use crate::config::Config;
use crate::measure::{self, Examined, Scanned};

/// The rules and services of a gateway.
pub(crate) struct Content {
    rules: ContentRules,
    services: Vec<(String, Client)>,
    /// Where services are asked.
    runtime: Handle,
    quarantine: Quarantine,
    at_once: usize,
    root: PathBuf,
}

impl Content {
    /// Of a gateway that has rules. Makes the folder for what is put aside.
    ///
    /// # Errors
    /// The folder cannot be made, or this is called outside of tokio.
    pub(crate) fn open(config: &Config) -> io::Result<Option<Arc<Self>>> {
        let content = &config.content;
        if content.rules.is_empty() {
            return Ok(None);
        }
        let services = content.services.iter();
        Ok(Some(Arc::new(Self {
            rules: content.rules.clone(),
            services: services
                .map(|(name, settings)| (name.clone(), Client::new(settings.clone())))
                .collect(),
            runtime: Handle::try_current().map_err(io::Error::other)?,
            quarantine: Quarantine::open(&content.quarantine)?,
            at_once: content.at_once,
            root: config.root.clone(),
        })))
    }

    /// The gate for one job.
    pub(crate) fn gate(self: &Arc<Self>, account: &Account, key: JobKey) -> Arc<dyn Gate> {
        let below = account.home.strip_prefix(&self.root).unwrap_or(&account.home);
        let prefix = below.to_string_lossy();
        Arc::new(JobGate {
            content: self.clone(),
            user: account.name.clone(),
            key,
            prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}/") },
            cancelled: watch::Sender::new(false),
        })
    }
}

struct JobGate {
    content: Arc<Content>,
    user: String,
    key: JobKey,
    /// From the gateway's root to the user's; empty, or with a `/` at its end.
    prefix: String,
    cancelled: watch::Sender<bool>,
}

impl Gate for JobGate {
    fn announced(&self, path: &str, size: Option<u64>) -> Result<(), (Code, String)> {
        let path = format!("{}{path}", self.prefix);
        let Some(decision) = self.content.rules.announced(&path, size) else { return Ok(()) };
        // A manifest may have millions of them, at no cost to whoever sends it.
        tracing::debug!(
            user = self.user,
            path,
            reason = decision.reason,
            "a file was refused by its name or size"
        );
        measure::content(Examined::Refused);
        Err((Code::Denied, decision.reason))
    }

    fn examine(&self, file: &Whole<'_>) -> io::Result<Verdict> {
        let path = format!("{}{}", self.prefix, file.path);
        let head = head(file)?;
        let decision = self.content.rules.decide(&path, file.size, &head);
        match decision.action {
            Action::Allow => Ok(self.keep()),
            Action::Refuse => Ok(self.refuse(&path, decision.reason)),
            Action::Quarantine => self.put_aside(file, &path, decision.reason),
            // There is nothing to be found in it.
            Action::Scan(_) if file.size == 0 => Ok(self.keep()),
            Action::Scan(scan) => self.scan(file, &path, scan, &decision.reason),
        }
    }

    fn cancel(&self) {
        self.cancelled.send_replace(true);
    }

    fn at_once(&self) -> usize {
        self.content.at_once
    }
}

impl JobGate {
    fn scan(&self, file: &Whole<'_>, path: &str, scan: Scan, rule: &str) -> io::Result<Verdict> {
        let (name, client) = &self.content.services[scan.service];
        if file.size > scan.limit {
            measure::scanned(Scanned::TooLarge, None);
            // It will be as large the next time.
            return Ok(self.unscanned(path, scan, Code::Denied, format!("{rule}: {}", scan.too_large())));
        }
        let began = Instant::now();
        let subject = Subject { path: path.to_owned(), size: file.size };
        let mut content = Reader(&file.content);
        let mut cancelled = self.cancelled.subscribe();
        let outcome = self.content.runtime.block_on(async {
            tokio::select! {
                biased;
                _ = cancelled.wait_for(|cancelled| *cancelled) => Err(io::Error::from(io::ErrorKind::Interrupted)),
                outcome = client.scan(&subject, &mut content) => Ok(outcome),
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
                self.found(file, path, scan, format!("{rule}: {name} found {what} ({why})"))
            }
            Outcome::Modified { why } => {
                measure::scanned(Scanned::Modified, took);
                self.found(file, path, scan, format!("{rule}: {name} does not pass it on as it is ({why})"))
            }
            // That is no answer of the service, whatever its failure would mean.
            Outcome::Failed(IcapError::Content(error)) => Err(error),
            Outcome::Failed(error) => {
                measure::scanned(Scanned::Failed, took);
                let reason = format!("{rule}: it could not be scanned, {name} {error}; send it again later");
                Ok(self.unscanned(path, scan, Code::Busy, reason))
            }
        }
    }

    fn found(&self, file: &Whole<'_>, path: &str, scan: Scan, reason: String) -> io::Result<Verdict> {
        match scan.found {
            Otherwise::Refuse => Ok(self.refuse(path, reason)),
            Otherwise::Quarantine => self.put_aside(file, path, reason),
        }
    }

    /// What happens to a file that nobody has looked into.
    fn unscanned(&self, path: &str, scan: Scan, code: Code, reason: String) -> Verdict {
        if scan.allow_on_failure {
            self.tell("kept without a scan", path, &reason);
            measure::content(Examined::Unscanned);
            return Verdict::Keep;
        }
        self.tell("refused", path, &reason);
        measure::content(Examined::Refused);
        Verdict::Refuse(code, reason)
    }

    fn keep(&self) -> Verdict {
        measure::content(Examined::Kept);
        Verdict::Keep
    }

    fn refuse(&self, path: &str, reason: String) -> Verdict {
        self.tell("refused", path, &reason);
        measure::content(Examined::Refused);
        Verdict::Refuse(Code::Denied, reason)
    }

    fn put_aside(&self, file: &Whole<'_>, path: &str, reason: String) -> io::Result<Verdict> {
        let note = Note { user: &self.user, key: self.key, path, size: file.size, reason: &reason };
        let to = self.content.quarantine.place(&note, &mut Reader(&file.content), SystemTime::now())?;
        self.tell("put aside", path, &reason);
        measure::content(Examined::Quarantined);
        Ok(Verdict::Quarantine(to, Code::Denied, format!("quarantined: {reason}")))
    }

    fn tell(&self, what: &str, path: &str, reason: &str) {
        tracing::warn!(user = self.user, key = %self.key, path, reason, "a file was {what}");
    }
}

/// The first bytes of a file.
fn head(file: &Whole<'_>) -> io::Result<Vec<u8>> {
    let mut head = vec![0; usize::try_from(file.size).unwrap_or(HEAD).min(HEAD)];
    file.content.read_exact_at(&mut head, 0)?;
    Ok(head)
}
