//! Tables of requests and of what policies are to say to them, in TOML.
//!
//! ```toml
//! [[case]]
//! name = "staff may send from the office"
//! user = "alice"
//! groups = ["staff"]
//! action = "send"
//! path = "/incoming/a.bin"
//! source = "10.1.2.3"
//! expect = "allow"
//! policies = ["staff-sends"]
//! ```

use std::net::{IpAddr, Ipv4Addr};

use serde::Deserialize;
use time::{Date, Month};
use toml::value::{Datetime, Offset};

use super::{Action, Context, Decision, Engine, Principal, Request, Resource, WAYS};
use crate::Host;
use crate::content::Kind;

/// A request as it is written. What is left out is as at [`Question::default`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Question {
    /// The user's name. Required.
    pub user: String,
    /// The user's groups.
    pub groups: Vec<String>,
    /// The user's tenant.
    pub tenant: Option<String>,
    /// What: the name of an [`Action`]. Required.
    pub action: String,
    /// Of which path. Without it and `target`: of the gateway.
    pub path: Option<String>,
    /// Of which target, `HOST:PORT`.
    pub target: Option<String>,
    /// Where the client is. Default 127.0.0.1.
    pub source: Option<IpAddr>,
    /// The way in. Default `quic`.
    pub way: Option<String>,
    /// Whether TLS is looked into.
    pub inspected: bool,
    /// When: a moment with its offset, as in `2026-11-28T09:00:00+01:00`. Default: the time that the caller gives.
    pub time: Option<Datetime>,
    /// Length of the file in bytes.
    pub size: Option<u64>,
    /// Type of the file by content, as in `zip`.
    pub file_type: Option<String>,
    /// What the target was resolved to.
    pub address: Option<IpAddr>,
    /// The rate policy: `fixed`, `high` or `low`.
    pub rate: Option<String>,
    /// Its rate in Mbit/s.
    pub mbit: Option<u64>,
}

impl Question {
    /// The request, at `now` (seconds since the epoch) unless it says another time.
    ///
    /// # Errors
    /// What in it is none. Fault: whoever wrote it.
    pub fn request(&self, now: u64) -> Result<Request, String> {
        if self.user.is_empty() {
            return Err("user is required".to_owned());
        }
        let action: Action = self.action.parse().map_err(|e| format!("action: {e}"))?;
        let resource = match (&self.path, &self.target) {
            (Some(path), None) => Resource::path(path),
            (None, Some(target)) => {
                let (host, port) = target.rsplit_once(':').ok_or("target: it is not HOST:PORT")?;
                let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
                let host = Host::parse(bare).map_err(|e| format!("target: {e}"))?;
                Resource::Target {
                    host,
                    port: port.parse().map_err(|_| "target: the port is no number".to_owned())?,
                }
            }
            (None, None) => Resource::Gateway,
            (Some(_), Some(_)) => return Err("path and target exclude each other".to_owned()),
        };
        let known = |given: &Option<String>, all: &[&'static str], what: &str| match given {
            None => Ok(None),
            Some(text) => match all.iter().find(|one| *one == text) {
                Some(one) => Ok(Some(*one)),
                None => Err(format!("{what}: {text:?} is none of {}", all.join(", "))),
            },
        };
        let time = match &self.time {
            Some(time) => moment(time)
                .ok_or("time: it needs a date, a time of day and an offset, as in 2026-11-28T09:00:00Z")?,
            None => now,
        };
        let context = Context {
            source: self.source.unwrap_or(Ipv4Addr::LOCALHOST.into()),
            way: known(&self.way, &WAYS, "way")?.unwrap_or(WAYS[0]),
            inspected: self.inspected,
            time,
            size: self.size,
            file_type: match &self.file_type {
                Some(name) => Some(Kind::named(name).map_err(|e| format!("file_type: {e}"))?),
                None => None,
            },
            address: self.address,
            rate: known(&self.rate, &["fixed", "high", "low"], "rate")?,
            mbit: self.mbit,
        };
        let principal =
            Principal { user: self.user.clone(), groups: self.groups.clone(), tenant: self.tenant.clone() };
        Ok(Request { principal, action, resource, context })
    }
}

/// Seconds since the epoch, of a moment that says all that this needs.
fn moment(at: &Datetime) -> Option<u64> {
    let (date, time, offset) = (at.date?, at.time?, at.offset?);
    let month = Month::try_from(date.month).ok()?;
    let day = Date::from_calendar_date(date.year.into(), month, date.day).ok()?;
    let (minute, second) = (time.minute, time.second.unwrap_or(0));
    let local = day.with_hms(time.hour, minute, second.min(59)).ok()?.assume_utc().unix_timestamp();
    let minutes = match offset {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes),
    };
    u64::try_from(local - minutes * 60).ok()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(default)]
    case: Vec<toml::Table>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Expected {
    Allow,
    Deny,
}

/// What came of one case.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its name, or its number.
    pub name: String,
    /// What is not as expected.
    pub failed: Option<String>,
}

/// Asks all cases of a table, at `now` (seconds since the epoch) where they say no time.
///
/// # Errors
/// The text is no table of cases. Fault: whoever wrote it. What is wrong with one case is its [`Outcome`].
pub fn run_cases(engine: &Engine, text: &str, now: u64) -> Result<Vec<Outcome>, String> {
    let table: Table = toml::from_str(text).map_err(|e| e.to_string())?;
    if table.case.is_empty() {
        return Err("there is no [[case]] in it".to_owned());
    }
    let outcome = |(number, mut case): (usize, toml::Table)| {
        let name = match case.remove("name") {
            Some(toml::Value::String(name)) => name,
            _ => format!("case {number}"),
        };
        Outcome { name, failed: run(engine, case, now).err() }
    };
    Ok((1..).zip(table.case).map(outcome).collect())
}

fn run(engine: &Engine, mut case: toml::Table, now: u64) -> Result<(), String> {
    let expect = case.remove("expect").ok_or("expect is required: \"allow\" or \"deny\"")?;
    let expect: Expected = expect.try_into().map_err(|e| format!("expect: {e}"))?;
    let policies: Option<Vec<String>> = match case.remove("policies") {
        Some(policies) => Some(policies.try_into().map_err(|e| format!("policies: {e}"))?),
        None => None,
    };
    let question: Question = case.try_into().map_err(|e| e.to_string().trim_end().to_owned())?;
    let decision = engine.decide(&question.request(now)?);
    if decision.allowed != matches!(expect, Expected::Allow) {
        return Err(told(&decision));
    }
    let mut by: Vec<String> = decision.policies.iter().map(|policy| policy.id.clone()).collect();
    by.sort();
    match policies {
        Some(mut expected) => {
            expected.sort();
            if by == expected {
                Ok(())
            } else {
                Err(format!("{}, not by {}", told(&decision), expected.join(", ")))
            }
        }
        None => Ok(()),
    }
}

/// A decision in words.
pub fn told(decision: &Decision) -> String {
    let by: Vec<String> = decision.policies.iter().map(ToString::to_string).collect();
    match (decision.allowed, by.is_empty()) {
        (true, _) => format!("allowed by {}", by.join(", ")),
        (false, true) => "denied: no policy permits it".to_owned(),
        (false, false) => format!("denied by {}", by.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NOW: u64 = 1_795_867_200;

    fn outcomes(cases: &str) -> Vec<Option<String>> {
        let policies = "@id(\"staff\") permit(principal in Metra::Group::\"staff\", action, resource);\n@id(\"late\") forbid(principal, action, resource) when { context.minute >= 1200 };";
        let engine = Engine::parse(&[("p.cedar", policies)]).unwrap();
        run_cases(&engine, cases, NOW).unwrap().into_iter().map(|outcome| outcome.failed).collect()
    }

    #[test]
    fn cases_hold_or_say_why_not() {
        let alice = "user = 'alice'\ngroups = ['staff']\naction = 'get'\npath = '/a'\n";
        let case = |rest: &str| format!("[[case]]\n{alice}{rest}\n");
        let good = [
            "expect = 'allow'",
            "expect = 'allow'\npolicies = ['staff']",
            "expect = 'deny'\npolicies = ['late']\ntime = 2026-11-28T20:00:00Z",
            "expect = 'allow'\ntime = 2026-11-28T20:00:00+01:00",
            "expect = 'deny'\ntime = 2026-11-28T19:59:59-00:01",
        ];
        for rest in good {
            assert_eq!(outcomes(&case(rest)), [None], "{rest}");
        }
        let bad = [
            ("expect = 'deny'", "allowed by staff (p.cedar:1)"),
            ("expect = 'allow'\ntime = 2026-11-28T23:00:00Z", "denied by late (p.cedar:2)"),
            ("expect = 'allow'\npolicies = ['other']", "allowed by staff (p.cedar:1), not by other"),
            ("expect = 'maybe'", "expect: "),
            ("", "expect is required"),
            ("expect = 'allow'\ncolour = 1", "unknown field `colour`"),
            ("expect = 'allow'\ntarget = 'x:1'", "path and target exclude each other"),
            ("expect = 'allow'\nfile_type = 'application/zip'", "file_type: \"application/zip\" is no type"),
            ("expect = 'allow'\nway = 'pigeon'", "way: \"pigeon\" is none of quic"),
            ("expect = 'allow'\ntime = 2026-11-28", "time: it needs"),
        ];
        for (rest, part) in bad {
            let [Some(failed)] = &outcomes(&case(rest))[..] else { panic!("{rest}") };
            assert!(failed.contains(part), "{rest}: {failed}");
        }
    }

    #[test]
    fn what_is_no_table_is_an_error() {
        let none = Engine::parse::<&str, &str>(&[]).unwrap();
        for text in ["", "case = 1", "[[case]]\n[", "[[cases]]\nuser = 'a'"] {
            assert!(run_cases(&none, text, NOW).is_err(), "{text}");
        }
    }

    #[test]
    fn targets_as_they_are_written() {
        let of = |target: &str| Question {
            user: "a".into(),
            action: "openTunnel".into(),
            target: Some(target.into()),
            ..Question::default()
        };
        let named = |target: &str| of(target).request(NOW).map(|request| request.resource.to_string());
        assert_eq!(named("Example.org:53").as_deref(), Ok("example.org:53"));
        assert_eq!(named("[2001:db8::1]:53").as_deref(), Ok("[2001:db8::1]:53"));
        for bad in ["example.org", "x y:1", ":1", "a:b"] {
            assert!(named(bad).is_err(), "{bad}");
        }
    }
}
