//! Network namespaces with emulated links between them, for real processes.
//!
//! ```text
//!  netpath (outer)            checks, passes signals on, takes over the exit code
//!    netpath (inner)          init of a process namespace of its own: when it dies, everything below it is killed
//!      lanes                  two threads for each link: read a TUN interface, ask the model, write another one
//!      --at commands          each in the network namespace of its host
//!      COMMAND
//! ```
//!
//! Nothing here has a name in the system: the network namespaces are held by open files of the inner process, so that
//! the kernel takes all of it down when that ends or is killed; and it is killed when the outer one is.
//!
//! Not here: what a link does to packets (`metra-sim-model`), and any path to another network.

mod addresses;
mod args;
mod inner;
mod ip;
mod lane;
mod namespace;
mod offload;
mod outer;
mod report;
mod supervise;
mod sys;
mod topology;

use std::process::ExitCode;

use clap::Parser;

/// The `netpath` command, on the arguments of this process. It runs this program again, as `netpath` (argument 0), so
/// that another program can be it as well: one that comes here when it is called that.
pub fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let done = match words.as_slice() {
        [first, pipe] if first == outer::INNER => inner::run(pipe),
        [first, command @ ..] if first == supervise::BECOME => Ok(supervise::become_command(command)),
        _ => args::Args::parse().job().and_then(|job| outer::run(&job)),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("netpath: {error}");
            ExitCode::from(CANNOT)
        }
    }
}

/// The exit code when netpath cannot do what it is told.
const CANNOT: u8 = 2;
