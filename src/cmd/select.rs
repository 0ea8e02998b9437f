//! Which entries of a listing a path of `metra get` stands for, for `--dry-run`.
//!
//! The gateway decides what is really fetched; this follows the same rules over what it lists.

use metra_core::manifest::{Entry, EntryKind};
use metra_store::source::Filters;

use crate::exit::Failure;

/// Whether a path on a gateway has characters of a glob.
pub(super) fn is_glob(path: &str) -> bool {
    path.contains(['*', '?', '[', '{'])
}

/// A path, perhaps with a glob, and the filters for what is below it.
pub(super) struct Selection {
    /// What has to be listed: the part before the first glob.
    base: String,
    /// What of it: as filters, of which the first admits what is meant.
    glob: Option<Filters>,
    pattern: String,
    filters: Filters,
    /// Whether the directories meant are left out, and only their contents taken.
    contents: bool,
}

impl Selection {
    pub(super) fn new(path: &str, filters: &[(bool, String)]) -> Result<Self, Failure> {
        let usage = |e: metra_store::source::FilterError| Failure::usage(e.to_string());
        let pattern = path.trim_matches('/').to_owned();
        let parts: Vec<&str> = pattern.split('/').collect();
        let literal = parts.iter().position(|part| is_glob(part));
        let (base, glob) = match literal {
            None => (pattern.clone(), None),
            Some(at) => {
                let rules = [(true, format!("/{}", parts[at..].join("/"))), (false, "/**".to_owned())];
                (parts[..at].join("/"), Some(Filters::new(rules).map_err(usage)?))
            }
        };
        let rules = filters.iter().map(|(include, pattern)| (*include, pattern));
        let contents = path.is_empty() || path.ends_with('/');
        Ok(Self { base, glob, pattern, filters: Filters::new(rules).map_err(usage)?, contents })
    }

    /// The path to list.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// The path as it was given, without slashes at its ends.
    pub(super) fn pattern(&self) -> &str {
        &self.pattern
    }

    pub(super) fn is_glob(&self) -> bool {
        self.glob.is_some()
    }

    /// Under which path an entry of the listing would arrive; `None` if it would not.
    pub(super) fn entry(&self, entry: &Entry) -> Option<String> {
        let is_directory = entry.kind == EntryKind::Directory;
        let path = entry.path.as_str();
        // The length of what was asked for: the base, or what the glob matches.
        let root = match &self.glob {
            None => 0,
            Some(glob) => {
                prefixes(path).find(|prefix| glob.admits(prefix, *prefix != path || is_directory))?.len()
            }
        };
        let below = path[root..].trim_start_matches('/');
        let is_admitted = |part: &&str| self.filters.admits(part, *part != below || is_directory);
        if !below.is_empty() && !prefixes(below).all(|part| is_admitted(&part)) {
            return None;
        }
        if self.contents {
            return Some(below.to_owned()).filter(|below| !below.is_empty() || !is_directory);
        }
        let whole = format!("{}/{}", self.base, &path[..root]);
        let name = whole.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        Some(format!("{name}/{below}").trim_matches('/').to_owned())
    }
}

/// `a`, `a/b`, `a/b/c`.
fn prefixes(path: &str) -> impl Iterator<Item = &str> {
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    ends.map(|end| &path[..end]).filter(|prefix| !prefix.is_empty())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What is chosen of a tree that is listed from `base` on.
    fn chosen(path: &str, filters: &[(bool, &str)]) -> (String, Vec<String>) {
        let filters: Vec<_> = filters.iter().map(|(include, p)| (*include, (*p).to_owned())).collect();
        let selection = Selection::new(path, &filters).unwrap();
        let tree = [("d", true), ("d/e", true), ("d/e/1.jpg", false), ("d/2.jpg", false), ("d/3.txt", false)];
        let below = |path: &str| match selection.base() {
            "" => Some(path.to_owned()),
            base if path == base => Some(String::new()),
            base => path.strip_prefix(&format!("{base}/")).map(str::to_owned),
        };
        let entries = tree.iter().filter_map(|(path, is_directory)| {
            let kind = if *is_directory { EntryKind::Directory } else { EntryKind::File { size: 1 } };
            Some(Entry { path: below(path)?, kind, mode: None, mtime: None })
        });
        let found = entries.filter_map(|entry| selection.entry(&entry)).collect();
        (selection.base().to_owned(), found)
    }

    #[test]
    fn a_directory_and_its_contents() {
        let whole = ["d", "d/e", "d/e/1.jpg", "d/2.jpg", "d/3.txt"].map(str::to_owned).to_vec();
        assert_eq!(chosen("d", &[]), ("d".into(), whole));
        let contents = ["e", "e/1.jpg", "2.jpg", "3.txt"].map(str::to_owned).to_vec();
        assert_eq!(chosen("d/", &[]), ("d".into(), contents));
        assert_eq!(chosen("d/3.txt", &[]), ("d/3.txt".into(), vec!["3.txt".into()]));
        assert_eq!(chosen("", &[]).1.len(), 5);
    }

    #[test]
    fn globs_choose_and_filters_leave_out() {
        assert_eq!(chosen("d/*.jpg", &[]), ("d".into(), vec!["2.jpg".into()]));
        assert_eq!(chosen("d/e*", &[]).1, ["e", "e/1.jpg"]);
        assert_eq!(chosen("*", &[(false, "*.jpg")]).1, ["d", "d/e", "d/3.txt"]);
        assert_eq!(chosen("d", &[(false, "e/")]).1, ["d", "d/2.jpg", "d/3.txt"]);
        assert_eq!(chosen("x*", &[]).1, [""; 0]);
        assert!(Selection::new("a[", &[]).is_err());
    }
}
