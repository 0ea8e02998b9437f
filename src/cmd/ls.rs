//! `metra ls`.

use std::io::{Write, stdout};

use metra_client::Client;
use metra_core::manifest::{Entry, EntryKind};

use super::session;
use crate::args::LsArgs;
use crate::exit::{Exit, Failure};
use crate::output::{self, EntryJson};

pub(super) fn run(args: LsArgs) -> Result<Exit, Failure> {
    let path = args.url.path.trim_end_matches('/');
    let depth = if args.recursive { u32::MAX } else { 1 };
    let listed = session::with_client(&args.connect, &args.url.address, async |client: &Client| {
        client.list(path, depth).await
    });
    let entries = listed.map_err(|failure| missing(failure, &args.url.path))?;
    let mut out = std::io::BufWriter::new(stdout().lock());
    for (shown, entry) in chosen(path, &entries) {
        if args.json {
            writeln!(out, "{}", output::json(&EntryJson::new(shown, entry)))?;
        } else if args.long {
            writeln!(out, "{}", long(shown, entry))?;
        } else if let EntryKind::Symlink { .. } = entry.kind {
            writeln!(out, "{}", output::name(shown))?;
        } else {
            writeln!(out, "{}", output::shown(shown, entry))?;
        }
    }
    out.flush()?;
    Ok(Exit::Ok)
}

/// What is shown under which name: the contents of a directory; of anything else itself.
fn chosen<'a>(path: &'a str, entries: &'a [Entry]) -> impl Iterator<Item = (&'a str, &'a Entry)> {
    let is_directory = entries.first().is_some_and(|entry| entry.kind == EntryKind::Directory);
    let name = path.rsplit('/').next().unwrap_or_default();
    let chosen = entries.iter().filter(move |entry| !(is_directory && entry.path.is_empty()));
    chosen.map(move |entry| (if entry.path.is_empty() { name } else { &entry.path }, entry))
}

fn long(shown: &str, entry: &Entry) -> String {
    let time = entry.mtime.map_or_else(|| "-".to_owned(), output::timestamp);
    format!("{} {:>14} {time:>19} {}", output::mode(entry), entry.size(), output::shown(shown, entry))
}

/// A path that ends in `/` is a directory, and so is what is missing.
pub(super) fn missing(failure: Failure, path: &str) -> Failure {
    let exit =
        if failure.exit == Exit::NoFile && path.ends_with('/') { Exit::NoDirectory } else { failure.exit };
    Failure { exit, ..failure }
}

#[cfg(test)]
mod tests {
    use metra_core::manifest::Timestamp;

    use super::*;

    fn entry(path: &str, kind: EntryKind) -> Entry {
        Entry { path: path.into(), kind, mode: Some(0o640), mtime: Some(Timestamp { secs: 0, nanos: 0 }) }
    }

    #[test]
    fn a_directory_shows_its_contents_and_a_file_itself() {
        let tree = [entry("", EntryKind::Directory), entry("a", EntryKind::File { size: 1 })];
        let names = |path, entries| chosen(path, entries).map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names("x/y", &tree), ["a"]);
        assert_eq!(names("x/y", &[entry("", EntryKind::File { size: 1 })]), ["y"]);
    }

    #[test]
    fn long_lines() {
        let file = entry("a", EntryKind::File { size: 12 });
        assert_eq!(long("a", &file), "-rw-r-----             12 1970-01-01 00:00:00 a");
        let link = entry("l", EntryKind::Symlink { target: "t\n".into() });
        assert!(long("l", &link).ends_with(" l -> t\\n"));
        assert!(long("d", &entry("d", EntryKind::Directory)).ends_with(" d/"));
    }

    #[test]
    fn a_missing_directory_is_told_apart() {
        let exit = |exit, path| missing(Failure::new(exit, ""), path).exit;
        assert_eq!(exit(Exit::NoFile, "a/"), Exit::NoDirectory);
        assert_eq!(exit(Exit::NoFile, "a"), Exit::NoFile);
        assert_eq!(exit(Exit::Policy, "a/"), Exit::Policy);
    }
}
