//! URI templates that a client is configured with to find a proxy for UDP (RFC 9298, section 2; RFC 6570).
//!
//! ```text
//!  https://proxy.example:4443/masque{?target_host,target_port}
//!          `---authority---' `literal'`----expression-----'
//! ```

use std::fmt;
use std::net::Ipv6Addr;

use crate::percent;
use crate::target::{DEFAULT_PREFIX, Target};

/// Longest template. Bytes.
pub const TEMPLATE_MAX: usize = 4096;

/// A template that fulfils what RFC 9298, section 2 asks for, and whose scheme is `https`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    text: String,
    authority: String,
    host: String,
    port: u16,
    /// Path and query.
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Expression(Form, Vec<String>),
}

/// The expansions of RFC 6570 that are allowed, up to level 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `{name}`, section 3.2.2.
    Simple,
    /// `{?name}`, section 3.2.8.
    Query,
    /// `{&name}`, section 3.2.9.
    Continuation,
}

/// What is no template for UDP proxying. The fault of whoever configured it: nothing is sent (RFC 9298, section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// Longer than [`TEMPLATE_MAX`].
    #[error("the template is longer than {TEMPLATE_MAX} bytes")]
    TooLong,
    /// Something outside 0x21 to 0x7e.
    #[error("the template has {0:?}, which is not a printable character of ASCII")]
    Character(char),
    /// Not absolute, or of another scheme.
    #[error("the template does not begin with https://")]
    Scheme,
    /// No authority, or one that names no host and port.
    #[error("the template's authority is not HOST or HOST:PORT")]
    Authority,
    /// The path is empty or does not start with a slash.
    #[error("the template's path does not start with a slash")]
    Path,
    /// A `#` and what follows, which is never sent.
    #[error("the template has a fragment")]
    Fragment,
    /// A character that must be percent-encoded outside of variables, or a `%` that encodes nothing.
    #[error("the template has {0:?} where a URI cannot have it")]
    Literal(char),
    /// A brace without its partner, or one within another pair.
    #[error("the template's braces do not match")]
    Braces,
    /// An operator that RFC 9298 forbids, or RFC 6570 keeps for later.
    #[error("the template uses the operator {0:?}")]
    Operator(char),
    /// A modifier of level 4.
    #[error("the template uses {0:?} after a variable: level 4 of RFC 6570, while RFC 9298 allows level 3")]
    Level(char),
    /// A variable without a name, or with one that is not allowed.
    #[error("the template has a variable whose name is not letters, digits, _ and dots")]
    Name,
    /// `target_host` or `target_port` is missing.
    #[error("the template lacks {{{0}}}")]
    Lacks(&'static str),
}

const HOST: &str = "target_host";
const PORT: &str = "target_port";
const HTTPS: &str = "https://";

impl Template {
    /// Checks a template.
    ///
    /// # Errors
    /// It breaks a rule.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        if text.len() > TEMPLATE_MAX {
            return Err(TemplateError::TooLong);
        }
        if let Some(c) = text.chars().find(|c| !c.is_ascii_graphic()) {
            return Err(TemplateError::Character(c));
        }
        let scheme = text.get(..HTTPS.len()).filter(|scheme| scheme.eq_ignore_ascii_case(HTTPS));
        let rest = &text[scheme.ok_or(TemplateError::Scheme)?.len()..];
        let (authority, rest) = rest.split_at(rest.find(['/', '?', '#', '{']).unwrap_or(rest.len()));
        let (host, port) = host_and_port(authority).ok_or(TemplateError::Authority)?;
        if !rest.starts_with('/') {
            return Err(TemplateError::Path);
        }
        let parts = parts(rest)?;
        for name in [HOST, PORT] {
            let has =
                |part: &Part| matches!(part, Part::Expression(_, names) if names.iter().any(|n| n == name));
            if !parts.iter().any(has) {
                return Err(TemplateError::Lacks(name));
            }
        }
        Ok(Self { text: text.into(), authority: authority.into(), host, port, parts })
    }

    /// The template of a proxy of which only host (a name, or an address; IPv6 without brackets) and port are known:
    /// `https://HOST:PORT/.well-known/masque/udp/{target_host}/{target_port}/`.
    ///
    /// # Errors
    /// [`TemplateError::Authority`] or [`TemplateError::Character`]: `host` is no host, or `port` is 0.
    pub fn default_of(host: &str, port: u16) -> Result<Self, TemplateError> {
        let host = if host.contains(':') { format!("[{host}]") } else { host.into() };
        if host.contains(['/', '?', '#', '{']) {
            return Err(TemplateError::Authority);
        }
        Self::parse(&format!("{HTTPS}{host}:{port}{DEFAULT_PREFIX}{{{HOST}}}/{{{PORT}}}/"))
    }

    /// Scheme of the proxy, which `:scheme` of the request is.
    pub const fn scheme(&self) -> &'static str {
        "https"
    }

    /// Authority of the proxy as it is written, which `:authority` or `Host` of the request is.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Host of the proxy: a name, or an address; IPv6 without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Port of the proxy, 443 if none is written.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Path and query of the request for `target`, which `:path` is (RFC 9298, section 3.4). Variables other than the
    /// two of the target are not defined, and leave nothing behind.
    pub fn path_and_query(&self, target: &Target) -> String {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.push_str(text),
                Part::Expression(form, names) => expand(*form, names, target, &mut out),
            }
        }
        out
    }

    /// The whole URI of the request for `target`, which HTTP/1.1 may send in absolute form.
    pub fn expand(&self, target: &Target) -> String {
        format!("{HTTPS}{}{}", self.authority, self.path_and_query(target))
    }
}

/// The template as it was written.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// RFC 6570, section 3.2.1 and appendix A.
fn expand(form: Form, names: &[String], target: &Target, out: &mut String) {
    let (first, separator) = match form {
        Form::Simple => ("", ","),
        Form::Query => ("?", "&"),
        Form::Continuation => ("&", "&"),
    };
    let mut before = first;
    for name in names {
        let port;
        let value = match name.as_str() {
            HOST => target.host(),
            PORT => {
                port = target.port().to_string();
                &port
            }
            _ => continue,
        };
        out.push_str(before);
        before = separator;
        if form != Form::Simple {
            out.push_str(name);
            out.push('=');
        }
        percent::encode(value, out);
    }
}

/// An authority without user information, which must not be sent (RFC 9110, section 4.2.4).
fn host_and_port(authority: &str) -> Option<(String, u16)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            host.parse::<Ipv6Addr>().ok()?;
            (host, (!rest.is_empty()).then(|| rest.strip_prefix(':')))
        }
        None => {
            let (host, port) =
                authority.split_once(':').map_or((authority, None), |(h, p)| (h, Some(Some(p))));
            if host.is_empty() || !host.bytes().all(|b| percent::is_unreserved(b) && b != b'~') {
                return None;
            }
            (host, port)
        }
    };
    let port = match port {
        None => 443,
        Some(port) => {
            port.filter(|p| p.bytes().all(|b| b.is_ascii_digit()))?.parse().ok().filter(|p| *p > 0)?
        }
    };
    Some((host.into(), port))
}

/// Path and query, cut into literals and expressions.
fn parts(text: &str) -> Result<Vec<Part>, TemplateError> {
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (literal, after) = rest.split_at(rest.find('{').unwrap_or(rest.len()));
        if !literal.is_empty() {
            check_literal(literal)?;
            parts.push(Part::Literal(literal.into()));
        }
        let Some(after) = after.strip_prefix('{') else { break };
        let (expression, after) = after.split_once('}').ok_or(TemplateError::Braces)?;
        parts.push(parse_expression(expression)?);
        rest = after;
    }
    Ok(parts)
}

fn check_literal(text: &str) -> Result<(), TemplateError> {
    let allowed = |b: u8| percent::is_unreserved(b) || percent::is_sub_delim(b) || b":@/?%".contains(&b);
    match text.bytes().find(|b| !allowed(*b)) {
        Some(b'#') => Err(TemplateError::Fragment),
        Some(b'}') => Err(TemplateError::Braces),
        Some(other) => Err(TemplateError::Literal(other.into())),
        None if !percent::is_encoded(text) => Err(TemplateError::Literal('%')),
        None => Ok(()),
    }
}

fn parse_expression(text: &str) -> Result<Part, TemplateError> {
    let first = text.chars().next().ok_or(TemplateError::Name)?;
    let (form, names) = match first {
        '?' => (Form::Query, &text[1..]),
        '&' => (Form::Continuation, &text[1..]),
        // RFC 9298, section 2 forbids the first five; RFC 6570, section 2.2 keeps the others for later.
        '+' | '#' | '.' | '/' | ';' | '=' | ',' | '!' | '@' | '|' => {
            return Err(TemplateError::Operator(first));
        }
        '{' => return Err(TemplateError::Braces),
        _ => (Form::Simple, text),
    };
    let names: Vec<_> = names.split(',').map(check_name).collect::<Result<_, _>>()?;
    Ok(Part::Expression(form, names))
}

/// RFC 6570, section 2.3.
fn check_name(name: &str) -> Result<String, TemplateError> {
    if let Some(modifier) = name.chars().find(|c| matches!(c, ':' | '*')) {
        return Err(TemplateError::Level(modifier));
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_%".contains(&b);
    let good = |part: &str| !part.is_empty() && part.bytes().all(allowed) && percent::is_encoded(part);
    match name.split('.').all(good) {
        true => Ok(name.into()),
        false if name.contains('{') => Err(TemplateError::Braces),
        false => Err(TemplateError::Name),
    }
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
