//! `metra doctor URL`: does the network let transfers through, and if not, what stands in the way?
//!
//! ```text
//!  metra_client::probe, each way by itself --> findings: what is wrong, in words --> here: for people, or as JSON
//! ```

mod findings;

use std::fmt::Write as _;
use std::io::{Write, stdout};
use std::time::Duration;

use metra_client::{Address, Ecn, Probe};
use metra_transport::Rt;
use serde_json::{Value, json};

use self::findings::{Case, Finding};
use crate::args::ConnectArgs;
use crate::cmd::session::{block_on, options, signalled};
use crate::exit::{Exit, Failure};
use crate::output;

pub(super) fn run(address: &Address, connect: &ConnectArgs, json: bool) -> Result<Exit, Failure> {
    let options = options(connect, address)?;
    let probes = block_on(async {
        let rt = Rt::tokio();
        let each = async {
            let mut probes = Vec::new();
            for rung in &options.via {
                probes.push(metra_client::probe(&rt, &options, *rung).await?);
            }
            Ok(probes)
        };
        tokio::select! {
            probes = each => probes,
            exit = signalled() => Err(Failure::new(exit, "interrupted")),
        }
    })?;
    let case = Case { address, probes: &probes, pins: options.trust.pins() };
    let findings = case.findings();
    let exit = exit(&probes, &findings);
    let text = if json { lines_json(&case, &findings, exit) } else { lines(&case, &findings, exit) };
    stdout().write_all(text.as_bytes())?;
    Ok(exit)
}

/// What a script can go by.
fn exit(probes: &[Probe], findings: &[Finding]) -> Exit {
    if !probes.iter().any(Probe::works) {
        Exit::Retryable
    } else if findings.is_empty() {
        Exit::Ok
    } else {
        Exit::Other
    }
}

fn lines(case: &Case<'_>, findings: &[Finding], exit: Exit) -> String {
    let mut rows = vec![
        ["way", "works", "stands after", "round trip", "loss", "MTU", "ECN", "inspected", "key"]
            .map(str::to_owned),
    ];
    rows.extend(case.probes.iter().map(|probe| row(case, probe)));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: [usize; 9] = std::array::from_fn(width);
    let mut text = format!("{}\n", case.address);
    // Writing to a String cannot fail.
    for (number, row) in rows.iter().enumerate() {
        let probe = number.checked_sub(1).and_then(|n| case.probes.get(n));
        let is_found = |probe: &Probe| findings.iter().any(|finding| finding.rung == probe.rung);
        let marked = probe.is_some_and(|probe| !probe.works() || is_found(probe));
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(text, "{} {}", if marked { "!" } else { " " }, cells.join("  ").trim_end());
    }
    for probe in case.probes {
        if let Some(answer) = &probe.answer {
            let told = match answer {
                Ok(user) => format!("the gateway knows you as {}", output::name(user)),
                Err(error) => format!("the way works; {}", output::text(&error.message)),
            };
            let _ = writeln!(text, "  {}: {told}", probe.rung);
        }
    }
    for finding in findings {
        let _ = writeln!(text, "\n! {}: {}", finding.rung, output::text(&finding.user));
        if let Some(words) = &finding.administrator {
            let _ = writeln!(text, "  For the administrator of the network:\n    {}", output::text(words));
        }
    }
    let best = case.probes.iter().find(|probe| probe.works());
    text += &match (exit, best) {
        (Exit::Ok, _) => "The network is well.\n".to_owned(),
        (_, Some(best)) => format!("\nTransfers go by {}.\n", best.rung),
        (_, None) if case.is_nobody_there() => format!(
            "\nNo way to {} works: see first whether it runs, and whether host and port are right.\n",
            case.address
        ),
        (_, None) => format!("\nNo way to {} works.\n", case.address),
    };
    text
}

fn row(case: &Case<'_>, probe: &Probe) -> [String; 9] {
    let or = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    [
        probe.rung.to_string(),
        if probe.works() { "yes" } else { "no" }.to_owned(),
        or(probe.handshake.map(ms)),
        or(probe.rtt.map(|(smoothed, _)| ms(smoothed))),
        or(probe.loss.map(|(lost, sent)| format!("{:.1} %", percent(lost, sent)))),
        or(probe.mtu.map(|(mtu, _)| mtu.to_string())),
        or(probe.ecn.map(|ecn| ecn.name().to_owned())),
        or(case.inspected(probe).map(|yes| if yes { "yes" } else { "no" }.to_owned())),
        or(probe.pin.map(|pin| pin.to_string())),
    ]
}

fn lines_json(case: &Case<'_>, findings: &[Finding], exit: Exit) -> String {
    let millis = |time: Duration| output::rounded(time.as_secs_f64() * 1e3);
    let each = case.probes.iter().map(|probe| {
        json!({
            "event": "way", "rung": probe.rung.name(), "works": probe.works(), "proxy": probe.proxy,
            "from": probe.from.map(|from| from.to_string()), "to": probe.to.map(|to| to.to_string()),
            "handshake_ms": probe.handshake.map(millis),
            "rtt_ms": probe.rtt.map(|(smoothed, _)| millis(smoothed)),
            "rtt_min_ms": probe.rtt.map(|(_, min)| millis(min)),
            "packets_lost": probe.loss.map(|(lost, _)| lost), "packets_sent": probe.loss.map(|(_, sent)| sent),
            "mtu": probe.mtu.map(|(mtu, _)| mtu), "ecn": probe.ecn.map(Ecn::name),
            "pin": probe.pin.map(|pin| pin.to_string()), "inspected": case.inspected(probe),
            "bytes_arrived": probe.moved.0, "bytes_received": probe.moved.1,
            "user": probe.answer.as_ref().and_then(|answer| answer.as_ref().ok()),
            "code": probe.answer.as_ref().and_then(|answer| answer.as_ref().err()).map(|error| error.code.name()),
        })
    });
    let found = findings.iter().map(|finding| {
        json!({
            "event": "finding", "rung": finding.rung.name(), "name": finding.name, "user": finding.user,
            "administrator": finding.administrator,
        })
    });
    let best = case.probes.iter().find(|probe| probe.works()).map(|probe| probe.rung.name());
    let summary = json!({
        "event": "summary", "gateway": case.address.to_string(), "best": best, "findings": findings.len(),
        "exit_code": exit.number(),
    });
    each.chain(found).chain([summary]).map(|value: Value| output::json(&value) + "\n").collect()
}

fn percent(part: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { part as f64 * 100.0 / of as f64 }
}

fn ms(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    if ms < 9.95 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use metra_client::{Rung, Stage, Trouble};

    use super::*;

    fn probes() -> Vec<Probe> {
        let silent = Probe { trouble: Some(Trouble::Silent(Stage::Connect)), ..Probe::new(Rung::Quic) };
        let works = Probe {
            handshake: Some(Duration::from_millis(42)),
            rtt: Some((Duration::from_micros(9_100), Duration::from_millis(9))),
            moved: (262_144, 5000),
            answer: Some(Ok("alice".into())),
            ..Probe::new(Rung::Tls)
        };
        vec![silent, works]
    }

    #[test]
    fn people_see_a_table_and_what_to_say_to_whom() {
        let (address, probes) = (Address { host: "gw.example".into(), port: 4443 }, probes());
        let case = Case { address: &address, probes: &probes, pins: &[] };
        let findings = case.findings();
        let text = lines(&case, &findings, exit(&probes, &findings));
        let expected = concat!(
            "gw.example:4443\n",
            "  way   works  stands after  round trip  loss  MTU  ECN  inspected  key\n",
            "! quic  no     -             -           -     -    -    -          -\n",
            "  tls   yes    42 ms         9.1 ms      -     -    -    -          -\n",
            "  tls: the gateway knows you as alice\n",
            "\n! quic: Nothing is heard over UDP: a firewall drops it, or the gateway is not there.\n",
            "  For the administrator of the network:\n",
            "    UDP from this machine to gw.example port 4443 gets no answer",
        );
        assert!(text.starts_with(expected), "{text}");
        assert!(text.ends_with("\nTransfers go by tls.\n"), "{text}");
    }

    #[test]
    fn scripts_see_each_way_each_finding_and_a_summary() {
        let (address, probes) = (Address { host: "gw.example".into(), port: 4443 }, probes());
        let case = Case { address: &address, probes: &probes, pins: &[] };
        let text = lines_json(&case, &case.findings(), Exit::Other);
        let values: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(values.len(), 4);
        assert_eq!((&values[0]["works"], &values[0]["mtu"]), (&json!(false), &Value::Null));
        assert_eq!((&values[1]["handshake_ms"], &values[1]["user"]), (&json!(42.0), &json!("alice")));
        assert_eq!((&values[2]["rung"], &values[2]["name"]), (&json!("quic"), &json!("silent")));
        assert_eq!((&values[3]["best"], &values[3]["exit_code"]), (&json!("tls"), &json!(1)));
    }

    #[test]
    fn the_exit_code_says_whether_anything_works() {
        let mut probes = probes();
        assert_eq!(exit(&probes[1..], &[]), Exit::Ok);
        assert_eq!(exit(&probes[..1], &[]), Exit::Retryable);
        probes[1].trouble = Some(Trouble::Local("no".into()));
        assert_eq!(exit(&probes, &[]), Exit::Retryable);
    }
}
