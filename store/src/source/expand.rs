//! Globs in the paths that a peer asks for.

use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobMatcher};

/// Why a pattern cannot be expanded. Fault: whoever asked, except for `Read`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExpandError {
    /// It is not a pattern, or not one for paths below the root.
    #[error("pattern {pattern:?}: {reason}")]
    Pattern {
        /// As given.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// More paths match than are allowed.
    #[error("pattern {pattern:?} matches more than {limit} paths")]
    TooMany {
        /// As given.
        pattern: String,
        /// How many are allowed.
        limit: usize,
    },
    /// The root cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The root.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

/// The paths below `root` that match `pattern`, relative to it and in byte order; none if there is none.
///
/// `*` and `?` stand for characters of one name, `[..]` for one of a set, `{a,b}` for alternatives, `**` as a whole
/// component for any number of folders; `\` quotes. As in a shell, a name that begins with `.` is matched only by a
/// pattern that does, and a pattern that matches nothing stands for itself if there is such a name. Links are not
/// followed out of the root, nor by `**`.
///
/// # Errors
/// A pattern that is absolute, contains `..` or cannot be understood; more than `limit` matches; a root that cannot be
/// read.
pub fn expand(root: &Path, pattern: &str, limit: usize) -> Result<Vec<PathBuf>, ExpandError> {
    let bad = |reason: &str| ExpandError::Pattern { pattern: pattern.to_owned(), reason: reason.to_owned() };
    let parts = parse(pattern).map_err(|reason| bad(&reason))?;
    let real = root.canonicalize().map_err(|source| ExpandError::Read { path: root.to_owned(), source })?;
    let mut paths = vec![PathBuf::new()];
    for (index, part) in parts.iter().enumerate() {
        let limit = if index + 1 == parts.len() { limit } else { limit.max(FOLDERS_MAX) };
        let mut next = Vec::new();
        for path in &paths {
            match part {
                Part::Name(name) => {
                    let path = path.join(name);
                    if exists(&real, &path) {
                        next.push(path);
                    }
                }
                Part::Glob { glob, dotted } => {
                    let matching = |name: &str| (*dotted || !name.starts_with('.')) && glob.is_match(name);
                    next.extend(names(&real, path).into_iter().filter(|n| matching(n)).map(|n| path.join(n)));
                }
                Part::Folders => folders(&real, path, &mut next, limit),
            }
            if next.len() > limit {
                return Err(ExpandError::TooMany { pattern: pattern.to_owned(), limit });
            }
        }
        paths = next;
    }
    // `a/**/b` finds `a/b` once by way of every folder above it that is a match for `**`.
    paths.sort_unstable();
    paths.dedup();
    if paths.is_empty() {
        let literal = Path::new(pattern.trim_matches('/'));
        if exists(&real, literal) {
            paths.push(literal.to_owned());
        }
    }
    Ok(paths)
}

/// Folders that the beginning of a pattern may match.
const FOLDERS_MAX: usize = 100_000;

enum Part {
    Name(String),
    Glob {
        glob: GlobMatcher,
        /// Whether the pattern asks for names that begin with a dot.
        dotted: bool,
    },
    Folders,
}

fn parse(pattern: &str) -> Result<Vec<Part>, String> {
    if pattern.starts_with('/') {
        return Err("it is absolute".into());
    }
    let mut parts = Vec::new();
    for part in split(pattern)? {
        match part {
            "" | "." => {}
            ".." => return Err("`..` is not accepted".into()),
            "**" => parts.push(Part::Folders),
            part if part.contains(['*', '?', '[', '{', '\\']) => {
                let glob = GlobBuilder::new(part).literal_separator(true).backslash_escape(true).build();
                let glob = glob.map_err(|e| e.kind().to_string())?.compile_matcher();
                parts.push(Part::Glob { glob, dotted: part.starts_with('.') });
            }
            part => parts.push(Part::Name(part.to_owned())),
        }
    }
    Ok(parts)
}

/// Splits at `/`, which cannot stand inside of braces.
fn split(pattern: &str) -> Result<Vec<&str>, String> {
    let (mut depth, mut quoted, mut start) = (0u32, false, 0);
    let mut parts = Vec::new();
    for (at, c) in pattern.char_indices() {
        match c {
            _ if quoted => quoted = false,
            '\\' => quoted = true,
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            '/' if depth > 0 => return Err("`/` cannot stand inside of { }".into()),
            '/' => {
                parts.push(&pattern[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&pattern[start..]);
    Ok(parts)
}

/// Whether there is such a name, in a folder inside of the root.
fn exists(real: &Path, path: &Path) -> bool {
    let path = real.join(path);
    let folder = path.parent().unwrap_or(real);
    is_inside(real, folder) && path.symlink_metadata().is_ok()
}

fn is_inside(real: &Path, folder: &Path) -> bool {
    folder.canonicalize().is_ok_and(|folder| folder.starts_with(real))
}

/// The names in a folder, if it is a folder inside of the root. Names that are not UTF-8 match nothing.
fn names(real: &Path, path: &Path) -> Vec<String> {
    let folder = real.join(path);
    if !is_inside(real, &folder) {
        return Vec::new();
    }
    let Ok(entries) = std::fs::read_dir(&folder) else { return Vec::new() };
    entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect()
}

/// The folder itself and all below it that are not hidden, up to one more than `limit`.
fn folders(real: &Path, path: &Path, found: &mut Vec<PathBuf>, limit: usize) {
    let mut open = vec![path.to_owned()];
    while let Some(path) = open.pop() {
        if found.len() > limit {
            return;
        }
        for name in names(real, &path) {
            let below = path.join(&name);
            let is_folder = real.join(&below).symlink_metadata().is_ok_and(|m| m.is_dir());
            if !name.starts_with('.') && is_folder {
                open.push(below);
            }
        }
        found.push(path);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for path in
            ["a/1.jpg", "a/2.jpg", "a/b/3.jpg", "a/b/c/4.txt", "x1.txt", "x2.txt", ".hidden/5.jpg", "[z]"]
        {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        dir
    }

    fn found(dir: &tempfile::TempDir, pattern: &str) -> Vec<String> {
        let paths = expand(dir.path(), pattern, 100).unwrap();
        paths.into_iter().map(|p| p.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn patterns_find_what_they_say() {
        let dir = tree();
        assert_eq!(found(&dir, "x?.txt"), ["x1.txt", "x2.txt"]);
        assert_eq!(found(&dir, "a/*.jpg"), ["a/1.jpg", "a/2.jpg"]);
        assert_eq!(found(&dir, "a/**/*.jpg"), ["a/1.jpg", "a/2.jpg", "a/b/3.jpg"]);
        assert_eq!(found(&dir, "**/*.jpg"), ["a/1.jpg", "a/2.jpg", "a/b/3.jpg"]);
        assert_eq!(found(&dir, "{a,b}/[12].*"), ["a/1.jpg", "a/2.jpg"]);
        assert_eq!(found(&dir, "*"), ["[z]", "a", "x1.txt", "x2.txt"]);
        assert_eq!(found(&dir, ".h*/*"), [".hidden/5.jpg"]);
        assert_eq!(found(&dir, "a/b/"), ["a/b"]);
        assert_eq!(found(&dir, "a"), ["a"]);
        assert_eq!(found(&dir, "nothing*"), [""; 0]);
        assert_eq!(found(&dir, "nothing"), [""; 0]);
    }

    #[test]
    fn a_name_that_looks_like_a_pattern_is_found() {
        let dir = tree();
        assert_eq!(found(&dir, "[z]"), ["[z]"]);
        assert_eq!(found(&dir, "\\[z\\]"), ["[z]"]);
    }

    #[test]
    fn patterns_stay_inside() {
        let dir = tree();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "x").unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("way-out")).unwrap();
        assert_eq!(found(&dir, "way-out/*"), [""; 0]);
        assert_eq!(found(&dir, "way-out/secret"), [""; 0]);
        assert_eq!(found(&dir, "**/secret"), [""; 0]);
        for bad in ["../x", "a/../../x", "/etc/*", "a/{b/c,d}", "a[", "a/.."] {
            assert!(matches!(expand(dir.path(), bad, 9), Err(ExpandError::Pattern { .. })), "{bad}");
        }
    }

    #[test]
    fn the_number_of_matches_is_limited() {
        let dir = tree();
        assert_eq!(expand(dir.path(), "**/*.jpg", 3).unwrap().len(), 3);
        assert!(matches!(expand(dir.path(), "**/*.jpg", 2), Err(ExpandError::TooMany { limit: 2, .. })));
        assert!(matches!(expand(&dir.path().join("no"), "*", 2), Err(ExpandError::Read { .. })));
    }

    #[test]
    fn dots_are_dropped() {
        assert_eq!(found(&tree(), "./a/./*.jpg"), ["a/1.jpg", "a/2.jpg"]);
    }
}
