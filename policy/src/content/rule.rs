//! Rules for files.

use std::fmt;
use std::str::FromStr;

use globset::{GlobBuilder, GlobMatcher};
use thiserror::Error;

use super::{Kind, KindPattern};

/// Rules in order.
#[derive(Clone, Debug, Default)]
pub struct ContentRules(Vec<ContentRule>);

/// What happens to files of some names, types and sizes. What a rule does not speak of matches everything.
#[derive(Clone, Debug)]
pub struct ContentRule {
    /// What it is called; empty: its number, from 1.
    pub id: String,
    /// Any of these; none: every name.
    pub names: Vec<NamePattern>,
    /// Any of these; none: every type.
    pub kinds: Vec<KindPattern>,
    /// The smallest and the largest file, both included. Bytes.
    pub size: (u64, u64),
    /// What happens.
    pub action: Action,
    /// What the client is told, if it is not let through; empty: which rule it was.
    pub reason: String,
}

/// What happens to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is kept.
    Allow,
    /// It is removed, and the client is told.
    Refuse,
    /// It is put aside where no client reaches it, and the client is told.
    Quarantine,
    /// A service is asked.
    Scan(Scan),
}

/// How a service is asked, and what follows from its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan {
    /// Which one: a number of the caller's.
    pub service: usize,
    /// If there is something in it: refuse or quarantine.
    pub found: Otherwise,
    /// Whether the file is kept if there is no answer (fail-open), or refused (fail-closed).
    pub allow_on_failure: bool,
    /// Larger files are not shown to the service: that is a failure. Bytes.
    pub limit: u64,
}

/// What happens to a file that is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Otherwise {
    /// It is removed.
    Refuse,
    /// It is put aside.
    Quarantine,
}

/// What the rules say of a file, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What happens.
    pub action: Action,
    /// Which rule, by its id; `None`: no rule matches, so it is allowed.
    pub rule: Option<String>,
    /// What the client is told if it is not let through.
    pub reason: String,
}

impl ContentRules {
    /// The first rule that matches decides.
    pub fn new(rules: Vec<ContentRule>) -> Self {
        Self(rules)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What can be said before the content is there: only that a file is refused, by its name and, if it is known, its size
    /// in bytes. A file that is to be scanned and too large for that is refused here if the failure would refuse it.
    pub fn announced(&self, path: &str, size: Option<u64>) -> Option<Decision> {
        for (at, rule) in self.0.iter().enumerate().filter(|(_, rule)| rule.names(path)) {
            let (min, max) = rule.size;
            let matches = match size {
                Some(size) => (min..=max).contains(&size),
                None if rule.size == ANY_SIZE => true,
                // It may match or not.
                None => return None,
            };
            if !matches {
                continue;
            }
            return match rule.action {
                _ if !rule.kinds.is_empty() => None,
                Action::Refuse => Some(rule.decision(at)),
                Action::Scan(scan)
                    if !scan.allow_on_failure && size.is_some_and(|size| size > scan.limit) =>
                {
                    Some(Decision {
                        action: Action::Refuse,
                        reason: format!("{}: {}", rule.reason(at), scan.too_large()),
                        rule: Some(rule.id(at)),
                    })
                }
                Action::Allow | Action::Quarantine | Action::Scan(_) => None,
            };
        }
        None
    }

    /// What happens to a file. `size` in bytes; `head`: all of it, or at least its first [`HEAD`](super::HEAD) bytes.
    pub fn decide(&self, path: &str, size: u64, head: &[u8]) -> Decision {
        let kind = Kind::of(head);
        let matches = |rule: &ContentRule| {
            rule.names(path)
                && (rule.size.0..=rule.size.1).contains(&size)
                && (rule.kinds.is_empty() || rule.kinds.iter().any(|k| k.matches(kind)))
        };
        match self.0.iter().position(matches) {
            Some(at) => self.0[at].decision(at),
            None => Decision { action: Action::Allow, rule: None, reason: String::new() },
        }
    }
}

impl Scan {
    /// What is said of a file that is larger than the limit.
    pub fn too_large(&self) -> String {
        format!("it is larger than the {} bytes that are scanned", self.limit)
    }
}

/// The sizes of a rule that does not speak of them.
const ANY_SIZE: (u64, u64) = (0, u64::MAX);

impl ContentRule {
    /// A rule that matches every file.
    pub fn all(action: Action) -> Self {
        Self {
            id: String::new(),
            names: Vec::new(),
            kinds: Vec::new(),
            size: ANY_SIZE,
            action,
            reason: String::new(),
        }
    }

    fn names(&self, path: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|name| name.matches(path))
    }

    fn decision(&self, at: usize) -> Decision {
        Decision { action: self.action, rule: Some(self.id(at)), reason: self.reason(at) }
    }

    fn id(&self, at: usize) -> String {
        if self.id.is_empty() { (at + 1).to_string() } else { self.id.clone() }
    }

    fn reason(&self, at: usize) -> String {
        match (self.reason.as_str(), self.action) {
            ("", Action::Refuse) => format!("refused by content rule {}", self.id(at)),
            ("", _) => format!("content rule {}", self.id(at)),
            (reason, _) => reason.to_owned(),
        }
    }
}

/// A pattern for names, as those of `--exclude`: without `/` it is matched on the last part of the path, with one on the
/// whole path below the root. `*` and `?` do not match `/`; `**` does. Upper and lower case are the same, or `A.EXE` would
/// get around a rule for `*.exe`.
#[derive(Clone)]
pub struct NamePattern {
    glob: GlobMatcher,
    name_only: bool,
}

/// A pattern that cannot be understood. Fault: whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("pattern {pattern:?}: {why}")]
pub struct NamePatternError {
    pattern: String,
    why: String,
}

impl NamePattern {
    /// Whether it matches a path without a leading `/`.
    pub fn matches(&self, path: &str) -> bool {
        let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
        self.glob.is_match(if self.name_only { name } else { path })
    }
}

impl FromStr for NamePattern {
    type Err = NamePatternError;

    fn from_str(text: &str) -> Result<Self, NamePatternError> {
        let error = |why: String| NamePatternError { pattern: text.to_owned(), why };
        let body = text.strip_prefix('/').unwrap_or(text);
        if body.is_empty() {
            return Err(error("it is empty".to_owned()));
        }
        if body.ends_with('/') {
            return Err(error("rules are for files: to match all in a folder, end with /**".to_owned()));
        }
        let glob = GlobBuilder::new(body)
            .literal_separator(true)
            .backslash_escape(true)
            .case_insensitive(true)
            .build()
            .map_err(|e| error(e.kind().to_string()))?;
        Ok(Self { glob: glob.compile_matcher(), name_only: !text.contains('/') })
    }
}

impl fmt::Debug for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.name_only { "" } else { "/" }, self.glob.glob())
    }
}
