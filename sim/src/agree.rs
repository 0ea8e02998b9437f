//! The same runs in virtual time and in real time, through the emulator: do they agree?

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use metra_sim::{Cell, Plan, Way, run};
use serde::Serialize;

/// Results further apart than this do not agree.
const APART: f64 = 0.10;
const TOKEN: &str = "token-of-the-comparison";

/// Where the programs are; without an answer, beside this one.
#[derive(clap::Args)]
pub(crate) struct Programs {
    /// The emulator [default: beside this program]
    #[arg(long, value_name = "FILE")]
    netpath: Option<PathBuf>,
    /// The command [default: beside this program]
    #[arg(long, value_name = "FILE")]
    metra: Option<PathBuf>,
    /// Seeds of each run; the medians count
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
}

/// Runs a plan twice; every run that the emulator can do has one client, which sends.
pub(crate) fn agree(plan: &Plan, programs: &Programs, only: Option<&str>) -> Result<(), String> {
    let beside = |name: &str| {
        let me = std::env::current_exe().map_err(|e| e.to_string())?;
        let file = me.with_file_name(name);
        match file.is_file() {
            true => Ok(file),
            false => Err(format!(
                "{} is not there: cargo build --release -p metra -p metra-netpath",
                file.display()
            )),
        }
    };
    let netpath = programs.netpath.clone().map_or_else(|| beside("netpath"), Ok)?;
    let metra = programs.metra.clone().map_or_else(|| beside("metra"), Ok)?;
    println!(
        "{:<42} {:>10} {:>10} {:>7}  goodput, Mbit/s; virtual/real of each seed",
        "run", "virtual", "real", "ratio"
    );
    let (mut agreed, mut all) = (0, 0);
    for cell in plan.cells().iter().filter(|cell| only.is_none_or(|only| cell.name().contains(only))) {
        if !matches!(&cell.scenario.flows[..], [flow] if flow.way == Way::Push) {
            return Err(format!("{}: only plans of one client that sends can be compared", cell.name()));
        }
        let named = |e: &dyn std::fmt::Display| format!("{}: {e}", cell.name());
        let rounds = 0..programs.rounds.max(1) as u64;
        let mut simulated = Vec::new();
        let mut real = Vec::new();
        for seed in rounds.map(|round| cell.scenario.seed + round) {
            let mut cell = cell.clone();
            cell.scenario.seed = seed;
            let outcome = run(&cell.scenario).map_err(|e| named(&e))?;
            // What was not done in its time is 0: it cannot be compared.
            let report = outcome.flows.first().and_then(|flow| flow.report.as_ref().ok());
            // As the command counts: without the opening of the session.
            simulated.push(report.map_or(0.0, |r| r.bytes as f64 * 8e-6 / r.elapsed.as_secs_f64()));
            real.push(real_run(&cell, &netpath, &metra).map_err(|e| named(&e))?);
        }
        let (each, simulated, real) = (list(&simulated, &real), median(simulated), median(real));
        let ratio = simulated / real.max(1e-9);
        all += 1;
        let fits = simulated > 0.0 && (ratio - 1.0).abs() <= APART;
        agreed += usize::from(fits);
        let mark = if fits { "" } else { "  apart" };
        println!("{:<42} {simulated:>10.1} {real:>10.1} {ratio:>7.3} {each}{mark}", cell.name());
    }
    println!("{agreed} of {all} agree within {:.0} %", APART * 100.0);
    if agreed == all { Ok(()) } else { Err("the instruments do not agree everywhere".to_owned()) }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn list(simulated: &[f64], real: &[f64]) -> String {
    simulated.iter().zip(real).fold(String::new(), |mut text, (simulated, real)| {
        let _ = write!(text, " {simulated:.1}/{real:.1}");
        text
    })
}

/// What the emulator reads.
#[derive(Serialize)]
struct Topology<'a> {
    seed: u64,
    host: [Host; 2],
    link: [Link<'a>; 1],
}

#[derive(Serialize)]
struct Host {
    name: &'static str,
}

#[derive(Serialize)]
struct Link<'a> {
    a: &'static str,
    b: &'static str,
    up: &'a metra_sim_model::Direction,
    down: &'a metra_sim_model::Direction,
}

/// Goodput of a run through the emulator. Mbit/s.
fn real_run(cell: &Cell, netpath: &Path, metra: &Path) -> Result<f64, String> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let at = |name: &str| dir.path().join(name);
    let topology = Topology {
        seed: cell.scenario.seed,
        host: [Host { name: "client" }, Host { name: "server" }],
        link: [Link { a: "client", b: "server", up: &cell.scenario.up, down: &cell.scenario.down }],
    };
    let write = |name: &str, text: String| std::fs::write(at(name), text).map_err(|e| e.to_string());
    write("topology.toml", toml::to_string(&topology).map_err(|e| e.to_string())?)?;
    write("token", TOKEN.to_owned())?;
    // The first link of a topology has these addresses.
    let config = format!(
        "listen = \"10.77.0.2:4443\"\nroot = \"{0}\"\nstate = \"{1}\"\n[users.sim]\ntoken_file = \"{2}\"\n",
        at("root").display(),
        at("state").display(),
        at("token").display()
    );
    write("gateway.toml", config)?;
    std::fs::create_dir(at("root")).map_err(|e| e.to_string())?;
    let server = format!(
        "'{}' serve --config '{}' --ready-file '{}' 2>'{}'",
        metra.display(),
        at("gateway.toml").display(),
        at("ready").display(),
        at("log").display()
    );
    let client = format!(
        "while [ ! -e '{}' ]; do sleep 0.05; done; exec '{}' send --json --no-path-memory --congestion {} --state '{}' --token-file '{}' \
         --ca '{}' random:{} mtp://10.77.0.2:4443/null:",
        at("ready").display(),
        metra.display(),
        cell.scenario.flows[0].controller.name(),
        at("client").display(),
        at("token").display(),
        at("state").join("dev-ca.pem").display(),
        cell.scenario.flows[0].bytes,
    );
    let output = Command::new(netpath)
        .arg("--topology")
        .arg(at("topology.toml"))
        .args(["--in", "client", "--at", "server", &server, "--"])
        .args(["timeout", "-s", "INT", &format!("{}", cell.scenario.limit_s), "sh", "-c", &client])
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("{}: {e}", netpath.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().rfind(|line| line.contains("\"summary\""));
    let summary: serde_json::Value =
        last.and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
    match (summary["bytes"].as_f64(), summary["seconds"].as_f64()) {
        (Some(_), Some(_)) if summary["exit_code"] != 0 => Ok(0.0),
        (Some(bytes), Some(seconds)) if seconds > 0.0 => Ok(bytes * 8e-6 / seconds),
        _ => {
            let log = std::fs::read_to_string(at("log")).unwrap_or_default();
            Err(format!("{}\n{text}{log}", String::from_utf8_lossy(&output.stderr)))
        }
    }
}
