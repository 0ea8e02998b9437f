//! `metra policy`: policies, without a gateway.

use std::fs;
use std::io::{Write, stderr, stdout};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use metra_policy::engine::cases::{Question, run_cases, told};
use metra_policy::engine::{Decision, Engine};
use serde_json::json;

use crate::args::{PolicyArgs, PolicyCheckArgs, PolicyCommand, PolicyExplainArgs, PolicyTestArgs};
use crate::exit::{Exit, Failure};
use crate::output;

pub(super) fn run(args: PolicyArgs) -> Result<Exit, Failure> {
    match args.command {
        PolicyCommand::Check(args) => check(&args),
        PolicyCommand::Test(args) => test(&args),
        PolicyCommand::Explain(args) => explain(*args),
    }
}

fn check(args: &PolicyCheckArgs) -> Result<Exit, Failure> {
    let engine = engine(&args.files)?;
    for warning in engine.warnings() {
        writeln!(stderr(), "warning: {warning}")?;
    }
    writeln!(stdout(), "{}", output::count(engine.len() as u64, "policy", "policies"))?;
    Ok(Exit::Ok)
}

fn test(args: &PolicyTestArgs) -> Result<Exit, Failure> {
    let engine = engine(&args.policies)?;
    let (mut all, mut failed) = (0, 0);
    let mut out = stdout();
    for file in &args.cases {
        let outcomes = run_cases(&engine, &read(file)?, now())
            .map_err(|e| Failure::usage(format!("{}: {e}", file.display())))?;
        for outcome in outcomes {
            all += 1;
            if let Some(why) = outcome.failed {
                failed += 1;
                writeln!(out, "{}: {}: {why}", file.display(), outcome.name)?;
            }
        }
    }
    if failed > 0 {
        return Err(Failure::new(
            Exit::Other,
            format!("{failed} of {} not as expected", output::count(all, "case", "cases")),
        ));
    }
    writeln!(out, "{}, all as expected", output::count(all, "case", "cases"))?;
    Ok(Exit::Ok)
}

fn explain(args: PolicyExplainArgs) -> Result<Exit, Failure> {
    let engine = engine(&args.policies)?;
    let time = match args.time {
        None => None,
        Some(text) => Some(text.parse().map_err(|e| Failure::usage(format!("--time {text}: {e}")))?),
    };
    let question = Question {
        user: args.user,
        groups: args.groups,
        tenant: args.tenant,
        action: args.action,
        path: args.path,
        target: args.target,
        source: args.source,
        way: args.way,
        inspected: args.inspected,
        time,
        size: args.size,
        file_type: args.file_type,
        address: args.address,
        rate: args.rate,
        mbit: args.mbit,
    };
    let request = question.request(now()).map_err(Failure::usage)?;
    let decision = engine.decide(&request);
    let mut out = stdout();
    if args.json {
        writeln!(out, "{}", output::json(&object(&decision)))?;
    } else {
        let (user, action, resource) = (&request.principal.user, request.action, &request.resource);
        writeln!(out, "{user}, {action}, {resource}: {}", told(&decision))?;
        for (policy, error) in &decision.errors {
            writeln!(out, "could not be evaluated: {policy}: {error}")?;
        }
    }
    Ok(if decision.allowed { Exit::Ok } else { Exit::Policy })
}

fn object(decision: &Decision) -> serde_json::Value {
    let policies: Vec<_> =
        decision.policies.iter().map(|policy| json!({ "id": policy.id, "place": policy.place })).collect();
    let errors: Vec<_> = decision
        .errors
        .iter()
        .map(|(policy, error)| json!({ "id": policy.id, "place": policy.place, "error": error }))
        .collect();
    json!({ "allowed": decision.allowed, "policies": policies, "errors": errors })
}

fn engine(files: &[PathBuf]) -> Result<Engine, Failure> {
    let mut texts = Vec::new();
    for file in files {
        texts.push((file.display().to_string(), read(file)?));
    }
    Engine::parse(&texts).map_err(|errors| Failure::usage(errors.to_string()))
}

fn read(file: &PathBuf) -> Result<String, Failure> {
    fs::read_to_string(file).map_err(|e| Failure::io(file.display(), &e))
}

/// Seconds since the epoch.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
