//! The `metra` command: arguments, progress, exit codes. The libraries do the work.

mod args;
mod cmd;
mod exit;
mod output;
mod progress;
mod report;
mod state;

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    if !matches!(cli.command, args::Command::Serve(_)) {
        start_log();
    }
    let exit = match cmd::run(cli.command) {
        Ok(exit) => exit,
        Err(failure) => {
            if !failure.message.is_empty() {
                eprintln!("metra: {}", output::text(&failure.message));
            }
            failure.exit
        }
    };
    ExitCode::from(exit.number())
}

/// The log of the client commands is for finding faults: nothing is in it unless METRA_LOG asks for it.
fn start_log() {
    if let Ok(filter) = EnvFilter::try_from_env("METRA_LOG") {
        // Fails only if there is a log already.
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
    }
}
