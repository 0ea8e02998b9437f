//! Where `metra` keeps what must outlast a run.
//!
//! ```text
//! $METRA_STATE, else $XDG_STATE_HOME/metra, else ~/.local/state/metra
//!   gateway/    keys, the development authority, journal and receipts of `metra serve`
//!   client/     hashes of files, journal and receipts of the other commands
//! ```
//!
//! A client trusts the development authority in `gateway/`, so that a gateway on the same machine needs no flags.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::exit::Failure;

/// The folder of the gateway.
pub(crate) fn gateway() -> Result<PathBuf, Failure> {
    Ok(base()?.join("gateway"))
}

/// The folder of the client.
pub(crate) fn client() -> Result<PathBuf, Failure> {
    Ok(base()?.join("client"))
}

fn base() -> Result<PathBuf, Failure> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    choose(set("METRA_STATE"), set("XDG_STATE_HOME"), set("HOME"))
        .ok_or_else(|| Failure::usage("no folder for the state: set METRA_STATE or HOME, or use --state DIR"))
}

fn choose(metra: Option<OsString>, xdg: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    let xdg = || xdg.map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || home.map(|home| PathBuf::from(home).join(".local/state"));
    metra.map(PathBuf::from).or_else(|| Some(xdg().or_else(home)?.join("metra")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_is_set_counts() {
        let some = |text: &str| Some(OsString::from(text));
        assert_eq!(choose(some("m"), some("/x"), some("/h")), Some("m".into()));
        assert_eq!(choose(None, some("/x"), some("/h")), Some("/x/metra".into()));
        assert_eq!(choose(None, None, some("/h")), Some("/h/.local/state/metra".into()));
        // The XDG specification: a relative path is to be ignored.
        assert_eq!(choose(None, some("x"), some("/h")), Some("/h/.local/state/metra".into()));
        assert_eq!(choose(None, None, None), None);
    }
}
