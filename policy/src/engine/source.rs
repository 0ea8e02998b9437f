//! From files to policies: parsed, named, and checked against the schema.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use cedar_policy::{Effect, EntityUid, Policy, PolicyId, PolicySet, Schema, ValidationMode, Validator};
use miette::Diagnostic;

use super::{PolicyRef, Resource};

/// Where a policy comes from.
#[derive(Clone, Debug)]
pub(super) struct Source {
    id: String,
    file: String,
    /// From 1.
    line: usize,
    pub(super) effect: Effect,
}

impl Source {
    fn place(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }

    pub(super) fn named(&self) -> PolicyRef {
        PolicyRef { id: self.id.clone(), place: self.place() }
    }
}

/// One thing that is wrong with policies.
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

/// The policies of all files, each called by its number.
pub(super) fn read<N: AsRef<str>, T: AsRef<str>>(
    files: &[(N, T)],
    schema: Schema,
) -> Result<(Vec<Source>, Vec<Policy>), PolicyErrors> {
    let (mut sources, mut policies, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for (file, text) in files {
        let (file, text) = (file.as_ref(), text.as_ref());
        match PolicySet::from_str(text) {
            Ok(set) => take(file, text, &set, &mut sources, &mut policies, &mut errors),
            Err(found) => {
                for error in found.iter() {
                    let at = error.labels().and_then(|mut labels| labels.next()).map(|label| label.offset());
                    let (line, column) = at.map_or((0, 0), |at| place_of(text, at));
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
    for source in &sources {
        if let Some(other) = first.insert(&source.id, source) {
            let message =
                format!("there is a policy with this id already: {:?} at {}", source.id, other.place());
            errors.push(PolicyError { file: source.file.clone(), line: source.line, column: 0, message });
        }
    }
    if errors.is_empty() {
        errors.extend(against(schema, &sources, &policies));
    }
    if errors.is_empty() { Ok((sources, policies)) } else { Err(PolicyErrors(errors)) }
}

fn take(
    file: &str,
    text: &str,
    set: &PolicySet,
    sources: &mut Vec<Source>,
    policies: &mut Vec<Policy>,
    errors: &mut Vec<PolicyError>,
) {
    let lines = statements(text);
    // Cedar calls them policy0, policy1, ... in the order of the text, templates among them.
    let order =
        |id: &PolicyId| AsRef::<str>::as_ref(id).trim_start_matches("policy").parse::<usize>().unwrap_or(0);
    for template in set.templates() {
        let line = lines.get(order(template.id())).copied().unwrap_or(0);
        let message = "templates (?principal, ?resource) are not used here".to_owned();
        errors.push(PolicyError { file: file.to_owned(), line, column: 0, message });
    }
    let mut of_file: Vec<&Policy> = set.policies().collect();
    of_file.sort_by_key(|policy| order(policy.id()));
    for policy in of_file {
        let line = lines.get(order(policy.id())).copied().unwrap_or(0);
        let named = policy.annotation("id").filter(|id| !id.is_empty()).map(str::to_owned);
        let id = named.unwrap_or_else(|| format!("{file}:{line}"));
        let number = PolicyId::new(policies.len().to_string());
        sources.push(Source { id, file: file.to_owned(), line, effect: policy.effect() });
        policies.push(policy.new_id(number));
    }
}

/// What the schema says of all policies together.
fn against(schema: Schema, sources: &[Source], policies: &[Policy]) -> Vec<PolicyError> {
    let set = match PolicySet::from_policies(policies.iter().cloned()) {
        Ok(set) => set,
        Err(error) => {
            let message = error.to_string();
            return vec![PolicyError { file: String::new(), line: 0, column: 0, message }];
        }
    };
    let result = Validator::new(schema).validate(&set, ValidationMode::Strict);
    let mut errors: Vec<(usize, PolicyError)> = Vec::new();
    for error in result.validation_errors() {
        let number = number(error.policy_id());
        let Some(source) = sources.get(number) else { continue };
        let message = error.to_string();
        // Cedar begins with its own name of the policy.
        let called = format!("for policy `{number}`, ");
        let message = message.strip_prefix(&called).unwrap_or(&message).to_owned();
        errors
            .push((number, PolicyError { file: source.file.clone(), line: source.line, column: 0, message }));
    }
    for ((number, policy), source) in policies.iter().enumerate().zip(sources) {
        for message in policy.entity_literals().iter().filter_map(never) {
            errors.push((
                number,
                PolicyError { file: source.file.clone(), line: source.line, column: 0, message },
            ));
        }
    }
    errors.sort_by_key(|(number, _)| *number);
    errors.into_iter().map(|(_, error)| error).collect()
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

/// The line on which each policy of a file begins: where something other than space and comments comes first, or comes after the
/// `;` of the one before.
fn statements(text: &str) -> Vec<usize> {
    let (mut lines, mut line, mut within) = (Vec::new(), 1, false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\n' => line += 1,
            '/' if chars.peek() == Some(&'/') => while chars.next_if(|c| *c != '\n').is_some() {},
            ';' => within = false,
            c if c.is_whitespace() => {}
            c => {
                if !within {
                    lines.push(line);
                    within = true;
                }
                if c == '"' {
                    while let Some(c) = chars.next() {
                        match c {
                            '\\' => drop(chars.next()),
                            '\n' => line += 1,
                            '"' => break,
                            _ => {}
                        }
                    }
                }
            }
        }
    }
    lines
}
