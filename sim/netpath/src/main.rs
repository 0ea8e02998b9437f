//! The `netpath` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    metra_netpath::main()
}
