//! `metra rm`.

use std::io::{Write, stdout};

use metra_client::Client;

use super::{ls, session};
use crate::args::RmArgs;
use crate::exit::{Exit, Failure};
use crate::output;

pub(super) fn run(args: RmArgs) -> Result<Exit, Failure> {
    let path = args.url.path.trim_end_matches('/');
    if path.is_empty() {
        return Err(Failure::usage("the root of a gateway cannot be removed: name what is in it"));
    }
    let removed = session::with_client(&args.connect, &args.url.address, async |client: &Client| {
        client.remove(path, args.recursive).await
    });
    let count = removed.map_err(|failure| ls::missing(failure, &args.url.path))?;
    if !args.quiet {
        writeln!(stdout(), "removed {}", output::count(count, "entry", "entries"))?;
    }
    Ok(Exit::Ok)
}
