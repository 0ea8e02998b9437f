//! Which files a `SRC` means, looked at before anything is connected.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use metra_store::source::{ExpandError, Root, expand};

use crate::args::Source;
use crate::exit::{Exit, Failure};

/// Paths that a pattern may stand for.
const MATCHES_MAX: usize = 65_000;

/// The roots of a source.
///
/// # Errors
/// What is not there, or cannot be read; a pattern that matches nothing.
pub(super) fn root(source: &Source, stdin_name: &str) -> Result<Vec<Root>, Failure> {
    Ok(match source {
        Source::Stdin => vec![Root::Stdin { name: stdin_name.to_owned() }],
        Source::Zero { size } => vec![Root::Zero { size: *size, name: "zero".to_owned() }],
        Source::Random { size, seed } => {
            vec![Root::Random { size: *size, seed: *seed, name: "random".to_owned() }]
        }
        Source::Path(path) => match readable(path) {
            Ok(()) => vec![Root::path(path)],
            Err(failure) => matching(path).unwrap_or(Err(failure))?,
        },
    })
}

/// Whether the contents of a directory are meant, and not the directory itself.
pub(super) fn means_contents(root: &Root) -> bool {
    match root {
        Root::Path { path, contents } => {
            *contents || path.file_name().is_none() || path.as_os_str().as_encoded_bytes().ends_with(b"/.")
        }
        Root::Listed { .. } => true,
        Root::Stdin { .. } | Root::Zero { .. } | Root::Random { .. } => false,
    }
}

/// Whether a path is there and can be opened, so that a typing error is found before a gateway is asked.
pub(super) fn readable(path: &Path) -> Result<(), Failure> {
    let slash = path.as_os_str().as_encoded_bytes().ends_with(b"/");
    let failed = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound if slash => {
            Failure::new(Exit::NoDirectory, format!("{}: no such directory", path.display()))
        }
        io::ErrorKind::NotFound => {
            Failure::new(Exit::NoFile, format!("{}: no such file or directory", path.display()))
        }
        io::ErrorKind::NotADirectory => {
            Failure::new(Exit::NoDirectory, format!("{}: not a directory", path.display()))
        }
        _ => Failure::io(path.display(), &e),
    };
    let meta = fs::symlink_metadata(path).map_err(failed)?;
    if meta.is_dir() {
        fs::read_dir(path).map(drop).map_err(failed)
    } else if meta.is_file() {
        fs::File::open(path).map(drop).map_err(failed)
    } else {
        // Whether links and others can be carried is for the source to say.
        Ok(())
    }
}

/// The paths that match a pattern, for where no shell has done it. `None`: it is no pattern.
fn matching(pattern: &Path) -> Option<Result<Vec<Root>, Failure>> {
    let text = pattern.to_str()?;
    let is_glob = |part: &OsStr| part.to_str().is_some_and(|part| part.contains(['*', '?', '[', '{']));
    let first = pattern.components().position(|c| matches!(c, Component::Normal(part) if is_glob(part)))?;
    let base: PathBuf = pattern.components().take(first).collect();
    let rest: PathBuf = pattern.components().skip(first).collect();
    let looked_in = if base.as_os_str().is_empty() { Path::new(".") } else { &base };
    let found = match expand(looked_in, rest.to_str()?, MATCHES_MAX) {
        Ok(found) => found,
        Err(ExpandError::Read { path, source }) => return Some(Err(Failure::io(path.display(), &source))),
        Err(error) => return Some(Err(Failure::usage(error.to_string()))),
    };
    if found.is_empty() {
        return Some(Err(Failure::new(Exit::NoFile, format!("{text}: nothing matches"))));
    }
    let contents = text.ends_with('/');
    Some(Ok(found.into_iter().map(|path| Root::Path { path: base.join(path), contents }).collect()))
}

/// The paths in a list, one a line; empty lines do not count.
pub(super) fn listed(list: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut text = String::new();
    let failed = |e: io::Error| match e.kind() {
        io::ErrorKind::InvalidData => {
            Failure::usage(format!("--files-from {}: it is not UTF-8", list.display()))
        }
        _ => Failure::io(format_args!("--files-from {}", list.display()), &e),
    };
    if list == Path::new("-") {
        io::stdin().read_to_string(&mut text).map_err(failed)?;
    } else {
        fs::File::open(list).and_then(|mut file| file.read_to_string(&mut text)).map_err(failed)?;
    }
    parse_list(&text).map_err(|e| Failure::usage(format!("--files-from {}: {e}", list.display())))
}

fn parse_list(text: &str) -> Result<Vec<PathBuf>, String> {
    let mut paths = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
        let path = Path::new(line);
        if path.components().any(|c| c == Component::ParentDir) {
            return Err(format!("line {}: `..` is not accepted", number + 1));
        }
        // Relative to SRC, also with a `/` in front, and without `.`.
        let path: PathBuf = path.components().filter(|c| matches!(c, Component::Normal(_))).collect();
        if path.as_os_str().is_empty() {
            return Err(format!("line {}: {line:?} names nothing in SRC", number + 1));
        }
        paths.push(path);
    }
    if paths.is_empty() {
        return Err("it names nothing".to_owned());
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lists_are_read_line_by_line() {
        let paths = parse_list("a\n\n/b/./c d\r\n#e").unwrap();
        assert_eq!(paths, ["a", "b/c d", "#e"].map(PathBuf::from));
        assert_eq!(parse_list("a\nb/../c"), Err("line 2: `..` is not accepted".to_owned()));
        assert!(parse_list("./").is_err() && parse_list("\n").is_err() && parse_list("").is_err());
    }

    #[test]
    fn what_is_missing_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let exit = |path: &str| {
            let source = Source::Path(PathBuf::from(format!("{}/{path}", dir.path().display())));
            root(&source, "").map(|roots| roots.len()).map_err(|failure| failure.exit)
        };
        fs::write(dir.path().join("file1"), "x").unwrap();
        fs::write(dir.path().join("file2"), "x").unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("link")).unwrap();
        assert_eq!(exit(""), Ok(1));
        assert_eq!(exit("file1"), Ok(1));
        assert_eq!(exit("link"), Ok(1), "a link is carried as it is");
        assert_eq!(exit("absent"), Err(Exit::NoFile));
        assert_eq!(exit("absent/"), Err(Exit::NoDirectory));
        assert_eq!(exit("file1/"), Err(Exit::NoDirectory));
        assert_eq!(exit("file?"), Ok(2));
        assert_eq!(exit("x*"), Err(Exit::NoFile));
        assert_eq!(exit("x["), Err(Exit::Usage));
    }

    #[test]
    fn contents_are_meant_where_there_is_no_name() {
        for (path, contents) in
            [("a", false), ("a/", true), (".", true), ("..", true), ("a/.", true), ("/", true)]
        {
            assert_eq!(means_contents(&Root::path(path)), contents, "{path}");
        }
    }
}
