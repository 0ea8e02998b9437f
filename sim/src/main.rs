//! `metra-sim`: runs plans in virtual time.

mod agree;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use metra_sim::{Cell, Outcome, Plan, Row, RunError, plot, record, run};

/// Runs the real gateway, client and QUIC in virtual time over links that are arithmetic
#[derive(Parser)]
#[command(name = "metra-sim", version)]
enum Args {
    /// Run a plan; results as CSV, JSON and drawings
    Run {
        /// TOML file, such as those in sim/plans
        plan: PathBuf,
        /// Where results go [default: target/sim/NAME-OF-THE-PLAN]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Runs at a time [default: one for each processor]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
        jobs: Option<u16>,
        /// Only runs whose name contains this, as in 1000mbit-120ms
        #[arg(long, value_name = "TEXT")]
        only: Option<String>,
    },
    /// Run a plan in virtual time and in real time through netpath (needs root), and compare
    Agree {
        /// TOML file; one client that sends
        plan: PathBuf,
        #[command(flatten)]
        programs: agree::Programs,
        /// Only runs whose name contains this
        #[arg(long, value_name = "TEXT")]
        only: Option<String>,
    },
    /// List the runs of a plan
    List {
        /// TOML file
        plan: PathBuf,
    },
}

fn main() -> ExitCode {
    let done = match Args::parse() {
        Args::List { plan } => Plan::load(&plan).map_err(|e| e.to_string()).map(|plan| {
            for cell in plan.cells() {
                println!("{}", cell.name());
            }
        }),
        Args::Agree { plan, programs, only } => Plan::load(&plan)
            .map_err(|e| e.to_string())
            .and_then(|plan| agree::agree(&plan, &programs, only.as_deref())),
        Args::Run { plan, out, jobs, only } => run_plan(&plan, out, jobs, only.as_deref()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("metra-sim: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run_plan(file: &Path, out: Option<PathBuf>, jobs: Option<u16>, only: Option<&str>) -> Result<(), String> {
    let plan = Plan::load(file).map_err(|e| e.to_string())?;
    let cells: Vec<Cell> =
        plan.cells().into_iter().filter(|cell| only.is_none_or(|only| cell.name().contains(only))).collect();
    if cells.is_empty() {
        return Err("no run has a name like that; `metra-sim list PLAN` has the names".to_owned());
    }
    let stem = file.file_stem().unwrap_or_default();
    let out = out.unwrap_or_else(|| Path::new("target/sim").join(stem));
    let named = |path: &Path, e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    std::fs::create_dir_all(&out).map_err(|e| named(&out, &e))?;

    let results = run_all(&cells, jobs)?;
    let mut rows: Vec<Row> = Vec::new();
    for (cell, outcome) in cells.iter().zip(&results) {
        rows.extend(record::rows(cell, outcome));
        if !outcome.samples.is_empty() {
            let csv = out.join(format!("{}.csv", cell.name()));
            std::fs::write(&csv, record::series(&outcome.samples)).map_err(|e| named(&csv, &e))?;
            let svg = csv.with_extension("svg");
            plot::course(&svg, cell, &outcome.samples).map_err(|e| named(&svg, &e))?;
        }
    }
    let csv = out.join("results.csv");
    std::fs::write(&csv, record::csv(&rows)).map_err(|e| named(&csv, &e))?;
    let json = out.join("results.json");
    let text = serde_json::to_string_pretty(&rows).map_err(|e| e.to_string())?;
    std::fs::write(&json, text).map_err(|e| named(&json, &e))?;
    draw(&plan, &rows, &out)?;
    print(&rows);
    println!("\nresults: {}", out.display());
    Ok(())
}

fn draw(plan: &Plan, rows: &[Row], out: &Path) -> Result<(), String> {
    if plan.grid.loss_percent.len() < 2 {
        return Ok(());
    }
    for rate in &plan.grid.rate_mbit {
        for controller in &plan.grid.controller {
            for way in &plan.grid.way {
                let (controller, way) = (controller.name(), way.name());
                let svg = out.join(format!("loss-{rate}mbit-{controller}-{way}.svg"));
                plot::loss(&svg, plan, rows, *rate, controller, way)
                    .map_err(|e| format!("{}: {e}", svg.display()))?;
            }
        }
    }
    Ok(())
}

/// Runs in threads; the outcomes are in the order of the cells.
fn run_all(cells: &[Cell], jobs: Option<u16>) -> Result<Vec<Outcome>, String> {
    let jobs =
        jobs.map_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()), |jobs| jobs.into());
    let bar = ProgressBar::new(cells.len() as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len}  {elapsed}  {msg}") {
        bar.set_style(style);
    }
    let todo: Mutex<VecDeque<usize>> = Mutex::new((0..cells.len()).collect());
    let results: Mutex<Vec<Option<Result<Outcome, RunError>>>> =
        Mutex::new(cells.iter().map(|_| None).collect());
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(cells.len()) {
            scope.spawn(|| {
                while let Some(next) = take(&todo) {
                    bar.set_message(cells[next].name());
                    let outcome = run(&cells[next].scenario);
                    results.lock().expect("no panic while held")[next] = Some(outcome);
                    bar.inc(1);
                }
            });
        }
    });
    bar.finish_and_clear();
    let results = results.into_inner().expect("no panic while held");
    let named = |(cell, outcome): (&Cell, Option<Result<Outcome, RunError>>)| {
        outcome.expect("every cell was run").map_err(|e| format!("{}: {e}", cell.name()))
    };
    cells.iter().zip(results).map(named).collect()
}

fn take(todo: &Mutex<VecDeque<usize>>) -> Option<usize> {
    todo.lock().expect("no panic while held").pop_front()
}

fn print(rows: &[Row]) {
    println!(
        "{:>7} {:>6} {:>6} {:>6} {:>5} {:>5} {:>4} {:>9} {:>9} {:>6} {:>8} {:>7}",
        "Mbit/s",
        "ms",
        "loss %",
        "cc",
        "way",
        "seed",
        "flow",
        "seconds",
        "goodput",
        "part",
        "ttfb ms",
        "s/GB"
    );
    for row in rows {
        println!(
            "{:>7} {:>6} {:>6} {:>6} {:>5} {:>5} {:>4} {:>9.3} {:>9.1} {:>6.3} {:>8.1} {:>7.2}  {}",
            row.rate_mbit,
            row.rtt_ms,
            row.loss_percent,
            row.controller,
            row.way,
            row.seed,
            row.flow,
            row.seconds,
            row.goodput_mbit,
            row.of_rate,
            row.ttfb_ms.unwrap_or(f64::NAN),
            row.cpu_s_per_gb,
            row.error
        );
    }
}
