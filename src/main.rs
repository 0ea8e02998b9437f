//! The `metra` command: arguments, progress, exit codes. The libraries do the work.

mod args;
mod cmd;
mod exit;
mod log;
mod output;
mod progress;
mod report;
mod settings;
mod state;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
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
