//! A record as one line of CEF:0, the ArcSight Common Event Format (Micro Focus, "Implementing ArcSight Common Event Format",
//! version 25, the dictionary of CEF 0.1).
//!
//! In the header `|` and `\` are escaped with `\`; in values of the extension `=` and `\`, and line feeds are `\n`, carriage
//! returns `\r`. The format has no escape for other control characters: they are shown as their pictures (U+2400 ...), or as
//! U+FFFD.

use std::fmt::Write;
use std::net::IpAddr;

use super::json::{PRODUCT, VENDOR};
use super::text::{GROUP, GROUPS, HOST, LAST, NAME, PATH, REASON, WORD, clip, is_unsafe};
use super::{Action, Event, Record, Resource};

impl Record {
    /// One line without its end: CEF:0. At most [`LINE_MAX`](super::LINE_MAX) bytes of printable Unicode.
    pub fn cef(&self) -> String {
        let mut line = String::from("CEF:0");
        let class = format!("{}.{}", self.action.name(), self.event.name());
        let severity = (self.severity() * 2).to_string();
        for field in [VENDOR, PRODUCT, env!("CARGO_PKG_VERSION"), &class, &self.message(), &severity] {
            line.push('|');
            escape(&mut line, field, &['|']);
        }
        line.push('|');
        let mut out = Extension { header: line.len(), line };
        out.number("rt", Some(self.time));
        out.number("externalId", Some(self.sequence));
        out.text("cat", Some(self.event.name()), WORD);
        out.text("act", Some(self.action.name()), WORD);
        // Who has no verdict was not decided on: it went well or not.
        let outcome = self.verdict.map_or(if self.is_ok() { "success" } else { "failure" }, |v| v.name());
        out.text("outcome", Some(outcome), WORD);
        out.text("app", Some(self.way.name()), WORD);
        out.text("suser", self.user.as_deref(), NAME);
        out.address("src", "c6a2", "Source IPv6 Address", self.peer.ip());
        out.number("spt", Some(self.peer.port().into()));
        self.resource(&mut out);
        if let Some(traffic) = self.traffic {
            out.number("in", Some(traffic.received));
            out.number("out", Some(traffic.sent));
        }
        let reason = if self.reason.is_empty() {
            self.code.to_owned()
        } else {
            format!("{}: {}", self.code, clip(&self.reason, REASON))
        };
        out.text("reason", Some(&reason), usize::MAX);
        let groups: Vec<_> = self.groups.iter().take(GROUPS).map(|group| clip(group, GROUP)).collect();
        let groups = (!groups.is_empty()).then(|| groups.join(","));
        out.custom("cs1", "rule", self.rule.as_deref(), WORD);
        out.custom("cs2", "tenant", self.tenant.as_deref(), NAME);
        out.custom("cs3", "session", self.session.as_deref(), WORD);
        out.custom("cs4", "root", self.root_hex().as_deref(), WORD);
        out.custom("cs5", "groups", groups.as_deref(), usize::MAX);
        if let Resource::Rate { asked, granted } = &self.resource {
            let rate = format!("{} -> {}", clip(asked, WORD), clip(granted, WORD));
            out.custom("cs6", "rate", Some(&rate), usize::MAX);
        }
        out.custom_number("cn1", "files", self.files);
        out.custom_number("cn2", "failed", self.failed);
        out.custom_number("cn3", "durationMs", self.millis());
        out.number("flexNumber1", self.job);
        if self.job.is_some() {
            out.text("flexNumber1Label", Some("job"), WORD);
        }
        out.number("flexNumber2", self.links.map(u64::from));
        if self.links.is_some() {
            out.text("flexNumber2Label", Some("links"), WORD);
        }
        out.line
    }

    fn resource(&self, out: &mut Extension) {
        match &self.resource {
            Resource::Gateway | Resource::Rate { .. } => {}
            Resource::Path(path) => {
                let name = path.trim_end_matches('/').rsplit('/').next().filter(|name| !name.is_empty());
                out.text("fname", Some(name.unwrap_or("/")), LAST);
                out.text("filePath", Some(path), PATH);
                out.number("fsize", self.bytes);
                if self.event == Event::TransferEnd {
                    out.number(if self.action == Action::Push { "in" } else { "out" }, self.bytes);
                }
            }
            Resource::Target { host, port, address } => {
                out.text("dhost", Some(host), HOST);
                if let Some(address) = address {
                    out.address("dst", "c6a3", "Destination IPv6 Address", address.ip());
                }
                out.number("dpt", Some((*port).into()));
            }
        }
    }
}

/// The extension: `key=value`, with spaces between.
struct Extension {
    line: String,
    /// Where it begins in the line.
    header: usize,
}

impl Extension {
    fn text(&mut self, key: &str, value: Option<&str>, room: usize) {
        let Some(value) = value else { return };
        if self.line.len() > self.header {
            self.line.push(' ');
        }
        self.line.push_str(key);
        self.line.push('=');
        escape(&mut self.line, &clip(value, room), &['=']);
    }

    fn number(&mut self, key: &str, value: Option<u64>) {
        self.text(key, value.map(|n| n.to_string()).as_deref(), usize::MAX);
    }

    fn custom(&mut self, key: &str, label: &str, value: Option<&str>, room: usize) {
        self.text(key, value, room);
        self.text(&format!("{key}Label"), value.map(|_| label), room);
    }

    fn custom_number(&mut self, key: &str, label: &str, value: Option<u64>) {
        self.custom(key, label, value.map(|n| n.to_string()).as_deref(), usize::MAX);
    }

    /// The dictionary has IPv6 in fields of its own.
    fn address(&mut self, v4: &str, v6: &str, label: &str, address: IpAddr) {
        match address.to_canonical() {
            IpAddr::V4(address) => self.text(v4, Some(&address.to_string()), WORD),
            IpAddr::V6(address) => self.custom(v6, label, Some(&address.to_string()), WORD),
        }
    }
}

fn escape(out: &mut String, text: &str, special: &[char]) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            c if special.contains(&c) => {
                // Writing to a text does not fail.
                let _ = write!(out, "\\{c}");
            }
            c => out.push(shown(c)),
        }
    }
}

/// A picture of what cannot be in a line.
pub(super) fn shown(c: char) -> char {
    match c {
        '\0'..='\u{1f}' => char::from_u32(0x2400 + u32::from(c)).unwrap_or(char::REPLACEMENT_CHARACTER),
        '\u{7f}' => '\u{2421}',
        c if is_unsafe(c) => char::REPLACEMENT_CHARACTER,
        c => c,
    }
}
