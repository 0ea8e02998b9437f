//! What a transfer says, on a terminal, as JSON, or not at all.
//!
//! | | standard error | standard output |
//! |---|---|---|
//! | a terminal | progress, problems, a summary | - |
//! | not a terminal, or `--quiet` | problems | - |
//! | `--json` | problems (for people, unless the data goes to standard output) | JSON lines, the last one is the summary |

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use metra_client::{JobReport, Measured, Policy, RatePolicy, Tried, Watch};
use metra_core::code::Code;
use metra_session::{Binding, EntryReport, Progress};
use serde_json::{Map, Value, json};

use crate::args::OutputArgs;
use crate::exit::{Exit, Failure};
use crate::output;
use crate::progress::{Bar, Way};

/// Says it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Reporter(Arc<Mutex<Inner>>);

struct Inner {
    way: Way,
    form: Form,
    started: Instant,
    /// The last that was heard, for the summary of a transfer that fails.
    last: Progress,
}

enum Form {
    Bar(Bar),
    Silent,
    Json { to_stderr: bool, interval: Duration, next: Instant },
}

impl Reporter {
    /// `data_on_stdout`: standard output carries the files, so JSON goes to standard error.
    pub(crate) fn new(way: Way, args: &OutputArgs, data_on_stdout: bool) -> Self {
        let started = Instant::now();
        let form = if args.json {
            Form::Json { to_stderr: data_on_stdout, interval: args.json_interval(), next: started }
        } else if !args.quiet && io::stderr().is_terminal() && !(data_on_stdout && io::stdout().is_terminal())
        {
            Form::Bar(Bar::new(way))
        } else {
            Form::Silent
        };
        Self(Arc::new(Mutex::new(Inner { way, form, started, last: Progress::default() })))
    }

    /// Says that it starts.
    pub(crate) fn start(&self, what: Value) {
        let mut inner = self.lock();
        if inner.is_json() {
            let mut event = event("start");
            event.insert("direction".into(), inner.way.name().into());
            event.insert("time".into(), output::now().into());
            if let Value::Object(what) = what {
                event.extend(what);
            }
            inner.write(event);
        }
    }

    /// What the client library calls while it works.
    pub(crate) fn watch(&self) -> Watch {
        let (progress, report, rate) = (self.clone(), self.clone(), self.clone());
        Watch {
            progress: Box::new(move |p| progress.lock().progress(p)),
            report: Box::new(move |r| report.lock().entry(r)),
            rate: Box::new(move |asked, used| rate.note(&not_granted(asked, used))),
        }
    }

    /// The last word: the summary.
    pub(crate) fn finish(&self, result: &Result<(Exit, JobReport), Failure>, receipt: Option<&str>) {
        let mut inner = self.lock();
        match &inner.form {
            Form::Json { .. } => {
                let summary = match result {
                    Ok((exit, report)) => {
                        let mut summary = summary(*exit, report, receipt);
                        // What was on the way in this run; `bytes` are those that are in their places now.
                        summary.insert(inner.way.done().into(), report.kpis.moved.into());
                        summary
                    }
                    Err(failure) => inner.failed(failure),
                };
                inner.write(summary);
            }
            Form::Bar(bar) => {
                if let Ok((_, report)) = result {
                    bar.print(&sentence(inner.way, report));
                }
                bar.clear();
            }
            Form::Silent => {}
        }
    }

    /// Whether standard error is for programs: why a transfer failed is in the summary then, and nowhere else.
    pub(crate) fn has_stderr(&self) -> bool {
        matches!(self.lock().form, Form::Json { to_stderr: true, .. })
    }

    /// A problem that belongs to no entry, or comes after the end.
    pub(crate) fn note(&self, text: &str) {
        self.lock().say(text);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no panic while held")
    }
}

impl Inner {
    fn is_json(&self) -> bool {
        matches!(self.form, Form::Json { .. })
    }

    fn progress(&mut self, progress: &Progress) {
        self.last = progress.clone();
        let now = Instant::now();
        match &mut self.form {
            Form::Bar(bar) => bar.update(progress),
            Form::Silent => {}
            Form::Json { interval, next, .. } => {
                if now < *next {
                    return;
                }
                *next = now + *interval;
                let mut event = event("progress");
                event.insert("seconds".into(), output::rounded((now - self.started).as_secs_f64()).into());
                event.insert("files".into(), progress.entries.into());
                event.insert("announced".into(), progress.announced.into());
                event.insert("complete".into(), progress.complete.into());
                event.insert(self.way.done().into(), progress.moved.into());
                event.insert("verified".into(), progress.verified.into());
                event.insert("durable".into(), progress.durable.into());
                event.insert("limit".into(), progress.binding.map(|b| b.name()).into());
                if let Some(Binding::Queue(position)) = progress.binding {
                    event.insert("position".into(), position.into());
                }
                self.write(event);
            }
        }
    }

    fn entry(&mut self, report: &EntryReport) {
        // What was the same already is counted in the summary.
        if report.code == Code::Ok {
            return;
        }
        if self.is_json() {
            let mut event = event("entry");
            event.insert("path".into(), report.path.as_str().into());
            event.insert("code".into(), report.code.name().into());
            event.insert("reason".into(), report.reason.as_str().into());
            self.write(event);
        }
        self.say(&format!("{}: {}", output::name(&report.path), output::text(&report.reason)));
    }

    /// To people, on standard error; not between JSON lines that are there.
    fn say(&self, text: &str) {
        match &self.form {
            Form::Json { to_stderr: true, .. } => {}
            Form::Bar(bar) => bar.print(&format!("metra: {text}")),
            Form::Json { .. } | Form::Silent => eprintln!("metra: {text}"),
        }
    }

    /// A line of JSON. Nobody may be listening any more: the transfer goes on all the same.
    fn write(&mut self, event: Map<String, Value>) {
        let Form::Json { to_stderr, .. } = self.form else { return };
        let line = output::json(&event) + "\n";
        let _ = if to_stderr {
            io::stderr().write_all(line.as_bytes())
        } else {
            let mut out = io::stdout().lock();
            out.write_all(line.as_bytes()).and_then(|()| out.flush())
        };
    }

    /// The summary of a transfer that did not get to its end.
    fn failed(&self, failure: &Failure) -> Map<String, Value> {
        let mut event = event("summary");
        event.insert("exit_code".into(), failure.exit.number().into());
        event.insert("error".into(), failure.message.as_str().into());
        event.insert("code".into(), failure.code.map(Code::name).into());
        event.insert("bytes".into(), self.last.durable.into());
        event.insert(self.way.done().into(), self.last.moved.into());
        event.insert("seconds".into(), output::rounded(self.started.elapsed().as_secs_f64()).into());
        event.insert("ttfb_ms".into(), ms(self.last.first_byte));
        event.insert("cpu_s".into(), output::rounded(output::cpu_seconds()).into());
        if !failure.ladder.is_empty() {
            event.insert("ladder".into(), ways(&failure.ladder));
        }
        event
    }
}

fn event(name: &str) -> Map<String, Value> {
    Map::from_iter([("event".to_owned(), Value::from(name))])
}

fn ms(duration: Option<Duration>) -> Value {
    duration.map(|d| output::rounded(d.as_secs_f64() * 1000.0)).into()
}

/// The ways to the gateway.
fn ways(ladder: &[(Tried, bool)]) -> Value {
    ladder.iter().map(|(tried, proxied)| way(tried, *proxied)).collect()
}

/// One way to the gateway, and what came of it.
fn way(tried: &Tried, via_proxy: bool) -> Value {
    json!({
        "rung": tried.rung.name(),
        "via_proxy": via_proxy,
        "outcome": tried.outcome.word(),
        "reason": tried.outcome.reason(),
        "seconds": output::rounded(tried.took.as_secs_f64()),
    })
}

fn summary(exit: Exit, report: &JobReport, receipt: Option<&str>) -> Map<String, Value> {
    let mut links = report.links.clone();
    links.sort_unstable();
    links.dedup();
    let fields = json!({
        "exit_code": exit.number(),
        "bytes": report.bytes,
        "files": report.entries,
        "unchanged": report.unchanged,
        "failed": report.failed,
        "seconds": output::rounded(report.elapsed.as_secs_f64()),
        "ttfb_ms": ms(report.first_byte),
        "verify_ms": ms(Some(report.verify)),
        "gbps": output::rounded(output::gbps(report.bytes, report.elapsed)),
        "cpu_s": output::rounded(output::cpu_seconds()),
        "chunks": report.chunks,
        "chunks_sent": report.chunks_sent,
        "chunks_resent": report.chunks_resent,
        "chunks_reused": report.chunks_reused,
        "resumes": report.resumes,
        "rate_policy": report.rate.policy().name(),
        "rate_mbit": report.rate.rate().map(|bits| output::rounded(bits as f64 / 1e6)),
        "root": report.root.to_string(),
        "links": links,
        "ladder": ways(&report.ladder),
        "inspected": report.inspected,
        "connect_ms": output::rounded(report.connect.as_secs_f64() * 1e3),
        "receipt": receipt,
    });
    let mut event = event("summary");
    // Structs with plain fields and text keys.
    let measured =
        serde_json::to_value(Measured::from(&report.kpis)).expect("plain data can be written as JSON");
    for fields in [fields, measured] {
        if let Value::Object(fields) = fields {
            event.extend(fields);
        }
    }
    event
}

/// What the gateway does not grant.
fn not_granted(asked: RatePolicy, used: RatePolicy) -> String {
    let name = asked.policy().name();
    let rate = |rate: RatePolicy| rate.rate().map(|bits| output::rate(bits as f64 / 8.0));
    if asked == RatePolicy::default() {
        return format!("the gateway lets this transfer have the rate policy {} only", used.policy().name());
    }
    if asked.policy() != used.policy() {
        let ceiling = rate(used).map_or(String::new(), |rate| format!(", at most {rate}"));
        return format!(
            "the gateway does not grant the rate policy {name}: it is {}{ceiling}",
            used.policy().name()
        );
    }
    let [asked, used] = [asked, used].map(|of| rate(of).unwrap_or_else(|| "any rate".to_owned()));
    format!("the gateway grants the rate policy {name} at {used}, not at {asked}")
}

/// The summary for people.
fn sentence(way: Way, report: &JobReport) -> String {
    let mut text = format!(
        "{} {} in {}: {} in {}, {}",
        way.done(),
        output::bytes(report.bytes),
        output::count(report.entries, "entry", "entries"),
        output::count(report.chunks_sent, "chunk", "chunks"),
        output::duration(report.elapsed),
        output::rate(report.bytes as f64 / report.elapsed.as_secs_f64().max(1e-6)),
    );
    let more = [
        (report.chunks_reused, "chunk reused", "chunks reused"),
        (report.chunks_resent, "chunk sent again", "chunks sent again"),
        (report.unchanged, "entry unchanged", "entries unchanged"),
        (report.failed, "entry failed", "entries failed"),
        (u64::from(report.resumes), "resume", "resumes"),
    ];
    for (n, one, many) in more {
        if n > 0 {
            text.push_str(&format!(", {}", output::count(n, one, many)));
        }
    }
    if report.rate.policy() != Policy::Fair {
        text.push_str(&format!(", rate policy {}", report.rate.policy().name()));
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use metra_client::{Kpis, Rtts, Traffic};
    use metra_client::{Outcome, Rung};
    use metra_core::id::Digest;
    use metra_core::measure::Distribution;
    use metra_session::Side;

    use super::*;

    /// Ten seconds, each with one more Gbit than the one before.
    fn kpis() -> Kpis {
        let mut seconds = Distribution::default();
        (1..=10).for_each(|n| seconds.add(n * 125_000_000, 1));
        let ms = Duration::from_millis;
        let rtts = Rtts { min: ms(10), p50: ms(20), p95: ms(40), last: Duration::from_micros(12_345) };
        let traffic = Traffic {
            sent_bytes: 110_000_000,
            received_bytes: 1_000_000,
            sent_datagrams: 80_000,
            received_datagrams: 2000,
            sent_packets: 80_001,
            lost_packets: 7,
            ..Traffic::default()
        };
        let (moved, delivered) = (102_000_000, 100_000_000);
        Kpis { side: Side::Source, moved, delivered, seconds, rtts: Some(rtts), traffic }
    }

    fn fixed(mbit: u64) -> RatePolicy {
        RatePolicy::new(Policy::Fixed, Some(mbit * 1_000_000)).unwrap()
    }

    fn report() -> JobReport {
        JobReport {
            bytes: 125_000_000,
            entries: 3,
            unchanged: 1,
            failed: 0,
            elapsed: Duration::from_secs(2),
            first_byte: Some(Duration::from_micros(1500)),
            verify: Duration::from_millis(7),
            chunks: 120,
            chunks_sent: 100,
            chunks_resent: 2,
            chunks_reused: 22,
            resumes: 1,
            kpis: kpis(),
            rate: fixed(500),
            root: Digest([0xab; 32]),
            links: vec!["quic".into(), "quic".into()],
            ladder: vec![(
                Tried { rung: Rung::Quic, outcome: Outcome::Used, took: Duration::from_millis(70) },
                false,
            )],
            inspected: false,
            connect: Duration::from_millis(80),
            receipt: None,
            reports: Vec::new(),
        }
    }

    #[test]
    fn the_summary_has_every_field() {
        let summary = summary(Exit::Ok, &report(), Some("/r"));
        let text = output::json(&summary);
        let value: Value = serde_json::from_str(&text).unwrap();
        let expected = json!({
            "event": "summary", "exit_code": 0, "bytes": 125_000_000, "files": 3, "unchanged": 1, "failed": 0,
            "seconds": 2.0, "ttfb_ms": 1.5, "verify_ms": 7.0, "gbps": 0.5, "chunks": 120, "chunks_sent": 100,
            "chunks_resent": 2, "chunks_reused": 22, "resumes": 1, "rate_policy": "fixed", "rate_mbit": 500.0,
            "root": "ab".repeat(32), "links": ["quic"], "connect_ms": 80.0, "inspected": false,
            "ladder": [{ "rung": "quic", "via_proxy": false, "outcome": "used", "reason": "", "seconds": 0.07 }],
            "receipt": "/r", "rtt_min_ms": 10.0, "rtt_p50_ms": 20.0, "rtt_p95_ms": 40.0, "rtt_ms": 12.345,
            "delivered": 100_000_000, "wire_ratio": 1.1, "reverse_bytes_per_gb": 10_000_000.0,
            "wire_sent": 110_000_000, "wire_received": 1_000_000, "datagrams_sent": 80_000,
            "datagrams_received": 2000, "packets_sent": 80_001, "packets_lost": 7,
        });
        for (key, expected) in expected.as_object().unwrap() {
            assert_eq!(&value[key], expected, "{key}");
        }
        assert!(value["cpu_s"].is_number());
        for (key, expected) in [("p5_gbps", 1.0), ("p50_gbps", 5.0), ("p95_gbps", 10.0)] {
            let gbps = value[key].as_f64().unwrap();
            assert!((gbps - expected).abs() < 0.004 * expected, "{key}: {gbps}");
        }
        assert_eq!(value.as_object().unwrap().len(), expected.as_object().unwrap().len() + 4);
    }

    #[test]
    fn what_could_not_be_measured_is_null() {
        let mut report = report();
        report.kpis = Kpis { delivered: 0, seconds: Distribution::default(), rtts: None, ..report.kpis };
        let summary = summary(Exit::Ok, &report, None);
        for key in
            ["p5_gbps", "p50_gbps", "p95_gbps", "rtt_ms", "rtt_min_ms", "wire_ratio", "reverse_bytes_per_gb"]
        {
            assert_eq!(summary.get(key), Some(&Value::Null), "{key}");
        }
    }

    #[test]
    fn a_failure_has_a_summary_as_well() {
        let args = OutputArgs::json_for_tests();
        let reporter = Reporter::new(Way::Get, &args, false);
        let inner = reporter.lock();
        let failure = Failure { code: Some(Code::NoSpace), ..Failure::new(Exit::Fatal, "no space") };
        let summary = inner.failed(&failure);
        assert_eq!((&summary["event"], &summary["exit_code"]), (&json!("summary"), &json!(7)));
        assert_eq!((&summary["code"], &summary["error"]), (&json!("no_space"), &json!("no space")));
        assert_eq!((&summary["ttfb_ms"], &summary["received"]), (&Value::Null, &json!(0)));
    }

    #[test]
    fn the_sentence_says_what_happened() {
        assert_eq!(
            sentence(Way::Send, &report()),
            "sent 119.2 MiB in 3 entries: 100 chunks in 2.0 s, 500 Mbit/s, 22 chunks reused, 2 chunks sent again, \
             1 entry unchanged, 1 resume, rate policy fixed"
        );
        let fair = JobReport { rate: fixed(500).as_fair(), ..report() };
        assert!(sentence(Way::Send, &fair).ends_with("1 resume"));
    }

    #[test]
    fn what_is_not_granted_is_said() {
        assert_eq!(
            not_granted(fixed(900), fixed(900).as_fair()),
            "the gateway does not grant the rate policy fixed: it is fair, at most 900 Mbit/s"
        );
        let high = RatePolicy::new(Policy::High, None).unwrap();
        assert_eq!(
            not_granted(high, RatePolicy::default()),
            "the gateway does not grant the rate policy high: it is fair"
        );
        assert_eq!(
            not_granted(fixed(900), fixed(500)),
            "the gateway grants the rate policy fixed at 500 Mbit/s, not at 900 Mbit/s"
        );
    }
}
