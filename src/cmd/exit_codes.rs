//! `metra exit-codes`: the same text as `metra help exit-codes`.

use std::io::Write;

use crate::exit::{self, Exit, Failure};

pub(super) fn run() -> Result<Exit, Failure> {
    std::io::stdout().write_all(exit::table().as_bytes())?;
    Ok(Exit::Ok)
}
