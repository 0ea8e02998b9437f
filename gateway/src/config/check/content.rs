//! The tables `[content]` and `[icap.NAME]`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use metra_policy::TargetRule;
use metra_policy::content::{
    Action, ContentRule, ContentRules, Otherwise, Scan, TunnelAction, TunnelContent, TunnelContentRule,
};
use serde::de::DeserializeOwned;
use toml::Table;

use super::{Bound, Check, MIB, quoted};
use crate::config::OneOrMany;
use crate::config::content::{
    Content, RawAction, RawContent, RawContentRule, RawFailure, RawFound, RawIcap, RawTunnelAction,
    RawTunnelRule,
};

impl Check {
    pub(super) fn content(
        &mut self,
        raw: RawContent,
        icap: BTreeMap<String, RawIcap>,
        state: &Path,
    ) -> Content {
        let services: Vec<_> = icap.into_iter().filter_map(|(name, raw)| self.service(name, &raw)).collect();
        let quarantine = raw.quarantine.unwrap_or_else(|| state.join("quarantine"));
        if quarantine.exists() && !quarantine.is_dir() {
            self.error("content.quarantine", format!("{} is not a directory", quarantine.display()));
        }
        // Where the state is checked already, and reported.
        if !self.is_broken("state") {
            self.outside_root("content.quarantine", &quarantine, "clients could fetch what was put aside");
        }
        let names: Vec<_> = services.iter().map(|(name, _)| name.clone()).collect();
        let rules = self.tables::<RawContentRule>("content.rules", raw.rules);
        let rules: Vec<_> = rules.into_iter().filter_map(|(key, raw)| self.rule(&key, raw, &names)).collect();
        let mut ids = BTreeSet::new();
        for rule in rules.iter().filter(|rule| !rule.id.is_empty() && !ids.insert(rule.id.as_str())) {
            self.error("content.rules", format!("there are two rules with the id {}", rule.id));
        }
        let tunnels = self.tables::<RawTunnelRule>("content.tunnels", raw.tunnels);
        let tunnels = tunnels.into_iter().flat_map(|(key, raw)| self.tunnel_rules(&key, raw)).collect();
        Content {
            rules: ContentRules::new(rules),
            tunnels: TunnelContent::new(tunnels),
            quarantine,
            at_once: self.number(&SCANS_AT_ONCE, raw.scans_at_once) as usize,
            services,
        }
    }

    /// The tables of a list, each with its key; `content.rules[1]` is the first. What does not fit is an error of its own,
    /// and left out.
    fn tables<T: DeserializeOwned>(&mut self, key: &str, tables: Vec<Table>) -> Vec<(String, T)> {
        let mut read = Vec::new();
        for (at, mut table) in tables.into_iter().enumerate() {
            let key = format!("{key}[{}]", at + 1);
            table.retain(|name, value| {
                let one = Table::from_iter([(name.to_owned(), value.clone())]);
                let fits = T::deserialize(one);
                if let Err(e) = &fits {
                    let message = e.message().lines().next().unwrap_or_default();
                    self.error(&format!("{key}.{}", quoted(name)), message);
                }
                fits.is_ok()
            });
            match T::deserialize(table) {
                Ok(raw) => read.push((key, raw)),
                Err(e) => self.error(&key, e.message()),
            }
        }
        read
    }

    fn rule(&mut self, key: &str, raw: RawContentRule, services: &[String]) -> Option<ContentRule> {
        let names = self.parsed(&format!("{key}.name"), raw.name);
        let kinds = self.parsed(&format!("{key}.type"), raw.kind);
        let size = (raw.min_bytes.unwrap_or(0), raw.max_bytes.unwrap_or(u64::MAX));
        if size.0 > size.1 {
            self.error(&format!("{key}.min_bytes"), "is more than max_bytes: no file matches");
        }
        if raw.id.as_deref().is_some_and(|id| !is_id(id)) {
            let message = format!("is 1 to {ID_MAX} letters, digits, - and _, the first a letter");
            self.error(&format!("{key}.id"), message);
        }
        let id = raw.id.unwrap_or_default();
        let reason = raw.reason.unwrap_or_default();
        let printable = |text: &str| text.chars().count() <= REASON_MAX && !text.contains(char::is_control);
        if !printable(&reason) {
            self.error(&format!("{key}.reason"), format!("is at most {REASON_MAX} printable characters"));
        }
        if raw.action != Some(RawAction::Scan) {
            let set = [
                ("service", raw.service.is_some()),
                ("on_found", raw.on_found.is_some()),
                ("on_failure", raw.on_failure.is_some()),
                ("scan_max_mib", raw.scan_max_mib.is_some()),
            ];
            for (name, _) in set.into_iter().filter(|(_, set)| *set && raw.action.is_some()) {
                self.error(&format!("{key}.{name}"), "is for action = \"scan\" only");
            }
        }
        let action = match raw.action {
            None => {
                let action = format!("{key}.action");
                if !self.is_broken(&action) {
                    self.error(&action, "is required: \"allow\", \"refuse\", \"quarantine\" or \"scan\"");
                }
                return None;
            }
            Some(RawAction::Allow) => Action::Allow,
            Some(RawAction::Refuse) => Action::Refuse,
            Some(RawAction::Quarantine) => Action::Quarantine,
            Some(RawAction::Scan) => Action::Scan(Scan {
                service: self.service_of(&format!("{key}.service"), raw.service, services)?,
                found: match raw.on_found {
                    Some(RawFound::Refuse) => Otherwise::Refuse,
                    Some(RawFound::Quarantine) | None => Otherwise::Quarantine,
                },
                allow_on_failure: raw.on_failure == Some(RawFailure::Allow),
                limit: self.within(&format!("{key}.scan_max_mib"), raw.scan_max_mib, SCAN_MAX_MIB) * MIB,
            }),
        };
        Some(ContentRule { id, names, kinds, size, action, reason })
    }

    fn service_of(&mut self, key: &str, name: Option<String>, services: &[String]) -> Option<usize> {
        let Some(name) = name else {
            if !self.is_broken(key) {
                self.error(key, "is required with action = \"scan\": the NAME of an [icap.NAME]");
            }
            return None;
        };
        let found = services.iter().position(|service| *service == name);
        if found.is_none() && !self.is_broken(&format!("icap.{}", quoted(&name))) {
            self.error(key, format!("there is no [icap.{}]", quoted(&name)));
        }
        found
    }

    fn tunnel_rules(&mut self, key: &str, raw: RawTunnelRule) -> Vec<TunnelContentRule> {
        let target = format!("{key}.target");
        let targets: Vec<TargetRule> = self.parsed(&target, raw.target);
        if targets.is_empty() && !self.is_broken(&target) {
            self.error(&target, "is required: HOST:PORTS, as in tunnel.allow");
        }
        let action = match raw.action {
            Some(RawTunnelAction::Terminate) => TunnelAction::Terminate,
            Some(RawTunnelAction::Tunnel) => TunnelAction::Tunnel,
            None => {
                let action = format!("{key}.action");
                if !self.is_broken(&action) {
                    self.error(&action, "is required: \"terminate\" or \"tunnel\"");
                }
                return Vec::new();
            }
        };
        targets.into_iter().map(|target| TunnelContentRule { target, action }).collect()
    }

    /// One text or a list of them, each of which is read; an empty list would match nothing, and is none.
    fn parsed<T: FromStr<Err: ToString>>(&mut self, key: &str, texts: Option<OneOrMany>) -> Vec<T> {
        let Some(texts) = texts else { return Vec::new() };
        let texts = Vec::from(texts);
        if texts.is_empty() {
            self.error(key, "is an empty list; leave it out to match all");
        }
        self.each(key, &texts)
    }

    fn service(&mut self, name: String, raw: &RawIcap) -> Option<(String, metra_icap::Settings)> {
        let key = format!("icap.{}", quoted(&name));
        let url_key = format!("{key}.url");
        let url = match &raw.url {
            None if self.is_broken(&url_key) => None,
            None => {
                self.error(&url_key, "is required: icap://HOST[:PORT]/SERVICE");
                None
            }
            Some(text) => {
                text.parse().map_err(|e: metra_icap::UrlError| self.error(&url_key, e.to_string())).ok()
            }
        };
        let mut seconds = |name: &str, given, range| {
            Duration::from_secs(self.within(&format!("{key}.{name}"), given, range))
        };
        let connect = seconds("connect_seconds", raw.connect_seconds, (1, 60, 5));
        let silence = seconds("silence_seconds", raw.silence_seconds, (1, 3600, 60));
        let total = seconds("file_seconds", raw.file_seconds, (1, 86_400, 600));
        let connections = self.within(&format!("{key}.connections"), raw.connections, (1, 256, 8)) as usize;
        Some((name, metra_icap::Settings { url: url?, connect, silence, total, connections }))
    }

    /// A value within (least, most), or the default, which comes third; for keys with names of the user's in them.
    fn within(&mut self, key: &str, given: Option<u64>, (min, max, default): (u64, u64, u64)) -> u64 {
        match given {
            Some(n) if !(min..=max).contains(&n) => {
                self.error(key, format!("is {n}, and must be {min} to {max}"));
                default
            }
            given => given.unwrap_or(default),
        }
    }
}

/// What a rule may be called: nothing that a number, or a rule of another table, is called.
fn is_id(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    text.len() <= ID_MAX && text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(fits)
}

pub(super) const SCANS_AT_ONCE: Bound = Bound::new("content.scans_at_once", 1, 64, 4);
const SCAN_MAX_MIB: (u64, u64, u64) = (1, 1_048_576, 1024);
/// Bytes of the id of a rule.
const ID_MAX: usize = 64;
/// Characters of a reason.
const REASON_MAX: usize = 200;
