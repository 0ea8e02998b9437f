//! From files to policies: parsed, named, and checked against the schema.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use cedar_policy::{
    ActionConstraint, Effect, EntityUid, Policy, PolicyId, PolicySet, Schema, ValidationMode, Validator,
};
use miette::Diagnostic;

use super::{PolicyRef, Resource};

/// Where a policy comes from.
#[derive(Clone, Debug)]
pub(super) struct Source {
    id: String,
    file: String,
    /// Both from 1.
    line: usize,
    column: usize,
    /// The number of its file.
    number: usize,
    pub(super) effect: Effect,
    /// It says `@rate("low")`.
    low: bool,
}

impl Source {
    fn place(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }

    pub(super) fn named(&self) -> PolicyRef {
        PolicyRef { id: self.id.clone(), place: self.place(), low: self.low }
    }

    /// Of the policy as a whole.
    fn wrong(&self, message: String) -> PolicyError {
        PolicyError { file: self.file.clone(), line: self.line, column: self.column, message }
    }

    /// What Cedar says of a part of it, if it says which; of the whole otherwise.
    fn said(&self, text: &str, what: &impl Diagnostic) -> PolicyError {
        // Cedar begins with its own name of the policy.
        let message = what.to_string();
        let message = match message.strip_prefix("for policy `").and_then(|rest| rest.split_once("`, ")) {
            Some((_, rest)) => rest.to_owned(),
            None => message,
        };
        let (line, column) = label(text, what).unwrap_or((self.line, self.column));
        PolicyError { line, column, ..self.wrong(message) }
    }
}

/// One thing that is wrong with policies, or is hardly meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyError {
    /// The file.
    pub file: String,
    /// The line in it, from 1; 0 if it is of no line.
    pub line: usize,
    /// The character in that line, from 1; 0 if it is of the line as a whole.
    pub column: usize,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.line, self.column) {
            (0, _) => write!(f, "{}: {}", self.file, self.message),
            (line, 0) => write!(f, "{}:{line}: {}", self.file, self.message),
            (line, column) => write!(f, "{}:{line}:{column}: {}", self.file, self.message),
        }
    }
}

/// All that is wrong with policies; at least one thing. As text: a line for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyErrors(pub Vec<PolicyError>);

impl fmt::Display for PolicyErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for PolicyErrors {}

/// Within the engine a policy is called by its number among all.
pub(super) fn number(id: &PolicyId) -> usize {
    let text: &str = id.as_ref();
    text.parse().unwrap_or(usize::MAX)
}

/// What files say.
pub(super) struct Read {
    pub(super) sources: Vec<Source>,
    /// Each called by its number.
    pub(super) policies: Vec<Policy>,
    /// What is hardly meant.
    pub(super) warnings: Vec<PolicyError>,
}

/// The policies of all files.
///
/// # Errors
/// All that is wrong. A file that is not Cedar hides nothing of the others.
pub(super) fn read<N: AsRef<str>, T: AsRef<str>>(
    files: &[(N, T)],
    schema: Schema,
) -> Result<Read, PolicyErrors> {
    let (mut read, mut errors) = (Read { sources: vec![], policies: vec![], warnings: vec![] }, Vec::new());
    for (number, (file, text)) in files.iter().enumerate() {
        let (file, text) = (file.as_ref(), text.as_ref());
        match PolicySet::from_str(text) {
            Ok(set) => take(number, file, text, &set, &mut read, &mut errors),
            Err(found) => {
                for error in found.iter() {
                    let (line, column) = label(text, error).unwrap_or((0, 0));
                    errors.push(PolicyError {
                        file: file.to_owned(),
                        line,
                        column,
                        message: error.to_string(),
                    });
                }
            }
        }
    }
    let mut first: HashMap<&str, &Source> = HashMap::new();
    for source in &read.sources {
        if let Some(other) = first.insert(&source.id, source) {
            errors.push(source.wrong(format!(
                "there is a policy with this id already: {:?} at {}",
                source.id,
                other.place()
            )));
        }
    }
    let texts: Vec<&str> = files.iter().map(|(_, text)| text.as_ref()).collect();
    let (wrong, warnings) = against(schema, &read, &texts);
    errors.extend(wrong);
    read.warnings = warnings;
    if errors.is_empty() { Ok(read) } else { Err(PolicyErrors(errors)) }
}

fn take(
    number: usize,
    file: &str,
    text: &str,
    set: &PolicySet,
    read: &mut Read,
    errors: &mut Vec<PolicyError>,
) {
    let begins = statements(text);
    // Cedar calls them policy0, policy1, ... in the order of the text, templates among them.
    let order =
        |id: &PolicyId| AsRef::<str>::as_ref(id).trim_start_matches("policy").parse::<usize>().unwrap_or(0);
    let place = |id: &PolicyId| begins.get(order(id)).map_or((0, 0), |at| place_of(text, *at));
    for template in set.templates() {
        let (line, column) = place(template.id());
        let message = "templates (?principal, ?resource) are not used here".to_owned();
        errors.push(PolicyError { file: file.to_owned(), line, column, message });
    }
    let mut of_file: Vec<&Policy> = set.policies().collect();
    of_file.sort_by_key(|policy| order(policy.id()));
    for policy in of_file {
        let (line, column) = place(policy.id());
        let named = policy.annotation("id").filter(|id| !id.is_empty()).map(str::to_owned);
        let id = named.unwrap_or_else(|| format!("{file}:{line}"));
        let name = PolicyId::new(read.policies.len().to_string());
        let (file, effect) = (file.to_owned(), policy.effect());
        let low = match policy.annotation("rate") {
            None => false,
            Some("low") if effect == Effect::Permit && opens(policy) => true,
            Some(_) => {
                let message = "@rate is \"low\", on a permit for the action openSession alone".to_owned();
                errors.push(PolicyError { file: file.clone(), line, column, message });
                false
            }
        };
        read.sources.push(Source { id, file, line, column, number, effect, low });
        read.policies.push(policy.new_id(name));
    }
}

/// Whether a policy is for who comes in, and for nothing else.
fn opens(policy: &Policy) -> bool {
    matches!(policy.action_constraint(), ActionConstraint::Eq(action) if action.id().unescaped() == "openSession")
}

/// What the schema says of all policies together: what is wrong, and what is hardly meant.
fn against(schema: Schema, read: &Read, texts: &[&str]) -> (Vec<PolicyError>, Vec<PolicyError>) {
    let set = match PolicySet::from_policies(read.policies.iter().cloned()) {
        Ok(set) => set,
        Err(error) => {
            let message = error.to_string();
            return (vec![PolicyError { file: String::new(), line: 0, column: 0, message }], Vec::new());
        }
    };
    let result = Validator::new(schema).validate(&set, ValidationMode::Strict);
    let of = |id: &PolicyId| {
        let number = number(id);
        let source = read.sources.get(number)?;
        Some((number, source, *texts.get(source.number)?))
    };
    let mut errors: Vec<(usize, PolicyError)> = Vec::new();
    for error in result.validation_errors() {
        let Some((number, source, text)) = of(error.policy_id()) else { continue };
        errors.push((number, source.said(text, error)));
    }
    for ((number, policy), source) in read.policies.iter().enumerate().zip(&read.sources) {
        for message in policy.entity_literals().iter().filter_map(never) {
            errors.push((number, source.wrong(message)));
        }
    }
    let mut warnings: Vec<(usize, PolicyError)> = Vec::new();
    for warning in result.validation_warnings() {
        let Some((number, source, text)) = of(warning.policy_id()) else { continue };
        warnings.push((number, source.said(text, warning)));
    }
    let sorted = |mut all: Vec<(usize, PolicyError)>| {
        all.sort_by_key(|(number, _)| *number);
        all.into_iter().map(|(_, one)| one).collect()
    };
    (sorted(errors), sorted(warnings))
}

/// Line and column of what is wrong, if it says where it is.
fn label(text: &str, what: &(impl Diagnostic + ?Sized)) -> Option<(usize, usize)> {
    let at = what.labels()?.next()?.offset();
    Some(place_of(text, at))
}

/// Why nothing is ever this entity, if it is written as none is. Whoever wrote it means something else, and a policy that forbids
/// would not.
fn never(uid: &EntityUid) -> Option<String> {
    let id = uid.id().unescaped();
    match uid.type_name().basename() {
        "Path" => {
            let parts =
                id.strip_prefix('/').map(|rest| rest.split('/').all(|part| !["", ".", ".."].contains(&part)));
            let good = id == "/" || parts == Some(true);
            (!good).then(|| {
                format!("no path is {id:?}: it begins with / and does not end with it, as in \"/incoming\"")
            })
        }
        "Domain" => {
            let good = matches!(crate::Host::parse(id), Ok(crate::Host::Name(name)) if name == id);
            (!good).then(|| {
                format!("no domain is {id:?}: it is in lower case and in ASCII, as in \"example.org\"")
            })
        }
        "Target" => {
            let (host, port) = id.rsplit_once(':').unwrap_or((id, ""));
            let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
            let named = crate::Host::parse(bare).ok().zip(port.parse().ok());
            let good = named.is_some_and(|(host, port)| Resource::Target { host, port }.to_string() == id);
            (!good).then(|| {
                format!("no target is {id:?}: it is HOST:PORT in lower case, as in \"example.org:53\"")
            })
        }
        "Gateway" => (id != "gateway").then(|| format!("there is one Gateway, \"gateway\", and not {id:?}")),
        _ => None,
    }
}

/// Line and column of a byte, both from 1.
fn place_of(text: &str, at: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..at.min(text.len())];
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    (line, String::from_utf8_lossy(&before[start..]).chars().count() + 1)
}

/// Where each policy of a file begins, in bytes: where something other than space and comments comes first, or comes after the
/// `;` of the one before.
fn statements(text: &str) -> Vec<usize> {
    let (mut begins, mut within) = (Vec::new(), false);
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '/' if chars.peek().is_some_and(|(_, c)| *c == '/') => {
                while chars.next_if(|(_, c)| *c != '\n').is_some() {}
            }
            ';' => within = false,
            c if c.is_whitespace() => {}
            c => {
                if !within {
                    begins.push(at);
                    within = true;
                }
                if c == '"' {
                    while let Some((_, c)) = chars.next() {
                        match c {
                            '\\' => drop(chars.next()),
                            '"' => break,
                            _ => {}
                        }
                    }
                }
            }
        }
    }
    begins
}
