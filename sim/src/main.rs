//! `metra-sim`: runs plans in virtual time.

mod agree;

use std::collections::{BTreeSet, VecDeque};
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
    let wanted = |cell: &&Cell| only.is_none_or(|only| cell.name().contains(only));
    let cells: Vec<Cell> = plan.cells().iter().filter(wanted).cloned().collect();
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
        if let Some(every) = cell.course_ms {
            let samples = record::course(&outcome.samples, every);
            let csv = out.join(format!("{}.csv", cell.name()));
            std::fs::write(&csv, record::series(&samples)).map_err(|e| named(&csv, &e))?;
            let svg = out.join(format!("{}.svg", cell.name()));
            plot::course(&svg, cell, &samples).map_err(|e| named(&svg, &e))?;
        }
    }
    let csv = out.join("results.csv");
    std::fs::write(&csv, record::csv(&rows)).map_err(|e| named(&csv, &e))?;
    let json = out.join("results.json");
    let text = serde_json::to_string_pretty(&rows).map_err(|e| e.to_string())?;
    std::fs::write(&json, text).map_err(|e| named(&json, &e))?;
    draw(&plan.title, &cells, &rows, &out)?;
    print(&rows);
    println!("\nresults: {}", out.display());
    Ok(())
}

/// Goodput against loss, for each family of runs that has several losses.
fn draw(title: &str, cells: &[Cell], rows: &[Row], out: &Path) -> Result<(), String> {
    let families: BTreeSet<&String> = cells.iter().filter_map(|cell| cell.family.as_ref()).collect();
    for family in families {
        let of = cells.iter().filter(|cell| cell.family.as_ref() == Some(family));
        let runs: BTreeSet<&str> = of.map(Cell::name).collect();
        let rows: Vec<&Row> = rows.iter().filter(|row| runs.contains(row.run.as_str())).collect();
        if plot::different(&rows, |row| row.loss_percent).len() > 1 {
            let svg = out.join(format!("loss-{family}.svg"));
            plot::loss(&svg, &format!("{title}: {family}"), &rows)
                .map_err(|e| format!("{}: {e}", svg.display()))?;
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
                    bar.set_message(cells[next].name().to_owned());
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
    let wide = rows.iter().map(|row| row.run.len()).max().unwrap_or(0);
    println!(
        "{:<wide$} {:>4} {:>6} {:>9} {:>9} {:>6} {:>7} {:>6} {:>9} {:>7} {:>8} {:>5} {:>6}",
        "run",
        "flow",
        "cc",
        "seconds",
        "goodput",
        "part",
        "steady",
        "wire",
        "queue ms",
        "start s",
        "recovery",
        "jain",
        "s/GB"
    );
    let or_none =
        |value: Option<f64>, digits| value.map_or("-".to_owned(), |value| format!("{value:.digits$}"));
    for row in rows {
        println!(
            "{:<wide$} {:>4} {:>6} {:>9.3} {:>9.1} {:>6.3} {:>7} {:>6} {:>9} {:>7} {:>8} {:>5} {:>6.2}  {}",
            row.run,
            row.flow,
            row.controller,
            row.seconds,
            row.goodput_mbit,
            row.of_rate,
            or_none(row.steady_of_payload, 3),
            or_none(row.steady_wire_ratio, 3),
            or_none(row.queue_delay_mean_ms, 1),
            or_none(row.start_s, 2),
            or_none(row.recovery_s, 2),
            or_none(row.jain, 3),
            row.cpu_s_per_gb,
            row.error
        );
    }
}
