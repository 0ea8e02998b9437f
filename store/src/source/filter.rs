//! Which names are read.

use std::fmt;

use globset::{GlobBuilder, GlobMatcher};

/// Includes and excludes, in order: the first pattern that matches decides, and what none matches is included.
///
/// - A pattern without `/` is matched on the name, at any depth: `*.tmp`.
/// - A pattern with `/` is matched on the whole path below the root: `/cache`, `raw/*.dng`, `**/old/**`.
/// - A trailing `/` matches directories only: `build/`.
/// - `*` and `?` do not match `/`; `**` does. `[a-z]`, `{a,b}` and `\` to quote are understood.
///
/// A directory that is excluded is not entered, so nothing below it can be included again.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    rules: Vec<Rule>,
}

/// A pattern that cannot be understood. Fault: whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("filter pattern {pattern:?}: {reason}")]
pub struct FilterError {
    /// As given.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: String,
}

#[derive(Clone)]
struct Rule {
    include: bool,
    /// Matched on the last component only.
    name_only: bool,
    directories_only: bool,
    glob: GlobMatcher,
}

impl Filters {
    /// From patterns in order; `true` includes, `false` excludes.
    ///
    /// # Errors
    /// The first pattern that cannot be understood.
    pub fn new<P: AsRef<str>>(rules: impl IntoIterator<Item = (bool, P)>) -> Result<Self, FilterError> {
        let rules = rules.into_iter().map(|(include, pattern)| Rule::new(include, pattern.as_ref()));
        Ok(Self { rules: rules.collect::<Result<_, _>>()? })
    }

    /// Whether a path below a root is read.
    pub fn admits(&self, path: &str, is_directory: bool) -> bool {
        let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
        self.decide(is_directory, |rule| rule.glob.is_match(if rule.name_only { name } else { path }))
    }

    /// Whether a root itself is read: it was named, so that only patterns on names have a say.
    pub(super) fn admits_root(&self, name: &str, is_directory: bool) -> bool {
        self.decide(is_directory, |rule| rule.name_only && rule.glob.is_match(name))
    }

    fn decide(&self, is_directory: bool, matches: impl Fn(&Rule) -> bool) -> bool {
        let first = self.rules.iter().find(|r| (is_directory || !r.directories_only) && matches(r));
        first.is_none_or(|rule| rule.include)
    }
}

impl Rule {
    fn new(include: bool, pattern: &str) -> Result<Self, FilterError> {
        let error = |reason: String| FilterError { pattern: pattern.to_owned(), reason };
        let (body, directories_only) = match pattern.strip_suffix('/') {
            Some(body) => (body, true),
            None => (pattern, false),
        };
        let anchored = body.strip_prefix('/');
        let name_only = !body.contains('/');
        let body = anchored.unwrap_or(body);
        if body.is_empty() {
            return Err(error("it is empty".into()));
        }
        let glob = GlobBuilder::new(body)
            .literal_separator(true)
            .backslash_escape(true)
            .build()
            .map_err(|e| error(e.kind().to_string()))?;
        Ok(Self { include, name_only, directories_only, glob: glob.compile_matcher() })
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.include { '+' } else { '-' };
        let start = if self.name_only { "" } else { "/" };
        let end = if self.directories_only { "/" } else { "" };
        write!(f, "{sign} {start}{}{end}", self.glob.glob())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn filters(rules: &[&str]) -> Filters {
        Filters::new(rules.iter().map(|r| (r.starts_with('+'), &r[1..]))).unwrap()
    }

    #[test]
    fn the_first_match_decides() {
        let f = filters(&["+keep.tmp", "-*.tmp", "-cache/", "-/top", "-raw/*.dng"]);
        assert!(f.admits("a/keep.tmp", false));
        assert!(!f.admits("a/b/x.tmp", false));
        assert!(f.admits("a/b/x.txt", false));
        assert!(!f.admits("a/cache", true));
        assert!(f.admits("a/cache", false), "a file of that name");
        assert!(!f.admits("top", false));
        assert!(f.admits("a/top", false));
        assert!(!f.admits("raw/1.dng", false));
        assert!(f.admits("raw/x/1.dng", false), "`*` stops at `/`");
        assert!(f.admits("a/raw/1.dng", false), "a pattern with `/` begins at the root");
    }

    #[test]
    fn only_what_is_included() {
        let f = filters(&["+*/", "+*.jpg", "-*"]);
        assert!(f.admits("a", true));
        assert!(f.admits("a/1.jpg", false));
        assert!(!f.admits("a/1.png", false));
    }

    #[test]
    fn globs_of_all_kinds() {
        let f = filters(&["-**/old/**", "-[ab]?.{x,y}", "-\\*"]);
        assert!(!f.admits("1/old/2/3", false));
        assert!(!f.admits("a1.y", false));
        assert!(f.admits("c1.y", false));
        assert!(!f.admits("*", false));
        assert!(f.admits("z", false));
    }

    #[test]
    fn roots_are_matched_by_name_only() {
        let f = filters(&["-*.tmp", "-/photos"]);
        assert!(!f.admits_root("x.tmp", false));
        assert!(f.admits_root("photos", true));
    }

    #[test]
    fn bad_patterns_are_named() {
        let error = Filters::new([(true, "a"), (false, "[z")]).unwrap_err();
        assert_eq!(error.pattern, "[z");
        assert!(error.to_string().contains("[z"), "{error}");
        assert!(Filters::new([(false, "")]).is_err());
        assert!(Filters::new([(false, "/")]).is_err());
        assert_eq!(format!("{:?}", filters(&["-/a/b/", "+*.c"])), "Filters { rules: [- /a/b/, + *.c] }");
    }
}
