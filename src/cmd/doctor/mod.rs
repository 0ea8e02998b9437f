//! `metra doctor`: does this machine let transfers be as fast as they can be? And, with a URL, does the network ([`path`])?
//!
//! ```text
//!  readings: from the kernel --> advice: what of it is too little --> here: for people, or as JSON
//! ```
//!
//! Nothing is changed, and without a URL nothing is sent.

mod advice;
mod path;
mod readings;

use std::fmt::Write as _;
use std::io::{Write, stdout};

use serde_json::{Value, json};

use self::advice::{Check, checks};
use self::readings::Readings;
use crate::args::DoctorArgs;
use crate::exit::{Exit, Failure};
use crate::output;

pub(super) fn run(args: DoctorArgs) -> Result<Exit, Failure> {
    if let Some(url) = &args.url {
        return path::run(&url.address, &args.connect, args.json);
    }
    let checks = checks(&Readings::take());
    let exit = exit(&checks);
    let text = if args.json { lines_json(&checks, exit) } else { lines(&checks) };
    stdout().write_all(text.as_bytes())?;
    Ok(exit)
}

/// What a script can go by.
fn exit(checks: &[Check]) -> Exit {
    if checks.iter().all(|check| check.advice.is_none()) { Exit::Ok } else { Exit::Other }
}

fn lines(checks: &[Check]) -> String {
    let mut text = String::new();
    for check in checks {
        let (mark, name) = (if check.advice.is_some() { "!" } else { " " }, check.name.replace('_', " "));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{mark} {name:<18} {}", check.found);
        let Some(advice) = &check.advice else { continue };
        let _ = writeln!(text, "    {}", advice.why);
        if let Some(command) = &advice.command {
            let _ = writeln!(text, "        {command}");
        }
    }
    let advised = checks.iter().filter(|check| check.advice.is_some()).count();
    text += &match advised {
        0 => "All is well.\n".to_owned(),
        n => format!("{} could be better, marked with !.\n", output::count(n as u64, "thing", "things")),
    };
    text
}

fn lines_json(checks: &[Check], exit: Exit) -> String {
    let each = checks.iter().map(|check| {
        let advice = check.advice.as_ref();
        json!({
            "event": "check", "name": check.name, "ok": advice.is_none(), "found": check.found,
            "value": check.value, "wanted": check.wanted, "advice": advice.map(|advice| &advice.why),
            "command": advice.and_then(|advice| advice.command.as_ref()),
        })
    });
    let advised = checks.iter().filter(|check| check.advice.is_some()).count();
    let summary =
        json!({ "event": "summary", "checks": checks.len(), "advice": advised, "exit_code": exit.number() });
    each.chain([summary]).map(|value: Value| output::json(&value) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::advice::Advice;
    use super::*;

    fn two() -> Vec<Check> {
        let check =
            |name, advice| Check { name, found: "5".to_owned(), value: Some(5), wanted: Some(7), advice };
        let advice =
            Advice { why: "It is too little.".to_owned(), command: Some("sysctl -w a=7".to_owned()) };
        vec![check("open_files", None), check("send_buffer", Some(advice))]
    }

    #[test]
    fn people_see_the_command_below_what_is_too_little() {
        let expected = concat!(
            "  open files         5\n",
            "! send buffer        5\n",
            "    It is too little.\n",
            "        sysctl -w a=7\n",
            "1 thing could be better, marked with !.\n",
        );
        assert_eq!(lines(&two()), expected);
        assert_eq!(lines(&two()[..1]), "  open files         5\nAll is well.\n");
    }

    #[test]
    fn scripts_see_an_object_a_line_and_the_exit_code() {
        let checks = two();
        let text = lines_json(&checks, exit(&checks));
        let values: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap_or_default()).collect();
        assert_eq!(values[0]["ok"], true);
        assert_eq!((&values[0]["advice"], &values[0]["command"]), (&Value::Null, &Value::Null));
        assert_eq!((&values[1]["ok"], &values[1]["command"]), (&json!(false), &json!("sysctl -w a=7")));
        assert_eq!((&values[1]["value"], &values[1]["wanted"]), (&json!(5), &json!(7)));
        assert_eq!(values[2], json!({ "event": "summary", "checks": 2, "advice": 1, "exit_code": 1 }));
        assert_eq!(exit(&checks[..1]), Exit::Ok);
    }
}
