//! The client's memory of paths, over runs: a small file in the state folder.

use std::fs;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use metra_transport::quic::Paths;

/// The file, and what is written before it takes its place.
const FILE: &str = "paths";
const NEW: &str = "paths.new";

/// What earlier runs have left. A file that cannot be read or makes no sense is none.
pub(crate) fn load(state: &Path) -> Paths {
    let Ok(text) = fs::read_to_string(state.join(FILE)) else { return Paths::default() };
    Paths::from_text(&text, SystemTime::now()).unwrap_or_else(|error| {
        tracing::debug!(%error, "a damaged memory of paths is left out");
        Paths::default()
    })
}

/// Leaves `paths` for later runs, together with what other processes have left `since` they were loaded: what was there before
/// and is not in them has been forgotten. Not synced: whoever cuts the power loses a faster start.
///
/// # Errors
/// What the system says.
pub fn save(state: &Path, paths: &Paths, since: SystemTime) -> io::Result<()> {
    paths.merge(&load(state), since);
    // Its own for each process, so that no other one writes into it.
    let new = state.join(format!("{NEW}.{}", std::process::id()));
    fs::write(&new, paths.to_text())?;
    fs::rename(&new, state.join(FILE))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::{Duration, UNIX_EPOCH};

    use metra_core::bbr::Remembered;

    use super::*;

    const PATH: Remembered =
        Remembered { bandwidth: 1e8, min_rtt: Duration::from_millis(50), random_loss: 0.01 };

    fn one(peer: &str) -> Paths {
        let paths = Paths::default();
        paths.note(peer.parse().unwrap(), None, PATH, SystemTime::now());
        paths
    }

    #[test]
    fn what_is_saved_is_there_again() {
        let dir = tempfile::tempdir().unwrap();
        let text = one("192.0.2.1").to_text();
        save(dir.path(), &Paths::from_text(&text, SystemTime::now()).unwrap(), UNIX_EPOCH).unwrap();
        assert_eq!(load(dir.path()).to_text(), text);
        let files: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
        assert_eq!(files, [FILE], "nothing else is left");
    }

    #[test]
    fn what_others_have_saved_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), &one("192.0.2.1"), UNIX_EPOCH).unwrap();
        save(dir.path(), &one("192.0.2.2"), UNIX_EPOCH).unwrap();
        let text = load(dir.path()).to_text();
        assert!(text.contains("192.0.2.1 ") && text.contains("192.0.2.2 "), "{text}");
    }

    #[test]
    fn what_was_forgotten_does_not_come_back() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), &one("192.0.2.1"), UNIX_EPOCH).unwrap();
        let loaded = SystemTime::now() + Duration::from_secs(2);
        save(dir.path(), &one("192.0.2.2"), loaded).unwrap();
        assert!(!load(dir.path()).to_text().contains("192.0.2.1 "));
    }

    #[test]
    fn a_damaged_file_is_none_and_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let empty = Paths::default().to_text();
        assert_eq!(load(dir.path()).to_text(), empty, "none is there");
        for damaged in [&b""[..], b"metra paths 1\n192.0.2.1 - 12", b"\xff\xfe"] {
            fs::write(dir.path().join(FILE), damaged).unwrap();
            assert_eq!(load(dir.path()).to_text(), empty);
            let paths = one("192.0.2.1");
            save(dir.path(), &paths, UNIX_EPOCH).unwrap();
            assert_eq!(load(dir.path()).to_text(), paths.to_text());
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(save(&dir.path().join("gone"), &one("192.0.2.1"), UNIX_EPOCH).is_err());
    }
}
