//! The commands: from arguments to calls of the libraries, and back to an exit code.

mod demo;
mod doctor;
mod exit_codes;
mod get;
mod hash;
mod listing;
mod ls;
mod policy;
mod rm;
mod select;
mod send;
mod serve;
mod session;
mod source;
mod stat;
mod tunnel;
mod verify;

use crate::args::Command;
use crate::exit::{Exit, Failure};
use crate::log;

/// Does what the command line says.
pub(crate) fn run(command: Command) -> Result<Exit, Failure> {
    // The gateway's log is as its configuration says.
    if !matches!(command, Command::Serve(_)) {
        log::start()?;
    }
    match command {
        Command::Serve(args) => serve::run(args),
        Command::Send(args) => send::run(args),
        Command::Get(args) => get::run(args),
        Command::Ls(args) => ls::run(args),
        Command::Rm(args) => rm::run(args),
        Command::Stat(args) => stat::run(args),
        Command::Hash(args) => hash::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Tunnel(args) => tunnel::run(args),
        Command::Policy(args) => policy::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Demo(args) => demo::run(args),
        Command::ExitCodes => exit_codes::run(),
    }
}
